//! What a user sees in the terminal.

use crate::style::Style;
use crate::words::{
    clean, clean_lines, count, cut, duration, no_finding, no_latency, objective, pad, pad_left,
    percent, wrap,
};
use evidence::{EndpointReport, Estimate, Finding, LedgerRow, ProbeState, Report, WaterfallReport};
use std::fmt::Write;

/// How the terminal text is laid out.
#[derive(Clone, Copy, Debug)]
pub struct TextOptions {
    /// Columns.
    pub width: usize,
    /// Colour allowed.
    pub color: bool,
    /// Everything, coverage that is well included.
    pub verbose: bool,
}

/// Ledger rows below this share are folded into one.
const FOLD_BELOW: f64 = 0.01;
/// Rows of a waterfall shown.
const WATERFALL_ROWS: usize = 14;

struct Page {
    out: String,
    style: Style,
    width: usize,
    verbose: bool,
}

/// The report for a terminal.
pub fn text(report: &Report, options: &TextOptions) -> String {
    let mut page = Page {
        out: String::new(),
        style: Style(options.color),
        width: options.width.max(40),
        verbose: options.verbose,
    };
    page.head(report);
    for endpoint in &report.endpoints {
        page.endpoint(endpoint);
    }
    page.findings(report);
    page.innocent(report);
    page.undecided(report);
    page.coverage(report);
    page.foot(report);
    page.out
}

