//! Folders of checkpoint files, on disk or in memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use directrix_corpus::durable::Map;
use directrix_corpus::{Tokenizer, TokenizerFiles, hexadecimal};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{Error, Result, llama2c};

/// Bytes of a file that are hashed by one thread.
const PIECE: usize = 1 << 24;

/// A folder of model or SAE files, on disk or in memory.
///
/// It keeps what is read from it, so that no file is read twice and its [hash](Folder::hash) is of the very bytes that
/// were loaded. Clones share what was read; memory is free again when the last one is dropped.
///
/// ```
/// use directrix_model::Folder;
///
/// let folder = Folder::open("../../assets/tinystories-2l")?;
/// assert!(folder.names()?.contains(&"config.json".into()));
/// assert!(folder.read("config.json")?.starts_with(b"{"));
/// assert_eq!(folder.hash().len(), 64);
/// # Ok::<(), directrix_model::Error>(())
/// ```
#[derive(Clone)]
pub struct Folder {
    name: String,
    files: Files,
    read: Arc<Mutex<BTreeMap<String, FileBytes>>>,
}

#[derive(Clone)]
enum Files {
    Disk(PathBuf),
    /// Of a folder on disk, a file and what is text beside it.
    One {
        folder: PathBuf,
        file: String,
    },
    Memory(Arc<BTreeMap<String, FileBytes>>),
}

/// The bytes of a file. Clones share them.
#[derive(Clone)]
pub struct FileBytes(Kept);

#[derive(Clone)]
enum Kept {
    Memory(Arc<Cow<'static, [u8]>>),
    Mapped(Arc<Map>),
}

impl Folder {
    /// A folder on disk. The root of a repository in the hub's cache (`models--OWNER--NAME`) stands for its snapshot: the one that
    /// `refs/main` names, or the only one.
    ///
    /// # Errors
    /// [`Error::NoFolder`] if nothing has that path, [`Error::NotAFolder`] if it is a file, [`Error::Snapshots`] if it is such a
    /// root and does not say which snapshot.
    pub fn open(path: impl Into<PathBuf>) -> Result<Folder> {
        let path = path.into();
        if path.is_dir() {
            let path =
                if path.join("snapshots").is_dir() && path.join("refs").is_dir() { snapshot(&path)? } else { path };
            return Ok(Folder::new(called(&path), Files::Disk(path)));
        }
        Err(if path.exists() { Error::NotAFolder { path } } else { Error::NoFolder { path } })
    }

    /// One file on disk, and the `.json` files beside it, which may say what it is, and tokenizers of llama2.c: a folder of these alone.
    ///
    /// # Errors
    /// [`Error::NoFile`] if the path is not that of a file.
    pub fn of_file(path: impl Into<PathBuf>) -> Result<Folder> {
        let path = path.into();
        let Some(file) = path.file_name().filter(|_| path.is_file()) else { return Err(Error::NoFile { path }) };
        let file = file.to_string_lossy().into_owned();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Folder::new(path.display().to_string(), Files::One { folder: folder.into(), file }))
    }

