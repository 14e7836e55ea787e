//! A request ready to be sent, rendered from its template: variables set, secrets filled in.
//!
//! The trace id, cookies and a login's token are not part of it: the client adds them at each
//! send, so one rendered request can be sent many times.

use crate::expand;
use evidence::{Body, Credential, Endpoint, HeaderValue, RequestTemplate};
use std::fmt;
use url::Url;

/// Largest body read from a file, bytes.
const BODY_FILE_LIMIT: u64 = 64 << 20;
/// Largest secret read from a file, bytes.
const SECRET_LIMIT: usize = 64 << 10;
/// Headers that belong to the connection and are set by the client itself.
const OWN_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
];

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// As written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// One request, rendered.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Name of the endpoint it measures; copied into the exchange.
    pub endpoint: String,
    /// Method, as given.
    pub method: String,
    /// Scheme.
    pub scheme: Scheme,
    /// Host: a name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub target: String,
    /// Headers in order, names in lower case; `host`, `user-agent` and `content-length` included.
    pub headers: Vec<(String, String)>,
    /// Body bytes.
    pub body: Vec<u8>,
    /// Accept invalid certificates.
    pub insecure: bool,
    /// Ask for compression.
    pub compressed: bool,
    /// Follow redirects on the same host.
    pub follow_redirects: bool,
}

/// Header values may be secret: only their names are shown.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Request")
            .field("endpoint", &self.endpoint)
            .field("method", &self.method)
            .field("origin", &self.origin())
            .field("headers", &names)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Request {
    /// Host and port as in a URL: `127.0.0.1:3000`, `[::1]:3000`, `example.com:443`.
    pub fn host_port(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }

    /// `http://127.0.0.1:3000`, default ports left out.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme.as_str(), self.authority())
    }

    /// The absolute URL. May hold secrets in its query.
    pub fn url(&self) -> String {
        format!("{}{}", self.origin(), self.target)
    }

    /// Value of a header, by lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether a second try cannot change more than the first (RFC 9110 §9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            bracketed(&self.host)
        } else {
            self.host_port()
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Why a template cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// Not a URL that can be requested.
    #[error("cannot use the URL `{url}`: {why}\nhint: give it as http://host:port/path")]
    Url {
        /// The URL without its query.
        url: String,
        /// Why.
        why: String,
    },
    /// A method that is not an HTTP token.
    #[error("`{method}` is not an HTTP method\nhint: use a name like GET or POST")]
    Method {
        /// The method.
        method: String,
    },
    /// A header that would break out of its line.
    #[error(
        "header `{name}` holds a line break or another control character\n\
         hint: a header is one line; look for a stray newline in its value or secret"
    )]
    Header {
        /// Name of the header, escaped.
        name: String,
    },
    /// A secret that cannot be had.
    #[error("no secret for header `{header}`: {why}\nhint: {hint}")]
    Secret {
        /// Name of the header.
        header: String,
        /// Why.
        why: String,
        /// Next step.
        hint: String,
    },
    /// A body that cannot be had.
    #[error("cannot send the body: {why}\nhint: {hint}")]
    Body {
        /// Why.
        why: String,
        /// Next step.
        hint: String,
    },
}

/// Renders an endpoint's template. `size` sets its `size_parameter`; without one it is ignored.
///
/// # Errors
/// See [`RenderError`].
pub fn render_endpoint(
    endpoint: &Endpoint,
    variant: u64,
    size: Option<u64>,
) -> Result<Request, RenderError> {
    let overrides: Vec<(String, String)> = endpoint
        .size_parameter
        .iter()
        .zip(size)
        .map(|(name, size)| (name.clone(), size.to_string()))
        .collect();
    let mut request = render(&endpoint.template, variant, &overrides)?;
    request.endpoint.clone_from(&endpoint.name);
    Ok(request)
}