impl Page {
    fn line(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    /// Wrapped text; following lines are indented by `indent`.
    fn paragraph(&mut self, first: &str, indent: usize, text: &str) {
        let room = self.width.saturating_sub(indent);
        for (n, part) in wrap(&clean(text), room).iter().enumerate() {
            let lead = if n == 0 { pad(first, indent) } else { " ".repeat(indent) };
            self.line(&format!("{lead}{part}"));
        }
    }

    /// A command in one line, however long, so that it can be copied.
    fn command(&mut self, lead: &str, command: &str) {
        self.line(&format!("{lead}{}", clean(command)));
    }

    fn section(&mut self, title: &str) {
        self.line("");
        let title = self.style.bold(title);
        self.line(&title);
    }

    fn head(&mut self, report: &Report) {
        let target = &report.target;
        self.paragraph("", 0, &format!("{} at level {}", target.url, target.level));
        for service in &target.services {
            self.paragraph("  service ", 10, service);
        }
        if !target.peers.is_empty() {
            self.paragraph("  peers   ", 10, &target.peers.join(", "));
        }
    }

    fn endpoint(&mut self, endpoint: &EndpointReport) {
        self.section(&cut(&clean(&endpoint.name), self.width));
        self.paragraph("  ", 2, &endpoint.headline);
        for one in &endpoint.objectives {
            self.paragraph("  ", 2, &objective(one));
        }
        let Some(latency) = endpoint.latency_ms else {
            self.paragraph("  ", 2, &no_latency(endpoint));
            return;
        };
        let mut facts = vec![
            format!("{} requests", endpoint.requests),
            format!("typical {}", duration(latency.typical)),
            format!("mean {}", duration(latency.mean)),
            format!("p50 {}", duration(latency.p50)),
        ];
        facts.extend(latency.p95.map(|v| format!("p95 {}", duration(v))));
        facts.extend(latency.p99.map(|v| format!("p99 {}", duration(v))));
        facts.extend(endpoint.cold_ms.map(|v| format!("cold {}", duration(v))));
        if endpoint.errors > 0 {
            facts.push(format!("{} errors", endpoint.errors));
        }
        let facts = facts.join(" · ");
        self.paragraph("  ", 2, &facts);
        self.ledger("where the time goes", &endpoint.ledger);
        if !endpoint.tail_ledger.is_empty() && self.verbose {
            self.ledger("the slowest 5 %", &endpoint.tail_ledger);
        }
        if let Some(other) = &endpoint.other_kind {
            let (n, ms) = (other.requests, duration(other.mean_ms));
            self.ledger(&format!("the other {n} of {} requests, {ms}", other.of), &other.ledger);
        }
        for waterfall in &endpoint.waterfalls {
            if waterfall.which == "typical" || endpoint.other_kind.is_some() || self.verbose {
                self.waterfall(waterfall);
            }
        }
        self.demand(endpoint);
        self.curve(endpoint);
    }

    fn ledger(&mut self, title: &str, rows: &[LedgerRow]) {
        if rows.is_empty() {
            return;
        }
        self.line("");
        let title = self.style.dim(&format!("  {title}"));
        self.line(&title);
        // Columns: "  " time(9) share(6) bar line(13) what
        let bar_width = (self.width / 5).clamp(8, 24);
        let what_width = self.width.saturating_sub(2 + 9 + 6 + 2 + bar_width + 2 + 13);
        let largest = rows.iter().map(|r| r.share).fold(0.0, f64::max);
        let (shown, folded): (Vec<_>, Vec<_>) = rows
            .iter()
            .partition(|r| self.verbose || r.share >= FOLD_BELOW || r.line == "unattributed");
        for row in shown {
            let bar = bar(row.share / largest.max(1e-9), bar_width);
            let twice = rows.iter().filter(|r| r.line == row.line).count() > 1;
            let what = cut(&ledger_detail(row, twice), what_width);
            let line = format!(
                "  {}{}  {}  {}{what}",
                pad_left(&duration(row.ms), 9),
                pad_left(&percent(row.share), 6),
                self.style.line(&row.line, &pad(&bar, bar_width)),
                pad(&row.line, 13),
            );
            self.line(&line);
        }
        if !folded.is_empty() {
            let ms: f64 = folded.iter().map(|r| r.ms).sum();
            let share: f64 = folded.iter().map(|r| r.share).sum();
            let line = format!(
                "  {}{}  {}  {} smaller lines",
                pad_left(&duration(ms), 9),
                pad_left(&percent(share), 6),
                " ".repeat(bar_width),
                folded.len(),
            );
            self.line(&line);
        }
    }

    fn waterfall(&mut self, waterfall: &WaterfallReport) {
        if waterfall.bars.is_empty() || waterfall.ms <= 0.0 {
            return;
        }
        self.line("");
        let title = format!("  a {} request, {}", waterfall.which, duration(waterfall.ms));
        let title = self.style.dim(&title);
        self.line(&title);
        let axis = (self.width / 3).clamp(16, 48);
        let what = self.width.saturating_sub(2 + axis + 2 + 9 + 2);
        for bar in waterfall.bars.iter().take(WATERFALL_ROWS) {
            let from = (bar.start_ms / waterfall.ms * axis as f64).floor().max(0.0) as usize;
            let from = from.min(axis - 1);
            let long = (bar.ms / waterfall.ms * axis as f64).round() as usize;
            let long = long.clamp(1, axis - from);
            let drawn = format!("{}{}", " ".repeat(from), "█".repeat(long));
            let times = if bar.count > 1 { format!("{} × ", bar.count) } else { String::new() };
            let detail = clean(&bar.detail);
            let label = match detail.is_empty() {
                true => bar.line.clone(),
                false if bar.line == "cpu" => format!("cpu {detail}"),
                false => format!("{times}{detail}"),
            };
            let line = format!(
                "  {}  {}  {}",
                self.style.line(&bar.line, &pad(&drawn, axis)),
                pad_left(&duration(bar.ms), 9),
                cut(&label, what),
            );
            self.line(&line);
        }
        let rest = waterfall.bars.len().saturating_sub(WATERFALL_ROWS);
        if rest > 0 {
            self.line(&format!("  … and {rest} more"));
        }
    }

    fn demand(&mut self, endpoint: &EndpointReport) {
        if endpoint.demand.is_empty() {
            return;
        }
        let facts: Vec<String> = endpoint
            .demand
            .iter()
            .filter(|d| d.per_request.abs() >= 0.005)
            .map(|d| match d.unit.as_str() {
                "ms" => format!("{} {}", d.resource, duration(d.per_request)),
                "bytes" => format!("{} {}", d.resource, bytes(d.per_request)),
                _ => format!("{} {}", d.resource, count(d.per_request)),
            })
            .collect();
        self.line("");
        self.paragraph("  per request  ", 15, &facts.join(" · "));
    }

    fn curve(&mut self, endpoint: &EndpointReport) {
        if endpoint.curve.is_empty() {
            return;
        }
        let points: Vec<String> = endpoint
            .curve
            .iter()
            .map(|p| {
                let limited = if p.generator_limited { " (generator is the limit)" } else { "" };
                format!(
                    "{} in flight: {}/s, p50 {}{limited}",
                    p.concurrency,
                    count(p.rps),
                    duration(p.p50)
                )
            })
            .collect();
        self.paragraph("  concurrency  ", 15, &points.join(" · "));
    }

    fn findings(&mut self, report: &Report) {
        self.section("Findings");
        if !report.findings.is_empty() {
            let basis = "costs and shares are of the mean latency, predictions of its percentiles";
            let basis = self.style.dim(&format!("  {basis}"));
            self.line(&basis);
        }
        if report.findings.is_empty() {
            let none = no_finding(report);
            self.paragraph("  ", 2, &none.text);
            if let Some(command) = &none.command {
                self.command("  next: ", command);
            }
        }
        for finding in &report.findings {
            self.finding(finding);
        }
    }

    fn finding(&mut self, finding: &Finding) {
        let severity = format!("{:?}", finding.severity).to_lowercase();
        let head = format!(
            "{} {} {} (confidence {:.0} %)",
            finding.id,
            self.style.severity(finding.severity, &severity),
            self.style.bold(&finding.rule),
            finding.confidence * 100.0
        );
        self.line("");
        self.line(&head);
        self.paragraph("    ", 4, &finding.claim);
        let place = format!("    endpoint  {}", cut(&clean(&finding.endpoint), self.width - 14));
        self.line(&place);
        if let Some(at) = &finding.location {
            let line = at.line.map(|n| format!(":{n}")).unwrap_or_default();
            let function = at.function.as_deref().map(|f| format!(" in {f}")).unwrap_or_default();
            self.paragraph("    where     ", 14, &format!("{}{line}{function}", at.file));
        }
        self.paragraph("    fix       ", 14, &finding.fix.summary);
        for line in clean_lines(&finding.fix.patch) {
            let painted = self.style.cyan(&line);
            self.line(&format!("                {painted}"));
        }
        if !finding.fix.risk.is_empty() {
            self.paragraph("    risk      ", 14, &finding.fix.risk);
        }
        match &finding.prediction {
            Some(p) => {
                let mut text = format!("p50 {}", estimate(&p.p50_ms));
                if let Some(mean) = p.mean_ms.as_ref().filter(|m| tells_more(m, &p.p50_ms)) {
                    text = format!("mean {}, {text}", estimate(mean));
                }
                if let Some(p95) = &p.p95_ms {
                    let _ = write!(text, ", p95 {}", estimate(p95));
                }
                let how = format!("{:?}", p.method).to_lowercase();
                let of = p.holds_for.as_ref().map_or(String::new(), |of| format!(", for {of}"));
                self.paragraph("    predicted ", 14, &format!("{text}, {how}{of}"));
            }
            None => self.paragraph("    predicted ", 14, "nothing can be predicted honestly here"),
        }
        self.command("    verify    ", &finding.fix.verify);
    }

    fn innocent(&mut self, report: &Report) {
        if report.exonerated.is_empty() {
            return;
        }
        self.section("Checked, innocent");
        if self.verbose || report.endpoints.len() == 1 {
            for e in &report.exonerated {
                self.paragraph(&format!("  {}  ", pad(&e.rule, 22)), 26, &e.why);
            }
            return;
        }
        let mut rules: Vec<(&str, Vec<&str>)> = vec![];
        for e in &report.exonerated {
            match rules.iter_mut().find(|(rule, _)| *rule == e.rule) {
                Some((_, endpoints)) => endpoints.push(&e.endpoint),
                None => rules.push((&e.rule, vec![&e.endpoint])),
            }
        }
        let everywhere: Vec<&str> = rules
            .iter()
            .filter(|(_, endpoints)| endpoints.len() == report.endpoints.len())
            .map(|(rule, _)| *rule)
            .collect();
        if !everywhere.is_empty() {
            self.paragraph(&format!("  {}  ", pad("everywhere", 22)), 26, &everywhere.join(", "));
        }
        for (rule, endpoints) in rules.iter().filter(|(rule, _)| !everywhere.contains(rule)) {
            self.paragraph(&format!("  {}  ", pad(rule, 22)), 26, &endpoints.join(", "));
        }
        self.paragraph("  ", 2, "--verbose says why");
    }

    fn undecided(&mut self, report: &Report) {
        if report.undecided.is_empty() {
            return;
        }
        self.section("Undecided");
        // Hypotheses that one command decides stand together above it.
        let mut commands: Vec<&str> = Vec::new();
        for u in &report.undecided {
            if !commands.contains(&u.command.as_str()) {
                commands.push(&u.command);
            }
        }
        for command in commands {
            for u in report.undecided.iter().filter(|u| u.command == command) {
                self.paragraph(&format!("  {}  ", pad(&u.rule, 22)), 26, &u.missing);
            }
            if !command.is_empty() {
                self.command("    decide with  ", command);
            }
        }
    }

    fn coverage(&mut self, report: &Report) {
        let lines: Vec<_> = report
            .coverage
            .iter()
            .filter(|c| self.verbose || c.state != ProbeState::Ok)
            .cloned()
            .collect();
        if !lines.is_empty() {
            self.section(if self.verbose { "Observed" } else { "Not fully observed" });
        }
        for c in lines {
            let state = format!("{:?}", c.state).to_lowercase();
            let text = if c.reason.is_empty() { state } else { format!("{state}: {}", c.reason) };
            self.paragraph(&format!("  {}  ", pad(&c.probe, 22)), 26, &text);
            if !c.hint.is_empty() {
                self.paragraph("", 26, &format!("hint: {}", c.hint));
            }
        }
        if !report.warnings.is_empty() {
            self.section("About this measurement");
        }
        for warning in &report.warnings {
            self.paragraph("  ", 2, warning);
        }
    }

    fn foot(&mut self, report: &Report) {
        self.line("");
        if let Some(why) = &report.run.ended_because {
            self.paragraph("", 0, &format!("The run ended early: {why}"));
        }
        let id = clean(&report.run.id);
        self.line(&format!("run {}", cut(&id, self.width - 4)));
        self.paragraph(
            "",
            0,
            "again: perfwright report latest --format md|json · perfwright replay latest",
        );
    }
}

/// Detail, with what calls tell: how many, rows, their own time where it differs. Where the line
/// is there `twice`, the row without a detail says what is left for it.
fn ledger_detail(row: &LedgerRow, twice: bool) -> String {
    let mut facts = Vec::new();
    if row.calls >= 0.05 {
        facts.push(format!("{}×", count(row.calls)));
    }
    let detail = match row.line.as_str() {
        "receive" if twice && row.detail.is_empty() => "after its last packet".into(),
        "unattributed" if twice && row.detail.is_empty() => "nothing recorded explains it".into(),
        _ => clean(&row.detail),
    };
    if !detail.is_empty() {
        facts.push(detail);
    }
    if row.calls >= 1.5 && row.chain_ms > row.ms * 1.2 {
        facts.push(format!("(first to last {})", duration(row.chain_ms)));
    }
    facts.join(" ")
}

/// Whether the mean gains a lot more than the median: the fix is for a few slow requests.
fn tells_more(mean: &Estimate, median: &Estimate) -> bool {
    let gain = |e: &Estimate| 1.0 - e.after / e.now.max(1e-9);
    gain(mean) > gain(median) + 0.1
}

fn estimate(e: &Estimate) -> String {
    format!(
        "{} → {} [{} – {}]",
        duration(e.now),
        duration(e.after),
        duration(e.low),
        duration(e.high)
    )
}

/// A bar of eighths.
fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

pub(crate) fn bytes(n: f64) -> String {
    if n >= 1e6 {
        format!("{:.1} MB", n / 1e6)
    } else if n >= 1e3 {
        format!("{:.1} kB", n / 1e3)
    } else {
        format!("{n:.0} B")
    }
}

/// One line of `perfwright runs`.
#[derive(Clone, Debug)]
pub struct RunRow {
    /// Run id.
    pub id: String,
    /// Start, RFC 3339.
    pub started: String,
    /// `open`, `finished`, `stopped`.
    pub state: String,
    /// Endpoint names.
    pub endpoints: String,
    /// Median latency of the first endpoint.
    pub p50_ms: Option<f64>,
    /// First finding.
    pub finding: Option<String>,
}

/// The table of runs.
pub fn runs(rows: &[RunRow], width: usize) -> String {
    let mut out = String::new();
    let id = rows.iter().map(|r| r.id.len()).max().unwrap_or(2);
    for row in rows {
        let p50 = row.p50_ms.map_or_else(|| "–".to_string(), duration);
        let finding = row.finding.as_deref().unwrap_or("no finding");
        let line = format!(
            "{}  {}  {}  {}  {}",
            pad(&clean(&row.id), id),
            pad(&row.state, 8),
            pad_left(&p50, 9),
            pad(&clean(finding), 22),
            clean(&row.endpoints)
        );
        out.push_str(cut(&line, width).trim_end());
        out.push('\n');
    }
    out
}
