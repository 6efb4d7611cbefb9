//! What training minimises, each objective in a file of its own.
//!
//! All minimise `mse`, the squared error summed over `d_in`, mean over the batch. An [`Objective`] says beside that which
//! entries of a batch fire, what is added to the loss and to the gradient, which numbers it needs kept beside weights and
//! biases, and which architecture it makes. To add one is a file here and a line in the list below.

mod aux;
mod batch_top_k;
mod gated;
mod jump_relu;
mod matryoshka;
mod penalty;
mod relu;
mod top_k;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use directrix_kernels::{ByDirection, Matrix, SparseActivations};
use rayon::prelude::*;

use super::over::Over;
use super::parameter::Numbers;
use super::recipe::{Recipe, problem};
use super::trainer::Trainer;
use crate::{Architecture, Parameters, Result};

pub use aux::Aux;
pub use batch_top_k::BatchTopK;
pub use gated::Gated;
pub use jump_relu::JumpRelu;
pub use matryoshka::Matryoshka;
pub use penalty::{Penalty, PenaltyOver};
pub use relu::Relu;
pub use top_k::TopK;

pub(super) use aux::Revived;

/// The objectives, as recipes name them.
const OBJECTIVES: [Listed; 6] =
    [relu::LISTED, top_k::LISTED, batch_top_k::LISTED, matryoshka::LISTED, jump_relu::LISTED, gated::LISTED];

/// An objective as recipes name it.
struct Listed {
    names: &'static [&'static str],
    /// Of a recipe with one of these names, for so many directions and inputs.
    make: fn(&Recipe, usize, usize) -> Result<Arc<dyn Objective>>,
}

/// The objective that a recipe names, for an SAE of these dimensions.
pub(super) fn named(recipe: &Recipe, directions: usize, d_in: usize) -> Result<Arc<dyn Objective>> {
    let name = recipe.objective.as_str();
    let Some(listed) = OBJECTIVES.iter().find(|listed| listed.names.contains(&name)) else {
        let names: Vec<&str> = OBJECTIVES.iter().flat_map(|listed| listed.names).copied().collect();
        return Err(problem("objective", format!("there is no `{name}`; choose of {}", names.join(", "))));
    };
    (listed.make)(recipe, directions, d_in)
}

/// Numbers for each direction that only some objectives have, by name.
pub type Extras = BTreeMap<&'static str, Vec<f32>>;

/// What an SAE is trained for, beside reconstructing.
pub trait Objective: fmt::Debug + Send + Sync {
    /// Whether a coefficient sets its sparsity, and not a number of active directions.
    fn has_coefficient(&self) -> bool {
        true
    }

    /// The prefixes of the directions that each have to reconstruct, as numbers of directions: ascending, the last all. The
    /// loss has the sum of their errors.
    fn prefixes(&self, directions: usize) -> Vec<usize> {
        vec![directions]
    }

    /// What it trains beside weights and biases, as it begins, `[directions]` each.
    fn extras(&self, _directions: usize) -> Extras {
        Extras::new()
    }

    /// The same as an SAE has it, to go on from; `None` if it cannot go on from such an SAE.
    fn extras_of(&self, sae: &Parameters) -> Option<Extras> {
        (!matches!(sae.architecture, Architecture::Gated { .. })).then(Extras::new)
    }

