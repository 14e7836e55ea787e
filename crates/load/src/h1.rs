//! HTTP/1.1 answers, parsed as they arrive: status line and headers by `httparse`, body framing
//! (RFC 9112 §6) here. Accepts what browsers accept; never more memory than its limits.

/// Largest head (status line and headers) and largest trailer section, bytes.
const HEAD_LIMIT: usize = 64 << 10;
/// Most header fields in a head.
const FIELDS_MAX: usize = 256;
/// Most interim (1xx) answers before the real one.
const INTERIM_MAX: u32 = 32;
/// Most bytes of empty lines before the status line.
const BLANK_LIMIT: usize = 16;
/// Longest chunk-size line, extensions included, bytes.
const SIZE_LINE_LIMIT: usize = 4096;

/// Why bytes are not an answer. Positions count from the answer's first byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not HTTP/1.
    #[error("not an HTTP/1 answer: {why} at byte {at}")]
    Invalid {
        /// What is wrong.
        why: String,
        /// Where.
        at: u64,
    },
    /// A part is larger than its limit.
    #[error("{part} is larger than {limit} bytes")]
    TooLarge {
        /// Which part.
        part: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
    /// The connection ended before the answer did.
    #[error("the connection ended after {at} bytes, before the answer was complete")]
    Truncated {
        /// Bytes seen.
        at: u64,
    },
}

/// Status line and headers of the final answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// HTTP status code.
    pub status: u16,
    /// Minor version of HTTP/1.
    pub minor: u8,
    /// Header fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// First value of a header, by lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether the answer says it is an HTML page.
    pub fn is_html(&self) -> bool {
        self.header("content-type").is_some_and(|v| v.to_ascii_lowercase().contains("html"))
    }
}

/// How much of a body is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// The start of an HTML page, enough to recognise a login page by.
    HtmlStart,
    /// All of it.
    Body,
}

/// Bytes kept of an HTML page.
pub(crate) const HTML_START: usize = 64 << 10;

