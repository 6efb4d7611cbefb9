//! Folders of model and SAE files, on disk or embedded in the binary.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::error::{Error, Result, listing};

/// One file embedded in the binary.
struct Shipped {
    folder: &'static str,
    file: &'static str,
    bytes: &'static [u8],
}

macro_rules! shipped {
    ($($folder:literal: $($file:literal),+;)+) => {
        &[$($(Shipped {
            folder: $folder,
            file: $file,
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/", $folder, "/", $file)),
        }),+),+]
    };
}

/// Sorted by folder and file.
static SHIPPED: &[Shipped] = shipped! {
    "tinystories-2l": "config.json", "model.safetensors", "stories.txt", "tokenizer.json", "tokenizer_config.json";
    "tinystories-2l/sae-l0": "cfg.json", "sae_weights.safetensors";
    "tinystories-2l/sae-l1": "cfg.json", "sae_weights.safetensors";
};

/// The embedded file of a shipped folder.
pub(crate) fn shipped_file(folder: &str, file: &str) -> Option<&'static [u8]> {
    SHIPPED.iter().find(|shipped| shipped.folder == folder && shipped.file == file).map(|shipped| shipped.bytes)
}

/// A folder of files, on disk or embedded in the binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Folder {
    /// A folder on disk.
    Disk(PathBuf),
    /// A shipped folder, named by its path below `assets/`, such as `tinystories-2l/sae-l0`.
    Shipped(&'static str),
}

impl Folder {
    /// Finds a folder by its path on disk or, where nothing has that path, by its shipped name: `tinystories-2l`,
    /// `tinystories-2l/sae-l0` or `tinystories-2l/sae-l1`.
    ///
    /// # Errors
    /// [`Error::NoFolder`] if there is neither, [`Error::NotAFolder`] if the path is a file.
    pub fn find(name: &str) -> Result<Folder> {
        let path = PathBuf::from(name);
        if path.is_dir() {
            return Ok(Folder::Disk(path));
        }
        if path.exists() {
            return Err(Error::NotAFolder { path });
        }
        let wanted = name.trim_end_matches('/');
        match SHIPPED.iter().find(|shipped| shipped.folder == wanted) {
            Some(shipped) => Ok(Folder::Shipped(shipped.folder)),
            None => Err(Error::NoFolder { name: name.into(), shipped: listing(shipped_folders()) }),
        }
    }

    /// Reads a file of the folder; a shipped file is borrowed.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if the folder has no such file, [`Error::Io`] if it cannot be read.
    pub fn read(&self, file: &str) -> Result<Cow<'static, [u8]>> {
        match self.read_optional(file)? {
            Some(bytes) => Ok(bytes),
            None => Err(Error::MissingFile { path: self.describe(file), found: listing(self.names()?) }),
        }
    }

    /// Reads a file of the folder that may be absent; a shipped file is borrowed.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is there and cannot be read.
    pub fn read_optional(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>> {
        match self {
            Folder::Shipped(folder) => Ok(shipped_file(folder, file).map(Cow::Borrowed)),
            Folder::Disk(path) => match fs::read(path.join(file)) {
                Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::Io { path: self.describe(file), error }),
            },
        }
    }

    /// The names of the files directly inside, sorted. Folders inside are left out.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = match self {
            Folder::Shipped(folder) => {
                SHIPPED.iter().filter(|shipped| shipped.folder == *folder).map(|shipped| shipped.file.into()).collect()
            }
            Folder::Disk(path) => {
                let failed = |error| Error::Io { path: self.to_string(), error };
                let mut names = Vec::new();
                for entry in fs::read_dir(path).map_err(failed)? {
                    let entry = entry.map_err(failed)?;
                    // Not `DirEntry::file_type`: a model folder of the hub's cache holds links to its files.
                    if entry.path().is_file() {
                        names.push(entry.file_name().to_string_lossy().into_owned());
                    }
                }
                names
            }
        };
        names.sort_unstable();
        Ok(names)
    }

    /// The path of a file in the folder, for messages.
    pub fn describe(&self, file: &str) -> String {
        match self {
            Folder::Disk(path) => path.join(file).display().to_string(),
            Folder::Shipped(folder) => format!("{folder}/{file}"),
        }
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Folder::Disk(path) => path.display().fmt(formatter),
            Folder::Shipped(folder) => formatter.write_str(folder),
        }
    }
}

fn shipped_folders() -> Vec<&'static str> {
    let mut folders: Vec<_> = SHIPPED.iter().map(|shipped| shipped.folder).collect();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::fs;

    use super::{Folder, shipped_folders};
    use crate::Error;

    #[test]
    fn a_shipped_folder_is_found_and_its_files_are_borrowed() {
        let model = Folder::find("tinystories-2l").unwrap();
        assert_eq!(model, Folder::Shipped("tinystories-2l"));
        assert_eq!(model.names().unwrap().len(), 5);
        let config = model.read("config.json").unwrap();
        assert!(matches!(config, Cow::Borrowed(_)) && config.starts_with(b"{"));
        assert!(model.read_optional("train_lm.py").unwrap().is_none());

        let sae = Folder::find("tinystories-2l/sae-l1/").unwrap();
        assert_eq!(sae.names().unwrap(), ["cfg.json", "sae_weights.safetensors"]);
        assert_eq!(sae.describe("cfg.json"), "tinystories-2l/sae-l1/cfg.json");
        assert_eq!(shipped_folders(), ["tinystories-2l", "tinystories-2l/sae-l0", "tinystories-2l/sae-l1"]);
    }

    #[test]
    fn a_folder_on_disk_lists_and_reads_its_files() {
        let disk = tempfile::tempdir().unwrap();
        fs::write(disk.path().join("b.json"), "b").unwrap();
        fs::write(disk.path().join("a.json"), "a").unwrap();
        fs::create_dir(disk.path().join("inside")).unwrap();
        let folder = Folder::find(disk.path().to_str().unwrap()).unwrap();
        assert_eq!(folder.names().unwrap(), ["a.json", "b.json"]);
        assert_eq!(&*folder.read("a.json").unwrap(), b"a");
        assert_eq!(folder.read_optional("c.json").unwrap(), None);
        let error = folder.read("c.json").unwrap_err();
        assert!(matches!(&error, Error::MissingFile { .. }));
        assert!(error.to_string().contains("c.json` is missing; the folder holds: `a.json`, `b.json`"), "{error}");
        assert!(matches!(folder.read_optional("inside"), Err(Error::Io { .. })));
    }

    #[test]
    fn a_name_that_is_no_folder_is_an_error_that_lists_the_shipped_ones() {
        let error = Folder::find("no/such/folder").unwrap_err().to_string();
        assert!(error.contains("`no/such/folder`") && error.contains("`tinystories-2l/sae-l0`"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Folder::find(file.path().to_str().unwrap()), Err(Error::NotAFolder { .. })));
    }
}
