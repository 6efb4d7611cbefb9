//! Checkpoints: one sealed file with all that a run needs to go on as if it had never stopped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use directrix_corpus::durable::{Beside, read_sealed, seal, unsealed};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::buffer::BufferState;
use super::member::{self, Member};
use super::trainer::Trainer;
use crate::{Error, Result};

const FILE: &str = "checkpoint.safetensors";
const STATE: &str = "state";

/// What is not numbers of parameters, as JSON in a tensor of bytes.
#[derive(Serialize, Deserialize)]
struct State {
    identity: Value,
    step: u64,
    members: Vec<MemberState>,
    buffer: BufferState,
}

#[derive(Serialize, Deserialize)]
struct MemberState {
    state: member::State,
    counted: u64,
    running: Vec<f32>,
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
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(directrix_corpus::Error::Write { path, error }.into())
        }
        _ => Ok(()),
    }
}

/// Writes a checkpoint in the place of the last one.
///
/// # Errors
/// If a parameter is not finite, or the file cannot be written; the last checkpoint then stays.
pub(super) fn write(out: &Path, identity: &Value, step: u64, members: &[Member], buffer: &BufferState) -> Result<()> {
    let path = out.join(FILE);
    let to_error = |e: String| Error::Stored { path: path.clone(), problem: format!("cannot be written: {e}") };
    let mut states = Vec::new();
    for Member { trainer, state, name, .. } in members {
        trainer.check_finite().map_err(|e| e.of_sae(name))?;
        states.push(MemberState { state: state.clone(), counted: trainer.counted, running: trainer.running.clone() });
    }
    let state = State { identity: identity.clone(), step, members: states, buffer: buffer.clone() };
    let state = serde_json::to_vec(&state).map_err(|e| to_error(e.to_string()))?;

    let mut arrays = Vec::new();
    for (number, Member { trainer, .. }) in members.iter().enumerate() {
        for (name, numbers) in counts(trainer) {
            arrays.push(Array::new(format!("{number}.{name}"), Dtype::U64, numbers));
        }
        for (name, parts) in trainer.stored() {
            for (part, numbers) in PARTS.into_iter().zip(parts) {
                arrays.push(Array::new(format!("{number}.{name}.{part}"), Dtype::F32, numbers));
            }
        }
    }
    arrays.push(Array::new(STATE.to_owned(), Dtype::U8, &state));

    let mut end = 0;
    let infos = arrays.iter().map(|Array { name, dtype, len, bytes }| {
        let start = end;
        end += bytes.len();
        (name.clone(), TensorInfo { dtype: *dtype, shape: vec![*len], data_offsets: (start, end) })
    });
    let (key, zeros) = unsealed();
    let metadata = HashMap::from([(key.to_owned(), zeros.to_owned())]);
    let header = Metadata::new(Some(metadata), infos.collect()).map_err(|e| to_error(e.to_string()))?;
    let mut header = serde_json::to_string(&header).map_err(|e| to_error(e.to_string()))?;
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));

    let mut file = Beside::create(&path)?;
    let mut at = 0;
    let length = (header.len() as u64).to_le_bytes();
    for bytes in [&length[..], header.as_bytes()].into_iter().chain(arrays.iter().map(|array| array.bytes)) {
        file.write_at(at, bytes)?;
        at += bytes.len() as u64;
    }
    seal(&mut file)?;
    file.sync()?;
    Ok(file.commit()?)
}

/// Numbers to be written.
struct Array<'a> {
    name: String,
    dtype: Dtype,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    fn new<T: bytemuck::NoUninit>(name: String, dtype: Dtype, numbers: &'a [T]) -> Array<'a> {
        Array { name, dtype, len: numbers.len(), bytes: bytemuck::cast_slice(numbers) }
    }
}

/// Names of a parameter's numbers and of Adam's moments of them.
const PARTS: [&str; 3] = ["value", "first", "second"];

fn counts(trainer: &Trainer) -> [(&'static str, &[u64]); 2] {
    [("silent", &trainer.silent), ("fired", &trainer.fired)]
}

impl Checkpoint {
    /// The checkpoint of a run in `out`, if it left one.
    ///
    /// # Errors
    /// If it is of another run, or damaged.
    pub(super) fn find(out: &Path, identity: &Value) -> Result<Option<Checkpoint>> {
        if !exists(out) {
            return Ok(None);
        }
        let path = out.join(FILE);
        let bytes = read_sealed(&path)?;
        let state = tensors(&path, &bytes)?.tensor(STATE).ok().and_then(|t| serde_json::from_slice(t.data()).ok());
        let state: State = state.ok_or_else(|| damaged(&path, "it has no state of a run"))?;
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

    /// Where the rows of the buffer came from, which has so many.
    ///
    /// # Errors
    /// If it is the state of no such buffer.
    pub(super) fn buffer(self, capacity: usize) -> Result<BufferState> {
        let sound = Some(self.state.buffer).filter(|buffer| buffer.is_sound(capacity));
        sound.ok_or_else(|| damaged(&self.path, "its buffer is not one of this run"))
    }

    /// SAE `number` of the run; `trainer` has its dimensions.
    ///
    /// # Errors
    /// If the checkpoint has no such SAE, or of other dimensions.
    pub(super) fn member(&self, number: usize, mut trainer: Trainer) -> Result<(Trainer, member::State)> {
        let missing = || damaged(&self.path, format!("SAE {number} of the run is not in it"));
        let MemberState { state, counted, running } = self.state.members.get(number).ok_or_else(missing)?;
        let tensors = tensors(&self.path, &self.bytes)?;
        let fill = |name: String, numbers: &mut [u8]| {
            let tensor = tensors.tensor(&name).ok().filter(|tensor| tensor.data().len() == numbers.len());
            let tensor =
                tensor.ok_or_else(|| damaged(&self.path, format!("`{name}` is missing or of another size")))?;
            numbers.copy_from_slice(tensor.data());
            Ok::<(), Error>(())
        };
        for (name, parts) in trainer.stored_mut() {
            for (part, numbers) in PARTS.into_iter().zip(parts) {
                fill(format!("{number}.{name}.{part}"), bytemuck::cast_slice_mut(numbers))?;
            }
        }
        fill(format!("{number}.silent"), bytemuck::cast_slice_mut(&mut trainer.silent))?;
        fill(format!("{number}.fired"), bytemuck::cast_slice_mut(&mut trainer.fired))?;
        trainer.steps = self.state.step;
        trainer.counted = *counted;
        trainer.running.clone_from(running);
        Ok((trainer, state.clone()))
    }
}

fn tensors<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|e| damaged(path, e.to_string()))
}

/// An error that says that a file is not as it was written.
pub(super) fn damaged(path: &Path, problem: impl Into<String>) -> Error {
    directrix_corpus::Error::Damaged { path: path.into(), problem: problem.into() }.into()
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
