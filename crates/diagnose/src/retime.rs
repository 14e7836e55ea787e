//! Predictions by re-timing: each recorded request is replayed on paper with a finding's calls,
//! waits or CPU removed, merged or made parallel; what depends on them moves forward, what does
//! not stays.
//!
//! An instant of a request is saved when something removed covers it and no kept call does: a kept
//! call keeps its whole duration and only shifts. Between two removed calls that follow each other
//! the driver's own work (encode, wake up, decode) vanishes with them; it is 65–90 % of an N+1's
//! time on a local network, so subtracting the calls alone would predict far too little. Work of
//! the service between the calls beyond [`DRIVER_CPU_NS`] is kept.

use crate::case::{Case, Extent, Request};
use evidence::{Estimate, Line, Operation, Prediction, PredictionMethod};
use stats::Rng;

/// CPU between two calls of a chain that is taken for the driver's; more than that is work of the
/// service which a batched call still has to do. Drivers and query builders use 0.02–0.5 ms a
/// call, object mappers up to about 1 ms.
pub const DRIVER_CPU_NS: u64 = 1_000_000;
/// CPU on each side of a removed call that is taken for its client's (encode and send; wake up and
/// decode). Clients of other services use 0.1 (Go) to 1 ms (Python, Node) a call.
const CLIENT_CPU_NS: u64 = DRIVER_CPU_NS / 2;
/// Bootstrap resamples: the 5 % and 95 % points of a median need a few hundred.
const RESAMPLES: usize = 400;
/// Model error of what remains, as a share of it: a repaired service is another program, its
/// memory and scheduling differ by a few percent.
const MODEL_REMAINDER: f64 = 0.06;
/// Model error of a replacement's cost, as a share of it: it was not run, only inferred from its
/// likes.
const MODEL_REPLACEMENT: f64 = 0.6;
/// Model error of the driver's work taken to vanish, as a share of it.
const MODEL_DRIVER: f64 = 0.10;
/// Model error of the client's work beside a removed call, as a share of it: where the call's work
/// ends and the service's begins is not recorded.
const MODEL_CLIENT: f64 = 0.5;

/// What the fix does to one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edit {
    /// Calls that go, as indices into [`Request::calls`].
    pub calls: Vec<usize>,
    /// Other stretches that go (CPU, sleeps, disk waits).
    pub stretches: Vec<Extent>,
    /// Whether the driver's work between consecutive removed calls goes with them.
    pub gaps: bool,
    /// Whether the client's work before and after each removed call goes with it: nothing takes
    /// the place of the call.
    pub clients: bool,
    /// Cost of what takes their place, nanoseconds.
    pub replacement_ns: f64,
}

/// What an edit saves in one request, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Saving {
    /// Removed from the request's latency: the calls, waits and gaps themselves.
    pub removed_ns: u64,
    /// Part of `removed_ns` that lies between the removed calls.
    pub driver_ns: u64,
    /// Part of `removed_ns` spent waiting for a CPU: it goes too, but it is the machine's doing.
    pub queued_ns: u64,
    /// The client's work beside the removed calls, which goes as well.
    pub client_ns: u64,
    /// Latency after the edit, replacement included.
    pub after_ns: f64,
}

/// Re-times one request.
pub fn retime(request: &Request, edit: &Edit) -> Saving {
    let mut gone: Vec<Extent> = edit.calls.iter().map(|&c| request.extent(c)).collect();
    gone.extend(edit.stretches.iter().map(|s| clip(*s, request)));
    let gone = union(gone);
    let kept = kept_calls(request, edit);
    let core = subtract(&gone, &kept);
    let driver =
        if edit.gaps { subtract(&driver_gaps(request, &gone, &kept), &kept) } else { vec![] };
    let (core_ns, driver_ns) = (length(&core), length(&driver));
    let removed_ns = core_ns + driver_ns;
    let client_ns = if edit.clients { client_ns(request, &gone, &kept) } else { 0 };
    let after_ns = request.latency().saturating_sub(removed_ns + client_ns) as f64
        + edit.replacement_ns.min(removed_ns as f64);
    let queued_ns = queued(request, &core) + queued(request, &driver);
    Saving { removed_ns, driver_ns, queued_ns, client_ns, after_ns }
}

impl Saving {
    /// Share of the removed time that is not waiting for a CPU.
    fn own(&self) -> f64 {
        1.0 - self.queued_ns as f64 / self.removed_ns.max(1) as f64
    }
}

/// Run-queue delay within the extents.
fn queued(request: &Request, extents: &[Extent]) -> u64 {
    extents.iter().map(|e| time_on(request, Line::Runnable, *e)).sum()
}

/// Time of the partition on a line within an extent, nanoseconds.
fn time_on(request: &Request, line: Line, within: Extent) -> u64 {
    let first = request.pieces.partition_point(|p| p.end <= within.0);
    let pieces = request.pieces[first..].iter().take_while(|p| p.start < within.1);
    let of_line = pieces.filter(|p| p.line == line);
    of_line.map(|p| p.end.min(within.1) - p.start.max(within.0)).sum()
}

