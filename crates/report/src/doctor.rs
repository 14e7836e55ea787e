//! `doctor` for a terminal.

use crate::words::{clean, pad, wrap};
use evidence::{Coverage, Level, ProbeState, Service};

/// What each level gives.
fn meaning(level: Level) -> &'static str {
    match level {
        Level::L0 => "the URL only: client phases and experiments from outside",
        Level::L1 => "the URL and the database",
        Level::L2 => "the wire: every call to a peer, with text and time",
        Level::L3 => "processes and threads: every millisecond can be named",
        Level::L4 => "runtime frames: which line of code burns the CPU",
    }
}

/// Senses below the level that do not work: what the level alone would promise wrongly.
fn gaps(level: Level, coverage: &[Coverage]) -> Vec<&'static str> {
    let lost = |probe: &str| {
        coverage.iter().any(|c| c.probe == probe && c.state == ProbeState::Unavailable)
    };
    let mut out = Vec::new();
    if level > Level::L2 && lost("packet-capture") {
        out.push("without the wire: calls to peers are waits without a name");
    }
    if level > Level::L2 && lost("context-switches") {
        out.push("threads by their sums: how much CPU, not when");
    }
    out
}

/// A service in one line: `node 20.20.2 (pid 4711, 2 workers) on 127.0.0.1:3000`.
pub fn service_line(service: &Service) -> String {
    let serving: Vec<_> = service.processes.iter().filter(|p| p.serving).collect();
    let runtime = serving.first().or(service.processes.first().as_ref()).map_or_else(
        || "unknown runtime".to_string(),
        |p| match &p.runtime.version {
            Some(v) => format!("{} {v}", p.runtime.name),
            None => p.runtime.name.clone(),
        },
    );
    if service.processes.is_empty() {
        return clean(&format!("{} on {}", service.name, service.listener.address));
    }
    let pids: Vec<String> = serving.iter().map(|p| p.pid.to_string()).collect();
    let word = if pids.len() == 1 { "pid" } else { "pids" };
    clean(&format!(
        "{}: {runtime} ({word} {}) on {}",
        service.name,
        pids.join(", "),
        service.listener.address
    ))
}

/// The checkup as text.
pub fn doctor(
    level: Level,
    service: Option<&Service>,
    coverage: &[Coverage],
    width: usize,
) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&format!("level {level:?}: {}", meaning(level)));
    for gap in gaps(level, coverage) {
        line(&format!("  {gap}"));
    }
    match service {
        Some(service) => {
            line(&format!("  service  {}", service_line(service)));
            for peer in &service.peers {
                line(&format!(
                    "  peer     {} ({} connections)",
                    clean(&peer.name),
                    peer.connections
                ));
            }
            if !service.libraries.is_empty() {
                line(&format!("  uses     {}", clean(&service.libraries.join(", "))));
            }
        }
        None => line("  no service found behind this address on this host"),
    }
    line("");
    for c in coverage {
        let mark = match c.state {
            ProbeState::Ok => "ok     ",
            ProbeState::Partial => "partial",
            ProbeState::Unavailable => "no     ",
        };
        let lead = format!("  {mark}  {}", pad(&clean(&c.probe), 20));
        let mut parts = wrap(&clean(&c.reason), width.saturating_sub(31)).into_iter();
        line(&format!("{lead}{}", parts.next().unwrap_or_default()));
        for part in parts {
            line(&format!("{}{part}", " ".repeat(31)));
        }
        if !c.hint.is_empty() {
            for part in wrap(&clean(&format!("hint: {}", c.hint)), width.saturating_sub(31)) {
                line(&format!("{}{part}", " ".repeat(31)));
            }
        }
    }
    out
}
