//! What can go wrong in an analysis.

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the circuits room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The corpus could not be read or tokenised.
    #[error(transparent)]
    Corpus(#[from] directrix_corpus::Error),
    /// The model could not be run.
    #[error(transparent)]
    Model(#[from] directrix_model::Error),
    /// An SAE could not be used.
    #[error(transparent)]
    Sae(#[from] directrix_sae::Error),
    /// The index could not be read.
    #[error(transparent)]
    Index(#[from] directrix_index::Error),
    /// No prompt shows the behaviour.
    #[error(
        "none of {stories} stories contains {contains:?} followed by {ends_with:?}; check the two texts, or take another corpus"
    )]
    NoPrompt {
        /// Stories looked at.
        stories: usize,
        /// What they should contain.
        contains: String,
        /// What should come after it.
        ends_with: String,
    },
    /// A corpus of ids without a tokenizer has no text.
    #[error(
        "the corpus holds token ids and the model folder no tokenizer.json, so there is no text to look for the behaviour in"
    )]
    NoText,
    /// A prompt with no position before its answer.
    #[error(
        "prompt {prompt} has fewer than two positions; prompts end with the answer, so that the position before it predicts it"
    )]
    Short {
        /// The prompt.
        prompt: usize,
    },
    /// A cosine that is not finite.
    #[error(
        "the cosine of direction {first} of the first SAE and direction {second} of the second is not finite; the weights are too large for single precision"
    )]
    NotFinite {
        /// Direction of the first SAE.
        first: usize,
        /// Direction of the second SAE.
        second: usize,
    },
    /// Two SAEs in the wrong order.
    #[error(
        "{first} (layer {first_layer}) must come before {second} (layer {second_layer}) in the model; give the earlier SAE first"
    )]
    Order {
        /// The SAE given first.
        first: String,
        /// Its layer.
        first_layer: usize,
        /// The SAE given second.
        second: String,
        /// Its layer.
        second_layer: usize,
    },
}
