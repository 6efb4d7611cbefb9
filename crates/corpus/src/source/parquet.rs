//! The documents of a `.parquet` corpus.

use std::sync::Arc;

use parquet::basic::{ConvertedType, Repetition, Type as PhysicalType};
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};

use super::{Document, token_id};
use crate::error::{Error, Result, caught, excerpt, listing};

/// The documents of a `.parquet` corpus, row group by row group and page by page.
pub(super) struct Rows {
    reader: Box<dyn FileReader>,
    /// A schema of the wanted column alone.
    schema: SchemaDescPtr,
    /// What is left of the last row group opened, and the row group to open next.
    group: Option<ReaderIter>,
    next_group: usize,
    file: String,
    column: String,
    /// The last row read, counted from 1.
    row: usize,
}

impl Rows {
    pub(super) fn open(input: impl ChunkReader + 'static, name: &str, wanted: Option<&str>) -> Result<Rows> {
        let place = || format!("`{name}`");
        let reader = flatten(caught(|| SerializedFileReader::new(input)), place)?;
        let root = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
        let column = find_column(root.get_fields(), name, wanted)?;
        let schema = Type::group_type_builder(root.name()).with_fields(vec![column.clone()]).build();
        let schema = flatten(Ok(schema), place)?;
        Ok(Rows {
            reader: Box::new(reader),
            schema: Arc::new(SchemaDescriptor::new(Arc::new(schema))),
            group: None,
            next_group: 0,
            file: name.into(),
            column: column.name().into(),
            row: 0,
        })
    }

    /// How many rows the file says it has.
    pub(super) fn count(&self) -> usize {
        self.reader.metadata().file_metadata().num_rows().max(0) as usize
    }

    pub(super) fn next(&mut self) -> Result<Option<Document>> {
        loop {
            // The reader asserts what a correct file guarantees, so a corrupt one can make it panic.
            let row = caught(|| self.next_row());
            let Some(row) = flatten(row, || format!("`{}`, after row {}", self.file, self.row))? else {
                return Ok(None);
            };
            self.row += 1;
            if let Some(document) = self.document(row)? {
                return Ok(Some(document));
            }
        }
    }

    fn next_row(&mut self) -> parquet::errors::Result<Option<Row>> {
        loop {
            if let Some(row) = self.group.as_mut().and_then(Iterator::next) {
                return row.map(Some);
            }
            if self.next_group == self.reader.num_row_groups() {
                return Ok(None);
            }
            let group = self.reader.get_row_group(self.next_group)?;
            self.next_group += 1;
            // Without rows a group may be without pages, which the reader takes for an error.
            if group.metadata().num_rows() > 0 {
                self.group = Some(TreeBuilder::new().as_iter(self.schema.clone(), &*group)?);
            }
        }
    }

    fn document(&self, row: Row) -> Result<Option<Document>> {
        let place = || format!("`{}`, row {}", self.file, self.row);
        let wrong = |expected, found: &str| Error::Value {
            place: place(),
            column: excerpt(&self.column),
            expected,
            found: found.into(),
        };
        match row.into_columns().pop() {
            None | Some((_, Field::Null)) => Ok(None),
            Some((_, Field::Str(text))) => Ok(Some(Document::Text(text))),
            Some((_, Field::Bytes(bytes))) => match String::from_utf8(bytes.data().to_vec()) {
                Ok(text) => Ok(Some(Document::Text(text))),
                Err(_) => Err(wrong("text in UTF-8", "bytes that are not UTF-8")),
            },
            Some((_, Field::ListInternal(ids))) => {
                let id = |id: &Field| token_id(integer(id), place, &self.column, || excerpt(&id.to_string()));
                Ok(Some(Document::Tokens(ids.elements().iter().map(id).collect::<Result<_>>()?)))
            }
            Some((_, other)) => Err(wrong("text or a list of token ids", &excerpt(&other.to_string()))),
        }
    }
}

/// The one error of a call that may panic or fail.
fn flatten<T>(
    result: std::result::Result<parquet::errors::Result<T>, String>,
    place: impl FnOnce() -> String,
) -> Result<T> {
    let failed = |reason: String| Error::Parquet { place: place(), reason };
    match result {
        Ok(Ok(value)) => Ok(value),
        // The reader's message can hold a whole value.
        Ok(Err(error)) => Err(failed(excerpt(&error.to_string()))),
        Err(panic) => Err(failed(panic)),
    }
}

fn find_column(columns: &[TypePtr], name: &str, wanted: Option<&str>) -> Result<TypePtr> {
    let find = |wanted: &str| columns.iter().find(|column| column.name() == wanted);
    let found = match wanted {
        Some(wanted) => find(wanted),
        None => find("text").or_else(|| find("tokens")),
    };
    let place = format!("`{name}`");
    match found {
        Some(column) if is_text(column) || is_token_list(column) => Ok(column.clone()),
        Some(column) => Err(Error::Value {
            place,
            column: excerpt(column.name()),
            expected: "text or lists of integers",
            found: in_words(column),
        }),
        None => Err(Error::NoColumn {
            place,
            column: wanted.map_or_else(|| "`text` or `tokens`".into(), |wanted| listing([wanted])),
            found: listing(columns.iter().map(|column| column.name())),
        }),
    }
}

