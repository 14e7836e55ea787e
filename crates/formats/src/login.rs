//! A login as a file: one request in plain HTTP format (request line, headers, blank line, body).
//! Lines before the request that start with `#` or `//` are comments; `< PATH` as the body is a
//! file. `{{env:NAME}}` and `{{file:PATH}}` in the body stand for secrets kept elsewhere.

use crate::template::Braces;
use crate::url::{self, UrlError};
use crate::{credential, curl, endpoint};
use evidence::{Body, HeaderValue, RequestTemplate};
use thiserror::Error;

/// Largest login file read, bytes.
pub const LIMIT: usize = 1 << 20;

/// Why a file is no login request.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LoginError {
    /// Longer than [`LIMIT`].
    #[error("the login file is larger than 1 MiB; it should hold one request")]
    TooLong,
    /// Nothing in it.
    #[error("the login file holds no request; its first line should be `POST /login`")]
    Empty,
    /// The first line.
    #[error("line {line}: `{text}` is not a request line; write `POST /login`")]
    RequestLine {
        /// Line number, from 1.
        line: usize,
        /// The line's beginning.
        text: String,
    },
    /// A header.
    #[error("line {line}: {source}")]
    Header {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        source: credential::HeaderError,
    },
    /// The URL.
    #[error("line {line}: {source}")]
    Url {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        source: UrlError,
    },
    /// A secret that the body refers to.
    #[error("the body's {{{{{reference}}}}} is not available: {why}")]
    Unresolved {
        /// `env:NAME` or `file:PATH`.
        reference: String,
        /// Reason.
        why: String,
    },
}

/// Parses a login file. A relative URL is resolved against `base`, else against `Host`. A body
/// without a content type is taken for JSON or a form by its first character.
///
/// # Errors
/// [`LoginError`] with the line.
pub fn parse(text: &str, base: Option<&str>) -> Result<RequestTemplate, LoginError> {
    if text.len() > LIMIT {
        return Err(LoginError::TooLong);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (head, body) = split(text);
    let mut lines = head.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    let (first, request) = lines.next().ok_or(LoginError::Empty)?;
    let (method, target) = request_line(request, first + 1)?;
    let mut headers = Vec::new();
    for (line, text) in lines {
        let header = credential::header(text);
        let header = header.map_err(|source| LoginError::Header { line: line + 1, source })?;
        if !curl::is_per_connection(&header.0) {
            headers.push(header);
        }
    }
    let host = headers.iter().find(|h| h.0.eq_ignore_ascii_case("host"));
    let host = host.and_then(|h| match &h.1 {
        HeaderValue::Plain { text } => Some(format!("http://{text}")),
        HeaderValue::Secret { .. } => None,
    });
    let base = base.map(str::to_string).or(host);
    let absolute = url::absolute(target, base.as_deref(), Braces::Literal)
        .map_err(|source| LoginError::Url { line: first + 1, source })?;
    headers.extend(absolute.user.as_deref().map(endpoint::basic));
    let body = read_body(body, &mut headers);
    Ok(RequestTemplate {
        method: method.to_string(),
        url: absolute.url,
        headers,
        body,
        insecure: false,
        compressed: false,
        follow_redirects: false,
    })
}

/// Fills `{{env:NAME}}` and `{{file:PATH}}` of an inline body, asking `lookup` for each (given
/// without the braces), escaped as the content type wants it: within a JSON string, percent-encoded
/// in a form. What else stands in double braces stays.
///
/// # Errors
/// [`LoginError::Unresolved`] with the reason `lookup` gave.
pub fn fill(
    template: &mut RequestTemplate,
    lookup: &mut dyn FnMut(&str) -> Result<String, String>,
) -> Result<(), LoginError> {
    let kind = template.headers.iter().find(|h| h.0.eq_ignore_ascii_case("content-type"));
    let kind = match kind {
        Some((_, HeaderValue::Plain { text })) => text.to_ascii_lowercase(),
        _ => String::new(),
    };
    let Body::Inline { bytes, length } = &mut template.body else { return Ok(()) };
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(()) };
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        rest = after;
        let inner = after.split_once("}}").filter(|(reference, _)| {
            reference.starts_with("env:") || reference.starts_with("file:")
        });
        let Some((reference, after)) = inner else {
            filled.push_str("{{");
            continue;
        };
        let secret = lookup(reference).and_then(|secret| match secret.is_empty() {
            true => Err("it is empty".to_owned()),
            false => Ok(secret),
        });
        let secret = secret
            .map_err(|why| LoginError::Unresolved { reference: reference.to_owned(), why })?;
        filled.push_str(&escaped(&secret, &kind));
        rest = after;
    }
    filled.push_str(rest);
    *length = filled.len() as u64;
    *bytes = filled.into_bytes();
    Ok(())
}

fn escaped(secret: &str, kind: &str) -> String {
    if kind.contains("json") {
        let quoted = serde_json::Value::from(secret).to_string();
        quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
    } else if kind.starts_with("application/x-www-form-urlencoded") {
        url::percent_encoded(secret.as_bytes())
    } else {
        secret.to_owned()
    }
}

