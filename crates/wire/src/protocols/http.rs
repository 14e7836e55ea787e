//! HTTP/1.1 as a client speaks it: requests and answers in order, bodies skipped by length, by
//! chunks or up to the end of the connection.

use crate::codec::{Codec, Context, OUTSTANDING_LIMIT, Side, Step, Turns};
use crate::protocols::opaque::Opaque;
use evidence::{Call, Nanos, Operation, Protocol};
use std::collections::VecDeque;

/// Largest head of a request or answer, bytes.
const HEAD_LIMIT: usize = 64 << 10;

/// Headers in one head.
const HEADERS: usize = 128;

/// What the next bytes of a direction are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Head,
    /// This many bytes of body.
    Length(u64),
    ChunkSize,
    /// This many bytes of a chunk, its line end included.
    Chunk(u64),
    Trailer,
    /// Up to the end of the connection.
    Close,
}

#[derive(Debug, Default)]
struct Direction {
    part: Part,
    /// A head or a line so far.
    buffer: Vec<u8>,
    begun: Nanos,
}

#[derive(Debug)]
struct Pending {
    call: Call,
    head: bool,
    connect: bool,
}

/// What a piece of input came to.
enum Piece {
    /// All input was used, more is needed.
    More,
    /// A body, or a message without one, is complete.
    Complete,
    /// Something within a message was read; go on.
    Inside,
    /// Not HTTP.
    Bad,
    /// The connection speaks something else now.
    Upgrade,
}

/// Framing of one HTTP/1.1 connection.
#[derive(Debug, Default)]
pub(crate) struct Http {
    turns: Turns,
    client: Direction,
    server: Direction,
    queue: VecDeque<Pending>,
}

impl Http {
    pub fn new() -> Http {
        Http::default()
    }

    fn piece(&mut self, side: Side, input: &mut &[u8], at: Nanos, cx: &mut Context<'_>) -> Piece {
        let direction = match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        match direction.part {
            Part::Head => {
                if direction.buffer.is_empty() {
                    // Empty lines before a message are allowed.
                    while let [b'\r' | b'\n', rest @ ..] = *input {
                        *input = rest;
                    }
                    direction.begun = at;
                }
                let Some(head) = direction.until(input, b"\r\n\r\n") else {
                    return direction.more(HEAD_LIMIT);
                };
                match side {
                    Side::Client => self.request(&head, cx),
                    Side::Server => self.answer(&head),
                }
            }
            Part::Length(n) => direction.skip(input, n, Part::Length, Part::Head),
            Part::Chunk(n) => direction.skip(input, n, Part::Chunk, Part::ChunkSize),
            Part::ChunkSize => {
                let Some(line) = direction.until(input, b"\n") else { return direction.more(1024) };
                let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
                let text = std::str::from_utf8(&line[..digits]).unwrap_or("");
                match u64::from_str_radix(text, 16) {
                    Ok(0) => direction.part = Part::Trailer,
                    Ok(n) => direction.part = Part::Chunk(n.saturating_add(2)),
                    Err(_) => return Piece::Bad,
                }
                Piece::Inside
            }
            Part::Trailer => {
                let Some(line) = direction.until(input, b"\n") else {
                    return direction.more(HEAD_LIMIT);
                };
                if !matches!(line.as_slice(), b"\r\n" | b"\n") {
                    return Piece::Inside;
                }
                direction.part = Part::Head;
                Piece::Complete
            }
            Part::Close => {
                *input = &[];
                Piece::More
            }
        }
    }

    fn request(&mut self, head: &[u8], cx: &mut Context<'_>) -> Piece {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
            return Piece::Bad;
        }
        let method = request.method.unwrap_or("").to_owned();
        let (authority, path) = split_target(request.path.unwrap_or(""), &method);
        let host = authority
            .or_else(|| find(request.headers, "host"))
            .map_or_else(|| cx.id.server.to_string(), |h| host_text(&h));
        let text = format!("{method} {host}{}", cx.redactor().url_path(&path));
        let start = self.client.begun;
        let mut call = cx.call(Protocol::Http, Operation::Execute, text, start);
        call.batch = self.turns.batch(self.queue.is_empty());
        call.bytes_sent = head.len() as u64;
        self.client.part = body(request.headers, Part::Head);
        let connect = method == "CONNECT";
        self.queue.push_back(Pending { call, head: method == "HEAD", connect });
        if self.queue.len() > OUTSTANDING_LIMIT {
            return Piece::Bad;
        }
        if self.client.part == Part::Head { Piece::Complete } else { Piece::Inside }
    }

    fn answer(&mut self, head: &[u8]) -> Piece {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        if !matches!(response.parse(head), Ok(httparse::Status::Complete(_))) {
            return Piece::Bad;
        }
        let code = response.code.unwrap_or(0);
        let Some(pending) = self.queue.front_mut() else {
            // An answer nobody asked for (408 before close): its body is skipped all the same.
            self.server.part = body(response.headers, Part::Close);
            return Piece::Inside;
        };
        match code {
            101 => return Piece::Upgrade,
            100..=199 => return Piece::Inside,
            200..=299 if pending.connect => return Piece::Upgrade,
            _ => {}
        }
        if code >= 500 {
            pending.call.error = Some(code.to_string());
        }
        self.server.part = match code {
            204 | 304 => Part::Head,
            _ if pending.head => Part::Head,
            _ => body(response.headers, Part::Close),
        };
        if self.server.part == Part::Head { Piece::Complete } else { Piece::Inside }
    }

    /// Counts the bytes of one direction since `before` towards its call.
    fn count(&mut self, side: Side, bytes: u64) {
        match side {
            Side::Client => {
                if let Some(p) = self.queue.back_mut() {
                    p.call.bytes_sent += bytes;
                }
            }
            Side::Server => {
                if let Some(p) = self.queue.front_mut() {
                    p.call.bytes_received += bytes;
                }
            }
        }
    }

    fn end(&mut self, at: Nanos, cx: &mut Context<'_>) {
        if let Some(p) = self.queue.pop_front() {
            self.turns.finish(p.call, at, cx);
        }
    }
}