    /// A folder of files in memory: their names and bytes. `name` is what messages call it.
    pub fn in_memory<B: Into<Cow<'static, [u8]>>>(
        name: impl Into<String>,
        files: impl IntoIterator<Item = (String, B)>,
    ) -> Folder {
        let kept = |(file, bytes): (String, B)| (file, FileBytes(Kept::Memory(Arc::new(bytes.into()))));
        Folder::new(name.into(), Files::Memory(Arc::new(files.into_iter().map(kept).collect())))
    }

    /// The same, called `name` in messages and results.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Folder {
        Folder { name: name.into(), ..self }
    }

    fn new(name: String, files: Files) -> Folder {
        Folder { name, files, read: Arc::default() }
    }

    /// Reads a file of the folder.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if the folder has no such file, [`Error::Read`] if it cannot be read.
    pub fn read(&self, file: &str) -> Result<FileBytes> {
        self.read_optional(file)?.map_or_else(|| Err(self.missing(file)), Ok)
    }

    /// Reads a file of the folder that may be absent.
    ///
    /// # Errors
    /// [`Error::Read`] if the file is there and cannot be read.
    pub fn read_optional(&self, file: &str) -> Result<Option<FileBytes>> {
        self.kept(file, |path| fs::read(path).map(|bytes| Kept::Memory(Arc::new(bytes.into()))))
    }

    /// Maps a file of the folder into memory, or reads it where that cannot be done.
    ///
    /// # Errors
    /// As [`read`](Folder::read).
    pub fn map(&self, file: &str) -> Result<FileBytes> {
        let mapped = self.kept(file, |path| match Map::of(&File::open(&path)?, &path) {
            Ok(map) => Ok(Kept::Mapped(Arc::new(map))),
            Err(_) => fs::read(path).map(|bytes| Kept::Memory(Arc::new(bytes.into()))),
        })?;
        mapped.map_or_else(|| Err(self.missing(file)), Ok)
    }

    /// The file as it was read before, or else as `load` reads it.
    fn kept(&self, file: &str, load: impl FnOnce(PathBuf) -> io::Result<Kept>) -> Result<Option<FileBytes>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = read.get(file) {
            return Ok(Some(bytes.clone()));
        }
        let bytes = match &self.files {
            Files::Memory(files) => match files.get(file) {
                Some(bytes) => bytes.clone(),
                None => return Ok(None),
            },
            Files::One { file: one, .. } if !is_beside(one, file) => return Ok(None),
            Files::Disk(folder) | Files::One { folder, .. } => match load(folder.join(file)) {
                Ok(kept) => FileBytes(kept),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::Read { path: self.describe(file), error }),
            },
        };
        read.insert(file.into(), bytes.clone());
        Ok(Some(bytes))
    }

    /// The names of the files directly inside, sorted. Folders inside are left out.
    ///
    /// # Errors
    /// [`Error::Read`] if the folder cannot be listed.
    pub fn names(&self) -> Result<Vec<String>> {
        let path = match &self.files {
            Files::Memory(files) => return Ok(files.keys().cloned().collect()),
            Files::Disk(path) | Files::One { folder: path, .. } => path,
        };
        let failed = |error| Error::Read { path: self.name.clone(), error };
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Not `DirEntry::file_type`: a model folder of the hub's cache holds links to its files.
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_left_out = matches!(&self.files, Files::One { file, .. } if !is_beside(file, &name));
            if !is_left_out && entry.path().is_file() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The file that this is a folder of, if it is [of one](Folder::of_file).
    pub(crate) fn one_file(&self) -> Option<&str> {
        match &self.files {
            Files::One { file, .. } => Some(file),
            Files::Disk(_) | Files::Memory(_) => None,
        }
    }

    /// The tokenizer in the folder, if it holds a `tokenizer.json`; of a checkpoint of llama2.c, that of its only `tokenizer.bin` or
    /// `tokSIZE.bin`.
    ///
    /// # Errors
    /// If one of its files cannot be read or understood.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let Some(tokenizer) = self.read_optional("tokenizer.json")? else { return self.llama2c_tokenizer() };
        let tokenizer_config = self.read_optional("tokenizer_config.json")?;
        let config = self.read_optional("config.json")?;
        let files = TokenizerFiles {
            folder: &self.name,
            tokenizer: &tokenizer,
            tokenizer_config: tokenizer_config.as_deref(),
            config: config.as_deref(),
        };
        Ok(Some(Tokenizer::from_files(files)?))
    }

    fn llama2c_tokenizer(&self) -> Result<Option<Tokenizer>> {
        let Some(model) = self.one_file() else { return Ok(None) };
        let mut names = self.names()?;
        names.retain(|name| is_llama2c_tokenizer(name));
        let [name] = &names[..] else { return Ok(None) };
        let failed = |problem| Error::TensorFile { file: self.describe(name), problem };
        let vocabulary = llama2c::config(self, model)?.d_vocab;
        let tokenizer = llama2c::tokenizer_json(&self.read(name)?, vocabulary).map_err(failed)?.to_string();
        let files = TokenizerFiles {
            folder: &self.name,
            tokenizer: tokenizer.as_bytes(),
            tokenizer_config: Some(br#"{ "bos_token": "<s>" }"#),
            config: None,
        };
        Ok(Some(Tokenizer::from_files(files)?))
    }

    /// SHA-256 of the files read so far, in hexadecimal: for each, in order of names, its name, its length, and the
    /// SHA-256 of every 16 MiB of it, which all threads share.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for (name, bytes) in &*self.read.lock().unwrap_or_else(PoisonError::into_inner) {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((bytes.len() as u64).to_le_bytes());
            let piece = |piece: &[u8]| {
                let digest = Sha256::digest(piece);
                bytes.let_go(piece);
                digest
            };
            bytes.par_chunks(PIECE).map(piece).collect::<Vec<_>>().iter().for_each(|digest| hash.update(digest));
        }
        hexadecimal(&hash.finalize())
    }

    /// The names on the folder's path, from its own outwards: what some projects tell by where a file lies.
    pub fn path(&self) -> Vec<String> {
        let named = |path: &Path| path.iter().rev().map(|part| part.to_string_lossy().into_owned()).collect();
        match &self.files {
            Files::Disk(path) | Files::One { folder: path, .. } => {
                named(&fs::canonicalize(path).unwrap_or_else(|_| path.clone()))
            }
            Files::Memory(_) => named(Path::new(&self.name)),
        }
    }

    /// The path of a file in the folder, for messages.
    pub fn describe(&self, file: &str) -> String {
        match &self.files {
            Files::Disk(path) | Files::One { folder: path, .. } => path.join(file).display().to_string(),
            Files::Memory(_) => format!("{}/{file}", self.name),
        }
    }

    /// The error of a file that the folder lacks.
    pub fn missing(&self, file: &str) -> Error {
        const SHOWN: usize = 12;
        let names = self.names().unwrap_or_default();
        let mut found: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{}`", name.escape_debug())).collect();
        if names.is_empty() {
            found.push("nothing".into());
        } else if names.len() > SHOWN {
            found.push(format!("and {} more", names.len() - SHOWN));
        }
        Error::MissingFile { path: self.describe(file), found: found.join(", ") }
    }
}

/// Whether a folder of one file holds `name`.
fn is_beside(file: &str, name: &str) -> bool {
    name == file || Path::new(name).extension().is_some_and(|end| end == "json") || is_llama2c_tokenizer(name)
}

/// Whether a file may be the tokenizer of a checkpoint of llama2.c: `tokenizer.bin`, or with the size of its vocabulary, `tok512.bin`.
fn is_llama2c_tokenizer(name: &str) -> bool {
    let size = name.strip_prefix("tok").and_then(|rest| rest.strip_suffix(".bin"));
    size.is_some_and(|size| size == "enizer" || !size.is_empty() && size.bytes().all(|digit| digit.is_ascii_digit()))
}

/// The snapshot that the root of a repository in the hub's cache stands for.
fn snapshot(root: &Path) -> Result<PathBuf> {
    let snapshots = root.join("snapshots");
    let failed = |error| Error::Read { path: snapshots.display().to_string(), error };
    if let Ok(revision) = fs::read_to_string(root.join("refs").join("main")) {
        let named = snapshots.join(revision.trim());
        if named.is_dir() {
            return Ok(named);
        }
    }
    let entries = fs::read_dir(&snapshots).map_err(failed)?.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    let mut found: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort_unstable();
    if let [only] = &found[..] {
        return Ok(only.clone());
    }
    let names: Vec<String> = found.iter().map(|path| format!("`{}`", path.display())).collect();
    Err(Error::Snapshots { path: root.into(), found: names.join(", ") })
}

/// What a folder is called: its path as it was given, but without a slash at its end, and with a name where it has none: `.` and `..`.
fn called(path: &Path) -> String {
    let named = match path.file_name() {
        Some(name) => path.with_file_name(name),
        None => fs::canonicalize(path).unwrap_or_else(|_| path.into()),
    };
    named.display().to_string()
}

impl fmt::Display for Folder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Folder").field(&self.name).finish()
    }
}

impl FileBytes {
    /// Gives the memory of part of a file back, if it is mapped and the part lies there; what is read again comes from the file.
    pub(crate) fn let_go(&self, part: &[u8]) {
        if let Kept::Mapped(map) = &self.0
            && map.as_ptr_range().contains(&part.as_ptr())
        {
            map.let_go(part);
        }
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kept::Memory(bytes) => bytes,
            Kept::Mapped(map) => map,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Folder, PIECE};
    use crate::Error;

    #[test]
    fn a_folder_on_disk_lists_and_reads_its_files() {
        let disk = tempfile::tempdir().unwrap();
        fs::write(disk.path().join("b.json"), "b").unwrap();
        fs::write(disk.path().join("a.json"), "a").unwrap();
        fs::create_dir(disk.path().join("inside")).unwrap();
        let folder = Folder::open(disk.path()).unwrap();
        assert_eq!(folder.names().unwrap(), ["a.json", "b.json"]);
        assert_eq!(&*folder.read("a.json").unwrap(), b"a");
        assert_eq!(&*folder.map("b.json").unwrap(), b"b");
        assert!(folder.read_optional("c.json").unwrap().is_none());
        for error in [folder.read("c.json").err().unwrap(), folder.map("c.json").err().unwrap()] {
            assert!(matches!(&error, Error::MissingFile { .. }));
            assert!(error.to_string().contains("c.json` is missing; the folder holds: `a.json`, `b.json`"), "{error}");
        }
        assert!(matches!(folder.read_optional("inside"), Err(Error::Read { .. })));
    }

    #[test]
    fn a_path_that_is_no_folder_is_an_error() {
        assert!(matches!(Folder::open("no/such/folder"), Err(Error::NoFolder { .. })));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Folder::open(file.path()), Err(Error::NotAFolder { .. })));
    }

    #[test]
    fn a_file_is_a_folder_of_itself_and_what_is_said_of_it() {
        let disk = tempfile::tempdir().unwrap();
        for name in ["a.pt", "b.pt", "config.json", "notes.txt"] {
            fs::write(disk.path().join(name), name).unwrap();
        }
        let folder = Folder::of_file(disk.path().join("b.pt")).unwrap();
        assert_eq!(folder.names().unwrap(), ["b.pt", "config.json"]);
        assert_eq!(&*folder.read("b.pt").unwrap(), b"b.pt");
        assert!(folder.read_optional("a.pt").unwrap().is_none());
        assert!(folder.map("notes.txt").is_err());
        assert_eq!(folder.path(), Folder::open(disk.path()).unwrap().path());
        assert!(folder.to_string().ends_with("b.pt"));
        for path in [disk.path().to_owned(), disk.path().join("c.pt")] {
            assert!(matches!(Folder::of_file(path), Err(Error::NoFile { .. })));
        }
    }

    #[test]
    fn the_hash_is_of_the_bytes_that_were_read_wherever_they_are() {
        let disk = tempfile::tempdir().unwrap();
        let weights: Vec<u8> = (0..PIECE + 100).map(|i| (i % 251) as u8).collect();
        fs::write(disk.path().join("w.safetensors"), &weights).unwrap();
        fs::write(disk.path().join("config.json"), "{}").unwrap();
        let files = [("config.json".to_owned(), b"{}".to_vec()), ("w.safetensors".to_owned(), weights.clone())];
        let (on_disk, in_memory) = (Folder::open(disk.path()).unwrap(), Folder::in_memory("embedded:x", files));
        let nothing = on_disk.hash();
        on_disk.map("w.safetensors").unwrap();
        on_disk.read("config.json").unwrap();
        in_memory.read("config.json").unwrap();
        assert_ne!(in_memory.hash(), on_disk.hash());
        in_memory.read("w.safetensors").unwrap();
        assert_eq!(in_memory.hash(), on_disk.hash());
        assert_ne!(on_disk.hash(), nothing);

        // What is written after it was read is neither read nor hashed.
        let before = on_disk.hash();
        fs::write(disk.path().join("config.json"), "{ }").unwrap();
        assert_eq!(&*on_disk.read("config.json").unwrap(), b"{}");
        assert_eq!(on_disk.hash(), before);
        let again = Folder::open(disk.path()).unwrap();
        again.map("w.safetensors").unwrap();
        again.read("config.json").unwrap();
        assert_ne!(again.hash(), before);
    }
}
