//! A curl command line, as browsers and documentation write it, to a request.
//!
//! Quoting of POSIX shells and of Windows `cmd` is understood; nothing is expanded or executed.
//! Secrets (`Authorization`, `Cookie`, `X-Api-Key`, `-u`, …) end up in memory-only header values.

mod body;
mod flags;
mod target;

pub(crate) use body::content_type;

use crate::credential::{self, HeaderError};
use crate::template::Braces;
use crate::url;
use crate::words::{self, Word};
use crate::{Problem, ReadFile};
use base64::Engine;
use body::{Field, Piece};
use evidence::{Body, HeaderValue, RequestTemplate};
use flags::{Action, DataKind, Flag};
use std::fmt::Display;
use target::Candidate;
use thiserror::Error;

/// Longest command line read, bytes.
pub const LIMIT: usize = 8 << 20;

/// Why a command line is no request, and where.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("curl command, at byte {position}: {message}")]
pub struct CurlError {
    /// Byte offset into the command line.
    pub position: usize,
    /// What happened, why, and the next step.
    pub message: String,
}

impl CurlError {
    fn at(position: usize, message: impl Display) -> CurlError {
        CurlError { position, message: message.to_string() }
    }
}

/// Parses a curl command. A relative URL is resolved against `base`. Files are not read: a body
/// that is one file stays a reference to it, one that is put together from files is an error.
///
/// An `accept-encoding` header given explicitly stays in the headers and wins over `compressed`.
///
/// # Errors
/// [`CurlError`] with the position of what makes the command unusable.
pub fn parse(
    command: &str,
    base: Option<&str>,
) -> Result<(RequestTemplate, Vec<Problem>), CurlError> {
    parse_with(command, base, &|_| Err("files cannot be read here; put the text inline".into()))
}

/// As [`parse`], with `read` for the files a body is put together from (`-F a=@FILE`, two `-d`).
///
/// # Errors
/// [`CurlError`], also when a file cannot be read.
pub fn parse_with(
    command: &str,
    base: Option<&str>,
    read: ReadFile,
) -> Result<(RequestTemplate, Vec<Problem>), CurlError> {
    if command.len() > LIMIT {
        return Err(CurlError::at(LIMIT, "longer than 8 MiB; put the body into a file: -d @FILE"));
    }
    let (words, problems) =
        words::split(command).map_err(|e| CurlError::at(e.position, e.message))?;
    let arguments = arguments(&words)?;
    let mut request = Request { problems, ..Request::default() };
    request.read_flags(arguments, command.len())?;
    request.finish(base, read)
}

/// Whether a text looks like a curl command rather than a URL.
pub fn is_curl(text: &str) -> bool {
    let text = text.trim_start().trim_start_matches("$ ");
    let first = text.split_whitespace().next().unwrap_or_default();
    text.len() > first.len() && is_curl_word(first)
}

fn is_curl_word(word: &str) -> bool {
    let name = word.rsplit(['/', '\\']).next().unwrap_or(word).to_ascii_lowercase();
    name == "curl" || name == "curl.exe"
}

/// The words after `curl`.
fn arguments(words: &[Word]) -> Result<&[Word], CurlError> {
    let words = match words.first() {
        Some(prompt) if prompt.bytes == b"$" || prompt.bytes == b">" => &words[1..],
        _ => words,
    };
    let first = words.first().ok_or_else(|| CurlError::at(0, "the command is empty"))?;
    let name = String::from_utf8_lossy(&first.bytes);
    if is_curl_word(&name) {
        return Ok(&words[1..]);
    }
    let hint = if name == "fetch" || name.starts_with("Invoke-") {
        "; in the browser choose \"Copy as cURL\" instead"
    } else {
        ""
    };
    let name: String = name.chars().take(40).collect();
    Err(CurlError::at(first.position, format!("starts with `{name}`, not with curl{hint}")))
}