fn repetition(column: &Type) -> Option<Repetition> {
    let info = column.get_basic_info();
    info.has_repetition().then(|| info.repetition())
}

fn is_text(column: &Type) -> bool {
    column.is_primitive()
        && column.get_physical_type() == PhysicalType::BYTE_ARRAY
        && matches!(repetition(column), Some(Repetition::REQUIRED | Repetition::OPTIONAL))
        && matches!(
            column.get_basic_info().converted_type(),
            ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON
        )
}

/// The two ways to write a list: an annotated group around a repeated field, and a repeated field alone.
fn is_token_list(column: &Type) -> bool {
    if column.is_primitive() {
        return is_integer(column) && repetition(column) == Some(Repetition::REPEATED);
    }
    let [repeated] = column.get_fields() else { return false };
    let element = match &**repeated {
        Type::GroupType { fields, .. } => match &fields[..] {
            [element] if repetition(element) != Some(Repetition::REPEATED) => element,
            _ => return false,
        },
        Type::PrimitiveType { .. } => repeated,
    };
    column.get_basic_info().converted_type() == ConvertedType::LIST
        && matches!(repetition(column), Some(Repetition::REQUIRED | Repetition::OPTIONAL))
        && repetition(repeated) == Some(Repetition::REPEATED)
        && repetition(element).is_some()
        && is_integer(element)
}

fn is_integer(column: &Type) -> bool {
    column.is_primitive() && matches!(column.get_physical_type(), PhysicalType::INT32 | PhysicalType::INT64)
}

fn integer(field: &Field) -> Option<i64> {
    match *field {
        Field::Byte(id) => Some(id.into()),
        Field::Short(id) => Some(id.into()),
        Field::Int(id) => Some(id.into()),
        Field::Long(id) => Some(id),
        Field::UByte(id) => Some(id.into()),
        Field::UShort(id) => Some(id.into()),
        Field::UInt(id) => Some(id.into()),
        Field::ULong(id) => id.try_into().ok(),
        _ => None,
    }
}

