//! What is to be trained, and how: the options of `directrix train` under their names.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use directrix_corpus::in_range;
use serde::{Deserialize, Serialize};

use super::objective::{self, Aux, Objective, PenaltyOver};
use crate::{Error, Result};

/// How one SAE is trained. Names are those of the command's flags and of its TOML file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// The hook point it reads.
    pub site: String,
    /// The one head it reads, at hook points that have heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<usize>,
    /// Directions per input.
    pub expansion: f64,
    /// One of the nine penalties, or `topk`, `batch_topk`, `matryoshka`, `jumprelu`, `gated`.
    pub objective: String,
    /// Coefficients of the objective's penalty.
    pub coefficient: Vec<f64>,
    /// What a penalty's sums over positions are.
    pub penalty_over: PenaltyOver,
    /// Active directions per position of `topk`, `batch_topk` and `matryoshka`.
    pub k: usize,
    /// Prefixes of `matryoshka`: numbers of directions, ascending. Empty for 1/16, 1/8, 1/4, 1/2 and all of them.
    pub widths: Vec<usize>,
    /// Width of the kernel around the thresholds of `jumprelu`.
    pub bandwidth: f64,
    /// First thresholds of `jumprelu`.
    pub threshold: f64,
    /// Weight of the auxiliary loss of `topk`, `batch_topk` and `matryoshka`.
    pub aux_coefficient: f64,
    /// Dead directions that the auxiliary loss may use per position; 0 for half of `d_in`.
    pub aux_k: usize,
    /// Adjust the coefficients so that this many directions are active per position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_l0: Option<f64>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Shares that Adam keeps of its running means, of the gradient and of its square.
    pub betas: [f64; 2],
    /// Steps over which the learning rate rises from 0.
    pub warm_up: u64,
    /// Steps at the end over which the learning rate falls to 0.
    pub decay: u64,
    /// Steps over which the coefficients rise from 0.
    pub coefficient_warm_up: u64,
    /// A direction is dead that fires at a smaller share of the positions.
    pub dead_below: f64,
    /// Steps at which dead directions are resampled.
    pub resample: Vec<u64>,
    /// Seed of the first weights and of the resampling.
    pub seed: u64,
    /// SAE folder to go on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            site: "blocks.0.mlp.hook_post".into(),
            head: None,
            expansion: 4.0,
            objective: "combined_hoyer_sqrt".into(),
            coefficient: Vec::new(),
            penalty_over: PenaltyOver::Sum,
            k: 32,
            widths: Vec::new(),
            bandwidth: 0.05,
            threshold: 0.01,
            aux_coefficient: 1.0 / 32.0,
            aux_k: 0,
            target_l0: None,
            learning_rate: 3e-4,
            betas: [0.9, 0.99],
            warm_up: 200,
            decay: 0,
            coefficient_warm_up: 0,
            dead_below: 1e-5,
            resample: Vec::new(),
            seed: 47,
            from: None,
        }
    }
}

/// What is fed to every SAE of a run, and how the run goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Feed {
    /// Positions to train on; the corpus is read again when it ends.
    pub tokens: u64,
    /// Positions per step.
    pub batch: usize,
    /// Positions per window, BOS included.
    pub context: usize,
    /// How documents become windows.
    pub windows: WindowStyle,
    /// Positions at which one of these tokens is are not trained on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<u32>,
    /// Positions of shuffled activations held in memory; refilled when half are used.
    pub buffer: usize,
    /// Seed of the shuffling.
    pub shuffle_seed: u64,
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Steps between evaluations; 0 for none.
    pub evaluate_every: u64,
    /// Prompts to evaluate on.
    pub evaluation_prompts: usize,
    /// Steps between checkpoints; 0 for none but when stopped.
    pub checkpoint_every: u64,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed {
            tokens: 10_000_000,
            batch: 4096,
            context: 256,
            windows: WindowStyle::Documents,
            exclude: Vec::new(),
            buffer: 1 << 17,
            shuffle_seed: 47,
            log_every: 50,
            evaluate_every: 1000,
            evaluation_prompts: 100,
            checkpoint_every: 1000,
        }
    }
}

impl Feed {
    /// Steps of a run.
    pub fn steps(&self) -> u64 {
        self.tokens.div_ceil(self.batch.max(1) as u64).max(1)
    }

