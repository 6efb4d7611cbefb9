//! A penalty on the activations of a ReLU SAE.

use std::sync::Arc;

use directrix_kernels::{Keep, Matrix};

use super::{Batch, Encoded, Extras, Listed, Objective, Penalty, PenaltyOver, Terms};
use crate::train::over::Over;
use crate::train::recipe::{Recipe, problem};
use crate::train::trainer::Trainer;
use crate::{Architecture, Parameters, Result};

pub(super) const LISTED: Listed = Listed { names: &Penalty::NAMES, make };

/// `mse + penalty`, ReLU.
#[derive(Debug, Clone, PartialEq)]
pub struct Relu {
    /// The penalty.
    pub penalty: Penalty,
    /// Its coefficients, as many as it takes.
    pub coefficient: Vec<f64>,
    /// What its sums over positions are.
    pub over: PenaltyOver,
}

fn make(recipe: &Recipe, _directions: usize, _d_in: usize) -> Result<Arc<dyn Objective>> {
    let name = recipe.objective.as_str();
    let penalty: Penalty =
        serde_json::from_value(name.into()).map_err(|e| problem("objective", format!("`{name}`: {e}")))?;
    let (takes, given) = (penalty.coefficients(), recipe.coefficient.len());
    if takes != given {
        return Err(problem("coefficient", format!("`{name}` takes {takes} coefficients, not {given}")));
    }
    Ok(Arc::new(Relu { penalty, coefficient: recipe.coefficient.clone(), over: recipe.penalty_over }))
}

impl Objective for Relu {
    fn extras_of(&self, sae: &Parameters) -> Option<Extras> {
        (sae.architecture == Architecture::Relu).then(Extras::new)
    }

    fn exchanged(&self) -> (usize, usize) {
        (if self.penalty.is_by_position() { 2 * size_of::<f64>() } else { 0 }, 0)
    }

    fn architecture(&self, _trainer: &Trainer) -> Architecture {
        Architecture::Relu
    }

    fn encode(&self, trainer: &Trainer, x: &Matrix, over: Over) -> Result<Encoded> {
        Ok(Encoded::plain(trainer.pre_activations(x, Keep::Positive, over)?))
    }

    fn add_terms(&self, trainer: &Trainer, batch: &Batch, terms: &mut Terms) -> Result<()> {
        let coefficients: Vec<f64> = self.coefficient.iter().map(|c| c * batch.coefficient_scale).collect();
        let (acts, directions) = (&batch.encoded.pre, trainer.all);
        let (value, gradient) = self.penalty.found(acts, directions, &coefficients, self.over, batch.over)?;
        terms.penalty = value;
        terms.entries.iter_mut().zip(batch.pattern.arrange(&gradient)).for_each(|(g, p)| *g += p);
        Ok(())
    }
}
