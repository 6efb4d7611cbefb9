//! Matryoshka.

use std::sync::Arc;

use directrix_kernels::Matrix;

use super::{Aux, Batch, BatchTopK, Encoded, Listed, Objective, Terms};
use crate::train::over::Over;
use crate::train::recipe::{Recipe, problem};
use crate::train::trainer::Trainer;
use crate::{Architecture, Result};

pub(super) const LISTED: Listed = Listed { names: &["matryoshka"], make };

/// BatchTopK whose first directions must reconstruct on their own: `Σ mse` over prefixes (Bussmann et al. 2025).
#[derive(Debug, Clone, PartialEq)]
pub struct Matryoshka {
    /// What it is without prefixes.
    pub whole: BatchTopK,
    /// Numbers of directions in each prefix, ascending; the last is all of them.
    pub widths: Vec<usize>,
}

impl Matryoshka {
    /// With `k` active directions per position, on average, and these prefixes.
    pub fn new(k: usize, widths: Vec<usize>, aux: Aux) -> Matryoshka {
        Matryoshka { whole: BatchTopK { k, aux }, widths }
    }
}

fn make(recipe: &Recipe, directions: usize, d_in: usize) -> Result<Arc<dyn Objective>> {
    let k = recipe.active(directions)?;
    Ok(Arc::new(Matryoshka::new(k, widths(recipe, directions)?, recipe.aux(d_in))))
}

fn widths(recipe: &Recipe, directions: usize) -> Result<Vec<usize>> {
    let given = &recipe.widths;
    if given.is_empty() {
        let mut widths: Vec<usize> = [16, 8, 4, 2, 1].iter().map(|part| (directions / part).max(1)).collect();
        widths.dedup();
        return Ok(widths);
    }
    if given.is_sorted_by(|a, b| a < b) && given[0] > 0 && given.ends_with(&[directions]) {
        return Ok(given.clone());
    }
    Err(problem("widths", format!("give ascending numbers of directions that end with all {directions}")))
}

impl Objective for Matryoshka {
    fn has_coefficient(&self) -> bool {
        false
    }

    fn prefixes(&self, _directions: usize) -> Vec<usize> {
        self.widths.clone()
    }

    fn exchanged(&self) -> (usize, usize) {
        self.whole.exchanged()
    }

    fn architecture(&self, trainer: &Trainer) -> Architecture {
        self.whole.architecture(trainer)
    }

    fn encode(&self, trainer: &Trainer, x: &Matrix, over: Over) -> Result<Encoded> {
        self.whole.encode(trainer, x, over)
    }

    fn add_terms(&self, trainer: &Trainer, batch: &Batch, terms: &mut Terms) -> Result<()> {
        self.whole.add_terms(trainer, batch, terms)
    }
}
