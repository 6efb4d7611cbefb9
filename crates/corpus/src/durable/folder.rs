//! A folder put where another one stands.
//!
//! The old folder is renamed away, the new one renamed into its place, the old one removed. Killed between the two renames,
//! the old folder waits under `NAME.old`; [`finish_replacing`] then does the rest.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::At;
use super::beside::is_unfinished;
use crate::Result;

/// Puts the folder `new` at `path`, and removes what stood there.
///
/// # Errors
/// [`Error::Write`](crate::Error::Write); the old folder is then at `path` or beside it.
pub fn replace_folder(new: &Path, path: &Path) -> Result<()> {
    let old = parked(path);
    if path.exists() {
        fs::rename(path, &old).writing(path)?;
    }
    if let Err(error) = fs::rename(new, path) {
        if old.exists() {
            fs::rename(&old, path).writing(path)?;
        }
        return Err(error).writing(path);
    }
    remove(&old)
}

/// Ends a replacing that was killed: if the old folder had been renamed away, `path` is afterwards `new`, or the old folder again
/// where there is no new one; and nothing is left beside it.
///
/// # Errors
/// [`Error::Write`](crate::Error::Write).
pub fn finish_replacing(new: Option<&Path>, path: &Path) -> Result<()> {
    let old = parked(path);
    if old.exists() && !path.exists() {
        fs::rename(new.unwrap_or(&old), path).writing(path)?;
    }
    remove(&old)
}

/// Removes the folder at `path`, if there is one. It is renamed to `NAME.old` first, so that a process killed meanwhile leaves
/// nothing half removed at `path`; what one left there is removed too.
///
/// # Errors
/// [`Error::Write`](crate::Error::Write).
pub fn remove_folder(path: &Path) -> Result<()> {
    let old = parked(path);
    remove(&old)?;
    match fs::rename(path, &old) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        renamed => renamed.writing(path).and_then(|()| remove(&old)),
    }
}

/// Whether the folder holds nothing, or nothing but its first file, `name`, as a killed process left it unfinished.
pub fn is_begun(folder: &Path, name: &str) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().all(|entry| entry.file_name().to_str().is_some_and(|left| is_unfinished(left, name)))
    })
}

fn remove(old: &Path) -> Result<()> {
    if old.exists() { fs::remove_dir_all(old).writing(old) } else { Ok(()) }
}

fn parked(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_half_removed_is_out_of_the_way_and_goes_with_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (at, old) = (folder.path().join("index.partial"), folder.path().join("index.partial.old"));
        let make = |folder: &Path| {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("part"), "").unwrap();
        };
        make(&at);
        make(&old);
        remove_folder(&at).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        make(&old);
        remove_folder(&at).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_with_a_file_of_anyone_else_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let begun = || is_begun(folder.path(), "about.json");
        assert!(begun());
        fs::write(folder.path().join(".about.json.7-0.partial"), "").unwrap();
        assert!(begun());
        fs::write(folder.path().join("thesis.tex"), "").unwrap();
        assert!(!begun() && !is_begun(&folder.path().join("thesis.tex"), "about.json"));
    }

    #[test]
    fn killed_at_any_moment_the_old_or_the_new_folder_is_there() {
        // What stands at `path`, `new` and `NAME.old` when the process is killed, and what must stand at `path` afterwards.
        for (path, new, old, after) in [
            (Some("old"), Some("new"), None, "old"),
            (None, Some("new"), Some("old"), "new"),
            (Some("new"), None, Some("old"), "new"),
            (None, None, Some("old"), "old"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let make = |name: &str, content: Option<&str>| {
                let at = folder.path().join(name);
                if let Some(content) = content {
                    fs::create_dir(&at).unwrap();
                    fs::write(at.join("which"), content).unwrap();
                }
                at
            };
            let (at, beside) = (make("index", path), make("index.partial", new));
            make("index.old", old);
            finish_replacing(beside.exists().then_some(&beside), &at).unwrap();
            assert_eq!(fs::read_to_string(at.join("which")).unwrap(), after);
            assert!(!folder.path().join("index.old").exists());
            if beside.exists() {
                replace_folder(&beside, &at).unwrap();
                assert_eq!(fs::read_to_string(at.join("which")).unwrap(), "new");
            }
            assert!(!folder.path().join("index.old").exists());
        }
    }
}
