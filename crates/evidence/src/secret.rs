//! Secrets in text: which names hold them, and the text with their values taken out.
//!
//! Everything here is idempotent (redacting twice changes nothing more) and keeps references
//! (`env:TOKEN`, `file:PATH`), which are not secrets but the way to avoid storing one.

use crate::HeaderValue;
use serde::{Serialize, Serializer};
use std::borrow::Cow;

/// What stands in the place of a secret.
pub const REDACTED: &str = "***";

/// Names that are secrets whatever follows; compared in lower case without `-`, `_` and `.`.
const NAMES: &[&str] = &[
    "authorization",
    "proxyauthorization",
    "cookie",
    "setcookie",
    "bearer",
    "jwt",
    "pwd",
    "passwd",
    "passphrase",
    "credential",
    "credentials",
    "sessionid",
    "phpsessid",
    "jsessionid",
    "connectsid",
];

/// Endings that make a name a secret: `access_token`, `client-secret`, `X-Api-Key`.
const ENDINGS: &[&str] =
    &["token", "secret", "password", "apikey", "signature", "accesskey", "privatekey", "authkey"];

/// Names too common in prose; secrets only as a URL's or a form's parameter.
const PARAMETER_NAMES: &[&str] = &["key", "sig", "pass", "auth", "sid", "session"];

/// Cursors of a pagination, not secrets, although they end in `token`.
const CURSORS: &[&str] = &["pagetoken", "nexttoken", "continuationtoken", "synctoken"];

/// Headers whose whole value is the secret, up to the end of the line.
const WHOLE_LINE: &[&str] = &["authorization", "proxyauthorization", "cookie", "setcookie"];

/// Flags of this tool and of curl whose argument is a secret.
const FLAGS: &[&str] =
    &["-u", "--user", "-b", "--cookie", "--oauth2-bearer", "--proxy-user", "-U", "--pass"];

/// Whether a header or field of this name holds a secret (`Authorization`, `X-Api-Key`,
/// `client_secret`).
pub fn is_secret_name(name: &str) -> bool {
    let plain = plain_name(name);
    NAMES.contains(&plain.as_str())
        || ENDINGS.iter().any(|e| plain.ends_with(e)) && !CURSORS.iter().any(|c| plain.ends_with(c))
}

/// Whether a query or form parameter of this name holds a secret: as [`is_secret_name`], and also
/// the short words `key`, `sig`, `auth`, …
pub fn is_secret_parameter(name: &str) -> bool {
    is_secret_name(name) || PARAMETER_NAMES.contains(&plain_name(name).as_str())
}

/// Whether a value is a reference to a secret instead of the secret: `env:NAME` or `file:PATH`,
/// after an optional word and space (`Bearer env:TOKEN`).
pub fn is_reference(value: &str) -> bool {
    let last = value.rsplit(' ').next().unwrap_or(value);
    let last = last.rsplit('=').next().unwrap_or(last);
    last.starts_with("env:") || last.starts_with("file:")
}

fn plain_name(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// A URL with its user info and the values of secret parameters (query and fragment) replaced.
/// Ranges and lists (`{1..20}`) of a parameter stay: they are the user's template.
pub fn redacted_url(url: &str) -> String {
    let (before, after) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    let mut out = without_user(before);
    let mut rest = after;
    while let Some(mark) = rest.chars().next() {
        let end = rest[1..].find(['&', ';', '?', '#']).map_or(rest.len(), |n| n + 1);
        out.push(mark);
        out.push_str(&redacted_pair(&rest[1..end]));
        rest = &rest[end..];
    }
    out
}

fn without_user(before_query: &str) -> String {
    let Some(scheme) = before_query.find("://") else { return before_query.to_string() };
    let host = scheme + 3;
    let end = before_query[host..].find('/').map_or(before_query.len(), |n| host + n);
    match before_query[host..end].rfind('@') {
        Some(at) => format!("{}{REDACTED}{}", &before_query[..host], &before_query[host + at..]),
        None => before_query.to_string(),
    }
}

fn redacted_pair(pair: &str) -> Cow<'_, str> {
    let Some((name, value)) = pair.split_once('=') else { return pair.into() };
    let kept = value.is_empty() || value.starts_with('{') && value.contains("..");
    if kept || is_reference(value) || !is_secret_parameter(&percent_decoded(name)) {
        return pair.into();
    }
    format!("{name}={REDACTED}").into()
}

