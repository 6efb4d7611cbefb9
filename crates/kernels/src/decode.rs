//! From sparse activations back to the site.

use multiversion::multiversion;

use crate::lanes::add_scaled;
use crate::{Matrix, SparseActivations};

/// `bias + acts w`, `[positions, d_in]`: one row per position; `w` is `[directions, d_in]`, `bias` `[d_in]`.
pub fn decode(acts: &SparseActivations, w: &Matrix, bias: &[f32]) -> Matrix {
    let mut out = Matrix::repeat(bias, acts.positions());
    out.for_rows(|position, row| {
        let (directions, values) = acts.at(position);
        add_rows(row, w, directions, values);
    });
    out
}

/// `row + Σ value × w[direction]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn add_rows(row: &mut [f32], w: &Matrix, directions: &[u32], values: &[f32]) {
    for (&direction, &value) in directions.iter().zip(values) {
        add_scaled(row, value, w.row(direction as usize));
    }
}
