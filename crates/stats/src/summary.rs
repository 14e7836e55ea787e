//! Means and intervals.

/// A two-sided interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// Arithmetic mean; 0 for an empty slice.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Unbiased sample variance; 0 below two values.
pub fn variance(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let m = mean(values);
    values.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

/// 90 % interval of the mean by Student's t. Below two values the interval is the value itself
/// (nothing is known about spread; the caller shows the count).
pub fn mean_interval(values: &[f64]) -> Interval {
    let m = mean(values);
    if values.len() < 2 {
        return Interval { low: m, high: m };
    }
    let half = t95(values.len() as f64 - 1.0) * (variance(values) / values.len() as f64).sqrt();
    Interval { low: m - half, high: m + half }
}

/// 90 % interval of `mean(a) − mean(b)` with unequal variances (Welch 1947).
pub fn difference_interval(a: &[f64], b: &[f64]) -> Interval {
    let d = mean(a) - mean(b);
    if a.len() < 2 || b.len() < 2 {
        return Interval { low: d, high: d };
    }
    let (va, vb) = (variance(a) / a.len() as f64, variance(b) / b.len() as f64);
    let se2 = va + vb;
    if se2 == 0.0 {
        return Interval { low: d, high: d };
    }
    let df =
        se2.powi(2) / (va.powi(2) / (a.len() as f64 - 1.0) + vb.powi(2) / (b.len() as f64 - 1.0));
    let half = t95(df) * se2.sqrt();
    Interval { low: d - half, high: d + half }
}

/// Least-squares slope of `y` on `x`; `None` when `x` does not vary.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let xs: Vec<f64> = points.iter().map(|p| p.0).collect();
    let ys: Vec<f64> = points.iter().map(|p| p.1).collect();
    let (mx, my) = (mean(&xs), mean(&ys));
    let sxx: f64 = xs.iter().map(|x| (x - mx).powi(2)).sum();
    let sxy: f64 = points.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
    (sxx > 0.0).then(|| sxy / sxx)
}

/// 95 % quantile of Student's t with `df` degrees of freedom (so ± covers 90 %), by the
/// Cornish–Fisher expansion in 1/df (Abramowitz & Stegun 26.7.5); exact table values below 3.
fn t95(df: f64) -> f64 {
    if df < 1.5 {
        return 6.3138;
    }
    if df < 2.5 {
        return 2.9200;
    }
    let x: f64 = 1.644_853_6;
    let g1 = (x.powi(3) + x) / 4.0;
    let g2 = (5.0 * x.powi(5) + 16.0 * x.powi(3) + 3.0 * x) / 96.0;
    let g3 = (3.0 * x.powi(7) + 19.0 * x.powi(5) + 17.0 * x.powi(3) - 15.0 * x) / 384.0;
    x + g1 / df + g2 / df.powi(2) + g3 / df.powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn t_oracle() {
        // Table values of t(0.95, df).
        for (df, t) in [(3.0, 2.353), (5.0, 2.015), (10.0, 1.812), (30.0, 1.697), (1e6, 1.645)] {
            assert!((t95(df) - t).abs() < 0.01, "df {df}: {} against {t}", t95(df));
        }
    }

    #[test]
    fn slope_oracle() {
        assert_eq!(slope(&[(1.0, 3.0), (2.0, 5.0), (3.0, 7.0)]), Some(2.0));
        assert_eq!(slope(&[(1.0, 3.0), (1.0, 5.0)]), None);
    }

    proptest! {
        #[test]
        fn interval_holds_the_mean(v in proptest::collection::vec(-1e6..1e6f64, 2..50)) {
            let i = mean_interval(&v);
            prop_assert!(i.low <= mean(&v) && mean(&v) <= i.high);
        }
    }
}
