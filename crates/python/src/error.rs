//! Errors as exceptions, one for each room.

use std::any::Any;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    directrix,
    DirectrixError,
    PyException,
    "What Directrix refuses or cannot do, and what to do about it."
);

/// What went wrong in a room, or in Python.
pub(crate) enum Failure {
    Room(fn(String) -> PyErr, String),
    Python(PyErr),
    /// Shards have not done yet what is needed.
    Waits(String),
}

/// The result of what is called from Python.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// Of an argument, which `problem` says all about.
    pub(crate) fn argument(problem: impl Into<String>) -> Failure {
        Failure::Room(DirectrixError::new_err, problem.into())
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        match failure {
            Failure::Room(new, message) => new(message),
            Failure::Python(error) => error,
            Failure::Waits(message) => CorpusError::new_err(message),
        }
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Failure {
        Failure::Python(error)
    }
}

/// Whether an error of a room is that shards have not done yet what is needed.
fn waits(error: &dyn Any) -> bool {
    use directrix_circuits::Error;
    matches!(error.downcast_ref::<Error>(), Some(Error::Corpus(directrix_corpus::Error::Waits { .. })))
}

macro_rules! rooms {
    ($($exception:ident $name:ident $about:literal;)*) => {
        $(create_exception!(directrix, $exception, DirectrixError, $about);

        impl From<$name::Error> for Failure {
            fn from(error: $name::Error) -> Failure {
                let message = error.to_string();
                if waits(&error) { Failure::Waits(message) } else { Failure::Room($exception::new_err, message) }
            }
        })*

        /// Adds the exceptions to the module.
        pub(crate) fn register(module: &Bound<PyModule>) -> PyResult<()> {
            let py = module.py();
            module.add("DirectrixError", py.get_type::<DirectrixError>())?;
            $(module.add(stringify!($exception), py.get_type::<$exception>())?;)*
            Ok(())
        }
    };
}

rooms! {
    CorpusError directrix_corpus "A text, a file of texts or a tokenizer.";
    ModelError directrix_model "A model's files, a prompt, a hook point or an intervention.";
    SaeError directrix_sae "An SAE's files, a direction, or training.";
    IndexingError directrix_index "An index's files, or a query.";
    CircuitsError directrix_circuits "An analysis.";
    LabError directrix_lab "What is named and cannot be found, or does not belong together.";
    StudyError directrix_study "A study file, or its results.";
}
