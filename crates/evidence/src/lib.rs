//! The vocabulary: one word for one thing, as plain types with units, and their versioned encoding.
//!
//! Everything a sense observes and everything reasoning concludes is one of these types. They hold
//! no behaviour beyond small derived values, do no I/O and read no clock. The crate is on every
//! path of the build, so it stays small and stable.

mod call;
mod coverage;
mod exchange;
mod experiment;
mod finding;
mod ledger;
mod profile;
mod record;
mod redact;
mod report;
mod run;
mod secret;
mod span;
mod target;
mod threads;
mod timeline;
mod units;
mod workload;

pub use call::{Call, CallSource, ColumnSketch, Operation, Protocol, ValueHash};
pub use coverage::{Coverage, ProbeState};
pub use exchange::{Arm, Exchange, Failure, Phases, ServerEdge, Window};
pub use experiment::{Consent, Experiment, ExperimentKind, Risk};
pub use finding::{
    Effort, Estimate, Exoneration, Finding, Fix, FixKind, Judgement, Prediction, PredictionMethod,
    Severity, Undecided, Where,
};
pub use ledger::{DemandEntry, Line, WallEntry, WallLedger};
pub use profile::{Frame, FrameKind, StackProfile, StackSample};
pub use record::{Evidence, EvidenceBody, EvidenceId, LossCount};
pub use redact::{Redactor, SqlDialect, VALUES_LIMIT};
pub use report::{
    CallReport, CurvePoint, EndpointReport, LatencyMs, LedgerRow, Monitoring, ObjectiveReport,
    OtherKind, Report, ReportRun, ReportTarget, RequestReport, Resource, SCHEMA, Verdict,
    WaterfallBar, WaterfallReport,
};
pub use run::{HostFacts, RunInfo, RunState, SCHEMA_VERSION};
pub use secret::{
    REDACTED, is_reference, is_secret_name, is_secret_parameter, redacted_command, redacted_text,
    redacted_url,
};
pub use span::{SPAN_PARAMETER, Span, SpanKind};
pub use target::{Level, Listener, Peer, ProcessInfo, Runtime, Service, Target};
pub use threads::{
    BlockReason, ProcessCounters, ProcessRole, ThreadInfo, ThreadInterval, ThreadState,
};
pub use timeline::{Band, Interval, Timeline};
pub use units::{Nanos, ms};
pub use workload::{Body, Credential, Endpoint, HeaderValue, RequestTemplate, Workload};
