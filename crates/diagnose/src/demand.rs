//! The demand ledger: resources used per request. It counts what is used wherever it is used, so
//! it never sums to latency; it feeds the operational laws.

use crate::background;
use crate::timeline::{self, line_of};
use crate::{Knowledge, headline};
use evidence::{Arm, Call, DemandEntry, Line, Operation, ProcessCounters, ProcessRole, Timeline};
use std::collections::BTreeMap;

/// Resources per request of an endpoint, in its headline arm. Counters are driven − idle; calls
/// are those of its timelines. Only what was observed is listed.
pub fn ledger(k: &Knowledge, endpoint: &str) -> Vec<DemandEntry> {
    let Some(arm) = headline::arm_of(k, endpoint) else { return vec![] };
    let mut out = counted(k, endpoint, &arm);
    out.extend(called(k, endpoint, &arm));
    out
}

fn entry(resource: impl Into<String>, per_request: f64, unit: &str) -> DemandEntry {
    DemandEntry { resource: resource.into(), per_request: per_request.max(0.0), unit: unit.into() }
}

type Counter = (&'static str, &'static str, fn(&ProcessCounters) -> f64);

const ROLES: [(ProcessRole, &str); 3] = [
    (ProcessRole::Service, "cpu:service"),
    (ProcessRole::Database, "cpu:database"),
    (ProcessRole::Cache, "cpu:cache"),
];

const OF_SERVICE: [Counter; 6] = [
    ("runnable:service", "ms", |c| c.runnable.as_ms()),
    ("disk-read", "bytes", |c| c.disk_read_bytes as f64),
    ("disk-written", "bytes", |c| c.disk_write_bytes as f64),
    ("context-switches", "count", |c| (c.voluntary_switches + c.involuntary_switches) as f64),
    ("minor-faults", "count", |c| c.minor_faults as f64),
    ("major-faults", "count", |c| c.major_faults as f64),
];

fn counted(k: &Knowledge, endpoint: &str, arm: &Arm) -> Vec<DemandEntry> {
    let mut out = vec![];
    for (role, name) in ROLES {
        if let Some(ms) = driven_minus_idle(k, endpoint, arm, role, |c| c.cpu.as_ms()) {
            out.push(entry(name, ms, "ms"));
        }
    }
    for (name, unit, of) in OF_SERVICE {
        if let Some(v) = driven_minus_idle(k, endpoint, arm, ProcessRole::Service, of) {
            out.push(entry(name, v, unit));
        }
    }
    out
}

/// Mean per request of a counter, less what an idle window of the same length uses.
fn driven_minus_idle(
    k: &Knowledge,
    endpoint: &str,
    arm: &Arm,
    role: ProcessRole,
    of: fn(&ProcessCounters) -> f64,
) -> Option<f64> {
    let mut requests: BTreeMap<u32, u32> = BTreeMap::new();
    for x in k.attempts_of(endpoint, arm) {
        *requests.entry(x.window).or_default() += 1;
    }
    let (mut used, mut time, mut count) = (0.0, 0.0, 0.0);
    for (id, n) in requests.iter().filter(|w| !k.lossy_windows.contains(w.0)) {
        let (Some(w), Some(c)) = (k.windows.get(id), k.counters_of(*id, role)) else { continue };
        used += of(c);
        time += (w.end - w.start).0 as f64;
        count += f64::from(*n);
    }
    let (mut idle, mut idle_time) = (0.0, 0.0);
    for w in background::idle_windows(k, endpoint) {
        if let Some(c) = k.counters_of(w.id, role) {
            idle += of(c);
            idle_time += (w.end - w.start).0 as f64;
        }
    }
    let rate = if idle_time > 0.0 { idle / idle_time } else { 0.0 };
    (count > 0.0).then(|| (used - rate * time) / count)
}

fn called(k: &Knowledge, endpoint: &str, arm: &Arm) -> Vec<DemandEntry> {
    let timelines = timeline::build(k, endpoint, arm);
    let (chosen, _) = crate::ledger::selection(k, endpoint, arm);
    let timelines: Vec<&Timeline> = chosen.iter().filter_map(|n| timelines.get(*n)).collect();
    let requests = timelines.len() as f64;
    let calls: Vec<&Call> = timelines
        .iter()
        .flat_map(|t| &t.intervals)
        .filter_map(|i| i.call.and_then(|n| k.calls.get(n)))
        .collect();
    if calls.is_empty() {
        return vec![];
    }
    let of = |line: Line| calls.iter().filter(move |c| line_of(k, c) == line);
    let mut out = vec![];
    let executed = |line| of(line).filter(|c| c.operation == Operation::Execute).count() as f64;
    let kinds = [
        (Line::Database, "statements"),
        (Line::Cache, "cache-commands"),
        (Line::Downstream, "downstream-calls"),
    ];
    for (line, name) in kinds {
        if of(line).next().is_some() {
            out.push(entry(name, executed(line) / requests, "count"));
        }
    }
    if of(Line::Database).any(|c| c.rows.is_some()) {
        let rows: u64 = of(Line::Database).filter_map(|c| c.rows).sum();
        out.push(entry("rows", rows as f64 / requests, "count"));
    }
    out.extend(per_peer(&calls, requests));
    out
}

/// Round trips and bytes by peer.
fn per_peer(calls: &[&Call], requests: f64) -> Vec<DemandEntry> {
    let mut peers: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for c in calls {
        peers.entry(&c.peer).or_default().push(c);
    }
    let mut out = vec![];
    for (peer, calls) in peers {
        let mut trips: Vec<(u32, u64)> = calls.iter().map(|c| (c.connection, c.batch)).collect();
        trips.sort_unstable();
        trips.dedup();
        out.push(entry(format!("round-trips:{peer}"), trips.len() as f64 / requests, "count"));
        let bytes: u64 = calls.iter().map(|c| c.bytes_sent + c.bytes_received).sum();
        if bytes > 0 {
            out.push(entry(format!("bytes:{peer}"), bytes as f64 / requests, "bytes"));
        }
    }
    out
}
