//! OTLP/protobuf. The outer three levels are walked by hand, so that a broken or cut off span costs
//! only itself; spans and resources are decoded by prost.

use super::messages::{Resource, Span};
use super::{Collector, Encoding};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Walks a request and hands each span to the collector.
pub(super) fn walk(bytes: &[u8], collector: &mut Collector) {
    for field in fields(bytes, 0, collector) {
        if field.tag == 1 {
            walk_resource(&field, collector);
        }
    }
}

fn walk_resource(resource_spans: &Field, collector: &mut Collector) {
    let members = fields(resource_spans.contents, resource_spans.at, collector);
    let mut resource = None;
    for field in members.iter().filter(|f| f.tag == 1 && f.whole) {
        match Resource::decode(field.contents) {
            Ok(read) => resource = Some(read),
            Err(e) => collector.problem(field.at, format!("a resource is not read: {e}")),
        }
    }
    let service = super::service_of(resource);
    for scope in members.iter().filter(|f| f.tag == 2) {
        for field in fields(scope.contents, scope.at, collector) {
            // A span that is cut off may still decode, as another span.
            if field.tag != 2 || !field.whole {
                continue;
            }
            match Span::decode(field.contents) {
                Ok(span) => collector.span(&service, span, field.at, Encoding::Protobuf),
                Err(e) => collector.problem(field.at, format!("a span is left out: {e}")),
            }
        }
    }
}

/// A length-delimited field.
struct Field<'a> {
    tag: u32,
    /// Offset of its contents.
    at: usize,
    contents: &'a [u8],
    /// False when the message ends inside it.
    whole: bool,
}

/// Length-delimited fields of a message; others are skipped. When the message is broken or cut
/// off, the fields before are given, and the one that is cut as far as it goes.
fn fields<'a>(bytes: &'a [u8], offset: usize, collector: &mut Collector) -> Vec<Field<'a>> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let at = offset + bytes.len() - rest.len();
        let (tag, wire) = match decode_key(&mut rest) {
            Ok(key) => key,
            Err(e) => {
                collector.problem(at, format!("not protobuf from here on: {e}"));
                break;
            }
        };
        if wire != WireType::LengthDelimited {
            if let Err(e) = skip_field(wire, tag, &mut rest, DecodeContext::default()) {
                collector.problem(at, format!("not protobuf from here on: {e}"));
                break;
            }
            continue;
        }
        let length = match decode_varint(&mut rest) {
            Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Err(e) => {
                collector.problem(at, format!("not protobuf from here on: {e}"));
                break;
            }
        };
        let start = offset + bytes.len() - rest.len();
        if length > rest.len() {
            collector.problem(at, "the message is cut off here");
        }
        let whole = length <= rest.len();
        let (contents, after) = rest.split_at(length.min(rest.len()));
        found.push(Field { tag, at: start, contents, whole });
        rest = after;
    }
    found
}
