//! The pass: corpus to sparse activations on disk, shard by shard.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use directrix_corpus::{Chunk, Prompts};
use directrix_model::{Ask, HookPoint, Model, batches};
use directrix_sae::Sae;
use serde::{Deserialize, Serialize};

use crate::error::At;
use crate::files::{Appender, read_json, write_json};
use crate::index::{Meta, SaeMeta};
use crate::{Error, Identity, Index, Result, sort};

/// Positions between two checkpoints.
const SHARD: usize = 32_768;
/// Positions in one model pass.
const BATCH: usize = 2048;
/// The file that says what an unfinished pass has done.
const CHECKPOINT: &str = "checkpoint.json";
/// Positions are numbered with 32 bits.
const MOST_POSITIONS: u64 = u32::MAX as u64;

/// How far a pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Prompts done, those of an earlier start included.
    pub prompts: usize,
    /// Positions done, likewise.
    pub positions: u64,
    /// Whether the pass is over and the activations are being sorted by direction.
    pub sorting: bool,
}

/// The last consistent state of an unfinished pass.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Checkpoint {
    identity: Identity,
    prompts: usize,
    positions: u64,
    cut: usize,
    shards: u64,
    /// Stored activations per SAE.
    active: Vec<u64>,
}

/// The growing files of one SAE.
struct SaeFiles {
    indptr: Appender<u64>,
    directions: Appender<u32>,
    values: Appender<f32>,
    run_indptr: Appender<u64>,
    run_positions: Appender<u32>,
    run_values: Appender<f32>,
}

/// Indexes the prompts of `chunks` in `folder`.
///
/// The work is done in `folder` with `.partial` appended, which is renamed when complete. An interrupted pass over the same
/// inputs goes on from its last checkpoint; a finished one is opened as it is.
///
/// # Errors
/// If `folder` holds something else, an input is bad, a file cannot be written, or `stop` was set.
pub fn build(
    model: &Model,
    saes: &[Sae],
    chunks: impl Iterator<Item = directrix_corpus::Result<Chunk>>,
    identity: &Identity,
    folder: &Path,
    stop: &AtomicBool,
    mut progress: impl FnMut(Progress),
) -> Result<Index> {
    if folder.exists() {
        let index = Index::open(folder)?;
        return match index.meta().identity.difference(identity) {
            None => Ok(index),
            Some(difference) => Err(Error::Other { path: folder.into(), difference }),
        };
    }
    let partial = partial_folder(folder);
    let foreign = partial.exists() && !partial.join(CHECKPOINT).exists();
    let built = pass(model, saes, chunks, identity, &partial, stop, &mut progress);
    // What has no checkpoint cannot be gone on from: a bad input leaves nothing behind.
    if built.is_err() && !foreign && partial.is_dir() && !partial.join(CHECKPOINT).exists() {
        std::fs::remove_dir_all(&partial).at(&partial)?;
    }
    built?;
    std::fs::rename(&partial, folder).at(folder)?;
    Index::open(folder)
}

