//! From events to intervals: one state per thread at every instant. Pure.
//!
//! Doubled events do no harm (a thread may end up with an inherited and an own perf event), and
//! cutting at a window boundary loses nothing: the rest starts where the part ended. A record that
//! the kernel did not write is noticed by the next one that contradicts it, or at a boundary.

use super::record::{Event, Stamped};
use super::round_trips::RoundTrips;
use super::syscalls::{Arch, Class, FdKind, Syscall, class};
use evidence::{BlockReason, Nanos, ThreadInterval, ThreadState};
use std::collections::{BTreeSet, HashMap};

/// A wake-up this shortly before the thread left the CPU met it on its way to sleep.
const WAKE_RACE: Nanos = Nanos(20_000);
/// Of two records that a thread left the CPU this far apart the second is no double of the first.
const DOUBLED: Nanos = Nanos(100_000);
/// A thread in the run queue or on the CPU for this long at a boundary is looked at: it may sleep
/// without a record of it.
const LONG: Nanos = Nanos(20_000_000);
/// Intervals held between two drains; beyond it they are counted as lost (64 bytes each).
const INTERVALS: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Attached, nothing seen yet.
    Unknown,
    Running,
    Runnable,
    Blocked {
        waker: Option<i32>,
        /// Waits for a device.
        deep: bool,
    },
}

#[derive(Debug)]
struct Thread {
    pid: i32,
    state: State,
    since: Nanos,
    /// Last event.
    seen: Nanos,
    call: Option<Syscall>,
    entered: Nanos,
    /// Blocked intervals of the current call: indices into `out`; they learn the reason at its end.
    blocked: Vec<usize>,
    /// Last wake-up.
    woken: Option<Nanos>,
    /// A wake-up that met the thread on the CPU.
    raced: Option<Nanos>,
    /// When it was told to be going to an uninterruptible sleep.
    deep: Option<Nanos>,
}

/// Kinds of descriptors by process and number (a number means something only within a process).
pub(crate) type FdKinds = HashMap<(i32, i32), FdKind>;

/// All threads of the service.
#[derive(Debug)]
pub(crate) struct Machine {
    threads: HashMap<i32, Thread>,
    processes: BTreeSet<i32>,
    out: Vec<ThreadInterval>,
    /// Descriptors as last looked up, kept up to date by the calls seen.
    pub fds: FdKinds,
    /// Round trips on sockets, from system calls.
    pub trips: RoundTrips,
    /// Threads seen reading or writing a socket.
    pub serving: BTreeSet<i32>,
    /// Intervals that did not fit, and records that must have been but did not come.
    pub missed: u64,
    arch: Arch,
}

impl Machine {
    /// A machine without threads.
    pub(crate) fn new(arch: Arch) -> Machine {
        Machine {
            threads: HashMap::new(),
            processes: BTreeSet::new(),
            out: Vec::new(),
            fds: FdKinds::new(),
            trips: RoundTrips::default(),
            serving: BTreeSet::new(),
            missed: 0,
            arch,
        }
    }

    /// Adds a thread whose state at `at` is not known. With `family` the threads and processes it
    /// makes are followed too.
    pub(crate) fn add(&mut self, pid: i32, tid: i32, at: Nanos, family: bool) {
        if family {
            self.processes.insert(pid);
        }
        self.threads.entry(tid).or_insert_with(|| Thread::new(pid, State::Unknown, at));
    }

    /// Threads alive, as far as known, with their processes.
    pub(crate) fn alive(&self) -> impl Iterator<Item = (i32, i32)> {
        self.threads.iter().map(|(tid, thread)| (*tid, thread.pid))
    }

    /// Whether the thread is known.
    pub(crate) fn knows(&self, tid: i32) -> bool {
        self.threads.contains_key(&tid)
    }

    /// Folds events, in order of time.
    pub(crate) fn feed(&mut self, events: &[Stamped]) {
        for event in events {
            self.step(event);
        }
    }

