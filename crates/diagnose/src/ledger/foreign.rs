//! Subtraction of other clients' requests, for arms with too few windows free of them.
//!
//! Packets at the service's port say exactly when other requests were in flight (F). Outside F all
//! is ours. Inside F, CPU of serving threads is ours only beyond what one such request uses in
//! idle windows; CPU that is not ours but lies over a call of ours goes back to the call, over a
//! wait back to the wait, and what is left delayed us: `queueing`. All corrections are linear and
//! unclamped per request, so that means over requests are unbiased.

use super::account::{self, Account, Accounts, Key};
use super::walk;
use crate::Knowledge;
use crate::attribution;
use crate::background::{self, Background, Stretch};
use crate::timeline::{self, Edges, Keep, rank};
use evidence::{Exchange, Line, Nanos, ThreadState, Timeline};
use std::collections::BTreeMap;

/// What goes back to our waits from under others' CPU is known to about this share of itself.
const WAIT_DOUBT: f64 = 0.2;

/// What one request of another client does, as seen in idle windows.
#[derive(Clone, Debug, Default)]
struct Profile {
    /// CPU of serving threads a request, nanoseconds, and the half width of its 90 % interval.
    cpu: (f64, f64),
    /// Their run-queue time.
    runnable: f64,
}

/// One exchange, measured but not yet corrected.
#[derive(Clone, Debug, Default)]
struct Raw {
    account: Account,
    /// Other requests in flight, in requests: shares of each that lie within.
    others: f64,
    /// How many touch it, and CPU of serving threads while those are in flight outside it.
    touching: f64,
    outside: f64,
    /// Requests of which that CPU is too, though they do not touch it.
    apart: f64,
    /// Time of serving threads on the CPU in F, summed over threads; and ready without a CPU.
    cpu: f64,
    runnable: f64,
    /// Time in F that CPU, or the run queue, hides, by what lies under it.
    under_cpu: BTreeMap<Option<Key>, f64>,
    under_runnable: BTreeMap<Option<Key>, f64>,
    /// Time with a call of ours outstanding in F, by call.
    calls: BTreeMap<Key, f64>,
    /// Outside F: time with a call outstanding, and the part of it with a thread on the CPU.
    clear_calls: f64,
    clear_over: f64,
}

/// Fills the accounts of exchanges that other clients' requests overlap.
pub(crate) fn fill(k: &Knowledge, b: &Background, exchanges: &[&Exchange], out: &mut Accounts) {
    let profile = Profile::learn(k, b);
    let mut raws = vec![];
    for (x, ours) in exchanges.iter().zip(attribution::of(k, b, exchanges)) {
        // Threads that serve us alone leave nothing to be told apart.
        let keep = Keep {
            call: &|n, c| !b.is_noise(c) && !ours.others.contains(&n),
            thread: &|tid| ours.has_thread(k, tid),
        };
        let t = timeline::of_exchange(k, x, &keep);
        let mut raw = measure(k, b, x, &t);
        if !ours.threads.is_empty() {
            raw.alone();
        }
        out.switches |= t.intervals.iter().any(|i| i.tid.is_some());
        raw.account.calls = account::call_sums(k, &t, out);
        raws.push(raw);
    }
    let split = Split::of(&raws, &profile);
    let requests = raws.len().max(1) as f64;
    let cpu_error = profile.cpu.1 * raws.iter().map(|r| r.touching).sum::<f64>() / requests;
    out.list = raws.into_iter().map(|r| r.corrected(&split, out)).collect();
    for error in out.shared_error.values_mut() {
        *error *= WAIT_DOUBT / requests;
    }
    for key in [cpu_key(), queue_key()] {
        let error = out.shared_error.entry(key).or_default();
        *error = error.hypot(cpu_error);
    }
}