fn percent_decoded(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%')
            .then(|| name.get(i + 1..i + 3))
            .flatten()
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        out.push(hex.unwrap_or(bytes[i]));
        i += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Free text (a command, a log line, a JSON body) with everything that looks like a secret
/// replaced: values of secret headers, fields and parameters, bearer tokens, the user info of
/// URLs, and the arguments of credential flags when the text is a curl command.
pub fn redacted_text(text: &str) -> String {
    let curl = text.split_whitespace().next().is_some_and(|w| w.ends_with("curl"));
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let fresh = !out.ends_with(word_byte);
        let taken = fresh.then(|| secret_at(rest, &out, curl)).flatten();
        if let Some((kept, skipped)) = taken {
            out.push_str(&rest[..kept]);
            out.push_str(REDACTED);
            rest = &rest[kept + skipped..];
            continue;
        }
        let step = rest.chars().next().map_or(1, char::len_utf8);
        out.push_str(&rest[..step]);
        rest = &rest[step..];
    }
    out
}

fn word_byte(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-' || c == '%'
}

/// When a secret follows at the start of `rest`: how many bytes to keep before it and how long it
/// is.
fn secret_at(rest: &str, before: &str, curl: bool) -> Option<(usize, usize)> {
    if before.ends_with("://") {
        let end = rest.find(['/', '?', '#', ' ', '"', '\'', '\n']).unwrap_or(rest.len());
        let at = rest[..end].rfind('@')?;
        return (&rest[..at] != REDACTED).then_some((0, at));
    }
    let word = &rest[..rest.find(|c| !word_byte(c)).unwrap_or(rest.len())];
    if word.is_empty() {
        return None;
    }
    let after = &rest[word.len()..];
    if curl && FLAGS.contains(&word) && (after.starts_with([' ', '=']) || word.len() == 2) {
        let gap = after.len() - after.trim_start_matches([' ', '=', '"', '\'', '$']).len();
        let ends: &[char] = match after[..gap].chars().last() {
            Some('"') => &['"'],
            Some('\'') => &['\''],
            _ => &['"', '\'', ' ', '\n'],
        };
        return value(&after[gap..], ends).map(|n| (word.len() + gap, n));
    }
    if word.eq_ignore_ascii_case("bearer") && after.starts_with(' ') {
        return value(&after[1..], &[' ', '"', '\'', '\n', '\\']).map(|n| (word.len() + 1, n));
    }
    let decoded = percent_decoded(word);
    let parameter = before.ends_with(['?', '&']) && after.starts_with('=');
    if !(is_secret_name(&decoded) || parameter && is_secret_parameter(&decoded)) {
        return None;
    }
    let gap = assignment(after)?;
    let whole = WHOLE_LINE.contains(&plain_name(&decoded).as_str());
    let ends: &[char] = if whole && after.trim_start().starts_with(':') {
        &['"', '\'', '\n']
    } else {
        &['"', '\'', '\n', ' ', '&', ';', ',', '}', ')', ']', '\\', '#']
    };
    value(&after[gap..], ends).map(|n| (word.len() + gap, n))
}

/// Length of `": "`, `=`, `\":\"` and the like; none when no assignment follows.
fn assignment(after: &str) -> Option<usize> {
    let quotes = ['\\', '"', '\''];
    let closing = after.trim_start_matches(quotes).trim_start_matches(' ');
    let value = closing.strip_prefix([':', '='])?;
    let value = value.trim_start_matches(' ').trim_start_matches(quotes);
    Some(after.len() - value.len())
}

/// Length of a value up to one of `ends`; none for an empty, redacted or referred-to one.
fn value(text: &str, ends: &[char]) -> Option<usize> {
    let value = &text[..text.find(ends).unwrap_or(text.len())];
    let keep = value.is_empty() || value == REDACTED || is_reference(value);
    (!keep).then_some(value.len())
}

