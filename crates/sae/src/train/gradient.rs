//! The gradient of a batch, in the form it is found in.

use directrix_kernels::{ByDirection, Matrix, Outer};
use rayon::prelude::*;

use super::objective::{Extras, Revived};
use super::report::StepReport;
use super::trainer::Errors;

/// The gradient of the loss of a batch. That of encoder and decoder stays in factors, entries times rows, so that a
/// [step](super::Trainer::step) never stores it; [`w_enc`](Gradient::w_enc) and [`w_dec`](Gradient::w_dec) form it.
#[derive(Debug)]
pub struct Gradient {
    /// What was found of the batch.
    pub report: StepReport,
    /// Of the encoder's bias, `[directions]`.
    pub b_enc: Vec<f32>,
    /// Of the decoder's bias, `[d_in]`.
    pub b_dec: Vec<f32>,
    /// Of what the objective trains beside, `[directions]` each.
    pub extras: Extras,
    /// `x - b_dec`, `[positions, d_in]`.
    pub(super) x: Matrix,
    /// Where the entries are.
    pub(super) pattern: ByDirection,
    /// Activations, in the pattern's order.
    pub(super) acts: Vec<f32>,
    /// Activations times the loss's derivative by a position's error.
    pub(super) scaled: Vec<f32>,
    /// The loss's derivative by `x W_enc`.
    pub(super) entries: Vec<f32>,
    /// The errors by groups of directions.
    pub(super) errors: Errors,
    pub(super) revived: Option<Revived>,
    /// The component of each decoder row's gradient along the row.
    pub(super) along: Vec<f32>,
    /// What the objective keeps of the batches so far, this one included.
    pub(super) running: Vec<f32>,
}

impl Gradient {
    /// Of the encoder, `[directions, d_in]`.
    pub fn w_enc(&self) -> Matrix {
        formed(&self.encoder(), self.b_enc.len(), self.x.columns())
    }

    /// Of the decoder, `[directions, d_in]`, at the rows `w_dec` that it was found at: what is along a row is taken out, as
    /// rows keep their length.
    pub fn w_dec(&self, w_dec: &Matrix) -> Matrix {
        let mut gradient = formed(&self.decoder(), w_dec.rows(), w_dec.columns());
        let rows = gradient.data_mut().par_chunks_mut(w_dec.columns().max(1));
        rows.zip(&self.along).enumerate().for_each(|(direction, (row, along))| {
            row.iter_mut().zip(w_dec.row(direction)).for_each(|(g, w)| *g -= along * w);
        });
        gradient
    }

    /// The encoder's gradient in factors.
    pub(super) fn encoder(&self) -> Vec<Outer<'_>> {
        let all = 0..self.b_enc.len();
        let mut terms =
            vec![Outer { pattern: &self.pattern, values: &self.entries, rows: &self.x, directions: all.clone() }];
        if let Some(Revived { pattern, entries, .. }) = &self.revived {
            terms.push(Outer { pattern, values: entries, rows: &self.x, directions: all });
        }
        terms
    }

    /// The decoder's gradient in factors, with what is along its rows.
    pub(super) fn decoder(&self) -> Vec<Outer<'_>> {
        let mut terms: Vec<Outer> = self
            .errors
            .iter()
            .map(|(directions, rows)| Outer {
                pattern: &self.pattern,
                values: &self.scaled,
                rows,
                directions: directions.clone(),
            })
            .collect();
        if let Some(Revived { pattern, scaled, error, .. }) = &self.revived {
            terms.push(Outer { pattern, values: scaled, rows: error, directions: 0..self.b_enc.len() });
        }
        terms
    }
}

/// The sum of factors as a matrix, `[directions, columns]`.
fn formed(terms: &[Outer], directions: usize, columns: usize) -> Matrix {
    let mut sum = Matrix::zeros(directions, columns);
    sum.data_mut().par_chunks_mut(columns.max(1)).enumerate().for_each(|(direction, sum)| {
        for term in terms.iter().filter(|term| term.directions.contains(&direction)) {
            let entries = term.pattern.range(direction);
            for (&position, &value) in term.pattern.positions()[entries.clone()].iter().zip(&term.values[entries]) {
                sum.iter_mut().zip(term.rows.row(position as usize)).for_each(|(s, x)| *s = value.mul_add(*x, *s));
            }
        }
    });
    sum
}
