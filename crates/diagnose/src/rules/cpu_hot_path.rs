//! `cpu-hot-path`: the request computes.
//!
//! **Symptom.** A large part of the request is spent on the CPU of the service in stretches of
//! milliseconds.
//! **Cause.** Parsing, rendering, hashing, sorting, regular expressions, an algorithm that grows.
//! **Confirmed by** scheduler intervals (how long the service was on the CPU, and when) and by
//! stack samples (the deepest function of the team's own code on the heaviest path).
//! **Refuted by** little CPU, or CPU in slivers between calls: that is the driver's work and
//! belongs to the calls (`sql-n-plus-one`, `chatty-cache`).
//! **Fix.** Do less per request, keep the result, or a better algorithm at the named line.
//! **Verify.** `perfwright investigate`: the `cpu` line shrinks.

use crate::case::{Case, Extent, Request};
use crate::idioms::{self, Remedy};
use crate::outside;
use crate::profile::{self, Hot};
use crate::retime::{self, Edit};
use crate::rules::{Draft, event_loop_blocked, refuted, undecided};
use crate::wording::{part, percent, time};
use evidence::ProbeState::Unavailable;
use evidence::{
    Consent, Coverage, Effort, Experiment, ExperimentKind, FixKind, Judgement, Line, Protocol,
    Risk, Severity,
};
use std::collections::BTreeMap;

/// Rule id.
pub const ID: &str = "cpu-hot-path";

/// A stretch of CPU that is computing, not a driver's sliver between calls, nanoseconds.
const BURST_NS: u64 = 2_000_000;
/// A pause inside a stretch that does not end it (a wake-up of another thread), nanoseconds.
const PAUSE_NS: u64 = 200_000;
/// A pause shorter than this is no call to a peer, nanoseconds: a round trip on one machine takes
/// 40 µs.
const WAKE_NS: u64 = 20_000;
/// CPU below which a request is light, milliseconds: routing, a template and some JSON take 1–5.
const LIGHT_MS: f64 = 8.0;
/// Computing that is sampled until stacks say enough, milliseconds: a hundred samples at 499 Hz.
const SAMPLED_MS: f64 = 200.0;
/// Share of latency below which another cause matters more.
const SHARE: f64 = 0.2;
/// CPU of reading a request and writing an answer, which stays whatever the handler does,
/// nanoseconds: 0.1–0.6 ms in Go, Node and Python servers.
const ANSWER_NS: f64 = 200_000.0;

/// A stretch of computing within one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Start and end, run-queue delay inside included.
    pub extent: Extent,
    /// Time on the CPU in it, nanoseconds.
    pub cpu_ns: u64,
    /// Thread, where known.
    pub tid: Option<i32>,
}

/// The computing stretches of a request (by number). Without scheduler intervals, stretches that
/// no call covers: how much of them was CPU the counters say. CPU that belongs to calls is left
/// out, see [`Case::calls_own_cpu`].
pub fn bursts(case: &Case, at: usize) -> Vec<Burst> {
    let positioned = case.has_intervals();
    let blind = positioned && !case.sees_calls();
    let request = &case.requests[at];
    let excluded = &case.calls_own_cpu()[at];
    let mut out: Vec<Burst> = Vec::new();
    for p in &request.pieces {
        let on_cpu = match p.line {
            Line::Cpu | Line::Gc => true,
            Line::Unattributed if !positioned => true,
            Line::Runnable => false,
            _ => continue,
        };
        let tid = p.interval.and_then(|i| request.timeline.intervals[i].tid);
        for (start, end) in retime::subtract(&[(p.start, p.end)], excluded) {
            let cpu = if on_cpu { end - start } else { 0 };
            match out.last_mut() {
                Some(b)
                    if start <= b.extent.1 + PAUSE_NS
                        && !covered(request, b.extent.1, start, blind) =>
                {
                    b.extent.1 = end;
                    b.cpu_ns += cpu;
                    b.tid = b.tid.or(tid);
                }
                _ if on_cpu => out.push(Burst { extent: (start, end), cpu_ns: cpu, tid }),
                _ => {}
            }
        }
    }
    out.retain(|b| b.cpu_ns >= BURST_NS);
    out
}

