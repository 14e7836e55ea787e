//! One entry of a HAR file: its JSON, what kind of request it is, and the request to send again.

use crate::credential;
use crate::curl::is_per_connection;
use crate::template::Braces;
use crate::url::{self, percent_encoded};
use base64::Engine;
use evidence::{Body, HeaderValue, RequestTemplate};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An entry as recorded; only what is used, everything else is skipped unread.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(default)]
    started_date_time: String,
    #[serde(default)]
    time: Option<f64>,
    pub request: Request,
    #[serde(default)]
    response: Response,
    #[serde(default)]
    timings: Timings,
    #[serde(default, rename = "_resourceType")]
    resource_type: String,
    #[serde(default, rename = "_fromCache")]
    from_cache: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    pub method: String,
    pub url: String,
    #[serde(default)]
    headers: Vec<Pair>,
    #[serde(default)]
    cookies: Vec<Pair>,
    #[serde(default)]
    post_data: Option<PostData>,
}

#[derive(Debug, Deserialize)]
struct Pair {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostData {
    #[serde(default)]
    mime_type: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    params: Vec<Pair>,
    #[serde(default)]
    encoding: String,
}

#[derive(Debug, Default, Deserialize)]
struct Response {
    #[serde(default)]
    status: i64,
    #[serde(default)]
    content: Content,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    #[serde(default)]
    mime_type: String,
}

/// Phases in milliseconds; −1 or missing is absent.
#[derive(Debug, Default, Deserialize)]
struct Timings {
    blocked: Option<f64>,
    dns: Option<f64>,
    connect: Option<f64>,
    send: Option<f64>,
    wait: Option<f64>,
    receive: Option<f64>,
    ssl: Option<f64>,
}

/// What a recorded request is to an investigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A page or a call to an API.
    Endpoint,
    /// Scripts, styles, images, fonts.
    Static,
    /// Answered by the browser's cache.
    Cached,
    /// WebSocket or server-sent events: open as long as the page.
    Stream,
    /// CORS preflight, beacon or ping: nobody waits for it.
    Unwaited,
    /// Redirected elsewhere; the target is an entry of its own.
    Redirect,
    /// No answer: blocked or aborted.
    Unanswered,
    /// The server refused it (status 4xx), as it would again.
    Refused,
    /// `data:`, `blob:`, an extension.
    Local,
}

/// What is wrong with an entry's phases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PhaseFault {
    /// They do not sum to the entry's time; off by this many milliseconds.
    Sum(f64),
    /// TLS took longer than the connect phase it is part of.
    Ssl,
}

impl Entry {
    pub fn kind(&self) -> Kind {
        let scheme = self.request.url.split(':').next().unwrap_or_default();
        let mime = self.response.content.mime_type.as_str();
        let resource = self.resource_type.as_str();
        if matches!(scheme, "ws" | "wss") || matches!(resource, "websocket" | "eventsource") {
            return Kind::Stream;
        }
        if !matches!(scheme, "http" | "https") {
            return Kind::Local;
        }
        if mime.starts_with("text/event-stream") || self.response.status == 101 {
            return Kind::Stream;
        }
        if self.from_cache.is_some() {
            return Kind::Cached;
        }
        let unwaited = matches!(resource, "preflight" | "ping" | "beacon" | "csp-violation-report");
        if unwaited || self.request.method == "OPTIONS" {
            return Kind::Unwaited;
        }
        if self.response.status <= 0 {
            return Kind::Unanswered;
        }
        if (400..500).contains(&self.response.status) {
            return Kind::Refused;
        }
        let get = self.request.method == "GET";
        if get && (300..400).contains(&self.response.status) && self.response.status != 304 {
            return Kind::Redirect;
        }
        if get && self.is_static(mime, resource) { Kind::Static } else { Kind::Endpoint }
    }

    fn is_static(&self, mime: &str, resource: &str) -> bool {
        let mime = mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let media = ["image/", "font/", "video/", "audio/"].iter().any(|p| mime.starts_with(p));
        let text = ["css", "javascript", "ecmascript", "wasm", "font-woff", "manifest+json"];
        if media || text.iter().any(|t| mime.contains(t)) {
            return true;
        }
        let told = ["script", "stylesheet", "image", "font", "media", "manifest", "texttrack"];
        if told.contains(&resource) {
            return true;
        }
        // Without a telling type, as for 304 answers, the name decides.
        let untold = mime.is_empty() || mime == "x-unknown" || mime == "application/octet-stream";
        let path = self.request.url.split(['?', '#']).next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        let ending = file.rsplit_once('.').map_or("", |(_, e)| e).to_ascii_lowercase();
        let endings = [
            "js", "mjs", "css", "map", "png", "jpg", "jpeg", "gif", "svg", "webp", "avif", "ico",
            "woff", "woff2", "ttf", "otf", "eot", "wasm", "mp4", "webm", "mp3",
        ];
        untold && endings.contains(&ending.as_str())
    }

    /// Whether it is the page itself.
    pub fn is_document(&self) -> bool {
        let html = self.response.content.mime_type.starts_with("text/html");
        self.resource_type == "document" || self.resource_type.is_empty() && html
    }

