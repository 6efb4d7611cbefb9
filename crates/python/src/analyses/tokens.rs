//! What the corpus says of tokens.

use directrix_circuits as circuits;
use pyo3::prelude::*;

use crate::error::Result;
use crate::index::Index;
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(token_occurrences, module)?)
}

#[pyfunction]
fn token_occurrences(py: Python, index: &Index) -> Result<Table> {
    let rows = watched(py, |_| circuits::token_occurrences(&index.index))?;
    Ok(Table::of("token-occurrences", "Every token's occurrences in the corpus, most frequent first", &rows))
}
