//! From what the unembedding reads to predictions: the logits of all tokens never exist at once.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use crate::activation::soft_cap_row;
use crate::norm::exp_sum;
use crate::product::{affine, affine_here, ranges};
use crate::{Factor, Matrix, View};

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
const ROWS: usize = 1024;
/// Tokens of a task.
const TOKENS: usize = 1024;
/// Tokens whose logits are summed by themselves.
const TILE: usize = 128;
/// Logits that a task holds, about.
const HELD: usize = 1 << 17;

/// What some logits add to one row: the highest logit, and `Σ e^(logit − highest)`.
type Part = (f32, f64);

/// What gives the logits of all tokens: `x w + bias`, softly capped where there is a cap.
#[derive(Debug, Clone, Copy)]
pub struct Unembedding<'a> {
    /// `[d_model, vocabulary]`.
    pub w: Factor<'a>,
    /// `[vocabulary]`.
    pub bias: &'a [f32],
    /// Logits are bent to within this, `cap tanh(logit / cap)`.
    pub soft_cap: Option<f32>,
}

impl Unembedding<'_> {
    fn cap(&self, logits: &mut [f32]) {
        if let Some(cap) = self.soft_cap {
            soft_cap_row(cap, logits);
        }
    }
}

/// Predictions of `targets`, (row, token) in the order of the rows, from `x`, `[rows, d_model]`.
pub fn predict(x: View, unembedding: Unembedding, targets: &[(usize, u32)]) -> Vec<Predicted> {
    let of_rows = |rows: Range<usize>| {
        let first = targets.partition_point(|target| target.0 < rows.start);
        let end = targets.partition_point(|target| target.0 < rows.end);
        let own: Vec<(usize, u32)> =
            targets[first..end].iter().map(|(row, token)| (row - rows.start, *token)).collect();
        let x = x.rows_of(rows);
        let logits = logits_of(x, unembedding, &own);
        let tasks: Vec<Range<usize>> = ranges(unembedding.w.columns(), TOKENS).collect();
        let of_tokens = |tokens: Range<usize>| part_of(x, unembedding, tokens, &own, &logits);
        let found: Vec<(Vec<Part>, Vec<usize>)> = tasks.into_par_iter().map(of_tokens).collect();
        let log_sum_exp = |row: usize| {
            let (highest, sum) = joined(found.iter().map(|(parts, _)| parts[row]));
            highest as f64 + sum.ln()
        };
        let sums: Vec<f64> = (0..x.rows()).map(log_sum_exp).collect();
        let of_target = |(i, ((row, _), &logit)): (usize, (&(usize, u32), &f32))| Predicted {
            logit,
            log_sum_exp: sums[*row],
            rank: found.iter().map(|(_, ranks)| ranks[i]).sum(),
        };
        own.iter().zip(&logits).enumerate().map(of_target).collect::<Vec<_>>()
    };
    ranges(x.rows(), ROWS).flat_map(of_rows).collect()
}

/// The logits of the targets alone, with the bits that they have among all logits.
fn logits_of(x: View, unembedding: Unembedding, targets: &[(usize, u32)]) -> Vec<f32> {
    let Unembedding { w, bias, .. } = unembedding;
    let mut tokens: Vec<usize> = targets.iter().map(|(_, token)| *token as usize).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let biases: Vec<f32> = tokens.iter().map(|token| bias[*token]).collect();
    let mut logits = affine(x, w.columns_at(&tokens).view(), &biases);
    unembedding.cap(logits.data_mut());
    let of = |(row, token): &(usize, u32)| logits.row(*row)[tokens.partition_point(|t| *t < *token as usize)];
    targets.iter().map(of).collect()
}

/// What `tokens` add to each row, and how many of their logits exceed each target's.
fn part_of(
    x: View,
    unembedding: Unembedding,
    tokens: Range<usize>,
    targets: &[(usize, u32)],
    logits: &[f32],
) -> (Vec<Part>, Vec<usize>) {
    let Unembedding { w, bias, .. } = unembedding;
    let (mut parts, mut ranks) = (vec![(f32::NEG_INFINITY, 0.0); x.rows()], vec![0; targets.len()]);
    let columns = TILE * (HELD / TILE / x.rows().max(1)).clamp(1, TOKENS / TILE);
    let mut values = Matrix::zeros(x.rows(), columns);
    for tile in ranges(tokens.len(), columns) {
        let tile = tokens.start + tile.start..tokens.start + tile.end;
        affine_here(x, w.columns_of(tile.clone()), &bias[tile.clone()], &mut values);
        unembedding.cap(values.data_mut());
        let logits_at = |row: usize| &values.row(row)[..tile.len()];
        for (row, part) in parts.iter_mut().enumerate() {
            for tile in logits_at(row).chunks(TILE) {
                *part = joined([*part, exp_sum(tile)].into_iter());
            }
        }
        for ((rank, (row, _)), &logit) in ranks.iter_mut().zip(targets).zip(logits) {
            *rank += above(logits_at(*row), logit);
        }
    }
    (parts, ranks)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn above(logits: &[f32], least: f32) -> usize {
    let mut lanes = [0_u32; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += u32::from(*x > least));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += u32::from(*x > least));
    lanes.iter().sum::<u32>() as usize
}

fn joined(parts: impl Iterator<Item = Part> + Clone) -> Part {
    let highest = parts.clone().map(|part| part.0).fold(f32::NEG_INFINITY, f32::max);
    let sum =
        parts.map(|part| if part.0 == highest { part.1 } else { part.1 * (part.0 as f64 - highest as f64).exp() });
    (highest, sum.sum())
}
