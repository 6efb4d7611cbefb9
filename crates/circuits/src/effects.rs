//! What changing an SAE's site does to the model's predictions.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use directrix_corpus::Prompts;
use directrix_kernels::{Matrix, SparseActivations};
use directrix_model::{
    Ask, Case, Edit, HookPoint, Intervention, Model, Positions, Prediction, Rows, Run, Session, Target, batches,
};
use directrix_sae::{Sae, Site};
use serde::Serialize;

use crate::{Error, Estimate, Result};

/// Positions in one model pass.
pub(crate) const BATCH: usize = 4096;
/// Changed positions in one resumed pass, about.
const CHANGED: usize = 1024;

/// What is done to the values at an SAE's site, at a position.
#[derive(Debug, Clone)]
pub enum Change {
    /// Nothing.
    None,
    /// Subtract what these directions contribute: `activation × W_dec`, activations as the unchanged site gives them.
    Ablate(Vec<u32>),
    /// Replace by the SAE's reconstruction, without these directions.
    Reconstruct {
        /// Directions left out of the reconstruction.
        without: Vec<u32>,
    },
    /// Replace by zero.
    Zero,
    /// Replace by this row, the site's mean for example.
    Replace(Arc<[f32]>),
}

/// One change at one position of one prompt, and the token whose prediction at that position is looked at.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The prompt.
    pub prompt: usize,
    /// Where the change is made; its prediction is the token after it.
    pub position: usize,
    /// The token whose prediction is looked at.
    pub token: u32,
    /// The change.
    pub change: Change,
}

/// A prediction before and after a change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// Without the change.
    pub before: Prediction,
    /// With it.
    pub after: Prediction,
}

impl Effect {
    /// How much the loss rises, in nats.
    pub fn loss_increase(&self) -> f64 {
        self.before.log_prob - self.after.log_prob
    }
}

/// One change at consecutive positions of one prompt, of which nothing after the last is computed again.
pub(crate) struct Changed<'a> {
    pub(crate) prompt: usize,
    pub(crate) positions: Range<usize>,
    pub(crate) change: &'a Change,
}

/// What a change adds to the site at one position, `[d_in]`.
enum Difference {
    /// Multiples of rows of `W_dec`.
    Directions(Vec<(u32, f32)>),
    Row(Vec<f32>),
}

/// Prompts run once, with what an SAE reads at the positions that will be changed.
pub(crate) struct Bench<'a> {
    sae: &'a Sae,
    pub(crate) session: Session<'a>,
    /// Per prompt, the positions looked at, ascending, and the first row of each in what was captured and in `acts`.
    positions: Vec<Vec<usize>>,
    first_rows: Vec<usize>,
    /// The activations at all of these positions, when a change first needs more than those of its own directions.
    acts: OnceCell<SparseActivations>,
    /// Where differences are added: in the residual stream if they can be, so that the pass goes on behind the site's block.
    hook: HookPoint,
    /// By direction, what a unit of its activation adds at `hook`.
    written: RefCell<HashMap<u32, Vec<f32>>>,
}

