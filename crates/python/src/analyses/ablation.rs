//! What ablating directions does to the prediction of a token, or to the loss of a prompt.

use directrix_circuits::{
    self as circuits, About, ActivePrompts, Activity, Change, Chosen, Effect, LossClaim, Matched, PromptEffect, Trial,
};
use directrix_corpus as corpus;
use directrix_model::Positions;
use directrix_sae as sae;
use pyo3::prelude::*;
use serde::Serialize;

use super::behaviour::looked_at;
use super::{At, checked, flags, part, some};
use crate::change::{Intervention, Made};
use crate::error::{Failure, Result};
use crate::index::Index;
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::{Sae, SparseActivations};
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(ablate, module)?)?;
    module.add_function(wrap_pyfunction!(ablate_each, module)?)?;
    module.add_function(wrap_pyfunction!(single_ablations, module)?)?;
    module.add_function(wrap_pyfunction!(answer_effects, module)?)
}

/// What is ablated where.
struct Ablation<'a> {
    model: &'a Model,
    sae: &'a sae::Sae,
    prompts: &'a corpus::Prompts,
    /// The position of each prompt; none if every one is changed.
    positions: Option<Vec<usize>>,
    reconstruct: bool,
    /// Whether prompts in which no direction is active are changed, too.
    all: bool,
    directions: Vec<u32>,
    /// For each prompt, the directions that are active where it is changed.
    active: Vec<Vec<u32>>,
}

/// What a change does at one position of a prompt; nothing where no direction is active.
#[derive(Serialize)]
struct AtPosition {
    prompt: usize,
    position: usize,
    answer: u32,
    answer_text: String,
    active: bool,
    log_prob: f64,
    log_prob_ablated: Option<f64>,
    logit: f32,
    logit_ablated: Option<f32>,
    rank: usize,
    rank_ablated: Option<usize>,
    loss_increase: Option<f64>,
}

/// What a change at every position does to a prompt; nothing where no direction is active.
#[derive(Serialize)]
struct Everywhere {
    prompt: usize,
    active: bool,
    loss: f64,
    loss_ablated: Option<f64>,
    loss_increase: Option<f64>,
}

/// The effect on each prompt, and the claim of its mean.
#[pyfunction]
#[pyo3(signature = (model, sae, prompts, directions, at, reconstruct, only_active, index = None, number = None))]
fn ablate(
    py: Python,
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    directions: Vec<u32>,
    at: Option<At>,
    reconstruct: bool,
    only_active: bool,
    index: Option<&Index>,
    number: Option<usize>,
) -> Result<(Table, Table)> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let indexed = index.map(|index| part(index, model, &sae, number)).transpose()?;
    let mut ablation = Ablation::new(model, &sae, prompts, directions, at, reconstruct, !only_active)?;
    let matched = ablation.prepare(py, at_changed(prompts, ablation.positions.as_deref()), indexed.map(Matched::of))?;
    let everywhere = ablation.positions.is_none();
    watched(py, |watch| {
        let change = if everywhere { "ablated at every position" } else { "ablated before the answer" };
        let directions = &ablation.directions;
        let (changed, unchanged): (Vec<usize>, Vec<usize>) =
            (0..prompts.len()).partition(|prompt| ablation.changes(*prompt, directions));
        let trials = ablation.trials(directions, |prompt| ablation.changes(prompt, directions))?;
        let others = ablation.trials(directions, |prompt| !ablation.changes(prompt, directions))?;
        let lists = [(ablation.about(change), trials)];
        let mut claims = circuits::loss_claims(&model.model, prompts, &lists, Some(&matched), watch)?;
        let LossClaim { claim, effects } = claims.remove(0);
        let of_others = circuits::effects(&model.model, prompts, &others, watch)?;
        let mut found: Vec<(usize, &Effect)> =
            changed.into_iter().zip(&effects).chain(unchanged.into_iter().zip(&of_others)).collect();
        found.sort_by_key(|(prompt, _)| *prompt);

        let (name, how) = (sae.short_name(), if reconstruct { "left out of the reconstruction" } else { "ablated" });
        let listed = directions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let of_prompts = if everywhere {
            let rows = found.iter().map(|(p, effect)| ablation.everywhere(*p, effect)).collect::<Result<Vec<_>>>()?;
            let caption = format!(
                "Mean loss over each prompt in nats, with directions {listed} of {name} {how} at every position"
            );
            circuits::Table::from_rows("ablations", &caption, &rows)
        } else {
            let rows = found.iter().map(|(p, effect)| ablation.at_position(*p, effect)).collect::<Result<Vec<_>>>()?;
            let caption = format!(
                "The prediction of what follows the position, with directions {listed} of {name} {how} there; nats"
            );
            circuits::Table::from_rows("ablations", &caption, &rows)
        };
        Ok::<_, Failure>((
            Table::new(flags(of_prompts, &["active"])),
            Table::of("ablation", &claim.sentence(), &[claim]),
        ))
    })
}

