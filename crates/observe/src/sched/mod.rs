//! The scheduler's side of the story: when each thread of the service ran, waited for a CPU or was
//! blocked, from perf events, drained by a thread of our own so that rings do not overflow.

mod bpf;
mod machine;
mod mapping;
mod open;
mod record;
mod ring;
mod round_trips;
mod syscalls;
mod tracefs;

pub(crate) use round_trips::Remote;
pub(crate) use syscalls::FdKind;

use crate::clock::monotonic;
use crate::discovery::proc;
use crate::stream::Pass;
use evidence::{Call, Coverage, Nanos, ThreadInterval};
use machine::Machine;
use record::{Event, Record, Stamped};
use ring::Ring;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tracefs::Tracepoints;

/// Descriptors beyond which events are opened per CPU for the whole machine, not per thread.
const DESCRIPTORS: usize = 1000;
/// Switches per second and CPU up to which the whole machine is watched anyway: a ring holds two
/// records of each for more than a second.
const QUIET: u64 = 20_000;
/// How long switches are counted for that.
const COUNTED_FOR: Duration = Duration::from_millis(20);
/// How often rings are read, or looked at where programs fill them: 8 MiB hold about 100,000
/// records, and a busy service makes 10,000 in it.
const DRAIN_EVERY: Duration = Duration::from_millis(100);
/// The same while threads are born: their wake-ups are asked for once they are known.
const DRAIN_NEWBORN: Duration = Duration::from_millis(20);
/// How often what programs wrote is read, while there is room: most requests end before the first
/// time, so that reading does not take their CPU.
const DRAIN_PROGRAMS: Nanos = Nanos(500_000_000);
/// `TASK_UNINTERRUPTIBLE` in a thread's state, for ever (it is part of `ps` and of tracing tools).
const UNINTERRUPTIBLE: u32 = 2;
/// Records younger than this may still have an older one on its way in another ring.
const SETTLE: Nanos = Nanos(2_000_000);

/// What a drain yields.
#[derive(Debug, Default)]
pub(crate) struct SchedBatch {
    /// Intervals up to the instant of the drain.
    pub intervals: Vec<ThreadInterval>,
    /// Round trips seen as system calls.
    pub calls: Vec<Call>,
    /// Records lost since the last drain.
    pub lost: u64,
    /// Threads alive, with their processes.
    pub threads: Vec<(i32, i32)>,
    /// Threads seen reading or writing a socket.
    pub serving: BTreeSet<i32>,
}

/// Everything opened; undone when dropped.
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    drainer: Option<JoinHandle<()>>,
}

struct Shared {
    core: Mutex<Core>,
    stop: Mutex<bool>,
    bell: Condvar,
}

struct Core {
    rings: Vec<Ring>,
    cpus: Vec<i32>,
    points: Tracepoints,
    pass: Pass,
    /// Ids not given yet when threads were last listed.
    newborn: Option<open::Newborn>,
    /// Per thread, or one set for the whole machine.
    events: Vec<OwnedFd>,
    /// Tracepoints of the whole machine, filtered in the kernel.
    tracepoints: Vec<OwnedFd>,
    machine_wide: bool,
    /// Switches and wake-ups come from here instead, where it may be.
    programs: Option<bpf::Programs>,
    passed: open::Passed,
    attached: BTreeSet<i32>,
    machine: Machine,
    pending: Vec<Stamped>,
    /// When the rings were last read.
    collected: Nanos,
    lost: u64,
    news: Vec<Coverage>,
    lone: Vec<(i32, i32)>,
}

