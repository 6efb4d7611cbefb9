//! What ablating directions does to the prediction of a token, or to the loss of a prompt.

use directrix_circuits::{
    self as circuits, Ablated, AblatedAnswer, AblatedPrompts, Ablation, AblationOptions, ActivePrompts, Chosen,
    Matched, PromptEffect,
};
use directrix_corpus::{self as corpus, Watch};
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

/// An effect on an answer, with the answer.
#[derive(Serialize)]
struct AtPosition {
    prompt: usize,
    position: usize,
    answer: u32,
    answer_text: String,
    #[serde(flatten)]
    ablated: AblatedAnswer,
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
    let matched = index.map(|index| part(index, model, &sae, number)).transpose()?.map(Matched::of);
    let options = options(&sae, prompts, directions, at, reconstruct, only_active)?;
    let listed = options.directions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    watched(py, |watch| {
        let ablation = ablation(model, &sae, prompts, options, matched, watch)?;
        let Ablated { claim, prompts: found } = ablation.together(watch)?;
        let caption = ablation.caption(&listed);
        let of_prompts = match found {
            AblatedPrompts::At(rows) => {
                let row = |ablated: AblatedAnswer| {
                    let AblatedAnswer { prompt, position, .. } = ablated;
                    let answer = prompts.get(prompt)[position + 1];
                    AtPosition { prompt, position, answer, answer_text: model.token(answer), ablated }
                };
                let rows: Vec<AtPosition> = rows.into_iter().map(row).collect();
                circuits::Table::from_rows("ablations", &caption, &rows)
            }
            AblatedPrompts::Everywhere(rows) => circuits::Table::from_rows("ablations", &caption, &rows),
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
    let matched = index.map(|index| part(index, model, &sae, number)).transpose()?.map(Matched::of);
    let options = options(&sae, prompts, directions, at, reconstruct, only_active)?;
    let rows = watched(py, |watch| ablation(model, &sae, prompts, options, matched, watch)?.each(watch))?;
    let said = rows.first().map(|row| row.loss_increase.sentence()).unwrap_or_default();
    Ok(Table::of("ablations", &format!("{}: {said}", sae.short_name()), &rows))
}

/// What is ablated where; every position is checked before the first is changed.
fn options(
    sae: &sae::Sae,
    prompts: &corpus::Prompts,
    directions: Vec<u32>,
    at: Option<At>,
    reconstruct: bool,
    only_active: bool,
) -> Result<AblationOptions> {
    let directions = checked(sae, directions)?;
    let looked_at = looked_at(prompts, at.as_ref())?;
    let positions = at.map(|_| looked_at.into_iter().map(|at| at.start).collect());
    Ok(AblationOptions { directions, positions, reconstruct, all: !only_active })
}

/// The ablation, with controls of the index if there is one.
fn ablation<'a>(
    model: &'a Model,
    sae: &'a sae::Sae,
    prompts: &'a corpus::Prompts,
    options: AblationOptions,
    matched: Option<Matched>,
    watch: &Watch,
) -> circuits::Result<Ablation<'a>> {
    let ablation = Ablation::new(&model.model, sae, prompts, options, watch)?;
    Ok(match matched {
        Some(matched) => ablation.with_controls_of(matched),
        None => ablation,
    })
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
