//! What can go wrong with an SAE.

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the SAE room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder or file could not be read.
    #[error(transparent)]
    Corpus(#[from] directrix_model::corpus::Error),
    /// A tensor is missing or damaged, or a hook point does not exist.
    #[error(transparent)]
    Model(#[from] directrix_model::Error),
    /// The configuration is not JSON, lacks a key, or asks for what is not supported.
    #[error("{file}: {problem}")]
    Config {
        /// The configuration file.
        file: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The SAE reads another width than the model has at its hook point.
    #[error(
        "{file}: the SAE reads {found} numbers at {hook}, but the model has {expected} there; is it an SAE of another model?"
    )]
    Width {
        /// The configuration file.
        file: String,
        /// Hook point.
        hook: String,
        /// Width of the model's hook point.
        expected: usize,
        /// Width of the SAE.
        found: usize,
    },
    /// A pre-activation is NaN or infinite.
    #[error(
        "{sae}: the pre-activation of direction {direction} is not finite at row {row}; check the activations it reads"
    )]
    NotFinite {
        /// The SAE.
        sae: String,
        /// Direction.
        direction: usize,
        /// Row of the encoded activations.
        row: usize,
    },
    /// A direction that the SAE has not.
    #[error("{sae} has directions 0 to {last}, so there is no direction {direction}")]
    Direction {
        /// The SAE.
        sae: String,
        /// Asked direction.
        direction: usize,
        /// Its last direction.
        last: usize,
    },
}
