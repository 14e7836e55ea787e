//! Words and numbers as people read them.

use evidence::{EndpointReport, ExperimentKind, ObjectiveReport, Report, Verdict};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Foreign text made harmless and one line: control characters (terminal escapes among them)
/// become spaces, runs of white space fold.
pub(crate) fn clean(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if is_shown(c) { c } else { ' ' }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a character is neither control, nor a bidirectional override, nor a line separator.
fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// As [`clean`], line breaks and indentation kept.
pub(crate) fn clean_lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|l| {
            l.chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|c| is_shown(*c)).collect()
        })
        .collect()
}

/// Columns a text takes.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// The text cut to `width` columns, with `…` where something was cut.
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_string();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w + 1 > width {
            break;
        }
        out.push(c);
        used += w;
    }
    if width > 0 {
        out.push('…');
    }
    out
}

/// The text padded on the right to `width` columns.
pub(crate) fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// The text padded on the left to `width` columns.
pub(crate) fn pad_left(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(columns(text))))
}

/// Milliseconds as people say them: `3.02 s`, `340 ms`, `3.4 ms`, `0.21 ms`.
pub(crate) fn duration(ms: f64) -> String {
    if ms >= 1_000.0 {
        format!("{:.2} s", ms / 1_000.0)
    } else if ms >= 100.0 {
        format!("{ms:.0} ms")
    } else if ms >= 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.2} ms")
    }
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    let p = share * 100.0;
    if p > 0.0 && p < 1.0 { format!("{p:.1} %") } else { format!("{p:.0} %") }
}

/// A count without needless decimals.
pub(crate) fn count(n: f64) -> String {
    if (n - n.round()).abs() < 0.05 { format!("{n:.0}") } else { format!("{n:.1}") }
}

/// Breaks a text at spaces into lines of at most `width` columns; longer words are cut hard.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word = word.to_string();
        loop {
            let line = lines.last_mut().map_or(0, |l| columns(l));
            let gap = usize::from(line > 0);
            if line + gap + columns(&word) <= width {
                if let Some(l) = lines.last_mut() {
                    if gap == 1 {
                        l.push(' ');
                    }
                    l.push_str(&word);
                }
                break;
            }
            if line > 0 {
                lines.push(String::new());
                continue;
            }
            let (head, rest) = split_at_columns(&word, width);
            lines.push(head);
            let n = lines.len();
            lines.swap(n - 1, n - 2);
            word = rest;
        }
    }
    lines.retain(|l| !l.is_empty());
    lines
}

fn split_at_columns(word: &str, width: usize) -> (String, String) {
    let mut used = 0;
    for (at, c) in word.char_indices() {
        used += c.width().unwrap_or(0);
        if used > width && at > 0 {
            return (word[..at].to_string(), word[at..].to_string());
        }
    }
    (word.to_string(), String::new())
}

/// Share of an endpoint's time without an explanation from which on the lack of findings says
/// nothing about it.
const MOSTLY: f64 = 0.5;

/// What the lack of findings means, and what to do next.
pub(crate) struct NoFinding {
    /// One sentence, `none: …` or `none yet: …`, without a full stop.
    pub text: String,
    /// The command that would decide more; `None` when nothing is open.
    pub command: Option<String>,
}

/// What the lack of findings means: nothing is wrong only where everything could be judged.
pub(crate) fn no_finding(report: &Report) -> NoFinding {
    let judged = |e: &EndpointReport| e.latency_ms.is_some();
    if !report.endpoints.iter().any(|e| judged(e) || e.errors < e.requests) {
        return none(
            "nothing could be measured, since no request was answered with success; send the same \
             request with curl, and look at the service's log",
        );
    }
    if let Some(open) = mostly_unexplained(report) {
        return open;
    }
    if report.run.ended_because.is_some() {
        return none(
            "nothing that was measured before the run ended is worth changing for latency",
        );
    }
    if !report.endpoints.iter().all(judged) {
        return none("not every endpoint could be judged: its requests could not be used");
    }
    none(match report.undecided.is_empty() {
        true => "nothing here is worth changing for latency",
        false => "what could be judged is not worth changing for latency; the rest is undecided",
    })
}

