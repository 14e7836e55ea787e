//! From arguments to a Workload: URL, curl command line, HAR, endpoints, headers, login.

use anyhow::{Context, Result};
use evidence::{Endpoint, HeaderValue, Workload};
use std::path::Path;

/// A mistake of the user, with its next step.
#[derive(Debug)]
pub(crate) struct UsageError {
    message: String,
    pub(crate) hint: String,
}

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UsageError {}

/// A usage error.
pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    UsageError { message: message.into(), hint: hint.into() }.into()
}

/// The next step when a curl command came as several words.
pub(super) const QUOTE_CURL: &str =
    "put the whole command in quotes: perfwright investigate 'curl http://… -H …'";

/// What to send, as given.
pub(super) struct Given<'a> {
    pub(super) target: Option<&'a str>,
    pub(super) har: Option<&'a Path>,
    pub(super) endpoints: &'a [String],
    pub(super) headers: &'a [String],
    pub(super) cookie: Option<&'a str>,
    pub(super) login: Option<&'a Path>,
    pub(super) insecure: bool,
    pub(super) most: usize,
    pub(super) mutating: bool,
}

/// Builds the workload; the second part are remarks about what was not understood.
pub(super) fn build(given: &Given) -> Result<(Workload, Vec<String>)> {
    let mut remarks = Vec::new();
    let mut endpoints = Vec::new();
    let base = match given.target {
        Some(text) if formats::curl::is_curl(text) => {
            let (template, problems) = formats::curl::parse_with(text, None, &read_body)?;
            remarks.extend(problems.iter().map(ToString::to_string));
            let endpoint = formats::endpoint::from_template(template);
            let base = endpoint.template.url.clone();
            endpoints.push(endpoint);
            Some(base)
        }
        Some(url) => {
            if given.endpoints.is_empty() && given.har.is_none() {
                endpoints.push(endpoint_of_url(url)?);
            }
            Some(url.to_string())
        }
        None => None,
    };
    if let Some(path) = given.har {
        endpoints.extend(recorded(path, given, &mut remarks)?);
    }
    for text in given.endpoints {
        endpoints.push(formats::endpoint::parse(text, base.as_deref())?);
    }
    for endpoint in &mut endpoints {
        add_headers(endpoint, given)?;
    }
    let login = given.login.map(|path| login(path, base.as_deref(), &endpoints)).transpose()?;
    Ok((Workload { endpoints, login }, remarks))
}

/// Endpoints of a recording. What may change data is left out unless that was agreed to: a page's
/// own requests were not named one by one.
fn recorded(path: &Path, given: &Given, remarks: &mut Vec<String>) -> Result<Vec<Endpoint>> {
    let bytes = std::fs::read(path).map_err(|e| unreadable(path, &e))?;
    let shown = path.display();
    let (mut found, problems) = formats::har::parse(&bytes).with_context(|| shown.to_string())?;
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    if found.is_empty() {
        let why = if told.is_empty() { String::new() } else { format!(" ({})", told.join("; ")) };
        return Err(usage(
            format!("{shown} holds no request that can be repeated{why}"),
            "record the page again: open the browser's network panel, load the page, \
             choose \"Save all as HAR\"",
        ));
    }
    remarks.extend(told.iter().map(|p| format!("{shown}: {p}")));
    let (safe, other): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|e| load::plan::refuse(&e.template.method, given.mutating).is_ok());
    let names: Vec<&str> = other.iter().take(3).map(|e| e.name.as_str()).collect();
    let more = if other.len() > 3 { ", …" } else { "" };
    let named = format!("{}{more}", names.join(", "));
    if safe.is_empty() {
        return Err(usage(
            format!("{shown} holds only requests that may change data: {named}"),
            "agree with --mutating when the target is yours to change",
        ));
    }
    if !other.is_empty() {
        remarks.push(format!("{shown}: left out as they may change data: {named} (--mutating)"));
    }
    found = safe;
    found.truncate(given.most);
    Ok(found)
}

/// An endpoint from a plain URL.
pub(super) fn endpoint_of_url(url: &str) -> Result<Endpoint> {
    let url = url.trim();
    if url.is_empty() {
        return Err(usage("the URL is empty", "give one such as http://127.0.0.1:3000/orders"));
    }
    if url == "curl" {
        return Err(usage("no URL in the curl command line", QUOTE_CURL));
    }
    if !url.contains("://") {
        let with_scheme = format!("http://{url}");
        let hint = match formats::endpoint::parse(&with_scheme, None) {
            Ok(_) => format!("did you mean {with_scheme} ?"),
            Err(_) => "a URL is http://HOST:PORT/PATH, such as http://127.0.0.1:3000/orders".into(),
        };
        return Err(usage(format!("{url} is not a URL"), hint));
    }
    Ok(formats::endpoint::parse(url, None)?)
}

fn add_headers(endpoint: &mut Endpoint, given: &Given) -> Result<()> {
    let headers = &mut endpoint.template.headers;
    for text in given.headers {
        let (name, value) = formats::credential::header(text)?;
        set(headers, name, value);
    }
    if let Some(cookie) = given.cookie {
        let (name, value) = formats::credential::cookie(cookie)?;
        set(headers, name, value);
    }
    endpoint.template.insecure |= given.insecure;
    Ok(())
}

fn set(headers: &mut Vec<(String, HeaderValue)>, name: String, value: HeaderValue) {
    headers.retain(|(n, _)| !n.eq_ignore_ascii_case(&name));
    headers.push((name, value));
}

fn login(
    path: &Path,
    base: Option<&str>,
    endpoints: &[Endpoint],
) -> Result<evidence::RequestTemplate> {
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
    let base = base.or(endpoints.first().map(|e| e.template.url.as_str()));
    let file = || format!("login file {}", path.display());
    let mut template = formats::login::parse(&text, base).with_context(file)?;
    // Which error it was is kept: it has the hint.
    let mut missing = None;
    let filled = formats::login::fill(&mut template, &mut |reference| {
        super::observe::token(reference).map_err(|e| {
            let why = e.to_string();
            missing = Some(e);
            why
        })
    });
    filled.map_err(|e| match missing.as_ref().and_then(|m| m.downcast_ref::<UsageError>()) {
        Some(m) => usage(format!("{}: {e}", file()), m.hint.clone()),
        None => anyhow::Error::from(e).context(file()),
    })?;
    Ok(template)
}

/// A process named on the command line has to be there; without `/proc` that cannot be told.
pub(super) fn is_running(pid: Option<i32>) -> Result<()> {
    let proc = Path::new("/proc");
    match pid.filter(|pid| proc.join("self").exists() && !proc.join(pid.to_string()).exists()) {
        Some(pid) => Err(usage(
            format!("no process {pid} is running here"),
            "look it up with `ps` or `ss -ltnp`, or leave --pid out: the port tells the process",
        )),
        None => Ok(()),
    }
}

/// A file named on the command line that is not there, or not text where text is needed.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    let message = format!("cannot read {}: {error}", path.display());
    usage(message, format!("check the path; it is looked up from {}", here()))
}

fn here() -> String {
    std::env::current_dir().map_or_else(|_| "here".into(), |d| d.display().to_string())
}

/// A file that a curl command's body is put together from.
fn read_body(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{path}: {e}"))
}
