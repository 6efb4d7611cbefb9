//! Which parts of the model carry a prediction.

use directrix_circuits::{self as circuits, Chosen, PartMeans, PromptPair};
use directrix_corpus as corpus;
use pyo3::prelude::*;
use serde::Serialize;

use super::some;
use crate::error::{Failure, Result};
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::Sae;
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(mean_ablations, module)?)?;
    module.add_function(wrap_pyfunction!(patching, module)?)
}

/// What it does to the loss, and to directions.
#[pyfunction]
fn mean_ablations(
    py: Python,
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    directions: Vec<u32>,
    mean_over: &Prompts,
) -> Result<(Table, Table)> {
    let (sae, prompts, mean_over) = (sae.of(model)?, some(prompts)?, some(mean_over)?);
    let found = watched(py, |watch| {
        let means = PartMeans::of(&model.model, mean_over, watch)?;
        circuits::mean_ablations(&model.model, prompts, &means, &sae, &directions, Chosen::Given, watch)
    })?;
    let losses = "Each component replaced by its mean (over the positions of a prompt, then over prompts) at every position before the answer: \
                  mean increase of the answer's loss in nats over n prompts, with standard error and half width of the 95 % interval, p and q, \
                  its false-discovery rate in this list; random rows: the component changed by as much along random rows";
    let activations = "The activation of each direction at the position that predicts the answer, and how it changes if a component that comes \
                       before it is replaced by its mean; columns as of losses";
    Ok((
        Table::of("component-ablation", losses, &found.losses),
        Table::of("component-directions", activations, &found.activations),
    ))
}

#[derive(Serialize)]
struct PairRow {
    pair: usize,
    clean: String,
    corrupted: String,
    answer_clean: u32,
    answer_clean_text: String,
    answer_corrupted: u32,
    answer_corrupted_text: String,
    difference_clean: f64,
    difference_corrupted: f64,
}

/// Parts, parts at positions, and the pairs.
#[pyfunction]
fn patching(
    py: Python,
    model: &Model,
    pairs: Vec<(Vec<u32>, Vec<u32>, [u32; 2])>,
    each_position: bool,
) -> Result<(Table, Table, Table)> {
    if pairs.is_empty() {
        return Err(Failure::argument("there are no pairs of prompts; give one at least"));
    }
    let pair = |(clean, corrupted, answers)| PromptPair { clean, corrupted, answers };
    let pairs: Vec<PromptPair> = pairs.into_iter().map(pair).collect();
    let found = watched(py, |watch| circuits::patching(&model.model, &pairs, each_position, watch))?;
    let text = |tokens: &[u32]| corpus::pieces(model.tokenizer.as_ref(), tokens, |_| true).concat();
    let row = |(number, pair): (usize, &PromptPair)| {
        let [answer_clean, answer_corrupted] = pair.answers;
        PairRow {
            pair: number,
            clean: text(&pair.clean),
            corrupted: text(&pair.corrupted),
            answer_clean,
            answer_clean_text: model.token(answer_clean),
            answer_corrupted,
            answer_corrupted_text: model.token(answer_corrupted),
            difference_clean: found.clean[number],
            difference_corrupted: found.corrupted[number],
        }
    };
    let rows: Vec<PairRow> = pairs.iter().enumerate().map(row).collect();
    let parts = "Mean over n pairs of the change of the logit difference (the clean prompt's answer minus the corrupted one's) if a part has the \
                 values of the corrupted prompt at all positions: in all, straight to the final norm, and through later parts; half widths are of \
                 95 % intervals over pairs; of the total effect also p, q, its false-discovery rate in this list, and its control: the part \
                 changed by as much along random rows. Share: the sum of total effects over the sum of differences between the prompts";
    let positions = "The same with a part patched at one position alone, counted from the end: 1 is the last, which predicts the answer";
    let of_pairs = "The pairs: their prompts, answers, and the logit difference (the clean prompt's answer minus the corrupted one's) after each \
                    prompt";
    Ok((
        Table::of("patching", parts, &found.parts),
        Table::of("patching-positions", positions, &found.positions),
        Table::of("patching-pairs", of_pairs, &rows),
    ))
}
