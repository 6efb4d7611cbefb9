//! Every part of the model replaced by its mean: what it does for a prediction and for directions.

use std::collections::{BTreeMap, BTreeSet};

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{Ask, BlockHook, HookPoint, Model, Positions, Target};
use directrix_sae::Sae;
use serde::Serialize;

use crate::batch::{BATCH, each_batch};
use crate::claim::named;
use crate::exchange::{Exchange, each_exchange};
use crate::{About, Chosen, Claim, Controls, Error, Estimate, ModelPart, Result};

/// Positions of the prompts that are run together, about: the values of all parts at them are held.
const HELD: usize = 1024;

/// The mean of every part's values: over the positions of each prompt, then over prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct PartMeans(BTreeMap<HookPoint, Vec<f32>>);

impl PartMeans {
    /// Over `prompts`.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn of(model: &Model, prompts: &Prompts, watch: &Watch) -> Result<PartMeans> {
        let hooks: BTreeSet<HookPoint> = ablated(model).iter().map(|part| part.hook()).collect();
        let mut means: BTreeMap<HookPoint, Vec<f64>> = BTreeMap::new();
        each_batch(prompts, BATCH, "means of the components", watch, |part, _| {
            let run = model.run(&part, &Ask::capture(hooks.iter().copied()).watched(watch), &[])?;
            for hook in &hooks {
                let values = run.captured(*hook);
                let mean = means.entry(*hook).or_insert_with(|| vec![0.0; values.columns()]);
                for bounds in part.offsets().windows(2) {
                    let weight = 1.0 / ((bounds[1] - bounds[0]) as f64 * prompts.len() as f64);
                    for row in bounds[0]..bounds[1] {
                        mean.iter_mut().zip(values.row(row)).for_each(|(m, &x)| *m += x as f64 * weight);
                    }
                }
            }
            Ok(())
        })?;
        let single = |(hook, mean): (HookPoint, Vec<f64>)| (hook, mean.into_iter().map(|x| x as f32).collect());
        Ok(PartMeans(means.into_iter().map(single).collect()))
    }

    /// The mean at `hook`: `[width]`.
    pub(crate) fn at(&self, hook: HookPoint) -> &[f32] {
        &self.0[&hook]
    }
}

/// The parts that are ablated: all that write.
fn ablated(model: &Model) -> Vec<ModelPart> {
    ModelPart::all(model.config()).into_iter().filter(|part| !matches!(part, ModelPart::Residual(_))).collect()
}

/// What replacing a part by its mean, at every position before the answer, does to the answer's loss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeanAblation {
    /// The part.
    pub component: String,
    /// How much it raises the loss.
    #[serde(flatten)]
    pub loss_increase: Claim,
}

/// What it does to a direction's activation before the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DirectionWithout {
    /// The direction.
    pub direction: usize,
    /// The part that is replaced.
    pub component: String,
    /// Mean activation of the direction, unchanged.
    pub activation: f64,
    /// Half width of its 95 % interval.
    pub activation_half_width: f64,
    /// How much its activation changes.
    #[serde(flatten, serialize_with = "named")]
    pub activation_change: Claim,
}

/// What every part does for the answer and for some directions.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanAblations {
    /// By part, in the order of the model.
    pub losses: Vec<MeanAblation>,
    /// By direction, then by those parts that come before what its SAE reads.
    pub activations: Vec<DirectionWithout>,
}

/// Replaces each head, attention and MLP by its mean at every position before the answer, the last token of each prompt; one part at a
/// time. Looks at the loss of the answer, and at the activation of `directions` of `sae` at the position that predicts it. The control
/// changes the part by as much along random rows.
///
/// # Errors
/// If a prompt has fewer than two positions, the SAE has no such direction, or as [`Model::run`].
pub fn mean_ablations(
    model: &Model,
    prompts: &Prompts,
    means: &PartMeans,
    sae: &Sae,
    directions: &[u32],
    chosen: Chosen,
    watch: &Watch,
) -> Result<MeanAblations> {
    if let Some(prompt) = prompts.iter().position(|p| p.len() < 2) {
        return Err(Error::Short { prompt });
    }
    directions.iter().try_for_each(|direction| sae.check(*direction as usize).map(drop))?;
    let parts = ablated(model);
    let of = |n: usize| vec![[vec![f64::NAN; prompts.len()], vec![f64::NAN; prompts.len()]]; n];
    let mut found = Found {
        losses: of(parts.len()),
        before: vec![vec![f64::NAN; prompts.len()]; directions.len()],
        changes: vec![of(directions.len()); parts.len()],
    };
    each_batch(prompts, HELD, "ablation of the components", watch, |part, batch| {
        found.add(model, &part, batch.start, means, (sae, directions), watch)
    })?;
    Ok(found.summed(&parts, sae, directions, chosen))
}

struct Found {
    /// By part: increase of each prompt's loss, and that of its control.
    losses: Vec<[Vec<f64>; 2]>,
    /// By direction: activation on each prompt.
    before: Vec<Vec<f64>>,
    /// By part and direction: its change on each prompt, and that of the control.
    changes: Vec<Vec<[Vec<f64>; 2]>>,
}

