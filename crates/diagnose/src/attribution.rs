//! Which calls and threads within an exchange are ours, when other clients' requests overlap it.
//!
//! Threads: one that never runs while only others are served serves us alone. Calls: one issued
//! outside others' requests, by a thread of ours, or with a text only we use, is ours. For the
//! rest, each request in flight is followed through the sequence of calls such a request makes
//! when alone, and a call goes to the request that was due to make it.

use crate::Knowledge;
use crate::background::{self, Background, Fingerprint, Stretch};
use crate::timeline::Edges;
use evidence::{Exchange, Nanos, Operation};
use std::collections::{BTreeMap, BTreeSet};

/// Requests of others that must have been seen alone before a thread is held to be ours only.
const SEEN: usize = 5;
/// Share of the CPU outside others' requests that makes a thread one of ours.
const MAIN_SHARE: f64 = 0.1;
/// A packet is stamped inside the send system call; a clock step more is allowed.
const SLACK: Nanos = Nanos(30_000);
/// Sequences of other clients' requests that are told apart; rarer ones are not followed.
const SEQUENCES: usize = 8;
/// Rounds in which the usual gaps of our sequence are learnt anew from all windows.
const ROUNDS: usize = 4;
/// A call cannot be early but for jitter, while anything can delay it.
const EARLY: f64 = 3.0;
/// Added to the distance of a call whose predecessor was not seen, nanoseconds.
const UNANCHORED: f64 = 1e6;

/// What is ours within one exchange.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ours {
    /// Indices of calls that are others'.
    pub others: BTreeSet<usize>,
    /// Serving threads that serve us alone; empty when threads are shared with others.
    pub threads: BTreeSet<i32>,
}

impl Ours {
    /// Whether a thread's intervals belong to the exchange.
    pub(crate) fn has_thread(&self, k: &Knowledge, tid: i32) -> bool {
        self.threads.is_empty() || self.threads.contains(&tid) || !k.serves(tid)
    }
}

/// Attributes the calls and threads of each exchange.
pub(crate) fn of(k: &Knowledge, b: &Background, exchanges: &[&Exchange]) -> Vec<Ours> {
    if b.foreign.is_empty() {
        return vec![Ours::default(); exchanges.len()];
    }
    let idle = Idle::learn(k, b);
    let scopes: Vec<Scope> = exchanges.iter().map(|x| Scope::of(k, b, x, &idle)).collect();
    let followed = follow_all(k, &scopes, &idle);
    scopes
        .into_iter()
        .zip(followed)
        .map(|(s, others)| Ours { others, threads: s.threads })
        .collect()
}

/// One call of a sequence: what it is and when it is due after the call it waits for.
#[derive(Clone, Debug, PartialEq)]
struct Slot {
    fingerprint: Fingerprint,
    /// The earlier slot whose end it waits for; `None`: the request's arrival.
    after: Option<usize>,
    /// Nanoseconds from that end to its start.
    gap: f64,
}

/// What idle windows say of other clients' requests.
#[derive(Debug, Default)]
struct Idle {
    threads: BTreeSet<i32>,
    fingerprints: BTreeSet<Fingerprint>,
    sequences: Vec<Vec<Slot>>,
    requests: usize,
}

impl Idle {
    fn learn(k: &Knowledge, b: &Background) -> Idle {
        let mut idle = Idle::default();
        let mut found: BTreeMap<Vec<Fingerprint>, Vec<Vec<Slot>>> = BTreeMap::new();
        for w in background::all_idle(k) {
            idle.threads
                .extend(k.busy_within(w.0, w.1).filter(|i| i.state.is_running()).map(|i| i.tid));
            let requests: Vec<Stretch> = b.foreign_within(w.0, w.1).collect();
            let whole = requests.iter().filter(|f| f.0 >= w.0 && f.1 <= w.1);
            for f in whole {
                idle.requests += 1;
                let calls: Vec<usize> = usable(k, b, f.0, f.1).collect();
                idle.fingerprints.extend(calls.iter().map(|n| print(k, *n)));
                let alone = requests.iter().filter(|o| o.0 < f.1 && o.1 > f.0).count() == 1;
                if alone {
                    let slots = slots(k, f.0, &calls);
                    let kind = slots.iter().map(|s| s.fingerprint.clone()).collect();
                    found.entry(kind).or_default().push(slots);
                }
            }
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.0.cmp(&b.0)));
        found.truncate(SEQUENCES);
        idle.sequences = found.into_iter().map(|(_, like)| typical(&like)).collect();
        idle
    }
}