    /// Start in microseconds since 1970; none when it cannot be read.
    pub fn start_us(&self) -> Option<u64> {
        let text = self.started_date_time.trim();
        let with_colon = match text.len().checked_sub(5).and_then(|n| text.get(n..)) {
            Some(zone) if zone.starts_with(['+', '-']) && zone.is_ascii() => {
                format!("{}{}:{}", &text[..text.len() - 5], &zone[..3], &zone[3..])
            }
            _ => text.to_string(),
        };
        let at = OffsetDateTime::parse(&with_colon, &Rfc3339).ok()?;
        u64::try_from(at.unix_timestamp_nanos() / 1_000).ok()
    }

    /// Duration in milliseconds: its time, else the sum of its phases.
    pub fn duration_ms(&self) -> f64 {
        let sane = |t: &f64| t.is_finite() && (0.0..1e9).contains(t);
        self.time.filter(sane).unwrap_or_else(|| self.timings.sum()).min(1e9)
    }

    /// Checks the phases against the entry's time: `ssl` lies inside `connect`, the rest add up.
    pub fn phase_fault(&self) -> Option<PhaseFault> {
        let present = |t: Option<f64>| t.filter(|t| *t >= 0.0);
        if let (Some(ssl), Some(connect)) =
            (present(self.timings.ssl), present(self.timings.connect))
            && ssl > connect + 0.5
        {
            return Some(PhaseFault::Ssl);
        }
        let time = present(self.time)?;
        let known = self.timings.wait.is_some() || self.timings.receive.is_some();
        let off = (self.timings.sum() - time).abs();
        (known && off > 1.0_f64.max(time * 0.01)).then_some(PhaseFault::Sum(off))
    }

    /// GraphQL's operation name, which tells requests to one URL apart.
    pub fn operation(&self) -> Option<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Operation {
            operation_name: Option<String>,
        }
        let path = self.request.url.split(['?', '#']).next().unwrap_or_default();
        let text = self.request.post_data.as_ref()?.text.as_ref()?;
        if !path.ends_with("graphql") {
            return None;
        }
        let name = serde_json::from_str::<Operation>(text).ok()?.operation_name?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (!name.is_empty() && name.len() <= 80 && name.chars().all(plain)).then_some(name)
    }

    /// The request to send again.
    pub fn template(&self) -> Result<RequestTemplate, String> {
        let request = &self.request;
        if !credential::is_header_name(&request.method) {
            return Err("its method is no HTTP method".into());
        }
        let url = url::absolute(&request.url, None, Braces::Literal).map_err(|e| e.to_string())?;
        let mut headers = Vec::new();
        let mut compressed = false;
        for Pair { name, value } in &request.headers {
            if name.eq_ignore_ascii_case("accept-encoding") {
                compressed = ["gzip", "br", "deflate", "zstd"].iter().any(|e| value.contains(e));
            } else if is_repeatable(name) && !value.chars().any(char::is_control) {
                headers.push((name.clone(), credential::recorded(name, value)));
            }
        }
        let has = |n: &str| headers.iter().any(|h| h.0.eq_ignore_ascii_case(n));
        if !request.cookies.is_empty() && !has("cookie") {
            let pairs = request.cookies.iter().map(|c| format!("{}={}", c.name, c.value));
            let cookie = pairs.collect::<Vec<_>>().join("; ");
            if !cookie.chars().any(char::is_control) {
                headers.push(("cookie".into(), credential::inline("", &cookie)));
            }
        }
        let body = request.post_data.as_ref().map_or(Body::Empty, PostData::body);
        let mime = request.post_data.as_ref().map_or("", |d| d.mime_type.as_str());
        let has = |n: &str| headers.iter().any(|h| h.0.eq_ignore_ascii_case(n));
        if body != Body::Empty && !mime.is_empty() && !has("content-type") {
            headers.push(("content-type".into(), HeaderValue::Plain { text: mime.into() }));
        }
        headers.extend(url.user.as_deref().map(crate::endpoint::basic));
        Ok(RequestTemplate {
            method: request.method.clone(),
            url: url.url,
            headers,
            body,
            insecure: false,
            compressed,
            follow_redirects: false,
        })
    }
}

/// Headers that belong to the recorded moment (connection, validators, trace) are not sent again.
fn is_repeatable(name: &str) -> bool {
    let once = ["host", "if-none-match", "if-modified-since", "traceparent", "tracestate"];
    credential::is_header_name(name)
        && !is_per_connection(name)
        && !once.iter().any(|o| name.eq_ignore_ascii_case(o))
}

impl PostData {
    fn body(&self) -> Body {
        let bytes = match &self.text {
            Some(text) if self.encoding == "base64" => {
                let engine = base64::engine::general_purpose::STANDARD;
                engine.decode(text).unwrap_or_else(|_| text.clone().into_bytes())
            }
            Some(text) => text.clone().into_bytes(),
            None => {
                let encoded = |p: &Pair| {
                    let (name, value) = (p.name.as_bytes(), p.value.as_bytes());
                    format!("{}={}", percent_encoded(name), percent_encoded(value))
                };
                self.params.iter().map(encoded).collect::<Vec<_>>().join("&").into_bytes()
            }
        };
        if bytes.is_empty() {
            return Body::Empty;
        }
        let length = bytes.len() as u64;
        Body::Inline { bytes, length }
    }
}

impl Timings {
    /// Sum of the phases that are present; `ssl` is part of `connect`.
    fn sum(&self) -> f64 {
        let phases = [self.blocked, self.dns, self.connect, self.send, self.wait, self.receive];
        phases.into_iter().flatten().filter(|t| t.is_finite() && *t > 0.0).sum()
    }
}
