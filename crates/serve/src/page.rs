//! The page: a bundle that is part of the program, and the look that it shares with reports.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use directrix_study::look;

use crate::api::nothing;

const PAGE: &str = include_str!("../../../web/dist/index.html");
const SCRIPT: &str = include_str!("../../../web/dist/assets/index.js");
const STYLE: &str = include_str!("../../../web/dist/assets/index.css");

/// A part of the page; what has no dot in it is a view of the page, all else is not there.
pub(crate) async fn page(uri: Uri, headers: HeaderMap) -> Response {
    let (kind, text) = match uri.path() {
        "/assets/index.js" => ("text/javascript", SCRIPT),
        "/assets/index.css" => ("text/css", STYLE),
        "/look.css" => ("text/css", look::style()),
        "/look.js" => ("text/javascript", look::script()),
        "/plotly.js" => ("text/javascript", look::plotly()),
        path if path.contains('.') || path.starts_with("/api/") => return nothing(uri).await,
        _ => ("text/html; charset=utf-8", PAGE),
    };
    let version = format!("\"{:08x}\"", crc32c::crc32c(text.as_bytes()));
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == version.as_bytes()) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let headers = [(header::CONTENT_TYPE, kind), (header::ETAG, &version), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from(text)).into_response()
}
