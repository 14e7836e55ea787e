//! Colour, when the caller allows it. Nothing depends on it.

/// Paints text.
#[derive(Clone, Copy)]
pub(crate) struct Style(pub(crate) bool);

impl Style {
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// By severity word.
    pub(crate) fn severity(self, severity: evidence::Severity, text: &str) -> String {
        use evidence::Severity as S;
        self.paint(
            match severity {
                S::Critical => "31;1",
                S::High => "31",
                S::Medium => "33",
                S::Low => "36",
                S::Info => "2",
            },
            text,
        )
    }

    /// By ledger line: one colour a family, so bars can be told apart.
    pub(crate) fn line(self, line: &str, text: &str) -> String {
        self.paint(
            match line {
                "database" => "34",
                "cache" => "35",
                "downstream" => "36",
                "cpu" | "gc" => "31",
                "runnable" | "lock" | "pool" | "queueing" => "33",
                "disk" | "timer" => "32",
                _ => "2",
            },
            text,
        )
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
}
