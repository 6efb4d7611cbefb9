//! What an SAE reads, as a folder of the Python package `datasets`: the cached activations that SAELens trains on.

use std::collections::HashMap;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float32Array, Int32Array, ListArray, RecordBatch};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use directrix_corpus::durable::{self, Beside};
use directrix_corpus::{Watch, hexadecimal};
use directrix_index::Index;
use directrix_model::Model;
use directrix_sae::Sae;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::pass::each_read;
use super::to_json;
use crate::{Error, Result};

/// The one file of rows.
const ROWS: &str = "data-00000-of-00001.arrow";

/// Writes what `sae` reads of the index's prompts to `folder`, as `datasets.load_from_disk` opens it: a row for every whole run of
/// `context` positions of a prompt, with the columns HOOK (f32, `[context, d_in]`) and `token_ids` (i32, `[context]`); what is left
/// of a prompt behind them is left out. The model runs on whole prompts. Gives the number of rows.
///
/// Memory: a model pass and what it captures.
///
/// # Errors
/// If the index is damaged, the model cannot be run, a file cannot be written, or `watch` stopped it.
///
/// # Panics
/// If `context` is 0.
pub fn write_datasets(
    folder: &Path,
    index: &Index,
    model: &Model,
    sae: &Sae,
    context: usize,
    watch: &Watch,
) -> Result<u64> {
    let end = &sae.site().reads;
    let form = Form { hook: end.hook.to_string(), context, width: end.width };
    let path = folder.join(ROWS);
    let failed = |error: ArrowError| Error::Arrow { path: path.clone(), source: error };
    let mut beside = Beside::create(&path)?;
    let schema = Arc::new(form.schema());
    let mut file = StreamWriter::try_new(BufWriter::new(beside.file()), &schema).map_err(failed)?;
    let mut rows = 0;
    each_read(
        index,
        model,
        sae,
        |length| length / context * context,
        watch,
        |prompts, read| {
            let read = (0..read.rows()).flat_map(|row| read.row(row)).copied().collect();
            let columns = form.columns(read, prompts.tokens()).map_err(failed)?;
            let batch = RecordBatch::try_new(schema.clone(), columns).map_err(failed)?;
            rows += batch.num_rows() as u64;
            file.write(&batch).map_err(failed)
        },
    )?;
    file.finish().map_err(failed)?;
    drop(file);
    beside.sync()?;
    beside.commit()?;
    let mut hash = Sha256::new();
    hash.update(to_json(&index.meta().identity));
    hash.update(to_json(&form.features()));
    let state = json!({
        "_data_files": [{ "filename": ROWS }],
        "_fingerprint": &hexadecimal(&hash.finalize())[..16],
        "_format_columns": null,
        "_format_kwargs": {},
        "_format_type": null,
        "_output_all_columns": false,
        "_split": null,
    });
    let info = json!({ "citation": "", "description": "", "features": form.features(), "homepage": "", "license": "" });
    durable::write(&folder.join("state.json"), &to_json(&state))?;
    durable::write(&folder.join("dataset_info.json"), &to_json(&info))?;
    Ok(rows)
}

/// What a row is.
struct Form {
    hook: String,
    context: usize,
    width: usize,
}

impl Form {
    /// The columns in the words of `datasets`.
    fn features(&self) -> Value {
        json!({
            &self.hook: { "shape": [self.context, self.width], "dtype": "float32", "_type": "Array2D" },
            "token_ids": { "feature": { "dtype": "int32", "_type": "Value" }, "length": self.context, "_type": "Sequence" },
        })
    }

    /// The columns in Arrow's words, with what `datasets` looks for.
    fn schema(&self) -> Schema {
        let lists = DataType::List(item(DataType::List(item(DataType::Float32))));
        let extension = HashMap::from([
            ("ARROW:extension:name".into(), "datasets.features.features.Array2DExtensionType".into()),
            ("ARROW:extension:metadata".into(), json!([[self.context, self.width], "float32"]).to_string()),
        ]);
        let acts = Field::new(&self.hook, lists, true).with_metadata(extension);
        let tokens = DataType::FixedSizeList(item(DataType::Int32), self.context as i32);
        let features = json!({ "info": { "features": self.features() } }).to_string();
        Schema::new_with_metadata(
            vec![acts, Field::new("token_ids", tokens, true)],
            HashMap::from([("huggingface".into(), features)]),
        )
    }

    /// Rows of what was read (`[positions, width]`) and the tokens there.
    fn columns(&self, read: Vec<f32>, tokens: &[u32]) -> Result<Vec<ArrayRef>, ArrowError> {
        let rows = tokens.len() / self.context;
        let lists = |length: usize, count: usize| OffsetBuffer::from_lengths(std::iter::repeat_n(length, count));
        let values = Arc::new(Float32Array::from(read));
        let positions = ListArray::try_new(item(DataType::Float32), lists(self.width, tokens.len()), values, None)?;
        let inner = item(positions.data_type().clone());
        let acts = ListArray::try_new(inner, lists(self.context, rows), Arc::new(positions), None)?;
        let tokens = Int32Array::from_iter_values(tokens.iter().map(|token| *token as i32));
        let tokens = FixedSizeListArray::try_new(item(DataType::Int32), self.context as i32, Arc::new(tokens), None)?;
        Ok(vec![Arc::new(acts), Arc::new(tokens)])
    }
}

fn item(of: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", of, true))
}
