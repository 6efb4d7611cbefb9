//! Means, ratios and distributions, with their uncertainty.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, StudentsT};
use statrs::function::erf::erfc;

/// A mean, with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Number of values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Sample standard deviation (divisor n − 1); `NaN` for fewer than two values.
    pub sd: f64,
    /// Standard error of the mean; `NaN` for fewer than two clusters.
    pub se: f64,
    /// Half width of the 95 % interval of the mean, from Student's t with clusters − 1 degrees of freedom.
    pub half_width: f64,
    /// Groups of values that depend on each other, such as prompts that give several; `n` where all are independent.
    #[serde(skip)]
    pub clusters: usize,
}

impl Estimate {
    /// Whether every value is zero, as the effects of what is active nowhere are.
    pub fn is_nothing(&self) -> bool {
        self.mean == 0.0 && (self.n < 2 || self.sd == 0.0)
    }

    /// The mean of independent `values`: its standard error is `sd / √n`.
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
        Estimate {
            n,
            mean,
            sd,
            se,
            half_width: student(n).map_or(f64::NAN, |t| t.inverse_cdf(0.975)) * se,
            clusters: n,
        }
    }

    /// The mean of `n` independent values of which the sum and the sum of squares are known.
    pub fn of_sums(n: usize, sum: f64, squares: f64) -> Estimate {
        let count = n as f64;
        let mean = sum / count;
        let sd = if n < 2 { f64::NAN } else { ((squares - sum * mean).max(0.0) / (count - 1.0)).sqrt() };
        let se = sd / count.sqrt();
        let half_width = student(n).map_or(f64::NAN, |t| t.inverse_cdf(0.975)) * se;
        Estimate { n, mean, sd, se, half_width, clusters: n }
    }

    /// The mean of values that come in clusters, as (cluster, value): values of one cluster may depend on each other in any
    /// way, clusters may not.
    ///
    /// The standard error is `√(G/(G − 1) · Σ_g (Σ_{i∈g} (vᵢ − mean))²) / n` over `G` clusters (Liang and Zeger 1986; with
    /// the correction for few clusters of Cameron and Miller 2015, II.B). With one value in each cluster it is that of
    /// [`Estimate::of`].
    pub fn clustered(values: &[(usize, f64)]) -> Estimate {
        let mut sorted = values.to_vec();
        sorted.sort_by_key(|(cluster, _)| *cluster);
        let independent = Estimate::of(values.iter().map(|(_, value)| *value));
        let by_cluster = || sorted.chunk_by(|a, b| a.0 == b.0);
        let clusters = by_cluster().count();
        if clusters == values.len() {
            return independent;
        }
        let Estimate { n, mean, sd, .. } = independent;
        let residuals = by_cluster().map(|cluster| cluster.iter().map(|(_, value)| value - mean).sum::<f64>());
        let squares: f64 = residuals.map(|sum| sum * sum).sum();
        let g = clusters as f64;
        let se = if clusters < 2 { f64::NAN } else { (g / (g - 1.0) * squares).sqrt() / n as f64 };
        let half_width = student(clusters).map_or(f64::NAN, |t| t.inverse_cdf(0.975)) * se;
        Estimate { n, mean, sd, se, half_width, clusters }
    }

    /// A statistic `value` of `n` values whose error is about a sum of independent parts, one for each of `clusters`, the squares
    /// of which add up to `squares`: `se = √(G/(G − 1) · squares)`, as [`Estimate::clustered`] has it for a mean, whose parts are
    /// `Σ_{i∈g} (vᵢ − mean) / n`. It has no standard deviation.
    pub fn of_parts(n: usize, value: f64, clusters: usize, squares: f64) -> Estimate {
        let g = clusters as f64;
        let se = if clusters < 2 { f64::NAN } else { (g / (g - 1.0) * squares.max(0.0)).sqrt() };
        let half_width = student(clusters).map_or(f64::NAN, |t| t.inverse_cdf(0.975)) * se;
        Estimate { n, mean: value, sd: f64::NAN, se, half_width, clusters }
    }

    /// Lower end of the 95 % interval.
    pub fn low(&self) -> f64 {
        self.mean - self.half_width
    }

    /// Upper end of the 95 % interval.
    pub fn high(&self) -> f64 {
        self.mean + self.half_width
    }

    /// Probability of a mean at least this far from zero if the true one is zero: Student's t with clusters − 1 degrees of
    /// freedom, both tails. 1 if every value is zero; `NaN` for fewer than two clusters.
    pub fn p(&self) -> f64 {
        match student(self.clusters) {
            Some(_) if self.mean == 0.0 && self.se == 0.0 => 1.0,
            Some(t) if !self.se.is_nan() => 2.0 * t.sf((self.mean / self.se).abs()),
            _ => f64::NAN,
        }
    }
}

