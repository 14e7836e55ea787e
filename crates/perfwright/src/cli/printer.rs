//! The printer: the only place that writes. Data to stdout, talk to stderr.

use std::io::{IsTerminal, Write};

/// How much talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Errors only.
    Quiet,
    /// Progress and warnings.
    Normal,
    /// Everything.
    Verbose,
}

/// Writes for a person or a pipe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    verbosity: Verbosity,
    stdout_color: bool,
    stderr_color: bool,
}

impl Printer {
    /// Colour where a terminal is and `NO_COLOR` is not (no-color.org).
    pub(crate) fn new(quiet: bool, verbose: bool) -> Printer {
        let verbosity = match (quiet, verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        };
        let allowed = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Printer {
            verbosity,
            stdout_color: allowed && std::io::stdout().is_terminal(),
            stderr_color: allowed && std::io::stderr().is_terminal(),
        }
    }

    /// Data. A closed pipe is not an error: the reader has seen enough.
    pub(crate) fn data(self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Talk.
    pub(crate) fn talk(self, text: &str) {
        if self.verbosity >= Verbosity::Normal {
            say(text);
        }
    }

    /// Talk for those who asked for more.
    pub(crate) fn detail(self, text: &str) {
        if self.verbosity >= Verbosity::Verbose {
            say(text);
        }
    }

    /// A warning with its next step.
    pub(crate) fn warning(self, message: &str, hint: &str) {
        let (message, hint) = own_hint(message, hint);
        if self.verbosity >= Verbosity::Normal {
            say(&format!("{} {message}", self.paint("33", "warning:")));
            self.hint(hint);
        }
    }

    /// An error with its next step.
    pub(crate) fn error(self, message: &str, hint: &str) {
        let (message, hint) = own_hint(message, hint);
        say(&format!("{} {message}", self.paint("31;1", "error:")));
        self.hint(hint);
    }

    fn hint(self, hint: &str) {
        if !hint.is_empty() {
            say(&format!("  {} {hint}", self.paint("36", "hint:")));
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.stderr_color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    /// Whether talk goes to a terminal that can be rewritten.
    pub(crate) fn is_live(self) -> bool {
        self.verbosity == Verbosity::Normal && std::io::stderr().is_terminal()
    }

    /// Rewrites the current line of talk.
    pub(crate) fn live(self, text: &str) {
        let mut err = std::io::stderr().lock();
        // A terminal that went away only loses this line.
        drop(write!(err, "\r\x1b[K{text}").and_then(|()| err.flush()));
    }

    /// Whether data may be coloured.
    pub(crate) fn colors_data(self) -> bool {
        self.stdout_color
    }

    /// Whether everything is to be said.
    pub(crate) fn is_verbose(self) -> bool {
        self.verbosity == Verbosity::Verbose
    }

    /// Width of the data's terminal, 100 when there is none.
    pub(crate) fn width(self) -> usize {
        let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse::<usize>().ok());
        let terminal = || terminal_size::terminal_size().map(|(w, _)| usize::from(w.0));
        columns.or_else(terminal).unwrap_or(100).clamp(60, 160)
    }
}

/// A message that brings its own hint knows better than the kind of error it is wrapped in.
fn own_hint<'a>(message: &'a str, hint: &'a str) -> (&'a str, &'a str) {
    message.split_once("\nhint: ").unwrap_or((message, hint))
}

/// One line to stderr. Nobody listening there, as after `2>&1 | head -1`, is no reason to stop.
fn say(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}
