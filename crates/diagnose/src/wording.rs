//! How numbers and texts are written in claims: three significant digits, units in words of the
//! field, statements shortened.

/// Longest statement or URL quoted in a sentence, characters.
const QUOTE: usize = 90;

/// A duration in milliseconds as people write it: `0.31 ms`, `12.4 ms`, `340 ms`, `3.02 s`.
pub fn time(ms: f64) -> String {
    let ms = if ms.abs() < 0.005 { 0.0 } else { ms };
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

/// A count of things: `1 round trip`, `30 round trips`.
pub fn things(n: f64, thing: &str) -> String {
    let one = (n - 1.0).abs() < 0.05;
    format!("{} {thing}{}", count(n), if one { "" } else { "s" })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(time(-1e-9), "0.00 ms");
        assert_eq!(time(3021.0), "3.02 s");
        assert_eq!(time(340.2), "340 ms");
        assert_eq!(time(99.97), "100 ms");
        assert_eq!(things(1.0, "round trip"), "1 round trip");
        assert_eq!(things(2.5, "row"), "2.5 rows");
        assert_eq!(quote("select  1\n from t"), "select 1 from t");
    }
}
