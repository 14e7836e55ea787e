//! The two ledgers. The wall ledger partitions the measured latency and sums to it exactly; the
//! demand ledger counts resources used per request and never sums to latency.

use serde::{Deserialize, Serialize};

/// A line of the wall ledger. The words are part of the JSON contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// Name resolution.
    Dns,
    /// TCP connect.
    Connect,
    /// TLS handshake.
    Tls,
    /// Request on its way to the service.
    Send,
    /// Answer on its way back.
    Receive,
    /// On the CPU in the service.
    Cpu,
    /// Garbage collection.
    Gc,
    /// Ready to run without a CPU.
    Runnable,
    /// Waiting for a lock or another thread.
    Lock,
    /// Waiting for the disk.
    Disk,
    /// A sleep or time-out.
    Timer,
    /// A database call outstanding.
    Database,
    /// A cache call outstanding.
    Cache,
    /// Another service's call outstanding.
    Downstream,
    /// Waiting for a connection of a pool.
    Pool,
    /// Accepted, not yet being worked on.
    Queueing,
    /// Our own delay.
    Generator,
    /// Nothing explains it. May not be relabelled away.
    Unattributed,
}

impl Line {
    /// The word of the JSON contract.
    pub fn word(self) -> &'static str {
        match self {
            Line::Dns => "dns",
            Line::Connect => "connect",
            Line::Tls => "tls",
            Line::Send => "send",
            Line::Receive => "receive",
            Line::Cpu => "cpu",
            Line::Gc => "gc",
            Line::Runnable => "runnable",
            Line::Lock => "lock",
            Line::Disk => "disk",
            Line::Timer => "timer",
            Line::Database => "database",
            Line::Cache => "cache",
            Line::Downstream => "downstream",
            Line::Pool => "pool",
            Line::Queueing => "queueing",
            Line::Generator => "generator",
            Line::Unattributed => "unattributed",
        }
    }
}

/// One entry of a wall ledger: the mean over the requests of a band.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WallEntry {
    /// Line.
    pub line: Line,
    /// Detail: statement text, peer, function, reason; empty for the line as a whole.
    pub detail: String,
    /// Time on the path, mean per request, nanoseconds as a real number so that entries add up.
    pub ns: f64,
    /// Lower bound of the 90 % interval, nanoseconds.
    pub low_ns: f64,
    /// Upper bound of the 90 % interval, nanoseconds.
    pub high_ns: f64,
    /// Calls per request (0 for lines that are no calls).
    pub calls: f64,
    /// Rows per request.
    pub rows: f64,
    /// Round trips per request.
    pub round_trips: f64,
    /// Sum of the calls' own durations per request, nanoseconds: differs from `ns` where calls
    /// overlap each other or the service's CPU.
    pub elapsed_ns: f64,
    /// First call's start to last call's end, mean per request, nanoseconds: what removing the
    /// chain can save.
    pub chain_ns: f64,
    /// How it was obtained: `packets`, `spans`, `context-switches`, `counters`, `client`, …
    pub method: String,
}

/// The wall ledger of one endpoint, arm and band.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WallLedger {
    /// Requests averaged.
    pub requests: u32,
    /// Requests they were chosen from by their latency.
    #[serde(default)]
    pub of: u32,
    /// Mean latency in nanoseconds; the entries sum to it.
    pub latency_ns: f64,
    /// Entries, largest first.
    pub entries: Vec<WallEntry>,
}

impl WallLedger {
    /// Total of a line over all its details, nanoseconds.
    pub fn line_ns(&self, line: Line) -> f64 {
        self.entries.iter().filter(|e| e.line == line).map(|e| e.ns).sum()
    }
}

/// One entry of the demand ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemandEntry {
    /// `cpu:service`, `cpu:database`, `statements`, `rows`, `bytes:database`, `disk-written`, …
    pub resource: String,
    /// Mean per request.
    pub per_request: f64,
    /// Unit: `ms`, `count`, `bytes`.
    pub unit: String,
}
