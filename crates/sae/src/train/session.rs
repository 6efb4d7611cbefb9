//! A training run: several SAEs on the activations of one model pass, with checkpoints, metrics and alarms.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{HookPoint, Model};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::alarms::Alarms;
use super::buffer::{Buffer, Source};
use super::cache::Cache;
use super::checkpoint::{self, Checkpoint};
use super::log::Log;
use super::recipe::{Feed, Recipe};
use super::trainer::{StepOptions, StepReport, Trainer};
use super::windows::{Documents, Windows};
use crate::format::saelens::CONFIG;
use crate::{End, Error, EvaluationOptions, Result, Sae, Site, evaluate};

/// The file with an SAE's options.
const OPTIONS: &str = "train.toml";
/// How fast the coefficients follow while L0 is off its target, per step and factor of e.
const TARGET_RATE: f64 = 0.005;
/// Weight of the newest step in the running L0 that the target is compared with.
const L0_RATE: f64 = 0.05;
/// The coefficients' factor stays between its inverse and this.
const SCALE_LIMIT: f64 = 1e3;

/// What a run trains, on what, and where it leaves its results.
pub struct Run<'a> {
    /// The model.
    pub model: &'a Model,
    /// The corpus's documents as tokens, BOS included and uncut.
    pub documents: &'a Documents<'a>,
    /// The token before every document, if any.
    pub bos: Option<u32>,
    /// Prompts to evaluate on; none to evaluate nothing.
    pub evaluation: &'a Prompts,
    /// What is fed to every SAE.
    pub feed: &'a Feed,
    /// The SAEs: the name of each one's folder inside `out` (empty for `out` itself), and its recipe.
    pub recipes: &'a [(String, Recipe)],
    /// What the recipes' `from` name, opened, under those names.
    pub from: &'a BTreeMap<String, Sae>,
    /// Where activations are kept, if anywhere.
    pub cache: Option<&'a Path>,
    /// Folder of the results.
    pub out: &'a Path,
    /// What model and corpus are, for checkpoints and caches to be compared with; also written beside each SAE.
    pub identity: &'a Value,
}

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

/// What happens in a run.
pub enum Event<'a> {
    /// A step was taken.
    Step {
        /// Its number, from 1.
        step: u64,
        /// Positions trained on so far.
        tokens: u64,
    },
    /// An SAE has a new line of metrics.
    Metrics {
        /// Its name.
        name: &'a str,
        /// Its directions.
        directions: usize,
        /// The line.
        metrics: &'a Metrics,
    },
    /// Training of an SAE seems to go wrong.
    Alarm {
        /// Its name.
        name: &'a str,
        /// What is wrong, and what may help.
        message: String,
    },
    /// The run goes on from a checkpoint.
    Resumed {
        /// Steps taken before.
        step: u64,
    },
    /// A checkpoint was not written; the run goes on and the last one stays.
    CheckpointFailed {
        /// Why.
        error: &'a Error,
    },
}

/// One SAE of a run.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) recipe: Recipe,
    pub(super) end: End,
    pub(super) trainer: Trainer,
    pub(super) state: MemberState,
    log: Log,
}

/// What a checkpoint keeps of an SAE beside its parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct MemberState {
    /// Integral part of the factor on the coefficients.
    pub(super) scale: f64,
    /// The factor at the last step.
    pub(super) applied: f64,
    /// Running L0.
    pub(super) l0: Option<f64>,
    /// Sums of the reports since the last line of metrics, and how many.
    pub(super) sums: StepReport,
    pub(super) count: u64,
    pub(super) resampled: usize,
    pub(super) alarms: Alarms,
    /// Bytes of the metrics and event files.
    pub(super) logged: [u64; 2],
}

