//! Just enough of URLs: make them absolute, take user info and fragment off, percent-encode what
//! may not travel raw. Templates (`{1..20}`) pass through, which is why no URL library is used.

use crate::template::{Braces, encode_braces};
use thiserror::Error;

/// Why a text is not a URL that can be requested.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UrlError {
    /// No URL at all.
    #[error("the URL is empty; give one such as http://127.0.0.1:3000/orders")]
    Empty,
    /// Relative, and nothing to resolve it against.
    #[error("`{0}` is relative and no base URL is known; give the whole URL, http://HOST:PORT{0}")]
    Relative(String),
    /// Not HTTP.
    #[error("`{0}` URLs cannot be requested, only http and https")]
    Scheme(String),
    /// The host or port makes no sense.
    #[error("`{0}` is not a host with an optional port; write HOST, HOST:PORT or [IPv6]:PORT")]
    Host(String),
    /// A number, or part of an address, for a host.
    #[error(
        "`{0}` is a number, which systems take for an address of their own making; write a name, \
         or all four parts of an address such as 127.0.0.1"
    )]
    Number(String),
    /// Braces that are no variable.
    #[error(
        "`{text}` at character {position} of `{url}` {why}; a range is {{1..20}}, a list {{a,b}}, \
         and a brace that is meant literally is written %7B or %7D"
    )]
    Braces {
        /// The braces.
        text: String,
        /// Place of the brace, from 1.
        position: usize,
        /// The URL as given, secrets redacted.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// An absolute URL and the user info it came with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Absolute {
    /// Scheme and host in lower case, no user info, no fragment, at least the path `/`.
    pub url: String,
    /// `user:password`, percent-decoded.
    pub user: Option<Vec<u8>>,
}

/// Makes `text` absolute, against `base` when it is relative. A host without scheme gets `http`.
pub(crate) fn absolute(
    text: &str,
    base: Option<&str>,
    braces: Braces,
) -> Result<Absolute, UrlError> {
    let text = text.trim();
    let text = text.split('#').next().unwrap_or_default();
    let whole = resolve(text, base)?;
    let (scheme, rest) = whole.split_once("://").unwrap_or(("http", &whole));
    let scheme = scheme.to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return Err(UrlError::Scheme(scheme));
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(percent_decoded(user)), host),
        None => (None, authority),
    };
    if !is_host(host) {
        return Err(UrlError::Host(host.to_string()));
    }
    if let Some(number) = numeric(host) {
        return Err(UrlError::Number(number.to_string()));
    }
    let path = encode_braces(path, braces).map_err(|fault| {
        // The path ends the text, and what stands before it may come from the base.
        let before = text.len().saturating_sub(path.len() - fault.at);
        let position = text[..before].chars().count() + 1;
        UrlError::Braces { text: fault.text, position, url: shown(text), why: fault.why }
    })?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    let host = host.to_ascii_lowercase();
    Ok(Absolute { url: format!("{scheme}://{host}{slash}{}", encoded(&path)), user })
}

/// A URL in an error.
fn shown(url: &str) -> String {
    evidence::redacted_url(url).chars().take(200).collect()
}

fn resolve(text: &str, base: Option<&str>) -> Result<String, UrlError> {
    if text.is_empty() {
        return Err(UrlError::Empty);
    }
    let first = text.split(['/', '?']).next().unwrap_or_default();
    if text.contains("://") && !first.is_empty() {
        return Ok(text.to_string());
    }
    let origin = base.map(|b| origin(b).to_string());
    if let Some(rest) = text.strip_prefix("//") {
        let scheme = origin.as_deref().and_then(|o| o.split_once("://")).map_or("http", |o| o.0);
        return Ok(format!("{scheme}://{rest}"));
    }
    let like_host = first.contains(['.', ':', '@']) || first == "localhost" || base.is_none();
    if !first.is_empty() && like_host {
        return Ok(format!("http://{text}"));
    }
    let origin = origin.ok_or_else(|| UrlError::Relative(text.to_string()))?;
    if text.starts_with('?') {
        let base = base.unwrap_or_default();
        return Ok(format!("{}{text}", base.split(['?', '#']).next().unwrap_or_default()));
    }
    Ok(format!("{origin}{}{text}", if text.starts_with('/') { "" } else { "/" }))
}

