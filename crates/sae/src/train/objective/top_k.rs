//! TopK.

use std::sync::Arc;

use directrix_kernels::{Keep, Matrix};

use super::{Aux, Batch, Encoded, Extras, Listed, Objective, Terms};
use crate::train::recipe::Recipe;
use crate::train::trainer::Trainer;
use crate::{Architecture, Parameters, Result};

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

/// Nothing, where an SAE that is not gated is gone on from.
pub(super) fn unless_gated(sae: &Parameters) -> Option<Extras> {
    (!matches!(sae.architecture, Architecture::Gated { .. })).then(Extras::new)
}

impl Objective for TopK {
    fn has_coefficient(&self) -> bool {
        false
    }

    fn extras_of(&self, sae: &Parameters) -> Option<Extras> {
        unless_gated(sae)
    }

    fn architecture(&self, _trainer: &Trainer) -> Architecture {
        Architecture::TopK { k: self.k }
    }

    fn encode(&self, trainer: &Trainer, x: &Matrix) -> Result<Encoded> {
        Ok(Encoded::plain(trainer.pre_activations(x, Keep::Largest(self.k))?))
    }

    fn add_terms(&self, trainer: &Trainer, batch: &Batch, terms: &mut Terms) -> Result<()> {
        self.aux.revive(trainer, batch, terms)
    }
}
