//! The waterfall of one request: what a person looks at. Like calls in a row are one bar.

use crate::ledger::{TRACED_SHARE, segments};
use crate::timeline::{UNKNOWN_WAIT, rank};
use evidence::{Interval, Line, Timeline, WallEntry, WallLedger, WaterfallBar, WaterfallReport};
use std::collections::BTreeMap;

/// More bars than this are no picture: like calls are then merged across the whole request.
const BARS: usize = 40;
/// Stretches below this share of the request are not drawn, and gaps below it do not divide one.
const VISIBLE: f64 = 0.01;
/// Share of the waits without a name from which on one reason stands for all of them.
const NEARLY_ALL: f64 = 0.9;

/// A bar in nanoseconds on the run's clock.
#[derive(Clone, Debug)]
struct Bar {
    line: Line,
    detail: String,
    start: u64,
    end: u64,
    count: u32,
}

/// The waterfalls of a typical (nearest the median) and of a slow (the slowest 5 %'s fastest, with
/// few requests the slowest) request. One when there is only one request. `wall` is the ledger
/// beside them: it may know what waits are that no timeline names.
pub fn typical_and_slow(timelines: &[Timeline], wall: &WallLedger) -> Vec<WaterfallReport> {
    let reason = reason(wall);
    let reason = reason.as_ref();
    let mut order: Vec<&Timeline> = timelines.iter().collect();
    order.sort_by_key(|t| (t.latency(), t.window, t.start));
    let n = order.len();
    let Some(typical) = order.get(n.saturating_sub(1) / 2) else { return vec![] };
    let mut out = vec![of(typical, "typical", reason)];
    if n > 1 {
        let slow = ((n as f64 * 0.95).ceil() as usize).clamp(1, n) - 1;
        out.push(of(order[slow], "slow", reason));
    }
    out
}

/// What nearly all waits without a name are, by the traced pass (the ledger has applied it).
fn reason(wall: &WallLedger) -> Option<(Line, String)> {
    let unnamed = wall.entries.iter().filter(|e| e.detail == UNKNOWN_WAIT);
    let unnamed: f64 = unnamed.map(|e| e.ns).sum();
    let named = |e: &&WallEntry| e.method.contains(TRACED_SHARE) && e.line != Line::Gc;
    let all: f64 = wall.entries.iter().filter(named).map(|e| e.ns).sum();
    let best = wall.entries.iter().filter(named).max_by(|a, b| a.ns.total_cmp(&b.ns))?;
    let nearly_all = best.ns >= NEARLY_ALL * (all + unnamed);
    nearly_all.then(|| (best.line, best.detail.clone()))
}

/// The waterfall of one request; `which` is `typical` or `slow`, `reason` what waits without a
/// name are. A merged bar lasts from its first call's start to its last call's end.
pub fn of(t: &Timeline, which: &str, reason: Option<&(Line, String)>) -> WaterfallReport {
    let mut calls = call_bars(t);
    if calls.len() > BARS {
        calls = by_kind(&calls);
    }
    let mut bars = stretch_bars(t, &calls);
    if let Some((line, detail)) = reason {
        let unnamed = bars.iter_mut().filter(|b| b.detail == UNKNOWN_WAIT);
        unnamed.for_each(|b| (b.line, b.detail) = (*line, detail.clone()));
    }
    bars.append(&mut calls);
    bars.sort_by(|a, b| {
        (a.start, b.end, a.line, &a.detail).cmp(&(b.start, a.end, b.line, &b.detail))
    });
    let round = |ns: u64| (ns as f64 / 1e3).round() / 1e3;
    WaterfallReport {
        which: which.into(),
        ms: round(t.latency().0),
        bars: bars
            .into_iter()
            .map(|b| WaterfallBar {
                line: b.line.word().into(),
                detail: b.detail,
                start_ms: round(b.start - t.start.0),
                ms: round(b.end - b.start),
                count: b.count,
            })
            .collect(),
    }
}

fn clipped(t: &Timeline, i: &Interval) -> (u64, u64) {
    let start = i.start.0.clamp(t.start.0, t.end.0.max(t.start.0));
    (start, i.end.0.clamp(start, t.end.0.max(start)))
}

/// Runs of like calls in order of start.
fn call_bars(t: &Timeline) -> Vec<Bar> {
    let mut calls: Vec<&Interval> = t.intervals.iter().filter(|i| i.call.is_some()).collect();
    calls.sort_by_key(|i| (i.start, i.end, i.call));
    let mut bars: Vec<Bar> = vec![];
    for i in calls {
        let (start, end) = clipped(t, i);
        match bars.last_mut() {
            Some(b) if b.line == i.line && b.detail == i.detail => {
                b.end = b.end.max(end);
                b.count += 1;
            }
            _ => {
                let detail = i.detail.clone();
                bars.push(Bar { line: i.line, detail, start, end, count: 1 });
            }
        }
    }
    bars
}

/// One bar a kind of call, from its first to its last.
fn by_kind(bars: &[Bar]) -> Vec<Bar> {
    let mut kinds: BTreeMap<(Line, &str), Bar> = BTreeMap::new();
    for b in bars {
        let all = kinds.entry((b.line, &b.detail)).or_insert(Bar { count: 0, ..b.clone() });
        (all.start, all.end) = (all.start.min(b.start), all.end.max(b.end));
        all.count += b.count;
    }
    kinds.into_values().collect()
}

/// Stretches that are no calls, in the partition's labels; those inside a run of calls belong to
/// the run.
fn stretch_bars(t: &Timeline, calls: &[Bar]) -> Vec<Bar> {
    let least = (t.latency().0 as f64 * VISIBLE) as u64;
    let mut bars: Vec<Bar> = vec![];
    // Latest bar of each label, to be continued over short gaps.
    let mut latest: BTreeMap<(Line, String), usize> = BTreeMap::new();
    let runs: Vec<&Bar> = calls.iter().filter(|b| b.count > 1).collect();
    for s in segments(t) {
        let label = s.interval.map(|n| &t.intervals[n]);
        let inside_run = runs.iter().any(|b| b.start <= s.start && s.end <= b.end);
        if label.is_some_and(|i| i.rank == rank::CALL) || inside_run {
            continue;
        }
        let (line, detail) =
            label.map_or((Line::Unattributed, ""), |i| (i.line, i.detail.as_str()));
        let key = (line, detail.to_string());
        match latest.get(&key).map(|n| &mut bars[*n]) {
            Some(b) if s.start - b.end <= least => b.end = s.end,
            _ => {
                latest.insert(key, bars.len());
                let detail = detail.to_string();
                bars.push(Bar { line, detail, start: s.start, end: s.end, count: 1 });
            }
        }
    }
    bars.retain(|b| b.end - b.start >= least.max(1));
    bars.sort_by_key(|b| std::cmp::Reverse(b.end - b.start));
    bars.truncate(BARS);
    bars
}