/// Extents of the executed calls that stay.
fn kept_calls(request: &Request, edit: &Edit) -> Vec<Extent> {
    let mut kept: Vec<bool> =
        request.calls.iter().map(|c| c.operation == Operation::Execute).collect();
    edit.calls.iter().for_each(|&c| kept[c] = false);
    union((0..kept.len()).filter(|&i| kept[i]).map(|i| request.extent(i)).collect())
}

/// The stretches between neighbouring removed ones that are the driver's: preparing and waking up
/// wholly, CPU and unexplained time up to [`DRIVER_CPU_NS`] a gap. A gap that holds kept calls is
/// theirs too, so only the removed call's part of its CPU goes.
fn driver_gaps(request: &Request, gone: &[Extent], kept: &[Extent]) -> Vec<Extent> {
    let mut out = Vec::new();
    let mut chain: Vec<Extent> = entry_gap(gone, kept).into_iter().collect();
    chain.extend_from_slice(gone);
    for pair in chain.windows(2) {
        let (from, to) = (pair[0].1, pair[1].0);
        let guests = kept.iter().filter(|k| k.0 < to && k.1 > from).count() as u64;
        let mut budget = DRIVER_CPU_NS / (guests + 1);
        let first = request.pieces.partition_point(|p| p.end <= from);
        for p in request.pieces[first..].iter().take_while(|p| p.start < to) {
            let (start, mut end) = (p.start.max(from), p.end.min(to));
            match p.line {
                Line::Cpu | Line::Unattributed | Line::Lock => {
                    let share = if guests > 0 { (end - start) / (guests + 1) } else { end - start };
                    end = start + share.min(budget);
                    budget -= end - start;
                }
                Line::Runnable | Line::Database | Line::Cache | Line::Downstream => {}
                _ => continue,
            }
            if start < end {
                out.push((start, end));
            }
        }
    }
    union(out)
}

/// A mark at the end of the kept call before the first removed one: when nothing replaces the
/// chain, the work that led into it goes too.
fn entry_gap(gone: &[Extent], kept: &[Extent]) -> Option<Extent> {
    let first = gone.first()?;
    let before = kept.iter().rev().find(|k| k.1 <= first.0)?;
    Some((before.1, before.1))
}

/// CPU of the clients of the removed calls: up to [`CLIENT_CPU_NS`] on each side, half of it where
/// the neighbour stays. That may be a call, whose client works in the same gap, or the request's
/// edge, where its server does.
fn client_ns(request: &Request, gone: &[Extent], kept: &[Extent]) -> u64 {
    let edges = [(request.start, request.start), (request.end, request.end)];
    let gone = subtract(gone, kept).into_iter().map(|e| (e, true));
    let stays = kept.iter().chain(&edges).map(|e| (*e, false));
    let mut all: Vec<(Extent, bool)> = gone.chain(stays).collect();
    all.sort_unstable();
    let between = |pair: &[(Extent, bool)]| {
        let sides = pair.iter().filter(|(_, goes)| *goes).count() as u64;
        let cpu = time_on(request, Line::Cpu, (pair[0].0.1, pair[1].0.0));
        (cpu * sides / 2).min(sides * CLIENT_CPU_NS)
    };
    all.windows(2).map(between).sum()
}

fn clip(s: Extent, request: &Request) -> Extent {
    (s.0.clamp(request.start, request.end), s.1.clamp(request.start, request.end))
}

/// Union of extents, in order and disjoint.
pub fn union(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.retain(|e| e.0 < e.1);
    extents.sort_unstable();
    let mut out: Vec<Extent> = Vec::with_capacity(extents.len());
    for e in extents {
        match out.last_mut() {
            Some(last) if e.0 <= last.1 => last.1 = last.1.max(e.1),
            _ => out.push(e),
        }
    }
    out
}

/// `from` without `what`; both in order and disjoint.
pub fn subtract(from: &[Extent], what: &[Extent]) -> Vec<Extent> {
    let mut out = Vec::new();
    for &(start, end) in from {
        let mut at = start;
        let first = what.partition_point(|w| w.1 <= start);
        for w in what[first..].iter().take_while(|w| w.0 < end) {
            if w.0 > at {
                out.push((at, w.0));
            }
            at = at.max(w.1);
        }
        if at < end {
            out.push((at, end));
        }
    }
    out
}

/// Total length of disjoint extents, nanoseconds.
pub fn length(extents: &[Extent]) -> u64 {
    extents.iter().map(|e| e.1 - e.0).sum()
}

/// Mean removed time per request, milliseconds, without what was spent waiting for a CPU: the
/// finding's cost. On a busy machine everything with CPU in it is stretched; a cost that included
/// it would rank causes by the company they keep.
pub fn cost_ms(case: &Case, edits: &[Edit]) -> f64 {
    mean_of(case, edits, |s, _| s.removed_ns as f64 * s.own())
}

/// As [`cost_ms`], less what takes the place of the removed.
pub fn net_ms(case: &Case, edits: &[Edit]) -> f64 {
    mean_of(case, edits, |s, r| (r.latency() as f64 - s.after_ns).max(0.0) * s.own())
}