/// Trains until the feed's tokens are used. A run that was stopped or killed goes on from its last checkpoint when it is
/// started again with the same options, and gives the bits of one that was never stopped.
///
/// # Errors
/// If an option is out of range, the model has no such site, the corpus is too small, a file cannot be written, the checkpoint
/// in `out` is of another run, numbers are no longer finite (the last checkpoint stays), or `stop` was set ([`Error::Stopped`],
/// after a checkpoint).
pub fn run(run: &Run, stop: &AtomicBool, mut on: impl FnMut(Event)) -> Result<()> {
    run.feed.check()?;
    let steps = run.feed.steps();
    let identity = json!({ "run": run.identity, "feed": run.feed, "recipes": run.recipes });
    let checkpoint = Checkpoint::find(run.out, &identity)?;
    let mut ends = Vec::new();
    for (_, recipe) in run.recipes {
        recipe.check()?;
        ends.push(end_of(recipe, run.model)?);
    }
    let mut hooks: Vec<HookPoint> = ends.iter().map(|end| end.hook).collect();
    hooks.sort_unstable();
    hooks.dedup();
    let widths: Vec<usize> = hooks.iter().map(|hook| hook.shape(run.model.config(), 0).iter().product()).collect();
    let mut source = open_source(run, &hooks, &widths)?;
    let mut buffer = Buffer::new(run.feed.buffer, &widths, run.feed.shuffle_seed);
    std::fs::create_dir_all(run.out).map_err(super::cache::io("write", run.out))?;

    let mut step = 0;
    let mut members = Vec::new();
    if let Some(checkpoint) = checkpoint {
        step = checkpoint.step();
        for (number, ((name, recipe), end)) in run.recipes.iter().zip(ends).enumerate() {
            let (directions, d_in) = (directions(recipe, end.width)?, end.width);
            let objective = recipe.objective(directions, d_in)?;
            let [w_enc, w_dec] = [0, 1].map(|_| Matrix::zeros(directions, d_in));
            let (b_enc, b_dec) = (vec![0.0; directions], vec![0.0; d_in]);
            let begun = Trainer::from_parts(objective, w_enc, w_dec, b_enc, b_dec, recipe.threshold);
            let (trainer, state) = checkpoint.member(number, &begun)?;
            let log = Log::open(&run.out.join(name), state.logged)?;
            members.push(Member { name: name.clone(), recipe: recipe.clone(), end, trainer, state, log });
        }
        buffer.restore(checkpoint.buffer()?, &mut source)?;
        on(Event::Resumed { step });
    } else {
        let first = buffer.batch(run.feed.batch, &mut source)?;
        for ((name, recipe), end) in run.recipes.iter().zip(ends) {
            let rows = rows_of(&first, &hooks, &end);
            let trainer = begin(recipe, &end, run.from, &rows)?;
            let state = MemberState { scale: 1.0, ..MemberState::default() };
            let log = Log::open(&run.out.join(name), [0, 0])?;
            members.push(Member { name: name.clone(), recipe: recipe.clone(), end, trainer, state, log });
        }
    }

    while step < steps {
        let batch = buffer.batch(run.feed.batch, &mut source)?;
        step += 1;
        for member in &mut members {
            let rows = rows_of(&batch, &hooks, &member.end);
            member.step(&rows, step, steps)?;
            if step.is_multiple_of(run.feed.log_every) || step == steps {
                let metrics = member.metrics(run, step, steps)?;
                let limits = [SCALE_LIMIT, 1.0 / SCALE_LIMIT];
                let limit = member.recipe.target_l0.filter(|_| limits.contains(&member.state.scale));
                for message in member.state.alarms.check(&metrics, member.trainer.directions(), limit) {
                    on(Event::Alarm { name: &member.name, message });
                }
                on(Event::Metrics { name: &member.name, directions: member.trainer.directions(), metrics: &metrics });
            }
        }
        on(Event::Step { step, tokens: step * run.feed.batch as u64 });
        let stopped = stop.load(Ordering::Relaxed);
        let due = run.feed.checkpoint_every > 0 && step.is_multiple_of(run.feed.checkpoint_every);
        if step < steps && (stopped || due) {
            let written = checkpoint::write(run.out, &identity, step, &members, buffer.state());
            match written {
                Err(error) if !stopped => on(Event::CheckpointFailed { error: &error }),
                written => written?,
            }
        }
        if stopped && step < steps {
            return Err(Error::Stopped);
        }
    }
    for member in &mut members {
        member.save(run)?;
    }
    checkpoint::remove(run.out)
}

