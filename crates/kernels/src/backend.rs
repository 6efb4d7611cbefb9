//! The operations, and their implementation on the CPU.

use rayon::prelude::*;

use crate::activation::activate;
use crate::attention::attention;
use crate::encode::encode;
use crate::norm;
use crate::product::product;
use crate::{
    Activation, AttentionRows, AttentionShape, EditScores, Encoder, Matrix, NotFinite, SparseActivations, View,
};

/// Where the arithmetic is done. Every operation is by rows: a row's result does not depend on the other rows.
pub trait Backend: Send + Sync {
    /// `out = a b`, or `out += a b` when `accumulate`. Shapes `[m, k]`, `[k, n]`, `[m, n]`.
    fn product(&self, a: View, b: View, out: &mut Matrix, accumulate: bool);

    /// Centres every row and divides it by `sqrt(variance + eps)`; returns the divisors.
    fn layer_norm(&self, x: &mut Matrix, eps: f32) -> Vec<f32>;

    /// Causal attention; `q`, `k`, `v` and the result are `[rows, heads × d_head]`.
    fn attention(
        &self,
        shape: AttentionShape,
        parts: &[AttentionRows],
        q: &Matrix,
        k: &Matrix,
        v: &Matrix,
        edit: Option<&EditScores>,
    ) -> Matrix;

    /// Applies `f` to every number.
    fn activate(&self, f: Activation, x: &mut Matrix);

    /// `ln Σ e^x` of every row.
    fn log_sum_exp(&self, rows: &Matrix) -> Vec<f64>;

    /// `relu(x w + bias)`, kept where positive.
    fn encode(&self, x: View, encoder: Encoder) -> Result<SparseActivations, NotFinite>;

    /// `bias + acts w`, one row per position; `w` is `[directions, d_in]`.
    fn decode(&self, acts: &SparseActivations, w: &Matrix, bias: &[f32]) -> Matrix;

    /// `x w + bias`.
    fn affine(&self, x: &Matrix, w: &Matrix, bias: &[f32]) -> Matrix {
        let mut out = Matrix::repeat(bias, x.rows());
        self.product(x.view(), w.view(), &mut out, true);
        out
    }
}

/// The reference implementation: all cores of this machine, the widest vector instructions it has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

/// Rows a thread takes at a time in element-wise operations.
const ROWS: usize = 32;

/// Runs `f` on every row (with its number), in parallel.
fn for_rows(x: &mut Matrix, f: impl Fn(usize, &mut [f32]) + Sync) {
    let columns = x.columns().max(1);
    x.data_mut().par_chunks_mut(columns * ROWS).enumerate().for_each(|(block, rows)| {
        for (i, row) in rows.chunks_exact_mut(columns).enumerate() {
            f(block * ROWS + i, row);
        }
    });
}

impl Backend for Cpu {
    fn product(&self, a: View, b: View, out: &mut Matrix, accumulate: bool) {
        product(a, b, out, accumulate);
    }

    fn layer_norm(&self, x: &mut Matrix, eps: f32) -> Vec<f32> {
        let columns = x.columns().max(1);
        let mut scales = vec![0.0; x.rows()];
        scales.par_chunks_mut(ROWS).zip(x.data_mut().par_chunks_mut(columns * ROWS)).for_each(|(scales, rows)| {
            for (scale, row) in scales.iter_mut().zip(rows.chunks_exact_mut(columns)) {
                *scale = norm::layer_norm(row, eps);
            }
        });
        scales
    }

    fn attention(
        &self,
        shape: AttentionShape,
        parts: &[AttentionRows],
        q: &Matrix,
        k: &Matrix,
        v: &Matrix,
        edit: Option<&EditScores>,
    ) -> Matrix {
        attention(shape, parts, q, k, v, edit)
    }

    fn activate(&self, f: Activation, x: &mut Matrix) {
        for_rows(x, |_, row| activate(f, row));
    }

    fn log_sum_exp(&self, rows: &Matrix) -> Vec<f64> {
        (0..rows.rows()).into_par_iter().map(|i| norm::log_sum_exp(rows.row(i))).collect()
    }

    fn encode(&self, x: View, encoder: Encoder) -> Result<SparseActivations, NotFinite> {
        encode(x, encoder)
    }

    fn decode(&self, acts: &SparseActivations, w: &Matrix, bias: &[f32]) -> Matrix {
        let mut out = Matrix::repeat(bias, acts.positions());
        for_rows(&mut out, |position, row| {
            let (directions, values) = acts.at(position);
            norm::add_rows(row, w, directions, values);
        });
        out
    }
}
