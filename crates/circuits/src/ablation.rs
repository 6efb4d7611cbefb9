//! Directions of an SAE that are ablated in prompts, together or each alone.

use directrix_corpus::{Prompts, Watch};
use directrix_model::Model;
use directrix_sae::Sae;
use serde::Serialize;

use crate::{
    About, Activity, Change, Chosen, Claim, Effect, LossClaim, Matched, Result, SingleAblation, Trial, ablate_each,
    activity, effects, loss_claims,
};

/// Directions that are ablated in prompts, and where they are active there.
///
/// In a prompt in which none of them is active, ablating changes nothing; it is part of a mean where [all](AblationOptions::all) are, and where
/// the site is [reconstructed](AblationOptions::reconstruct).
#[derive(Debug, Clone)]
pub struct Ablation<'a> {
    model: &'a Model,
    sae: &'a Sae,
    prompts: &'a Prompts,
    options: AblationOptions,
    /// For each prompt, the directions that are active where it is changed.
    active: Vec<Vec<u32>>,
    matched: Matched,
}

/// What is ablated, where and how.
#[derive(Debug, Clone)]
pub struct AblationOptions {
    /// The directions.
    pub directions: Vec<u32>,
    /// The position that is changed of each prompt, whose answer is the token after it; none if every one is.
    pub positions: Option<Vec<usize>>,
    /// Whether the site is replaced by the SAE's reconstruction without the directions, instead of that they are subtracted.
    pub reconstruct: bool,
    /// Whether a mean is over all prompts, those too in which no direction is active.
    pub all: bool,
}

/// What directions do that are ablated together.
#[derive(Debug, Clone)]
pub struct Ablated {
    /// The mean loss increase.
    pub claim: Claim,
    /// Each prompt.
    pub prompts: AblatedPrompts,
}

/// What an ablation does to each prompt, in their order.
#[derive(Debug, Clone)]
pub enum AblatedPrompts {
    /// Of one position.
    At(Vec<AblatedAnswer>),
    /// Of every position.
    Everywhere(Vec<AblatedLoss>),
}

/// What an ablation at one position does to the prediction of the token after it; nothing where no direction is active.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AblatedAnswer {
    /// The prompt.
    #[serde(skip)]
    pub prompt: usize,
    /// The position.
    #[serde(skip)]
    pub position: usize,
    /// Whether a direction is active there.
    pub active: bool,
    /// Log-probability of the answer, nats.
    pub log_prob: f64,
    /// The same, ablated.
    pub log_prob_ablated: Option<f64>,
    /// Logit of the answer.
    pub logit: f32,
    /// The same, ablated.
    pub logit_ablated: Option<f32>,
    /// Tokens with a higher logit than the answer.
    pub rank: usize,
    /// The same, ablated.
    pub rank_ablated: Option<usize>,
    /// Rise of the answer's loss, nats.
    pub loss_increase: Option<f64>,
}

/// What an ablation at every position does to a prompt; nothing where no direction is active.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AblatedLoss {
    /// The prompt.
    pub prompt: usize,
    /// Whether a direction is active in it.
    pub active: bool,
    /// Mean loss over its positions, nats.
    pub loss: f64,
    /// The same, ablated.
    pub loss_ablated: Option<f64>,
    /// By how much it rises, nats.
    pub loss_increase: Option<f64>,
}

