//! Quantiles, and the rule that a percentile which was not reached is not given.

/// The `q`-quantile by linear interpolation of order statistics (Hyndman & Fan 1996, type 7).
/// `None` for an empty slice. Values need not be sorted; NaN is not allowed.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    let at = q.clamp(0.0, 1.0) * (v.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    Some(v[low] + (v[high] - v[low]) * (at - low as f64))
}

/// The median; `None` for an empty slice.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The `q`-quantile only when the sample is large enough that its maximum bounds it with 95 %
/// confidence: `1 − q^n ≥ 0.95`, so p95 needs 59 values and p99 299 (Wilks 1941).
pub fn quantile_bounded(values: &[f64], q: f64) -> Option<f64> {
    if 1.0 - q.powi(values.len() as i32) < 0.95 {
        return None;
    }
    quantile(values, q)
}

/// Values that [`quantile_bounded`] needs for the `q`-quantile, `0 < q < 1`.
pub fn quantile_needs(q: f64) -> usize {
    (0.05_f64.ln() / q.ln()).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_needs_enough_samples() {
        let v: Vec<f64> = (0..58).map(f64::from).collect();
        assert_eq!(quantile_bounded(&v, 0.95), None);
        let v: Vec<f64> = (0..59).map(f64::from).collect();
        assert!(quantile_bounded(&v, 0.95).is_some());
        let v: Vec<f64> = (0..299).map(f64::from).collect();
        assert!(quantile_bounded(&v, 0.99).is_some());
        assert_eq!([0.95, 0.99].map(quantile_needs), [59, 299]);
    }

    #[test]
    fn type_7_oracle() {
        // R: quantile(c(1, 2, 3, 4, 10), c(.25, .5, .9)) = 2, 3, 7.6
        let v = [10.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(quantile(&v, 0.25), Some(2.0));
        assert_eq!(median(&v), Some(3.0));
        assert!((quantile(&v, 0.9).unwrap() - 7.6).abs() < 1e-12);
    }
}
