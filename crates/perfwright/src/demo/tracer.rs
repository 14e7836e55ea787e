//! The shop's own tracing: a server span a request, a client span a statement or call, exported as
//! OTLP/HTTP protobuf with gzip, as an instrumented service does.

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use formats::otlp::messages::{
    AnyValue, AnyValueKind, ExportTraceServiceRequest, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span, Status,
};
use prost::Message;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Requests whose spans wait for export at most; beyond it they are dropped, never waited for.
const QUEUE: usize = 1_024;

const KIND_SERVER: i32 = 2;
const KIND_CLIENT: i32 = 3;
const STATUS_ERROR: i32 = 2;

/// Where in the shop a span was opened: file, line, function.
type Place = (&'static str, u32, &'static str);

/// Hands finished spans to the exporter.
pub(super) struct Tracer {
    export: Option<SyncSender<Vec<Span>>>,
    next: AtomicU64,
}

/// The spans of one request.
pub(super) struct RequestTrace {
    trace_id: Vec<u8>,
    parent: Vec<u8>,
    server: u64,
    next: u64,
    name: String,
    start: u64,
    spans: Vec<Span>,
}

/// When a span began.
pub(super) struct Opened(u64);

impl Tracer {
    /// Starts the exporter when there is somewhere to export to.
    pub(super) fn start(otlp: Option<String>) -> Tracer {
        let export = otlp.and_then(|url| {
            let (sender, receiver) = sync_channel(QUEUE);
            let thread = std::thread::Builder::new().name("exporter".into());
            thread.spawn(move || export_all(&url, &receiver)).ok().map(|_| sender)
        });
        Tracer { export, next: AtomicU64::new(now()) }
    }

    /// A request begins; its trace continues the caller's `traceparent` (W3C Trace Context).
    pub(super) fn request(
        &self,
        traceparent: Option<&str>,
        method: &str,
        path: &str,
    ) -> RequestTrace {
        let id = self.next.fetch_add(1 << 20, Ordering::Relaxed);
        let parts: Vec<&str> = traceparent.unwrap_or("").split('-').collect();
        let (trace_id, parent) = match parts.as_slice() {
            [_, trace, parent, _] if trace.len() == 32 && parent.len() == 16 => {
                (unhex(trace), unhex(parent))
            }
            _ => ([id.to_be_bytes(), now().to_be_bytes()].concat(), Vec::new()),
        };
        RequestTrace {
            trace_id,
            parent,
            server: id,
            next: id + 1,
            name: format!("{method} {path}"),
            start: now(),
            spans: Vec::new(),
        }
    }

    /// The request ends; its spans are exported when there is room.
    pub(super) fn finish(&self, mut trace: RequestTrace, status: u16) {
        let Some(export) = &self.export else { return };
        let mut server = trace.span(trace.name.clone(), KIND_SERVER, trace.start);
        server.span_id = trace.server.to_be_bytes().to_vec();
        server.parent_span_id = std::mem::take(&mut trace.parent);
        server.attributes = vec![
            attribute("http.route", &trace.name),
            attribute("http.response.status_code", &status.to_string()),
        ];
        if status >= 500 {
            server.status = Some(Status { code: STATUS_ERROR, ..Status::default() });
        }
        trace.spans.push(server);
        match export.try_send(trace.spans) {
            // A shop does not wait for its tracing; a full queue loses spans.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

impl RequestTrace {
    /// A span begins now.
    pub(super) fn open(&self) -> Opened {
        Opened(now())
    }

    /// A statement ended now.
    pub(super) fn statement(
        &mut self,
        opened: Opened,
        (sql, parameters): (&str, &[String]),
        rows: usize,
        place: Place,
    ) {
        let verb = sql.split_whitespace().next().unwrap_or("query").to_uppercase();
        let mut span = self.span(verb, KIND_CLIENT, opened.0);
        span.attributes = vec![
            attribute("db.system.name", "sqlite"),
            attribute("db.query.text", sql),
            attribute("db.response.returned_rows", &rows.to_string()),
        ];
        for (n, value) in parameters.iter().enumerate() {
            span.attributes.push(attribute(&format!("db.query.parameter.{n}"), value));
        }
        self.push(span, place);
    }

    /// A call to another service ended now.
    pub(super) fn request(&mut self, opened: Opened, to: SocketAddr, path: &str, place: Place) {
        let mut span = self.span("GET".into(), KIND_CLIENT, opened.0);
        span.attributes = vec![
            attribute("http.request.method", "GET"),
            attribute("url.full", &format!("http://{to}{path}")),
            attribute("server.address", &to.ip().to_string()),
            attribute("server.port", &to.port().to_string()),
        ];
        self.push(span, place);
    }

    fn push(&mut self, mut span: Span, (file, line, function): Place) {
        span.attributes.push(attribute("code.file.path", file));
        span.attributes.push(attribute("code.line.number", &line.to_string()));
        span.attributes.push(attribute("code.function.name", function));
        self.spans.push(span);
    }

    fn span(&mut self, name: String, kind: i32, start: u64) -> Span {
        self.next += 1;
        Span {
            trace_id: self.trace_id.clone(),
            span_id: self.next.to_be_bytes().to_vec(),
            parent_span_id: self.server.to_be_bytes().to_vec(),
            name,
            kind,
            start_time_unix_nano: start,
            end_time_unix_nano: now(),
            ..Span::default()
        }
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(AnyValueKind::StringValue(value.into())) };
    KeyValue { key: key.into(), value: Some(value) }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
    text.as_bytes()
        .chunks(2)
        .map(|p| digit(p[0]) << 4 | p.get(1).map_or(0, |b| digit(*b)))
        .collect()
}

/// Sends each request's spans as soon as it is finished, so that whoever looks sees them at once.
fn export_all(url: &str, receiver: &Receiver<Vec<Span>>) {
    let Some(address) = url.strip_prefix("http://").map(|a| a.trim_end_matches('/').to_string())
    else {
        return;
    };
    let mut connection = None;
    while let Ok(spans) = receiver.recv() {
        // A receiver that is gone costs the shop nothing; the next batch tries a new connection.
        if send(&address, &mut connection, spans).is_err() {
            connection = None;
        }
    }
}

fn send(address: &str, connection: &mut Option<TcpStream>, spans: Vec<Span>) -> Result<()> {
    let resource = Resource { attributes: vec![attribute("service.name", "shop")] };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    };
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&request.encode_to_vec())?;
    let body = gzip.finish()?;
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            connection.insert(stream)
        }
    };
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/x-protobuf\r\n\
         content-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat())?;
    // The answer is short and says nothing we need, but it must be read.
    let mut answer = [0; 4_096];
    anyhow::ensure!(stream.read(&mut answer)? > 0, "the receiver closed the connection");
    Ok(())
}
