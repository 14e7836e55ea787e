//! Unknown content: a call is what the client sends and what the server sends next, by turns. It
//! ends with the server's last byte before the client's next, or before a quiet gap.

use crate::codec::{Codec, Context, Side, Step, Turns};
use evidence::{Call, Nanos, Operation, Protocol};

/// Turn-taking on a connection whose content is not understood.
#[derive(Debug)]
pub(crate) struct Opaque {
    turns: Turns,
    current: Option<Current>,
    /// The client has ended its direction.
    goodbye: bool,
}

#[derive(Debug)]
struct Current {
    call: Call,
    answered: Option<Nanos>,
}

impl Opaque {
    pub fn new() -> Opaque {
        Opaque { turns: Turns::default(), current: None, goodbye: false }
    }

    fn end(&mut self, cx: &mut Context<'_>) {
        if let Some(Current { call, answered: Some(at) }) =
            self.current.take_if(|c| c.answered.is_some())
        {
            self.turns.finish(call, at, cx);
        }
    }
}

impl Codec for Opaque {
    fn protocol(&self) -> Protocol {
        Protocol::Opaque
    }

    fn data(&mut self, side: Side, data: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step {
        if data.is_empty() {
            return Step::Go;
        }
        if side == Side::Client {
            self.end(cx);
        }
        match (&mut self.current, side) {
            (Some(c), Side::Client) => c.call.bytes_sent += data.len() as u64,
            (Some(c), Side::Server) => {
                c.answered = Some(at);
                c.call.bytes_received += data.len() as u64;
            }
            (None, Side::Client) => {
                let text = format!("opaque {}", cx.id.server.port());
                let mut call = cx.call(Protocol::Opaque, Operation::Execute, text, at);
                call.text_known = false;
                call.batch = self.turns.batch(true);
                call.bytes_sent = data.len() as u64;
                self.current = Some(Current { call, answered: None });
            }
            (None, Side::Server) => {
                let text = format!("opaque {}", cx.id.server.port());
                let mut call = cx.call(Protocol::Opaque, Operation::Push, text, at);
                call.text_known = false;
                call.bytes_received = data.len() as u64;
                call.batch = self.turns.batch(true);
                self.current = Some(Current { call, answered: Some(at) });
            }
        }
        Step::Go
    }

    fn absorb(&mut self, _side: Side, _bytes: u64) -> bool {
        true
    }

    fn reset(&mut self) -> u64 {
        u64::from(self.current.take().is_some())
    }

    fn finished(&mut self, side: Side, _at: Nanos, _cx: &mut Context<'_>) {
        self.goodbye |= side == Side::Client;
    }

    fn closed(&mut self, at: Nanos, cx: &mut Context<'_>) {
        self.end(cx);
        // What a client sends before it closes and nobody answers is its goodbye.
        if let Some(c) = self.current.take()
            && !self.goodbye
        {
            self.turns.abort(c.call, at, cx);
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        self.end(cx);
    }

    fn buffered(&self) -> usize {
        0
    }
}
