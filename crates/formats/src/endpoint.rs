//! What to measure, as a person writes it: `GET /orders?page={1..20}`, `POST /x @body.json`, or a
//! plain URL.

use crate::template::Braces;
use crate::url::{self, UrlError};
use crate::{credential, curl};
use evidence::{Body, Endpoint, HeaderValue, RequestTemplate, redacted_url};
use thiserror::Error;

pub use crate::credential::{HeaderError, cookie, header};

/// Longest endpoint text read, bytes.
pub const LIMIT: usize = 64 << 10;

/// Parameters that set how many items an answer holds, most telling first.
const SIZE_PARAMETERS: &[&str] = &[
    "limit",
    "per_page",
    "perpage",
    "page_size",
    "pagesize",
    "page[size]",
    "page[limit]",
    "size",
    "first",
    "count",
    "n",
    "rows",
    "top",
    "take",
];

/// Why a text is no endpoint.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EndpointError {
    /// Longer than [`LIMIT`].
    #[error("the endpoint is longer than 64 KiB; put a body into a file: POST /x @body.json")]
    TooLong,
    /// The first word is neither a method nor a URL.
    #[error("`{0}` is not an HTTP method; write METHOD /path, such as 'GET /orders', in capitals")]
    Method(String),
    /// A method and nothing else.
    #[error("`{0}` is a method without a path; write METHOD /path, such as '{0} /orders'")]
    NoPath(String),
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Something after the URL.
    #[error(
        "`{after}` after `{target}` is not understood; write METHOD /path, such as 'GET /orders', \
         with a body as 'POST /orders @FILE' and blanks in a URL as %20"
    )]
    Trailing {
        /// What was taken for the URL.
        target: String,
        /// The rest.
        after: String,
    },
}

/// Parses `[METHOD] URL [@FILE]`. A relative URL is resolved against `base`.
///
/// User info in the URL becomes a basic `authorization` header; the name has secrets redacted.
///
/// # Errors
/// [`EndpointError`].
pub fn parse(text: &str, base: Option<&str>) -> Result<Endpoint, EndpointError> {
    if text.len() > LIMIT {
        return Err(EndpointError::TooLong);
    }
    let text = text.trim();
    let (method, rest) = match text.split_once(char::is_whitespace) {
        Some((first, rest)) if is_method(first) => (first, rest.trim()),
        Some((first, _)) if !first.contains(['/', '.', ':', '?', '{']) => {
            return Err(EndpointError::Method(first.to_string()));
        }
        None if is_method(text) => return Err(EndpointError::NoPath(text.to_string())),
        _ => ("GET", text),
    };
    let (target, file) = split_body(rest)?;
    let absolute = url::absolute(target, base, Braces::All)?;
    let mut headers = Vec::new();
    if let Some(user) = absolute.user {
        headers.push(basic(&user));
    }
    let body = match file {
        Some(path) => {
            let text = curl::content_type(path).to_string();
            headers.push(("content-type".to_string(), HeaderValue::Plain { text }));
            Body::File { path: path.to_string() }
        }
        None => Body::Empty,
    };
    Ok(from_template(RequestTemplate {
        method: method.to_string(),
        url: absolute.url,
        headers,
        body,
        insecure: false,
        compressed: false,
        follow_redirects: false,
    }))
}

/// The endpoint of a request: name and size parameter follow from its method and URL.
pub fn from_template(template: RequestTemplate) -> Endpoint {
    Endpoint {
        name: name(&template),
        size_parameter: size_parameter(&template.url),
        template,
        recorded_ms: None,
    }
}

/// `GET /orders?page={1..20}`, secrets redacted.
pub fn name(template: &RequestTemplate) -> String {
    format!("{} {}", template.method, redacted_url(url::path_and_query(&template.url)))
}

/// The query parameter that sets the answer's size: one of the usual names with a number (or a
/// range or list of numbers) as its value.
pub fn size_parameter(url: &str) -> Option<String> {
    let rank = |name: &str| {
        let plain = name.replace("%5B", "[").replace("%5D", "]").to_ascii_lowercase();
        let plain = plain.trim_start_matches(['$', '_']).trim_start_matches("%24");
        SIZE_PARAMETERS.iter().position(|p| *p == plain)
    };
    let number = |value: &str| {
        let inner = value.trim_start_matches('{').trim_end_matches('}');
        value.starts_with(|c: char| c.is_ascii_digit() || c == '{')
            && inner.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'.')
    };
    let candidates = url::query(url).filter(|(_, value)| number(value));
    let best = candidates.filter_map(|(name, _)| Some((rank(name)?, name))).min();
    best.map(|(_, name)| name.to_string())
}