impl Direction {
    /// Takes input up to and including `end`, with what was buffered before it.
    fn until(&mut self, input: &mut &[u8], end: &[u8]) -> Option<Vec<u8>> {
        let before = self.buffer.len();
        let from = before.saturating_sub(end.len() - 1);
        self.buffer.extend_from_slice(input);
        let found = self.buffer[from..].windows(end.len()).position(|w| w == end);
        let Some(found) = found else {
            *input = &[];
            return None;
        };
        let whole = from + found + end.len();
        *input = &input[whole - before..];
        self.buffer.truncate(whole);
        Some(std::mem::take(&mut self.buffer))
    }

    fn more(&self, limit: usize) -> Piece {
        if self.buffer.len() > limit { Piece::Bad } else { Piece::More }
    }

    fn skip(&mut self, input: &mut &[u8], left: u64, part: fn(u64) -> Part, next: Part) -> Piece {
        let n = left.min(input.len() as u64);
        *input = &input[n as usize..];
        if n < left {
            self.part = part(left - n);
            return Piece::More;
        }
        self.part = next;
        if next == Part::Head { Piece::Complete } else { Piece::Inside }
    }

    /// Missing bytes that lie within a body are skipped like the rest of it.
    fn absorb(&mut self, bytes: u64) -> bool {
        match &mut self.part {
            Part::Close => true,
            Part::Length(n) if *n > bytes => {
                *n -= bytes;
                true
            }
            Part::Chunk(n) if *n > bytes => {
                *n -= bytes;
                true
            }
            _ => false,
        }
    }
}

/// How the body of a message is delimited; `otherwise` when its head does not say.
fn body(headers: &[httparse::Header<'_>], otherwise: Part) -> Part {
    if find(headers, "transfer-encoding").is_some_and(|v| v.to_lowercase().contains("chunked")) {
        return Part::ChunkSize;
    }
    match find(headers, "content-length").and_then(|v| v.trim().parse().ok()) {
        Some(0) => Part::Head,
        Some(n) => Part::Length(n),
        None => otherwise,
    }
}

fn find(headers: &[httparse::Header<'_>], name: &str) -> Option<String> {
    let header = headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
    Some(String::from_utf8_lossy(header.value).into_owned())
}

/// Authority and path of a request target: a proxy is sent whole URLs, CONNECT only an authority.
fn split_target(target: &str, method: &str) -> (Option<String>, String) {
    if method == "CONNECT" {
        return (Some(target.to_owned()), String::new());
    }
    let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return (None, target.to_owned());
    };
    let slash = rest.find('/').unwrap_or(rest.len());
    (Some(rest[..slash].to_owned()), rest[slash..].to_owned())
}

/// Host and port for a call's text: lower case, without credentials.
fn host_text(host: &str) -> String {
    let host = host.rsplit('@').next().unwrap_or("").trim();
    host.chars().filter(|c| !c.is_control()).take(255).collect::<String>().to_lowercase()
}

impl Codec for Http {
    fn protocol(&self) -> Protocol {
        Protocol::Http
    }

    fn data(&mut self, side: Side, data: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step {
        let mut input = data;
        while !input.is_empty() {
            let before = input.len();
            // A request's head is counted when it is whole: only then is there a call to count for.
            let in_head = side == Side::Client && self.client.part == Part::Head;
            let piece = self.piece(side, &mut input, at, cx);
            if !in_head {
                self.count(side, (before - input.len()) as u64);
            }
            match piece {
                Piece::Inside => {}
                Piece::More => return Step::Go,
                Piece::Complete if side == Side::Server => self.end(at, cx),
                Piece::Complete => {}
                Piece::Bad => return Step::Lost,
                Piece::Upgrade => {
                    self.end(at, cx);
                    return Step::Switch(Box::new(Opaque::new()), input.len());
                }
            }
        }
        Step::Go
    }

    fn absorb(&mut self, side: Side, bytes: u64) -> bool {
        match side {
            Side::Client => self.client.absorb(bytes),
            Side::Server => self.server.absorb(bytes),
        }
    }

    fn reset(&mut self) -> u64 {
        self.client = Direction::default();
        self.server = Direction::default();
        std::mem::take(&mut self.queue).len() as u64
    }

    fn finished(&mut self, side: Side, at: Nanos, cx: &mut Context<'_>) {
        if side == Side::Server && self.server.part == Part::Close {
            self.server.part = Part::Head;
            self.end(at, cx);
        }
    }

    fn closed(&mut self, at: Nanos, cx: &mut Context<'_>) {
        self.finished(Side::Server, at, cx);
        for p in std::mem::take(&mut self.queue) {
            self.turns.abort(p.call, at, cx);
        }
    }

    fn buffered(&self) -> usize {
        self.client.buffer.capacity() + self.server.buffer.capacity()
    }
}
