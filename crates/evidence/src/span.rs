//! Spans that the service or its instrumentation exported: one more source of intervals.

use crate::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Beginning of the attributes of a database span that carry its parameters (OpenTelemetry's
/// `db.query.parameter.<key>`). Their values are hashes, 16 hexadecimal digits.
pub const SPAN_PARAMETER: &str = "db.query.parameter.";

/// OpenTelemetry span kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpanKind {
    /// Not set or internal.
    Internal,
    /// Handles a request.
    Server,
    /// Issues one.
    Client,
    /// Produces a message.
    Producer,
    /// Consumes a message.
    Consumer,
}

/// One span, on the run's clock, attributes normalised to the current semantic conventions and
/// redacted (`db.query.text` is a fingerprint).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits, none for a root.
    pub parent_id: Option<String>,
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: SpanKind,
    /// `service.name` of its resource.
    pub service: String,
    /// Start.
    pub start: Nanos,
    /// End.
    pub end: Nanos,
    /// Status is error.
    pub error: bool,
    /// Attributes, values as text.
    pub attributes: BTreeMap<String, String>,
}
