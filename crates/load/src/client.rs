//! One connection slot: sends a request, reads its answer, and stamps every phase.

use crate::clock;
use crate::decode;
use crate::h1::Keep;
use crate::login::{self, Session};
use crate::plan;
use crate::request::{Request, Scheme, redirected};
use crate::socket::{Broken, Limits};
use crate::tls;
use crate::transfer::{Connection, Progress, Sending};
use evidence::{Exchange, Failure, Nanos, Phases};
use stats::Rng;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;

/// Most redirects followed in a row.
const REDIRECTS_MAX: usize = 10;

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status code.
    pub status: u16,
    /// Header fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body with its content coding undone; empty when it was not wanted.
    pub body: Vec<u8>,
    /// Why the body is not decoded, when it could not be: `body` is then as transferred.
    pub undecoded: Option<String>,
}

impl Response {
    /// First value of a header, by lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A slot for one connection. Not shared between threads; make one for each.
pub struct Client {
    rng: Rng,
    session: Session,
    cancel: Arc<AtomicBool>,
    per_read: Option<Duration>,
    acknowledge_at_once: bool,
    runtime: Option<Runtime>,
    connection: Option<Connection>,
    reconnects: u64,
    detail: Option<String>,
}

impl Client {
    /// A client without a connection. `seed` fixes the trace ids it will send; clients of one run
    /// need different seeds.
    pub fn new(seed: u64) -> Client {
        Client {
            rng: Rng::new(seed),
            session: Session::default(),
            cancel: Arc::default(),
            per_read: None,
            acknowledge_at_once: false,
            runtime: None,
            connection: None,
            reconnects: 0,
            detail: None,
        }
    }

    /// Sends with these cookies and this token.
    pub fn with_session(mut self, session: Session) -> Client {
        self.session = session;
        self
    }

    /// Stops waiting, within 100 ms, once `cancel` is set; the exchange fails as a timeout.
    pub fn with_cancel(mut self, cancel: Arc<AtomicBool>) -> Client {
        self.cancel = cancel;
        self
    }

    /// Gives up when nothing arrives for `silence`, within the time limit of the whole exchange.
    pub fn with_read_limit(mut self, silence: Duration) -> Client {
        self.per_read = Some(silence);
        self
    }

    /// Whether [`Client::acknowledge_at_once`] does something on this system.
    pub const CAN_ACKNOWLEDGE_AT_ONCE: bool = cfg!(target_os = "linux");

    /// Whether each packet of an answer is acknowledged at once (`TCP_QUICKACK`, tcp(7)) instead
    /// of when the system finds it convenient. Costs a system call a read; HTTP/1.1 only.
    pub fn acknowledge_at_once(&mut self, on: bool) {
        self.acknowledge_at_once = on && Client::CAN_ACKNOWLEDGE_AT_ONCE;
    }

    /// How often a kept-alive connection turned out to be closed and a second one was opened
    /// within an exchange.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// What went wrong in the last exchange, in words, when it failed.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// Closes the connection, so that the next exchange opens one.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Sends one request and waits for its answer, at most `timeout`; a body of more than
    /// `body_limit` bytes is a failure. Redirects are not followed. `want_body`: keep the body,
    /// which is only counted otherwise. The window of the exchange is 0, for the caller to set. No
    /// response without a complete answer.
    pub fn send(
        &mut self,
        request: &Request,
        timeout: Duration,
        body_limit: u64,
        want_body: bool,
    ) -> (Exchange, Option<Response>) {
        self.detail = None;
        let prepared = self.prepare(request);
        let (trace_id, extra) = self.extra(request);
        let waited = clock::run_queue_recent();
        let start = clock::now();
        let timeout = timeout.min(Duration::from_secs(24 * 3600));
        let limits = Limits {
            deadline: start + Nanos(timeout.as_nanos() as u64),
            per_read: self.per_read.unwrap_or(timeout),
            cancel: self.cancel.clone(),
        };
        let keep = if want_body { Keep::Body } else { Keep::HtmlStart };
        let acknowledge_at_once = self.acknowledge_at_once;
        let sending =
            Sending { limits: &limits, body_limit, keep, extra: &extra, acknowledge_at_once };
        let mut attempt = Attempt::started(start);
        let outcome = prepared.and_then(|()| self.attempt(request, &sending, &mut attempt));
        attempt.finish(outcome.is_ok());
        let generator = clock::run_queue() - waited;
        let (exchange, response) = self.conclude(request, outcome, attempt, want_body, body_limit);
        (Exchange { trace_id, generator, ..exchange }, response)
    }

