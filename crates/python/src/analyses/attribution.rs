//! Who wrote a logit, or drives a direction.

use directrix_circuits::{self as circuits, Inactive};
use directrix_corpus as corpus;
use numpy::PyArray;
use numpy::ndarray::IxDyn;
use pyo3::prelude::*;
use serde::Serialize;

use super::{At, Token, fitted, one, some};
use crate::array::owned;
use crate::error::{Failure, Result};
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::{Sae, SparseActivations};
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(logit_attribution, module)?)?;
    module.add_function(wrap_pyfunction!(direct_attribution, module)?)?;
    module.add_function(wrap_pyfunction!(remainder, module)?)?;
    module.add_function(wrap_pyfunction!(mean_decomposition, module)?)?;
    module.add_function(wrap_pyfunction!(attribution_to_direction, module)?)?;
    module.add_function(wrap_pyfunction!(direction_attribution, module)?)
}

#[pyfunction]
fn logit_attribution(py: Python, model: &Model, prompts: &Prompts) -> Result<Table> {
    let prompts = some(prompts)?;
    let rows = watched(py, |watch| circuits::logit_attribution(&model.model, prompts, watch))?;
    let caption = "Mean contribution of each component to the answer's logit, at the position before it, over n prompts, with standard error and \
                   half width of the 95 % interval";
    Ok(Table::of("logit-attribution", caption, &rows))
}

#[derive(Serialize)]
struct Part {
    component: String,
    value: f64,
}

#[derive(Serialize)]
struct OfDirection {
    sae: String,
    direction: u32,
    activation: f32,
    value: f64,
}

/// The logit, what components add, and what directions add.
#[pyfunction]
#[pyo3(signature = (model, saes, prompt, position, token = None))]
fn direct_attribution(
    py: Python,
    model: &Model,
    saes: Vec<PyRef<Sae>>,
    prompt: &Prompts,
    position: i64,
    token: Option<Token>,
) -> Result<(f64, Table, Table)> {
    let (saes, tokens) = (fitted(model, &saes)?, one(prompt)?);
    let position = At::One(position).of(&prompt.0, token.is_none())?[0];
    let token = match token {
        Some(token) => token.of(model.tokenizer.as_ref())?,
        None => tokens[position + 1],
    };
    let found = watched(py, |watch| circuits::direct_attribution(&model.model, &saes, tokens, position, token, watch))?;
    let what = format!("what it adds to the logit of {:?} at position {position}", model.token(token));
    let parts: Vec<Part> = found.components.into_iter().map(|(component, value)| Part { component, value }).collect();
    let mut directions: Vec<OfDirection> = found
        .directions
        .iter()
        .map(|of| OfDirection {
            sae: saes[of.sae].short_name().into(),
            direction: of.direction,
            activation: of.activation,
            value: of.value,
        })
        .collect();
    directions.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
    let components = Table::of("direct-attribution", &format!("Each component and {what}"), &parts);
    let caption = format!(
        "Each direction that is active there, of SAEs that write to the residual stream, and {what}; the largest first"
    );
    Ok((found.logit, components, Table::of("direct-attribution-directions", &caption, &directions)))
}

/// The answer that is given, or the last token of all prompts.
pub(super) fn answer_of(model: &Model, prompts: &corpus::Prompts, answer: Option<Token>) -> Result<u32> {
    if let Some(answer) = answer {
        return answer.of(model.tokenizer.as_ref());
    }
    let mut lasts: Vec<u32> = prompts.iter().filter_map(|tokens| tokens.last().copied()).collect();
    lasts.dedup();
    match lasts[..] {
        [answer] => Ok(answer),
        _ => Err(Failure::argument("the prompts end with different tokens; say which is the answer")),
    }
}

#[pyfunction]
#[pyo3(signature = (model, sae, prompts, answer = None))]
fn remainder(py: Python, model: &Model, sae: &Sae, prompts: &Prompts, answer: Option<Token>) -> Result<Table> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let answer = answer_of(model, prompts, answer)?;
    let rows = watched(py, |watch| circuits::remainder(&model.model, &sae, prompts, answer, watch))?;
    let caption = "Mean direct logit attribution to the answer of what the SAE's site writes, of its reconstruction and of the difference, over n \
                   prompts, biases not included, with standard error and half width of the 95 % interval";
    Ok(Table::of("remainder", caption, &rows))
}

/// `[components, d_mlp]`.
#[pyfunction]
fn mean_decomposition<'py>(
    py: Python<'py>,
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
) -> Result<Bound<'py, PyArray<f32, IxDyn>>> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let mean = watched(py, |watch| circuits::mean_decomposition(&model.model, &sae, prompts, watch))?;
    let shape = [mean.rows(), mean.columns()];
    Ok(owned(py, mean.into_data(), &shape)?)
}

/// With `mean_over`, neurons that are not active contribute their mean over these prompts.
#[pyfunction]
#[pyo3(signature = (model, sae, prompts, direction, at, mean_over = None))]
fn attribution_to_direction(
    py: Python,
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    direction: usize,
    at: At,
    mean_over: Option<&Prompts>,
) -> Result<Table> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let mean_over = mean_over.map(some).transpose()?;
    let (direction, positions) = (sae.check(direction)?, at.of(prompts, false)?);
    let rows = watched(py, |watch| {
        let mean = mean_over.map(|over| circuits::mean_decomposition(&model.model, &sae, over, watch)).transpose()?;
        let inactive = mean.as_ref().map_or(Inactive::Zero, Inactive::Mean);
        circuits::attribution_to_direction(&model.model, &sae, direction, prompts, &positions, inactive, watch)
    })?;
    let caption = format!(
        "Mean contribution of each component to the pre-activation of direction {direction} of {} through active neurons, over n prompts, with \
         standard error and half width of the 95 % interval; neurons that are not active contribute {}",
        sae.short_name(),
        if mean_over.is_some() { "their mean" } else { "nothing" }
    );
    Ok(Table::of("attribution-to-direction", &caption, &rows))
}

/// Of activations before answers, or of those that the prompts give.
#[pyfunction]
#[pyo3(signature = (model, sae, answer, acts))]
fn direction_attribution(
    py: Python,
    model: &Model,
    sae: &Sae,
    answer: Token,
    acts: &SparseActivations,
) -> Result<Table> {
    let (sae, answer) = (sae.of(model)?, answer.of(model.tokenizer.as_ref())?);
    let rows = watched(py, |_| circuits::direction_attribution(&model.model, &sae, &acts.acts, answer))?;
    let caption = format!(
        "Every direction: attribution is W_dec W_out W_U of {:?}, per unit of activation and without LayerNorm's scale; scaled is times the mean \
         activation over prompts, zeros included; each of these with the half width of its 95 % interval over prompts",
        model.token(answer)
    );
    Ok(Table::of("direction-attribution", &caption, &rows))
}
