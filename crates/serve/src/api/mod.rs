//! What can be asked: one file for each subject. Every answer is described in `/openapi.json`.

mod attention;
mod circuits;
mod directions;
mod info;
mod intervene;
mod notes;
mod prompt;
mod search;
mod studies;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use crate::Served;
use crate::error::Refused;
use crate::guard::LONGEST;

/// The longest body of a request, in bytes; imported notes may be as long as [`LONGEST`].
const BODY: usize = 256 << 10;

/// What can be asked, described.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Directrix",
        description = "What is known of a model's sparse directions, and what changing them does."
    ),
    paths(
        info::info,
        directions::directions,
        directions::direction,
        directions::neighbours,
        directions::effects,
        directions::prompt,
        prompt::prompt,
        prompt::attribution,
        attention::attention,
        attention::mean,
        intervene::intervene,
        intervene::generate,
        intervene::spell,
        circuits::edges,
        circuits::check,
        circuits::attribution,
        circuits::graph,
        search::directions,
        search::positions,
        studies::studies,
        notes::all,
        notes::put,
        notes::delete,
        notes::export,
        notes::import,
    )
)]
pub(crate) struct Described;

pub(crate) fn router() -> Router<Arc<Served>> {
    Router::new()
        .route("/api/info", get(info::info))
        .route("/api/saes/{sae}/directions", get(directions::directions))
        .route("/api/saes/{sae}/effects", post(directions::effects))
        .route("/api/saes/{sae}/directions/{direction}", get(directions::direction))
        .route("/api/saes/{sae}/directions/{direction}/neighbours", get(directions::neighbours))
        .route("/api/saes/{sae}/directions/{direction}/edges", get(circuits::edges))
        .route("/api/saes/{sae}/directions/{direction}/attribution", get(circuits::attribution))
        .route("/api/prompts/{prompt}", get(directions::prompt))
        .route("/api/prompt", post(prompt::prompt))
        .route("/api/attribution", post(prompt::attribution))
        .route("/api/attention", post(attention::attention))
        .route("/api/attention/mean", get(attention::mean))
        .route("/api/intervene", post(intervene::intervene))
        .route("/api/generate", post(intervene::generate))
        .route("/api/spell", post(intervene::spell))
        .route("/api/edges/check", post(circuits::check))
        .route("/api/graph", post(circuits::graph))
        .route("/api/search/directions", get(search::directions))
        .route("/api/search/positions", get(search::positions))
        .route("/api/studies", get(studies::studies))
        .route("/studies/{*path}", get(studies::file))
        .route("/api/notes", get(notes::all))
        .route("/api/notes/{sae}/{direction}", put(notes::put).delete(notes::delete))
        .route(
            "/api/notes.jsonl",
            get(notes::export).post(notes::import).layer(DefaultBodyLimit::max(LONGEST as usize)),
        )
        .route("/openapi.json", get(async || axum::Json(Described::openapi())))
        .layer(DefaultBodyLimit::max(BODY))
}

/// A body, path or query of a request; what is wrong with one is answered as every error is.
pub(crate) struct Json<T>(pub(crate) T);
pub(crate) struct Path<T>(pub(crate) T);
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Refused;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Json<T>, Refused> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(body)) => Ok(Json(body)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(Refused::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send JSON, with `Content-Type: application/json`",
            )),
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let said = format!("a request has up to {} kB; this one is longer", BODY >> 10);
                Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, said))
            }
            Err(error) => Err(Refused::new(error.status(), error.body_text())),
        }
    }
}

impl<S: Send + Sync, T: serde::de::DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Path<T>, Refused> {
        let found = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        found
            .map(|axum::extract::Path(path)| Path(path))
            .map_err(|error: PathRejection| Refused::missing(error.body_text()))
    }
}

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Query<T>, Refused> {
        let found = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        found
            .map(|axum::extract::Query(query)| Query(query))
            .map_err(|error: QueryRejection| Refused::bad(error.body_text()))
    }
}

/// A token and its text.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Token {
    pub(crate) id: u32,
    pub(crate) text: String,
}

/// A part of the model and what it adds.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Part {
    /// Its name, as TransformerLens has it.
    pub(crate) label: String,
    pub(crate) value: f64,
}

/// What is not there.
pub(crate) async fn nothing(uri: axum::http::Uri) -> Response {
    Refused::missing(format!("there is nothing at {}; see /openapi.json", uri.path())).into_response()
}