impl<'a> Bench<'a> {
    /// Runs `prompts`, whose positions will be changed and computed again; what the changes do will be looked at from
    /// `seen_from` on.
    pub(crate) fn new(
        model: &'a Model,
        sae: &'a Sae,
        prompts: Prompts,
        mut positions: Vec<Vec<usize>>,
        seen_from: HookPoint,
        ask: Ask,
    ) -> Result<Bench<'a>> {
        for list in &mut positions {
            list.sort_unstable();
            list.dedup();
        }
        let first_rows = positions
            .iter()
            .scan(0, |row, list| {
                let first = *row;
                *row += list.len();
                Some(first)
            })
            .collect();
        let Site { reads, writes } = sae.site();
        let hook = writes.written_at().filter(|hook| *hook <= seen_from).unwrap_or(writes.hook);
        let each = Positions::Each(positions.clone());
        let read = BTreeSet::from([reads.hook, writes.hook]);
        let ask = read.into_iter().fold(ask, |ask, hook| ask.with_capture(hook, each.clone()));
        let session = model.session(prompts, &ask, hook, each)?;
        let (acts, written) = (OnceCell::new(), RefCell::default());
        Ok(Bench { sae, session, positions, first_rows, acts, hook, written })
    }

    fn row(&self, prompt: usize, position: usize) -> usize {
        let at = self.positions[prompt].binary_search(&position).expect("the position was announced");
        self.first_rows[prompt] + at
    }

    /// The active directions of a row, and how strongly.
    fn active(&self, row: usize) -> Result<impl Iterator<Item = (u32, f32)>> {
        let acts = if let Some(acts) = self.acts.get() {
            acts
        } else {
            let acts = self.sae.encode(self.session.run().captured(self.sae.site().reads.hook))?;
            self.acts.get_or_init(|| acts)
        };
        let (directions, values) = acts.at(row);
        Ok(directions.iter().copied().zip(values.iter().copied()))
    }

    /// What `change` adds to the site; `None` if nothing.
    fn difference(&self, prompt: usize, position: usize, change: &Change) -> Result<Option<Difference>> {
        let row = self.row(prompt, position);
        let Site { reads, writes } = self.sae.site();
        let read = self.session.run().captured(reads.hook).row(row);
        let site = &self.session.run().captured(writes.hook).row(row)[writes.columns()];
        let replaced = |by: &[f32]| Difference::Row(by.iter().zip(site).map(|(new, old)| new - old).collect());
        Ok(Some(match change {
            Change::None => return Ok(None),
            Change::Ablate(directions) => {
                let mut directions = directions.clone();
                directions.sort_unstable();
                directions.dedup();
                if let Some(&last) = directions.last() {
                    self.sae.check(last as usize)?;
                }
                let of = |&direction: &u32| Ok((direction, self.sae.activation(read, direction)?));
                let mut ablated: Vec<(u32, f32)> = if self.sae.activates_by_itself() {
                    directions.iter().map(of).collect::<Result<_>>()?
                } else {
                    self.active(row)?.filter(|(d, _)| directions.binary_search(d).is_ok()).collect()
                };
                ablated.retain(|(_, activation)| *activation > 0.0);
                if ablated.is_empty() {
                    return Ok(None);
                }
                ablated.iter_mut().for_each(|(_, activation)| *activation = -*activation);
                Difference::Directions(ablated)
            }
            Change::Reconstruct { without } => {
                let mut kept = SparseActivations::default();
                kept.push(self.active(row)?.filter(|(d, _)| !without.contains(d)));
                replaced(self.sae.decode(&kept).row(0))
            }
            Change::Zero => replaced(&vec![0.0; site.len()]),
            Change::Replace(by) => replaced(by),
        }))
    }

    /// Rows of the site, `[rows, d_in]`, as they are at `hook`.
    fn write(&self, rows: &[&[f32]]) -> Result<Matrix> {
        let end = &self.sae.site().writes;
        let rows = Matrix::new(rows.concat(), rows.len(), end.width);
        if self.hook != end.hook {
            return Ok(self.sae.to_residual(self.session.model(), &rows)?);
        }
        let mut wide = Matrix::zeros(rows.rows(), self.session.run().captured(end.hook).columns());
        for (i, row) in rows.iter_rows().enumerate() {
            wide.row_mut(i)[end.columns()].copy_from_slice(row);
        }
        Ok(wide)
    }

    /// What each difference adds at `hook`, one row for each.
    fn additions(&self, differences: &[Difference]) -> Result<Matrix> {
        let mut written = self.written.borrow_mut();
        let (mut unknown, mut rows) = (BTreeSet::new(), Vec::new());
        for difference in differences {
            match difference {
                Difference::Row(row) => rows.push(row.as_slice()),
                Difference::Directions(of) => {
                    unknown.extend(of.iter().map(|(d, _)| *d).filter(|d| !written.contains_key(d)));
                }
            }
        }
        let decoders: Vec<&[f32]> = unknown.iter().map(|d| self.sae.w_dec().row(*d as usize)).collect();
        let decoders = self.write(&decoders)?;
        written.extend(unknown.into_iter().zip(decoders.iter_rows().map(<[f32]>::to_vec)));
        let rows = self.write(&rows)?;
        let mut rows = rows.iter_rows();
        let mut additions = Matrix::zeros(differences.len(), decoders.columns());
        for (i, difference) in differences.iter().enumerate() {
            let sum = additions.row_mut(i);
            match difference {
                Difference::Row(_) => sum.copy_from_slice(rows.next().expect("written above")),
                Difference::Directions(of) => {
                    for (direction, by) in of {
                        sum.iter_mut().zip(&written[direction]).for_each(|(s, w)| *s += by * w);
                    }
                }
            }
        }
        Ok(additions)
    }

    /// Goes on from `changes` in groups; those that change nothing are left out. Of a group `ask` and `seen` are given, per
    /// case, the number of its change and the first position that it changed.
    pub(crate) fn resume(
        &self,
        changes: &[Changed],
        ask: impl Fn(&[(usize, usize)]) -> Ask,
        mut seen: impl FnMut(&[(usize, usize)], &Run) -> Result<()>,
    ) -> Result<()> {
        let mut rest = changes.iter().enumerate();
        loop {
            let (mut cases, mut group) = (Vec::new(), Vec::new());
            // Of each case, the changed positions; of all of them together, the differences there.
            let (mut changed, mut differences) = (Vec::<Vec<usize>>::new(), Vec::new());
            while differences.len() < CHANGED
                && let Some((number, Changed { prompt, positions, change })) = rest.next()
            {
                let mut at = Vec::new();
                for position in positions.clone() {
                    if let Some(difference) = self.difference(*prompt, position, change)? {
                        at.push(position);
                        differences.push(difference);
                    }
                }
                if let Some(&first) = at.first() {
                    group.push((number, first));
                    cases.push(Case { prompt: *prompt, until: positions.end - 1, interventions: Vec::new() });
                    changed.push(at);
                }
            }
            if group.is_empty() {
                return Ok(());
            }
            let additions = Arc::new(self.additions(&differences)?);
            let mut first = 0;
            for (case, at) in cases.iter_mut().zip(changed) {
                let rows = Rows::each(&additions, first..first + at.len());
                first += at.len();
                case.interventions = vec![Intervention::new(self.hook, Positions::At(at), Edit::Add(rows))];
            }
            let run = self.session.resume(&cases, &ask(&group))?;
            seen(&group, &run)?;
        }
    }
}

