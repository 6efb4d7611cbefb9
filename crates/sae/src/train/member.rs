//! One SAE of a training run: its schedule, its metrics, its folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use directrix_corpus::{Watch, durable};
use directrix_kernels::Matrix;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::alarms::Alarms;
use super::joined;
use super::log::{Log, Logged};
use super::over::Over;
use super::recipe::{Feed, Recipe, problem};
use super::report::StepReport;
use super::trainer::{StepOptions, Trainer};
use super::training::Training;
use crate::format::saelens::write_config;
use crate::{Counted, End, Error, EvaluationOptions, Result, Sae, Site, evaluate};

/// What Adam adds to the root it divides by.
pub(super) const EPS: f64 = 1e-8;
/// The file with an SAE's options.
pub(super) const OPTIONS: &str = "train.toml";
/// How fast the coefficients follow while L0 is off its target, per step and factor of e.
const TARGET_RATE: f64 = 0.005;
/// Weight of the newest step in the running L0 that the target is compared with.
const L0_RATE: f64 = 0.05;
/// The coefficients' factor stays between its inverse and this.
const SCALE_LIMIT: f64 = 1e3;

/// An SAE's numbers over the steps since the last line of metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Steps taken.
    pub step: u64,
    /// Positions trained on.
    pub tokens: u64,
    /// Means over these steps.
    #[serde(flatten)]
    pub mean: StepReport,
    /// Directions that have not fired for as long as makes them dead.
    pub dead: usize,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Factor on the coefficients at the last step.
    pub coefficient_scale: f64,
    /// Directions resampled.
    pub resampled: usize,
    /// `(zero - reconstructed) / (zero - clean)` of the losses' means over tokens, where it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_recovered: Option<f64>,
    /// Active directions per position of the evaluation prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_l0: Option<f64>,
    /// `1 - Σ‖x - x̂‖² / Σ‖x - mean‖²` over the positions of the evaluation prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_explained_variance: Option<f64>,
}

/// One SAE of a training run.
pub(super) struct Member {
    pub(super) name: String,
    recipe: Recipe,
    pub(super) end: End,
    pub(super) trainer: Trainer,
    pub(super) state: State,
    /// The last line of metrics.
    pub(super) latest: Option<Metrics>,
    /// Of the rank that writes files.
    log: Option<Log>,
}

/// What a checkpoint keeps of an SAE beside its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Integral part of the factor on the coefficients.
    scale: f64,
    /// The factor at the last step.
    applied: f64,
    /// Running L0.
    l0: Option<f64>,
    /// Sums of the reports since the last line of metrics, and how many.
    sums: StepReport,
    count: u64,
    resampled: usize,
    alarms: Alarms,
    logged: Logged,
}

impl Default for State {
    fn default() -> State {
        State {
            scale: 1.0,
            applied: 0.0,
            l0: None,
            sums: StepReport::default(),
            count: 0,
            resampled: 0,
            alarms: Alarms::default(),
            logged: Logged::default(),
        }
    }
}

/// The options an SAE was trained with, as the TOML file beside it; its first line says on what.
pub(super) fn options(feed: &Feed, recipe: &Recipe, identity: &Value) -> Result<String> {
    let parts = [json!(recipe), json!(feed)];
    let merged: BTreeMap<&String, &Value> = parts.iter().filter_map(Value::as_object).flatten().collect();
    let options =
        toml::to_string(&merged).map_err(|e| Error::Stored { path: OPTIONS.into(), problem: e.to_string() })?;
    Ok(format!("# model and corpus: {:08x}\n{options}", crc32c::crc32c(identity.to_string().as_bytes())))
}

/// How many directions an SAE has that reads `d_in` numbers.
pub(super) fn directions(recipe: &Recipe, d_in: usize) -> Result<usize> {
    let directions = (recipe.expansion * d_in as f64).round();
    if (1.0..u32::MAX as f64).contains(&directions) {
        return Ok(directions as usize);
    }
    Err(problem("expansion", format!("{directions} directions cannot be trained")))
}

