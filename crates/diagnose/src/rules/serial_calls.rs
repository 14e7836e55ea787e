//! `serial-calls`: independent calls that wait for each other.
//!
//! **Symptom.** Two or more calls to peers of some milliseconds each, one strictly after another.
//! **Cause.** `await` after `await`, or a plain sequence, where no call needs the answer of the
//! one before.
//! **Confirmed by** their order in time, and by parameters that occur in no earlier answer.
//! **Refuted by** calls that overlap others already, calls fed by an earlier answer, statements of
//! one transaction, writes, and loops with a better remedy (`sql-n-plus-one`, `chatty-cache`).
//! **Fix.** Start them together and wait for the slowest.
//! **Verify.** `perfwright investigate`: the calls overlap in the waterfall.

use crate::case::{CALL_EVIDENCE, Case, Request};
use crate::idioms::{self, Remedy};
use crate::retime::{self, Edit};
use crate::rules::{Draft, blind, refuted};
use crate::statement::{self, Verb};
use crate::wording::{count, part, quote, time};
use evidence::{Effort, Experiment, FixKind, Judgement, Line, Operation, Severity, ValueHash};
use std::collections::{BTreeMap, BTreeSet};

/// Rule id.
pub const ID: &str = "serial-calls";

/// Statements shorter than this are not worth the trouble of running them together, nanoseconds:
/// each needs a connection of its own.
const STATEMENT_NS: u64 = 2_000_000;
/// The same for calls to other services, which code can fan out freely.
const CALL_NS: u64 = 500_000;
/// Saving below which nothing is said, milliseconds.
const SAVING_MS: f64 = 5.0;
/// Share of latency below which nothing is said.
const SAVING_SHARE: f64 = 0.15;
/// Work to issue one more call at the same time, nanoseconds.
const ISSUE_NS: f64 = 60_000.0;

/// A request's calls that could overlap: in order, each after the one before.
fn series(case: &Case, request: &Request, at: usize, taken: &BTreeSet<usize>) -> Vec<usize> {
    let mut eligible: Vec<usize> = Vec::new();
    for (g, group) in case.groups.iter().enumerate() {
        if taken.contains(&g) || group.kind == Line::Cache {
            continue;
        }
        let shape = statement::read(&group.text);
        let safe = match group.kind {
            Line::Database => shape.verb == Verb::Select,
            _ => !["POST ", "PUT ", "PATCH ", "DELETE "].iter().any(|m| group.text.starts_with(m)),
        };
        if safe && !statement::is_session(&group.text) {
            let worth = if group.kind == Line::Database { STATEMENT_NS } else { CALL_NS };
            let long = |c: &&usize| request.calls[**c].duration().0 >= worth;
            eligible.extend(group.calls[at].iter().filter(long));
        }
    }
    // Who already runs calls together knows how to: what follows such a group most likely needs
    // its answers.
    let (alone, ordered) = (request.alone(CALL_NS), in_transaction(request));
    eligible.retain(|&c| alone[c] && !ordered[c]);
    eligible.sort_unstable_by_key(|&c| request.calls[c].start);
    let mut chain: Vec<usize> = Vec::new();
    let mut given: BTreeSet<ValueHash> = BTreeSet::new();
    for c in eligible {
        let call = request.calls[c];
        // A parameter that an answer of the chain gave makes the call depend on it.
        if !call.params.iter().any(|p| given.contains(p)) {
            given.extend(call.columns.iter().flat_map(|column| &column.values));
            chain.push(c);
        }
    }
    chain
}

/// Calls made while a transaction was open on their connection, by index: they must stay in order.
fn in_transaction(request: &Request) -> Vec<bool> {
    let mut open: BTreeSet<u32> = BTreeSet::new();
    let state = |c: &&evidence::Call| {
        let word = c.text.split_whitespace().next().unwrap_or_default();
        let is = |words: [&str; 2]| words.iter().any(|w| word.eq_ignore_ascii_case(w));
        let inside = open.contains(&c.connection);
        if c.operation != Operation::Prepare && is(["begin", "start"]) {
            open.insert(c.connection);
        } else if is(["commit", "rollback"]) {
            open.remove(&c.connection);
        }
        inside
    };
    request.calls.iter().map(state).collect()
}

