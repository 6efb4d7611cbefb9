//! Training: from a model and a corpus to SAE folders.
//!
//! A [`Recipe`] says how one SAE is trained, a [`Feed`] what all SAEs of a run are fed. [`train`] streams the corpus as
//! [windows](Windows) of tokens through the model, which stops at the sites; keeps the activations shuffled in a bounded
//! buffer; and takes a [`Trainer::step`] of every SAE on each batch. What is minimised is an [`Objective`], each in a file of its
//! own. After the encoder's product everything follows the active entries only: see `directrix_kernels`'s sparse products and its
//! Adam. A step finds the [`Gradient`] of a batch and applies it; the gradient's matrices stay in factors and are never stored.
//! A run may be divided over several processes: [`Over`] says how, and what they exchange.

mod agreement;
mod alarms;
mod buffer;
mod cache;
mod checkpoint;
mod fill;
mod gradient;
mod joined;
mod log;
mod member;
mod objective;
mod over;
mod parameter;
mod plan;
mod recipe;
mod report;
mod resample;
mod tensorboard;
mod trainer;
mod training;
mod windows;

pub use fill::fill;
pub use gradient::Gradient;
pub use member::Metrics;
pub use objective::{
    Aux, Batch, BatchTopK, Encoded, Extras, Gated, JumpRelu, Matryoshka, Objective, Penalty, PenaltyOver, Relu, Terms,
    TopK,
};
pub use over::{Over, Split};
pub use parameter::{Numbers, Rows};
pub use plan::{OverRanks, Plan, SaePlan, Sizing, plan};
pub use recipe::{Feed, Recipe, WindowStyle};
pub use report::StepReport;
pub use trainer::{StepOptions, Trainer};
pub use training::{Notice, Training, is_complete, train};
pub use windows::{Documents, Windows};
