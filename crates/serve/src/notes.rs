//! Notes on directions: labels, stars and texts, in a SQLite file beside the index.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use axum::http::StatusCode;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Answered, Error, Refused, Result};
use crate::work::lock;

/// Longest label and text, in bytes.
const LABEL: usize = 500;
const TEXT: usize = 20_000;

/// What somebody says of a direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Note {
    /// The SAE's name: notes outlive the order in which SAEs are served.
    pub(crate) sae: String,
    pub(crate) direction: usize,
    /// What it is called.
    #[serde(default)]
    pub(crate) label: String,
    /// What else is said of it.
    #[serde(default)]
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) starred: bool,
    /// Counts the times it was written; 0 for a new one.
    #[serde(default)]
    pub(crate) version: i64,
    /// When it was last written, UTC.
    #[serde(default)]
    pub(crate) changed: String,
}

/// The file of notes.
pub(crate) struct Notes {
    file: Mutex<Connection>,
    pub(crate) may_write: bool,
}

impl Notes {
    pub(crate) fn open(path: &Path, may_write: bool) -> Result<Notes> {
        let open = || {
            if !may_write {
                return Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
            }
            let file = Connection::open(path)?;
            // A write is on the disk when it is answered; readers are not kept waiting.
            file.pragma_update(None, "journal_mode", "WAL")?;
            file.pragma_update(None, "synchronous", "FULL")?;
            file.execute_batch(
                "CREATE TABLE IF NOT EXISTS notes (sae TEXT NOT NULL, direction INTEGER NOT NULL, label TEXT NOT NULL, text TEXT NOT NULL, starred INTEGER NOT NULL, version INTEGER NOT NULL, changed TEXT NOT NULL, PRIMARY KEY (sae, direction)) STRICT",
            )?;
            Ok(file)
        };
        let set_up = |file: Connection| {
            file.busy_timeout(Duration::from_secs(5))?;
            file.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0))?;
            Ok(file)
        };
        let file = open().and_then(set_up).map_err(|source| Error::Notes { path: path.into(), source })?;
        Ok(Notes { file: Mutex::new(file), may_write })
    }

    pub(crate) fn all(&self) -> Answered<Vec<Note>> {
        let file = lock(&self.file);
        let read = || {
            let mut query = file.prepare_cached(
                "SELECT sae, direction, label, text, starred, version, changed FROM notes ORDER BY sae, direction",
            )?;
            query.query_map([], note)?.collect::<rusqlite::Result<Vec<Note>>>()
        };
        read().map_err(|error| failed(&error))
    }

    /// Writes a note in place of its version, and returns it; what another has written meanwhile stays.
    pub(crate) fn put(&self, note: Note) -> Answered<Note> {
        self.check(&note)?;
        let mut file = lock(&self.file);
        let mut write = || {
            let transaction = file.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let there = find(&transaction, &note.sae, note.direction)?;
            let version = there.as_ref().map_or(0, |there| there.version);
            if version != note.version {
                return Ok(Err(there));
            }
            insert(&transaction, &Note { version: version + 1, ..note.clone() })?;
            let written = find(&transaction, &note.sae, note.direction)?;
            transaction.commit()?;
            Ok(Ok(written))
        };
        match write().map_err(|error| failed(&error))? {
            Ok(written) => written.ok_or_else(|| Refused::missing("the note is gone")),
            Err(there) => {
                let said = "this note was changed elsewhere meanwhile; what is there now is sent along";
                let instead = there.and_then(|there| serde_json::to_value(there).ok());
                Err(Refused { instead, ..Refused::new(StatusCode::CONFLICT, said) })
            }
        }
    }

    pub(crate) fn delete(&self, sae: &str, direction: usize) -> Answered<()> {
        self.check_writes()?;
        let deleted = lock(&self.file)
            .execute("DELETE FROM notes WHERE sae = ?1 AND direction = ?2", params![sae, direction as i64]);
        match deleted.map_err(|error| failed(&error))? {
            0 => Err(Refused::missing(format!("there is no note on direction {direction} of {sae}"))),
            _ => Ok(()),
        }
    }

    /// Writes all of these or none, each over what is there.
    pub(crate) fn import(&self, notes: &[Note]) -> Answered<()> {
        self.check_writes()?;
        let mut file = lock(&self.file);
        let mut write = || {
            let transaction = file.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for note in notes {
                let there = find(&transaction, &note.sae, note.direction)?.map_or(0, |there| there.version);
                insert(&transaction, &Note { version: there + 1, ..note.clone() })?;
            }
            transaction.commit()
        };
        write().map_err(|error| failed(&error))
    }

    fn check_writes(&self) -> Answered<()> {
        let said = "notes are read only; start `directrix serve --edit` to write them";
        if self.may_write { Ok(()) } else { Err(Refused::new(StatusCode::FORBIDDEN, said)) }
    }

    fn check(&self, note: &Note) -> Answered<()> {
        self.check_writes()?;
        note.check().map_err(Refused::bad)
    }
}

