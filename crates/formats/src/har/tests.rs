//! Tests: recordings as browsers write them, and broken ones.

use super::*;
use evidence::{Body, HeaderValue};
use serde_json::{Value, json};

/// An entry that starts `start` milliseconds into the recording and takes `time`.
fn entry(method: &str, url: &str, start: u32, time: f64, more: Value) -> Value {
    let mut entry = json!({
        "startedDateTime": format!("2026-08-01T10:15:{:02}.{:03}Z", start / 1000, start % 1000),
        "time": time,
        "request": { "method": method, "url": url, "headers": [], "cookies": [] },
        "response": { "status": 200, "content": { "mimeType": "application/json" } },
        "timings": { "blocked": -1, "dns": -1, "connect": -1, "ssl": -1, "send": 0,
                     "wait": time - 1.0, "receive": 1 }
    });
    merge(&mut entry, &more);
    entry
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            more.iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v));
        }
        (into, more) => *into = more.clone(),
    }
}

fn har(entries: &[Value]) -> Vec<u8> {
    json!({ "log": { "version": "1.2", "pages": [], "entries": entries } }).to_string().into_bytes()
}

fn check(bytes: &[u8], expected: &[(&str, u64)], problems: &[&str]) -> Vec<Endpoint> {
    let (endpoints, found) = parse(bytes).unwrap();
    let names: Vec<_> =
        endpoints.iter().map(|e| (e.name.as_str(), e.recorded_ms.unwrap())).collect();
    assert_eq!(names, expected);
    assert_eq!(found.len(), problems.len(), "{found:#?}");
    for (problem, part) in found.iter().zip(problems) {
        assert!(problem.message.contains(part), "{problem}");
        assert!(problem.position <= bytes.len());
    }
    endpoints
}

#[test]
fn endpoints_are_ranked_by_what_the_user_waited_for() {
    let mime = |m: &str| json!({ "response": { "content": { "mimeType": m } } });
    let bytes = har(&[
        entry("GET", "http://h.io/shop", 0, 200.0, mime("text/html")),
        entry("GET", "http://h.io/app.js", 210, 900.0, mime("text/javascript")),
        entry("GET", "http://h.io/logo", 210, 10.0, json!({ "_resourceType": "image" })),
        entry("GET", "http://api.h.io/orders?page=1", 300, 3000.0, json!({})),
        entry("GET", "http://api.h.io/orders?page=2", 3300, 3100.5, json!({})),
        entry("GET", "http://h.io/users/17", 400, 500.0, json!({})),
        entry("GET", "http://h.io/users/18", 6300, 400.0, json!({})),
        entry("GET", "http://ads.example/x", 0, 60000.0, json!({})),
        entry("GET", "http://h.io/old", 0, 9.0, json!({ "response": { "status": 302 } })),
        entry("OPTIONS", "http://api.h.io/orders", 290, 9.0, json!({})),
        entry("GET", "ws://h.io/live", 0, 60000.0, json!({})),
        entry("GET", "http://h.io/cached", 0, 1.0, json!({ "_fromCache": "disk" })),
        entry("GET", "data:text/plain,x", 0, 1.0, json!({})),
        entry("GET", "http://h.io/gone", 0, 9.0, json!({ "response": { "status": 404 } })),
        entry("GET", "http://h.io/blocked", 0, 1.0, json!({ "response": { "status": 0 } })),
    ]);
    let endpoints = check(
        &bytes,
        &[("GET /orders", 6000), ("GET /users/{id}", 400), ("GET /shop", 200)],
        &[
            "left out: 2 static files, 1 answers from the browser's cache, 1 streams, 1 preflights \
             and beacons, 1 redirects, 1 requests without an answer, 1 requests that were \
             refused (status 4xx), 1 data: and extension URLs",
            "1 requests to 1 other sites are left out (ads.example)",
        ],
    );
    assert_eq!(endpoints[0].template.url, "http://api.h.io/orders?page=2", "the slowest");
}

