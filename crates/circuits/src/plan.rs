//! Many changes on many prompts, computed together: each prompt is run once, all its changes go on from there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use directrix_corpus::{Event, Prompts, Watch};
use directrix_kernels::{Matrix, SparseActivations};
use directrix_model::{
    Ask, Case, Edit, HookPoint, Intervention, Model, Norm, Positions, Rows, Run, Session, Target, batches,
};
use directrix_sae::Sae;
use rayon::prelude::*;

use crate::batch::BATCH;
use crate::change::{Difference, SiteRow, Writer, turn};
use crate::shared::{foreign, from_bytes, to_bytes};
use crate::{Change, Effect, Error, Look, Result, Seen, Trial};

/// Changed positions in one resumed pass, about.
const CHANGED: usize = 1024;
/// Positions that one resumed pass computes, about.
const COMPUTED: usize = 16_384;

/// Trials of a batch that are a unit of work where several processes share them.
const SHARED: usize = 512;

/// The effect of every trial, in order. Prompts are run once, up to the last position that a trial needs; the changes go on
/// from there, many at a time. Processes that work [together](Watch::share) do some prompts and trials each.
///
/// # Errors
/// If a prompt, position, direction or token does not exist, a number is not finite, or `watch` stopped it.
#[expect(clippy::missing_panics_doc, reason = "every trial is in a batch")]
pub fn effects(model: &Model, prompts: &Prompts, trials: &[Trial], watch: &Watch) -> Result<Vec<Effect>> {
    let mut effects: Vec<Option<Effect>> = vec![None; trials.len()];
    let mut seen = |trial: usize, effect| {
        effects[trial] = Some(effect);
        Ok(())
    };
    if watch.team().is_some() {
        let plan = Plan::of(prompts, trials)?;
        let units: Vec<(usize, Range<usize>)> = (0..plan.batches.len())
            .flat_map(|batch| {
                let of = plan.batches[batch].1.clone();
                of.clone().step_by(SHARED).map(move |first| (batch, first..(first + SHARED).min(of.end)))
            })
            .collect();
        let made = watch.share("changes", units.len(), |unit, watch| {
            let mut numbers = Vec::new();
            let (batch, own) = units[unit].clone();
            plan.run(model, trials, batch, own, watch, |trial, effect| {
                effect.append(trial, &mut numbers);
                Ok(())
            })?;
            Ok::<_, Error>(to_bytes(&numbers))
        })?;
        for bytes in made {
            for (trial, effect) in Effect::read_all(from_bytes(&bytes)?)? {
                if trial >= trials.len() {
                    return Err(foreign());
                }
                seen(trial, effect)?;
            }
        }
    } else {
        each_effect(model, prompts, trials, watch, seen)?;
    }
    Ok(effects.into_iter().map(|effect| effect.expect("every trial is in a batch")).collect())
}

/// As [`effects`], by this process alone, but each effect is handed out with the number of its trial as soon as it is known.
pub(crate) fn each_effect(
    model: &Model,
    prompts: &Prompts,
    trials: &[Trial],
    watch: &Watch,
    mut seen: impl FnMut(usize, Effect) -> Result<()>,
) -> Result<()> {
    let plan = Plan::of(prompts, trials)?;
    for (batch, (_, own)) in plan.batches.iter().enumerate() {
        plan.run(model, trials, batch, own.clone(), watch, &mut seen)?;
        watch.tell(Event::new("changes", own.end as u64, "changes").of(trials.len() as u64));
    }
    Ok(())
}

/// In which batches of prompts trials are run.
struct Plan {
    /// The trials in the order of their prompts.
    order: Vec<usize>,
    /// The prompts that trials need, and their tokens up to the last position that one needs.
    needed: Vec<usize>,
    cut: Prompts,
    /// Of each batch its prompts among those, and its trials among `order`.
    batches: Vec<(Range<usize>, Range<usize>)>,
}

