//! Times as a person writes them: `500ms`, `60s`, `1.5m`, `1h`.

use std::time::Duration;
use thiserror::Error;

/// The longest time read: a day. Nothing that is waited for here takes longer.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Why a text is no time. The text itself is not repeated: who shows this shows it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DurationError {
    /// Not a number with a unit.
    #[error("write a number and a unit: 500ms, 60s, 2m or 1h")]
    Shape,
    /// A unit that is not known.
    #[error("{0} is no unit of time; use ms, s, m or h, as in 60s")]
    Unit(String),
    /// Zero.
    #[error("that is no time at all; give more than zero, such as 60s")]
    Zero,
    /// Beyond [`LONGEST`].
    #[error("the longest time is a day, 24h")]
    TooLong,
}

/// Parses a number with a unit; without one it counts seconds.
///
/// # Errors
/// [`DurationError`], for zero and for more than a day too.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| DurationError::Shape)?;
    let unit = match unit.trim_start() {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        other => return Err(DurationError::Unit(other.chars().take(20).collect())),
    };
    let seconds = number * unit;
    if seconds > LONGEST.as_secs_f64() {
        return Err(DurationError::TooLong);
    }
    match Duration::from_secs_f64(seconds) {
        Duration::ZERO => Err(DurationError::Zero),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |text: &str, expected: &str| {
            let found = parse(text);
            let found = found.map_or_else(|e| e.to_string(), |d| format!("{d:?}"));
            assert!(found.contains(expected), "{text}: {found}");
        };
        check("500ms", "500ms");
        check(" 60s", "60s");
        check("5", "5s");
        check("1.5 s", "1.5s");
        check("2m", "120s");
        check("24h", "86400s");
        check("", "write a number and a unit");
        check("s", "write a number and a unit");
        check("-5s", "write a number and a unit");
        check("NaN", "write a number and a unit");
        check("inf", "write a number and a unit");
        check("1.2.3s", "write a number and a unit");
        check(".s", "write a number and a unit");
        check("1e3s", "e3s is no unit of time; use ms, s, m or h");
        check("5d", "d is no unit of time");
        check("0s", "no time at all");
        check("0.0000000001ms", "no time at all");
        check("25h", "a day");
        check(&format!("{}s", "9".repeat(400)), "a day");
        check("99999999999h", "a day");
    }
}