#[test]
fn requests_can_be_sent_again_and_hide_their_secrets() {
    let headers = [
        (":authority", "h.io"),
        ("Host", "h.io"),
        ("Accept-Encoding", "gzip, deflate, br"),
        ("If-None-Match", "x"),
        ("Authorization", "Bearer t0k3n"),
        ("Cookie", "sid=env:X; a=b"),
        ("Accept", "*/*"),
    ];
    let headers: Vec<_> = headers.map(|(n, v)| json!({ "name": n, "value": v })).into();
    let post = json!({ "mimeType": "application/json", "text": "{\"operationName\":\"Orders\"}" });
    let bytes = har(&[
        entry(
            "POST",
            "http://h.io/graphql?a={1..2}#x",
            0,
            10.0,
            json!({ "request": { "headers": headers, "postData": post } }),
        ),
        entry(
            "POST",
            "http://h.io/form",
            10,
            5.0,
            json!({ "request": {
            "cookies": [{ "name": "s", "value": "1" }],
            "postData": { "mimeType": "application/x-www-form-urlencoded",
                          "params": [{ "name": "a b", "value": "ü" }] } } }),
        ),
    ]);
    let endpoints = check(&bytes, &[("POST /graphql Orders", 10), ("POST /form", 5)], &[]);
    let template = &endpoints[0].template;
    assert_eq!(template.url, "http://h.io/graphql?a=%7B1..2%7D");
    assert!(template.compressed);
    let shown: Vec<_> = template
        .headers
        .iter()
        .map(|(name, value)| match value {
            HeaderValue::Plain { text } => format!("{name}={text}"),
            HeaderValue::Secret { secret, prefix, .. } => format!("{name}={prefix}<{secret}>"),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "Authorization=Bearer <t0k3n>",
            "Cookie=<sid=env:X; a=b>",
            "Accept=*/*",
            "content-type=application/json",
        ]
    );
    let form = &endpoints[1].template;
    let bytes = b"a%20b=%C3%BC".to_vec();
    assert_eq!(form.body, Body::Inline { length: bytes.len() as u64, bytes });
    let json = serde_json::to_string(&endpoints).unwrap();
    assert!(!json.contains("t0k3n") && !json.contains("sid="), "{json}");
}

#[test]
fn phases_that_do_not_add_up_are_told() {
    let bytes = har(&[
        entry("GET", "http://h/a", 0, 100.0, json!({ "timings": { "wait": 20 } })),
        entry("GET", "http://h/b", 100, 100.0, json!({ "timings": { "ssl": 50, "connect": 9 } })),
        entry("GET", "http://h/c", 200, 100.0, json!({ "startedDateTime": "yesterday" })),
        entry(
            "GET",
            "http://h/d",
            300,
            100.0,
            json!({ "timings": { "connect": 50, "ssl": 40, "wait": 49 } }),
        ),
        entry(
            "GET",
            "http://h/e",
            0,
            1.0,
            json!({ "time": null,
            "startedDateTime": "2026-08-01T10:15:30.5+0200", "timings": { "wait": 60 } }),
        ),
    ]);
    let expected =
        [("GET /a", 100), ("GET /b", 100), ("GET /c", 100), ("GET /d", 100), ("GET /e", 61)];
    check(
        &bytes,
        &expected,
        &["1 entries whose phases do not sum", "1 entries with a TLS", "1 entries whose started"],
    );
}

#[test]
fn damaged_files_give_what_can_be_read() {
    let good = entry("GET", "http://h/a", 0, 10.0, json!({}));
    let text = String::from_utf8(har(&[good.clone(), good.clone(), good.clone()])).unwrap();
    let cut = text.len() - 100;
    check(&text.as_bytes()[..cut], &[("GET /a", 10)], &["cut off; 2 entries"]);
    let broken = har(&[json!({ "request": 1 }), good.clone(), json!(null)]);
    check(&broken, &[("GET /a", 10)], &["entry 1 is left out", "entry 3 is left out"]);
    let many = har(&vec![json!(7); 50]);
    let (endpoints, problems) = parse(&many).unwrap();
    assert_eq!((endpoints.len(), problems.len()), (0, 11), "{problems:?}");
    let deep = format!("{{\"x\":{}", "[".repeat(200_000));
    assert_eq!(parse(deep.as_bytes()), Err(HarError::NoEntries));
    let nested =
        format!("{{\"log\":{{\"entries\":[{},{}]}}}}", "[".repeat(100) + &"]".repeat(100), good);
    check(nested.as_bytes(), &[("GET /a", 10)], &["entry 1 is left out"]);
    assert_eq!(parse(b"<html>"), Err(HarError::NotJson(0)));
    assert_eq!(parse(b""), Err(HarError::NotJson(0)));
    assert_eq!(parse(b"{\"log\":{}}"), Err(HarError::NoEntries));
    check(b"\xef\xbb\xbf{\"log\":{\"entries\":[]}}", &[], &[]);
}

#[test]
fn sites() {
    for (a, b, same) in [
        ("www.h.io", "api.h.io", true),
        ("shop.co.uk", "other.co.uk", false),
        ("a.shop.co.uk", "shop.co.uk", true),
        ("localhost", "127.0.0.1", true),
        ("10.0.0.1", "10.0.0.2", false),
        ("api", "web", false),
    ] {
        assert_eq!(site_of(a) == site_of(b), same, "{a} {b}");
    }
    assert_eq!(host_of("http://me:x@[::1]:80/a"), "[::1]");
    assert_eq!(host_of("http://h:80/a"), "h");
}