impl Found {
    /// The effects on some prompts, which are numbered from `first` on.
    fn add(
        &mut self,
        model: &Model,
        prompts: &Prompts,
        first: usize,
        means: &PartMeans,
        (sae, directions): (&Sae, &[u32]),
        watch: &Watch,
    ) -> Result<()> {
        let (parts, config, reads) = (ablated(model), model.config(), sae.site().reads.hook);
        let answers: Vec<Vec<u32>> = prompts.iter().map(|prompt| vec![prompt[prompt.len() - 1]]).collect();
        let cut = Prompts::from_rows(prompts.iter().map(|prompt| &prompt[..prompt.len() - 1]));
        let offsets = cut.offsets().to_vec();
        let hooks: BTreeSet<HookPoint> = parts.iter().map(|part| part.hook()).chain([reads]).collect();
        let targets = answers.iter().enumerate().map(|(prompt, answer)| Target {
            prompt,
            position: cut.get(prompt).len() - 1,
            token: answer[0],
        });
        let ask = Ask::capture(hooks).watched(watch).with_predictions(targets);
        let lengths: Vec<usize> = cut.iter().map(<[u32]>::len).collect();
        let session = model.session(cut, &ask, HookPoint::Block(0, BlockHook::ResidPre), Positions::All)?;
        let run = session.run();
        let losses: Vec<f64> = run.predictions().iter().map(|prediction| -prediction.log_prob).collect();
        for (prompt, length) in lengths.iter().enumerate() {
            let row = run.captured(reads).row(offsets[prompt] + length - 1);
            for (before, direction) in self.before.iter_mut().zip(directions) {
                before[first + prompt] = sae.activation(row, *direction)? as f64;
            }
        }
        let (mut exchanges, mut are_of) = (Vec::new(), Vec::new());
        for (number, part) in parts.iter().enumerate() {
            let mean = part.of_row(config, means.at(part.hook()));
            for (prompt, length) in lengths.iter().enumerate() {
                let own =
                    (0..*length).map(|at| part.of_row(config, run.captured(part.hook()).row(offsets[prompt] + at)));
                let own = Matrix::from_rows(&own.collect::<Vec<_>>());
                let exchange = Exchange::set(prompt, *part, 0, Matrix::repeat(&mean, *length));
                let control = exchange.random(&own, ((first + prompt) * parts.len() + number) as u64);
                exchanges.extend([exchange, control]);
                are_of.extend([(number, prompt, 0), (number, prompt, 1)]);
            }
        }
        each_exchange(session, &answers, &exchanges, &[reads], watch, |number, seen| {
            let (part, prompt, which) = are_of[number];
            self.losses[part][which][first + prompt] = -seen.predictions[0].log_prob - losses[prompt];
            if let Some(row) = seen.captured(reads).filter(|_| parts[part].hook() < reads) {
                for ((direction, changes), before) in directions.iter().zip(&mut self.changes[part]).zip(&self.before) {
                    changes[which][first + prompt] = sae.activation(row, *direction)? as f64 - before[first + prompt];
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    fn summed(self, parts: &[ModelPart], sae: &Sae, directions: &[u32], chosen: Chosen) -> MeanAblations {
        let claim = |about, [own, control]: &[Vec<f64>; 2]| {
            let controls = Controls { rows: Some(Estimate::of(control.iter().copied())), directions: None };
            (about, Estimate::of(own.iter().copied()), controls)
        };
        let change = "replaced by its mean at every position before the answer";
        let about = |chosen, measure, unit| About { chosen, change, measure, unit, over: "prompts" };
        let of_losses = about(Chosen::Given, "loss_increase", "nats");
        let losses = Claim::list(self.losses.iter().map(|values| claim(of_losses, values)));
        let row =
            |(part, loss_increase): (&ModelPart, Claim)| MeanAblation { component: part.to_string(), loss_increase };
        let losses = parts.iter().zip(losses).map(row).collect();

        let before_it = |part: &ModelPart| part.hook() < sae.site().reads.hook;
        let rows: Vec<(usize, usize)> = (0..directions.len())
            .flat_map(|direction| (0..parts.len()).filter(|part| before_it(&parts[*part])).map(move |p| (direction, p)))
            .collect();
        let of_activations = about(chosen, "activation_change", "activation");
        let claims =
            Claim::list(rows.iter().map(|&(direction, part)| claim(of_activations, &self.changes[part][direction])));
        let row = |(&(direction, part), activation_change): (&(usize, usize), Claim)| {
            let activation = Estimate::of(self.before[direction].iter().copied());
            DirectionWithout {
                direction: directions[direction] as usize,
                component: parts[part].to_string(),
                activation: activation.mean,
                activation_half_width: activation.half_width,
                activation_change,
            }
        };
        MeanAblations { losses, activations: rows.iter().zip(claims).map(row).collect() }
    }
}
