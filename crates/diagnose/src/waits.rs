//! Waits that are no calls: how much of a request passes in sleeps or in the disk, and what a fix
//! would remove. Reasons are named by traced system calls, either in the judged requests
//! themselves or, by share, from the traced pass (the wall ledger has applied it).

use crate::case::{Case, Extent, Request};
use crate::ledger;
use crate::retime::{self, Edit};
use crate::timeline;
use evidence::{Arm, Consent, Experiment, ExperimentKind, Line, Nanos, ProbeState, Risk, Timeline};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Unexplained waiting below this leaves no rule undecided, milliseconds.
const UNEXPLAINED_MS: f64 = 3.0;
/// Share of latency below which it leaves none undecided either.
const UNEXPLAINED_SHARE: f64 = 0.1;
/// Waiting without a reason that the ledger may keep, milliseconds: a traced pass names what is
/// beyond it.
const NAMELESS_MS: f64 = 0.5;
/// Share of latency that it may keep.
const NAMELESS_SHARE: f64 = 0.01;
/// Detail of flushes in timelines; reads and writes of files are `file`.
const SYNC: &str = "sync";
/// Seam between two recorded states of one thread that follow each other.
const SWITCH: Nanos = Nanos(5_000);
/// End of the detail of CPU inside a system call.
const KERNEL: &str = "kernel";

/// What is known of one kind of wait.
pub enum Wait {
    /// There is some.
    Seen {
        /// Per request, what goes.
        edits: Vec<Edit>,
        /// Mean cost in milliseconds, work between the waits included.
        cost_ms: f64,
        /// Number of waits per request.
        waits: f64,
    },
    /// There is waiting whose reason is not known, this much.
    Unexplained {
        /// Mean per request in milliseconds.
        ms: f64,
    },
    /// There is none to speak of.
    None {
        /// Mean per request in milliseconds.
        ms: f64,
    },
}

/// Waits of a line (`timer` or `disk`) in the judged requests.
pub fn of(case: &Case, line: Line) -> Wait {
    let direct = case.mean_of(|r| evidence::ms(retime::length(&stretches(r, line))));
    let booked = case.line_ms(line);
    let device = if line == Line::Disk { device_ms(case) } else { 0.0 };
    if direct <= 0.0 && (booked <= 0.0 || device > 0.0 && !traced(case)) {
        let ms = case.unexplained_ms() + device;
        let open = ms >= UNEXPLAINED_MS && ms >= UNEXPLAINED_SHARE * case.mean_ms();
        return if open && !named(case) {
            Wait::Unexplained { ms }
        } else {
            Wait::None { ms: 0.0 }
        };
    }
    let gaps = line == Line::Disk;
    let edits: Vec<Edit> = if direct > 0.0 {
        case.requests
            .iter()
            .map(|r| Edit { stretches: stretches(r, line), gaps, ..Edit::default() })
            .collect()
    } else {
        by_share(case, line, booked)
    };
    let cost_ms = retime::net_ms(case, &edits);
    Wait::Seen { edits, cost_ms, waits: number(case, line) }
}

/// The part `booked` of the unexplained stretches goes; which of them is not known, so all shrink.
/// The disk's are those in which the scheduler saw a device waited for, where it saw any.
fn by_share(case: &Case, line: Line, booked: f64) -> Vec<Edit> {
    let gaps = line == Line::Disk;
    let device = gaps && device_ms(case) > 0.0;
    let of = |r: &Request| match device {
        true => device_stretches(r),
        false => stretches(r, Line::Unattributed),
    };
    let all: Vec<Vec<Extent>> = case.requests.iter().map(of).collect();
    let mean =
        stats::mean(&all.iter().map(|s| evidence::ms(retime::length(s))).collect::<Vec<_>>());
    let share = if mean > 0.0 { (booked / mean).min(1.0) } else { 0.0 };
    let gaps = gaps && share >= 0.5;
    all.into_iter()
        .map(|stretches| {
            let replacement_ns = retime::length(&stretches) as f64 * (1.0 - share);
            Edit { stretches, gaps, replacement_ns, ..Edit::default() }
        })
        .collect()
}