impl Scheduler {
    /// Opens what `pass` asks for on the threads of `pids`; `None` when switch records are refused.
    /// What is lost is said in the coverage.
    /// `lone` are threads to watch by themselves (the generator's, or peers'), with their process.
    pub(crate) fn start(
        pids: &[i32],
        lone: &[(i32, i32)],
        pass: Pass,
    ) -> (Option<Scheduler>, Vec<Coverage>) {
        let mut coverage = Vec::new();
        if !pass.switches {
            return (None, coverage);
        }
        let cpus = open::online_cpus();
        let rings = match open::rings(&cpus) {
            Ok(rings) => rings,
            Err(e) => return (None, crate::doctor::perf_refused(&e)),
        };
        let points = tracepoints(pass, &mut coverage);
        let mut core = Core {
            rings,
            cpus,
            points,
            pass,
            newborn: None,
            events: Vec::new(),
            tracepoints: Vec::new(),
            machine_wide: false,
            programs: None,
            passed: open::Passed::default(),
            attached: BTreeSet::new(),
            machine: Machine::new(syscalls::native()),
            pending: Vec::new(),
            collected: Nanos(0),
            lost: 0,
            news: coverage,
            lone: lone.to_vec(),
        };
        core.attach(pids);
        let coverage = std::mem::take(&mut core.news);
        if core.events.is_empty() {
            return (None, coverage);
        }
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            stop: Mutex::new(false),
            bell: Condvar::new(),
        });
        let other = Arc::clone(&shared);
        let drainer = std::thread::Builder::new()
            .name("perfwright-sched".into())
            .spawn(move || other.drain_until_stopped())
            .ok();
        (Some(Scheduler { shared, drainer }), coverage)
    }

    /// Looks for threads and processes that came since; `lone` are all to be watched by themselves
    /// from now on. Returns news about coverage.
    pub(crate) fn refresh(&self, pids: &[i32], lone: Vec<(i32, i32)>) -> Vec<Coverage> {
        let mut core = lock(&self.shared.core);
        core.lone = lone;
        core.attach(pids);
        std::mem::take(&mut core.news)
    }

    /// Tells what descriptors are, and which of them lead to peers.
    pub(crate) fn descriptors(
        &self,
        kinds: HashMap<(i32, i32), FdKind>,
        remotes: HashMap<(i32, i32), Remote>,
    ) {
        let mut core = lock(&self.shared.core);
        core.machine.fds = kinds;
        core.machine.trips.remotes = remotes;
    }

    /// Everything up to now.
    pub(crate) fn drain(&self) -> SchedBatch {
        let now = monotonic();
        // Records of before `now` are in their rings once the writers have returned.
        std::thread::sleep(Duration::from_micros(200));
        let mut core = lock(&self.shared.core);
        core.collect(now);
        let runs = |pid: i32, tid: i32| proc::thread_runs(pid, tid);
        let intervals = core.machine.cut(now, runs);
        let lost = std::mem::take(&mut core.lost) + std::mem::take(&mut core.machine.missed);
        SchedBatch {
            intervals,
            calls: core.machine.trips.take(),
            lost,
            threads: core.machine.alive().collect(),
            serving: core.machine.serving.clone(),
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        *lock(&self.shared.stop) = true;
        self.shared.bell.notify_all();
        if let Some(drainer) = self.drainer.take() {
            // A panic there has been reported by the thread itself.
            let _ = drainer.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tracepoint numbers, when the pass needs them; refusals go into the coverage.
fn tracepoints(pass: Pass, coverage: &mut Vec<Coverage>) -> Tracepoints {
    if !pass.wakeups && !pass.syscalls {
        return Tracepoints::default();
    }
    match tracefs::read() {
        Ok((mut points, _)) => {
            if pass.wakeups && !crate::doctor::in_first_pid_namespace() {
                coverage.push(crate::doctor::wakeups_in_container());
                points.waking = None;
                points.switch = None;
            }
            points
        }
        Err(e) => {
            if pass.wakeups {
                coverage.push(crate::doctor::wakeups_refused(&e));
            }
            if pass.syscalls {
                coverage.push(crate::doctor::syscalls_refused(&e));
            }
            Tracepoints::default()
        }
    }
}

impl Shared {
    fn drain_until_stopped(&self) {
        let mut stop = lock(&self.stop);
        let mut pause = DRAIN_NEWBORN;
        while !*stop {
            let waited = self.bell.wait_timeout(stop, pause);
            stop = waited.unwrap_or_else(PoisonError::into_inner).0;
            if *stop {
                return;
            }
            drop(stop);
            let mut core = lock(&self.core);
            pause = DRAIN_EVERY;
            if !core.can_wait() {
                core.collect(monotonic() - SETTLE);
                if core.refilter() {
                    pause = DRAIN_NEWBORN;
                }
            }
            drop(core);
            stop = lock(&self.stop);
        }
    }
}

impl Core {
    /// Whether what waits may go on doing so: programs wrote it, which have room for more and let
    /// threads pass that are not born yet.
    fn can_wait(&self) -> bool {
        let has_room = self.programs.as_ref().is_some_and(|programs| !programs.are_filling());
        has_room
            && monotonic() - self.collected < DRAIN_PROGRAMS
            && !self.passed.is_used_up(open::Newborn::next())
    }

    /// Reads all rings and folds what is not younger than `until`.
    fn collect(&mut self, until: Nanos) {
        self.collected = monotonic();
        let (pending, points, lost) = (&mut self.pending, &self.points, &mut self.lost);
        for ring in &mut self.rings {
            let skipped = ring.drain(|bytes| match record::parse(bytes, points) {
                Record::Event(event) => pending.push(event),
                Record::Lost(n) => *lost += n,
                Record::Ignored => {}
            });
            *lost += u64::from(skipped > 0);
        }
        if let Some(programs) = &mut self.programs {
            *lost += programs.drain(|event| pending.push(event));
        }
        pending.sort_by_key(|e| e.at);
        let ready = pending.partition_point(|e| e.at <= until);
        self.machine.feed(&pending[..ready]);
        for event in &pending[..ready] {
            if matches!(event.event, Event::Born { .. }) && self.machine.knows(event.tid) {
                // Inherits the events of the thread that made it.
                self.attached.insert(event.tid);
            }
        }
        pending.drain(..ready);
    }

    fn attach(&mut self, pids: &[i32]) {
        self.collect(monotonic());
        let ended = |tid: &i32| !proc::exists(*tid);
        let gone: Vec<i32> = self.machine.alive().map(|t| t.0).filter(ended).collect();
        for tid in gone {
            self.machine.end(tid, monotonic());
            self.attached.remove(&tid);
        }
        self.newborn = open::Newborn::next();
        // A thread born while we attach may have been made by one that was not attached yet.
        for _ in 0..3 {
            let mut threads = threads_of(pids);
            threads.extend(self.lone.iter().filter(|t| proc::exists(t.1)));
            if self.events.is_empty() {
                self.choose_width(threads.len());
            }
            let before = self.attached.len();
            for (pid, tid) in threads {
                if !self.attached.contains(&tid) {
                    self.attach_one(pid, tid);
                }
            }
            if self.attached.len() == before {
                break;
            }
        }
        self.refilter();
    }

    /// Programs in the kernel, where they may be: per switch they cost the threads less than half
    /// of what records do (a pipe's round trip within a CPU: 1.6 µs against 4.1), and nothing is
    /// lost in a CPU's idle thread, where Linux 6.18 was seen to lose every tracepoint of perf.
    ///
    /// Else the whole machine, where it may be watched and does not switch much: events of a thread
    /// are scheduled in and out with it, which costs it twice as much (Go, 100 statements: 25 % of
    /// its CPU against 12 %). Else per thread, unless that takes too many descriptors.
    fn choose_width(&mut self, threads: usize) {
        crate::descriptors::raise_limit();
        if self.pass.wakeups && !self.pass.syscalls && self.points.waking.is_some() {
            self.programs = bpf::Programs::open().ok();
            if self.programs.is_some() && self.open_everywhere(open::births) {
                return;
            }
            self.programs = None;
        }
        let each = if self.pass.syscalls { 3 } else { 1 };
        let fits = threads * self.cpus.len() * each <= DESCRIPTORS;
        // System calls of the whole machine are too many to look at, whoever makes them.
        if fits && (self.pass.syscalls || !is_quiet(self.cpus.len())) {
            return;
        }
        self.open_everywhere(|cpu, ring| open::switches(-1, cpu, ring));
    }

    /// Opens an event of the whole machine on each CPU; none if one is refused.
    fn open_everywhere(&mut self, open: impl Fn(i32, &Ring) -> io::Result<OwnedFd>) -> bool {
        let each = self.cpus.iter().zip(&self.rings);
        let all: io::Result<Vec<OwnedFd>> = each.map(|(cpu, ring)| open(*cpu, ring)).collect();
        if let Ok(events) = all {
            self.events = events;
            self.machine_wide = true;
        }
        self.machine_wide
    }

    fn attach_one(&mut self, pid: i32, tid: i32) {
        if !self.machine_wide {
            for n in 0..self.cpus.len() {
                match open::switches(tid, self.cpus[n], &self.rings[n]) {
                    Ok(event) => self.events.push(event),
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return,
                    Err(e) => return self.tell(crate::doctor::switches_refused(&e)),
                }
            }
            self.attach_syscalls(tid);
        }
        self.attached.insert(tid);
        let family = !self.lone.contains(&(pid, tid));
        self.machine.add(pid, tid, monotonic(), family);
    }

    fn attach_syscalls(&mut self, tid: i32) {
        if !self.pass.syscalls || self.points.enter.is_none() {
            return;
        }
        for n in 0..self.cpus.len() {
            match open::syscalls(tid, self.cpus[n], &self.points, &self.rings[n]) {
                Ok(events) => self.events.extend(events),
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return,
                Err(e) => {
                    self.tell(crate::doctor::syscalls_refused(&e));
                    self.points.enter = None;
                    return;
                }
            }
        }
    }

    /// Tracepoints are system-wide (a wake-up happens on the waker's side), filtered in the kernel
    /// to the threads known. Threads that do not pass yet need new events. Whether there were any.
    fn refilter(&mut self) -> bool {
        // As of the last look: who was born since may not be known yet.
        let newborn = std::mem::replace(&mut self.newborn, open::Newborn::next());
        let tids: BTreeSet<i32> = self.machine.alive().map(|t| t.0).collect();
        let all = tids.iter().all(|tid| self.passed.has(*tid));
        if all && !self.passed.is_used_up(newborn) {
            return false;
        }
        let passed = open::Passed::new(tids, newborn);
        if let Some(programs) = &mut self.programs {
            if let Err(e) = programs.follow(&passed) {
                self.tell(crate::doctor::switches_refused(&e));
                return false;
            }
            self.passed = passed;
            return true;
        }
        let mut events = Vec::new();
        for (id, filter) in self.wanted(&passed) {
            for (cpu, ring) in self.cpus.iter().zip(&self.rings) {
                match open::filtered(id, *cpu, &filter, ring) {
                    Ok(event) => events.push(event),
                    // Nothing but the difference between disk and other waits is lost.
                    Err(_) if Some(id) == self.points.switch => self.points.switch = None,
                    Err(e) => {
                        self.points.waking = None;
                        self.tell(crate::doctor::wakeups_refused(&e));
                        return false;
                    }
                }
            }
        }
        self.tracepoints = events;
        self.passed = passed;
        true
    }

    /// Numbers of the tracepoints this pass takes, each with its filter.
    fn wanted(&self, passed: &open::Passed) -> Vec<(u64, String)> {
        let mut wanted = Vec::new();
        if let Some(id) = self.points.waking.filter(|_| self.pass.wakeups) {
            wanted.push((id, passed.filter("pid")));
            // Only sleeps that wait for a device pass: it costs next to nothing.
            let deep = |pids| format!("(prev_state&{UNINTERRUPTIBLE})&&({pids})");
            let switch = self.points.switch;
            wanted.extend(switch.map(|id| (id, deep(passed.filter("prev_pid")))));
        }
        if self.pass.syscalls && self.machine_wide {
            let calls = [self.points.enter, self.points.leave];
            wanted.extend(calls.into_iter().flatten().map(|id| (id, passed.filter("common_pid"))));
        }
        wanted
    }

    fn tell(&mut self, news: Coverage) {
        if !self.news.contains(&news) {
            self.news.push(news);
        }
    }
}

/// Whether the machine switches so little that all its records can be read. Unknown: no.
fn is_quiet(cpus: usize) -> bool {
    let count = || {
        let text = proc::read_lossy("/proc/stat")?;
        let line = text.lines().find_map(|l| l.strip_prefix("ctxt "))?;
        line.trim().parse::<u64>().ok()
    };
    let Some(before) = count() else { return false };
    std::thread::sleep(COUNTED_FOR);
    let most = QUIET * cpus as u64 * COUNTED_FOR.as_millis() as u64 / 1000;
    count().is_some_and(|now| now - before <= most)
}

fn threads_of(pids: &[i32]) -> Vec<(i32, i32)> {
    pids.iter().flat_map(|pid| proc::threads(*pid).into_iter().map(|tid| (*pid, tid))).collect()
}

/// Tries what the scheduler's side needs, on one thread, and undoes it.
pub(crate) fn probe(tid: i32) -> Vec<Coverage> {
    let cpus = open::online_cpus();
    let ring = match open::rings(&cpus[..1]) {
        Ok(mut rings) => rings.remove(0),
        Err(e) => return crate::doctor::perf_refused(&e),
    };
    let mut out = vec![match open::switches(tid, cpus[0], &ring) {
        Ok(_) => Coverage::ok("context-switches"),
        Err(e) => crate::doctor::switches_refused(&e),
    }];
    let points = match tracefs::read() {
        Ok((points, _)) => {
            out.push(Coverage::ok("tracefs"));
            points
        }
        Err(e) => {
            out.push(crate::doctor::tracefs_refused(&e));
            out.push(crate::doctor::wakeups_refused(&e));
            out.push(crate::doctor::syscalls_refused(&e));
            return out;
        }
    };
    let waking = points.waking.ok_or_else(|| io::ErrorKind::Unsupported.into());
    let waking = waking.and_then(|id| open::filtered(id, cpus[0], "pid==1", &ring));
    out.push(match waking {
        Ok(_) if crate::doctor::in_first_pid_namespace() => Coverage::ok("wakeups"),
        Ok(_) => crate::doctor::wakeups_in_container(),
        Err(e) => crate::doctor::wakeups_refused(&e),
    });
    out.push(match bpf::Programs::open() {
        Ok(_) => Coverage::ok("kernel-programs"),
        Err(e) => crate::doctor::programs_refused(&e),
    });
    out.push(match open::syscalls(tid, cpus[0], &points, &ring) {
        Ok(_) => Coverage::ok("syscalls"),
        Err(e) => crate::doctor::syscalls_refused(&e),
    });
    out
}