/// Student's t for a mean over `n` independent values; `None` for fewer than two.
fn student(n: usize) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, n.checked_sub(1)? as f64).ok()
}

/// The false-discovery rate of each of many tests: the smallest rate at which it would still count as a discovery, given
/// all `p` values (Benjamini and Hochberg 1995). `NaN` where `p` is; those are not among the tests.
pub fn false_discovery_rates(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|i| !p[*i].is_nan()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let (tests, mut rates, mut least) = (order.len() as f64, vec![f64::NAN; p.len()], 1.0_f64);
    for (rank, test) in order.into_iter().enumerate().rev() {
        least = least.min(p[test] * tests / (rank + 1) as f64);
        rates[test] = least;
    }
    rates
}

/// Probability of a split of the signs of independent differences at least as uneven as `more` against `less`, if either sign is as
/// likely: the exact sign test, both tails; differences of zero are left out (Conover 1999, 3.4). 1 of none.
pub fn sign_test(more: usize, less: usize) -> f64 {
    let n = (more + less) as u64;
    let Ok(coin) = Binomial::new(0.5, n) else { return 1.0 };
    (2.0 * coin.cdf(more.min(less) as u64)).min(1.0)
}

/// Probability of paired differences whose positive ones outrank the negative ones, or the reverse, at least as much, if they are as likely
/// to be either: the signed-rank test, both tails, differences of zero left out (Wilcoxon 1945; Conover 1999, 5.7). Exact where no two of
/// up to 50 are equally large, else by the normal approximation with corrections for ties and continuity. And whether the positive ones
/// outrank the others. 1 of none.
pub fn signed_rank_test(differences: &[f64]) -> (f64, bool) {
    let differences: Vec<f64> = differences.iter().copied().filter(|x| *x != 0.0).collect();
    let of_magnitudes = ranks(&differences.iter().map(|x| x.abs()).collect::<Vec<_>>());
    let n = differences.len() as f64;
    let positive: f64 = of_magnitudes.iter().zip(&differences).filter(|(_, x)| **x > 0.0).map(|(rank, _)| rank).sum();
    let (middle, squares) = (n * (n + 1.0) / 4.0, of_magnitudes.iter().map(|rank| rank * rank).sum::<f64>());
    let has_ties = squares < n * (n + 1.0) * (2.0 * n + 1.0) / 6.0;
    let p = if differences.is_empty() {
        1.0
    } else if has_ties || differences.len() > 50 {
        // The sum of squared ranks is smaller where ranks are shared, by just what the correction for ties takes off.
        let z = ((positive - middle).abs() - 0.5).max(0.0) / (squares / 4.0).sqrt();
        erfc(z / std::f64::consts::SQRT_2)
    } else {
        let lower = positive.min(2.0 * middle - positive) as usize;
        (2.0 * rank_sums(differences.len())[..=lower].iter().sum::<f64>()).min(1.0)
    };
    (p, positive > middle)
}

/// Of `n` ranks each of which is taken or not, as a coin says, the probability of every sum.
fn rank_sums(n: usize) -> Vec<f64> {
    let mut probabilities = vec![0.0; n * (n + 1) / 2 + 1];
    probabilities[0] = 1.0;
    for rank in 1..=n {
        for sum in (0..probabilities.len()).rev() {
            let taken = if sum >= rank { probabilities[sum - rank] } else { 0.0 };
            probabilities[sum] = f64::midpoint(probabilities[sum], taken);
        }
    }
    probabilities
}