impl Plan {
    fn of(prompts: &Prompts, trials: &[Trial]) -> Result<Plan> {
        trials.iter().try_for_each(|trial| trial.check(prompts))?;
        let mut order: Vec<usize> = (0..trials.len()).collect();
        order.sort_by_key(|trial| trials[*trial].prompt);
        let mut needed: BTreeMap<usize, usize> = BTreeMap::new();
        for trial in trials {
            let positions = needed.entry(trial.prompt).or_default();
            *positions = trial.needs(prompts.get(trial.prompt).len()).max(*positions);
        }
        let cut = Prompts::from_rows(needed.iter().map(|(&prompt, &positions)| &prompts.get(prompt)[..positions]));
        let needed: Vec<usize> = needed.into_keys().collect();
        let mut done = 0;
        let batches = batches(&cut, BATCH)
            .into_iter()
            .map(|batch| {
                let n = order[done..].partition_point(|trial| trials[*trial].prompt <= needed[batch.end - 1]);
                done += n;
                (batch, done - n..done)
            })
            .collect();
        Ok(Plan { order, needed, cut, batches })
    }

    /// Runs some trials of a batch.
    fn run(
        &self,
        model: &Model,
        trials: &[Trial],
        batch: usize,
        own: Range<usize>,
        watch: &Watch,
        mut seen: impl FnMut(usize, Effect) -> Result<()>,
    ) -> Result<()> {
        let prompts = self.batches[batch].0.clone();
        let own = &self.order[own];
        let local = |trial: usize| self.needed.partition_point(|p| *p < trials[trial].prompt) - prompts.start;
        let of_batch: Vec<Placed> =
            own.iter().map(|&trial| Placed { prompt: local(trial), trial: &trials[trial] }).collect();
        let needs = Needs::of(model, &of_batch, self.cut.range(prompts));
        Base::new(model, needs, watch)?.effects(&of_batch, |number, effect| seen(own[number], effect))
    }
}

/// A trial, and the number of its prompt in a batch.
#[derive(Clone, Copy)]
pub(crate) struct Placed<'t, 'a> {
    pub(crate) prompt: usize,
    pub(crate) trial: &'t Trial<'a>,
}

/// What the unchanged pass over a batch must give for its trials.
pub(crate) struct Needs {
    prompts: Prompts,
    /// Values at hook points, and what the unembedding makes of some positions.
    captures: BTreeMap<HookPoint, Spots>,
    log_probs: Spots,
    targets: Vec<Target>,
    losses: bool,
    /// Where changes are added first, and positions that are computed again.
    from: HookPoint,
    again: Spots,
}

/// Positions of each prompt of a batch; sorted, the rows of what is computed there.
#[derive(Debug, Clone, Default)]
struct Spots {
    positions: Vec<Vec<usize>>,
    first_rows: Vec<usize>,
}

impl Spots {
    fn of(mut positions: Vec<Vec<usize>>) -> Spots {
        let mut first_rows = Vec::new();
        let mut rows = 0;
        for list in &mut positions {
            list.sort_unstable();
            list.dedup();
            first_rows.push(rows);
            rows += list.len();
        }
        Spots { positions, first_rows }
    }

    fn row(&self, prompt: usize, position: usize) -> usize {
        let at = self.positions[prompt].binary_search(&position).expect("every position looked at was announced");
        self.first_rows[prompt] + at
    }

    fn positions(&self) -> Positions {
        Positions::Each(self.positions.clone())
    }
}

impl Needs {
    fn of(model: &Model, trials: &[Placed], prompts: Prompts) -> Needs {
        let none = || vec![Vec::new(); prompts.len()];
        let (mut log_probs, mut again, mut losses, mut targets) = (none(), none(), false, Vec::new());
        let mut captures: BTreeMap<HookPoint, Vec<Vec<usize>>> = BTreeMap::new();
        for &Placed { prompt, trial } in trials {
            let len = prompts.get(prompt).len();
            for hook in both_ends(trial.sae) {
                captures.entry(hook).or_insert_with(none)[prompt].extend(trial.changed(len));
            }
            if let Change::AblateTurned { .. } = trial.change {
                captures.entry(trial.added_at(model)).or_insert_with(none)[prompt].extend(trial.changed(len));
            }
            again[prompt].extend(trial.changed(len).chain([trial.until(len)]));
            match trial.look {
                Look::Prediction { position, token } => targets.push(Target { prompt, position, token }),
                Look::MeanLoss => losses = true,
                Look::Activation { sae, position, .. } => {
                    captures.entry(sae.site().reads.hook).or_insert_with(none)[prompt].push(position);
                }
                Look::Activations { sae } => {
                    captures.entry(sae.site().reads.hook).or_insert_with(none)[prompt].extend(trial.positions.clone());
                }
                Look::LogProbs { position } => log_probs[prompt].push(position),
            }
        }
        targets.sort_by_key(key);
        targets.dedup();
        Needs {
            captures: captures.into_iter().map(|(hook, positions)| (hook, Spots::of(positions))).collect(),
            log_probs: Spots::of(log_probs),
            targets,
            losses,
            from: trials.iter().map(|placed| placed.trial.added_at(model)).min().unwrap_or(HookPoint::Embed),
            again: Spots::of(again),
            prompts,
        }
    }

