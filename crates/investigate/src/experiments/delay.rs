//! Delay: the proxy adds 5, 10, 20 ms to each round trip of one peer. The slope of latency is the
//! number of serial calls to it on the path: a signed check that needs no trace.

use crate::Error;
use crate::run::Run;
use evidence::{Arm, Endpoint};

/// Added delays, milliseconds.
const DELAYS_MS: &[u32] = &[5, 10, 20];
/// Requests a delay.
const EACH: u64 = 3;

/// Drives the endpoint at each delay, then takes the delay out again.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint, peer: &str) -> Result<(), Error> {
    let result = drive(run, endpoint, peer);
    run.senses.proxies.delay(peer, 0);
    result
}

fn drive(run: &mut Run, endpoint: &Endpoint, peer: &str) -> Result<(), Error> {
    for &delay_ms in DELAYS_MS {
        run.senses.proxies.delay(peer, delay_ms);
        for variant in 0..EACH {
            if run.over() {
                return Ok(());
            }
            let request = super::request(run.config, endpoint, variant, None)?;
            let arm = Arm::Delayed { peer: peer.into(), delay_ms };
            run.senses.drive(&mut run.recorder, &endpoint.name, &arm, &request)?;
        }
    }
    Ok(())
}
