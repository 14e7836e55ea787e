//! Concurrency: 1, 2, 4, 8 in flight. A plateau is a pool or worker limit.

use crate::Error;
use crate::run::Run;
use evidence::{Arm, Endpoint};
use std::time::Duration;

/// Steps.
const IN_FLIGHT: &[u32] = &[1, 2, 4, 8];
/// Time for one step, at least; a slow endpoint gets time for two requests a slot.
const STEP: Duration = Duration::from_millis(1_000);

/// Drives the four steps, stopped by the circuit breaker.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    let requests: Vec<_> =
        (0..64).map(|v| super::request(endpoint, v, &[])).collect::<Result<_, _>>()?;
    let typical = run.typical_latency(&endpoint.name)?;
    let most = crate::plan::most_in_flight(run.config, run.loopback);
    for &in_flight in IN_FLIGHT.iter().filter(|n| **n <= most) {
        if run.over() {
            break;
        }
        let step = STEP.max(typical * 2);
        let timeout = run.config.request_timeout;
        let stop = run.stop.flag();
        let mut tripped = None;
        run.senses.crowd(
            &mut run.recorder,
            &endpoint.name,
            &Arm::Concurrent { in_flight },
            |session| {
                let config = load::ConcurrencyConfig { in_flight, duration: step, timeout };
                let result = load::concurrent(&requests, &config, session, &stop);
                tripped = result.tripped;
                result.exchanges
            },
        )?;
        if let Some(why) = tripped {
            run.warn(&format!("stopped at {in_flight} in flight: {why}"), "look at its log");
            break;
        }
    }
    Ok(())
}
