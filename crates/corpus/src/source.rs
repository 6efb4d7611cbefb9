//! A corpus: one file of documents, read one by one.

mod json;
mod lines;
mod parquet;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::iter;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use self::json::JsonLines;
use self::lines::{Lines, Stories};
use self::parquet::Rows;
use crate::error::{Error, Result, excerpt};
use crate::folder::shipped_file;

/// The corpora embedded in the binary.
const SHIPPED: &str = "`tinystories-2l/stories.txt`";

/// One document of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Text, to be tokenised.
    Text(String),
    /// Token ids that are ready to run.
    Tokens(Vec<u32>),
}

/// A file of documents, on disk or embedded in the binary.
///
/// - `.txt`: texts separated by lines that are `<|endoftext|>`. Each is trimmed, its line ends become `\n`, and empty
///   ones are skipped.
/// - `.jsonl`: one JSON object on each line, or a string, which is a text. Blank lines are skipped.
/// - `.parquet`: one document in each row.
///
/// In the latter two a column holds text, or lists of token ids. Where no column is named it is `text`, or `tokens` if
/// there is no `text`. Null is no document.
///
/// A document of `.txt` and a line of `.jsonl` has at most 16 MiB.
#[derive(Debug, Clone)]
pub struct Corpus {
    name: String,
    source: Source,
    format: Format,
    column: Option<String>,
}

