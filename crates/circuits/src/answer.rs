//! What changing an SAE's site does to the prediction of an answer: the last token of a prompt.

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::SparseActivations;
use directrix_model::{Ask, Model};
use directrix_sae::Sae;
use serde::Serialize;

use crate::batch::{BATCH, each_batch};
use crate::claim::{LossClaim, loss_claims, with_controls};
use crate::error::threshold;
use crate::{About, Change, Chosen, Claim, Effect, Interval, Matched, Result, Trial, effects};

/// The effect of ablating one direction on a loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SingleAblation {
    /// The direction.
    pub direction: usize,
    /// How much it raises the loss.
    #[serde(flatten)]
    pub loss_increase: Claim,
}

/// The effect of each direction, over the trials that `of` makes of it, beside that of their controls if `matched` is there to
/// draw them. Rows in the order of `directions`.
///
/// # Errors
/// As [`effects`], and those of `of`.
pub fn ablate_each<'a>(
    model: &Model,
    prompts: &Prompts,
    directions: &[u32],
    about: About,
    mut of: impl FnMut(u32) -> Result<Vec<Trial<'a>>>,
    matched: Option<&Matched>,
    watch: &Watch,
) -> Result<Vec<SingleAblation>> {
    let lists = directions.iter().map(|&direction| Ok((about, of(direction)?))).collect::<Result<Vec<_>>>()?;
    let claims = loss_claims(model, prompts, &lists, matched, watch)?;
    let row = |(&direction, LossClaim { claim, .. }): (&u32, LossClaim)| SingleAblation {
        direction: direction as usize,
        loss_increase: claim,
    };
    Ok(directions.iter().zip(claims).map(row).collect())
}

/// On which prompts [`single_ablations`] ablates a direction, and what draws its controls.
#[derive(Debug, Clone, Copy)]
pub struct ActivePrompts<'a> {
    /// Activations before the answer, one row per prompt.
    pub acts: &'a SparseActivations,
    /// It must be more active than this.
    pub above: f32,
    /// At most so many prompts, the first ones.
    pub limit: usize,
    /// What draws its controls, if there are to be any.
    pub matched: Option<&'a Matched>,
}

/// Ablates each direction alone, before the answer, on prompts on which it is active; controls as in [`ablate_each`]. Rows in the
/// order of `directions`.
///
/// # Errors
/// As [`effects`].
pub fn single_ablations(
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    directions: &[u32],
    chosen: Chosen,
    on: ActivePrompts,
    watch: &Watch,
) -> Result<Vec<SingleAblation>> {
    threshold("above", on.above)?;
    let (change, over) = ("ablated alone before the answer", "prompts on which they are active");
    let about = About { chosen, change, measure: "loss_increase", unit: "nats", over };
    let of = |direction| {
        let active = (0..prompts.len()).filter(|prompt| on.acts.get(*prompt, direction) > on.above).take(on.limit);
        active.map(|prompt| Trial::answer(sae, prompts, prompt, Change::Ablate(vec![direction]))).collect()
    };
    ablate_each(model, prompts, directions, about, of, on.matched, watch)
}

/// What a change does to the prediction of the answer of one prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PromptEffect {
    /// The prompt.
    pub prompt: usize,
    /// Log-probability of the answer, nats.
    pub log_prob: f64,
    /// The same, changed.
    pub log_prob_changed: f64,
    /// Logit of the answer.
    pub logit: f32,
    /// The same, changed.
    pub logit_changed: f32,
    /// Tokens with a higher logit than the answer.
    pub rank: usize,
    /// The same, changed.
    pub rank_changed: usize,
}

impl PromptEffect {
    /// The same change before the answer of each prompt.
    ///
    /// # Errors
    /// As [`effects`].
    pub fn of(
        model: &Model,
        sae: &Sae,
        prompts: &Prompts,
        change: &Change,
        watch: &Watch,
    ) -> Result<Vec<PromptEffect>> {
        let trials: Vec<Trial> = (0..prompts.len())
            .map(|prompt| Trial::answer(sae, prompts, prompt, change.clone()))
            .collect::<Result<_>>()?;
        PromptEffect::of_trials(model, prompts, &trials, watch)
    }

    /// The same change, then the same along random rows, then of random directions; none of the last two for a change that is
    /// no ablation.
    ///
    /// # Errors
    /// As [`effects`].
    pub fn with_controls(
        model: &Model,
        sae: &Sae,
        prompts: &Prompts,
        change: &Change,
        matched: &Matched,
        watch: &Watch,
    ) -> Result<[Vec<PromptEffect>; 3]> {
        let answer = |prompt| Trial::answer(sae, prompts, prompt, change.clone());
        let trials = (0..prompts.len()).map(answer).collect::<Result<Vec<_>>>()?;
        let trials = with_controls(&trials, Some(matched));
        let mut effects = PromptEffect::of_trials(model, prompts, &trials.concat(), watch)?.into_iter();
        Ok(trials.each_ref().map(|trials| effects.by_ref().take(trials.len()).collect()))
    }