impl Note {
    /// That it is not longer than a note may be.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        if self.label.len() > LABEL || self.text.len() > TEXT {
            return Err(format!("a label has up to {LABEL} bytes and a text up to {TEXT}; shorten it"));
        }
        Ok(())
    }
}

fn note(row: &Row) -> rusqlite::Result<Note> {
    Ok(Note {
        sae: row.get(0)?,
        direction: row.get::<_, i64>(1)?.try_into().unwrap_or(usize::MAX),
        label: row.get(2)?,
        text: row.get(3)?,
        starred: row.get(4)?,
        version: row.get(5)?,
        changed: row.get(6)?,
    })
}

fn find(file: &Connection, sae: &str, direction: usize) -> rusqlite::Result<Option<Note>> {
    let mut query = file.prepare_cached(
        "SELECT sae, direction, label, text, starred, version, changed FROM notes WHERE sae = ?1 AND direction = ?2",
    )?;
    query.query_row(params![sae, direction as i64], note).optional()
}

fn insert(file: &Connection, note: &Note) -> rusqlite::Result<()> {
    let Note { sae, direction, label, text, starred, version, .. } = note;
    file.execute(
        "INSERT OR REPLACE INTO notes VALUES (?1, ?2, ?3, ?4, ?5, ?6, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))",
        params![sae, *direction as i64, label, text, starred, version],
    )?;
    Ok(())
}

fn failed(error: &rusqlite::Error) -> Refused {
    let said = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => {
            "the disk is full, so the note was not written; make room and save it again".into()
        }
        Some(rusqlite::ErrorCode::DatabaseBusy) => {
            "another program is writing the notes; save it again in a moment".into()
        }
        _ => format!("the file of notes cannot be used: {error}"),
    };
    Refused::new(StatusCode::INSUFFICIENT_STORAGE, said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_loses_nothing_that_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::open(&folder.path().join("notes.sqlite"), true).unwrap();
        let note = |direction: usize, text: String| {
            let (label, changed) = (String::new(), String::new());
            Note { sae: "sae".into(), direction, label, text, starred: false, version: 0, changed }
        };
        notes.put(note(1, "first".into())).unwrap();
        lock(&notes.file).pragma_update(None, "max_page_count", 4).unwrap();
        let refused = notes.put(note(2, "x".repeat(TEXT))).unwrap_err();
        assert!(refused.status == StatusCode::INSUFFICIENT_STORAGE && refused.sentence.contains("disk is full"));
        let import: Vec<Note> = (3..9).map(|direction| note(direction, "y".repeat(5000))).collect();
        assert!(notes.import(&import).is_err());
        assert_eq!(notes.all().unwrap().len(), 1);
        notes.put(note(4, "small".into())).unwrap();
    }
}