    /// Sets what it trains beside weights and biases for a direction that begins anew.
    fn renew(&self, _extras: &mut BTreeMap<&'static str, Numbers>, _direction: usize) {}

    /// What several ranks exchange of each position beside what any objective needs: where each holds some of the
    /// directions, the bytes that one gives the others at most; and how many errors, rows of `d_in` numbers, are found
    /// beside those of the prefixes.
    fn exchanged(&self) -> (usize, usize) {
        (0, 0)
    }

    /// The architecture of the SAE that it makes.
    fn architecture(&self, trainer: &Trainer) -> Architecture;

    /// What of a batch may matter after the encoder, of the directions that the trainer holds. `x` is `[positions, d_in]`,
    /// `b_dec` already taken from it.
    ///
    /// # Errors
    /// If a pre-activation or activation is not finite, or a rank is gone.
    fn encode(&self, trainer: &Trainer, x: &Matrix, over: Over) -> Result<Encoded>;

    /// Adds to the loss and its gradient what it minimises beside the errors. The loss is that of all directions, the
    /// gradient of those that the trainer holds.
    ///
    /// # Errors
    /// If a number is not finite, or a rank is gone.
    fn add_terms(&self, trainer: &Trainer, batch: &Batch, terms: &mut Terms) -> Result<()>;
}

/// A batch's entries after the encoder, in the order of [`SparseActivations`].
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Pre-activations, or for gated SAEs the gates', where one may matter.
    pub pre: SparseActivations,
    /// Activations beside them; 0 where the direction does not fire.
    pub acts: Vec<f32>,
    /// What the objective keeps of the batches so far, this one included.
    pub running: Vec<f32>,
}

impl Encoded {
    /// Entries whose activations are their pre-activations.
    fn plain(pre: SparseActivations) -> Encoded {
        Encoded { acts: pre.values().to_vec(), pre, running: Vec::new() }
    }

    /// Number of entries that fire.
    pub fn active(&self) -> usize {
        self.acts.iter().filter(|a| **a > 0.0).count()
    }
}

/// A batch in a step, encoded and reconstructed.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// `x - b_dec`, `[positions, d_in]`.
    pub x: &'a Matrix,
    /// Its entries.
    pub encoded: &'a Encoded,
    /// Their places, direction after direction.
    pub pattern: &'a ByDirection,
    /// Their activations, in the pattern's order.
    pub acts: &'a [f32],
    /// `x̂ - x` of the reconstruction by all directions, `[positions, d_in]`.
    pub error: &'a Matrix,
    /// Factor on the objective's coefficients.
    pub coefficient_scale: f64,
    /// The ranks that it is divided over.
    pub over: Over<'a>,
}

impl Batch<'_> {
    /// A coefficient of a mean over positions, as a weight of each.
    fn weight(&self, coefficient: f64) -> f64 {
        coefficient * self.coefficient_scale / self.x.rows() as f64
    }

    /// The derivative of a squared error's mean over positions by the error.
    fn per_position(&self) -> f64 {
        per_position(self.x.rows())
    }
}

/// What a step gathers: the loss's terms and the gradient.
#[derive(Debug)]
pub struct Terms {
    /// What keeps activations few, times its coefficient.
    pub penalty: f64,
    /// The other terms, times their weights.
    pub aux: f64,
    /// For each entry, in the pattern's order, the derivative of the errors by its activation; the objective makes it that of
    /// the whole loss by `x W_enc`.
    pub entries: Vec<f32>,
    /// Gradient of the encoder's bias, where it is not the sum of a direction's `entries`.
    pub b_enc: Option<Vec<f32>>,
    /// Gradients of what the objective trains beside weights and biases.
    pub extras: Extras,
    /// Entries of dead directions beside those of the batch.
    pub(super) revived: Option<Revived>,
}

/// The derivative of a squared error's mean over `positions` by the error.
pub(super) fn per_position(positions: usize) -> f64 {
    2.0 / positions as f64
}

/// `-x`: the error of a reconstruction that is nothing yet.
pub(super) fn negated(x: &Matrix) -> Matrix {
    let mut negated = x.clone();
    negated.data_mut().par_iter_mut().for_each(|x| *x = -*x);
    negated
}

/// `Σ row²`, mean over rows.
pub(super) fn mean_square(rows: &Matrix) -> f64 {
    let columns = rows.columns().max(1);
    let sums: Vec<f64> =
        rows.data().par_chunks(columns).map(|row| row.iter().map(|x| (*x as f64).powi(2)).sum()).collect();
    sums.iter().sum::<f64>() / rows.rows().max(1) as f64
}
