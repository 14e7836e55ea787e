//! memcached: the text protocol and the meta commands. The old binary protocol is not read.

use super::sniff::{self, Verdict};
use crate::codec::{Codec, Context, OUTSTANDING_LIMIT, PARAMS_LIMIT, Side, Step, Turns};
use evidence::{Call, Nanos, Operation, Protocol};
use std::collections::VecDeque;

/// Longest line: a get of many keys.
const LINE_LIMIT: usize = 64 << 10;

/// What answers a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// VALUE lines up to END.
    Values,
    /// STAT lines up to END.
    Stats,
    /// One line.
    Line,
    /// One meta line, perhaps with a value. A quiet one is answered only when it is no plain
    /// success (mg: only when it hits), so its place in line is known by what comes after.
    Meta { quiet: bool },
    /// MN, which also answers all quiet commands before it.
    Noop,
}

#[derive(Debug)]
struct Pending {
    call: Call,
    answer: Answer,
    hits: u64,
    /// What a quiet command's answer repeats: its opaque token.
    token: Option<Vec<u8>>,
}

/// A line, and data after it, of one direction.
#[derive(Debug, Default)]
struct Direction {
    line: Vec<u8>,
    begun: Nanos,
    /// Bytes left of a value, its line end included.
    data: u64,
}

/// Framing of one memcached connection.
#[derive(Debug, Default)]
pub(crate) struct Memcached {
    turns: Turns,
    client: Direction,
    server: Direction,
    queue: VecDeque<Pending>,
    /// A value is on its way to the server whose command gets no answer.
    silent: Option<Call>,
    /// Ends the front call when its value has arrived.
    ends_with_data: bool,
}

impl Memcached {
    pub fn new() -> Memcached {
        Memcached::default()
    }

    fn command(&mut self, line: &[u8], cx: &mut Context<'_>) -> bool {
        let words: Vec<&[u8]> = line.split(|b| *b == b' ').filter(|w| !w.is_empty()).collect();
        let Some(verb) = words.first().and_then(|w| std::str::from_utf8(w).ok()) else {
            return false;
        };
        let Some(kind) = Kind::of(verb, &words) else { return false };
        let mut text = verb.to_owned();
        if let Some(key) = kind.keys.first() {
            text.push(' ');
            text.push_str(&match std::str::from_utf8(key) {
                Ok(key) => cx.redactor().cache_key(key),
                Err(_) => "?".to_owned(),
            });
        }
        let operation = match verb {
            "version" | "verbosity" | "stats" | "mn" | "quit" => Operation::Session,
            _ => Operation::Execute,
        };
        let mut call = cx.call(Protocol::Memcached, operation, text, self.client.begun);
        let hash = |k: &&[u8]| cx.redactor().hash_text(k);
        call.params = kind.keys.iter().take(PARAMS_LIMIT).map(hash).collect();
        call.batch = self.turns.batch(self.queue.is_empty());
        self.client.data = kind.data;
        if let Some(answer) = kind.answer {
            let token = token(&words);
            self.queue.push_back(Pending { call, answer, hits: 0, token });
        } else if kind.data > 0 {
            self.silent = Some(call);
        } else {
            let at = call.start;
            self.turns.finish(call, at, cx);
        }
        true
    }