impl Keep {
    /// Appends what is to be kept of `bytes`.
    pub(crate) fn append(self, head: &Head, kept: &mut Vec<u8>, bytes: &[u8]) {
        let room = match self {
            Keep::Nothing => 0,
            Keep::Body => usize::MAX,
            Keep::HtmlStart if head.is_html() => HTML_START.saturating_sub(kept.len()),
            Keep::HtmlStart => 0,
        };
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// Bytes left.
    Length(u64),
    ChunkSize,
    /// Bytes left in the chunk.
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// A push parser for one answer: feed it bytes in any pieces.
#[derive(Clone, Debug)]
pub struct ResponseParser {
    state: State,
    /// Bytes of the head, chunk-size line or trailers collected so far.
    line: Vec<u8>,
    /// Trailer bytes seen.
    trailer_bytes: usize,
    head: Head,
    to_head: bool,
    keep: Keep,
    body: Vec<u8>,
    body_bytes: u64,
    body_limit: u64,
    interim: u32,
    consumed: u64,
    keep_alive: bool,
}

impl ResponseParser {
    /// A parser for the answer to one request. `to_head`: the request was HEAD, so no body
    /// follows. `body_limit`: a body larger than this many bytes is an error. `keep`: what of it
    /// to keep for [`ResponseParser::body`].
    pub fn new(to_head: bool, body_limit: u64, keep: Keep) -> ResponseParser {
        ResponseParser {
            state: State::Head,
            line: Vec::new(),
            trailer_bytes: 0,
            head: Head::default(),
            to_head,
            keep,
            body: Vec::new(),
            body_bytes: 0,
            body_limit,
            interim: 0,
            consumed: 0,
            keep_alive: false,
        }
    }

    /// Takes bytes; returns how many belonged to this answer. Fewer than given only when done.
    ///
    /// # Errors
    /// See [`ParseError`]; the parser must not be fed after one.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, ParseError> {
        let mut used = 0;
        while used < bytes.len() && self.state != State::Done {
            let n = self.step(&bytes[used..])?;
            used += n;
            self.consumed += n as u64;
        }
        Ok(used)
    }

    /// The connection ended: complete for an answer delimited by it, else an error.
    ///
    /// # Errors
    /// [`ParseError::Truncated`].
    pub fn finish(&mut self) -> Result<(), ParseError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(ParseError::Truncated { at: self.consumed }),
        }
    }

    /// Whether the answer is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether any byte of the final answer was seen (interim answers do not count).
    pub fn is_started(&self) -> bool {
        self.state != State::Head || !self.line.is_empty()
    }

    /// Interim (1xx) answers skipped.
    pub fn interim(&self) -> u32 {
        self.interim
    }

    /// The final head; status 0 while it has not arrived.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes of the body so far, as transferred, chunk framing not counted.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// The kept first bytes of the body, as transferred.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether the connection can carry another request after this answer.
    pub fn is_keep_alive(&self) -> bool {
        self.state == State::Done && self.keep_alive
    }

    /// More bytes came than the answer has: the connection's state is unknown.
    pub(crate) fn refuse_reuse(&mut self) {
        self.keep_alive = false;
    }

    /// Head and kept body.
    pub fn into_parts(self) -> (Head, Vec<u8>) {
        (self.head, self.body)
    }

    fn step(&mut self, bytes: &[u8]) -> Result<usize, ParseError> {
        match self.state {
            State::Head => self.step_head(bytes),
            State::Length(left) => {
                let n = self.take_body(bytes, left)?;
                self.state = after(left, n, State::Length, State::Done);
                Ok(n)
            }
            State::UntilClose => self.take_body(bytes, u64::MAX),
            State::ChunkData(left) => {
                let n = self.take_body(bytes, left)?;
                self.state = after(left, n, State::ChunkData, State::ChunkEnd);
                Ok(n)
            }
            State::ChunkSize | State::ChunkEnd | State::Trailers => self.step_line(bytes),
            State::Done => Ok(0),
        }
    }

    fn invalid(&self, why: impl Into<String>) -> ParseError {
        ParseError::Invalid { why: why.into(), at: self.consumed }
    }

    fn take_body(&mut self, bytes: &[u8], left: u64) -> Result<usize, ParseError> {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        self.body_bytes += n as u64;
        if self.body_bytes > self.body_limit {
            return Err(ParseError::TooLarge { part: "the body", limit: self.body_limit });
        }
        self.keep.append(&self.head, &mut self.body, &bytes[..n]);
        Ok(n)
    }

    /// Collects the head up to its empty line, then reads it.
    fn step_head(&mut self, bytes: &[u8]) -> Result<usize, ParseError> {
        let before = self.line.len();
        let room = HEAD_LIMIT.saturating_sub(before);
        let piece = &bytes[..bytes.len().min(room)];
        self.line.extend_from_slice(piece);
        self.refuse_other_protocols()?;
        let Some(end) = head_end(&self.line, before) else {
            if self.line.len() >= HEAD_LIMIT {
                let limit = HEAD_LIMIT as u64;
                return Err(ParseError::TooLarge { part: "the head", limit });
            }
            return Ok(piece.len());
        };
        self.line.truncate(end);
        let head =
            parse_head(&self.line).map_err(|why| ParseError::Invalid { why, at: self.consumed })?;
        self.line.clear();
        self.accept(head)?;
        Ok(end - before)
    }

    /// Fails on the first bytes that cannot start a status line, instead of waiting for its end.
    fn refuse_other_protocols(&self) -> Result<(), ParseError> {
        let start = self.line.iter().position(|b| !b"\r\n".contains(b)).unwrap_or(self.line.len());
        if start > BLANK_LIMIT {
            return Err(ParseError::Invalid { why: "starts with empty lines".into(), at: 0 });
        }
        let seen = &self.line[start..];
        let want = b"HTTP/1.";
        let n = seen.len().min(want.len());
        if seen[..n] == want[..n] {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(&seen[..seen.len().min(16)]);
        Err(ParseError::Invalid { why: format!("starts with `{}`", shown.escape_default()), at: 0 })
    }

    /// Decides how the body is delimited (RFC 9112 §6.3).
    fn accept(&mut self, head: Head) -> Result<(), ParseError> {
        if head.status == 101 {
            return Err(self.invalid("switches protocols, which was not asked for"));
        }
        if head.status < 200 {
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return Err(self.invalid(format!("more than {INTERIM_MAX} interim answers")));
            }
            return Ok(());
        }
        self.head = head;
        self.keep_alive = self.wants_keep_alive();
        let length = self.content_length()?;
        let coding = self.all("transfer-encoding").last().map(str::to_ascii_lowercase);
        self.state = match (coding, length) {
            _ if self.to_head || matches!(self.head.status, 204 | 304) => State::Done,
            (Some(coding), length) => {
                // Both framings at once is how answers get smuggled: do not reuse.
                self.keep_alive &= length.is_none();
                let chunked = coding == "chunked";
                self.keep_alive &= chunked;
                if chunked { State::ChunkSize } else { State::UntilClose }
            }
            (None, Some(0)) => State::Done,
            (None, Some(n)) => State::Length(n),
            (None, None) => {
                self.keep_alive = false;
                State::UntilClose
            }
        };
        if let State::Length(n) = self.state
            && n > self.body_limit
        {
            return Err(ParseError::TooLarge { part: "the body", limit: self.body_limit });
        }
        Ok(())
    }

    /// All comma-separated members of all fields of that name.
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let name = name.to_owned();
        let fields = self.head.headers.iter().filter(move |(n, _)| *n == name);
        fields.flat_map(|(_, v)| v.split(',')).map(str::trim).filter(|v| !v.is_empty())
    }

    fn wants_keep_alive(&self) -> bool {
        let has = |word: &str| self.all("connection").any(|v| v.eq_ignore_ascii_case(word));
        if self.head.minor == 0 { has("keep-alive") } else { !has("close") }
    }

    fn content_length(&self) -> Result<Option<u64>, ParseError> {
        let mut length = None;
        for text in self.all("content-length") {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            let n: u64 = digits
                .then(|| text.parse().ok())
                .flatten()
                .ok_or_else(|| self.invalid("content-length is not a number"))?;
            if length.is_some_and(|other| other != n) {
                return Err(self.invalid("two different content-lengths"));
            }
            length = Some(n);
        }
        Ok(length)
    }

    /// Collects one line of chunked framing, then reads it.
    fn step_line(&mut self, bytes: &[u8]) -> Result<usize, ParseError> {
        let end = bytes.iter().position(|b| *b == b'\n').map(|i| i + 1);
        let n = end.unwrap_or(bytes.len());
        if self.state == State::Trailers {
            self.trailer_bytes = self.trailer_bytes.saturating_add(n);
            if self.trailer_bytes > HEAD_LIMIT {
                let limit = HEAD_LIMIT as u64;
                return Err(ParseError::TooLarge { part: "the trailer section", limit });
            }
        } else if self.line.len() + n > SIZE_LINE_LIMIT {
            let limit = SIZE_LINE_LIMIT as u64;
            return Err(ParseError::TooLarge { part: "a chunk-size line", limit });
        }
        self.line.extend_from_slice(&bytes[..n]);
        if end.is_some() {
            self.state = self.read_line()?;
            self.line.clear();
        }
        Ok(n)
    }

    fn read_line(&self) -> Result<State, ParseError> {
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.state {
            State::ChunkEnd if line.is_empty() => Ok(State::ChunkSize),
            State::ChunkEnd => Err(self.invalid("a chunk is longer than its size says")),
            State::ChunkSize => match chunk_size(line) {
                Some(0) => Ok(State::Trailers),
                Some(size) => Ok(State::ChunkData(size)),
                None => Err(self.invalid("a chunk size is not a hexadecimal number")),
            },
            _ if line.is_empty() => Ok(State::Done),
            _ => Ok(State::Trailers),
        }
    }
}

