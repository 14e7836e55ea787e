//! The report document: knowledge and judgements to the stable JSON contract. Every number comes
//! from stored evidence; what was not measured is null.

use crate::case::EMBEDDED;
use crate::{Knowledge, command, demand, headline, ledger, timeline, waterfall};
use evidence::{
    Arm, Band, Coverage, CurvePoint, DemandEntry, EndpointReport, Exchange, Exoneration, Finding,
    Frame, FrameKind, LatencyMs, LedgerRow, Level, Line, Monitoring, Nanos, OtherKind, Report,
    ReportRun, ReportTarget, Resource, SCHEMA, Service, Undecided, WallEntry, WallLedger,
};
use std::collections::BTreeMap;

mod warnings;

/// Fewest requests for which the slowest 5 % are more than one outlier.
const TAIL_NEEDS: u32 = 20;
/// The generator is the limit when its thread is busy this share of the time.
const GENERATOR_LIMIT: f64 = 0.8;

/// The report. `resources` are added to those the knowledge itself shows.
pub fn report(
    k: &Knowledge,
    findings: Vec<Finding>,
    exonerated: Vec<Exoneration>,
    undecided: Vec<Undecided>,
    resources: Vec<Resource>,
) -> Report {
    let endpoints: Vec<EndpointReport> =
        k.endpoints().into_iter().map(|name| endpoint(k, name)).collect();
    Report {
        schema: SCHEMA.into(),
        run: run(k),
        target: target(k),
        objective: (!k.run.objectives.is_empty()).then(|| k.run.objectives.clone()),
        monitoring: monitoring(&endpoints),
        warnings: warnings::of(k, &endpoints),
        endpoints,
        findings,
        exonerated,
        undecided,
        resources: host(k).into_iter().chain(resources).collect(),
        coverage: coverage(k),
        comparison: None,
    }
}

/// What could be observed. Calls to a database inside the process are, once spans tell of them;
/// what was agreed to and not needed is no loss.
fn coverage(k: &Knowledge) -> Vec<Coverage> {
    let told = k.tells_embedded_calls();
    let one = |c: &Coverage| match told && c.probe == EMBEDDED {
        true => Coverage::ok(EMBEDDED),
        false => c.clone(),
    };
    let agreed = k.run.command.iter().any(|word| word == "--attach");
    let unneeded =
        |c: &&Coverage| agreed && c.probe == "node-inspector" && c.hint.contains("--attach");
    k.coverage.iter().filter(|c| !unneeded(c)).map(one).collect()
}

fn run(k: &Knowledge) -> ReportRun {
    let r = &k.run;
    ReportRun {
        id: r.id.clone(),
        commit: r.commit.clone(),
        dirty: r.dirty,
        started: r.started.clone(),
        tool: format!("perfwright {}", r.tool_version),
        seed: r.seed,
        seconds: r.seconds.map(round3),
        ended_because: r.ended_because.clone(),
        command: r.command.iter().map(|w| command::quoted(w)).collect::<Vec<_>>().join(" "),
    }
}

fn target(k: &Knowledge) -> ReportTarget {
    let t = &k.target;
    let mut peers: Vec<String> =
        t.services.iter().flat_map(|s| &s.peers).map(|p| p.name.clone()).collect();
    let mut seen = std::collections::BTreeSet::new();
    peers.retain(|p| seen.insert(p.clone()));
    ReportTarget {
        url: t.url.clone(),
        level: format!("{:?}", level(k)),
        services: t.services.iter().map(service).collect(),
        peers,
        co_located: t.services.iter().any(|s| s.co_located),
    }
}

/// The level found, or the one that stacks reached which only consent allowed.
fn level(k: &Knowledge) -> Level {
    let own = |f: &Frame| f.kind == FrameKind::User && f.line.is_some();
    let named = k.profiles.iter().flat_map(|p| &p.frames).any(own);
    if k.target.level == Level::L3 && named { Level::L4 } else { k.target.level }
}

/// `node 20.20.2 (pid 4711) on 127.0.0.1:3000`.
fn service(s: &Service) -> String {
    let main = s.processes.iter().find(|p| p.serving).or(s.processes.first());
    let who = main.map_or(s.name.clone(), |p| {
        let version = p.runtime.version.as_deref().unwrap_or("");
        let runtime = format!("{} {version}", p.runtime.name);
        format!("{} (pid {})", runtime.trim_end(), p.pid)
    });
    format!("{who} on {}", s.listener.address)
}

fn host(k: &Knowledge) -> Vec<Resource> {
    let h = &k.run.host;
    if h.cpus == 0 {
        return vec![];
    }
    let resource = |name: &str, value: f64, unit: &str, note: &str| Resource {
        resource: name.into(),
        value,
        unit: unit.into(),
        note: note.into(),
    };
    vec![
        resource("cpus", f64::from(h.cpus), "count", ""),
        resource("load-average", f64::from(h.load_centi) / 100.0, "threads", "at the start"),
        resource("memory", h.memory_bytes as f64, "bytes", ""),
    ]
}

