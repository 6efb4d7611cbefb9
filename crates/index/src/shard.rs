//! A shard being written: tokens, and each SAE's activations by position and in runs.
//!
//! Positions are counted within the shard, so that it holds whatever came before it, and shards made apart can stand together.

use std::fs;
use std::path::Path;

use directrix_corpus::Prompts;
use directrix_kernels::SparseActivations;

use crate::layout::{Array, Finished, ShardMeta, Written, of_part, of_sae, of_shard};
use crate::{Error, Result};

/// The files of runs, which go once they are joined.
pub(crate) const RUN_OFFSETS: &str = "runs.indptr.u64";
pub(crate) const RUN_POSITIONS: &str = "runs.positions.u32";
pub(crate) const RUN_VALUES: &str = "runs.values.f32";

/// The growing files of a shard.
pub(crate) struct Shard {
    meta: ShardMeta,
    tokens: Array<u32>,
    offsets: Array<u32>,
    parts: Vec<Part>,
}

/// The growing files of one SAE in a shard.
struct Part {
    offsets: Array<u64>,
    directions: Array<u32>,
    values: Array<f32>,
    run_offsets: Array<u64>,
    run_positions: Array<u32>,
    run_values: Array<f32>,
}

impl Shard {
    /// Begins shard `number` of `saes` SAEs in `folder`.
    pub(crate) fn create(folder: &Path, number: usize, saes: usize) -> Result<Shard> {
        let mut shard = Shard {
            meta: ShardMeta { active: vec![0; saes], ..ShardMeta::default() },
            tokens: Array::create(folder, of_shard(number, "tokens.u32"))?,
            offsets: Array::create(folder, of_shard(number, "offsets.u32"))?,
            parts: (0..saes).map(|sae| Part::create(folder, number, sae)).collect::<Result<_>>()?,
        };
        shard.offsets.append(&[0])?;
        Ok(shard)
    }

    /// Goes on with shard `number` as it was when `written` was noted.
    pub(crate) fn resume(folder: &Path, number: usize, meta: ShardMeta, written: &[Written]) -> Result<Shard> {
        let saes = 0..meta.active.len();
        let shard = Shard {
            meta,
            tokens: Array::resume(folder, of_shard(number, "tokens.u32"), written)?,
            offsets: Array::resume(folder, of_shard(number, "offsets.u32"), written)?,
            parts: saes.map(|sae| Part::resume(folder, number, sae, written)).collect::<Result<_>>()?,
        };
        let meta = &shard.meta;
        let agree = (shard.tokens.len(), shard.offsets.len()) == (meta.positions, meta.prompts as u64 + 1)
            && shard.parts.iter().zip(&meta.active).all(|(part, active)| part.values.len() == *active);
        if agree { Ok(shard) } else { Err(Error::damaged(folder.into(), "its files are not what its checkpoint says")) }
    }

    /// What it holds.
    pub(crate) fn meta(&self) -> &ShardMeta {
        &self.meta
    }

    /// Appends prompts and what each SAE gives on them: by position, and as a run sorted by direction.
    pub(crate) fn append(&mut self, prompts: &Prompts, acts: &[SparseActivations], directions: &[usize]) -> Result<()> {
        let first = self.meta.positions as u32;
        for ((part, acts), directions) in self.parts.iter_mut().zip(acts).zip(directions) {
            part.append(acts, *directions, first)?;
        }
        self.tokens.append(prompts.tokens())?;
        let offsets: Vec<u32> = prompts.offsets()[1..].iter().map(|offset| first + *offset as u32).collect();
        self.offsets.append(&offsets)?;
        self.meta.prompts += prompts.len();
        self.meta.positions += prompts.positions() as u64;
        self.meta.active = self.parts.iter().map(|part| part.values.len()).collect();
        Ok(())
    }

