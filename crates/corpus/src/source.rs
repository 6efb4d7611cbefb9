//! A corpus: one file of documents, read one by one.

mod json;
mod lines;
mod parquet;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::iter;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use self::json::JsonLines;
use self::lines::{Documents, Lines};
use self::parquet::Rows;
use crate::error::{Error, Result, excerpt};
use crate::watch::{Event, Watch};

/// One document of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Text, to be tokenised.
    Text(String),
    /// Token ids that are ready to run.
    Tokens(Vec<u32>),
}

/// A file of documents, on disk or in memory.
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
    Memory(Bytes),
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Text,
    JsonLines,
    Parquet,
}

/// What a walk through a corpus finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The SHA-256 hash of the file's bytes, in hexadecimal.
    pub hash: String,
    /// How many documents there are; for Parquet the rows, of which those without a document are some.
    pub documents: usize,
}

impl Corpus {
    /// Finds a corpus by its path. `column` names the column of the documents; `.txt` has no columns and ignores it.
    ///
    /// # Errors
    /// [`Error::NoCorpus`] if there is no such file, [`Error::Format`] if its name ends in none of `.txt`, `.jsonl` and
    /// `.parquet`.
    pub fn open(path: &str, column: Option<&str>) -> Result<Corpus> {
        let found = Path::new(path);
        if !found.exists() {
            return Err(Error::NoCorpus { name: path.into() });
        }
        if found.is_dir() {
            return Err(Error::Format { name: path.into(), found: "a folder".into() });
        }
        Corpus::new(path, Source::Disk(found.into()), column)
    }

    /// A corpus in memory. The end of `name` tells its format, as a path's does.
    ///
    /// # Errors
    /// [`Error::Format`] as [`open`](Corpus::open).
    pub fn in_memory(name: &str, bytes: impl Into<Bytes>, column: Option<&str>) -> Result<Corpus> {
        Corpus::new(name, Source::Memory(bytes.into()), column)
    }

