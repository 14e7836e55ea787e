//! OTLP trace requests (protobuf and JSON) to spans: on the run's clock, with attributes under
//! their current names, redacted.
//!
//! The messages are declared here and not taken from a crate: these few compile in seconds, and
//! decode a million spans a second on one core.

mod attributes;
mod json;
pub mod messages;
mod protobuf;

use crate::Problem;
use evidence::{Nanos, Redactor, Span, SpanKind};
use prost::Message;
use std::sync::Arc;

/// Most spans taken from one request or file; what comes after is counted.
pub const SPAN_LIMIT: usize = 1_000_000;
/// Most problems named one by one.
const PROBLEM_LIMIT: usize = 20;

/// How a request is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`.
    Protobuf,
    /// `application/json`, also one request a line as collectors write files.
    Json,
}

/// Spans read, and what could not be.
pub type Decoded = (Vec<Span>, Vec<Problem>);

/// Decodes trace requests. `clock_offset` is what must be added to nanoseconds since 1970 to get
/// the run's monotonic clock (usually negative).
///
/// Never fails: bytes that are no request give no spans and at least one problem.
pub fn decode(bytes: &[u8], encoding: Encoding, clock_offset: i64, redactor: &Redactor) -> Decoded {
    let mut collector = Collector {
        clock_offset,
        redactor,
        spans: Vec::new(),
        problems: Vec::new(),
        unnamed: 0,
        beyond: 0,
    };
    match encoding {
        Encoding::Protobuf => protobuf::walk(bytes, &mut collector),
        Encoding::Json => json::walk(bytes, &mut collector),
    }
    collector.finish(bytes.len())
}

/// The answer to a trace request: empty when all spans were taken, else a partial success that
/// says how many were not and why.
pub fn response(encoding: Encoding, rejected: u64, why: &str) -> Vec<u8> {
    let rejected = i64::try_from(rejected).unwrap_or(i64::MAX);
    match (encoding, rejected) {
        (Encoding::Protobuf, 0) => Vec::new(),
        (Encoding::Json, 0) => b"{}".to_vec(),
        (Encoding::Protobuf, _) => messages::ExportTraceServiceResponse {
            partial_success: Some(messages::ExportTracePartialSuccess {
                rejected_spans: rejected,
                error_message: why.to_string(),
            }),
        }
        .encode_to_vec(),
        (Encoding::Json, _) => serde_json::json!({
            "partialSuccess": { "rejectedSpans": rejected.to_string(), "errorMessage": why }
        })
        .to_string()
        .into_bytes(),
    }
}

/// Takes spans in, one by one.
struct Collector<'a> {
    clock_offset: i64,
    redactor: &'a Redactor,
    spans: Vec<Span>,
    problems: Vec<Problem>,
    /// Problems beyond those named.
    unnamed: usize,
    /// Spans beyond the limit.
    beyond: usize,
}

/// Name of the service a resource describes; OpenTelemetry's own default when it does not say.
fn service_of(resource: Option<messages::Resource>) -> Arc<str> {
    let attributes = resource.map(|r| r.attributes).unwrap_or_default();
    let name = attributes.into_iter().find(|a| a.key == "service.name");
    let name = name.and_then(|n| attributes::text_of(n.value?));
    name.filter(|n| !n.is_empty() && n.len() <= 256).unwrap_or("unknown_service".into()).into()
}

impl Collector<'_> {
    fn problem(&mut self, position: usize, message: impl Into<String>) {
        if self.problems.len() < PROBLEM_LIMIT {
            self.problems.push(Problem::new(position, message));
        } else {
            self.unnamed += 1;
        }
    }

    fn span(&mut self, service: &Arc<str>, span: messages::Span, at: usize, from: Encoding) {
        if self.spans.len() == SPAN_LIMIT {
            self.beyond += 1;
            return;
        }
        if span.trace_id.len() != 16 || span.span_id.len() != 8 {
            let expected = match from {
                Encoding::Protobuf => "16 and 8 bytes",
                Encoding::Json => "32 and 16 hexadecimal digits",
            };
            return self.problem(at, format!("a span is left out: its ids are not {expected}"));
        }
        let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
        let Some(start_at) = self.instant(start) else {
            return self.problem(at, "a span is left out: it starts before this machine did");
        };
        if end < start {
            self.problem(at, "a span ends before it starts; it is taken to last no time");
        }
        let end_at = self.instant(end.max(start)).unwrap_or(start_at);
        let parent = span.parent_span_id;
        let is_root = parent.iter().all(|b| *b == 0);
        let attributes = attributes::normalised(span.attributes, self.redactor);
        self.spans.push(Span {
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent_id: (!is_root && parent.len() == 8).then(|| hex(&parent)),
            name: attributes::span_name(span.name, &attributes, self.redactor),
            kind: match span.kind {
                2 => SpanKind::Server,
                3 => SpanKind::Client,
                4 => SpanKind::Producer,
                5 => SpanKind::Consumer,
                _ => SpanKind::Internal,
            },
            service: service.to_string(),
            start: start_at,
            end: end_at,
            error: span.status.is_some_and(|s| s.code == 2),
            attributes,
        });
    }

    fn instant(&self, unix_nanos: u64) -> Option<Nanos> {
        u64::try_from(i128::from(unix_nanos) + i128::from(self.clock_offset)).ok().map(Nanos)
    }

    fn finish(mut self, end: usize) -> Decoded {
        if self.unnamed > 0 {
            let message = format!("{} more problems like these", self.unnamed);
            self.problems.push(Problem::new(end, message));
        }
        if self.beyond > 0 {
            let message = format!("{} spans beyond the first {SPAN_LIMIT}", self.beyond);
            self.problems.push(Problem::new(end, message));
        }
        (self.spans, self.problems)
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

#[cfg(test)]
mod tests;
