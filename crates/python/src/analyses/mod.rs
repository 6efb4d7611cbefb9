//! The analyses of the circuits room, each a function that gives tables.

mod tokens;

use pyo3::prelude::*;

/// Adds them to the module.
pub(crate) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    tokens::register(module)
}
