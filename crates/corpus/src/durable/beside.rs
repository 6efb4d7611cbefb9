//! Files written beside their place and renamed into it.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{At, damaged};
use crate::{Error, Result};

/// What the names of unfinished files end in; they begin with a dot.
pub(super) const UNFINISHED: &str = ".partial";

/// A file being written beside its place. Dropped before [`commit`](Beside::commit), it is removed.
#[derive(Debug)]
pub struct Beside {
    /// Where it will stand.
    place: PathBuf,
    /// Where it is until then.
    path: PathBuf,
    file: File,
}

impl Beside {
    /// Begins a file that will stand at `path`. Its folder is made if need be.
    ///
    /// # Errors
    /// [`Error::Write`] if the folder or the file cannot be made, or a folder stands at `path`.
    pub fn create(path: &Path) -> Result<Beside> {
        static FILES: AtomicU64 = AtomicU64::new(0);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).writing(path)?;
        }
        let name = path.file_name().filter(|_| !path.is_dir());
        let name = name.ok_or(ErrorKind::IsADirectory.into()).writing(path)?.to_string_lossy();
        loop {
            let number = FILES.fetch_add(1, Ordering::Relaxed);
            let beside = path.with_file_name(format!(".{name}.{}-{number}{UNFINISHED}", process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&beside) {
                Ok(file) => return Ok(Beside { place: path.into(), path: beside, file }),
                // One that a process of the same number left.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::Write { path: path.into(), error }),
            }
        }
    }

    /// Where the bytes are until the file is committed, for writers that want a path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes so far, to be read and written.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Writes `bytes` from byte `at` of the file on.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytes)).writing(&self.place)
    }

    /// Waits until the disk has the bytes, so that a power failure after [`commit`](Beside::commit) finds them whole.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().writing(&self.place)
    }

    /// Renames the file into its place.
    ///
    /// # Errors
    /// [`Error::Write`]; what stood there before is still there then.
    pub fn commit(self) -> Result<()> {
        self.commit_at(&self.place)
    }

    /// The same, into another place of its folder: that of a file whose name is known when it is written.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn commit_at(&self, place: &Path) -> Result<()> {
        fs::rename(&self.path, place).writing(place)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // After `commit` nothing is left there; and that a useless file cannot be removed adds nothing to an error.
        drop(fs::remove_file(&self.path));
    }
}

/// Writes `bytes` beside `path` and renames them into place. The folder is made if need be.
///
/// # Errors
/// [`Error::Write`]; what stood at `path` before is still there then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Beside::create(path)?;
    file.write_at(0, bytes)?;
    file.commit()
}

/// Removes what killed processes left unfinished directly in `folder`.
pub(super) fn clean(folder: &Path) -> Result<()> {
    remove(folder, |name| name.starts_with('.') && name.ends_with(UNFINISHED))
}

/// Removes what killed processes left unfinished of the file at `path`.
pub(super) fn clean_of(path: &Path) -> Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    remove(folder, |left| is_unfinished(left, &name.to_string_lossy()))
}

/// Whether a file called `left` is what a killed process left unfinished of the file `name`.
pub(super) fn is_unfinished(left: &str, name: &str) -> bool {
    let number = left.strip_prefix(&format!(".{name}.")).and_then(|rest| rest.strip_suffix(UNFINISHED));
    number.is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
}

fn remove(folder: &Path, unfinished: impl Fn(&str) -> bool) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.reading(folder)?,
    };
    for entry in entries {
        let entry = entry.reading(folder)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if unfinished(name) {
            fs::remove_file(entry.path()).map_err(|e| damaged(&entry.path(), format!("it cannot be removed ({e})")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_whole_and_nothing_is_left_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/file.txt");
        write(&path, b"old").unwrap();
        let mut second = Beside::create(&path).unwrap();
        second.write_at(0, b"newer").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, b"new").unwrap();
        second.sync().unwrap();
        second.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        drop(Beside::create(&path).unwrap());
        assert_eq!(names(path.parent().unwrap()), ["file.txt"]);
    }

    #[test]
    fn errors_name_the_path_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"").unwrap();
        fs::create_dir(folder.path().join("taken.csv")).unwrap();
        for name in ["file/x.csv", "taken.csv", ".."] {
            let error = write(&folder.path().join(name), b"").unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(names(folder.path()), ["file", "taken.csv"]);
    }

    #[test]
    fn what_killed_processes_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".a.json.12-0.partial", ".hidden", "b.partial"] {
            fs::write(folder.path().join(name), b"").unwrap();
        }
        clean(folder.path()).unwrap();
        clean(&folder.path().join("none")).unwrap();
        assert_eq!(names(folder.path()), [".hidden", "b.partial"]);
    }
}
