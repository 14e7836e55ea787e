//! The report document: the stable JSON contract `perfwright/report/1` (design: additive changes
//! only). Fields without data are null, never invented.

use crate::{Arm, Coverage, DemandEntry, Exoneration, Finding, Operation, Undecided};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Value of `schema`.
pub const SCHEMA: &str = "perfwright/report/1";

/// The run's identity in a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportRun {
    /// Run id.
    pub id: String,
    /// Commit of the target.
    pub commit: Option<String>,
    /// Uncommitted changes.
    pub dirty: Option<bool>,
    /// Start, RFC 3339.
    pub started: String,
    /// `perfwright 0.1.0`.
    pub tool: String,
    /// Seed.
    pub seed: u64,
    /// Wall seconds the run took.
    pub seconds: Option<f64>,
    /// Why it stopped early, if it did.
    pub ended_because: Option<String>,
    /// Command that repeats it.
    pub command: String,
}

/// The target in a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportTarget {
    /// URL.
    pub url: String,
    /// Level reached.
    pub level: String,
    /// Services: `node 20.20.2 (pid 4711) on 127.0.0.1:3000`.
    pub services: Vec<String>,
    /// Peers.
    pub peers: Vec<String>,
    /// On the generator's own machine.
    pub co_located: bool,
}

/// Latency percentiles; a percentile that too few samples bound is null
/// (p95 needs ≥ 59 samples, p99 ≥ 299).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyMs {
    /// Mean.
    pub mean: f64,
    /// Mean of the typical requests, p25 to p75 (of the more frequent kind where there are two):
    /// what the ledger sums to.
    pub typical: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

/// The less frequent of two kinds of requests to one endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OtherKind {
    /// Successful requests of this kind, and of both.
    pub requests: u64,
    /// Of both kinds together.
    pub of: u64,
    /// Their mean latency.
    pub mean_ms: f64,
    /// Their wall ledger; sums to `mean_ms`.
    pub ledger: Vec<LedgerRow>,
}

/// One point of the concurrency curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Requests in flight.
    pub concurrency: u32,
    /// Completed per second.
    pub rps: f64,
    /// Median latency, milliseconds.
    pub p50: f64,
    /// 95th percentile, when bounded.
    pub p95: Option<f64>,
    /// Failed requests.
    pub errors: u64,
    /// Whether the generator itself was the limit.
    pub generator_limited: bool,
}

/// One row of the wall ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// Line word.
    pub line: String,
    /// Detail.
    pub detail: String,
    /// Milliseconds on the path.
    pub ms: f64,
    /// 90 % interval, lower.
    pub low: f64,
    /// 90 % interval, upper.
    pub high: f64,
    /// Share of latency.
    pub share: f64,
    /// Calls per request.
    pub calls: f64,
    /// Rows per request.
    pub rows: f64,
    /// Sum of the calls' own durations, milliseconds.
    pub elapsed_ms: f64,
    /// First to last call, milliseconds.
    pub chain_ms: f64,
    /// How it was obtained.
    pub method: String,
}

/// One bar of a waterfall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaterfallBar {
    /// Line word.
    pub line: String,
    /// Detail.
    pub detail: String,
    /// Milliseconds from the request's start.
    pub start_ms: f64,
    /// Duration in milliseconds.
    pub ms: f64,
    /// How many like bars in a row this one stands for.
    pub count: u32,
}

/// The waterfall of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaterfallReport {
    /// `typical` or `slow`.
    pub which: String,
    /// Latency of that request.
    pub ms: f64,
    /// Bars by start.
    pub bars: Vec<WaterfallBar>,
}

/// One call of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallReport {
    /// Milliseconds from the request's start.
    pub start_ms: f64,
    /// Duration in milliseconds.
    pub ms: f64,
    /// Line word.
    pub line: String,
    /// Peer name.
    pub peer: String,
    /// Kind of operation.
    pub operation: Operation,
    /// Fingerprint: the text with its literals redacted.
    pub text: String,
    /// Whether that is the real text (false: inferred, or not known at all).
    pub text_known: bool,
    /// Rows returned or affected.
    pub rows: Option<u64>,
    /// Error code.
    pub error: Option<String>,
}

