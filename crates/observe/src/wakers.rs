//! Calls to peers behind Unix sockets, where no packet passes and system calls are not traced: a
//! thread of the peer that a thread of the service woke works for it until it sleeps for the last
//! time before the service wakes it again. What was said stays unknown; a peer that waits for the
//! service to read a large answer begins another call.
//!
//! Why the peer's side: the service's own sleeps say less. Runtimes that poll with edge triggers
//! are woken when their message was read as well as when the answer came, and the thread that
//! waits need not be the one that sent.

use crate::discovery::proc::{self, Table};
use evidence::{Call, CallSource, Nanos, Operation, Protocol, ThreadInterval, ThreadState};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Connections told by who wakes are numbered apart from those of captures and system calls.
const CONNECTIONS: u32 = 3 << 29;
const NUMBERS: u32 = (1 << 29) - 1;
/// Shorter than this is no answer of another process.
const SHORTEST: Nanos = Nanos(5_000);
/// A server that sleeps this soon after it woke the service had answered.
const SETTLED: Nanos = Nanos(200_000);
/// A server that wakes the service this soon after it began has read the message, not answered.
const READING: Nanos = Nanos(30_000);

/// Threads of the peers behind Unix sockets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wakers {
    peers: BTreeMap<i32, Peer>,
}

#[derive(Clone, Debug)]
struct Peer {
    name: String,
    pid: i32,
}

/// A peer's thread at work for the service, for one message or for some that came so fast that it
/// did not sleep in between.
struct Work {
    /// When it was woken for it.
    woken: Nanos,
    /// When it got a CPU.
    ran: Option<Nanos>,
    /// When it last began to sleep.
    slept: Option<Nanos>,
}

/// When each thread of a peer woke threads of the service, in order.
type Answers = HashMap<i32, Vec<Nanos>>;

impl Wakers {
    /// All threads below the servers, as they are now (a database's backends come and go), but for
    /// those of `own` processes: a supervisor's socket is above the service itself.
    pub(crate) fn of(servers: &[(String, i32)], own: &[i32], table: &Table) -> Wakers {
        let mut peers = BTreeMap::new();
        for (name, top) in servers {
            for pid in table.below(*top).into_iter().filter(|pid| !own.contains(pid)) {
                let peer = Peer { name: name.clone(), pid };
                peers.extend(proc::threads(pid).into_iter().map(|tid| (tid, peer.clone())));
            }
        }
        Wakers { peers }
    }

    /// The threads, each with its process: to be watched beside the service's.
    pub(crate) fn threads(&self) -> impl Iterator<Item = (i32, i32)> {
        self.peers.iter().map(|(tid, peer)| (peer.pid, *tid))
    }

    /// Whether there is no such peer, as most often.
    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Whether the thread is a peer's.
    pub(crate) fn has(&self, tid: i32) -> bool {
        self.peers.contains_key(&tid)
    }

    /// What the peers' threads did for the service, as calls. `intervals` are one window's, by
    /// start, of the peers and of `service`.
    pub(crate) fn calls(&self, intervals: &[ThreadInterval], service: &BTreeSet<i32>) -> Vec<Call> {
        let mut answers = Answers::new();
        let mut theirs: BTreeMap<i32, Vec<&ThreadInterval>> = BTreeMap::new();
        for interval in intervals {
            if self.has(interval.tid) {
                theirs.entry(interval.tid).or_default().push(interval);
            } else if let Some(waker) = waker(interval).filter(|_| service.contains(&interval.tid))
            {
                answers.entry(waker).or_default().push(interval.end);
            }
        }
        for woken in answers.values_mut() {
            woken.sort_unstable();
        }
        let mut calls = Vec::new();
        for (tid, intervals) in theirs {
            let answers = answers.get(&tid).map(Vec::as_slice).unwrap_or_default();
            let spans = self.worked(&intervals, service, answers).into_iter();
            let spans = spans.flat_map(|work| work.answered(answers));
            calls.extend(spans.filter_map(|(start, end)| self.call(tid, start, end)));
        }
        calls.retain(|c| c.duration() >= SHORTEST);
        calls.sort_by_key(|c| (c.end, c.start));
        calls
    }

    /// When one thread of a peer worked for the service, in order.
    fn worked(
        &self,
        intervals: &[&ThreadInterval],
        service: &BTreeSet<i32>,
        answers: &[Nanos],
    ) -> Vec<Work> {
        let mut done = Vec::new();
        let mut work: Option<Work> = None;
        for interval in intervals {
            if let Some(work) = &mut work {
                match interval.state {
                    ThreadState::Running { .. } => work.ran = work.ran.or(Some(interval.start)),
                    ThreadState::Blocked { .. } => work.slept = Some(interval.start),
                    ThreadState::Runnable => {}
                }
            }
            let Some(waker) = waker(interval) else { continue };
            if service.contains(&waker) {
                done.extend(work.take());
                work = Some(Work { woken: interval.end, ran: None, slept: None });
            } else if waker != 0
                && !self.has(waker)
                && work.as_ref().is_some_and(|work| work.is_over(answers))
            {
                // Somebody else's turn: a server of many clients in one thread.
                done.extend(work.take());
            }
        }
        done.extend(work);
        done
    }