/// A column's type, such as `BOOLEAN`.
fn in_words(column: &Type) -> String {
    match column {
        Type::PrimitiveType { physical_type, .. } => physical_type.to_string(),
        Type::GroupType { basic_info, .. } => match basic_info.converted_type() {
            ConvertedType::NONE => "a group".into(),
            other => format!("a group ({other})"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{BoolType, ByteArrayType, Int32Type, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use proptest::prelude::*;

    use super::super::tests::{read, texts};
    use super::Document;
    use crate::Error;

    /// The values of a column with their definition and repetition levels, for each row group.
    enum Column<'a> {
        Text(&'a [&'a [&'a str]], &'a [&'a [i16]]),
        Int32(&'a [i32], &'a [i16], &'a [i16]),
        Int64(&'a [i64], &'a [i16], &'a [i16]),
        Bool(&'a [bool]),
    }

    fn write(schema: &str, columns: &[Column<'_>], compression: Compression) -> Vec<u8> {
        let mut bytes = Vec::new();
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
        let groups = match columns {
            [Column::Text(groups, _), ..] => groups.len(),
            _ => 1,
        };
        for group in 0..groups {
            let mut row_group = writer.next_row_group().unwrap();
            for column in columns {
                let mut output = row_group.next_column().unwrap().unwrap();
                match column {
                    Column::Text(values, levels) => {
                        let values: Vec<_> = values[group].iter().map(|&text| text.into()).collect();
                        let levels = levels.get(group).copied();
                        output.typed::<ByteArrayType>().write_batch(&values, levels, None).unwrap();
                    }
                    Column::Int32(values, definitions, repetitions) => {
                        let output = output.typed::<Int32Type>();
                        output.write_batch(values, Some(definitions), Some(repetitions)).unwrap();
                    }
                    Column::Int64(values, definitions, repetitions) => {
                        let output = output.typed::<Int64Type>();
                        output.write_batch(values, Some(definitions), Some(repetitions)).unwrap();
                    }
                    Column::Bool(values) => {
                        output.typed::<BoolType>().write_batch(values, None, None).unwrap();
                    }
                }
                output.close().unwrap();
            }
            row_group.close().unwrap();
        }
        writer.close().unwrap();
        bytes
    }

    const TEXT: &str = "message schema { required binary text (UTF8); }";

    /// A schema of lists, whose elements have the given type and annotation.
    fn list(element: &str, annotation: &str) -> String {
        format!(
            "message schema {{ optional group tokens (LIST) {{ \
             repeated group list {{ optional {element} element {annotation}; }} }} }}"
        )
    }

    #[test]
    fn texts_of_all_row_groups_come_back() {
        let groups: &[&[&str]] = &[&["One.", "Two."], &[], &["Three.", "é"]];
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
            let bytes = write(TEXT, &[Column::Text(groups, &[])], compression);
            assert_eq!(read("a.parquet", bytes, None).unwrap(), texts(&["One.", "Two.", "Three.", "é"]));
        }
    }

    #[test]
    fn a_null_text_is_no_document() {
        let schema = "message schema { optional binary text; }";
        let bytes = write(schema, &[Column::Text(&[&["a", "b"]], &[&[1, 0, 1]])], Compression::SNAPPY);
        assert_eq!(read("a.parquet", bytes, None).unwrap(), texts(&["a", "b"]));
    }

    #[test]
    fn lists_of_every_integer_type_are_ready_ids() {
        // [1, 2], [], null, [3]
        let (definitions, repetitions) = (&[3, 3, 1, 0, 3], &[0, 1, 0, 0, 0]);
        let expected: Vec<_> = [vec![1, 2], vec![], vec![3]].into_iter().map(Document::Tokens).collect();
        for (element, annotation) in [("int32", ""), ("int32", "(UINT_16)"), ("int32", "(UINT_32)"), ("int64", "")] {
            let column = if element == "int64" {
                Column::Int64(&[1, 2, 3], definitions, repetitions)
            } else {
                Column::Int32(&[1, 2, 3], definitions, repetitions)
            };
            let bytes = write(&list(element, annotation), &[column], Compression::SNAPPY);
            assert_eq!(read("a.parquet", bytes, None).unwrap(), expected, "{element} {annotation}");
        }
        let repeated = "message schema { repeated int32 tokens; }";
        let bytes = write(repeated, &[Column::Int32(&[1, 2, 3], &[1, 1, 0, 1], &[0, 1, 0, 0])], Compression::SNAPPY);
        assert_eq!(read("a.parquet", bytes, None).unwrap(), expected);
    }

    #[test]
    fn an_id_below_zero_or_null_is_an_error_with_its_row() {
        for (values, definitions) in [(&[1, -1][..], &[3, 3]), (&[1], &[3, 2])] {
            let column = Column::Int32(values, definitions, &[0, 0]);
            let message = read("a.parquet", write(&list("int32", ""), &[column], Compression::SNAPPY), None);
            let message = message.unwrap_err().to_string();
            assert!(message.contains("a.parquet`, row 2, column `tokens`"), "{message}");
        }
    }

    #[test]
    fn the_column_is_the_named_one_or_text_or_tokens() {
        let schema = "message schema { required binary story (UTF8); required boolean good; \
            optional group tokens (LIST) { repeated group list { optional int32 element; } } }";
        let columns = [Column::Text(&[&["a"]], &[]), Column::Bool(&[true]), Column::Int32(&[7], &[3], &[0])];
        let bytes = write(schema, &columns, Compression::SNAPPY);
        assert_eq!(read("a.parquet", &bytes, None).unwrap(), [Document::Tokens(vec![7])]);
        assert_eq!(read("a.parquet", &bytes, Some("story")).unwrap(), texts(&["a"]));
        let error = read("a.parquet", &bytes, Some("good")).unwrap_err().to_string();
        assert!(error.contains("column `good`: expected text or lists of integers, found BOOLEAN"), "{error}");
        let error = read("a.parquet", &bytes, Some("body")).unwrap_err().to_string();
        assert!(error.contains("no column `body`; there are: `story`, `good`, `tokens`"), "{error}");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_an_error() {
        let bytes = write(TEXT, &[Column::Text(&[&["One."]], &[])], Compression::UNCOMPRESSED);
        let at = bytes.windows(4).position(|window| window == b"One.").unwrap();
        let mut bad = bytes;
        bad[at] = 0xFF;
        assert!(matches!(read("a.parquet", bad, None), Err(Error::Parquet { .. })));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = write(TEXT, &[Column::Text(&[&["One.", "Two."]], &[])], Compression::SNAPPY);
        for length in 0..bytes.len() {
            let error = read("a.parquet", &bytes[..length], None).unwrap_err();
            assert!(matches!(error, Error::Parquet { .. }), "{length}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_corrupt_file_never_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            tokens in any::<bool>(),
        ) {
            let mut bytes = if tokens {
                let column = Column::Int32(&[1, 2, 3], &[3, 3, 1, 3], &[0, 1, 0, 0]);
                write(&list("int32", ""), &[column], Compression::SNAPPY)
            } else {
                write(TEXT, &[Column::Text(&[&["One.", "Two."], &["Three."]], &[])], Compression::SNAPPY)
            };
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            // Some changes leave a readable file: only that the call returns is tested.
            let _ = read("a.parquet", bytes, None);
        }
    }
}