fn edits(case: &Case) -> (Vec<Edit>, Vec<Vec<usize>>) {
    let taken = case.claimed();
    let chains: Vec<Vec<usize>> = case
        .requests
        .iter()
        .enumerate()
        .map(|(at, request)| series(case, request, at, &taken))
        .collect();
    let edit = |(request, chain): (&Request, &Vec<usize>)| {
        let longest = chain.iter().copied().max_by_key(|&c| (request.calls[c].duration(), c));
        let calls: Vec<usize> = chain.iter().copied().filter(|c| Some(*c) != longest).collect();
        let replacement_ns = ISSUE_NS * calls.len() as f64;
        Edit { calls, replacement_ns, clients: true, ..Edit::default() }
    };
    (case.requests.iter().zip(&chains).map(edit).collect(), chains)
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
    if !case.sees_calls() {
        return blind(case, ID, "the calls to other services and the database, and their order");
    }
    let (edits, chains) = edits(case);
    let lengths: Vec<f64> = chains.iter().map(|c| c.len() as f64).collect();
    let n = stats::median(&lengths).unwrap_or(0.0);
    let cost_ms = retime::cost_ms(case, &edits);
    if n < 2.0 || cost_ms < SAVING_MS || cost_ms < SAVING_SHARE * case.quiet_ms() {
        let why = if n < 2.0 {
            "no two calls of 2 ms or more wait for each other without need".to_string()
        } else {
            format!("{} calls in a row, but overlapping them saves {}", count(n), time(cost_ms))
        };
        return refuted(case, ID, why, CALL_EVIDENCE);
    }
    let Some((request, chain)) =
        case.requests.iter().zip(&chains).find(|(_, c)| c.len() as f64 >= n)
    else {
        return Judgement::Silent;
    };
    let (texts, seen_flow) = describe(request, chain);
    let claim = format!(
        "{} calls that do not need each other run one after another ({}); together they would \
         take as long as the slowest, {}: that saves {}",
        count(n),
        texts,
        time(longest_ms(case, &chains)),
        part(cost_ms, case.mean_ms())
    );
    let first = request.calls[chain[0]];
    let mut values = BTreeMap::new();
    values.insert("n", count(n));
    values.insert("statement", texts);
    let text = idioms::write(case, &first.peer, first.protocol, Remedy::Parallel, &values);
    Draft {
        rule: ID,
        confidence: if seen_flow { 0.9 } else { 0.8 },
        claim,
        kinds: CALL_EVIDENCE.to_vec(),
        location: first.issued_at.clone(),
        fix: evidence::Fix {
            summary: text.summary,
            kind: FixKind::Code,
            patch: text.patch,
            effort: Effort::Minutes,
            risk: "more calls at once need more connections; calls with side effects keep their \
                   order"
                .into(),
            verify: case.command(""),
        },
        at_most: Severity::Critical,
    }
    .finding(case, &edits)
}

fn longest_ms(case: &Case, chains: &[Vec<usize>]) -> f64 {
    let longest = |(r, chain): (&Request, &Vec<usize>)| {
        chain.iter().map(|&c| r.calls[c].duration().as_ms()).fold(0.0, f64::max)
    };
    stats::mean(&case.requests.iter().zip(chains).map(longest).collect::<Vec<_>>())
}

/// The distinct texts of a chain, shortened, and whether its parameters were visible.
fn describe(request: &Request, chain: &[usize]) -> (String, bool) {
    let mut texts: Vec<String> = Vec::new();
    for &c in chain {
        let call = request.calls[c];
        let text = format!("`{}` of {}", quote(&call.text), call.peer);
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let more = texts.len().saturating_sub(3);
    texts.truncate(3);
    let mut out = texts.join(", ");
    if more > 0 {
        out += &format!(" and {more} more");
    }
    (out, chain.iter().any(|&c| !request.calls[c].params.is_empty()))
}
