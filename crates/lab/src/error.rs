//! What can go wrong when things are opened.

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
    /// A name is that of nothing.
    #[error(
        "no {what} `{name}`: nothing on disk has this path and nothing embedded has this name; embedded: {embedded}"
    )]
    Unknown {
        /// `folder` or `corpus`.
        what: &'static str,
        /// The name asked for.
        name: String,
        /// The names that are part of the program.
        embedded: String,
    },
}
