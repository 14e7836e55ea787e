//! What a Redis command is: its text as a template, its keys, and the shape of its answer.

use super::resp::Value;
use evidence::{Operation, Redactor};

/// Shape of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One answer.
    One,
    /// One answer, a number that counts elements.
    Counts,
    /// One answer, a map.
    Map,
    /// One answer for each channel.
    Subscribe {
        channels: u32,
    },
    /// CLIENT REPLY ON, OFF, SKIP.
    RepliesOn,
    RepliesOff,
    RepliesSkip,
}

/// A command, redacted.
#[derive(Debug)]
pub(super) struct Command {
    pub text: String,
    pub operation: Operation,
    pub shape: Shape,
    /// Keys as sent, to be hashed.
    pub keys: Vec<Vec<u8>>,
}

/// Where the keys are.
enum Keys {
    None,
    /// The first argument.
    First,
    /// All arguments.
    All,
    /// Every second argument, from the first on.
    Pairs,
    /// From the second argument on.
    Second,
    /// After a count, which is the second argument: scripts.
    Counted,
    /// After the word STREAMS, the first half of the rest.
    Streams,
}

const SESSION: [&str; 26] = [
    "PING",
    "SELECT",
    "CLIENT",
    "COMMAND",
    "INFO",
    "READONLY",
    "READWRITE",
    "ASKING",
    "ECHO",
    "QUIT",
    "RESET",
    "MULTI",
    "DISCARD",
    "WATCH",
    "UNWATCH",
    "CONFIG",
    "CLUSTER",
    "TIME",
    "WAIT",
    "SCRIPT",
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "SSUBSCRIBE",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE",
];

/// Commands whose second word names the operation.
const WITH_SUBCOMMAND: [&str; 14] = [
    "CLIENT", "CONFIG", "CLUSTER", "SCRIPT", "OBJECT", "MEMORY", "XGROUP", "XINFO", "ACL",
    "PUBSUB", "COMMAND", "SLOWLOG", "LATENCY", "FUNCTION",
];

const COUNTING: [&str; 24] = [
    "DEL", "UNLINK", "EXISTS", "TOUCH", "SADD", "SREM", "HSET", "HDEL", "ZADD", "ZREM", "LPUSH",
    "RPUSH", "LREM", "PFADD", "SCARD", "ZCARD", "HLEN", "LLEN", "XLEN", "ZCOUNT", "XDEL", "XACK",
    "SMOVE", "PUBLISH",
];

impl Command {
    pub fn new(value: &Value, redactor: &Redactor) -> Command {
        let words = &value.words;
        let word = |i: usize| words.get(i).map_or("".into(), |w| name(w));
        let verb = word(0);
        let sub = WITH_SUBCOMMAND.contains(&verb.as_str()).then(|| word(1));
        let first = if sub.is_some() { 2 } else { 1 };
        let keys = keys(&verb, words, first);
        let mut text = verb.clone();
        if let Some(sub) = &sub {
            text.push(' ');
            text.push_str(sub);
        }
        if let Some(key) = keys.first() {
            text.push(' ');
            text.push_str(&match std::str::from_utf8(key) {
                Ok(key) => redactor.cache_key(key),
                Err(_) => "?".to_owned(),
            });
        }
        let operation = match verb.as_str() {
            "AUTH" | "HELLO" => Operation::Connect,
            v if SESSION.contains(&v) => Operation::Session,
            _ => Operation::Execute,
        };
        let shape = shape(&verb, &word(1), &word(2), words.len());
        Command { text, operation, shape, keys }
    }
}

fn shape(verb: &str, second: &str, third: &str, words: usize) -> Shape {
    let channels = u32::try_from(words.saturating_sub(1)).unwrap_or(1).max(1);
    match (verb, second, third) {
        ("SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE", ..) => Shape::Subscribe { channels },
        ("UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE", ..) => Shape::Subscribe { channels },
        ("CLIENT", "REPLY", "ON") => Shape::RepliesOn,
        ("CLIENT", "REPLY", "OFF") => Shape::RepliesOff,
        ("CLIENT", "REPLY", "SKIP") => Shape::RepliesSkip,
        ("HGETALL", ..) => Shape::Map,
        (v, ..) if COUNTING.contains(&v) => Shape::Counts,
        _ => Shape::One,
    }
}

/// A command word in upper case; anything that is no word is not shown.
fn name(word: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if word.is_empty() || word.len() > 32 || !word.iter().all(plain) {
        return "?".into();
    }
    String::from_utf8_lossy(word).to_uppercase()
}

fn keys(verb: &str, words: &[Vec<u8>], first: usize) -> Vec<Vec<u8>> {
    let rest = words.get(first..).unwrap_or(&[]);
    match place(verb) {
        Keys::None => Vec::new(),
        Keys::First => rest.iter().take(1).cloned().collect(),
        Keys::All => rest.to_vec(),
        Keys::Pairs => rest.iter().step_by(2).cloned().collect(),
        Keys::Second => rest.iter().skip(1).cloned().collect(),
        Keys::Counted => {
            let count = rest.get(1).and_then(|n| std::str::from_utf8(n).ok()?.parse().ok());
            rest.iter().skip(2).take(count.unwrap_or(0usize)).cloned().collect()
        }
        Keys::Streams => {
            let at = rest.iter().position(|w| w.eq_ignore_ascii_case(b"streams"));
            let streams = at.map_or(&[][..], |i| &rest[i + 1..]);
            streams[..streams.len() / 2].to_vec()
        }
    }
}

fn place(verb: &str) -> Keys {
    match verb {
        "AUTH" | "HELLO" | "PING" | "ECHO" | "SELECT" | "CLIENT" | "CONFIG" | "INFO"
        | "COMMAND" | "CLUSTER" | "SCRIPT" | "ACL" | "SCAN" | "QUIT" | "RESET" | "MULTI"
        | "EXEC" | "DISCARD" | "FLUSHALL" | "FLUSHDB" | "FUNCTION" | "SLOWLOG" | "LATENCY"
        | "MIGRATE" => Keys::None,
        "MGET" | "DEL" | "UNLINK" | "EXISTS" | "TOUCH" | "WATCH" | "SINTER" | "SUNION"
        | "SDIFF" | "PFCOUNT" | "PFMERGE" | "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE"
        | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE" => Keys::All,
        "MSET" | "MSETNX" => Keys::Pairs,
        "BITOP" => Keys::Second,
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO" => Keys::Counted,
        "XREAD" | "XREADGROUP" => Keys::Streams,
        _ => Keys::First,
    }
}
