//! `event-loop-blocked`: a long turn of the event loop during which nobody else is served.
//!
//! **Symptom.** In Node or asyncio one stretch of computing on the loop's thread takes tens of
//! milliseconds; every other request waits for it.
//! **Cause.** Synchronous work in a handler: hashing, compression, JSON of megabytes, a loop.
//! **Confirmed by** the length of the stretch on the serving thread, and, with several requests in
//! flight, by the silence while it lasts: each request has such a turn to itself, in which the loop
//! sends and answers nothing. A loop whose work yields serves others in between.
//! **Refuted by** short turns; by others that are served during one, because the work yields; or by
//! a runtime that serves with many threads. Heavy computing is then `cpu-hot-path`. When this rule
//! holds, `cpu-hot-path` says nothing: it is the same computing.
//! **Fix.** Make the work cheaper or keep its result: the prediction is for that. Moved off the
//! loop, what must stay takes this request as long as before, but others no longer wait for it.
//! **Verify.** `perfwright investigate`: no long turn; 8 in flight do not wait for each other.

use crate::case::Case;
use crate::idioms::Remedy;
use crate::knowledge::Knowledge;
use crate::profile;
use crate::retime;
use crate::rules::{Draft, cpu_hot_path, refuted};
use crate::wording::{part, time};
use evidence::{
    Arm, Consent, Exchange, Experiment, ExperimentKind, Judgement, Nanos, Prediction, Risk,
    Severity,
};
use std::collections::{BTreeMap, BTreeSet};

/// Rule id.
pub const ID: &str = "event-loop-blocked";

/// A turn that others notice for sure, milliseconds: half of what people take for immediate.
/// Needed when no requests were sent together, because a thread that stays on the CPU may still
/// yield between short turns.
const TURN_MS: f64 = 50.0;
/// A turn that counts when requests sent together are seen to be answered one after another.
const TURN_SEEN_MS: f64 = 20.0;
/// Part of a turn for which the loop must be silent to have spent that turn on one request.
const SILENT: f64 = 0.7;
/// Silent turns a request from which on the loop is blocked. A blocked loop has one each; one that
/// yields at most half of that, when two requests compute alternately and end together.
const TURNS: f64 = 0.6;
/// The slowest of several in flight must be later than a request alone by this part of a turn, or
/// they never met.
const HELD_UP: f64 = 0.5;

/// What the prediction is for. Moving the work elsewhere gains the others.
const PREDICTED: &str = "work made cheaper or its result kept";

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

/// A step of the concurrency experiment.
#[derive(Clone, Copy, Debug)]
struct Step {
    in_flight: u32,
    requests: usize,
    /// Silences of the loop that are as long as a turn.
    silences: usize,
}

/// The steps in which requests held each other up. None where several processes answer: what one
/// of them sends says nothing of another's loop.
fn steps(case: &Case, turn_ms: f64) -> Vec<Step> {
    let k = case.knowledge;
    let loops: BTreeSet<i32> = k.threads.values().filter(|t| t.serving).map(|t| t.pid).collect();
    let one = stats::median(&case.latencies_ms()).filter(|_| loops.len() <= 1);
    let Some(one) = one else { return Vec::new() };
    let mut out = Vec::new();
    for arm in k.arms_of(case.endpoint) {
        let Arm::Concurrent { in_flight } = arm else { continue };
        let together: Vec<&Exchange> = k.exchanges_of(case.endpoint, &arm).collect();
        let slowest = together.iter().map(|e| e.latency().as_ms()).fold(0.0, f64::max);
        if in_flight < 2 || together.len() < 2 || slowest - one < HELD_UP * turn_ms {
            continue;
        }
        let mut windows: BTreeMap<u32, Vec<&Exchange>> = BTreeMap::new();
        for exchange in &together {
            windows.entry(exchange.window).or_default().push(exchange);
        }
        let silences = windows.values().map(|w| silences(k, w, SILENT * turn_ms)).sum();
        out.push(Step { in_flight, requests: together.len(), silences });
    }
    out
}

