//! Opening perf events: which ones, on which threads and CPUs, and what a refusal means.

use super::ring::{Ring, control, open};
use super::tracefs::Tracepoints;
use perf_event_open_sys::bindings::{self, perf_event_attr};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_TIME: u64 = 1 << 2;
const SAMPLE_RAW: u64 = 1 << 10;
/// The kernel copies at most a page of a filter.
const FILTER_LIMIT: usize = 4000;
/// All rings together; one ring is at most 8 MiB, which holds about 100,000 records.
const RINGS_BYTES: usize = 64 << 20;

/// Numbers of the CPUs online, from the kernel's list (`0-3,5`).
pub(crate) fn online_cpus() -> Vec<i32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let cpus = parse_list(text.trim());
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// How many numbers CPUs may have, also those that are not there yet: the highest and one.
///
/// # Errors
/// The system does not tell.
pub(crate) fn possible_cpus() -> io::Result<usize> {
    let path = "/sys/devices/system/cpu/possible";
    let last = parse_list(std::fs::read_to_string(path)?.trim()).into_iter().max();
    let last = last.and_then(|cpu| usize::try_from(cpu).ok());
    last.map(|cpu| cpu + 1).ok_or_else(|| io::Error::other(format!("{path} names none")))
}

fn parse_list(text: &str) -> Vec<i32> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(a), Ok(b)) = (a.parse::<i32>(), b.parse::<i32>()) {
            cpus.extend(a..=b.min(a + 4096));
        }
    }
    cpus
}

fn attributes() -> perf_event_attr {
    let mut attr = perf_event_attr {
        sample_type: SAMPLE_TID | SAMPLE_TIME,
        clockid: libc::CLOCK_MONOTONIC,
        ..perf_event_attr::default()
    };
    attr.set_sample_id_all(1);
    attr.set_use_clockid(1);
    attr
}

/// A software event that counts nothing; kernel mode excluded, which keeps it legal at
/// `perf_event_paranoid` 2.
fn dummy() -> perf_event_attr {
    let mut attr = attributes();
    attr.type_ = bindings::PERF_TYPE_SOFTWARE;
    attr.config = u64::from(bindings::PERF_COUNT_SW_DUMMY);
    attr.set_exclude_kernel(1);
    attr
}

fn tracepoint(id: u64) -> perf_event_attr {
    let mut attr = attributes();
    attr.type_ = bindings::PERF_TYPE_TRACEPOINT;
    attr.config = id;
    attr.sample_period = 1;
    attr.sample_type |= SAMPLE_RAW;
    attr
}

/// One ring a CPU, owned by an idle event of our own main thread, so that events of the target
/// can come and go.
///
/// # Errors
/// perf events are refused altogether.
pub(crate) fn rings(cpus: &[i32]) -> io::Result<Vec<Ring>> {
    let each = (RINGS_BYTES / cpus.len().max(1)).clamp(512 << 10, 8 << 20);
    // A power of two, rounded down.
    let each = 1 << each.ilog2();
    let own = std::process::id() as i32;
    cpus.iter().map(|cpu| Ring::map(open(&mut dummy(), own, *cpu)?, each)).collect()
}

/// Birth and death records of every thread on one CPU.
///
/// # Errors
/// As [`switches`].
pub(crate) fn births(cpu: i32, ring: &Ring) -> io::Result<OwnedFd> {
    let mut attr = dummy();
    attr.set_task(1);
    into_ring(attr, -1, cpu, ring)
}

/// Context-switch, birth and death records of one thread (`tid` −1: of every thread) on one CPU.
///
/// # Errors
/// The kernel's: EACCES is policy, ESRCH a thread that has ended, EMFILE too many descriptors.
pub(crate) fn switches(tid: i32, cpu: i32, ring: &Ring) -> io::Result<OwnedFd> {
    let mut attr = dummy();
    attr.set_context_switch(1);
    attr.set_task(1);
    attr.set_inherit(u64::from(tid != -1));
    into_ring(attr, tid, cpu, ring)
}

/// Opens an event that writes into the ring.
fn into_ring(mut attr: perf_event_attr, tid: i32, cpu: i32, ring: &Ring) -> io::Result<OwnedFd> {
    let event = open(&mut attr, tid, cpu)?;
    ring.redirect(&event)?;
    Ok(event)
}

/// System calls of one thread on one CPU, entered and left.
///
/// # Errors
/// As [`switches`].
pub(crate) fn syscalls(
    tid: i32,
    cpu: i32,
    points: &Tracepoints,
    ring: &Ring,
) -> io::Result<[OwnedFd; 2]> {
    let (Some(enter), Some(leave)) = (points.enter, points.leave) else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let one = |id: u64| -> io::Result<OwnedFd> {
        let mut attr = tracepoint(id);
        attr.set_inherit(1);
        into_ring(attr, tid, cpu, ring)
    };
    Ok([one(enter)?, one(leave)?])
}

/// A system-wide tracepoint on one CPU with a filter in the kernel. A filter cannot be replaced
/// (EEXIST): open anew, then close the old event.
///
/// # Errors
/// The kernel's.
pub(crate) fn filtered(id: u64, cpu: i32, filter: &str, ring: &Ring) -> io::Result<OwnedFd> {
    let mut attr = tracepoint(id);
    attr.set_disabled(1);
    let event = open(&mut attr, -1, cpu)?;
    let text = CString::new(filter).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fd = event.as_raw_fd();
    control(fd, bindings::SET_FILTER, text.as_ptr() as libc::c_ulong)?;
    ring.redirect(&event)?;
    control(fd, bindings::ENABLE, 0)?;
    Ok(event)
}

