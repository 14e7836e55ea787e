//! The rules: each file is one hypothesis about where an endpoint's time goes, with what would
//! confirm or refute it, and its verdict. A plain table; the order is the order of judging, which
//! only matters where two findings save the same.

pub mod chatty_cache;
pub mod cpu_hot_path;
pub mod delayed_ack;
pub mod disk_sync_writes;
pub mod event_loop_blocked;
pub mod serial_calls;
pub mod slow_dependency;
pub mod sql_n_plus_one;
pub mod sql_repeated_statement;
pub mod sql_slow_statement;
pub mod timer_wait;

use crate::case::Case;
use crate::outside;
use crate::retime::{self, Edit};
use evidence::{
    Exoneration, Experiment, Finding, Fix, Judgement, Prediction, Severity, Undecided, Where,
};

/// One hypothesis.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Stable kebab name: the file, the JSON id, the fixture folder.
    pub id: &'static str,
    /// What would confirm or refute it, given what is known so far.
    pub needs: fn(&Case) -> Vec<Experiment>,
    /// What it says about the endpoint now.
    pub judge: fn(&Case) -> Judgement,
}

/// All rules.
pub const RULES: &[Rule] = &[
    Rule { id: sql_n_plus_one::ID, needs: sql_n_plus_one::needs, judge: sql_n_plus_one::judge },
    Rule {
        id: sql_repeated_statement::ID,
        needs: sql_repeated_statement::needs,
        judge: sql_repeated_statement::judge,
    },
    Rule { id: chatty_cache::ID, needs: chatty_cache::needs, judge: chatty_cache::judge },
    Rule { id: serial_calls::ID, needs: serial_calls::needs, judge: serial_calls::judge },
    Rule {
        id: sql_slow_statement::ID,
        needs: sql_slow_statement::needs,
        judge: sql_slow_statement::judge,
    },
    Rule { id: slow_dependency::ID, needs: slow_dependency::needs, judge: slow_dependency::judge },
    Rule {
        id: event_loop_blocked::ID,
        needs: event_loop_blocked::needs,
        judge: event_loop_blocked::judge,
    },
    Rule { id: cpu_hot_path::ID, needs: cpu_hot_path::needs, judge: cpu_hot_path::judge },
    Rule {
        id: disk_sync_writes::ID,
        needs: disk_sync_writes::needs,
        judge: disk_sync_writes::judge,
    },
    Rule { id: timer_wait::ID, needs: timer_wait::needs, judge: timer_wait::judge },
    Rule { id: delayed_ack::ID, needs: delayed_ack::needs, judge: delayed_ack::judge },
];

/// Below this a cause is a nit whatever its share: it is inside the noise of one request on an
/// ordinary machine, and nobody waits for it.
const NIT_MS: f64 = 1.0;
/// Below this share removing the cause changes nothing a user would notice.
const NIT_SHARE: f64 = 0.10;

/// Severity from the share of latency and the absolute cost: both must be large, so that neither
/// 80 % of a 2 ms request nor 30 ms of a 3 s one is called a main cause.
pub fn severity(share: f64, cost_ms: f64) -> Severity {
    if cost_ms < NIT_MS || share < NIT_SHARE {
        Severity::Info
    } else if share >= 0.6 && cost_ms >= 200.0 {
        Severity::Critical
    } else if share >= 0.3 && cost_ms >= 15.0 {
        Severity::High
    } else if share >= 0.2 && cost_ms >= 4.0 {
        Severity::Medium
    } else {
        Severity::Low
    }
}

/// What a rule has to say before it becomes a [`Finding`].
pub struct Draft {
    /// Rule.
    pub rule: &'static str,
    /// Confidence, 0 to 1.
    pub confidence: f64,
    /// One true sentence with its numbers.
    pub claim: String,
    /// Evidence kinds beside the exchanges.
    pub kinds: Vec<&'static str>,
    /// Where in the code.
    pub location: Option<Where>,
    /// Fix.
    pub fix: Fix,
    /// Highest severity this case deserves.
    pub at_most: Severity,
}

