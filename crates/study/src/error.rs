//! What can go wrong in a study.

use std::path::PathBuf;

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the study room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the study is of could not be opened.
    #[error(transparent)]
    Lab(#[from] directrix_lab::Error),
    /// The corpus could not be read or tokenised, or a file not be written.
    #[error(transparent)]
    Corpus(#[from] directrix_corpus::Error),
    /// The model could not be loaded or run.
    #[error(transparent)]
    Model(#[from] directrix_model::Error),
    /// An SAE could not be loaded or used.
    #[error(transparent)]
    Sae(#[from] directrix_sae::Error),
    /// The index could not be built or read.
    #[error(transparent)]
    Index(#[from] directrix_index::Error),
    /// An analysis failed.
    #[error(transparent)]
    Circuits(directrix_circuits::Error),
    /// A study file could not be read.
    #[error(
        "cannot read the study {path}: {source}; give the path of a study file, such as studies/closing-quote.toml, or a shipped study: closing-quote, pronouns or circuits"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A study file says something that cannot be done.
    #[error("{name}: {problem}")]
    Study {
        /// The file.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The study was asked to stop.
    #[error("stopped; run the same command again: what the index holds is reused")]
    Stopped,
    /// A table, figure or section name cannot be a file name.
    #[error("{name:?} cannot name a file; use letters, digits, '-', '_' and '.' and start with a letter or digit")]
    Name {
        /// The name.
        name: String,
    },
    /// A table could not be encoded as CSV.
    #[error("cannot encode the table {table} as CSV: {source}")]
    Csv {
        /// The table's name.
        table: String,
        /// Why.
        source: csv::Error,
    },
    /// A table could not be encoded as Parquet.
    #[error("cannot encode the table {table} as Parquet: {source}")]
    Parquet {
        /// The table's name.
        table: String,
        /// Why.
        source: parquet::errors::ParquetError,
    },
    /// Rows could not be written in Arrow's form.
    #[error("cannot write {}: {source}", path.display())]
    Arrow {
        /// The file.
        path: PathBuf,
        /// Why.
        source: arrow_schema::ArrowError,
    },
    /// Something else stands where an export is to be written.
    #[error("`{}`: {problem}; choose another --out", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What is there.
        problem: String,
    },
    /// What the report carries could not be compressed.
    #[error("cannot compress what the report carries: {source}")]
    Pack {
        /// Why.
        source: std::io::Error,
    },
    /// The report could not be rendered.
    #[error("cannot render the report {title:?}: {source}")]
    Render {
        /// The report's title.
        title: String,
        /// Why.
        source: minijinja::Error,
    },
}

impl From<directrix_circuits::Error> for Error {
    fn from(error: directrix_circuits::Error) -> Error {
        match error {
            directrix_circuits::Error::Stopped => Error::Stopped,
            error => Error::Circuits(error),
        }
    }
}