    /// As [`Client::send`], following redirects as long as they stay on the same host when the
    /// request says so. One exchange for each hop, the last one last.
    pub fn follow(
        &mut self,
        request: &Request,
        timeout: Duration,
        body_limit: u64,
        want_body: bool,
    ) -> Followed {
        let mut request = request.clone();
        let mut hops = Vec::new();
        loop {
            let (exchange, response) = self.send(&request, timeout, body_limit, want_body);
            let location = response
                .as_ref()
                .filter(|r| matches!(r.status, 301 | 302 | 303 | 307 | 308))
                .and_then(|r| r.header("location"))
                .map(str::to_owned);
            let (status, failed) = (exchange.status, exchange.failure.is_some());
            hops.push((exchange, response));
            let Some(location) = location.filter(|_| request.follow_redirects && !failed) else {
                return Followed { request, hops, stopped: None };
            };
            let next = redirected(&request, status, &location);
            let stopped = match &next {
                None => Some("it leads to something that cannot be requested".to_owned()),
                Some(next) if !plan::is_same_place(&request, next) => {
                    Some(format!("it leads to another host, {}", next.host_port()))
                }
                Some(_) if hops.len() > REDIRECTS_MAX => {
                    Some(format!("there were more than {REDIRECTS_MAX} in a row"))
                }
                Some(_) => None,
            };
            match next {
                Some(next) if stopped.is_none() => request = next,
                _ => return Followed { request, hops, stopped },
            }
        }
    }

    /// What is no part of any latency: roots, the event loop, a look at the kept connection.
    fn prepare(&mut self, request: &Request) -> Result<(), Broken> {
        let runtime = self.runtime.as_ref();
        self.connection = self.connection.take_if(|c| c.is_usable(request, runtime));
        if request.scheme == Scheme::Http {
            return Ok(());
        }
        tls::config(request.insecure)?;
        if self.runtime.is_none() {
            let made = tokio::runtime::Builder::new_current_thread().enable_all().build();
            self.runtime = Some(made.map_err(|e| {
                Broken::new(Failure::Tls, format!("cannot start an event loop for TLS: {e}"))
            })?);
        }
        Ok(())
    }

    /// The trace id of this send, and the headers that change from send to send.
    fn extra(&mut self, request: &Request) -> (String, Vec<(String, String)>) {
        let (high, low) = (self.rng.next_u64(), self.rng.next_u64() | 1);
        let span = self.rng.next_u64() | 1;
        let trace_id = format!("{high:016x}{low:016x}");
        let mut extra = vec![("traceparent".into(), format!("00-{trace_id}-{span:016x}-01"))];
        if let Some(value) = self.session.authorization()
            && request.header("authorization").is_none()
        {
            extra.push(("authorization".into(), value.to_owned()));
        }
        let jar = self.session.jar();
        if !jar.is_empty()
            && let Some(value) = jar.header(request, request.header("cookie"), SystemTime::now())
        {
            extra.push(("cookie".into(), value));
        }
        (trace_id, extra)
    }

