//! One conductor's session on Linux: what was found, what is attached, and what each window
//! yields. Dropping it undoes everything.

use crate::capture::{CaptureBatch, CaptureThread};
use crate::clock::monotonic;
use crate::counters::{Files, Snapshot, with_children};
use crate::discovery::embedded::Embeddings;
use crate::discovery::proc::{self, Table};
use crate::discovery::{self, Found};
use crate::doctor;
use crate::network::Network;
use crate::owners::Owners;
use crate::sched::{SchedBatch, Scheduler};
use crate::stream::{Pass, Reply};
use crate::wakers::Wakers;
use evidence::{
    Call, Coverage, EvidenceBody, LossCount, Nanos, ProcessCounters, ProcessRole, Protocol,
    Service, ThreadInfo, ThreadInterval,
};
use std::collections::{BTreeMap, BTreeSet};

/// Looks at processes and connections this often, at most.
const LOOK_EVERY: Nanos = Nanos(200_000_000);

/// A look that takes longer (a service with tens of thousands of connections, threads or children)
/// is not repeated for each new one of them …
const EXPENSIVE_LOOK: Nanos = Nanos(30_000_000);

/// … but after this many times its own duration: it costs the machine 5 % of a CPU at most.
const LOOK_SHARE: u64 = 20;

/// A session.
pub(crate) struct Session {
    generator: bool,
    generator_threads: Vec<i32>,
    found: Option<Found>,
    pass: Pass,
    scheduler: Option<Scheduler>,
    capture: Option<CaptureThread>,
    owners: Owners,
    looked: Nanos,
    /// How long the last look took.
    look_took: Nanos,
    before: Option<(u32, Snapshot)>,
    /// Counters at the end of the last window.
    counted: Option<Snapshot>,
    counter_files: Files,
    threads: BTreeMap<i32, ThreadInfo>,
    serving: BTreeSet<i32>,
    /// Counters of databases and caches, wanted while they are on this host.
    servers: Vec<(ProcessRole, Vec<i32>)>,
    wakers: Wakers,
    network: Network,
    embeddings: Embeddings,
}

impl Session {
    pub(crate) fn new(generator: bool) -> Session {
        Session {
            generator,
            generator_threads: Vec::new(),
            found: None,
            pass: Pass::default(),
            scheduler: None,
            capture: None,
            owners: Owners::default(),
            looked: Nanos::ZERO,
            look_took: Nanos::ZERO,
            before: None,
            counted: None,
            counter_files: Files::new(),
            threads: BTreeMap::new(),
            serving: BTreeSet::new(),
            servers: Vec::new(),
            wakers: Wakers::default(),
            network: Network::default(),
            embeddings: Embeddings::default(),
        }
    }

    pub(crate) fn service(&self) -> Option<&Service> {
        self.found.as_ref().map(|f| &f.service)
    }

    pub(crate) fn find(&mut self, host: &str, port: u16, pid: Option<i32>) -> Reply {
        let (found, mut coverage) = discovery::find(host, port, pid);
        coverage.extend(match &found {
            Some(f) => doctor::probe(f.foreign, f.service.processes.iter().find(|p| p.serving)),
            None => doctor::nothing_found(),
        });
        let mut found = found;
        if let (Some(now), Some(before)) = (&mut found, &self.found) {
            now.inherit(before);
        }
        let service = found.as_ref().map(|f| Box::new(f.service.clone()));
        self.found = found;
        self.embeddings = Embeddings::default();
        coverage.extend(self.look_inside());
        self.look_at_servers(&Table::read());
        Reply::Found { service, coverage: last_words(coverage) }
    }

    pub(crate) fn generator(&mut self, threads: Vec<i32>) -> Reply {
        self.generator_threads = threads;
        Reply::Done { coverage: Vec::new() }
    }

    pub(crate) fn attach(&mut self, pass: Pass, salt: u64) -> Reply {
        self.stop();
        self.pass = pass;
        let Some(found) = &self.found else {
            return Reply::Done { coverage: Vec::new() };
        };
        let lone = self.lone();
        let (scheduler, mut coverage) = match found.pids.is_empty() {
            true => (None, Vec::new()),
            false => Scheduler::start(&found.pids, &lone, pass),
        };
        self.scheduler = scheduler;
        if pass.wire {
            match CaptureThread::start(found.foreign, found.flows.clone(), salt) {
                Ok(capture) => self.capture = Some(capture),
                Err(refused) => coverage.push(refused),
            }
        }
        self.tell_descriptors();
        Reply::Done { coverage: last_words(coverage) }
    }

