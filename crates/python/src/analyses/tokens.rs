//! What the corpus says of tokens.

use directrix_circuits as circuits;
use pyo3::prelude::*;

use super::{Token, Told};
use crate::error::Result;
use crate::index::Index;
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(token_occurrences, module)?)?;
    module.add_function(wrap_pyfunction!(top_tokens, module)?)?;
    module.add_function(wrap_pyfunction!(before_tokens, module)?)
}

#[pyfunction]
fn token_occurrences(py: Python, index: &Index) -> Result<Table> {
    watched(py, |_| {
        let rows = circuits::token_occurrences(&index.index)?;
        let told = |row: directrix_index::TokenCount| Told { token_text: index.token(row.token), row };
        let rows: Vec<_> = rows.into_iter().map(told).collect();
        Ok::<_, circuits::Error>(Table::of(
            "token-occurrences",
            "Every token's occurrences in the corpus, most frequent first",
            &rows,
        ))
    })
}

#[pyfunction]
fn top_tokens(py: Python, index: &Index, sae: usize) -> Result<Table> {
    let sae = index.sae(sae)?;
    watched(py, |_| {
        let rows = circuits::top_tokens(sae)?;
        let told = |row: circuits::TopToken| Told { token_text: index.token(row.token), row };
        let rows: Vec<_> = rows.into_iter().map(told).collect();
        let caption = "The token on which each direction that fires does so most often above half of its maximum; occurrences are positions \
                       above that";
        Ok::<_, circuits::Error>(Table::of("top-tokens", caption, &rows))
    })
}

/// The table, positions before each of the two, and prompts that have such a position.
#[pyfunction]
fn before_tokens(
    py: Python,
    index: &Index,
    sae: usize,
    one: Token,
    other: Token,
) -> Result<(Table, [usize; 2], usize)> {
    let sae = index.sae(sae)?;
    let tokens = [one.of(index.tokenizer())?, other.of(index.tokenizer())?];
    let mut found = watched(py, |watch| circuits::before_tokens(&index.index, sae, tokens, watch))?;
    found.directions.sort_by(|a, b| b.difference.mean().abs().total_cmp(&a.difference.mean().abs()));
    let [one, other] = tokens.map(|token| index.token(token));
    let caption = format!(
        "Every direction that fires before {one:?} (one) or {other:?} (other): mean activation over the positions before each, zeros \
         included, and the difference over all n of them, with standard error and half width of its 95 % interval clustered by prompt, p \
         and q, its false-discovery rate over these directions; the largest differences first"
    );
    Ok((Table::of("before-tokens", &caption, &found.directions), found.positions, found.prompts))
}
