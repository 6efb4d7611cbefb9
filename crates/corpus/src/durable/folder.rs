//! A folder put where another one stands.
//!
//! The old folder is renamed away, the new one renamed into its place, the old one removed. Killed between the two renames,
//! the old folder waits under `.NAME.old`; [`finish_replacing`] then does the rest.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::At;
use super::beside::is_unfinished;
use crate::{Error, Result};

/// Where a folder is put as a whole, however it is spelled: without a slash at its end, and where a link points.
///
/// # Errors
/// [`Error::NoName`] for `.`, `..` and `/`; [`Error::Io`] for a link that points nowhere.
pub fn place_of(folder: &Path) -> Result<PathBuf> {
    let Some(name) = folder.file_name() else { return Err(Error::NoName { path: folder.into() }) };
    let place = folder.with_file_name(name);
    if place.is_symlink() { fs::canonicalize(&place).reading(&place) } else { Ok(place) }
}

/// The place beside that of a folder, whose name has `ending` more.
///
/// # Errors
/// As [`place_of`].
pub fn beside(folder: &Path, ending: &str) -> Result<PathBuf> {
    let mut name = place_of(folder)?.into_os_string();
    name.push(ending);
    Ok(name.into())
}

/// Puts the folder `new` at `path`, its [place](place_of), and removes what stood there.
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

/// Removes the folder at `path`, if there is one. It is renamed to `.NAME.old` first, so that a process killed meanwhile leaves
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

/// Under a name that nobody gives a folder of his own.
pub(super) fn parked(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.old"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_place_however_it_is_spelled() {
        for spelled in ["out/index", "out/index/", "out/index//", "out/index/."] {
            assert_eq!(place_of(Path::new(spelled)).unwrap().as_os_str(), "out/index");
            assert_eq!(beside(Path::new(spelled), ".partial").unwrap().as_os_str(), "out/index.partial");
        }
        for spelled in [".", "..", "/", "", "out/.."] {
            let error = place_of(Path::new(spelled)).unwrap_err();
            assert!(matches!(error, Error::NoName { .. }), "{spelled}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_folder_stays_and_what_it_points_to_is_replaced() {
        let disk = tempfile::tempdir().unwrap();
        let at = |name: &str| disk.path().join(name);
        for folder in ["large", "large/there"] {
            fs::create_dir(at(folder)).unwrap();
        }
        std::os::unix::fs::symlink(at("large/there"), at("link")).unwrap();
        let (place, partial) = (place_of(&at("link/")).unwrap(), beside(&at("link"), ".partial").unwrap());
        assert!(partial.ends_with("large/there.partial"), "{}", partial.display());
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("file"), "new").unwrap();
        replace_folder(&partial, &place).unwrap();
        assert_eq!(fs::read(at("link/file")).unwrap(), b"new");
        assert!(at("link").is_symlink());
        assert_eq!(fs::read_dir(at("large")).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_half_removed_is_out_of_the_way_and_goes_with_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (at, old) = (folder.path().join("index.partial"), folder.path().join(".index.partial.old"));
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
        // What stands at `path`, `new` and `.NAME.old` when the process is killed, and what must stand at `path` afterwards.
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
            make(".index.old", old);
            finish_replacing(beside.exists().then_some(&beside), &at).unwrap();
            assert_eq!(fs::read_to_string(at.join("which")).unwrap(), after);
            assert!(!folder.path().join(".index.old").exists());
            if beside.exists() {
                replace_folder(&beside, &at).unwrap();
                assert_eq!(fs::read_to_string(at.join("which")).unwrap(), "new");
            }
            assert!(!folder.path().join(".index.old").exists());
        }
    }
}
