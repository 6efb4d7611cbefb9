//! BatchTopK.

use std::sync::Arc;

use directrix_kernels::{Keep, Matrix, SparseActivations};

use super::{Aux, Batch, Encoded, Listed, Objective, Terms};
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

    fn architecture(&self, trainer: &Trainer) -> Architecture {
        Architecture::JumpRelu { threshold: vec![threshold(trainer).unwrap_or(0.0); trainer.directions()] }
    }

    fn encode(&self, trainer: &Trainer, x: &Matrix) -> Result<Encoded> {
        let (wanted, running) = (self.k * x.rows(), threshold(trainer));
        let above = |least: f32| trainer.pre_activations(x, Keep::Above(&vec![least; trainer.directions()]));
        // Few are above the running threshold's neighbourhood; if too few, look lower.
        let mut least = running.map_or(0.0, |t| 0.8 * t);
        let mut candidates = above(least)?;
        while candidates.active() < wanted && least > 0.0 {
            least = if least > 1e-3 { 0.5 * least } else { 0.0 };
            candidates = above(least)?;
        }
        let pre = largest(&candidates, wanted);
        let smallest = pre.values().iter().copied().reduce(f32::min);
        let moved = |smallest: f32| running.map_or(smallest, |t| t + THRESHOLD_RATE * (smallest - t));
        let running = smallest.map(moved).or(running).into_iter().collect();
        Ok(Encoded { running, ..Encoded::plain(pre) })
    }

    fn add_terms(&self, trainer: &Trainer, batch: &Batch, terms: &mut Terms) -> Result<()> {
        self.aux.revive(trainer, batch, terms)
    }
}

/// The `wanted` largest entries; of equals the first.
fn largest(candidates: &SparseActivations, wanted: usize) -> SparseActivations {
    if candidates.active() <= wanted {
        return candidates.clone();
    }
    let values = candidates.values();
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let before = |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
    if wanted > 0 {
        order.select_nth_unstable_by(wanted - 1, before);
    }
    let mut keep = vec![false; values.len()];
    order[..wanted].iter().for_each(|i| keep[*i as usize] = true);
    let mut kept = SparseActivations::default();
    for position in 0..candidates.positions() {
        let first = candidates.indptr()[position];
        let (directions, values) = candidates.at(position);
        let entries = directions.iter().copied().zip(values.iter().copied()).enumerate();
        kept.push(entries.filter(|(i, _)| keep[first + i]).map(|(_, entry)| entry));
    }
    kept
}
