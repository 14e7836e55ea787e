//! The wall ledger: one sweep gives each instant of a timeline exactly one label, so a request's
//! lines sum to its latency by construction; the ledger is the mean over requests.

mod account;
mod bands;
mod foreign;
mod reasons;

use crate::Knowledge;
use account::{Account, Accounts, Key};
use evidence::{Arm, Band, Line, Timeline, WallEntry, WallLedger};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

pub use account::{Selection, selection};
pub(crate) use reasons::TRACED_SHARE;

/// Intervals active at an instant, best label first: by rank, then last-finishing, then index.
pub type Active = BTreeSet<(u8, Reverse<u64>, usize)>;

/// Walks a timeline from start to end and hands over each elementary stretch with the intervals
/// active in it. Stretches are disjoint, in order, and cover `[start, end]` exactly. `cuts` are
/// extra instants at which to divide. O(n log n).
pub fn walk(t: &Timeline, cuts: &[u64], mut visit: impl FnMut(u64, u64, &Active)) {
    let (start, end) = (t.start.0, t.end.0.max(t.start.0));
    // Ends sort before starts at the same instant, though no stretch lies between them.
    let mut points: Vec<(u64, bool, usize)> = vec![];
    for (n, i) in t.intervals.iter().enumerate() {
        let (from, to) = (i.start.0.clamp(start, end), i.end.0.clamp(start, end));
        if from < to {
            points.push((from, true, n));
            points.push((to, false, n));
        }
    }
    let cuts = cuts.iter().copied().chain([end]).filter(|c| (start..=end).contains(c));
    points.extend(cuts.map(|c| (c, false, usize::MAX)));
    points.sort_unstable();
    let mut active = Active::new();
    let mut at = start;
    for (point, begins, n) in points {
        if point > at {
            visit(at, point, &active);
            at = point;
        }
        if let Some(i) = t.intervals.get(n) {
            let key = (i.rank, Reverse(i.end.0), n);
            if begins {
                active.insert(key);
            } else {
                active.remove(&key);
            }
        }
    }
}

/// A stretch of a timeline with its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Start, nanoseconds on the run's clock.
    pub start: u64,
    /// End.
    pub end: u64,
    /// Index of the interval that labels it; `None`: nothing explains it.
    pub interval: Option<usize>,
}

/// The stretches of a timeline in order, neighbours of one label joined. They cover it exactly.
pub fn segments(t: &Timeline) -> Vec<Segment> {
    let mut out: Vec<Segment> = vec![];
    walk(t, &[], |start, end, active| {
        let interval = active.first().map(|key| key.2);
        match out.last_mut() {
            Some(last) if last.interval == interval => last.end = end,
            _ => out.push(Segment { start, end, interval }),
        }
    });
    out
}

/// Time by line and detail, in integer nanoseconds; the sum is the latency exactly. In order of
/// line and detail.
pub fn sweep(t: &Timeline) -> Vec<(Line, String, u64)> {
    let mut sums: BTreeMap<(Line, &str), u64> = BTreeMap::new();
    for s in segments(t) {
        let label = s.interval.map(|n| &t.intervals[n]);
        let key = label.map_or((Line::Unattributed, ""), |i| (i.line, i.detail.as_str()));
        *sums.entry(key).or_default() += s.end - s.start;
    }
    debug_assert_eq!(sums.values().sum::<u64>(), t.latency().0, "a ledger must sum exactly");
    sums.into_iter().map(|((line, detail), ns)| (line, detail.to_string(), ns)).collect()
}

/// The wall ledger of an endpoint in an arm: the mean over the requests of the band, with a 90 %
/// interval per entry. Entries sum to `latency_ns`. Empty when no request succeeded.
pub fn wall(k: &Knowledge, endpoint: &str, arm: &Arm, band: Band) -> WallLedger {
    average(&account::of(k, endpoint, arm), band)
}

