//! The Run: everything recorded in one go.

use crate::{Experiment, Target, Workload};
use serde::{Deserialize, Serialize};

/// Version of the run folder's encoding. Readers accept this and every earlier one.
pub const SCHEMA_VERSION: u32 = 1;

/// Facts about the machine that was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Kernel release.
    pub kernel: String,
    /// Number of CPUs online.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Load average over one minute at the start, times 100.
    pub load_centi: u32,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Still recording, or killed.
    #[default]
    Open,
    /// Ended by itself.
    Finished,
    /// Ended by the user or by the circuit breaker; the reason is in `ended_because`.
    Stopped,
}

/// `run.json`: what was run against what, when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Encoding version.
    pub schema_version: u32,
    /// Version of the tool.
    pub tool_version: String,
    /// `<utc-time>-<target>-<short id>`, also the folder's name.
    pub id: String,
    /// Start, RFC 3339, UTC.
    pub started: String,
    /// Seconds from start to end; null while open.
    pub seconds: Option<f64>,
    /// State.
    pub state: RunState,
    /// Why it ended, when not by itself.
    pub ended_because: Option<String>,
    /// Seed of all random choices.
    pub seed: u64,
    /// Target.
    pub target: Target,
    /// Git commit of the target's source, when it is a checkout.
    pub commit: Option<String>,
    /// Git branch.
    pub branch: Option<String>,
    /// Whether the checkout had uncommitted changes.
    pub dirty: Option<bool>,
    /// Workload.
    pub workload: Workload,
    /// Objectives, as given (`p95<500ms`).
    pub objectives: Vec<String>,
    /// The command line that repeats this run, secrets as references; redacted when serialised.
    #[serde(serialize_with = "crate::secret::command")]
    pub command: Vec<String>,
    /// Host.
    pub host: HostFacts,
    /// Experiments that ran, in order, with their start as milliseconds since the run's start.
    pub experiments: Vec<(u64, Experiment)>,
}