/// Renders a template: its variables set to combination `variant` (see [`expand::expand`]), each
/// of `overrides` set as a query parameter, replacing those of that name.
///
/// # Errors
/// See [`RenderError`].
pub fn render(
    template: &RequestTemplate,
    variant: u64,
    overrides: &[(String, String)],
) -> Result<Request, RenderError> {
    if !is_token(&template.method) {
        let method = template.method.escape_default().take(40).collect();
        return Err(RenderError::Method { method });
    }
    let url = parse_url(&expand::expand(&template.url, variant))?;
    let mut request = located(&url)?;
    request.method.clone_from(&template.method);
    request.endpoint = format!("{} {}", template.method, url.path());
    for (name, value) in overrides {
        request.target = with_query(&request.target, name, value);
    }
    request.insecure = template.insecure;
    request.compressed = template.compressed;
    request.follow_redirects = template.follow_redirects;
    request.body = body(&template.body)?;
    request.headers = headers(template, &request)?;
    Ok(request)
}

/// The request a redirect leads to, as browsers do it: 303, and 301 or 302 after POST, become GET
/// (RFC 9110 §15.4). `None` when `location` is not a URL that can be requested. The caller
/// decides whether its host may be asked (see `plan::refuse_host`).
pub fn redirected(request: &Request, status: u16, location: &str) -> Option<Request> {
    let url = Url::parse(&request.url()).ok()?.join(location).ok()?;
    let mut next = located(&url).ok()?;
    next.endpoint.clone_from(&request.endpoint);
    next.insecure = request.insecure;
    next.compressed = request.compressed;
    next.follow_redirects = request.follow_redirects;
    next.headers.clone_from(&request.headers);
    let becomes_get = status == 303 && request.method != "HEAD"
        || matches!(status, 301 | 302) && request.method == "POST";
    if becomes_get {
        next.method = "GET".into();
        next.headers.retain(|(name, _)| !name.starts_with("content-"));
    } else {
        next.method.clone_from(&request.method);
        next.body.clone_from(&request.body);
    }
    if next.origin() != request.origin() {
        // Credentials were given for the first host only.
        next.headers.retain(|(name, _)| name != "authorization" && name != "cookie");
        next.headers.retain(|(name, _)| name != "host");
        next.headers.insert(0, ("host".into(), next.authority()));
    }
    Some(next)
}

fn parse_url(text: &str) -> Result<Url, RenderError> {
    let shown = || text.split(['?', '#']).next().unwrap_or_default().escape_default().to_string();
    let fail = |why: &str| RenderError::Url { url: without_user(&shown()), why: why.into() };
    let url = Url::parse(text).map_err(|e| fail(&e.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(fail("it holds a user name or password; give them with -u instead"));
    }
    Ok(url)
}

/// Cuts `user:password@`, so that an error message does not show it.
fn without_user(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}{}", &url[..scheme + 3], &url[at + 1..])
        }
        _ => url.to_owned(),
    }
}

/// A request with only its place filled in.
fn located(url: &Url) -> Result<Request, RenderError> {
    let fail = |why: &str| RenderError::Url {
        url: format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default()),
        why: why.into(),
    };
    let scheme = match url.scheme() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err(fail("only http and https can be requested")),
    };
    let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| fail("it has no host"))?;
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    Ok(Request {
        endpoint: String::new(),
        method: String::new(),
        scheme,
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: url.port_or_known_default().unwrap_or(scheme.default_port()),
        target,
        headers: Vec::new(),
        body: Vec::new(),
        insecure: false,
        compressed: false,
        follow_redirects: false,
    })
}

/// Sets a query parameter, leaving the bytes of all others as they are.
fn with_query(target: &str, name: &str, value: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
    let pair = format!("{name}={value}");
    let mut pairs: Vec<&str> = Vec::new();
    let mut replaced = false;
    for old in query.split('&').filter(|p| !p.is_empty()) {
        let old_name = old.split('=').next().unwrap_or(old);
        if !same_name(old_name, &name) {
            pairs.push(old);
        } else if !replaced {
            pairs.push(&pair);
            replaced = true;
        }
    }
    if !replaced {
        pairs.push(&pair);
    }
    format!("{path}?{}", pairs.join("&"))
}

/// Whether two encoded names are the same once decoded.
fn same_name(a: &str, b: &str) -> bool {
    let decode = |text: &str| {
        url::form_urlencoded::parse(text.as_bytes()).next().map(|(name, _)| name.into_owned())
    };
    a == b || decode(a) == decode(b)
}