    /// Hands everything to the system, and says what there is.
    pub(crate) fn flush(&mut self) -> Result<Vec<Written>> {
        let mut written = vec![self.tokens.flush()?, self.offsets.flush()?];
        for part in &mut self.parts {
            written.extend([
                part.offsets.flush()?,
                part.directions.flush()?,
                part.values.flush()?,
                part.run_offsets.flush()?,
                part.run_positions.flush()?,
                part.run_values.flush()?,
            ]);
        }
        Ok(written)
    }

    /// Ends the files.
    pub(crate) fn finish(self) -> Result<Vec<Finished>> {
        let mut files = vec![self.tokens.finish()?, self.offsets.finish()?];
        for part in self.parts {
            files.extend([
                part.offsets.finish()?,
                part.directions.finish()?,
                part.values.finish()?,
                part.run_offsets.finish()?,
                part.run_positions.finish()?,
                part.run_values.finish()?,
            ]);
        }
        Ok(files)
    }
}

impl Part {
    fn create(folder: &Path, shard: usize, sae: usize) -> Result<Part> {
        let file = |name| of_part(shard, sae, name);
        let mut part = Part {
            offsets: Array::create(folder, file("by_position.indptr.u64"))?,
            directions: Array::create(folder, file("by_position.directions.u32"))?,
            values: Array::create(folder, file("by_position.values.f32"))?,
            run_offsets: Array::create(folder, file(RUN_OFFSETS))?,
            run_positions: Array::create(folder, file(RUN_POSITIONS))?,
            run_values: Array::create(folder, file(RUN_VALUES))?,
        };
        part.offsets.append(&[0])?;
        Ok(part)
    }

    fn resume(folder: &Path, shard: usize, sae: usize, written: &[Written]) -> Result<Part> {
        let file = |name| of_part(shard, sae, name);
        Ok(Part {
            offsets: Array::resume(folder, file("by_position.indptr.u64"), written)?,
            directions: Array::resume(folder, file("by_position.directions.u32"), written)?,
            values: Array::resume(folder, file("by_position.values.f32"), written)?,
            run_offsets: Array::resume(folder, file(RUN_OFFSETS), written)?,
            run_positions: Array::resume(folder, file(RUN_POSITIONS), written)?,
            run_values: Array::resume(folder, file(RUN_VALUES), written)?,
        })
    }

    /// Appends activations whose first position is position `first` of the shard.
    fn append(&mut self, acts: &SparseActivations, directions: usize, first: u32) -> Result<()> {
        let base = self.values.len();
        let offsets: Vec<u64> = acts.indptr()[1..].iter().map(|offset| base + *offset as u64).collect();
        self.offsets.append(&offsets)?;
        self.directions.append(acts.directions())?;
        self.values.append(acts.values())?;

        let run = acts.by_direction(directions);
        let mut starts = vec![base];
        starts.extend((0..directions).map(|direction| base + run.range(direction).end as u64));
        self.run_offsets.append(&starts)?;
        self.run_positions.append(&run.positions().iter().map(|position| first + position).collect::<Vec<_>>())?;
        self.run_values.append(&run.arrange(acts.values()))
    }
}

/// Whether a file is one of a run.
pub(crate) fn is_run(file: &str) -> bool {
    file.rsplit('/').next().is_some_and(|name| [RUN_OFFSETS, RUN_POSITIONS, RUN_VALUES].contains(&name))
}

/// Removes the runs of an index that is otherwise whole.
pub(crate) fn remove_runs(folder: &Path) -> Result<()> {
    for shard in (0..).map(|shard| folder.join(of_shard(shard, ""))).take_while(|shard| shard.is_dir()) {
        for part in (0..).map(|sae| shard.join(of_sae(sae, ""))).take_while(|part| part.is_dir()) {
            for path in [RUN_OFFSETS, RUN_POSITIONS, RUN_VALUES].map(|name| part.join(name)) {
                if path.is_file() {
                    fs::remove_file(&path).map_err(|error| Error::write(&path, error))?;
                }
            }
        }
    }
    Ok(())
}