fn mean_of(case: &Case, edits: &[Edit], f: impl Fn(&Saving, &Request) -> f64) -> f64 {
    let one = |(r, e): (&Request, &Edit)| f(&retime(r, e), r) / 1e6;
    stats::mean(&case.requests.iter().zip(edits).map(one).collect::<Vec<_>>())
}

/// Predicts latency after the edits, one a warm request. `None` without requests.
///
/// The 90 % interval is the bootstrap's 5 % and 95 % points of the median (seeded from the run's
/// seed and the rule's name, so that a replay repeats it), widened on both sides by the model's
/// error: [`MODEL_REMAINDER`] of what remains, [`MODEL_REPLACEMENT`] of the replacement,
/// [`MODEL_DRIVER`] of the driver's work and [`MODEL_CLIENT`] of the client's, added as independent
/// errors. p95 is given only when 59 requests bound it.
pub fn predict(case: &Case, edits: &[Edit], rule: &str) -> Option<Prediction> {
    let savings: Vec<Saving> = case.requests.iter().zip(edits).map(|(r, e)| retime(r, e)).collect();
    if savings.is_empty() {
        return None;
    }
    let after: Vec<f64> = savings.iter().map(|s| s.after_ns / 1e6).collect();
    let replacement =
        stats::mean(&edits.iter().map(|e| e.replacement_ns / 1e6).collect::<Vec<_>>());
    let mean = |of: &dyn Fn(&Saving) -> u64| {
        stats::mean(&savings.iter().map(|s| evidence::ms(of(s))).collect::<Vec<_>>())
    };
    let (driver, client) = (mean(&|s| s.driver_ns), mean(&|s| s.client_ns));
    let model = |after: f64| {
        let parts = [
            MODEL_REMAINDER * after,
            MODEL_REPLACEMENT * replacement,
            MODEL_DRIVER * driver,
            MODEL_CLIENT * client,
        ];
        parts.iter().map(|p| p * p).sum::<f64>().sqrt()
    };
    becomes(case, &after, rule, &model, PredictionMethod::Modelled)
}

/// Predicts latency after a fix from requests that were answered as if it were made,
/// milliseconds; the interval is widened by [`MODEL_REMAINDER`]. `None` without such requests.
pub fn observed(case: &Case, after: &[f64], rule: &str) -> Option<Prediction> {
    becomes(case, after, rule, &|after| MODEL_REMAINDER * after, PredictionMethod::Probed)
}

/// The prediction that latency becomes like `after`; `model` is the model's error at a latency,
/// milliseconds.
fn becomes(
    case: &Case,
    after: &[f64],
    rule: &str,
    model: &dyn Fn(f64) -> f64,
    method: PredictionMethod,
) -> Option<Prediction> {
    let now: Vec<f64> = case.latencies_ms();
    let mut rng = Rng::new(seed(case, rule));
    let estimate = |of: &dyn Fn(&[f64]) -> Option<f64>, rng: &mut Rng| {
        let (now, mid) = (of(&now)?, of(after)?);
        let draws = resample(after, of, rng);
        let (low, high) = (stats::quantile(&draws, 0.05)?, stats::quantile(&draws, 0.95)?);
        let error = model(mid);
        Some(Estimate {
            now,
            after: mid.min(now),
            low: (low - error).clamp(0.0, now),
            high: (high + error).min(now),
        })
    };
    let at = |q: f64| move |values: &[f64]| stats::quantile(values, q);
    let p50_ms = estimate(&at(0.5), &mut rng)?;
    let bounded = [&now[..], after].iter().all(|v| stats::quantile_bounded(v, 0.95).is_some());
    let p95_ms = if bounded { estimate(&at(0.95), &mut rng) } else { None };
    let mean_ms = estimate(&|values| Some(stats::mean(values)), &mut rng);
    Some(Prediction { method, p50_ms, p95_ms, mean_ms, capacity_rps: None, holds_for: None })
}

fn resample(values: &[f64], of: &dyn Fn(&[f64]) -> Option<f64>, rng: &mut Rng) -> Vec<f64> {
    let draw = |rng: &mut Rng| values[rng.below(values.len() as u64) as usize];
    (0..RESAMPLES)
        .filter_map(|_| {
            let sample: Vec<f64> = values.iter().map(|_| draw(rng)).collect();
            of(&sample)
        })
        .collect()
}

/// FNV-1a over the rule and endpoint, mixed with the run's seed.
fn seed(case: &Case, rule: &str) -> u64 {
    let bytes = rule.bytes().chain(case.endpoint.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash ^ case.knowledge.run.seed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        proptest::collection::vec((0u64..500, 0u64..80).prop_map(|(s, l)| (s, s + l)), 0..20)
    }

    fn covers(set: &[Extent], at: u64) -> bool {
        set.iter().any(|e| e.0 <= at && at < e.1)
    }

    proptest! {
        #[test]
        fn set_arithmetic_agrees_with_instants(a in extents(), b in extents()) {
            let (a, b) = (union(a), union(b));
            let rest = subtract(&a, &b);
            for at in 0..600 {
                prop_assert_eq!(covers(&rest, at), covers(&a, at) && !covers(&b, at));
            }
        }
    }
}
