//! What is wanted to what is open.
//!
//! - A model, an SAE or a corpus is named in one way everywhere: by its path, by the name of one that is part of the program, or
//!   by that of a repository of the Hugging Face hub. [`Sources`] find them.
//! - [`Hub`] is where the hub and its cache are. The cache is that of Python's huggingface_hub; what it has is not asked for again.
//! - [`Wanted`] is plain data: the names of a model, SAEs and a corpus, and how they are to be taken. Command, study and
//!   page all say what they want with it.
//! - [`Wanted::open`] gives an [`Opened`]: the model with its tokenizer, SAEs that fit it, the corpus. Of these it makes
//!   prompts, and an index that knows by their hashes what it is an index of.
//!
//! ```
//! use directrix_lab::Wanted;
//!
//! let wanted = Wanted { saes: vec!["tinystories-2l/sae-l1".into()], limit: Some(2), ..Wanted::default() };
//! let opened = wanted.open()?;
//!
//! let prompts = opened.prompts()?.prompts;
//! assert_eq!((prompts.len(), opened.token(prompts.get(0)[1])), (2, "Once".into()));
//! assert_eq!(opened.saes[0].short_name(), "sae-l1");
//! # Ok::<(), directrix_lab::Error>(())
//! ```

mod aliases;
mod embedded;
mod error;
mod hub;
mod opened;
mod plan;
mod processing;
mod source;
mod together;
mod wanted;

pub use embedded::{CORPUS, MODEL};
pub use error::{Error, Result};
pub use hub::{Hub, HubError};
pub use opened::{Opened, OtherIndex, open_index};
pub use plan::{OverRanks, Plan, Probe, SaePlan, Sizing, model_flop};
pub use processing::{Steps, other_weights};
pub use source::{Sources, corpus, corpus_origin, folder, sae, saes_of};
pub use together::probe;
pub use wanted::Wanted;