    /// That the numbers make sense together.
    ///
    /// # Errors
    /// [`Error::Recipe`] names the first that does not.
    pub fn check(&self) -> Result<()> {
        let Feed { tokens, batch, context, buffer, log_every, .. } = *self;
        if tokens == 0 {
            return Err(problem("tokens", "there is nothing to train on; give a whole number from 1 on"));
        }
        check("batch", batch as f64, 1.0..)?;
        check("context", context as f64, 2.0..)?;
        check("log-every", log_every as f64, 1.0..)?;
        check("buffer", buffer as f64, 2.0..=u32::MAX as f64)?;
        if tokens < batch as u64 {
            return Err(problem(
                "tokens",
                format!("{tokens} are less than one batch of {batch}; give more, or a smaller batch"),
            ));
        }
        if buffer / 2 < batch {
            return Err(problem(
                "buffer",
                format!("{buffer} positions do not hold two batches of {batch}; give {} or more", 2 * batch),
            ));
        }
        Ok(())
    }
}

/// How documents become windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowStyle {
    /// Each document begins a window; what is longer than a window goes on in another, which begins with BOS too.
    #[default]
    Documents,
    /// Documents with their BOS joined and cut into windows of one length, as the origin does.
    Packed,
}

impl Recipe {
    /// The objective for an SAE of these dimensions.
    ///
    /// # Errors
    /// If there is no such objective, its coefficients are not as many as it takes, or a number is out of range.
    pub fn objective(&self, directions: usize, d_in: usize) -> Result<Arc<dyn Objective>> {
        for coefficient in &self.coefficient {
            check("coefficient", *coefficient, 0.0..=1e30)?;
        }
        objective::named(self, directions, d_in)
    }

    /// The coefficient of an objective that takes one.
    pub(super) fn one_coefficient(&self) -> Result<f64> {
        let (name, given) = (&self.objective, self.coefficient.len());
        match self.coefficient[..] {
            [one] => Ok(one),
            _ => Err(problem("coefficient", format!("`{name}` takes one coefficient, not {given}"))),
        }
    }

    /// `k`, where so many of these directions can be active.
    pub(super) fn active(&self, directions: usize) -> Result<usize> {
        match self.k {
            k if k > 0 && k <= directions => Ok(k),
            k => Err(problem("k", format!("{k} of {directions} directions cannot be active; give 1 to {directions}"))),
        }
    }

    /// The auxiliary loss of an SAE that reads `d_in` numbers.
    pub(super) fn aux(&self, d_in: usize) -> Aux {
        let k = if self.aux_k == 0 { (d_in / 2).max(1) } else { self.aux_k };
        Aux { coefficient: self.aux_coefficient, k, dead_after: self.dead_after() }
    }

    /// Positions after which a silent direction is dead.
    pub fn dead_after(&self) -> u64 {
        (1.0 / self.dead_below).ceil() as u64
    }

    /// That the numbers make sense, for a run of so many steps.
    ///
    /// # Errors
    /// [`Error::Recipe`] names the first that does not.
    pub fn check(&self, steps: u64) -> Result<()> {
        let positive_to = |most: f64| (Bound::Excluded(0.0), Bound::Included(most));
        check("expansion", self.expansion, positive_to(1e6))?;
        check("bandwidth", self.bandwidth, positive_to(1e6))?;
        check("threshold", self.threshold, positive_to(1e6))?;
        check("aux-coefficient", self.aux_coefficient, 0.0..=1e3)?;
        if let Some(target) = self.target_l0 {
            check("target-l0", target, positive_to(u32::MAX as f64))?;
        }
        check("learning-rate", self.learning_rate, positive_to(1.0))?;
        for beta in self.betas {
            check("betas", beta, 0.0..1.0)?;
        }
        check("dead-below", self.dead_below, (Bound::Excluded(0.0), Bound::Excluded(1.0)))?;
        let within = |name, given: u64, what: &str| {
            if given <= steps {
                return Ok(());
            }
            Err(problem(name, format!("{given} {what}, and the run has {steps}; give fewer, or more tokens")))
        };
        within("warm-up", self.warm_up.saturating_add(self.decay), "steps of warm-up and decay")?;
        within("coefficient-warm-up", self.coefficient_warm_up, "steps")?;
        self.resample.iter().try_for_each(|step| within("resample", *step, "is the step"))
    }

    /// Learning rate of step `step` (from 0) of `steps`.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        let left = steps - step;
        let falling = if left <= self.decay { left as f64 / (self.decay + 1) as f64 } else { 1.0 };
        self.learning_rate * ramp(step, self.warm_up) * falling
    }

    /// Share of the coefficients that step `step` (from 0) applies.
    pub fn coefficient_share(&self, step: u64) -> f64 {
        ramp(step, self.coefficient_warm_up)
    }
}

