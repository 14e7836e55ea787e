//! `disk-sync-writes`: the request waits for the disk to confirm.
//!
//! **Symptom.** Waits in `fsync`, `fdatasync` or `msync` hold a good part of the request.
//! **Cause.** Each record is flushed by itself: an audit log, a queue on disk, SQLite with
//! `synchronous=FULL` and one transaction a statement.
//! **Confirmed by** traced system calls: the thread slept in the flush.
//! **Refuted by** few flushes that cost little, or waits with another reason.
//! **Fix.** One flush per request, or one for many requests (group commit), or after the answer.
//! **Verify.** `perfwright investigate`: the `disk` line shrinks.

use crate::case::Case;
use crate::idioms::{self, Remedy};
use crate::retime;
use crate::rules::{Draft, refuted, undecided};
use crate::waits::{self, Wait};
use crate::wording::{count, part, percent, time};
use evidence::{Effort, Experiment, FixKind, Judgement, Line, Protocol, Severity};
use std::collections::BTreeMap;

/// Rule id.
pub const ID: &str = "disk-sync-writes";

/// Cost below which nothing is said, milliseconds: one flush takes 0.1 ms on NVMe, 10 on a disk.
const COST_MS: f64 = 1.0;
/// Share of latency below which nothing is said.
const SHARE: f64 = 0.1;

/// Naming the reasons of waits, once unexplained waits matter.
pub fn needs(case: &Case) -> Vec<Experiment> {
    waits::needs(case).into_iter().collect()
}

/// See the module.
pub fn judge(case: &Case) -> Judgement {
    if case.requests.is_empty() {
        return Judgement::Silent;
    }
    let (mut edits, gross_ms, number) = match waits::of(case, Line::Disk) {
        Wait::Seen { edits, cost_ms, waits } => (edits, cost_ms, waits),
        Wait::Unexplained { ms } => {
            let missing = format!(
                "whether {} of unexplained waiting are flushes to disk",
                part(ms, case.mean_ms())
            );
            return undecided(case, ID, missing, waits::command(case));
        }
        Wait::None { ms } => {
            let why = format!("the disk holds {}", part(ms, case.mean_ms()));
            return refuted(case, ID, why, &["intervals"]);
        }
    };
    // One flush for all stays when there are several; a single one moves behind the answer.
    if number >= 1.5 {
        for e in &mut edits {
            e.replacement_ns += gross_ms * 1e6 / number;
        }
    }
    if gross_ms < COST_MS || gross_ms < SHARE * case.quiet_ms() {
        let why = format!("the disk holds {}", part(gross_ms, case.mean_ms()));
        return refuted(case, ID, why, &["intervals"]);
    }
    let claim = format!(
        "{} ({}) are spent waiting for the disk in {} flush{} per request, {} each",
        part(gross_ms, case.mean_ms()),
        percent(gross_ms / case.mean_ms().max(1e-9)),
        count(number.max(1.0)),
        if number >= 1.5 { "es" } else { "" },
        time(gross_ms / number.max(1.0))
    );
    let values = BTreeMap::from([("n", count(number.max(1.0)))]);
    let text = idioms::write(case, "", Protocol::Opaque, Remedy::OneSync, &values);
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
            risk: "records written since the last flush are lost when the machine fails".into(),
            verify: case.command(""),
        },
        at_most: Severity::Critical,
    }
    .finding_with(case, gross_ms, prediction)
}
