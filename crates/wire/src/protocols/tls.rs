//! TLS: handshakes and round trips by record headers, nothing of the content.
//!
//! The handshake is one Connect call. After it a call is what the client sends and what the server
//! sends next, by turns.

use crate::codec::{Assembler, Codec, Context, Header, Next, Side, Step, Turns};
use evidence::{Call, Nanos, Operation, Protocol};

/// Largest first record of application data taken for the client's Finished (TLS 1.3, SHA-384).
const FINISHED_LIMIT: u64 = 5 + 80;

/// How far the client's part of a handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    /// Not begun, or over.
    None,
    /// ClientHello was sent.
    Hello,
    /// ChangeCipherSpec was sent: one more record, Finished, is to come.
    Cipher,
}

/// Framing of TLS records.
#[derive(Debug)]
pub(crate) struct Tls {
    turns: Turns,
    client: Assembler,
    /// When the connection asked for TLS, where another protocol did that before.
    asked: Option<Nanos>,
    handshake: Handshake,
    current: Option<(Call, Option<Nanos>)>,
    /// The client has ended its direction.
    goodbye: bool,
}

impl Tls {
    /// `asked`: when an earlier protocol asked for TLS on this connection.
    pub fn new(asked: Option<Nanos>) -> Tls {
        Tls {
            turns: Turns::default(),
            client: Assembler::default(),
            asked,
            handshake: Handshake::None,
            current: None,
            goodbye: false,
        }
    }

    fn end(&mut self, cx: &mut Context<'_>) {
        if let Some((call, Some(at))) = self.current.take_if(|c| c.1.is_some()) {
            self.turns.finish(call, at, cx);
        }
    }

    fn client_record(
        &mut self,
        kind: u8,
        first: u8,
        total: u64,
        begun: Nanos,
        cx: &mut Context<'_>,
    ) {
        // An alert is a goodbye, or the end of everything: nothing answers it.
        if kind == 0x15 {
            return;
        }
        let hello = kind == 0x16 && first == 1;
        if hello && self.handshake == Handshake::None && self.current.is_none() {
            self.handshake = Handshake::Hello;
            let start = self.asked.take().unwrap_or(begun);
            let mut call =
                cx.call(Protocol::Tls, Operation::Connect, "tls handshake".into(), start);
            call.batch = self.turns.batch(true);
            call.bytes_sent = total;
            self.current = Some((call, None));
            return;
        }
        // Further flights belong to the handshake: TLS 1.2's key exchange, 1.3's Finished.
        let (next, flight) = match (self.handshake, kind) {
            (Handshake::None, _) => (Handshake::None, false),
            (_, 0x14) => (Handshake::Cipher, true),
            (state, 0x16) if hello || state == Handshake::Hello => (Handshake::Hello, true),
            (_, 0x16) => (Handshake::None, true),
            (_, 0x17) => (Handshake::None, total <= FINISHED_LIMIT),
            _ => (Handshake::None, false),
        };
        self.handshake = next;
        if flight {
            if let Some((call, _)) = &mut self.current {
                call.bytes_sent += total;
            }
            return;
        }
        self.end(cx);
        match &mut self.current {
            Some((call, _)) => call.bytes_sent += total,
            None => {
                let text = format!("tls {}", cx.id.server.port());
                let mut call = cx.call(Protocol::Tls, Operation::Execute, text, begun);
                call.text_known = false;
                call.batch = self.turns.batch(true);
                call.bytes_sent = total;
                self.current = Some((call, None));
            }
        }
    }
}

impl Codec for Tls {
    fn protocol(&self) -> Protocol {
        Protocol::Tls
    }

    fn data(&mut self, side: Side, data: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step {
        let mut input = data;
        if side == Side::Server {
            if let Some((call, answered)) = &mut self.current
                && !data.is_empty()
            {
                call.bytes_received += data.len() as u64;
                *answered = Some(at);
            }
            return Step::Go;
        }
        loop {
            match self.client.next(&mut input, at, 5, header) {
                Next::Frame(f) => {
                    let first = f.bytes.get(5).copied().unwrap_or(0);
                    self.client_record(f.bytes[0], first, f.total, f.begun, cx);
                }
                Next::More => return Step::Go,
                Next::Bad => return Step::Lost,
            }
        }
    }

    fn absorb(&mut self, side: Side, bytes: u64) -> bool {
        side == Side::Server || self.client.absorb(bytes)
    }

    fn reset(&mut self) -> u64 {
        self.client.clear();
        self.handshake = Handshake::None;
        u64::from(self.current.take().is_some())
    }

    fn finished(&mut self, side: Side, _at: Nanos, _cx: &mut Context<'_>) {
        self.goodbye |= side == Side::Client;
    }

    fn closed(&mut self, at: Nanos, cx: &mut Context<'_>) {
        self.end(cx);
        // What a client sends before it closes and nobody answers is its goodbye.
        if let Some((call, _)) = self.current.take()
            && !(self.goodbye && call.operation == Operation::Execute)
        {
            self.turns.abort(call, at, cx);
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        self.end(cx);
    }

    fn buffered(&self) -> usize {
        self.client.buffered()
    }
}

fn header(b: &[u8]) -> Header {
    match b {
        [0x14..=0x18, 3, 0..=4, a, b, ..] => {
            let length = u64::from(u16::from_be_bytes([*a, *b]));
            if length > 18_432 {
                return Header::Bad;
            }
            Header::Frame { total: 5 + length, keep: 6 }
        }
        _ => Header::Bad,
    }
}
