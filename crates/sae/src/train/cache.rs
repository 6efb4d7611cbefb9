//! Activations kept on disk, so that the model runs once over the windows of a corpus however often they are trained on.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use directrix_kernels::Matrix;
use directrix_model::HookPoint;
use serde_json::{Value, json};

use crate::{Error, Result};

/// A folder with a file of `f32` rows for each hook point, window after window, and one of the windows' lengths.
pub(super) struct Cache {
    hooks: Vec<Stored>,
    lengths: Stored,
    /// Where each window's rows begin, and where the last one's end.
    offsets: Vec<u64>,
}

struct Stored {
    path: PathBuf,
    file: File,
    width: usize,
}

impl Cache {
    /// Opens or makes a cache. `identity` says what the windows and activations are of.
    ///
    /// # Errors
    /// If the folder holds a cache of something else, or cannot be read or written.
    pub(super) fn open(folder: &Path, hooks: &[(HookPoint, usize)], identity: &Value) -> Result<Cache> {
        std::fs::create_dir_all(folder).map_err(io("write", folder))?;
        let names: Vec<String> = hooks.iter().map(|(hook, _)| hook.to_string()).collect();
        let identity = json!({ "format": "directrix activations 1", "hooks": names, "of": identity });
        let about = folder.join("cache.json");
        match std::fs::read(&about) {
            Ok(bytes) if serde_json::from_slice::<Value>(&bytes).is_ok_and(|found| found == identity) => {}
            Ok(_) => {
                let problem = "these activations are of another model, corpus, context or site; name another --cache";
                return Err(Error::Stored { path: folder.into(), problem: problem.into() });
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                std::fs::write(&about, format!("{identity:#}\n")).map_err(io("write", &about))?;
            }
            Err(e) => return Err(io("read", &about)(e)),
        }
        let mut stored = Vec::new();
        for ((_, width), name) in hooks.iter().zip(&names) {
            stored.push(Stored::open(folder.join(format!("{name}.f32")), *width)?);
        }
        let mut cache =
            Cache { hooks: stored, lengths: Stored::open(folder.join("lengths.u32"), 1)?, offsets: vec![0] };
        let lengths = cache.lengths.read(0, cache.lengths.rows()?)?;
        // An interrupted run may have left rows of some hook points and not of others.
        let mut whole = u64::MAX;
        for stored in &cache.hooks {
            whole = whole.min(stored.rows()?);
        }
        for bytes in lengths.as_chunks::<4>().0 {
            let end = cache.offsets[cache.offsets.len() - 1] + u32::from_le_bytes(*bytes) as u64;
            if end > whole {
                break;
            }
            cache.offsets.push(end);
        }
        Ok(cache)
    }

    /// Number of windows held.
    pub(super) fn windows(&self) -> u64 {
        self.offsets.len() as u64 - 1
    }

    /// The rows of window `number` at each hook point.
    pub(super) fn read(&mut self, number: u64) -> Result<Vec<Matrix>> {
        let (start, end) = (self.offsets[number as usize], self.offsets[number as usize + 1]);
        let rows = (end - start) as usize;
        let read = |stored: &mut Stored| {
            let bytes = stored.read(start, end - start)?;
            let numbers = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Ok(Matrix::new(numbers, rows, stored.width))
        };
        self.hooks.iter_mut().map(read).collect()
    }

    /// Appends a window's rows at each hook point.
    pub(super) fn append(&mut self, rows: &[Matrix]) -> Result<()> {
        let start = self.offsets[self.offsets.len() - 1];
        for (stored, rows) in self.hooks.iter_mut().zip(rows) {
            stored.write(start, bytemuck::cast_slice(rows.data()))?;
        }
        let length = rows.first().map_or(0, Matrix::rows);
        self.lengths.write(self.offsets.len() as u64 - 1, &(length as u32).to_le_bytes())?;
        self.offsets.push(start + length as u64);
        Ok(())
    }
}

impl Stored {
    fn open(path: PathBuf, width: usize) -> Result<Stored> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(io("write", &path))?;
        Ok(Stored { path, file, width })
    }

    fn rows(&self) -> Result<u64> {
        let bytes = self.file.metadata().map_err(io("read", &self.path))?.len();
        Ok(bytes / (4 * self.width as u64))
    }

    fn read(&mut self, first: u64, rows: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; rows as usize * self.width * 4];
        let place = SeekFrom::Start(first * self.width as u64 * 4);
        let read = self.file.seek(place).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(io("read", &self.path))?;
        Ok(bytes)
    }

    fn write(&mut self, first: u64, bytes: &[u8]) -> Result<()> {
        let place = SeekFrom::Start(first * self.width as u64 * 4);
        self.file.seek(place).and_then(|_| self.file.write_all(bytes)).map_err(io("write", &self.path))
    }
}

/// An error of a file, with what was done to it.
pub(super) fn io(doing: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_as_written_also_after_an_interruption() {
        let folder = tempfile::tempdir().unwrap();
        let hooks = [("blocks.0.mlp.hook_post".parse().unwrap(), 2), ("blocks.0.hook_resid_post".parse().unwrap(), 1)];
        let identity = json!({ "model": "a" });
        let window =
            |x: f32, rows: usize| vec![Matrix::new(vec![x; rows * 2], rows, 2), Matrix::new(vec![-x; rows], rows, 1)];
        let mut cache = Cache::open(folder.path(), &hooks, &identity).unwrap();
        cache.append(&window(1.0, 3)).unwrap();
        cache.append(&window(2.0, 5)).unwrap();
        drop(cache);
        let mut cache = Cache::open(folder.path(), &hooks, &identity).unwrap();
        assert_eq!((cache.windows(), cache.read(1).unwrap()), (2, window(2.0, 5)));
        drop(cache);
        let file = OpenOptions::new().write(true).open(folder.path().join("blocks.0.hook_resid_post.f32")).unwrap();
        file.set_len(4 * 7).unwrap();
        let mut cache = Cache::open(folder.path(), &hooks, &identity).unwrap();
        assert_eq!(cache.windows(), 1, "the second window is not whole");
        cache.append(&window(3.0, 4)).unwrap();
        assert_eq!(cache.read(1).unwrap(), window(3.0, 4));
        assert!(Cache::open(folder.path(), &hooks, &json!({ "model": "b" })).is_err());
    }
}