/// The prompts that some trials need, batch by batch. `needs` holds, per trial, its prompt and the last position it looks
/// at: prompts are cut after the last one, since nothing before it depends on what follows. Calls `f` with the batch's
/// prompts, the numbers of its trials and, for each trial, the number of its prompt in the batch.
pub(crate) fn by_batch(
    prompts: &Prompts,
    needs: &[(usize, usize)],
    mut f: impl FnMut(Prompts, &[(usize, usize)]) -> Result<()>,
) -> Result<()> {
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|trial| needs[*trial].0);
    let mut needed: BTreeMap<usize, usize> = BTreeMap::new();
    for &(prompt, position) in needs {
        let last = needed.entry(prompt).or_default();
        *last = position.max(*last);
    }
    let cut = |(&prompt, &last): (&usize, &usize)| {
        let tokens = prompts.get(prompt);
        &tokens[..tokens.len().min(last + 1)]
    };
    let of_trials = Prompts::from_rows(needed.iter().map(cut));
    let needed: Vec<usize> = needed.into_keys().collect();
    let mut rest = order.as_slice();
    for batch in batches(&of_trials, BATCH) {
        let n = rest.partition_point(|trial| needs[*trial].0 <= needed[batch.end - 1]);
        let own: Vec<(usize, usize)> = rest[..n]
            .iter()
            .map(|&trial| (trial, needed.partition_point(|p| *p < needs[trial].0) - batch.start))
            .collect();
        rest = &rest[n..];
        f(of_trials.range(batch), &own)?;
    }
    Ok(())
}

/// The effect of every trial on the prediction at its own position.
///
/// # Errors
/// If a prompt, position or token does not exist, or a number is not finite.
pub fn effects(model: &Model, sae: &Sae, prompts: &Prompts, trials: &[Trial]) -> Result<Vec<Effect>> {
    let needs: Vec<(usize, usize)> = trials.iter().map(|t| (t.prompt, t.position)).collect();
    let mut effects: Vec<Option<Effect>> = vec![None; trials.len()];
    by_batch(prompts, &needs, |prompts, own| {
        let mut positions = vec![Vec::new(); prompts.len()];
        own.iter().for_each(|&(trial, prompt)| positions[prompt].push(trials[trial].position));
        let target = |&(trial, prompt): &(usize, usize)| Target {
            prompt,
            position: trials[trial].position,
            token: trials[trial].token,
        };
        let ask = Ask::nothing().with_predictions(own.iter().map(target));
        let bench = Bench::new(model, sae, prompts, positions, HookPoint::UnembedIn, ask)?;
        for (&(trial, _), &before) in own.iter().zip(bench.session.run().predictions()) {
            effects[trial] = Some(Effect { before, after: before });
        }
        let changed = |&(trial, prompt): &(usize, usize)| {
            let Trial { position, change, .. } = &trials[trial];
            Changed { prompt, positions: *position..position + 1, change }
        };
        let changes: Vec<Changed> = own.iter().map(changed).collect();
        let target = |group: &[(usize, usize)]| {
            let of = group.iter().enumerate().map(|(case, &(number, position))| Target {
                prompt: case,
                position,
                token: trials[own[number].0].token,
            });
            Ask::nothing().with_predictions(of)
        };
        bench.resume(&changes, target, |group, run| {
            for (&(number, _), &after) in group.iter().zip(run.predictions()) {
                effects[own[number].0].as_mut().expect("set above").after = after;
            }
            Ok(())
        })
    })?;
    Ok(effects.into_iter().map(|e| e.expect("every trial is in a batch")).collect())
}

