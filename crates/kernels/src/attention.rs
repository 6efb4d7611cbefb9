//! Causal attention over ragged prompts, with a prefix that may come from an earlier run.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::Matrix;
use crate::lanes::{add_scaled, exp, maximum, sum};

/// How one layer attends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// A position sees at most this many positions, itself included; `None` sees all before it.
    pub window: Option<usize>,
    /// Scores are multiplied by this (`1 / sqrt(d_head)`, or 1 for GPT-Neo).
    pub scale: f32,
}

/// Consecutive query rows of one prompt, with the keys and values before them.
#[derive(Debug, Clone, Copy)]
pub struct AttentionRows<'a> {
    /// First row of the prompt's part in the query, key and value matrices.
    pub first: usize,
    /// Number of rows.
    pub len: usize,
    /// Keys of the positions before the first row, `[start, heads × d_head]`.
    pub keys_before: &'a [f32],
    /// Values of the positions before the first row, `[start, heads × d_head]`.
    pub values_before: &'a [f32],
}

/// The two points inside attention at which its numbers can be seen and changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionStage {
    /// Scaled scores before the softmax; positions that are not seen hold `-inf`.
    Scores,
    /// The pattern: the softmax of the scores.
    Pattern,
}

/// Sees and may change one head's row of scores or pattern: (stage, row, head, one number per key position from 0).
pub type EditScores<'a> = dyn Fn(AttentionStage, usize, usize, &mut [f32]) + Sync + 'a;

/// `softmax(scale q kᵀ) v` for every head of every prompt part; `q`, `k`, `v` and the result are `[rows, heads × d_head]`.
pub(crate) fn attention(
    shape: AttentionShape,
    parts: &[AttentionRows],
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    edit: Option<&EditScores>,
) -> Matrix {
    let width = shape.heads * shape.d_head;
    let tasks: Vec<(usize, usize)> = (0..parts.len()).flat_map(|p| (0..shape.heads).map(move |h| (p, h))).collect();
    let blocks: Vec<Vec<f32>> =
        tasks.par_iter().map(|&(part, head)| one_head(shape, &parts[part], head, q, k, v, edit)).collect();
    let mut z = Matrix::zeros(q.rows(), width);
    for ((part, head), block) in tasks.into_iter().zip(blocks) {
        for (i, row) in block.chunks_exact(shape.d_head).enumerate() {
            z.row_mut(parts[part].first + i)[head * shape.d_head..][..shape.d_head].copy_from_slice(row);
        }
    }
    z
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn one_head(
    shape: AttentionShape,
    part: &AttentionRows,
    head: usize,
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    edit: Option<&EditScores>,
) -> Vec<f32> {
    let (d, width) = (shape.d_head, shape.heads * shape.d_head);
    let start = part.keys_before.len() / width;
    let keys = start + part.len;
    let of_head = head * d..(head + 1) * d;
    let key_rows = part.keys_before.chunks_exact(width).chain((0..part.len).map(|i| k.row(part.first + i)));
    let value_rows = part.values_before.chunks_exact(width).chain((0..part.len).map(|i| v.row(part.first + i)));
    let mut keys_t = vec![0.0; d * keys];
    for (t, row) in key_rows.enumerate() {
        for (j, &x) in row[of_head.clone()].iter().enumerate() {
            keys_t[j * keys + t] = x;
        }
    }
    let mut values = Vec::with_capacity(keys * d);
    value_rows.for_each(|row| values.extend_from_slice(&row[of_head.clone()]));

    let mut z = vec![0.0; part.len * d];
    let mut scores = vec![0.0; keys];
    for (i, z) in z.chunks_exact_mut(d).enumerate() {
        let row = part.first + i;
        let end = start + i + 1;
        let mut low = shape.window.map_or(0, |window| end.saturating_sub(window));
        scores[low..end].fill(0.0);
        for (j, &x) in q.row(row)[of_head.clone()].iter().enumerate() {
            add_scaled(&mut scores[low..end], x * shape.scale, &keys_t[j * keys + low..j * keys + end]);
        }
        if let Some(edit) = edit {
            scores[..low].fill(f32::NEG_INFINITY);
            edit(AttentionStage::Scores, row, head, &mut scores[..end]);
            low = scores[..end].iter().take(low).position(|&s| s > f32::NEG_INFINITY).unwrap_or(low);
        }
        softmax(&mut scores[low..end]);
        if let Some(edit) = edit {
            scores[..low].fill(0.0);
            edit(AttentionStage::Pattern, row, head, &mut scores[..end]);
            low = scores[..end].iter().take(low).position(|&s| s != 0.0).unwrap_or(low);
        }
        for (t, &weight) in scores[low..end].iter().enumerate() {
            add_scaled(z, weight, &values[(low + t) * d..(low + t + 1) * d]);
        }
    }
    z
}

#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let top = maximum(scores);
    for s in scores.iter_mut() {
        *s = exp(*s - top);
    }
    let total = sum(scores);
    for s in scores.iter_mut() {
        *s /= total;
    }
}
