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
        let bytes = std::fs::read(path).map_err(|e| unreadable(path, &e))?;
        let (mut found, problems) =
            formats::har::parse(&bytes).with_context(|| format!("{}", path.display()))?;
        remarks.extend(problems.iter().map(|p| format!("{}: {p}", path.display())));
        found.truncate(given.most);
        endpoints.extend(found);
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

/// An endpoint from a plain URL.
pub(super) fn endpoint_of_url(url: &str) -> Result<Endpoint> {
    if !url.contains("://") {
        let with_scheme = format!("http://{url}");
        return Err(usage(format!("{url} is not a URL"), format!("did you mean {with_scheme} ?")));
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
    let secret = |reference: &str| super::observe::token(reference).map_err(|e| format!("{e:#}"));
    formats::login::fill(&mut template, &secret).with_context(file)?;
    Ok(template)
}

/// A file named on the command line that is not there, or not text where text is needed.
fn unreadable(path: &Path, error: &std::io::Error) -> anyhow::Error {
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
