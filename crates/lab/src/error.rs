//! What can go wrong when things are opened.

use std::path::PathBuf;

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the lab: what was wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The corpus could not be read or tokenised.
    #[error(transparent)]
    Corpus(#[from] directrix_corpus::Error),
    /// The model could not be loaded.
    #[error(transparent)]
    Model(#[from] directrix_model::Error),
    /// An SAE could not be loaded, or does not fit the model.
    #[error(transparent)]
    Sae(#[from] directrix_sae::Error),
    /// The index could not be made or read.
    #[error(transparent)]
    Index(#[from] directrix_index::Error),
    /// Something is not in the hub's cache and cannot be downloaded.
    #[error(transparent)]
    Hub(#[from] crate::HubError),
    /// A name is that of nothing.
    #[error(
        "no {what} `{name}`: nothing on disk has this path and nothing embedded has this name; embedded: {embedded}; on the hub: {hub}"
    )]
    Unknown {
        /// `folder` or `corpus`.
        what: &'static str,
        /// The name asked for.
        name: String,
        /// The names that are part of the program.
        embedded: String,
        /// How those of the hub are spelled.
        hub: &'static str,
    },
    /// Two SAEs are called the same in results.
    #[error("the SAEs `{one}` and `{two}` are both called `{name}` in results; rename one of the folders")]
    SameName {
        /// What both are called.
        name: String,
        /// The one.
        one: String,
        /// The other.
        two: String,
    },
    /// Two SAEs were trained on weights that were processed in different ways.
    #[error(
        "`{with}` was trained on weights with `{step}`, `{without}` on weights without it, so that no weights suit both; use them apart, or say `{step}` = true or false (`--no-{}`)",
        step.replace('_', "-")
    )]
    OtherWeights {
        /// The SAE of weights that the step was taken with.
        with: String,
        /// The other.
        without: String,
        /// The step.
        step: &'static str,
    },
    /// BOS is asked for and there is none.
    #[error(
        "`{folder}` names no BOS token, which texts are to begin with; do not ask for BOS, or set bos_token in tokenizer_config.json"
    )]
    NoBos {
        /// The model's folder.
        folder: String,
    },
    /// There is text and no tokenizer.
    #[error("`{path}` is missing, and text needs it; put the model's tokenizer there")]
    NoTokenizer {
        /// Where it should be.
        path: String,
    },
    /// A token to be excluded that there is not.
    #[error("there is no token `{token}` to be excluded: the model has tokens 0 to {}", vocabulary - 1)]
    Excluded {
        /// The token asked for.
        token: String,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A folder holds no index.
    #[error("`{0}` holds no index; make one with `directrix index --out {0}`, or name another", path.display())]
    NoIndex {
        /// The folder.
        path: PathBuf,
    },
    /// An index is of another model.
    #[error("the index `{}` is of the model {found}, not of `{wanted}`", path.display())]
    OtherModel {
        /// The index.
        path: PathBuf,
        /// Its model.
        found: String,
        /// The model that is open.
        wanted: String,
    },
    /// An index is of a model whose weights were processed in another way.
    #[error("the index `{}` is of weights that were processed in another way; give the same flags as for the index", path.display())]
    OtherProcessing {
        /// The index.
        path: PathBuf,
    },
    /// An index has no part for an SAE.
    #[error("the index `{}` has no part for `{sae}`; make one with this SAE", path.display())]
    NotIndexed {
        /// The index.
        path: PathBuf,
        /// The SAE.
        sae: String,
    },
}