    fn new(name: &str, source: Source, column: Option<&str>) -> Result<Corpus> {
        let extension = Path::new(name).extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let format = match extension.as_deref() {
            Some("txt") => Format::Text,
            Some("jsonl") => Format::JsonLines,
            Some("parquet") => Format::Parquet,
            Some(other) => return Err(Error::Format { name: name.into(), found: format!("a .{other} file") }),
            None => return Err(Error::Format { name: name.into(), found: "a file without extension".into() }),
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
        let documents: Box<dyn Iterator<Item = Result<Document>> + Send> = match self.format {
            Format::Parquet => {
                let mut rows = self.rows()?;
                Box::new(until_error(move || rows.next()))
            }
            Format::JsonLines => {
                let mut lines = JsonLines::new(self.lines()?, self.column.clone());
                Box::new(until_error(move || lines.next()))
            }
            Format::Text => {
                let mut documents = Documents::new(self.lines()?);
                Box::new(until_error(move || documents.next()))
            }
        };
        Ok(documents)
    }

    /// Hashes the file and counts its documents, at most `limit`, in one walk.
    ///
    /// # Errors
    /// As [`documents`](Corpus::documents), for the documents counted; [`Error::Stopped`] if the watch says so.
    pub fn survey(&self, limit: usize, watch: &Watch) -> Result<Survey> {
        let (documents, lines) = match self.format {
            Format::Parquet => {
                let documents = self.rows()?.count().min(limit);
                return Ok(Survey { hash: self.hash()?, documents });
            }
            Format::JsonLines => {
                let mut lines = JsonLines::new(self.lines()?.hashed(), self.column.clone());
                (count(limit, watch, || lines.next())?, lines.into_lines())
            }
            Format::Text => {
                let mut documents = Documents::new(self.lines()?.hashed());
                (count(limit, watch, || documents.next())?, documents.into_lines())
            }
        };
        Ok(Survey { hash: lines.into_hash()?, documents })
    }

    /// The SHA-256 hash of the file's bytes, in hexadecimal.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read.
    pub fn hash(&self) -> Result<String> {
        self.lines()?.hashed().into_hash()
    }

    fn rows(&self) -> Result<Rows> {
        match &self.source {
            Source::Memory(bytes) => Rows::open(bytes.clone(), &self.name, self.column.as_deref()),
            Source::Disk(path) => Rows::open(self.opened(path)?, &self.name, self.column.as_deref()),
        }
    }

    fn lines(&self) -> Result<Lines> {
        let reader: Box<dyn BufRead + Send> = match &self.source {
            Source::Memory(bytes) => Box::new(Cursor::new(bytes.clone())),
            Source::Disk(path) => Box::new(BufReader::with_capacity(1 << 16, self.opened(path)?)),
        };
        Ok(Lines::new(reader, self.name.clone()))
    }

    fn opened(&self, path: &Path) -> Result<File> {
        File::open(path).map_err(|error| Error::Io { path: self.name.clone(), error })
    }
}

/// How often `next` gives a document, at most `limit` times.
fn count(limit: usize, watch: &Watch, mut next: impl FnMut() -> Result<Option<Document>>) -> Result<usize> {
    const TOLD: usize = 1 << 14;
    let mut documents = 0;
    while documents < limit && next()?.is_some() {
        documents += 1;
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        if documents.is_multiple_of(TOLD) {
            watch.tell(Event::new("counting", documents as u64, "documents"));
        }
    }
    Ok(documents)
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
    use crate::{Error, Result, Watch};

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
    fn the_shipped_stories_are_read_from_disk_and_from_memory_alike() {
        let path = "../../assets/tinystories-2l/stories.txt";
        let corpus = Corpus::open(path, None).unwrap();
        let stories: Vec<_> = corpus.documents().unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(stories.len(), 2000);
        assert!(matches!(&stories[0], Document::Text(text) if text.starts_with("Once upon a time")));
        assert_eq!(corpus.name(), path);
        let embedded = Corpus::in_memory("embedded:x/stories.txt", fs::read(path).unwrap(), None).unwrap();
        assert_eq!(embedded.documents().unwrap().collect::<Result<Vec<_>>>().unwrap(), stories);
        assert_eq!(
            embedded.survey(usize::MAX, &Watch::nobody()).unwrap(),
            corpus.survey(usize::MAX, &Watch::nobody()).unwrap()
        );
    }

    #[test]
    fn the_hash_is_that_of_the_files_bytes() {
        let (_disk, path) = file("a.txt", "hello world");
        let corpus = Corpus::open(path.to_str().unwrap(), None).unwrap();
        let expected = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
        assert_eq!(corpus.hash().unwrap(), expected);
    }

    #[test]
    fn a_survey_counts_as_documents_do_and_hashes_the_whole_file() {
        let many = "x\n<|endoftext|>\n".repeat(9);
        let lines = "\"a\"\n\n{\"text\": null}\n".repeat(9);
        for (name, content) in [("a.txt", many), ("a.jsonl", lines), ("b.txt", String::new())] {
            let (_disk, path) = file(name, &content);
            let corpus = Corpus::open(path.to_str().unwrap(), None).unwrap();
            let all = corpus.documents().unwrap().count();
            for limit in [0, 4, 9, 10] {
                let survey = corpus.survey(limit, &Watch::nobody()).unwrap();
                assert_eq!((survey.hash, survey.documents), (corpus.hash().unwrap(), all.min(limit)), "{name}");
            }
        }
        let (_disk, path) = file("a.jsonl", "\"a\"\n7\n");
        let corpus = Corpus::open(path.to_str().unwrap(), None).unwrap();
        assert!(matches!(corpus.survey(9, &Watch::nobody()), Err(Error::Line { line: 2, .. })));
        assert_eq!(corpus.survey(1, &Watch::nobody()).unwrap().documents, 1);
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
        assert!(matches!(Corpus::in_memory("config.json", &b"{}"[..], None), Err(Error::Format { .. })));
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