/// Whether every SAE of a run is in its folder already.
///
/// # Errors
/// If a folder holds an SAE that was not trained so.
pub fn is_complete(out: &Path, feed: &Feed, recipes: &[(String, Recipe)]) -> Result<bool> {
    if checkpoint::exists(out) {
        return Ok(false);
    }
    let mut complete = true;
    for (name, recipe) in recipes {
        let folder = out.join(name);
        let there = folder.join(CONFIG).is_file();
        if there && std::fs::read_to_string(folder.join(OPTIONS)).ok() != Some(options(feed, recipe)?) {
            let problem = "it holds an SAE that was trained with other options; name another --out".into();
            return Err(Error::Stored { path: folder, problem });
        }
        complete &= there;
    }
    Ok(complete)
}

/// The options an SAE was trained with, as the TOML file beside it.
fn options(feed: &Feed, recipe: &Recipe) -> Result<String> {
    let parts = [json!(recipe), json!(feed)];
    let merged: BTreeMap<&String, &Value> = parts.iter().filter_map(Value::as_object).flatten().collect();
    toml::to_string(&merged).map_err(|e| Error::Stored { path: OPTIONS.into(), problem: e.to_string() })
}

fn open_source<'a>(run: &Run<'a>, hooks: &[HookPoint], widths: &[usize]) -> Result<Source<'a>> {
    let Feed { context, windows, .. } = *run.feed;
    let longest = run.model.config().n_ctx;
    if context > longest {
        return Err(Error::Recipe {
            name: "context".into(),
            problem: format!("the model has {longest} positions, so windows of {context} are too long"),
        });
    }
    let cache = match run.cache {
        Some(folder) => {
            let of = json!({ "run": run.identity, "context": context, "windows": windows });
            let with_widths: Vec<_> = hooks.iter().copied().zip(widths.iter().copied()).collect();
            Some(Cache::open(folder, &with_widths, &of)?)
        }
        None => None,
    };
    Ok(Source {
        model: run.model,
        hooks: hooks.to_vec(),
        windows: Windows::new(run.documents, windows, context, run.bos)?,
        cache,
    })
}

fn end_of(recipe: &Recipe, model: &Model) -> Result<End> {
    End::of(recipe.site.parse()?, recipe.head, model.config())
        .map_err(|what| Error::Recipe { name: "site".into(), problem: format!("the SAE reads {what}") })
}

fn directions(recipe: &Recipe, d_in: usize) -> Result<usize> {
    let directions = (recipe.expansion * d_in as f64).round();
    if (1.0..u32::MAX as f64).contains(&directions) {
        return Ok(directions as usize);
    }
    Err(Error::Recipe { name: "expansion".into(), problem: format!("{directions} directions cannot be trained") })
}

fn begin(recipe: &Recipe, end: &End, opened: &BTreeMap<String, Sae>, first: &Matrix) -> Result<Trainer> {
    let directions = directions(recipe, end.width)?;
    let objective = recipe.objective(directions, end.width)?;
    let Some(from) = &recipe.from else {
        let n = first.rows() as f64;
        let mut mean = vec![0.0_f64; first.columns()];
        first.iter_rows().for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += *x as f64 / n));
        let b_dec = mean.into_iter().map(|m| m as f32).collect();
        return Ok(Trainer::new(objective, directions, b_dec, recipe.threshold, recipe.seed));
    };
    let sae = opened.get(from).ok_or_else(|| Error::Recipe {
        name: "from".into(),
        problem: format!("`{from}` was not opened; open what the recipes start from"),
    })?;
    if *sae.site() != Site::at(end.clone()) || sae.directions() != directions {
        return Err(Error::Recipe {
            name: "from".into(),
            problem: format!(
                "`{from}` has {} directions at {}, and {directions} at {end} are to be trained",
                sae.directions(),
                sae.site().reads,
            ),
        });
    }
    Trainer::from_sae(objective, sae, recipe.threshold)
}

