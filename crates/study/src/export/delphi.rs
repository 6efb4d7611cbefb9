//! delphi's cache of latents: what `LatentCache` saves and `LatentDataset` loads.

use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use directrix_corpus::durable::{self, Beside};
use directrix_corpus::{Event, Tokenizer, Watch};
use directrix_index::{Example, Index, SaeIndex};
use half::f16;
use serde_json::json;

use super::{to_json, without_commit, written};
use crate::{Error, Result};

/// Files that the directions are divided into: delphi's `n_splits`.
const SPLITS: usize = 5;
/// Positions of the windows that delphi cuts prompts into: its `example_ctx_len`, of which all prompts must be a multiple.
const WINDOW: usize = 32;
/// What is not larger is left out, as delphi does.
const LEAST: f32 = 1e-5;

/// Writes the activations of those directions for which `wanted` is true (`[directions]`) to `folder/HOOK/START_END.safetensors`,
/// END included, each with `locations` (`[n, 3]`: prompt, position, direction less START), `activations` (f16, `[n]`) and `tokens`
/// (i64, `[prompts, width]`), and to `folder/HOOK/config.json`. All positions are there, whether they count or not. Prompts
/// are padded on the right with BOS, or 0 where the tokenizer has none, to the longest and on to a multiple of 32; no location is
/// there. Gives the number of activations.
///
/// # Errors
/// If the index is damaged, a file cannot be written, or `watch` stopped it.
///
/// # Panics
/// If `wanted` is shorter than the SAE has directions.
pub fn write_delphi(
    folder: &Path,
    index: &Index,
    sae: &SaeIndex,
    wanted: &[bool],
    tokenizer: Option<&Tokenizer>,
    watch: &Watch,
) -> Result<u64> {
    let pad = tokenizer.and_then(Tokenizer::bos).unwrap_or(0);
    let width = index.lengths().fold(WINDOW, |width, length| width.max(length.next_multiple_of(WINDOW)));
    let cache = Cache { index, sae, wanted, watch, width, pad };
    let folder = folder.join(sae.hook().to_string());
    let boundaries: Vec<usize> = (0..=SPLITS).map(|i| i * sae.directions() / SPLITS).collect();
    let mut number = 0;
    for ends in boundaries.windows(2).filter(|ends| ends[0] < ends[1]) {
        number += cache.write(&folder.join(format!("{}_{}.safetensors", ends[0], ends[1] - 1)), ends[0]..ends[1])?;
    }
    let identity = &index.meta().identity;
    let config = json!({
        "dataset_repo": identity.corpus.name,
        "dataset_split": "",
        "dataset_name": "",
        "dataset_column": identity.column.as_deref().unwrap_or("text"),
        "batch_size": 1,
        "cache_ctx_len": width,
        "n_tokens": index.prompts() * width,
        "n_splits": SPLITS,
        "model_name": without_commit(&identity.model.name),
    });
    durable::write(&folder.join("config.json"), &to_json(&config))?;
    Ok(number)
}

struct Cache<'a> {
    index: &'a Index,
    sae: &'a SaeIndex,
    wanted: &'a [bool],
    watch: &'a Watch,
    /// Tokens of every prompt, padding included.
    width: usize,
    pad: u32,
}

impl Cache<'_> {
    /// Writes a file of some directions, tensor by tensor. Memory: one direction's activations.
    fn write(&self, path: &Path, directions: Range<usize>) -> Result<u64> {
        let mut number = 0;
        self.each(path, &directions, |_, _| {
            number += 1;
            Ok(())
        })?;
        let numbered = [self.index.prompts(), self.width, directions.len()];
        let short = numbered.iter().all(|count| *count <= 1 << 16);
        let mut beside = Beside::create(path)?;
        let mut file = BufWriter::new(beside.file());
        let failed = |error| written(path, error);
        file.write_all(&self.header(number, short)).map_err(failed)?;
        for prompt in 0..self.index.prompts() {
            let tokens = self.index.prompt(prompt)?;
            for place in 0..self.width {
                let token = i64::from(tokens.get(place).copied().unwrap_or(self.pad));
                file.write_all(&token.to_le_bytes()).map_err(failed)?;
            }
        }
        self.each(path, &directions, |location, _| {
            let mut numbers = location.into_iter();
            numbers.try_for_each(|number| {
                let number = number as u32;
                if short {
                    file.write_all(&(number as u16).to_le_bytes())
                } else {
                    file.write_all(&number.to_le_bytes())
                }
            })
        })?;
        self.each(path, &directions, |_, activation| {
            file.write_all(&f16::from_f32(activation.min(f16::MAX.to_f32())).to_le_bytes())
        })?;
        file.flush().map_err(failed)?;
        drop(file);
        beside.sync()?;
        beside.commit()?;
        self.watch.tell(Event::new("export", directions.end as u64, "directions").of(self.sae.directions() as u64));
        Ok(number)
    }

    /// Every activation of some directions: its prompt, position and direction, counted from the first of them, and its value.
    /// What takes them writes to the file `path`.
    fn each(
        &self,
        path: &Path,
        directions: &Range<usize>,
        mut take: impl FnMut([usize; 3], f32) -> std::io::Result<()>,
    ) -> Result<()> {
        for direction in directions.clone().filter(|direction| self.wanted[*direction]) {
            if self.watch.is_stopped() {
                return Err(Error::Stopped);
            }
            let fires = self.sae.fires_anywhere(direction)?.into_iter();
            for Example { prompt, position, activation } in fires.filter(|fires| fires.activation > LEAST) {
                take([prompt, position, direction - directions.start], activation)
                    .map_err(|error| written(path, error))?;
            }
        }
        Ok(())
    }

    /// What stands before the tensors: its length and, as JSON, each one's type, shape and place.
    fn header(&self, number: u64, short: bool) -> Vec<u8> {
        let tokens = (self.index.prompts() * self.width * 8) as u64;
        let locations = tokens + 3 * number * if short { 2 } else { 4 };
        let tensors = json!({
            "tokens": { "dtype": "I64", "shape": [self.index.prompts(), self.width], "data_offsets": [0, tokens] },
            "locations": { "dtype": if short { "U16" } else { "U32" }, "shape": [number, 3], "data_offsets": [tokens, locations] },
            "activations": { "dtype": "F16", "shape": [number], "data_offsets": [locations, locations + 2 * number] },
        });
        let mut json = to_json(&tensors);
        json.resize(json.len().next_multiple_of(8), b' ');
        [&(json.len() as u64).to_le_bytes()[..], &json].concat()
    }
}
