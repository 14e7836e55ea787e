//! `event-loop-blocked`: a long turn of the event loop during which nobody else is served.
//!
//! **Symptom.** In Node or asyncio one stretch of computing on the loop's thread takes tens of
//! milliseconds; every other request waits for it.
//! **Cause.** Synchronous work in a handler: hashing, compression, JSON of megabytes, a loop.
//! **Confirmed by** the length of the stretch on the serving thread, and by the order of answers
//! to requests sent together: a blocked loop answers one after another (the first as fast as
//! alone), a loop whose work yields answers all late.
//! **Refuted by** short turns; by answers that come together, because the work yields; or by a
//! runtime that serves with many threads. Heavy computing is then `cpu-hot-path`. When this rule
//! holds, `cpu-hot-path` says nothing: it is the same computing.
//! **Fix.** Make the work cheaper or keep its result; else move it off the loop.
//! **Verify.** `perfwright investigate`: no long turn; 8 in flight do not wait for each other.

use crate::case::Case;
use crate::idioms::Remedy;
use crate::profile;
use crate::retime;
use crate::rules::{Draft, cpu_hot_path, refuted};
use crate::wording::{part, time};
use evidence::{Arm, Consent, Experiment, ExperimentKind, Judgement, Risk, Severity};

/// Rule id.
pub const ID: &str = "event-loop-blocked";

/// A turn that others notice for sure, milliseconds: half of what people take for immediate.
/// Needed when no requests were sent together, because a thread that stays on the CPU may still
/// yield between short turns.
const TURN_MS: f64 = 50.0;
/// A turn that counts when requests sent together are seen to be answered one after another.
const TURN_SEEN_MS: f64 = 20.0;
/// How evenly requests sent together are held up (0: one after another, 1: all alike) from which
/// on the loop is taken to yield.
const EVEN: f64 = 0.6;
/// The last of a batch must be later than a request alone by this part of a turn, or nothing can
/// be told.
const HELD_UP: f64 = 0.5;

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
    let longest = |at: usize| {
        let serving = |b: &cpu_hot_path::Burst| b.tid.is_none_or(|t| case.knowledge.serves(t));
        let bursts = cpu_hot_path::bursts(case, at);
        let longest = bursts.iter().filter(|b| serving(b)).map(|b| b.cpu_ns).max();
        longest.unwrap_or(0) as f64 / 1e6
    };
    let all: Vec<f64> = (0..case.requests.len()).map(longest).collect();
    stats::median(&all).unwrap_or(0.0)
}

/// What became of requests sent together.
#[derive(Clone, Copy, Debug)]
struct Batch {
    in_flight: u32,
    first_ms: f64,
    last_ms: f64,
    evenness: f64,
}

/// The first requests of each step of the concurrency experiment start together. One after
/// another, the first of them is as fast as alone; when the loop yields, all are late.
fn batches(case: &Case, turn_ms: f64) -> Vec<Batch> {
    let Some(one) = stats::median(&case.latencies_ms()) else { return Vec::new() };
    let mut out = Vec::new();
    for arm in case.knowledge.arms_of(case.endpoint) {
        let Arm::Concurrent { in_flight } = arm else { continue };
        let together: Vec<f64> = case
            .knowledge
            .exchanges_of(case.endpoint, &arm)
            .take(in_flight as usize)
            .map(|e| e.latency().as_ms())
            .collect();
        let first_ms = together.iter().copied().fold(f64::INFINITY, f64::min);
        let last_ms = together.iter().copied().fold(0.0, f64::max);
        if in_flight < 2 || together.len() < 2 || last_ms - one < HELD_UP * turn_ms {
            continue;
        }
        let evenness = ((first_ms - one) / (last_ms - one)).clamp(0.0, 1.0);
        out.push(Batch { in_flight, first_ms, last_ms, evenness });
    }
    out
}

/// Mean evenness over the batches; `None` without any.
fn evenness(batches: &[Batch]) -> Option<f64> {
    let all: Vec<f64> = batches.iter().map(|b| b.evenness).collect();
    (!all.is_empty()).then(|| stats::mean(&all))
}

/// Whether the loop is blocked: requests sent together are answered one after another, or, where
/// none were, a turn that is long in itself.
pub fn holds(case: &Case) -> bool {
    if !is_event_loop(case) || !case.has_intervals() {
        return false;
    }
    let turn = turn_ms(case);
    if turn < TURN_SEEN_MS {
        return false;
    }
    match evenness(&batches(case, turn)) {
        Some(even) => even < EVEN,
        None => turn >= TURN_MS,
    }
}

/// Requests sent together, where a turn is long enough to matter to others.
pub fn needs(case: &Case) -> Vec<Experiment> {
    let turn = turn_ms(case);
    let unclear = is_event_loop(case) && turn >= TURN_SEEN_MS && batches(case, turn).is_empty();
    if !unclear || case.did(&ExperimentKind::Concurrency) {
        return Vec::new();
    }
    vec![Experiment {
        kind: ExperimentKind::Concurrency,
        endpoint: case.endpoint.to_string(),
        purpose: format!("do other requests wait for the turn of {}?", time(turn)),
        // Four steps of a second, or of two requests where these are slow.
        cost_s: 4.0 * (case.mean_ms() * 2.0 / 1000.0).max(1.0),
        information: (turn / case.mean_ms().max(1e-9)).min(1.0) * 0.5,
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
        let why = match evenness(&batches(case, turn)) {
            Some(even) if even >= EVEN && turn >= TURN_SEEN_MS => format!(
                "the loop computes for {} but yields: requests sent together are answered together",
                time(turn)
            ),
            _ => format!("the longest turn of the event loop takes {}", time(turn)),
        };
        return refuted(case, ID, why, &["intervals", "threads"]);
    }
    let hot = profile::hot(case);
    let edits = cpu_hot_path::edits(case, hot.as_ref().map_or(1.0, profile::Hot::reach));
    let cost_ms = retime::net_ms(case, &edits);
    let prediction = retime::predict(case, &edits, ID);
    let mut claim = format!(
        "{} are computing on the event loop, {} of it in one turn during which no other request \
         is served; {}",
        part(cost_ms, case.mean_ms()),
        time(turn),
        cpu_hot_path::describe(case, hot.as_ref())
    );
    let batches = batches(case, turn);
    if let Some(b) = batches.last() {
        claim += &format!(
            "; of {} requests sent together the first is answered after {}, the last after {}",
            b.in_flight,
            time(b.first_ms),
            time(b.last_ms)
        );
    }
    let confidence = match (&hot, evenness(&batches)) {
        (Some(_), _) => 0.95,
        (None, Some(_)) => 0.93,
        (None, None) => 0.85,
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
