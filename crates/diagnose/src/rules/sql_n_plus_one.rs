//! `sql-n-plus-one`: one statement per row of another.
//!
//! **Symptom.** A request runs one statement many times, each time with other parameters; the
//! number grows with the rows shown.
//! **Cause.** A loop over the rows of a first result loads something for each row, by hand or by a
//! lazy relation of an object mapper.
//! **Confirmed by** the parameters: at least 80 % of them occur in one column of an earlier result
//! of the same request (names parent, child and column); and by `page-slope`: the number of
//! executions grows by 0.8–1.2 per row when the page grows.
//! **Refuted by** few executions, equal parameters (that is `sql-repeated-statement`), lists of
//! parameters (a batch already), or a count that does not follow the rows.
//! **Fix.** One statement for all rows (`= ANY($1)`, `IN (…)`, a join, the mapper's eager loading).
//! **Verify.** Run `perfwright investigate` again: the statement occurs once per request.

use crate::case::{CALL_EVIDENCE, Case, Group, Request};
use crate::idioms::{self, Remedy};
use crate::retime::Edit;
use crate::rules::{Draft, blind, embedded, no_room, refuted, undecided};
use crate::statement::{self, Shape, Verb};
use crate::wording::{count, part, quote, things};
use evidence::{
    ColumnSketch, Consent, Effort, Experiment, ExperimentKind, FixKind, Judgement, Line, Protocol,
    Risk, Severity, ValueHash,
};
use std::collections::{BTreeMap, BTreeSet};

/// Rule id.
pub const ID: &str = "sql-n-plus-one";

/// Executions that make a loop: two are a coincidence, three are a pattern.
const LOOP: f64 = 3.0;
/// Executions needed when nothing proves where the parameters come from: with little more than a
/// count, be as strict as span-based detectors are.
const LOOP_UNPROVEN: f64 = 5.0;
/// Share of the request's statements that an unproven loop must have: a handler that happens to
/// use a statement a few times among many others is no loop.
const PREDOMINANT: f64 = 0.3;
/// Fewer distinct parameter sets than this share of the executions is mostly repetition.
const DISTINCT: f64 = 0.25;
/// A short loop that costs little is not worth more than a remark.
const SHORT_LOOP: f64 = 5.0;
/// Cost below which a short loop is a remark, milliseconds.
const SHORT_LOOP_MS: f64 = 5.0;
/// Share of child parameters that must come from one parent column.
const FLOW: f64 = 0.8;
/// Share of latency from which on calls of unknown content are worth a question.
const HIDDEN_SHARE: f64 = 0.1;
/// Values a column sketch holds at most.
const SKETCH: usize = 256;
/// Growth of the count per row that confirms, with room for rows that share a child.
const SLOPE: std::ops::RangeInclusive<f64> = 0.8..=1.2;
/// Time of one more row in a batched answer (index probe, transfer, decode) when it was not
/// measured: 2–10 µs with local PostgreSQL and MySQL.
const ROW_NS: f64 = 6_000.0;
/// Bounds for a measured time per row: beyond them it is not the rows that are measured.
const ROW_BOUNDS_NS: (f64, f64) = (1_000.0, 50_000.0);

/// The column an earlier answer gave the parameters in.
struct Flow {
    parent: usize,
    column: String,
    share: f64,
    param: usize,
}

/// Groups that are loops over rows, largest elapsed time first. Called once, by the case.
pub fn find(case: &Case) -> Vec<usize> {
    let sql: f64 = case.groups.iter().filter(|g| g.kind == Line::Database).map(Group::count).sum();
    let mut found: Vec<usize> = (0..case.groups.len()).filter(|&g| is_loop(case, g, sql)).collect();
    let elapsed = |g: &usize| case.groups[*g].elapsed_ms(&case.requests);
    found.sort_by(|a, b| elapsed(b).total_cmp(&elapsed(a)));
    found
}

fn is_loop(case: &Case, at: usize, statements: f64) -> bool {
    let g = &case.groups[at];
    let n = g.count();
    if g.kind != Line::Database || n < LOOP || statement::is_session(&g.text) {
        return false;
    }
    if statement::read(&g.text).takes_list {
        return false;
    }
    if g.params_seen(&case.requests) {
        let distinct = g.distinct_params(&case.requests);
        if distinct < LOOP || distinct < DISTINCT * n {
            return false;
        }
    }
    // Calls of which only the intervals are seen may be as many different statements.
    let unproven = !g.opaque && n >= LOOP_UNPROVEN && n >= PREDOMINANT * statements;
    unproven
        || flow(case, at).is_some()
        || slope(case, at, None).is_some_and(|s| SLOPE.contains(&s.0))
}

