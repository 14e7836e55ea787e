//! Probe: is it up, logged in, what comes back. The first request is also the coldest.

use crate::Error;
use crate::run::Run;
use crate::senses::asks_for_login;
use evidence::{Arm, Endpoint, Failure};

/// Sends the endpoint once, cold. A target that does not answer with success ends the run when it
/// is the only endpoint, and is a warning otherwise.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    run.senses.disconnect();
    let request = super::request(endpoint, 0, None)?;
    let (exchange, _) =
        run.senses.drive(&mut run.recorder, &endpoint.name, &Arm::Cold, &request, true)?;
    if exchange.failure.is_some() && run.stop.requested() {
        return Err(Error::Interrupted);
    }
    let name = endpoint.name.clone();
    let error = match &exchange.failure {
        None => return run.say(&name),
        Some(_) if asks_for_login(&exchange) => {
            Error::LoginRequired { endpoint: name, status: exchange.status }
        }
        Some(Failure::Status { code }) => {
            Error::Failing { endpoint: name, status: format!("HTTP {code}") }
        }
        Some(_) => Error::Unreachable { endpoint: name, why: run.senses.detail() },
    };
    if run.config.workload.endpoints.len() == 1 {
        return Err(error);
    }
    run.warn(&error.to_string(), error.hint());
    Ok(())
}
