//! Properties of every parser: no input panics, what was quoted comes back, what is cut off gives
//! what came before the cut.

use evidence::{Body, Redactor};
use formats::otlp::messages::{
    AnyValue, AnyValueKind, ExportTraceServiceRequest, KeyValue, ResourceSpans, ScopeSpans, Span,
};
use formats::otlp::{Encoding, decode};
use formats::{Problem, curl, endpoint, har, login};
use proptest::prelude::*;
use prost::Message;

/// Text with everything that quoting, templates and JSON care about.
fn hostile_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("curl "),
        Just("'"),
        Just("\""),
        Just("$'"),
        Just("\\"),
        Just("^"),
        Just("\n"),
        Just("\r\n"),
        Just("-H "),
        Just("-d@x"),
        Just("--data-urlencode "),
        Just("-F a=@b;type="),
        Just("-sSkXPOST"),
        Just("--"),
        Just("-b "),
        Just("-u "),
        Just("env:"),
        Just("file:"),
        Just(": "),
        Just("http://"),
        Just("h.io/"),
        Just("[1-20]"),
        Just("{1..20}"),
        Just("{a,b}"),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just("?token="),
        Just("&"),
        Just("%7"),
        Just("é"),
        Just("💣"),
        Just("\u{0}"),
        Just("@"),
        Just(","),
        Just("POST "),
        Just("\\u"),
        Just("\\x"),
        Just("“"),
        Just("{\"log\":{\"entries\":["),
        Just("{\"resourceSpans\":["),
    ];
    prop::collection::vec(prop_oneof![piece.prop_map(String::from), ".{0,3}"], 0..24)
        .prop_map(|pieces| pieces.concat())
}

fn within(problems: &[Problem], length: usize) -> bool {
    problems.iter().all(|p| p.position <= length)
}

