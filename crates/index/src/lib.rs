//! What every direction of an SAE fires on.
//!
//! [`build`] makes one streaming pass over a corpus for all SAEs at once: a model pass that stops at the deepest site, an
//! encoder per SAE straight to sparse, and files appended shard by shard. Memory is bounded by the SAEs, not by the
//! corpus. When the pass is done, the activations are sorted by direction, and all that is said of a direction (maximum,
//! density, mean, histogram, token counts) is computed from its own list.
//!
//! An [`Index`] opens the files again, memory-mapped. Everything is then a query, without the model:
//!
//! ```no_run
//! use directrix_index::Index;
//!
//! let index = Index::open("out/index".as_ref())?;
//! let sae = index.sae(0);
//! for example in sae.top_examples(&index, 42, 5) {
//!     println!("{:.2} at position {} of prompt {}", example.activation, example.position, example.prompt);
//! }
//! # Ok::<(), directrix_index::Error>(())
//! ```
//!
//! The files are described in `docs/index-format.md`.

mod build;
mod error;
mod files;
mod identity;
mod index;
mod sort;

pub use build::{Progress, build};
pub use error::{Error, Result};
pub use identity::{Identity, Options, Source};
pub use index::{Direction, Example, Index, Meta, SaeIndex};
