//! Files of what ranks hold together, written without any of them holding it all.

use std::collections::HashMap;
use std::path::Path;

use directrix_corpus::durable::Beside;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::over::{Over, unlike};
use crate::format::saelens::{SPARSITY, WEIGHTS, logarithms};
use crate::{Error, Result, Sae};

/// Bytes that a rank gives at a time.
const PIECE: usize = 4 << 20;

/// Numbers of a safetensors file: all of them, or those of the directions that a rank holds.
pub(super) struct Array<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &'a [u8],
    held: Held,
}

/// What of an array a rank has.
enum Held {
    All,
    /// So many bytes of each direction, of so many directions.
    Rows {
        row: usize,
        all: usize,
    },
    /// Those columns of each row, of so many.
    Columns {
        all: usize,
    },
}

impl<'a> Array<'a> {
    /// An array in one dimension. Where directions are divided: of how many it is in all, and of how many here.
    pub(super) fn new<T: bytemuck::NoUninit>(
        name: String,
        dtype: Dtype,
        numbers: &'a [T],
        directions: Option<[usize; 2]>,
    ) -> Array<'a> {
        let bytes = bytemuck::cast_slice(numbers);
        let Some([all, held]) = directions else {
            return Array { name, dtype, shape: vec![numbers.len()], bytes, held: Held::All };
        };
        let each = numbers.len() / held.max(1);
        Array { name, dtype, shape: vec![each * all], bytes, held: Held::Rows { row: each * size_of::<T>(), all } }
    }

    fn len(&self) -> usize {
        match self.held {
            Held::All => self.bytes.len(),
            Held::Rows { row, all } => row * all,
            Held::Columns { .. } => self.shape.iter().product::<usize>() * size_of::<f32>(),
        }
    }

    /// Hands all of its bytes to `put` of the first rank, with where they stand.
    fn collect(&self, over: Over, put: &mut dyn FnMut(usize, &[u8])) -> Result<()> {
        match self.held {
            Held::All => put(0, self.bytes),
            Held::Rows { row, all } => {
                let holds = over.holds(all);
                let most = holds.iter().map(|held| held.len() * row).max().unwrap_or(0);
                for from in (0..most).step_by(PIECE) {
                    let piece = &self.bytes[from.min(self.bytes.len())..(from + PIECE).min(self.bytes.len())];
                    let Some(ranks) = over.holders() else {
                        put(from, piece);
                        continue;
                    };
                    for (piece, held) in ranks.gather(piece)?.iter().zip(&holds) {
                        put(held.start * row + from, piece);
                    }
                }
            }
            Held::Columns { all } => {
                let holds = over.holds(all);
                let (rows, held) = (self.shape[0], self.bytes.len() / self.shape[0].max(1));
                let together = (PIECE / held.max(1)).max(1);
                for first in (0..rows).step_by(together) {
                    let count = together.min(rows - first);
                    let mine = self.bytes[first * held..(first + count) * held].to_vec();
                    let parts = over.gather(mine)?;
                    let mut whole = Vec::with_capacity(count * all * size_of::<f32>());
                    for i in 0..count {
                        for (rank, (part, held)) in parts.iter().zip(&holds).enumerate() {
                            let width = held.len() * size_of::<f32>();
                            whole.extend(part.get(i * width..(i + 1) * width).ok_or_else(|| unlike(rank))?);
                        }
                    }
                    put(first * all * size_of::<f32>(), &whole);
                }
            }
        }
        Ok(())
    }
}

/// The error of a file that cannot be written.
pub(super) fn unwritten(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Stored { path: path.into(), problem: format!("cannot be written: {why}") }
}

/// A safetensors file of these arrays, in their order, which the first rank is to commit; `note` is put in its header. All
/// ranks must call this, with arrays of the same names.
///
/// # Errors
/// If a rank is gone; of the first rank also if the file cannot be written.
pub(super) fn write(path: &Path, arrays: &[Array], note: Option<(&str, &str)>, over: Over) -> Result<Option<Beside>> {
    let mut end = 0;
    let infos = arrays.iter().map(|array| {
        let start = end;
        end += array.len();
        (array.name.clone(), TensorInfo { dtype: array.dtype, shape: array.shape.clone(), data_offsets: (start, end) })
    });
    let note = note.map(|(key, value)| HashMap::from([(key.to_owned(), value.to_owned())]));
    let header = Metadata::new(note, infos.collect()).map_err(|e| unwritten(path, &e))?;
    let mut header = serde_json::to_string(&header).map_err(|e| unwritten(path, &e))?;
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));

    // What cannot be written is said when all ranks have given what they have: those that do not write go on.
    let begin = || -> Result<Beside> {
        let mut file = Beside::create(path)?;
        file.write_at(0, &(header.len() as u64).to_le_bytes())?;
        file.write_at(8, header.as_bytes())?;
        Ok(file)
    };
    let mut file = over.leads().then(begin).transpose();
    let mut at = 8 + header.len();
    for array in arrays {
        if over.holders().is_none() && !over.leads() {
            return Ok(None);
        }
        array.collect(over, &mut |from, bytes| {
            let Ok(Some(open)) = &mut file else { return };
            if let Err(error) = open.write_at((at + from) as u64, bytes) {
                file = Err(error.into());
            }
        })?;
        at += array.len();
    }
    file
}

/// Writes the weights and densities of an SAE of which each rank holds some directions, of `all`: the files that
/// [`Sae::save`] writes.
///
/// # Errors
/// As [`write`].
pub(super) fn save(sae: &Sae, folder: &Path, densities: &[f64], all: usize, over: Over) -> Result<()> {
    let w_enc = sae.encoder().transposed();
    let tensors = sae.tensors(&w_enc);
    let mut arrays = Vec::new();
    for (name, tensor) in &tensors {
        let mut shape = tensor.shape().to_vec();
        let bytes = tensor.data();
        let held = match *name {
            "b_dec" => Held::All,
            "W_enc" => {
                shape[1] = all;
                Held::Columns { all }
            }
            _ => {
                let row = bytes.len() / shape[0].max(1);
                shape[0] = all;
                Held::Rows { row, all }
            }
        };
        arrays.push(Array { name: (*name).to_owned(), dtype: tensor.dtype(), shape, bytes, held });
    }
    // As safetensors orders them.
    arrays.sort_by(|a, b| a.name.cmp(&b.name));
    commit(write(&folder.join(WEIGHTS), &arrays, None, over)?)?;
    let logarithms = logarithms(densities);
    let sparsity = Array::new("sparsity".into(), Dtype::F32, &logarithms, Some([all, densities.len()]));
    commit(write(&folder.join(SPARSITY), &[sparsity], None, over)?)
}

fn commit(file: Option<Beside>) -> Result<()> {
    file.map_or(Ok(()), |file| Ok(file.commit()?))
}