/// Head without comments (their lines kept empty, so numbers stay right), and body.
fn split(text: &str) -> (String, &str) {
    let (mut head, mut at, mut started) = (String::new(), 0, false);
    for line in text.split_inclusive('\n') {
        let plain = line.trim_end();
        at += line.len();
        if started && plain.is_empty() {
            break;
        }
        let comment = plain.starts_with('#') || plain.starts_with("//");
        if !comment {
            started |= !plain.is_empty();
            head.push_str(plain);
        }
        head.push('\n');
    }
    (head, &text[at..])
}

fn request_line(text: &str, line: usize) -> Result<(&str, &str), LoginError> {
    let bad = || LoginError::RequestLine { line, text: text.chars().take(60).collect() };
    let mut words = text.split_whitespace();
    let (method, target, version) = (words.next(), words.next(), words.next());
    let known = version.is_none_or(|v| v.starts_with("HTTP/"));
    match (method, target) {
        (Some(m), Some(t)) if m.bytes().all(|b| b.is_ascii_uppercase()) && known => Ok((m, t)),
        _ => Err(bad()),
    }
}

fn read_body(text: &str, headers: &mut Vec<(String, HeaderValue)>) -> Body {
    // Editors end files with a line break that is not part of the body.
    let body = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
    if body.trim().is_empty() {
        return Body::Empty;
    }
    if !headers.iter().any(|h| h.0.eq_ignore_ascii_case("content-type")) {
        let json = body.trim_start().starts_with(['{', '[']);
        let kind = if json { "application/json" } else { "application/x-www-form-urlencoded" };
        headers.push(("content-type".into(), HeaderValue::Plain { text: kind.into() }));
    }
    if let Some(path) = body.trim().strip_prefix("< ").filter(|p| !p.contains('\n')) {
        return Body::File { path: path.trim().into() };
    }
    let bytes = body.as_bytes().to_vec();
    let length = bytes.len() as u64;
    Body::Inline { bytes, length }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_files() {
        let check = |text: &str, base: Option<&str>, expected: &str| {
            let shown = match parse(text, base) {
                Ok(t) => {
                    let body = match &t.body {
                        Body::Empty => "-".into(),
                        Body::Inline { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
                        Body::File { path } => format!("@{path}"),
                    };
                    let headers: Vec<_> = t.headers.iter().map(|h| h.0.as_str()).collect();
                    format!("{} {} {headers:?} {body}", t.method, t.url)
                }
                Err(e) => e.to_string(),
            };
            assert_eq!(shown, expected, "{text}");
        };
        check(
            "# log in\n### \nPOST /login HTTP/1.1\r\nContent-Type: application/json\r\n\
             Content-Length: 9\r\n\r\n{\"a\":\n1}\n",
            Some("http://h:1"),
            "POST http://h:1/login [\"Content-Type\"] {\"a\":\n1}",
        );
        check(
            "POST /l\nHost: h.io\n\nu=a&p=b",
            None,
            "POST http://h.io/l [\"Host\", \"content-type\"] u=a&p=b",
        );
        check("GET http://h/me", None, "GET http://h/me [] -");
        check("POST http://h/\n\n< a.json\n", None, "POST http://h/ [\"content-type\"] @a.json");
        check("", None, "the login file holds no request; its first line should be `POST /login`");
        check("\nlogin", None, "line 2: `login` is not a request line; write `POST /login`");
        check("POST http://h\nbad", None, "line 2: `bad` is not a header; write 'Name: value'");
        check(
            "POST /l",
            None,
            "line 1: `/l` is relative and no base URL is known; give the whole URL, \
             http://HOST:PORT/l",
        );
    }
    #[test]
    fn references_in_bodies() {
        let check = |body: &str, expected: &str| {
            let mut template = parse(&format!("POST http://h/\n\n{body}"), None).unwrap();
            let mut lookup = |reference: &str| match reference {
                "env:PW" => Ok("a\"b&c".to_owned()),
                "file:/k e" => Ok("k".to_owned()),
                "env:EMPTY" => Ok(String::new()),
                _ => Err("not set".to_owned()),
            };
            let shown = match fill(&mut template, &mut lookup) {
                Err(e) => e.to_string(),
                Ok(()) => match template.body {
                    Body::Inline { bytes, length } => {
                        assert_eq!(length, bytes.len() as u64);
                        String::from_utf8(bytes).unwrap()
                    }
                    other => format!("{other:?}"),
                },
            };
            assert_eq!(shown, expected, "{body}");
        };
        check("{\"p\":\"{{env:PW}}\"}", "{\"p\":\"a\\\"b&c\"}");
        check("u=me&p={{env:PW}}&k={{file:/k e}}", "u=me&p=a%22b%26c&k=k");
        check("u={{name}}&p={{env:PW", "u={{name}}&p={{env:PW");
        check("p={{env:X}}", "the body's {{env:X}} is not available: not set");
        check("p={{env:EMPTY}}", "the body's {{env:EMPTY}} is not available: it is empty");
        check("", "Empty");
    }
}