/// Mean time per request in which a device was waited for in a call that was not traced.
fn device_ms(case: &Case) -> f64 {
    case.mean_of(|r| evidence::ms(retime::length(&device_stretches(r))))
}

fn device_stretches(request: &Request) -> Vec<Extent> {
    let fits = |i: usize| request.timeline.intervals[i].detail == timeline::DEVICE_WAIT;
    let pieces = request.pieces.iter();
    let pieces = pieces.filter(|p| p.line == Line::Disk && p.interval.is_some_and(fits));
    pieces.map(|p| (p.start, p.end)).collect()
}

/// Pieces of a line in the partition; of the disk only flushes.
fn stretches(request: &Request, line: Line) -> Vec<Extent> {
    let fits = |interval: Option<usize>| match interval {
        Some(i) if line == Line::Disk => request.timeline.intervals[i].detail == SYNC,
        _ => true,
    };
    let pieces = request.pieces.iter().filter(|p| p.line == line && fits(p.interval));
    pieces.map(|p| (p.start, p.end)).collect()
}

/// Number of waits per request, median: in the judged requests, else in the traced ones.
fn number(case: &Case, line: Line) -> f64 {
    let own: Vec<f64> = case.requests.iter().map(|r| count(&r.timeline, line)).collect();
    let own = stats::median(&own).unwrap_or(0.0);
    if own > 0.0 {
        return own;
    }
    let traced = timeline::build(case.knowledge, case.endpoint, &Arm::Traced);
    let traced: Vec<f64> = traced.iter().map(|t| count(t, line)).collect();
    stats::median(&traced).unwrap_or(0.0)
}

/// Waits of a line in a timeline.
fn count(t: &Timeline, line: Line) -> f64 {
    if line == Line::Disk { flushes(t) } else { on_path(t, line).len() as f64 }
}

/// One flush may sleep several times (journal, then data): sleeps of a thread are one as long as it
/// stays in the kernel or in the run queue between them.
fn flushes(t: &Timeline) -> f64 {
    let mut reach: BTreeMap<Option<i32>, Nanos> = BTreeMap::new();
    let mut n = 0.0;
    for i in &t.intervals {
        let goes_on = reach.get(&i.tid).is_some_and(|r| i.start <= *r + SWITCH);
        let wanted = i.line == Line::Disk && i.detail == SYNC;
        let between = i.line == Line::Runnable || i.line == Line::Cpu && i.detail.ends_with(KERNEL);
        if wanted {
            n += if goes_on { 0.0 } else { 1.0 };
        }
        if wanted || goes_on && between {
            reach.insert(i.tid, i.end);
        }
    }
    n
}

/// Waits of a line that a request goes through one after another, by index: where several threads
/// wait at once (a main thread polls beside one that sleeps), the longest wait is the request's.
fn on_path(t: &Timeline, line: Line) -> BTreeSet<usize> {
    let mut path = BTreeSet::new();
    ledger::walk(t, &[], |_, _, active| {
        let wanted = |n: &usize| t.intervals[*n].line == line;
        let length = |n: &usize| (t.intervals[*n].end - t.intervals[*n].start, Reverse(*n));
        if active.first().is_some_and(|label| wanted(&label.2)) {
            path.extend(active.iter().map(|key| key.2).filter(wanted).max_by_key(length));
        }
    });
    path
}

fn traced(case: &Case) -> bool {
    case.knowledge.exchanges_of(case.endpoint, &Arm::Traced).next().is_some()
}

/// Whether the traced pass could name reasons. Stacks alone are traced requests too, and system
/// calls may be refused: then nothing was named, which says nothing.
fn named(case: &Case) -> bool {
    traced(case) && case.has_intervals() && !refused(case)
}

fn refused(case: &Case) -> bool {
    let refused =
        |c: &evidence::Coverage| c.probe == "syscalls" && c.state == ProbeState::Unavailable;
    case.knowledge.coverage.iter().any(refused)
}