/// Mean loss over a prompt with and without directions ablated at every position: per (prompt, directions), as
/// (original, ablated), means over all positions but the last.
///
/// # Errors
/// As [`effects`].
pub fn ablate_everywhere(
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    trials: &[(usize, Vec<u32>)],
) -> Result<Vec<(f64, f64)>> {
    let needs: Vec<(usize, usize)> = trials.iter().map(|t| (t.0, prompts.get(t.0).len())).collect();
    let mut losses = vec![(f64::NAN, f64::NAN); trials.len()];
    by_batch(prompts, &needs, |prompts, own| {
        let positions: Vec<Vec<usize>> = prompts.iter().map(|p| (0..p.len()).collect()).collect();
        let ask = Ask::nothing().with_losses();
        let bench = Bench::new(model, sae, prompts.clone(), positions, HookPoint::UnembedIn, ask)?;
        let original = |prompt: usize| {
            let (start, end) = (prompts.offsets()[prompt] - prompt, prompts.offsets()[prompt + 1] - prompt - 1);
            &bench.session.run().losses()[start..end]
        };
        for &(trial, prompt) in own {
            let before = original(prompt);
            let mean = before.iter().map(|&l| l as f64).sum::<f64>() / before.len() as f64;
            losses[trial] = (mean, mean);
        }
        let ablations: Vec<Change> = own.iter().map(|(trial, _)| Change::Ablate(trials[*trial].1.clone())).collect();
        // The last position predicts nothing, so a change there shows nowhere.
        let changed = |(&(_, prompt), change)| Changed { prompt, positions: 0..prompts.get(prompt).len() - 1, change };
        let changes: Vec<Changed> = own.iter().zip(&ablations).map(changed).collect();
        let targets = |group: &[(usize, usize)]| {
            let of = group.iter().enumerate().flat_map(|(case, &(number, first))| {
                let next = prompts.get(own[number].1).iter().enumerate().skip(first + 1);
                next.map(move |(next, &token)| Target { prompt: case, position: next - 1, token })
            });
            Ask::nothing().with_predictions(of)
        };
        bench.resume(&changes, targets, |group, run| {
            let mut predictions = run.predictions();
            for &(number, first) in group {
                let (trial, prompt) = own[number];
                let before = original(prompt);
                let (own, rest) = predictions.split_at(before.len() - first);
                predictions = rest;
                let same: f64 = before[..first].iter().map(|&l| l as f64).sum();
                losses[trial].1 = (same - own.iter().map(|p| p.log_prob).sum::<f64>()) / before.len() as f64;
            }
            Ok(())
        })
    })?;
    Ok(losses)
}

/// The effect of ablating one direction on the loss of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SingleAblation {
    /// The direction.
    pub direction: usize,
    /// Prompts it was ablated on.
    pub n: usize,
    /// Mean increase of the loss at the answer over these prompts, nats.
    pub loss_increase: f64,
    /// Standard error of that mean.
    pub se: f64,
    /// Half width of its 95 % interval.
    pub half_width: f64,
}

