//! From segments to Calls: the table of connections and the rules of whose they are.

use crate::codec::{Identity, Shared, Side, StatementNames};
use crate::conversation::{Conversation, Naming};
use crate::edges::Edges;
use crate::losses::Losses;
use crate::segment::{ACK, FIN, RST, SYN, Segment};
use crate::stream::{Piece, Reassembly, Resent};
use evidence::{Call, CallSource, Nanos, Protocol, Redactor, ServerEdge};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

/// Connections followed at the same time. Beyond it those longest idle are forgotten, and counted.
pub const CONNECTIONS_LIMIT: usize = 131_072;

/// Bytes buffered over all connections. The connection that would exceed it loses its framing.
pub const BUFFER_LIMIT: usize = 256 << 20;

/// Connections idle for longer go first when there are too many.
const IDLE: Nanos = Nanos(60_000_000_000);

type Filter = Box<dyn Fn(SocketAddr, SocketAddr) -> bool + Send>;

/// Turns segments into Calls and server edges. Holds at most [`CONNECTIONS_LIMIT`] connections and
/// [`BUFFER_LIMIT`] bytes; results accumulate until taken.
pub struct Decoder {
    shared: Shared,
    flows: HashMap<(SocketAddr, SocketAddr), Flow>,
    names: Names,
    own_ports: Vec<u16>,
    client_ports: Option<HashSet<u16>>,
    filter: Option<Filter>,
    edges: Edges,
    resent: HashMap<SocketAddr, Resent>,
    connections: u32,
    buffered: usize,
    limits: (usize, usize),
}

/// Handle of a connection whose bytes are given directly, see [`Decoder::open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    client: SocketAddr,
    server: SocketAddr,
}

struct Flow {
    conversation: Conversation,
    client: SocketAddr,
    /// Client's and server's direction.
    streams: [Reassembly; 2],
    ended: [bool; 2],
    last: Nanos,
    buffered: usize,
}

#[derive(Default)]
struct Names {
    peers: HashMap<SocketAddr, String>,
    learnt: HashMap<SocketAddr, Protocol>,
}

impl Naming for Names {
    fn name(&mut self, id: &Identity, protocol: Option<Protocol>) -> String {
        if let Some(protocol) = protocol.filter(|p| *p != Protocol::Opaque) {
            if self.learnt.len() >= CONNECTIONS_LIMIT {
                self.learnt.clear();
            }
            self.learnt.insert(id.server, protocol);
        }
        if let Some(name) = self.peers.get(&id.server).filter(|n| !n.is_empty()) {
            return name.clone();
        }
        let known = protocol.filter(|p| *p != Protocol::Opaque);
        let known = known.or_else(|| self.learnt.get(&id.server).copied());
        format!("{} {}", known.unwrap_or(Protocol::Opaque).word(), id.server)
    }
}

impl Decoder {
    /// A decoder of captured packets. Segments at `own_ports` are the service's own requests and
    /// yield [`ServerEdge`]s; all others are calls to its peers.
    pub fn new(redactor: Redactor, own_ports: &[u16]) -> Decoder {
        Decoder::with_source(redactor, own_ports, CallSource::Wire)
    }

    /// As [`Decoder::new`], for bytes from another source.
    pub fn with_source(redactor: Redactor, own_ports: &[u16], source: CallSource) -> Decoder {
        Decoder {
            shared: Shared {
                redactor,
                source,
                calls: Vec::new(),
                losses: Losses::default(),
                names: StatementNames::default(),
            },
            flows: HashMap::new(),
            names: Names::default(),
            own_ports: own_ports.to_vec(),
            client_ports: None,
            filter: None,
            edges: Edges::default(),
            resent: HashMap::new(),
            connections: 0,
            buffered: 0,
            limits: (CONNECTIONS_LIMIT, BUFFER_LIMIT),
        }
    }

    /// Replaces the ports the service listens on.
    pub fn set_own_ports(&mut self, own_ports: &[u16]) {
        self.own_ports = own_ports.to_vec();
    }