#[pyfunction]
#[pyo3(signature = (model, sae, prompts, directions, at, reconstruct, only_active, index = None, number = None))]
fn ablate_each(
    py: Python,
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    directions: Vec<u32>,
    at: Option<At>,
    reconstruct: bool,
    only_active: bool,
    index: Option<&Index>,
    number: Option<usize>,
) -> Result<Table> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let indexed = index.map(|index| part(index, model, &sae, number)).transpose()?;
    let mut ablation = Ablation::new(model, &sae, prompts, directions, at, reconstruct, !only_active)?;
    let matched = ablation.prepare(py, at_changed(prompts, ablation.positions.as_deref()), indexed.map(Matched::of))?;
    let change = match (&ablation.positions, reconstruct) {
        (None, false) => "ablated alone at every position",
        (None, true) => "left out alone of the reconstruction at every position",
        (Some(_), true) => "left out alone of the reconstruction before the answer",
        (Some(_), false) => "ablated alone before the answer",
    };
    let rows = watched(py, |watch| {
        let of = |direction| ablation.trials(&[direction], |prompt| ablation.changes(prompt, &[direction]));
        let about = ablation.about(change);
        circuits::ablate_each(&model.model, prompts, &ablation.directions, about, of, Some(&matched), watch)
    })?;
    let said = rows.first().map(|row| row.loss_increase.sentence()).unwrap_or_default();
    Ok(Table::of("ablations", &format!("{}: {said}", sae.short_name()), &rows))
}

/// The positions that are changed in a prompt.
fn at_changed(prompts: &corpus::Prompts, positions: Option<&[usize]>) -> Vec<std::ops::Range<usize>> {
    let of_prompt = |(prompt, tokens): (usize, &[u32])| match positions {
        Some(positions) => positions[prompt]..positions[prompt] + 1,
        None => 0..tokens.len().saturating_sub(1),
    };
    prompts.iter().enumerate().map(of_prompt).collect()
}