    /// Threads to watch beside the service's, with their processes: the generator's, and peers'
    /// that no packet and no traced system call shows.
    fn lone(&self) -> Vec<(i32, i32)> {
        let own = std::process::id() as i32;
        let generator = self.generator_threads.iter().filter(|_| self.generator);
        let peers = self.wakers.threads().filter(|_| !self.pass.syscalls);
        generator.map(|tid| (own, *tid)).chain(peers).collect()
    }

    pub(crate) fn begin(&mut self, window: u32) -> Reply {
        let now = Snapshot::take(&self.wanted(), self.counted.as_ref(), &mut self.counter_files);
        self.before = Some((window, now));
        Reply::Done { coverage: Vec::new() }
    }

    pub(crate) fn end(&mut self, window: u32) -> Reply {
        let counters = self.counters(window);
        let mut batch = self.scheduler.as_ref().map(Scheduler::drain).unwrap_or_default();
        let by_wakers = self.told_by_wakers(&mut batch);
        let captured = self.capture.as_ref().map(CaptureThread::drain).unwrap_or_default();
        let mut news = self.look_again(&captured.calls, &batch);
        if let Some(why) = &captured.failed {
            self.capture = None;
            news.push(Coverage::partial("packet-capture", why.clone(), "start the run again"));
        }
        let peers = self.found.as_ref().map_or(&[][..], |f| &f.service.peers);
        news.extend(self.network.tell(&captured.resent, peers));
        let mut evidence = Vec::new();
        let mut add = |body: EvidenceBody| {
            if body.samples() > 0 {
                evidence.push(body);
            }
        };
        add(EvidenceBody::Counters(counters));
        add(EvidenceBody::Threads(self.new_threads(&batch)));
        add(EvidenceBody::Losses(losses(window, batch.lost, &captured)));
        let flows = self.found.as_ref().map(|f| f.flows.clone()).unwrap_or_default();
        let of_service = |i: &&ThreadInterval| !self.generator_threads.contains(&i.tid);
        let intervals: Vec<ThreadInterval> =
            batch.intervals.iter().filter(of_service).copied().collect();
        let mut calls = self.owners.keep(captured.calls, &flows, &intervals);
        calls.extend(by_wakers);
        calls.extend(batch.calls);
        calls.sort_by_key(|c| (c.start, c.end, c.connection));
        add(EvidenceBody::Calls(calls));
        add(EvidenceBody::ServerEdges(captured.edges));
        add(EvidenceBody::Intervals(batch.intervals));
        add(EvidenceBody::Coverage(news));
        Reply::Batch { evidence }
    }

    /// Calls to peers of which only the scheduler tells; what it tells of the peers' threads is
    /// taken out. Traced system calls show the same round trips, with their bytes.
    fn told_by_wakers(&self, batch: &mut SchedBatch) -> Vec<Call> {
        if self.wakers.is_empty() {
            return Vec::new();
        }
        let generator = &self.generator_threads;
        let tids = batch.threads.iter().map(|t| t.0).chain(batch.intervals.iter().map(|i| i.tid));
        let service = tids.filter(|t| !self.wakers.has(*t) && !generator.contains(t)).collect();
        let calls = match self.pass.syscalls {
            true => Vec::new(),
            false => self.wakers.calls(&batch.intervals, &service),
        };
        batch.threads.retain(|t| !self.wakers.has(t.0));
        batch.intervals.retain(|i| !self.wakers.has(i.tid));
        calls
    }

    /// Detaches; what was found stays.
    pub(crate) fn stop(&mut self) {
        self.scheduler = None;
        self.capture = None;
        self.owners = Owners::default();
        self.before = None;
    }

    fn wanted(&self) -> Vec<(ProcessRole, Vec<i32>)> {
        let mut wanted = self.servers.clone();
        let known = self.found.as_ref().filter(|f| !f.pids.is_empty());
        wanted.extend(known.map(|f| (ProcessRole::Service, f.pids.clone())));
        if self.generator {
            wanted.push((ProcessRole::Generator, vec![std::process::id() as i32]));
        }
        wanted
    }

    fn counters(&mut self, window: u32) -> Vec<ProcessCounters> {
        match self.before.take().filter(|b| b.0 == window) {
            Some((_, before)) => {
                let now = Snapshot::take(&self.wanted(), Some(&before), &mut self.counter_files);
                let since = now.since(&before, window);
                self.counted = Some(now);
                since
            }
            None => Vec::new(),
        }
    }