    /// Replaces the known peers: address to name. An empty name is made of the protocol found in
    /// the content and the address (`postgres 127.0.0.1:5432`). A connection keeps the name it got.
    pub fn set_peers(&mut self, peers: HashMap<SocketAddr, String>) {
        self.names.peers = peers;
    }

    /// Local ports of the service's sockets. Once this or [`Decoder::set_peers`] was called, only
    /// connections from these ports or to these peers are followed.
    pub fn set_client_ports(&mut self, ports: HashSet<u16>) {
        self.client_ports = Some(ports);
    }

    /// Decides by client and server address which connections are followed, instead of the sets.
    /// Asked when a connection is first seen.
    pub fn set_filter(&mut self, filter: impl Fn(SocketAddr, SocketAddr) -> bool + Send + 'static) {
        self.filter = Some(Box::new(filter));
    }

    /// Sets smaller limits than [`CONNECTIONS_LIMIT`] and [`BUFFER_LIMIT`].
    pub fn set_limits(&mut self, connections: usize, buffer_bytes: usize) {
        self.limits = (connections.max(1), buffer_bytes);
    }

    /// Takes the next segment, in the order seen.
    pub fn feed(&mut self, s: &Segment<'_>) {
        if self.is_own(s.destination) {
            return self.edges.feed(s, true);
        }
        if self.is_own(s.source) {
            return self.edges.feed(s, false);
        }
        let key = ordered(s.source, s.destination);
        let begins = s.has(SYN) && !s.has(ACK);
        if begins && let Some(old) = self.flows.remove(&key) {
            // A SYN again is the first one sent anew, unless the connection had got further.
            if old.conversation.is_connecting() && old.client == s.source {
                self.flows.insert(key, old);
                return;
            }
            self.close(old, s.at);
        }
        if !self.flows.contains_key(&key) {
            // Without payload there is nothing to follow: the tail of a closed connection.
            if !begins && s.data.is_empty() && s.missing == 0 {
                return;
            }
            let (client, server) = if begins { (s.source, s.destination) } else { self.orient(s) };
            if !self.wanted(client, server) {
                return;
            }
            self.add(client, server, begins.then_some(s.at), s.at);
        }
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let over = flow.feed(s, &mut self.shared, &mut self.names);
        let resent = flow.resent();
        if resent.packets > 0 && self.resent.len() < CONNECTIONS_LIMIT {
            let server = if s.source == flow.client { s.destination } else { s.source };
            self.resent.entry(server).or_default().add(resent);
        }
        self.account(key, over, s.at);
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.own_ports.contains(&address.port()) && !self.names.peers.contains_key(&address)
    }

    fn wanted(&self, client: SocketAddr, server: SocketAddr) -> bool {
        if let Some(filter) = &self.filter {
            return filter(client, server);
        }
        let all = self.names.peers.is_empty() && self.client_ports.is_none();
        all || self.names.peers.contains_key(&server)
            || self.client_ports.as_ref().is_some_and(|p| p.contains(&client.port()))
    }

    /// Which end of a connection that was open before is the client.
    fn orient(&self, s: &Segment<'_>) -> (SocketAddr, SocketAddr) {
        let (a, b) = (s.source, s.destination);
        let is_peer = |x: &SocketAddr| self.names.peers.contains_key(x);
        let is_client =
            |x: &SocketAddr| self.client_ports.as_ref().is_some_and(|p| p.contains(&x.port()));
        let is_learnt = |x: &SocketAddr| self.names.learnt.contains_key(x);
        let tests: [&dyn Fn(&SocketAddr) -> bool; 2] = [&is_peer, &is_learnt];
        if is_peer(&a) != is_peer(&b) {
            return if is_peer(&b) { (a, b) } else { (b, a) };
        }
        if is_client(&a) != is_client(&b) {
            return if is_client(&a) { (a, b) } else { (b, a) };
        }
        if let Some(test) = tests.iter().find(|t| t(&a) != t(&b)) {
            return if test(&b) { (a, b) } else { (b, a) };
        }
        // Ephemeral ports are the higher ones.
        if b.port() <= a.port() { (a, b) } else { (b, a) }
    }