/// Whether a call or a wait of a known kind lies between two pieces. Where calls are not seen
/// (`blind`) any wait may be one.
fn covered(request: &Request, from: u64, to: u64, blind: bool) -> bool {
    let first = request.pieces.partition_point(|p| p.end <= from);
    request.pieces[first..].iter().take_while(|p| p.start < to).any(|p| match p.line {
        Line::Lock => false,
        Line::Unattributed => blind && p.end - p.start >= WAKE_NS,
        _ => true,
    })
}

/// One edit per request: the computing goes. Where stacks say what `share` of all CPU lies under
/// the hot function, as much of the computing as that is: the rest is drivers' work between calls.
pub fn edits(case: &Case, share: f64) -> Vec<Edit> {
    let counted = if case.has_intervals() { None } else { case.cpu_ms().map(|ms| ms * 1e6) };
    let edit = |at: usize| {
        let (bursts, request) = (bursts(case, at), &case.requests[at]);
        let stretches: Vec<Extent> = bursts.iter().map(|b| b.extent).collect();
        let length = retime::length(&stretches) as f64;
        // A sum has no position: what fits between calls may be the driver's work there.
        let slivers = (request.line_ns(Line::Unattributed) as f64 - length).max(0.0);
        let goes = match counted {
            Some(c) => share * (c - slivers).clamp(0.0, length),
            None => {
                let all = (request.line_ns(Line::Cpu) + request.line_ns(Line::Gc)) as f64;
                let computing = bursts.iter().map(|b| b.cpu_ns).sum::<u64>().max(1) as f64;
                length * (share * all / computing).min(1.0)
            }
        };
        let stays = (length - goes).max(ANSWER_NS.min(length));
        Edit { stretches, replacement_ns: stays, ..Edit::default() }
    };
    (0..case.requests.len()).map(edit).collect()
}

/// Sampling stacks, once CPU matters and nothing has named the code.
pub fn needs(case: &Case) -> Vec<Experiment> {
    if case.requests.is_empty() || case.did(&ExperimentKind::Profile) || case.cpu_ms().is_none() {
        return Vec::new();
    }
    let cost = retime::net_ms(case, &edits(case, 1.0));
    if cost < LIGHT_MS || profile::hot(case).is_some() {
        return Vec::new();
    }
    let node = case.runtime() == "node";
    vec![Experiment {
        kind: ExperimentKind::Profile,
        endpoint: case.endpoint.to_string(),
        purpose: format!("which code uses {} of CPU a request?", time(cost)),
        cost_s: sampling_s(case, cost),
        information: (cost / case.mean_ms().max(1e-9)).min(1.0) * 0.6,
        risk: if node { Risk::Touches } else { Risk::Slows },
        consent: if node { Consent::Attach } else { Consent::None },
    }]
}

/// Seconds of driving until stacks of a computation of `cost` milliseconds a request say enough.
fn sampling_s(case: &Case, cost: f64) -> f64 {
    let requests = (SAMPLED_MS / cost.max(1.0)).max(3.0);
    (requests * case.mean_ms() / 1000.0).clamp(1.5, 10.0)
}

