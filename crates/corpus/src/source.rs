//! A corpus: files of documents, read one by one.

mod json;
mod lines;
mod parquet;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Cursor};
use std::iter;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use self::json::JsonLines;
use self::lines::{Documents, Lines};
use self::parquet::Rows;
use crate::error::{Error, Result, excerpt};
use crate::hexadecimal;
use crate::watch::{Event, Watch};

/// What the names of files end in that can be read. Where a folder holds several formats, the first of them counts.
pub const FORMATS: [&str; 3] = [".parquet", ".jsonl", ".txt"];

/// One document of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Text, to be tokenised.
    Text(String),
    /// Token ids that are ready to run.
    Tokens(Vec<u32>),
}

/// Files of documents, on disk or in memory, which follow each other.
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
    /// At least one.
    files: Vec<Part>,
    column: Option<String>,
}

/// A file of a corpus.
#[derive(Debug, Clone)]
struct Part {
    name: String,
    source: Source,
    format: Format,
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
    /// As [`Corpus::hash`].
    pub hash: String,
    /// How many documents there are; for Parquet the rows, of which those without a document are some.
    pub documents: usize,
}

/// Gives one document after the other, and nothing at the end.
type Reader = Box<dyn FnMut() -> Result<Option<Document>> + Send>;

impl Corpus {
    /// Finds a corpus by its path: a file, or a folder, whose files directly inside are read in the order of their names:
    /// those of the first of [`FORMATS`] that it has. `column` names the column of the documents; `.txt` has no columns and
    /// ignores it.
    ///
    /// # Errors
    /// [`Error::NoCorpus`] if there is no such file or folder, [`Error::Format`] if its name ends in none of [`FORMATS`], or it
    /// is a folder without such files; [`Error::Io`] if the folder cannot be read.
    pub fn open(path: &str, column: Option<&str>) -> Result<Corpus> {
        let found = Path::new(path);
        if !found.exists() {
            return Err(Error::NoCorpus { name: path.into() });
        }
        let files = if found.is_dir() { files_of(path)? } else { vec![found.into()] };
        Corpus::of_files(path, files, column)
    }

    /// The files at `paths` as one corpus, in this order. `name` is what it is called.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none, or one whose name ends in none of [`FORMATS`].
    pub fn of_files(name: &str, paths: Vec<PathBuf>, column: Option<&str>) -> Result<Corpus> {
        let part = |path: PathBuf| Part::new(path.display().to_string(), Source::Disk(path));
        Corpus::new(name, paths.into_iter().map(part).collect::<Result<_>>()?, column)
    }

    /// A corpus in memory. The end of `name` tells its format, as a path's does.
    ///
    /// # Errors
    /// [`Error::Format`] as [`open`](Corpus::open).
    pub fn in_memory(name: &str, bytes: impl Into<Bytes>, column: Option<&str>) -> Result<Corpus> {
        Corpus::new(name, vec![Part::new(name.into(), Source::Memory(bytes.into()))?], column)
    }

    fn new(name: &str, files: Vec<Part>, column: Option<&str>) -> Result<Corpus> {
        if files.is_empty() {
            return Err(Error::Format { name: name.into(), found: "a folder without such files".into() });
        }
        Ok(Corpus { name: name.into(), files, column: column.map(Into::into) })
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the documents from the beginning. No more than one document and its surroundings are held in memory. The
    /// iterator ends after its first error.
    ///
    /// # Errors
    /// [`Error::Io`] if the first file cannot be opened; for Parquet also [`Error::Parquet`], [`Error::NoColumn`] and
    /// [`Error::Value`]. Its items are errors where a file cannot be opened, read or understood: they name it with the line or
    /// row.
    pub fn documents(&self) -> Result<impl Iterator<Item = Result<Document>> + Send + use<>> {
        let (column, mut files) = (self.column.clone(), self.files.clone().into_iter());
        let open = move |file: Part| file.documents(column.as_deref());
        let mut reader = files.next().map(&open).transpose()?;
        Ok(until_error(move || {
            while let Some(next) = &mut reader {
                if let Some(document) = next()? {
                    return Ok(Some(document));
                }
                reader = files.next().map(&open).transpose()?;
            }
            Ok(None)
        }))
    }

    /// Hashes the files and counts their documents, at most `limit`, in one walk.
    ///
    /// # Errors
    /// As [`documents`](Corpus::documents), for the documents counted; [`Error::Stopped`] if the watch says so.
    pub fn survey(&self, limit: usize, watch: &Watch) -> Result<Survey> {
        let (mut hashes, mut documents) = (Vec::new(), 0);
        for file in &self.files {
            let found = file.survey(self.column.as_deref(), documents, limit, watch)?;
            hashes.push(found.hash);
            documents = found.documents;
        }
        Ok(Survey { hash: joined(hashes), documents })
    }

    /// The SHA-256 hash of the file's bytes, in hexadecimal; of several files, that of the lines that are their hashes.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read.
    pub fn hash(&self) -> Result<String> {
        Ok(joined(self.files.iter().map(|file| file.lines()?.hashed().into_hash()).collect::<Result<_>>()?))
    }
}

impl Part {
    fn new(name: String, source: Source) -> Result<Part> {
        let extension = Path::new(&name).extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let format = match extension.as_deref() {
            Some("txt") => Format::Text,
            Some("jsonl") => Format::JsonLines,
            Some("parquet") => Format::Parquet,
            Some(other) => return Err(Error::Format { name, found: format!("a .{other} file") }),
            None => return Err(Error::Format { name, found: "a file without extension".into() }),
        };
        Ok(Part { name, source, format })
    }