    fn add(&mut self, client: SocketAddr, server: SocketAddr, opened: Option<Nanos>, at: Nanos) {
        if self.flows.len() >= self.limits.0 {
            self.evict(at);
        }
        self.connections = self.connections.wrapping_add(1);
        let id = Identity { connection: self.connections, client, server, name: String::new() };
        let flow = Flow {
            conversation: Conversation::new(id, opened),
            client,
            streams: Default::default(),
            ended: [false; 2],
            last: at,
            buffered: 0,
        };
        self.flows.insert(ordered(client, server), flow);
    }

    /// Forgets connections: the idle ones, or failing that the eighth that was idle longest.
    fn evict(&mut self, now: Nanos) {
        let mut times: Vec<Nanos> = self.flows.values().map(|f| f.last).collect();
        let eighth = times.len() / 8;
        let oldest = *times.select_nth_unstable(eighth).1;
        let limit = oldest.max(now - IDLE);
        let before = self.flows.len();
        self.flows.retain(|_, f| f.last > limit);
        if self.flows.len() >= self.limits.0 {
            self.flows.clear();
        }
        self.shared.losses.connections_evicted += (before - self.flows.len()) as u64;
        self.buffered = self.flows.values().map(|f| f.buffered).sum();
    }

    /// Book-keeping after bytes were taken.
    fn account(&mut self, key: (SocketAddr, SocketAddr), over: bool, at: Nanos) {
        if over {
            if let Some(flow) = self.flows.remove(&key) {
                self.close(flow, at);
            }
            return;
        }
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let buffered = flow.conversation.buffered()
            + flow.streams.iter().map(Reassembly::buffered).sum::<usize>();
        self.buffered = self.buffered - flow.buffered + buffered;
        flow.buffered = buffered;
        flow.last = at;
        if self.buffered > self.limits.1 {
            self.buffered -= buffered;
            flow.buffered = 0;
            flow.streams = Default::default();
            flow.conversation.lose(&mut self.shared);
        }
    }

    fn close(&mut self, mut flow: Flow, at: Nanos) {
        self.buffered -= flow.buffered;
        flow.give_up(&mut self.shared, &mut self.names);
        flow.conversation.closed(at, &mut self.shared, &mut self.names);
    }

    /// A connection whose bytes are given with [`Decoder::bytes`] instead of segments: the service
    /// asked for it at `opened` and had it at `established`.
    pub fn open(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        opened: Nanos,
        established: Nanos,
    ) -> ConnectionKey {
        self.add(client, server, Some(opened), established);
        if let Some(flow) = self.flows.get_mut(&ordered(client, server)) {
            flow.conversation.established(established);
        }
        ConnectionKey { client, server }
    }

    /// A connection the service asked for at `opened` and never got; [`Decoder::broken`] ends it.
    pub fn open_refused(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        opened: Nanos,
    ) -> ConnectionKey {
        self.add(client, server, Some(opened), opened);
        ConnectionKey { client, server }
    }

    /// The next bytes of a connection from [`Decoder::open`].
    pub fn bytes(&mut self, key: ConnectionKey, from_client: bool, data: &[u8], at: Nanos) {
        let key = ordered(key.client, key.server);
        let side = if from_client { Side::Client } else { Side::Server };
        let Some(flow) = self.flows.get_mut(&key) else { return };
        flow.conversation.data(side, data, at, &mut self.shared, &mut self.names);
        self.account(key, false, at);
    }

    /// One direction (`from_client`) of such a connection ended; it is over when both have.
    pub fn ended(&mut self, key: ConnectionKey, from_client: bool, at: Nanos) {
        let key = ordered(key.client, key.server);
        let side = if from_client { Side::Client } else { Side::Server };
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let over = flow.end(side, at, &mut self.shared);
        self.account(key, over, at);
    }

    /// Such a connection broke.
    pub fn broken(&mut self, key: ConnectionKey, at: Nanos) {
        self.account(ordered(key.client, key.server), true, at);
    }