/// A pass with system calls traced, once unexplained waiting matters.
pub fn needs(case: &Case) -> Option<Experiment> {
    // Who may not see threads at all may not trace their system calls either.
    let known = traced(case) || case.did(&ExperimentKind::Reasons);
    if case.requests.is_empty() || known || case.cpu_ms().is_none() {
        return None;
    }
    if refused(case) {
        return None;
    }
    let ms = case.unexplained_ms() + device_ms(case);
    if ms < NAMELESS_MS || ms < NAMELESS_SHARE * case.mean_ms() {
        return None;
    }
    Some(Experiment {
        kind: ExperimentKind::Reasons,
        endpoint: case.endpoint.to_string(),
        purpose: format!("what are {:.1} ms of unexplained waiting?", ms),
        // Four requests name the reasons of slow ones well enough; more are driven if time is left.
        cost_s: (case.mean_ms() * 4.0 / 1000.0).clamp(0.5, 15.0),
        information: (ms / case.mean_ms().max(1e-9)).min(1.0) * 0.7,
        risk: Risk::Slows,
        consent: Consent::None,
    })
}

/// The command that would name the reasons.
pub fn command(case: &Case) -> String {
    case.look_closer()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::rank;
    use evidence::Interval;

    /// Line, detail and rank.
    type What = (Line, &'static str, u8);

    const SLEEP: What = (Line::Timer, "", rank::TIMER);
    const FLUSH: What = (Line::Disk, SYNC, rank::DISK);
    const KERNEL_CPU: What = (Line::Cpu, KERNEL, rank::CPU);
    const CPU: What = (Line::Cpu, "user", rank::CPU);

    /// Intervals as thread, what, start and end in milliseconds, of a request of three seconds.
    fn check(line: Line, intervals: &[(i32, What, u64, u64)], want: f64) {
        let ms = |n: u64| Nanos(n * 1_000_000);
        let one = |&(tid, (line, detail, rank), start, end): &(i32, What, u64, u64)| {
            let (start, end, detail) = (ms(start), ms(end), detail.to_string());
            Interval { start, end, line, detail, call: None, rank, tid: Some(tid) }
        };
        let mut intervals: Vec<Interval> = intervals.iter().map(one).collect();
        intervals.sort_by_key(|i| i.start);
        let (endpoint, start, end) = ("GET /".to_string(), Nanos::ZERO, ms(3_000));
        let t = Timeline { endpoint, window: 1, start, end, intervals };
        assert_eq!(count(&t, line), want, "{:?}", t.intervals);
    }

    #[test]
    fn waits_of_a_request_follow_each_other() {
        // One sleep, beside which the main thread polls twice a second.
        let polls = (0..4).map(|n| (1, SLEEP, 300 + n * 500, 800 + n * 500));
        let mut poll_beside: Vec<_> = polls.collect();
        check(Line::Timer, &poll_beside, 4.0);
        poll_beside.push((2, SLEEP, 1, 2_400));
        check(Line::Timer, &poll_beside, 1.0);
        poll_beside.extend([800, 1_300, 1_800].map(|at| (1, CPU, at, at + 1)));
        check(Line::Timer, &poll_beside, 1.0);
        // Sleeps that follow each other on threads of a pool.
        check(Line::Timer, &[(1, SLEEP, 0, 50), (2, SLEEP, 60, 110), (1, SLEEP, 120, 170)], 3.0);
        // Three at once.
        check(Line::Timer, &[(1, SLEEP, 0, 50), (2, SLEEP, 1, 50), (3, SLEEP, 2, 50)], 1.0);
        // Behind computing nobody waits for it.
        check(Line::Timer, &[(1, CPU, 0, 100), (2, SLEEP, 20, 80)], 0.0);
    }

    #[test]
    fn a_flush_that_sleeps_twice_is_one() {
        let flush = [(1, FLUSH, 0, 5), (1, KERNEL_CPU, 5, 6), (1, FLUSH, 6, 9)];
        check(Line::Disk, &flush, 1.0);
        let twice = [(1, FLUSH, 0, 5), (1, CPU, 5, 6), (1, FLUSH, 6, 9)];
        check(Line::Disk, &twice, 2.0);
    }
}