/// How what is hidden in F divides, learnt over all requests of the arm.
#[derive(Clone, Copy, Debug)]
struct Split {
    /// CPU of one request of others, nanoseconds.
    cpu: f64,
    /// Share of a call of ours during which our own threads run anyway.
    over: f64,
    /// Share of run-queue time in F that is others'.
    not_ours: f64,
    /// How much less of others' CPU falls on our waits than if it fell evenly.
    scale: f64,
    /// The part of that for which there is room.
    part: f64,
}

impl Split {
    fn of(raws: &[Raw], profile: &Profile) -> Split {
        let sum = |f: &dyn Fn(&Raw) -> f64| raws.iter().map(f).sum::<f64>();
        let over = ratio(sum(&|r| r.clear_over), sum(&|r| r.clear_calls));
        let expected = profile.runnable * sum(&|r| r.others);
        let mut split = Split {
            cpu: profile.cpu.0,
            over,
            not_ours: ratio(expected, sum(&|r| r.runnable)).min(1.0),
            scale: 1.0,
            part: 1.0,
        };
        // Others' CPU is also what we queue behind, so less of it falls on our waits; how much is
        // seen where calls of ours are outstanding. Half way, since those are not sleeps.
        let calls = sum(&|r| r.clear_calls + r.calls.values().sum::<f64>());
        let seen = ratio(sum(&|r| r.over_calls(over)), calls);
        let even = ratio(sum(&|r| r.expected(&split)), sum(&|r| r.free(&split)));
        if calls > 0.0 && even > 0.0 {
            split.scale = (1.0 + (seen / even).clamp(0.0, 1.0)) / 2.0;
        }
        // No more can go back than others' CPU hides beside calls: the rest, queueing, is not
        // negative.
        let back = sum(&|r| r.back(&split).values().sum::<f64>());
        let room = sum(&|r| r.hidden_beside_calls(&split)).max(0.0);
        split.part = ratio(room, back).min(1.0);
        split
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn cpu_key() -> Key {
    (Line::Cpu, String::new())
}

fn queue_key() -> Key {
    (Line::Queueing, "other clients' requests".into())
}

impl Raw {
    /// All that was measured is ours: what CPU hides in F is CPU.
    fn alone(&mut self) {
        let hidden: f64 = std::mem::take(&mut self.under_cpu).into_values().sum();
        *self.account.time.entry(cpu_key()).or_default() += hidden;
        let queued: f64 = std::mem::take(&mut self.under_runnable).into_values().sum();
        *self.account.time.entry((Line::Runnable, String::new())).or_default() += queued;
        (self.others, self.cpu, self.runnable) = (0.0, 0.0, 0.0);
        (self.touching, self.outside, self.apart) = (0.0, 0.0, 0.0);
    }

    /// CPU others' requests are expected to have used within: what each uses, less what was seen
    /// used while it was in flight but we were not. (By time alone it would be too much: a request
    /// that arrives during our CPU waits for most of its time.)
    fn expected(&self, split: &Split) -> f64 {
        let outside = (self.outside - split.cpu * self.apart).max(0.0);
        (split.cpu * self.touching - outside).max(0.0)
    }

    /// Time in which our own threads do not run, so that others' can.
    fn free(&self, split: &Split) -> f64 {
        let cpu = self.account.time.iter().filter(|t| t.0.0 == Line::Cpu);
        let clear: f64 = cpu.map(|t| *t.1).sum();
        self.account.latency - clear - (self.cpu - self.expected(split))
    }

    /// Others' CPU over calls of ours.
    fn over_calls(&self, over: f64) -> f64 {
        let calls = self.under_cpu.iter().filter_map(|(key, ns)| Some((key.as_ref()?, ns)));
        calls
            .map(|(key, ns)| (ns - over * self.calls.get(key).copied().unwrap_or(0.0)).max(0.0))
            .sum()
    }

    /// What others' CPU hides of each wait of ours.
    fn back(&self, split: &Split) -> BTreeMap<Key, f64> {
        let busy = split.scale * ratio(self.expected(split), self.free(split));
        let busy = busy.clamp(0.0, 0.5);
        let waits = self.account.time.iter().filter(|t| is_wait(t.0));
        waits.map(|(key, ns)| (key.clone(), split.part * ns * busy / (1.0 - busy))).collect()
    }

    /// Time hidden by others' CPU while no call of ours was outstanding.
    fn hidden_beside_calls(&self, split: &Split) -> f64 {
        let own = self.cpu - self.expected(split);
        self.under_cpu.values().sum::<f64>() - own - self.over_calls(split.over)
    }

    /// Divides what CPU and run queue hide in F between us and others. What goes back to waits is
    /// added up in the shared errors.
    fn corrected(mut self, split: &Split, out: &mut Accounts) -> Account {
        let own = self.cpu - self.expected(split);
        let mut rest = self.under_cpu.values().sum::<f64>() - own;
        let back = self.back(split);
        let time = &mut self.account.time;
        for (key, back) in back {
            rest -= back;
            *time.entry(key.clone()).or_default() += back;
            *out.shared_error.entry(key).or_default() += back;
        }
        for (key, ns) in self.under_cpu {
            let Some(key) = key.filter(|key| !is_wait(key)) else { continue };
            let usual = split.over * self.calls.get(&key).copied().unwrap_or(0.0);
            let back = (ns - usual).max(0.0);
            rest -= back;
            *time.entry(key).or_default() += back;
        }
        *time.entry(cpu_key()).or_default() += own;
        let theirs = split.not_ours;
        for (key, ns) in self.under_runnable {
            *time.entry((Line::Runnable, String::new())).or_default() += ns * (1.0 - theirs);
            *time.entry(key.unwrap_or_else(queue_key)).or_default() += ns * theirs;
        }
        *time.entry(queue_key()).or_default() += rest;
        self.account
    }
}

fn is_wait(key: &Key) -> bool {
    matches!(key.0, Line::Unattributed | Line::Timer | Line::Lock | Line::Disk)
}

/// Sweeps one exchange, inside and outside F apart.
fn measure(k: &Knowledge, b: &Background, x: &Exchange, t: &Timeline) -> Raw {
    let (arrived, left) = Edges::of(k, x).inside();
    let others: Vec<Stretch> = b.foreign_within(arrived, left).collect();
    let mut raw = Raw { others: shares(&others, (arrived, left)), ..Raw::default() };
    // Up to the neighbouring requests of ours: whose CPU runs during those is not known, so of a
    // request that reaches into them only the share of its time up to there counts.
    let (before, after) = neighbours(k, x);
    raw.touching = shares(&others, (before.min(arrived), after.max(left)));
    let first = others.first().map_or(arrived, |f| f.0.max(before)).min(arrived);
    let last = others.iter().map(|f| f.1.min(after)).max().unwrap_or(left).max(left);
    for side in [(first, arrived), (left, last)] {
        raw.outside += background::serving_cpu(k, side);
        let apart: Vec<Stretch> =
            b.foreign_within(side.0, side.1).filter(|f| !others.contains(f)).collect();
        raw.apart += shares(&apart, side);
    }
    raw.account.latency = t.latency().0 as f64;
    let cuts: Vec<u64> = others.iter().flat_map(|f| [f.0.0, f.1.0]).collect();
    walk(t, &cuts, |start, end, active| {
        let ns = (end - start) as f64;
        let inside = others.iter().any(|f| f.0.0 <= start && end <= f.1.0);
        let key_of = |n: usize| (t.intervals[n].line, t.intervals[n].detail.clone());
        let best = active.first().map(|a| (a.0, key_of(a.2)));
        let call = active.iter().find(|a| a.0 == rank::CALL).map(|a| key_of(a.2));
        let on_cpu = active.iter().filter(|a| a.0 == rank::CPU).count() as f64;
        let ready = active.iter().filter(|a| a.0 == rank::RUNNABLE).count() as f64;
        let edge = best.as_ref().is_some_and(|b| b.0 == rank::EDGE);
        if !edge && inside {
            raw.cpu += on_cpu * ns;
            raw.runnable += ready * ns;
            if let Some(key) = &call {
                *raw.calls.entry(key.clone()).or_default() += ns;
            }
        } else if !edge && call.is_some() {
            raw.clear_calls += ns;
            raw.clear_over += if on_cpu > 0.0 { ns } else { 0.0 };
        }
        let under = || {
            let below = |a: &&(u8, _, usize)| a.0 >= rank::CALL && a.0 != rank::RUNNABLE;
            active.iter().find(below).map(|a| key_of(a.2))
        };
        let hidden = match best.as_ref().map(|b| b.0) {
            Some(rank::CPU) if inside => &mut raw.under_cpu,
            Some(rank::RUNNABLE) if inside => &mut raw.under_runnable,
            _ => {
                let key = best.map_or((Line::Unattributed, String::new()), |b| b.1);
                *raw.account.time.entry(key).or_default() += ns;
                return;
            }
        };
        *hidden.entry(under()).or_default() += ns;
    });
    raw
}

/// The end of our request before, and the start of the one after.
fn neighbours(k: &Knowledge, x: &Exchange) -> Stretch {
    let from = k.exchanges.partition_point(|o| o.phases.start < x.phases.start);
    let to = k.exchanges.partition_point(|o| o.phases.start <= x.phases.start);
    // Ends are not in order, but far more than this many are never in flight.
    let before = k.exchanges[..from].iter().rev().take(64).map(|o| o.phases.end).max();
    let after = k.exchanges.get(to).map_or(Nanos(u64::MAX), |o| o.phases.start);
    (before.unwrap_or_default(), after)
}

/// Requests within a stretch: the sum of each one's share that lies within.
fn shares(requests: &[Stretch], within: Stretch) -> f64 {
    let share = |f: &Stretch| {
        let part = f.1.min(within.1) - f.0.max(within.0);
        part.0 as f64 / ((f.1 - f.0).0 as f64).max(1.0)
    };
    requests.iter().map(share).sum()
}

impl Profile {
    fn learn(k: &Knowledge, b: &Background) -> Profile {
        let windows: Vec<Stretch> = background::all_idle(k);
        let (mut cpu, mut runnable, mut count) = (vec![], 0.0, vec![]);
        let mut p = Profile::default();
        for w in &windows {
            let requests: Vec<Stretch> = b.foreign_within(w.0, w.1).collect();
            let joined = background::union(&requests, *w);
            cpu.push(joined.iter().map(|s| background::serving_cpu(k, *s)).sum::<f64>());
            runnable += joined.iter().map(|s| serving_runnable(k, *s)).sum::<f64>();
            count.push(shares(&requests, *w));
        }
        let (used, requests) = (cpu.iter().sum::<f64>(), count.iter().sum::<f64>());
        let mean = ratio(used, requests);
        // Ratio estimator: its error is that of the residuals.
        let residuals: Vec<f64> = cpu.iter().zip(&count).map(|(c, n)| c - mean * n).collect();
        let i = stats::mean_interval(&residuals);
        let per_window = requests / windows.len().max(1) as f64;
        p.cpu = (mean, ratio((i.high - i.low) / 2.0, per_window));
        p.runnable = ratio(runnable, requests);
        p
    }
}

fn serving_runnable(k: &Knowledge, within: Stretch) -> f64 {
    let length = |a: Nanos, b: Nanos| (b.min(within.1) - a.max(within.0)).0 as f64;
    k.busy_within(within.0, within.1)
        .filter(|i| i.state == ThreadState::Runnable && k.serves(i.tid))
        .map(|i| length(i.start, i.end))
        .sum()
}