/// The state once `taken` of `left` bytes are there.
fn after(left: u64, taken: usize, more: fn(u64) -> State, done: State) -> State {
    match left - taken as u64 {
        0 => done,
        rest => more(rest),
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|b| *b == b';').unwrap_or(line.len());
    let text = std::str::from_utf8(&line[..end]).ok()?.trim();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// Where the head ends (after its empty line), looking only at what came after `from`. Empty
/// lines before the status line do not end it.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let first = bytes.iter().position(|b| !b"\r\n".contains(b))?;
    let mut at = from.saturating_sub(3).max(first);
    while let Some(i) = bytes[at..].iter().position(|b| *b == b'\n').map(|i| at + i) {
        match bytes.get(i + 1..) {
            Some([b'\n', ..]) => return Some(i + 2),
            Some([b'\r', b'\n', ..]) => return Some(i + 3),
            _ => at = i + 1,
        }
    }
    None
}

fn parse_head(bytes: &[u8]) -> Result<Head, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = httparse::ParserConfig::default()
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .ignore_invalid_headers_in_responses(true)
        .parse_response(&mut response, bytes);
    match parsed {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err("an incomplete head".into()),
        Err(e) => return Err(e.to_string()),
    }
    let Some(status) = response.code.filter(|code| *code >= 100) else {
        return Err("a status below 100".into());
    };
    let headers = response
        .headers
        .iter()
        .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned()))
        .collect();
    Ok(Head { status, minor: response.version.unwrap_or(1), headers })
}
