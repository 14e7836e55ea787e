//! CPython from outside: interpreter frames read out of the process's memory by py-spy's library,
//! without stopping it.
//!
//! One thread of ours samples all Python processes of the service. Time spent in C code that
//! Python called (`re`, `json`, a driver) shows under the Python function that called it, and so
//! does a garbage collection, under the function whose allocation triggered it.

use crate::stacks::classify;
use crate::stacks::table::ProfileTable;
use evidence::{Coverage, Frame, Nanos, StackProfile};
use py_spy::config::{Config, LineNo, LockingStrategy};
use py_spy::{PythonSpy, StackTrace};
use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Name of the probe in coverage.
pub const PROBE: &str = "python-stacks";
/// Samples a second at most: each costs us 0.3–0.5 ms and the target nothing but cache misses.
const HERTZ_LIMIT: u32 = 200;
/// Attempts to attach; an interpreter that is just starting has no threads yet.
const ATTACH_ATTEMPTS: u64 = 5;
/// Errors in a row after which a process is given up, when it is not simply gone.
const ERROR_LIMIT: u32 = 200;
/// Where glibc (x86-64 and aarch64, 2.4 to the present) and musl keep a thread's id, in bytes from
/// its `pthread_t`.
const TID_OFFSETS: &[u64] = &[720, 208, 48, 56];

/// A Python process to sample.
#[derive(Clone, Debug)]
pub struct PythonProcess {
    /// Process.
    pub pid: i32,
    /// Working directory, for classification.
    pub directory: Option<String>,
}

/// A running sampler.
#[derive(Debug)]
pub struct PythonSampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Outcome>>,
}

/// What a sampler brought home.
#[derive(Debug)]
pub struct Outcome {
    /// The profile, method `py-spy`.
    pub profile: StackProfile,
    /// Samples that could not be read because the process moved on meanwhile.
    pub errors: u64,
    /// CPU time of the sampling thread.
    pub cost: Nanos,
}

/// One attached process.
struct Attached {
    process: PythonProcess,
    spy: PythonSpy,
    cpu_clock: libc::clockid_t,
    cpu_seen: Nanos,
    errors: u32,
}

impl PythonSampler {
    /// Attaches to each process and starts sampling. Returns the processes that cannot be read,
    /// each with the reason; `None` when that is all of them.
    pub fn start(
        processes: &[PythonProcess],
        hertz: u32,
    ) -> (Option<PythonSampler>, Vec<(i32, Coverage)>) {
        let (mut attached, mut refused) = (Vec::new(), Vec::new());
        for process in processes {
            match attach(process) {
                Ok(found) => attached.push(found),
                Err(coverage) => refused.push((process.pid, coverage)),
            }
        }
        if attached.is_empty() {
            return (None, refused);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, hertz) = (stop.clone(), hertz.clamp(1, HERTZ_LIMIT));
        let pids: Vec<i32> = attached.iter().map(|found| found.process.pid).collect();
        let thread = std::thread::Builder::new()
            .name("python-stacks".into())
            .spawn(move || sample(attached, hertz, &flag));
        match thread {
            Ok(thread) => (Some(PythonSampler { stop, thread: Some(thread) }), refused),
            Err(error) => {
                let reason = format!("no thread for sampling: {error}");
                let coverage = Coverage::unavailable(PROBE, reason, "raise the thread limit");
                refused.extend(pids.into_iter().map(|pid| (pid, coverage.clone())));
                (None, refused)
            }
        }
    }

    /// Ends sampling.
    pub fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Release);
        let joined = self.thread.take().and_then(|thread| thread.join().ok());
        joined.unwrap_or_else(|| Outcome {
            profile: StackProfile::default(),
            errors: 0,
            cost: Nanos::ZERO,
        })
    }
}

impl Drop for PythonSampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn attach(process: &PythonProcess) -> Result<Attached, Coverage> {
    let config = Config {
        blocking: LockingStrategy::NonBlocking,
        lineno: LineNo::LastInstruction,
        // Names cost a search of the `threading` module and are not used.
        collect_thread_names: false,
        ..Config::default()
    };
    let spy = PythonSpy::retry_new(process.pid, &config, ATTACH_ATTEMPTS)
        .map_err(|error| refusal(process.pid, &format!("{error:#}")))?;
    Ok(Attached {
        process: process.clone(),
        spy,
        cpu_clock: process_cpu_clock(process.pid),
        cpu_seen: Nanos::ZERO,
        errors: 0,
    })
}

/// Whether the memory of a process may be read, which is all that stacks of it need.
pub(crate) fn probe(pid: i32) -> Coverage {
    match fs::File::open(format!("/proc/{pid}/mem")) {
        Ok(_) => Coverage::ok(PROBE),
        Err(error) => refusal(pid, &format!("its memory may not be read: {error}")),
    }
}

/// Why attaching failed, and what would help.
fn refusal(pid: i32, error: &str) -> Coverage {
    let lower = error.to_lowercase();
    let denied = lower.contains("permission") || lower.contains("not permitted");
    let hint = if denied && owner(pid) != owner_of_self() {
        "run perfwright as root or as the user that owns the process".to_owned()
    } else if denied {
        "allow reading of other processes: sysctl kernel.yama.ptrace_scope=0, or run as root; \
         in a container add --cap-add SYS_PTRACE"
            .to_owned()
    } else if lower.contains("version") {
        "use a CPython between 2.7 and 3.15; PyPy and free-threaded builds cannot be read"
            .to_owned()
    } else {
        String::new()
    };
    Coverage::unavailable(PROBE, format!("process {pid}: {error}"), hint)
}