/// An end's columns of a batch.
fn rows_of(batch: &[Matrix], hooks: &[HookPoint], end: &End) -> Matrix {
    let values = &batch[hooks.iter().position(|hook| *hook == end.hook).unwrap_or_default()];
    if end.width == values.columns() { values.clone() } else { values.columns_of(end.columns()) }
}

impl Member {
    fn step(&mut self, rows: &Matrix, step: u64, steps: u64) -> Result<()> {
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
            eps: 1e-8,
            coefficient_scale: state.applied * recipe.coefficient_share(step - 1),
        };
        let report = self.trainer.step(rows, &options).map_err(|e| match e {
            Error::Diverged { step, what } if !self.name.is_empty() => {
                Error::Diverged { step, what: format!("{}: {what}", self.name) }
            }
            e => e,
        })?;
        state.sums.add(&report);
        state.count += 1;
        state.l0 = Some(state.l0.map_or(report.l0, |l0| l0 + L0_RATE * (report.l0 - l0)));
        if recipe.resample.contains(&step) {
            state.resampled += self.trainer.resample(rows, recipe.dead_below, recipe.seed ^ step)?;
        }
        Ok(())
    }

    fn metrics(&mut self, run: &Run, step: u64, steps: u64) -> Result<Metrics> {
        let state = &mut self.state;
        let mut metrics = Metrics {
            step,
            tokens: step * run.feed.batch as u64,
            mean: state.sums.over(state.count),
            dead: self.trainer.dead(self.recipe.dead_after()),
            learning_rate: self.recipe.rate(step - 1, steps),
            coefficient_scale: state.applied * self.recipe.coefficient_share(step - 1),
            resampled: state.resampled,
            loss_recovered: None,
            evaluation_l0: None,
            evaluation_explained_variance: None,
        };
        (state.sums, state.count, state.resampled) = (StepReport::default(), 0, 0);
        let due = run.feed.evaluate_every > 0 && step.is_multiple_of(run.feed.evaluate_every);
        if (due || step == steps) && !run.evaluation.is_empty() && run.feed.evaluate_every > 0 {
            let sae = self.trainer.to_sae(&self.name, Site::at(self.end.clone()))?;
            let options = EvaluationOptions::default();
            let nobody = Watch::nobody();
            let found = evaluate(run.model, std::slice::from_ref(&sae), run.evaluation, &options, &nobody)?;
            if let Some(found) = found.first() {
                metrics.loss_recovered = Some(found.token_mean.recovered.value);
                metrics.evaluation_l0 = Some(found.l0);
                metrics.evaluation_explained_variance = Some(found.explained_variance);
            }
        }
        self.state.logged = self.log.write(&metrics)?;
        Ok(metrics)
    }

    fn save(&mut self, run: &Run) -> Result<()> {
        let config = run.model.config();
        let processing = run.model.processing();
        let folder: PathBuf = run.out.join(&self.name);
        let metadata = json!({
            "model_name": run.identity["model"],
            "context_size": run.feed.context.min(config.n_ctx),
            "prepend_bos": run.bos.is_some(),
            "model_from_pretrained_kwargs": {
                "fold_ln": processing.fold_ln,
                "center_writing_weights": processing.center_writing_weights,
                "center_unembed": processing.center_unembed,
                "fold_value_biases": processing.fold_value_biases,
            },
            "training_tokens": run.feed.steps() * run.feed.batch as u64,
            "objective": self.recipe.objective,
        });
        let sae = self.trainer.to_sae(&self.name, Site::at(self.end.clone()))?;
        std::fs::create_dir_all(&folder).map_err(super::cache::io("write", &folder))?;
        super::write_beside(&folder.join(OPTIONS), options(run.feed, &self.recipe)?.as_bytes())?;
        sae.save(&folder, &metadata, Some(&self.trainer.densities()))
    }
}
