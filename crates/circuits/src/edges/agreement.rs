//! How far the rankings agree.

use std::collections::{BTreeMap, HashSet};

use directrix_corpus::Watch;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{Between, Edge, Gradient, Measure, Path, Ranked, Ranking, Sample, VerifiedEdge, Verify, Weights};
use crate::Result;
use crate::statistics::{Interval, ranks};

/// Pairs that are compared one by one, at most: a random sample of those with a causal effect.
const COMPARED: usize = 1 << 16;
/// Best edges of each ranking that are compared with the best by causal effect.
const BEST: [usize; 3] = [10, 100, 1000];
/// Best edges of each ranking that are verified.
const VERIFIED: usize = 100;

/// How far the rankings agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// One row for each measure but the causal one, then that.
    pub rows: Vec<AgreementRow>,
    /// The pairs that were compared one by one.
    pub compared: Vec<Compared>,
    /// How many pairs have a causal effect; the compared ones are drawn from these.
    pub pairs: u64,
    /// The best edges of each ranking, verified.
    pub verified: Vec<VerifiedEdge>,
    /// The best thousand of each ranking.
    rankings: BTreeMap<Measure, Vec<Ranked>>,
}

impl Agreement {
    /// The best thousand edges by a measure, best first.
    pub fn best(&self, measure: Measure) -> &[Ranked] {
        &self.rankings[&measure]
    }
}

/// How far a ranking agrees with that by causal effect.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgreementRow {
    /// The measure.
    pub measure: &'static str,
    /// Pairs that were compared: those with both values.
    pub n: usize,
    /// Spearman's correlation of the strengths over these pairs.
    pub rank_correlation: f64,
    /// Lower end of its 95 % interval, by bootstrap over first directions.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Share of its best 10 that are among the best 10 by causal effect.
    pub precision_at_10: f64,
    /// The same of 100.
    pub precision_at_100: f64,
    /// The same of 1,000.
    pub precision_at_1000: f64,
    /// Share of its best 100 that are verified.
    pub verified_of_100: f64,
    /// Lower end of its 95 % interval (Wilson).
    pub verified_low: f64,
    /// Upper end.
    pub verified_high: f64,
}

impl AgreementRow {
    /// What its columns are, for captions.
    pub fn sentence(pairs: u64) -> String {
        format!(
            "How far rankings of edges agree with that by causal effect. Rank correlation: Spearman's, of strengths, over n pairs drawn from the {pairs} that have a causal effect, with its 95 % interval by bootstrap over first directions. Precision at k: share of the best k by the measure that are among the best k by causal effect. Verified of 100: share of its best 100 that are verified on other prompts, with its 95 % interval."
        )
    }
}

/// The measures that are compared: all but integrated attribution, which takes many times as long as the others together.
const MEASURES: [Measure; 8] = [
    Measure::Cosine,
    Measure::VirtualWeight,
    Measure::MutualInformation,
    Measure::Conditional,
    Measure::Correlation,
    Measure::Attribution,
    Measure::FrozenAttribution,
    Measure::Causal,
];

/// A pair with the values that measures give it; `NaN` where one gives none.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// The pair.
    pub edge: Edge,
    /// In the order of `MEASURES`.
    values: [f64; MEASURES.len()],
}

impl Compared {
    /// Its value by a measure; `NaN` if it has none.
    pub fn of(&self, measure: Measure) -> f64 {
        column(measure).map_or(f64::NAN, |column| self.values[column])
    }
}

impl Between<'_> {
    /// Ranks all pairs by every measure, verifies the best of each, and compares the rankings with that by causal effect: by rank correlation
    /// over a random sample of the pairs that have a causal effect, and by how many of the best they share.
    ///
    /// # Errors
    /// As [`causal`](Between::causal), [`attribution`](Between::attribution), [`coactivation`](Between::coactivation) and [`Weights::new`].
    pub fn agreement(&self, sample: Sample, verify: Verify, watch: &Watch) -> Result<Agreement> {
        let most = BEST[BEST.len() - 1];
        let mut rankings: BTreeMap<Measure, Vec<Ranked>> = BTreeMap::new();
        let mut drawn = Drawn::new();
        let mut ranking = Ranking::new(most);
        self.causal(sample, watch, |ranked| {
            drawn.show(ranked);
            ranking.show(ranked);
        })?;
        let pairs = ranking.shown();
        rankings.insert(Measure::Causal, ranking.finish());
        let mut compared = drawn.finish();

        for gradient in [Gradient::Whole, Gradient::Frozen] {
            let mut ranking = Ranking::new(most);
            self.attribution(gradient, sample, watch, |ranked| {
                compared.see(ranked);
                ranking.show(ranked);
            })?;
            rankings.insert(gradient.measure(), ranking.finish());
        }
        let mut by = [Measure::MutualInformation, Measure::Conditional, Measure::Correlation]
            .map(|measure| (measure, Ranking::new(most)));
        self.coactivation(watch, |measured| {
            for ((_, ranking), ranked) in by.iter_mut().zip(measured) {
                compared.see(ranked);
                ranking.show(ranked);
            }
        })?;
        rankings.extend(by.map(|(measure, ranking)| (measure, ranking.finish())));
        for measure in [Measure::Cosine, Measure::VirtualWeight] {
            let weights = Weights::new(self.model, [self.first, self.second], Path::Residual, measure)?;
            rankings.insert(measure, weights.strongest(most, watch)?);
            for at in 0..compared.pairs.len() {
                let edge = compared.pairs[at].edge;
                compared.see(Ranked { edge, measure, value: weights.of(edge), n: None, half_width: None });
            }
        }

        let mut best: Vec<Ranked> = Vec::new();
        for measure in MEASURES {
            best.extend(rankings[&measure].iter().take(VERIFIED));
        }
        let verified = self.verify(&best, verify, watch)?;
        let rows = MEASURES.map(|measure| {
            let own: Vec<&VerifiedEdge> = verified.iter().filter(|row| row.ranked.measure == measure).collect();
            let hits = own.iter().filter(|row| row.verified).count();
            let Interval { low: verified_low, high: verified_high } = Interval::of_share(hits, own.len());
            let [precision_at_10, precision_at_100, precision_at_1000] =
                BEST.map(|k| precision(&rankings[&measure], &rankings[&Measure::Causal], k));
            let (n, rank_correlation, Interval { low, high }) = compared.rank_correlation(measure);
            AgreementRow {
                measure: measure.name(),
                n,
                rank_correlation,
                low,
                high,
                precision_at_10,
                precision_at_100,
                precision_at_1000,
                verified_of_100: hits as f64 / own.len() as f64,
                verified_low,
                verified_high,
            }
        });
        Ok(Agreement { rows: rows.into(), compared: compared.pairs, pairs, verified, rankings })
    }
}