#[derive(Default)]
struct Request {
    urls: Vec<Candidate>,
    /// An unknown flag whose value the next word may be.
    doubt: Option<String>,
    method: Option<String>,
    headers: Vec<(String, HeaderValue)>,
    /// Headers curl would add itself, switched off by `-H 'Name:'`.
    removed: Vec<String>,
    pieces: Vec<Piece>,
    fields: Vec<Field>,
    upload: Option<(usize, String)>,
    query: Vec<Piece>,
    cookies: Vec<(usize, String)>,
    get: bool,
    head: bool,
    json: bool,
    no_glob: bool,
    insecure: bool,
    compressed: bool,
    follow_redirects: bool,
    problems: Vec<Problem>,
}

impl Request {
    fn read_flags(&mut self, words: &[Word], end: usize) -> Result<(), CurlError> {
        let mut words = words.iter();
        let mut literal = false;
        while let Some(word) = words.next() {
            let text = String::from_utf8_lossy(&word.bytes).into_owned();
            let after = self.doubt.take();
            if literal || !text.starts_with('-') || text == "-" {
                self.urls.push(Candidate { position: word.position, text, after });
            } else if text == "--" {
                literal = true;
            } else if let Some(long) = text.strip_prefix("--") {
                let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| {
                    (n, Some(Word { position: word.position, bytes: v.into() }))
                });
                let Some(flag) = flags::long(name) else {
                    self.unknown(word.position, &format!("--{name}"), value.is_none());
                    continue;
                };
                let value = match value {
                    None if flag.value => Some(next(&mut words, &flag, end)?),
                    value => value,
                };
                if !self.apply(&flag, word.position, value)? {
                    return Ok(());
                }
            } else if !self.short_flags(word, &text[1..], &mut words, end)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// `-sSkXPOST`: letters up to the first that takes a value. False after `--next`.
    fn short_flags<'a>(
        &mut self,
        word: &Word,
        letters: &str,
        words: &mut impl Iterator<Item = &'a Word>,
        end: usize,
    ) -> Result<bool, CurlError> {
        for (i, letter) in letters.char_indices() {
            let position = word.position + 1 + i;
            // The same rest of the word in bytes: lossy text and bytes agree up to here.
            let rest = word.bytes.get(1 + i + letter.len_utf8()..).unwrap_or_default();
            let Some(flag) = flags::short(letter) else {
                self.unknown(position, &format!("-{letter}"), rest.is_empty());
                continue;
            };
            let value = match (flag.value, rest.is_empty()) {
                (false, _) => None,
                (true, true) => Some(next(words, &flag, end)?),
                (true, false) => {
                    let rest = rest.strip_prefix(b"=").filter(|_| letter == 'X').unwrap_or(rest);
                    Some(Word { position, bytes: rest.to_vec() })
                }
            };
            if !self.apply(&flag, position, value)? {
                return Ok(false);
            }
            if flag.value {
                break;
            }
        }
        Ok(true)
    }

    fn problem(&mut self, position: usize, message: impl Into<String>) {
        self.problems.push(Problem::new(position, message));
    }

    /// `bare`: what comes next may be its value.
    fn unknown(&mut self, position: usize, flag: &str, bare: bool) {
        self.problem(position, format!("flag {flag} is not known and was left out"));
        self.doubt = bare.then(|| flag.to_string());
    }

