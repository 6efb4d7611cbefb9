//! A file of the cache: windows that follow one another, in Parquet.
//!
//! A row is a window: `window` (uint64), its number in a reading of the corpus; `tokens` (list of uint32); and for each hook
//! point a column of its name, a list of floats, `[positions, width]` one row after another. Each window is a row group, so
//! that it is read without the others. Nothing is compressed: of the bits of activations nearly all are noise to a
//! compressor, and what reads them is to be as fast as the disk. Under the key `directrix` stands JSON: what the activations
//! are `of`, the `widths`, and for each window a checksum, `crc32c`, of its number, tokens and values in little-endian bytes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytemuck::cast_slice;
use directrix_corpus::durable::Beside;
use directrix_corpus::{self as corpus, caught};
use parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{DataType, FloatType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as Parquet};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::checkpoint::damaged;
use crate::{Error, Result};

/// What the activations of a cache are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct About {
    /// Of which model, corpus and windows.
    pub(super) of: Value,
    /// The width at each hook point, by its name.
    pub(super) widths: Vec<(String, usize)>,
}

/// What stands beside the rows.
#[derive(Serialize, Deserialize)]
struct Beneath {
    #[serde(flatten)]
    about: About,
    crc32c: Vec<u32>,
}

/// The key of [`Beneath`].
const KEY: &str = "directrix";

/// Windows `FIRST` up to `END`, which is not of them.
pub(super) fn name(first: u64, end: u64) -> String {
    format!("windows-{first:012}-{end:012}.parquet")
}

/// The first window of the file of this name and the end of its windows, if it is one.
pub(super) fn parse(name: &str) -> Option<(u64, u64)> {
    let (first, end) = name.strip_prefix("windows-")?.strip_suffix(".parquet")?.split_once('-')?;
    let (first, end) = (first.parse().ok()?, end.parse().ok()?);
    (first < end && self::name(first, end) == name).then_some((first, end))
}

fn checksum(number: u64, tokens: &[u32], rows: &[&[f32]]) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), cast_slice(tokens));
    rows.iter().fold(sum, |sum, rows| crc32c::crc32c_append(sum, cast_slice(rows)))
}

fn schema(about: &About) -> Parquet<Type> {
    let field = |name: &str, physical, bits: Option<i8>| {
        let unsigned = bits.map(|bits| LogicalType::integer(bits, false));
        let field = Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
        field.with_logical_type(unsigned).build().map(Arc::new)
    };
    let list = |name: &str, of: TypePtr| -> Parquet<TypePtr> {
        let list = Type::group_type_builder("list").with_repetition(Repetition::REPEATED).with_fields(vec![of]);
        let list = vec![Arc::new(list.build()?)];
        let whole = Type::group_type_builder(name).with_repetition(Repetition::REQUIRED).with_fields(list);
        whole.with_logical_type(Some(LogicalType::List)).build().map(Arc::new)
    };
    let mut fields = vec![
        field("window", PhysicalType::INT64, Some(64))?,
        list("tokens", field("element", PhysicalType::INT32, Some(32))?)?,
    ];
    for (hook, _) in &about.widths {
        fields.push(list(hook, field("element", PhysicalType::FLOAT, None)?)?);
    }
    Type::group_type_builder("activations").with_fields(fields).build()
}

/// A file being written beside its place.
pub(super) struct Writer {
    about: About,
    first: u64,
    sums: Vec<u32>,
    folder: PathBuf,
    beside: Beside,
    parquet: SerializedFileWriter<File>,
}

impl Writer {
    /// Begins a file in `folder` whose first window is `first`.
    pub(super) fn create(folder: &Path, about: &About, first: u64) -> Result<Writer> {
        let path = folder.join(name(first, first));
        let mut beside = Beside::create(&path)?;
        let file = beside.file().try_clone().map_err(|error| corpus::Error::Write { path: path.clone(), error })?;
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_offset_index_disabled(true);
        let parquet = schema(about)
            .and_then(|schema| SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build())))
            .map_err(|error| unwritten(&path, error))?;
        Ok(Writer { about: about.clone(), first, sums: Vec::new(), folder: folder.into(), beside, parquet })
    }

    /// The first window and the end of those written.
    pub(super) fn range(&self) -> (u64, u64) {
        (self.first, self.first + self.sums.len() as u64)
    }

    fn path(&self) -> PathBuf {
        let (first, end) = self.range();
        self.folder.join(name(first, end))
    }

    /// Writes the next window: its tokens, and its rows at each hook point.
    pub(super) fn push(&mut self, tokens: &[u32], rows: &[&[f32]]) -> Result<()> {
        let number = self.range().1;
        self.sums.push(checksum(number, tokens, rows));
        let path = self.path();
        let mut write = || -> Parquet<()> {
            let mut group = self.parquet.next_row_group()?;
            let mut next = 0;
            while let Some(mut column) = group.next_column()? {
                match next {
                    0 => column.typed::<Int64Type>().write_batch(&[number as i64], None, None).map(drop)?,
                    1 => {
                        let tokens: &[i32] = cast_slice(tokens);
                        let (definitions, repetitions) = levels(tokens.len());
                        column.typed::<Int32Type>().write_batch(tokens, Some(&definitions), Some(&repetitions))?;
                    }
                    _ => {
                        let rows = rows[next - 2];
                        let (definitions, repetitions) = levels(rows.len());
                        column.typed::<FloatType>().write_batch(rows, Some(&definitions), Some(&repetitions))?;
                    }
                }
                column.close()?;
                next += 1;
            }
            group.close().map(drop)
        };
        write().map_err(|error| unwritten(&path, error))
    }

    /// Puts the file into its place, if no other has come to stand there.
    pub(super) fn finish(mut self) -> Result<()> {
        let path = self.path();
        let beneath = Beneath { about: self.about, crc32c: self.sums };
        let beneath = serde_json::to_string(&beneath)
            .map_err(|error| unwritten(&path, ParquetError::General(error.to_string())))?;
        self.parquet.append_key_value_metadata(KeyValue::new(KEY.to_owned(), beneath));
        self.parquet.close().map_err(|error| unwritten(&path, error))?;
        self.beside.sync()?;
        if !path.exists() {
            self.beside.commit_at(&path)?;
        }
        Ok(())
    }
}