/// A command line, argument by argument, as it may be stored and shown.
pub fn redacted_command(arguments: &[String]) -> Vec<String> {
    let mut secret_next = false;
    let redact = |argument: &String| {
        let secret = std::mem::replace(&mut secret_next, FLAGS.contains(&argument.as_str()));
        if secret && !is_reference(argument) {
            return REDACTED.to_string();
        }
        match argument.split_once('=') {
            Some((flag, value)) if FLAGS.contains(&flag) && !is_reference(value) => {
                format!("{flag}={REDACTED}")
            }
            _ => redacted_text(argument),
        }
    };
    arguments.iter().map(redact).collect()
}

/// Serialises a URL redacted.
pub(crate) fn url<S: Serializer>(url: &str, to: S) -> Result<S::Ok, S::Error> {
    redacted_url(url).serialize(to)
}

/// Serialises a command line redacted.
pub(crate) fn command<S: Serializer>(command: &[String], to: S) -> Result<S::Ok, S::Error> {
    redacted_command(command).serialize(to)
}

/// Serialises headers; a plain value under a secret's name is redacted too.
pub(crate) fn headers<S: Serializer>(
    headers: &[(String, HeaderValue)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(headers.iter().map(|(name, value)| match value {
        HeaderValue::Plain { text } if is_secret_name(name) && !is_reference(text) => {
            (name, HeaderValue::Plain { text: REDACTED.into() })
        }
        other => (name, other.clone()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_their_secrets_only() {
        let check = |url: &str, expected: &str| {
            assert_eq!(redacted_url(url), expected);
            assert_eq!(redacted_url(expected), expected, "idempotent");
        };
        check("http://h/a?page=2&token=abc#x", "http://h/a?page=2&token=***#x");
        check("https://me:pw@h:1/a", "https://***@h:1/a");
        check("/a?%74oken=abc&api-key=k&key=v", "/a?%74oken=***&api-key=***&key=***");
        check("/a?pageToken=abc&key={1..9}&q=", "/a?pageToken=abc&key={1..9}&q=");
        check("/a#access_token=abc&x=1", "/a#access_token=***&x=1");
        check("/a?X-Amz-Signature=ff&token=env:T", "/a?X-Amz-Signature=***&token=env:T");
        check("GET /é?sig=ü;b=1", "GET /é?sig=***;b=1");
    }

    #[test]
    fn text_loses_its_secrets_only() {
        let check = |text: &str, expected: &str| {
            assert_eq!(redacted_text(text), expected);
            assert_eq!(redacted_text(expected), expected, "idempotent");
        };
        check("-H 'Authorization: Bearer abc.def' -v", "-H 'Authorization: ***' -v");
        check("Authorization: Bearer env:TOKEN", "Authorization: Bearer env:TOKEN");
        check(r#"{"password":"hunter2","user":"a"}"#, r#"{"password":"***","user":"a"}"#);
        check(r#"{\"password\": \"hunter2\"}"#, r#"{\"password\": \"***\"}"#);
        check("curl -u me:pw https://h/?key=v", "curl -u *** https://h/?key=***");
        check("curl -b 'a=b; c=d' h", "curl -b '***' h");
        check("postgres://me:pw@h/db", "postgres://***@h/db");
        check("duplicate key: 5, pass: 3", "duplicate key: 5, pass: 3");
        check("sent Bearer abc", "sent Bearer ***");
        check("tokens: 5, keyboard=x", "tokens: 5, keyboard=x");
    }

    #[test]
    fn commands_lose_their_secrets_only() {
        let words = |text: &str| text.split('|').map(String::from).collect::<Vec<_>>();
        let check = |text: &str, expected: &str| {
            assert_eq!(redacted_command(&words(text)), words(expected));
        };
        check(
            "perfwright|investigate|http://h/?token=t|--cookie|a=b",
            "perfwright|investigate|http://h/?token=***|--cookie|***",
        );
        check("--cookie=s=1|-H|X-Api-Key: k", "--cookie=***|-H|X-Api-Key: ***");
        check("--cookie|s=env:SESSION|-u|file:pw", "--cookie|s=env:SESSION|-u|file:pw");
    }
}