    fn step(&mut self, e: &Stamped) {
        if let Event::Born { pid, parent } = e.event {
            if self.processes.contains(&parent) || self.processes.contains(&pid) {
                self.processes.insert(pid);
                let born = || Thread::new(pid, State::Runnable, e.at);
                self.threads.entry(e.tid).or_insert_with(born);
            }
            return;
        }
        let Some(thread) = self.threads.get_mut(&e.tid) else { return };
        let seen = std::mem::replace(&mut thread.seen, e.at);
        match e.event {
            Event::In if thread.state != State::Running => {
                thread.raced = None;
                self.turn(e.tid, e.at, State::Running);
            }
            Event::Out { preempted } => {
                let known = !thread.off_cpu();
                // Who leaves the CPU was on it.
                let missed = !known && seen + DOUBLED < e.at;
                self.missed += u64::from(missed);
                if known || missed {
                    self.left(e.tid, e.at, preempted);
                }
            }
            Event::Deep => thread.deep = Some(e.at),
            Event::Wake { by } => self.woke(e.tid, e.at, by),
            Event::Enter { nr, args } => self.entered(e.tid, e.at, nr, args),
            Event::Leave { ret, .. } => self.leave(e.tid, e.at, ret),
            Event::Died => self.end(e.tid, e.at),
            _ => {}
        }
    }