/// The rank of each value, from 1; those that are equal share the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let (mut ranks, mut first) = (vec![0.0; values.len()], 0);
    for same in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = first as f64 + (same.len() + 1) as f64 / 2.0;
        same.iter().for_each(|value| ranks[*value] = rank);
        first += same.len();
    }
    ranks
}

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
        let [q05, q25, median, q75, q95] = [0.05, 0.25, 0.5, 0.75, 0.95].map(|share| quantile(&values, share));
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

impl Ratio {
    /// `Σa / Σb`; one of each per prompt.
    pub fn of(a: &[f64], b: &[f64]) -> Ratio {
        let n = a.len();
        let (above, below): (f64, f64) = (a.iter().sum(), b.iter().sum());
        let value = above / below;
        let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - value * b).powi(2)).sum();
        let count = n as f64;
        let se = if n < 2 { f64::NAN } else { (squares / (count * (count - 1.0))).sqrt() / (below / count).abs() };
        Ratio { n, value, se, half_width: student(n).map_or(f64::NAN, |t| t.inverse_cdf(0.975)) * se }
    }
}

/// The 95 % interval of a number that is no mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    const NONE: Interval = Interval { low: f64::NAN, high: f64::NAN };

    /// Of a share: `hits` of `n` independent cases (Wilson 1927). `NaN` of none.
    pub fn of_share(hits: usize, n: usize) -> Interval {
        const Z: f64 = 1.959_963_984_540_054;
        if n == 0 {
            return Interval::NONE;
        }
        let (n, share) = (n as f64, hits as f64 / n as f64);
        let centre = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let reach = Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        // Exact at the ends, where the formula only rounds to them.
        let low = if hits == 0 { 0.0 } else { centre - reach };
        Interval { low, high: if share == 1.0 { 1.0 } else { centre + reach } }
    }

    /// Of a statistic of `n` prompts, by the percentile bootstrap (Efron 1979): prompts are drawn anew `RESAMPLES` times with
    /// replacement, always in the same way. `statistic` gets the numbers of those drawn; where it is not finite the draw does
    /// not count. `NaN` for fewer than two prompts, or if fewer than nine in ten draws count.
    pub fn bootstrap(n: usize, statistic: impl Fn(&[usize]) -> f64) -> Interval {
        if n < 2 {
            return Interval::NONE;
        }
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut drawn = vec![0; n];
        let mut values: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                drawn.fill_with(|| random.random_range(0..n));
                statistic(&drawn)
            })
            .filter(|value| value.is_finite())
            .collect();
        if values.len() * 10 < RESAMPLES * 9 {
            return Interval::NONE;
        }
        values.sort_by(f64::total_cmp);
        Interval { low: quantile(&values, 0.025), high: quantile(&values, 0.975) }
    }
}

/// Draws of a bootstrap.
const RESAMPLES: usize = 2000;

