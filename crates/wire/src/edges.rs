//! What packets at the service's own port say: when a request had arrived and its answer left.

use crate::segment::{FIN, RST, SYN, Segment};
use evidence::{Nanos, ServerEdge};
use std::collections::HashMap;
use std::net::SocketAddr;

/// Clients followed at the same time; beyond it the table starts afresh.
const CLIENTS_LIMIT: usize = 131_072;

#[derive(Clone, Copy, Debug, Default)]
struct Edge {
    request: Option<Nanos>,
    response: Option<(Nanos, Nanos)>,
    /// Sequence numbers after the last payload of each direction, to ignore retransmissions.
    seen: [Option<u32>; 2],
}

/// Edges by client.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    clients: HashMap<SocketAddr, Edge>,
    done: Vec<ServerEdge>,
}

impl Edges {
    /// A segment to (`inbound`) or from the service's own port.
    pub fn feed(&mut self, s: &Segment<'_>, inbound: bool) {
        let client = if inbound { s.source } else { s.destination };
        if self.clients.len() >= CLIENTS_LIMIT && !self.clients.contains_key(&client) {
            self.flush();
            self.clients.clear();
        }
        let over = s.has(FIN) || s.has(RST);
        if s.data.is_empty() && s.missing == 0 {
            if (s.has(SYN) || over)
                && let Some(edge) = self.clients.remove(&client)
            {
                self.done.extend(edge.whole(client));
            }
            return;
        }
        let edge = self.clients.entry(client).or_default();
        let next = s.next_sequence();
        let seen = &mut edge.seen[usize::from(inbound)];
        if seen.is_some_and(|n| next.wrapping_sub(n).cast_signed() <= 0) {
            return;
        }
        *seen = Some(next);
        if inbound {
            if let Some(done) = edge.whole(client) {
                self.done.push(done);
                edge.response = None;
            }
            edge.request = Some(s.at);
        } else if edge.request.is_some() {
            let first = edge.response.map_or(s.at, |r| r.0);
            edge.response = Some((first, s.at));
        }
        if over {
            let edge = *edge;
            self.done.extend(edge.whole(client));
            self.clients.remove(&client);
        }
    }

    /// A quiet gap: what is answered is complete.
    pub fn flush(&mut self) {
        for (client, edge) in &mut self.clients {
            if let Some(done) = edge.whole(*client) {
                self.done.push(done);
                edge.request = None;
                edge.response = None;
            }
        }
    }

    pub fn take(&mut self) -> Vec<ServerEdge> {
        std::mem::take(&mut self.done)
    }
}

impl Edge {
    fn whole(self, client: SocketAddr) -> Option<ServerEdge> {
        let (response_start, response_end) = self.response?;
        Some(ServerEdge {
            client_port: client.port(),
            request_end: self.request?,
            response_start,
            response_end,
        })
    }
}
