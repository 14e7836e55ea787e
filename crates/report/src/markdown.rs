//! Markdown, for tickets and pull requests.

use crate::words::{
    NoFinding, clean, clean_lines, count, duration, no_finding, no_latency, objective, percent,
};
use evidence::{EndpointReport, Finding, LedgerRow, ProbeState, Report};
use std::fmt::Write;

/// The report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    head(&mut out, report);
    for endpoint in &report.endpoints {
        self::endpoint(&mut out, endpoint);
    }
    out.push_str("\n## Findings\n");
    if report.findings.is_empty() {
        none(&mut out, &no_finding(report));
    }
    for finding in &report.findings {
        self::finding(&mut out, finding);
    }
    rest(&mut out, report);
    out
}

/// Writing to a `String` cannot fail.
macro_rules! put {
    ($out:expr, $($argument:tt)*) => {
        let _ = writeln!($out, $($argument)*);
    };
}

fn none(out: &mut String, none: &NoFinding) {
    // The sentence begins with the ASCII word `none`.
    let (first, rest) = none.text.split_at(1);
    put!(out, "\n{}{}.", first.to_uppercase(), cell(rest));
    if let Some(command) = &none.command {
        put!(out, "\nNext: `{}`", code(command));
    }
}

fn head(out: &mut String, report: &Report) {
    put!(out, "# perfwright: {}\n", cell(&report.target.url));
    put!(
        out,
        "Level {}, run `{}`, {}.",
        report.target.level,
        code(&report.run.id),
        report.run.tool
    );
    for service in &report.target.services {
        put!(out, "- service: {}", cell(service));
    }
    for peer in &report.target.peers {
        put!(out, "- peer: {}", cell(peer));
    }
    if let Some(why) = &report.run.ended_because {
        put!(out, "\nThe run ended early: {}", cell(why));
    }
}

fn endpoint(out: &mut String, endpoint: &EndpointReport) {
    put!(out, "\n## `{}`\n\n{}", code(&endpoint.name), cell(&endpoint.headline));
    for one in &endpoint.objectives {
        put!(out, "\n{}", cell(&objective(one)));
    }
    let Some(latency) = endpoint.latency_ms else {
        put!(out, "\n{}", no_latency(endpoint));
        return;
    };
    let or_none = |v: Option<f64>| v.map_or_else(|| "not bounded".into(), duration);
    put!(out, "\n| requests | errors | typical | mean | p50 | p95 | p99 |");
    put!(out, "|---|---|---|---|---|---|---|");
    put!(
        out,
        "| {} | {} | {} | {} | {} | {} | {} |",
        endpoint.requests,
        endpoint.errors,
        duration(latency.typical),
        duration(latency.mean),
        duration(latency.p50),
        or_none(latency.p95),
        or_none(latency.p99)
    );
    ledger(out, &endpoint.ledger);
    if let Some(other) = &endpoint.other_kind {
        let (n, of, ms) = (other.requests, other.of, duration(other.mean_ms));
        put!(out, "\nThe other {n} of {of} requests, {ms}:");
        ledger(out, &other.ledger);
    }
    demand_and_curve(out, endpoint);
}

fn ledger(out: &mut String, rows: &[LedgerRow]) {
    if !rows.is_empty() {
        put!(out, "\n| time | share | line | detail | calls | 90 % interval |");
        put!(out, "|--:|--:|---|---|--:|---|");
    }
    for row in rows {
        put!(
            out,
            "| {} | {} | {} | {} | {} | {} – {} |",
            duration(row.ms),
            percent(row.share),
            row.line,
            cell(&row.detail),
            if row.calls > 0.0 { count(row.calls) } else { String::new() },
            duration(row.low),
            duration(row.high)
        );
    }
}

fn demand_and_curve(out: &mut String, endpoint: &EndpointReport) {
    if !endpoint.demand.is_empty() {
        put!(out, "\n| resource | per request | unit |");
        put!(out, "|---|--:|---|");
    }
    for d in &endpoint.demand {
        put!(out, "| {} | {:.3} | {} |", cell(&d.resource), d.per_request, d.unit);
    }
    if !endpoint.curve.is_empty() {
        put!(out, "\n| in flight | per second | p50 | errors |");
        put!(out, "|--:|--:|--:|--:|");
    }
    for p in &endpoint.curve {
        put!(out, "| {} | {:.1} | {} | {} |", p.concurrency, p.rps, duration(p.p50), p.errors);
    }
}

fn finding(out: &mut String, f: &Finding) {
    let severity = format!("{:?}", f.severity).to_lowercase();
    put!(out, "\n### {} {} ({severity})\n", f.id, f.rule);
    put!(out, "{}\n", cell(&f.claim));
    put!(out, "- endpoint: `{}`", code(&f.endpoint));
    if let Some(at) = &f.location {
        let line = at.line.map(|n| format!(":{n}")).unwrap_or_default();
        let function = at.function.as_deref().map(|x| format!(" in `{}`", code(x)));
        put!(out, "- where: `{}{line}`{}", code(&at.file), function.unwrap_or_default());
    }
    put!(out, "- fix: {}", cell(&f.fix.summary));
    if let Some(p) = &f.prediction {
        let e = &p.p50_ms;
        put!(
            out,
            "- predicted p50: {} → {} (90 %: {} – {}){}",
            duration(e.now),
            duration(e.after),
            duration(e.low),
            duration(e.high),
            p.holds_for.as_ref().map_or(String::new(), |of| format!(", for {}", cell(of)))
        );
    }
    put!(out, "- risk: {}", cell(&f.fix.risk));
    put!(out, "- verify: `{}`", code(&f.fix.verify));
    if !f.fix.patch.is_empty() {
        put!(out, "\n```\n{}\n```", clean_lines(&f.fix.patch).join("\n").replace("```", "'''"));
    }
}

fn rest(out: &mut String, report: &Report) {
    if !report.exonerated.is_empty() {
        put!(out, "\n## Checked, innocent\n");
    }
    for e in &report.exonerated {
        put!(out, "- `{}` ({}): {}", e.rule, cell(&e.endpoint), cell(&e.why));
    }
    if !report.undecided.is_empty() {
        put!(out, "\n## Undecided\n");
    }
    for u in &report.undecided {
        let command = code(&u.command);
        put!(out, "- `{}` ({}): {} `{command}`", u.rule, cell(&u.endpoint), cell(&u.missing));
    }
    let lost: Vec<_> = report.coverage.iter().filter(|c| c.state != ProbeState::Ok).collect();
    if !lost.is_empty() {
        put!(out, "\n## Not fully observed\n");
    }
    for c in lost {
        put!(out, "- `{}`: {} {}", c.probe, cell(&c.reason), cell(&c.hint));
    }
    if !report.warnings.is_empty() {
        put!(out, "\n## About this measurement\n");
    }
    for w in &report.warnings {
        put!(out, "- {}", cell(w));
    }
}

/// Foreign text inside a table cell or sentence.
fn cell(text: &str) -> String {
    clean(text).replace('|', "\\|").replace('<', "&lt;")
}

/// Foreign text inside backticks.
fn code(text: &str) -> String {
    clean(text).replace('`', "'")
}