/// The quantile `share` of ascending `values`, between two of them by linear interpolation; `NaN` of none.
fn quantile(values: &[f64], share: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let below = place as usize;
    let above = values[(below + 1).min(last)];
    values[below] + (place - below as f64) * (above - values[below])
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_estimate_has_the_textbook_interval() {
        // Mean 3, sd √2.5, t(0.975, 4) = 2.776445; p of t = 3 / √0.5 by scipy.stats.ttest_1samp.
        let e = Estimate::of([1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((e.n, e.mean), (5, 3.0));
        assert!((e.sd - 2.5_f64.sqrt()).abs() < 1e-12);
        assert!((e.half_width - 2.776_445 * (0.5_f64).sqrt()).abs() < 1e-5);
        assert!((e.p() - 0.013_235_599_563_682_69).abs() < 1e-9, "{}", e.p());
        let sums = Estimate::of_sums(5, 15.0, 55.0);
        assert!((sums.se - e.se).abs() < 1e-12 && (sums.half_width - e.half_width).abs() < 1e-12 && sums.n == 5);
        assert!(Estimate::of([1.0]).half_width.is_nan() && Estimate::of([1.0]).p().is_nan());
        assert!(Estimate::of([]).mean.is_nan() && Estimate::of([]).p().is_nan());
        assert_eq!((Estimate::of([0.0; 3]).p(), Estimate::of([2.0; 3]).p()), (1.0, 0.0));
    }

    #[test]
    fn a_clustered_estimate_has_the_interval_of_statsmodels() {
        // statsmodels: OLS(v, ones).fit(cov_type="cluster", cov_kwds={"groups": g, "use_correction": True}, use_t=True).
        let values = [(0, 1.0), (2, 4.0), (0, 2.0), (1, 2.5), (2, 5.0), (2, 4.5), (3, 0.5), (1, 3.5)];
        let e = Estimate::clustered(&values);
        assert_eq!((e.n, e.clusters), (8, 4));
        assert!((e.se - 0.878_341_832_660).abs() < 1e-9, "{}", e.se);
        assert!(
            (e.low() - 0.079_724_280).abs() < 1e-6 && (e.high() - 5.670_275_720).abs() < 1e-6,
            "{} {}",
            e.low(),
            e.high()
        );
        assert!((e.p() - 0.046_663_825_283).abs() < 1e-9, "{}", e.p());
        assert!(Estimate::clustered(&[(7, 1.0), (7, 2.0)]).half_width.is_nan());
    }

    proptest! {
        #[test]
        fn one_value_in_each_cluster_is_an_independent_mean(values in prop::collection::vec(-10.0..10.0_f64, 2..20)) {
            let clustered: Vec<_> = values.iter().copied().enumerate().map(|(i, v)| (97 - i, v)).collect();
            prop_assert_eq!(Estimate::clustered(&clustered), Estimate::of(values));
        }

        #[test]
        fn a_clustered_mean_is_a_statistic_whose_parts_are_those_of_its_clusters(
            values in prop::collection::vec((0..5_usize, -10.0..10.0_f64), 6..30),
        ) {
            let of = Estimate::clustered(&values);
            let mut parts = [0.0; 5];
            values.iter().for_each(|(cluster, value)| parts[*cluster] += (value - of.mean) / of.n as f64);
            let squares = parts.iter().map(|part| part * part).sum();
            let again = Estimate::of_parts(of.n, of.mean, of.clusters, squares);
            prop_assert!((of.se - again.se).abs() < 1e-9 && (of.half_width - again.half_width).abs() < 1e-8 || of.se.is_nan());
        }

        #[test]
        fn every_value_given_twice_changes_no_interval(values in prop::collection::vec(-10.0..10.0_f64, 2..20)) {
            let twice: Vec<_> = values.iter().copied().enumerate().flat_map(|value| [value; 2]).collect();
            let (once, twice) = (Estimate::of(values), Estimate::clustered(&twice));
            prop_assert!((once.half_width - twice.half_width).abs() < 1e-9);
        }
    }

    #[test]
    fn false_discovery_rates_are_those_of_the_paper() {
        // Benjamini and Hochberg 1995, section 3.2: at a rate of 0.05 the first four are discoveries.
        let p = [
            1.0, 0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.324, 0.4262, 0.5719, 0.6528,
            0.759,
        ];
        let q = false_discovery_rates(&p);
        assert_eq!(q.iter().filter(|q| **q <= 0.05).count(), 4);
        let expected = [1.0, 0.0015, 0.003, 0.0095, 0.035_625, 0.0603, 0.063_857_143, 0.063_857_143, 0.0645];
        assert!(q.iter().zip(expected).all(|(q, e)| (q - e).abs() < 1e-8), "{q:?}");
        let q = false_discovery_rates(&[0.5, f64::NAN, 0.02]);
        assert!(q[1].is_nan() && (q[0], q[2]) == (0.5, 0.04));
    }

    #[test]
    fn a_sign_test_is_that_of_a_fair_coin() {
        // scipy.stats.binomtest(2, 12).pvalue, binomtest(0, 20).pvalue, binomtest(5, 10).pvalue.
        for (more, less, p) in [(10, 2, 0.038_574_218_75), (0, 20, 1.907_348_632_812_5e-6), (5, 5, 1.0), (0, 0, 1.0)] {
            assert!((sign_test(more, less) - p).abs() < 1e-12, "{more} against {less}: {}", sign_test(more, less));
            assert_eq!(sign_test(more, less), sign_test(less, more));
        }
    }

    #[test]
    fn a_signed_rank_test_is_that_of_scipy() {
        // scipy.stats.wilcoxon(x, zero_method="wilcox", correction=True, method="approx").pvalue, with ties and a zero.
        let x = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, -1.30, 0.5, 0.0, -0.5];
        let (p, positive) = signed_rank_test(&x);
        assert!((p - 0.018_235_186_714_504_36).abs() < 1e-9 && positive, "{p}");
        // The same without ties, method="exact".
        let (p, positive) = signed_rank_test(&[0.3, -0.1, 1.2, 0.7, 2.0, -0.5, 0.9, 1.1]);
        assert!((p - 0.054_687_5).abs() < 1e-12 && positive, "{p}");
        let falling: Vec<f64> = (1..33).map(|x| -f64::from(x)).collect();
        assert_eq!(signed_rank_test(&falling), (0.5_f64.powi(31), false));
        assert_eq!((signed_rank_test(&[0.0; 4]).0, signed_rank_test(&[]).0), (1.0, 1.0));
    }

    #[test]
    fn equal_values_share_their_rank() {
        assert_eq!(ranks(&[0.5, -1.0, 0.5, 3.0]), [2.5, 1.0, 2.5, 4.0]);
        assert!(ranks(&[]).is_empty());
    }

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
        let r = Ratio::of(&[1.0, 2.0, 3.0, 4.0, 5.0], &[1.0; 5]);
        assert_eq!((r.n, r.value), (5, 3.0));
        assert!((r.half_width - 2.776_445 * 0.5_f64.sqrt()).abs() < 1e-5);
        assert_eq!(Ratio::of(&[2.0, 3.0], &[2.0, 3.0]).half_width, 0.0);
        assert!(Ratio::of(&[1.0], &[2.0]).se.is_nan());
    }

    #[test]
    fn a_share_has_the_interval_of_wilson() {
        // statsmodels.stats.proportion.proportion_confint(7, 20, method="wilson").
        let Interval { low, high } = Interval::of_share(7, 20);
        assert!((low - 0.181_191_824_101_082).abs() < 1e-12 && (high - 0.567_145_723_314_764).abs() < 1e-12);
        assert_eq!((Interval::of_share(0, 9).low, Interval::of_share(9, 9).high), (0.0, 1.0));
        assert!(Interval::of_share(0, 0).low.is_nan());
    }

    #[test]
    fn a_bootstrapped_mean_has_about_the_interval_of_the_textbook_and_covers_as_often() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut covered = 0;
        for _ in 0..100 {
            let values: Vec<f64> = (0..80).map(|_| random.random::<f64>()).collect();
            let mean = |drawn: &[usize]| drawn.iter().map(|i| values[*i]).sum::<f64>() / drawn.len() as f64;
            let Interval { low, high } = Interval::bootstrap(values.len(), mean);
            let textbook = Estimate::of(values.iter().copied());
            assert!((high - low - 2.0 * textbook.half_width).abs() < 0.2 * (high - low));
            covered += i32::from(low < 0.5 && 0.5 < high);
        }
        assert!((88..=99).contains(&covered), "{covered}");
        assert!(Interval::bootstrap(1, |_| 1.0).low.is_nan() && Interval::bootstrap(9, |_| f64::NAN).low.is_nan());
        assert_eq!(Interval::bootstrap(9, |_| 2.0), Interval { low: 2.0, high: 2.0 });
    }

    #[test]
    fn correlation_is_one_with_itself_and_not_defined_for_constants() {
        let c = correlation(&[vec![1.0, 2.0, 3.0], vec![3.0, 2.0, 1.0], vec![1.0, 1.0, 1.0]]);
        assert!((c[0] - 1.0).abs() < 1e-12 && (c[1] + 1.0).abs() < 1e-12);
        assert!(c[2].is_nan());
    }
}
