//! Concurrency: 1, 2, 4, 8 in flight. A plateau is a pool or worker limit.

use crate::Config;
use crate::Error;
use crate::run::Run;
use crate::senses::ANY_SIZE;
use evidence::{Arm, Endpoint, Nanos};
use std::time::Duration;

/// Steps.
const IN_FLIGHT: &[u32] = &[1, 2, 4, 8];
/// Time for one step: a tenth of what is left of the budget within these bounds. A slow endpoint
/// gets time for two requests a slot.
const STEP: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(1_000));

/// Drives the four steps, stopped by the circuit breaker.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    let requests: Vec<_> =
        (0..64).map(|v| super::request(run.config, endpoint, v, None)).collect::<Result<_, _>>()?;
    let typical = run.typical_latency(&endpoint.name)?;
    let most = crate::plan::most_in_flight(run.config, run.may_load);
    let step = (run.share(1) / 10).clamp(STEP.0, STEP.1);
    for &in_flight in IN_FLIGHT.iter().filter(|n| **n <= most) {
        if run.over() {
            break;
        }
        let step = step.max(typical * 2);
        let (timeout, seed) = (run.config.request_timeout, run.config.seed);
        let cancel = run.stop.flag();
        let until = load::clock::now() + Nanos(run.senses.left().as_nanos() as u64);
        let breaker = load::Breaker::standard(Some(Nanos(typical.as_nanos() as u64)));
        let mut tripped = None;
        run.senses.crowd(
            &mut run.recorder,
            &endpoint.name,
            &Arm::Concurrent { in_flight },
            |window, session| {
                let config = load::ConcurrencyConfig {
                    in_flight,
                    duration: step,
                    requests_max: most_requests(run.config, run.loopback, step),
                    timeout,
                    until,
                    body_limit: ANY_SIZE,
                    seed,
                    window,
                    session: session.clone(),
                    cancel,
                };
                let result = load::concurrency::run(&requests, &config, &breaker);
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

/// The most requests of a step: bounded by the agreed rate beyond this machine; on it, by what
/// evidence is worth keeping.
fn most_requests(config: &Config, loopback: bool, step: Duration) -> u64 {
    const KEEP: u64 = 2_000;
    match config.consents.allow_load.iter().map(|(_, rps)| *rps).reduce(f64::min) {
        Some(rps) if !loopback => ((rps * step.as_secs_f64()) as u64).clamp(1, KEEP),
        _ => KEEP,
    }
}