    fn attempt(
        &mut self,
        request: &Request,
        sending: &Sending<'_>,
        attempt: &mut Attempt,
    ) -> Result<(), Broken> {
        let mut may_retry = request.is_idempotent();
        loop {
            let kept = self.connection.take();
            may_retry &= kept.is_some();
            let runtime = self.runtime.as_ref();
            let mut connection = match kept {
                Some(connection) => connection,
                None => {
                    let phases = &mut attempt.phases;
                    Connection::open(request, sending.limits, runtime, phases)?
                }
            };
            attempt.client_port = connection.client_port;
            attempt.http = connection.protocol();
            let progress = &mut attempt.progress;
            match connection.exchange(request, sending, runtime, progress) {
                Ok(reusable) => {
                    self.connection = reusable.then_some(connection);
                    return Ok(());
                }
                Err(broken) => {
                    let unanswered = progress.first_byte.is_none() && !broken.refused;
                    if !(may_retry && unanswered && broken.failure == Failure::Reset) {
                        return Err(broken);
                    }
                    self.reconnects += 1;
                    *progress = Progress::default();
                }
            }
        }
    }

    fn conclude(
        &mut self,
        request: &Request,
        outcome: Result<(), Broken>,
        attempt: Attempt,
        want_body: bool,
        body_limit: u64,
    ) -> (Exchange, Option<Response>) {
        let Progress { head, body_bytes, body, .. } = attempt.progress;
        let encoding = head.header("content-encoding").map(str::to_owned);
        let failure = match &outcome {
            Err(broken) => Some(broken.failure.clone()),
            Ok(()) if login::is_login_required(request, &head, body_bytes, &body) => {
                Some(Failure::LoginRequired)
            }
            Ok(()) if head.status >= 400 => Some(Failure::Status { code: head.status }),
            Ok(()) => None,
        };
        self.detail = match (&outcome, &failure) {
            (Err(broken), _) => Some(broken.detail.clone()),
            (_, Some(failure)) => Some(login::explain(failure, head.header("location"))),
            _ => None,
        };
        let validators = ["etag", "last-modified", "cache-control"];
        let exchange = Exchange {
            window: 0,
            endpoint: request.endpoint.clone(),
            phases: attempt.phases,
            client_port: attempt.client_port,
            status: head.status,
            http: attempt.http.into(),
            body_bytes,
            server_timing: head.header("server-timing").map(str::to_owned),
            cacheable: validators.iter().any(|name| head.header(name).is_some()),
            encoding: encoding.clone(),
            trace_id: String::new(),
            generator: Nanos::ZERO,
            failure,
        };
        if outcome.is_err() {
            return (exchange, None);
        }
        for (_, value) in head.headers.iter().filter(|(name, _)| name == "set-cookie") {
            self.session.jar().store(request, value, SystemTime::now());
        }
        let mut response = Response {
            status: head.status,
            headers: head.headers,
            body: if want_body { body } else { Vec::new() },
            undecoded: None,
        };
        if let Some(encoding) = encoding.filter(|_| !response.body.is_empty()) {
            match decode::decode(&encoding, &response.body, body_limit) {
                Ok(body) => response.body = body,
                Err(why) => response.undecoded = Some(why),
            }
        }
        (exchange, Some(response))
    }
}

/// A request and the redirects after it.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The request that gave the last answer: where the redirects led.
    pub request: Request,
    /// Each hop's exchange and answer.
    pub hops: Vec<(Exchange, Option<Response>)>,
    /// Why a redirect was not followed, when one was not.
    pub stopped: Option<String>,
}

/// One exchange while it runs.
struct Attempt {
    phases: Phases,
    progress: Progress,
    client_port: u16,
    http: &'static str,
}

impl Attempt {
    fn started(start: Nanos) -> Attempt {
        let phases = Phases { start, ..Phases::default() };
        Attempt { phases, progress: Progress::default(), client_port: 0, http: "h1" }
    }

    /// Fills the boundaries in. One that was not reached lies at the end, so that no phase is
    /// negative.
    fn finish(&mut self, complete: bool) {
        let now = clock::now();
        let end = self.progress.end.filter(|_| complete).unwrap_or(now);
        self.phases.sent = self.progress.sent.unwrap_or(end).min(end);
        let first_byte = self.progress.first_byte.unwrap_or(end);
        self.phases.first_byte = first_byte.clamp(self.phases.sent, end);
        self.phases.end = end;
    }
}
