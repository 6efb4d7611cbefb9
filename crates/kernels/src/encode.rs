//! From a site's activations straight to sparse: the dense `[positions, directions]` matrix never exists.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use crate::product::{affine_here, ranges};
use crate::{Matrix, Screen, SparseActivations, View};

/// What an encoder needs: `pre = x w + bias`, and which pre-activations are kept.
#[derive(Debug, Clone, Copy)]
pub struct Encoder<'a> {
    /// Encoder weights, `[d_in, directions]`.
    pub weights: View<'a>,
    /// One number per direction; an input bias is folded in as `b_enc - b_dec w`.
    pub bias: &'a [f32],
    /// Which pre-activations are kept, as they are.
    pub keep: Keep<'a>,
    /// Finds the kept pre-activations without computing the others. It must be made of these very weights, which are then
    /// the transpose of a matrix, while the input is none.
    pub screen: Option<&'a Screen>,
}

/// Which pre-activations are kept.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// Those above zero: ReLU.
    Positive,
    /// Those above a threshold, one per direction: JumpReLU where thresholds are not negative.
    Above(&'a [f32]),
    /// At each position the `k` largest of those above zero; of equals the lower direction: TopK.
    Largest(usize),
}

/// A pre-activation was NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite {
    /// Row of the input.
    pub row: usize,
    /// Direction whose pre-activation it is.
    pub direction: usize,
}

/// Rows of a task: many when there are many, so that weights are packed less often.
const ROWS: std::ops::RangeInclusive<usize> = 128..=2048;
const COLUMNS: usize = 512;

/// `x w + bias` for `x` of `[rows, d_in]`, kept as the encoder says.
///
/// # Errors
/// If a pre-activation is not finite.
pub fn encode(x: View, encoder: Encoder) -> Result<SparseActivations, NotFinite> {
    if let Some(screen) = encoder.screen {
        return screen.encode(x, encoder);
    }
    let size = x.rows().div_ceil(rayon::current_num_threads()).clamp(*ROWS.start(), *ROWS.end());
    let blocks: Vec<_> = ranges(x.rows(), size).collect();
    let encoded: Vec<SparseActivations> =
        blocks.into_par_iter().map(|rows| encode_block(x, rows, encoder)).collect::<Result<_, _>>()?;
    Ok(SparseActivations::joined(&encoded))
}

fn encode_block(x: View, rows: Range<usize>, encoder: Encoder) -> Result<SparseActivations, NotFinite> {
    let mut kept: Vec<Kept> = vec![Kept::default(); rows.len()];
    let mut pre = Matrix::zeros(rows.len(), COLUMNS);
    for tile in ranges(encoder.weights.columns(), COLUMNS) {
        let start = tile.start;
        let weights = encoder.weights.columns_of(tile.clone());
        affine_here(x.rows_of(rows.clone()), weights, &encoder.bias[tile.clone()], &mut pre);
        for (row, kept) in kept.iter_mut().enumerate() {
            let pre = &pre.row(row)[..tile.len()];
            let scanned = match encoder.keep {
                Keep::Positive => keep_above(pre, 0.0, start, &mut kept.entries),
                Keep::Above(thresholds) => keep_above_each(pre, &thresholds[tile.clone()], start, &mut kept.entries),
                Keep::Largest(k) => kept.largest(pre, k, start),
            };
            scanned.map_err(|direction| NotFinite { row: rows.start + row, direction })?;
        }
    }
    Ok(sparse(kept, encoder.keep))
}

/// What is kept of all rows in the end.
pub(crate) fn sparse(kept: Vec<Kept>, keep: Keep) -> SparseActivations {
    let mut sparse = SparseActivations::default();
    for mut kept in kept {
        if let Keep::Largest(k) = keep {
            kept.reduce(k);
            kept.entries.sort_unstable_by_key(|(direction, _)| *direction);
        }
        sparse.push(kept.entries);
    }
    sparse
}

/// What is kept of one row so far.
#[derive(Clone, Default)]
pub(crate) struct Kept {
    pub(crate) entries: Vec<(u32, f32)>,
    /// Nothing at or below it can be among the `k` largest.
    least: f32,
}

impl Kept {
    fn largest(&mut self, pre: &[f32], k: usize, first: usize) -> Result<(), usize> {
        // In pieces, so that the bar rises while the row is read.
        for (i, piece) in pre.chunks(256).enumerate() {
            keep_above(piece, self.least, first + i * 256, &mut self.entries)?;
            if self.entries.len() >= 2 * k + 64 {
                self.reduce(k);
            }
        }
        Ok(())
    }

    /// Keeps the `k` largest.
    fn reduce(&mut self, k: usize) {
        if self.entries.len() > k {
            if k == 0 {
                return self.entries.clear();
            }
            self.entries.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            self.entries.truncate(k);
            self.least = self.entries[k - 1].1;
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn keep_above(pre: &[f32], least: f32, first: usize, kept: &mut Vec<(u32, f32)>) -> Result<(), usize> {
    scan(pre, |_| least, first, kept)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn keep_above_each(pre: &[f32], least: &[f32], first: usize, kept: &mut Vec<(u32, f32)>) -> Result<(), usize> {
    let least = &least[..pre.len()];
    scan(pre, |i| least[i], first, kept)
}

#[inline(always)]
fn scan(pre: &[f32], threshold: impl Fn(usize) -> f32, first: usize, kept: &mut Vec<(u32, f32)>) -> Result<(), usize> {
    for (i, chunk) in pre.chunks(16).enumerate() {
        let above = |(j, x): (usize, &f32)| *x > threshold(i * 16 + j) || x.is_nan();
        if chunk.iter().enumerate().filter(|x| above(*x)).count() == 0 {
            continue;
        }
        for (j, &x) in chunk.iter().enumerate() {
            let direction = first + i * 16 + j;
            if !x.is_finite() && x != f32::NEG_INFINITY {
                return Err(direction);
            }
            if x > threshold(i * 16 + j) {
                kept.push((direction as u32, x));
            }
        }
    }
    Ok(())
}
