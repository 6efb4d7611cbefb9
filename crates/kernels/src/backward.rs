//! Derivatives: from the gradient at what an operation gives to the gradient at what it read.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use crate::attention::{AttentionShape, AttentionStage, combine, softmax};
use crate::lanes::{add_scaled, erf, exp, sum, tanh};
use crate::{Activation, Matrix};

/// `g f'(x)` of every number, in place of `g`.
///
/// # Panics
/// If the shapes differ.
pub fn activation_gradient(f: Activation, x: &Matrix, g: &mut Matrix) {
    assert_eq!((x.rows(), x.columns()), (g.rows(), g.columns()));
    g.for_rows(|row, g| times_slopes(f, x.row(row), g));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn times_slopes(f: Activation, xs: &[f32], g: &mut [f32]) {
    let pairs = g.iter_mut().zip(xs);
    match f {
        Activation::Gelu => {
            let density = 1.0 / (2.0 * std::f32::consts::PI).sqrt();
            for (g, &x) in pairs {
                *g *= 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * density * exp(-0.5 * x * x);
            }
        }
        Activation::GeluTanh => {
            let c = (2.0 / std::f32::consts::PI).sqrt();
            for (g, &x) in pairs {
                let (u, slope) = (c * (0.044_715 * x * x).mul_add(x, x), c * (3.0 * 0.044_715 * x).mul_add(x, 1.0));
                let half = 1.0 / (1.0 + exp(-2.0 * u));
                *g *= half + 2.0 * x * half * (1.0 - half) * slope;
            }
        }
        Activation::Relu => {
            for (g, &x) in pairs {
                *g = if x > 0.0 { *g } else { 0.0 };
            }
        }
        Activation::Silu => {
            for (g, &x) in pairs {
                let share = 1.0 / (1.0 + exp(-x));
                *g *= share * (1.0 + x * (1.0 - share));
            }
        }
    }
}

/// The gradient at what a norm read, in place of that at what it gave: `normalized`, `[rows, d]`, before its own weight; `scales` are its
/// divisors. If these are frozen, they count as constants.
///
/// # Panics
/// If the shapes differ.
pub fn norm_gradient(normalized: &Matrix, scales: &[f32], is_centred: bool, is_frozen: bool, g: &mut Matrix) {
    assert_eq!((normalized.rows(), normalized.columns(), scales.len()), (g.rows(), g.columns(), g.rows()));
    g.for_rows(|row, g| through_norm(normalized.row(row), scales[row], is_centred, is_frozen, g));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn through_norm(normalized: &[f32], scale: f32, is_centred: bool, is_frozen: bool, g: &mut [f32]) {
    let d = g.len() as f32;
    let mean = if is_centred { sum(g) / d } else { 0.0 };
    let along = if is_frozen { 0.0 } else { inner(g, normalized) / d };
    for (g, &x) in g.iter_mut().zip(normalized) {
        *g = (*g - mean - x * along) / scale;
    }
}

#[inline(always)]
fn inner(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane = a.mul_add(*b, *lane));
    }
    lanes.iter_mut().zip(a_rest.iter().zip(b_rest)).for_each(|(lane, (a, b))| *lane = a.mul_add(*b, *lane));
    sum(&lanes)
}

/// Sees the gradients of one head at scores or pattern: (stage, row, head, one number per key position from 0).
pub type SeeScores<'a> = dyn Fn(AttentionStage, usize, usize, &[f32]) + Sync + 'a;

/// The gradients at `q`, `[rows, query_heads × d_head]`, and at `k` and `v`, `[rows, key_heads × d_head]`, of
/// [`attention`](crate::attention()) over whole prompts from their first positions, the rows `parts`; `g` is the gradient at what it
/// gave. If patterns are frozen, those at `q` and `k` are zero.
///
/// # Panics
/// If the shapes do not fit.
pub fn attention_gradient(
    shape: AttentionShape,
    parts: &[Range<usize>],
    [q, k, v]: [&Matrix; 3],
    g: &Matrix,
    is_frozen: bool,
    see: Option<&SeeScores>,
) -> [Matrix; 3] {
    let AttentionShape { query_heads, key_heads, d_head, .. } = shape;
    assert!(
        [q.columns(), g.columns()] == [query_heads * d_head; 2]
            && [k.columns(), v.columns()] == [key_heads * d_head; 2]
    );
    let tasks: Vec<(&Range<usize>, usize)> =
        parts.iter().flat_map(|part| (0..key_heads).map(move |head| (part, head))).collect();
    let blocks: Vec<[Vec<f32>; 3]> =
        tasks.par_iter().map(|&(part, head)| one_head(shape, part, head, [q, k, v], g, is_frozen, see)).collect();
    let mut out = [q, k, v].map(|m| Matrix::zeros(m.rows(), m.columns()));
    let sharing = query_heads / key_heads;
    for ((part, head), [dq, dk, dv]) in tasks.into_iter().zip(blocks) {
        for (at, (numbers, heads)) in [(dq, sharing), (dk, 1), (dv, 1)].into_iter().enumerate() {
            let width = heads * d_head;
            for (row, numbers) in part.clone().zip(numbers.chunks_exact(width)) {
                out[at].row_mut(row)[head * width..][..width].copy_from_slice(numbers);
            }
        }
    }
    out
}

