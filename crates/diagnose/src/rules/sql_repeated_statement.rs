//! `sql-repeated-statement`: the same statement with the same parameters, again and again.
//!
//! **Symptom.** Within one request a statement runs several times with equal text and parameters.
//! **Cause.** A helper that loads the same user, tenant or setting wherever it is needed.
//! **Confirmed by** equal text and equal parameter values (keyed hashes) within a request.
//! **Refuted by** parameters that differ (that is `sql-n-plus-one`).
//! **Fix.** Load once per request and pass the answer on; for a cache across requests decide first
//! how stale it may be.
//! **Verify.** `perfwright investigate`: the statement occurs once.

use crate::case::{CALL_EVIDENCE, Case, Group};
use crate::idioms::{self, Remedy};
use crate::retime::{self, Edit};
use crate::rules::{Draft, blind, embedded, no_room, refuted, undecided};
use crate::statement;
use crate::wording::{count, part, quote, things};
use evidence::{Effort, Experiment, FixKind, Judgement, Line, Severity};
use std::collections::{BTreeMap, BTreeSet};

/// Rule id.
pub const ID: &str = "sql-repeated-statement";

/// Executions without need that make it a habit and not a re-check after a write.
const REPEATS: f64 = 2.0;
/// One execution without need is enough when it takes this long, milliseconds.
const DEAR_MS: f64 = 5.0;
/// Below this cost fewer than [`FEW`] repeats are a remark, milliseconds.
const REMARK_MS: f64 = 3.0;
/// See [`REMARK_MS`].
const FEW: f64 = 4.0;

/// Groups that repeat themselves and are not loops over rows. Called once, by the case.
pub fn find(case: &Case) -> Vec<usize> {
    let loops = case.loops();
    let holds = |g: &usize| {
        let group = &case.groups[*g];
        if group.kind != Line::Database || loops.contains(g) || statement::is_session(&group.text) {
            return false;
        }
        if !group.params_seen(&case.requests) {
            return false;
        }
        let repeats = group.count() - group.distinct_params(&case.requests);
        let dear = group.call_ns(&case.requests) / 1e6 >= DEAR_MS;
        repeats >= REPEATS || (repeats >= 1.0 && dear)
    };
    (0..case.groups.len()).filter(holds).collect()
}

/// Nothing beyond the solo requests.
pub fn needs(_: &Case) -> Vec<Experiment> {
    Vec::new()
}

/// See the module.
pub fn judge(case: &Case) -> Judgement {
    if case.requests.is_empty() {
        return Judgement::Silent;
    }
    let found = case.repeated().to_vec();
    let cost = |g: &usize| retime::cost_ms(case, &edits(case, &[*g]));
    let Some(&worst) = found.iter().max_by(|a, b| cost(a).total_cmp(&cost(b))) else {
        return innocent(case);
    };
    let edits = edits(case, &found);
    let cost_ms = retime::cost_ms(case, &edits);
    let group = &case.groups[worst];
    let repeats = group.count() - group.distinct_params(&case.requests);
    Draft {
        rule: ID,
        confidence: 0.95,
        claim: claim(case, group, found.len(), cost_ms),
        kinds: CALL_EVIDENCE.to_vec(),
        location: group.issued_at(&case.requests),
        fix: fix(case, group),
        at_most: if repeats < FEW && cost_ms < REMARK_MS {
            Severity::Info
        } else {
            Severity::Critical
        },
    }
    .finding(case, &edits)
}

fn innocent(case: &Case) -> Judgement {
    let sql: Vec<&Group> = case.groups.iter().filter(|g| g.kind == Line::Database).collect();
    if !case.sees_calls() {
        return blind(case, ID, "the statements of a request and their parameters");
    }
    let unseen = sql.iter().find(|g| {
        g.count() >= 3.0
            && !g.params_seen(&case.requests)
            && !case.loops().iter().any(|&l| case.groups[l].text == g.text)
    });
    if let Some(g) = unseen {
        let missing = format!("the parameters of `{}`: they were not visible", quote(&g.text));
        return undecided(case, ID, missing, case.look_closer());
    }
    if let Some(open) = embedded(case, ID) {
        return open;
    }
    let total: f64 = sql.iter().map(|g| g.count()).sum();
    let why = format!("{} per request, none repeated in vain", things(total, "SQL statement"));
    refuted(case, ID, why + &no_room(case), CALL_EVIDENCE)
}

/// Per request: of each parameter set the first execution stays.
fn edits(case: &Case, found: &[usize]) -> Vec<Edit> {
    let edit = |(r, request): (usize, &crate::case::Request)| {
        let mut edit = Edit { gaps: true, ..Edit::default() };
        for &g in found {
            let mut seen = BTreeSet::new();
            let again = |c: &&usize| !seen.insert(&request.calls[**c].params);
            edit.calls.extend(case.groups[g].calls[r].iter().filter(again));
        }
        edit.calls.sort_unstable();
        edit
    };
    case.requests.iter().enumerate().map(edit).collect()
}

fn claim(case: &Case, group: &Group, statements: usize, cost_ms: f64) -> String {
    let distinct = group.distinct_params(&case.requests);
    let mut out = format!(
        "{} go into running `{}` {} times per request with {}",
        part(cost_ms, case.mean_ms()),
        quote(&group.text),
        count(group.count()),
        if distinct < 1.5 {
            "the same parameters".to_string()
        } else {
            format!("only {} different parameter sets", count(distinct))
        }
    );
    if statements > 1 {
        out += &format!("; {} statements repeat themselves in all", statements);
    }
    out
}

fn fix(case: &Case, group: &Group) -> evidence::Fix {
    let table = statement::read(&group.text).table;
    let key = statement::read(&group.text).filters.first().map(|f| f.column.clone());
    let mut values = BTreeMap::new();
    values.insert("statement", group.text.clone());
    values.insert("n", count(group.count()));
    values.insert("item", table.as_deref().map_or("value".into(), statement::singular));
    values.insert("class", table.as_deref().map_or("Model".into(), statement::class_name));
    values.insert("key", key.unwrap_or_else(|| "pk".into()));
    let text = idioms::write(case, &group.peer, group.protocol, Remedy::Once, &values);
    evidence::Fix {
        summary: text.summary,
        kind: FixKind::Code,
        patch: text.patch,
        effort: Effort::Minutes,
        risk: "a later part of the request no longer sees what an earlier part changed, unless it \
               reloads"
            .into(),
        verify: case.command(""),
    }
}
