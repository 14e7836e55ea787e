//! Redis: RESP2 and RESP3, inline commands, pipelines, transactions, push messages.

mod commands;
mod resp;

use super::sniff::{self, Verdict};
use crate::codec::{Codec, Context, OUTSTANDING_LIMIT, PARAMS_LIMIT, Side, Step, Turns};
use commands::{Command, Shape};
use evidence::{Call, Nanos, Operation, Protocol};
use resp::{Read, Reader, Value};
use std::collections::VecDeque;

#[derive(Debug)]
struct Pending {
    call: Call,
    /// Answers still to come: one for each channel of a subscription.
    answers: u32,
    subscribes: bool,
    shape: Shape,
}

/// Whether the server answers, as CLIENT REPLY sets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Replies {
    #[default]
    On,
    Off,
    /// Not to the next command.
    Skip,
}

/// Framing of one Redis connection.
#[derive(Debug, Default)]
pub(crate) struct Redis {
    turns: Turns,
    client: Reader,
    server: Reader,
    queue: VecDeque<Pending>,
    replies: Replies,
    /// A RESP2 subscriber is sent messages as ordinary arrays.
    subscribed: bool,
}

impl Redis {
    pub fn new() -> Redis {
        Redis::default()
    }

    fn command(&mut self, value: Value, cx: &mut Context<'_>) {
        if value.words.is_empty() {
            return;
        }
        let command = Command::new(&value, cx.redactor());
        let mut call = cx.call(Protocol::Redis, command.operation, command.text, value.begun);
        call.params =
            command.keys.iter().take(PARAMS_LIMIT).map(|k| cx.redactor().hash_text(k)).collect();
        call.bytes_sent = value.bytes;
        match (command.shape, self.replies) {
            (Shape::RepliesOff, _) => return self.unanswered(call, Replies::Off, cx),
            (Shape::RepliesSkip, _) => return self.unanswered(call, Replies::Skip, cx),
            (Shape::RepliesOn, _) => self.replies = Replies::On,
            (_, Replies::Off) => return self.unanswered(call, Replies::Off, cx),
            (_, Replies::Skip) => return self.unanswered(call, Replies::On, cx),
            _ => {}
        }
        call.batch = self.turns.batch(self.queue.is_empty());
        let (answers, subscribes) = match command.shape {
            Shape::Subscribe { channels } => (channels, true),
            _ => (1, false),
        };
        self.queue.push_back(Pending { call, answers, subscribes, shape: command.shape });
    }

    /// A command that gets no answer is over once it is sent.
    fn unanswered(&mut self, mut call: Call, next: Replies, cx: &mut Context<'_>) {
        self.replies = next;
        call.batch = self.turns.batch(self.queue.is_empty());
        let at = call.start;
        self.turns.finish(call, at, cx);
    }

    fn answer(&mut self, value: &Value, at: Nanos, cx: &mut Context<'_>) {
        let word = value.words.first().map_or(&b""[..], |w| w.as_slice());
        let confirms = CONFIRMATIONS.iter().any(|c| word.eq_ignore_ascii_case(c));
        let delivers = DELIVERIES.iter().any(|d| word.eq_ignore_ascii_case(d));
        let waits = self.queue.front().is_some_and(|p| p.subscribes);
        let push = value.kind == b'>' || (self.subscribed && value.kind == b'*' && delivers);
        if self.queue.is_empty() || (push && !(confirms && waits)) {
            return push_call(value, at, &mut self.turns, cx);
        }
        let Some(front) = self.queue.front_mut() else { return };
        front.call.bytes_received += value.bytes;
        if confirms && waits {
            self.subscribed = !word.to_ascii_lowercase().starts_with(b"un")
                && !word.to_ascii_lowercase().starts_with(b"pun");
        }
        if let Some(error) = &value.error {
            front.call.error = Some(error.clone());
            front.answers = 1;
        }
        front.answers -= 1;
        if front.answers == 0
            && let Some(mut p) = self.queue.pop_front()
        {
            if p.call.operation == Operation::Execute {
                p.call.rows = rows(value, p.shape);
            }
            self.turns.finish(p.call, at, cx);
        }
    }
}

