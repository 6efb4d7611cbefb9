//! The documents of a `.jsonl` corpus.

use serde_json::{Map, Value};

use super::lines::Lines;
use super::{Document, token_id};
use crate::error::{Error, Result, excerpt, listing};

/// The documents of a `.jsonl` corpus, line by line.
pub(super) struct JsonLines {
    lines: Lines,
    column: Option<String>,
}

impl JsonLines {
    pub(super) fn new(lines: Lines, column: Option<String>) -> JsonLines {
        JsonLines { lines, column }
    }

    pub(super) fn into_lines(self) -> Lines {
        self.lines
    }

    pub(super) fn next(&mut self) -> Result<Option<Document>> {
        while let Some(line) = self.lines.next("write one document on each line")? {
            if line.trim().is_empty() {
                continue;
            }
            let value = serde_json::from_str(line).map_err(|error| self.not_json(&error))?;
            let document = match value {
                Value::String(text) => Some(Document::Text(text)),
                Value::Object(columns) => self.document(columns)?,
                other => {
                    let (file, line) = (self.lines.file().into(), self.lines.number());
                    return Err(Error::Line { file, line, found: kind(&other) });
                }
            };
            if document.is_some() {
                return Ok(document);
            }
        }
        Ok(None)
    }

    fn document(&self, mut columns: Map<String, Value>) -> Result<Option<Document>> {
        let column = match &self.column {
            Some(column) => column,
            None if !columns.contains_key("text") && columns.contains_key("tokens") => "tokens",
            None => "text",
        };
        match columns.get_mut(column).map(Value::take) {
            Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(Document::Text(text))),
            Some(Value::Array(ids)) => {
                let id = |id: &Value| token_id(id.as_i64(), || self.place(), column, || found(id));
                Ok(Some(Document::Tokens(ids.iter().map(id).collect::<Result<_>>()?)))
            }
            Some(other) => Err(Error::Value {
                place: self.place(),
                column: excerpt(column),
                expected: "a string or an array of token ids",
                found: kind(&other).into(),
            }),
            None => Err(Error::NoColumn {
                place: self.place(),
                column: match &self.column {
                    Some(column) => listing([column]),
                    None => "`text` or `tokens`".into(),
                },
                found: listing(columns.keys()),
            }),
        }
    }

    fn place(&self) -> String {
        format!("`{}`, line {}", self.lines.file(), self.lines.number())
    }

    fn not_json(&self, error: &serde_json::Error) -> Error {
        // The parser saw a single line: its own line number would mislead.
        let reason = error.to_string();
        let reason = reason.split_once(" at line ").map_or(&*reason, |(reason, _)| reason);
        Error::Json {
            file: self.lines.file().into(),
            line: self.lines.number(),
            column: error.column(),
            reason: excerpt(reason),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value that is no token id, in words; a number itself.
fn found(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => kind(other).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read, texts};
    use super::Document;
    use crate::Error;

    #[test]
    fn objects_and_strings_are_documents_and_blank_lines_are_not() {
        let content = "{\"id\": 1, \"text\": \"One.\"}\r\n\n  \n\"T\\u0077o.\"\n{\"text\": null}\n{\"text\": \"\"}";
        assert_eq!(read("a.jsonl", content, None).unwrap(), texts(&["One.", "Two.", ""]));
        assert_eq!(read("a.jsonl", "", None).unwrap(), []);
    }

    #[test]
    fn ready_ids_are_taken_where_there_is_no_text() {
        let content = "{\"tokens\": [0, 17, 4294967295]}\n{\"text\": \"a\", \"tokens\": [1]}";
        let expected = [Document::Tokens(vec![0, 17, u32::MAX]), Document::Text("a".into())];
        assert_eq!(read("a.jsonl", content, None).unwrap(), expected);
        let ids = read("a.jsonl", content, Some("tokens")).unwrap();
        assert_eq!(ids[1], Document::Tokens(vec![1]));
    }

    #[test]
    fn a_named_column_is_the_only_one_looked_at() {
        assert_eq!(read("a.jsonl", "{\"story\": \"a\", \"text\": \"b\"}", Some("story")).unwrap(), texts(&["a"]));
        let error = read("a.jsonl", "{\"text\": \"b\", \"tokens\": [1]}", Some("story")).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("a.jsonl`, line 1: no column `story`; there are: `text`, `tokens`"), "{message}");
    }

    #[test]
    fn a_line_without_a_known_column_is_an_error_that_lists_its_keys() {
        let message = read("a.jsonl", "\"a\"\n{\"story\": \"b\", \"id\": 1}", None).unwrap_err().to_string();
        assert!(message.contains("line 2: no column `text` or `tokens`; there are: `story`, `id`"), "{message}");
    }

    #[test]
    fn bad_lines_are_errors_with_their_line() {
        let error = read("a.jsonl", "\"a\"\n\n{\"text\": }", None).unwrap_err();
        assert!(matches!(error, Error::Json { line: 3, column: 10, .. }), "{error}");
        assert!(!error.to_string().contains("line 1"), "{error}");
        assert!(matches!(read("a.jsonl", "{} {}", None), Err(Error::Json { line: 1, .. })));
        assert!(matches!(read("a.jsonl", "[1, 2]", None), Err(Error::Line { line: 1, found: "an array", .. })));
        assert!(matches!(read("a.jsonl", "{\"text\": 5}", None), Err(Error::Value { .. })));
        assert!(matches!(read("a.jsonl", "[".repeat(100_000), None), Err(Error::Json { .. })));
        for ids in ["[1, -1]", "[4294967296]", "[1.5]", "[\"a\"]", "[[1]]"] {
            let error = read("a.jsonl", format!("{{\"tokens\": {ids}}}"), None).unwrap_err();
            assert!(matches!(error, Error::Value { .. }), "{error}");
        }
    }
}
