//! What can go wrong with an SAE.

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the SAE room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder or file could not be read, or a configuration is not as it must be.
    #[error(transparent)]
    Corpus(#[from] directrix_corpus::Error),
    /// A tensor is missing or damaged, or a hook point does not exist.
    #[error(transparent)]
    Model(directrix_model::Error),
    /// The folder holds no SAE in a known form.
    #[error("`{folder}` holds no SAE: expected {known}, found {found}")]
    Format {
        /// The folder.
        folder: String,
        /// Known forms, each with the file it is known by.
        known: String,
        /// Files of the folder.
        found: String,
    },
    /// The files of an SAE do not say where in a model it is.
    #[error(
        "{folder}: its files do not say which hook point the SAE reads: {why}; say it, as `blocks.3.hook_resid_post`"
    )]
    Place {
        /// The folder.
        folder: String,
        /// What they say instead.
        why: String,
    },
    /// The numbers of an SAE do not go together, or do not suit the model or what is asked of it.
    #[error("{sae}: {problem}")]
    Parameters {
        /// The SAE.
        sae: String,
        /// What is wrong.
        problem: String,
    },
    /// Every position of the prompts is left out.
    #[error(
        "no position counts: the longest prompt has {longest}, and all of them are left out; leave out fewer of the first ones (`--skip-first`)"
    )]
    NoPosition {
        /// Positions of the longest prompt.
        longest: usize,
    },
    /// The SAE has another width than the model has at its hook point.
    #[error(
        "{sae}: the SAE {does} {found} numbers at {hook}, but the model has {expected} there; is it an SAE of another model?"
    )]
    Width {
        /// The SAE.
        sae: String,
        /// `reads` or `writes`.
        does: &'static str,
        /// Hook point.
        hook: String,
        /// Width of the model's hook point.
        expected: usize,
        /// Width of the SAE.
        found: usize,
    },
    /// Rows to encode are of another width.
    #[error("{sae}: it reads rows of {expected} numbers ({reads}), not of {found}")]
    RowWidth {
        /// The SAE.
        sae: String,
        /// What it reads.
        reads: String,
        /// Width of that.
        expected: usize,
        /// Width of the rows.
        found: usize,
    },
    /// A pre-activation or activation is NaN or infinite.
    #[error("{sae}: the activation of direction {direction} is not finite at row {row}; check the numbers it reads")]
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
    /// There is nothing to evaluate on.
    #[error("there is no prompt to evaluate on")]
    NoPrompt,
    /// The work was stopped before its end.
    #[error("stopped")]
    Stopped,
    /// Training has left the numbers that can be computed with.
    #[error("step {step}: {what} is not finite; lower the learning rate, and check the coefficients and activations")]
    Diverged {
        /// Step at which it was found, from 1.
        step: u64,
        /// What is not finite.
        what: String,
    },
    /// An option of training is out of range or does not fit the others.
    #[error("{name}: {problem}")]
    Recipe {
        /// The option.
        name: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The corpus does not fill one window.
    #[error("the corpus does not fill one window of {context} positions; give a smaller context, or a larger corpus")]
    NoWindow {
        /// Positions per window.
        context: usize,
    },
    /// The corpus does not fill the buffer.
    #[error(
        "the corpus has {found} positions, which do not fill a buffer of {buffer}; give a smaller buffer, or a larger corpus"
    )]
    SmallCorpus {
        /// Positions of the corpus.
        found: usize,
        /// Positions of the buffer.
        buffer: usize,
    },
    /// A checkpoint, cache or SAE is of another run.
    #[error("`{}`: {problem}", path.display())]
    Stored {
        /// The file or folder.
        path: std::path::PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

impl Error {
    /// The same, of the SAE `name` of a run; empty where there is one only.
    pub(crate) fn of_sae(self, name: &str) -> Error {
        match self {
            Error::Diverged { step, what } if !name.is_empty() => {
                Error::Diverged { step, what: format!("{name}: {what}") }
            }
            error => error,
        }
    }
}

impl From<directrix_model::Error> for Error {
    fn from(error: directrix_model::Error) -> Error {
        match error {
            directrix_model::Error::Stopped => Error::Stopped,
            error => Error::Model(error),
        }
    }
}
