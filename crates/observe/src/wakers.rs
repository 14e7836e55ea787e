//! Calls to peers behind Unix sockets, where no packet passes and system calls are not traced: a
//! thread of the service that was off the CPU and was woken by a thread of the peer had waited for
//! its answer. What was said stays unknown; an answer in several pieces may wake more than once.

use crate::discovery::proc::{self, Table};
use evidence::{Call, CallSource, Nanos, Operation, Protocol, ThreadInterval, ThreadState};
use std::collections::{BTreeSet, HashMap};

/// Connections told by who wakes are numbered apart from those of captures and system calls.
const CONNECTIONS: u32 = 3 << 29;
const NUMBERS: u32 = (1 << 29) - 1;
/// A thread that sleeps shorter than this did not wait for another process's answer.
const SHORTEST: Nanos = Nanos(5_000);

/// Threads of the peers behind Unix sockets, with the peer's name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wakers {
    peers: HashMap<i32, String>,
}

impl Wakers {
    /// All threads below the servers, as they are now (a database's backends come and go).
    pub(crate) fn of(servers: &[(String, i32)], table: &Table) -> Wakers {
        let mut peers = HashMap::new();
        for (name, top) in servers {
            let threads = table.below(*top).into_iter().flat_map(proc::threads);
            peers.extend(threads.map(|tid| (tid, name.clone())));
        }
        Wakers { peers }
    }

    /// Waits of the service's threads that a peer ended, as calls. `others` are threads that are
    /// not the service's.
    pub(crate) fn calls(&self, intervals: &[ThreadInterval], others: &[i32]) -> Vec<Call> {
        if self.peers.is_empty() {
            return Vec::new();
        }
        let others: BTreeSet<i32> = others.iter().copied().collect();
        let ours = intervals.iter().filter(|i| !others.contains(&i.tid));
        let mut calls: Vec<Call> = ours.filter_map(|i| self.call(i)).collect();
        calls.sort_by_key(|c| (c.end, c.start));
        // A backend answers one call at a time: of several threads it wakes, the later ones waited
        // for the next answer, or for the same one.
        let mut answered: HashMap<u32, Nanos> = HashMap::new();
        for call in &mut calls {
            let last = answered.insert(call.connection, call.end).unwrap_or_default();
            call.start = call.start.max(last).min(call.end);
        }
        calls.retain(|c| c.duration() >= SHORTEST);
        calls
    }

    fn call(&self, interval: &ThreadInterval) -> Option<Call> {
        let ThreadState::Blocked { waker: Some(waker), .. } = interval.state else { return None };
        let peer = self.peers.get(&waker)?;
        if interval.end - interval.start < SHORTEST {
            return None;
        }
        Some(Call {
            peer: peer.clone(),
            protocol: Protocol::Unix,
            operation: Operation::Execute,
            source: CallSource::Wakeups,
            text: format!("round trip to {peer}"),
            text_known: false,
            params: Vec::new(),
            rows: None,
            bytes_sent: 0,
            bytes_received: 0,
            error: None,
            start: interval.start,
            end: interval.end,
            connection: CONNECTIONS | (waker as u32 & NUMBERS),
            client_port: 0,
            batch: interval.start.0,
            columns: Vec::new(),
            issued_at: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::BlockReason;

    #[test]
    fn waits_that_a_peer_ends_are_calls() {
        let wakers = Wakers { peers: HashMap::from([(70, "postgres /run/s".to_owned())]) };
        let at = |tid, start, end, waker| ThreadInterval {
            tid,
            start: Nanos(start),
            end: Nanos(end),
            state: ThreadState::Blocked { reason: BlockReason::Unknown, waker },
        };
        let intervals = [
            at(1, 10_000, 90_000, Some(70)),
            at(1, 100_000, 190_000, Some(0)),
            at(1, 200_000, 201_000, Some(70)),
            at(2, 210_000, 290_000, Some(70)),
            at(1, 300_000, 390_000, None),
            at(3, 20_000, 95_000, Some(70)),
            at(4, 30_000, 96_000, Some(70)),
        ];
        let calls = wakers.calls(&intervals, &[2]);
        let seen: Vec<_> = calls.iter().map(|c| (c.start.0, c.end.0, c.peer.as_str())).collect();
        let name = "postgres /run/s";
        assert_eq!(seen, [(10_000, 90_000, name), (90_000, 95_000, name)]);
        assert!(Wakers::default().calls(&intervals, &[]).is_empty());
    }
}
