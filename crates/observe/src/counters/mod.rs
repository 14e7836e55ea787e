//! Resources used during a window: differences of the kernel's own counters, per set of processes.
//! Cheap, exact sums without position; they need no right beyond reading `/proc`.

mod files;

pub(crate) use files::Files;

use crate::discovery::proc::{self, Table};
use evidence::{Nanos, ProcessCounters, ProcessRole};
use std::collections::{BTreeMap, HashMap};

/// A process's counters at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
struct Process {
    start_ticks: u64,
    cpu: u64,
    /// Run-queue time and switches of each thread; a thread that ends takes its own with it.
    threads: HashMap<i32, ThreadCounters>,
    minor_faults: u64,
    major_faults: u64,
    read_bytes: u64,
    write_bytes: u64,
    children_ticks: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct ThreadCounters {
    run: u64,
    wait: u64,
    /// Times it was given a CPU.
    slices: u64,
    voluntary: u64,
    involuntary: u64,
}

/// Counters of all processes of one role.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    roles: BTreeMap<ProcessRole, HashMap<i32, Process>>,
}

/// Which processes to count, by role; `true` counts everything below them as well.
pub(crate) type Wanted = [(ProcessRole, Vec<i32>)];

impl Snapshot {
    /// Reads the counters of the wanted processes. Those of a process that has not run since
    /// `earlier` are as they were; so are the switches of a thread that has not, which halves the
    /// cost where there are thousands.
    pub(crate) fn take(wanted: &Wanted, earlier: Option<&Snapshot>, files: &mut Files) -> Snapshot {
        let mut roles: BTreeMap<ProcessRole, HashMap<i32, Process>> = BTreeMap::new();
        for (role, pids) in wanted {
            let entry = roles.entry(*role).or_default();
            let old = earlier.and_then(|e| e.roles.get(role));
            let old = |pid: i32| old.and_then(|processes| processes.get(&pid));
            for pid in pids {
                entry.extend(read(*pid, old(*pid), files).map(|process| (*pid, process)));
            }
        }
        files.sweep();
        Snapshot { roles }
    }

    /// What was used between two snapshots.
    pub(crate) fn since(&self, before: &Snapshot, window: u32) -> Vec<ProcessCounters> {
        let empty = HashMap::new();
        self.roles
            .iter()
            .map(|(role, now)| {
                difference(now, before.roles.get(role).unwrap_or(&empty), *role, window)
            })
            .collect()
    }
}

/// Adds the processes below servers (a database's backends come and go).
pub(crate) fn with_children(
    servers: &[(ProcessRole, i32)],
    table: &Table,
) -> Vec<(ProcessRole, Vec<i32>)> {
    servers.iter().map(|(role, pid)| (*role, table.below(*pid))).collect()
}

fn read(pid: i32, earlier: Option<&Process>, files: &mut Files) -> Option<Process> {
    let cpu = cpu_time(pid);
    if let Some(earlier) = earlier.filter(|e| cpu == Some(e.cpu)) {
        // Where nothing ran nothing was counted: most of a database's processes in most windows.
        files.keep(pid);
        return Some(earlier.clone());
    }
    let stat = proc::parse_stat(&files.read(pid, 0, "stat")?)?;
    let earlier = earlier.filter(|e| e.start_ticks == stat.start_ticks);
    let (read_bytes, write_bytes) = storage_bytes(pid, files);
    let threads = threads(pid, stat.threads, earlier, files);
    Some(Process {
        start_ticks: stat.start_ticks,
        cpu: cpu.unwrap_or_else(|| threads.values().map(|t| t.run).sum()),
        threads,
        minor_faults: stat.minor_faults,
        major_faults: stat.major_faults,
        read_bytes,
        write_bytes,
        children_ticks: stat.children_ticks,
    })
}

