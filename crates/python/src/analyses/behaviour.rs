//! Prompts that show a behaviour, and what fires there.

use std::ops::Range;

use directrix_circuits::{self as circuits, ActiveOptions, Behaviour};
use directrix_corpus::Event;
use directrix_index::SaeIndex;
use directrix_model::{Ask, batches};
use numpy::ndarray::IxDyn;
use numpy::{PyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use serde::Serialize;

use super::{At, checked, fitted, part, some};
use crate::array::owned;
use crate::error::{Failure, Result};
use crate::index::Index;
use crate::lab::Opened;
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::{Sae, SparseActivations};
use crate::table::Table;
use crate::watch::watched;

/// Positions of a model pass.
const BATCH: usize = 4096;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(behaviour_prompts, module)?)?;
    module.add_function(wrap_pyfunction!(answer_activations, module)?)?;
    module.add_function(wrap_pyfunction!(active_directions, module)?)?;
    module.add_function(wrap_pyfunction!(coactivation, module)?)?;
    module.add_function(wrap_pyfunction!(activity, module)?)?;
    module.add_function(wrap_pyfunction!(explain, module)?)
}

/// The prompts, the answer, documents looked at, and prompts left out for being longer than the context.
#[pyfunction]
#[pyo3(signature = (opened, contains, ends_with, limit = None))]
fn behaviour_prompts(
    py: Python,
    opened: &Opened,
    contains: String,
    ends_with: String,
    limit: Option<usize>,
) -> Result<(Prompts, u32, usize, usize)> {
    let (opened, behaviour) = (&opened.0, Behaviour { contains, ends_with, limit });
    let found = watched(py, |watch| {
        let (context, tokenizer) = (opened.model.config().n_ctx, opened.tokenizer.as_ref());
        let documents = opened.documents()?;
        Ok::<_, Failure>(circuits::behaviour_prompts(documents, tokenizer, &behaviour, opened.bos, context, watch)?)
    })?;
    Ok((Prompts(found.prompts), found.answer, found.documents, found.too_long))
}

#[pyfunction]
fn answer_activations(py: Python, model: &Model, sae: &Sae, prompts: &Prompts) -> Result<SparseActivations> {
    let (sae, prompts) = (sae.of(model)?, &prompts.0);
    let acts = watched(py, |watch| circuits::answer_activations(&model.model, &sae, prompts, watch))?;
    Ok(SparseActivations { acts, directions: sae.directions() })
}

#[pyfunction]
#[pyo3(signature = (acts, maxima, share_of_maximum = None, share_of_prompts = None, top = None))]
fn active_directions(
    py: Python,
    acts: &SparseActivations,
    maxima: PyReadonlyArray1<f32>,
    share_of_maximum: Option<f32>,
    share_of_prompts: Option<f64>,
    top: Option<usize>,
) -> Result<Table> {
    let default = ActiveOptions::default();
    let options = ActiveOptions {
        share_of_maximum: share_of_maximum.unwrap_or(default.share_of_maximum),
        share_of_prompts: share_of_prompts.unwrap_or(default.share_of_prompts),
        top: top.unwrap_or(default.top),
    };
    let maxima: Vec<f32> = maxima.as_array().to_vec();
    let rows = watched(py, |_| circuits::active_directions(&acts.acts, &maxima, options))?;
    let caption = "Directions above their threshold on enough prompts; the mean activation is over the prompts on which they are, with the \
                   half width of its 95 % interval; the share of all prompts with both ends of its own (Wilson)";
    Ok(Table::of("active-directions", caption, &rows))
}

/// `[directions, directions]`.
#[pyfunction]
fn coactivation<'py>(
    py: Python<'py>,
    acts: &SparseActivations,
    directions: Vec<u32>,
    above: f32,
) -> Result<Bound<'py, PyArray<f64, IxDyn>>> {
    if let Some(none) = directions.iter().find(|direction| **direction as usize >= acts.directions) {
        return Err(Failure::argument(format!("there is no direction {none}; these are of {}", acts.directions)));
    }
    let n = directions.len();
    let values = match n {
        0 => Vec::new(),
        _ => watched(py, |_| circuits::coactivation(&acts.acts, &directions, above))?,
    };
    Ok(owned(py, values, &[n, n])?)
}