/// Calls that may be someone's request's, in order of start.
fn usable(k: &Knowledge, b: &Background, from: Nanos, to: Nanos) -> impl Iterator<Item = usize> {
    k.call_range(from, to)
        .filter(|n| k.calls[*n].operation != Operation::Push && !b.is_noise(&k.calls[*n]))
}

fn print(k: &Knowledge, n: usize) -> Fingerprint {
    background::fingerprint(&k.calls[n])
}

/// The sequence that calls of one request make.
fn slots(k: &Knowledge, arrived: Nanos, calls: &[usize]) -> Vec<Slot> {
    let slot = |at: usize| {
        let start = k.calls[calls[at]].start;
        let before = (0..at).filter(|b| k.calls[calls[*b]].end <= start);
        let after = before.max_by_key(|b| k.calls[calls[*b]].end);
        let ready = after.map_or(arrived, |b| k.calls[calls[b]].end);
        Slot { fingerprint: print(k, calls[at]), after, gap: (start - ready).0 as f64 }
    };
    (0..calls.len()).map(slot).collect()
}

/// The usual gaps of like sequences.
fn typical(like: &[Vec<Slot>]) -> Vec<Slot> {
    let mut out = like[0].clone();
    for (n, slot) in out.iter_mut().enumerate() {
        let gaps: Vec<f64> = like.iter().map(|s| s[n].gap).collect();
        slot.gap = stats::median(&gaps).unwrap_or(slot.gap);
    }
    out
}

/// One exchange, what overlaps it, and what is certain of it.
#[derive(Debug)]
struct Scope {
    arrived: Nanos,
    left: Nanos,
    requests: Vec<Stretch>,
    threads: BTreeSet<i32>,
    /// Calls to be attributed, from the start of the first request in flight.
    calls: Vec<usize>,
    /// Calls whose owner is certain: ours or not.
    certain: BTreeMap<usize, bool>,
}

impl Scope {
    fn of(k: &Knowledge, b: &Background, x: &Exchange, idle: &Idle) -> Scope {
        let (arrived, left) = Edges::of(k, x).inside();
        let requests: Vec<Stretch> = b.foreign_within(arrived, left).collect();
        let from = requests.first().map_or(arrived, |f| f.0.min(arrived));
        let threads = own_threads(k, (arrived, left), &requests, idle);
        let calls: Vec<usize> = usable(k, b, from, left).collect();
        let mut scope = Scope { arrived, left, requests, threads, calls, certain: BTreeMap::new() };
        scope.certain =
            scope.calls.iter().filter_map(|n| Some((*n, scope.owner(k, *n, idle)?))).collect();
        scope
    }

    /// Whether a call is certainly ours (true), certainly not, or neither.
    fn owner(&self, k: &Knowledge, n: usize, idle: &Idle) -> Option<bool> {
        let start = k.calls[n].start;
        if start < self.arrived {
            return Some(false);
        }
        let overlapped = self.requests.iter().any(|f| f.0 <= start && start <= f.1);
        if !overlapped || !idle.fingerprints.contains(&print(k, n)) {
            return Some(true);
        }
        if self.threads.is_empty() {
            return None;
        }
        let at = |i: &&evidence::ThreadInterval| {
            i.state.is_running() && k.serves(i.tid) && i.start <= start && start <= i.end + SLACK
        };
        let running: BTreeSet<i32> =
            k.busy_within(start - SLACK, start + Nanos(1)).filter(at).map(|i| i.tid).collect();
        let ours = running.iter().filter(|t| self.threads.contains(t)).count();
        match (ours, running.len()) {
            (0, 1..) => Some(false),
            (o, all) if o > 0 && o == all => Some(true),
            _ => None,
        }
    }
}