    /// What trials need that change the site of `first` and look at the site of `second`, at any position from
    /// `first_position` on.
    pub(crate) fn between(model: &Model, first: &Sae, second: &Sae, prompts: Prompts, first_position: usize) -> Needs {
        let spots = Spots::of(prompts.iter().map(|prompt| (first_position..prompt.len()).collect()).collect());
        let seen = second.site().reads.hook;
        let hooks = both_ends(first).into_iter().chain([seen]);
        Needs {
            captures: hooks.map(|hook| (hook, spots.clone())).collect(),
            log_probs: Spots::default(),
            targets: Vec::new(),
            losses: false,
            from: Writer::hook(model, first, seen),
            again: spots,
            prompts,
        }
    }
}

/// Where an SAE reads and writes: one hook point, but for a transcoder.
fn both_ends(sae: &Sae) -> BTreeSet<HookPoint> {
    BTreeSet::from([sae.site().reads.hook, sae.site().writes.hook])
}

fn key(target: &Target) -> (usize, usize, u32) {
    (target.prompt, target.position, target.token)
}

/// A batch of prompts run once, with what its trials need.
pub(crate) struct Base<'a> {
    session: Session<'a>,
    watch: &'a Watch,
    captures: BTreeMap<HookPoint, Spots>,
    log_probs: Spots,
    log_sums: Vec<f64>,
    targets: Vec<Target>,
    /// Activations of an SAE at all captured positions of its site, where one was asked for.
    acts: RefCell<Vec<(*const Sae, Arc<SparseActivations>)>>,
}

/// Trials that are resumed together: changes of one site, added at one hook point, looked at in one way.
struct Group<'a> {
    sae: &'a Sae,
    added_at: HookPoint,
    kind: Looks,
    trials: Vec<usize>,
}

/// What the trials of a group look at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    Prediction,
    MeanLoss,
    Activation(HookPoint),
    Activations(HookPoint),
    LogProbs,
}

/// A trial that is resumed: its number, and the first position that it changes.
type Resumed = (usize, usize);

