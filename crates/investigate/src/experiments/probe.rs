//! Probe: is it up, logged in, what comes back. The first request is also the coldest.

use crate::Error;
use crate::error::Limit;
use crate::run::Run;
use crate::senses::asks_for_login;
use evidence::{Arm, Endpoint, Exchange, Failure, redacted_url};
use load::Response;
use std::time::Duration;

/// Sends the endpoint once, cold. A target that does not answer with success ends the run when it
/// is the only endpoint, and is a warning otherwise.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    run.senses.disconnect();
    let request = super::request(run.config, endpoint, 0, None)?;
    let timeout = run.senses.timeout;
    let share = share(run, endpoint);
    run.senses.timeout = timeout.min(share);
    let driven = run.senses.drive(&mut run.recorder, &endpoint.name, &Arm::Cold, &request);
    run.senses.timeout = timeout;
    let (exchange, response) = driven?;
    let status = status(&exchange, response.as_ref());
    if exchange.failure.is_some() && run.stop.requested() {
        return Err(Error::Interrupted);
    }
    let name = endpoint.name.clone();
    let error = match &exchange.failure {
        None => {
            if (300..400).contains(&exchange.status) {
                tell_redirect(run, &name, &status);
            }
            return run.say(&name);
        }
        Some(_) if asks_for_login(&exchange) => Error::LoginRequired { endpoint: name, status },
        Some(Failure::Status { code }) => {
            Error::Failing { endpoint: name, code: *code, counted: "1 of 1".into() }
        }
        Some(Failure::Timeout) if share < timeout => {
            Error::unanswered(&exchange, share, Limit::Share)
        }
        Some(Failure::Timeout) => Error::unanswered(&exchange, timeout, Limit::Timeout),
        Some(Failure::Reset) if exchange.status > 0 => {
            let (status, why) = (exchange.status, run.senses.detail());
            Error::BrokeOff { endpoint: name, status, why }
        }
        Some(_) => Error::Unreachable { endpoint: name, why: run.senses.detail() },
    };
    if run.config.workload.endpoints.len() == 1 {
        return Err(error);
    }
    run.warn(&error.to_string(), error.hint());
    let unreached =
        matches!(exchange.failure, Some(Failure::Dns | Failure::Connect | Failure::Tls));
    if unreached || matches!(error, Error::Unanswered { .. }) {
        run.silent.insert(endpoint.name.clone(), error);
    }
    Ok(())
}

/// How long the endpoint is waited for: all there is when it is the only one; among several one
/// part for each that is still to be probed, and one for what comes after.
fn share(run: &Run, endpoint: &Endpoint) -> Duration {
    let all = &run.config.workload.endpoints;
    if all.len() == 1 {
        return run.share(1);
    }
    let left = all.iter().rev().take_while(|e| e.name != endpoint.name).count() + 1;
    run.share(left + 1)
}

/// The answer's status, and where it leads: `302 to /login`.
fn status(exchange: &Exchange, response: Option<&Response>) -> String {
    match response.and_then(|r| r.header("location")) {
        Some(location) if (300..400).contains(&exchange.status) => {
            let to: String = redacted_url(location).chars().take(200).collect();
            format!("{} to {to}", exchange.status)
        }
        _ => exchange.status.to_string(),
    }
}

/// An answer that only leads elsewhere is measured as it is: rarely what was meant.
fn tell_redirect(run: &mut Run, endpoint: &str, status: &str) {
    run.warn(
        &format!("{endpoint} answered {status}; redirects are not followed, so this is measured"),
        "name the target itself, or, when it is a login, give --login FILE",
    );
}
