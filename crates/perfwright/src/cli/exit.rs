//! Exit codes, mapped in one place.

use std::process::ExitCode;

/// How a command ends. The numbers are part of the contract (`perfwright --help`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// 0: fine.
    Success,
    /// 1: a finding at or above `--fail-on`, or an objective is missed.
    Finding,
    /// 2: usage or tool error.
    Error,
    /// 3: the target failed.
    Target,
    /// 4: inconclusive: stopped before there was an answer, or an objective cannot be told.
    Inconclusive,
    /// 130: ended by Ctrl-C or SIGTERM; what was recorded is kept and shown.
    Interrupted,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> ExitCode {
        ExitCode::from(match status {
            ExitStatus::Success => 0,
            ExitStatus::Finding => 1,
            ExitStatus::Error => 2,
            ExitStatus::Target => 3,
            ExitStatus::Inconclusive => 4,
            ExitStatus::Interrupted => 130,
        })
    }
}