/// Makes the index in `partial`, all but its name.
fn pass(
    model: &Model,
    saes: &[Sae],
    chunks: impl Iterator<Item = directrix_corpus::Result<Chunk>>,
    identity: &Identity,
    partial: &Path,
    stop: &AtomicBool,
    progress: &mut impl FnMut(Progress),
) -> Result<()> {
    let mut pass = Pass::open(model, saes, identity, partial)?;
    let mut held = Prompts::new();
    let mut skip = pass.done.prompts;
    for chunk in chunks {
        let Chunk { prompts, cut } = chunk?;
        let already = skip.min(prompts.len());
        skip -= already;
        pass.done.cut += cut;
        for prompt in prompts.iter().skip(already) {
            held.push(prompt);
            if held.positions() >= SHARD {
                pass.shard(&std::mem::take(&mut held), stop, progress)?;
            }
        }
    }
    if !held.is_empty() {
        pass.shard(&held, stop, progress)?;
    }
    let done = pass.done.clone();
    drop(pass);
    progress(Progress { prompts: done.prompts, positions: done.positions, sorting: true });
    let meta = Meta {
        format: Meta::FORMAT,
        identity: identity.clone(),
        prompts: done.prompts,
        positions: done.positions,
        cut: done.cut,
        vocabulary: model.config().d_vocab,
        saes: saes
            .iter()
            .enumerate()
            .map(|(i, sae)| SaeMeta {
                folder: format!("sae-{i}"),
                name: sae.short_name().into(),
                hook: sae.site().reads.hook,
                directions: sae.directions(),
                active: done.active[i],
            })
            .collect(),
    };
    for sae in &meta.saes {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped { prompts: done.prompts });
        }
        sort::by_direction(partial, sae, &meta, done.shards)?;
    }
    for sae in &meta.saes {
        sort::remove_runs(partial, sae)?;
    }
    write_json(&partial.join("index.json"), &meta)?;
    let checkpoint = partial.join(CHECKPOINT);
    std::fs::remove_file(&checkpoint).at(&checkpoint)
}

fn partial_folder(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Removes an unfinished pass over other inputs; anything else that stands in its place is left alone.
fn clear(folder: &Path) -> Result<()> {
    if folder.join(CHECKPOINT).exists() {
        return std::fs::remove_dir_all(folder).at(folder);
    }
    if folder.exists() && std::fs::read_dir(folder).at(folder)?.next().is_some() {
        let problem = "is not an unfinished index, but stands where one would be made; move it or choose another --out";
        return Err(Error::Damaged { path: folder.into(), problem: problem.into() });
    }
    Ok(())
}

struct Pass<'a> {
    model: &'a Model,
    saes: &'a [Sae],
    folder: PathBuf,
    done: Checkpoint,
    tokens: Appender<u32>,
    offsets: Appender<u64>,
    files: Vec<SaeFiles>,
}

