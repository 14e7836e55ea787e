//! Which requests of an arm are averaged.

use evidence::Band;

/// Two kinds of requests differ at least by this much, nanoseconds: less nobody waits for.
const APART_NS: f64 = 1e6;

/// Latencies within a band, both ends included, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    low: f64,
    high: f64,
}

impl Limits {
    pub(super) fn holds(&self, latency: f64) -> bool {
        self.low <= latency && latency <= self.high
    }
}

/// The limits of a band among these latencies; two kinds of them are told apart if `kinds`. Every
/// band but [`Band::Other`] holds at least one latency, when there are any.
pub(super) fn limits(latencies: &[f64], band: Band, kinds: bool) -> Limits {
    let all = Limits { low: f64::NEG_INFINITY, high: f64::INFINITY };
    let (frequent, other) = match kinds.then(|| two_kinds(latencies)).flatten() {
        Some((frequent, other)) => (frequent, Some(other)),
        None => (all, None),
    };
    match band {
        Band::All => all,
        Band::Typical => {
            let values: Vec<f64> =
                latencies.iter().copied().filter(|l| frequent.holds(*l)).collect();
            middle(&values)
        }
        Band::Other => other.unwrap_or(Limits { low: f64::INFINITY, high: f64::NEG_INFINITY }),
        Band::Tail => {
            let count = (latencies.len() as f64 * 0.05).ceil().max(1.0) as usize;
            let mut sorted = latencies.to_vec();
            sorted.sort_unstable_by(f64::total_cmp);
            let low = sorted.len().checked_sub(count).map_or(all.low, |at| sorted[at]);
            Limits { low, ..all }
        }
    }
}

/// The more and the less frequent kind.
fn two_kinds(latencies: &[f64]) -> Option<(Limits, Limits)> {
    let at = stats::split(latencies)?;
    let (low, high): (Vec<f64>, Vec<f64>) = latencies.iter().partition(|l| **l <= at);
    if stats::mean(&high) - stats::mean(&low) < APART_NS {
        return None;
    }
    let below = Limits { low: f64::NEG_INFINITY, high: at };
    let above = Limits { low: at, high: f64::INFINITY };
    Some(if low.len() >= high.len() { (below, above) } else { (above, below) })
}

/// p25 to p75; of two values, between which none lies, the nearest to the median.
fn middle(values: &[f64]) -> Limits {
    let q = |p| stats::quantile(values, p).unwrap_or(0.0);
    let quarters = Limits { low: q(0.25), high: q(0.75) };
    if values.iter().any(|l| quarters.holds(*l)) {
        return quarters;
    }
    let off = |l: f64| (l - q(0.5)).abs();
    let nearest = values.iter().map(|l| off(*l)).fold(f64::MAX, f64::min);
    let near = || values.iter().copied().filter(|l| off(*l) <= nearest);
    Limits { low: near().fold(f64::MAX, f64::min), high: near().fold(f64::MIN, f64::max) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e6;

    fn check(latencies_ms: &[f64], band: Band, kinds: bool, want: &[f64]) {
        let latencies: Vec<f64> = latencies_ms.iter().map(|l| l * MS).collect();
        let limits = limits(&latencies, band, kinds);
        let inside = latencies.iter().filter(|l| limits.holds(**l));
        let held: Vec<f64> = inside.map(|l| l / MS).collect();
        assert_eq!(held, want, "{latencies_ms:?} {band:?}");
    }

    #[test]
    fn bands_hold_what_they_say() {
        let one = [3.0, 1.0, 2.0, 4.0, 5.0];
        check(&one, Band::All, true, &one);
        check(&one, Band::Typical, true, &[3.0, 2.0, 4.0]);
        check(&one, Band::Tail, true, &[5.0]);
        check(&one, Band::Other, true, &[]);
        check(&[1.0, 2.0], Band::Typical, true, &[1.0, 2.0]);
        check(&[7.0], Band::Typical, true, &[7.0]);
        check(&[], Band::Tail, true, &[]);
        let two = [1.0, 41.0, 1.1, 40.0, 1.2, 42.0, 1.3, 43.0, 1.4];
        check(&two, Band::Typical, true, &[1.1, 1.2, 1.3]);
        check(&two, Band::Other, true, &[41.0, 40.0, 42.0, 43.0]);
        check(&two, Band::Typical, false, &[41.0, 40.0, 1.2, 1.3, 1.4]);
        // Microseconds apart: nobody waits for the difference.
        let near = [0.1, 0.3, 0.1, 0.3, 0.1, 0.3, 0.1, 0.3, 0.1];
        check(&near, Band::Other, true, &[]);
    }
}