    /// Takes one flag in; false when the request ends here.
    fn apply(
        &mut self,
        flag: &Flag,
        position: usize,
        value: Option<Word>,
    ) -> Result<bool, CurlError> {
        let given = value.is_some();
        let word = value.unwrap_or(Word { position, bytes: Vec::new() });
        let at = word.position;
        let text = || String::from_utf8_lossy(&word.bytes).into_owned();
        match flag.action {
            Action::Method => self.method = Some(method(&text(), at)?),
            Action::Header => self.header(&text(), at)?,
            Action::Data(kind) => {
                self.pieces.push(Piece { position: at, kind, json: false, text: word.bytes });
            }
            Action::Json => {
                self.json = true;
                let kind = DataKind::Binary;
                self.pieces.push(Piece { position: at, kind, json: true, text: word.bytes });
            }
            Action::Form { literal } => {
                self.fields.push(Field { position: at, literal, text: word.bytes });
            }
            Action::Upload => self.upload = Some((at, text())),
            Action::Query => {
                let kind = DataKind::Encoded;
                self.query.push(Piece { position: at, kind, json: false, text: word.bytes });
            }
            Action::Get => self.get = true,
            Action::Head => self.head = true,
            Action::User => self.user(&word),
            Action::Bearer => self.set("authorization", &format!("Bearer {}", text()), at)?,
            Action::Cookie => self.cookies.push((at, text())),
            Action::Agent => self.set("user-agent", &text(), at)?,
            Action::Referer => {
                let text = text();
                self.set("referer", text.strip_suffix(";auto").unwrap_or(&text), at)?;
            }
            Action::Range => self.set("range", &format!("bytes={}", text()), at)?,
            Action::Compressed => self.compressed = true,
            Action::Insecure => self.insecure = true,
            Action::Redirects => self.follow_redirects = true,
            Action::NoGlob => self.no_glob = true,
            Action::Url => {
                self.urls.push(Candidate { position: at, text: text(), after: None });
            }
            Action::Ignore => {}
            Action::Warn(why) => self.problem(position, format!("--{}: {why}", flag.long)),
            Action::Refuse(why) => {
                return Err(CurlError::at(position, format!("--{}: {why}", flag.long)));
            }
            Action::Next => {
                self.problem(position, "only the request before --next is used");
                return Ok(false);
            }
        }
        if given && !flag.value {
            self.problem(position, format!("--{} takes no value; it was left out", flag.long));
        }
        Ok(true)
    }

    fn set(&mut self, name: &str, text: &str, position: usize) -> Result<(), CurlError> {
        if !text.is_empty() {
            let value = credential::value(name, text).map_err(|e| CurlError::at(position, e))?;
            self.headers.push((name.to_string(), value));
        }
        Ok(())
    }

    /// `Name: value` adds, `Name:` takes away what curl would add, `Name;` adds an empty one.
    fn header(&mut self, line: &str, position: usize) -> Result<(), CurlError> {
        if line.starts_with('@') {
            self.problem(position, "headers in a file are not read; give each with -H");
            return Ok(());
        }
        let empty = line.strip_suffix(';').filter(|name| credential::is_header_name(name));
        if let Some(name) = empty {
            self.headers.push((name.into(), HeaderValue::Plain { text: String::new() }));
            return Ok(());
        }
        // HTTP/2's `:authority`, `:method`: part of the request already.
        if line.starts_with(':') {
            return Ok(());
        }
        let (name, value) = match credential::header(line) {
            Ok(header) => header,
            Err(e @ HeaderError::Shape(_)) => {
                self.problem(position, e.to_string());
                return Ok(());
            }
            Err(e) => return Err(CurlError::at(position, e)),
        };
        if matches!(&value, HeaderValue::Plain { text } if text.is_empty())
            || line.trim_end().ends_with(':')
        {
            self.removed.push(name.to_ascii_lowercase());
        } else if !is_per_connection(&name) {
            self.headers.push((name, value));
        }
        Ok(())
    }

    fn user(&mut self, word: &Word) {
        let text = String::from_utf8_lossy(&word.bytes);
        if text.contains("env:") || text.contains("file:") {
            let message = "references do not work in -u; use -H 'Authorization: Basic env:NAME' \
                           with the encoded user:password in NAME";
            self.problem(word.position, message);
        } else if !text.contains(':') {
            let message = "-u without a password; curl would ask for one, here it is empty";
            self.problem(word.position, message);
        }
        self.basic(&word.bytes);
    }

    fn basic(&mut self, user: &[u8]) {
        let mut user = user.to_vec();
        if !user.contains(&b':') {
            user.push(b':');
        }
        let secret = base64::engine::general_purpose::STANDARD.encode(user);
        self.headers.push(("authorization".into(), credential::inline("Basic ", &secret)));
    }

