//! JumpReLU.

use std::sync::Arc;

use directrix_kernels::{Keep, Matrix};

use super::{Batch, Encoded, Extras, Listed, Objective, Terms};
use crate::train::over::Over;
use crate::train::recipe::{Recipe, problem};
use crate::train::trainer::Trainer;
use crate::{Architecture, Parameters, Result};

pub(super) const LISTED: Listed = Listed { names: &["jumprelu"], make };

const LOG_THRESHOLD: &str = "log_threshold";
/// Least threshold that is gone on from: there is no logarithm of 0.
const LEAST: f32 = 1e-6;

/// A trained threshold per direction: `mse + coefficient × mean L0`, straight-through estimators of width `bandwidth`
/// (Rajamanoharan et al. 2024, "Jumping Ahead"). Trains `log_threshold`, the thresholds' logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JumpRelu {
    /// Weight of L0.
    pub coefficient: f64,
    /// Width of the kernel around the threshold.
    pub bandwidth: f64,
    /// Every direction's first threshold.
    pub threshold: f64,
}

fn make(recipe: &Recipe, _directions: usize, _d_in: usize) -> Result<Arc<dyn Objective>> {
    let Recipe { bandwidth, threshold, .. } = *recipe;
    if bandwidth > 0.0 && threshold > 0.0 {
        return Ok(Arc::new(JumpRelu { coefficient: recipe.one_coefficient()?, bandwidth, threshold }));
    }
    Err(problem("bandwidth", "bandwidth and threshold must be above 0"))
}

fn thresholds(trainer: &Trainer) -> Vec<f32> {
    trainer.extras[LOG_THRESHOLD].value.iter().map(|t| t.exp()).collect()
}

impl Objective for JumpRelu {
    fn extras(&self, directions: usize) -> Extras {
        Extras::from([(LOG_THRESHOLD, vec![self.threshold.ln() as f32; directions])])
    }

    fn extras_of(&self, sae: &Parameters) -> Option<Extras> {
        match &sae.architecture {
            Architecture::Relu => Some(self.extras(sae.w_dec.rows())),
            Architecture::JumpRelu { threshold } => {
                Some(Extras::from([(LOG_THRESHOLD, threshold.iter().map(|t| t.max(LEAST).ln()).collect())]))
            }
            Architecture::TopK { .. } | Architecture::Gated { .. } => None,
        }
    }

    fn architecture(&self, trainer: &Trainer) -> Architecture {
        Architecture::JumpRelu { threshold: thresholds(trainer) }
    }

    fn encode(&self, trainer: &Trainer, x: &Matrix, over: Over) -> Result<Encoded> {
        let thresholds = thresholds(trainer);
        if let Some(direction) = thresholds.iter().position(|t| !t.is_finite()) {
            return Err(trainer.diverged(format!("the threshold of direction {}", trainer.first + direction)));
        }
        let least: Vec<f32> = thresholds.iter().map(|t| t - 0.5 * self.bandwidth as f32).collect();
        let pre = trainer.pre_activations(x, Keep::Above(&least), over)?;
        let above = |(&d, &x): (&u32, &f32)| if x > thresholds[d as usize] { x } else { 0.0 };
        Ok(Encoded { acts: pre.directions().iter().zip(pre.values()).map(above).collect(), pre, running: Vec::new() })
    }

    /// The straight-through gradient of the thresholds' logarithms; activations' gradients become those of pre-activations.
    fn add_terms(&self, trainer: &Trainer, batch: &Batch, terms: &mut Terms) -> Result<()> {
        let weight = batch.weight(self.coefficient);
        terms.penalty = weight * batch.over.total(batch.encoded.active() as f64)?;
        let pre = batch.pattern.arrange(batch.encoded.pre.values());
        let thresholds = thresholds(trainer);
        let mut gradient = vec![0.0; trainer.directions()];
        for (direction, (total, threshold)) in gradient.iter_mut().zip(thresholds).enumerate() {
            let mut sum = 0.0_f64;
            for i in batch.pattern.range(direction) {
                if ((pre[i] - threshold).abs() as f64) < 0.5 * self.bandwidth {
                    sum -= (threshold * terms.entries[i]) as f64 + weight;
                }
                if batch.acts[i] == 0.0 {
                    terms.entries[i] = 0.0;
                }
            }
            *total = (sum / self.bandwidth) as f32 * threshold;
        }
        terms.extras = Extras::from([(LOG_THRESHOLD, gradient)]);
        Ok(())
    }
}