impl<'a> Base<'a> {
    pub(crate) fn new(model: &'a Model, needs: Needs, watch: &'a Watch) -> Result<Base<'a>> {
        let Needs { prompts, captures, log_probs, targets, losses, from, again } = needs;
        let mut ask = Ask::nothing().watched(watch).with_predictions(targets.iter().copied());
        for (hook, spots) in &captures {
            ask = ask.with_capture(*hook, spots.positions());
        }
        if losses {
            ask = ask.with_losses();
        }
        let with_log_probs = log_probs.positions.iter().any(|list| !list.is_empty());
        if with_log_probs {
            ask = ask.with_logits(log_probs.positions());
        }
        let session = model.session(prompts, &ask, from, again.positions())?;
        let log_sums = if with_log_probs { directrix_kernels::log_sum_exp(session.run().logits()) } else { Vec::new() };
        Ok(Base { session, watch, captures, log_probs, log_sums, targets, acts: RefCell::default() })
    }

    pub(crate) fn prompts(&self) -> &Prompts {
        self.session.prompts()
    }

    /// The directions of `sae` active at a captured position of its site, and how strongly.
    pub(crate) fn active(&self, sae: &Sae, prompt: usize, position: usize) -> Result<Vec<(u32, f32)>> {
        let acts = self.acts(sae)?;
        let (directions, values) = acts.at(self.captures[&sae.site().reads.hook].row(prompt, position));
        Ok(directions.iter().copied().zip(values.iter().copied()).collect())
    }

    /// The activations of `sae` at all captured positions of its site.
    fn acts(&self, sae: &Sae) -> Result<Arc<SparseActivations>> {
        if let Some((_, acts)) = self.acts.borrow().iter().find(|(of, _)| std::ptr::eq(*of, sae)) {
            return Ok(acts.clone());
        }
        let acts = Arc::new(sae.encode(self.session.run().captured(sae.site().reads.hook))?);
        self.acts.borrow_mut().push((sae, acts.clone()));
        Ok(acts)
    }

    /// A captured row of the unchanged pass: `[width of the hook point]`.
    fn captured(&self, hook: HookPoint, prompt: usize, position: usize) -> &[f32] {
        self.session.run().captured(hook).row(self.captures[&hook].row(prompt, position))
    }

    /// What a trial sees without its change, which is first made at position `from`.
    fn before(&self, placed: Placed, from: usize) -> Result<Seen> {
        let (prompt, run) = (placed.prompt, self.session.run());
        Ok(match placed.trial.look {
            Look::Prediction { position, token } => {
                let at = self.targets.binary_search_by_key(&(prompt, position, token), key);
                Seen::Prediction(run.predictions()[at.expect("every target was announced")])
            }
            Look::MeanLoss => {
                let losses = self.losses(prompt);
                Seen::MeanLoss(losses.iter().map(|&loss| loss as f64).sum::<f64>() / losses.len() as f64)
            }
            Look::Activation { sae, direction, position } => {
                Seen::Activation(sae.activation(self.captured(sae.site().reads.hook, prompt, position), direction)?)
            }
            Look::Activations { sae } => {
                let (acts, spots) = (self.acts(sae)?, &self.captures[&sae.site().reads.hook]);
                let rows = (from..placed.trial.positions.end).map(|position| spots.row(prompt, position));
                Seen::Activations(sums(rows.flat_map(|row| pairs(acts.at(row)))))
            }
            Look::LogProbs { position } => {
                let row = self.log_probs.row(prompt, position);
                Seen::LogProbs(log_probs(run.logits().row(row), self.log_sums[row]))
            }
        })
    }

    /// The losses of a prompt, unchanged.
    fn losses(&self, prompt: usize) -> &[f32] {
        let offsets = self.prompts().offsets();
        &self.session.run().losses()[offsets[prompt] - prompt..offsets[prompt + 1] - prompt - 1]
    }

    /// Hands out the effect of every trial, with its number.
    pub(crate) fn effects(
        mut self,
        trials: &[Placed],
        mut seen: impl FnMut(usize, Effect) -> Result<()>,
    ) -> Result<()> {
        for group in groups(self.session.model(), trials) {
            self.session = self.session.advance(group.added_at)?;
            self.group(&group, trials, &mut seen)?;
        }
        Ok(())
    }

    fn group(
        &self,
        group: &Group,
        trials: &[Placed],
        seen: &mut impl FnMut(usize, Effect) -> Result<()>,
    ) -> Result<()> {
        let site = group.sae.site().writes.hook;
        let width = self.session.run().captured(site).columns();
        let mut writer = Writer::new(self.session.model(), group.sae, group.added_at, width);
        let (mut rest, mut unchanged) = (group.trials.iter().copied(), Vec::new());
        loop {
            let (mut resumed, mut cases, mut computed) = (Vec::<Resumed>::new(), Vec::new(), 0);
            // Of each case, the changed positions; of all of them together, the differences there.
            let (mut changed, mut differences) = (Vec::<Vec<usize>>::new(), Vec::new());
            while differences.len() < CHANGED
                && computed < COMPUTED
                && let Some(number) = rest.next()
            {
                let placed = trials[number];
                let len = self.prompts().get(placed.prompt).len();
                let mut at = Vec::new();
                for position in placed.trial.changed(len) {
                    if let Some(difference) = self.difference(placed, position)? {
                        at.push(position);
                        differences.push(difference);
                    }
                }
                let Some(&first) = at.first() else {
                    unchanged.push(number);
                    continue;
                };
                let until = placed.trial.until(len);
                computed += until + 1 - first;
                resumed.push((number, first));
                cases.push(Case { prompt: placed.prompt, until, interventions: Vec::new() });
                changed.push(at);
            }
            if resumed.is_empty() {
                break;
            }
            let mut rows = writer.rows(&differences)?;
            self.turn(group, &resumed, &changed, trials, &mut rows);
            let rows = Arc::new(rows);
            let mut first = 0;
            for (case, at) in cases.iter_mut().zip(changed) {
                let own = Rows::each(&rows, first..first + at.len());
                first += at.len();
                case.interventions = vec![Intervention::new(group.added_at, Positions::At(at), Edit::Add(own))];
            }
            let run = self.session.resume(&cases, &self.ask(group.kind, &resumed, trials))?;
            let after = self.after(group.kind, &resumed, trials, &run)?;
            for ((number, first), after) in resumed.into_iter().zip(after) {
                seen(number, Effect { before: self.before(trials[number], first)?, after })?;
            }
        }
        for number in unchanged {
            let before = self.before(trials[number], trials[number].trial.positions.start)?;
            seen(number, Effect { after: before.clone(), before })?;
        }
        Ok(())
    }

    /// Turns the rows of changes that are to be, row by row of the changed positions.
    fn turn(&self, group: &Group, resumed: &[Resumed], changed: &[Vec<usize>], trials: &[Placed], rows: &mut Matrix) {
        let is_centred = matches!(self.session.model().config().norm, Norm::Layer { .. });
        let spots = resumed.iter().zip(changed).flat_map(|((number, _), at)| at.iter().map(move |at| (*number, *at)));
        for (row, (number, position)) in spots.enumerate() {
            let Placed { prompt, trial } = trials[number];
            if let Change::AblateTurned { seed, .. } = trial.change {
                turn(rows.row_mut(row), self.captured(group.added_at, prompt, position), seed, is_centred);
            }
        }
    }

    fn difference(&self, placed: Placed, position: usize) -> Result<Option<Difference>> {
        let Placed { prompt, trial: Trial { sae, change, .. } } = placed;
        let [read, written] =
            [&sae.site().reads, &sae.site().writes].map(|end| self.captured(end.hook, prompt, position));
        SiteRow { sae, read, written }.difference(change, || self.active(sae, prompt, position))
    }

    /// What a resumed run is asked for, so that its trials see what they look at.
    fn ask(&self, kind: Looks, resumed: &[Resumed], trials: &[Placed]) -> Ask {
        let ask = Ask::nothing().watched(self.watch);
        match kind {
            Looks::Prediction => ask.with_predictions(resumed.iter().enumerate().map(|(case, &(number, _))| {
                match trials[number].trial.look {
                    Look::Prediction { position, token } => Target { prompt: case, position, token },
                    _ => unreachable!("the group looks at predictions"),
                }
            })),
            Looks::MeanLoss => ask.with_predictions(resumed.iter().enumerate().flat_map(|(case, &(number, first))| {
                let next = self.prompts().get(trials[number].prompt).iter().enumerate().skip(first + 1);
                next.map(move |(next, &token)| Target { prompt: case, position: next - 1, token })
            })),
            Looks::Activation(hook) => ask.with_capture(hook, Positions::FromEnd(1)),
            Looks::Activations(hook) => {
                let again = |&(number, first): &Resumed| (first..trials[number].trial.positions.end).collect();
                ask.with_capture(hook, Positions::Each(resumed.iter().map(again).collect()))
            }
            Looks::LogProbs => ask.with_logits(Positions::FromEnd(1)),
        }
    }

    /// The sums of activations that resumed trials see. Case after case, `rows` are what the SAE reads from the first changed position on.
    fn sums_after(&self, resumed: &[Resumed], trials: &[Placed], rows: &Matrix) -> Result<Vec<Seen>> {
        let (mut cases, mut first_row) = (Vec::new(), 0);
        for &(number, first) in resumed {
            let Placed { prompt, trial } = trials[number];
            let Look::Activations { sae } = trial.look else { unreachable!("the group looks at all activations") };
            let positions = first..trial.positions.end;
            cases.push((sae, self.acts(sae)?, prompt, positions.clone(), first_row));
            first_row += positions.len();
        }
        let captures = &self.captures;
        let of_case =
            |(sae, acts, prompt, positions, first_row): &(&Sae, Arc<SparseActivations>, usize, Range<usize>, usize)| {
                let (spots, mut values) = (&captures[&sae.site().reads.hook], Vec::new());
                for (row, position) in (*first_row..).zip(positions.clone()) {
                    let (active, _) = acts.at(spots.row(*prompt, position));
                    values.extend(pairs((active, &sae.activations(rows.row(row), active)?)));
                }
                Ok(Seen::Activations(sums(values.into_iter())))
            };
        cases.par_iter().map(of_case).collect()
    }

    /// What the resumed trials see.
    fn after(&self, kind: Looks, resumed: &[Resumed], trials: &[Placed], run: &Run) -> Result<Vec<Seen>> {
        let one = |(case, &(number, _)): (usize, &Resumed)| {
            Ok(match (kind, trials[number].trial.look) {
                (Looks::Activation(hook), Look::Activation { sae, direction, .. }) => {
                    Seen::Activation(sae.activation(run.captured(hook).row(case), direction)?)
                }
                _ => Seen::Prediction(run.predictions()[case]),
            })
        };
        match kind {
            Looks::Prediction | Looks::Activation(_) => resumed.iter().enumerate().map(one).collect(),
            Looks::MeanLoss => {
                let mut predictions = run.predictions();
                let mean = |&(number, first): &Resumed| {
                    let before = self.losses(trials[number].prompt);
                    let (own, rest) = predictions.split_at(before.len() - first);
                    predictions = rest;
                    let same: f64 = before[..first].iter().map(|&loss| loss as f64).sum();
                    let changed: f64 = own.iter().map(|prediction| prediction.log_prob).sum();
                    Seen::MeanLoss((same - changed) / before.len() as f64)
                };
                Ok(resumed.iter().map(mean).collect())
            }
            Looks::Activations(hook) => self.sums_after(resumed, trials, run.captured(hook)),
            Looks::LogProbs => {
                let (logits, sums) = (run.logits(), directrix_kernels::log_sum_exp(run.logits()));
                Ok(logits.iter_rows().zip(sums).map(|(row, sum)| Seen::LogProbs(log_probs(row, sum))).collect())
            }
        }
    }
}

