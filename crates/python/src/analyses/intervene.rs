//! Several changes of one prompt together.

use directrix_circuits::{ChangeAt, Changed, Hooks, Observed, PartMeans, most_changed};
use directrix_corpus as corpus;
use pyo3::prelude::*;
use serde::Serialize;

use super::{At, fitted, one, some};
use crate::error::{Failure, Result};
use crate::index::Index;
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::Sae;
use crate::table::Table;
use crate::watch::watched;

/// Prompts of the index over which parts have their means.
const MEAN_PROMPTS: usize = 200;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(intervene, module)?)
}

#[derive(Serialize)]
struct NextRow {
    token: u32,
    token_text: String,
    before: f64,
    after: f64,
    change: f64,
    logit_before: f32,
    logit_after: f32,
    rank_before: usize,
    rank_after: usize,
}

#[derive(Serialize)]
struct ChangedRow {
    sae: String,
    direction: u32,
    position: usize,
    token: u32,
    token_text: String,
    before: f32,
    after: f32,
    change: f32,
}

#[derive(Serialize)]
struct LossRow {
    position: usize,
    token: u32,
    token_text: String,
    before: f32,
    after: f32,
    change: f32,
}

/// Next tokens, most changed directions, the loss of every token, and what was done in words.
#[pyfunction]
#[pyo3(signature = (model, saes, prompt, changes, position, top, mean_over, index))]
fn intervene(
    py: Python,
    model: &Model,
    saes: Vec<PyRef<Sae>>,
    prompt: &Prompts,
    changes: Vec<String>,
    position: Option<i64>,
    top: usize,
    mean_over: Option<&Prompts>,
    index: Option<&Index>,
) -> Result<(Table, Table, Table, Vec<String>)> {
    let (saes, tokens) = (fitted(model, &saes)?, one(prompt)?);
    let mean_over = mean_over.map(some).transpose()?;
    let names: Vec<&str> = saes.iter().map(directrix_sae::Sae::short_name).collect();
    if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        return Err(Failure::argument(format!("two SAEs are called {}, so that changes cannot name one", twice.1)));
    }
    let position = match position {
        Some(at) => At::One(at).of(&prompt.0, false)?[0],
        None => tokens.len().saturating_sub(2),
    };
    let (said, before, after) = watched(py, |watch| {
        let parse = |text: &String| {
            let change = ChangeAt::parse(text, &model.model, &saes)?;
            change.check(tokens.len())?;
            Ok(change)
        };
        let changes = changes.iter().map(parse).collect::<directrix_circuits::Result<Vec<_>>>()?;
        let means = match (mean_over, index) {
            _ if !changes.iter().any(ChangeAt::needs_means) => None,
            (Some(over), _) => Some(PartMeans::of(&model.model, over, watch)?),
            (None, Some(index)) => {
                let over = corpus::Prompts::from_rows(index.index.spread(MEAN_PROMPTS)?);
                Some(PartMeans::of(&model.model, &over, watch)?)
            }
            (None, None) => None,
        };
        let observe = |changes: &[ChangeAt], before: Option<&Observed>| {
            let hooks = Hooks::of(&model.model, changes, means.as_ref())?;
            Observed::of(&model.model, &saes, tokens, position, &hooks, before, watch)
        };
        let before = observe(&[], None)?;
        let after = observe(&changes, Some(&before))?;
        let said: Vec<String> = changes.iter().map(ChangeAt::sentence).collect();
        Ok::<_, Failure>((said, before, after))
    })?;
    let next =
        "Most likely next tokens at the position without and with the changes: probabilities, logits, and ranks from 0";
    let directions = "Directions whose activation changes most at some position, each where it does";
    let losses = "The loss of predicting each token from those before it in nats, without and with the changes; position: that of the token";
    Ok((
        Table::of("next-tokens", next, &next_rows(model, [&before, &after], top.div_ceil(2))),
        Table::of(
            "changed-directions",
            directions,
            &changed_rows(model, &names, tokens, most_changed(&before, &after, top)),
        ),
        Table::of("losses", losses, &loss_rows(model, tokens, [&before, &after])),
        said,
    ))
}

fn next_rows(model: &Model, [before, after]: [&Observed; 2], k: usize) -> Vec<NextRow> {
    let mut likely = before.likely(k);
    let new: Vec<u32> = after.likely(k).into_iter().filter(|token| !likely.contains(token)).collect();
    likely.extend(new);
    let row = |token| {
        let [before, after] = [before, after].map(|of| of.prediction(token));
        let [one, other] = [before, after].map(|of| of.log_prob.exp());
        NextRow {
            token,
            token_text: model.token(token),
            before: one,
            after: other,
            change: other - one,
            logit_before: before.logit,
            logit_after: after.logit,
            rank_before: before.rank,
            rank_after: after.rank,
        }
    };
    likely.into_iter().map(row).collect()
}

fn changed_rows(model: &Model, names: &[&str], tokens: &[u32], changed: Vec<Changed>) -> Vec<ChangedRow> {
    let row = |of: Changed| ChangedRow {
        sae: names[of.sae].into(),
        direction: of.direction,
        position: of.position,
        token: tokens[of.position],
        token_text: model.token(tokens[of.position]),
        before: of.before,
        after: of.after,
        change: of.after - of.before,
    };
    changed.into_iter().map(row).collect()
}

fn loss_rows(model: &Model, tokens: &[u32], [before, after]: [&Observed; 2]) -> Vec<LossRow> {
    let all = before.losses.iter().zip(&after.losses).zip(tokens.iter().enumerate().skip(1));
    let row = |((before, after), (position, token)): ((&f32, &f32), (usize, &u32))| LossRow {
        position,
        token: *token,
        token_text: model.token(*token),
        before: *before,
        after: *after,
        change: after - before,
    };
    all.map(row).collect()
}