/// Positions that are looked at in each prompt: one, or all that predict a token.
pub(super) fn looked_at(prompts: &directrix_corpus::Prompts, at: Option<&At>) -> Result<Vec<Range<usize>>> {
    match at {
        Some(at) => Ok(at.of(prompts, true)?.into_iter().map(|position| position..position + 1).collect()),
        // It is checked that something is predicted.
        None => Ok(At::One(-2).of(prompts, true)?.into_iter().map(|position| 0..position + 1).collect()),
    }
}

#[derive(Serialize)]
struct Active {
    prompt: usize,
    direction: u32,
}

#[pyfunction]
#[pyo3(signature = (model, sae, prompts, directions, at = None))]
fn activity(
    py: Python,
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    directions: Vec<u32>,
    at: Option<At>,
) -> Result<Table> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let directions = checked(&sae, directions)?;
    let positions = looked_at(prompts, at.as_ref())?;
    let found = watched(py, |watch| {
        circuits::activity(&model.model, &sae, prompts, |prompt| positions[prompt].clone(), &directions, watch)
    })?;
    let of_prompt = |(prompt, active): (usize, Vec<u32>)| {
        active.into_iter().map(move |direction| Active { prompt, direction }).collect::<Vec<_>>()
    };
    let rows: Vec<Active> = found.active.into_iter().enumerate().flat_map(of_prompt).collect();
    let caption =
        "Each of the directions in each prompt in which it is active at one at least of the positions looked at";
    Ok(Table::of("activity", caption, &rows))
}

/// A direction that is active at a position.
#[derive(Serialize)]
struct ActiveAt {
    prompt: usize,
    position: usize,
    token: u32,
    token_text: String,
    sae: String,
    direction: u32,
    activation: f32,
    #[serde(flatten)]
    indexed: Option<Indexed>,
}

/// What an index says of a direction.
#[derive(Serialize)]
struct Indexed {
    of_maximum: Option<f32>,
    top_token: Option<u32>,
    top_token_text: String,
}

#[pyfunction]
#[pyo3(signature = (model, saes, prompts, top, index = None))]
fn explain(
    py: Python,
    model: &Model,
    saes: Vec<PyRef<Sae>>,
    prompts: &Prompts,
    top: usize,
    index: Option<&Index>,
) -> Result<Table> {
    let (saes, prompts) = (fitted(model, &saes)?, some(prompts)?);
    let parts = match index {
        Some(index) => {
            saes.iter().map(|sae| Ok(Some((index, part(index, model, sae, None)?)))).collect::<Result<Vec<_>>>()?
        }
        None => vec![None; saes.len()],
    };
    let rows = watched(py, |watch| {
        let ask = Ask::capture(saes.iter().map(|sae| sae.site().reads.hook)).watched(watch);
        let mut rows = Vec::new();
        for batch in batches(prompts, BATCH) {
            let part = prompts.range(batch.clone());
            let run = model.model.run(&part, &ask, &[])?;
            for (sae, indexed) in saes.iter().zip(&parts) {
                let acts = sae.encode(run.captured(sae.site().reads.hook))?;
                for (number, tokens) in part.iter().enumerate() {
                    for (position, token) in tokens.iter().enumerate() {
                        let (directions, values) = acts.at(part.offsets()[number] + position);
                        let mut active: Vec<(u32, f32)> =
                            directions.iter().copied().zip(values.iter().copied()).collect();
                        active.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                        for (direction, activation) in active.into_iter().take(top) {
                            let of =
                                |&(index, part): &(&Index, &SaeIndex)| indexed_of(index, part, direction, activation);
                            rows.push(ActiveAt {
                                prompt: batch.start + number,
                                position,
                                token: *token,
                                token_text: model.token(*token),
                                sae: sae.short_name().into(),
                                direction,
                                activation,
                                indexed: indexed.as_ref().map(of).transpose()?,
                            });
                        }
                    }
                }
            }
            watch.tell(Event::new("explaining", batch.end as u64, "prompts").of(prompts.len() as u64));
        }
        rows.sort_by_key(|row| (row.prompt, row.position));
        Ok::<_, Failure>(rows)
    })?;
    let caption = format!("The directions that are active at each position, the {top} strongest of each SAE at most");
    Ok(Table::of("active", &caption, &rows))
}

fn indexed_of(index: &Index, part: &SaeIndex, direction: u32, activation: f32) -> Result<Indexed> {
    let maximum = part.maxima()[direction as usize];
    let top_token = part.token_counts(direction as usize)?.first().map(|of| of.token);
    Ok(Indexed {
        of_maximum: (maximum > 0.0).then_some(activation / maximum),
        top_token,
        top_token_text: top_token.map(|token| index.token(token)).unwrap_or_default(),
    })
}