/// An [`Error::Recipe`].
pub(super) fn problem(name: &str, problem: impl Into<String>) -> Error {
    Error::Recipe { name: name.into(), problem: problem.into() }
}

/// That option `name` lies in its range.
fn check(name: &str, given: f64, range: impl RangeBounds<f64>) -> Result<()> {
    in_range(given, range).map_err(|instead| problem(name, format!("it is {given}; {instead}")))
}

/// From `1 / steps` up to 1 over `steps`.
fn ramp(step: u64, steps: u64) -> f64 {
    if step < steps { (step + 1) as f64 / steps as f64 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::{Feed, Recipe};

    #[test]
    fn the_learning_rate_rises_stays_and_falls_but_never_to_nothing() {
        let recipe = Recipe { learning_rate: 1.0, warm_up: 4, decay: 3, ..Recipe::default() };
        let rates: Vec<f64> = (0..10).map(|step| recipe.rate(step, 10)).collect();
        assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]);
    }

    #[test]
    fn an_objective_takes_its_own_number_of_coefficients() {
        let with = |objective: &str, coefficient: &[f64]| {
            let recipe = Recipe { objective: objective.into(), coefficient: coefficient.into(), ..Recipe::default() };
            recipe.objective(64, 16).map_err(|e| e.to_string())
        };
        assert!(
            with("l1", &[1.0]).is_ok() && with("combined_hoyer_l1", &[1.0, 2.0]).is_ok() && with("topk", &[]).is_ok()
        );
        assert!(with("combined_hoyer_l1", &[1.0]).unwrap_err().contains("takes 2 coefficients, not 1"));
        assert!(with("gated", &[]).unwrap_err().contains("one coefficient, not 0"));
        assert!(with("l1", &[f64::NAN]).unwrap_err().contains("it is NaN; give a number from 0 to"));
        assert!(with("l2", &[1.0]).unwrap_err().contains("there is no `l2`"));
    }

    #[test]
    fn every_number_has_a_range() {
        let recipe = Recipe::default;
        recipe().check(200).unwrap();
        for (bad, said) in [
            (Recipe { expansion: 0.0, ..recipe() }, "expansion: it is 0; give a number above 0"),
            (Recipe { bandwidth: f64::INFINITY, ..recipe() }, "bandwidth: it is inf"),
            (Recipe { threshold: -1.0, ..recipe() }, "threshold: it is -1"),
            (Recipe { aux_coefficient: -1.0, ..recipe() }, "aux-coefficient: it is -1; give a number from 0 to 1000"),
            (Recipe { target_l0: Some(f64::NAN), ..recipe() }, "target-l0: it is NaN"),
            (
                Recipe { learning_rate: 1e5, ..recipe() },
                "learning-rate: it is 100000; give a number above 0, at most 1",
            ),
            (Recipe { betas: [0.9, 1.0], ..recipe() }, "betas: it is 1; give a number from 0 to below 1"),
            (Recipe { dead_below: 1.0, ..recipe() }, "dead-below: it is 1; give a number above 0 and below 1"),
            (
                Recipe { warm_up: 150, decay: 51, ..recipe() },
                "warm-up: 201 steps of warm-up and decay, and the run has 200",
            ),
            (Recipe { decay: u64::MAX, ..recipe() }, "warm-up"),
            (Recipe { coefficient_warm_up: 201, ..recipe() }, "coefficient-warm-up: 201 steps"),
            (Recipe { resample: vec![5, 201], ..recipe() }, "resample: 201 is the step"),
        ] {
            let message = bad.check(200).unwrap_err().to_string();
            assert!(message.contains(said), "{said}: {message}");
        }
        for feed in [
            Feed { tokens: 0, ..Feed::default() },
            Feed { tokens: 4095, ..Feed::default() },
            Feed { batch: 0, ..Feed::default() },
            Feed { context: 1, ..Feed::default() },
            Feed { log_every: 0, ..Feed::default() },
            Feed { buffer: 1 << 32, ..Feed::default() },
        ] {
            assert!(feed.check().is_err(), "{feed:?}");
        }
    }

    #[test]
    fn a_buffer_holds_at_least_two_batches() {
        assert!(Feed { buffer: 100, batch: 51, ..Feed::default() }.check().is_err());
        assert!(Feed { buffer: 102, batch: 51, ..Feed::default() }.check().is_ok());
    }
}