/// Threads that run in this exchange outside others' requests, and never in idle windows.
fn own_threads(k: &Knowledge, within: Stretch, requests: &[Stretch], idle: &Idle) -> BTreeSet<i32> {
    if idle.requests < SEEN {
        return BTreeSet::new();
    }
    let joined = background::union(requests, within);
    let mut outside: BTreeMap<i32, f64> = BTreeMap::new();
    let running = |i: &&evidence::ThreadInterval| i.state.is_running() && k.serves(i.tid);
    for i in k.busy_within(within.0, within.1).filter(running) {
        let (start, end) = (i.start.max(within.0), i.end.min(within.1));
        let hidden: Nanos = joined.iter().map(|f| f.1.min(end) - f.0.max(start)).sum();
        *outside.entry(i.tid).or_default() += ((end - start) - hidden).0 as f64;
    }
    let total: f64 = outside.values().sum();
    let ours: BTreeMap<i32, f64> = outside
        .into_iter()
        .filter(|(t, ns)| !idle.threads.contains(t) && *ns > MAIN_SHARE * total)
        .collect();
    // Most of the work outside must be theirs, else we are served by shared threads.
    let enough = ours.values().sum::<f64>() > 0.5 * total;
    if enough { ours.into_keys().collect() } else { BTreeSet::new() }
}

/// Others' calls of each scope, by following the requests in flight.
fn follow_all(k: &Knowledge, scopes: &[Scope], idle: &Idle) -> Vec<BTreeSet<usize>> {
    let mut order: Vec<usize> = (0..scopes.len()).collect();
    order.sort_by_key(|n| (scopes[*n].requests.len(), *n));
    // The first sequence comes from the window with the fewest others, followed by theirs alone.
    let Some(first) = order.first().map(|n| &scopes[*n]) else { return vec![] };
    let mut sequence = slots(k, first.arrived, &Follow::new(first, &[], idle).run(k, first).ours);
    let mut out = vec![];
    for round in 0..ROUNDS {
        let matched: Vec<Matched> =
            scopes.iter().map(|s| Follow::new(s, &sequence, idle).run(k, s)).collect();
        if round == 0 {
            // A better one: the least disturbed window with the usual number of calls.
            let counts: Vec<f64> = matched.iter().map(|m| m.ours.len() as f64).collect();
            let usual = stats::median(&counts).unwrap_or(0.0);
            let fits = |n: &&usize| (counts[**n] - usual).abs() < 1.0;
            if let Some(n) = order.iter().find(fits) {
                sequence = slots(k, scopes[*n].arrived, &matched[*n].ours);
            }
        } else {
            relearn(&mut sequence, &matched);
        }
        out = matched.into_iter().map(|m| m.others).collect();
    }
    out
}

/// The usual gaps, from all windows.
fn relearn(sequence: &mut [Slot], matched: &[Matched]) {
    let mut gaps: Vec<Vec<f64>> = vec![vec![]; sequence.len()];
    for (slot, gap) in matched.iter().flat_map(|m| &m.gaps) {
        gaps[*slot].push(*gap);
    }
    for (slot, gaps) in sequence.iter_mut().zip(&gaps) {
        slot.gap = stats::median(gaps).unwrap_or(slot.gap);
    }
}

/// One request being followed.
#[derive(Clone, Debug)]
struct Walker<'a> {
    arrived: Nanos,
    left: Nanos,
    /// Sequences it may be making.
    sequences: Vec<&'a [Slot]>,
    /// Slots matched, with the end of their calls, for each sequence.
    ends: Vec<BTreeMap<usize, Nanos>>,
    last: Nanos,
}

