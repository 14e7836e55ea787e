//! One connection to a peer: from TCP connect over telling the protocol to the codec that frames
//! it, and back on its feet after a loss.

use crate::codec::{Codec, Context, Identity, Shared, Side, Step};
use crate::protocols::{http, memcached, mysql, opaque, postgres, redis, sniff, tls};
use evidence::{Nanos, Operation, Protocol};

/// Bytes held while the protocol is not known.
const UNDECIDED_LIMIT: usize = 64 << 10;

/// Bytes of one direction that arrived before the protocol was known.
#[derive(Debug)]
struct Early {
    side: Side,
    at: Nanos,
    data: Vec<u8>,
}

enum State {
    /// The protocol is not known yet.
    Undecided(Vec<Early>),
    Framed(Box<dyn Codec>),
    /// Framing was lost: waits for the client to begin a message.
    Lost(Box<dyn Codec>),
}

/// How the peer of a connection is called.
pub(crate) trait Naming {
    /// Name of the peer at `id`'s server address, of which the content says `protocol`.
    fn name(&mut self, id: &Identity, protocol: Option<Protocol>) -> String;
}

/// A connection.
pub(crate) struct Conversation {
    pub id: Identity,
    state: State,
    /// Whether the capture saw it begin, and when.
    opened: Option<Nanos>,
    established: Option<Nanos>,
    connect_told: bool,
}

impl Conversation {
    pub fn new(id: Identity, opened: Option<Nanos>) -> Conversation {
        let state = State::Undecided(Vec::new());
        Conversation { id, state, opened, established: None, connect_told: false }
    }

    /// The server accepted the connection.
    pub fn established(&mut self, at: Nanos) {
        self.established.get_or_insert(at);
    }

    /// Whether nothing but the request for a connection was seen.
    pub fn is_connecting(&self) -> bool {
        self.opened.is_some() && self.established.is_none()
    }

    pub fn buffered(&self) -> usize {
        match &self.state {
            State::Undecided(early) => early.iter().map(|e| e.data.len()).sum(),
            State::Framed(codec) | State::Lost(codec) => codec.buffered(),
        }
    }

    /// The next bytes of one direction.
    pub fn data(
        &mut self,
        side: Side,
        data: &[u8],
        at: Nanos,
        shared: &mut Shared,
        naming: &mut dyn Naming,
    ) {
        match &mut self.state {
            State::Framed(_) => self.framed(side, data, at, shared),
            State::Undecided(_) => self.undecided(side, data, at, shared, naming),
            State::Lost(codec) => {
                if side == Side::Client && sniff::begins(codec.protocol(), data) {
                    let codec = std::mem::replace(codec, Box::new(opaque::Opaque::new()));
                    self.state = State::Framed(codec);
                    self.framed(side, data, at, shared);
                }
            }
        }
    }

    fn framed(&mut self, side: Side, data: &[u8], at: Nanos, shared: &mut Shared) {
        let mut rest = data;
        // A connection changes its protocol a few times at most.
        for _ in 0..4 {
            let State::Framed(codec) = &mut self.state else { return };
            match codec.data(side, rest, at, &mut Context { shared, id: &self.id }) {
                Step::Go => return,
                Step::Switch(mut next, unread) => {
                    codec.closed(at, &mut Context { shared, id: &self.id });
                    std::mem::swap(codec, &mut next);
                    rest = &rest[rest.len() - unread.min(rest.len())..];
                    if rest.is_empty() {
                        return;
                    }
                }
                Step::Lost => break,
            }
        }
        self.lose(shared);
    }

    /// Framing is lost: outstanding calls will never be seen to end.
    pub fn lose(&mut self, shared: &mut Shared) {
        let State::Framed(mut codec) =
            std::mem::replace(&mut self.state, State::Undecided(Vec::new()))
        else {
            return;
        };
        shared.losses.resynchronised += 1;
        shared.losses.calls_abandoned += codec.reset();
        self.state = State::Lost(codec);
    }

    /// Bytes of one direction were never seen.
    pub fn lost(&mut self, side: Side, bytes: u64, at: Nanos, shared: &mut Shared) {
        shared.losses.stream_gaps += 1;
        shared.losses.lost_bytes += bytes;
        match &mut self.state {
            State::Framed(codec) => {
                if codec.absorb(side, bytes) {
                    // The loss may have completed a frame.
                    self.framed(side, &[], at, shared);
                } else {
                    self.lose(shared);
                }
            }
            State::Undecided(early) => early.clear(),
            State::Lost(_) => {}
        }
    }

