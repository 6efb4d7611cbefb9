//! Tokens that a direction promotes and suppresses.

use std::collections::BTreeSet;

use directrix_corpus::Prompts;
use directrix_kernels::Matrix;
use directrix_model::{Ask, HookPoint, Model, Positions, batches};
use directrix_sae::Sae;

use crate::effects::{BATCH, Bench, Changed};
use crate::{Change, Error, Result};

/// Mean log-probabilities of every token with and without a direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Boosts {
    /// Unchanged, `[d_vocab]`: mean over prompts, at the position before the last.
    pub on: Vec<f64>,
    /// With the direction ablated there.
    pub off: Vec<f64>,
}

/// Mean log-probability of every token before the answer, with and without `direction` ablated there.
///
/// # Errors
/// If a prompt has fewer than two positions, or as [`Model::run`].
pub fn log_prob_boosts(model: &Model, sae: &Sae, direction: u32, prompts: &Prompts) -> Result<Boosts> {
    let vocabulary = model.config().d_vocab;
    let (mut on, mut off) = (vec![0.0; vocabulary], vec![0.0; vocabulary]);
    if let Some(prompt) = prompts.iter().position(|p| p.len() < 2) {
        return Err(Error::Short { prompt });
    }
    // Whole rows of logits are held, so batches are small.
    for batch in batches(prompts, BATCH) {
        let part = prompts.range(batch);
        let positions: Vec<usize> = part.iter().map(|p| p.len() - 2).collect();
        let each = positions.iter().map(|p| vec![*p]).collect();
        let ask = Ask::nothing().with_logits(Positions::FromEnd(2));
        let bench = Bench::new(model, sae, part, each, HookPoint::UnembedIn, ask)?;
        let unchanged = bench.session.run().logits();
        add_log_probs(unchanged, &mut on);
        let change = Change::Ablate(vec![direction]);
        let changed = |(prompt, &p): (usize, &usize)| Changed { prompt, positions: p..p + 1, change: &change };
        let changes: Vec<Changed> = positions.iter().enumerate().map(changed).collect();
        let ask = |_: &[_]| Ask::nothing().with_logits(Positions::FromEnd(1));
        let mut inactive: BTreeSet<usize> = (0..positions.len()).collect();
        bench.resume(&changes, ask, |group, run| {
            add_log_probs(run.logits(), &mut off);
            group.iter().for_each(|(prompt, _)| _ = inactive.remove(prompt));
            Ok(())
        })?;
        let inactive: Vec<usize> = inactive.into_iter().collect();
        add_log_probs(&unchanged.gather(inactive.into_iter()), &mut off);
    }
    let n = prompts.len() as f64;
    on.iter_mut().chain(&mut off).for_each(|x| *x /= n);
    Ok(Boosts { on, off })
}

fn add_log_probs(logits: &Matrix, to: &mut [f64]) {
    for (row, sum) in logits.iter_rows().zip(directrix_kernels::log_sum_exp(logits)) {
        to.iter_mut().zip(row).for_each(|(t, &logit)| *t += logit as f64 - sum);
    }
}

/// What a direction adds to every token's logit per unit of activation, by its weights alone: `W_dec W_out W_U`,
/// `[d_vocab]`, LayerNorm's scale not applied.
///
/// # Errors
/// If the site does not write to the residual stream.
pub fn logit_boosts(model: &Model, sae: &Sae, direction: u32) -> Result<Vec<f32>> {
    let decoder = sae.w_dec().gather([direction as usize].into_iter());
    let written = sae.to_residual(model, &decoder)?;
    let w_u = &model.weights().w_u;
    let mut boosts = Matrix::zeros(1, w_u.columns());
    directrix_kernels::product(written.view(), w_u.view(), &mut boosts, false);
    Ok(boosts.into_data())
}