/// As [`wall`], several bands at once.
pub fn walls<const N: usize>(
    k: &Knowledge,
    endpoint: &str,
    arm: &Arm,
    bands: [Band; N],
) -> [WallLedger; N] {
    let accounts = account::of(k, endpoint, arm);
    bands.map(|band| average(&accounts, band))
}

fn average(accounts: &Accounts, band: Band) -> WallLedger {
    let latencies: Vec<f64> = accounts.list.iter().map(|a| a.latency).collect();
    // What other clients' requests cost is subtracted from means over all kinds.
    let kinds = !matches!(accounts.selection, Selection::Subtracted { .. });
    let inside = bands::limits(&latencies, band, kinds);
    let chosen: Vec<&Account> = accounts.list.iter().filter(|a| inside.holds(a.latency)).collect();
    if chosen.is_empty() {
        return WallLedger::default();
    }
    let mut keys: BTreeSet<&Key> = chosen.iter().flat_map(|a| a.time.keys()).collect();
    keys.extend(chosen.iter().flat_map(|a| a.calls.keys()));
    let mut entries: Vec<WallEntry> =
        keys.into_iter().map(|key| entry(accounts, &chosen, key)).collect();
    settle(&mut entries);
    entries.retain(|e| e.ns > 0.0 || e.high_ns > 0.0 || e.calls > 0.0);
    entries.sort_by(|a, b| {
        b.ns.total_cmp(&a.ns).then_with(|| (a.line, &a.detail).cmp(&(b.line, &b.detail)))
    });
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    WallLedger {
        requests: number(chosen.len()),
        of: number(accounts.list.len()),
        latency_ns: chosen.iter().map(|a| a.latency).sum::<f64>() / chosen.len() as f64,
        entries,
    }
}

fn entry(accounts: &Accounts, chosen: &[&Account], key: &Key) -> WallEntry {
    let times: Vec<f64> = chosen.iter().map(|a| a.time.get(key).copied().unwrap_or(0.0)).collect();
    let ns = stats::mean(&times);
    let interval = stats::mean_interval(&times);
    // The estimate of what is not ours has an error all windows share; it adds in quadrature.
    let shared = accounts.shared_error.get(key).copied().unwrap_or(0.0);
    let half = (interval.high - ns).hypot(shared);
    let of = |f: fn(&account::CallSums) -> f64| {
        chosen.iter().filter_map(|a| a.calls.get(key)).map(f).sum::<f64>() / chosen.len() as f64
    };
    WallEntry {
        line: key.0,
        detail: key.1.clone(),
        ns,
        low_ns: (ns - half).max(0.0).min(ns),
        high_ns: ns + half,
        calls: of(|c| c.calls),
        rows: of(|c| c.rows),
        round_trips: of(|c| c.round_trips),
        elapsed_ns: of(|c| c.elapsed),
        chain_ns: of(|c| c.chain),
        method: accounts.method(key),
    }
}

/// A mean below zero is noise of a difference: it becomes zero, and what it owed is taken from
/// where differences are booked, so that the sum stays.
fn settle(entries: &mut [WallEntry]) {
    let mut debt = 0.0;
    for e in entries.iter_mut().filter(|e| e.ns < 0.0) {
        debt -= e.ns;
        (e.ns, e.low_ns) = (0.0, 0.0);
        e.high_ns = e.high_ns.max(0.0);
    }
    let order = [Line::Queueing, Line::Unattributed, Line::Cpu, Line::Runnable];
    for line in order {
        for e in entries.iter_mut().filter(|e| e.line == line) {
            let part = e.ns.min(debt);
            debt -= part;
            e.ns -= part;
            e.low_ns = (e.low_ns - part).max(0.0);
        }
    }
    // Whatever is left is spread over all entries.
    let total: f64 = entries.iter().map(|e| e.ns).sum();
    if debt > 0.0 && total > 0.0 {
        let keep = (1.0 - debt / total).max(0.0);
        for e in entries.iter_mut() {
            e.ns *= keep;
            e.low_ns = e.low_ns.min(e.ns);
        }
    }
}
