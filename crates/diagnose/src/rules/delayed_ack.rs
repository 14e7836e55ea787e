//! `delayed-ack`: the rest of an answer waits for an acknowledgement that the client delays.
//!
//! **Symptom.** Some requests take 40 ms (Linux; up to 200 ms elsewhere) longer than others, all of
//! it between the answer's first and last packet, while the service does nothing.
//! **Cause.** The service writes its answer in pieces, often the head and then the body. Its system
//! holds back the second piece until the first is acknowledged (Nagle's algorithm, RFC 896), and
//! the client's system delays that acknowledgement (RFC 1122 §4.2.3.2).
//! **Confirmed by** an experiment: acknowledged at once, answers are no longer held back.
//! **Refuted by** the same experiment, or answers that are not held back at all.
//! **Fix.** Write head and body at once, or switch Nagle's algorithm off (`TCP_NODELAY`).
//! **Verify.** `perfwright investigate`: there is one kind of requests, and it is the fast one.

use crate::case::{Case, Extent, Request};
use crate::idioms::{self, Remedy};
use crate::retime::{self, Edit};
use crate::rules::{Draft, refuted, undecided};
use crate::timeline::Edges;
use crate::wording::{count, part, percent, time};
use evidence::{
    Arm, Consent, Effort, Exchange, Experiment, ExperimentKind, FixKind, Judgement, Line, Protocol,
    Risk, Severity,
};
use std::collections::BTreeMap;

/// Rule id.
pub const ID: &str = "delayed-ack";

/// An answer under way for at least this long may be held back, nanoseconds: the shortest delay of
/// an acknowledgement is 40 ms (Linux, `TCP_DELACK_MIN`), less what passed since the last one.
const HELD_NS: u64 = 20_000_000;
/// A larger answer is under way because it flows, bytes: there is always a piece to send.
const FLOWS: f64 = (1 << 20) as f64;
/// Share of latency below which nothing is said.
const SHARE: f64 = 0.10;
/// Answers that are still held back when acknowledged at once, as a share of those before: beyond
/// it the acknowledgement is not what they wait for.
const REMAINS: f64 = 0.5;
/// Seconds of the experiment beyond its requests' own time.
const EXPERIMENT_S: f64 = 0.5;

/// Acknowledging at once, once answers are under way for long.
pub fn needs(case: &Case) -> Vec<Experiment> {
    let held = Held::of(case);
    if !held.matters(case) || !speaks_h1(case) || case.did(&ExperimentKind::Acknowledge) {
        return Vec::new();
    }
    vec![Experiment {
        kind: ExperimentKind::Acknowledge,
        endpoint: case.endpoint.to_string(),
        purpose: format!("do answers wait {} for an acknowledgement?", time(held.ms_each(case))),
        cost_s: EXPERIMENT_S + 12.0 * case.mean_ms() / 1e3,
        information: held.share(case).min(1.0) * 0.9,
        risk: Risk::None,
        consent: Consent::None,
    }]
}

/// See the module.
pub fn judge(case: &Case) -> Judgement {
    if case.requests.is_empty() {
        return Judgement::Silent;
    }
    let held = Held::of(case);
    if !held.matters(case) {
        let longest = held.longest_ms;
        let why = format!("no answer is under way for long: {} at most", time(longest));
        return refuted(case, ID, why, &["server-edges"]);
    }
    let at_once: Vec<&Exchange> =
        case.knowledge.exchanges_of(case.endpoint, &Arm::Acknowledged).collect();
    if at_once.is_empty() {
        return undecided(case, ID, missing(case, &held), case.command("--budget 60s"));
    }
    let still_held = at_once.iter().filter(|x| under_way(x) >= HELD_NS).count();
    let still = still_held as f64 / at_once.len() as f64;
    if still > REMAINS * held.part(case) {
        let why = format!(
            "acknowledged at once, {} of the answers are under way for as long, {} otherwise",
            percent(still),
            percent(held.part(case))
        );
        return refuted(case, ID, why, &[]);
    }
    finding(case, &held, still_held, &at_once)
}