    fn finish(
        mut self,
        base: Option<&str>,
        read: ReadFile,
    ) -> Result<(RequestTemplate, Vec<Problem>), CurlError> {
        let mut url = self.url(base)?;
        if let Some(user) = url.user.take()
            && !self.has("authorization")
        {
            self.basic(&user);
        }
        self.add_cookies(&url.url, read)?;
        let mut query = std::mem::take(&mut self.query);
        if self.get {
            query.append(&mut self.pieces);
        }
        let query = body::joined(&query, read).map_err(|(at, why)| CurlError::at(at, why))?;
        let url = with_query(url.url, &query);
        let (body, content_type) = self.body(read).map_err(|(at, why)| CurlError::at(at, why))?;
        if self.json {
            self.default_header("accept", "application/json");
        }
        if let Some(content_type) = content_type {
            self.default_header("content-type", &content_type);
        }
        let method = self.method.take().unwrap_or_else(|| self.implied_method().into());
        let template = RequestTemplate {
            method,
            url,
            headers: self.headers,
            body,
            insecure: self.insecure,
            compressed: self.compressed,
            follow_redirects: self.follow_redirects,
        };
        Ok((template, self.problems))
    }

    fn url(&mut self, base: Option<&str>) -> Result<url::Absolute, CurlError> {
        let mut urls = std::mem::take(&mut self.urls);
        let Candidate { position, text, .. } = urls.remove(target::chosen(&urls)?);
        for other in urls {
            let message = match other.after {
                Some(flag) => format!("`{}` was left out with {flag}", other.text),
                None => "only the first URL is used; give others as runs of their own".into(),
            };
            self.problem(other.position, message);
        }
        let braces = if self.no_glob { Braces::Ranges } else { Braces::All };
        let text = if self.no_glob { text } else { self.bracket_ranges(&text, position) };
        url::absolute(&text, base, braces).map_err(|e| CurlError::at(position, e))
    }

    /// curl's `[1-20]` to our `{1..20}`; an IPv6 host and anything else in brackets stays.
    fn bracket_ranges(&mut self, url: &str, position: usize) -> String {
        let path = url.find("://").map_or(0, |n| n + 3);
        let path = url[path..].find(['/', '?']).map_or(url.len(), |n| path + n);
        let mut out = url[..path].to_string();
        let mut rest = &url[path..];
        while let Some(open) = rest.find('[') {
            let inner = rest[open + 1..].split(']').next().unwrap_or_default();
            let range = inner.split_once('-').map(|(a, b)| format!("{a}..{b}"));
            let range = range.filter(|r| crate::template::is_range(r));
            out.push_str(&rest[..open]);
            let closed = rest.len() > open + 1 + inner.len() && !out.ends_with('\\');
            match range.filter(|_| closed) {
                Some(range) => {
                    out.push_str(&format!("{{{range}}}"));
                    rest = &rest[open + inner.len() + 2..];
                }
                None => {
                    if closed && inner.contains('-') {
                        let message = format!("`[{inner}]` is sent as it is; ranges are [1-20]");
                        self.problem(position, message);
                    }
                    out.push('[');
                    rest = &rest[open + 1..];
                }
            }
        }
        out + rest
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|h| h.0.eq_ignore_ascii_case(name))
    }

    fn default_header(&mut self, name: &str, text: &str) {
        if !self.has(name) && !self.removed.iter().any(|r| r == name) {
            self.headers.push((name.into(), HeaderValue::Plain { text: text.into() }));
        }
    }

    fn implied_method(&self) -> &'static str {
        if self.head {
            "HEAD"
        } else if self.upload.is_some() {
            "PUT"
        } else if !(self.get || self.pieces.is_empty() && self.fields.is_empty()) {
            "POST"
        } else {
            "GET"
        }
    }

    fn body(&mut self, read: ReadFile) -> Result<(Body, Option<String>), body::BodyError> {
        if let Some((at, path)) = &self.upload {
            if path == "-" || path == "." {
                return Err((*at, "standard input is not read; write the body to a file".into()));
            }
            return Ok((body::file(path), None));
        }
        if !self.fields.is_empty() {
            if let Some(piece) = self.pieces.first() {
                let message = "curl takes either data or a form; the data was left out";
                self.problems.push(Problem::new(piece.position, message));
            }
            return body::multipart(&self.fields, read).map(|(b, kind)| (b, Some(kind)));
        }
        if self.pieces.is_empty() {
            return Ok((Body::Empty, None));
        }
        let kind = if self.json { "application/json" } else { "application/x-www-form-urlencoded" };
        let body = body::data(&self.pieces, read, &mut self.problems)?;
        Ok((body, Some(kind.into())))
    }

    /// `-b name=value` joined to one header; `-b FILE` in Netscape's format.
    fn add_cookies(&mut self, url: &str, read: ReadFile) -> Result<(), CurlError> {
        let mut joined = Vec::new();
        let cookies = std::mem::take(&mut self.cookies);
        let position = cookies.first().map_or(0, |c| c.0);
        for (at, text) in cookies.into_iter().filter(|c| !c.1.is_empty()) {
            if text.contains('=') || text.starts_with("env:") || text.starts_with("file:") {
                joined.push(text.trim_end_matches([';', ' ']).to_string());
                continue;
            }
            match read(&text) {
                Ok(bytes) => joined.extend(cookie_file(&String::from_utf8_lossy(&bytes), url)),
                Err(why) => self.problem(at, format!("cookie file {text} is left out: {why}")),
            }
        }
        if !joined.is_empty() {
            self.set("cookie", &joined.join("; "), position)?;
        }
        Ok(())
    }
}