fn is_method(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
}

/// `URL @FILE` to both; blanks within the URL are a mistake unless braces or quotes hold them.
fn split_body(rest: &str) -> Result<(&str, Option<&str>), EndpointError> {
    let Some((target, after)) = rest.split_once(char::is_whitespace) else {
        return Ok((rest, None));
    };
    match after.trim().strip_prefix('@') {
        Some(path) if !path.is_empty() => Ok((target, Some(path.trim()))),
        // What is wrong with the braces says more than that they hold blanks.
        _ if target.rfind('{') > target.rfind('}') => Ok((rest, None)),
        _ => {
            let cut = |text: &str| text.chars().take(80).collect();
            Err(EndpointError::Trailing { target: cut(target), after: cut(after.trim()) })
        }
    }
}

pub(crate) fn basic(user: &[u8]) -> (String, HeaderValue) {
    use base64::Engine;
    let mut user = user.to_vec();
    if !user.contains(&b':') {
        user.push(b':');
    }
    let secret = base64::engine::general_purpose::STANDARD.encode(user);
    ("authorization".into(), credential::inline("Basic ", &secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let check = |text: &str, expected: &str| {
            let shown = match parse(text, Some("http://h:1")) {
                Ok(e) => format!("{} -> {} {:?}", e.name, e.template.url, e.size_parameter),
                Err(e) => e.to_string(),
            };
            assert!(shown.starts_with(expected), "{text}: {shown}");
        };
        let page = "GET /orders?page={1..20} -> http://h:1/orders?page={1..20} None";
        check("GET /orders?page={1..20}", page);
        check("/orders?page={1..20}", page);
        check("https://a.io", "GET / -> https://a.io/ None");
        check("DELETE a.io/x", "DELETE /x -> http://a.io/x None");
        check(
            "/o?size=a&limit=20",
            "GET /o?size=a&limit=20 -> http://h:1/o?size=a&limit=20 Some(\"limit\")",
        );
        check(
            "/o?n=1&per_page=5",
            "GET /o?n=1&per_page=5 -> http://h:1/o?n=1&per_page=5 Some(\"per_page\")",
        );
        check("/o?$top={1..9}", "GET /o?$top={1..9} -> http://h:1/o?$top={1..9} Some(\"$top\")");
        check("/o?token=abc", "GET /o?token=*** -> http://h:1/o?token=abc None");
        check("/o/{id}", "`{id}` at character 4 of `/o/{id}` is a placeholder");
        check("GET /ü/{1..}", "`{1..}` at character 4 of `/ü/{1..}` is a range without an end");
        check("GET /o?p={ 1..5 }", "`{ 1..5 }` at character 6 of `/o?p={ 1..5 }` is no range");
        check("http://h/o?p={..5}", "`{..5}` at character 14 of `http://h/o?p={..5}` is a range");
        check("?p={..5}", "`{..5}` at character 4 of `?p={..5}` is a range without");
        check("get /o", "`get` is not an HTTP method; write METHOD /path");
        check("GET", "`GET` is a method without a path; write METHOD /path, such as 'GET /orders'");
        check("GET /o what", "`what` after `/o` is not understood; write METHOD /path");
        check("FOO BAR BAZ", "`BAZ` after `BAR` is not understood; write METHOD /path");
        check("", "the URL is empty");
        check(&"x".repeat(LIMIT + 1), "the endpoint is longer");
    }

    #[test]
    fn bodies_stay_files() {
        let template = parse("POST /x @a b.json", Some("http://h")).unwrap().template;
        assert_eq!(template.body, Body::File { path: "a b.json".into() });
        assert_eq!(template.method, "POST");
        let json = HeaderValue::Plain { text: "application/json".into() };
        assert_eq!(template.headers, [("content-type".to_string(), json)]);
    }
}
