//! Profile: sample stacks while the endpoint is driven, to name the code behind the CPU.

use crate::Error;
use crate::run::Run;
use evidence::{Arm, Endpoint};
use observe::stream::ProfileConfig;
use std::time::{Duration, Instant};

/// Sampling rate: odd, so that it does not beat with timers of the service.
const HERTZ: u32 = 499;
/// Driven for this long, so that an endpoint with 5 ms CPU still gives a hundred samples.
const FOR: Duration = Duration::from_secs(3);

/// Drives the endpoint while stacks are sampled.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    let config = ProfileConfig { hertz: HERTZ, attach: run.config.consents.attach };
    if !run.senses.start_profile(&mut run.recorder, config)? {
        return Ok(());
    }
    let result = drive(run, endpoint);
    run.senses.stop_profile(&mut run.recorder)?;
    result
}

fn drive(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    let end = Instant::now() + FOR;
    let mut variant = 0;
    while !run.over() && Instant::now() < end {
        let request = super::request(run.config, endpoint, variant, None)?;
        run.senses.drive(&mut run.recorder, &endpoint.name, &Arm::Traced, &request)?;
        variant += 1;
    }
    Ok(())
}
