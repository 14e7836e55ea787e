//! The loop's reasoning: what all live hypotheses need, and what they say now.

use crate::case::Case;
use crate::rules::{RULES, Rule};
use crate::{Knowledge, outside};
use evidence::{
    Consent, Exoneration, Experiment, ExperimentKind, Finding, Judgement, Risk, Severity, Undecided,
};
use std::cmp::Ordering;

/// Seconds a first look may take at most: the first true sentence is due within ten.
const FIRST_LOOK_S: f64 = 5.0;

/// What is concluded from all evidence so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conclusions {
    /// Findings with ids `F1`, `F2`, …, those that save most first.
    pub findings: Vec<Finding>,
    /// Hypotheses that were checked and are innocent, by endpoint and rule.
    pub exonerated: Vec<Exoneration>,
    /// Hypotheses that could not be decided; at low levels the ranked ones, likeliest first.
    pub undecided: Vec<Undecided>,
}

/// What would confirm or refute the live hypotheses about an endpoint: each experiment once, most
/// information per second first, then least risk. Empty when nothing more is worth its cost.
pub fn experiments(k: &Knowledge, endpoint: &str) -> Vec<Experiment> {
    let case = Case::new(k, endpoint);
    let mut all = first_looks(&case);
    if !case.requests.is_empty() {
        all.extend(RULES.iter().flat_map(|r| (r.needs)(&case)));
        all.extend(outside::needs(&case));
    }
    let mut out: Vec<Experiment> = Vec::new();
    for e in all.into_iter().filter(|e| !case.did(&e.kind)) {
        match out.iter_mut().find(|o| o.kind == e.kind) {
            // Two hypotheses that one measurement serves: their doubts add up.
            Some(o) => o.information = (o.information + e.information).min(1.0),
            None => out.push(e),
        }
    }
    out.sort_by(by_worth);
    out
}

fn by_worth(a: &Experiment, b: &Experiment) -> Ordering {
    let worth = |e: &Experiment| e.information / e.cost_s.max(0.1);
    let rank = |e: &Experiment| (e.risk, e.consent);
    worth(b).total_cmp(&worth(a)).then_with(|| rank(a).cmp(&rank(b))).then(a.kind.cmp(&b.kind))
}

/// Is it up, and one request at a time: what everything else rests on.
fn first_looks(case: &Case) -> Vec<Experiment> {
    let look = |kind, purpose: &str, cost_s, information| Experiment {
        kind,
        endpoint: case.endpoint.to_string(),
        purpose: purpose.to_string(),
        cost_s,
        information,
        risk: Risk::None,
        consent: Consent::None,
    };
    if !case.requests.is_empty() {
        return Vec::new();
    }
    let probed = case.did(&ExperimentKind::Probe)
        || case.knowledge.exchanges.iter().any(|e| e.endpoint == case.endpoint);
    if !probed {
        return vec![look(ExperimentKind::Probe, "is it up, and what comes back?", 0.5, 1.0)];
    }
    vec![look(ExperimentKind::Solo, "where does the time of one request go?", FIRST_LOOK_S, 1.0)]
}

/// All judgements over all endpoints of the run, findings ranked by what they save.
pub fn judge_all(k: &Knowledge) -> Conclusions {
    let mut all = Conclusions::default();
    for endpoint in k.endpoints() {
        let case = Case::new(k, endpoint);
        if case.requests.is_empty() {
            continue;
        }
        let low = outside::is_low(&case);
        for rule in RULES {
            take(&mut all, rule, (rule.judge)(&case), low);
        }
        if low {
            all.undecided.extend(outside::ranked(&case));
        }
    }
    all.findings.sort_by(by_saving);
    for (n, f) in all.findings.iter_mut().enumerate() {
        f.id = format!("F{}", n + 1);
    }
    all
}

fn take(all: &mut Conclusions, rule: &Rule, judgement: Judgement, low: bool) {
    match judgement {
        Judgement::Finding(f) => {
            debug_assert!(!f.evidence.is_empty(), "{} has no evidence", rule.id);
            all.findings.push(*f);
        }
        Judgement::Refuted(e) => all.exonerated.push(e),
        // Where little can be seen every rule lacks the same; the ranked hypotheses say it once.
        Judgement::Undecided(u) if !low => all.undecided.push(u),
        Judgement::Undecided(_) | Judgement::Silent => {}
    }
}

/// Remarks after findings; then by what they cost; then as listed.
fn by_saving(a: &Finding, b: &Finding) -> Ordering {
    let remark = |f: &Finding| f.severity == Severity::Info;
    let place = |f: &Finding| RULES.iter().position(|r| r.id == f.rule);
    remark(a)
        .cmp(&remark(b))
        .then_with(|| b.cost_ms.total_cmp(&a.cost_ms))
        .then_with(|| place(a).cmp(&place(b)))
        .then_with(|| a.endpoint.cmp(&b.endpoint))
}
