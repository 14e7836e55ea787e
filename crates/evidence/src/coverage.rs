//! Coverage: what could be observed, what could not, and what would change that.

use serde::{Deserialize, Serialize};

/// How much of a probe works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeState {
    /// Works.
    Ok,
    /// Works in part; the reason says what is lost.
    Partial,
    /// Does not work; the hint says what would raise it.
    Unavailable,
}

/// One probe's outcome, as printed by `doctor` and in the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Stable kebab name: `packet-capture`, `context-switches`, `wakeups`, `kernel-programs`,
    /// `syscalls`, `cpu-stacks`, `process-fds`, `thread-counters`, `python-stacks`,
    /// `node-inspector`, …
    pub probe: String,
    /// How much of it works.
    pub state: ProbeState,
    /// What is lost and why; empty when all is well.
    pub reason: String,
    /// The exact command or change that would raise it; empty when nothing would.
    pub hint: String,
}

impl Coverage {
    /// A probe that works.
    pub fn ok(probe: &str) -> Coverage {
        Coverage {
            probe: probe.into(),
            state: ProbeState::Ok,
            reason: String::new(),
            hint: String::new(),
        }
    }

    /// A probe that works in part.
    pub fn partial(probe: &str, reason: impl Into<String>, hint: impl Into<String>) -> Coverage {
        Coverage {
            probe: probe.into(),
            state: ProbeState::Partial,
            reason: reason.into(),
            hint: hint.into(),
        }
    }

    /// A probe that does not work.
    pub fn unavailable(
        probe: &str,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) -> Coverage {
        Coverage { state: ProbeState::Unavailable, ..Coverage::partial(probe, reason, hint) }
    }
}