fn endpoint(k: &Knowledge, name: &str) -> EndpointReport {
    let arm = headline::arm_of(k, name).unwrap_or(Arm::Warm);
    let attempts = k.attempts_of(name, &arm).count() as u64;
    let errors = k.attempts_of(name, &arm).filter(|x| x.failure.is_some()).count() as u64;
    let bands = [Band::Typical, Band::Other, Band::Tail];
    let [wall, other, tail] = ledger::walls(k, name, &arm, bands);
    let tail = if wall.requests >= TAIL_NEEDS { rows(&tail) } else { vec![] };
    let good = attempts.saturating_sub(errors);
    EndpointReport {
        name: name.into(),
        headline: headline::of(k, name),
        requests: attempts,
        errors,
        availability: if attempts == 0 { 0.0 } else { round4(good as f64 / attempts as f64) },
        latency_ms: latency(k, name, &arm, wall.latency_ns),
        cold_ms: cold(k, name),
        throughput_rps: None,
        capacity_rps: None,
        curve: curve(k, name),
        ledger: rows(&wall),
        tail_ledger: tail,
        other_kind: other_kind(&other),
        objectives: vec![],
        demand: demand::ledger(k, name).into_iter().map(rounded).collect(),
        waterfalls: waterfall::typical_and_slow(&timeline::build(k, name, &arm), &wall),
    }
}

fn other_kind(wall: &WallLedger) -> Option<OtherKind> {
    (wall.requests > 0).then(|| OtherKind {
        requests: u64::from(wall.requests),
        of: u64::from(wall.of),
        mean_ms: round3(wall.latency_ns / 1e6),
        ledger: rows(wall),
    })
}

fn rounded(e: DemandEntry) -> DemandEntry {
    DemandEntry { per_request: round3(e.per_request), ..e }
}

/// Latency of the requests the ledger chooses from; `typical_ns` is what its rows sum to.
fn latency(k: &Knowledge, name: &str, arm: &Arm, typical_ns: f64) -> Option<LatencyMs> {
    let all: Vec<&Exchange> = k.exchanges_of(name, arm).collect();
    let (chosen, _) = ledger::selection(k, name, arm);
    let values: Vec<f64> = chosen.iter().map(|n| all[*n].latency().as_ms()).collect();
    let p50 = stats::median(&values)?;
    Some(LatencyMs {
        mean: round3(stats::mean(&values)),
        typical: round3(typical_ns / 1e6),
        p50: round3(p50),
        p95: stats::quantile_bounded(&values, 0.95).map(round3),
        p99: stats::quantile_bounded(&values, 0.99).map(round3),
    })
}

fn cold(k: &Knowledge, name: &str) -> Option<f64> {
    let first = k.first_exchanges_of(name);
    let values: Vec<f64> = first.iter().map(|x| x.latency().as_ms()).collect();
    (!values.is_empty()).then(|| round3(stats::mean(&values)))
}

/// Rows that sum, at three decimals, to the ledger's latency: each is rounded down and those with
/// the largest remainders are rounded up.
pub fn rows(wall: &WallLedger) -> Vec<LedgerRow> {
    let micros: Vec<f64> = wall.entries.iter().map(|e| e.ns / 1e3).collect();
    let mut whole: Vec<f64> = micros.iter().map(|m| m.floor()).collect();
    let missing = ((wall.latency_ns / 1e3).round() - whole.iter().sum::<f64>()).max(0.0) as usize;
    let mut order: Vec<usize> = (0..whole.len()).collect();
    order.sort_by(|a, b| {
        let rest = |n: usize| micros[n] - micros[n].floor();
        rest(*b).total_cmp(&rest(*a)).then(a.cmp(b))
    });
    order.iter().take(missing).for_each(|n| whole[*n] += 1.0);
    let entries = wall.entries.iter().zip(&whole);
    // Nothing measured, nothing called: no row. `unattributed` always has one.
    let shown = entries
        .filter(|(e, micros)| **micros > 0.0 || e.calls > 0.0 || e.line == Line::Unattributed);
    let mut rows: Vec<LedgerRow> = shown.map(|(e, m)| row(e, m / 1e3, wall.latency_ns)).collect();
    if !rows.is_empty() && !rows.iter().any(|r| r.line == Line::Unattributed.word()) {
        rows.push(nothing_left());
    }
    rows
}

