//! Reasons: a short pass with system calls traced. It names what threads waited for and is never
//! the source of milliseconds (it costs the target 30 to 40 % CPU on chatty requests).

use crate::Error;
use crate::run::Run;
use evidence::{Arm, Endpoint};
use observe::stream::Pass;

/// Requests driven.
const REQUESTS: u64 = 10;

/// Drives some requests with system calls traced, then returns to the cheap pass.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    let cheap = run.pass;
    run.senses.attach(&mut run.recorder, Pass { syscalls: true, ..cheap })?;
    for variant in 0..REQUESTS {
        if run.over() {
            break;
        }
        let request = super::request(endpoint, variant, None)?;
        run.senses.drive(&mut run.recorder, &endpoint.name, &Arm::Traced, &request, false)?;
    }
    run.senses.attach(&mut run.recorder, cheap)
}
