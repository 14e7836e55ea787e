//! The first true sentence about an endpoint, from whatever is known so far.

use crate::{Knowledge, ledger, timeline};
use evidence::{Arm, Band, Exchange, Failure, Line, Operation, Timeline, WallEntry, WallLedger};
use std::collections::BTreeSet;

/// A line is named when it holds at least this share of the latency; at most three are.
const NAMED: f64 = 0.1;

/// Connections opened per request from which on they are named.
const OPENED: f64 = 0.5;

/// The arm whose latency is the endpoint's: warm, else cold, else the first with a success. `None`
/// when nothing was driven.
pub fn arm_of(k: &Knowledge, endpoint: &str) -> Option<Arm> {
    let arms = k.arms_of(endpoint);
    let succeeded = |arm: &&Arm| k.exchanges_of(endpoint, arm).next().is_some();
    let preferred = [Arm::Warm, Arm::Cold];
    let found = preferred.iter().find(succeeded).or_else(|| arms.iter().find(succeeded));
    found.or_else(|| arms.iter().next()).cloned()
}

/// The sentence. Numbers are means over the typical requests of the headline arm.
pub fn of(k: &Knowledge, endpoint: &str) -> String {
    let Some(arm) = arm_of(k, endpoint) else {
        return "No answer was recorded.".into();
    };
    let [wall, other] = ledger::walls(k, endpoint, &arm, [Band::Typical, Band::Other]);
    if wall.requests == 0 {
        return failed(k, endpoint, &arm);
    }
    let whole = duration(wall.latency_ns);
    let kinds = kinds(&wall, &other);
    let mut parts = vec![];
    let mut named = vec![];
    if let Some((line, part)) = chain(k, endpoint, &arm, &wall) {
        parts.push(part);
        named.push(line);
    }
    let mut lines: Vec<(Line, f64)> = LINES.iter().map(|l| (*l, wall.line_ns(*l))).collect();
    lines.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    // What a chain of calls spans holds CPU and run queue too; naming those would count twice.
    let spanned = |l: Line| matches!(l, Line::Cpu | Line::Runnable | Line::Unattributed);
    for (line, ns) in lines {
        let hidden = named.contains(&line) || !named.is_empty() && spanned(line);
        if parts.len() < 3 && !hidden && ns >= NAMED * wall.latency_ns {
            parts.push(sentence(k, &wall, line, ns));
        }
    }
    if parts.is_empty() {
        parts.push("no single thing stands out".into());
    }
    format!("{whole}{kinds}: {}{}.", parts.join("; "), blind(k, endpoint, &arm, &wall))
}

/// That there is another kind of requests, and what they have more or less of.
fn kinds(wall: &WallLedger, other: &WallLedger) -> String {
    if other.requests == 0 {
        return String::new();
    }
    let (of, most) = (other.of, other.of - other.requests);
    let apart = |line: &Line| other.line_ns(*line) - wall.line_ns(*line);
    let slower = other.latency_ns > wall.latency_ns;
    let sign = if slower { 1.0 } else { -1.0 };
    let differs = LINES.iter().max_by(|a, b| (sign * apart(a)).total_cmp(&(sign * apart(b))));
    let why = differs.map_or(String::new(), |line| {
        let (ns, word) = (apart(line).abs(), if slower { "more" } else { "less" });
        let ledger = if slower { other } else { wall };
        format!(" ({} {word} is {})", duration(ns), phrase(ledger, *line))
    });
    let whole = duration(other.latency_ns);
    format!(" in {most} of {of} requests, {whole} in the other {}{why}", other.requests)
}

const LINES: [Line; 18] = [
    Line::Dns,
    Line::Connect,
    Line::Tls,
    Line::Send,
    Line::Receive,
    Line::Cpu,
    Line::Gc,
    Line::Runnable,
    Line::Lock,
    Line::Disk,
    Line::Timer,
    Line::Database,
    Line::Cache,
    Line::Downstream,
    Line::Pool,
    Line::Queueing,
    Line::Generator,
    Line::Unattributed,
];

