//! Checkpoints: one sealed file with all that a run needs to go on as if it had never stopped.

use std::fs::File;
use std::path::{Path, PathBuf};

use directrix_corpus as corpus;
use directrix_corpus::durable::{Map, check_seal, seal, unsealed};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::buffer::BufferState;
use super::joined::{self, Array};
use super::member::{self, Member};
use super::over::Over;
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
    bytes: Map,
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

/// Writes a checkpoint in the place of the last one. Of several ranks the first one writes it, and is given the others'
/// directions bit by bit.
///
/// # Errors
/// If a parameter is not finite, or the file cannot be written; the last checkpoint then stays. If a rank is gone.
pub(super) fn write(
    out: &Path,
    identity: &Value,
    step: u64,
    members: &[Member],
    buffer: &BufferState,
    over: Over,
) -> Result<()> {
    let path = out.join(FILE);
    let finite = members.iter().try_for_each(|m| m.trainer.check_finite().map_err(|e| e.of_sae(&m.name)));
    over.all(finite.map(|()| Vec::new()))?;
    let state = |Member { trainer, state, .. }: &Member| {
        let running = trainer.running.clone();
        MemberState { state: state.clone(), counted: trainer.counted, running }
    };
    let members_state = members.iter().map(state).collect();
    let state = State { identity: identity.clone(), step, members: members_state, buffer: buffer.clone() };
    let state = serde_json::to_vec(&state).map_err(|e| joined::unwritten(&path, &e))?;

    let mut arrays = Vec::new();
    for (number, Member { trainer, .. }) in members.iter().enumerate() {
        let (all, held) = (trainer.all, trainer.directions());
        for (name, numbers) in counts(trainer) {
            arrays.push(Array::new(format!("{number}.{name}"), Dtype::U64, numbers, Some([all, held])));
        }
        for (name, parts) in trainer.stored() {
            let divided = (name != "b_dec").then_some([all, held]);
            for (part, numbers) in PARTS.into_iter().zip(parts) {
                arrays.push(Array::new(format!("{number}.{name}.{part}"), Dtype::F32, numbers, divided));
            }
        }
    }
    arrays.push(Array::new(STATE.to_owned(), Dtype::U8, &state, None));
    let (key, zeros) = unsealed();
    let file = joined::write(&path, &arrays, Some((key, zeros)), over)?;
    let Some(mut file) = file else { return Ok(()) };
    seal(&mut file)?;
    file.sync()?;
    Ok(file.commit()?)
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
        // Mapped, as it may be larger than the memory of a rank that needs some of it.
        let unreadable = |error| corpus::Error::Io { path: path.display().to_string(), error };
        let file = File::open(&path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.len() == 0 {
            return Err(damaged(&path, "it is empty"));
        }
        let bytes = Map::of(&file, &path).map_err(unreadable)?;
        check_seal(&path, &bytes)?;
        let state = tensors(&path, &bytes)?.tensor(STATE).ok().and_then(|t| serde_json::from_slice(t.data()).ok());
        let state: State = state.ok_or_else(|| damaged(&path, "it has no state of a run"))?;
        // Through text, as numbers may be written in more than one way.
        let now: Value = serde_json::from_str(&identity.to_string()).unwrap_or_default();
        if let Some(difference) = directrix_corpus::difference("", &state.identity, &now) {
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
        let (first, all, held) = (trainer.first, trainer.all, trainer.directions());
        // Of what each direction has numbers of, those of the directions that the trainer holds.
        let fill = |name: String, numbers: &mut [u8], divided: bool| {
            let each = numbers.len() / held.max(1);
            let (whole, start) = if divided { (each * all, each * first) } else { (numbers.len(), 0) };
            let tensor = tensors.tensor(&name).ok().filter(|tensor| tensor.data().len() == whole);
            let tensor =
                tensor.ok_or_else(|| damaged(&self.path, format!("`{name}` is missing or of another size")))?;
            numbers.copy_from_slice(&tensor.data()[start..start + numbers.len()]);
            Ok::<(), Error>(())
        };
        for (name, parts) in trainer.stored_mut() {
            for (part, numbers) in PARTS.into_iter().zip(parts) {
                fill(format!("{number}.{name}.{part}"), bytemuck::cast_slice_mut(numbers), name != "b_dec")?;
            }
        }
        fill(format!("{number}.silent"), bytemuck::cast_slice_mut(&mut trainer.silent), true)?;
        fill(format!("{number}.fired"), bytemuck::cast_slice_mut(&mut trainer.fired), true)?;
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
