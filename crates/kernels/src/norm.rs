//! Operations on one row: LayerNorm without weights, log-sum-exp, inner product, sparse decode.

use multiversion::multiversion;

use crate::Matrix;
use crate::lanes::{add_scaled, exp, maximum, sum, sum_of_squares};

/// Centres `row`, divides it by `sqrt(mean square + eps)` and returns that divisor (Ba, Kiros and Hinton 2016).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn layer_norm(row: &mut [f32], eps: f32) -> f32 {
    let n = row.len() as f32;
    let mean = sum(row) / n;
    for x in row.iter_mut() {
        *x -= mean;
    }
    let scale = (sum_of_squares(row) / n + eps).sqrt();
    for x in row.iter_mut() {
        *x /= scale;
    }
    scale
}

/// `ln Σ e^x`, accumulated in double precision.
pub(crate) fn log_sum_exp(row: &[f32]) -> f64 {
    let (top, sum) = exp_sum(row);
    top as f64 + sum.ln()
}

/// The highest number of `row`, and `Σ e^(x − highest)` in double precision.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn exp_sum(row: &[f32]) -> (f32, f64) {
    let top = maximum(row);
    let mut lanes = [0.0_f64; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += exp(x - top) as f64;
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += exp(x - top) as f64;
    }
    (top, lanes.into_iter().sum())
}

/// `Σ a b`, in double precision.
///
/// # Panics
/// If their lengths differ.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mut lanes = [0.0_f64; 16];
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let rest = [(a_rest, b_rest)];
    for (a, b) in a.iter().zip(b).map(|(a, b)| (a.as_slice(), b.as_slice())).chain(rest) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a as f64 * b as f64;
        }
    }
    lanes.into_iter().sum()
}

/// `bias + Σ value × w[direction]`: `row` holds the bias already.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn add_rows(row: &mut [f32], w: &Matrix, directions: &[u32], values: &[f32]) {
    for (&direction, &value) in directions.iter().zip(values) {
        add_scaled(row, value, w.row(direction as usize));
    }
}
