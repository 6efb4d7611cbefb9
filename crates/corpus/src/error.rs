//! What can go wrong, and what to do about it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong between a file and its prompts.
///
/// A message is complete: what was wrong, where, what was expected and found, what to do. Lines, rows and documents
/// count from 1; positions and bytes count from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a read.
    #[error("cannot read `{path}`: {error}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the operating system answered.
        error: io::Error,
    },
    /// The operating system refused a write.
    #[error("cannot write `{}`: {error}; check that the disk has room and the folder can be written to", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system answered.
        error: io::Error,
    },
    /// A folder that is put in its place as a whole would take that of one that others stand in.
    #[error("`{}` is no name that a new folder can be given; write to a folder in it, such as `{}`", path.display(), path.join("out").display())]
    NoName {
        /// The folder.
        path: PathBuf,
    },
    /// A file that this program wrote is no longer as it was written.
    #[error("`{}` is damaged: {problem}; remove it and make it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file was removed while it was being written.
    #[error("`{}` was removed while it was being written; nothing was finished, run the same command again", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// An output has a writer already.
    #[error("`{}` is being written by another process; wait for it to end, or write elsewhere", path.display())]
    InUse {
        /// The file or folder.
        path: PathBuf,
    },
    /// Processes that work together have lost one, or are not at the same thing.
    #[error("the ranks do not work together: {problem}; run the same command again, and it goes on where it was")]
    Ranks {
        /// What is wrong.
        problem: String,
    },
    /// A work needs what others have not done yet.
    #[error("what this shard can do of `{what}` is done; it goes on when the shards {shards} have done theirs: run these, then this one again, or remove `{}` to begin anew", path.display())]
    Waits {
        /// The work.
        what: String,
        /// Where what is done is kept.
        path: PathBuf,
        /// Which, as `--shard` has them.
        shards: String,
    },
    /// What was done already is of another run.
    #[error("`{}` holds what another run has done: {difference}; give the options it was started with, or remove it", path.display())]
    OtherUnits {
        /// Where it is kept.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// Processes that work together were given different things.
    #[error("{name}: not the same on all ranks ({ranks}); start all of them with the same options, files and program")]
    Unequal {
        /// What differs.
        name: String,
        /// What each rank has that differs from the first one.
        ranks: String,
    },
    /// A configuration file is no JSON object, or its fields do not go together.
    #[error("{file}: {problem}")]
    Settings {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A configuration file lacks a field.
    #[error("{file}: key `{field}` is missing")]
    NoSetting {
        /// The file.
        file: String,
        /// The field.
        field: String,
    },
    /// A field of a configuration file is of another type than it must be, or out of range.
    #[error("{file}: `{field}` is {found}, expected {expected}")]
    Setting {
        /// The file.
        file: String,
        /// The field.
        field: String,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A tokenizer's file cannot be used.
    #[error("`{path}` is not a usable tokenizer file: {reason}; save it again with the tokenizers library")]
    TokenizerFile {
        /// The file.
        path: String,
        /// What is wrong in it.
        reason: String,
    },
    /// The tokenizer failed on a text or on token ids.
    #[error("the tokenizer failed: {reason}; check its tokenizer.json")]
    Tokenizer {
        /// What it answered.
        reason: String,
    },
    /// A text was expected to be exactly one token.
    #[error("{text:?} is not a single token but {count}: {pieces}; {hint}")]
    NotOneToken {
        /// The text.
        text: String,
        /// How many tokens it is.
        count: usize,
        /// The tokens it splits into.
        pieces: String,
        /// What would be a single token.
        hint: String,
    },
    /// Nothing has the path of a corpus.
    #[error("no corpus `{name}`: nothing on disk has this path; check it")]
    NoCorpus {
        /// The path asked for.
        name: String,
    },
    /// A corpus is not in a format that can be read.
    #[error("corpus `{name}` is {found}, expected files ending in .txt, .jsonl or .parquet; convert or rename it")]
    Format {
        /// The corpus.
        name: String,
        /// What it is.
        found: String,
    },
    /// A text file is not UTF-8.
    #[error("`{file}`, line {line}: byte {byte} of the file is not UTF-8; convert the file to UTF-8")]
    Utf8 {
        /// The file.
        file: String,
        /// The line of the first bad byte.
        line: usize,
        /// The offset of the first bad byte in the file.
        byte: u64,
    },
    /// A line or a document is too long to be held in memory.
    #[error("`{file}`, line {line}: this document is longer than {limit} bytes; {hint}")]
    TooLong {
        /// The file.
        file: String,
        /// The line at which the limit was passed.
        line: usize,
        /// The most bytes a document may have.
        limit: usize,
        /// How documents are separated in this format.
        hint: &'static str,
    },
    /// A line is not JSON.
    #[error("`{file}`, line {line}, column {column}: not JSON: {reason}; each line must hold one JSON object")]
    Json {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// The column in that line.
        column: usize,
        /// What the parser found.
        reason: String,
    },
    /// A document has no column of the wanted name.
    #[error("{place}: no column {column}; there are: {found}; name the column that holds the text or the token ids")]
    NoColumn {
        /// File, and line if it has lines.
        place: String,
        /// The column wanted.
        column: String,
        /// The columns that are there.
        found: String,
    },
    /// A column holds something other than text or token ids.
    #[error("{place}, column `{column}`: expected {expected}, found {found}; correct the file or name another column")]
    Value {
        /// File, and line or row.
        place: String,
        /// The column.
        column: String,
        /// What may stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A line holds something other than an object or a string.
    #[error("`{file}`, line {line}: expected a JSON object or string, found {found}; each line must hold one document")]
    Line {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// What stands there.
        found: &'static str,
    },
    /// A Parquet file cannot be read.
    #[error("{place}: cannot be read as Parquet: {reason}; the file may be incomplete, write or fetch it again")]
    Parquet {
        /// File, and row if the fault is in the data.
        place: String,
        /// What the reader answered.
        reason: String,
    },
    /// A document is text and there is no tokenizer.
    #[error(
        "corpus `{corpus}`, document {document} is text, and there is no tokenizer; \
         give a model folder with a tokenizer.json, or a corpus of token ids"
    )]
    NoTokenizer {
        /// The corpus.
        corpus: String,
        /// The document.
        document: usize,
    },
    /// A token id is not in the model's vocabulary.
    #[error(
        "corpus `{corpus}`, document {document}, position {position}: token id {token} is outside the \
         model's vocabulary of {vocab_size}; use the tokenizer that belongs to the model"
    )]
    OutsideVocabulary {
        /// The corpus.
        corpus: String,
        /// The document.
        document: usize,
        /// The position in the prompt.
        position: usize,
        /// The token id.
        token: u32,
        /// The number of ids the model knows.
        vocab_size: usize,
    },
    /// Some work needs more memory than there is.
    #[error("this needs at least {} of memory, and there are {}; lower {option}", gigabytes(*needed), gigabytes(*there))]
    Memory {
        /// The option that asks for most of it.
        option: &'static str,
        /// Bytes that are needed at least.
        needed: u64,
        /// Bytes there are.
        there: u64,
    },
    /// The work was stopped before its end.
    #[error("stopped; nothing was written")]
    Stopped,
    /// No prompt came out of a corpus.
    #[error("corpus `{corpus}` holds no prompt; it is empty, or all of its documents are")]
    Empty {
        /// The corpus.
        corpus: String,
    },
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// `a`, `b` and so on for a message: escaped, and only the first few of many.
pub(crate) fn listing<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 12;
    let names: Vec<T> = names.into_iter().collect();
    if names.is_empty() {
        return "nothing".into();
    }
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{}`", excerpt(name.as_ref()))).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// The beginning of a text from a file, fit to be shown in a message.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 200;
    let mut characters = text.chars();
    let mut shown: String = characters.by_ref().take(SHOWN).flat_map(char::escape_debug).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Runs code of another crate that may panic on a hostile file, and gives the panic's message instead.
///
/// # Errors
/// That message. What `run` touches must not be used again then.
pub fn caught<T>(run: impl FnOnce() -> T) -> std::result::Result<T, String> {
    // What `run` touches must not be used again after a panic: every caller gives up its reader or returns the error.
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
        excerpt(message.unwrap_or("the reader stopped"))
    })
}

#[cfg(test)]
mod tests {
    use super::{caught, excerpt, listing};

    #[test]
    fn a_listing_is_escaped_and_bounded() {
        assert_eq!(listing(["a", "\u{1b}[2J"]), r"`a`, `\u{1b}[2J`");
        assert_eq!(listing::<&str>([]), "nothing");
        assert!(listing((0..20).map(|i| i.to_string())).ends_with("`11` and 8 more"));
        assert_eq!(excerpt(&"x".repeat(1000)).chars().count(), 201);
    }

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| panic!("bad {}", "page")), Err::<(), _>("bad page".into()));
    }
}
