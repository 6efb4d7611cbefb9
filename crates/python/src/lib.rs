//! The native half of the Python package: the same rooms, their arguments and results as Python has them.
//!
//! What people call is in `python/src/directrix`, a thin layer with TransformerLens's names over the classes and functions of this
//! module, `directrix._directrix`. Here, numbers cross without a copy (`array`), long work leaves the interpreter to others and ends on an
//! interrupt (`watch`), rows become a `Table` that any data frame reads, and every error is an exception with the room's own
//! message (`error`).
//!
//! PyO3 takes arguments by value, and the signatures here are Python's.
#![expect(clippy::too_many_arguments, reason = "they are given by name")]

mod analyses;
mod array;
mod change;
mod each;
mod error;
mod export;
mod index;
mod lab;
mod model;
mod prompts;
mod sae;
mod study;
mod table;
mod team;
mod watch;

use pyo3::prelude::*;

#[pymodule]
fn _directrix(module: &Bound<PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<change::Intervention>()?;
    module.add_class::<index::Index>()?;
    module.add_class::<lab::Opened>()?;
    module.add_class::<model::Model>()?;
    module.add_class::<prompts::Prompts>()?;
    module.add_class::<prompts::Tokenizer>()?;
    module.add_class::<sae::Sae>()?;
    module.add_class::<sae::SparseActivations>()?;
    module.add_class::<study::Study>()?;
    module.add_class::<study::Figure>()?;
    module.add_class::<table::Table>()?;
    module.add_function(wrap_pyfunction!(watch::set_progress, module)?)?;
    module.add_function(wrap_pyfunction!(export::export, module)?)?;
    module.add_function(wrap_pyfunction!(index::merge, module)?)?;
    module.add_function(wrap_pyfunction!(team::begin, module)?)?;
    error::register(module)?;
    analyses::register(module)?;
    // Nothing of it is for `import *`, and its stubs name no such list.
    module.as_any().delattr("__all__")
}