fn body(body: &Body) -> Result<Vec<u8>, RenderError> {
    match body {
        Body::Empty => Ok(Vec::new()),
        Body::Inline { bytes, length } if bytes.is_empty() && *length > 0 => {
            Err(RenderError::Body {
                why: format!("its {length} bytes were not stored in the run"),
                hint: "give the request again, or keep its body in a file and use @path".into(),
            })
        }
        Body::Inline { bytes, .. } => Ok(bytes.clone()),
        Body::File { path } => read_file(path, BODY_FILE_LIMIT).map_err(|why| RenderError::Body {
            why,
            hint: format!("check that `{path}` exists here and can be read"),
        }),
    }
}

fn read_file(path: &str, limit: u64) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let fail = |e: std::io::Error| format!("`{path}`: {e}");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(format!("`{path}` is larger than {limit} bytes"));
    }
    Ok(bytes)
}

fn headers(
    template: &RequestTemplate,
    request: &Request,
) -> Result<Vec<(String, String)>, RenderError> {
    let mut headers: Vec<(String, String)> = Vec::with_capacity(template.headers.len() + 4);
    for (name, value) in &template.headers {
        let lower = name.to_ascii_lowercase();
        let text = header_text(name, value)?;
        if !is_token(&lower) || text.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f) {
            return Err(RenderError::Header { name: name.escape_default().take(60).collect() });
        }
        if !OWN_HEADERS.contains(&lower.as_str()) {
            headers.push((lower, text.trim_matches([' ', '\t']).to_owned()));
        }
    }
    let has = |headers: &[(String, String)], name: &str| headers.iter().any(|(n, _)| n == name);
    if !has(&headers, "host") {
        headers.insert(0, ("host".into(), request.authority()));
    }
    if !has(&headers, "user-agent") {
        let agent = concat!("perfwright/", env!("CARGO_PKG_VERSION"));
        headers.push(("user-agent".into(), agent.into()));
    }
    if !has(&headers, "accept") {
        headers.push(("accept".into(), "*/*".into()));
    }
    if request.compressed && !has(&headers, "accept-encoding") {
        headers.push(("accept-encoding".into(), "gzip, deflate, br".into()));
    }
    let expects_body = matches!(request.method.as_str(), "POST" | "PUT" | "PATCH");
    if expects_body || !request.body.is_empty() {
        headers.push(("content-length".into(), request.body.len().to_string()));
    }
    Ok(headers)
}

fn header_text(name: &str, value: &HeaderValue) -> Result<String, RenderError> {
    match value {
        HeaderValue::Plain { text } => Ok(text.clone()),
        HeaderValue::Secret { secret, prefix, .. } if !secret.is_empty() => {
            Ok(format!("{prefix}{secret}"))
        }
        HeaderValue::Secret { credential, prefix, .. } => {
            Ok(format!("{prefix}{}", resolve(name, credential)?))
        }
    }
}

/// Fetches a secret from where it is kept.
fn resolve(header: &str, credential: &Credential) -> Result<String, RenderError> {
    let fail = |why: String, hint: String| {
        let header = header.escape_default().take(60).collect();
        Err(RenderError::Secret { header, why, hint })
    };
    match credential {
        Credential::Env { name } => match std::env::var(name) {
            Ok(secret) if !secret.is_empty() => Ok(secret),
            Ok(_) => fail(format!("{name} is empty"), format!("export {name}=… and run again")),
            Err(e) => fail(format!("{name}: {e}"), format!("export {name}=… and run again")),
        },
        Credential::File { path } => {
            let hint = format!("put the secret into the first line of `{path}`");
            let bytes = match read_file(path, SECRET_LIMIT as u64) {
                Ok(bytes) => bytes,
                Err(why) => return fail(why, hint),
            };
            let text = String::from_utf8_lossy(&bytes);
            match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
                Some(secret) => Ok(secret.to_owned()),
                None => fail(format!("the first line of `{path}` is empty"), hint),
            }
        }
        Credential::Inline => fail(
            "it was given on the command line and is not stored in the run".into(),
            "give it again, or keep it in a variable and refer to it as env:NAME".into(),
        ),
    }
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let special = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || special.contains(&b))
}
