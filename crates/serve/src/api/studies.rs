//! Reports of studies and their files.

use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Path;
use crate::Served;
use crate::error::{Answered, Refused};
use crate::work::Takes;

/// Folders that are looked into for reports.
const MOST: usize = 1000;

/// A study whose report was made.
#[derive(Serialize, ToSchema)]
pub(crate) struct Study {
    name: String,
    title: String,
    /// Where its report is.
    report: String,
    /// Its tables as CSV.
    tables: Vec<String>,
    /// Its figures as SVG.
    figures: Vec<String>,
}

/// The studies whose reports were made.
#[utoipa::path(get, path = "/api/studies", responses((status = 200, body = Vec<Study>)))]
pub(crate) async fn studies(State(served): State<Arc<Served>>) -> Answered<Response> {
    let folder = served.bench.studies.clone();
    served.work.answer(Takes::Moments, "studies".into(), move |_| Ok(found_in(&folder))).await
}

fn found_in(folder: &FilePath) -> Vec<Study> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut studies = Vec::new();
    for entry in entries.flatten().take(MOST) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if !path.join("report.html").is_file() || !path.join("study.json").is_file() {
            continue;
        }
        let files = |below: &str, extension: &str| -> Vec<String> {
            let entries = std::fs::read_dir(path.join(below)).into_iter().flatten().flatten();
            let names = entries.map(|file| file.file_name().to_string_lossy().into_owned());
            let mut names: Vec<String> = names.filter(|name| name.ends_with(extension)).collect();
            names.sort();
            names.into_iter().map(|file| format!("/studies/{}/{below}/{}", encoded(&name), encoded(&file))).collect()
        };
        studies.push(Study {
            title: title(&path).unwrap_or_else(|| name.clone()),
            report: format!("/studies/{}/report.html", encoded(&name)),
            tables: files("tables", ".csv"),
            figures: files("figures", ".svg"),
            name,
        });
    }
    studies.sort_by(|a, b| a.name.cmp(&b.name));
    studies
}

/// The headline of a report.
fn title(study: &FilePath) -> Option<String> {
    let text = std::fs::read(study.join("study.json")).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(json.pointer("/report/title").or_else(|| json.get("title"))?.as_str()?.to_owned())
}

/// A name as part of a URL.
fn encoded(name: &str) -> String {
    let keep = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    name.bytes().map(|byte| if keep(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A file of a study: its report, a table or a figure, and no other.
pub(crate) async fn file(State(served): State<Arc<Served>>, Path(path): Path<String>) -> Answered<Response> {
    let missing = || Refused::missing(format!("there is no file `{path}` of a study"));
    let relative = PathBuf::from(&path);
    let parts: Vec<Component> = relative.components().collect();
    let is_plain = parts.iter().all(|part| matches!(part, Component::Normal(_))) && !path.contains('\\');
    let kind = match relative.extension().and_then(|extension| extension.to_str()) {
        Some("html") if parts.len() == 2 && path.ends_with("/report.html") => "text/html; charset=utf-8",
        Some("csv") if parts.len() == 3 => "text/csv; charset=utf-8",
        Some("svg") if parts.len() == 3 => "image/svg+xml",
        Some("parquet") if parts.len() == 3 => "application/vnd.apache.parquet",
        _ => return Err(missing()),
    };
    if !is_plain {
        return Err(missing());
    }
    let folder = served.bench.studies.clone();
    let read = tokio::task::spawn_blocking(move || {
        // A link may lead anywhere; what is served lies in the folder.
        let (folder, file) = (folder.canonicalize()?, folder.join(relative).canonicalize()?);
        if file.starts_with(&folder) { std::fs::read(file) } else { Err(std::io::ErrorKind::NotFound.into()) }
    });
    let bytes = read.await.map_err(|_| missing())?.map_err(|_| missing())?;
    Ok(([(header::CONTENT_TYPE, kind)], Body::from(bytes)).into_response())
}
