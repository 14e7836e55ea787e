//! Run ids: pure functions of what is passed in.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `<utc-time>-<target>-<short id>`, e.g. `20260801T101530Z-127.0.0.1-3000-1a2b3c`.
///
/// `started` is in seconds since 1970 UTC, `target` the URL measured, `random` any number: its low
/// 24 bits keep runs of the same second apart. Ids sort by time.
pub fn run_id(started: u64, target: &str, random: u32) -> String {
    let at = moment(started);
    let time = format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    format!("{time}-{}-{:06x}", slug(target), random & 0xff_ffff)
}

/// Seconds since 1970 as RFC 3339 in UTC: `2026-08-01T10:15:30Z`.
pub fn rfc3339(seconds: u64) -> String {
    moment(seconds).format(&Rfc3339).unwrap_or_default()
}

/// Times beyond the year 9999 count as its end.
fn moment(seconds: u64) -> OffsetDateTime {
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(seconds).unwrap_or(LAST).min(LAST);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Host and port of a URL as part of a file name, at most 40 characters.
fn slug(target: &str) -> String {
    let rest = target.split_once("://").map_or(target, |(_, r)| r);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    let keep = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let slug: String = host.chars().take(40).map(keep).collect();
    let slug = slug.trim_matches(['-', '.']).to_ascii_lowercase();
    if slug.is_empty() { "target".into() } else { slug }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_say_when_and_what() {
        let check = |target: &str, expected: &str| {
            assert_eq!(run_id(1_785_579_330, target, 0xff1a_2b3c), expected);
        };
        check("http://127.0.0.1:3000/a?b=c", "20260801T101530Z-127.0.0.1-3000-1a2b3c");
        check("https://me:secret@Shop.io/", "20260801T101530Z-shop.io-1a2b3c");
        check("http://[::1]:80/", "20260801T101530Z-1--80-1a2b3c");
        check("", "20260801T101530Z-target-1a2b3c");
        assert_eq!(rfc3339(1_785_579_330), "2026-08-01T10:15:30Z");
        assert!(run_id(u64::MAX, "x", 1).starts_with("99991231T235959Z-x-"));
    }
}
