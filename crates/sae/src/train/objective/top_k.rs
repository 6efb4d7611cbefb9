//! TopK.

use std::sync::Arc;

use directrix_kernels::{Keep, Matrix};

use super::{Aux, Batch, Encoded, Listed, Objective, Terms};
use crate::train::over::Over;
use crate::train::recipe::Recipe;
use crate::train::trainer::Trainer;
use crate::{Architecture, Result};

pub(super) const LISTED: Listed = Listed { names: &["topk"], make };

/// Only the `k` largest activations of a position are kept (Gao et al. 2024).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopK {
    /// Active directions per position.
    pub k: usize,
    /// Help for dead directions.
    pub aux: Aux,
}

fn make(recipe: &Recipe, directions: usize, d_in: usize) -> Result<Arc<dyn Objective>> {
    Ok(Arc::new(TopK { k: recipe.active(directions)?, aux: recipe.aux(d_in) }))
}

impl Objective for TopK {
    fn has_coefficient(&self) -> bool {
        false
    }

    fn exchanged(&self) -> (usize, usize) {
        (size_of::<u32>() + size_of::<f32>() * self.k, 0)
    }

    fn architecture(&self, _trainer: &Trainer) -> Architecture {
        Architecture::TopK { k: self.k }
    }

    fn encode(&self, trainer: &Trainer, x: &Matrix, over: Over) -> Result<Encoded> {
        Ok(Encoded::plain(trainer.pre_activations(x, Keep::Largest(self.k), over)?))
    }

    fn add_terms(&self, trainer: &Trainer, batch: &Batch, terms: &mut Terms) -> Result<()> {
        self.aux.revive(trainer, batch, terms)
    }
}