/// See the module.
pub fn needs(case: &Case) -> Vec<Experiment> {
    let Some(first) = case.loops().first().copied().or_else(|| hidden(case)) else {
        return Vec::new();
    };
    let group = &case.groups[first];
    let has_size = case
        .knowledge
        .run
        .workload
        .endpoints
        .iter()
        .any(|e| e.name == case.endpoint && e.size_parameter.is_some());
    if !has_size || case.sized.len() > 1 || case.did(&ExperimentKind::PageSlope) {
        return Vec::new();
    }
    let doubt = if flow(case, first).is_some() { 0.1 } else { 0.5 };
    let share = group.elapsed_ms(&case.requests) / case.mean_ms().max(1e-9);
    vec![Experiment {
        kind: ExperimentKind::PageSlope,
        endpoint: case.endpoint.to_string(),
        purpose: format!("does the number of `{}` grow with the page?", quote(&group.text)),
        cost_s: (case.mean_ms() * 12.0 / 1000.0).max(1.0),
        information: (share * doubt).min(1.0),
        risk: Risk::None,
        consent: Consent::None,
    }]
}

/// See the module.
pub fn judge(case: &Case) -> Judgement {
    let sql: Vec<&Group> = case.groups.iter().filter(|g| g.kind == Line::Database).collect();
    if case.requests.is_empty() {
        return Judgement::Silent;
    }
    let found = case.loops();
    let Some(&child) = found.first() else {
        return innocent(case, &sql);
    };
    let edits = edits(case, found);
    let cost_ms = crate::retime::cost_ms(case, &edits);
    let group = &case.groups[child];
    let shape = statement::read(&group.text);
    let flow = flow(case, child);
    let slope = slope(case, child, flow.as_ref());
    let seen = group.params_seen(&case.requests);
    let short = group.count() < SHORT_LOOP && cost_ms < SHORT_LOOP_MS;
    Draft {
        rule: ID,
        confidence: confidence(seen, flow.as_ref(), slope),
        claim: claim(case, found, cost_ms, flow.as_ref(), slope),
        kinds: CALL_EVIDENCE.to_vec(),
        location: group.issued_at(&case.requests),
        fix: fix(case, group, &shape, flow.as_ref()),
        at_most: if short { Severity::Info } else { Severity::Critical },
    }
    .finding(case, &edits)
}

/// A database peer with many calls of which only the intervals are seen.
fn hidden(case: &Case) -> Option<usize> {
    let fits = |g: &usize| {
        let group = &case.groups[*g];
        let weighs = group.elapsed_ms(&case.requests) >= HIDDEN_SHARE * case.quiet_ms();
        group.kind == Line::Database && group.opaque && group.count() >= LOOP_UNPROVEN && weighs
    };
    (0..case.groups.len()).find(fits)
}

fn innocent(case: &Case, sql: &[&Group]) -> Judgement {
    if sql.is_empty() && !case.sees_calls() {
        return blind(case, ID, "the statements of a request: no database traffic could be seen");
    }
    if let Some(g) = hidden(case) {
        let group = &case.groups[g];
        let missing = format!(
            "what {} to {} are: only their intervals are visible (`{}`), {} in all; one statement \
             repeated per row would grow with the page, and is seen in clear when the service is \
             started behind the proxy",
            things(group.count(), "round trip"),
            group.peer,
            group.text,
            part(group.elapsed_ms(&case.requests), case.mean_ms())
        );
        return undecided(case, ID, missing, case.command("-- COMMAND-THAT-STARTS-THE-SERVICE"));
    }
    if let Some(open) = embedded(case, ID) {
        return open;
    }
    let most = sql.iter().map(|g| g.count()).fold(0.0, f64::max);
    let total: f64 = sql.iter().map(|g| g.count()).sum();
    let why = format!(
        "{} per request, the most frequent runs {}, none in a loop over rows",
        things(total, "SQL statement"),
        things(most, "time")
    );
    let why = if total < 0.5 { "no SQL statement per request".into() } else { why };
    refuted(case, ID, why + &no_room(case), CALL_EVIDENCE)
}

/// One edit per request: every loop's calls become one batched call each.
fn edits(case: &Case, found: &[usize]) -> Vec<Edit> {
    let rows: Vec<f64> = found.iter().map(|&g| row_ns(case, g)).collect();
    let edit = |r: usize| {
        let mut edit = Edit { gaps: true, ..Edit::default() };
        for (&g, row_ns) in found.iter().zip(&rows) {
            let group = &case.groups[g];
            let n = group.calls[r].len();
            if n == 0 {
                continue;
            }
            edit.calls.extend(&group.calls[r]);
            let rows = group.rows_per_call(&case.requests).max(1.0);
            let more = (n as f64 * rows - rows).max(0.0);
            edit.replacement_ns += group.call_ns(&case.requests) + row_ns * more;
        }
        edit.calls.sort_unstable();
        edit
    };
    (0..case.requests.len()).map(edit).collect()
}

