//! From what the unembedding reads to predictions: the logits of all tokens never exist at once.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use crate::norm::exp_sum;
use crate::product::{product_here, ranges};
use crate::{Matrix, View};

/// How a token is predicted at a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Predicted {
    /// Its logit.
    pub logit: f32,
    /// `ln Σ e^logit` over all tokens at its row.
    pub log_sum_exp: f64,
    /// Number of tokens with a higher logit.
    pub rank: usize,
}

/// Rows of a task, at most.
const ROWS: usize = 504;
/// Tokens whose logits are held for each row.
const COLUMNS: usize = 128;

/// What a tile of logits adds to one row: the highest logit, and `Σ e^(logit − highest)`.
type Part = (f32, f64);

/// Predictions of `targets`, (row, token) in the order of the rows, from logits `x w + bias`.
pub(crate) fn predict(x: View, w: View, bias: &[f32], targets: &[(usize, u32)]) -> Vec<Predicted> {
    let threads = rayon::current_num_threads();
    let size = x.rows().div_ceil(threads).clamp(1, ROWS);
    let blocks: Vec<Range<usize>> = ranges(x.rows(), size).collect();
    let tiles: Vec<Range<usize>> = ranges(w.columns(), COLUMNS).collect();
    let shared = threads.div_ceil(blocks.len().max(1));
    let of_block = |rows: &Range<usize>| -> Vec<Predicted> {
        let first = targets.partition_point(|target| target.0 < rows.start);
        let end = targets.partition_point(|target| target.0 < rows.end);
        let own: Vec<(usize, u32)> =
            targets[first..end].iter().map(|(row, token)| (row - rows.start, *token)).collect();
        let logits = logits_of(x, rows, w, bias, &own);
        let of_tiles = |tiles: &[Range<usize>]| tiles_of_block(x, rows, w, bias, tiles, &own, &logits);
        let found: Vec<(Vec<Part>, Vec<usize>)> =
            tiles.par_chunks(tiles.len().div_ceil(shared)).map(of_tiles).collect();
        let parts = |row: usize| found.iter().flat_map(move |(parts, _)| parts.iter().skip(row).step_by(rows.len()));
        let sums: Vec<f64> = (0..rows.len()).map(|row| total(parts(row))).collect();
        let of_target = |(i, ((row, _), &logit)): (usize, (&(usize, u32), &f32))| Predicted {
            logit,
            log_sum_exp: sums[*row],
            rank: found.iter().map(|(_, ranks)| ranks[i]).sum(),
        };
        own.iter().zip(&logits).enumerate().map(of_target).collect()
    };
    blocks.par_iter().map(of_block).collect::<Vec<_>>().concat()
}

/// The logits of the targets alone, with the bits that they have among all logits.
fn logits_of(x: View, rows: &Range<usize>, w: View, bias: &[f32], targets: &[(usize, u32)]) -> Vec<f32> {
    let mut tokens: Vec<usize> = targets.iter().map(|(_, token)| *token as usize).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let gathered = (0..w.rows()).flat_map(|i| tokens.iter().map(move |token| w.at(i, *token))).collect();
    let gathered = Matrix::new(gathered, w.rows(), tokens.len());
    let biases: Vec<f32> = tokens.iter().map(|token| bias[*token]).collect();
    let mut logits = Matrix::repeat(&biases, rows.len());
    product_here(x.rows_of(rows.clone()), gathered.view(), &mut logits, true);
    let of = |(row, token): &(usize, u32)| logits.row(*row)[tokens.partition_point(|t| *t < *token as usize)];
    targets.iter().map(of).collect()
}

/// Each tile's part of each row, tile after tile, and how many logits of these tiles exceed each target's.
fn tiles_of_block(
    x: View,
    rows: &Range<usize>,
    w: View,
    bias: &[f32],
    tiles: &[Range<usize>],
    targets: &[(usize, u32)],
    logits: &[f32],
) -> (Vec<Part>, Vec<usize>) {
    let (mut parts, mut ranks) = (Vec::with_capacity(tiles.len() * rows.len()), vec![0; targets.len()]);
    let mut buffer = Vec::new();
    for tile in tiles {
        buffer.clear();
        rows.clone().for_each(|_| buffer.extend_from_slice(&bias[tile.clone()]));
        let mut values = Matrix::new(buffer, rows.len(), tile.len());
        product_here(x.rows_of(rows.clone()), w.columns_of(tile.clone()), &mut values, true);
        parts.extend(values.iter_rows().map(exp_sum));
        for ((rank, (row, _)), &logit) in ranks.iter_mut().zip(targets).zip(logits) {
            *rank += above(values.row(*row), logit);
        }
        buffer = values.into_data();
    }
    (parts, ranks)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn above(logits: &[f32], least: f32) -> usize {
    logits.chunks(1 << 16).map(|piece| piece.iter().map(|x| u32::from(*x > least)).sum::<u32>() as usize).sum()
}

fn total<'a>(parts: impl Iterator<Item = &'a Part> + Clone) -> f64 {
    let top = parts.clone().map(|part| part.0).fold(f32::NEG_INFINITY, f32::max) as f64;
    let sum: f64 = parts.map(|(highest, sum)| sum * (*highest as f64 - top).exp()).sum();
    top + sum.ln()
}
