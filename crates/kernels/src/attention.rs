//! Causal attention over ragged prompts, with a prefix that may come from an earlier run.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::Matrix;
use crate::lanes::{add_scaled, exp, maximum, sum, tanh};

/// How one layer attends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Heads that ask.
    pub query_heads: usize,
    /// Heads that are looked at, a divisor of `query_heads`: as many query heads share each in turn (Ainslie et al. 2023).
    pub key_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// A position sees at most this many positions, itself included; `None` sees all before it.
    pub window: Option<usize>,
    /// Scores are multiplied by this (`1 / sqrt(d_head)`, or 1 for GPT-Neo).
    pub scale: f32,
    /// Scaled scores are bent to within this, `cap tanh(score / cap)`; `None` leaves them.
    pub soft_cap: Option<f32>,
}

/// Consecutive query rows of one prompt, with the keys and values before them.
#[derive(Debug, Clone, Copy)]
pub struct AttentionRows<'a> {
    /// First row of the prompt's part in the query, key and value matrices.
    pub first: usize,
    /// Number of rows.
    pub len: usize,
    /// Keys of the positions before the first row, `[start, key_heads × d_head]`.
    pub keys_before: &'a [f32],
    /// Values of the positions before the first row, `[start, key_heads × d_head]`.
    pub values_before: &'a [f32],
}

/// The two points inside attention at which its numbers can be seen and changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionStage {
    /// Scaled and capped scores before the softmax; positions that are not seen hold `-inf`.
    Scores,
    /// The pattern: the softmax of the scores.
    Pattern,
}

/// Sees and may change one head's row of scores or pattern: (stage, row, head, one number per key position from 0).
pub type EditScores<'a> = dyn Fn(AttentionStage, usize, usize, &mut [f32]) + Sync + 'a;

/// `softmax(cap(scale q kᵀ)) v` for every query head of every prompt part; `q` and the result are `[rows, query_heads × d_head]`, `k`
/// and `v` `[rows, key_heads × d_head]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn attention(
    shape: AttentionShape,
    parts: &[AttentionRows],
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    edit: Option<&EditScores>,
) -> Matrix {
    let same_before =
        |a: &AttentionRows, b: &AttentionRows| !a.keys_before.is_empty() && std::ptr::eq(a.keys_before, b.keys_before);
    let tasks: Vec<(&[AttentionRows], usize)> =
        parts.chunk_by(same_before).flat_map(|group| (0..shape.query_heads).map(move |head| (group, head))).collect();
    let blocks: Vec<Vec<f32>> =
        tasks.par_iter().map(|&(group, head)| one_head(shape, group, head, q, k, v, edit)).collect();
    let mut z = Matrix::zeros(q.rows(), shape.query_heads * shape.d_head);
    for ((group, head), block) in tasks.into_iter().zip(blocks) {
        let rows = group.iter().flat_map(|part| part.first..part.first + part.len);
        for (row, values) in rows.zip(block.chunks_exact(shape.d_head)) {
            z.row_mut(row)[head * shape.d_head..][..shape.d_head].copy_from_slice(values);
        }
    }
    z
}

/// One head of parts that have the same keys and values before them, which are laid out once for all of them.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn one_head(
    shape: AttentionShape,
    group: &[AttentionRows],
    head: usize,
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    edit: Option<&EditScores>,
) -> Vec<f32> {
    let (d, width) = (shape.d_head, shape.key_heads * shape.d_head);
    let of_query = head * d..(head + 1) * d;
    let key_head = head / (shape.query_heads / shape.key_heads);
    let of_key = key_head * d..(key_head + 1) * d;
    let Some(before) = group.first() else { return Vec::new() };
    let start = before.keys_before.len() / width;
    let keys = start + group.iter().map(|part| part.len).max().unwrap_or(0);
    let mut laid_out = HeadRows { keys: vec![0.0; d * keys], values: vec![0.0; keys * d], positions: keys };
    let rows = before.keys_before.chunks_exact(width).zip(before.values_before.chunks_exact(width));
    for (t, (key, value)) in rows.enumerate() {
        laid_out.set(t, &key[of_key.clone()], &value[of_key.clone()]);
    }
    let mut z = vec![0.0; group.iter().map(|part| part.len).sum::<usize>() * d];
    let mut scores = vec![0.0; keys];
    let mut query = vec![0.0; d];
    let mut z_rows = z.chunks_exact_mut(d);
    for part in group {
        for i in 0..part.len {
            let [key, value] = [k, v].map(|m| &m.row(part.first + i)[of_key.clone()]);
            laid_out.set(start + i, key, value);
        }
        for (i, z) in z_rows.by_ref().take(part.len).enumerate() {
            let (row, end) = (part.first + i, start + i + 1);
            let mut low = shape.window.map_or(0, |window| end.saturating_sub(window));
            query.iter_mut().zip(&q.row(row)[of_query.clone()]).for_each(|(scaled, x)| *scaled = x * shape.scale);
            scores[low..end].fill(0.0);
            combine(&mut scores[low..end], &query, &laid_out.keys[low..], keys);
            if let Some(cap) = shape.soft_cap {
                scores[low..end].iter_mut().for_each(|s| *s = cap * tanh(*s / cap));
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
            combine(z, &scores[low..end], &laid_out.values[low * d..], d);
        }
    }
    z
}

/// Keys and values of one head.
struct HeadRows {
    /// `[d_head, positions]`, so that a query's scores are sums of rows.
    keys: Vec<f32>,
    /// `[positions, d_head]`.
    values: Vec<f32>,
    positions: usize,
}

impl HeadRows {
    #[inline(always)]
    fn set(&mut self, position: usize, key: &[f32], value: &[f32]) {
        for (j, &x) in key.iter().enumerate() {
            self.keys[j * self.positions + position] = x;
        }
        self.values[position * value.len()..][..value.len()].copy_from_slice(value);
    }
}

/// `out += Σ weights[i] rows[i]`, rows beginning `stride` apart; each number is summed in their order.
#[inline(always)]
pub(crate) fn combine(out: &mut [f32], weights: &[f32], rows: &[f32], stride: usize) {
    let (wide, rest) = out.as_chunks_mut::<64>();
    let mut column = 0;
    for out in wide {
        combine_chunk(out, weights, &rows[column..], stride);
        column += 64;
    }
    let (narrow, rest) = rest.as_chunks_mut::<16>();
    for out in narrow {
        combine_chunk(out, weights, &rows[column..], stride);
        column += 16;
    }
    if !rest.is_empty() {
        for (i, &weight) in weights.iter().enumerate() {
            add_scaled(rest, weight, &rows[i * stride + column..]);
        }
    }
}

#[inline(always)]
fn combine_chunk<const N: usize>(out: &mut [f32; N], weights: &[f32], rows: &[f32], stride: usize) {
    let mut sums = *out;
    for (i, &weight) in weights.iter().enumerate() {
        add_scaled(&mut sums, weight, &rows[i * stride..i * stride + N]);
    }
    *out = sums;
}

#[inline(always)]
pub(crate) fn softmax(scores: &mut [f32]) {
    let top = maximum(scores);
    for s in scores.iter_mut() {
        *s = exp(*s - top);
    }
    let total = sum(scores);
    for s in scores.iter_mut() {
        *s /= total;
    }
}
