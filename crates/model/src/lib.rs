//! The transformer with hook points.
//!
//! A [`Model`] is loaded from a Hugging Face folder of one of several [families](Family), its weights processed as
//! TransformerLens does ([`Processing`]), and run on a ragged batch of prompts. A run computes what it is [`Ask`]ed for
//! and no more: captured hook points, logits or predictions at chosen positions, losses. [`Intervention`]s change numbers
//! at hook points on the way. A [`Session`] keeps what it takes to run its prompts again with other interventions: only the
//! positions and layers that they can change are computed again.
//!
//! Hook points carry TransformerLens's names; see [`HookPoint`].
//!
//! ```
//! use directrix_corpus::Prompts;
//! use directrix_model::{Ask, Folder, HookPoint, Model, Processing};
//!
//! let folder = Folder::open("../../assets/tinystories-2l")?;
//! let (model, tokenizer) = (Model::load(&folder, Processing::default())?, folder.tokenizer()?.unwrap());
//! let mut tokens = vec![tokenizer.bos().unwrap()];
//! tokens.extend(tokenizer.encode("Once upon a time, there was a little")?);
//! let prompts = Prompts::from_rows([tokens]);
//!
//! let hook: HookPoint = "blocks.1.mlp.hook_post".parse()?;
//! let run = model.run(&prompts, &Ask::capture([hook]).with_losses(), &[])?;
//! assert_eq!(run.captured(hook).columns(), model.config().mlp.d_mlp);
//! assert_eq!(run.losses().len(), prompts.positions() - 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ask;
mod config;
mod decompose;
mod error;
mod family;
mod folder;
mod generate;
mod gradient;
mod hook;
mod intervention;
mod keys;
mod llama2c;
mod model;
mod pass;
mod positions;
mod processing;
mod rotary;
mod run;
mod session;
mod tensors;
mod weights;

pub use ask::{Ask, Target};
pub use config::{Attention, AttentionLayer, Config, Mlp, Norm, PositionEncoding};
pub use decompose::{Decomposition, Reader};
pub use error::{Error, Result};
pub use family::Family;
pub use folder::{FileBytes, Folder};
pub use generate::Sampling;
pub use gradient::{Cut, Frozen, Gradients, Quantity, Scalar, Tape, Term};
pub use hook::{BlockHook, HookPoint};
pub use intervention::{Columns, Edit, Function, Hooked, Intervention, RowAt, RowFn, Rows, RowsFn};
pub use model::Model;
pub use positions::{Positions, Spot};
pub use processing::Processing;
pub use rotary::{Rotary, RotaryScaling};
pub use run::{Prediction, Run, batches};
pub use session::{Case, Session};
pub use tensors::{Leaf, Numbers, Tensors, torch_file};
pub use weights::{Block, Gate, NamedWeight, NormWeights, Stored, Weights};
