//! The circuit breaker: says stop when the target suffers. Pure; the caller feeds and asks it.

use evidence::Nanos;
use stats::median;
use std::collections::VecDeque;

/// Outcomes looked back at.
const LOOK_BACK: usize = 20;
/// Latencies that fix the start when no baseline is given.
const START_COUNT: usize = 10;
/// Answers whose median is compared with the start,
const ANSWERS: usize = 10;
/// and the fewest of them.
const ANSWERS_MIN: usize = 5;
/// Below this their median is never called far beyond the start: a busy machine alone makes 20 ms
/// of 1 ms.
const ANSWER_FLOOR: Nanos = Nanos(250_000_000);
/// Below this neither is the age of requests in flight: they may be few, and one pause hits all.
const AGE_FLOOR: Nanos = Nanos(1_000_000_000);

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// Share of the last 20 outcomes that may fail.
    pub error_share: f64,
    /// How many times its start the latency may reach.
    pub latency_factor: f64,
    /// Longest latency, whatever the start.
    pub latency_limit: Nanos,
    /// Latency at the start (a solo's median); measured from the first 10 answers when absent.
    pub baseline: Option<Nanos>,
}

impl Breaker {
    /// Failures only, for requests whose latencies have nothing to do with each other.
    pub fn errors_only() -> Breaker {
        let latency_limit = Nanos(u64::MAX);
        Breaker { latency_factor: f64::INFINITY, latency_limit, ..Breaker::standard(None) }
    }

    /// The rule of the house: more than half of the last 20 fail, latency beyond 20 × the start,
    /// or beyond 30 s.
    pub fn standard(baseline: Option<Nanos>) -> Breaker {
        let latency_limit = Nanos(30_000_000_000);
        Breaker { error_share: 0.5, latency_factor: 20.0, latency_limit, baseline }
    }
}

/// Why it stopped.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Trip {
    /// Too many failures.
    #[error("{}{of} requests failed", share(*failed, *of))]
    Errors {
        /// Failures.
        failed: u32,
        /// Outcomes looked at.
        of: u32,
    },
    /// Latency far beyond the start.
    #[error(
        "latency reached {:.0} ms, far beyond the {:.1} ms at the start",
        now.as_ms(),
        start.as_ms()
    )]
    Latency {
        /// Median of the last answers and of those still waited for.
        now: Nanos,
        /// At the start.
        start: Nanos,
    },
    /// An answer took too long.
    #[error("a request took {:.1} s", latency.as_ms() / 1e3)]
    TooSlow {
        /// Its latency so far.
        latency: Nanos,
    },
}

/// `all of the last `, or how many of them.
fn share(failed: u32, of: u32) -> String {
    if failed == of { "all of the last ".into() } else { format!("{failed} of the last ") }
}

/// A breaker at work.
#[derive(Clone, Debug)]
pub struct BreakerState {
    rule: Breaker,
    baseline: Option<Nanos>,
    starts: Vec<f64>,
    failed: VecDeque<bool>,
    latencies: VecDeque<f64>,
    trip: Option<Trip>,
}

impl BreakerState {
    /// Closed: traffic flows.
    pub fn new(rule: Breaker) -> BreakerState {
        BreakerState {
            rule,
            baseline: rule.baseline,
            starts: Vec::new(),
            failed: VecDeque::new(),
            latencies: VecDeque::new(),
            trip: None,
        }
    }

    /// Why it opened, once it has. It stays open.
    pub fn trip(&self) -> Option<Trip> {
        self.trip
    }

    /// Takes one finished exchange; whether traffic may go on.
    pub fn finished(&mut self, latency: Nanos, failed: bool) -> bool {
        push(&mut self.failed, failed);
        if !failed {
            push(&mut self.latencies, latency.0 as f64);
            if self.baseline.is_none() {
                self.starts.push(latency.0 as f64);
                if self.starts.len() == START_COUNT {
                    self.baseline = median(&self.starts).map(|m| Nanos(m as u64));
                }
            }
        }
        let failures = self.failed.iter().filter(|f| **f).count();
        if failures as f64 > self.rule.error_share * LOOK_BACK as f64 {
            self.open(Trip::Errors { failed: failures as u32, of: self.failed.len() as u32 });
        }
        if latency > self.rule.latency_limit {
            self.open(Trip::TooSlow { latency });
        }
        self.compare_answers();
        self.trip.is_none()
    }

    /// Takes the ages of the requests in flight, at least each quarter of a second, so that a
    /// target that answers nothing at all is noticed; whether traffic may go on.
    pub fn waiting(&mut self, ages: &[Nanos]) -> bool {
        if let Some(latency) = ages.iter().max().filter(|age| **age > self.rule.latency_limit) {
            self.open(Trip::TooSlow { latency: *latency });
        }
        self.compare_ages(ages);
        self.trip.is_none()
    }

