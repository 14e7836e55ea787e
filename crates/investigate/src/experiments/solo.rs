//! Solo: one request at a time. Driven and idle windows alternate in seeded random order, so that
//! what the service does anyway can be told from what the request makes it do.

use crate::Error;
use crate::event::Event;
use crate::run::Run;
use evidence::{Arm, Endpoint, Nanos};
use formats::objective::Objective;
use std::time::{Duration, Instant};

/// Requests sent first, whose answers are recorded as cold: caches and JIT are still filling
/// (a Node service took 5.0 ms CPU after 3 requests and 1.2 ms when warm).
const WARM_UP: u32 = 8;
/// Part of solo's time that warming up takes at most, beyond the fewest requests.
const WARM_PART: f64 = 0.2;
/// Fewest requests to warm up with.
const WARM_FEWEST: u32 = 3;
/// An endpoint this slow settles with few requests; warming it up for long would eat the budget.
const SLOW: Duration = Duration::from_millis(700);
/// Pairs of driven and idle windows between two looks at the precision.
const PAIRS: usize = 2;
/// Half-width of the mean's 90 % interval that is precise enough.
const PRECISION: f64 = 0.05;
/// Solo takes at most this part of an endpoint's share of the budget.
const PART: f64 = 0.5;

/// Warms up, then, when that was answered, measures until the mean is known well enough, with as
/// many requests as the objectives need, or the share is spent.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    let share = run.share(run.config.workload.endpoints.len()).mul_f64(PART);
    let end = Instant::now() + share;
    let mut latency = warm_up(run, endpoint, end)?;
    if run.missing(&endpoint.name)?.is_some() {
        return Ok(());
    }
    let mut latencies: Vec<Nanos> = Vec::new();
    let needed = run.config.objectives.iter().map(Objective::requests).max().unwrap_or(0);
    let mut variant = 1;
    while !run.over() && Instant::now() < end {
        for is_driven in load::solo::windows(run.config.seed ^ variant, PAIRS) {
            if run.over() {
                return Ok(());
            }
            if !is_driven {
                run.senses.idle(&mut run.recorder, &endpoint.name, &Arm::Warm, latency)?;
                continue;
            }
            let request = super::request(run.config, endpoint, variant, None)?;
            let (exchange, _) =
                run.senses.drive(&mut run.recorder, &endpoint.name, &Arm::Warm, &request)?;
            variant += 1;
            if exchange.failure.is_none() {
                latency = exchange.latency();
                latencies.push(latency);
            }
            progress(run, endpoint, variant)?;
            if !run.may_go_on(&exchange) {
                return Ok(());
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        let left = Nanos(left.as_nanos() as u64);
        if load::solo::enough(&latencies, PRECISION, needed, left).is_some() {
            break;
        }
    }
    Ok(())
}

fn progress(run: &mut Run, endpoint: &Endpoint, done: u64) -> Result<(), Error> {
    (run.events)(Event::Progress { endpoint: endpoint.name.clone(), done: done as u32 - 1 });
    // The first true sentence is due within ten seconds, refined live.
    if matches!(done, 2 | 4 | 11) { run.say(&endpoint.name) } else { Ok(()) }
}

fn warm_up(run: &mut Run, endpoint: &Endpoint, end: Instant) -> Result<Nanos, Error> {
    let mut latency = Nanos::ZERO;
    let begun = Instant::now();
    let long = end.saturating_duration_since(begun).mul_f64(WARM_PART);
    for variant in 0..WARM_UP {
        let late = variant >= WARM_FEWEST && begun.elapsed() >= long;
        if run.over() || late || Instant::now() >= end {
            break;
        }
        let request = super::request(run.config, endpoint, u64::from(variant), None)?;
        let (exchange, _) =
            run.senses.drive(&mut run.recorder, &endpoint.name, &Arm::Cold, &request)?;
        latency = exchange.latency();
        if Duration::from_nanos(latency.0) > SLOW {
            break;
        }
    }
    Ok(latency)
}

/// Cold requests after a pause on a new connection, against the warm ones of solo.
pub(super) fn cold(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    for variant in 0..3 {
        if run.over() {
            break;
        }
        run.senses.disconnect();
        let request = super::request(run.config, endpoint, 1_000 + variant, None)?;
        run.senses.drive(&mut run.recorder, &endpoint.name, &Arm::Cold, &request)?;
    }
    Ok(())
}
