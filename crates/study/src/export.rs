//! What an index holds, in the formats of other tools. One file for each format; `docs/exports.md` says what is in them.

mod dashboard;
mod folder;
mod neuronpedia;
mod parquet;
mod saedashboard;

pub use dashboard::Subject;
pub use folder::Export;
pub use neuronpedia::write_neuronpedia;
pub use parquet::write_activations;
pub use saedashboard::write_saedashboard;
