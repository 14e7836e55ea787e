//! What options accept: each parser says the form that works, since the value itself is shown.

use std::time::Duration;

/// Shortest budget in which a request or two can be measured.
const SHORTEST_BUDGET: Duration = Duration::from_secs(1);
/// Highest rate that can be agreed to.
const HIGHEST_RATE: f64 = 1e6;

/// A time in which something can be measured.
pub(super) fn budget(text: &str) -> Result<Duration, String> {
    match formats::duration::parse(text) {
        Ok(time) if time < SHORTEST_BUDGET => {
            Err("nothing can be measured in less than a second; give 1s or more".into())
        }
        other => other.map_err(|e| e.to_string()),
    }
}

/// Requests per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.trim_end_matches("/s").parse::<f64>().ok();
    rate.filter(|r| *r > 0.0 && *r <= HIGHEST_RATE)
        .ok_or_else(|| "write requests per second, a number above 0 up to a million: 50".into())
}

/// `HOST:PORT` of something to connect to.
pub(super) fn place(text: &str) -> Result<String, String> {
    let form = "write HOST:PORT, such as 10.0.0.7:7070 or [::1]:7070";
    let (host, port) = text.rsplit_once(':').ok_or(form)?;
    let bare = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || host.contains(['/', ' ', '@']) || bare {
        return Err(form.into());
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(text.into()),
        _ => Err(format!("`{port}` is no port between 1 and 65535; {form}")),
    }
}

/// A host without scheme, port or path.
pub(super) fn host(text: &str) -> Result<String, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let name = |c: char| c.is_alphanumeric() || "-._".contains(c);
    if !bare.is_empty() && (bare.chars().all(name) || bare.parse::<std::net::Ipv6Addr>().is_ok()) {
        return Ok(bare.to_string());
    }
    Err("name the host alone, without scheme, port or path: shop.test".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        fn check<T, E: ToString>(parse: fn(&str) -> Result<T, E>, text: &str, wrong: &str) {
            let found = parse(text).err().map(|e| e.to_string()).unwrap_or_default();
            let fits = if wrong.is_empty() { found.is_empty() } else { found.contains(wrong) };
            assert!(fits, "{text}: {found}");
        }
        check(formats::duration::parse, "500ms", "");
        check(formats::duration::parse, "0s", "no time at all");
        check(budget, "60", "");
        check(budget, "999ms", "less than a second");
        check(budget, "-5s", "a number and a unit");
        check(rate, "50/s", "");
        for text in ["", "0", "-1", "NaN", "inf", "1e9", "many"] {
            check(rate, text, "requests per second");
        }
        check(place, "h:1", "");
        check(place, "[::1]:7070", "");
        for text in ["", "h", ":1", "http://h:1", "::1:1"] {
            check(place, text, "write HOST:PORT");
        }
        check(place, "h:0", "`0` is no port");
        check(place, "h:99999", "`99999` is no port");
        check(host, "shop.test", "");
        check(host, "[::1]", "");
        for text in ["", "http://shop.test", "shop.test:80", "shop.test/x", "*"] {
            check(host, text, "name the host alone");
        }
    }
}