/// What fires at a position.
fn pairs<'a>((directions, values): (&'a [u32], &'a [f32])) -> impl Iterator<Item = (u32, f64)> + 'a {
    directions.iter().zip(values).map(|(direction, value)| (*direction, f64::from(*value)))
}

/// The sum of each direction's values, by direction.
fn sums(values: impl Iterator<Item = (u32, f64)>) -> Vec<(u32, f64)> {
    let mut values: Vec<(u32, f64)> = values.collect();
    values.sort_by_key(|(direction, _)| *direction);
    values.chunk_by(|a, b| a.0 == b.0).map(|same| (same[0].0, same.iter().map(|(_, value)| value).sum())).collect()
}

/// Those of `trials` that can be resumed together, in the order in which the pass reaches where they are added.
fn groups<'a>(model: &Model, trials: &[Placed<'_, 'a>]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    for (number, placed) in trials.iter().enumerate() {
        let (sae, added_at) = (placed.trial.sae, placed.trial.added_at(model));
        let kind = match placed.trial.look {
            Look::Prediction { .. } => Looks::Prediction,
            Look::MeanLoss => Looks::MeanLoss,
            Look::Activation { sae, .. } => Looks::Activation(sae.site().reads.hook),
            Look::Activations { sae } => Looks::Activations(sae.site().reads.hook),
            Look::LogProbs { .. } => Looks::LogProbs,
        };
        let same = |g: &&mut Group| std::ptr::eq(g.sae, sae) && g.added_at == added_at && g.kind == kind;
        match groups.iter_mut().find(same) {
            Some(group) => group.trials.push(number),
            None => groups.push(Group { sae, added_at, kind, trials: vec![number] }),
        }
    }
    groups.sort_by_key(|group| group.added_at);
    groups
}

fn log_probs(logits: &[f32], log_sum: f64) -> Vec<f64> {
    logits.iter().map(|&logit| logit as f64 - log_sum).collect()
}
