//! Sparse autoencoders: used, trained, evaluated, read and written.
//!
//! An [`Sae`] reads a model's activations at one [site](Site), and gives, per position, the few directions that are
//! active there ([`Sae::encode`]); from these it builds the activations again ([`Sae::decode`]). A *direction* is one of
//! its units: an encoder column, a decoder row and a bias; its [`Architecture`] says what makes it fire. SAEs are folders of
//! SAELens's form (`cfg.json` and `sae_weights.safetensors`): [`Sae::load`] checks one against the model it is for,
//! [`Sae::save`] writes one.
//!
//! [`train`] makes them: a [`train::Recipe`] names site and objective, [`train::run`] streams a corpus through the model and
//! leaves folders. [`evaluate()`] says how good they are: what they reconstruct, what the model loses by it, and what their
//! directions are like.
//!
//! ```
//! use directrix_corpus::Prompts;
//! use directrix_model::{Ask, Folder, Model, Processing};
//! use directrix_sae::Sae;
//!
//! let model = Model::load(&Folder::open("../../assets/tinystories-2l")?, Processing::default())?;
//! let sae = Sae::load(&Folder::open("../../assets/tinystories-2l/sae-l1")?, &model)?;
//! let prompts = Prompts::from_rows([[0, 17, 30, 45]]);
//! let run = model.run(&prompts, &Ask::capture([sae.site().hook]), &[])?;
//! let acts = sae.encode(run.captured(sae.site().hook))?;
//! assert_eq!(acts.positions(), 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod evaluate;
mod load;
mod sae;
mod save;
pub mod statistics;
pub mod train;

pub use error::{Error, Result};
pub use evaluate::{
    AtPositions, DensityBin, DirectionEvaluation, Evaluation, EvaluationOptions, LossRecovered, evaluate,
};
pub use sae::{Architecture, Sae, Site};