fn owner(pid: i32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}")).ok().map(|metadata| metadata.uid())
}

fn owner_of_self() -> Option<u32> {
    // SAFETY: geteuid has no preconditions.
    Some(unsafe { libc::geteuid() })
}

/// The clock of the CPU time of a whole process (`MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)`).
fn process_cpu_clock(pid: i32) -> libc::clockid_t {
    (!pid << 3) | 2
}

fn read_clock(clock: libc::clockid_t) -> Option<Nanos> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    (result == 0).then(|| Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64))
}

fn sample(mut attached: Vec<Attached>, hertz: u32, stop: &AtomicBool) -> Outcome {
    let period = Duration::from_nanos(1_000_000_000 / u64::from(hertz));
    let weight = Nanos(period.as_nanos() as u64);
    let mut table = ProfileTable::new("py-spy");
    let (mut errors, mut due) = (0u64, Instant::now());
    while !stop.load(Ordering::Acquire) && !attached.is_empty() {
        attached.retain_mut(|found| match found.sample(&mut table, weight) {
            Ok(()) => {
                found.errors = 0;
                true
            }
            Err(Lost::Moved) => {
                errors += 1;
                found.errors += 1;
                found.errors < ERROR_LIMIT
            }
            Err(Lost::Gone) => false,
        });
        due += period;
        let now = Instant::now();
        // When we cannot keep up, samples are left out, never bunched.
        if due < now {
            due = now;
        }
        std::thread::sleep(due - now);
    }
    let cost = read_clock(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default();
    Outcome { profile: table.finish(), errors, cost }
}

/// Why there is no sample.
enum Lost {
    /// Memory changed while it was read.
    Moved,
    /// The process ended.
    Gone,
}

impl Attached {
    /// Takes one sample of every thread that is running.
    fn sample(&mut self, table: &mut ProfileTable, weight: Nanos) -> Result<(), Lost> {
        let cpu = read_clock(self.cpu_clock).ok_or(Lost::Gone)?;
        // A process that used no CPU since the last look has nothing to show: idle workers are
        // free.
        if cpu == self.cpu_seen {
            return Ok(());
        }
        self.cpu_seen = cpu;
        let at = read_clock(libc::CLOCK_MONOTONIC).unwrap_or_default();
        let traces = self.spy.get_stack_traces().map_err(|_| Lost::Moved)?;
        let pid = self.process.pid;
        let mut seen = HashSet::new();
        for trace in traces.iter().filter(|trace| trace.active && !trace.frames.is_empty()) {
            let tid = self.tid(trace);
            // Old interpreters do not tell the thread's id, and in a container it is not ours:
            // then activity is only a guess of py-spy's, and the kernel's word is better.
            let told = trace.os_thread_id == u64::try_from(tid).ok();
            let running = told || tid == 0 || is_running(pid, tid);
            if running && (tid == 0 || seen.insert(tid)) {
                let frames = self.frames(trace, table);
                let stack = table.stack(frames);
                table.sample(at, tid, stack, weight);
            }
        }
        Ok(())
    }

    /// The kernel's id of the thread; 0 when it cannot be told.
    fn tid(&self, trace: &StackTrace) -> i32 {
        let pid = self.process.pid;
        let told = trace.os_thread_id.and_then(|id| i32::try_from(id).ok());
        let is_ours =
            |tid: &i32| *tid > 0 && fs::metadata(format!("/proc/{pid}/task/{tid}")).is_ok();
        if let Some(tid) = told {
            return if is_ours(&tid) { tid } else { outer_tid(pid, tid).unwrap_or(0) };
        }
        TID_OFFSETS
            .iter()
            .filter_map(|offset| read_i32(pid, trace.thread_id.wrapping_add(*offset)))
            .find(is_ours)
            .unwrap_or(0)
    }

    fn frames(&self, trace: &StackTrace, table: &mut ProfileTable) -> Vec<u32> {
        let directory = self.process.directory.as_deref();
        let frames = trace.frames.iter().map(|frame| {
            table.frame(Frame {
                function: frame.name.clone(),
                file: Some(frame.filename.clone()),
                line: u32::try_from(frame.line).ok().filter(|line| *line > 0),
                kind: classify::python(&frame.filename, directory),
            })
        });
        frames.collect()
    }
}

/// In a container the interpreter knows the thread's id there; ours is found by `NSpid`.
fn outer_tid(pid: i32, inner: i32) -> Option<i32> {
    let inner = inner.to_string();
    fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().find_map(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let last = ids.split_ascii_whitespace().last()?;
        (last == inner).then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

fn is_running(pid: i32, tid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('R'))
}

fn read_i32(pid: i32, address: u64) -> Option<i32> {
    let mut bytes = [0u8; 4];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the local buffer is ours; the remote address is checked by the kernel.
    let count = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    (count == 4).then(|| i32::from_le_bytes(bytes))
}