    fn undecided(
        &mut self,
        side: Side,
        data: &[u8],
        at: Nanos,
        shared: &mut Shared,
        naming: &mut dyn Naming,
    ) {
        let State::Undecided(early) = &mut self.state else { return };
        let client_spoke = early.iter().any(|e| e.side == Side::Client);
        if side == Side::Server && !client_spoke && self.opened.is_none() {
            // The end of an answer to a request from before the capture.
            return;
        }
        let protocol = match side {
            Side::Client if early.is_empty() => sniff::sniff(data, false),
            Side::Client => sniff::sniff(&joined(early, Side::Client, data), false),
            Side::Server if client_spoke => sniff::sniff(&joined(early, Side::Client, &[]), true),
            Side::Server => mysql::sniff_greeting(&joined(early, Side::Server, data)),
        };
        let held: usize = early.iter().map(|e| e.data.len()).sum();
        let protocol =
            protocol.or((held + data.len() > UNDECIDED_LIMIT).then_some(Protocol::Opaque));
        let Some(protocol) = protocol else {
            early.push(Early { side, at, data: data.to_vec() });
            return;
        };
        let early = std::mem::take(early);
        self.decide(protocol, shared, naming);
        for e in early {
            self.data(e.side, &e.data, e.at, shared, naming);
        }
        self.data(side, data, at, shared, naming);
    }

    fn decide(&mut self, protocol: Protocol, shared: &mut Shared, naming: &mut dyn Naming) {
        self.id.name = naming.name(&self.id, Some(protocol));
        self.tell_connect(protocol, None, shared);
        self.state = State::Framed(match protocol {
            Protocol::Postgres => Box::new(postgres::Postgres::new()),
            Protocol::Mysql => Box::new(mysql::Mysql::new(self.established)),
            Protocol::Redis => Box::new(redis::Redis::new()),
            Protocol::Memcached => Box::new(memcached::Memcached::new()),
            Protocol::Http => Box::new(http::Http::new()),
            Protocol::Tls => Box::new(tls::Tls::new(None)),
            _ => Box::new(opaque::Opaque::new()),
        });
    }

    /// The TCP connect is a call of its own, told once the peer has a name.
    fn tell_connect(&mut self, protocol: Protocol, failed: Option<Nanos>, shared: &mut Shared) {
        let Some(opened) = self.opened.filter(|_| !self.connect_told) else { return };
        self.connect_told = true;
        let cx = Context { shared, id: &self.id };
        let mut call = cx.call(protocol, Operation::Connect, "tcp connect".into(), opened);
        match (self.established, failed) {
            (Some(at), _) => call.end = at.max(opened),
            (None, Some(at)) => {
                call.end = at.max(opened);
                call.error = Some("connection-refused".into());
            }
            // Data without an answer to the SYN: that packet was not captured.
            (None, None) => {}
        }
        shared.calls.push(call);
    }

    /// One direction ended.
    pub fn finished(&mut self, side: Side, at: Nanos, shared: &mut Shared) {
        if let State::Framed(codec) = &mut self.state {
            codec.finished(side, at, &mut Context { shared, id: &self.id });
        }
    }

    /// The connection is over.
    pub fn closed(&mut self, at: Nanos, shared: &mut Shared, naming: &mut dyn Naming) {
        if self.id.name.is_empty() {
            self.id.name = naming.name(&self.id, None);
        }
        self.tell_connect(Protocol::Opaque, Some(at), shared);
        if let State::Framed(codec) = &mut self.state {
            codec.closed(at, &mut Context { shared, id: &self.id });
        }
    }

    /// A quiet gap.
    pub fn flush(&mut self, shared: &mut Shared) {
        if let State::Framed(codec) = &mut self.state {
            codec.flush(&mut Context { shared, id: &self.id });
        }
    }
}

/// The early bytes of one direction, and `data` after them.
fn joined(early: &[Early], side: Side, data: &[u8]) -> Vec<u8> {
    let mut all: Vec<u8> = Vec::new();
    for e in early.iter().filter(|e| e.side == side) {
        all.extend_from_slice(&e.data);
    }
    all.extend_from_slice(data);
    all
}