    fn call(&self, tid: i32, start: Nanos, end: Nanos) -> Option<Call> {
        let peer = &self.peers.get(&tid)?.name;
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
            start,
            end,
            connection: CONNECTIONS | (tid as u32 & NUMBERS),
            client_port: 0,
            batch: start.0,
            columns: Vec::new(),
            issued_at: None,
        })
    }
}

impl Work {
    /// When it woke the service while at work.
    fn answers<'a>(&self, answers: &'a [Nanos]) -> &'a [Nanos] {
        let until = |at: Nanos| answers.partition_point(|a| *a <= at);
        let slept = self.slept.map_or(answers.len(), until);
        answers.get(until(self.woken)..slept).unwrap_or_default()
    }

    /// It slept right after it had woken the service.
    fn is_over(&self, answers: &[Nanos]) -> bool {
        let last = self.answers(answers).last();
        last.zip(self.slept).is_some_and(|(at, slept)| *at + SETTLED >= slept)
    }

    /// Starts and ends of the calls: a call ends with the answer where the service slept for it,
    /// else with the peer's sleep after it; the next one begins there.
    fn answered(&self, answers: &[Nanos]) -> Vec<(Nanos, Nanos)> {
        let Some(slept) = self.slept else { return Vec::new() };
        let (mut start, mut from) = (self.woken, self.ran.unwrap_or(self.woken));
        let mut calls = Vec::new();
        for answer in self.answers(answers) {
            if *answer > from + READING {
                calls.push((start, *answer));
                (start, from) = (*answer, *answer);
            }
        }
        if start + SETTLED < slept || calls.is_empty() {
            calls.push((start, slept));
        }
        calls
    }
}

fn waker(interval: &ThreadInterval) -> Option<i32> {
    match interval.state {
        ThreadState::Blocked { waker, .. } => waker,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::BlockReason;

    const NAME: &str = "postgres /run/s";

    fn blocked(tid: i32, start: u64, end: u64, waker: impl Into<Option<i32>>) -> ThreadInterval {
        let state = ThreadState::Blocked { reason: BlockReason::Unknown, waker: waker.into() };
        ThreadInterval { tid, start: Nanos(start * 1000), end: Nanos(end * 1000), state }
    }

    /// The service is threads 1 and 2, the peers are 70 and 71; times in microseconds.
    fn check(intervals: &[ThreadInterval], want: &[(u64, u64)]) {
        let peer = Peer { name: NAME.to_owned(), pid: 70 };
        let wakers = Wakers { peers: BTreeMap::from([(70, peer.clone()), (71, peer)]) };
        let calls = wakers.calls(intervals, &BTreeSet::from([1, 2]));
        let seen: Vec<_> = calls.iter().map(|c| (c.start.0 / 1000, c.end.0 / 1000)).collect();
        assert_eq!(seen, want);
        assert!(calls.iter().all(|c| c.peer == NAME));
    }

    #[test]
    fn a_peer_works_from_the_wake_up_to_its_answer() {
        let idle = blocked(70, 0, 100, 1);
        // The service slept for the answer, and the peer tidied up a little after it.
        let waits = blocked(1, 110, 800, 70);
        check(&[idle, waits, blocked(70, 830, 2000, None)], &[(100, 800)]);
        // The service was awake when the answer came.
        check(&[idle, blocked(70, 830, 2000, None)], &[(100, 830)]);
        // The next message came before the peer slept.
        let again = blocked(1, 900, 1600, 70);
        check(&[idle, waits, again, blocked(70, 1630, 2000, None)], &[(100, 800), (800, 1600)]);
        // Still at work when the window ended.
        check(&[idle], &[]);
        check(&[], &[]);
    }

    #[test]
    fn the_peers_own_sleeps_belong_to_the_call() {
        // An edge trigger wakes the poller when the message was read; then a disk and a helper of
        // the peer's own are waited for.
        let intervals = [
            blocked(70, 0, 100, 1),
            blocked(2, 90, 110, 70),
            blocked(70, 150, 400, 0),
            blocked(70, 450, 900, 71),
            blocked(1, 300, 1500, 70),
            blocked(70, 1520, 3000, 1),
            blocked(70, 3100, 4000, None),
        ];
        check(&intervals, &[(100, 1500), (3000, 3100)]);
    }

    #[test]
    fn work_for_others_is_no_call() {
        // Another client of the same thread: before, in between and after ours.
        let intervals = [
            blocked(70, 0, 50, 9),
            blocked(70, 80, 100, 1),
            blocked(1, 90, 180, 70),
            blocked(70, 190, 300, 9),
            blocked(70, 500, 600, 9),
        ];
        check(&intervals, &[(100, 180)]);
    }
}
