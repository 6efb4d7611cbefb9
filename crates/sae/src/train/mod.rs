//! Training.

mod objective;
mod trainer;

pub use objective::{Aux, Objective, Penalty, PenaltyOver};
pub use trainer::{Numbers, Rows, StepOptions, StepReport, Trainer};