/// Scheme and authority: `http://h:1`. A base without scheme gets `http`.
fn origin(base: &str) -> std::borrow::Cow<'_, str> {
    let Some(scheme) = base.find("://") else {
        let host = base.split(['/', '?', '#']).next().unwrap_or_default();
        return format!("http://{host}").into();
    };
    let end = base[scheme + 3..].find(['/', '?', '#']).map_or(base.len(), |n| scheme + 3 + n);
    base[..end].into()
}

fn is_host(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((v6, port)) => {
            let address = v6.parse::<std::net::Ipv6Addr>().is_ok();
            if !address || !(port.is_empty() || port.starts_with(':')) {
                return false;
            }
            ("v6", port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let name = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-' || b == b'_';
    !host.is_empty() && host.bytes().all(name) && port.is_none_or(|p| p.parse::<u16>().is_ok())
}

/// A host that `inet_aton(3)` reads as an address although nobody would write it: `3` is 0.0.0.3,
/// `127.1` and `0x7f000001` are 127.0.0.1.
fn numeric(authority: &str) -> Option<&str> {
    let host = authority.split(':').next().unwrap_or_default();
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let is_number = match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()),
    };
    (is_number && host.parse::<std::net::Ipv4Addr>().is_err()).then_some(host)
}

/// Path and query with what may not travel raw percent-encoded; existing escapes stay.
fn encoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte <= b' ' || byte >= 0x7f || b"\"<>\\^`|".contains(&byte) {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(byte as char);
        }
    }
    out
}

/// Everything but unreserved characters percent-encoded, as `--data-urlencode` does.
pub(crate) fn percent_encoded(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escape = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match escape.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    out
}

/// Path and query of an absolute URL: `/orders?page=1`.
pub(crate) fn path_and_query(url: &str) -> &str {
    let rest = url.find("://").map_or(url, |n| &url[n + 3..]);
    rest.find(['/', '?']).map_or("/", |n| &rest[n..])
}

/// Host (with port) of an absolute URL.
pub(crate) fn authority(url: &str) -> &str {
    let rest = url.find("://").map_or(url, |n| &url[n + 3..]);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Names and raw values of a URL's query parameters.
pub(crate) fn query(url: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = url.split_once('?').map_or("", |(_, q)| q);
    query.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_urls() {
        let check = |text: &str, base: Option<&str>, expected: &str| {
            let found = absolute(text, base, Braces::All);
            let found = found.map(|a| a.url).unwrap_or_else(|e| format!("{e}"));
            assert!(found.starts_with(expected), "{text}: {found}");
        };
        let base = Some("http://h:1/app/x?y=1");
        check("HTTP://Example.com", None, "http://example.com/");
        check("localhost:3000?a=ü b#frag", None, "http://localhost:3000/?a=%C3%BC%20b");
        check("https://me:p%40w@h/a?b={1..3}", None, "https://h/a?b={1..3}");
        check("/orders?x=http://y", base, "http://h:1/orders?x=http://y");
        check("orders", base, "http://h:1/orders");
        check("?y=2", base, "http://h:1/app/x?y=2");
        check("//other/a", base, "http://other/a");
        check("/a", Some("localhost:3000"), "http://localhost:3000/a");
        check("http://[::1]:80/a", None, "http://[::1]:80/a");
        check("/a", None, "`/a` is relative");
        check("", None, "the URL is empty");
        check("ftp://h/", None, "`ftp` URLs");
        check("http://h:99999/", None, "`h:99999` is not a host");
        check("http://exämple/", None, "`exämple` is not a host");
        for number in ["3", "0x7f000001", "127.1", "0177.0.0.1", "1.2.3.4.5", "h.3", "300.1.1.1"] {
            check(&format!("http://{number}:80/"), None, &format!("`{number}` is a number"));
        }
        check("3", None, "`3` is a number");
        check("127.0.0.1", None, "http://127.0.0.1/");
        check("3a.io", None, "http://3a.io/");
        check("http://h/{id}", None, "`{id}` at character 10 of `http://h/{id}` is a placeholder");
        let user = absolute("https://me:p%40w@h/", None, Braces::All).unwrap().user;
        assert_eq!(user.as_deref(), Some(b"me:p@w".as_slice()));
    }
}