impl<'a> Ablation<'a> {
    /// Sees where the directions are active. Controls are random directions that fire at about as many positions of these prompts.
    ///
    /// # Errors
    /// As [`activity`]; if there is no such direction.
    pub fn new(
        model: &'a Model,
        sae: &'a Sae,
        prompts: &'a Prompts,
        options: AblationOptions,
        watch: &Watch,
    ) -> Result<Ablation<'a>> {
        for direction in &options.directions {
            sae.check(*direction as usize)?;
        }
        let changed = |prompt: usize| match &options.positions {
            Some(positions) => positions[prompt]..positions[prompt] + 1,
            None => 0..prompts.get(prompt).len().saturating_sub(1),
        };
        let Activity { active, matched } = activity(model, sae, prompts, changed, &options.directions, watch)?;
        Ok(Ablation { model, sae, prompts, options, active, matched })
    }

    /// The same with controls that `matched` draws.
    #[must_use]
    pub fn with_controls_of(self, matched: Matched) -> Ablation<'a> {
        Ablation { matched, ..self }
    }

    /// Each direction alone; a row is a direction, its mean over the prompts that it changes.
    ///
    /// # Errors
    /// As [`effects`].
    pub fn each(&self, watch: &Watch) -> Result<Vec<SingleAblation>> {
        let about = self.about(match (&self.options.positions, self.options.reconstruct) {
            (None, false) => "ablated alone at every position",
            (None, true) => "left out alone of the reconstruction at every position",
            (Some(_), false) => "ablated alone before the answer",
            (Some(_), true) => "left out alone of the reconstruction before the answer",
        });
        let of = |direction| self.trials(&[direction], true);
        let matched = Some(&self.matched);
        ablate_each(self.model, self.prompts, &self.options.directions, about, of, matched, watch)
    }

    /// All directions together.
    ///
    /// # Errors
    /// As [`effects`].
    pub fn together(&self, watch: &Watch) -> Result<Ablated> {
        let about = self.about(match (&self.options.positions, self.options.reconstruct) {
            (None, false) => "ablated at every position",
            (None, true) => "left out of the reconstruction at every position",
            (Some(_), false) => "ablated before the answer",
            (Some(_), true) => "left out of the reconstruction before the answer",
        });
        let directions = &self.options.directions;
        let trials = self.trials(directions, true)?;
        let mut claims = loss_claims(self.model, self.prompts, &[(about, trials)], Some(&self.matched), watch)?;
        let LossClaim { claim, effects: of_changed } = claims.remove(0);
        let of_others = effects(self.model, self.prompts, &self.trials(directions, false)?, watch)?;
        let (mut of_changed, mut of_others) = (of_changed.iter(), of_others.iter());
        let found = (0..self.prompts.len()).filter_map(|prompt| {
            let changed = self.changes(prompt, directions);
            let effect = if changed { of_changed.next() } else { of_others.next() };
            effect.map(|effect| (prompt, effect, changed))
        });
        let prompts = match &self.options.positions {
            Some(positions) => AblatedPrompts::At(
                found
                    .map(|(prompt, effect, changed)| self.answer(prompt, positions[prompt], effect, changed))
                    .collect::<Result<_>>()?,
            ),
            None => AblatedPrompts::Everywhere(
                found.map(|(prompt, effect, changed)| self.loss(prompt, effect, changed)).collect::<Result<_>>()?,
            ),
        };
        Ok(Ablated { claim, prompts })
    }

    /// What the rows of [`together`](Ablation::together) are; `listed` are the directions in words.
    pub fn caption(&self, listed: &str) -> String {
        let name = self.sae.short_name();
        let what = if self.options.reconstruct {
            format!("its site reconstructed by {name} without directions {listed}")
        } else {
            format!("directions {listed} of {name} ablated")
        };
        match self.options.positions {
            Some(_) => format!("The answer's prediction, with {what} at the position before it."),
            None => format!("Mean loss over each prompt, with {what} at every position."),
        }
    }

    fn about(&self, change: &'static str) -> About {
        let every = self.options.reconstruct || self.options.all;
        let over = if every { "prompts" } else { "prompts in which they are active" };
        About { chosen: Chosen::Given, change, measure: "loss_increase", unit: "nats", over }
    }

    /// Whether ablating these changes a prompt, or counts as if it did.
    fn changes(&self, prompt: usize, directions: &[u32]) -> bool {
        let AblationOptions { reconstruct, all, .. } = self.options;
        reconstruct || all || self.active[prompt].iter().any(|active| directions.contains(active))
    }

    /// The change of `directions` in the prompts that it changes, or in the others.
    fn trials(&self, directions: &[u32], changed: bool) -> Result<Vec<Trial<'a>>> {
        let change = if self.options.reconstruct {
            Change::Reconstruct { without: directions.to_vec() }
        } else {
            Change::Ablate(directions.to_vec())
        };
        let trial = |prompt: usize| match &self.options.positions {
            Some(positions) => Trial::at(self.sae, self.prompts, prompt, positions[prompt], change.clone()),
            None => Trial::everywhere(self.sae, self.prompts, prompt, change.clone()),
        };
        (0..self.prompts.len()).filter(|prompt| self.changes(*prompt, directions) == changed).map(trial).collect()
    }

    fn answer(&self, prompt: usize, position: usize, effect: &Effect, changed: bool) -> Result<AblatedAnswer> {
        let [before, after] = [effect.before.prediction()?, effect.after.prediction()?];
        Ok(AblatedAnswer {
            prompt,
            position,
            active: !self.active[prompt].is_empty(),
            log_prob: before.log_prob,
            log_prob_ablated: changed.then_some(after.log_prob),
            logit: before.logit,
            logit_ablated: changed.then_some(after.logit),
            rank: before.rank,
            rank_ablated: changed.then_some(after.rank),
            loss_increase: changed.then(|| effect.loss_increase()).transpose()?,
        })
    }

    fn loss(&self, prompt: usize, effect: &Effect, changed: bool) -> Result<AblatedLoss> {
        let [loss, loss_ablated] = [effect.before.loss()?, effect.after.loss()?];
        Ok(AblatedLoss {
            prompt,
            active: !self.active[prompt].is_empty(),
            loss,
            loss_ablated: changed.then_some(loss_ablated),
            loss_increase: changed.then(|| effect.loss_increase()).transpose()?,
        })
    }
}