/// One key head and the query heads that share it.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn one_head(
    shape: AttentionShape,
    part: &Range<usize>,
    key_head: usize,
    [q, k, v]: [&Matrix; 3],
    g: &Matrix,
    is_frozen: bool,
    see: Option<&SeeScores>,
) -> [Vec<f32>; 3] {
    let (d, len) = (shape.d_head, part.len());
    let sharing = shape.query_heads / shape.key_heads;
    let of_key = key_head * d..(key_head + 1) * d;
    // Rows of keys, and both by column, so that inner products are sums of rows.
    let mut keys = vec![0.0; len * d];
    let [mut keys_by_column, mut values_by_column] = [(); 2].map(|()| vec![0.0; d * len]);
    for (t, row) in part.clone().enumerate() {
        let [key, value] = [k, v].map(|m| &m.row(row)[of_key.clone()]);
        keys[t * d..][..d].copy_from_slice(key);
        for j in 0..d {
            keys_by_column[j * len + t] = key[j];
            values_by_column[j * len + t] = value[j];
        }
    }
    let mut dq = vec![0.0; len * sharing * d];
    let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; len * d]);
    let [mut scores, mut slopes] = [(); 2].map(|()| vec![0.0; len]);
    let mut query = vec![0.0; d];
    for own in 0..sharing {
        let head = key_head * sharing + own;
        let of_query = head * d..(head + 1) * d;
        for (i, row) in part.clone().enumerate() {
            let g = &g.row(row)[of_query.clone()];
            if see.is_none() && g.iter().all(|x| *x == 0.0) {
                continue;
            }
            let end = i + 1;
            let low = shape.window.map_or(0, |window| end.saturating_sub(window));
            query.iter_mut().zip(&q.row(row)[of_query.clone()]).for_each(|(scaled, x)| *scaled = x * shape.scale);
            let pattern = &mut scores[low..end];
            pattern.fill(0.0);
            combine(pattern, &query, &keys_by_column[low..], len);
            let mut bent = Vec::new();
            if let Some(cap) = shape.soft_cap {
                bent.extend(pattern.iter().map(|s| tanh(*s / cap)));
                pattern.iter_mut().zip(&bent).for_each(|(s, bent)| *s = cap * bent);
            }
            softmax(pattern);
            for (&share, dv) in pattern.iter().zip(dv[low * d..].chunks_exact_mut(d)) {
                add_scaled(dv, share, g);
            }
            if is_frozen && see.is_none() {
                continue;
            }
            slopes[..end].fill(0.0);
            // A pattern may be looked at where a window shows nothing, too.
            let from = if see.is_some() { 0 } else { low };
            combine(&mut slopes[from..end], g, &values_by_column[from..], len);
            let seen = |stage, slopes: &[f32]| see.iter().for_each(|see| see(stage, row, head, slopes));
            seen(AttentionStage::Pattern, &slopes[..end]);
            if is_frozen {
                continue;
            }
            slopes[..low].fill(0.0);
            let all = &mut slopes[..end];
            let slopes = &mut all[low..];
            let mean = inner(pattern, slopes);
            slopes.iter_mut().zip(pattern.iter()).for_each(|(slope, share)| *slope = share * (*slope - mean));
            seen(AttentionStage::Scores, all);
            let slopes = &mut all[low..];
            slopes.iter_mut().zip(&bent).for_each(|(slope, bent)| *slope *= 1.0 - bent * bent);
            for (&slope, dk) in slopes.iter().zip(dk[low * d..].chunks_exact_mut(d)) {
                // The query is scaled already.
                add_scaled(dk, slope, &query);
            }
            let dq = &mut dq[(i * sharing + own) * d..][..d];
            combine(dq, slopes, &keys[low * d..], d);
            dq.iter_mut().for_each(|x| *x *= shape.scale);
        }
    }
    [dq, dk, dv]
}
