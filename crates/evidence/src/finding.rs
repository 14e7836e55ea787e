//! Findings, fixes, predictions, and what a rule may say.

use crate::EvidenceId;
use serde::{Deserialize, Serialize};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A nit or a fact.
    Info,
    /// Saves little.
    Low,
    /// Worth doing.
    Medium,
    /// A main cause.
    High,
    /// Dominates the latency.
    Critical,
}

/// Where in the code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Where {
    /// File, relative to the service's directory when inside it.
    pub file: String,
    /// Line, 1-based.
    pub line: Option<u32>,
    /// Function.
    pub function: Option<String>,
}

/// What kind of change a fix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FixKind {
    /// Another statement.
    Query,
    /// An index.
    Index,
    /// Code of the service.
    Code,
    /// A setting.
    Config,
    /// A cache.
    Cache,
    /// A pool.
    Pool,
    /// More or larger machines.
    Capacity,
}

/// How long it takes a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// Minutes.
    Minutes,
    /// Hours.
    Hours,
    /// Days.
    Days,
}

/// The change that removes a finding's cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fix {
    /// One sentence.
    pub summary: String,
    /// Kind.
    pub kind: FixKind,
    /// Patch, DDL or setting in the idiom of the framework found.
    pub patch: String,
    /// Effort.
    pub effort: Effort,
    /// What could go wrong.
    pub risk: String,
    /// Command that checks it.
    pub verify: String,
}

/// How a prediction was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PredictionMethod {
    /// Re-timed recorded requests.
    Modelled,
    /// The replacement itself was run aside.
    Probed,
    /// The fix was applied and measured.
    Measured,
}

/// A value now and after, with a 90 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Now.
    pub now: f64,
    /// After the fix.
    pub after: f64,
    /// Lower bound of `after`.
    pub low: f64,
    /// Upper bound of `after`.
    pub high: f64,
}

/// What the fix is expected to give. Milliseconds, requests per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Method.
    pub method: PredictionMethod,
    /// Median latency.
    pub p50_ms: Estimate,
    /// 95th percentile; null when too few samples bound it.
    pub p95_ms: Option<Estimate>,
    /// Mean latency: what a fix of a few slow requests shows in.
    #[serde(default)]
    pub mean_ms: Option<Estimate>,
    /// Capacity; null when it was not measured.
    pub capacity_rps: Option<Estimate>,
    /// Which step of a fix with several it is for; null when it is for the fix as a whole.
    #[serde(default)]
    pub holds_for: Option<String>,
}

/// A named cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `F1`, `F2`, … by rank; empty until ranked.
    pub id: String,
    /// Rule.
    pub rule: String,
    /// Severity.
    pub severity: Severity,
    /// Confidence, 0 to 1.
    pub confidence: f64,
    /// Endpoint.
    pub endpoint: String,
    /// One true sentence with its numbers.
    pub claim: String,
    /// What the cause costs per request, milliseconds: at most what removing it saves.
    pub cost_ms: f64,
    /// `cost_ms` as a share of mean latency.
    pub share: f64,
    /// Evidence it rests on; never empty.
    pub evidence: Vec<EvidenceId>,
    /// Where in the code.
    #[serde(rename = "where")]
    pub location: Option<Where>,
    /// Fix.
    pub fix: Fix,
    /// Prediction; null when nothing can be predicted honestly.
    pub prediction: Option<Prediction>,
}

/// A hypothesis that was checked and found innocent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exoneration {
    /// Rule.
    pub rule: String,
    /// Endpoint.
    pub endpoint: String,
    /// Why, with the number.
    pub why: String,
    /// Evidence.
    pub evidence: Vec<EvidenceId>,
}

/// A hypothesis that could not be decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Undecided {
    /// Rule.
    pub rule: String,
    /// Endpoint.
    pub endpoint: String,
    /// What is missing; for a ranked hypothesis also what it predicts.
    pub missing: String,
    /// The one command that would decide it.
    pub command: String,
}

/// What a rule says about one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// A cause. Boxed: by far the largest variant.
    Finding(Box<Finding>),
    /// Checked, innocent.
    Refuted(Exoneration),
    /// Not decidable with what is known.
    Undecided(Undecided),
    /// The rule has nothing to say here (no database seen, say).
    Silent,
}
