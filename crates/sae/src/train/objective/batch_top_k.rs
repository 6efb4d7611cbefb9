//! BatchTopK.

use std::sync::Arc;

use directrix_kernels::{Keep, Matrix};

use super::{Aux, Batch, Encoded, Listed, Objective, Terms};
use crate::train::over::Over;
use crate::train::recipe::Recipe;
use crate::train::trainer::Trainer;
use crate::{Architecture, Result};

pub(super) const LISTED: Listed = Listed { names: &["batch_topk"], make };

/// Weight of the newest batch in the running threshold.
const THRESHOLD_RATE: f32 = 0.01;

/// Only the `k × batch` largest activations of a batch are kept (Bussmann, Leask and Nanda 2024). It is saved as JumpReLU with
/// one threshold: the running mean of the smallest kept activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchTopK {
    /// Active directions per position, on average.
    pub k: usize,
    /// Help for dead directions.
    pub aux: Aux,
}

fn make(recipe: &Recipe, directions: usize, d_in: usize) -> Result<Arc<dyn Objective>> {
    Ok(Arc::new(BatchTopK { k: recipe.active(directions)?, aux: recipe.aux(d_in) }))
}

/// The running threshold, once there was a batch.
fn threshold(trainer: &Trainer) -> Option<f32> {
    trainer.running.first().copied()
}

impl Objective for BatchTopK {
    fn has_coefficient(&self) -> bool {
        false
    }

    fn exchanged(&self) -> (usize, usize) {
        (size_of::<u32>() + size_of::<f32>() * self.k, 0)
    }

    fn architecture(&self, trainer: &Trainer) -> Architecture {
        Architecture::JumpRelu { threshold: vec![threshold(trainer).unwrap_or(0.0); trainer.directions()] }
    }

    fn encode(&self, trainer: &Trainer, x: &Matrix, over: Over) -> Result<Encoded> {
        let (wanted, running) = (self.k * x.rows(), threshold(trainer));
        let above = |least: f32| trainer.largest(x, Keep::Above(&vec![least; trainer.directions()]), wanted, over);
        // Few are above the running threshold's neighbourhood; if too few, look lower.
        let mut least = running.map_or(0.0, |t| 0.8 * t);
        let mut candidates = above(least)?;
        while least > 0.0 && over.total(candidates.active() as f64)? < wanted as f64 {
            least = if least > 1e-3 { 0.5 * least } else { 0.0 };
            candidates = above(least)?;
        }
        let (pre, smallest) = over.largest(wanted, candidates)?;
        let moved = |smallest: f32| running.map_or(smallest, |t| t + THRESHOLD_RATE * (smallest - t));
        let running = smallest.map(moved).or(running).into_iter().collect();
        Ok(Encoded { running, ..Encoded::plain(pre) })
    }

    fn add_terms(&self, trainer: &Trainer, batch: &Batch, terms: &mut Terms) -> Result<()> {
        self.aux.revive(trainer, batch, terms)
    }
}
