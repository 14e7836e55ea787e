//! Whose connection was it? A capture sees every connection that leaves the host's addresses;
//! descriptors tell whose most of them are, but one that came and went between two looks is told
//! only by time: a thread of the service was on a CPU when its first packet left.

use crate::discovery::Flows;
use evidence::{Call, Nanos, Operation, ThreadInterval};
use std::collections::HashMap;

/// Difference between a packet's stamp and the thread's switch records.
const SLACK: Nanos = Nanos(30_000);
/// Connections, and peers, remembered.
const REMEMBERED: usize = 1 << 16;
/// A peer that none of our descriptors ever led to is called by us when at least this many of its
/// connections began while we ran for each that did not: who calls it all the time from elsewhere
/// meets us on a CPU by chance.
const BY_CHANCE: u32 = 10;

/// What was decided about connections.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    ours: HashMap<u32, bool>,
    peers: HashMap<String, Peer>,
}

/// How the connections to a peer began.
#[derive(Debug, Default)]
struct Peer {
    /// A descriptor of ours led to it.
    known: bool,
    /// Connections that began while we ran, and while we did not.
    during: u32,
    outside: u32,
}

impl Peer {
    fn ours(&self) -> bool {
        self.known || self.during >= self.outside.saturating_mul(BY_CHANCE)
    }
}

impl Owners {
    /// Leaves out calls on connections that are somebody else's. `intervals` are those of the
    /// service's threads, by start; without any, what is not known to be foreign is kept.
    pub(crate) fn keep(
        &mut self,
        calls: Vec<Call>,
        flows: &Flows,
        intervals: &[ThreadInterval],
    ) -> Vec<Call> {
        let undecided =
            |c: &&Call| flows.owner(c).is_none() && !self.ours.contains_key(&c.connection);
        let mut evidence: HashMap<u32, Starts> = HashMap::new();
        let mut busy = None;
        for call in calls.iter().filter(undecided) {
            let busy = busy.get_or_insert_with(|| on_cpu(intervals));
            evidence.entry(call.connection).or_default().add(call, busy);
        }
        if self.ours.len() > REMEMBERED || self.peers.len() > REMEMBERED {
            self.ours.clear();
            self.peers.clear();
        }
        for call in calls.iter().filter(|c| flows.owner(c) == Some(true)) {
            self.peer(&call.peer).known = true;
        }
        if !intervals.is_empty() {
            for (connection, starts) in evidence {
                let ours = starts.ours();
                let peer = self.peer(&starts.peer);
                *(if ours { &mut peer.during } else { &mut peer.outside }) += 1;
                self.ours.insert(connection, ours);
            }
        }
        let unknown = |c: &Call| {
            self.ours.get(&c.connection).copied().unwrap_or(true)
                && self.peers.get(&c.peer).is_none_or(Peer::ours)
        };
        let ours = |c: &Call| flows.owner(c).unwrap_or_else(|| unknown(c));
        calls.into_iter().filter(ours).collect()
    }

    fn peer(&mut self, name: &str) -> &mut Peer {
        self.peers.entry(name.to_string()).or_default()
    }
}

/// How the calls of one connection began.
#[derive(Debug, Default)]
struct Starts {
    peer: String,
    connect: Option<bool>,
    during: u32,
    all: u32,
}

impl Starts {
    fn add(&mut self, call: &Call, busy: &[(Nanos, Nanos)]) {
        let next = busy.partition_point(|b| b.0 <= call.start + SLACK);
        let during = next > 0 && busy[next - 1].1 + SLACK >= call.start;
        if call.operation == Operation::Connect {
            self.connect.get_or_insert(during);
        }
        if self.peer.is_empty() {
            self.peer.clone_from(&call.peer);
        }
        self.all += 1;
        self.during += u32::from(during);
    }

    fn ours(&self) -> bool {
        self.connect.unwrap_or(self.during * 2 >= self.all)
    }
}

/// When at least one thread was on a CPU: disjoint, by start.
fn on_cpu(intervals: &[ThreadInterval]) -> Vec<(Nanos, Nanos)> {
    let running = |i: &&ThreadInterval| i.state.is_running();
    let mut out: Vec<(Nanos, Nanos)> = Vec::new();
    for i in intervals.iter().filter(running) {
        match out.last_mut() {
            Some(last) if i.start <= last.1 => last.1 = last.1.max(i.end),
            _ => out.push((i.start, i.end)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::{CallSource, Protocol};

    fn call(connection: u32, client_port: u16, start: u64, operation: Operation) -> Call {
        Call {
            peer: "http 127.0.0.1:80".into(),
            protocol: Protocol::Http,
            operation,
            source: CallSource::Wire,
            text: "GET /".into(),
            text_known: true,
            params: Vec::new(),
            rows: None,
            bytes_sent: 0,
            bytes_received: 0,
            error: None,
            start: Nanos(start),
            end: Nanos(start + 10),
            connection,
            client_port,
            batch: 0,
            columns: Vec::new(),
            issued_at: None,
        }
    }

    fn check(calls: Vec<Call>, running: &[(u64, u64)], want: &[u32]) {
        let at = |port: u16| (port, "127.0.0.1:80".parse().unwrap());
        // The same port with another peer is another connection.
        let other = (1, "127.0.0.1:81".parse().unwrap());
        let foreign = [at(2), other].into();
        let flows = Flows { mine: [at(1)].into(), foreign, ..Flows::default() };
        let state = evidence::ThreadState::Running { kernel: false };
        let interval =
            |r: &(u64, u64)| ThreadInterval { tid: 1, start: Nanos(r.0), end: Nanos(r.1), state };
        let intervals: Vec<ThreadInterval> = running.iter().map(interval).collect();
        let kept = Owners::default().keep(calls, &flows, &intervals);
        assert_eq!(kept.iter().map(|c| c.connection).collect::<Vec<_>>(), want);
    }

    #[test]
    fn unknown_connections_are_told_by_who_ran_when_they_began() {
        const MS: u64 = 1_000_000;
        let (connect, execute) = (Operation::Connect, Operation::Execute);
        let calls = || {
            vec![
                call(10, 1, 90 * MS, execute),
                call(11, 2, 12 * MS, execute),
                call(12, 7, 12 * MS, connect),
                call(12, 7, 90 * MS, execute),
                call(13, 8, 50 * MS, connect),
                call(13, 8, 12 * MS, execute),
                call(14, 9, 13 * MS, execute),
            ]
        };
        check(calls(), &[(10 * MS, 20 * MS), (15 * MS, 16 * MS)], &[10, 12, 12, 14]);
        check(calls(), &[], &[10, 12, 12, 13, 13, 14]);
    }

    #[test]
    fn a_peer_that_somebody_else_calls_all_the_time_is_not_ours() {
        const MS: u64 = 1_000_000;
        let calls: Vec<Call> = (0..8)
            .map(|n| Call {
                peer: "opaque 127.0.0.1:9".into(),
                ..call(20 + n, 9, u64::from(n) * MS, Operation::Connect)
            })
            .collect();
        check(calls.clone(), &[(0, 20 * MS)], &[20, 21, 22, 23, 24, 25, 26, 27]);
        check(calls, &[(0, 4 * MS)], &[]);
    }
}
