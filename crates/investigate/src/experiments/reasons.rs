//! Reasons: a short pass with system calls traced. It names what threads waited for and is never
//! the source of milliseconds (it costs the target 30 to 40 % CPU on chatty requests).

use crate::Error;
use crate::run::Run;
use evidence::{Arm, Endpoint};
use observe::stream::Pass;
use std::time::{Duration, Instant};

/// Fewest requests driven: reasons of slow ones are seen well enough in these.
const FEWEST: u64 = 6;
/// Most requests driven: the shares of reasons vary from request to request.
const MOST: u64 = 40;
/// Beyond the fewest, requests are driven for this long at most, and for half of what is left of
/// the budget: other experiments have a claim to it too.
const TIME: Duration = Duration::from_millis(1_500);

/// Drives some requests with system calls traced, then returns to the cheap pass.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    let cheap = run.pass;
    run.senses.attach(&mut run.recorder, Pass { syscalls: true, ..cheap })?;
    let end = Instant::now() + run.share(2).min(TIME);
    for variant in 0..MOST {
        if run.over() || variant >= FEWEST && Instant::now() >= end {
            break;
        }
        let request = super::request(run.config, endpoint, variant, None)?;
        run.senses.drive(&mut run.recorder, &endpoint.name, &Arm::Traced, &request)?;
    }
    run.senses.attach(&mut run.recorder, cheap)
}