    /// A quiet gap: calls without an end of their own (TLS, unknown content) end with the last byte
    /// seen, segments that wait for others stop waiting, edges are complete.
    pub fn flush(&mut self) {
        for flow in self.flows.values_mut() {
            flow.give_up(&mut self.shared, &mut self.names);
            flow.conversation.flush(&mut self.shared);
        }
        self.edges.flush();
    }

    /// Calls that ended since the last time, in order of their start.
    pub fn take_calls(&mut self) -> Vec<Call> {
        let mut calls = std::mem::take(&mut self.shared.calls);
        calls.sort_by_key(|c| (c.start, c.end, c.connection));
        calls
    }

    /// Edges of requests at the service's own port that are complete.
    pub fn take_edges(&mut self) -> Vec<ServerEdge> {
        self.edges.take()
    }

    /// What the network lost and was sent again since the last time, by server.
    pub fn take_resent(&mut self) -> HashMap<SocketAddr, Resent> {
        std::mem::take(&mut self.resent)
    }

    /// What was lost so far.
    pub fn losses(&self) -> Losses {
        self.shared.losses
    }

    /// Connections followed now.
    pub fn connections(&self) -> usize {
        self.flows.len()
    }

    /// Bytes buffered now.
    pub fn buffered(&self) -> usize {
        self.buffered
    }
}

fn ordered(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    if a <= b { (a, b) } else { (b, a) }
}

impl Flow {
    /// Takes a segment. True when the connection is over.
    fn feed(&mut self, s: &Segment<'_>, shared: &mut Shared, names: &mut Names) -> bool {
        let side = if s.source == self.client { Side::Client } else { Side::Server };
        let i = side as usize;
        let mut sequence = s.sequence;
        if s.has(SYN) {
            self.streams[i].start(s.sequence);
            sequence = sequence.wrapping_add(1);
            if side == Side::Server {
                self.conversation.established(s.at);
            }
        }
        if s.has(RST) {
            return true;
        }
        if s.has(ACK) {
            self.streams[1 - i].expect(s.acknowledged);
            let other = if side == Side::Client { Side::Server } else { Side::Client };
            self.take(other, s.at, shared, names, |r, d| r.acknowledged(s.acknowledged, d));
        }
        let payload = (s.data, s.missing, s.has(FIN));
        self.take(side, s.at, shared, names, |r, d| r.accept(sequence, payload, s.at, d));
        self.ended == [true; 2]
    }

    fn resent(&mut self) -> Resent {
        let mut all = Resent::default();
        self.streams.iter_mut().for_each(|s| all.add(s.take_resent()));
        all
    }

    /// Does something with the stream of one side, and passes on what comes out in order.
    fn take(
        &mut self,
        side: Side,
        now: Nanos,
        shared: &mut Shared,
        names: &mut Names,
        work: impl FnOnce(&mut Reassembly, &mut dyn FnMut(Piece<'_>)),
    ) {
        let (conversation, mut end) = (&mut self.conversation, None);
        work(&mut self.streams[side as usize], &mut |piece| match piece {
            Piece::Data(data, at) => conversation.data(side, data, at, shared, names),
            Piece::Lost(bytes) => conversation.lost(side, bytes, now, shared),
            Piece::End(at) => end = Some(at),
        });
        if let Some(at) = end.filter(|_| !self.ended[side as usize]) {
            self.end(side, at, shared);
        }
    }

    /// A direction ended. True when both have.
    fn end(&mut self, side: Side, at: Nanos, shared: &mut Shared) -> bool {
        self.ended[side as usize] = true;
        self.conversation.finished(side, at, shared);
        self.ended == [true; 2]
    }

    /// Segments that wait for missing ones stop waiting.
    fn give_up(&mut self, shared: &mut Shared, names: &mut Names) {
        let last = self.last;
        for side in [Side::Client, Side::Server] {
            while self.streams[side as usize].waits() {
                self.take(side, last, shared, names, Reassembly::give_up);
            }
        }
    }
}
