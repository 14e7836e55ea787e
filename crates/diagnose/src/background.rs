//! Lock-in: what happens in windows in which nothing of ours is driven. Its rates are what driven
//! windows would hold anyway, so effect = driven − idle. Requests of other clients are seen as
//! packets at the service's own port from client ports that are not ours.

use crate::Knowledge;
use evidence::{Arm, Call, Nanos, Operation, ProcessRole, Window};
use std::collections::{BTreeMap, BTreeSet};

/// A half-open stretch of time.
pub type Stretch = (Nanos, Nanos);

/// What names a call's kind: peer and fingerprint.
pub type Fingerprint = (String, String);

/// What idle windows say.
#[derive(Clone, Debug, Default)]
pub struct Background {
    /// Idle windows looked at, lossy ones left out.
    pub windows: Vec<Stretch>,
    /// Calls per nanosecond by fingerprint.
    pub rates: BTreeMap<Fingerprint, f64>,
    /// Fingerprints of which driven windows hold no more than idle ones lead to expect: not ours.
    pub noise: BTreeSet<Fingerprint>,
    /// Other clients' requests, request's last packet to answer's last packet, in order.
    pub foreign: Vec<Stretch>,
}

/// Fingerprint of a call.
pub fn fingerprint(call: &Call) -> Fingerprint {
    (call.peer.clone(), call.text.clone())
}

impl Background {
    /// Learns from the idle windows of the endpoint, or of the whole run when it has none.
    pub fn learn(k: &Knowledge, endpoint: &str, arm: &Arm) -> Background {
        let mut b = Background {
            windows: idle_windows(k, endpoint).map(|w| (w.start, w.end)).collect(),
            foreign: foreign(k),
            ..Background::default()
        };
        let mut idle: BTreeMap<Fingerprint, u32> = BTreeMap::new();
        for w in &b.windows {
            for c in k.calls_within(w.0, w.1).iter().filter(|c| c.operation != Operation::Push) {
                *idle.entry(fingerprint(c)).or_default() += 1;
            }
        }
        let time = b.idle_ns();
        if time > 0.0 {
            b.rates = idle.iter().map(|(f, n)| (f.clone(), f64::from(*n) / time)).collect();
        }
        b.noise = b.find_noise(k, endpoint, arm, &idle);
        b
    }

    /// Nanoseconds of idle windows.
    pub fn idle_ns(&self) -> f64 {
        self.windows.iter().map(|w| (w.1 - w.0).0 as f64).sum()
    }

    /// A fingerprint seen at least twice while idle, at rate r, of which the driven windows hold
    /// at most r × window + 3 √(r × window) + 1 (three standard deviations of a Poisson count).
    fn find_noise(
        &self,
        k: &Knowledge,
        endpoint: &str,
        arm: &Arm,
        idle: &BTreeMap<Fingerprint, u32>,
    ) -> BTreeSet<Fingerprint> {
        let mut driven: BTreeMap<Fingerprint, u32> = BTreeMap::new();
        let mut time = 0.0;
        for x in k.exchanges_of(endpoint, arm) {
            time += x.latency().0 as f64;
            for c in k.calls_within(x.phases.start, x.phases.end) {
                *driven.entry(fingerprint(c)).or_default() += 1;
            }
        }
        idle.iter()
            .filter(|(f, n)| {
                let expected = self.rates.get(*f).copied().unwrap_or(0.0) * time;
                let seen = f64::from(driven.get(*f).copied().unwrap_or(0));
                **n >= 2 && seen <= expected + 3.0 * expected.sqrt() + 1.0
            })
            .map(|(f, _)| f.clone())
            .collect()
    }

    /// Whether a call is nobody's we drive.
    pub fn is_noise(&self, call: &Call) -> bool {
        !self.noise.is_empty() && self.noise.contains(&fingerprint(call))
    }

    /// Foreign requests in flight at some instant of `[start, end]`.
    pub fn foreign_within(&self, start: Nanos, end: Nanos) -> impl Iterator<Item = Stretch> {
        // Few enough to look at each; they may be long, so order by start finds no lower end.
        let to = self.foreign.partition_point(|f| f.0 < end);
        self.foreign[..to].iter().copied().filter(move |f| f.1 > start)
    }
}

