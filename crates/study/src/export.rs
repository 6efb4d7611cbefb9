//! What an index holds, in the formats of other tools. One file for each format.

mod parquet;

pub use parquet::write_activations;
