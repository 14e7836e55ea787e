//! The recorded requests of a run with the calls of each: for a reader who wants to count himself.

use crate::words::{clean, cut, duration, pad, pad_left};
use evidence::{Arm, Operation, RequestReport};
use serde::Serialize;
use std::fmt::Write;

const SCHEMA: &str = "perfwright/request/1";

/// A line of JSON: which contract it keeps, and the request.
#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    #[serde(flatten)]
    request: &'a RequestReport,
}

/// One JSON object a line and request; `schema/request-1.schema.json` is the contract.
pub fn requests_json(requests: &[RequestReport]) -> String {
    let line = |request| {
        let line = serde_json::to_string(&Line { schema: SCHEMA, request });
        line.unwrap_or_else(|e| format!("{{\"schema\":\"{SCHEMA}\",\"error\":\"{e}\"}}"))
    };
    requests.iter().map(|r| line(r) + "\n").collect()
}

/// For a terminal: one block a request, one line a call.
pub fn requests_text(requests: &[RequestReport], width: usize) -> String {
    let mut out = String::new();
    for r in requests {
        let head = format!(
            "{} · {} · window {} · {} · {} calls",
            clean(&r.endpoint),
            arm(&r.arm),
            r.window,
            duration(r.ms),
            r.calls.len()
        );
        let _ = writeln!(out, "{}", cut(&head, width));
        for c in &r.calls {
            let mut text = clean(&c.text);
            if !c.text_known {
                text = format!("(text not certain) {text}");
            }
            if c.operation != Operation::Execute {
                text = format!("{}: {text}", operation(c.operation));
            }
            if let Some(rows) = c.rows {
                text = format!("{rows} rows  {text}");
            }
            if let Some(error) = &c.error {
                text = format!("error {}  {text}", clean(error));
            }
            let at = pad_left(&format!("+{}", duration(c.start_ms)), 11);
            let took = pad_left(&duration(c.ms), 9);
            let line = format!("{at} {took}  {} {text}", pad(&c.line, 8));
            let _ = writeln!(out, "{}", cut(&line, width).trim_end());
        }
    }
    out
}

fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Execute => "execute",
        Operation::Prepare => "prepare",
        Operation::Connect => "connect",
        Operation::Session => "session",
        Operation::Push => "push",
    }
}

fn arm(arm: &Arm) -> String {
    match arm {
        Arm::Cold => "cold".into(),
        Arm::Warm => "warm".into(),
        Arm::Waking => "waking the service".into(),
        Arm::Sized { size } => format!("size {size}"),
        Arm::Concurrent { in_flight } => format!("{in_flight} in flight"),
        Arm::Traced => "traced".into(),
        Arm::Acknowledged => "acknowledged at once".into(),
        Arm::Delayed { peer, delay_ms } => format!("{} delayed {delay_ms} ms", clean(peer)),
    }
}