/// Idle windows paired with the endpoint, or all of the run when there are none.
pub fn idle_windows<'a>(
    k: &'a Knowledge,
    endpoint: &'a str,
) -> impl Iterator<Item = &'a Window> + use<'a> {
    let idle = |w: &&Window| !w.driven && w.end > w.start && !k.lossy_windows.contains(&w.id);
    let own = k.windows.values().filter(idle).any(|w| w.endpoint == endpoint);
    k.windows.values().filter(idle).filter(move |w| !own || w.endpoint == endpoint)
}

/// All idle windows of the run without losses: other clients do not know our endpoints.
pub(crate) fn all_idle(k: &Knowledge) -> Vec<Stretch> {
    let idle = |w: &&Window| !w.driven && w.end > w.start && !k.lossy_windows.contains(&w.id);
    k.windows.values().filter(idle).map(|w| (w.start, w.end)).collect()
}

/// The union of stretches within another, disjoint and in order. They come in order of start.
pub(crate) fn union(stretches: &[Stretch], within: Stretch) -> Vec<Stretch> {
    let mut out: Vec<Stretch> = vec![];
    for s in stretches {
        let (start, end) = (s.0.max(within.0), s.1.min(within.1));
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ if start < end => out.push((start, end)),
            _ => {}
        }
    }
    out
}

/// Requests at the service's own port that are not ours.
fn foreign(k: &Knowledge) -> Vec<Stretch> {
    let mut ours: BTreeMap<u16, Vec<Stretch>> = BTreeMap::new();
    for x in &k.exchanges {
        ours.entry(x.client_port).or_default().push((x.phases.start, x.phases.end));
    }
    let is_ours = |port: u16, at: Nanos| {
        ours.get(&port).is_some_and(|v| {
            // In order of start; one connection carries one exchange at a time in HTTP/1.1.
            let after = v.partition_point(|s| s.0 <= at);
            v[..after].iter().rev().take(64).any(|s| at <= s.1)
        })
    };
    // A service that calls another port of its own is no client of itself.
    let calls: BTreeSet<u16> = k.calls.iter().map(|c| c.client_port).filter(|p| *p != 0).collect();
    k.edges
        .iter()
        .filter(|e| e.response_end > e.request_end && !is_ours(e.client_port, e.request_end))
        .filter(|e| !calls.contains(&e.client_port))
        .map(|e| (e.request_end, e.response_end))
        .collect()
}

/// Rate of the service's CPU time while nothing is driven, from counters: nanoseconds of CPU and
/// of run-queue per nanosecond. `None` without counters of idle windows.
pub fn counter_rates(k: &Knowledge, endpoint: &str, role: ProcessRole) -> Option<(f64, f64)> {
    let (mut cpu, mut runnable, mut time) = (0.0, 0.0, 0.0);
    for w in idle_windows(k, endpoint) {
        if let Some(c) = k.counters_of(w.id, role) {
            cpu += c.cpu.0 as f64;
            runnable += c.runnable.0 as f64;
            time += (w.end - w.start).0 as f64;
        }
    }
    (time > 0.0).then(|| (cpu / time, runnable / time))
}

/// CPU of serving threads per nanosecond in each idle window, while no other client's request is
/// in flight: the service's own background work.
pub(crate) fn quiet_cpu_rates(k: &Knowledge, b: &Background) -> Vec<f64> {
    let rate = |w: &Stretch| {
        let others: Vec<Stretch> = b.foreign_within(w.0, w.1).collect();
        let busy = union(&others, *w);
        let time = (w.1 - w.0).0 as f64 - busy.iter().map(|s| (s.1 - s.0).0 as f64).sum::<f64>();
        let theirs: f64 = busy.iter().map(|s| serving_cpu(k, *s)).sum();
        (time > 0.0).then(|| (serving_cpu(k, *w) - theirs).max(0.0) / time)
    };
    b.windows.iter().filter_map(rate).collect()
}

/// Time serving threads spend on the CPU within a stretch, summed over threads, nanoseconds.
pub fn serving_cpu(k: &Knowledge, within: Stretch) -> f64 {
    k.busy_within(within.0, within.1)
        .filter(|i| i.state.is_running() && k.serves(i.tid))
        .map(|i| (i.end.min(within.1) - i.start.max(within.0)).0 as f64)
        .sum()
}
