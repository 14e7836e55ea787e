//! Client spans as calls: one more source of intervals. A call seen on the wire and in a span is
//! one call; the span then only adds what the wire could not tell (the text under TLS, or of a
//! statement prepared before capture began).

use evidence::{
    Call, CallSource, Nanos, Operation, Protocol, SPAN_PARAMETER, Span, SpanKind, Target,
    ValueHash, Where,
};
use std::collections::BTreeMap;

/// A captured call may begin this much before its span: clock resolution of exporters is 1 ms in
/// JavaScript.
const SLACK: Nanos = Nanos(1_000_000);
/// Connection numbers of span calls start here, far from those of captured connections.
const FIRST_CONNECTION: u32 = 1 << 31;

/// All calls in order of start, each with the trace id of its span, if a span tells.
pub(crate) fn merge(
    wire: Vec<Call>,
    spans: &[Span],
    target: &Target,
) -> Vec<(Call, Option<String>)> {
    let mut calls: Vec<(Call, Option<String>)> = wire.into_iter().map(|c| (c, None)).collect();
    calls.sort_by(|a, b| order(&a.0).cmp(&order(&b.0)));
    let mut extra = vec![];
    for (n, span) in spans.iter().enumerate() {
        let Some(call) = call_of(span, n, target) else { continue };
        if wrapped(span, spans) {
            continue;
        }
        match twin(&calls, &call) {
            Some(twin) => enrich(&mut calls[twin], &call, span),
            None => extra.push((call, Some(span.trace_id.clone()))),
        }
    }
    calls.append(&mut extra);
    calls.sort_by(|a, b| order(&a.0).cmp(&order(&b.0)));
    calls
}

fn order(c: &Call) -> (Nanos, Nanos, u32, u64, &str) {
    (c.start, c.end, c.connection, c.batch, &c.text)
}

/// Whether a child span describes the same call again (an ORM's span around its driver's): the
/// innermost counts.
fn wrapped(span: &Span, spans: &[Span]) -> bool {
    // Spans are in order of start, so children follow.
    let from = spans.partition_point(|s| s.start < span.start);
    let to = spans.partition_point(|s| s.start <= span.end);
    spans[from..to.max(from)].iter().any(|s| {
        s.parent_id.as_deref() == Some(&span.span_id)
            && s.trace_id == span.trace_id
            && s.span_id != span.span_id
            && protocol_of(s).is_some_and(|p| Some(p) == protocol_of(span))
    })
}

/// The captured call that a span's call is: same peer protocol (or one whose content could not be
/// read), covering at least half of the shorter of the two; equal text is preferred.
fn twin(calls: &[(Call, Option<String>)], span: &Call) -> Option<usize> {
    let from = calls.partition_point(|c| c.0.start + SLACK < span.start);
    let to = calls.partition_point(|c| c.0.start <= span.end);
    let overlap = |c: &Call| c.end.min(span.end) - c.start.max(span.start);
    (from..to.max(from))
        .filter(|n| {
            let c = &calls[*n].0;
            let opaque = matches!(c.protocol, Protocol::Tls | Protocol::Unix | Protocol::Opaque);
            (c.protocol == span.protocol || opaque)
                && c.operation != Operation::Push
                && overlap(c).0 * 2 >= c.duration().min(span.duration()).0
        })
        .max_by_key(|n| {
            let (c, trace) = &calls[*n];
            (c.text == span.text, trace.is_none(), overlap(c), std::cmp::Reverse(*n))
        })
}

fn enrich(twin: &mut (Call, Option<String>), call: &Call, span: &Span) {
    twin.1.get_or_insert_with(|| span.trace_id.clone());
    let c = &mut twin.0;
    if !c.text_known && call.text_known {
        c.text.clone_from(&call.text);
        c.text_known = true;
        c.protocol = call.protocol;
    }
    if c.issued_at.is_none() {
        c.issued_at.clone_from(&call.issued_at);
    }
}

fn first<'a>(a: &'a BTreeMap<String, String>, keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|k| a.get(*k)).map(String::as_str).filter(|v| !v.is_empty())
}

const SYSTEM: [&str; 2] = ["db.system.name", "db.system"];
const QUERY: [&str; 2] = ["db.query.text", "db.statement"];
const METHOD: [&str; 2] = ["http.request.method", "http.method"];

