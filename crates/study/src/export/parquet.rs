//! The sparse activations of an SAE as one Parquet file: a row for each position and direction that fires there.

use std::path::Path;
use std::sync::Arc;

use directrix_corpus::durable::Beside;
use directrix_corpus::{Event, Tokenizer, Watch, token_text};
use directrix_index::{Index, SaeIndex};
use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int32Type, Int64Type};
use parquet::errors::Result as Written;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use crate::{Error, Result};

/// Rows after which a row group ends, at the end of a prompt: what is held in memory.
const ROW_GROUP: usize = 1 << 18;

/// Rows by column.
#[derive(Default)]
struct Rows {
    prompt: Vec<i64>,
    position: Vec<i32>,
    token: Vec<i32>,
    text: Vec<ByteArray>,
    direction: Vec<i32>,
    activation: Vec<f32>,
}

/// Writes the activations of those directions for which `wanted` is true (`[directions]`) to the Parquet file `path`: `prompt`
/// (int64), `position` in it, `token` (its id), `text`, `direction` (int32) and `activation` (float), in the order of the
/// prompts, positions and directions. All positions are there, whether they count or not. Gives the number of rows.
///
/// # Errors
/// If the index is damaged, the file cannot be written, or `watch` stopped it.
///
/// # Panics
/// If `wanted` is shorter than the SAE has directions.
pub fn write_activations(
    path: &Path,
    index: &Index,
    sae: &SaeIndex,
    wanted: &[bool],
    tokenizer: Option<&Tokenizer>,
    watch: &Watch,
) -> Result<u64> {
    let failed = |source| Error::Parquet { table: path.display().to_string(), source };
    let mut beside = Beside::create(path)?;
    let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
    let schema = Arc::new(schema().map_err(failed)?);
    let mut file = SerializedFileWriter::new(beside.file(), schema, properties).map_err(failed)?;
    let mut texts: Vec<Option<ByteArray>> = vec![None; index.meta().vocabulary];
    let (mut rows, mut written) = (Rows::default(), 0);
    for prompt in 0..index.prompts() {
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        for (position, &token) in index.prompt(prompt)?.iter().enumerate() {
            let (directions, activations) = sae.at(prompt, position)?;
            for (&direction, &activation) in directions.iter().zip(activations) {
                if wanted[direction as usize] {
                    let text = &mut texts[token as usize];
                    let text = text.get_or_insert_with(|| token_text(tokenizer, token).into_bytes().into());
                    rows.push((prompt, position, token, direction, activation), text.clone());
                }
            }
        }
        if rows.prompt.len() >= ROW_GROUP || prompt + 1 == index.prompts() {
            written += rows.prompt.len() as u64;
            rows.write(&mut file).map_err(failed)?;
            watch.tell(Event::new("export", prompt as u64 + 1, "prompts").of(index.prompts() as u64));
        }
    }
    file.close().map_err(failed)?;
    beside.sync()?;
    beside.commit()?;
    Ok(written)
}

fn schema() -> Written<Type> {
    let field = |name, physical, logical| {
        let field = Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
        field.with_logical_type(logical).build().map(Arc::new)
    };
    let fields = vec![
        field("prompt", PhysicalType::INT64, None)?,
        field("position", PhysicalType::INT32, None)?,
        field("token", PhysicalType::INT32, None)?,
        field("text", PhysicalType::BYTE_ARRAY, Some(LogicalType::String))?,
        field("direction", PhysicalType::INT32, None)?,
        field("activation", PhysicalType::FLOAT, None)?,
    ];
    Type::group_type_builder("activations").with_fields(fields).build()
}

impl Rows {
    fn push(&mut self, row: (usize, usize, u32, u32, f32), text: ByteArray) {
        let (prompt, position, token, direction, activation) = row;
        self.prompt.push(prompt as i64);
        self.position.push(position as i32);
        self.token.push(token as i32);
        self.text.push(text);
        self.direction.push(direction as i32);
        self.activation.push(activation);
    }

    /// Writes the rows as a row group and forgets them.
    fn write(&mut self, file: &mut SerializedFileWriter<&mut std::fs::File>) -> Written<()> {
        let Rows { prompt, position, token, text, direction, activation } = std::mem::take(self);
        let mut group = file.next_row_group()?;
        let mut number = 0;
        while let Some(mut column) = group.next_column()? {
            match number {
                0 => column.typed::<Int64Type>().write_batch(&prompt, None, None)?,
                1 => column.typed::<Int32Type>().write_batch(&position, None, None)?,
                2 => column.typed::<Int32Type>().write_batch(&token, None, None)?,
                3 => column.typed::<ByteArrayType>().write_batch(&text, None, None)?,
                4 => column.typed::<Int32Type>().write_batch(&direction, None, None)?,
                _ => column.typed::<FloatType>().write_batch(&activation, None, None)?,
            };
            column.close()?;
            number += 1;
        }
        group.close().map(drop)
    }
}