impl<'a> Pass<'a> {
    /// Starts anew, or goes on from the checkpoint in `folder` when it is of the same inputs.
    fn open(model: &'a Model, saes: &'a [Sae], identity: &Identity, folder: &Path) -> Result<Pass<'a>> {
        let fresh = Checkpoint {
            identity: identity.clone(),
            prompts: 0,
            positions: 0,
            cut: 0,
            shards: 0,
            active: vec![0; saes.len()],
        };
        let earlier: Option<Checkpoint> = read_json(&folder.join(CHECKPOINT)).ok();
        let same = earlier.filter(|c| c.identity.difference(identity).is_none());
        if same.is_none() {
            clear(folder)?;
        }
        let mut done = same.unwrap_or(fresh);
        std::fs::create_dir_all(folder).at(folder)?;
        // The corpus is read from its start again, and its cut prompts counted again.
        done.cut = 0;
        let file = |name: &str| folder.join(name);
        let files = saes
            .iter()
            .enumerate()
            .map(|(i, sae)| {
                let own = folder.join(format!("sae-{i}"));
                std::fs::create_dir_all(&own).at(&own)?;
                let (active, rows) = (done.active[i], (sae.directions() as u64 + 1) * done.shards);
                // Before the first shard the position index holds nothing, after it one offset more than positions.
                let indptr = if done.shards == 0 { 0 } else { done.positions + 1 };
                Ok(SaeFiles {
                    indptr: Appender::open(own.join("by_position.indptr.u64"), indptr)?,
                    directions: Appender::open(own.join("by_position.directions.u32"), active)?,
                    values: Appender::open(own.join("by_position.values.f32"), active)?,
                    run_indptr: Appender::open(own.join("runs.indptr.u64"), rows)?,
                    run_positions: Appender::open(own.join("runs.positions.u32"), active)?,
                    run_values: Appender::open(own.join("runs.values.f32"), active)?,
                })
            })
            .collect::<Result<_>>()?;
        let offsets = if done.shards == 0 { 0 } else { done.prompts as u64 + 1 };
        Ok(Pass {
            model,
            saes,
            tokens: Appender::open(file("tokens.u32"), done.positions)?,
            offsets: Appender::open(file("offsets.u64"), offsets)?,
            folder: folder.into(),
            done,
            files,
        })
    }

    /// Runs one shard of prompts and makes a checkpoint.
    fn shard(&mut self, prompts: &Prompts, stop: &AtomicBool, progress: &mut impl FnMut(Progress)) -> Result<()> {
        if self.done.positions + prompts.positions() as u64 > MOST_POSITIONS {
            return Err(Error::TooLarge { limit: MOST_POSITIONS as u32 });
        }
        let hooks: Vec<HookPoint> = self.saes.iter().map(|sae| sae.site().reads.hook).collect();
        let ask = Ask::capture(hooks.iter().copied().collect::<std::collections::BTreeSet<_>>());
        let mut acts = vec![directrix_kernels::SparseActivations::default(); self.saes.len()];
        let mut positions = 0;
        for batch in batches(prompts, BATCH) {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped { prompts: self.done.prompts });
            }
            let end = batch.end;
            let part = prompts.range(batch);
            let run = self.model.run(&part, &ask, &[])?;
            for ((sae, hook), acts) in self.saes.iter().zip(&hooks).zip(&mut acts) {
                acts.extend(&sae.encode(run.captured(*hook))?);
            }
            positions += part.positions() as u64;
            progress(Progress {
                prompts: self.done.prompts + end,
                positions: self.done.positions + positions,
                sorting: false,
            });
        }
        for ((sae, files), acts) in self.saes.iter().zip(&mut self.files).zip(&acts) {
            files.append(acts, sae.directions(), self.done.positions as u32)?;
        }
        self.append_prompts(prompts)?;
        self.done.prompts += prompts.len();
        self.done.positions += prompts.positions() as u64;
        self.done.shards += 1;
        self.done.active = self.files.iter().map(|files| files.values.len()).collect();
        write_json(&self.folder.join(CHECKPOINT), &self.done)
    }

    fn append_prompts(&mut self, prompts: &Prompts) -> Result<()> {
        self.tokens.append(prompts.tokens())?;
        if self.offsets.len() == 0 {
            self.offsets.append(&[0])?;
        }
        let offsets: Vec<u64> = prompts.offsets()[1..].iter().map(|o| self.done.positions + *o as u64).collect();
        self.offsets.append(&offsets)?;
        self.tokens.flush()?;
        self.offsets.flush()
    }
}

impl SaeFiles {
    /// Appends a shard twice: as it is, by position, and as a run sorted by direction, for [`sort::by_direction`].
    fn append(&mut self, acts: &directrix_kernels::SparseActivations, directions: usize, first: u32) -> Result<()> {
        let base = self.values.len();
        if self.indptr.len() == 0 {
            self.indptr.append(&[0])?;
        }
        let indptr: Vec<u64> = acts.indptr()[1..].iter().map(|i| base + *i as u64).collect();
        self.indptr.append(&indptr)?;
        self.directions.append(acts.directions())?;
        self.values.append(acts.values())?;

        let mut starts = vec![0_u64; directions + 1];
        for &direction in acts.directions() {
            starts[direction as usize + 1] += 1;
        }
        for i in 0..directions {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let (mut positions, mut values) = (vec![0_u32; acts.active()], vec![0.0_f32; acts.active()]);
        for position in 0..acts.positions() {
            let (active, activations) = acts.at(position);
            for (&direction, &activation) in active.iter().zip(activations) {
                let slot = &mut next[direction as usize];
                positions[*slot as usize] = first + position as u32;
                values[*slot as usize] = activation;
                *slot += 1;
            }
        }
        self.run_indptr.append(&starts.iter().map(|s| base + s).collect::<Vec<_>>())?;
        self.run_positions.append(&positions)?;
        self.run_values.append(&values)?;
        self.indptr.flush()?;
        self.directions.flush()?;
        self.values.flush()?;
        self.run_indptr.flush()?;
        self.run_positions.flush()?;
        self.run_values.flush()
    }
}
