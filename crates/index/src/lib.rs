//! What every direction of an SAE fires on.
//!
//! [`build`] makes one streaming pass over a corpus for all SAEs at once: a model pass that stops at the deepest site, an
//! encoder per SAE straight to sparse, and files appended run by run. Memory is bounded by the SAEs and the densest
//! direction's activations, not by the corpus. When the
//! pass is done, the activations are sorted by direction, and all that is said of a direction (maximum, density, mean,
//! histogram, token counts) is computed from its own list.
//!
//! ```text
//! prompts ──model──▶ activations ──sae──▶ runs ──checkpoint──▶ … ──sort──▶ shards (by position, by direction)
//!                                                                      └─▶ what is said of each direction
//! ```
//!
//! An [`Index`] opens the files again, memory-mapped. Everything is then a query on a [`SaeIndex`], without the model. A file
//! that was damaged since gives an error, whatever is in it; see [`Index`] for what is checked when.
//! A [`Search`] asks the other way round: where a text, tokens or directions are, and which directions fire there.
//!
//! ```
//! use directrix_corpus::{Chunk, Prompts, Watch};
//! use directrix_index::{Identity, Input, Options, build};
//! use directrix_model::{Folder, Model, Processing};
//! use directrix_sae::Sae;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let out = tempfile::tempdir()?;
//! # let out = out.path().join("index");
//! let folder = "../model/tests/fixtures/neo-tiny";
//! let model = Model::load(&Folder::open(folder)?, Processing::default())?;
//! let sae = Sae::load(&Folder::open(&format!("{folder}/sae-l0"))?)?.fit(model.config())?;
//! let prompts = Prompts::from_rows([[1, 2, 3, 4], [5, 6, 7, 8]]);
//!
//! let input = |name: &str| Input { name: name.into(), hash: String::new() };
//! let identity = Identity {
//!     model: input("neo-tiny"),
//!     processing: model.processing(),
//!     saes: vec![input("sae-l0")],
//!     corpus: input("two prompts"),
//!     bos: false,
//!     column: None,
//!     limit: None,
//!     options: Options::default(),
//! };
//! let chunks = std::iter::once(Ok(Chunk { prompts, cut: 0 }));
//! let index = build(&model, &[sae], chunks, &identity, &out, &Watch::nobody())?;
//!
//! let sae = index.sae(0);
//! for example in sae.top_examples(42, 5)? {
//!     println!("{:.2} at position {} of prompt {}", example.activation, example.position, example.prompt);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An index may be of some documents of its corpus alone ([`build_piece`]); [`merge`](merge()) makes one of several, with the bits of one that was made at
//! once. The files are described in `docs/index-format.md`.

mod activations;
mod build;
mod error;
mod identity;
mod index;
mod layout;
mod merge;
mod piece;
mod query;
mod search;
mod shard;
mod size;
mod sort;

pub use activations::{Activations, Example, TokenCount};
pub use build::{build, build_piece, complete, rebuild};
pub use error::{Error, Result};
pub use identity::{Identity, Input, Options};
pub use index::{Index, Meta};
pub use merge::{Merged, merge};
pub use piece::{Piece, documents_of_shard};
pub use query::{Direction, SaeIndex};
pub use search::{Firing, Found, Match, Place, Query, Search};
pub use size::{SaeSize, Size};