    fn left(&mut self, tid: i32, at: Nanos, preempted: bool) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let raced = thread.raced.take().filter(|woken| *woken + WAKE_RACE >= at);
        let deep = thread.deep.take().is_some_and(|told| told + WAKE_RACE >= at);
        let next = if preempted || raced.is_some() {
            State::Runnable
        } else {
            State::Blocked { waker: None, deep }
        };
        self.turn(tid, at, next);
    }

    fn woke(&mut self, tid: i32, at: Nanos, by: i32) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        thread.woken = Some(at);
        match &mut thread.state {
            State::Blocked { waker, .. } => {
                *waker = Some(by);
                self.turn(tid, at, State::Runnable);
            }
            State::Unknown => {
                thread.state = State::Blocked { waker: Some(by), deep: false };
                self.turn(tid, at, State::Runnable);
            }
            State::Running => thread.raced = Some(at),
            State::Runnable => {}
        }
    }

    /// A thread that makes a call without having been switched in was on the CPU all along.
    fn on_cpu(&mut self, tid: i32) {
        if let Some(thread) = self.threads.get_mut(&tid).filter(|t| t.state == State::Unknown) {
            thread.state = State::Running;
        }
    }

    fn entered(&mut self, tid: i32, at: Nanos, nr: i64, args: [u64; 6]) {
        self.on_cpu(tid);
        self.turn(tid, at, State::Running);
        let arch = self.arch;
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        thread.call = Some(Syscall { class: class(arch, nr), args });
        thread.entered = at;
        thread.blocked.clear();
    }

    fn leave(&mut self, tid: i32, at: Nanos, ret: i64) {
        self.on_cpu(tid);
        self.turn(tid, at, State::Running);
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let Some(call) = thread.call.take() else { return };
        let blocked = std::mem::take(&mut thread.blocked);
        let (pid, entered) = (thread.pid, thread.entered);
        let woken = thread.woken;
        let fd = (pid, call.args[0] as i32);
        let kind = self.fds.get(&fd).copied().unwrap_or(FdKind::Unknown);
        for index in blocked {
            let Some(interval) = self.out.get_mut(index) else { continue };
            if let ThreadState::Blocked { reason, waker } = &mut interval.state {
                let sibling =
                    waker.is_some_and(|w| self.threads.get(&w).is_some_and(|t| t.pid == pid));
                *reason = named(*reason, call.reason(kind, Some(ret), sibling));
            }
        }
        self.learn(pid, call, ret);
        if kind != FdKind::Socket {
            return;
        }
        match call.class {
            Class::Read => self.trips.read(fd, entered, at, woken, ret),
            Class::Write => self.trips.wrote(fd, entered, ret),
            _ => return,
        }
        self.serving.insert(tid);
    }

    fn learn(&mut self, pid: i32, call: Syscall, ret: i64) {
        let made = i32::try_from(ret).ok().filter(|fd| *fd >= 0);
        match (call.class, made) {
            (Class::NewSocket, Some(fd)) => {
                self.fds.insert((pid, fd), FdKind::Socket);
                self.trips.opened((pid, fd), call.args[0]);
            }
            (Class::Open, Some(fd)) => {
                self.fds.insert((pid, fd), FdKind::File);
            }
            (Class::Close, Some(0)) => {
                self.fds.remove(&(pid, call.args[0] as i32));
                self.trips.closed((pid, call.args[0] as i32));
            }
            _ => {}
        }
    }

    /// Ends the current interval at `at` and enters `next`.
    fn turn(&mut self, tid: i32, at: Nanos, next: State) {
        self.close(tid, at, next);
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.state = next;
            thread.since = thread.since.max(at);
        }
    }

    fn close(&mut self, tid: i32, at: Nanos, next: State) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        if at <= thread.since {
            return;
        }
        let kernel = thread.call.is_some();
        let state = match thread.state {
            State::Running => ThreadState::Running { kernel },
            State::Runnable => ThreadState::Runnable,
            State::Blocked { waker, deep } => {
                let reason = if deep { BlockReason::Disk } else { BlockReason::Unknown };
                ThreadState::Blocked { reason, waker }
            }
            // Who leaves the CPU was on it; who gets it was not.
            State::Unknown if next == State::Running && !kernel => {
                ThreadState::Blocked { reason: BlockReason::Unknown, waker: None }
            }
            State::Unknown => ThreadState::Running { kernel },
        };
        if self.out.len() >= INTERVALS {
            self.missed += 1;
            return;
        }
        if kernel && matches!(state, ThreadState::Blocked { .. }) {
            thread.blocked.push(self.out.len());
        }
        self.out.push(ThreadInterval { tid, start: thread.since, end: at, state });
    }

    /// The thread is gone.
    pub(crate) fn end(&mut self, tid: i32, at: Nanos) {
        self.close(tid, at, State::Runnable);
        self.threads.remove(&tid);
    }

    /// Cuts every thread's current interval at `at` and hands out all of them, by start.
    /// `runs` says whether a thread is running or could: one of which nothing was seen, or nothing
    /// for long.
    pub(crate) fn cut(
        &mut self,
        at: Nanos,
        runs: impl Fn(i32, i32) -> bool,
    ) -> Vec<ThreadInterval> {
        let tids: Vec<i32> = self.threads.keys().copied().collect();
        for tid in tids {
            let Some(thread) = self.threads.get_mut(&tid) else { continue };
            let asleep = State::Blocked { waker: None, deep: false };
            let quiet = thread.seen + LONG < at;
            let next = match thread.state {
                State::Unknown => {
                    thread.state = if runs(thread.pid, tid) { State::Running } else { asleep };
                    thread.state
                }
                State::Running | State::Runnable if quiet && !runs(thread.pid, tid) => {
                    self.missed += 1;
                    asleep
                }
                known => known,
            };
            self.turn(tid, at, next);
            self.provisional(tid);
        }
        let mut out = std::mem::take(&mut self.out);
        out.sort_by_key(|i| (i.start, i.tid));
        out
    }

    /// A blocked part handed out before its call ended gets the reason known so far.
    fn provisional(&mut self, tid: i32) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let blocked = std::mem::take(&mut thread.blocked);
        let Some(call) = thread.call else { return };
        let fd = (thread.pid, call.args[0] as i32);
        let kind = self.fds.get(&fd).copied().unwrap_or(FdKind::Unknown);
        for index in blocked {
            let Some(interval) = self.out.get_mut(index) else { continue };
            if let ThreadState::Blocked { reason, .. } = &mut interval.state {
                *reason = named(*reason, call.reason(kind, None, false));
            }
        }
    }
}