/// One recorded request and the calls it made, as the ledgers count them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestReport {
    /// Endpoint name.
    pub endpoint: String,
    /// Arm of the experiment.
    pub arm: Arm,
    /// Window.
    pub window: u32,
    /// Start on the observed host's monotonic clock, nanoseconds.
    pub start_ns: u64,
    /// Latency in milliseconds.
    pub ms: f64,
    /// HTTP status.
    pub status: u16,
    /// Milliseconds on each line of the wall ledger; they sum to the latency.
    pub lines: BTreeMap<String, f64>,
    /// Calls by start.
    pub calls: Vec<CallReport>,
}

/// Whether an endpoint gives what is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It does.
    Met,
    /// It does not.
    Missed,
    /// Too little was measured to tell.
    Unknown,
}

/// An objective, judged by what was measured of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectiveReport {
    /// As given.
    pub objective: String,
    /// Whether it is met.
    pub verdict: Verdict,
    /// By what; where it cannot be told, why.
    pub why: String,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// Name.
    pub name: String,
    /// The first true sentence about it.
    pub headline: String,
    /// Requests sent in the headline arm.
    pub requests: u64,
    /// Failed ones.
    pub errors: u64,
    /// 1 − errors / requests.
    pub availability: f64,
    /// Latency; null when no request succeeded.
    pub latency_ms: Option<LatencyMs>,
    /// Mean latency of the first request and of those on a new connection after a pause.
    pub cold_ms: Option<f64>,
    /// Throughput, when driven for it.
    pub throughput_rps: Option<f64>,
    /// Capacity: null until a ramp measured it.
    pub capacity_rps: Option<serde_json::Value>,
    /// Concurrency curve.
    pub curve: Vec<CurvePoint>,
    /// Wall ledger of the typical requests, p25 to p75; sums to `latency_ms.typical`.
    pub ledger: Vec<LedgerRow>,
    /// Wall ledger of the slowest 5 %, when there are enough requests.
    pub tail_ledger: Vec<LedgerRow>,
    /// The other kind of requests, when latencies fall into two with a gap between them.
    #[serde(default)]
    pub other_kind: Option<OtherKind>,
    /// Objectives and whether they are met.
    #[serde(default)]
    pub objectives: Vec<ObjectiveReport>,
    /// Demand ledger.
    pub demand: Vec<DemandEntry>,
    /// Waterfalls of a typical and of a slow request.
    pub waterfalls: Vec<WaterfallReport>,
}

/// A resource and its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Name.
    pub resource: String,
    /// Value.
    pub value: f64,
    /// Unit.
    pub unit: String,
    /// Remark.
    pub note: String,
}

/// A metric to watch, with an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Monitoring {
    /// Metric.
    pub metric: String,
    /// Alert condition.
    pub alert: String,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Run.
    pub run: ReportRun,
    /// Target.
    pub target: ReportTarget,
    /// Objectives as given; null when none.
    pub objective: Option<Vec<String>>,
    /// Endpoints.
    pub endpoints: Vec<EndpointReport>,
    /// Findings, ranked.
    pub findings: Vec<Finding>,
    /// Exonerations.
    pub exonerated: Vec<Exoneration>,
    /// Undecided hypotheses.
    pub undecided: Vec<Undecided>,
    /// Resources.
    pub resources: Vec<Resource>,
    /// Coverage.
    pub coverage: Vec<Coverage>,
    /// Observer effect and other warnings about the measurement itself.
    pub warnings: Vec<String>,
    /// Comparison with a baseline; null until one is made.
    pub comparison: Option<serde_json::Value>,
    /// What to watch.
    pub monitoring: Vec<Monitoring>,
}
