//! A workbench for the sparse directions inside a language model.
//!
//! Directrix loads a transformer, reads its activations with sparse autoencoders, indexes what every direction of them
//! fires on, and tests by ablation what a direction does. This crate is the library under one name; the `directrix`
//! command is built on it. Data passes through its modules in this order:
//!
//! - [`corpus`]: text, JSON lines and Parquet to tokenised [`Prompts`](corpus::Prompts);
//! - [`model`]: a [`Model`](model::Model) runs prompts, and gives the values at any
//!   [`HookPoint`](model::HookPoint), logits and losses, with or without [`Intervention`](model::Intervention)s;
//! - [`sae`]: an [`Sae`](sae::Sae) turns the values at its hook point into sparse activations, and back;
//! - [`index`]: one pass over a corpus leaves an [`Index`](index::Index) on disk that answers what a direction fires on;
//! - [`circuits`]: what changing a direction does, who writes a logit or drives a direction, as rows of tables;
//! - [`lab`]: finds and opens what is named: models, SAEs, corpora, on disk or embedded;
//! - [`study`]: a study file runs such analyses, and leaves tables, figures and one report;
//! - `serve`: a page and an HTTP API on such an index (with the command, that is the feature `cli`);
//! - [`kernels`]: the matrices and sparse activations that the others hand on.
//!
//! The shipped model and its two SAEs need no file:
//!
//! ```
//! use directrix::corpus::Prompts;
//! use directrix::lab;
//! use directrix::model::{Ask, Model, Processing};
//! use directrix::sae::Sae;
//!
//! let folder = lab::folder("tinystories-2l")?;
//! let model = Model::load(&folder, Processing::default())?;
//! let sae = Sae::load(&lab::folder("tinystories-2l/sae-l1")?)?.fit(model.config())?;
//!
//! let tokenizer = folder.tokenizer()?.ok_or("no tokenizer")?;
//! let mut tokens: Vec<u32> = tokenizer.bos().into_iter().collect();
//! tokens.extend(tokenizer.encode("\"Look at the big dog\", Tim said")?);
//! let prompts = Prompts::from_rows([tokens]);
//!
//! // The neurons that the SAE reads, and the loss of predicting each next token.
//! let hook = sae.site().reads.hook;
//! let run = model.run(&prompts, &Ask::capture([hook]).with_losses(), &[])?;
//! assert_eq!(run.captured(hook).columns(), model.config().mlp.d_mlp);
//!
//! // The directions that are active at the last position, and how strongly.
//! let acts = sae.encode(run.captured(hook))?;
//! let (directions, activations) = acts.at(prompts.positions() - 1);
//! assert_eq!(directions.len(), activations.len());
//! assert!(activations.iter().all(|activation| *activation > 0.0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use directrix_circuits as circuits;
pub use directrix_corpus as corpus;
pub use directrix_index as index;
pub use directrix_kernels as kernels;
pub use directrix_lab as lab;
pub use directrix_model as model;
pub use directrix_sae as sae;
#[cfg(feature = "cli")]
pub use directrix_serve as serve;
pub use directrix_study as study;

/// Lets the allocator reuse large buffers rather than give them back and fault their pages in again: every matrix of a pass is
/// such a buffer, and a twentieth of the time would go there. To be called when a program starts; does nothing but on Linux.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: these settings are documented, and nothing else runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        }
    }
}
