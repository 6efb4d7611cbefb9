//! Training.

mod buffer;
mod cache;
mod objective;
mod recipe;
mod trainer;
mod windows;

pub use objective::{Aux, Objective, Penalty, PenaltyOver};
pub use recipe::{Feed, Recipe, WindowStyle};
pub use trainer::{Numbers, Rows, StepOptions, StepReport, Trainer};
pub use windows::{Documents, Windows};
