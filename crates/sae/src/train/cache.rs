//! Activations kept on disk, so that the model runs once over the windows of a corpus however often they are trained on.

use std::path::{Path, PathBuf};

use bytemuck::cast_slice;
use directrix_corpus::durable::{Journal, Lock, read_json, write_json};
use directrix_kernels::Matrix;
use directrix_model::HookPoint;
use serde_json::{Value, json};

use super::checkpoint::damaged;
use super::over::{Over, numbers};
use crate::{Error, Result};

/// The file of the journal.
const WINDOWS: &str = "windows.f32";

/// A folder with what the activations are of (`cache.json`) and a journal of windows, each with its rows at one hook point
/// after another. Windows that a killed run left unfinished are made again.
///
/// Of several ranks, the first one has the files and gives the others what it reads.
pub(super) struct Cache<'a> {
    path: PathBuf,
    widths: Vec<usize>,
    held: u64,
    files: Option<(Journal<f32>, Lock)>,
    over: Over<'a>,
}

impl<'a> Cache<'a> {
    /// Opens or makes a cache. `identity` says what the windows and activations are of.
    ///
    /// # Errors
    /// If the folder holds a cache of something else, another process uses it, or it cannot be read or written.
    pub(super) fn open(
        folder: &Path,
        hooks: &[(HookPoint, usize)],
        identity: &Value,
        over: Over<'a>,
    ) -> Result<Cache<'a>> {
        let files = if over.leads() { Some(Cache::files(folder, hooks, identity)?) } else { None };
        let held = files.as_ref().map(|(windows, _)| windows.len().to_le_bytes().to_vec()).unwrap_or_default();
        let held = numbers::<u64>(0, &over.gather(held)?[0], 1)?[0];
        let path = folder.join(WINDOWS);
        Ok(Cache { path, widths: hooks.iter().map(|(_, width)| *width).collect(), held, files, over })
    }

    fn files(folder: &Path, hooks: &[(HookPoint, usize)], identity: &Value) -> Result<(Journal<f32>, Lock)> {
        let lock = Lock::take(folder)?;
        lock.clean(folder)?;
        let names: Vec<String> = hooks.iter().map(|(hook, _)| hook.to_string()).collect();
        let identity = json!({ "format": "directrix activations 2", "hooks": names, "of": identity });
        let (about, path) = (folder.join("cache.json"), folder.join(WINDOWS));
        let windows = if !about.exists() {
            let windows = Journal::create(&path)?;
            write_json(&about, &identity)?;
            windows
        } else if read_json::<Value>(&about)? == identity {
            Journal::open(&path)?
        } else {
            let problem = "these activations are of another model, corpus, context or site; name another --cache";
            return Err(Error::Stored { path: folder.into(), problem: problem.into() });
        };
        Ok((windows, lock))
    }

    /// Number of windows held.
    pub(super) fn windows(&self) -> u64 {
        self.held
    }

    /// The rows of window `number`, which has so many, at each hook point.
    ///
    /// # Errors
    /// If they are not as they were written.
    pub(super) fn read(&mut self, number: u64, rows: usize) -> Result<Vec<Matrix>> {
        let expected = rows * self.widths.iter().sum::<usize>();
        let mut values = Vec::new();
        if let Some((windows, _)) = &mut self.files {
            values = windows.read(number)?;
            if values.len() != expected {
                let problem = format!("window {number} has {} numbers, expected {expected}", values.len());
                return Err(damaged(&self.path, problem));
            }
        }
        if self.over.size() > 1 {
            values = numbers(0, &self.over.gather(cast_slice(&values).to_vec())?[0], expected)?;
        }
        let last = |width: &usize| Matrix::new(values.split_off(values.len() - rows * width), rows, *width);
        let mut found: Vec<Matrix> = self.widths.iter().rev().map(last).collect();
        found.reverse();
        Ok(found)
    }

    /// Appends a window's rows at each hook point.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn append(&mut self, rows: &[Matrix]) -> Result<()> {
        self.held += 1;
        let Some((windows, _)) = &mut self.files else { return Ok(()) };
        let parts: Vec<&[f32]> = rows.iter().map(Matrix::data).collect();
        Ok(windows.append(&parts)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_as_written_also_after_an_interruption() {
        let folder = tempfile::tempdir().unwrap();
        let hooks = [("blocks.0.mlp.hook_post".parse().unwrap(), 2), ("blocks.0.hook_resid_post".parse().unwrap(), 1)];
        let identity = json!({ "model": "a" });
        let open = || Cache::open(folder.path(), &hooks, &identity, Over::One);
        let window =
            |x: f32, rows: usize| vec![Matrix::new(vec![x; rows * 2], rows, 2), Matrix::new(vec![-x; rows], rows, 1)];
        let mut cache = open().unwrap();
        cache.append(&window(1.0, 3)).unwrap();
        cache.append(&window(2.0, 5)).unwrap();
        assert!(open().err().unwrap().to_string().contains("is being written by another process"));
        drop(cache);
        let mut cache = open().unwrap();
        assert_eq!((cache.windows(), cache.read(1, 5).unwrap()), (2, window(2.0, 5)));
        assert!(cache.read(1, 4).unwrap_err().to_string().contains("window 1 has 15 numbers, expected 12"));
        drop(cache);
        let path = folder.path().join("windows.f32");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let mut cache = open().unwrap();
        assert_eq!(cache.windows(), 1, "the second window is not whole");
        cache.append(&window(3.0, 4)).unwrap();
        assert_eq!(cache.read(1, 4).unwrap(), window(3.0, 4));
        drop(cache);
        assert!(Cache::open(folder.path(), &hooks, &json!({ "model": "b" }), Over::One).is_err());
        // What it is of is no longer known, so it is not used.
        std::fs::remove_file(folder.path().join("cache.json")).unwrap();
        assert_eq!(open().unwrap().windows(), 0);
    }
}