/// A trainer of the recipe's shapes, for a checkpoint to fill.
pub(super) fn empty(recipe: &Recipe, end: &End, over: Over) -> Result<Trainer> {
    let (directions, d_in) = (directions(recipe, end.width)?, end.width);
    let held = over.held(directions);
    let weights = [0, 1].map(|_| Matrix::zeros(held.len(), d_in));
    let objective = recipe.objective(directions, d_in)?;
    Ok(Trainer::of(objective, held.start, directions, weights, [held.len(), d_in].map(|count| vec![0.0; count])))
}

/// A trainer as the recipe has it begin; `first` is the first batch, `[positions, d_in]`.
pub(super) fn begin(
    recipe: &Recipe,
    end: &End,
    opened: &BTreeMap<String, Sae>,
    first: &Matrix,
    over: Over,
) -> Result<Trainer> {
    let directions = directions(recipe, end.width)?;
    let objective = recipe.objective(directions, end.width)?;
    let Some(from) = &recipe.from else {
        let n = first.rows() as f64;
        let mut mean = vec![0.0_f64; first.columns()];
        first.iter_rows().for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += *x as f64 / n));
        let b_dec = mean.into_iter().map(|m| m as f32).collect();
        return Ok(Trainer::held(objective, over.held(directions), directions, b_dec, recipe.seed));
    };
    let sae = opened
        .get(from)
        .ok_or_else(|| problem("from", format!("`{from}` was not opened; open what the recipes start from")))?;
    if *sae.site() != Site::at(end.clone()) || sae.directions() != directions {
        let (has, at) = (sae.directions(), &sae.site().reads);
        let what = format!("`{from}` has {has} directions at {at}, and {directions} at {end} are to be trained");
        return Err(problem("from", what));
    }
    Trainer::held_of(objective, sae, over.held(directions))
}

impl Member {
    /// An SAE with its folder inside `out`.
    pub(super) fn new(
        name: &str,
        recipe: &Recipe,
        end: End,
        trainer: Trainer,
        state: State,
        out: &Path,
        over: Over,
    ) -> Result<Member> {
        let log = over.leads().then(|| Log::open(&out.join(name), &state.logged)).transpose()?;
        Ok(Member { name: name.into(), recipe: recipe.clone(), end, trainer, state, latest: None, log })
    }

    /// Step `step` (from 1) of `steps` on a batch, `[positions, d_in]`.
    pub(super) fn step(&mut self, rows: &Matrix, step: u64, steps: u64, over: Over) -> Result<()> {
        let recipe = &self.recipe;
        let state = &mut self.state;
        let target = recipe.target_l0.filter(|_| self.trainer.objective().has_coefficient());
        // A proportional part answers at once, the integral in `scale` removes what it leaves.
        let off = target.zip(state.l0).map_or(0.0, |(target, l0)| (l0.max(1e-3) / target).ln().clamp(-2.0, 2.0));
        state.scale = (state.scale * (TARGET_RATE * off).exp()).clamp(1.0 / SCALE_LIMIT, SCALE_LIMIT);
        state.applied = state.scale * off.exp();
        let options = StepOptions {
            rate: recipe.rate(step - 1, steps),
            betas: recipe.betas,
            eps: EPS,
            coefficient_scale: state.applied * recipe.coefficient_share(step - 1),
        };
        let report = self.trainer.step_over(rows, &options, over).map_err(|e| e.of_sae(&self.name))?;
        state.sums.add(&report);
        state.count += 1;
        state.l0 = Some(state.l0.map_or(report.l0, |l0| l0 + L0_RATE * (report.l0 - l0)));
        if recipe.resample.contains(&step) {
            let resampled = self.trainer.resample_over(rows, recipe.dead_below, recipe.seed ^ step, over);
            state.resampled += resampled.map_err(|e| e.of_sae(&self.name))?;
        }
        Ok(())
    }

