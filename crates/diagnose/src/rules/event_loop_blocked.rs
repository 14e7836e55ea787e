//! `event-loop-blocked`: a long turn of the event loop during which nobody else is served.
//!
//! **Symptom.** In Node or asyncio one stretch of computing on the loop's thread takes 50 ms or
//! more; every other request waits for it.
//! **Cause.** Synchronous work in a handler: hashing, compression, JSON of megabytes, a loop.
//! **Confirmed by** the length of the stretch on the serving thread, and by latency that grows
//! with the requests in flight.
//! **Refuted by** short turns, or a runtime that serves with many threads; then heavy computing is
//! `cpu-hot-path`. When this rule holds, `cpu-hot-path` says nothing: it is the same computing.
//! **Fix.** Make the work cheaper or keep its result; else move it off the loop.
//! **Verify.** `perfwright investigate`: no turn above 50 ms; 8 in flight as fast as 1.

use crate::case::{Case, Request};
use crate::idioms::Remedy;
use crate::profile;
use crate::retime;
use crate::rules::{Draft, cpu_hot_path, refuted};
use crate::wording::{part, time};
use evidence::{Arm, Consent, Experiment, ExperimentKind, Judgement, Risk, Severity};

/// Rule id.
pub const ID: &str = "event-loop-blocked";

/// A turn that others notice for sure, milliseconds: half of what people take for immediate.
const TURN_MS: f64 = 50.0;
/// A shorter turn counts when requests in flight are seen to wait for each other, milliseconds.
const TURN_SEEN_MS: f64 = 25.0;
/// Latency at 4 in flight against 1 that shows them waiting (4 is full serialisation).
const WAITING: f64 = 2.5;

/// Python libraries that serve from an event loop.
const ASYNC: &[&str] = &[
    "asyncio",
    "aiohttp",
    "fastapi",
    "hypercorn",
    "quart",
    "sanic",
    "starlette",
    "tornado",
    "uvicorn",
    "uvloop",
];

/// Whether the service answers from an event loop.
pub fn is_event_loop(case: &Case) -> bool {
    let loops = |l: &String| ASYNC.contains(&l.as_str());
    match case.runtime() {
        "node" => true,
        "python" => case.service(None).is_some_and(|s| s.libraries.iter().any(loops)),
        _ => false,
    }
}

/// The longest stretch of computing on a serving thread, median over requests, milliseconds.
fn turn_ms(case: &Case) -> f64 {
    let longest = |r: &Request| {
        let serving = |b: &cpu_hot_path::Burst| b.tid.is_none_or(|t| case.knowledge.serves(t));
        let bursts = cpu_hot_path::bursts(case, r);
        let longest = bursts.iter().filter(|b| serving(b)).map(|b| b.cpu_ns).max();
        longest.unwrap_or(0) as f64 / 1e6
    };
    let all: Vec<f64> = case.requests.iter().map(longest).collect();
    stats::median(&all).unwrap_or(0.0)
}

/// Median latency with `n` in flight against one.
fn growth(case: &Case, n: u32) -> Option<f64> {
    let arm = Arm::Concurrent { in_flight: n };
    let many: Vec<f64> =
        case.knowledge.exchanges_of(case.endpoint, &arm).map(|e| e.latency().as_ms()).collect();
    let one = stats::median(&case.latencies_ms()).filter(|v| *v > 0.0)?;
    Some(stats::median(&many)? / one)
}

/// Whether the loop is blocked: a turn that is long in itself, or shorter and seen to hold others.
pub fn holds(case: &Case) -> bool {
    if !is_event_loop(case) || !case.has_intervals() {
        return false;
    }
    let turn = turn_ms(case);
    turn >= TURN_MS || (turn >= TURN_SEEN_MS && growth(case, 4).is_some_and(|g| g >= WAITING))
}

/// More requests in flight, where a turn is long enough to matter to others.
pub fn needs(case: &Case) -> Vec<Experiment> {
    let done = growth(case, 4).is_some() || case.did(&ExperimentKind::Concurrency);
    if done || !is_event_loop(case) || turn_ms(case) < TURN_SEEN_MS {
        return Vec::new();
    }
    vec![Experiment {
        kind: ExperimentKind::Concurrency,
        endpoint: case.endpoint.to_string(),
        purpose: format!("do other requests wait for the turn of {}?", time(turn_ms(case))),
        cost_s: (case.mean_ms() * 60.0 / 1000.0).clamp(2.0, 10.0),
        information: 0.3,
        risk: Risk::Slows,
        consent: Consent::None,
    }]
}

/// See the module.
pub fn judge(case: &Case) -> Judgement {
    if case.requests.is_empty() || !is_event_loop(case) || !case.has_intervals() {
        return Judgement::Silent;
    }
    let turn = turn_ms(case);
    if !holds(case) {
        let why = format!("the longest turn of the event loop takes {}", time(turn));
        return refuted(case, ID, why, &["intervals", "threads"]);
    }
    let hot = profile::hot(case);
    let edits = cpu_hot_path::edits(case, hot.as_ref().map_or(1.0, profile::Hot::reach));
    let cost_ms = cpu_hot_path::cost_ms(case, &edits);
    let prediction = retime::predict(case, &edits, ID);
    let mut claim = format!(
        "{} are computing on the event loop, {} of it in one turn during which no other request \
         is served; {}",
        part(cost_ms, case.mean_ms()),
        time(turn),
        cpu_hot_path::describe(case, hot.as_ref())
    );
    let waits = growth(case, 4);
    if let Some(g) = waits {
        claim += &format!("; with 4 in flight each takes {g:.1} times as long");
    }
    let confidence = match (&hot, waits) {
        (Some(_), _) => 0.95,
        (None, Some(g)) if g >= WAITING => 0.93,
        _ => 0.85,
    };
    let (fix, location) = cpu_hot_path::fix(case, hot, Remedy::OffLoop);
    Draft {
        rule: ID,
        confidence,
        claim,
        kinds: vec!["intervals", "threads", "profile"],
        location,
        fix,
        edits,
        at_most: Severity::Critical,
    }
    .finding_with(case, cost_ms, prediction)
}
