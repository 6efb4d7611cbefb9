use std::path::PathBuf;

/// What can go wrong between a table and its file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder could not be created.
    #[error("cannot create the folder {path}: {source}; choose another --out or make its parent writable")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}; check that its folder is writable and the disk not full")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
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
    /// The report could not be rendered.
    #[error("cannot render the report {title:?}: {source}")]
    Render {
        /// The report's title.
        title: String,
        /// Why.
        source: minijinja::Error,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