/// How often within a window the loop neither sent a call nor answered for `least_ms`.
fn silences(k: &Knowledge, exchanges: &[&Exchange], least_ms: f64) -> usize {
    let start = exchanges.iter().map(|e| e.phases.start).min().unwrap_or_default();
    let end = exchanges.iter().map(|e| e.phases.end).max().unwrap_or_default();
    let sent = k.calls_within(start, end).iter().map(|c| c.start);
    let answered = exchanges.iter().flat_map(|e| [e.phases.first_byte, e.phases.end]);
    let mut signs: Vec<Nanos> = sent.chain(answered).chain([start]).collect();
    signs.sort_unstable();
    signs.windows(2).filter(|pair| (pair[1] - pair[0]).as_ms() >= least_ms).count()
}

/// Silent turns a request, in the step that has most of them; `None` without any step. Turns of
/// several requests that follow each other without a sign in between count as one: the more are in
/// flight the more often that happens, so that steps differ and the most telling one decides.
fn turns(steps: &[Step]) -> Option<f64> {
    let of = |s: &Step| s.silences as f64 / s.requests.max(1) as f64;
    steps.iter().map(of).reduce(f64::max)
}

/// Whether the loop is blocked: with several requests in flight each has a turn to itself, or,
/// where none were, a turn that is long in itself.
pub fn holds(case: &Case) -> bool {
    if !is_event_loop(case) || !case.has_intervals() {
        return false;
    }
    let turn = turn_ms(case);
    if turn < TURN_SEEN_MS {
        return false;
    }
    match turns(&steps(case, turn)) {
        Some(turns) => turns >= TURNS,
        None => turn >= TURN_MS,
    }
}

/// Requests sent together, where a turn is long enough to matter to others.
pub fn needs(case: &Case) -> Vec<Experiment> {
    let turn = turn_ms(case);
    let unclear = is_event_loop(case) && turn >= TURN_SEEN_MS && steps(case, turn).is_empty();
    if !unclear || case.did(&ExperimentKind::Concurrency) {
        return Vec::new();
    }
    vec![Experiment {
        kind: ExperimentKind::Concurrency,
        endpoint: case.endpoint.to_string(),
        purpose: format!("do other requests wait for the turn of {}?", time(turn)),
        // Four steps of at least a quarter of a second, and of two requests where these are slow.
        cost_s: 4.0 * (case.mean_ms() * 2.0 / 1000.0).max(0.25),
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
        let why = match turns(&steps(case, turn)) {
            Some(_) if turn >= TURN_SEEN_MS => format!(
                "the loop computes for {} but yields: with several requests in flight others are \
                 served meanwhile",
                time(turn)
            ),
            _ => format!("the longest turn of the event loop takes {}", time(turn)),
        };
        return refuted(case, ID, why, &["intervals", "threads"]);
    }
    let hot = profile::hot(case);
    let edits = cpu_hot_path::edits(case, hot.as_ref().map_or(1.0, profile::Hot::reach));
    let cost_ms = retime::net_ms(case, &edits);
    let prediction = retime::predict(case, &edits, ID)
        .map(|p| Prediction { holds_for: Some(PREDICTED.into()), ..p });
    let mut claim = format!(
        "{} are computing on the event loop, {} of it in one turn during which no other request \
         is served; {}",
        part(cost_ms, case.mean_ms()),
        time(turn),
        cpu_hot_path::describe(case, hot.as_ref())
    );
    let steps = steps(case, turn);
    if let Some(step) = steps.last() {
        claim += &format!(
            "; with {} in flight {} times in {} requests nothing was sent or answered for so long",
            step.in_flight, step.silences, step.requests
        );
    }
    let confidence = match (&hot, turns(&steps)) {
        (Some(_), _) => 0.95,
        (None, Some(_)) => 0.93,
        (None, None) => 0.85,
    };
    let gains = BTreeMap::from([("turn", time(turn)), ("latency", time(case.mean_ms()))]);
    let (fix, location) = cpu_hot_path::fix(case, hot, Remedy::OffLoop, gains);
    Draft {
        rule: ID,
        confidence,
        claim,
        kinds: vec!["intervals", "threads", "profile"],
        location,
        fix,
        at_most: Severity::Critical,
    }
    .finding_with(case, cost_ms, prediction)
}
