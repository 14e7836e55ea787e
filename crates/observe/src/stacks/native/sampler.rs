//! The sampling thread: attaches events, drains rings, unwinds.

use super::event::{self, Access, EventError};
use super::modules::Modules;
use super::registers::{self, Registers};
use super::ring::Ring;
use super::space::{Place, Space, UnwindCache};
use super::symbols::Symbolizer;
use crate::stacks::classify::Surroundings;
use crate::stacks::record::{self, Record, Sample};
use crate::stacks::table::{DEPTH_LIMIT, ProfileTable, SAMPLE_LIMIT, STACK_LIMIT};
use evidence::{Nanos, StackProfile, StackSample};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Longest time between two looks at the rings.
const LOOK_MS: i32 = 50;
/// Rounds of looking for threads that were born while we attached.
const ATTACH_ROUNDS: usize = 4;
/// Processes followed at most.
const SPACE_LIMIT: usize = 4096;

/// A process to sample.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Process.
    pub pid: i32,
    /// Leave out the main thread, because another profiler names its frames better.
    pub skip_main: bool,
    /// Working directory and executable, for classification.
    pub around: Surroundings,
}

/// A running sampler.
#[derive(Debug)]
pub struct NativeSampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Collected>>,
    /// What the kernel lets us see.
    pub access: Access,
    /// Processes that could not be attached, and threads left out for want of descriptors.
    pub problems: Vec<String>,
}

/// What a sampler brought home.
#[derive(Debug)]
pub struct Outcome {
    /// The profile, method `cpu-clock`.
    pub profile: StackProfile,
    /// Samples lost by the kernel or beyond our limits.
    pub lost: u64,
    /// CPU time of the sampling thread.
    pub cost: Nanos,
}

/// Period of a sampling event that is opened to try it, nanoseconds: 10 ms.
const TRIED_NS: u64 = 10_000_000;

impl NativeSampler {
    /// Starts sampling `watched` at `hertz` per thread on the CPU.
    ///
    /// # Errors
    /// When no process could be attached; the error of the first.
    pub fn start(watched: Vec<Watched>, hertz: u32) -> Result<NativeSampler, EventError> {
        let period_ns = 1_000_000_000 / u64::from(hertz.max(1));
        let mut events = Events { period_ns, ..Events::default() };
        let (mut access, mut problems, mut first_error) = (None, Vec::new(), None);
        for process in &watched {
            let result = match access {
                Some(access) => Ok(access),
                None => event::probe(process.pid, period_ns),
            };
            match result.and_then(|found| events.attach(process.pid, found).map(|()| found)) {
                Ok(found) => access = Some(found),
                Err(EventError::Gone) => {}
                Err(error) => {
                    problems.push(format!("process {}: {error}", process.pid));
                    first_error.get_or_insert(error);
                }
            }
        }
        problems.append(&mut events.problems);
        let Some(access) = access else { return Err(first_error.unwrap_or(EventError::Gone)) };
        let stop = Arc::new(AtomicBool::new(false));
        let mut collector = Collector::new(&watched);
        let flag = stop.clone();
        let thread = std::thread::Builder::new()
            .name("stacks".into())
            .spawn(move || collector.run(events, &flag))
            .map_err(EventError::Other)?;
        Ok(NativeSampler { stop, thread: Some(thread), access, problems })
    }

    /// Ends sampling and names what was hit.
    pub fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Release);
        let collected = self.thread.take().and_then(|thread| thread.join().ok());
        collected.map_or_else(
            || Outcome { profile: StackProfile::default(), lost: 0, cost: Nanos::ZERO },
            Collected::finish,
        )
    }
}

impl Drop for NativeSampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // The thread only reads memory of ours; its result is not wanted any more.
            drop(thread.join());
        }
    }
}

/// How much may be sampled of a process, by trying; nothing is sampled.
///
/// # Errors
/// When nothing may.
pub fn access_of(pid: i32) -> Result<Access, EventError> {
    event::probe(pid, TRIED_NS)
}

/// Open events and their rings.
#[derive(Default)]
struct Events {
    period_ns: u64,
    rings: BTreeMap<i32, Ring>,
    joined: Vec<OwnedFd>,
    pending: Vec<Record>,
    born: HashSet<i32>,
    attached: HashSet<i32>,
    problems: Vec<String>,
}

