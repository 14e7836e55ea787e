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
use crate::background::{self, Background, Fingerprint, Stretch};
use crate::timeline::{self, Edges, rank};
use evidence::{Exchange, Line, Nanos, ThreadState, Timeline};
use std::collections::{BTreeMap, BTreeSet};

/// Most calls of one kind kept as the pattern of another client's request.
const PATTERN: usize = 256;

/// What one request of another client does, as seen in idle windows.
#[derive(Clone, Debug, Default)]
struct Profile {
    /// CPU of serving threads a request, nanoseconds, and the half width of its 90 % interval.
    cpu: (f64, f64),
    /// Their run-queue time.
    runnable: f64,
    /// Calls a request by fingerprint, and when each begins after the request arrived.
    calls: BTreeMap<Fingerprint, (f64, Vec<f64>)>,
}

/// One exchange, measured but not yet corrected.
#[derive(Clone, Debug, Default)]
struct Raw {
    account: Account,
    /// Other requests in flight, in requests: shares of each that lie within.
    others: f64,
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
    let mut owed = BTreeMap::new();
    let mut raws = vec![];
    for x in exchanges {
        let others = profile.calls_of_others(k, b, x, &mut owed);
        let keep = |n: usize, c: &evidence::Call| !b.is_noise(c) && !others.contains(&n);
        let t = timeline::of_exchange(k, x, &keep);
        let mut raw = measure(k, b, x, &t);
        out.switches |= t.intervals.iter().any(|i| i.tid.is_some());
        raw.account.calls = account::call_sums(k, &t, out);
        raws.push(raw);
    }
    let sum = |f: fn(&Raw) -> f64| raws.iter().map(f).sum::<f64>();
    let over = ratio(sum(|r| r.clear_over), sum(|r| r.clear_calls));
    let expected = profile.runnable * sum(|r| r.others);
    let not_ours = ratio(expected, sum(|r| r.runnable)).min(1.0);
    let error = profile.cpu.1 * sum(|r| r.others) / raws.len().max(1) as f64;
    for key in [cpu_key(), queue_key()] {
        out.shared_error.insert(key, error);
    }
    out.list = raws.into_iter().map(|r| r.corrected(&profile, over, not_ours)).collect();
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
    /// Divides what CPU and run queue hide in F between us and others.
    fn corrected(mut self, profile: &Profile, over: f64, not_ours: f64) -> Account {
        let expected = profile.cpu.0 * self.others;
        let own = self.cpu - expected;
        let hidden: f64 = self.under_cpu.values().sum();
        let mut rest = hidden - own;
        let time = &mut self.account.time;
        // Others' work falls evenly over our waits, and cannot run where our own thread does.
        let total_cpu: f64 = time.iter().filter(|t| t.0.0 == Line::Cpu).map(|t| *t.1).sum();
        let free = self.account.latency - total_cpu - own;
        let busy = ratio(expected, free).clamp(0.0, 0.5);
        let waits: Vec<Key> = time.keys().filter(|key| is_wait(key)).cloned().collect();
        for key in waits {
            let back = time[&key] * busy / (1.0 - busy);
            rest -= back;
            *time.entry(key).or_default() += back;
        }
        for (key, ns) in self.under_cpu {
            let Some(key) = key.filter(|key| !is_wait(key)) else { continue };
            let back = (ns - over * self.calls.get(&key).copied().unwrap_or(0.0)).max(0.0);
            rest -= back;
            *time.entry(key).or_default() += back;
        }
        *time.entry(cpu_key()).or_default() += own;
        for (key, ns) in self.under_runnable {
            *time.entry((Line::Runnable, String::new())).or_default() += ns * (1.0 - not_ours);
            *time.entry(key.unwrap_or_else(queue_key)).or_default() += ns * not_ours;
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
        let mut seen = 0.0;
        let mut starts: BTreeMap<Fingerprint, Vec<Vec<f64>>> = BTreeMap::new();
        for w in &windows {
            let requests: Vec<Stretch> = b.foreign_within(w.0, w.1).collect();
            let joined = background::union(&requests, *w);
            cpu.push(joined.iter().map(|s| background::serving_cpu(k, *s)).sum::<f64>());
            runnable += joined.iter().map(|s| serving_runnable(k, *s)).sum::<f64>();
            count.push(shares(&requests, *w));
            for f in requests.iter().filter(|f| f.0 >= w.0 && f.1 <= w.1) {
                seen += 1.0;
                pattern(k, *f, &mut starts);
            }
        }
        let (used, requests) = (cpu.iter().sum::<f64>(), count.iter().sum::<f64>());
        let mean = ratio(used, requests);
        // Ratio estimator: its error is that of the residuals.
        let residuals: Vec<f64> = cpu.iter().zip(&count).map(|(c, n)| c - mean * n).collect();
        let i = stats::mean_interval(&residuals);
        let per_window = requests / windows.len().max(1) as f64;
        p.cpu = (mean, ratio((i.high - i.low) / 2.0, per_window));
        p.runnable = ratio(runnable, requests);
        for (fingerprint, ordinals) in starts {
            let calls: usize = ordinals.iter().map(Vec::len).sum();
            let offsets = ordinals.iter().map(|v| stats::mean(v)).collect();
            p.calls.insert(fingerprint, (ratio(calls as f64, seen), offsets));
        }
        p
    }

    /// Calls within the exchange that others' requests are expected to have made: of each kind as
    /// many as idle windows show a request, those nearest the usual instants. Fractions are owed
    /// to the next request.
    fn calls_of_others(
        &self,
        k: &Knowledge,
        b: &Background,
        x: &Exchange,
        owed: &mut BTreeMap<Fingerprint, f64>,
    ) -> BTreeSet<usize> {
        let (arrived, left) = Edges::of(k, x).inside();
        let mut taken = BTreeSet::new();
        for f in b.foreign_within(arrived, left) {
            let (from, to) = (f.0.max(arrived), f.1.min(left));
            let share = shares(&[f], (arrived, left));
            for (fingerprint, (calls, offsets)) in &self.calls {
                let debt = owed.entry(fingerprint.clone()).or_default();
                *debt += calls * share;
                let mut candidates: Vec<usize> = k
                    .call_range(from, to)
                    .filter(|n| !taken.contains(n) && is(k, *n, fingerprint))
                    .collect();
                // The usual instants that lie within, were all of it as usual.
                let instants = offsets.iter().map(|o| f.0.0 as f64 + o);
                let mut instants = instants.filter(|at| *at >= from.0 as f64);
                while *debt >= 0.5 && !candidates.is_empty() {
                    let at = instants.next().unwrap_or(to.0 as f64);
                    let gap = |n: &usize| (k.calls[*n].start.0 as f64 - at).abs();
                    let best = (0..candidates.len())
                        .min_by(|a, b| gap(&candidates[*a]).total_cmp(&gap(&candidates[*b])));
                    taken.extend(best.map(|n| candidates.swap_remove(n)));
                    *debt -= 1.0;
                }
            }
        }
        taken
    }
}

fn is(k: &Knowledge, n: usize, fingerprint: &Fingerprint) -> bool {
    let c = &k.calls[n];
    c.peer == fingerprint.0 && c.text == fingerprint.1
}

/// Adds when the calls of one request of another client begin.
fn pattern(k: &Knowledge, f: Stretch, starts: &mut BTreeMap<Fingerprint, Vec<Vec<f64>>>) {
    let mut ordinal: BTreeMap<Fingerprint, usize> = BTreeMap::new();
    for c in k.calls_within(f.0, f.1) {
        let fingerprint = background::fingerprint(c);
        let n = ordinal.entry(fingerprint.clone()).or_default();
        let all = starts.entry(fingerprint).or_default();
        if all.len() <= *n && all.len() < PATTERN {
            all.push(vec![]);
        }
        if let Some(all) = all.get_mut(*n) {
            all.push((c.start - f.0).0 as f64);
        }
        *n += 1;
    }
}

fn serving_runnable(k: &Knowledge, within: Stretch) -> f64 {
    let length = |a: Nanos, b: Nanos| (b.min(within.1) - a.max(within.0)).0 as f64;
    k.busy_within(within.0, within.1)
        .filter(|i| i.state == ThreadState::Runnable && k.serves(i.tid))
        .map(|i| length(i.start, i.end))
        .sum()
}
