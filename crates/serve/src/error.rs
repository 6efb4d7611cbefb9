//! What a request is answered where it cannot be done: a status and a sentence.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// What stops the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address could not be listened at.
    #[error("cannot listen at {address}: {source}; give another --port, or 0 for any that is free")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// An address that others reach, without a token.
    #[error(
        "{address} can be reached by others; give --token, which every request must then name, or listen at 127.0.0.1"
    )]
    NoToken {
        /// The address.
        address: String,
    },
    /// The server could not be started.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// The notes could not be opened.
    #[error("cannot open the notes at `{path}`: {source}; move the file away, or serve without --edit")]
    Notes {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// What was to be served could not be opened.
    #[error(transparent)]
    Lab(#[from] directrix_lab::Error),
    /// An index that is to be served has other SAEs than are open.
    #[error(transparent)]
    Circuits(#[from] directrix_circuits::Error),
}

/// Results of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a request is answered where it fails.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) sentence: String,
    /// What there is instead, of a note that another has written.
    pub(crate) instead: Option<serde_json::Value>,
}

/// The body of an answer with an error.
#[derive(Serialize, ToSchema)]
pub(crate) struct Failure {
    /// What was wrong, and what to do.
    error: String,
    /// What there is instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    instead: Option<serde_json::Value>,
}

pub(crate) type Answered<T> = std::result::Result<T, Refused>;

impl Refused {
    pub(crate) fn new(status: StatusCode, sentence: impl Into<String>) -> Refused {
        Refused { status, sentence: sentence.into(), instead: None }
    }

    pub(crate) fn bad(sentence: impl Into<String>) -> Refused {
        Refused::new(StatusCode::BAD_REQUEST, sentence)
    }

    pub(crate) fn missing(sentence: impl Into<String>) -> Refused {
        Refused::new(StatusCode::NOT_FOUND, sentence)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(Failure { error: self.sentence, instead: self.instead })).into_response()
    }
}

impl From<directrix_circuits::Error> for Refused {
    fn from(error: directrix_circuits::Error) -> Refused {
        use directrix_circuits::Error as E;
        match &error {
            E::Stopped => Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the request was given up"),
            E::Index(error) => of_index(error),
            _ => Refused::bad(error.to_string()),
        }
    }
}

fn of_index(error: &directrix_index::Error) -> Refused {
    match error {
        directrix_index::Error::Outside { .. } => Refused::missing(error.to_string()),
        directrix_index::Error::Pattern { .. }
        | directrix_index::Error::Query { .. }
        | directrix_index::Error::NoTokenizer => Refused::bad(error.to_string()),
        _ => Refused::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

impl From<directrix_index::Error> for Refused {
    fn from(error: directrix_index::Error) -> Refused {
        of_index(&error)
    }
}

impl From<directrix_lab::Error> for Refused {
    fn from(error: directrix_lab::Error) -> Refused {
        Refused::bad(error.to_string())
    }
}

impl From<directrix_corpus::Error> for Refused {
    fn from(error: directrix_corpus::Error) -> Refused {
        Refused::bad(error.to_string())
    }
}

impl From<directrix_model::Error> for Refused {
    fn from(error: directrix_model::Error) -> Refused {
        directrix_circuits::Error::from(error).into()
    }
}

impl From<directrix_study::Error> for Refused {
    fn from(error: directrix_study::Error) -> Refused {
        Refused::bad(error.to_string())
    }
}

impl From<directrix_sae::Error> for Refused {
    fn from(error: directrix_sae::Error) -> Refused {
        Refused::bad(error.to_string())
    }
}