fn row(e: &WallEntry, ms: f64, latency_ns: f64) -> LedgerRow {
    LedgerRow {
        line: e.line.word().into(),
        detail: e.detail.clone(),
        ms,
        low: round3(e.low_ns / 1e6),
        high: round3(e.high_ns / 1e6),
        share: if latency_ns > 0.0 { round4(e.ns / latency_ns) } else { 0.0 },
        calls: round3(e.calls),
        rows: round3(e.rows),
        elapsed_ms: round3(e.elapsed_ns / 1e6),
        chain_ms: round3(e.chain_ns / 1e6),
        method: e.method.clone(),
    }
}

fn nothing_left() -> LedgerRow {
    LedgerRow {
        line: Line::Unattributed.word().into(),
        detail: String::new(),
        ms: 0.0,
        low: 0.0,
        high: 0.0,
        share: 0.0,
        calls: 0.0,
        rows: 0.0,
        elapsed_ms: 0.0,
        chain_ms: 0.0,
        method: "remainder".into(),
    }
}

fn curve(k: &Knowledge, name: &str) -> Vec<CurvePoint> {
    let mut out = vec![];
    for arm in k.arms_of(name) {
        let Arm::Concurrent { in_flight } = arm else { continue };
        let attempts: Vec<&Exchange> = k.attempts_of(name, &arm).collect();
        let good: Vec<&&Exchange> = attempts.iter().filter(|x| x.failure.is_none()).collect();
        let values: Vec<f64> = good.iter().map(|x| x.latency().as_ms()).collect();
        let Some(p50) = stats::median(&values) else { continue };
        let mut spans: BTreeMap<u32, (Nanos, Nanos)> = BTreeMap::new();
        for x in &attempts {
            let s = spans.entry(x.window).or_insert((x.phases.start, x.phases.end));
            *s = (s.0.min(x.phases.start), s.1.max(x.phases.end));
        }
        let busy: f64 = spans.values().map(|s| (s.1 - s.0).as_ms()).sum();
        if busy <= 0.0 {
            continue;
        }
        let generator: f64 = attempts.iter().map(|x| x.generator.as_ms()).sum();
        out.push(CurvePoint {
            concurrency: in_flight,
            rps: round3(good.len() as f64 / busy * 1e3),
            p50: round3(p50),
            p95: stats::quantile_bounded(&values, 0.95).map(round3),
            errors: (attempts.len() - good.len()) as u64,
            generator_limited: generator >= GENERATOR_LIMIT * busy,
        });
    }
    out
}

/// What to watch so that this does not come back unnoticed.
fn monitoring(endpoints: &[EndpointReport]) -> Vec<Monitoring> {
    let mut out = vec![];
    for e in endpoints {
        let Some(l) = e.latency_ms else { continue };
        // Twice today's median, or half again of today's p95 when it is known.
        let limit = l.p95.map_or(2.0 * l.p50, |p95| 1.5 * p95);
        out.push(Monitoring {
            metric: format!("p95 latency of {}", e.name),
            alert: format!("above {} for 10 min", headline::duration(limit * 1e6)),
        });
        let statements = e.demand.iter().find(|d| d.resource == "statements");
        if let Some(d) = statements.filter(|d| d.per_request >= 1.0) {
            out.push(Monitoring {
                metric: format!("SQL statements per request of {}", e.name),
                alert: format!("above {} for 10 min", (1.5 * d.per_request).ceil()),
            });
        }
    }
    out
}

/// Three decimals, and no negative zero.
fn round3(v: f64) -> f64 {
    (v * 1e3).round() / 1e3 + 0.0
}

fn round4(v: f64) -> f64 {
    (v * 1e4).round() / 1e4 + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::StackProfile;

    fn check(found: Level, line: Option<u32>, kind: FrameKind, want: &str) {
        let mut k = Knowledge::default();
        k.target.level = found;
        let (function, file) = ("render".to_string(), Some("app.js".to_string()));
        let frames = vec![Frame { function, file, line, kind }];
        k.profiles = vec![StackProfile { frames, ..StackProfile::default() }];
        assert_eq!(target(&k).level, want);
    }

    #[test]
    fn lines_named_by_stacks_are_level_four() {
        check(Level::L3, Some(7), FrameKind::User, "L4");
        check(Level::L3, None, FrameKind::User, "L3");
        check(Level::L3, Some(7), FrameKind::Library, "L3");
        check(Level::L2, Some(7), FrameKind::User, "L2");
    }

    #[test]
    fn an_inspector_that_was_agreed_to_and_not_needed_is_no_loss() {
        let hint = "perfwright investigate --attach URL";
        let mut k = Knowledge::default();
        k.coverage = vec![Coverage::unavailable("node-inspector", "consent only", hint)];
        assert_eq!(coverage(&k).len(), 1);
        k.run.command = vec!["perfwright".into(), "--attach".into()];
        assert!(coverage(&k).is_empty());
    }
}
