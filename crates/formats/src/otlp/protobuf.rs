//! OTLP/protobuf. The outer three levels are walked by hand, so that a broken or cut off span costs
//! only itself; spans and resources are decoded by prost.

use super::messages::{Resource, Span};
use super::{Collector, Encoding};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Walks a request and hands each span to the collector.
pub(super) fn walk(bytes: &[u8], collector: &mut Collector) {
    for (tag, at, resource_spans) in fields(bytes, 0, collector) {
        if tag == 1 {
            walk_resource(resource_spans, at, collector);
        }
    }
}

fn walk_resource(bytes: &[u8], offset: usize, collector: &mut Collector) {
    let members = fields(bytes, offset, collector);
    let mut resource = None;
    for (_, at, text) in members.iter().filter(|m| m.0 == 1) {
        match Resource::decode(*text) {
            Ok(read) => resource = Some(read),
            Err(e) => collector.problem(*at, format!("a resource is not read: {e}")),
        }
    }
    let service = super::service_of(resource);
    for (_, at, scope) in members.into_iter().filter(|m| m.0 == 2) {
        for (tag, at, span) in fields(scope, at, collector) {
            if tag != 2 {
                continue;
            }
            match Span::decode(span) {
                Ok(span) => collector.span(&service, span, at, Encoding::Protobuf),
                Err(e) => collector.problem(at, format!("a span is left out: {e}")),
            }
        }
    }
}

/// Length-delimited fields of a message: tag, offset and contents. Others are skipped. When the
/// message is broken or cut off, the fields before are given, and the one that is cut as far as it
/// goes.
fn fields<'a>(
    bytes: &'a [u8],
    offset: usize,
    collector: &mut Collector,
) -> Vec<(u32, usize, &'a [u8])> {
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
        let (field, after) = rest.split_at(length.min(rest.len()));
        found.push((tag, start, field));
        rest = after;
    }
    found
}
