//! Tokens that a direction promotes and suppresses.

use directrix_circuits::{self as circuits, Cells, Column};
use pyo3::prelude::*;

use super::{column, reals, some, table_of, vocabulary};
use crate::error::Result;
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::Sae;
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(log_prob_boosts, module)?)?;
    module.add_function(wrap_pyfunction!(logit_boosts, module)?)?;
    module.add_function(wrap_pyfunction!(logit_boost_ends, module)?)
}

#[pyfunction]
fn log_prob_boosts(py: Python, model: &Model, sae: &Sae, prompts: &Prompts, direction: usize) -> Result<Table> {
    let (sae, prompts) = (sae.of(model)?, some(prompts)?);
    let direction = sae.check(direction)?;
    let found = watched(py, |watch| circuits::log_prob_boosts(&model.model, &sae, direction, prompts, watch))?;
    let p: Vec<f64> = found.boost.iter().map(circuits::Estimate::p).collect();
    let q = circuits::statistics::false_discovery_rates(&p);
    let of = |value: fn(&circuits::Estimate) -> f64| found.boost.iter().map(value).collect::<Vec<f64>>();
    let [token, text] = vocabulary(model);
    let columns: [Column; 9] = [
        token,
        text,
        reals("on", found.on.iter().copied()),
        reals("off", found.off.iter().copied()),
        reals("boost", of(|estimate| estimate.mean)),
        reals("se", of(|estimate| estimate.se)),
        reals("half width", of(|estimate| estimate.half_width)),
        reals("p", p),
        reals("q", q),
    ];
    let caption = format!(
        "Every token: mean log-probability in nats before the answer over {} prompts, with direction {direction} of {} (on) and with it ablated \
         there (off), and the difference with standard error and half width of its 95 % interval, p and q, its false-discovery rate over all \
         tokens",
        prompts.len(),
        sae.short_name()
    );
    Ok(table_of("log-prob-boosts", &caption, columns))
}

#[pyfunction]
fn logit_boosts(py: Python, model: &Model, sae: &Sae, direction: usize) -> Result<Table> {
    let sae = sae.of(model)?;
    let direction = sae.check(direction)?;
    let found = watched(py, |_| circuits::logit_boosts(&model.model, &sae, direction))?;
    let [token, text] = vocabulary(model);
    let caption = format!(
        "Every token: what direction {direction} of {} adds to its logit per unit of activation, by the weights alone, W_dec W_out W_U; \
         LayerNorm's scale not applied",
        sae.short_name()
    );
    Ok(table_of("logit-boosts", &caption, [token, text, reals("boost", found)]))
}

#[pyfunction]
#[pyo3(signature = (model, sae, k, tokens = None))]
fn logit_boost_ends(py: Python, model: &Model, sae: &Sae, k: usize, tokens: Option<Vec<usize>>) -> Result<Table> {
    let sae = sae.of(model)?;
    let tokens = tokens.unwrap_or_else(|| (0..model.model.config().d_vocab).collect());
    let found = watched(py, |watch| circuits::logit_boost_ends(&model.model, &sae, &tokens, k, watch))?;
    let [mut directions, mut ranks, mut ids] = [const { Vec::new() }; 3];
    let [mut ends, mut texts] = [const { Vec::new() }; 2];
    for (direction, (raised, lowered)) in found.into_iter().enumerate() {
        for (end, list) in [("raised", raised), ("lowered", lowered)] {
            for (rank, token) in list.into_iter().enumerate() {
                directions.push(direction as i64);
                ends.push(end.to_owned());
                ranks.push(rank as i64);
                ids.push(token as i64);
                texts.push(model.token(token as u32));
            }
        }
    }
    let caption = format!(
        "The {k} tokens whose logit a unit of each direction of {} raises most, and those that it lowers most, by the weights alone; the largest \
         effect has rank 0",
        sae.short_name()
    );
    let columns = [
        column("direction", Cells::Integer(directions)),
        column("end", Cells::Text(ends)),
        column("rank", Cells::Integer(ranks)),
        column("token", Cells::Integer(ids)),
        column("token text", Cells::Text(texts)),
    ];
    Ok(table_of("logit-boost-ends", &caption, columns))
}