    /// New workers, threads and connections, in the gap between windows. A look costs some
    /// milliseconds of CPU, so short windows share one unless there is something new to explain.
    fn look_again(&mut self, calls: &[Call], batch: &SchedBatch) -> Vec<Coverage> {
        let now = monotonic();
        let Some(found) = &mut self.found else { return Vec::new() };
        found.learn(calls);
        let new_connection = calls.iter().any(|c| found.flows.owner(c).is_none());
        let new_thread = batch.threads.iter().any(|t| !self.threads.contains_key(&t.0));
        let rest = match self.look_took > EXPENSIVE_LOOK {
            true => Nanos(self.look_took.0 * LOOK_SHARE),
            false if new_connection || new_thread => Nanos::ZERO,
            false => LOOK_EVERY,
        };
        if now - self.looked < rest {
            return Vec::new();
        }
        let table = Table::read();
        found.refresh(&table);
        if let Some(capture) = &self.capture {
            capture.follow(found.flows.clone());
        }
        let pids = found.pids.clone();
        self.look_at_servers(&table);
        let lone = self.lone();
        let refresh = |s: &Scheduler| s.refresh(&pids, lone);
        let mut news = self.scheduler.as_ref().map(refresh).unwrap_or_default();
        news.extend(self.look_inside());
        self.tell_descriptors();
        self.looked = monotonic();
        self.look_took = self.looked - now;
        news
    }

    /// Databases inside the service's processes, when there is something new to tell.
    fn look_inside(&mut self) -> Option<Coverage> {
        let found = self.found.as_ref()?;
        self.embeddings.look(&found.serving, &found.kinds)
    }

    fn look_at_servers(&mut self, table: &Table) {
        let Some(found) = &self.found else { return };
        self.servers = with_children(&found.servers, table);
        self.wakers = Wakers::of(&found.unix_servers, &found.pids, table);
    }

    /// Round trips seen as system calls are wanted where no packet shows them.
    fn tell_descriptors(&self) {
        let (Some(scheduler), Some(found)) = (&self.scheduler, &self.found) else { return };
        let captured = self.capture.is_some();
        let remotes = found
            .remotes
            .iter()
            .filter(|(_, remote)| !captured || remote.protocol == Protocol::Unix);
        let remotes = remotes.map(|(fd, remote)| (*fd, remote.clone())).collect();
        scheduler.descriptors(found.kinds.clone(), remotes);
    }

    fn new_threads(&mut self, batch: &SchedBatch) -> Vec<ThreadInfo> {
        self.serving.extend(batch.serving.iter().copied());
        let mut fresh = Vec::new();
        let mut keepers: BTreeMap<i32, Option<i32>> = BTreeMap::new();
        for (tid, pid) in &batch.threads {
            let serving = self.serving.contains(tid) || self.serves(*pid, *tid);
            let known = self.threads.get(tid);
            if known.is_some_and(|k| k.pid == *pid && (k.serving || !serving)) {
                continue;
            }
            let name = proc::thread_name(*pid, *tid);
            let keeper = *keepers.entry(*pid).or_insert_with(|| self.housekeeper(*pid));
            let housekeeping = !self.serving.contains(tid) && keeper == Some(*tid);
            let info = ThreadInfo { tid: *tid, pid: *pid, name, serving, housekeeping };
            self.threads.insert(*tid, info.clone());
            fresh.push(info);
        }
        fresh.sort_by_key(|t| (t.pid, t.tid));
        fresh
    }

    /// Go's runtime starts `sysmon`, which naps up to 10 ms between its rounds, before any other
    /// thread: it has the second lowest id (unless ids began anew in that moment).
    fn housekeeper(&self, pid: i32) -> Option<i32> {
        self.found.as_ref()?.runtime_of(pid).filter(|runtime| *runtime == "go")?;
        let mut threads = proc::threads(pid);
        threads.sort_unstable();
        threads.get(1).copied()
    }

    /// Without system calls: the main thread of a Node process that accepts our connections, all
    /// threads of another that does.
    fn serves(&self, pid: i32, tid: i32) -> bool {
        let Some(found) = self.found.as_ref().filter(|f| f.serving.contains(&pid)) else {
            return false;
        };
        found.runtime_of(pid) != Some("node") || tid == pid
    }
}

fn losses(window: u32, perf: u64, captured: &CaptureBatch) -> Vec<LossCount> {
    let perf = (perf > 0).then_some(("perf-lost", perf));
    let all = captured.losses.iter().copied().chain(perf);
    let one = |(what, count): (&str, u64)| LossCount {
        what: what.to_owned(),
        count,
        windows: vec![window],
    };
    all.map(one).collect()
}

/// The last word on each probe, in order of first mention.
fn last_words(coverage: Vec<Coverage>) -> Vec<Coverage> {
    let mut out: Vec<Coverage> = Vec::new();
    for c in coverage {
        match out.iter_mut().find(|o| o.probe == c.probe) {
            Some(o) => *o = c,
            None => out.push(c),
        }
    }
    out
}
