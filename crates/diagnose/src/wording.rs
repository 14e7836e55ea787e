//! How numbers and texts are written in claims: three significant digits, units in words of the
//! field, statements shortened.

/// Longest statement or URL quoted in a sentence, characters.
const QUOTE: usize = 90;

/// A duration in milliseconds as people write it: `0.31 ms`, `12.4 ms`, `340 ms`, `3.02 s`.
pub fn time(ms: f64) -> String {
    match ms {
        v if v >= 999.5 => format!("{:.2} s", v / 1000.0),
        v if v >= 99.95 => format!("{v:.0} ms"),
        v if v >= 9.995 => format!("{v:.1} ms"),
        v => format!("{v:.2} ms"),
    }
}

/// `part of whole` with the whole's unit where both share it: `1.20 of 340 ms` reads worse than
/// two full durations, so both are written out.
pub fn part(part_ms: f64, whole_ms: f64) -> String {
    format!("{} of {}", time(part_ms), time(whole_ms))
}

/// A count: whole numbers without decimals.
pub fn count(n: f64) -> String {
    if (n - n.round()).abs() < 0.05 { format!("{}", n.round() as i64) } else { format!("{n:.1}") }
}

/// A share as per cent.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A text shortened for a sentence, white space collapsed.
pub fn quote(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if flat.chars().count() <= QUOTE {
        return flat;
    }
    let cut: String = flat.chars().take(QUOTE - 1).collect();
    format!("{}…", cut.trim_end())
}
