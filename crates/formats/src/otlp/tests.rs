//! Tests: trace requests in both encodings, and broken ones.

use super::messages::{
    AnyValue, AnyValueKind, ArrayValue, ExportTraceServiceRequest, KeyValue, Resource,
    ResourceSpans, ScopeSpans, Status,
};
use super::*;

const UNIX: u64 = 1_785_579_330_000_000_000;
/// The monotonic clock read one second then.
const OFFSET: i64 = 1_000_000_000 - UNIX as i64;

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValueKind::StringValue(value.into()));
    KeyValue { key: key.into(), value: Some(AnyValue { value }) }
}

fn int(key: &str, value: i64) -> KeyValue {
    let value = Some(AnyValueKind::IntValue(value));
    KeyValue { key: key.into(), value: Some(AnyValue { value }) }
}

fn span(name: &str, attributes: Vec<KeyValue>) -> messages::Span {
    messages::Span {
        trace_id: (1..=16).collect(),
        span_id: (1..=8).collect(),
        parent_span_id: vec![0xff; 8],
        name: name.into(),
        kind: 3,
        start_time_unix_nano: UNIX,
        end_time_unix_nano: UNIX + 5_000,
        attributes,
        dropped_attributes_count: 0,
        status: Some(Status { message: "secret".into(), code: 2 }),
    }
}

