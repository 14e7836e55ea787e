//! OTLP/JSON: the protobuf messages in JSON, with what exporters really write: ids in hexadecimal
//! or base64, 64-bit numbers as strings or numbers, enumerations as numbers or names, keys in
//! camel case or snake case.

use super::messages::{AnyValue, AnyValueKind, ArrayValue, KeyValue, Resource, Span, Status};
use super::{Collector, Encoding};
use crate::json::{Slice, documents};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct SpanJson {
    #[serde(alias = "trace_id")]
    trace_id: String,
    #[serde(alias = "span_id")]
    span_id: String,
    #[serde(alias = "parent_span_id")]
    parent_span_id: Option<String>,
    name: String,
    kind: Value,
    #[serde(alias = "start_time_unix_nano", deserialize_with = "unsigned")]
    start_time_unix_nano: u64,
    #[serde(alias = "end_time_unix_nano", deserialize_with = "unsigned")]
    end_time_unix_nano: u64,
    attributes: Vec<KeyValueJson>,
    status: Option<StatusJson>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusJson {
    code: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KeyValueJson {
    key: String,
    value: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResourceJson {
    attributes: Vec<KeyValueJson>,
}

/// Walks one or more requests (`JSON lines`) and hands each span to the collector.
pub(super) fn walk(bytes: &[u8], collector: &mut Collector) {
    let mut any = false;
    for document in documents(bytes) {
        let resources = either(document, "resourceSpans", "resource_spans");
        // What a service exports before its first span, and the empty answer's mirror image.
        any |= resources.is_some() || document.text == b"{}";
        for resource in resources.into_iter().flat_map(Slice::elements) {
            walk_resource(resource, collector);
        }
        if !document.whole {
            collector.problem(bytes.len(), "the JSON is cut off; the spans before were read");
        }
    }
    if !any {
        collector.problem(0, "no OTLP trace request: it holds no resourceSpans");
    }
}

fn either<'a>(object: Slice<'a>, camel: &str, snake: &str) -> Option<Slice<'a>> {
    object.members().find(|(k, _)| *k == camel.as_bytes() || *k == snake.as_bytes()).map(|m| m.1)
}

fn walk_resource(slice: Slice, collector: &mut Collector) {
    let resource = slice.get("resource").and_then(|r| {
        let parsed = serde_json::from_slice::<ResourceJson>(r.text);
        let failed = |e: serde_json::Error| {
            collector.problem(r.position, format!("a resource is not read: {e}"));
        };
        parsed.map_err(failed).ok()
    });
    let resource = resource.map(|r| Resource { attributes: attributes(r.attributes) });
    let service = super::service_of(resource);
    let scopes = either(slice, "scopeSpans", "scope_spans");
    for scope in scopes.into_iter().flat_map(Slice::elements) {
        for span in scope.get("spans").into_iter().flat_map(Slice::elements) {
            match serde_json::from_slice::<SpanJson>(span.text) {
                Ok(json) => collector.span(&service, convert(json), span.position, Encoding::Json),
                Err(_) if !span.whole => {}
                Err(e) => collector.problem(span.position, format!("a span is left out: {e}")),
            }
        }
    }
}

fn convert(json: SpanJson) -> Span {
    Span {
        trace_id: id(&json.trace_id, 16),
        span_id: id(&json.span_id, 8),
        parent_span_id: json.parent_span_id.map(|p| id(&p, 8)).unwrap_or_default(),
        name: json.name,
        kind: enumeration(&json.kind, &SPAN_KINDS),
        start_time_unix_nano: json.start_time_unix_nano,
        end_time_unix_nano: json.end_time_unix_nano,
        attributes: attributes(json.attributes),
        dropped_attributes_count: 0,
        status: json
            .status
            .map(|s| Status { message: String::new(), code: enumeration(&s.code, &STATUS_CODES) }),
    }
}

const SPAN_KINDS: [&str; 6] = [
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];
const STATUS_CODES: [&str; 3] = ["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

fn enumeration(value: &Value, names: &[&str]) -> i32 {
    let name = value.as_str();
    let number = value.as_i64().or_else(|| name.and_then(|n| n.parse().ok()));
    let named = || names.iter().position(|n| Some(*n) == name).and_then(|p| i64::try_from(p).ok());
    number.or_else(named).and_then(|n| i32::try_from(n).ok()).unwrap_or(0)
}

/// An id of `length` bytes: hexadecimal by the standard, base64 by mistake; told apart by length.
/// Anything else gives an id of another length, which is refused later.
fn id(text: &str, length: usize) -> Vec<u8> {
    if text.len() == length * 2 {
        let pair = |i: usize| text.get(i..i + 2).and_then(|h| u8::from_str_radix(h, 16).ok());
        return (0..text.len()).step_by(2).map(pair).collect::<Option<_>>().unwrap_or(vec![0]);
    }
    match text {
        "" => Vec::new(),
        _ => STANDARD_NO_PAD.decode(text.trim_end_matches('=')).unwrap_or(vec![0]),
    }
}

fn unsigned<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(0),
        Value::String(text) => text.parse().map_err(|_| D::Error::custom("a time is no number")),
        // Some exporters write 1.7e18.
        Value::Number(n) => n
            .as_u64()
            .or_else(|| n.as_f64().filter(|f| *f >= 0.0).map(|f| f as u64))
            .ok_or_else(|| D::Error::custom("a time is negative")),
        _ => Err(D::Error::custom("a time is neither number nor string")),
    }
}

fn attributes(list: Vec<KeyValueJson>) -> Vec<KeyValue> {
    list.into_iter().map(|a| KeyValue { key: a.key, value: any_value(&a.value) }).collect()
}

/// `{"stringValue": "x"}`. Depth is bounded by the JSON reader's.
fn any_value(value: &Value) -> Option<AnyValue> {
    let (kind, value) = value.as_object()?.iter().next()?;
    let value = match kind.as_str() {
        "stringValue" | "string_value" => AnyValueKind::StringValue(value.as_str()?.to_string()),
        "boolValue" | "bool_value" => AnyValueKind::BoolValue(value.as_bool()?),
        "intValue" | "int_value" => {
            let number = value.as_i64().or_else(|| value.as_str()?.parse().ok())?;
            AnyValueKind::IntValue(number)
        }
        "doubleValue" | "double_value" => {
            let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
            AnyValueKind::DoubleValue(number)
        }
        "arrayValue" | "array_value" => {
            let values = value.get("values").and_then(Value::as_array);
            let values = values.into_iter().flatten().filter_map(any_value).collect();
            AnyValueKind::ArrayValue(ArrayValue { values })
        }
        _ => return None,
    };
    Some(AnyValue { value: Some(value) })
}