fn missing(case: &Case, held: &Held) -> String {
    let ms = part(held.cost_ms(case), case.mean_ms());
    let why = match speaks_h1(case) {
        true => "whether the rest waits for an acknowledgement was not tried",
        false => "acknowledging at once can only be tried over HTTP/1.1 and from Linux",
    };
    format!("{ms} pass after the first byte of answers while the service does nothing; {why}")
}

fn finding(case: &Case, held: &Held, still: usize, at_once: &[&Exchange]) -> Judgement {
    let tried = at_once.len();
    let cost_ms = held.cost_ms(case);
    let claim = format!(
        "{} of {} answers are held back for about {} after their first packet ({} of the mean \
         latency){}; of {tried} acknowledged at once {} are",
        held.number,
        case.requests.len(),
        time(held.ms_each(case)),
        percent(cost_ms / case.mean_ms().max(1e-9)),
        if case.has_intervals() { ", while the service does nothing" } else { "" },
        if still == 0 { "none".to_string() } else { count(still as f64) },
    );
    let text = idioms::write(case, "", Protocol::Http, Remedy::WholeAnswer, &BTreeMap::new());
    let after: Vec<f64> = at_once.iter().map(|x| x.latency().as_ms()).collect();
    let prediction = retime::observed(case, &after, ID);
    Draft {
        rule: ID,
        confidence: 0.95,
        claim,
        kinds: vec!["server-edges", "windows"],
        location: None,
        fix: evidence::Fix {
            summary: text.summary,
            kind: FixKind::Code,
            patch: text.patch,
            effort: Effort::Minutes,
            risk: "many small writes become many small packets: buffer them".into(),
            verify: case.command(""),
        },
        at_most: Severity::Critical,
    }
    .finding_with(case, cost_ms, prediction)
}

/// The answers that are under way for long.
struct Held {
    edits: Vec<Edit>,
    number: usize,
    longest_ms: f64,
}

impl Held {
    fn of(case: &Case) -> Held {
        let all: Vec<Vec<Extent>> = case.requests.iter().map(|r| idle(case, r)).collect();
        let lengths: Vec<u64> = all.iter().map(|s| retime::length(s)).collect();
        let edit = |(stretches, ns): (Vec<Extent>, &u64)| match *ns >= HELD_NS {
            true => Edit { stretches, ..Edit::default() },
            false => Edit::default(),
        };
        Held {
            number: lengths.iter().filter(|ns| **ns >= HELD_NS).count(),
            longest_ms: evidence::ms(lengths.iter().copied().max().unwrap_or(0)),
            edits: all.into_iter().zip(&lengths).map(edit).collect(),
        }
    }

    fn cost_ms(&self, case: &Case) -> f64 {
        retime::net_ms(case, &self.edits)
    }

    fn share(&self, case: &Case) -> f64 {
        self.cost_ms(case) / case.mean_ms().max(1e-9)
    }

    fn matters(&self, case: &Case) -> bool {
        let bytes = case.mean_of(|r| r.exchange.body_bytes as f64);
        self.number > 0 && bytes <= FLOWS && self.share(case) >= SHARE
    }

    /// Part of the answers that are held back.
    fn part(&self, case: &Case) -> f64 {
        self.number as f64 / case.requests.len().max(1) as f64
    }

    /// Mean over those held back, milliseconds.
    fn ms_each(&self, case: &Case) -> f64 {
        self.cost_ms(case) * case.requests.len() as f64 / self.number.max(1) as f64
    }
}

/// Stretches in which the answer is under way and the service neither computes nor calls anybody.
/// Threads of it may wait for whatever is next.
fn idle(case: &Case, request: &Request) -> Vec<Extent> {
    let answering = Edges::of(case.knowledge, request.exchange).answering.0;
    let waits = |l: Line| {
        matches!(l, Line::Receive | Line::Unattributed | Line::Timer | Line::Lock | Line::Pool)
    };
    let pieces = request.pieces.iter().filter(|p| p.end > answering && waits(p.line));
    retime::union(pieces.map(|p| (p.start.max(answering), p.end)).collect())
}

/// From first to last byte at the client, nanoseconds.
fn under_way(x: &Exchange) -> u64 {
    (x.phases.end - x.phases.first_byte).0
}

fn speaks_h1(case: &Case) -> bool {
    case.requests.iter().all(|r| r.exchange.http == "h1")
}
