//! The operations, and their implementation on the CPU.

use std::ops::Range;

use rayon::prelude::*;

use crate::activation::activate;
use crate::attention::attention;
use crate::encode::encode;
use crate::predict::predict;
use crate::product::{affine, product};
use crate::{
    Activation, Adam, AttentionRows, AttentionShape, ByDirection, EditScores, Encoder, Matrix, NotFinite, Outer,
    Predicted, Screen, SparseActivations, View,
};
use crate::{gradient, norm};

/// Where the arithmetic is done. Every operation is by rows: a row's result does not depend on the other rows.
pub trait Backend: Send + Sync {
    /// `out = a b`, or `out += a b` when `accumulate`. Shapes `[m, k]`, `[k, n]`, `[m, n]`.
    fn product(&self, a: View, b: View, out: &mut Matrix, accumulate: bool);

    /// `x w + bias`.
    fn affine(&self, x: &Matrix, w: &Matrix, bias: &[f32]) -> Matrix;

    /// Every row centred and divided by `sqrt(variance + eps)`; and these divisors.
    fn layer_norm(&self, x: &Matrix, eps: f32) -> (Matrix, Vec<f32>);

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

    /// Predictions of `targets`, (row, token) in the order of the rows, from logits `x w + bias`; `w` is `[d, vocabulary]`.
    fn predict(&self, x: View, w: View, bias: &[f32], targets: &[(usize, u32)]) -> Vec<Predicted>;

    /// `x w + bias`, kept as the encoder says.
    fn encode(&self, x: View, encoder: Encoder) -> Result<SparseActivations, NotFinite>;

    /// What [`encode`](Self::encode) can screen with, for the encoder weights whose transpose `[directions, d_in]` this is;
    /// none where it would be no faster for it.
    fn screen(&self, weights: &Matrix) -> Option<Screen>;

    /// `bias + acts w`, one row per position; `w` is `[directions, d_in]`.
    fn decode(&self, acts: &SparseActivations, w: &Matrix, bias: &[f32]) -> Matrix;

    /// `out += acts[:, directions] w[directions]`; `values` in the pattern's order, `w` is `[directions, d_in]`.
    fn sparse_product(
        &self,
        pattern: &ByDirection,
        values: &[f32],
        directions: Range<usize>,
        w: &Matrix,
        out: &mut Matrix,
    );

    /// `rows[position] · w[direction]` at every entry of `directions`, in the pattern's order.
    fn sampled_product(&self, pattern: &ByDirection, directions: Range<usize>, rows: &Matrix, w: &Matrix) -> Vec<f32>;

    /// One step of Adam on weights `[directions, d_in]` whose gradient is the sum of `terms`, less `along[direction]` times
    /// the row itself where that is given. `moments` are Adam's two, of the weights' shape.
    fn descend(&self, w: &mut Matrix, moments: [&mut Matrix; 2], terms: &[Outer], along: Option<&[f32]>, adam: Adam);

    /// Divides every row by its length; rows of zeros stay.
    fn normalise_rows(&self, w: &mut Matrix);

    /// `Σ weight × row`.
    fn weighted_sum(&self, rows: &Matrix, weights: &[f32]) -> Vec<f32>;
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

    fn affine(&self, x: &Matrix, w: &Matrix, bias: &[f32]) -> Matrix {
        affine(x.view(), w.view(), bias)
    }

    fn layer_norm(&self, x: &Matrix, eps: f32) -> (Matrix, Vec<f32>) {
        let (mut out, mut scales) = (Matrix::zeros(x.rows(), x.columns()), vec![0.0; x.rows()]);
        let rows = out.data_mut().par_chunks_mut(x.columns().max(1)).with_min_len(ROWS);
        rows.zip(&mut scales).enumerate().for_each(|(i, (row, scale))| {
            row.copy_from_slice(x.row(i));
            *scale = norm::layer_norm(row, eps);
        });
        (out, scales)
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

    fn predict(&self, x: View, w: View, bias: &[f32], targets: &[(usize, u32)]) -> Vec<Predicted> {
        predict(x, w, bias, targets)
    }

    fn encode(&self, x: View, encoder: Encoder) -> Result<SparseActivations, NotFinite> {
        encode(x, encoder)
    }

    fn screen(&self, weights: &Matrix) -> Option<Screen> {
        Screen::new(weights)
    }

    fn sparse_product(
        &self,
        pattern: &ByDirection,
        values: &[f32],
        directions: Range<usize>,
        w: &Matrix,
        out: &mut Matrix,
    ) {
        gradient::sparse_product(pattern, values, directions, w, out);
    }

    fn sampled_product(&self, pattern: &ByDirection, directions: Range<usize>, rows: &Matrix, w: &Matrix) -> Vec<f32> {
        gradient::sampled_product(pattern, directions, rows, w)
    }

    fn descend(&self, w: &mut Matrix, moments: [&mut Matrix; 2], terms: &[Outer], along: Option<&[f32]>, adam: Adam) {
        gradient::descend(w, moments, terms, along, adam);
    }

    fn normalise_rows(&self, w: &mut Matrix) {
        gradient::normalise_rows(w);
    }

    fn weighted_sum(&self, rows: &Matrix, weights: &[f32]) -> Vec<f32> {
        gradient::weighted_sum(rows, weights)
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
