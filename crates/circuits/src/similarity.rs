//! How alike the directions of one SAE are: within the encoder, within the decoder, and between the two.

use directrix_corpus::{Event, Watch};
use directrix_kernels::Matrix;
use directrix_sae::Sae;
use serde::Serialize;

use crate::{Error, Result};

/// Rows whose cosines with all others are held at a time.
const ROWS: usize = 256;
/// Intervals of equal width, −1 to 1, in which cosines are counted.
const BINS: usize = 200;

/// Cosines between rows of two matrices.
#[derive(Debug, Clone, PartialEq)]
pub struct Similarity {
    /// Between what: `decoder and decoder`, `encoder and encoder`, `encoder and decoder`.
    pub between: &'static str,
    /// Pairs of two directions; of one matrix each counts once, of two it is ordered.
    pub pairs: u64,
    /// Mean cosine over them.
    pub mean: f64,
    /// Its standard deviation; over random rows `1 / √width`.
    pub sd: f64,
    /// Pairs by cosine, in intervals of equal width from −1 to 1.
    pub counts: Vec<u64>,
    /// The highest cosine of each direction with any other.
    pub nearest: Vec<f32>,
    /// The pairs with the highest cosines, highest first.
    pub top: Vec<SimilarPair>,
    /// The cosine of each direction's row in the one matrix with its row in the other; empty of one matrix.
    pub own: Vec<f32>,
}

/// Two directions and a cosine between them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SimilarPair {
    /// Between what.
    pub between: &'static str,
    /// A direction: of encoder and decoder, that of the encoder.
    pub one: usize,
    /// Another: of encoder and decoder, that of the decoder.
    pub other: usize,
    /// The cosine.
    pub cosine: f32,
}

/// The similarities of an SAE's directions: decoder and decoder, encoder and encoder, and encoder and decoder where both are as wide;
/// with the `k` most similar pairs of each.
///
/// # Errors
/// If a cosine is not finite, or `watch` stopped it.
pub fn similarities(sae: &Sae, k: usize, watch: &Watch) -> Result<Vec<Similarity>> {
    let [encoder, decoder] = [sae.encoder(), sae.w_dec()].map(normalised);
    let mut all = vec![
        similarity("decoder and decoder", &decoder, None, k, watch)?,
        similarity("encoder and encoder", &encoder, None, k, watch)?,
    ];
    if sae.d_in() == sae.d_out() {
        all.push(similarity("encoder and decoder", &encoder, Some(&decoder), k, watch)?);
    }
    Ok(all)
}

fn similarity(
    between: &'static str,
    one: &Matrix,
    other: Option<&Matrix>,
    k: usize,
    watch: &Watch,
) -> Result<Similarity> {
    let within = other.is_none();
    let mut found = Similarity {
        between,
        pairs: 0,
        mean: f64::NAN,
        sd: f64::NAN,
        counts: vec![0; BINS],
        nearest: vec![f32::NEG_INFINITY; one.rows()],
        top: Vec::new(),
        own: Vec::new(),
    };
    let (mut sum, mut squares) = (0.0_f64, 0.0_f64);
    each_products(one, other.unwrap_or(one), watch, |i, cosines| {
        let from = if within { i + 1 } else { 0 };
        if !within {
            found.own.push(cosines[i]);
        }
        for (j, &cosine) in cosines.iter().enumerate().skip(from).filter(|(j, _)| *j != i) {
            let (low, high) = (cosine as f64, (cosine as f64 + 1.0) * 0.5 * BINS as f64);
            sum += low;
            squares += low * low;
            found.pairs += 1;
            found.counts[(high as usize).min(BINS - 1)] += 1;
            found.nearest[i] = found.nearest[i].max(cosine);
            if within {
                found.nearest[j] = found.nearest[j].max(cosine);
            }
            if found.top.len() < k || found.top.last().is_some_and(|last| cosine > last.cosine) {
                let at = found.top.partition_point(|pair| pair.cosine >= cosine);
                found.top.insert(at, SimilarPair { between, one: i, other: j, cosine });
                found.top.truncate(k);
            }
        }
        Ok(())
    })?;
    let n = found.pairs as f64;
    found.mean = sum / n;
    found.sd = (squares / n - found.mean * found.mean).max(0.0).sqrt();
    Ok(found)
}

/// The rows, each divided by its length.
pub(crate) fn normalised(rows: &Matrix) -> Matrix {
    let mut rows = rows.clone();
    directrix_kernels::normalise_rows(&mut rows);
    rows
}

/// Calls `f` with every row of `one` in turn: its number, and the inner products of it with every row of `other`, which are cosines where rows
/// are normalised. The products of a block of rows are held.
pub(crate) fn each_products(
    one: &Matrix,
    other: &Matrix,
    watch: &Watch,
    mut f: impl FnMut(usize, &[f32]) -> Result<()>,
) -> Result<()> {
    let mut start = 0;
    while start < one.rows() {
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        let rows = start..(start + ROWS).min(one.rows());
        let mut cosines = Matrix::zeros(rows.len(), other.rows());
        directrix_kernels::product(one.view().rows_of(rows.clone()), other.view().transposed(), &mut cosines, false);
        if let Some((row, second)) = cosines.first_not_finite() {
            return Err(Error::NotFinite { first: start + row, second });
        }
        for (i, cosines) in cosines.iter_rows().enumerate() {
            f(start + i, cosines)?;
        }
        start = rows.end;
        watch.tell(Event::new("pairs", start as u64, "directions").of(one.rows() as u64));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn similarities_are_those_of_every_pair_alone(
            n in 2..300_usize, width in 1..6_usize, k in 0..9_usize, seed in 0..1000_usize, within in any::<bool>(),
        ) {
            let rows = |seed: usize| {
                let number = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.45;
                normalised(&Matrix::new((0..n * width).map(number).collect(), n, width))
            };
            let (one, other) = (rows(seed), rows(seed + 1));
            let found = similarity("x", &one, (!within).then_some(&other), k, &Watch::nobody()).unwrap();
            let other = if within { &one } else { &other };
            let cosine = |i: usize, j: usize| -> f64 {
                one.row(i).iter().zip(other.row(j)).map(|(a, b)| *a as f64 * *b as f64).sum()
            };
            let all: Vec<(usize, usize)> =
                (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|(i, j)| if within { i < j } else { i != j }).collect();
            prop_assert_eq!((found.pairs, found.counts.iter().sum::<u64>()), (all.len() as u64, all.len() as u64));
            let mut cosines: Vec<f64> = all.iter().map(|(i, j)| cosine(*i, *j)).collect();
            let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
            prop_assert!((found.mean - mean).abs() < 1e-5);
            let variance = cosines.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / cosines.len() as f64;
            prop_assert!((found.sd - variance.sqrt()).abs() < 1e-4);
            cosines.sort_by(|a, b| b.total_cmp(a));
            prop_assert_eq!(found.top.len(), k.min(all.len()));
            for (pair, expected) in found.top.iter().zip(&cosines) {
                prop_assert!((pair.cosine as f64 - expected).abs() < 1e-5);
                prop_assert!((cosine(pair.one, pair.other) - expected).abs() < 1e-5 && all.contains(&(pair.one, pair.other)));
            }
            for (i, nearest) in found.nearest.iter().enumerate() {
                let expected = (0..n).filter(|j| *j != i).map(|j| cosine(i, j)).fold(f64::NEG_INFINITY, f64::max);
                prop_assert!((*nearest as f64 - expected).abs() < 1e-5);
            }
            prop_assert_eq!(found.own.len(), if within { 0 } else { n });
        }
    }
}