const CONFIRMATIONS: [&[u8]; 6] =
    [b"subscribe", b"psubscribe", b"ssubscribe", b"unsubscribe", b"punsubscribe", b"sunsubscribe"];
const DELIVERIES: [&[u8]; 3] = [b"message", b"pmessage", b"smessage"];

/// Elements of an answer; a miss is 0. Numbers are values and not told, unless they are counts.
fn rows(value: &Value, shape: Shape) -> Option<u64> {
    match value.kind {
        b'$' | b'=' => Some(u64::from(!value.null)),
        // RESP2 sends a map as keys and values in turn.
        b'*' if shape == Shape::Map => Some(value.elements / 2),
        b'*' | b'~' => Some(value.elements - value.nulls.min(value.elements)),
        b'%' => Some(value.elements / 2),
        b'_' => Some(0),
        b':' if shape == Shape::Counts => value.number.and_then(|n| u64::try_from(n).ok()),
        _ => None,
    }
}

fn push_call(value: &Value, at: Nanos, turns: &mut Turns, cx: &mut Context<'_>) {
    let kind = value.words.first().map(|w| String::from_utf8_lossy(w).to_lowercase());
    let kind = kind.filter(|k| k.len() <= 24 && k.bytes().all(|b| b.is_ascii_lowercase()));
    let text = format!("push {}", kind.as_deref().unwrap_or("data"));
    let mut call = cx.call(Protocol::Redis, Operation::Push, text, value.begun);
    call.bytes_received = value.bytes;
    call.batch = turns.batch(false);
    call.end = at;
    cx.shared.calls.push(call);
}

impl Codec for Redis {
    fn protocol(&self) -> Protocol {
        Protocol::Redis
    }

    fn data(&mut self, side: Side, data: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step {
        let mut input = data;
        loop {
            let reader = match side {
                Side::Client => &mut self.client,
                Side::Server => &mut self.server,
            };
            match reader.next(&mut input, at, side == Side::Client) {
                Read::Value(v) if side == Side::Client => self.command(v, cx),
                Read::Value(v) => self.answer(&v, at, cx),
                Read::More => return Step::Go,
                Read::Bad => return Step::Lost,
            }
            if self.queue.len() > OUTSTANDING_LIMIT {
                return Step::Lost;
            }
        }
    }

    fn absorb(&mut self, side: Side, bytes: u64) -> bool {
        match side {
            Side::Client => self.client.absorb(bytes),
            Side::Server => self.server.absorb(bytes),
        }
    }

    fn reset(&mut self) -> u64 {
        self.client = Reader::default();
        self.server = Reader::default();
        std::mem::take(&mut self.queue).len() as u64
    }

    fn closed(&mut self, at: Nanos, cx: &mut Context<'_>) {
        for p in std::mem::take(&mut self.queue) {
            self.turns.abort(p.call, at, cx);
        }
    }

    fn buffered(&self) -> usize {
        self.client.buffered() + self.server.buffered()
    }
}

/// Inline commands that nothing but Redis has.
const INLINE: [&str; 12] = [
    "ping", "info", "auth", "hello", "select", "command", "client", "monitor", "echo", "config",
    "exists", "dbsize",
];

/// Judges whether a client's command begins here.
pub(crate) fn sniff(b: &[u8]) -> Verdict {
    let Some((b'*', rest)) = b.split_first() else {
        return sniff::first_word(b, &INLINE, <[u8]>::eq_ignore_ascii_case);
    };
    let digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
    if digits > 7 {
        return Verdict::No;
    }
    let tail = &rest[digits..];
    match tail {
        [] | [b'\r'] | [b'\r', b'\n'] if digits > 0 || tail.is_empty() => Verdict::More,
        [b'\r', b'\n', b'$', ..] => Verdict::of(digits > 0),
        _ => Verdict::No,
    }
}
