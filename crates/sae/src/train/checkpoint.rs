//! Checkpoints: one file with all that a run needs to go on as if it had never stopped.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use directrix_kernels::Matrix;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::buffer::BufferState;
use super::cache::io;
use super::session::{Member, MemberState};
use super::trainer::{Numbers, Rows, Trainer};
use crate::{Error, Result};

const FILE: &str = "checkpoint.safetensors";
const STATE: &str = "state";
const BUFFER: &str = "buffer";

/// The small part, as JSON in the file's metadata.
#[derive(Serialize, Deserialize)]
struct State {
    identity: Value,
    step: u64,
    members: Vec<(MemberState, Counts)>,
}

/// A trainer's numbers that are not tensors.
#[derive(Serialize, Deserialize)]
struct Counts {
    steps: u64,
    counted: u64,
    threshold: Option<f32>,
}

/// A checkpoint that was read.
pub(super) struct Checkpoint {
    path: PathBuf,
    bytes: Vec<u8>,
    state: State,
}

/// Whether a run left a checkpoint in `out`.
pub(super) fn exists(out: &Path) -> bool {
    out.join(FILE).is_file()
}

/// Removes the checkpoint of a run that has ended.
pub(super) fn remove(out: &Path) -> Result<()> {
    let path = out.join(FILE);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("write", &path)(e)),
        _ => Ok(()),
    }
}

