//! `sql-slow-statement`: one statement takes long on the server.
//!
//! **Symptom.** One statement, run once or twice, holds a large part of the request.
//! **Cause.** A scan without an index, a sort or join that spills, a lock, or simply much data.
//! **Confirmed by** the time between the statement's last byte sent and its answer, against the
//! fastest answers of the same server: what exceeds them is the server's own time.
//! **Refuted by** many short statements, or a long one that another call hides in parallel.
//! **Fix.** Read its plan; then an index, another statement, or less data.
//! **Verify.** `perfwright investigate`: the statement's line shrinks.

use crate::case::{CALL_EVIDENCE, Case, Group};
use crate::idioms::{self, Remedy};
use crate::retime::{self, Edit};
use crate::rules::{Draft, blind, embedded, no_room, refuted};
use crate::statement;
use crate::wording::{count, part, percent, quote, time};
use evidence::{Effort, Experiment, FixKind, Judgement, Line, ProcessRole, Severity};
use std::collections::BTreeMap;

/// Rule id.
pub const ID: &str = "sql-slow-statement";

/// Time on the path below which a statement is fast enough to leave alone, milliseconds: indexed
/// look-ups take 0.1–2 ms, so five is several times what is needed.
const SLOW_MS: f64 = 5.0;
/// Share of latency below which another cause matters more.
const SHARE: f64 = 0.15;
/// A fast answer of the same server when only slow ones were seen, nanoseconds.
const FAST_NS: f64 = 300_000.0;

/// The slowest statement on the path: group, its edits, its cost.
fn slowest(case: &Case) -> Option<(usize, Vec<Edit>, f64)> {
    let taken = case.claimed();
    let candidates = (0..case.groups.len()).filter(|g| {
        let group = &case.groups[*g];
        // Many calls that all look alike are not one statement.
        let single = !group.opaque || group.count() < 1.5;
        group.kind == Line::Database && group.count() >= 0.5 && single && !taken.contains(g)
    });
    candidates
        .map(|g| {
            let edits = edits(case, &case.groups[g]);
            let cost = retime::cost_ms(case, &edits);
            (g, edits, cost)
        })
        .max_by(|a, b| a.2.total_cmp(&b.2))
}

fn edits(case: &Case, group: &Group) -> Vec<Edit> {
    let fast = fast_ns(case, group);
    let edit = |calls: &Vec<usize>| Edit {
        calls: calls.clone(),
        replacement_ns: fast * calls.len() as f64,
        ..Edit::default()
    };
    group.calls.iter().map(edit).collect()
}

/// A fast answer of the same server: the fastest tenth of the other statements' answers.
fn fast_ns(case: &Case, group: &Group) -> f64 {
    let others = case.groups.iter().filter(|g| g.peer == group.peer && g.text != group.text);
    let durations: Vec<f64> =
        others.flat_map(|g| g.members(&case.requests)).map(|c| c.duration().0 as f64).collect();
    stats::quantile(&durations, 0.1).map_or(FAST_NS, |d| d.min(FAST_NS))
}

/// Nothing beyond the solo requests: the calls carry their own times.
pub fn needs(_: &Case) -> Vec<Experiment> {
    Vec::new()
}

/// See the module.
pub fn judge(case: &Case) -> Judgement {
    if case.requests.is_empty() {
        return Judgement::Silent;
    }
    let Some((at, edits, cost_ms)) = slowest(case) else {
        if let Some(open) = embedded(case, ID) {
            return open;
        }
        if case.sees_calls() {
            let total: f64 = case.line_ms(Line::Database);
            let why = format!(
                "no single statement stands out; all database calls hold {}",
                part(total, case.mean_ms())
            );
            return refuted(case, ID, why + &no_room(case), CALL_EVIDENCE);
        }
        return blind(
            case,
            ID,
            "the duration of each statement: no database traffic could be seen",
        );
    };
    let group = &case.groups[at];
    if cost_ms < SLOW_MS || cost_ms < SHARE * case.quiet_ms() {
        let why = format!(
            "the slowest statement, `{}`, holds {}",
            quote(&group.text),
            part(cost_ms, case.mean_ms())
        );
        return refuted(case, ID, why, CALL_EVIDENCE);
    }
    Draft {
        rule: ID,
        confidence: if group.text_known { 0.93 } else { 0.8 },
        claim: claim(case, group, cost_ms),
        kinds: [CALL_EVIDENCE, &["counters"]].concat(),
        location: group.issued_at(&case.requests),
        fix: fix(case, group),
        at_most: Severity::Critical,
    }
    .finding(case, &edits)
}

fn claim(case: &Case, group: &Group, cost_ms: f64) -> String {
    let times = match group.count() {
        n if n < 1.5 => String::new(),
        n => format!("{} × ", count(n)),
    };
    let rows = group.rows_per_call(&case.requests);
    let mut out = format!(
        "{} ({}) are one statement, `{}`: {times}{} a call for {} row{}",
        part(cost_ms, case.mean_ms()),
        percent(cost_ms / case.mean_ms().max(1e-9)),
        quote(&group.text),
        time(group.call_ns(&case.requests) / 1e6),
        count(rows),
        if (rows - 1.0).abs() < 0.05 { "" } else { "s" },
    );
    if let Some(cpu) = database_cpu_ms(case) {
        out += &format!("; the database used {} of CPU a request", time(cpu));
    }
    out
}

/// CPU of the database's processes per request, where it runs on the observed host.
fn database_cpu_ms(case: &Case) -> Option<f64> {
    let cpu: Vec<f64> = case
        .requests
        .iter()
        .filter_map(|r| case.knowledge.counters_of(r.exchange.window, ProcessRole::Database))
        .map(|c| c.cpu.as_ms())
        .collect();
    (cpu.len() == case.requests.len() && !cpu.is_empty()).then(|| stats::mean(&cpu))
}

fn fix(case: &Case, group: &Group) -> evidence::Fix {
    let shape = statement::read(&group.text);
    let mut values = BTreeMap::new();
    values.insert("statement", group.text.clone());
    values.insert("table", shape.table.unwrap_or_else(|| "the table".into()));
    let columns: Vec<String> = shape.filters.iter().map(|f| f.column.clone()).collect();
    values.insert("columns", columns.join(", "));
    let text = idioms::write(case, &group.peer, group.protocol, Remedy::Explain, &values);
    let mut patch = text.patch;
    if !columns.is_empty() {
        patch += &format!(
            "\n-- it compares {} of {}: an index on ({}) is the first thing to look for",
            columns.join(", "),
            values["table"],
            columns.join(", ")
        );
    }
    evidence::Fix {
        summary: text.summary,
        kind: FixKind::Query,
        patch,
        effort: Effort::Hours,
        risk: "an index costs writes and space; EXPLAIN ANALYZE runs the statement".into(),
        verify: case.command(""),
    }
}