impl<'a> Ablation<'a> {
    fn new(
        model: &'a Model,
        sae: &'a sae::Sae,
        prompts: &'a corpus::Prompts,
        directions: Vec<u32>,
        at: Option<At>,
        reconstruct: bool,
        all: bool,
    ) -> Result<Ablation<'a>> {
        let directions = checked(sae, directions)?;
        // Every position is checked before the first is changed.
        let looked_at = looked_at(prompts, at.as_ref())?;
        let positions = at.map(|_| looked_at.into_iter().map(|at| at.start).collect());
        Ok(Ablation { model, sae, prompts, positions, reconstruct, all, directions, active: Vec::new() })
    }

    /// Sees where the directions are active; gives what draws controls: `matched`, or directions that fire as often in these prompts.
    fn prepare(
        &mut self,
        py: Python,
        changed: Vec<std::ops::Range<usize>>,
        matched: Option<Matched>,
    ) -> Result<Matched> {
        let (model, sae, prompts, directions) = (self.model, self.sae, self.prompts, &self.directions);
        let Activity { active, matched: of_prompts } = watched(py, |watch| {
            circuits::activity(&model.model, sae, prompts, |prompt| changed[prompt].clone(), directions, watch)
        })?;
        self.active = active;
        Ok(matched.unwrap_or(of_prompts))
    }

    fn about(&self, change: &'static str) -> About {
        let over = if self.reconstruct || self.all { "prompts" } else { "prompts in which they are active" };
        About { chosen: Chosen::Given, change, measure: "loss_increase", unit: "nats", over }
    }

    /// Whether ablating these changes a prompt.
    fn changes(&self, prompt: usize, directions: &[u32]) -> bool {
        self.reconstruct || self.all || self.active[prompt].iter().any(|active| directions.contains(active))
    }

    /// The change of `directions` in the prompts that are wanted.
    fn trials(&self, directions: &[u32], wanted: impl Fn(usize) -> bool) -> circuits::Result<Vec<Trial<'a>>> {
        let change = if self.reconstruct {
            Change::Reconstruct { without: directions.to_vec() }
        } else {
            Change::Ablate(directions.to_vec())
        };
        let trial = |prompt: usize| match &self.positions {
            Some(positions) => Trial::at(self.sae, self.prompts, prompt, positions[prompt], change.clone()),
            None => Trial::everywhere(self.sae, self.prompts, prompt, change.clone()),
        };
        (0..self.prompts.len()).filter(|prompt| wanted(*prompt)).map(trial).collect()
    }

    fn at_position(&self, prompt: usize, effect: &Effect) -> Result<AtPosition> {
        let [before, after] = [effect.before.prediction()?, effect.after.prediction()?];
        let position = self.positions.as_ref().map_or(0, |positions| positions[prompt]);
        let changed = self.changes(prompt, &self.directions);
        let answer = self.prompts.get(prompt)[position + 1];
        Ok(AtPosition {
            prompt,
            position,
            answer,
            answer_text: self.model.token(answer),
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

    fn everywhere(&self, prompt: usize, effect: &Effect) -> Result<Everywhere> {
        let [loss, loss_ablated] = [effect.before.loss()?, effect.after.loss()?];
        let changed = self.changes(prompt, &self.directions);
        Ok(Everywhere {
            prompt,
            active: !self.active[prompt].is_empty(),
            loss,
            loss_ablated: changed.then_some(loss_ablated),
            loss_increase: changed.then(|| effect.loss_increase()).transpose()?,
        })
    }
}

#[pyfunction]
#[pyo3(signature = (model, sae, prompts, directions, acts, above, limit, index = None, number = None))]
fn single_ablations(
    py: Python,
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    directions: Vec<u32>,
    acts: Option<&SparseActivations>,
    above: f32,
    limit: usize,
    index: Option<&Index>,
    number: Option<usize>,
) -> Result<Table> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let directions = checked(&sae, directions)?;
    let indexed = index.map(|index| part(index, model, &sae, number)).transpose()?;
    if let Some(acts) = acts
        && (acts.acts.positions(), acts.directions) != (prompts.len(), sae.directions())
    {
        let (given, wanted) = ((acts.acts.positions(), acts.directions), (prompts.len(), sae.directions()));
        return Err(Failure::argument(format!("the activations are {given:?}; a row for each prompt is {wanted:?}")));
    }
    let rows = watched(py, |watch| {
        let computed;
        let acts = if let Some(acts) = acts {
            &acts.acts
        } else {
            computed = circuits::answer_activations(&model.model, &sae, prompts, watch)?;
            &computed
        };
        let matched = indexed.map(Matched::of);
        let on = ActivePrompts { acts, above, limit, matched: matched.as_ref() };
        circuits::single_ablations(&model.model, &sae, prompts, &directions, Chosen::Given, on, watch)
    })?;
    let said = rows.first().map(|row| row.loss_increase.sentence()).unwrap_or_default();
    Ok(Table::of("single-ablations", &said, &rows))
}

#[derive(Serialize)]
struct AnswerEffect {
    #[serde(flatten)]
    effect: PromptEffect,
    answer: u32,
    answer_text: String,
}

/// The change, then the same along random rows, then of random directions.
#[pyfunction]
#[pyo3(signature = (model, intervention, prompts, index = None, number = None))]
fn answer_effects(
    py: Python,
    model: &Model,
    intervention: &Intervention,
    prompts: &Prompts,
    index: Option<&Index>,
    number: Option<usize>,
) -> Result<(Table, Table, Table)> {
    let (change, prompts) = (intervention.change()?, some(prompts)?);
    let Made::AtSite { sae, positions, .. } = &intervention.made else {
        return Err(Failure::argument("this is no change of an SAE's directions"));
    };
    if !matches!(positions, Positions::All | Positions::FromEnd(2)) {
        let problem =
            "the change is made before the answer of each prompt; give an intervention without positions of its own";
        return Err(Failure::argument(problem));
    }
    let sae = sae.clone().fit(model.model.config())?;
    let indexed = index.map(|index| part(index, model, &sae, number)).transpose()?;
    let [own, rows, directions] = watched(py, |watch| match indexed {
        Some(indexed) => PromptEffect::with_controls(&model.model, &sae, prompts, change, &Matched::of(indexed), watch),
        None => Ok([PromptEffect::of(&model.model, &sae, prompts, change, watch)?, Vec::new(), Vec::new()]),
    })?;
    let table = |name: &str, what: &str, effects: Vec<PromptEffect>| {
        let row = |effect: PromptEffect| {
            let answer = prompts.get(effect.prompt).last().copied().unwrap_or_default();
            AnswerEffect { effect, answer, answer_text: model.token(answer) }
        };
        let rows: Vec<AnswerEffect> = effects.into_iter().map(row).collect();
        let caption = format!(
            "Log-probability (nats), logit and rank of the answer, the last token of each prompt, and the same {what}"
        );
        Table::of(name, &caption, &rows)
    };
    Ok((
        table("answer-effects", "with the change before it", own),
        table("random-rows", "with as much taken out along random rows", rows),
        table("random-directions", "with random directions of matched density changed", directions),
    ))
}