fn sentence(k: &Knowledge, wall: &WallLedger, line: Line, ns: f64) -> String {
    if matches!(line, Line::Database | Line::Cache | Line::Downstream) {
        let calls = counted(k, wall, line);
        let verb = if calls.starts_with("1 ") { "is" } else { "are" };
        return format!("{} {verb} {calls}", duration(ns));
    }
    format!("{} is {}", duration(ns), phrase(wall, line))
}

/// What a line means, as the end of a sentence.
fn phrase(wall: &WallLedger, line: Line) -> &'static str {
    let held = || wall.entries.iter().filter(|e| e.detail == timeline::ANSWER_UNDER_WAY);
    match line {
        Line::Receive if held().map(|e| e.ns).sum::<f64>() > 0.5 * wall.line_ns(line) => {
            "waiting for the rest of the answer after its first packet"
        }
        Line::Database => "the database",
        Line::Cache => "the cache",
        Line::Downstream => "other services",
        Line::Dns => "name resolution",
        Line::Connect => "connecting",
        Line::Tls => "the TLS handshake",
        Line::Send => "sending the request",
        Line::Receive => "receiving the answer",
        Line::Cpu => "CPU in the service",
        Line::Gc => "garbage collection",
        Line::Runnable => "waiting for a free CPU",
        Line::Lock => "waiting for a lock or another thread",
        Line::Disk => "waiting for the disk",
        Line::Timer => "a sleep or time-out",
        Line::Pool => "waiting for a pooled connection",
        Line::Queueing => "queueing behind other work",
        Line::Generator => "our own delay",
        Line::Unattributed => "not explained yet",
    }
}

/// `101 SQL statements, 100 of them alike`. Opening a connection is no statement, and is said.
fn counted(k: &Knowledge, wall: &WallLedger, line: Line) -> String {
    let connects: BTreeSet<&str> =
        k.calls.iter().filter(|c| c.operation == Operation::Connect).map(|c| &*c.text).collect();
    let of_line = || {
        let entries = wall.entries.iter().filter(|e| e.line == line);
        entries.filter(|e| !connects.contains(e.detail.as_str()))
    };
    let opens = |e: &WallEntry| e.line == line && connects.contains(e.detail.as_str());
    let opened = wall.entries.iter().any(|e| opens(e) && e.calls >= OPENED);
    let opened = if opened { ", and opening a connection" } else { "" };
    let calls: f64 = of_line().map(|e| e.calls).sum();
    let alike = of_line().map(|e| e.calls).fold(0.0, f64::max);
    let (one, many) = match line {
        Line::Database => ("SQL statement", "SQL statements"),
        Line::Cache => ("cache command", "cache commands"),
        _ => ("call to another service", "calls to other services"),
    };
    let number = number(calls);
    let noun = if number == "1" { one } else { many };
    if calls > 1.5 && alike > 1.5 && calls - alike < 0.05 {
        format!("{number} {noun}, all alike{opened}")
    } else if alike > 1.5 {
        format!("{number} {noun}, {} of them alike{opened}", self::number(alike))
    } else {
        format!("{number} {noun}{opened}")
    }
}

/// The chain of many calls where the ledger shows less than it is: the time between them goes with
/// them, and calls to an embedded database are CPU of the service.
fn chain(k: &Knowledge, endpoint: &str, arm: &Arm, wall: &WallLedger) -> Option<(Line, String)> {
    let timelines = timeline::build(k, endpoint, arm);
    let lines = [Line::Database, Line::Cache, Line::Downstream];
    let best =
        lines.into_iter().map(|l| (l, span(&timelines, l))).max_by(|a, b| a.1.total_cmp(&b.1));
    let (line, spanned) = best?;
    let spanned = spanned.min(wall.latency_ns);
    let own = wall.line_ns(line);
    let of_line = || wall.entries.iter().filter(|e| e.line == line);
    let calls: f64 = of_line().map(|e| e.calls).sum();
    let elapsed = of_line().map(|e| e.elapsed_ns).sum::<f64>().clamp(own.min(spanned), spanned);
    // Calls that hardly cost anything did not make the time between them either.
    let shown = own > 0.7 * spanned || elapsed < 0.1 * spanned;
    if calls < 5.0 || spanned < 0.5 * wall.latency_ns || shown {
        return None;
    }
    let calls = counted(k, wall, line);
    let inside = match elapsed > 0.9 * spanned {
        true => "nearly all of it in them".to_string(),
        false => format!("{} of it in them, the rest between them", duration(elapsed)),
    };
    let text =
        format!("{} pass from the first to the last of {calls} ({inside})", duration(spanned));
    Some((line, text))
}