/// Ablates each direction alone, before the answer, on the first `limit` prompts on which it is active above `above`.
///
/// `acts` are the activations before the answer, one row per prompt. Rows in the order of `directions`.
///
/// # Errors
/// As [`effects`].
pub fn single_ablations(
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    acts: &SparseActivations,
    directions: &[u32],
    above: f32,
    limit: usize,
) -> Result<Vec<SingleAblation>> {
    let mut trials = Vec::new();
    for &direction in directions {
        let active = (0..prompts.len()).filter(|prompt| acts.get(*prompt, direction) > above).take(limit);
        for prompt in active {
            trials.push((direction, answer_trial(prompts, prompt, Change::Ablate(vec![direction]))?));
        }
    }
    let of: Vec<Trial> = trials.iter().map(|t| t.1.clone()).collect();
    let increases: Vec<f64> = effects(model, sae, prompts, &of)?.iter().map(Effect::loss_increase).collect();
    let row = |&direction: &u32| {
        let own = trials.iter().zip(&increases).filter(|((d, _), _)| *d == direction).map(|(_, i)| *i);
        let Estimate { n, mean, se, half_width, .. } = Estimate::of(own);
        SingleAblation { direction: direction as usize, n, loss_increase: mean, se, half_width }
    };
    Ok(directions.iter().map(row).collect())
}

/// A trial at the position before the last token of a prompt, which is the answer.
pub(crate) fn answer_trial(prompts: &Prompts, prompt: usize, change: Change) -> Result<Trial> {
    match prompts.get(prompt) {
        [before @ .., _, token] => Ok(Trial { prompt, position: before.len(), token: *token, change }),
        _ => Err(Error::Short { prompt }),
    }
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
    pub fn of(model: &Model, sae: &Sae, prompts: &Prompts, change: &Change) -> Result<Vec<PromptEffect>> {
        let trials: Vec<Trial> =
            (0..prompts.len()).map(|prompt| answer_trial(prompts, prompt, change.clone())).collect::<Result<_>>()?;
        let row = |(prompt, effect): (usize, Effect)| PromptEffect {
            prompt,
            log_prob: effect.before.log_prob,
            log_prob_changed: effect.after.log_prob,
            logit: effect.before.logit,
            logit_changed: effect.after.logit,
            rank: effect.before.rank,
            rank_changed: effect.after.rank,
        };
        Ok(effects(model, sae, prompts, &trials)?.into_iter().enumerate().map(row).collect())
    }
}

/// The mean of what an SAE writes: over the positions of each prompt, then over prompts. `[d_out]`.
///
/// # Errors
/// As [`Model::run`].
pub fn mean_site(model: &Model, sae: &Sae, prompts: &Prompts) -> Result<Vec<f32>> {
    let (hook, columns): (HookPoint, _) = (sae.site().writes.hook, sae.site().writes.columns());
    let mut mean = vec![0.0_f64; columns.len()];
    for batch in batches(prompts, BATCH) {
        let part = prompts.range(batch);
        let run = model.run(&part, &Ask::capture([hook]), &[])?;
        for bounds in part.offsets().windows(2) {
            let weight = 1.0 / ((bounds[1] - bounds[0]) as f64 * prompts.len() as f64);
            for row in bounds[0]..bounds[1] {
                let values = &run.captured(hook).row(row)[columns.clone()];
                mean.iter_mut().zip(values).for_each(|(m, &x)| *m += x as f64 * weight);
            }
        }
    }
    Ok(mean.into_iter().map(|m| m as f32).collect())
}

/// The loss of the answer with its site changed in five ways.
#[derive(Debug, Clone, PartialEq)]
pub struct LossRecovered {
    /// Per prompt, unchanged.
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

impl LossRecovered {
    /// `(zero − sae) / (zero − original)`, of mean losses over prompts.
    pub fn recovered(&self) -> f64 {
        let mean = |losses: &[f64]| Estimate::of(losses.iter().copied()).mean;
        (mean(&self.zero) - mean(&self.sae)) / (mean(&self.zero) - mean(&self.original))
    }
}

/// Losses of the answers (the last tokens) with the site before them changed.
///
/// # Errors
/// As [`effects`].
pub fn loss_recovered(
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    directions: &[u32],
    mean: &[f32],
) -> Result<LossRecovered> {
    let changes = [
        Change::None,
        Change::Replace(mean.into()),
        Change::Zero,
        Change::Ablate(directions.to_vec()),
        Change::Reconstruct { without: Vec::new() },
    ];
    let trials: Vec<Trial> = (0..prompts.len())
        .flat_map(|prompt| changes.iter().map(move |change| answer_trial(prompts, prompt, change.clone())))
        .collect::<Result<_>>()?;
    let effects = effects(model, sae, prompts, &trials)?;
    let [original, mean, zero, directions, sae] = [0, 1, 2, 3, 4]
        .map(|kind| effects.iter().skip(kind).step_by(changes.len()).map(|e| -e.after.log_prob).collect::<Vec<_>>());
    Ok(LossRecovered { original, mean, zero, directions, sae })
}