fn next<'a>(
    words: &mut impl Iterator<Item = &'a Word>,
    flag: &Flag,
    end: usize,
) -> Result<Word, CurlError> {
    let missing = || CurlError::at(end, format!("--{} needs a value after it", flag.long));
    words.next().cloned().ok_or_else(missing)
}

fn method(text: &str, position: usize) -> Result<String, CurlError> {
    if credential::is_header_name(text) {
        return Ok(text.to_string());
    }
    Err(CurlError::at(position, format!("`{text}` is not an HTTP method")))
}

/// Headers that belong to a connection or are computed anew for each request.
pub(crate) fn is_per_connection(name: &str) -> bool {
    [
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ]
    .iter()
    .any(|h| name.eq_ignore_ascii_case(h))
}

fn with_query(url: String, query: &[u8]) -> String {
    if query.is_empty() {
        return url;
    }
    let mark = if url.contains('?') { '&' } else { '?' };
    let query: String = query.iter().map(|b| query_byte(*b)).collect();
    let query = crate::template::encode_braces(&query, Braces::Ranges).unwrap_or(query);
    format!("{url}{mark}{query}")
}

fn query_byte(byte: u8) -> String {
    if byte.is_ascii_graphic() && !b"\"<>\\^`|#".contains(&byte) {
        return (byte as char).to_string();
    }
    format!("%{byte:02X}")
}

/// The cookies of a Netscape cookie file that belong to the URL's host.
fn cookie_file(text: &str, url: &str) -> Vec<String> {
    let host = url::authority(url);
    let host = host
        .rsplit_once(':')
        .map_or(host, |(h, port)| if port.bytes().all(|b| b.is_ascii_digit()) { h } else { host });
    let mut cookies = Vec::new();
    for line in text.lines() {
        let line = line.strip_prefix("#HttpOnly_").unwrap_or(line);
        let fields: Vec<_> = line.split('\t').collect();
        if let [domain, _, _, _, _, name, value] = fields[..] {
            let domain = domain.trim_start_matches('.');
            let below = host.strip_suffix(domain).is_some_and(|h| h.is_empty() || h.ends_with('.'));
            if below && !line.starts_with('#') {
                cookies.push(format!("{name}={value}"));
            }
        }
    }
    cookies
}

#[cfg(test)]
mod tests;