#[derive(Debug, Clone)]
enum Source {
    Disk(PathBuf),
    Shipped(&'static [u8]),
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Text,
    JsonLines,
    Parquet,
}

impl Corpus {
    /// Finds a corpus by its path on disk or, where nothing has that path, by its shipped name,
    /// `tinystories-2l/stories.txt`. `column` names the column of the documents; `.txt` has no columns and ignores it.
    ///
    /// # Errors
    /// [`Error::NoCorpus`] if there is no such file, [`Error::Format`] if its name ends in none of `.txt`, `.jsonl` and
    /// `.parquet`.
    pub fn open(name: &str, column: Option<&str>) -> Result<Corpus> {
        let path = Path::new(name);
        let source = if path.exists() {
            Source::Disk(path.into())
        } else if let Some(bytes) = name.rsplit_once('/').and_then(|(folder, file)| shipped_file(folder, file)) {
            Source::Shipped(bytes)
        } else {
            return Err(Error::NoCorpus { name: name.into(), shipped: SHIPPED.into() });
        };
        if path.is_dir() {
            return Err(Error::Format { name: name.into(), found: "a folder".into() });
        }
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let format = match (extension.as_deref(), &source) {
            (Some("txt"), _) => Format::Text,
            (Some("jsonl"), _) => Format::JsonLines,
            (Some("parquet"), Source::Disk(_)) => Format::Parquet,
            (Some(other), _) => return Err(Error::Format { name: name.into(), found: format!("a .{other} file") }),
            (None, _) => return Err(Error::Format { name: name.into(), found: "a file without extension".into() }),
        };
        Ok(Corpus { name: name.into(), source, format, column: column.map(Into::into) })
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the documents from the beginning. No more than one document and its surroundings are held in memory. The
    /// iterator ends after its first error.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened; for Parquet also [`Error::Parquet`], [`Error::NoColumn`] and
    /// [`Error::Value`]. Its items are errors where the file cannot be read or understood: they name the line or row.
    pub fn documents(&self) -> Result<impl Iterator<Item = Result<Document>> + Send + use<>> {
        let documents: Box<dyn Iterator<Item = Result<Document>> + Send> = match (self.format, &self.source) {
            (Format::Parquet, Source::Disk(path)) => {
                let mut rows = Rows::open(path, &self.name, self.column.as_deref())?;
                Box::new(until_error(move || rows.next()))
            }
            (Format::JsonLines, _) => {
                let mut lines = JsonLines::new(self.lines()?, self.column.clone());
                Box::new(until_error(move || lines.next()))
            }
            _ => {
                let mut stories = Stories::new(self.lines()?);
                Box::new(until_error(move || stories.next()))
            }
        };
        Ok(documents)
    }

    /// The SHA-256 hash of the file's bytes, in hexadecimal.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read.
    pub fn hash(&self) -> Result<String> {
        let mut reader = self.reader()?;
        let mut hash = Sha256::new();
        loop {
            let bytes = reader.fill_buf().map_err(|error| Error::Io { path: self.name.clone(), error })?;
            if bytes.is_empty() {
                break;
            }
            hash.update(bytes);
            let read = bytes.len();
            reader.consume(read);
        }
        Ok(hash.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")))
    }

    fn reader(&self) -> Result<Box<dyn BufRead + Send>> {
        match &self.source {
            Source::Shipped(bytes) => Ok(Box::new(*bytes)),
            Source::Disk(path) => match File::open(path) {
                Ok(file) => Ok(Box::new(BufReader::with_capacity(1 << 16, file))),
                Err(error) => Err(Error::Io { path: self.name.clone(), error }),
            },
        }
    }

    fn lines(&self) -> Result<Lines> {
        Ok(Lines::new(self.reader()?, self.name.clone()))
    }
}

/// Calls `next` until it gives nothing or an error, and not once more: a reader that failed is not asked again.
fn until_error<T>(mut next: impl FnMut() -> Result<Option<T>>) -> impl Iterator<Item = Result<T>> {
    let mut ended = false;
    iter::from_fn(move || {
        if ended {
            return None;
        }
        let item = next().transpose();
        ended = !matches!(item, Some(Ok(_)));
        item
    })
}

/// A token id that a file gives as an integer, or the error that it is none.
fn token_id(
    id: Option<i64>,
    place: impl FnOnce() -> String,
    column: &str,
    found: impl FnOnce() -> String,
) -> Result<u32> {
    id.and_then(|id| u32::try_from(id).ok()).ok_or_else(|| Error::Value {
        place: place(),
        column: excerpt(column),
        expected: "a list of token ids, each an integer from 0 to 4294967295",
        found: format!("a list with {}", found()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::{Corpus, Document};
    use crate::{Error, Result};

    /// A file of the given name and content.
    pub(super) fn file(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
        let disk = tempfile::tempdir().unwrap();
        let path = disk.path().join(name);
        fs::write(&path, content).unwrap();
        (disk, path)
    }

    /// All documents of a file of the given name and content.
    pub(super) fn read(name: &str, content: impl AsRef<[u8]>, column: Option<&str>) -> Result<Vec<Document>> {
        let (_disk, path) = file(name, content);
        Corpus::open(path.to_str().unwrap(), column)?.documents()?.collect()
    }

    pub(super) fn texts(texts: &[&str]) -> Vec<Document> {
        texts.iter().map(|&text| Document::Text(text.into())).collect()
    }

    #[test]
    fn the_shipped_stories_are_read_and_hashed() {
        let corpus = Corpus::open("tinystories-2l/stories.txt", None).unwrap();
        let stories: Vec<_> = corpus.documents().unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(stories.len(), 2000);
        assert!(matches!(&stories[0], Document::Text(text) if text.starts_with("Once upon a time")));
        assert_eq!(corpus.name(), "tinystories-2l/stories.txt");
        assert_eq!(corpus.hash().unwrap().len(), 64);
    }

    #[test]
    fn the_hash_is_that_of_the_files_bytes() {
        let (_disk, path) = file("a.txt", "hello world");
        let corpus = Corpus::open(path.to_str().unwrap(), None).unwrap();
        let expected = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
        assert_eq!(corpus.hash().unwrap(), expected);
    }

    #[test]
    fn a_corpus_must_exist_in_a_known_format() {
        let error = Corpus::open("no/such.txt", None).unwrap_err();
        assert!(matches!(error, Error::NoCorpus { .. }), "{error}");
        for name in ["a.csv", "a", "a.json"] {
            let (_disk, path) = file(name, "");
            let error = Corpus::open(path.to_str().unwrap(), None).unwrap_err();
            assert!(matches!(error, Error::Format { .. }), "{error}");
        }
        let disk = tempfile::tempdir().unwrap();
        assert!(matches!(Corpus::open(disk.path().to_str().unwrap(), None), Err(Error::Format { .. })));
        assert!(matches!(Corpus::open("tinystories-2l/config.json", None), Err(Error::Format { .. })));
        assert_eq!(read("A.TXT", "a", None).unwrap(), texts(&["a"]));
    }

    #[test]
    fn a_file_that_vanishes_is_an_error() {
        let (disk, path) = file("a.txt", "a");
        let corpus = Corpus::open(path.to_str().unwrap(), None).unwrap();
        drop(disk);
        assert!(matches!(corpus.documents().err(), Some(Error::Io { .. })));
        assert!(matches!(corpus.hash(), Err(Error::Io { .. })));
    }
}
