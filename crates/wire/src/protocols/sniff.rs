//! Telling protocols apart by the first bytes a client sends. Ports are never consulted.
//!
//! Each judgement is a function of the bytes so far and never changes its mind when more come, so
//! that it does not matter how they were cut into packets.

use super::{memcached, mysql, postgres, redis};
use evidence::Protocol;

/// Judgement on a prefix of a client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Yes,
    No,
    /// Possible; more bytes are needed.
    More,
}

impl Verdict {
    pub fn of(yes: bool) -> Verdict {
        if yes { Verdict::Yes } else { Verdict::No }
    }
}

/// Longest first line looked at.
const LINE_LIMIT: usize = 8 << 10;

/// Judges a prefix of a client's bytes.
type Judge = fn(&[u8]) -> Verdict;

const ORDER: [(Protocol, Judge); 6] = [
    (Protocol::Tls, tls),
    (Protocol::Postgres, postgres::sniff),
    (Protocol::Http, http),
    (Protocol::Redis, redis::sniff),
    (Protocol::Memcached, memcached::sniff),
    (Protocol::Mysql, mysql::sniff),
];

/// What the client speaks; `None` when more bytes are needed. With `last` no more will come.
pub(crate) fn sniff(bytes: &[u8], last: bool) -> Option<Protocol> {
    for (protocol, judge) in ORDER {
        match judge(bytes) {
            Verdict::Yes => return Some(protocol),
            Verdict::More if !last => return None,
            _ => {}
        }
    }
    Some(Protocol::Opaque)
}

/// Whether a message of `protocol` plausibly begins here.
pub(crate) fn begins(protocol: Protocol, bytes: &[u8]) -> bool {
    ORDER.iter().any(|(p, judge)| *p == protocol && judge(bytes) == Verdict::Yes)
}

/// A TLS record: ClientHello, or application data of a connection older than the capture.
pub(crate) fn tls(b: &[u8]) -> Verdict {
    let kind = b.first().is_none_or(|t| matches!(t, 0x16 | 0x17));
    let version = b.get(1).is_none_or(|v| *v == 3) && b.get(2).is_none_or(|v| *v <= 4);
    if !kind || !version {
        return Verdict::No;
    }
    if b.len() < 6 {
        return Verdict::More;
    }
    let length = u16::from_be_bytes([b[3], b[4]]);
    Verdict::of((1..=16_640).contains(&length) && (b[0] == 0x17 || b[5] == 1))
}

const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"PATCH ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
];

pub(crate) fn http(b: &[u8]) -> Verdict {
    if b.len() < 8 && METHODS.iter().any(|m| m.starts_with(b)) {
        return Verdict::More;
    }
    if !METHODS.iter().any(|m| b.starts_with(m)) {
        return Verdict::No;
    }
    match line(b) {
        Some(line) => Verdict::of(line.windows(8).any(|w| w == b" HTTP/1.")),
        None if b.len() < LINE_LIMIT => Verdict::More,
        None => Verdict::No,
    }
}

/// The first line, without its end.
pub(crate) fn line(b: &[u8]) -> Option<&[u8]> {
    let end = b.iter().take(LINE_LIMIT).position(|c| *c == b'\n')?;
    Some(b[..end].strip_suffix(b"\r").unwrap_or(&b[..end]))
}

/// Judges a text protocol by the first word of its first line.
pub(crate) fn first_word(b: &[u8], words: &[&str], same: fn(&[u8], &[u8]) -> bool) -> Verdict {
    let end = b.iter().take(LINE_LIMIT).position(|c| matches!(c, b' ' | b'\r' | b'\n'));
    let word = &b[..end.unwrap_or(b.len().min(LINE_LIMIT))];
    if end.is_none() {
        let begins =
            words.iter().any(|w| w.len() >= word.len() && same(&w.as_bytes()[..word.len()], word));
        return if begins { Verdict::More } else { Verdict::No };
    }
    if !words.iter().any(|w| same(w.as_bytes(), word)) {
        return Verdict::No;
    }
    match line(b) {
        Some(l) => Verdict::of(l.iter().all(|c| *c >= b' ' || *c == b'\t')),
        None if b.len() < LINE_LIMIT => Verdict::More,
        None => Verdict::No,
    }
}