fn request(spans: Vec<messages::Span>) -> Vec<u8> {
    let resource = Resource { attributes: vec![text("service.name", "shop")] };
    let scope_spans = vec![ScopeSpans { spans, schema_url: String::new() }];
    let resource_spans =
        ResourceSpans { resource: Some(resource), scope_spans, ..Default::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

fn protobuf(bytes: &[u8]) -> Decoded {
    decode(bytes, Encoding::Protobuf, OFFSET, &Redactor::new(1))
}

fn from_json(text: &str) -> Decoded {
    decode(text.as_bytes(), Encoding::Json, OFFSET, &Redactor::new(1))
}

#[test]
fn spans_come_out_on_the_runs_clock() {
    let (spans, problems) = protobuf(&request(vec![span("pg.query", vec![])]));
    assert_eq!(problems, []);
    let expected = Span {
        trace_id: "0102030405060708090a0b0c0d0e0f10".into(),
        span_id: "0102030405060708".into(),
        parent_id: Some("ffffffffffffffff".into()),
        name: "pg.query".into(),
        kind: SpanKind::Client,
        service: "shop".into(),
        start: Nanos(1_000_000_000),
        end: Nanos(1_000_005_000),
        error: true,
        attributes: [].into(),
    };
    assert_eq!(spans, [expected]);
}

/// `key=value` for each attribute that is stored.
fn check_attributes(given: Vec<KeyValue>, expected: &[&str]) {
    let (spans, _) = protobuf(&request(vec![span("x", given)]));
    let shown: Vec<_> = spans[0].attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(shown, expected);
}

#[test]
fn attributes_get_their_current_names_and_lose_their_values() {
    check_attributes(
        vec![
            text("db.system", "postgres"),
            text("db.statement", "SELECT * FROM t WHERE id = 42 AND a = 'x'"),
            text("db.name", "shop"),
            text("db.user", "me"),
            text("net.peer.name", "127.0.0.1"),
            int("net.peer.port", 5432),
            text("db.query.parameter.0", "secret"),
            text("tenant", "acme"),
        ],
        &[
            "db.namespace=shop",
            &format!("db.query.parameter.0={:016x}", Redactor::new(1).hash_text(b"secret")),
            "db.query.text=SELECT * FROM t WHERE id = ? AND a = ?",
            "db.system.name=postgresql",
            "server.address=127.0.0.1",
            "server.port=5432",
        ],
    );
    check_attributes(
        vec![
            text("http.method", "GET"),
            text("http.url", "https://me:pw@h.io/orders/17?token=abc"),
            int("http.status_code", 200),
            int("http.response.status_code", 201),
            text("http.request.header.authorization", "Bearer x"),
        ],
        &[
            "http.request.method=GET",
            "http.response.status_code=201",
            "url.full=https://h.io/orders/{id}",
        ],
    );
    check_attributes(
        vec![
            text("http.target", "/a/17/x?b=c&d"),
            text("db.system", "redis"),
            text("db.statement", "set user:17 s3cret"),
        ],
        &[
            "db.query.text=SET user:?",
            "db.system.name=redis",
            "url.path=/a/{id}/x",
            "url.query=b=?&d",
        ],
    );
    check_attributes(
        vec![text("db.system", "mysql"), text("db.query.text", "SELECT \"x\" # c\n")],
        &["db.query.text=SELECT ?", "db.system.name=mysql"],
    );
    check_attributes(
        vec![text("db.system", "mongodb"), text("db.statement", "{\"a\":1}")],
        &["db.system.name=mongodb"],
    );
    let list = AnyValueKind::ArrayValue(ArrayValue {
        values: vec![AnyValue { value: Some(AnyValueKind::BoolValue(true)) }],
    });
    let list = KeyValue { key: "thread.name".into(), value: Some(AnyValue { value: Some(list) }) };
    check_attributes(vec![list, text("", "x")], &["thread.name=[\"true\"]"]);
}

#[test]
fn names_lose_statements_and_queries() {
    let check = |name: &str, expected: &str| {
        let (spans, _) = protobuf(&request(vec![span(name, vec![])]));
        assert_eq!(spans[0].name, expected);
    };
    check("GET /orders/:n", "GET /orders/:n");
    check("GET /orders?token=abc", "GET /orders");
    check("SELECT * FROM t WHERE id = 5", "SELECT * FROM t WHERE id = ?");
    check("pg.query:SELECT postgres", "pg.query:SELECT postgres");
    check(&"é".repeat(2_000), &"é".repeat(512));
}

#[test]
fn json_as_exporters_write_it() {
    let one = |ids: &str, rest: &str| {
        format!(
            r#"{{"resourceSpans":[{{"scopeSpans":[{{"scope":{{}},"spans":[{{{ids},"name":"a",{rest}}}]}}],
            "resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"shop"}}}}]}}}}]}}"#
        )
    };
    let hex = r#""traceId":"0102030405060708090A0B0C0D0E0F10","spanId":"0102030405060708""#;
    let base64 =
        r#""traceId":"AQIDBAUGBwgJCgsMDQ4PEA==","spanId":"AQIDBAUGBwg=","parentSpanId":"""#;
    let strings = format!(
        r#""kind":3,"startTimeUnixNano":"{UNIX}","endTimeUnixNano":"{}","status":{{"code":2}},
        "attributes":[{{"key":"db.statement","value":{{"stringValue":"SELECT 1"}}}},
                      {{"key":"server.port","value":{{"intValue":"80"}}}}]"#,
        UNIX + 5_000
    );
    let numbers = format!(
        r#""kind":"SPAN_KIND_CLIENT","start_time_unix_nano":{UNIX},"end_time_unix_nano":{},
        "status":{{"code":"STATUS_CODE_ERROR"}},
        "attributes":[{{"key":"db.query.text","value":{{"stringValue":"SELECT 1"}}}},
                      {{"key":"server.port","value":{{"intValue":80}}}}]"#,
        UNIX + 5_000
    );
    let (first, problems) = from_json(&one(hex, &strings));
    assert_eq!((first.len(), problems), (1, vec![]));
    assert_eq!(first[0].service, "shop");
    assert_eq!(first[0].kind, SpanKind::Client);
    assert!(first[0].error);
    assert_eq!(first[0].attributes["db.query.text"], "SELECT ?");
    assert_eq!(first[0].end - first[0].start, Nanos(5_000));
    let lines = format!("{}\n{}\n", one(base64, &numbers), one(hex, &strings));
    let (both, problems) = from_json(&lines);
    assert_eq!((both, problems), (vec![first[0].clone(), first[0].clone()], vec![]));
    assert_eq!(from_json("{}"), (vec![], vec![]));
}

#[test]
fn damaged_requests_give_what_can_be_read() {
    let whole = request(vec![span("a", vec![]), span("b", vec![]), span("c", vec![])]);
    let names = |d: &Decoded| d.0.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    let cut = protobuf(&whole[..whole.len() - 10]);
    assert_eq!(names(&cut), ["a", "b"]);
    assert!(!cut.1.is_empty());
    let mut bad = span("b", vec![]);
    bad.trace_id = vec![1];
    let mut backwards = span("c", vec![]);
    backwards.end_time_unix_nano = 5;
    let mut early = span("d", vec![]);
    early.start_time_unix_nano = 5;
    let some = protobuf(&request(vec![span("a", vec![]), bad, backwards, early]));
    assert_eq!(names(&some), ["a", "c"]);
    let told: Vec<_> = some.1.iter().map(|p| p.message.as_str()).collect();
    assert!(
        told[0].contains("ids") && told[1].contains("ends before") && told[2].contains("starts")
    );
    assert!(protobuf(b"<html>").1.len() == 1 && protobuf(b"").1.is_empty());
    for bad in
        ["", "[1,2", "{\"a\":1}", "<html>", "{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[{"]
    {
        let (spans, problems) = from_json(bad);
        assert!(spans.is_empty() && !problems.is_empty(), "{bad}");
    }
    let (spans, problems) = protobuf(&request(vec![messages::Span::default(); 50]));
    assert_eq!((spans.len(), problems.len()), (0, PROBLEM_LIMIT + 1));
}

#[test]
fn answers_are_empty_unless_something_was_refused() {
    assert_eq!(response(Encoding::Protobuf, 0, ""), b"");
    assert_eq!(response(Encoding::Json, 0, ""), b"{}");
    assert_eq!(response(Encoding::Protobuf, 3, "full"), b"\x0a\x08\x08\x03\x12\x04full");
    let json = r#"{"partialSuccess":{"errorMessage":"full","rejectedSpans":"3"}}"#;
    assert_eq!(response(Encoding::Json, 3, "full"), json.as_bytes());
}
