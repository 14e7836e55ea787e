//! Endpoints that were named and gave no answer with success: which, and what came instead.

use crate::Error;
use diagnose::Knowledge;
use evidence::{Exchange, Failure};
use std::collections::BTreeMap;

/// What failed of an endpoint that was also answered with success: `HTTP 500 (7 of 21)`.
pub(crate) fn failures(k: &Knowledge, endpoint: &str) -> Option<String> {
    let (mut all, mut kinds) = (0u64, BTreeMap::<String, u64>::new());
    for exchange in k.exchanges.iter().filter(|e| e.endpoint == endpoint) {
        all += 1;
        if let Some(failure) = &exchange.failure {
            *kinds.entry(what(failure)).or_default() += 1;
        }
    }
    let told: Vec<String> =
        kinds.iter().map(|(what, n)| format!("{what} ({n} of {all})")).collect();
    let failed: u64 = kinds.values().sum();
    (0 < failed && failed < all).then(|| told.join(", "))
}

/// A failure in words: `HTTP 500`.
pub(crate) fn what(failure: &Failure) -> String {
    match failure {
        Failure::Status { code } => format!("HTTP {code}"),
        Failure::LoginRequired => "a login is asked for".into(),
        other => words(other).into(),
    }
}

/// Why nothing can be said about the endpoint; none when one of its requests was answered.
pub(crate) fn missing(k: &Knowledge, endpoint: &str) -> Option<Error> {
    let attempts: Vec<&Exchange> = k.exchanges.iter().filter(|e| e.endpoint == endpoint).collect();
    if attempts.iter().any(|e| e.failure.is_none()) {
        return None;
    }
    let endpoint = endpoint.to_string();
    let Some(last) = attempts.last() else { return Some(Error::NotAsked { endpoint }) };
    let same = attempts.iter().filter(|e| e.failure == last.failure).count();
    let counted = format!("{same} of {}", attempts.len());
    Some(match &last.failure {
        Some(Failure::Status { code }) => Error::Failing { endpoint, code: *code, counted },
        Some(Failure::LoginRequired) => {
            Error::LoginRequired { endpoint, status: last.status.to_string() }
        }
        Some(other) => Error::Unreachable { endpoint, why: format!("{} ({counted})", what(other)) },
        None => return None,
    })
}

fn words(failure: &Failure) -> &'static str {
    match failure {
        Failure::Dns => "its name could not be resolved",
        Failure::Connect => "no connection could be made",
        Failure::Tls => "the TLS handshake failed",
        Failure::Timeout => "no complete answer in time",
        Failure::Reset => "the connection broke before the answer was complete",
        Failure::TooLarge => "the answer was larger than what is read",
        _ => "what came back is not HTTP",
    }
}