    fn of_trials(model: &Model, prompts: &Prompts, trials: &[Trial], watch: &Watch) -> Result<Vec<PromptEffect>> {
        let row = |(trial, effect): (&Trial, Effect)| {
            let [before, after] = [effect.before.prediction()?, effect.after.prediction()?];
            Ok(PromptEffect {
                prompt: trial.prompt,
                log_prob: before.log_prob,
                log_prob_changed: after.log_prob,
                logit: before.logit,
                logit_changed: after.logit,
                rank: before.rank,
                rank_changed: after.rank,
            })
        };
        trials.iter().zip(effects(model, prompts, trials, watch)?).map(row).collect()
    }
}

/// `Σ part / Σ whole` over `n` prompts, both of the same prompts, with its bootstrapped interval.
pub fn share_of_means(part: impl Fn(usize) -> f64, whole: impl Fn(usize) -> f64, n: usize) -> (f64, Interval) {
    let ratio = |prompts: &[usize]| {
        prompts.iter().map(|i| part(*i)).sum::<f64>() / prompts.iter().map(|i| whole(*i)).sum::<f64>()
    };
    (ratio(&(0..n).collect::<Vec<_>>()), Interval::bootstrap(n, ratio))
}

/// The mean of what an SAE writes: over the positions of each prompt, then over prompts. `[d_out]`.
///
/// # Errors
/// As [`Model::run`].
pub fn mean_site(model: &Model, sae: &Sae, prompts: &Prompts, watch: &Watch) -> Result<Vec<f32>> {
    let (hook, columns) = (sae.site().writes.hook, sae.site().writes.columns());
    let mut mean = vec![0.0_f64; columns.len()];
    each_batch(prompts, BATCH, "mean of the site", watch, |part, _| {
        let run = model.run(&part, &Ask::capture([hook]).watched(watch), &[])?;
        for bounds in part.offsets().windows(2) {
            let weight = 1.0 / ((bounds[1] - bounds[0]) as f64 * prompts.len() as f64);
            for row in bounds[0]..bounds[1] {
                let values = &run.captured(hook).row(row)[columns.clone()];
                mean.iter_mut().zip(values).for_each(|(m, &x)| *m += x as f64 * weight);
            }
        }
        Ok(())
    })?;
    Ok(mean.into_iter().map(|m| m as f32).collect())
}

/// The losses of the answers with the site before them changed in five ways, nats; one of each per prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerLosses {
    /// Unchanged.
    pub original: Vec<f64>,
    /// Site replaced by its mean.
    pub mean: Vec<f64>,
    /// Site replaced by zero.
    pub zero: Vec<f64>,
    /// Directions ablated.
    pub directions: Vec<f64>,
    /// Site replaced by the SAE's reconstruction.
    pub sae: Vec<f64>,
}

impl AnswerLosses {
    /// The losses of the last tokens of `prompts`; `mean` is that of what the SAE writes, `[d_out]`.
    ///
    /// # Errors
    /// As [`effects`].
    pub fn of(
        model: &Model,
        sae: &Sae,
        prompts: &Prompts,
        directions: &[u32],
        mean: &[f32],
        watch: &Watch,
    ) -> Result<AnswerLosses> {
        let changes = [
            Change::None,
            Change::Replace(mean.into()),
            Change::Zero,
            Change::Ablate(directions.to_vec()),
            Change::Reconstruct { without: Vec::new() },
        ];
        let trials: Vec<Trial> = (0..prompts.len())
            .flat_map(|prompt| changes.iter().map(move |change| Trial::answer(sae, prompts, prompt, change.clone())))
            .collect::<Result<_>>()?;
        let effects = effects(model, prompts, &trials, watch)?;
        let of = |kind: usize| -> Result<Vec<f64>> {
            effects.iter().skip(kind).step_by(changes.len()).map(|e| e.after.loss()).collect()
        };
        Ok(AnswerLosses { original: of(0)?, mean: of(1)?, zero: of(2)?, directions: of(3)?, sae: of(4)? })
    }

    /// `(zero − sae) / (zero − original)`, of mean losses over prompts, with its bootstrapped interval.
    pub fn recovered(&self) -> (f64, Interval) {
        share_of_means(
            |prompt| self.zero[prompt] - self.sae[prompt],
            |prompt| self.zero[prompt] - self.original[prompt],
            self.original.len(),
        )
    }

    /// How much of the loss that replacing the site by its mean adds the directions add: `(directions − original) / (mean −
    /// original)`, of mean losses over prompts, with its bootstrapped interval.
    pub fn of_the_site(&self) -> (f64, Interval) {
        share_of_means(
            |prompt| self.directions[prompt] - self.original[prompt],
            |prompt| self.mean[prompt] - self.original[prompt],
            self.original.len(),
        )
    }
}
