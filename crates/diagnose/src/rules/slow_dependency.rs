//! `slow-dependency`: the request waits for one call to another service.
//!
//! **Symptom.** One downstream call holds a large part of the request.
//! **Cause.** The other service is slow, far away, or asked for too much.
//! **Confirmed by** its interval on the wire, and by re-timing without it: what it holds up alone.
//! **Refuted by** other calls in parallel that take as long, or several in series
//! (`serial-calls`).
//! **Fix.** Investigate that service; meanwhile cache its answer, set a time limit, or ask later.
//! **Verify.** `perfwright investigate`: its line shrinks.

use crate::case::{CALL_EVIDENCE, Case, Request};
use crate::idioms::{self, Remedy};
use crate::retime::{self, Edit};
use crate::rules::{Draft, blind, refuted};
use crate::wording::{part, percent, quote, time};
use evidence::{Effort, Experiment, FixKind, Judgement, Line, Operation, Severity};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Rule id.
pub const ID: &str = "slow-dependency";

/// Time it must hold the request up, milliseconds: a call to a neighbour takes 1–10.
const SLOW_MS: f64 = 15.0;
/// Share of latency below which another cause matters more.
const SHARE: f64 = 0.2;
/// Share of the downstream calls that stand alone which one call must have to be "the one"; with
/// less it is one of several in series.
const DOMINANT: f64 = 0.7;
/// A call with others beside it must be this many times as long as the longest of them: else the
/// request would wait for those.
const BESIDE: f64 = 3.0;

/// Longest calls of a request that are looked at: the one that dominates is among the first.
const LOOKED_AT: usize = 4;

/// Per request the downstream call that holds it up most, of those no other rule has claimed.
fn worst(case: &Case) -> Vec<Option<usize>> {
    let taken = case.claimed();
    let of = |(at, request): (usize, &Request)| {
        let groups = case.groups.iter().enumerate();
        let mut calls: Vec<usize> = groups
            .filter(|(g, group)| group.kind == Line::Downstream && !taken.contains(g))
            .flat_map(|(_, group)| group.calls[at].iter().copied())
            .collect();
        calls.sort_by_key(|&c| (Reverse(request.calls[c].duration()), c));
        let alone = request.alone(0);
        calls.into_iter().take(LOOKED_AT).find(|&c| dominates(request, c, &alone))
    };
    case.requests.iter().enumerate().map(of).collect()
}

/// Whether the call outweighs those beside it, and those that stand alone like it.
fn dominates(request: &Request, call: usize, stand_alone: &[bool]) -> bool {
    let this = request.calls[call];
    let length = this.duration().0 as f64;
    let (mut beside, mut alone) = (0.0f64, 0.0);
    for (i, c) in request.calls.iter().enumerate() {
        if c.operation != Operation::Execute || i == call {
            continue;
        }
        if c.start < this.end && c.end > this.start {
            beside = beside.max(c.duration().0 as f64);
        } else if c.protocol == this.protocol && stand_alone[i] {
            alone += c.duration().0 as f64;
        }
    }
    length >= BESIDE * beside && length >= DOMINANT * (alone + length)
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
        return blind(case, ID, "the calls to other services: no traffic to peers could be seen");
    }
    let calls = worst(case);
    if calls.iter().flatten().count() * 2 < calls.len() {
        let why = format!(
            "calls to other services hold {}, none of them alone",
            part(case.line_ms(Line::Downstream), case.mean_ms())
        );
        return refuted(case, ID, why, CALL_EVIDENCE);
    }
    let edits: Vec<Edit> = calls
        .iter()
        .map(|c| Edit { calls: c.iter().copied().collect(), clients: true, ..Edit::default() })
        .collect();
    let cost_ms = retime::cost_ms(case, &edits);
    let one: f64 = case
        .requests
        .iter()
        .zip(&calls)
        .filter_map(|(r, c)| c.map(|c| r.calls[c].duration().as_ms()))
        .sum();
    let typical = case.requests.iter().zip(&calls).find_map(|(r, c)| c.map(|c| r.calls[c]));
    let Some(call) = typical else { return Judgement::Silent };
    if cost_ms < SLOW_MS || cost_ms < SHARE * case.quiet_ms() {
        let why = format!(
            "the longest downstream call, `{}` of {}, holds up {} alone",
            quote(&call.text),
            call.peer,
            part(cost_ms, case.mean_ms())
        );
        return refuted(case, ID, why, CALL_EVIDENCE);
    }
    let claim = format!(
        "{} ({}) are spent waiting for `{}` of {}, {} a call",
        part(cost_ms, case.mean_ms()),
        percent(cost_ms / case.mean_ms().max(1e-9)),
        quote(&call.text),
        call.peer,
        time(one / calls.iter().flatten().count().max(1) as f64)
    );
    let mut values = BTreeMap::new();
    values.insert("peer", call.peer.clone());
    values.insert("statement", call.text.clone());
    let text = idioms::write(case, &call.peer, call.protocol, Remedy::ShieldCall, &values);
    Draft {
        rule: ID,
        confidence: 0.93,
        claim,
        kinds: CALL_EVIDENCE.to_vec(),
        location: call.issued_at.clone(),
        fix: evidence::Fix {
            summary: text.summary,
            kind: FixKind::Code,
            patch: text.patch,
            effort: Effort::Hours,
            risk: "a cached answer may be stale; a time limit needs a fallback".into(),
            verify: case.command(""),
        },
        at_most: Severity::Critical,
    }
    .finding(case, &edits)
}
