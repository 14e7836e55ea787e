//! Solo is lock-in: windows in which exactly one request is driven alternate with idle windows, in
//! seeded random order; what differs between the two kinds is the request's. Schedule only: the
//! caller drives.

use evidence::Nanos;
use stats::{Rng, mean, mean_interval};

/// Driven and idle windows are balanced within blocks of this many pairs, so that a trend in the
/// background (a job that starts, a cache that fills) falls on both kinds alike.
const BLOCK_PAIRS: usize = 2;
/// Fewest requests before precision may stop, by the longest latency each holds for: the ledger
/// rests on the middle half of them, and a quick request costs little.
const REQUESTS_MIN: [(Nanos, usize); 3] =
    [(Nanos(200_000_000), 20), (Nanos(1_000_000_000), 10), (Nanos(u64::MAX), 5)];

/// Order of `2 × pairs` windows, `true` for driven: blocks of two pairs, each shuffled.
pub fn windows(seed: u64, pairs: usize) -> Vec<bool> {
    let mut rng = Rng::new(seed);
    let mut windows = Vec::with_capacity(pairs.saturating_mul(2));
    let mut left = pairs;
    while left > 0 {
        let block = left.min(BLOCK_PAIRS);
        let mut kinds: Vec<bool> = (0..2 * block).map(|i| i % 2 == 0).collect();
        rng.shuffle(&mut kinds);
        windows.extend(kinds);
        left -= block;
    }
    windows
}

/// Why a solo ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The mean is known well enough.
    Precise,
    /// Another request would not fit into the budget.
    Budget,
}

/// Whether these latencies are enough: the 90 % interval of their mean reaches at most `precision`
/// of it (0.05 for 5 %) to either side, with at least `needed` and 20 requests (10 when one takes
/// more than 200 ms, 5 when more than a second), or the next request would not fit into
/// `budget_left`. `None`: go on.
pub fn enough(
    latencies: &[Nanos],
    precision: f64,
    needed: usize,
    budget_left: Nanos,
) -> Option<Stop> {
    let values: Vec<f64> = latencies.iter().map(|l| l.as_ms()).collect();
    let mean = mean(&values);
    let fewest = REQUESTS_MIN.iter().find(|r| mean <= r.0.as_ms()).map_or(0, |r| r.1).max(needed);
    let interval = mean_interval(&values);
    if values.len() >= fewest && interval.high - mean <= precision * mean {
        return Some(Stop::Precise);
    }
    (budget_left == Nanos::ZERO || budget_left < Nanos::from_ms(mean)).then_some(Stop::Budget)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(ms: &[f64], budget_ms: f64, expected: Option<Stop>) {
        check_needed(ms, 0, budget_ms, expected);
    }

    fn check_needed(ms: &[f64], needed: usize, budget_ms: f64, expected: Option<Stop>) {
        let latencies: Vec<Nanos> = ms.iter().map(|ms| Nanos::from_ms(*ms)).collect();
        let stop = enough(&latencies, 0.05, needed, Nanos::from_ms(budget_ms));
        assert_eq!(stop, expected, "{ms:?}");
    }

    #[test]
    fn stop_rule() {
        check(&[], 1000.0, None);
        check(&[], 0.0, Some(Stop::Budget));
        check(&[10.0; 19], 1000.0, None);
        check(&[10.0; 20], 1000.0, Some(Stop::Precise));
        check(&[300.0; 9], 1000.0, None);
        check(&[300.0; 10], 1000.0, Some(Stop::Precise));
        check(&[3000.0; 4], 60_000.0, None);
        check(&[3000.0, 3010.0, 2990.0, 3005.0, 3001.0], 60_000.0, Some(Stop::Precise));
        check(&[3000.0; 4], 2000.0, Some(Stop::Budget));
        check(&[10.0, 50.0].repeat(10), 1000.0, None);
        check_needed(&[10.0; 58], 59, 1000.0, None);
        check_needed(&[10.0; 59], 59, 1000.0, Some(Stop::Precise));
        check_needed(&[10.0; 20], 59, 5.0, Some(Stop::Budget));
    }

    proptest! {
        #[test]
        fn blocks_are_balanced(seed: u64, pairs in 0usize..200) {
            let order = windows(seed, pairs);
            prop_assert_eq!(order.len(), 2 * pairs);
            prop_assert_eq!(&order, &windows(seed, pairs));
            for block in order.chunks(2 * BLOCK_PAIRS) {
                prop_assert_eq!(block.iter().filter(|d| **d).count() * 2, block.len());
            }
        }
    }

    #[test]
    fn order_depends_on_the_seed() {
        let orders: std::collections::BTreeSet<_> = (0..20).map(|s| windows(s, 10)).collect();
        assert!(orders.len() > 15);
    }
}
