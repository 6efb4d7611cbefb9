//! Help for dead directions.

use directrix_kernels::{ByDirection, Encoder, Keep, Matrix, SparseActivations};

use super::{Batch, Terms, mean_square};
use crate::Result;
use crate::train::trainer::Trainer;

/// The auxiliary loss that reconstructs the residual with dead directions (Gao et al. 2024, appendix A.2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aux {
    /// Its weight.
    pub coefficient: f64,
    /// How many dead directions it may use per position.
    pub k: usize,
    /// A direction is dead that has not fired at this many positions.
    pub dead_after: u64,
}

/// Entries of dead directions that reconstruct the residual, in their pattern's order.
#[derive(Debug)]
pub(in crate::train) struct Revived {
    pub(in crate::train) pattern: ByDirection,
    pub(in crate::train) acts: Vec<f32>,
    /// Activations times the loss's derivative by the error: what the decoder's gradient has of each position's error.
    pub(in crate::train) scaled: Vec<f32>,
    /// The loss's derivative by pre-activations.
    pub(in crate::train) entries: Vec<f32>,
    /// What they leave of the residual, `[positions, d_in]`.
    pub(in crate::train) error: Matrix,
}

impl Aux {
    /// Adds the auxiliary loss, if there are dead directions.
    pub(super) fn revive(&self, trainer: &Trainer, batch: &Batch, terms: &mut Terms) -> Result<()> {
        let dead: Vec<usize> = (0..trainer.directions()).filter(|d| trainer.silent()[*d] >= self.dead_after).collect();
        let over = batch.over;
        if self.coefficient == 0.0 || over.total(dead.len() as f64)? == 0.0 {
            return Ok(());
        }
        let weights = trainer.w_enc.value.gather(dead.iter().copied());
        let bias: Vec<f32> = dead.iter().map(|d| trainer.b_enc.value[*d]).collect();
        let encoder =
            Encoder { weights: weights.view().transposed(), bias: &bias, keep: Keep::Largest(self.k), screen: None };
        let diverged =
            |d: usize| trainer.diverged(format!("the pre-activation of direction {}", trainer.first + dead[d]));
        let pre = over.encode(batch.x, encoder, usize::MAX, diverged)?;
        let mut named = SparseActivations::default();
        for position in 0..pre.positions() {
            let (directions, values) = pre.at(position);
            named.push(directions.iter().map(|d| dead[*d as usize] as u32).zip(values.iter().copied()));
        }
        let (all, w_dec) = (0..trainer.directions(), &trainer.w_dec.value);
        let pattern = named.by_direction(trainer.directions());
        let acts = pattern.arrange(named.values());
        let error = over.add_product(batch.error.clone(), &pattern, &acts, all.clone(), w_dec)?;
        let dots = over.dots(&pattern, all, &error, w_dec)?;
        terms.aux += self.coefficient * mean_square(&error);
        let weight = (self.coefficient * batch.per_position()) as f32;
        let by_weight = |values: &[f32]| values.iter().map(|v| v * weight).collect();
        let (scaled, entries) = (by_weight(&acts), by_weight(&dots));
        terms.revived = Some(Revived { pattern, acts, scaled, entries, error });
        Ok(())
    }
}