/// Definition and repetition levels of one list of so many values.
fn levels(count: usize) -> (Vec<i16>, Vec<i16>) {
    let repetitions = (0..count.max(1)).map(|i| i16::from(i > 0)).collect();
    (vec![i16::from(count > 0); count.max(1)], repetitions)
}

fn unwritten(path: &Path, error: ParquetError) -> Error {
    let error = match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        error => io::Error::other(error),
    };
    corpus::Error::Write { path: path.into(), error }.into()
}

/// A file that is there.
pub(super) struct Reader {
    path: PathBuf,
    first: u64,
    widths: Vec<usize>,
    sums: Vec<u32>,
    parquet: SerializedFileReader<File>,
}

impl Reader {
    /// Opens the file of windows `first` up to `end` in `folder`.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or is of other activations.
    pub(super) fn open(folder: &Path, about: &About, (first, end): (u64, u64)) -> Result<Reader> {
        let path = folder.join(name(first, end));
        let unreadable = |error| corpus::Error::Io { path: path.display().to_string(), error };
        let file = File::open(&path).map_err(unreadable)?;
        // The reader asserts what a correct file guarantees.
        let parquet = flatten(&path, caught(|| SerializedFileReader::new(file)))?;
        let pairs = parquet.metadata().file_metadata().key_value_metadata();
        let text = pairs.into_iter().flatten().find(|pair| pair.key == KEY).and_then(|pair| pair.value.as_deref());
        let beneath: Option<Beneath> = text.and_then(|text| serde_json::from_str(text).ok());
        let beneath = beneath.ok_or_else(|| damaged(&path, "it does not say what it holds"))?;
        if beneath.about != *about {
            let problem =
                "these activations are of another model, corpus, context or site than the folder's other files";
            return Err(damaged(&path, problem));
        }
        let windows = end - first;
        if (beneath.crc32c.len() as u64, parquet.num_row_groups() as u64) != (windows, windows) {
            return Err(damaged(&path, format!("it has not the {windows} windows of its name")));
        }
        let widths = about.widths.iter().map(|(_, width)| *width).collect();
        Ok(Reader { path, first, widths, sums: beneath.crc32c, parquet })
    }

    /// The rows of window `number` at each hook point; the window holds `tokens`.
    ///
    /// # Errors
    /// If they are not as they were written, or of other tokens.
    pub(super) fn read(&self, number: u64, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let place = (number - self.first) as usize;
        let read = || -> Parquet<_> {
            let group = self.parquet.get_row_group(place)?;
            let found = (column::<Int64Type>(&*group, 0)?, column::<Int32Type>(&*group, 1)?);
            let rows = (0..self.widths.len()).map(|hook| column::<FloatType>(&*group, 2 + hook));
            Ok((found, rows.collect::<Parquet<Vec<_>>>()?))
        };
        let ((window, found), rows) = flatten(&self.path, caught(read))?;
        let parts: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let whole = window == [number as i64] && checksum(number, cast_slice(&found), &parts) == self.sums[place];
        if !whole {
            return Err(damaged(&self.path, format!("window {number} is not as it was written")));
        }
        if cast_slice::<i32, u32>(&found) != tokens
            || rows.iter().zip(&self.widths).any(|(rows, width)| rows.len() != tokens.len() * width)
        {
            return Err(damaged(&self.path, format!("window {number} is not the corpus's")));
        }
        Ok(rows)
    }
}

/// The values of a row group's column, which has one row.
fn column<T: DataType>(group: &dyn RowGroupReader, number: usize) -> Parquet<Vec<T::T>> {
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(number)?);
    let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
    reader.read_records(1, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
    Ok(values)
}

fn flatten<T>(path: &Path, read: std::result::Result<Parquet<T>, String>) -> Result<T> {
    match read {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(damaged(path, error.to_string())),
        Err(panic) => Err(damaged(path, panic)),
    }
}
