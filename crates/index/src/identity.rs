//! What an index is an index of.

use directrix_model::Processing;
use serde::{Deserialize, Serialize};

/// A named input with the hash of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Path or shipped name.
    pub name: String,
    /// A folder's [`hash`](directrix_model::Folder::hash), or the SHA-256 of a corpus, hexadecimal.
    pub hash: String,
}

/// Thresholds of the pass; the defaults are the origin's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Token counts count positions whose activation exceeds this share of the direction's maximum.
    pub count_above: f32,
    /// Token counts leave out this many positions at the start of every prompt.
    pub skip_first: usize,
    /// Whether maxima leave out the last position of every prompt, which predicts nothing.
    pub skip_last: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { count_above: 0.5, skip_first: 10, skip_last: true }
    }
}

/// Everything that determines the content of an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The model.
    pub model: Input,
    /// How its weights were processed.
    pub processing: Processing,
    /// The SAEs, in order.
    pub saes: Vec<Input>,
    /// The corpus.
    pub corpus: Input,
    /// Whether text prompts start with BOS.
    pub bos: bool,
    /// The corpus's column, if one was named.
    pub column: Option<String>,
    /// Only this many prompts from the start of the corpus.
    pub limit: Option<usize>,
    /// Thresholds.
    pub options: Options,
}

impl Identity {
    /// The first part in which two identities differ, if any; names of inputs may differ when their bytes do not.
    pub fn difference(&self, other: &Identity) -> Option<String> {
        let saes = |identity: &Identity| identity.saes.iter().map(|s| s.hash.clone()).collect::<Vec<_>>();
        let part = if self.model.hash != other.model.hash {
            "another model"
        } else if self.processing != other.processing {
            "other weight processing"
        } else if saes(self) != saes(other) {
            "other SAEs"
        } else if self.corpus.hash != other.corpus.hash {
            "another corpus"
        } else if (self.bos, &self.column, self.limit) != (other.bos, &other.column, other.limit) {
            "other prompts of the corpus"
        } else if self.options != other.options {
            "other thresholds"
        } else {
            return None;
        };
        Some(part.into())
    }
}
