//! Distributions and ratios.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// How values are spread. Those that are `NaN` are left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distribution {
    /// Number of values.
    pub n: usize,
    /// Mean; `NaN` of no value, as are the quantiles.
    pub mean: f64,
    /// Quantile 0.05, between two values by linear interpolation, as the others.
    pub q05: f64,
    /// Quantile 0.25.
    pub q25: f64,
    /// Quantile 0.5.
    pub median: f64,
    /// Quantile 0.75.
    pub q75: f64,
    /// Quantile 0.95.
    pub q95: f64,
}

impl Distribution {
    /// Of `values`.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Distribution {
        let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        values.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let Some(last) = n.checked_sub(1) else { return f64::NAN };
            let place = share * last as f64;
            let below = place as usize;
            let above = values[(below + 1).min(last)];
            values[below] + (place - below as f64) * (above - values[below])
        };
        let [q05, q25, median, q75, q95] = [0.05, 0.25, 0.5, 0.75, 0.95].map(quantile);
        Distribution { n, mean, q05, q25, median, q75, q95 }
    }
}

/// A ratio of two sums over prompts, with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Number of prompts.
    pub n: usize,
    /// The ratio; not finite if the sum below is 0.
    pub value: f64,
    /// Its standard error, prompts taken as independent, by the delta method: `√(Σ(aᵢ − r bᵢ)² / (n (n − 1))) / |b̄|`
    /// (Cochran, *Sampling Techniques*, 1977, 6.13); `NaN` for fewer than two prompts.
    pub se: f64,
    /// Half width of the 95 % interval, from Student's t with n − 1 degrees of freedom.
    pub half_width: f64,
}

/// `Σa / Σb`.
pub(super) fn ratio(a: &[f64], b: &[f64]) -> Ratio {
    let n = a.len();
    let (above, below): (f64, f64) = (a.iter().sum(), b.iter().sum());
    let value = above / below;
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - value * b).powi(2)).sum();
    let count = n as f64;
    let se = if n < 2 { f64::NAN } else { (squares / (count * (count - 1.0))).sqrt() / (below / count).abs() };
    let t = StudentsT::new(0.0, 1.0, n.saturating_sub(1).max(1) as f64).map_or(f64::NAN, |t| t.inverse_cdf(0.975));
    Ratio { n, value, se, half_width: t * se }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        let d = Distribution::of([4.0, 1.0, f64::NAN, 2.0, 3.0, 5.0]);
        assert_eq!((d.n, d.mean, d.q25, d.median), (5, 3.0, 2.0, 3.0));
        assert!((d.q05 - 1.2).abs() < 1e-12 && (d.q95 - 4.8).abs() < 1e-12);
        assert!(Distribution::of([]).median.is_nan());
    }

    #[test]
    fn a_ratio_of_constants_is_a_mean() {
        // With b = 1 this is the mean of 1 to 5 and its Student interval: sd √2.5, t(0.975, 4) = 2.776445.
        let r = ratio(&[1.0, 2.0, 3.0, 4.0, 5.0], &[1.0; 5]);
        assert_eq!((r.n, r.value), (5, 3.0));
        assert!((r.half_width - 2.776_445 * 0.5_f64.sqrt()).abs() < 1e-5);
        assert_eq!(ratio(&[2.0, 3.0], &[2.0, 3.0]).half_width, 0.0);
        assert!(ratio(&[1.0], &[2.0]).se.is_nan());
    }
}