impl Draft {
    /// The finding when the fix removes `edits`, one for each judged request: cost and prediction
    /// are those of the re-timed requests.
    pub fn finding(self, case: &Case, edits: &[Edit]) -> Judgement {
        let cost_ms = retime::cost_ms(case, edits);
        let prediction = retime::predict(case, edits, self.rule);
        self.finding_with(case, cost_ms, prediction)
    }

    /// The finding with a cost (milliseconds a request) and prediction that were worked out
    /// otherwise; severity follows from the cost and its share.
    pub fn finding_with(
        self,
        case: &Case,
        cost_ms: f64,
        prediction: Option<Prediction>,
    ) -> Judgement {
        let mean = case.mean_ms();
        let share = if mean > 0.0 { cost_ms / mean } else { 0.0 };
        let of_quiet = cost_ms / case.quiet_ms().max(cost_ms).max(1e-9);
        Judgement::Finding(Box::new(Finding {
            id: String::new(),
            rule: self.rule.to_string(),
            severity: severity(of_quiet, cost_ms).min(self.at_most),
            confidence: self.confidence,
            endpoint: case.endpoint.to_string(),
            claim: self.claim,
            cost_ms,
            share,
            evidence: case.evidence(&self.kinds),
            location: self.location,
            fix: self.fix,
            prediction,
        }))
    }
}

/// Checked and innocent, with the number.
pub fn refuted(case: &Case, rule: &str, why: String, kinds: &[&str]) -> Judgement {
    Judgement::Refuted(Exoneration {
        rule: rule.to_string(),
        endpoint: case.endpoint.to_string(),
        why,
        evidence: case.evidence(kinds),
    })
}

/// Not decidable, with what is missing and the command that would decide it.
pub fn undecided(case: &Case, rule: &str, missing: String, command: String) -> Judgement {
    Judgement::Undecided(Undecided {
        rule: rule.to_string(),
        endpoint: case.endpoint.to_string(),
        missing,
        command,
    })
}

/// Own time of the service below which a database inside it has no room, milliseconds.
const EMBEDDED_MS: f64 = 4.0;

/// For rules about statements that found none: undecided where a database inside the process may
/// have executed them.
pub fn embedded(case: &Case, rule: &str) -> Option<Judgement> {
    let database = case.embedded_database()?;
    let ms = case.own_ms();
    if ms < EMBEDDED_MS || ms < NO_ROOM * case.mean_ms() {
        return None;
    }
    let missing = format!(
        "the statements to {database}: they never leave the process; {} are its CPU, disk and \
         unexplained time, in which they would be",
        crate::wording::part(ms, case.mean_ms())
    );
    Some(undecided(case, rule, missing, case.command("--otlp-port 4318")))
}

/// What is added when a database inside the process has no room.
pub fn no_room(case: &Case) -> String {
    case.embedded_database().map_or(String::new(), |database| {
        let ms = crate::wording::part(case.own_ms(), case.mean_ms());
        format!("; statements to {database}, which cannot be seen, have no room: {ms} are its own")
    })
}

/// Unexplained time below which calls that could not be seen have no room, as a share of latency.
pub const NO_ROOM: f64 = 0.1;

/// For rules about calls where none could be seen: refuted when everything is explained without
/// them, undecided otherwise.
pub fn blind(case: &Case, rule: &str, missing: &str) -> Judgement {
    let ms = case.unexplained_ms();
    if !outside::is_low(case) && ms < NO_ROOM * case.mean_ms() {
        let why = format!(
            "calls could not be seen, but have no room: {} are unexplained",
            crate::wording::part(ms, case.mean_ms())
        );
        return refuted(case, rule, why, &["intervals", "counters"]);
    }
    undecided(case, rule, missing.to_string(), case.look_closer())
}