impl<'a> Walker<'a> {
    fn new(within: Stretch, sequences: Vec<&'a [Slot]>) -> Walker<'a> {
        let ends = vec![BTreeMap::new(); sequences.len()];
        Walker { arrived: within.0, left: within.1, sequences, ends, last: within.0 }
    }

    /// The slot of a sequence a call would fill, and how far it is from when it was due.
    fn fit(&self, which: usize, fingerprint: &Fingerprint, start: Nanos) -> Option<(usize, f64)> {
        let ends = &self.ends[which];
        let open = |n: &usize, s: &Slot| s.fingerprint == *fingerprint && !ends.contains_key(n);
        let slots = self.sequences[which];
        let (n, slot) = slots.iter().enumerate().find(|(n, s)| open(n, s))?;
        let (ready, extra) = match slot.after {
            None => (self.arrived, 0.0),
            Some(a) => ends.get(&a).map_or((self.last, UNANCHORED), |end| (*end, 0.0)),
        };
        if start < ready {
            return None;
        }
        let off = (start - ready).0 as f64 - slot.gap;
        Some((n, extra + if off < 0.0 { -off * EARLY } else { off }))
    }

    /// The distance of a call from the best of its sequences.
    fn distance(&self, fingerprint: &Fingerprint, start: Nanos) -> Option<f64> {
        if start < self.arrived || start > self.left {
            return None;
        }
        let fits = (0..self.sequences.len()).filter_map(|w| self.fit(w, fingerprint, start));
        fits.map(|f| f.1).min_by(f64::total_cmp)
    }

    /// Takes a call; sequences it does not fit are given up while one that does is left.
    fn take(&mut self, fingerprint: &Fingerprint, start: Nanos, end: Nanos) -> Option<usize> {
        let fits: Vec<Option<(usize, f64)>> =
            (0..self.sequences.len()).map(|w| self.fit(w, fingerprint, start)).collect();
        self.last = self.last.max(end);
        let first = fits.iter().flatten().next().map(|f| f.0);
        if first.is_some() {
            let mut fits = fits.into_iter();
            let (mut sequences, mut ends) = (vec![], vec![]);
            for (s, mut e) in self.sequences.drain(..).zip(self.ends.drain(..)) {
                if let Some(Some((slot, _))) = fits.next() {
                    e.insert(slot, end);
                    sequences.push(s);
                    ends.push(e);
                }
            }
            (self.sequences, self.ends) = (sequences, ends);
        }
        first
    }
}

/// What following one scope's requests gave.
#[derive(Debug, Default)]
struct Matched {
    ours: Vec<usize>,
    others: BTreeSet<usize>,
    /// Slot of our sequence and the gap before its call.
    gaps: Vec<(usize, f64)>,
}

/// The requests in flight of one scope.
struct Follow<'a> {
    us: Walker<'a>,
    them: Vec<Walker<'a>>,
}

impl<'a> Follow<'a> {
    fn new(scope: &Scope, sequence: &'a [Slot], idle: &'a Idle) -> Follow<'a> {
        let theirs: Vec<&[Slot]> = idle.sequences.iter().map(Vec::as_slice).collect();
        Follow {
            us: Walker::new((scope.arrived, scope.left), vec![sequence]),
            them: scope.requests.iter().map(|f| Walker::new(*f, theirs.clone())).collect(),
        }
    }

    fn run(mut self, k: &Knowledge, scope: &Scope) -> Matched {
        let mut out = Matched::default();
        let unknown = self.us.sequences.first().is_none_or(|s| s.is_empty());
        for n in &scope.calls {
            let (call, fingerprint) = (&k.calls[*n], print(k, *n));
            let them = self.nearest(&fingerprint, call.start);
            let us = self.us.distance(&fingerprint, call.start);
            let ours = scope.certain.get(n).copied().unwrap_or(match (us, them) {
                (Some(us), Some((_, them))) => us <= them,
                (Some(_), None) => true,
                // Our sequence is not known yet: what others are due to make is theirs.
                (None, Some((_, them))) => unknown && them > UNANCHORED,
                (None, None) => true,
            });
            if ours {
                let ready = self.ready(&fingerprint, call.start);
                if let (Some(slot), Some(ready)) =
                    (self.us.take(&fingerprint, call.start, call.end), ready)
                {
                    out.gaps.push((slot, (call.start - ready).0 as f64));
                }
                out.ours.push(*n);
            } else {
                if let Some((which, _)) = them {
                    self.them[which].take(&fingerprint, call.start, call.end);
                }
                out.others.insert(*n);
            }
        }
        out
    }

    /// When our next call of the kind became possible, if the call before it was seen.
    fn ready(&self, fingerprint: &Fingerprint, start: Nanos) -> Option<Nanos> {
        let (slot, _) = self.us.fit(0, fingerprint, start)?;
        match self.us.sequences.first()?[slot].after {
            None => Some(self.us.arrived),
            Some(a) => self.us.ends[0].get(&a).copied(),
        }
    }

    fn nearest(&self, fingerprint: &Fingerprint, start: Nanos) -> Option<(usize, f64)> {
        let each = self.them.iter().enumerate();
        each.filter_map(|(n, w)| Some((n, w.distance(fingerprint, start)?)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }
}
