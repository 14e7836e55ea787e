//! Each recorded request with the calls it made: what the ledgers are made of, one at a time.

use crate::Knowledge;
use crate::ledger::segments;
use crate::timeline;
use evidence::{Call, CallReport, Exchange, Line, RequestReport, Timeline};
use std::collections::BTreeMap;

/// The successful requests of a run, by endpoint and arm in order of start. Calls that are not
/// theirs (background work, other clients') are left out, as in the ledgers.
pub fn requests(k: &Knowledge) -> Vec<RequestReport> {
    let mut out = Vec::new();
    for endpoint in k.endpoints() {
        for arm in k.arms_of(endpoint) {
            let timelines = timeline::build(k, endpoint, &arm);
            let exchanges = k.exchanges_of(endpoint, &arm);
            out.extend(exchanges.zip(&timelines).map(|(x, t)| RequestReport {
                endpoint: endpoint.into(),
                arm: arm.clone(),
                window: x.window,
                start_ns: t.start.0,
                ms: t.latency().as_ms(),
                status: x.status,
                lines: lines(t),
                calls: calls(k, x, t),
            }));
        }
    }
    out
}

fn lines(t: &Timeline) -> BTreeMap<String, f64> {
    let mut ns: BTreeMap<String, u64> = BTreeMap::new();
    for s in segments(t) {
        let line = s.interval.map_or(Line::Unattributed, |n| t.intervals[n].line);
        *ns.entry(line.word().into()).or_default() += s.end - s.start;
    }
    ns.into_iter().map(|(line, ns)| (line, ns as f64 / 1e6)).collect()
}

fn calls(k: &Knowledge, x: &Exchange, t: &Timeline) -> Vec<CallReport> {
    let mut numbers: Vec<usize> = t.intervals.iter().filter_map(|i| i.call).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let one = |c: &Call| CallReport {
        start_ms: (c.start - x.phases.start).as_ms(),
        ms: c.duration().as_ms(),
        line: timeline::line_of(k, c).word().into(),
        peer: c.peer.clone(),
        operation: c.operation,
        text: c.text.clone(),
        text_known: c.text_known,
        rows: c.rows,
        error: c.error.clone(),
    };
    numbers.into_iter().filter_map(|n| k.calls.get(n)).map(one).collect()
}