/// Time per row of a larger answer: from the parent statement where there is one, else [`ROW_NS`].
fn row_ns(case: &Case, child: usize) -> f64 {
    let Some(flow) = flow(case, child) else { return ROW_NS };
    let (parent, one) = (&case.groups[flow.parent], case.groups[child].call_ns(&case.requests));
    let rows = parent.rows_per_call(&case.requests);
    if rows < 10.0 || parent.call_ns(&case.requests) <= one {
        return ROW_NS;
    }
    ((parent.call_ns(&case.requests) - one) / rows).clamp(ROW_BOUNDS_NS.0, ROW_BOUNDS_NS.1)
}

/// The parameter whose values differ most.
fn varying_param(case: &Case, g: &Group) -> Option<usize> {
    let mut values: BTreeMap<usize, BTreeSet<ValueHash>> = BTreeMap::new();
    for c in g.members(&case.requests) {
        for (i, v) in c.params.iter().enumerate() {
            values.entry(i).or_default().insert(*v);
        }
    }
    // The first of those with most values: keys come before limits.
    values.into_iter().max_by_key(|(i, v)| (v.len(), std::cmp::Reverse(*i))).map(|(i, _)| i)
}

/// Which earlier answer the parameters come from. Keys of different tables often hold the same
/// small numbers, so of the columns that cover enough the one named like the key wins, then the
/// one with the fewest other values.
fn flow(case: &Case, child: usize) -> Option<Flow> {
    let group = &case.groups[child];
    let param = varying_param(case, group)?;
    let mut covered: BTreeMap<(usize, &str), (f64, usize)> = BTreeMap::new();
    let mut judged = 0usize;
    for (r, request) in case.requests.iter().enumerate() {
        let children = &group.calls[r];
        let Some(&first) = children.first() else { continue };
        judged += 1;
        let mut wanted: Vec<ValueHash> =
            children.iter().filter_map(|&c| request.calls[c].params.get(param).copied()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for (p, parent) in case.groups.iter().enumerate().filter(|(p, _)| *p != child) {
            let before = |c: &&usize| request.calls[**c].end <= request.calls[first].start;
            for &c in parent.calls[r].iter().filter(before).take(1) {
                for column in &request.calls[c].columns {
                    let entry = covered.entry((p, column.name.as_str())).or_default();
                    entry.0 += cover(&wanted, column);
                    entry.1 += column.values.len();
                }
            }
        }
    }
    let shape = statement::read(&group.text);
    let key = shape.filters.iter().find(|f| f.param == param).map(|f| f.column.clone());
    let table = |p: usize| statement::read(&case.groups[p].text).table.unwrap_or_default();
    let named = |p: usize, column: &str| {
        let key = key.as_deref().unwrap_or_default();
        let child_table = statement::singular(shape.table.as_deref().unwrap_or_default());
        let by_child = key == "id" && column == format!("{child_table}_id");
        let by_parent = column == "id" && key == format!("{}_id", statement::singular(&table(p)));
        by_child || by_parent || (column == key && key != "id")
    };
    covered
        .into_iter()
        .map(|((p, column), (sum, values))| (sum / judged.max(1) as f64, p, column, values))
        .filter(|(share, ..)| *share >= FLOW)
        .min_by_key(|(_, p, column, values)| (!named(*p, column), *values, *p))
        .map(|(share, parent, column, _)| Flow { parent, column: column.to_string(), share, param })
}

/// Share of the wanted values (sorted) that a column holds. A full sketch left values out, so it is
/// asked for no more than it can show.
fn cover(wanted: &[ValueHash], column: &ColumnSketch) -> f64 {
    let found = |v: &&ValueHash| wanted.binary_search(v).is_ok();
    let hits = column.values.iter().filter(found).count() as f64;
    let full = column.values.len() >= SKETCH;
    let most = if full { wanted.len().min(SKETCH) } else { wanted.len() };
    (hits / most.max(1) as f64).min(1.0)
}

/// Growth of the executions per row: by the parent's rows where they are known, else by the size
/// parameter. With the smallest and largest counts seen.
fn slope(case: &Case, child: usize, flow: Option<&Flow>) -> Option<(f64, f64, f64)> {
    let text = &case.groups[child].text;
    let executions =
        |r: &Request, text: &str| r.calls.iter().filter(|c| c.text == *text).count() as f64;
    let rows = |r: &Request| -> Option<f64> {
        let parent = &case.groups[flow?.parent].text;
        r.calls.iter().find(|c| c.text == *parent).and_then(|c| c.rows).map(|n| n as f64)
    };
    let (mut by_rows, mut by_size) = (Vec::new(), Vec::new());
    for (size, requests) in &case.sized {
        for r in requests {
            by_size.push((*size as f64, executions(r, text)));
            by_rows.extend(rows(r).map(|n| (n, executions(r, text))));
        }
    }
    let counts: Vec<f64> = by_size.iter().map(|p| p.1).collect();
    let (low, high) = (stats::quantile(&counts, 0.0)?, stats::quantile(&counts, 1.0)?);
    let slope = stats::slope(&by_rows).or_else(|| stats::slope(&by_size))?;
    Some((slope, low, high))
}

fn confidence(seen: bool, flow: Option<&Flow>, slope: Option<(f64, f64, f64)>) -> f64 {
    let grows = slope.map(|s| SLOPE.contains(&s.0));
    match (flow.is_some(), grows, seen) {
        (true, Some(true), _) => 0.99,
        (true, _, _) => 0.95,
        (false, Some(true), _) => 0.93,
        (false, Some(false), _) => 0.6,
        (false, None, true) => 0.8,
        (false, None, false) => 0.6,
    }
}

fn claim(
    case: &Case,
    found: &[usize],
    cost_ms: f64,
    flow: Option<&Flow>,
    slope: Option<(f64, f64, f64)>,
) -> String {
    let group = &case.groups[found[0]];
    let mut out = format!(
        "{} go into running `{}` {} times per request",
        part(cost_ms, case.mean_ms()),
        quote(&group.text),
        count(group.count()),
    );
    match flow {
        Some(f) => {
            let parent = &case.groups[f.parent];
            out += &format!(
                ", once for each `{}` of `{}` ({:.0} % of its parameters come from that column)",
                f.column,
                quote(&parent.text),
                f.share * 100.0
            );
        }
        None if group.params_seen(&case.requests) => {
            let distinct = count(group.distinct_params(&case.requests));
            out += &format!(", with {distinct} different parameter sets");
        }
        None => out += "; its parameters could not be seen",
    }
    if found.len() > 1 {
        let others: f64 = found[1..].iter().map(|&g| case.groups[g].count()).sum();
        let n = found.len() - 1;
        out += &format!(
            "; {n} more statement{} in such loops run {} times",
            if n == 1 { "" } else { "s" },
            count(others)
        );
    }
    if let Some((slope, low, high)) = slope {
        out += &format!(
            "; from {} to {} executions as the page grows, {slope:.2} per row",
            count(low),
            count(high)
        );
    }
    out
}

fn fix(case: &Case, group: &Group, shape: &Shape, flow: Option<&Flow>) -> evidence::Fix {
    let param = flow.map(|f| f.param).or_else(|| varying_param(case, group)).unwrap_or(0);
    let filter = shape.filters.iter().find(|f| f.param == param).or(shape.filters.first());
    let key = filter.map(|f| f.column.clone());
    let table = shape.table.clone();
    let batch = filter.and_then(|f| statement::batch(shape, f.param, group.protocol));
    let remedy = match shape.verb {
        Verb::Select if statement::is_aggregate(&group.text) => Remedy::Aggregate,
        Verb::Select => Remedy::BatchRead,
        _ => Remedy::BatchWrite,
    };
    let mut values = BTreeMap::new();
    values.insert("statement", group.text.clone());
    values.insert("n", count(group.count()));
    values.insert("class", table.as_deref().map_or("Child".into(), statement::class_name));
    values.insert("item", table.as_deref().map_or("row".into(), statement::singular));
    values.insert("table", table.unwrap_or_else(|| "the table".into()));
    values.insert("key", key.unwrap_or_else(|| "id".into()));
    values.insert("batch", batch.unwrap_or_else(|| in_words(&group.text, group.protocol)));
    let parent = flow.map(|f| statement::read(&case.groups[f.parent].text));
    let parent_table = parent.and_then(|p| p.table);
    values.insert(
        "parent_class",
        parent_table.as_deref().map_or("Parent".into(), statement::class_name),
    );
    values.insert("parent", parent_table.unwrap_or_else(|| "parents".into()));
    values.insert("parent_key", flow.map_or("id".into(), |f| f.column.clone()));
    let text = idioms::write(case, &group.peer, group.protocol, remedy, &values);
    evidence::Fix {
        summary: text.summary,
        kind: FixKind::Query,
        patch: text.patch,
        effort: Effort::Minutes,
        risk: "rows must be matched to their parent in code; very long lists want chunks of about \
               1,000"
            .into(),
        verify: case.command(""),
    }
}

fn in_words(text: &str, protocol: Protocol) -> String {
    let list = if protocol == Protocol::Postgres { "= ANY(list)" } else { "IN (list)" };
    format!("-- as below, the key compared with a list ({list})\n{text}")
}
