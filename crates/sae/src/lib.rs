//! Sparse autoencoders: used, trained, evaluated, read and written.
//!
//! An [`Sae`] reads a model's activations at one [site](Site), and gives, per position, the few directions that are
//! active there ([`Sae::encode`]); from these it builds the activations again ([`Sae::decode`]). A *direction* is one of
//! its units: an encoder column, a decoder row and a bias; its [`Architecture`] says what makes it fire. SAEs are folders of
//! SAELens's form (`cfg.json` and `sae_weights.safetensors`), or others with a file of their own in `format`:
//! [`Sae::load`] reads one, [`Sae::load_at`] one that does not say where it is, [`Sae::fit`] checks it against a model;
//! [`Sae::save`] and [`Sae::save_dictionary_learning`] write one, and [`agree()`] tells whether two do the same.
//!
//! A site has two ends, what is read and what is written: one place for an SAE, two for a transcoder. Encoding is of the
//! first, decoding, evaluation and interventions are of the second.
//!
//! [`train`] makes them: a [`train::Recipe`] names site and objective, [`train::train`] streams a corpus through the model and
//! leaves folders. [`evaluate()`] says how good they are: what they reconstruct, what the model loses by it, and what their
//! directions are like.
//!
//! ```
//! use directrix_corpus::Prompts;
//! use directrix_model::{Ask, Folder, Model, Processing};
//! use directrix_sae::Sae;
//!
//! let model = Model::load(&Folder::open("../../assets/tinystories-2l")?, Processing::default())?;
//! let sae = Sae::load(&Folder::open("../../assets/tinystories-2l/sae-l1")?)?.fit(model.config())?;
//! let hook = sae.site().reads.hook;
//! let prompts = Prompts::from_rows([[0, 17, 30, 45]]);
//! let run = model.run(&prompts, &Ask::capture([hook]), &[])?;
//! let acts = sae.encode(run.captured(hook))?;
//! assert_eq!(acts.positions(), 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod agree;
mod counted;
mod error;
mod evaluate;
mod format;
mod sae;
mod site;
pub mod statistics;
pub mod train;

pub use agree::agree;
pub use counted::Counted;
pub use error::{Error, Result};
pub use evaluate::{AtPositions, DensityBin, DirectionEvaluation, Evaluation, EvaluationOptions, LossMeans, evaluate};
pub use format::{Hook, Place};
pub use sae::{Architecture, Normalisation, Parameters, Sae};
pub use site::{End, Site};
