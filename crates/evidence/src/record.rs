//! Evidence: one typed observation with id, source, window, sample count and known error.

use crate::{
    Call, Coverage, Exchange, Nanos, ProcessCounters, ServerEdge, Span, StackProfile, Target,
    ThreadInfo, ThreadInterval, Window,
};
use serde::{Deserialize, Serialize};

/// `E1`, `E2`, … in the order recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EvidenceId(pub String);

/// What a source is known to have lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossCount {
    /// `packets-dropped`, `stream-gaps`, `first-connections`, `perf-lost`, `spans-dropped`.
    pub what: String,
    /// How many.
    pub count: u64,
    /// Windows touched by the loss; they are left out of ledgers.
    pub windows: Vec<u32>,
}

/// The observation itself. One variant a kind; the tag is the file name's kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "data")]
pub enum EvidenceBody {
    /// What was found behind the URL.
    Target(Box<Target>),
    /// What can be observed.
    Coverage(Vec<Coverage>),
    /// Windows.
    Windows(Vec<Window>),
    /// Client side.
    Exchanges(Vec<Exchange>),
    /// Packets at the service's own port.
    ServerEdges(Vec<ServerEdge>),
    /// Calls to peers.
    Calls(Vec<Call>),
    /// Threads known.
    Threads(Vec<ThreadInfo>),
    /// Scheduler intervals of those threads.
    Intervals(Vec<ThreadInterval>),
    /// Resource counters per window.
    Counters(Vec<ProcessCounters>),
    /// Stack samples.
    Profile(Box<StackProfile>),
    /// Exported spans.
    Spans(Vec<Span>),
    /// Losses.
    Losses(Vec<LossCount>),
    /// Lines the launched service printed that name an error or warning, redacted.
    Log(Vec<String>),
}

impl EvidenceBody {
    /// The kind's word, as in file names.
    pub fn kind(&self) -> &'static str {
        match self {
            EvidenceBody::Target(_) => "target",
            EvidenceBody::Coverage(_) => "coverage",
            EvidenceBody::Windows(_) => "windows",
            EvidenceBody::Exchanges(_) => "exchanges",
            EvidenceBody::ServerEdges(_) => "server-edges",
            EvidenceBody::Calls(_) => "calls",
            EvidenceBody::Threads(_) => "threads",
            EvidenceBody::Intervals(_) => "intervals",
            EvidenceBody::Counters(_) => "counters",
            EvidenceBody::Profile(_) => "profile",
            EvidenceBody::Spans(_) => "spans",
            EvidenceBody::Losses(_) => "losses",
            EvidenceBody::Log(_) => "log",
        }
    }

    /// Number of samples it holds.
    pub fn samples(&self) -> u64 {
        (match self {
            EvidenceBody::Target(_) => 1,
            EvidenceBody::Coverage(v) => v.len(),
            EvidenceBody::Windows(v) => v.len(),
            EvidenceBody::Exchanges(v) => v.len(),
            EvidenceBody::ServerEdges(v) => v.len(),
            EvidenceBody::Calls(v) => v.len(),
            EvidenceBody::Threads(v) => v.len(),
            EvidenceBody::Intervals(v) => v.len(),
            EvidenceBody::Counters(v) => v.len(),
            EvidenceBody::Profile(p) => p.samples.len(),
            EvidenceBody::Spans(v) => v.len(),
            EvidenceBody::Losses(v) => v.len(),
            EvidenceBody::Log(v) => v.len(),
        }) as u64
    }
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Encoding version of this piece.
    pub schema_version: u32,
    /// Id.
    pub id: EvidenceId,
    /// Which sense and host: `load`, `observe@host`.
    pub source: String,
    /// First and last instant it speaks of.
    pub window: (Nanos, Nanos),
    /// Sample count.
    pub samples: u64,
    /// Known error of its timestamps: clock offset bound and resolution.
    pub clock_error: Nanos,
    /// The observation.
    pub body: EvidenceBody,
}
