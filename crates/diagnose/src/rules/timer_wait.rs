//! `timer-wait`: the request sleeps.
//!
//! **Symptom.** Milliseconds in which nothing runs and nothing is outstanding, ended by a timer.
//! **Cause.** A sleep, a poll interval, a retry's back-off, a debounce, a rate limiter.
//! **Confirmed by** traced system calls: the wait ended by its time-out.
//! **Refuted by** off-CPU time with another reason, or too little of it.
//! **Fix.** Wait for the event itself. Where in the code it sleeps is not observed: stacks are of
//! code on the CPU, and traced system calls carry none. The fix names what to search for.
//! **Verify.** `perfwright investigate`: the `timer` line is gone.

use crate::case::Case;
use crate::idioms::{self, Remedy};
use crate::retime;
use crate::rules::{Draft, refuted, undecided};
use crate::waits::{self, Wait};
use crate::wording::{count, part, percent, time};
use evidence::{Effort, Experiment, FixKind, Judgement, Line, Protocol, Severity};
use std::collections::BTreeMap;

/// Rule id.
pub const ID: &str = "timer-wait";

/// Sleep below which nothing is said, milliseconds: timers of 1–2 ms are how runtimes yield.
const SLEEP_MS: f64 = 5.0;
/// Share of latency below which nothing is said.
const SHARE: f64 = 0.15;

/// Naming the reasons of waits, once unexplained waits matter.
pub fn needs(case: &Case) -> Vec<Experiment> {
    waits::needs(case).into_iter().collect()
}

/// See the module.
pub fn judge(case: &Case) -> Judgement {
    if case.requests.is_empty() {
        return Judgement::Silent;
    }
    let wait = match waits::of(case, Line::Timer) {
        Wait::Seen { edits, cost_ms, waits } => (edits, cost_ms, waits),
        Wait::Unexplained { ms } => {
            let missing = format!(
                "what {} are: nothing runs and no call is outstanding; a sleep would look like \
                 this, and so would a lock or a peer that was not seen",
                part(ms, case.mean_ms())
            );
            return undecided(case, ID, missing, waits::command(case));
        }
        Wait::None { ms } => {
            let why = format!("timers hold {}", part(ms, case.mean_ms()));
            return refuted(case, ID, why, &["intervals"]);
        }
    };
    let (edits, cost_ms, number) = wait;
    if cost_ms < SLEEP_MS || cost_ms < SHARE * case.quiet_ms() {
        let why = format!("timers hold {}", part(cost_ms, case.mean_ms()));
        return refuted(case, ID, why, &["intervals"]);
    }
    let each = if number >= 1.5 {
        format!("{} waits of about {}", count(number), time(cost_ms / number))
    } else {
        "one wait".into()
    };
    let claim = format!(
        "{} ({}) pass in {each} that only a timer ends: nothing runs and no call is outstanding; \
         where in the code is not observed",
        part(cost_ms, case.mean_ms()),
        percent(cost_ms / case.mean_ms().max(1e-9)),
    );
    let text = idioms::write(case, "", Protocol::Opaque, Remedy::NoSleep, &BTreeMap::new());
    let prediction = retime::predict(case, &edits, ID);
    Draft {
        rule: ID,
        confidence: 0.9,
        claim,
        kinds: vec!["intervals"],
        location: None,
        fix: evidence::Fix {
            summary: text.summary,
            kind: FixKind::Code,
            patch: text.patch,
            effort: Effort::Hours,
            risk: "a rate limiter or back-off may be there on purpose".into(),
            verify: case.command(""),
        },
        at_most: Severity::Critical,
    }
    .finding_with(case, cost_ms, prediction)
}