impl Thread {
    fn new(pid: i32, state: State, since: Nanos) -> Thread {
        Thread {
            pid,
            state,
            since,
            seen: since,
            call: None,
            entered: Nanos::ZERO,
            blocked: Vec::new(),
            woken: None,
            raced: None,
            deep: None,
        }
    }

    fn off_cpu(&self) -> bool {
        matches!(self.state, State::Runnable | State::Blocked { .. })
    }
}

/// The reason of a sleep: what its system call says, unless that says nothing of a device that the
/// scheduler saw it wait for.
fn named(seen: BlockReason, by_call: BlockReason) -> BlockReason {
    match (seen, by_call) {
        (BlockReason::Disk, BlockReason::Other | BlockReason::Unknown) => BlockReason::Disk,
        _ => by_call,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(at: u64, tid: i32, event: Event) -> Stamped {
        Stamped { at: Nanos(at), tid, event }
    }

    fn blocked(reason: BlockReason, waker: i32) -> ThreadState {
        ThreadState::Blocked { reason, waker: Some(waker) }
    }

    const RUN: ThreadState = ThreadState::Running { kernel: false };
    const KERNEL: ThreadState = ThreadState::Running { kernel: true };
    const OUT: Event = Event::Out { preempted: false };

    fn check(events: &[Stamped], want: &[(u64, u64, ThreadState)]) {
        let mut machine = Machine::new(Arch::X86);
        machine.add(1, 1, Nanos(100), true);
        machine.feed(events);
        let got: Vec<_> = machine
            .cut(Nanos(1000), |_, _| false)
            .iter()
            .filter(|i| i.tid == 1)
            .map(|i| (i.start.0, i.end.0, i.state))
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn switches_alone_give_running_and_blocked() {
        let unknown = ThreadState::Blocked { reason: BlockReason::Unknown, waker: None };
        check(&[], &[(100, 1000, unknown)]);
        check(
            &[at(200, 1, Event::In), at(300, 1, OUT), at(400, 1, Event::In)],
            &[(100, 200, unknown), (200, 300, RUN), (300, 400, unknown), (400, 1000, RUN)],
        );
        check(
            &[at(300, 1, Event::Out { preempted: true }), at(400, 1, Event::In)],
            &[(100, 300, RUN), (300, 400, ThreadState::Runnable), (400, 1000, RUN)],
        );
    }

    #[test]
    fn a_record_that_did_not_come_is_noticed() {
        let ms = |n: u64| n * 1_000_000;
        let mut machine = Machine::new(Arch::X86);
        machine.add(1, 1, Nanos(0), true);
        machine.feed(&[at(ms(1), 1, OUT), at(ms(2), 1, Event::Wake { by: 9 })]);
        let mut cut = |events: &[Stamped], until: u64, runs: bool| {
            machine.feed(events);
            let states: Vec<_> =
                machine.cut(Nanos(ms(until)), |_, _| runs).iter().map(|i| i.state).collect();
            (states, std::mem::take(&mut machine.missed))
        };
        let unknown = ThreadState::Blocked { reason: BlockReason::Unknown, waker: None };
        let woken = blocked(BlockReason::Unknown, 9);
        let runnable = ThreadState::Runnable;
        // It came between 2 and 5 ms, at a moment of which there is no record.
        let left = [at(ms(5), 1, OUT), at(ms(5) + 900, 1, OUT)];
        assert_eq!(cut(&left, 6, false), (vec![RUN, woken, runnable, unknown], 1));
        assert_eq!(cut(&[at(ms(7), 1, Event::In)], 8, false), (vec![unknown, RUN], 0));
        assert_eq!(cut(&[], 40, true), (vec![RUN], 0));
        // It sleeps, and nobody told.
        assert_eq!(cut(&[], 41, false), (vec![RUN], 1));
        assert_eq!(cut(&[], 42, false), (vec![unknown], 0));
    }

    #[test]
    fn wakeups_split_waiting_from_waiting_for_a_cpu() {
        let events = [at(300, 1, OUT), at(400, 1, Event::Wake { by: 9 }), at(450, 1, Event::In)];
        let want = [
            (100, 300, RUN),
            (300, 400, blocked(BlockReason::Unknown, 9)),
            (400, 450, ThreadState::Runnable),
            (450, 1000, RUN),
        ];
        check(&events, &want);
        let doubled: Vec<Stamped> = events.iter().flat_map(|e| [*e, *e]).collect();
        check(&doubled, &want);
        let raced = [at(290, 1, Event::Wake { by: 9 }), at(300, 1, OUT), at(450, 1, Event::In)];
        let mut with_start = vec![at(200, 1, Event::In)];
        with_start.extend(raced);
        let unknown = ThreadState::Blocked { reason: BlockReason::Unknown, waker: None };
        check(
            &with_start,
            &[
                (100, 200, unknown),
                (200, 300, RUN),
                (300, 450, ThreadState::Runnable),
                (450, 1000, RUN),
            ],
        );
    }

    #[test]
    fn an_uninterruptible_sleep_waits_for_a_device() {
        let events = [
            at(300, 1, Event::Deep),
            at(301, 1, OUT),
            at(400, 1, Event::Wake { by: 0 }),
            at(410, 1, Event::In),
            at(500, 1, OUT),
        ];
        check(
            &events,
            &[
                (100, 301, RUN),
                (301, 400, blocked(BlockReason::Disk, 0)),
                (400, 410, ThreadState::Runnable),
                (410, 500, RUN),
                (500, 1000, ThreadState::Blocked { reason: BlockReason::Unknown, waker: None }),
            ],
        );
    }

    #[test]
    fn a_block_inside_a_call_learns_its_reason_when_the_call_ends() {
        let enter = Event::Enter { nr: 232, args: [3, 0, 0, 50, 0, 0] };
        let events = [
            at(200, 1, enter),
            at(210, 1, OUT),
            at(500, 1, Event::Wake { by: 0 }),
            at(510, 1, Event::In),
            at(520, 1, Event::Leave { nr: 232, ret: 0 }),
        ];
        check(
            &events,
            &[
                (100, 200, RUN),
                (200, 210, KERNEL),
                (210, 500, blocked(BlockReason::Timer, 0)),
                (500, 510, ThreadState::Runnable),
                (510, 520, KERNEL),
                (520, 1000, RUN),
            ],
        );
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::In),
            any::<bool>().prop_map(|preempted| Event::Out { preempted }),
            Just(Event::Deep),
            (0..4i32).prop_map(|by| Event::Wake { by }),
            (0..500i64, any::<u64>())
                .prop_map(|(nr, a)| Event::Enter { nr, args: [a % 8, a, a, a, a, a] }),
            (-120..500i64).prop_map(|ret| Event::Leave { nr: 0, ret }),
        ]
    }

    proptest! {
        /// Whatever happens and wherever windows are cut, a thread's intervals follow each other
        /// without gap or overlap from its start to the last cut.
        #[test]
        fn intervals_partition_time(
            steps in proptest::collection::vec((1..50u64, any_event()), 0..80),
            cut_every in 1..20usize,
        ) {
            let mut machine = Machine::new(Arch::X86);
            machine.add(1, 1, Nanos(100), true);
            let mut now = 100;
            let mut reached = Nanos(100);
            for (n, (dt, event)) in steps.into_iter().enumerate() {
                now += dt;
                machine.feed(&[at(now, 1, event)]);
                if n % cut_every == 0 {
                    for interval in machine.cut(Nanos(now), |_, _| true) {
                        prop_assert_eq!(interval.start, reached);
                        prop_assert!(interval.end > interval.start);
                        reached = interval.end;
                    }
                    prop_assert_eq!(reached, Nanos(now));
                }
            }
        }
    }
}