    fn documents(&self, column: Option<&str>) -> Result<Reader> {
        Ok(match self.format {
            Format::Parquet => {
                let mut rows = self.rows(column)?;
                Box::new(move || rows.next())
            }
            Format::JsonLines => {
                let mut lines = JsonLines::new(self.lines()?, column.map(Into::into));
                Box::new(move || lines.next())
            }
            Format::Text => {
                let mut documents = Documents::new(self.lines()?);
                Box::new(move || documents.next())
            }
        })
    }

    /// The file's hash, and how many documents there are, at most `limit`, with the `before` of the files before it.
    fn survey(&self, column: Option<&str>, before: usize, limit: usize, watch: &Watch) -> Result<Survey> {
        let (documents, lines) = match self.format {
            Format::Parquet => {
                let documents = before.saturating_add(self.rows(column)?.count()).min(limit);
                return Ok(Survey { hash: self.lines()?.hashed().into_hash()?, documents });
            }
            Format::JsonLines => {
                let mut lines = JsonLines::new(self.lines()?.hashed(), column.map(Into::into));
                (count(before, limit, watch, || lines.next())?, lines.into_lines())
            }
            Format::Text => {
                let mut documents = Documents::new(self.lines()?.hashed());
                (count(before, limit, watch, || documents.next())?, documents.into_lines())
            }
        };
        Ok(Survey { hash: lines.into_hash()?, documents })
    }

    fn rows(&self, column: Option<&str>) -> Result<Rows> {
        match &self.source {
            Source::Memory(bytes) => Rows::open(bytes.clone(), &self.name, column),
            Source::Disk(path) => Rows::open(self.opened(path)?, &self.name, column),
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

/// The files of a folder that are a corpus, in the order of their names.
fn files_of(folder: &str) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::Io { path: folder.into(), error };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        // A hidden file is what some systems and tools leave beside another one.
        if path.is_file() && !name.starts_with('.') {
            files.push((FORMATS.iter().position(|format| name.ends_with(format)), path));
        }
    }
    files.sort();
    let format = files.iter().find_map(|(format, _)| *format);
    Ok(files.into_iter().filter(|(other, _)| other.is_some() && *other == format).map(|(_, path)| path).collect())
}

/// One hash for those of several files; that of a single one stays as it is.
fn joined(mut hashes: Vec<String>) -> String {
    match hashes.len() {
        1 => hashes.remove(0),
        _ => hexadecimal(&Sha256::digest(hashes.join("\n") + "\n")),
    }
}

/// `before`, and how often `next` gives a document, at most `limit`.
fn count(
    before: usize,
    limit: usize,
    watch: &Watch,
    mut next: impl FnMut() -> Result<Option<Document>>,
) -> Result<usize> {
    const TOLD: usize = 1 << 14;
    let mut documents = before;
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
    fn several_files_are_one_corpus() {
        let disk = tempfile::tempdir().unwrap();
        let contents =
            [("b.txt", "4\n<|endoftext|>\n5"), ("a.txt", "1\n<|endoftext|>\n2"), ("a2.txt", "3\n<|endoftext|>\n")];
        for (name, content) in contents {
            fs::write(disk.path().join(name), content).unwrap();
        }
        for other in [".hidden.parquet", "README.md", "._a.txt"] {
            fs::write(disk.path().join(other), "?").unwrap();
        }
        let folder = disk.path().to_str().unwrap();
        let corpus = Corpus::open(folder, None).unwrap();
        assert_eq!(corpus.name(), folder);
        let documents: Vec<_> = corpus.documents().unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(documents, texts(&["1", "2", "3", "4", "5"]));
        for limit in 0..7 {
            let survey = corpus.survey(limit, &Watch::nobody()).unwrap();
            assert_eq!((survey.hash, survey.documents), (corpus.hash().unwrap(), limit.min(5)));
        }

        let paths = |names: [&str; 2]| names.map(|name| disk.path().join(name)).to_vec();
        let hash = |names| Corpus::of_files("x", paths(names), None).unwrap().hash().unwrap();
        assert_ne!(hash(["a.txt", "b.txt"]), hash(["b.txt", "a.txt"]));
        assert!(matches!(Corpus::of_files("x", Vec::new(), None), Err(Error::Format { .. })));

        fs::write(disk.path().join("c.jsonl"), "\"only\"").unwrap();
        let corpus = Corpus::open(folder, None).unwrap();
        assert_eq!(corpus.documents().unwrap().collect::<Result<Vec<_>>>().unwrap(), texts(&["only"]));
        fs::write(disk.path().join("d.jsonl"), "7").unwrap();
        let read: Vec<_> = Corpus::open(folder, None).unwrap().documents().unwrap().collect();
        let Err(error) = &read[1] else { panic!("{read:?}") };
        assert!(read.len() == 2 && error.to_string().contains("d.jsonl`, line 1"), "{error}");
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