impl Events {
    /// Attaches all threads of `pid`. Children of attached threads inherit the event, so a thread
    /// that appears meanwhile is attached only if no parent announced it.
    fn attach(&mut self, pid: i32, access: Access) -> Result<(), EventError> {
        let (mut any, mut missed, mut last) = (false, 0, None);
        for _ in 0..ATTACH_ROUNDS {
            let fresh: Vec<i32> = threads_of(pid)
                .into_iter()
                .filter(|tid| !self.attached.contains(tid) && !self.born.contains(tid))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for tid in fresh {
                self.attached.insert(tid);
                match self.attach_thread(tid, access) {
                    Ok(()) => any = true,
                    Err(EventError::Gone) => {}
                    Err(error) => (missed, last) = (missed + 1, Some(error)),
                }
            }
            self.collect();
        }
        match last {
            Some(error) if any => {
                self.problems.push(format!("process {pid}: {missed} threads are missed: {error}"));
                Ok(())
            }
            Some(error) => Err(error),
            None if any => Ok(()),
            None => Err(EventError::Gone),
        }
    }

    fn attach_thread(&mut self, tid: i32, access: Access) -> Result<(), EventError> {
        for cpu in online_processors() {
            let fd = event::open(tid, cpu, self.period_ns, access)?;
            if let Some(ring) = self.rings.get(&cpu) {
                ring.join(&fd).map_err(EventError::Other)?;
                self.joined.push(fd);
            } else {
                self.rings.insert(cpu, Ring::map(fd).map_err(EventError::Other)?);
            }
        }
        Ok(())
    }

    /// Takes what has arrived into `pending`, in time order.
    fn collect(&mut self) {
        for ring in self.rings.values_mut() {
            ring.drain(|bytes| {
                if let Some(record) = record::decode(bytes, registers::COUNT) {
                    if let Record::Fork { tid, .. } = record {
                        self.born.insert(tid);
                    }
                    self.pending.push(record);
                }
            });
        }
        self.pending.sort_by_key(Record::time);
    }

    /// Waits until a ring is filled to its mark, at most [`LOOK_MS`].
    fn wait(&self) {
        let mut polled: Vec<libc::pollfd> = self
            .rings
            .values()
            .map(|ring| libc::pollfd { fd: ring.fd(), events: libc::POLLIN, revents: 0 })
            .collect();
        // SAFETY: the array lives across the call and its length is its own.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, LOOK_MS) };
        if polled.iter().any(|fd| fd.revents & (libc::POLLHUP | libc::POLLERR) != 0) {
            // A thread that owned a ring ended: poll would return at once from now on.
            std::thread::sleep(std::time::Duration::from_millis(LOOK_MS as u64 / 2));
        }
    }
}

/// Threads of a process now.
fn threads_of(pid: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Processors that are online, from `/sys/devices/system/cpu/online` (`0-3,8`).
fn online_processors() -> Vec<i32> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let list: Vec<i32> = text
        .trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect();
    if !list.is_empty() {
        return list;
    }
    // SAFETY: sysconf has no preconditions.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    (0..i32::try_from(count).unwrap_or(1).max(1)).collect()
}

/// State of the sampling thread.
struct Collector {
    watched: HashSet<i32>,
    skipped: HashSet<i32>,
    collected: Collected,
    spaces: HashMap<i32, Space>,
    cache: UnwindCache,
    index: HashMap<(i32, Vec<Place>), u32>,
}

/// What the sampling thread hands over.
struct Collected {
    modules: Modules,
    around: HashMap<i32, Surroundings>,
    stacks: Vec<(i32, Vec<Place>)>,
    samples: Vec<StackSample>,
    lost: u64,
    cost: Nanos,
}

impl Collector {
    fn new(watched: &[Watched]) -> Collector {
        let around = watched.iter().map(|process| (process.pid, process.around.clone())).collect();
        let skipped = watched.iter().filter(|process| process.skip_main);
        Collector {
            watched: watched.iter().map(|process| process.pid).collect(),
            skipped: skipped.map(|process| process.pid).collect(),
            collected: Collected {
                modules: Modules::default(),
                around,
                stacks: Vec::new(),
                samples: Vec::new(),
                lost: 0,
                cost: Nanos::ZERO,
            },
            spaces: HashMap::new(),
            cache: UnwindCache::new(),
            index: HashMap::new(),
        }
    }

