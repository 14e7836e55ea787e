//! Two kinds of values under one name.

use crate::{mean, quantile};

/// Fewest values of a kind, and the fewest as a share of all: below it they are outliers.
const FEWEST: (usize, f64) = (4, 0.15);
/// How many times as large the next value is on the other side of the gap, at least.
const RATIO: f64 = 1.5;
/// How many times as wide as either kind's middle half the gap is, at least.
const WIDTH: f64 = 2.0;

/// Where positive values fall into two kinds with a gap between them: the gap's middle. `None`
/// when they are of one kind, or too few to tell. The widest gap that leaves enough values on
/// both sides is judged; a heavy tail has no such gap. O(n log n).
pub fn split(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    let fewest = FEWEST.0.max((n as f64 * FEWEST.1).ceil() as usize);
    let gap = |at: &usize| sorted[*at] - sorted[*at - 1];
    let at = (fewest..(n + 1).saturating_sub(fewest))
        .max_by(|a, b| gap(a).total_cmp(&gap(b)).then(b.cmp(a)))?;
    let (low, high) = sorted.split_at(at);
    let spread = |side: &[f64]| {
        Some(quantile(side, 0.75)? - quantile(side, 0.25)?).filter(|s| s.is_finite())
    };
    let widest = spread(low)?.max(spread(high)?);
    let (below, above) = (sorted[at - 1], sorted[at]);
    let parted = above >= RATIO * below && gap(&at) > WIDTH * widest;
    parted.then(|| mean(&[below, above]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use proptest::prelude::*;

    fn check(values: &[f64], between: Option<(f64, f64)>) {
        let found = split(values);
        let fits = match (found, between) {
            (None, None) => true,
            (Some(at), Some((low, high))) => low < at && at < high,
            _ => false,
        };
        assert!(fits, "{values:?}: {found:?}, wanted within {between:?}");
    }

    #[test]
    fn kinds_are_told_apart() {
        check(&[], None);
        check(&[1.0, 1.1, 0.9, 1.0, 40.0, 41.0, 42.0, 40.5], Some((1.1, 40.0)));
        // Three slow ones of eight are too few to be a kind.
        check(&[1.0, 1.1, 0.9, 1.0, 1.0, 41.0, 42.0, 40.5], None);
        check(&[1.0; 20], None);
        let even: Vec<f64> = (1..40).map(f64::from).collect();
        check(&even, None);
        let near: Vec<f64> = (0..20).map(|n| if n % 2 == 0 { 10.0 } else { 12.0 }).collect();
        check(&near, None);
        check(&[0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0], Some((0.0, 5.0)));
    }

    proptest! {
        /// A heavy tail (log-normal, sigma 0.5) hardly ever looks like two kinds; two narrow ones
        /// far apart always do.
        #[test]
        fn tails_are_no_kind(seed in any::<u64>()) {
            let mut rng = Rng::new(seed);
            let mut normal = || (0..12).map(|_| rng.unit()).sum::<f64>() - 6.0;
            let two: Vec<f64> = (0..40)
                .map(|n| (1.0 + 0.05 * normal()) * if n % 3 == 0 { 41.0 } else { 1.0 })
                .collect();
            prop_assert!(split(&two).is_some_and(|at| (2.0..35.0).contains(&at)));
            let mut tail = || (0..40).map(|_| (0.5 * normal()).exp()).collect::<Vec<f64>>();
            let tails = (0..50).filter(|_| split(&tail()).is_some()).count();
            prop_assert!(tails <= 2, "{tails} of 50");
        }
    }
}
