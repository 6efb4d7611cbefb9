//! Gated SAEs.

use std::collections::BTreeMap;
use std::sync::Arc;

use directrix_kernels::{Keep, Matrix};

use super::{Batch, Encoded, Extras, Listed, Objective, Terms, mean_square, negated};
use crate::train::over::Over;
use crate::train::parameter::Numbers;
use crate::train::recipe::Recipe;
use crate::train::trainer::Trainer;
use crate::{Architecture, Parameters, Result};

pub(super) const LISTED: Listed = Listed { names: &["gated"], make };

const R_MAG: &str = "r_mag";
const B_MAG: &str = "b_mag";

/// Which directions fire and how strongly come from two biases and a rescaling of one encoder (Rajamanoharan et al. 2024,
/// "Improving Dictionary Learning with Gated Sparse Autoencoders"), with its auxiliary reconstruction by the gates, which
/// moves neither decoder nor decoder bias. Trains `r_mag`, the logarithm of the magnitudes' share of the encoder, and `b_mag`,
/// their bias.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gated {
    /// Weight of the gates' L1 norm, mean over positions.
    pub coefficient: f64,
}

fn make(recipe: &Recipe, _directions: usize, _d_in: usize) -> Result<Arc<dyn Objective>> {
    Ok(Arc::new(Gated { coefficient: recipe.one_coefficient()? }))
}

impl Objective for Gated {
    fn extras(&self, directions: usize) -> Extras {
        [R_MAG, B_MAG].map(|name| (name, vec![0.0; directions])).into()
    }

    fn extras_of(&self, sae: &Parameters) -> Option<Extras> {
        match &sae.architecture {
            Architecture::Gated { r_mag, b_mag } => Some([(R_MAG, r_mag.clone()), (B_MAG, b_mag.clone())].into()),
            _ => None,
        }
    }

    fn renew(&self, extras: &mut BTreeMap<&'static str, Numbers>, direction: usize) {
        extras.values_mut().for_each(|numbers| numbers.renew(direction));
    }

    fn exchanged(&self) -> (usize, usize) {
        (0, 1)
    }

    fn architecture(&self, trainer: &Trainer) -> Architecture {
        let of = |name| trainer.extras[name].value.clone();
        Architecture::Gated { r_mag: of(R_MAG), b_mag: of(B_MAG) }
    }

    fn encode(&self, trainer: &Trainer, x: &Matrix, over: Over) -> Result<Encoded> {
        let pre = trainer.pre_activations(x, Keep::Positive, over)?;
        let [r_mag, b_mag] = [R_MAG, B_MAG].map(|name| &trainer.extras[name].value);
        let magnitude = |(&direction, &gate): (&u32, &f32)| {
            let d = direction as usize;
            let magnitude = (gate - trainer.b_enc.value[d]) * r_mag[d].exp() + b_mag[d];
            if magnitude.is_finite() {
                return Ok(magnitude.max(0.0));
            }
            Err(trainer.diverged(format!("the activation of direction {}", trainer.first + d)))
        };
        let acts = pre.directions().iter().zip(pre.values()).map(magnitude).collect::<Result<_>>()?;
        Ok(Encoded { acts, pre, running: Vec::new() })
    }

    /// The gates' L1 norm and reconstruction; activations' gradients become those of `x W_enc`.
    fn add_terms(&self, trainer: &Trainer, batch: &Batch, terms: &mut Terms) -> Result<()> {
        let Batch { pattern, acts, over, .. } = *batch;
        let weight = batch.weight(self.coefficient);
        let gates = pattern.arrange(batch.encoded.pre.values());
        terms.penalty = weight * over.total(gates.iter().map(|g| *g as f64).sum())?;
        let (all, w_dec) = (0..trainer.directions(), &trainer.w_dec.value);
        let error = over.add_product(negated(batch.x), pattern, &gates, all.clone(), w_dec)?;
        terms.aux += mean_square(&error);
        let dots = over.dots(pattern, all.clone(), &error, w_dec)?;

        let [mut r_mag, mut b_mag, mut b_gate] = [(); 3].map(|()| vec![0.0_f32; trainer.directions()]);
        for direction in all {
            let scale = trainer.extras[R_MAG].value[direction].exp();
            for i in pattern.range(direction) {
                let magnitude = if acts[i] > 0.0 { terms.entries[i] } else { 0.0 };
                let gate = weight as f32 + dots[i] * batch.per_position() as f32;
                r_mag[direction] += magnitude * (gates[i] - trainer.b_enc.value[direction]) * scale;
                b_mag[direction] += magnitude;
                b_gate[direction] += gate;
                terms.entries[i] = magnitude * scale + gate;
            }
        }
        terms.extras = [(R_MAG, r_mag), (B_MAG, b_mag)].into();
        terms.b_enc = Some(b_gate);
        Ok(())
    }
}