/// Writes a checkpoint beside the last one and renames it into place.
pub(super) fn write(out: &Path, identity: &Value, step: u64, members: &[Member], buffer: &BufferState) -> Result<()> {
    let path = out.join(FILE);
    let to_error = |e: String| Error::Stored { path: path.clone(), problem: format!("cannot be written: {e}") };
    let counts =
        |trainer: &Trainer| Counts { steps: trainer.steps, counted: trainer.counted, threshold: trainer.threshold };
    let state = State {
        identity: identity.clone(),
        step,
        members: members.iter().map(|member| (member.state.clone(), counts(&member.trainer))).collect(),
    };
    let state = serde_json::to_string(&state).map_err(|e| to_error(e.to_string()))?;
    let buffer = serde_json::to_vec(buffer).map_err(|e| to_error(e.to_string()))?;
    let mut tensors = vec![(BUFFER.to_owned(), view(Dtype::U8, vec![buffer.len()], &buffer, &path)?)];
    for (number, member) in members.iter().enumerate() {
        let trainer = &member.trainer;
        for (name, rows) in [("w_enc", &trainer.w_enc), ("w_dec", &trainer.w_dec)] {
            let [first, second] = &rows.moments;
            for (part, matrix) in [("value", &rows.value), ("first", first), ("second", second)] {
                let shape = vec![matrix.rows(), matrix.columns()];
                let bytes = bytemuck::cast_slice(matrix.data());
                tensors.push((format!("{number}.{name}.{part}"), view(Dtype::F32, shape, bytes, &path)?));
            }
        }
        for (name, numbers) in numbers(trainer) {
            let [first, second] = &numbers.moments;
            for (part, values) in [("value", &numbers.value), ("first", first), ("second", second)] {
                let bytes = bytemuck::cast_slice(values);
                tensors.push((format!("{number}.{name}.{part}"), view(Dtype::F32, vec![values.len()], bytes, &path)?));
            }
        }
        for (name, values) in [("silent", &trainer.silent), ("fired", &trainer.fired)] {
            let bytes = bytemuck::cast_slice(values);
            tensors.push((format!("{number}.{name}"), view(Dtype::U64, vec![values.len()], bytes, &path)?));
        }
    }
    let partial = path.with_extension("partial");
    let metadata = HashMap::from([(STATE.to_owned(), state)]);
    let written = safetensors::serialize_to_file(tensors, Some(metadata), &partial)
        .map_err(|e| match e {
            safetensors::SafeTensorError::IoError(e) => io("write", &path)(e),
            e => to_error(e.to_string()),
        })
        .and_then(|()| std::fs::rename(&partial, &path).map_err(io("write", &path)));
    if written.is_err() {
        // The half-written file is of no use; that it cannot be removed adds nothing to the error.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn view<'a>(dtype: Dtype, shape: Vec<usize>, bytes: &'a [u8], path: &Path) -> Result<TensorView<'a>> {
    TensorView::new(dtype, shape, bytes).map_err(|e| Error::Stored { path: path.into(), problem: e.to_string() })
}

fn numbers(trainer: &Trainer) -> [(&'static str, &Numbers); 5] {
    [
        ("b_enc", &trainer.b_enc),
        ("b_dec", &trainer.b_dec),
        ("log_threshold", &trainer.log_threshold),
        ("b_mag", &trainer.b_mag),
        ("r_mag", &trainer.r_mag),
    ]
}

fn shapes(trainer: &Trainer) -> Vec<usize> {
    let rows = [&trainer.w_enc, &trainer.w_dec].map(|rows| [&rows.value, &rows.moments[0], &rows.moments[1]]);
    let rows = rows.into_iter().flatten().flat_map(|matrix| [matrix.rows(), matrix.columns()]);
    let numbers =
        numbers(trainer).into_iter().flat_map(|(_, n)| [n.value.len(), n.moments[0].len(), n.moments[1].len()]);
    rows.chain(numbers).chain([trainer.silent.len(), trainer.fired.len()]).collect()
}

impl Checkpoint {
    /// The checkpoint of a run in `out`, if it left one.
    ///
    /// # Errors
    /// If it is of another run, or damaged.
    pub(super) fn find(out: &Path, identity: &Value) -> Result<Option<Checkpoint>> {
        let path = out.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io("read", &path)(e)),
        };
        let state = SafeTensors::read_metadata(&bytes)
            .ok()
            .and_then(|(_, header)| header.metadata().as_ref().and_then(|m| m.get(STATE).cloned()))
            .and_then(|text| serde_json::from_str::<State>(&text).ok());
        let Some(state) = state else { return Err(damaged(&path)) };
        // Through text, as numbers may be written in more than one way.
        let now: Value = serde_json::from_str(&identity.to_string()).unwrap_or_default();
        if let Some(difference) = difference("", &state.identity, &now) {
            let problem = format!(
                "the checkpoint is of another run: {difference}; give the options it was started with, name another --out, \
                 or remove the file to begin anew"
            );
            return Err(Error::Stored { path, problem });
        }
        Ok(Some(Checkpoint { path, bytes, state }))
    }

    pub(super) fn step(&self) -> u64 {
        self.state.step
    }

    pub(super) fn buffer(&self) -> Result<BufferState> {
        let (_, bytes) = self.tensor(BUFFER, Dtype::U8)?;
        serde_json::from_slice(&bytes).map_err(|_| damaged(&self.path))
    }

    /// SAE `number` of the run, which was begun as given.
    pub(super) fn member(&self, number: usize, begun: &Trainer) -> Result<(Trainer, MemberState)> {
        let Some((state, counts)) = self.state.members.get(number) else { return Err(damaged(&self.path)) };
        let rows = |name: &str| -> Result<Rows> {
            let part = |part: &str| -> Result<Matrix> {
                let (shape, values) = self.floats(&format!("{number}.{name}.{part}"))?;
                let [rows, columns] = shape[..] else { return Err(damaged(&self.path)) };
                Ok(Matrix::new(values, rows, columns))
            };
            Ok(Rows { value: part("value")?, moments: [part("first")?, part("second")?] })
        };
        let vector = |name: &str| -> Result<Numbers> {
            let part = |part: &str| self.floats(&format!("{number}.{name}.{part}")).map(|(_, values)| values);
            Ok(Numbers { value: part("value")?, moments: [part("first")?, part("second")?] })
        };
        let integers = |name: &str| -> Result<Vec<u64>> {
            let (_, bytes) = self.tensor(&format!("{number}.{name}"), Dtype::U64)?;
            Ok(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect())
        };
        let trainer = Trainer {
            objective: begun.objective.clone(),
            w_enc: rows("w_enc")?,
            w_dec: rows("w_dec")?,
            b_enc: vector("b_enc")?,
            b_dec: vector("b_dec")?,
            log_threshold: vector("log_threshold")?,
            b_mag: vector("b_mag")?,
            r_mag: vector("r_mag")?,
            threshold: counts.threshold,
            steps: counts.steps,
            silent: integers("silent")?,
            fired: integers("fired")?,
            counted: counts.counted,
        };
        if shapes(&trainer) == shapes(begun) { Ok((trainer, state.clone())) } else { Err(damaged(&self.path)) }
    }

    fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (shape, bytes) = self.tensor(name, Dtype::F32)?;
        Ok((shape, bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    fn tensor(&self, name: &str, dtype: Dtype) -> Result<(Vec<usize>, Cow<'_, [u8]>)> {
        let file = SafeTensors::deserialize(&self.bytes).map_err(|_| damaged(&self.path))?;
        let tensor = file.tensor(name).map_err(|_| damaged(&self.path))?;
        if tensor.dtype() != dtype {
            return Err(damaged(&self.path));
        }
        Ok((tensor.shape().to_vec(), Cow::Borrowed(tensor.data())))
    }
}

fn damaged(path: &Path) -> Error {
    let problem = "the checkpoint is damaged; remove the file to begin anew";
    Error::Stored { path: path.into(), problem: problem.into() }
}

/// The first place where two descriptions differ.
fn difference(place: &str, then: &Value, now: &Value) -> Option<String> {
    let inside = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            let keys = then.keys().chain(now.keys());
            keys.into_iter().find_map(|key| {
                let of = |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or_default();
                difference(&inside(key), &of(then), &of(now))
            })
        }
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            then.iter().zip(now).enumerate().find_map(|(i, (then, now))| difference(&inside(&i.to_string()), then, now))
        }
        (then, now) if then == now => None,
        (then, now) => Some(format!("`{place}` was {then} and is {now}")),
    }
}