/// As a POSIX shell user quotes.
fn posix(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// As Chrome quotes for `cmd`: the C runtime's escapes, then a caret before all that `cmd` knows.
fn cmd(text: &str) -> String {
    let mut out = String::from("^\"");
    for c in text.replace('\\', "\\\\").replace('"', "\\\"").chars() {
        match c {
            '\n' => out.push_str("^\n\n"),
            c if c.is_ascii_alphanumeric() || " -_:/?=.,'".contains(c) || !c.is_ascii() => {
                out.push(c);
            }
            c => {
                out.push('^');
                out.push(c);
            }
        }
    }
    out + "^\""
}

proptest! {
    #[test]
    fn no_text_panics(text in hostile_text()) {
        let files = |_: &str| Ok(b"x\ty".to_vec());
        for command in [text.clone(), format!("curl {text}"), format!("curl h.io {text}")] {
            match curl::parse_with(&command, Some("http://base"), &files) {
                Ok((template, problems)) => {
                    prop_assert!(within(&problems, command.len()));
                    prop_assert!(template.url.starts_with("http"));
                    serde_json::to_string(&template).unwrap();
                }
                Err(e) => prop_assert!(e.position <= command.len()),
            }
        }
        if let Ok(endpoint) = endpoint::parse(&text, Some("http://base")) {
            prop_assert!(endpoint.template.url.starts_with("http"));
        }
        let _ = login::parse(&text, Some("http://base"));
        let _ = endpoint::header(&text);
        evidence::redacted_text(&text);
    }

    #[test]
    fn redaction_is_idempotent(text in hostile_text()) {
        let once = evidence::redacted_url(&text);
        prop_assert_eq!(evidence::redacted_url(&once), once);
        let once = evidence::redacted_text(&text);
        prop_assert_eq!(evidence::redacted_text(&once), once);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), text in hostile_text()) {
        for input in [&bytes[..], text.as_bytes()] {
            if let Ok((_, problems)) = har::parse(input) {
                prop_assert!(within(&problems, input.len()));
            }
            for encoding in [Encoding::Protobuf, Encoding::Json] {
                let (_, problems) = decode(input, encoding, 0, &Redactor::new(1));
                prop_assert!(within(&problems, input.len()));
            }
        }
    }

    #[test]
    fn what_is_quoted_comes_back(value in "[^\u{0}-\u{8}\u{b}-\u{1f}\u{7f}]{0,40}", data in "[^\r]{0,40}") {
        let value = value.replace(['\n', '\t'], "");
        let value = value.trim();
        // Those mean something of their own in a header.
        prop_assume!(!value.is_empty() && !value.contains("env:") && !value.contains("file:"));
        prop_assume!(!value.ends_with([':', ';']));
        prop_assume!(!value.chars().any(char::is_control));
        for quote in [posix, cmd] {
            let command = format!(
                "curl {} -H {} --data-raw {}",
                quote("http://h.io/a?b=1"), quote(&format!("x: {value}")), quote(&data)
            );
            let (template, problems) = curl::parse(&command, None).unwrap();
            prop_assert_eq!(&problems, &[], "{}", &command);
            prop_assert_eq!(&template.url, "http://h.io/a?b=1");
            let expected = evidence::HeaderValue::Plain { text: value.to_string() };
            prop_assert_eq!(&template.headers[0], &("x".to_string(), expected));
            let body = match template.body {
                Body::Inline { bytes, .. } => String::from_utf8(bytes).unwrap(),
                Body::Empty => String::new(),
                Body::File { path } => path,
            };
            prop_assert_eq!(&body, &data, "{}", command);
        }
    }

    #[test]
    fn secrets_never_show_in_names(secret in "[a-z]{8}[0-9]{4}", page in 0..99_u32) {
        let text = format!("/o?page={page}&access_token={secret}&x=1");
        let endpoint = endpoint::parse(&text, Some("http://h.io")).unwrap();
        prop_assert!(endpoint.template.url.contains(&secret), "it is sent");
        let stored = serde_json::to_string(&endpoint).unwrap();
        prop_assert!(!stored.contains(&secret) && stored.contains("access_token=***"));
    }

    #[test]
    fn a_cut_har_gives_the_entries_before_the_cut(entries in 1..12_usize, at in 0.0..1.0_f64) {
        let entry = |i: usize| serde_json::json!({
            "startedDateTime": "2026-08-01T00:00:00Z", "time": 1,
            "request": { "method": "GET", "url": format!("http://h.io/p{i}/x") },
            "response": { "status": 200, "content": { "text": "[\"{\\" } },
        });
        let entries: Vec<_> = (0..entries).map(entry).collect();
        let json = serde_json::json!({ "log": { "entries": entries } }).to_string();
        let start = json.find('[').unwrap() + 1;
        let cut = start + ((json.len() - start) as f64 * at) as usize;
        let whole = json[start..cut].matches("\"url\"").count();
        let (endpoints, problems) = har::parse(&json.as_bytes()[..cut]).unwrap();
        // `url` is the last key of an entry: an entry is whole a few bytes after it.
        prop_assert!(endpoints.len() <= whole && whole <= endpoints.len() + 1);
        prop_assert!(!problems.is_empty());
    }

    #[test]
    fn encoded_spans_come_back(
        spans in prop::collection::vec(
            (any::<[u8; 16]>(), any::<[u8; 8]>(), "[a-z ]{0,9}", 0..6_i32, any::<u32>(), any::<u32>(),
             "[a-z.]{1,9}"),
            0..20,
        ),
        at in 0.0..1.0_f64,
    ) {
        let made = spans.iter().map(|(trace, id, name, kind, start, length, value)| Span {
            trace_id: trace.to_vec(),
            span_id: id.to_vec(),
            name: name.clone(),
            kind: *kind,
            start_time_unix_nano: u64::from(*start),
            end_time_unix_nano: u64::from(*start) + u64::from(*length),
            attributes: vec![KeyValue {
                key: "server.address".into(),
                value: Some(AnyValue { value: Some(AnyValueKind::StringValue(value.clone())) }),
            }],
            ..Span::default()
        });
        let scope_spans = vec![ScopeSpans { spans: made.collect(), ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        let bytes = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let (read, problems) = decode(&bytes, Encoding::Protobuf, 7, &Redactor::new(1));
        prop_assert_eq!(problems, []);
        prop_assert_eq!(read.len(), spans.len());
        for (read, (_, _, name, _, start, length, value)) in read.iter().zip(&spans) {
            prop_assert_eq!(&read.name, name);
            prop_assert_eq!(read.start.0, u64::from(*start) + 7);
            prop_assert_eq!((read.end - read.start).0, u64::from(*length));
            prop_assert_eq!(&read.attributes["server.address"], value);
        }
        let json = to_json(&spans);
        let (from_json, problems) = decode(json.as_bytes(), Encoding::Json, 7, &Redactor::new(1));
        prop_assert_eq!(problems, []);
        prop_assert_eq!(&from_json, &read);
        for (bytes, encoding) in
            [(bytes.as_slice(), Encoding::Protobuf), (json.as_bytes(), Encoding::Json)]
        {
            let cut = (bytes.len() as f64 * at) as usize;
            let (some, _) = decode(&bytes[..cut], encoding, 7, &Redactor::new(1));
            prop_assert_eq!(&some[..], &read[..some.len()]);
        }
    }
}

type Made = ([u8; 16], [u8; 8], String, i32, u32, u32, String);

fn to_json(spans: &[Made]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02X}")).collect::<String>();
    let spans: Vec<_> = spans
        .iter()
        .map(|(trace, id, name, kind, start, length, value)| {
            serde_json::json!({
                "traceId": hex(trace), "spanId": hex(id), "name": name, "kind": kind,
                "startTimeUnixNano": start.to_string(),
                "endTimeUnixNano": u64::from(*start) + u64::from(*length),
                "attributes": [{ "key": "server.address", "value": { "stringValue": value } }],
            })
        })
        .collect();
    serde_json::json!({ "resourceSpans": [{ "scopeSpans": [{ "spans": spans }] }] }).to_string()
}
