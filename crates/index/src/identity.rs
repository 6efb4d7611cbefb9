//! What an index is an index of.

use directrix_model::Processing;
use directrix_sae::Counted;
use serde::{Deserialize, Serialize};

/// A named input with the hash of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Path or shipped name.
    pub name: String,
    /// A folder's [`hash`](directrix_model::Folder::hash), or the SHA-256 of a corpus, hexadecimal.
    pub hash: String,
}

/// Which positions count, and the threshold of the token counts.
///
/// A position that does not count is left out of all that is said of a direction: maximum, density, mean, histogram, prompts,
/// examples and token counts. The activations themselves are stored at every position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Token counts are of positions whose activation exceeds this share of the direction's maximum.
    pub count_above: f32,
    /// Which positions count.
    #[serde(flatten)]
    pub counted: Counted,
    /// Count as the origin's notebook does: the first positions are left out of the token counts alone, the last of the maxima and
    /// examples alone.
    pub as_notebook: bool,
}

/// What a position may count for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// The maximum and examples.
    Maximum,
    /// The token counts.
    Tokens,
    /// All else.
    Rest,
}

impl Options {
    /// Whether place `place` of a prompt of `length` positions counts. `token` is what is there, which matters only where
    /// tokens are excluded.
    pub(crate) fn counts(&self, what: For, place: usize, length: usize, token: Option<u32>) -> bool {
        let Counted { skip_first, skip_last, ref exclude } = self.counted;
        let (first, last) = (place < skip_first, skip_last && place + 1 == length);
        let left_out = match (self.as_notebook, what) {
            (false, _) => first || last,
            (true, For::Maximum) => last,
            (true, For::Tokens) => first,
            (true, For::Rest) => false,
        };
        !left_out && token.is_none_or(|token| !exclude.contains(&token))
    }

    /// Which positions do not count, in words; `token` shows a token.
    pub fn left_out(&self, token: impl Fn(u32) -> String) -> String {
        let of = if self.as_notebook { [" (of token counts)", " (of maxima)"] } else { ["", ""] };
        self.counted.left_out_of(of, token)
    }
}

impl Default for Options {
    fn default() -> Self {
        Options { count_above: 0.5, counted: Counted::default(), as_notebook: false }
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
    /// Which positions count.
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
            "other positions count"
        } else {
            return None;
        };
        Some(part.into())
    }
}
