//! Lines of UTF-8, and the texts of a `.txt` corpus.

use std::io::{BufRead, Read};
use std::mem;

use sha2::{Digest, Sha256};

use super::Document;
use crate::error::{Error, Result};
use crate::hexadecimal;

/// The most bytes a line or a text may have: far more than any context holds, and little enough to tokenise.
const MAX_BYTES: usize = 16 << 20;

/// The line between two texts.
const SEPARATOR: &str = "<|endoftext|>";

/// The lines of a file, one in memory at a time.
pub(super) struct Lines {
    reader: Box<dyn BufRead + Send>,
    file: String,
    /// The last line read, counted from 1.
    number: usize,
    /// The last line's bytes without its end, and where in the file they begin and the next line begins.
    line: Vec<u8>,
    start: u64,
    end: u64,
    /// Of all that was read, where it is wanted.
    hash: Option<Sha256>,
}

impl Lines {
    pub(super) fn new(reader: Box<dyn BufRead + Send>, file: String) -> Lines {
        Lines { reader, file, number: 0, line: Vec::new(), start: 0, end: 0, hash: None }
    }

    /// The same, hashing what is read.
    pub(super) fn hashed(self) -> Lines {
        Lines { hash: Some(Sha256::new()), ..self }
    }

    /// Reads to the end and gives the SHA-256 of the file's bytes, in hexadecimal.
    pub(super) fn into_hash(mut self) -> Result<String> {
        let mut hash = self.hash.unwrap_or_default();
        loop {
            let bytes = self.reader.fill_buf().map_err(|error| Error::Io { path: self.file.clone(), error })?;
            if bytes.is_empty() {
                return Ok(hexadecimal(&hash.finalize()));
            }
            hash.update(bytes);
            let read = bytes.len();
            self.reader.consume(read);
        }
    }

    /// The next line without its end (`\n` or `\r\n`), nothing at the end of the file.
    pub(super) fn next(&mut self, hint: &'static str) -> Result<Option<&str>> {
        self.line.clear();
        // Two more bytes than a line may have: its end does not count.
        let mut limited = (&mut self.reader).take(MAX_BYTES as u64 + 2);
        let read =
            limited.read_until(b'\n', &mut self.line).map_err(|error| Error::Io { path: self.file.clone(), error })?;
        if read == 0 {
            return Ok(None);
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&self.line);
        }
        self.number += 1;
        self.start = self.end;
        self.end += read as u64;
        if self.line.ends_with(b"\n") {
            self.line.pop();
            if self.line.ends_with(b"\r") {
                self.line.pop();
            }
        }
        if self.line.len() > MAX_BYTES {
            return Err(self.too_long(hint));
        }
        match str::from_utf8(&self.line) {
            // A byte order mark is no part of the text.
            Ok(line) if self.number == 1 => Ok(Some(line.strip_prefix('\u{FEFF}').unwrap_or(line))),
            Ok(line) => Ok(Some(line)),
            Err(error) => Err(Error::Utf8 {
                file: self.file.clone(),
                line: self.number,
                byte: self.start + error.valid_up_to() as u64,
            }),
        }
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    fn too_long(&self, hint: &'static str) -> Error {
        Error::TooLong { file: self.file.clone(), line: self.number, limit: MAX_BYTES, hint }
    }
}

/// The texts of a `.txt` corpus.
pub(super) struct Documents {
    lines: Lines,
}

impl Documents {
    pub(super) fn new(lines: Lines) -> Documents {
        Documents { lines }
    }

    pub(super) fn into_lines(self) -> Lines {
        self.lines
    }

    pub(super) fn next(&mut self) -> Result<Option<Document>> {
        const HINT: &str = "separate documents by lines that are `<|endoftext|>`";
        let mut held = String::new();
        loop {
            match self.lines.next(HINT)? {
                Some(line) if line.trim_end() != SEPARATOR => {
                    held.push_str(line);
                    held.push('\n');
                }
                ended => {
                    let more = ended.is_some();
                    let text = mem::take(&mut held);
                    match text.trim() {
                        "" if more => {}
                        "" => return Ok(None),
                        trimmed => return Ok(Some(Document::Text(trimmed.into()))),
                    }
                }
            }
            if held.len() > MAX_BYTES + 1 {
                return Err(self.lines.too_long(HINT));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{read, texts};
    use super::{Document, MAX_BYTES};
    use crate::Error;

    #[test]
    fn texts_are_split_at_separator_lines_and_trimmed() {
        let documents = texts(&["One.\nTwo.", "Three."]);
        for content in [
            "One.\nTwo.\n<|endoftext|>\nThree.\n<|endoftext|>\n",
            "One.\nTwo.\n<|endoftext|>\nThree.",
            "\n<|endoftext|>\n\nOne.\nTwo.\n\n<|endoftext|>\n<|endoftext|>\n  Three.\n\n",
            "One.\r\nTwo.\r\n<|endoftext|>\r\nThree.\r\n<|endoftext|>",
            "\u{FEFF}One.\nTwo.\n<|endoftext|> \nThree.",
        ] {
            assert_eq!(read("a.txt", content, None).unwrap(), documents, "{content:?}");
        }
    }

    #[test]
    fn a_separator_inside_a_line_does_not_split() {
        let content = "One.<|endoftext|>Two.\n<|endoftext|>x";
        assert_eq!(read("a.txt", content, None).unwrap(), texts(&[content]));
    }

    #[test]
    fn a_file_without_text_has_no_document() {
        for content in ["", "\n\r\n", "<|endoftext|>", "\u{FEFF}"] {
            assert_eq!(read("a.txt", content, None).unwrap(), [], "{content:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_located() {
        for (name, content) in [("a.txt", &b"abc\r\nde\xFFf"[..]), ("a.jsonl", b"\"a\"\r\nde\xFFf")] {
            let error = read(name, content, None).unwrap_err();
            assert!(matches!(error, Error::Utf8 { line: 2, byte: 7, .. }), "{error}");
        }
    }

    #[test]
    fn a_huge_line_is_read_up_to_the_limit() {
        let mut content = "x".repeat(MAX_BYTES);
        let expected = texts(&[&content]);
        for end in ["", "\n", "\r\n"] {
            assert!(read("a.txt", content.clone() + end, None).unwrap() == expected);
        }
        content.push('x');
        let error = read("a.txt", &content, None).unwrap_err();
        assert!(matches!(error, Error::TooLong { line: 1, .. }), "{error}");
        assert!(matches!(read("a.jsonl", &content, None), Err(Error::TooLong { line: 1, .. })));
    }

    #[test]
    fn a_text_of_many_lines_is_limited_too() {
        let content = "0123456789\n".repeat(MAX_BYTES / 10);
        let error = read("a.txt", content, None).unwrap_err();
        assert!(matches!(error, Error::TooLong { line: 2.., .. }), "{error}");
    }

    proptest! {
        #[test]
        fn joined_texts_come_back(documents in prop::collection::vec("[a-z.]([a-z \n]{0,20}[a-z.])?", 0..8)) {
            let content = documents.join("\n<|endoftext|>\n");
            let expected: Vec<_> = documents.into_iter().map(Document::Text).collect();
            prop_assert_eq!(read("a.txt", content, None).unwrap(), expected);
        }
    }
}