/// Mean time from the first call's start to the last call's end.
fn span(timelines: &[Timeline], line: Line) -> f64 {
    let of = |t: &Timeline| {
        let calls = || t.intervals.iter().filter(|i| i.call.is_some() && i.line == line);
        let start = calls().map(|i| i.start).min().unwrap_or_default();
        (calls().map(|i| i.end).max().unwrap_or_default() - start).0 as f64
    };
    stats::mean(&timelines.iter().map(of).collect::<Vec<_>>())
}

/// What cannot be seen, said when it matters.
fn blind(k: &Knowledge, endpoint: &str, arm: &Arm, wall: &WallLedger) -> String {
    let hidden = wall.line_ns(Line::Unattributed);
    let inside = wall.entries.iter().any(|e| {
        !matches!(
            e.line,
            Line::Dns
                | Line::Connect
                | Line::Tls
                | Line::Send
                | Line::Receive
                | Line::Generator
                | Line::Unattributed
        )
    });
    if hidden < 0.5 * wall.latency_ns || inside {
        return String::new();
    }
    let timing = k.exchanges_of(endpoint, arm).filter_map(|x| x.server_timing.as_deref()).next();
    let said = timing.map_or(String::new(), |t| {
        let short: String = t.chars().take(80).filter(|c| !c.is_control()).collect();
        format!("; the service itself says: {short}")
    });
    format!(", because nothing inside the service could be observed{said}")
}

fn failed(k: &Knowledge, endpoint: &str, arm: &Arm) -> String {
    let attempts: Vec<&Exchange> = k.attempts_of(endpoint, arm).collect();
    let failures = attempts.iter().filter(|x| x.failure.is_some()).count();
    let why = match attempts.iter().find_map(|x| x.failure.as_ref()) {
        None => return unusable(&attempts),
        Some(Failure::Dns) => "the name could not be resolved".into(),
        Some(Failure::Connect) => "no connection could be made".into(),
        Some(Failure::Tls) => "the TLS handshake failed".into(),
        Some(Failure::Timeout) => "no full answer within the time limit".into(),
        Some(Failure::Reset) => "the connection broke before the answer was complete".into(),
        Some(Failure::Protocol) => "the answer is not valid HTTP".into(),
        Some(Failure::TooLarge) => "the answer is larger than the limit".into(),
        Some(Failure::Status { code }) => format!("status {code}"),
        Some(Failure::LoginRequired) => "a login is required".to_string(),
    };
    format!("{failures} of {} requests failed: {why}.", attempts.len())
}

/// Requests that succeeded, of which something that was recorded is missing.
fn unusable(attempts: &[&Exchange]) -> String {
    let latencies: Vec<f64> = attempts.iter().map(|x| x.latency().0 as f64).collect();
    let whole = duration(stats::median(&latencies).unwrap_or(0.0));
    format!("{whole}: no part of it can be told, because records of each request were lost.")
}

fn number(v: f64) -> String {
    let whole = v.round();
    if (v - whole).abs() < 0.05 { format!("{whole}") } else { format!("{v:.1}") }
}

/// A duration for people: three digits.
pub fn duration(ns: f64) -> String {
    let ms = ns / 1e6;
    match ms {
        m if m >= 9_995.0 => format!("{:.1} s", m / 1e3),
        m if m >= 999.5 => format!("{:.2} s", m / 1e3),
        m if m >= 99.95 => format!("{m:.0} ms"),
        m if m >= 9.995 => format!("{m:.1} ms"),
        m => format!("{m:.2} ms"),
    }
}