/// CPU time of a whole process in nanoseconds, ended threads included: its CPU clock.
fn cpu_time(pid: i32) -> Option<u64> {
    const SCHED_CLOCK: i32 = 2;
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let clock = (!pid << 3) | SCHED_CLOCK;
    // SAFETY: writes into a local; an unknown process is an error.
    let ok = unsafe { libc::clock_gettime(clock, &mut t) } == 0;
    ok.then(|| t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

/// The process's threads, of which there are `count` now; they are listed anew unless they are as
/// many as before and each is still there.
fn threads(
    pid: i32,
    count: u32,
    earlier: Option<&Process>,
    files: &mut Files,
) -> HashMap<i32, ThreadCounters> {
    let none = HashMap::new();
    let old = earlier.map_or(&none, |e| &e.threads);
    let mut read = |tid: i32| Some((tid, thread(pid, tid, old.get(&tid), files)?));
    if old.len() == count as usize {
        let same: HashMap<_, _> = old.keys().filter_map(|tid| read(*tid)).collect();
        if same.len() == old.len() {
            return same;
        }
    }
    proc::threads(pid).into_iter().filter_map(read).collect()
}

fn thread(
    pid: i32,
    tid: i32,
    earlier: Option<&ThreadCounters>,
    files: &mut Files,
) -> Option<ThreadCounters> {
    let text = files.read(pid, tid, "schedstat")?;
    let mut numbers = text.split_whitespace().map_while(|w| w.parse::<u64>().ok());
    let (run, wait, slices) = (numbers.next()?, numbers.next()?, numbers.next().unwrap_or(0));
    if let Some(same) = earlier.filter(|e| e.slices == slices && e.run == run && slices > 0) {
        return Some(ThreadCounters { wait, ..*same });
    }
    let status = files.read(pid, tid, "status").unwrap_or_default();
    let after = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    };
    Some(ThreadCounters {
        run,
        wait,
        slices,
        voluntary: after("voluntary_ctxt_switches:"),
        involuntary: after("nonvoluntary_ctxt_switches:"),
    })
}

/// Bytes read from and written to storage; zero where they may not be read.
fn storage_bytes(pid: i32, files: &mut Files) -> (u64, u64) {
    let text = files.read(pid, 0, "io").unwrap_or_default();
    let after = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    };
    (after("read_bytes:"), after("write_bytes:"))
}

fn difference(
    now: &HashMap<i32, Process>,
    before: &HashMap<i32, Process>,
    role: ProcessRole,
    window: u32,
) -> ProcessCounters {
    let zero = Process::default();
    let mut sum = ProcessCounters {
        window,
        role,
        cpu: Nanos::ZERO,
        runnable: Nanos::ZERO,
        minor_faults: 0,
        major_faults: 0,
        disk_read_bytes: 0,
        disk_write_bytes: 0,
        voluntary_switches: 0,
        involuntary_switches: 0,
    };
    for (pid, process) in now {
        // The same number may be another process by now.
        let old = before.get(pid).filter(|o| o.start_ticks == process.start_ticks);
        let old = old.unwrap_or(&zero);
        sum.cpu += Nanos(process.cpu.saturating_sub(old.cpu));
        sum.minor_faults += process.minor_faults.saturating_sub(old.minor_faults);
        sum.major_faults += process.major_faults.saturating_sub(old.major_faults);
        sum.disk_read_bytes += process.read_bytes.saturating_sub(old.read_bytes);
        sum.disk_write_bytes += process.write_bytes.saturating_sub(old.write_bytes);
        for (tid, t) in &process.threads {
            let o = old.threads.get(tid).copied().unwrap_or_default();
            sum.runnable += Nanos(t.wait.saturating_sub(o.wait));
            sum.voluntary_switches += t.voluntary.saturating_sub(o.voluntary);
            sum.involuntary_switches += t.involuntary.saturating_sub(o.involuntary);
        }
    }
    sum.cpu += ended_children(now, before);
    sum
}

/// CPU of children that ended within the window, from what their parents inherited, less what they
/// had used before it. In steps of a clock tick.
fn ended_children(now: &HashMap<i32, Process>, before: &HashMap<i32, Process>) -> Nanos {
    // SAFETY: a query without arguments.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    let inherited: u64 = now
        .iter()
        .filter_map(|(pid, p)| {
            let old = before.get(pid).filter(|o| o.start_ticks == p.start_ticks)?;
            Some(p.children_ticks.saturating_sub(old.children_ticks))
        })
        .sum();
    let used: u64 =
        before.iter().filter(|(pid, _)| !now.contains_key(pid)).map(|(_, p)| p.cpu).sum();
    Nanos((inherited * (1_000_000_000 / ticks)).saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_work_is_counted() {
        let own = std::process::id() as i32;
        let wanted = [(ProcessRole::Generator, vec![own])];
        let mut files = Files::new();
        let before = Snapshot::take(&wanted, None, &mut files);
        let start = crate::clock::monotonic();
        let mut x = 1u64;
        while crate::clock::monotonic() - start < Nanos(40_000_000) {
            x = std::hint::black_box(x.wrapping_mul(31) + 7);
        }
        let counters = Snapshot::take(&wanted, None, &mut files).since(&before, 3)[0];
        assert_eq!((counters.window, counters.role), (3, ProcessRole::Generator));
        // Other tests share the process and the machine: it ran for some of the 40 ms at least.
        assert!(counters.cpu > Nanos(2_000_000), "{counters:?}");
    }
}