fn none(why: &str) -> NoFinding {
    NoFinding { text: format!("none: {why}"), command: None }
}

/// The endpoint with the largest part unexplained, where that is most of its time: the command that
/// an undecided hypothesis names, else the same again.
fn mostly_unexplained(report: &Report) -> Option<NoFinding> {
    let open = |e: &EndpointReport| -> f64 {
        e.ledger.iter().filter(|r| r.line == "unattributed").map(|r| r.share).sum()
    };
    let worst = report.endpoints.iter().max_by(|a, b| open(a).total_cmp(&open(b)))?;
    let share = open(worst);
    if share < MOSTLY {
        return None;
    }
    let of = match report.endpoints.len() {
        1 => String::new(),
        _ => format!(" of {}", worst.name),
    };
    let ended = match report.run.ended_because.is_some() {
        true => ", and the run ended early",
        false => "",
    };
    let mut undecided = report.undecided.iter().filter(|u| u.endpoint == worst.name);
    let named = undecided.find(|u| !u.command.is_empty()).map(|u| u.command.clone());
    Some(NoFinding {
        text: format!("none yet: {} of the time{of} is unexplained{ended}", percent(share)),
        command: named.or_else(|| {
            let again = &report.run.command;
            (!again.is_empty()).then(|| again.clone())
        }),
    })
}

/// Why an endpoint has no latency: its requests failed, or what was recorded of them has holes.
pub fn no_latency(endpoint: &EndpointReport) -> String {
    let n = endpoint.requests;
    match n.saturating_sub(endpoint.errors) {
        _ if n == 0 => "no answer was recorded before the run ended".into(),
        0 => format!("no request of {n} succeeded"),
        ok => format!("{ok} of {n} requests succeeded, none of which could be used"),
    }
}

/// Whether an objective is met, and by what.
pub fn objective(objective: &ObjectiveReport) -> String {
    let verdict = verdict_word(objective.verdict);
    format!("objective {} {verdict}: {}", objective.objective, objective.why)
}

/// A verdict as the end of "the objective …".
pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "is met",
        Verdict::Missed => "is missed",
        Verdict::Unknown => "cannot be told",
    }
}

/// An experiment's word.
pub fn experiment_word(kind: &ExperimentKind) -> &'static str {
    match kind {
        ExperimentKind::Probe => "probe",
        ExperimentKind::Solo => "solo",
        ExperimentKind::ColdWarm => "cold-warm",
        ExperimentKind::PageSlope => "page-slope",
        ExperimentKind::Concurrency => "concurrency",
        ExperimentKind::Reasons => "reasons",
        ExperimentKind::Profile => "profile",
        ExperimentKind::Delay { .. } => "delay",
        ExperimentKind::Acknowledge => "acknowledge",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_never_reach_the_terminal() {
        assert_eq!(clean("SELECT \x1b[31m1\x07\n FROM\tt"), "SELECT [31m1 FROM t");
        assert_eq!(clean("a\u{202e}b"), "a b");
    }

    #[test]
    fn durations_read_well() {
        for (ms, text) in
            [(3020.4, "3.02 s"), (340.2, "340 ms"), (34.25, "34.2 ms"), (0.2, "0.20 ms")]
        {
            assert_eq!(duration(ms), text);
        }
    }

    proptest! {
        #[test]
        fn lines_never_exceed_the_width(text in "\\PC{0,200}", width in 8usize..100) {
            for line in wrap(&text, width) {
                prop_assert!(columns(&line) <= width.max(8) + 1, "{line:?}");
            }
            prop_assert!(columns(&cut(&text, width)) <= width);
        }
    }
}
