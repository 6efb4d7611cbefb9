//! What is wanted.

use directrix_index::Identity;
use serde::{Deserialize, Serialize};

use crate::Steps;
use crate::embedded::{CORPUS, MODEL};

/// A model, SAEs and a corpus by name, and how they are to be taken: what an [`Opened`](crate::Opened) is made of.
///
/// Names are as [`Sources`](crate::Sources) find them. By default the embedded model and its
/// stories, and no SAE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// The model.
    pub model: String,
    /// How its weights are processed.
    pub processing: Steps,
    /// The SAEs, in the order that results have.
    pub saes: Vec<String>,
    /// The corpus.
    pub corpus: String,
    /// The corpus's column of text or token ids; `text` or else `tokens` where none is named.
    pub column: Option<String>,
    /// Only this many documents from the start of the corpus.
    pub limit: Option<usize>,
    /// Whether texts begin with BOS; by the convention of the model's family where nothing is said.
    pub bos: Option<bool>,
}

impl Default for Wanted {
    fn default() -> Wanted {
        Wanted {
            model: MODEL.into(),
            processing: Steps::default(),
            saes: Vec::new(),
            corpus: CORPUS.into(),
            column: None,
            limit: None,
            bos: None,
        }
    }
}

impl Wanted {
    /// The model and the SAEs that an index is of; its corpus is the index's own.
    pub fn of_index(identity: Identity) -> Wanted {
        Wanted {
            model: identity.model.name,
            processing: Steps::from(identity.processing),
            saes: identity.saes.into_iter().map(|sae| sae.name).collect(),
            bos: Some(identity.bos),
            ..Wanted::default()
        }
    }
}