    fn answer_line(&mut self, line: &[u8], at: Nanos, cx: &mut Context<'_>) -> bool {
        let words: Vec<&[u8]> = line.split(|b| *b == b' ').filter(|w| !w.is_empty()).collect();
        let Some(first) = words.first().copied() else { return true };
        let size = |i: usize| words.get(i).and_then(|w| std::str::from_utf8(w).ok()?.parse().ok());
        match first {
            b"MN" => return self.noop(at, cx),
            b"VA" | b"HD" | b"EN" | b"NF" | b"NS" | b"EX" | b"ME" => {
                self.skip_quiet(first, &words, at, cx);
            }
            _ => {}
        }
        let Some(front) = self.queue.front_mut() else {
            if let (b"VALUE", Some(n)) = (first, size(3)) {
                self.server.data = data_size(n);
            }
            return true;
        };
        let error = match first {
            b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR" => {
                Some(String::from_utf8_lossy(first).into_owned())
            }
            _ => None,
        };
        match (first, front.answer) {
            _ if error.is_some() => {
                front.call.error = error;
                self.end(at, cx);
            }
            (b"VALUE", Answer::Values) => {
                let Some(n) = size(3) else { return false };
                front.hits += 1;
                self.server.data = data_size(n);
            }
            (b"END", Answer::Values) => {
                front.call.rows = Some(front.hits);
                self.end(at, cx);
            }
            (b"END" | b"RESET", Answer::Stats) => self.end(at, cx),
            (_, Answer::Values | Answer::Stats) => {}
            (b"VA", _) => {
                let Some(n) = size(1) else { return false };
                front.call.rows = Some(1);
                self.server.data = data_size(n);
                self.ends_with_data = true;
            }
            (line, Answer::Line | Answer::Meta { .. }) => {
                front.call.rows = match line {
                    b"STORED" | b"DELETED" | b"TOUCHED" | b"HD" => Some(1),
                    b"NOT_STORED" | b"NOT_FOUND" | b"EXISTS" | b"EN" | b"NF" | b"NS" | b"EX" => {
                        Some(0)
                    }
                    _ => None,
                };
                self.end(at, cx);
            }
            (_, Answer::Noop) => {}
        }
        true
    }

    /// MN answers the no-op and the quiet commands before it, which succeeded (mg: missed).
    fn noop(&mut self, at: Nanos, cx: &mut Context<'_>) -> bool {
        while let Some(p) = self.queue.pop_front() {
            if p.answer == Answer::Noop {
                self.turns.finish(p.call, at, cx);
                break;
            }
            self.end_quiet(p, at, cx);
        }
        true
    }

    /// Quiet commands before the one a meta answer belongs to were not answered.
    fn skip_quiet(&mut self, first: &[u8], words: &[&[u8]], at: Nanos, cx: &mut Context<'_>) {
        let answer = token(words);
        let fits = |p: &Pending| {
            let same = answer.is_none() || p.token.is_none() || p.token == answer;
            let suppressed = p.answer == Answer::Meta { quiet: true }
                && match first {
                    b"EN" => p.call.text.starts_with("mg"),
                    b"HD" => !p.call.text.starts_with("mg"),
                    b"NF" => p.call.text.starts_with("md"),
                    _ => false,
                };
            same && !suppressed
        };
        let Some(n) = self.queue.iter().position(fits) else { return };
        for _ in 0..n {
            if let Some(p) = self.queue.pop_front() {
                self.end_quiet(p, at, cx);
            }
        }
    }

    fn end_quiet(&mut self, mut p: Pending, at: Nanos, cx: &mut Context<'_>) {
        p.call.rows = Some(u64::from(!p.call.text.starts_with("mg")));
        self.turns.finish(p.call, at, cx);
    }

    fn end(&mut self, at: Nanos, cx: &mut Context<'_>) {
        if let Some(p) = self.queue.pop_front() {
            self.turns.finish(p.call, at, cx);
        }
    }

    fn value_done(&mut self, side: Side, at: Nanos, cx: &mut Context<'_>) {
        match side {
            Side::Client => {
                if let Some(call) = self.silent.take() {
                    self.turns.finish(call, at, cx);
                }
            }
            Side::Server => {
                if std::mem::take(&mut self.ends_with_data) {
                    self.end(at, cx);
                }
            }
        }
    }

    /// Counts bytes of one direction towards the call they belong to.
    fn count(&mut self, side: Side, bytes: u64) {
        match (side, &mut self.silent) {
            (Side::Client, Some(call)) => call.bytes_sent += bytes,
            (Side::Client, None) => {
                if let Some(p) = self.queue.back_mut() {
                    p.call.bytes_sent += bytes;
                }
            }
            (Side::Server, _) => {
                if let Some(p) = self.queue.front_mut() {
                    p.call.bytes_received += bytes;
                }
            }
        }
    }
}

/// Length of a value with its line end.
fn data_size(n: u64) -> u64 {
    n.saturating_add(2)
}

/// The opaque token (`O…`) among the flags of a meta command or answer.
fn token(words: &[&[u8]]) -> Option<Vec<u8>> {
    words.iter().skip(1).find(|w| w.first() == Some(&b'O') && w.len() > 1).map(|w| w.to_vec())
}

/// A command's keys, value and answer.
struct Kind<'a> {
    keys: Vec<&'a [u8]>,
    data: u64,
    answer: Option<Answer>,
}

