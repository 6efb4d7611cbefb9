//! What can go wrong with an index.

use std::path::{Path, PathBuf};

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the index room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The corpus could not be read or tokenised.
    #[error(transparent)]
    Corpus(#[from] directrix_corpus::Error),
    /// The model could not be run.
    #[error(transparent)]
    Model(#[from] directrix_model::Error),
    /// An SAE could not encode.
    #[error(transparent)]
    Sae(#[from] directrix_sae::Error),
    /// A file of the index could not be read or written.
    #[error("{path}: {source}; check that the folder is writable and the disk has room")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder holds no index, or a damaged one.
    #[error("{path}: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The folder holds an index of something else.
    #[error("{path} holds an index of other inputs ({difference}); choose another --out or delete the folder")]
    Other {
        /// The folder.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// The pass was asked to stop.
    #[error("stopped after {prompts} prompts; run the same command again to go on from there")]
    Stopped {
        /// Prompts that are done.
        prompts: usize,
    },
    /// More positions than the index can number.
    #[error("the corpus has more than {limit} positions; index it in parts")]
    TooLarge {
        /// The most positions an index can hold.
        limit: u32,
    },
}

pub(crate) trait At<T> {
    /// Names the file that an operation failed on.
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { path: path.into(), source })
    }
}