/// Threads whose events pass a filter in the kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passed {
    tids: BTreeSet<i32>,
    newborn: Option<Newborn>,
}

/// The ids the kernel gives to threads not born yet: it counts up and begins anew at its limit.
/// They pass, so that nothing of such a thread is missed until it is known; what others give birth
/// to is dropped later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newborn {
    first: i32,
    /// The largest id and one.
    limit: i32,
}

impl Newborn {
    /// How many ids pass in advance.
    const SPAN: i32 = 8192;
    /// Where the kernel begins anew (`RESERVED_PIDS`).
    const RESTART: i32 = 300;

    /// From the next id on. `None` where the kernel does not tell.
    pub(crate) fn next() -> Option<Newborn> {
        let number = |path: &str| {
            let text = std::fs::read_to_string(path).ok()?;
            text.split_whitespace().last()?.parse::<i32>().ok()
        };
        let limit = number("/proc/sys/kernel/pid_max")?;
        Some(Newborn { first: number("/proc/loadavg")?.checked_add(1)?, limit })
    }

    /// The ids as ranges, both ends included: two where the kernel begins anew in between.
    fn ranges(self) -> impl Iterator<Item = (i32, i32)> {
        let last = self.first.saturating_add(Newborn::SPAN - 1);
        let beyond = last - (self.limit - 1);
        let again = (Newborn::RESTART, Newborn::RESTART + beyond - 1);
        let whole = [(self.first, last.min(self.limit - 1)), again];
        whole.into_iter().take(if beyond > 0 { 2 } else { 1 })
    }

    /// Whether the kernel has come so far that `self` will soon hold none of its next ids.
    fn is_used_up(self, now: Newborn) -> bool {
        let come = (now.first - self.first).rem_euclid((self.limit - Newborn::RESTART).max(1));
        come > Newborn::SPAN / 2
    }
}

impl Passed {
    /// These threads, and those born from now on (read `newborn` before listing them).
    pub(crate) fn new(tids: impl IntoIterator<Item = i32>, newborn: Option<Newborn>) -> Passed {
        Passed { tids: tids.into_iter().collect(), newborn }
    }

    /// Whether the thread's events pass.
    pub(crate) fn has(&self, tid: i32) -> bool {
        let mut newborn = self.newborn.into_iter().flat_map(Newborn::ranges);
        self.tids.contains(&tid) || newborn.any(|(a, b)| (a..=b).contains(&tid))
    }

    /// Whether threads born soon would not pass.
    pub(crate) fn is_used_up(&self, now: Option<Newborn>) -> bool {
        self.newborn.zip(now).is_some_and(|(newborn, now)| newborn.is_used_up(now))
    }

    /// The threads as ranges of ids, both ends included, at most `most` of them: neighbours are
    /// merged, closest first, until they fit. What passes beyond is dropped later.
    pub(crate) fn ranges(&self, most: usize) -> Vec<(i32, i32)> {
        let mut gap = 1;
        loop {
            let mut ranges: Vec<(i32, i32)> = Vec::new();
            for tid in &self.tids {
                match ranges.last_mut() {
                    Some(last) if tid.saturating_sub(last.1) <= gap => last.1 = *tid,
                    _ => ranges.push((*tid, *tid)),
                }
            }
            if ranges.len() + 2 <= most.max(3) {
                ranges.extend(self.newborn.into_iter().flat_map(Newborn::ranges));
                return ranges;
            }
            gap = gap.saturating_mul(2);
        }
    }

    /// The filter on `field`, short enough for the kernel.
    pub(crate) fn filter(&self, field: &str) -> String {
        // `(field>=1234567890&&field<=1234567890)||`
        let longest = 2 * field.len() + 30;
        let one = |(a, b): &(i32, i32)| match a == b {
            true => format!("{field}=={a}"),
            false => format!("({field}>={a}&&{field}<={b})"),
        };
        let parts: Vec<String> = self.ranges(FILTER_LIMIT / longest).iter().map(one).collect();
        parts.join("||")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_fit_and_pass_every_thread() {
        let filter = |tids: &[i32], newborn| Passed::new(tids.to_vec(), newborn).filter("pid");
        assert_eq!(filter(&[7, 3, 3], None), "pid==3||pid==7");
        assert_eq!(filter(&[3, 4, 5, 9], None), "(pid>=3&&pid<=5)||pid==9");
        let newborn = Some(Newborn { first: 9, limit: 32_768 });
        assert_eq!(filter(&[3], newborn), "pid==3||(pid>=9&&pid<=8200)");
        let many =
            Passed::new((0..3000).map(|n| n * 7), Some(Newborn { first: 21_000, limit: 32_768 }));
        assert!(many.filter("prev_pid").len() <= FILTER_LIMIT);
        assert!(many.has(7) && !many.has(8) && many.has(22_000));
    }

    #[test]
    fn the_kernel_begins_anew() {
        let newborn = Newborn { first: 30_000, limit: 32_768 };
        assert!(newborn.ranges().eq([(30_000, 32_767), (300, 5723)]));
        let at = |first| Newborn { first, ..newborn };
        let passed = Passed::new([], Some(newborn));
        assert!(passed.has(30_000) && passed.has(300) && !passed.has(6000) && !passed.has(299));
        assert!(!passed.is_used_up(Some(at(32_000))) && !passed.is_used_up(Some(at(400))));
        assert!(passed.is_used_up(Some(at(4000))) && !passed.is_used_up(None));
        assert!(at(100).ranges().eq([(100, 8291)]));
    }

    #[test]
    fn cpu_lists_are_read() {
        assert_eq!(parse_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(parse_list(""), [] as [i32; 0]);
    }
}
