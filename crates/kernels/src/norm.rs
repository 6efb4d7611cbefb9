//! LayerNorm and RMSNorm without weights, log-sum-exp, inner product.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::Matrix;
use crate::lanes::{exp, maximum, sum, sum_of_squares};
use crate::matrix::TASK_ROWS;

/// Every row of `x`, `[rows, d]`, centred and divided by `sqrt(variance + eps)`; and these divisors, `[rows]` (Ba, Kiros and
/// Hinton 2016).
pub fn layer_norm(x: &Matrix, eps: f32) -> (Matrix, Vec<f32>) {
    of_rows(x, |row| centre_and_divide(row, eps))
}

/// Every row of `x`, `[rows, d]`, divided by `sqrt(mean square + eps)`; and these divisors, `[rows]` (Zhang and Sennrich 2019).
pub fn rms_norm(x: &Matrix, eps: f32) -> (Matrix, Vec<f32>) {
    of_rows(x, |row| divide(row, eps))
}

/// What `norm` makes of every row, and the divisors that it returns.
fn of_rows(x: &Matrix, norm: impl Fn(&mut [f32]) -> f32 + Sync) -> (Matrix, Vec<f32>) {
    let (mut out, mut scales) = (Matrix::zeros(x.rows(), x.columns()), vec![0.0; x.rows()]);
    let rows = out.data_mut().par_chunks_mut(x.columns().max(1)).with_min_len(TASK_ROWS);
    rows.zip(&mut scales).enumerate().for_each(|(i, (row, scale))| {
        row.copy_from_slice(x.row(i));
        *scale = norm(row);
    });
    (out, scales)
}

/// `ln Σ e^x` of every row, `[rows]`, accumulated in double precision.
pub fn log_sum_exp(rows: &Matrix) -> Vec<f64> {
    let of_row = |row: &[f32]| {
        let (top, sum) = exp_sum(row);
        top as f64 + sum.ln()
    };
    (0..rows.rows()).into_par_iter().map(|i| of_row(rows.row(i))).collect()
}

/// Centres `row`, divides it by `sqrt(mean square + eps)` and returns that divisor.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn centre_and_divide(row: &mut [f32], eps: f32) -> f32 {
    let mean = sum(row) / row.len() as f32;
    for x in row.iter_mut() {
        *x -= mean;
    }
    divide_here(row, eps)
}

/// Divides `row` by `sqrt(mean square + eps)` and returns that divisor.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn divide(row: &mut [f32], eps: f32) -> f32 {
    divide_here(row, eps)
}

#[inline(always)]
fn divide_here(row: &mut [f32], eps: f32) -> f32 {
    let scale = (sum_of_squares(row) / row.len() as f32 + eps).sqrt();
    for x in row.iter_mut() {
        *x /= scale;
    }
    scale
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
