//! Headers with secrets: which are, and how they are referred to. References are filled in when a
//! request is rendered, so that no secret is held longer than needed.

use evidence::{Credential, HeaderValue, is_secret_name};
use thiserror::Error;

/// Why a header cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HeaderError {
    /// No colon, or an empty or impossible name.
    #[error("`{0}` is not a header; write 'Name: value'")]
    Shape(String),
    /// Line breaks or other control characters in the value.
    #[error("the value of header `{0}` holds a control character; headers are one line")]
    Control(String),
    /// A cookie of nothing.
    #[error("the cookie is empty; write 'name=value', or env:NAME to take it from a variable")]
    NoCookie,
    /// A reference that is not the end of the value.
    #[error(
        "in header `{0}` something follows the reference; only text before env:NAME or file:PATH \
         is possible, so put the rest into the variable or the file too"
    )]
    AfterReference(String),
}

/// Parses `Name: value`; the value may hold `env:NAME` or `file:PATH`, with text before it.
///
/// # Errors
/// [`HeaderError`], naming the header.
pub fn header(line: &str) -> Result<(String, HeaderValue), HeaderError> {
    let shape = || HeaderError::Shape(evidence::redacted_text(line));
    let (name, text) = line.split_once(':').ok_or_else(shape)?;
    let name = name.trim();
    if !is_header_name(name) {
        return Err(shape());
    }
    Ok((name.to_string(), value(name, text.trim())?))
}

/// The `Cookie` header of `name=value; …` or of a reference to it.
///
/// # Errors
/// [`HeaderError`] for nothing, control characters or text after a reference.
pub fn cookie(text: &str) -> Result<(String, HeaderValue), HeaderError> {
    match text.trim() {
        "" => Err(HeaderError::NoCookie),
        text => Ok(("cookie".into(), value("cookie", text)?)),
    }
}

/// Whether a name can stand before a header's colon (RFC 9110 token).
pub(crate) fn is_header_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(token)
}

/// A header's value: a reference where it holds one, a secret where the name says so.
pub(crate) fn value(name: &str, text: &str) -> Result<HeaderValue, HeaderError> {
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(HeaderError::Control(name.to_string()));
    }
    let Some((at, credential)) = reference(text) else { return Ok(recorded(name, text)) };
    let credential = credential.ok_or_else(|| HeaderError::AfterReference(name.to_string()))?;
    let prefix = text[..at].to_string();
    Ok(HeaderValue::Secret { credential, secret: String::new(), prefix })
}

/// A value that was recorded elsewhere, in which references mean nothing.
pub(crate) fn recorded(name: &str, text: &str) -> HeaderValue {
    // Nothing is no secret, and can be sent again.
    if text.is_empty() || !is_secret_name(name) {
        return HeaderValue::Plain { text: text.to_string() };
    }
    let authorization = name.to_ascii_lowercase().ends_with("authorization");
    let scheme = authorization.then(|| text.find(' ')).flatten().map_or(0, |n| n + 1);
    inline(&text[..scheme], &text[scheme..])
}

/// A secret held in memory only.
pub(crate) fn inline(prefix: &str, secret: &str) -> HeaderValue {
    HeaderValue::Secret {
        credential: Credential::Inline,
        secret: secret.to_string(),
        prefix: prefix.to_string(),
    }
}

/// Where a reference starts and what it refers to; no credential when something follows it.
fn reference(text: &str) -> Option<(usize, Option<Credential>)> {
    let starts = |at: &usize| {
        let before = text[..*at].chars().next_back();
        before.is_none_or(|c| c == ' ' || c == '=' || c == ':')
    };
    let at = ["env:", "file:"].iter().flat_map(|p| text.match_indices(p)).map(|m| m.0);
    let at = at.filter(starts).min()?;
    if let Some(path) = text[at..].strip_prefix("file:") {
        let path = path.trim_end();
        let credential = Credential::File { path: path.to_string() };
        return (!path.is_empty()).then_some((at, Some(credential)));
    }
    let name = &text[at + 4..];
    let length = name.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    let digit = name.starts_with(|c: char| c.is_ascii_digit());
    if length == 0 || digit {
        return None;
    }
    let credential = Credential::Env { name: name[..length].to_string() };
    Some((at, (length == name.len()).then_some(credential)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_with_and_without_secrets() {
        let check = |line: &str, expected: &str| {
            let found = match header(line) {
                Ok((name, HeaderValue::Plain { text })) => format!("{name}={text}"),
                Ok((name, HeaderValue::Secret { credential, secret, prefix })) => {
                    let from = match credential {
                        Credential::Env { name } => format!("env {name}"),
                        Credential::File { path } => format!("file {path}"),
                        Credential::Inline => "inline".into(),
                    };
                    format!("{name}=[{prefix}|{secret}] {from}")
                }
                Err(e) => format!("{e:?}"),
            };
            assert_eq!(found, expected, "{line}");
        };
        check("Accept:  text/html ", "Accept=text/html");
        check("Authorization: Bearer abc", "Authorization=[Bearer |abc] inline");
        check("Authorization: Bearer env:TOKEN", "Authorization=[Bearer |] env TOKEN");
        check("Cookie: a=b; s=file:/tmp/x y", "Cookie=[a=b; s=|] file /tmp/x y");
        check("X-Tenant: env:T", "X-Tenant=[|] env T");
        check("Authorization:", "Authorization=");
        check("X-Api-Key: k", "X-Api-Key=[|k] inline");
        check("Referer: file:", "Referer=file:");
        check("X-A: my-env:x", "X-A=my-env:x");
        check("Cookie: a=env:A; b=c", "AfterReference(\"Cookie\")");
        check("no header", "Shape(\"no header\")");
        check("a b: c", "Shape(\"a b: c\")");
        check("a: b\r\nc: d", "Control(\"a\")");
        assert_eq!(cookie(" "), Err(HeaderError::NoCookie));
    }
}
