//! What can end a run before it has an answer.

use evidence::Exchange;
use std::fmt;
use std::time::Duration;
use thiserror::Error as ThisError;

/// Why there is no answer. Each says what happened and why; [`Error::hint`] says what to do next.
#[derive(Debug, ThisError)]
pub enum Error {
    /// Nothing to send.
    #[error("no endpoint to investigate")]
    NoEndpoint,
    /// The plan needs a consent that was not given.
    #[error("{endpoint} may change data, and sending it was not agreed to")]
    MutatingRefused {
        /// Endpoint name, which begins with the method.
        endpoint: String,
    },
    /// A request cannot be rendered.
    #[error("{endpoint} cannot be sent: {why}")]
    Render {
        /// Endpoint.
        endpoint: String,
        /// Why.
        why: String,
    },
    /// The target does not answer.
    #[error("{endpoint} does not answer: {why}")]
    Unreachable {
        /// Endpoint.
        endpoint: String,
        /// Why.
        why: String,
    },
    /// The target did not answer in the time it was given.
    #[error("no {what} within {seconds} s, {limit}")]
    Unanswered {
        /// `answer from GET /orders`, and how much of it came.
        what: String,
        /// How long it was waited for, rounded to a tenth.
        seconds: f64,
        /// What bounded the wait.
        limit: Limit,
    },
    /// An answer began and ended before it was complete.
    #[error("the answer of {endpoint} (HTTP {status}) broke off: {why}")]
    BrokeOff {
        /// Endpoint.
        endpoint: String,
        /// Status.
        status: u16,
        /// Why.
        why: String,
    },
    /// The target went away while it was measured.
    #[error("the target stopped answering during the run: {why}")]
    Gone {
        /// Why.
        why: String,
    },
    /// The target answers, but not with success.
    #[error("{endpoint} answers HTTP {code} ({counted}), so there is no fast or slow to measure")]
    Failing {
        /// Endpoint.
        endpoint: String,
        /// Status.
        code: u16,
        /// How many of how many requests.
        counted: String,
    },
    /// The budget ended before the endpoint's turn.
    #[error("{endpoint} was not asked: the --budget ended before its turn")]
    NotAsked {
        /// Endpoint.
        endpoint: String,
    },
    /// None of several endpoints answered with success.
    #[error("none of {endpoints} endpoints answered with success, so there is nothing to measure")]
    Silent {
        /// How many were asked.
        endpoints: usize,
    },
    /// 401, 403 or a login page.
    #[error("{endpoint} asks for a login (HTTP {status})")]
    LoginRequired {
        /// Endpoint.
        endpoint: String,
        /// Status, and where it leads: `302 to /login`.
        status: String,
    },
    /// The login request failed.
    #[error(transparent)]
    Login(#[from] load::LoginError),
    /// The launched command did not become ready.
    #[error("the command did not become ready: {0}")]
    Launch(String),
    /// The run folder cannot be written or read.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// The observer that was named cannot be used.
    #[error("{0}")]
    NoObserver(String),
    /// The observer's stream broke.
    #[error("the observer stopped answering: {0}")]
    Observer(String),
    /// The user interrupted before there was anything to report.
    #[error("interrupted before the first measurement")]
    Interrupted,
}

/// What bounded a wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The time limit of one request.
    Timeout,
    /// The endpoint's share of the budget, others being named too.
    Share,
    /// The end of the budget: it may have been about to answer.
    Budget,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Timeout => "the --timeout",
            Limit::Share => "its share of the --budget",
            Limit::Budget => "when the --budget ended",
        })
    }
}

impl Error {
    /// A request that was given `within`; an answer that had begun is told apart from none.
    pub(crate) fn unanswered(exchange: &Exchange, within: Duration, limit: Limit) -> Error {
        let (endpoint, megabytes) = (&exchange.endpoint, exchange.body_bytes as f64 / 1e6);
        let what = match exchange.status {
            0 => format!("answer from {endpoint}"),
            _ => format!("complete answer from {endpoint} ({megabytes:.1} MB of it)"),
        };
        Error::unanswered_by(what, within, limit)
    }

    pub(crate) fn unanswered_by(what: String, within: Duration, limit: Limit) -> Error {
        let seconds = (within.as_secs_f64() * 10.0).round() / 10.0;
        Error::Unanswered { what, seconds, limit }
    }

    /// Whether the budget ended before there was an answer, which says nothing about the service.
    pub fn is_out_of_budget(&self) -> bool {
        matches!(self, Error::Unanswered { limit: Limit::Budget, .. } | Error::NotAsked { .. })
    }

    /// The next step.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::NoEndpoint => "name a URL, a curl command, --har FILE or --endpoint 'GET /path'",
            Error::MutatingRefused { .. } => {
                "use a GET endpoint, or agree with --mutating when the target is yours to change"
            }
            Error::Render { .. } => "check the URL, its ranges {1..20} and the referenced secrets",
            Error::Unreachable { .. } => {
                "is the service running, and is host and port right? try the same URL with curl"
            }
            Error::Unanswered { limit: Limit::Timeout, .. } => {
                "a longer --timeout waits longer; is the service stuck? its own log may tell"
            }
            Error::Unanswered { .. } => {
                "a longer --budget waits longer, up to --timeout; is the service stuck? its own \
                 log may tell"
            }
            Error::Gone { .. } => "look at the service's log; what was measured before is kept",
            Error::Failing { code: 429, .. } => {
                "the service limits the rate of requests: wait, or lift the limit for this client"
            }
            Error::BrokeOff { .. } => {
                "the service, or a proxy before it, closed the connection early: look at its log"
            }
            Error::Failing { code: 500.., .. } => {
                "the service itself fails: look at its own log for this request"
            }
            Error::NotAsked { .. } => "give a longer --budget, or name fewer endpoints",
            Error::Failing { .. } | Error::Silent { .. } => {
                "try the same request with curl; send what it needs with -H, --cookie or --login"
            }
            Error::LoginRequired { .. } => {
                "pass -H 'Authorization: env:TOKEN', --cookie env:COOKIE, or --login FILE"
            }
            Error::Login(_) => "send the login file's request with curl and compare",
            Error::Launch(_) => "run the command by itself; its log is in the run folder",
            Error::Store(_) => "check space and permissions, or choose a folder with --out DIR",
            Error::NoObserver(_) => {
                "check its address and token, or leave --observer out to look from outside only"
            }
            Error::Observer(_) => "start the observer again; the recorded evidence is kept",
            Error::Interrupted => "nothing had been answered by then; run again and wait longer",
        }
    }

    /// Whether the target, not the user or the tool, is at fault (exit code 3 against 2).
    pub fn is_target_failure(&self) -> bool {
        matches!(
            self,
            Error::Unreachable { .. }
                | Error::BrokeOff { .. }
                | Error::Unanswered { limit: Limit::Timeout | Limit::Share, .. }
                | Error::Gone { .. }
                | Error::Failing { .. }
                | Error::Silent { .. }
                | Error::LoginRequired { .. }
                | Error::Login(_)
                | Error::Launch(_)
        )
    }
}
