//! `chatty-cache`: many cache commands one after another, each a round trip.
//!
//! **Symptom.** Five or more cache commands per request, each sent after the answer to the last.
//! **Cause.** A loop over keys with an awaited GET; a cache client without pipelining.
//! **Confirmed by** the number of round trips on the wire against the number of commands.
//! **Refuted by** pipelined commands (many commands, one round trip) or few of them.
//! **Fix.** MGET, or a pipeline: one round trip for all.
//! **Verify.** `perfwright investigate`: round trips per request fall to one.

use crate::case::{CALL_EVIDENCE, Case, Request};
use crate::idioms::{self, Remedy};
use crate::retime::{self, Edit};
use crate::rules::{Draft, blind, refuted};
use crate::wording::{count, part, quote, things};
use evidence::{Effort, Experiment, FixKind, Judgement, Line, Operation, Severity};
use std::collections::{BTreeMap, BTreeSet};

/// Rule id.
pub const ID: &str = "chatty-cache";

/// Round trips in a row that are worth joining.
const CHATTY: f64 = 5.0;
/// What one more command in a pipeline costs, client and server together, nanoseconds: 5–25 µs
/// with ioredis, redis-py and go-redis on a local server.
const PIPELINED_NS: f64 = 15_000.0;

/// Indices of a request's commands to one cache.
fn commands(request: &Request, peer: &str) -> Vec<usize> {
    let fits = |i: &usize| {
        let c = request.calls[*i];
        c.operation == Operation::Execute && c.peer == peer
    };
    (0..request.calls.len()).filter(fits).collect()
}

/// The cache that is asked most often one command after another.
fn chattiest(case: &Case) -> Option<String> {
    let peers: BTreeSet<&str> =
        case.groups.iter().filter(|g| g.kind == Line::Cache).map(|g| g.peer.as_str()).collect();
    let serial =
        |peer: &str| median(case.requests.iter().map(|r| trips(r, &commands(r, peer)).0 as f64));
    let counted = peers.into_iter().map(|p| (serial(p), p));
    counted.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, p)| p.to_string())
}

/// Round trips that began after the one before had ended, and all round trips.
fn trips(request: &Request, commands: &[usize]) -> (usize, usize) {
    let mut extents: BTreeMap<(u32, u64), (u64, u64)> = BTreeMap::new();
    for &c in commands {
        let call = request.calls[c];
        let e = extents.entry((call.connection, call.batch)).or_insert((u64::MAX, 0));
        *e = (e.0.min(call.start.0), e.1.max(call.end.0));
    }
    let mut all: Vec<(u64, u64)> = extents.into_values().collect();
    all.sort_unstable();
    let (mut serial, mut end) = (0, 0);
    for (from, to) in &all {
        if *from >= end {
            serial += 1;
        }
        end = end.max(*to);
    }
    (serial, all.len())
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
        return blind(case, ID, "the commands sent to a cache, if there is one");
    }
    let Some(peer) = chattiest(case) else {
        return refuted(case, ID, "no cache command per request".into(), CALL_EVIDENCE);
    };
    let per: Vec<Vec<usize>> = case.requests.iter().map(|r| commands(r, &peer)).collect();
    let n = median(per.iter().map(|c| c.len() as f64));
    let trips: Vec<(usize, usize)> =
        case.requests.iter().zip(&per).map(|(r, c)| trips(r, c)).collect();
    let serial = median(trips.iter().map(|t| t.0 as f64));
    if serial < CHATTY {
        let why = format!(
            "{} in {} per request, {} of them in a row",
            things(n, "cache command"),
            things(median(trips.iter().map(|t| t.1 as f64)), "round trip"),
            count(serial)
        );
        return refuted(case, ID, why, CALL_EVIDENCE);
    }
    let edits = edits(case, per);
    let cost_ms = retime::cost_ms(case, &edits);
    let main = case
        .groups
        .iter()
        .filter(|g| g.peer == peer)
        .max_by(|a, b| a.count().total_cmp(&b.count()));
    let Some(main) = main else { return Judgement::Silent };
    let claim = format!(
        "{} go into {} cache commands to {}, sent in {} round trips one after another; most are \
         `{}`",
        part(cost_ms, case.mean_ms()),
        count(n),
        main.peer,
        count(serial),
        quote(&main.text)
    );
    let mut values = BTreeMap::new();
    values.insert("n", count(n));
    values.insert("statement", main.text.clone());
    let text = idioms::write(case, &main.peer, main.protocol, Remedy::Pipeline, &values);
    Draft {
        rule: ID,
        confidence: 0.92,
        claim,
        kinds: CALL_EVIDENCE.to_vec(),
        location: main.issued_at(&case.requests),
        fix: evidence::Fix {
            summary: text.summary,
            kind: FixKind::Cache,
            patch: text.patch,
            effort: Effort::Minutes,
            risk: "only for commands whose keys do not depend on earlier answers".into(),
            verify: case.command(""),
        },
        at_most: Severity::Critical,
    }
    .finding(case, &edits)
}

fn edits(case: &Case, per: Vec<Vec<usize>>) -> Vec<Edit> {
    let edit = |(request, calls): (&Request, Vec<usize>)| {
        let durations: Vec<f64> =
            calls.iter().map(|&c| request.calls[c].duration().0 as f64).collect();
        let one = stats::median(&durations).unwrap_or(0.0);
        let more = PIPELINED_NS * calls.len().saturating_sub(1) as f64;
        Edit { gaps: true, replacement_ns: one + more, calls, ..Edit::default() }
    };
    case.requests.iter().zip(per).map(edit).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    stats::median(&values.collect::<Vec<_>>()).unwrap_or(0.0)
}