/// Share of the best `k` that are among the best `k` of the other; `NaN` where there are fewer.
fn precision(ranking: &[Ranked], causal: &[Ranked], k: usize) -> f64 {
    if ranking.len() < k || causal.len() < k {
        return f64::NAN;
    }
    let best: HashSet<Edge> = causal[..k].iter().map(|ranked| ranked.edge).collect();
    ranking[..k].iter().filter(|ranked| best.contains(&ranked.edge)).count() as f64 / k as f64
}

/// A random sample of the pairs shown (Vitter 1985, algorithm R).
struct Drawn {
    random: ChaCha8Rng,
    shown: usize,
    kept: Vec<Ranked>,
}

impl Drawn {
    fn new() -> Drawn {
        Drawn { random: ChaCha8Rng::seed_from_u64(0), shown: 0, kept: Vec::new() }
    }

    fn show(&mut self, ranked: Ranked) {
        self.shown += 1;
        if self.kept.len() < COMPARED {
            self.kept.push(ranked);
        } else {
            let at = self.random.random_range(0..self.shown);
            if at < COMPARED {
                self.kept[at] = ranked;
            }
        }
    }

    fn finish(mut self) -> Values {
        self.kept.sort_by_key(|ranked| ranked.edge);
        let pairs =
            self.kept.iter().map(|ranked| Compared { edge: ranked.edge, values: [f64::NAN; MEASURES.len()] }).collect();
        let mut values = Values { pairs };
        self.kept.into_iter().for_each(|ranked| values.see(ranked));
        values
    }
}

/// The pairs that are compared, by edge.
struct Values {
    pairs: Vec<Compared>,
}

impl Values {
    fn see(&mut self, ranked: Ranked) {
        if let Ok(at) = self.pairs.binary_search_by_key(&ranked.edge, |pair| pair.edge)
            && let Some(column) = column(ranked.measure)
        {
            self.pairs[at].values[column] = ranked.value;
        }
    }

    /// Over the pairs that have both: their number, Spearman's correlation of the strengths, and its interval.
    fn rank_correlation(&self, measure: Measure) -> (usize, f64, Interval) {
        let both = |pair: &&Compared| !pair.of(measure).is_nan();
        let pairs: Vec<&Compared> = self.pairs.iter().filter(both).collect();
        let of = |measure: Measure| -> Vec<f64> {
            ranks(&pairs.iter().map(|pair| measure.strength(pair.of(measure))).collect::<Vec<_>>())
        };
        let (x, y) = (of(measure), of(Measure::Causal));
        // Of each first direction the sums that a correlation is made of.
        let mut sums: Vec<[f64; 6]> = Vec::new();
        let mut at = 0;
        for same in pairs.chunk_by(|a, b| a.edge.first == b.edge.first) {
            let mut sum = [0.0; 6];
            for (x, y) in x[at..at + same.len()].iter().zip(&y[at..at + same.len()]) {
                let parts = [1.0, *x, *y, x * x, y * y, x * y];
                sum.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
            }
            at += same.len();
            sums.push(sum);
        }
        let correlation = |drawn: &[usize]| {
            let mut all = [0.0; 6];
            drawn.iter().for_each(|cluster| all.iter_mut().zip(sums[*cluster]).for_each(|(all, of)| *all += of));
            let [n, x, y, xx, yy, xy] = all;
            (n * xy - x * y) / ((n * xx - x * x) * (n * yy - y * y)).sqrt()
        };
        let all: Vec<usize> = (0..sums.len()).collect();
        (pairs.len(), correlation(&all), Interval::bootstrap(sums.len(), correlation))
    }
}

fn column(measure: Measure) -> Option<usize> {
    MEASURES.iter().position(|of| *of == measure)
}
