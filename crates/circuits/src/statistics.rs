//! Means with their uncertainty.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean over independent values, with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Number of values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Sample standard deviation (divisor n − 1); `NaN` for fewer than two values.
    pub sd: f64,
    /// Standard error of the mean, `sd / √n`.
    pub se: f64,
    /// Half width of the 95 % interval of the mean, from Student's t with n − 1 degrees of freedom.
    pub half_width: f64,
}

impl Estimate {
    /// The mean of `values` and its uncertainty.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Estimate {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let sd = if n < 2 {
            f64::NAN
        } else {
            (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt()
        };
        let se = sd / (n as f64).sqrt();
        let t = StudentsT::new(0.0, 1.0, n.saturating_sub(1).max(1) as f64).map_or(f64::NAN, |t| t.inverse_cdf(0.975));
        Estimate { n, mean, sd, se, half_width: t * se }
    }

    /// Lower end of the 95 % interval.
    pub fn low(&self) -> f64 {
        self.mean - self.half_width
    }

    /// Upper end of the 95 % interval.
    pub fn high(&self) -> f64 {
        self.mean + self.half_width
    }
}

/// Pearson correlation of every pair of rows; `NaN` for a row that does not vary. Row-major, `[rows, rows]`.
pub fn correlation(rows: &[Vec<f64>]) -> Vec<f64> {
    let centred: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            row.iter().map(|x| x - mean).collect()
        })
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    centred
        .iter()
        .flat_map(|a| centred.iter().map(move |b| dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_has_the_textbook_interval() {
        // Mean 3, sd √2.5, t(0.975, 4) = 2.776445.
        let e = Estimate::of([1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((e.n, e.mean), (5, 3.0));
        assert!((e.sd - 2.5_f64.sqrt()).abs() < 1e-12);
        assert!((e.half_width - 2.776_445 * (0.5_f64).sqrt()).abs() < 1e-5);
        assert!(Estimate::of([1.0]).half_width.is_nan());
        assert!(Estimate::of([]).mean.is_nan());
    }

    #[test]
    fn correlation_is_one_with_itself_and_not_defined_for_constants() {
        let c = correlation(&[vec![1.0, 2.0, 3.0], vec![3.0, 2.0, 1.0], vec![1.0, 1.0, 1.0]]);
        assert!((c[0] - 1.0).abs() < 1e-12 && (c[1] + 1.0).abs() < 1e-12);
        assert!(c[2].is_nan());
    }
}
