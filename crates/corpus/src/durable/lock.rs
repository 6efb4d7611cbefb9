//! One writer at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::folder::{finish_replacing, parked, place_of};
use super::{At, beside};
use crate::{Error, Result};

/// The right to write an output: a lock on `OUT.lock`, given up when dropped and when the process ends in whatever way.
///
/// Who takes it removes what a killed process left unfinished of the file `out`; of a folder, [`clean`](Lock::clean) does.
///
/// A file system without locks gives none, and then nothing keeps two processes apart.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock of the file or folder `out`, which need not be there yet.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process has it, [`Error::Write`] if nothing can be made beside `out`.
    pub fn take(out: &Path) -> Result<Lock> {
        let path = lock_file(out).writing(out)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).writing(out)?;
        }
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).writing(out)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: out.into() }),
                Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Unsupported => {
                    return Err(Error::Write { path: out.into(), error });
                }
                _ if is_there(&file, &path) => {
                    beside::clean_of(out)?;
                    return Ok(Lock { path, file });
                }
                // Whoever had it removed the file between our opening and locking it.
                _ => {}
            }
        }
    }

    /// Removes what killed processes left unfinished directly in `folder`, which must be of the output, and directly in its
    /// folders; those that have a lock or a `.partial` of their own are left to whoever takes these.
    ///
    /// # Errors
    /// If a folder cannot be read, or a file not be removed.
    pub fn clean(&self, folder: &Path) -> Result<()> {
        beside::clean(folder)?;
        let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
        for inside in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            let has = |ending: &str| lock_file(&inside).is_ok_and(|lock| lock.with_extension(ending).exists());
            let is_partial = inside.extension().is_some_and(|extension| extension == "partial");
            if !is_partial && !has("lock") && !has("partial") {
                beside::clean(&inside)?;
            }
        }
        Ok(())
    }
}

/// Removes what a process that was killed at its very end left beside a finished `folder`: its lock, and the folder whose place this one has
/// taken. Nothing while another process writes there; where nothing can be removed, it stays.
pub fn tidy(folder: &Path) {
    let Ok(place) = place_of(folder) else { return };
    let is_left = parked(&place).exists() || lock_file(&place).is_ok_and(|lock| lock.exists());
    if is_left && let Ok(_lock) = Lock::take(&place) {
        drop(finish_replacing(None, &place));
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held: who opened it meanwhile finds that it is no longer there. What has bytes is somebody else's file.
        if cfg!(unix) && self.file.metadata().is_ok_and(|file| file.len() == 0) {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// The lock's place, the same for every spelling of `out`.
fn lock_file(out: &Path) -> std::io::Result<PathBuf> {
    let whole = fs::canonicalize(out).or_else(|_| std::path::absolute(out))?;
    let name = whole.file_name().ok_or(ErrorKind::IsADirectory)?;
    let mut name = name.to_owned();
    name.push(".lock");
    Ok(whole.with_file_name(name))
}

/// Whether a file that was opened is the one that stands at `path`.
#[cfg(unix)]
pub(super) fn is_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(opened), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (there.dev(), there.ino())
}

#[cfg(not(unix))]
pub(super) fn is_there(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_lock_is_held_once_and_given_up_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("made/index");
        let lock = Lock::take(&out).unwrap();
        let error = Lock::take(&folder.path().join("made/../made/index")).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        assert!(error.to_string().contains("is being written by another process"));
        drop(Lock::take(&folder.path().join("made/other")).unwrap());
        drop(lock);
        drop(Lock::take(&out).unwrap());
        assert_eq!(fs::read_dir(folder.path().join("made")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_of_the_same_name_that_is_no_lock_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poetry.lock");
        fs::write(&path, "content-hash").unwrap();
        drop(Lock::take(&folder.path().join("poetry")).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"content-hash");
    }

    #[test]
    fn of_many_at_once_one_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let (inside, taken) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let Ok(_lock) = Lock::take(&out) else { continue };
                        assert!(!inside.swap(true, Ordering::SeqCst), "two have it");
                        taken.fetch_add(1, Ordering::Relaxed);
                        inside.store(false, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }

    #[test]
    fn what_killed_processes_left_of_an_output_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["out/tables", "out/index.partial", "out/busy"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let own = ["out/.report.html.7-0.partial", "out/tables/.a.csv.7-1.partial", ".file.bin.7-0.partial"];
        let of_others = [
            "out/index.partial/.a.7-0.partial",
            "out/busy/.a.7-0.partial",
            "out/busy.lock",
            ".file.7-0.partial",
            ".files.bin.7-0.partial",
        ];
        for name in own.iter().chain(&of_others) {
            fs::write(at(name), b"").unwrap();
        }
        let lock = Lock::take(&at("out")).unwrap();
        lock.clean(&at("out")).unwrap();
        drop(Lock::take(&at("file.bin")).unwrap());
        assert!(own.iter().all(|name| !at(name).exists()));
        assert!(of_others.iter().all(|name| at(name).exists()));
    }

    #[test]
    fn what_was_left_beside_a_finished_folder_is_removed_unless_somebody_writes_it() {
        let disk = tempfile::tempdir().unwrap();
        let at = |name: &str| disk.path().join(name);
        for folder in ["out", ".out.old"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::write(at("out/file"), "").unwrap();
        let lock = Lock::take(&at("out")).unwrap();
        tidy(&at("out"));
        assert!(at(".out.old").exists() && at("out.lock").exists());
        drop(lock);
        fs::write(at("out.lock"), "").unwrap();
        tidy(&at("out/"));
        assert!(at("out/file").exists());
        assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = Lock::take(&file.join("below")).unwrap_err();
        assert!(error.to_string().contains("file/below"), "{error}");
        assert!(Lock::take(Path::new("/")).is_err());
    }
}
