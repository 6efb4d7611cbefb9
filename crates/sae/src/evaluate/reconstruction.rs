//! What an SAE makes of a site, by position in the prompt.

use std::ops::Range;

use directrix_kernels::{Matrix, SparseActivations};
use rayon::prelude::*;

/// The interval of positions that `position` is in: 0, 1 to 3, 4 to 7, 8 to 15, and so on, doubling.
pub(super) fn bucket(position: usize) -> usize {
    position.checked_ilog2().map_or(0, |log| log.max(1) as usize)
}

/// First and last position of an interval.
pub(super) fn bucket_range(bucket: usize) -> (usize, usize) {
    match bucket {
        0 => (0, 0),
        1 => (1, 3),
        _ => (1 << bucket, (2 << bucket) - 1),
    }
}

/// Columns that one thread takes.
const COLUMNS: usize = 32;

/// Means and squared deviations of a site's columns, by interval of positions (Welford 1962).
///
/// Each column takes its rows in their order, so the bits depend neither on batches nor on threads.
pub(super) struct Moments {
    columns: Range<usize>,
    counts: Vec<u64>,
    /// Per block of columns, then interval, then column: the mean and the sum of squared deviations from it.
    blocks: Vec<Vec<Vec<(f64, f64)>>>,
}

impl Moments {
    pub(super) fn new(columns: Range<usize>, buckets: usize) -> Moments {
        let widths = (0..columns.len()).step_by(COLUMNS).map(|start| COLUMNS.min(columns.len() - start));
        let blocks = widths.map(|width| vec![vec![(0.0, 0.0); width]; buckets]).collect();
        Moments { columns, counts: vec![0; buckets], blocks }
    }

    /// Adds rows of the hook point; `buckets` are their intervals.
    pub(super) fn add(&mut self, x: &Matrix, buckets: &[usize]) {
        let counts = &mut self.counts;
        let shares: Vec<f64> = buckets
            .iter()
            .map(|&bucket| {
                counts[bucket] += 1;
                1.0 / counts[bucket] as f64
            })
            .collect();
        let first = self.columns.start;
        self.blocks.par_iter_mut().enumerate().for_each(|(block, moments)| {
            for ((row, &bucket), share) in x.iter_rows().zip(buckets).zip(&shares) {
                let x = &row[first + block * COLUMNS..];
                for ((mean, squares), &x) in moments[bucket].iter_mut().zip(x) {
                    let before = x as f64 - *mean;
                    *mean += before * share;
                    *squares += before * (x as f64 - *mean);
                }
            }
        });
    }

    /// `Σ‖x − mean‖²` over the positions of each interval, the mean over those of all intervals.
    pub(super) fn squares(&self) -> Vec<f64> {
        let total: u64 = self.counts.iter().sum();
        let mut squares = vec![0.0; self.counts.len()];
        for block in &self.blocks {
            for column in 0..block[0].len() {
                let own = || self.counts.iter().zip(block).map(|(n, moments)| (*n as f64, moments[column]));
                let mean = own().map(|(n, (mean, _))| n * mean).sum::<f64>() / total as f64;
                for (sum, (n, (own, deviations))) in squares.iter_mut().zip(own()) {
                    *sum += deviations + n * (own - mean).powi(2);
                }
            }
        }
        squares
    }
}

/// How an SAE reconstructs: sums over positions, in their order.
pub(super) struct Reconstruction {
    /// `‖x − x̂‖²`, by interval of positions.
    pub(super) errors: Vec<f64>,
    /// Active directions, by interval.
    pub(super) active: Vec<u64>,
    /// Positions, by interval.
    pub(super) counts: Vec<u64>,
    /// Cosines of `x` and `x̂`.
    pub(super) cosines: f64,
    /// `‖x‖` and `‖x̂‖`.
    pub(super) norms: (f64, f64),
}

impl Reconstruction {
    pub(super) fn new(buckets: usize) -> Reconstruction {
        Reconstruction {
            errors: vec![0.0; buckets],
            active: vec![0; buckets],
            counts: vec![0; buckets],
            cosines: 0.0,
            norms: (0.0, 0.0),
        }
    }

    /// Adds rows of the hook point, of whose `columns` `recon` are the reconstructions.
    pub(super) fn add(
        &mut self,
        x: &Matrix,
        columns: Range<usize>,
        recon: &Matrix,
        acts: &SparseActivations,
        buckets: &[usize],
    ) {
        let products: Vec<Products> = (0..x.rows())
            .into_par_iter()
            .map(|row| Products::of(&x.row(row)[columns.clone()], recon.row(row)))
            .collect();
        for (position, (products, &bucket)) in products.iter().zip(buckets).enumerate() {
            let Products { x, recon, cross, error } = *products;
            self.errors[bucket] += error;
            self.active[bucket] += acts.at(position).0.len() as u64;
            self.counts[bucket] += 1;
            let lengths = (x * recon).sqrt();
            self.cosines += if lengths > 0.0 { cross / lengths } else { 0.0 };
            self.norms.0 += x.sqrt();
            self.norms.1 += recon.sqrt();
        }
    }
}

/// `x·x`, `x̂·x̂`, `x·x̂` and `(x − x̂)·(x − x̂)` of a position.
struct Products {
    x: f64,
    recon: f64,
    cross: f64,
    error: f64,
}

impl Products {
    fn of(x: &[f32], recon: &[f32]) -> Products {
        let mut sums = Products { x: 0.0, recon: 0.0, cross: 0.0, error: 0.0 };
        for (&x, &recon) in x.iter().zip(recon) {
            let (x, recon) = (x as f64, recon as f64);
            sums.x += x * x;
            sums.recon += recon * recon;
            sums.cross += x * recon;
            sums.error += (x - recon).powi(2);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_double() {
        let of: Vec<usize> = [0, 1, 2, 3, 4, 7, 8, 15, 16, 255].into_iter().map(bucket).collect();
        assert_eq!(of, [0, 1, 1, 1, 2, 2, 3, 3, 4, 7]);
        for position in 0..300 {
            let (first, last) = bucket_range(bucket(position));
            assert!((first..=last).contains(&position));
        }
    }

    #[test]
    fn deviations_of_a_large_mean_are_exact() {
        // Two columns far from zero: a sum of squares less a square of sums would lose every digit.
        let rows: Vec<[f32; 2]> = (0..64).map(|i| [1e6 + (i % 4) as f32, -1e6]).collect();
        let buckets: Vec<usize> = (0..64).map(|i| usize::from(i >= 10)).collect();
        let mut moments = Moments::new(0..2, 2);
        moments.add(&Matrix::from_rows(&rows[..30]), &buckets[..30]);
        moments.add(&Matrix::from_rows(&rows[30..]), &buckets[30..]);
        let expected = |range: Range<usize>| range.map(|i| ((i % 4) as f64 - 1.5).powi(2)).sum::<f64>();
        let squares = moments.squares();
        assert!((squares[0] - expected(0..10)).abs() < 1e-6 && (squares[1] - expected(10..64)).abs() < 1e-6);
    }
}