    /// A line of metrics, written to the SAE's folder by the rank that writes files, which alone evaluates.
    pub(super) fn metrics(&mut self, training: &Training, step: u64, steps: u64) -> Result<Metrics> {
        self.trainer.check_finite().map_err(|e| e.of_sae(&self.name))?;
        let feed = training.feed;
        let state = &mut self.state;
        let mut metrics = Metrics {
            step,
            tokens: step * feed.batch as u64,
            mean: state.sums.over(state.count),
            dead: training.over.total(self.trainer.dead(self.recipe.dead_after()) as f64)? as usize,
            learning_rate: self.recipe.rate(step - 1, steps),
            coefficient_scale: state.applied * self.recipe.coefficient_share(step - 1),
            resampled: state.resampled,
            loss_recovered: None,
            evaluation_l0: None,
            evaluation_explained_variance: None,
        };
        (state.sums, state.count, state.resampled) = (StepReport::default(), 0, 0);
        let due = feed.evaluate_every > 0 && step.is_multiple_of(feed.evaluate_every);
        let due = (due || step == steps) && training.over.leads();
        if due && !training.evaluation.is_empty() && feed.evaluate_every > 0 {
            let sae = self.trainer.to_sae(&self.name, Site::at(self.end.clone()))?;
            // Of what it is trained on.
            let counted = Counted { exclude: feed.exclude.clone(), ..Counted::all() };
            let options = EvaluationOptions { counted, ..EvaluationOptions::default() };
            // A step is taken whole: what is stopped in the middle of one could not go on with the same bits.
            let nobody = Watch::nobody();
            let found = evaluate(training.model, std::slice::from_ref(&sae), training.evaluation, &options, &nobody)?;
            if let Some(found) = found.first() {
                metrics.loss_recovered = Some(found.token_mean.recovered.value);
                metrics.evaluation_l0 = Some(found.l0);
                metrics.evaluation_explained_variance = Some(found.explained_variance);
            }
        }
        if let Some(log) = &mut self.log {
            self.state.logged = log.write(&metrics)?;
        }
        Ok(metrics)
    }

    /// What of the metrics is wrong and was not said before.
    pub(super) fn alarms(&mut self, metrics: &Metrics) -> Vec<String> {
        let limits = [SCALE_LIMIT, 1.0 / SCALE_LIMIT];
        let limit = self.recipe.target_l0.filter(|_| limits.contains(&self.state.scale));
        self.state.alarms.check(metrics, self.trainer.all, limit)
    }

    /// That nobody removed its folder.
    pub(super) fn check_there(&self) -> Result<()> {
        self.log.as_ref().map_or(Ok(()), Log::check_there)
    }

    /// Writes the SAE's folder: the rank that writes files, which is given the others' directions bit by bit.
    pub(super) fn save(&self, training: &Training) -> Result<()> {
        let config = training.model.config();
        let folder: PathBuf = training.out.join(&self.name);
        let metadata = json!({
            "model_name": training.model_name,
            "context_size": training.feed.context.min(config.n_ctx),
            "prepend_bos": training.bos.is_some(),
            "training_tokens": training.feed.steps() * training.feed.batch as u64,
            "objective": self.recipe.objective,
        });
        let sae = self.trainer.to_sae(&self.name, Site::at(self.end.clone()))?;
        let sae = sae.of_weights(Some(training.model.processing()));
        let options = options(training.feed, &self.recipe, training.identity)?;
        let densities = self.trainer.densities();
        if training.over.holders().is_some() {
            joined::save(&sae, &folder, &densities, self.trainer.all, training.over)?;
        }
        if !training.over.leads() {
            return Ok(());
        }
        durable::write(&folder.join(OPTIONS), options.as_bytes())?;
        if training.over.holders().is_some() {
            return write_config(&folder, &sae.config(&metadata, self.trainer.all)?);
        }
        sae.save(&folder, &metadata, Some(&densities))
    }
}
