//! What can go wrong with an index.

use std::io;
use std::path::{Path, PathBuf};

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the index room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The corpus could not be read or tokenised, or a file could not be written.
    #[error(transparent)]
    Corpus(directrix_corpus::Error),
    /// The model could not be run.
    #[error(transparent)]
    Model(#[from] directrix_model::Error),
    /// An SAE could not encode.
    #[error(transparent)]
    Sae(#[from] directrix_sae::Error),
    /// The folder holds no index.
    #[error("{path}: this folder holds no index; build one with `directrix index`")]
    NoIndex {
        /// The folder.
        path: PathBuf,
    },
    /// The index was built by another version.
    #[error("{path}: index format {found}, expected {expected}; remove the folder and build the index again")]
    Format {
        /// `index.json`.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format that is read.
        expected: u32,
    },
    /// A file of the index is not as it was written.
    #[error("{path} is damaged: {problem}; remove the folder and build the index again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Something else stands where the work would be done.
    #[error("{path} is not an unfinished index, but stands where one would be made; move it or choose another --out")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds an index of something else.
    #[error("{path} holds an index of other inputs ({difference}); choose another --out or delete the folder")]
    Other {
        /// The folder.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// There is nothing to merge.
    #[error("there is nothing to merge; name the folders that `directrix index --shard` has made")]
    Nothing,
    /// Pieces that are to be merged are not of one index.
    #[error("{path} and {other} are not pieces of one index: {difference}; give those of one run")]
    OtherPiece {
        /// A folder.
        path: PathBuf,
        /// The first one.
        other: PathBuf,
        /// What differs.
        difference: String,
    },
    /// Documents are in two pieces that are to be merged.
    #[error("document {document} is in {one} and in {other}; give each shard once")]
    Twice {
        /// The first document that is, counted from 0.
        document: usize,
        /// A folder.
        one: PathBuf,
        /// Another one, or the same given twice.
        other: PathBuf,
    },
    /// Documents are in none of the pieces that are to be merged.
    #[error(
        "no piece has the documents {documents}; make these shards and give them too, or make a piece again with --piece"
    )]
    Missing {
        /// Which, counted from 0, and the shards that have them.
        documents: String,
    },
    /// A query that cannot be understood, or is not of the index.
    #[error("the query cannot be understood at character {at}: {problem}")]
    Query {
        /// Where, in characters from 1.
        at: usize,
        /// What was expected and found there, and what is wrong.
        problem: String,
    },
    /// A text, a regular expression or tokens that cannot be looked for.
    #[error("{problem}")]
    Pattern {
        /// What is wrong.
        problem: String,
    },
    /// A text is looked for and there is no tokenizer.
    #[error(
        "texts are found in what tokens say, and there is no tokenizer; name a folder with one by --model, or give token ids"
    )]
    NoTokenizer,
    /// A prompt, position, direction or SAE that the index has not.
    #[error("the index has no {what} {number}: there are {there}, counted from 0")]
    Outside {
        /// `prompt`, `position`, `direction` or `SAE`.
        what: &'static str,
        /// The number asked for.
        number: usize,
        /// How many there are.
        there: usize,
    },
    /// A search was asked to stop.
    #[error("the search was given up")]
    GivenUp,
    /// The pass was asked to stop.
    #[error("stopped after {prompts} prompts; run the same command again to go on from there")]
    Stopped {
        /// Prompts that are done.
        prompts: usize,
    },
}

impl From<directrix_corpus::Error> for Error {
    fn from(error: directrix_corpus::Error) -> Error {
        match error {
            directrix_corpus::Error::Damaged { path, problem } => Error::Damaged { path, problem },
            error => Error::Corpus(error),
        }
    }
}

impl Error {
    pub(crate) fn damaged(path: PathBuf, problem: impl Into<String>) -> Error {
        Error::Damaged { path, problem: problem.into() }
    }

    pub(crate) fn read(path: &Path, error: io::Error) -> Error {
        Error::Corpus(directrix_corpus::Error::Io { path: path.display().to_string(), error })
    }

    pub(crate) fn write(path: &Path, error: io::Error) -> Error {
        Error::Corpus(directrix_corpus::Error::Write { path: path.into(), error })
    }
}