/// What the span speaks to its peer; `None` when it is not a call to one.
fn protocol_of(span: &Span) -> Option<Protocol> {
    let a = &span.attributes;
    let system = first(a, &SYSTEM);
    // An embedded database has no remote end, so its spans are often of kind internal.
    let embedded = system == Some("sqlite");
    if span.kind != SpanKind::Client && !(embedded && span.kind == SpanKind::Internal) {
        return None;
    }
    match system {
        Some("postgresql" | "postgres" | "cockroachdb") => Some(Protocol::Postgres),
        Some("mysql" | "mariadb") => Some(Protocol::Mysql),
        Some("sqlite") => Some(Protocol::Sqlite),
        Some("redis" | "valkey") => Some(Protocol::Redis),
        Some("memcached") => Some(Protocol::Memcached),
        Some(_) => Some(Protocol::Opaque),
        None if first(a, &METHOD).is_some() => Some(Protocol::Http),
        None if first(a, &QUERY).is_some() => Some(Protocol::Opaque),
        None => None,
    }
}

fn call_of(span: &Span, number: usize, target: &Target) -> Option<Call> {
    let protocol = protocol_of(span)?;
    let a = &span.attributes;
    let text = match protocol {
        Protocol::Http => Some(http_text(a)),
        _ => first(a, &QUERY).map(String::from),
    };
    let number = u32::try_from(number).unwrap_or(u32::MAX >> 1);
    Some(Call {
        peer: peer_of(a, protocol, target),
        protocol,
        operation: Operation::Execute,
        source: CallSource::Span,
        text_known: text.is_some(),
        text: text.unwrap_or_else(|| span.name.clone()),
        params: parameters(a),
        rows: first(a, &["db.response.returned_rows"]).and_then(|v| v.parse().ok()),
        bytes_sent: 0,
        bytes_received: 0,
        error: span.error.then(|| first(a, &["error.type"]).unwrap_or("error").to_string()),
        start: span.start,
        end: span.end.max(span.start),
        connection: FIRST_CONNECTION.saturating_add(number),
        client_port: 0,
        batch: u64::from(number),
        columns: vec![],
        issued_at: first(a, &["code.file.path", "code.filepath"]).map(|file| Where {
            file: file.into(),
            line: first(a, &["code.line.number", "code.lineno"]).and_then(|v| v.parse().ok()),
            function: first(a, &["code.function.name", "code.function"]).map(String::from),
        }),
    })
}

/// Hashes of a statement's parameters, in the order of their names.
fn parameters(attributes: &BTreeMap<String, String>) -> Vec<ValueHash> {
    let parameter = |(name, hash): (&String, &String)| {
        let name = name.strip_prefix(SPAN_PARAMETER)?;
        // `2` before `10`; names that are no numbers after those that are.
        let place = (name.parse().unwrap_or(u32::MAX), name.to_string());
        Some((place, ValueHash::from_str_radix(hash, 16).ok()?))
    };
    let mut all: Vec<_> = attributes.iter().filter_map(parameter).collect();
    all.sort();
    all.into_iter().map(|(_, hash)| hash).collect()
}

/// `GET /path`, without the query: values in it would split equal calls.
fn http_text(a: &BTreeMap<String, String>) -> String {
    let method = first(a, &METHOD).unwrap_or("GET");
    let url = first(a, &["url.template", "url.full", "http.url", "url.path", "http.target"]);
    let url = url.unwrap_or("");
    let path =
        url.split_once("://").map_or(url, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    format!("{method} {}", path.split(['?', '#']).next().unwrap_or(path))
}

fn peer_of(a: &BTreeMap<String, String>, protocol: Protocol, target: &Target) -> String {
    let host =
        first(a, &["server.address", "net.peer.name", "network.peer.address", "net.peer.ip"]);
    let port = first(a, &["server.port", "net.peer.port", "network.peer.port"]);
    let number: Option<u16> = port.and_then(|p| p.parse().ok());
    let known = target.services.iter().flat_map(|s| &s.peers);
    if let Some(peer) = known.filter(|p| p.port != 0).find(|p| Some(p.port) == number) {
        return peer.name.clone();
    }
    match (host, port) {
        (Some(h), Some(p)) => format!("{} {h}:{p}", protocol.word()),
        (Some(h), None) => format!("{} {h}", protocol.word()),
        _ => match first(a, &["db.namespace", "db.name"]) {
            Some(name) => format!("{} {name}", protocol.word()),
            None => protocol.word().to_string(),
        },
    }
}
