//! Round trips on sockets from system calls: where packets cannot be captured (Unix sockets, no
//! right to capture), writes followed by reads on a descriptor still give calls, bytes and waits.

use evidence::{Call, CallSource, Nanos, Operation, Protocol};
use std::collections::HashMap;

const AF_UNIX: u64 = 1;
/// Round trips held between two drains.
const TRIPS: usize = 1 << 20;

/// Name of a Unix socket whose path is not known yet.
const UNNAMED: &str = "unix socket";

/// Process and descriptor.
pub(crate) type Fd = (i32, i32);

/// What is at the other end of a socket descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Peer name as in the service's peers.
    pub peer: String,
    /// `Unix`, or what is known of a TCP peer.
    pub protocol: Protocol,
    /// The service's own port; 0 for Unix sockets.
    pub client_port: u16,
}

#[derive(Clone, Copy, Debug)]
struct Trip {
    start: Nanos,
    end: Nanos,
    sent: u64,
    received: u64,
}

/// Open and finished round trips.
#[derive(Debug, Default)]
pub(crate) struct RoundTrips {
    /// Descriptors whose traffic counts: sockets to peers, not to clients or among the service's
    /// own processes.
    pub remotes: HashMap<Fd, Remote>,
    open: HashMap<Fd, Trip>,
    done: Vec<(Fd, Remote, u32, Trip)>,
    numbers: HashMap<Fd, u32>,
    next_number: u32,
}

impl RoundTrips {
    /// A socket was made while watching; its peer is learnt when descriptors are looked up again.
    pub(crate) fn opened(&mut self, fd: Fd, domain: u64) {
        self.finish(fd);
        self.remotes.remove(&fd);
        if domain == AF_UNIX {
            let peer = UNNAMED.to_owned();
            self.remotes.insert(fd, Remote { peer, protocol: Protocol::Unix, client_port: 0 });
        }
    }

    /// The descriptor was closed.
    pub(crate) fn closed(&mut self, fd: Fd) {
        self.finish(fd);
        self.remotes.remove(&fd);
        self.numbers.remove(&fd);
    }

    /// `ret` bytes were written by a call entered at `at`.
    pub(crate) fn wrote(&mut self, fd: Fd, at: Nanos, ret: i64) {
        if ret <= 0 || !self.remotes.contains_key(&fd) {
            return;
        }
        if self.open.get(&fd).is_some_and(|t| t.received > 0) {
            self.finish(fd);
        }
        let start = Trip { start: at, end: at, sent: 0, received: 0 };
        self.open.entry(fd).or_insert(start).sent += ret as u64;
    }

    /// `ret` bytes were read by a call entered at `entered`; the data was there when the thread was
    /// woken for it, or already when it asked.
    pub(crate) fn read(
        &mut self,
        fd: Fd,
        entered: Nanos,
        left: Nanos,
        woken: Option<Nanos>,
        ret: i64,
    ) {
        let Some(trip) = self.open.get_mut(&fd).filter(|_| ret > 0) else { return };
        let ready = woken.filter(|w| *w > trip.start && *w < left).unwrap_or(entered);
        trip.end = trip.end.max(ready);
        trip.received += ret as u64;
    }

    fn finish(&mut self, fd: Fd) {
        let Some(trip) = self.open.remove(&fd).filter(|t| t.received > 0) else { return };
        let Some(remote) = self.remotes.get(&fd).filter(|_| self.done.len() < TRIPS) else {
            return;
        };
        let number = *self.numbers.entry(fd).or_insert_with(|| {
            self.next_number += 1;
            // Connections seen as system calls are numbered apart from those of the capture.
            1 << 30 | self.next_number
        });
        self.done.push((fd, remote.clone(), number, trip));
    }

    /// Finished round trips, and those answered by now, as calls.
    pub(crate) fn take(&mut self) -> Vec<Call> {
        let answered: Vec<Fd> =
            self.open.iter().filter(|(_, t)| t.received > 0).map(|(fd, _)| *fd).collect();
        answered.into_iter().for_each(|fd| self.finish(fd));
        let mut calls = Vec::with_capacity(self.done.len());
        for (fd, remote, number, trip) in std::mem::take(&mut self.done) {
            // A peer that was not known when the call ended may be by now.
            let known = self.remotes.get(&fd).filter(|_| remote.peer == UNNAMED);
            calls.push(call(known.unwrap_or(&remote), number, &trip));
        }
        calls.sort_by_key(|c| (c.start, c.end));
        calls
    }
}

fn call(remote: &Remote, connection: u32, trip: &Trip) -> Call {
    Call {
        peer: remote.peer.clone(),
        protocol: remote.protocol,
        operation: Operation::Execute,
        source: CallSource::Syscalls,
        text: format!("round trip to {}", remote.peer),
        text_known: false,
        params: Vec::new(),
        rows: None,
        bytes_sent: trip.sent,
        bytes_received: trip.received,
        error: None,
        start: trip.start,
        end: trip.end.max(trip.start),
        connection,
        client_port: remote.client_port,
        batch: trip.start.0,
        columns: Vec::new(),
        issued_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_on_a_socket_become_calls() {
        let mut trips = RoundTrips::default();
        let fd = (1, 5);
        trips.opened(fd, AF_UNIX);
        for n in 0..3 {
            let t = Nanos(1000 * n + 1000);
            trips.wrote(fd, t, 40);
            trips.read(fd, t + Nanos(100), t + Nanos(600), Some(t + Nanos(500)), 7);
            trips.read(fd, t + Nanos(700), t + Nanos(710), Some(t + Nanos(500)), 3);
            trips.read(fd, t + Nanos(800), t + Nanos(810), None, -11);
        }
        trips.wrote((1, 6), Nanos(1), 9);
        let calls = trips.take();
        let seen: Vec<_> = calls
            .iter()
            .map(|c| (c.start.0, c.end.0, c.bytes_sent, c.bytes_received, c.protocol))
            .collect();
        let want = |n: u64| (n, n + 500, 40, 10, Protocol::Unix);
        assert_eq!(seen, [want(1000), want(2000), want(3000)]);
        assert!(trips.take().is_empty());
    }
}