    fn run(&mut self, mut events: Events, stop: &AtomicBool) -> Collected {
        for pid in self.watched.clone() {
            self.spaces.insert(pid, Space::read(pid, &mut self.collected.modules));
        }
        loop {
            let last = stop.load(Ordering::Acquire);
            events.collect();
            for record in events.pending.drain(..) {
                self.take(record);
            }
            events.born.clear();
            if last {
                break;
            }
            events.wait();
        }
        self.collected.cost = thread_cpu_time();
        let empty = Collector::new(&[]).collected;
        std::mem::replace(&mut self.collected, empty)
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Lost(count) => self.collected.lost += count,
            Record::Fork { pid, parent, .. } if pid != parent => self.forked(pid, parent),
            Record::Name { pid, exec: true, .. } => self.replaced(pid),
            Record::Map { pid, start, end, offset, inode, path, .. } => {
                if let Some(space) = self.spaces.get_mut(&pid) {
                    space.map(&mut self.collected.modules, start, end, offset, inode, &path);
                }
            }
            Record::Sample(sample) => self.sample(&sample),
            Record::Fork { .. } | Record::Name { .. } => {}
        }
    }

    fn forked(&mut self, pid: i32, parent: i32) {
        if self.spaces.len() >= SPACE_LIMIT || self.spaces.contains_key(&pid) {
            return;
        }
        if let Some(space) = self.spaces.get(&parent) {
            self.spaces.insert(pid, space.forked(pid));
        }
        if let Some(around) = self.collected.around.get(&parent).cloned() {
            self.collected.around.insert(pid, around);
        }
    }

    /// `pid` became another program.
    fn replaced(&mut self, pid: i32) {
        let Some(space) = self.spaces.get_mut(&pid) else { return };
        *space = Space::empty(pid);
        if let Some(around) = self.collected.around.get_mut(&pid)
            && let Ok(path) = fs::read_link(format!("/proc/{pid}/exe"))
        {
            around.executable = path.to_string_lossy().into_owned();
        }
    }

    fn sample(&mut self, sample: &Sample) {
        if self.skipped.contains(&sample.tid) {
            return;
        }
        let mut places: Vec<Place> = sample.kernel.iter().copied().map(Place::Kernel).collect();
        places.extend(self.user_places(sample));
        places.truncate(DEPTH_LIMIT);
        if places.is_empty() || self.collected.samples.len() >= SAMPLE_LIMIT {
            self.collected.lost += 1;
            return;
        }
        let key = (sample.pid, places);
        let stack = match self.index.get(&key) {
            Some(stack) => *stack,
            None if self.index.len() >= STACK_LIMIT => {
                self.collected.lost += 1;
                return;
            }
            None => {
                let stack = self.collected.stacks.len() as u32;
                self.collected.stacks.push(key.clone());
                self.index.insert(key, stack);
                stack
            }
        };
        let (at, tid, weight) = (sample.time, sample.tid, sample.period);
        self.collected.samples.push(StackSample { at, tid, stack, weight });
    }

    fn user_places(&mut self, sample: &Sample) -> Vec<Place> {
        let Some(space) = self.spaces.get(&sample.pid) else { return Vec::new() };
        let addresses = match &sample.registers {
            Some(values) if !sample.stack.is_empty() => space.unwind(
                &self.collected.modules,
                &mut self.cache,
                Registers::from_sample(values),
                &sample.stack,
                &sample.user,
            ),
            _ => {
                let mut chain = sample.user.iter();
                let leaf = chain.next().copied();
                leaf.into_iter().chain(chain.map(|address| address.saturating_sub(1))).collect()
            }
        };
        addresses.into_iter().map(|address| space.place(address)).collect()
    }
}

impl Collected {
    /// Names all stacks.
    fn finish(self) -> Outcome {
        let mut symbolizer = Symbolizer::new(&self.modules, &self.around);
        let mut table = ProfileTable::new("cpu-clock");
        let mut known: HashMap<(i32, Place), Vec<u32>> = HashMap::new();
        let mut renamed = Vec::with_capacity(self.stacks.len());
        for (pid, places) in &self.stacks {
            let mut frames = Vec::with_capacity(places.len());
            for place in places {
                let named = known.entry((*pid, *place)).or_insert_with(|| {
                    let frames = symbolizer.frames(*pid, *place);
                    frames.into_iter().map(|frame| table.frame(frame)).collect()
                });
                frames.extend(named.iter().copied());
            }
            renamed.push(table.stack(frames));
        }
        for sample in &self.samples {
            let stack = renamed.get(sample.stack as usize).copied().flatten();
            table.sample(sample.at, sample.tid, stack, sample.weight);
        }
        let lost = self.lost + table.dropped();
        Outcome { profile: table.finish(), lost, cost: self.cost }
    }
}

/// CPU time of the calling thread.
pub fn thread_cpu_time() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
