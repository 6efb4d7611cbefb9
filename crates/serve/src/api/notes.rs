//! Notes on directions.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Json, Path};
use crate::Served;
use crate::error::{Answered, Failure, Refused};
use crate::notes::{Note, Notes};
use crate::work::Takes;
use crate::workbench::Workbench;

/// A note on a direction of an SAE that is served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NoteView {
    sae: usize,
    direction: usize,
    label: String,
    text: String,
    starred: bool,
    /// Counts the times it was written.
    version: i64,
    /// When it was last written, UTC.
    changed: String,
}

impl Workbench {
    fn notes(&self) -> Answered<&Notes> {
        let said = "there are no notes; start `directrix serve --edit` to write some";
        self.notes.as_ref().ok_or_else(|| Refused::new(StatusCode::FORBIDDEN, said))
    }

    /// A note as the page has it; none of an SAE that is not served.
    fn view(&self, note: Note) -> Option<NoteView> {
        let sae = self.opened.saes.iter().position(|sae| sae.short_name() == note.sae)?;
        let Note { direction, label, text, starred, version, changed, .. } = note;
        Some(NoteView { sae, direction, label, text, starred, version, changed })
    }
}

/// All notes on directions of the SAEs that are served.
#[utoipa::path(get, path = "/api/notes", responses((status = 200, body = Vec<NoteView>)))]
pub(crate) async fn all(State(served): State<Arc<Served>>) -> Answered<Answer<Vec<NoteView>>> {
    let bench = served.bench.clone();
    let read = served.work.run(Takes::Moments, move |_| {
        let notes = bench.notes.as_ref().map_or_else(|| Ok(Vec::new()), Notes::all)?;
        Ok(notes.into_iter().filter_map(|note| bench.view(note)).collect())
    });
    Ok(Answer(read.await?))
}

/// What a note is to be.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Written {
    #[serde(default)]
    label: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    starred: bool,
    /// The version that it was made from; 0 for a new note.
    #[serde(default)]
    version: i64,
}

/// Writes a note. One that was changed since its version was read stays, and is sent along.
#[utoipa::path(put, path = "/api/notes/{sae}/{direction}", params(("sae" = usize, Path), ("direction" = usize, Path)), request_body = Written, responses((status = 200, body = NoteView), (status = 403, body = Failure), (status = 409, body = Failure)))]
pub(crate) async fn put(
    State(served): State<Arc<Served>>,
    Path((sae, direction)): Path<(usize, usize)>,
    Json(written): Json<Written>,
) -> Answered<Answer<NoteView>> {
    let bench = served.bench.clone();
    let write = served.work.run(Takes::Moments, move |_| {
        let sae = bench.direction(sae, direction)?.short_name().to_owned();
        let Written { label, text, starred, version } = written;
        let note = Note { sae, direction, label, text, starred, version, changed: String::new() };
        let written = bench.notes()?.put(note)?;
        bench.view(written).ok_or_else(|| Refused::missing("the note is gone"))
    });
    Ok(Answer(write.await?))
}

/// Deletes a note.
#[utoipa::path(delete, path = "/api/notes/{sae}/{direction}", params(("sae" = usize, Path), ("direction" = usize, Path)), responses((status = 204), (status = 403, body = Failure), (status = 404, body = Failure)))]
pub(crate) async fn delete(
    State(served): State<Arc<Served>>,
    Path((sae, direction)): Path<(usize, usize)>,
) -> Answered<StatusCode> {
    let bench = served.bench.clone();
    let delete = served.work.run(Takes::Moments, move |_| {
        let sae = bench.direction(sae, direction)?.short_name().to_owned();
        bench.notes()?.delete(&sae, direction)
    });
    delete.await.map(|()| StatusCode::NO_CONTENT)
}

/// All notes as JSON lines, those on SAEs that are not served too.
#[utoipa::path(get, path = "/api/notes.jsonl", responses((status = 200, content_type = "application/x-ndjson", body = Note)))]
pub(crate) async fn export(State(served): State<Arc<Served>>) -> Answered<Response> {
    let bench = served.bench.clone();
    let read =
        served.work.run(Takes::Moments, move |_| bench.notes.as_ref().map_or_else(|| Ok(Vec::new()), Notes::all));
    let lines: String =
        read.await?.iter().filter_map(|note| serde_json::to_string(note).ok()).map(|line| line + "\n").collect();
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"notes.jsonl\""),
    ];
    Ok((headers, lines).into_response())
}

/// What became of imported notes.
#[derive(Serialize, ToSchema)]
pub(crate) struct Imported {
    imported: usize,
    skipped: Vec<Skipped>,
}

/// A line that is no note.
#[derive(Serialize, ToSchema)]
struct Skipped {
    /// Counted from 1.
    line: usize,
    error: String,
}

/// Imports notes as they are exported, each over the one that is there; lines that are none are skipped and told.
#[utoipa::path(post, path = "/api/notes.jsonl", request_body(content = String, content_type = "application/x-ndjson"), responses((status = 200, body = Imported), (status = 403, body = Failure)))]
pub(crate) async fn import(State(served): State<Arc<Served>>, lines: axum::body::Bytes) -> Answered<Answer<Imported>> {
    let bench = served.bench.clone();
    let write = served.work.run(Takes::Moments, move |_| {
        let notes_file = bench.notes()?;
        let text = String::from_utf8_lossy(&lines);
        let (mut notes, mut skipped) = (Vec::new(), Vec::new());
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let read = serde_json::from_str::<Note>(line).map_err(|error| error.to_string());
            match read.and_then(|note| note.check().map(|()| note)) {
                Ok(note) => notes.push(note),
                Err(error) => skipped.push(Skipped { line: number + 1, error }),
            }
        }
        notes_file.import(&notes)?;
        Ok(Imported { imported: notes.len(), skipped })
    });
    Ok(Answer(write.await?))
}