impl<'a> Kind<'a> {
    fn of(verb: &str, words: &[&'a [u8]]) -> Option<Kind<'a>> {
        let silent = words.last() == Some(&&b"noreply"[..]) && words.len() > 1;
        let key = |n: usize| words.get(1..).unwrap_or(&[]).iter().take(n).copied().collect();
        let size = |i: usize| -> Option<u64> {
            let n: u64 = std::str::from_utf8(words.get(i)?).ok()?.parse().ok()?;
            (n < 1 << 40).then_some(data_size(n))
        };
        let line = (!silent).then_some(Answer::Line);
        let quiet = words.iter().skip(2).any(|w| *w == b"q");
        let meta = Some(Answer::Meta { quiet });
        Some(match verb {
            "get" | "gets" => Kind { keys: key(usize::MAX), data: 0, answer: Some(Answer::Values) },
            "gat" | "gats" => Kind {
                keys: words.get(2..).unwrap_or(&[]).to_vec(),
                data: 0,
                answer: Some(Answer::Values),
            },
            "set" | "add" | "replace" | "append" | "prepend" | "cas" => {
                Kind { keys: key(1), data: size(4)?, answer: line }
            }
            "delete" | "incr" | "decr" | "touch" => Kind { keys: key(1), data: 0, answer: line },
            "mg" | "md" | "ma" | "me" => Kind { keys: key(1), data: 0, answer: meta },
            "ms" => Kind { keys: key(1), data: size(2)?, answer: meta },
            "mn" => Kind { keys: vec![], data: 0, answer: Some(Answer::Noop) },
            "stats" => Kind { keys: vec![], data: 0, answer: Some(Answer::Stats) },
            "version" | "flush_all" | "verbosity" | "cache_memlimit" => {
                Kind { keys: vec![], data: 0, answer: line }
            }
            "quit" => Kind { keys: vec![], data: 0, answer: None },
            _ => return None,
        })
    }
}

const VERBS: [&str; 23] = [
    "get",
    "gets",
    "gat",
    "gats",
    "set",
    "add",
    "replace",
    "append",
    "prepend",
    "cas",
    "delete",
    "incr",
    "decr",
    "touch",
    "mg",
    "ms",
    "md",
    "ma",
    "mn",
    "me",
    "stats",
    "version",
    "flush_all",
];

/// Judges whether a client's command begins here.
pub(crate) fn sniff(b: &[u8]) -> Verdict {
    sniff::first_word(b, &VERBS, <[u8]>::eq)
}

impl Codec for Memcached {
    fn protocol(&self) -> Protocol {
        Protocol::Memcached
    }

    fn data(&mut self, side: Side, data: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step {
        let mut input = data;
        while !input.is_empty() {
            let d = match side {
                Side::Client => &mut self.client,
                Side::Server => &mut self.server,
            };
            if d.data > 0 {
                let n = d.data.min(input.len() as u64);
                d.data -= n;
                input = &input[n as usize..];
                let done = d.data == 0;
                self.count(side, n);
                if done {
                    self.value_done(side, at, cx);
                }
                continue;
            }
            if d.line.is_empty() {
                d.begun = at;
            }
            let end = input.iter().position(|b| *b == b'\n').map_or(input.len(), |p| p + 1);
            d.line.extend_from_slice(&input[..end]);
            input = &input[end..];
            if d.line.len() > LINE_LIMIT {
                return Step::Lost;
            }
            if d.line.last() != Some(&b'\n') {
                return Step::Go;
            }
            let whole = std::mem::take(&mut d.line);
            let line = whole.strip_suffix(b"\r\n").unwrap_or(&whole[..whole.len() - 1]);
            let understood = match side {
                Side::Client => {
                    let understood = self.command(line, cx);
                    self.count(side, whole.len() as u64);
                    understood
                }
                Side::Server => {
                    self.count(side, whole.len() as u64);
                    self.answer_line(line, at, cx)
                }
            };
            if !understood || self.queue.len() > OUTSTANDING_LIMIT {
                return Step::Lost;
            }
        }
        Step::Go
    }

    fn absorb(&mut self, side: Side, bytes: u64) -> bool {
        let d = match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        let within = d.data > bytes;
        if within {
            d.data -= bytes;
        }
        within
    }

    fn reset(&mut self) -> u64 {
        self.client = Direction::default();
        self.server = Direction::default();
        self.silent = None;
        self.ends_with_data = false;
        std::mem::take(&mut self.queue).len() as u64
    }

    fn closed(&mut self, at: Nanos, cx: &mut Context<'_>) {
        for p in std::mem::take(&mut self.queue) {
            self.turns.abort(p.call, at, cx);
        }
    }

    fn buffered(&self) -> usize {
        self.client.line.capacity() + self.server.line.capacity()
    }
}
