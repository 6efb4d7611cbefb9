//! How much of what a site does for the answer directions and reconstructions carry.

use std::sync::Arc;

use directrix_circuits::{
    self as circuits, About, AnswerLosses, Cells, Change, Chosen, Interval, LossClaim, Matched, Subspace, Trial,
};
use directrix_sae as sae;
use numpy::ndarray::IxDyn;
use numpy::{PyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use serde::Serialize;

use super::{checked, column, part, reals, some, table_of};
use crate::array::owned;
use crate::error::{Failure, Result};
use crate::index::Index;
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::Sae;
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(mean_site, module)?)?;
    module.add_function(wrap_pyfunction!(answer_losses, module)?)?;
    module.add_function(wrap_pyfunction!(keep_directions, module)?)
}

/// `[d_out]`.
#[pyfunction]
fn mean_site<'py>(
    py: Python<'py>,
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
) -> Result<Bound<'py, PyArray<f32, IxDyn>>> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let mean = watched(py, |watch| circuits::mean_site(&model.model, &sae, prompts, watch))?;
    let shape = [mean.len()];
    Ok(owned(py, mean, &shape)?)
}

/// A mean that is given, if it is one of the site.
fn given_mean(sae: &sae::Sae, mean: &PyReadonlyArray1<f32>) -> Result<Vec<f32>> {
    let mean = mean.as_array().to_vec();
    if mean.len() != sae.d_out() || mean.iter().any(|x| !x.is_finite()) {
        return Err(Failure::argument(format!("a mean of the site is {} finite numbers", sae.d_out())));
    }
    Ok(mean)
}

#[derive(Serialize)]
struct ShareRow {
    what: &'static str,
    n: usize,
    share: f64,
    low: f64,
    high: f64,
}

/// The losses of each prompt, and shares of their means.
#[pyfunction]
fn answer_losses(
    py: Python,
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    directions: Vec<u32>,
    mean: PyReadonlyArray1<f32>,
) -> Result<(Table, Table)> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let (directions, mean) = (checked(&sae, directions)?, given_mean(&sae, &mean)?);
    let losses = watched(py, |watch| AnswerLosses::of(&model.model, &sae, prompts, &directions, &mean, watch))?;
    let shares = [
        ("reconstruction, of zero ablation", losses.recovered()),
        ("directions, of mean ablation", losses.of_the_site()),
    ];
    let n = losses.original.len();
    let shares = shares.map(|(what, (share, Interval { low, high }))| ShareRow { what, n, share, low, high });
    let caption = "The loss of each prompt's answer in nats, with the site before it unchanged, replaced by its mean, by zero, with the \
                   directions ablated, and replaced by the SAE's reconstruction";
    let AnswerLosses { original, mean, zero, directions, sae } = losses;
    let numbers = column("prompt", Cells::Integer((0..n as i64).collect()));
    let columns = [("original", original), ("mean", mean), ("zero", zero), ("directions", directions), ("sae", sae)];
    let columns = std::iter::once(numbers).chain(columns.map(|(name, values)| reals(name, values)));
    let losses = table_of("answer-losses", caption, columns);
    let caption = "Shares of losses added, each of means over the same n prompts, with both ends of its 95 % interval (bootstrap over \
                   prompts): of what zero ablation adds, what the reconstruction takes away again; of what mean ablation adds, what ablating \
                   the directions adds";
    Ok((losses, Table::of("loss-recovered", caption, &shares)))
}

#[derive(Serialize)]
struct SizeRow {
    directions_kept: usize,
    dimensions: usize,
    rest: &'static str,
    #[serde(flatten)]
    loss_increase: circuits::Claim,
}

#[pyfunction]
#[pyo3(signature = (model, sae, prompts, directions, sizes, mean, index = None, number = None))]
fn keep_directions(
    py: Python,
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    directions: Vec<u32>,
    mut sizes: Vec<usize>,
    mean: PyReadonlyArray1<f32>,
    index: Option<&Index>,
    number: Option<usize>,
) -> Result<Table> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let directions = checked(&sae, directions)?;
    let mean: Arc<[f32]> = given_mean(&sae, &mean)?.into();
    let indexed = index.map(|index| part(index, model, &sae, number)).transpose()?;
    sizes.iter_mut().for_each(|size| *size = (*size).min(directions.len()));
    sizes.sort_unstable();
    sizes.dedup();
    let rows = watched(py, |watch| {
        let (mut lists, mut rows) = (Vec::new(), Vec::new());
        for (rest, by) in [("mean", Some(mean)), ("zero", None)] {
            for &size in &sizes {
                let kept = sae.w_dec().gather(directions[..size].iter().map(|direction| *direction as usize));
                let subspace = Arc::new(Subspace::span(&kept));
                rows.push((size, subspace.dimensions(), rest));
                let change = Change::Keep { subspace, rest: by.clone() };
                let trial = |prompt| Trial::answer(&sae, prompts, prompt, change.clone());
                let about = About {
                    chosen: Chosen::Given,
                    change: "alone kept before the answer",
                    measure: "loss_increase",
                    unit: "nats",
                    over: "prompts",
                };
                lists.push((about, (0..prompts.len()).map(trial).collect::<circuits::Result<Vec<_>>>()?));
            }
        }
        let matched = indexed.map(Matched::of);
        let claims = circuits::loss_claims(&model.model, prompts, &lists, matched.as_ref(), watch)?;
        let row = |((directions_kept, dimensions, rest), LossClaim { claim, .. })| SizeRow {
            directions_kept,
            dimensions,
            rest,
            loss_increase: claim,
        };
        Ok::<_, circuits::Error>(rows.into_iter().zip(claims).map(row).collect::<Vec<_>>())
    })?;
    let caption = "Increase of the answer's loss in nats with only the span of the first directions' decoder rows kept of the site, and the rest \
                   at its mean or zero: mean over n prompts with standard error and half width of the 95 % interval, p and q, its false-discovery \
                   rate in this list; random rows: as many dimensions of random rows kept";
    Ok(Table::of("kept-directions", caption, &rows))
}