/// See the module.
pub fn judge(case: &Case) -> Judgement {
    if case.requests.is_empty() {
        return Judgement::Silent;
    }
    let Some(cpu_ms) = case.cpu_ms() else {
        let missing = "the service's CPU time: neither scheduler records nor counters".into();
        return undecided(case, ID, missing, case.look_closer());
    };
    if event_loop_blocked::holds(case) {
        return Judgement::Silent;
    }
    // A sum may be the driver's work between calls that cannot be seen.
    if outside::is_low(case) && !case.has_intervals() {
        let missing = format!(
            "whether {} of CPU are in one piece: neither when it was used nor calls are visible",
            part(cpu_ms, case.mean_ms())
        );
        return undecided(case, ID, missing, case.look_closer());
    }
    let hot = profile::hot(case);
    let edits = edits(case, hot.as_ref().map_or(1.0, Hot::reach));
    let cost_ms = retime::net_ms(case, &edits);
    if cost_ms < LIGHT_MS || cost_ms < SHARE * case.quiet_ms() {
        let why =
            format!("CPU {}, {} of it in one piece", part(cpu_ms, case.mean_ms()), time(cost_ms));
        return refuted(case, ID, why, &["intervals", "counters"]);
    }
    let prediction = retime::predict(case, &edits, ID);
    draft(case, hot, cpu_ms).finding_with(case, cost_ms, prediction)
}

fn draft(case: &Case, hot: Option<Hot>, cpu_ms: f64) -> Draft {
    let confidence = match (&hot, case.has_intervals()) {
        (Some(_), true) => 0.95,
        (Some(_), false) => 0.85,
        (None, true) => 0.8,
        (None, false) => 0.6,
    };
    let claim = format!(
        "{} ({}) are computing in the service; {}",
        part(cpu_ms, case.mean_ms()),
        percent(cpu_ms / case.mean_ms().max(1e-9)),
        describe(case, hot.as_ref())
    );
    let (fix, location) = fix(case, hot, Remedy::LessCpu, BTreeMap::new());
    Draft {
        rule: ID,
        confidence,
        claim,
        kinds: vec!["intervals", "counters", "profile"],
        location,
        fix,
        at_most: Severity::Critical,
    }
}

/// What stacks say about the code, or what would make them say it.
pub fn describe(case: &Case, hot: Option<&Hot>) -> String {
    match hot {
        Some(h) => h.sentence(),
        None => {
            let refused = |c: &Coverage| c.probe == "cpu-stacks" && c.state == Unavailable;
            let how = match case.runtime() {
                "node" => "with `--attach`",
                _ if case.knowledge.coverage.iter().any(refused) => "as root",
                // They can be had: there was no time for them.
                _ if !case.did(&ExperimentKind::Profile) => return no_time(case),
                _ => "as root",
            };
            format!("which code is not known without stacks: run it again {how}")
        }
    }
}

fn no_time(case: &Case) -> String {
    let cost = retime::net_ms(case, &edits(case, 1.0));
    // Half of a budget is for the first look; the rest is shared with other experiments.
    let enough = 15.0 + 4.0 * sampling_s(case, cost);
    let tens = (enough / 10.0).ceil() * 10.0;
    format!("there was no time to sample which code: run it again with `--budget {tens}s`")
}

/// The fix at the hot function, with further `values` for its words, and that function's place.
pub fn fix(
    case: &Case,
    hot: Option<Hot>,
    remedy: Remedy,
    mut values: BTreeMap<&'static str, String>,
) -> (evidence::Fix, Option<evidence::Where>) {
    let location = hot.as_ref().map(|h| h.place.clone());
    let function = location.as_ref().and_then(|p| p.function.clone());
    values.insert("function", function.unwrap_or_else(|| "the computation".into()));
    let place = location.as_ref().map(|p| match p.line {
        Some(line) => format!("{}:{line}", p.file),
        None => p.file.clone(),
    });
    values.insert("location", place.unwrap_or_else(|| "(not located yet)".into()));
    let text = idioms::write(case, "", Protocol::Opaque, remedy, &values);
    let fix = evidence::Fix {
        summary: text.summary,
        kind: FixKind::Code,
        patch: text.patch,
        effort: Effort::Hours,
        risk: "if its result is kept: it may be stale".into(),
        verify: case.command(""),
    };
    (fix, location)
}