    /// The latency that is too far beyond the start, once that is known.
    fn allowed(&self, floor: Nanos) -> Option<(Nanos, Nanos)> {
        let start = self.baseline?;
        let allowed = Nanos((start.0 as f64 * self.rule.latency_factor) as u64).max(floor);
        Some((start, allowed))
    }

    fn compare_answers(&mut self) {
        let Some((start, allowed)) = self.allowed(ANSWER_FLOOR) else { return };
        let recent: Vec<f64> = self.latencies.iter().rev().take(ANSWERS).copied().collect();
        let now = median(&recent).map(|m| Nanos(m as u64)).unwrap_or_default();
        if recent.len() >= ANSWERS_MIN && now > allowed {
            self.open(Trip::Latency { now, start });
        }
    }

    /// An age is a latency that can only grow: most of them too long is latency too long.
    fn compare_ages(&mut self, ages: &[Nanos]) {
        let Some((start, allowed)) = self.allowed(AGE_FLOOR) else { return };
        let late = ages.iter().filter(|age| **age > allowed);
        if 2 * late.count() > ages.len() {
            let values: Vec<f64> = ages.iter().map(|age| age.0 as f64).collect();
            let now = median(&values).map(|m| Nanos(m as u64)).unwrap_or_default();
            self.open(Trip::Latency { now, start });
        }
    }

    fn open(&mut self, trip: Trip) {
        self.trip.get_or_insert(trip);
    }
}

fn push<T>(recent: &mut VecDeque<T>, value: T) {
    if recent.len() == LOOK_BACK {
        recent.pop_front();
    }
    recent.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(baseline_ms: f64, outcomes: &[(f64, bool)]) -> BreakerState {
        let mut state = BreakerState::new(Breaker::standard(Some(Nanos::from_ms(baseline_ms))));
        for (ms, failed) in outcomes {
            state.finished(Nanos::from_ms(*ms), *failed);
        }
        state
    }

    fn check(baseline_ms: f64, outcomes: &[(f64, bool)], expected: Option<Trip>) {
        assert_eq!(fed(baseline_ms, outcomes).trip(), expected, "{outcomes:?}");
    }

    #[test]
    fn finished() {
        let (good, bad, slow) = ((10.0, false), (10.0, true), (300.0, false));
        check(10.0, &[good; 100], None);
        check(10.0, &[bad; 10], None);
        check(10.0, &[bad; 11], Some(Trip::Errors { failed: 11, of: 11 }));
        let all = Trip::Errors { failed: 11, of: 11 }.to_string();
        assert_eq!(all, "all of the last 11 requests failed");
        let some = Trip::Errors { failed: 11, of: 14 }.to_string();
        assert_eq!(some, "11 of the last 14 requests failed");
        check(10.0, &[[bad, good]; 50].concat(), None);
        check(10.0, &[[good; 50].as_slice(), &[slow; 5]].concat(), None);
        let trip = Trip::Latency { now: Nanos::from_ms(300.0), start: Nanos::from_ms(10.0) };
        check(10.0, &[[good; 4].as_slice(), &[slow; 6]].concat(), Some(trip));
        // A hiccup on a fast service is no reason.
        check(0.1, &[(50.0, false); 20], None);
        let trip = Trip::TooSlow { latency: Nanos::from_ms(30_001.0) };
        check(3000.0, &[(30_001.0, false)], Some(trip));
    }

    #[test]
    fn errors_only() {
        let mut state = BreakerState::new(Breaker::errors_only());
        for ms in [[1.0; 20], [60_000.0; 20]].concat() {
            assert!(state.finished(Nanos::from_ms(ms), false));
        }
        let bad = (0..11).map(|_| state.finished(Nanos::from_ms(1.0), true)).last();
        assert_eq!((bad, state.trip()), (Some(false), Some(Trip::Errors { failed: 11, of: 20 })));
    }

    #[test]
    fn waiting() {
        let mut state = fed(10.0, &[]);
        let ages = |ms: &[f64]| ms.iter().map(|ms| Nanos::from_ms(*ms)).collect::<Vec<_>>();
        assert!(state.waiting(&[]));
        assert!(state.waiting(&ages(&[500.0, 500.0])));
        assert!(state.waiting(&ages(&[1500.0, 5.0])));
        assert!(!state.waiting(&ages(&[1500.0, 1500.0, 5.0])));
        assert!(!state.waiting(&[]), "it stays open");
    }

    #[test]
    fn start_is_measured_without_a_baseline() {
        let mut state = BreakerState::new(Breaker::standard(None));
        for _ in 0..START_COUNT {
            assert!(state.finished(Nanos::from_ms(100.0), false));
        }
        let slow = (0..10).map(|_| state.finished(Nanos::from_ms(2500.0), false)).last();
        assert_eq!(slow, Some(false));
    }
}
