//! Interventions on directions, attribution, edges, statistics.

mod table;

pub use table::{Cells, Column, Table};
