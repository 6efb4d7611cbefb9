//! From runs to one list per direction in each shard, and what is said of each direction over all of them.

use std::ops::Range;
use std::path::Path;

use directrix_corpus::Watch;
use directrix_corpus::durable::Pieces;
use rayon::prelude::*;

use crate::activations::{Activations, Summary, rise_below};
use crate::index::Shard;
use crate::layout::{Array, Finished, of_part, of_sae};
use crate::shard::{RUN_OFFSETS, RUN_POSITIONS, RUN_VALUES};
use crate::{Error, Options, Result};

/// Activations held in memory at a time.
pub(crate) const HELD: u64 = 1 << 21;

/// One SAE's runs in a shard, and the lists they are joined to.
struct Part {
    /// Where each direction begins in each run: `[runs, directions + 1]`.
    run_offsets: Pieces<u64>,
    run_positions: Pieces<u32>,
    run_values: Pieces<f32>,
    runs: u64,
    offsets: Array<u64>,
    positions: Array<u32>,
    values: Array<f32>,
}

/// A direction's list in a shard.
#[derive(Default)]
struct List {
    positions: Vec<u32>,
    values: Vec<f32>,
}

/// Joins the runs of SAE number `sae`, bucket by bucket of directions, and gives the files made; `runs` are each shard's.
pub(crate) fn by_direction(
    folder: &Path,
    sae: usize,
    directions: usize,
    shards: &[Shard],
    runs: &[u64],
    options: &Options,
    watch: &Watch,
) -> Result<Vec<Finished>> {
    let tokens: Vec<&[u32]> = shards.iter().map(|shard| shard.tokens.all()).collect::<Result<_, _>>()?;
    let mut parts: Vec<Part> =
        runs.iter().enumerate().map(|(shard, runs)| Part::open(folder, shard, sae, *runs)).collect::<Result<_>>()?;
    let mut counts = vec![0; directions];
    for part in &mut parts {
        part.count(&mut counts)?;
    }
    let mut summaries = Summaries::create(folder, sae)?;
    let mut bucket = 0..0;
    while bucket.end < directions {
        if watch.is_stopped() {
            let prompts = shards.last().map_or(0, |last| last.first_prompt + last.offsets.len() - 1);
            return Err(Error::Stopped { prompts });
        }
        bucket = next_bucket(bucket.end, &counts);
        let lists: Vec<Vec<List>> = parts
            .iter_mut()
            .zip(shards)
            .map(|(part, shard)| part.join(&bucket, directions, shard.tokens.len()))
            .collect::<Result<_>>()?;
        let of_direction = |i: usize| {
            let lists = shards.iter().zip(&lists).map(|(shard, lists)| Activations {
                first_prompt: shard.first_prompt,
                first_position: shard.first_position,
                positions: &lists[i].positions,
                values: &lists[i].values,
                offsets: &shard.offsets,
            });
            Summary::of(&lists.collect::<Vec<_>>(), &tokens, options)
        };
        let made: Vec<Summary> = (0..bucket.len()).into_par_iter().map(of_direction).collect();
        made.iter().try_for_each(|summary| summaries.append(summary))?;
    }
    let mut files = summaries.finish()?;
    for part in parts {
        files.extend([part.offsets.finish()?, part.positions.finish()?, part.values.finish()?]);
    }
    Ok(files)
}

/// As many directions from `first` as can be held, at least one.
fn next_bucket(first: usize, counts: &[u64]) -> Range<usize> {
    let (mut last, mut held) = (first + 1, counts[first]);
    while last < counts.len() && held + counts[last] <= HELD {
        held += counts[last];
        last += 1;
    }
    first..last
}

impl Part {
    fn open(folder: &Path, shard: usize, sae: usize, runs: u64) -> Result<Part> {
        let file = |name| of_part(shard, sae, name);
        let mut part = Part {
            run_offsets: Pieces::open(folder.join(file(RUN_OFFSETS)))?,
            run_positions: Pieces::open(folder.join(file(RUN_POSITIONS)))?,
            run_values: Pieces::open(folder.join(file(RUN_VALUES)))?,
            runs,
            offsets: Array::create(folder, file("by_direction.indptr.u64"))?,
            positions: Array::create(folder, file("by_direction.positions.u32"))?,
            values: Array::create(folder, file("by_direction.values.f32"))?,
        };
        part.offsets.append(&[0])?;
        Ok(part)
    }

    /// Adds each direction's activations.
    fn count(&mut self, counts: &mut [u64]) -> Result<()> {
        let row = counts.len() as u64 + 1;
        for run in 0..self.runs {
            let starts = self.run_offsets.read(run * row..(run + 1) * row)?;
            if !starts.is_sorted() {
                return Err(self.damaged());
            }
            counts.iter_mut().zip(starts.windows(2)).for_each(|(count, ends)| *count += ends[1] - ends[0]);
        }
        Ok(())
    }

    /// The lists of some of all `directions`, which are written as they are made; the shard has so many `positions`.
    fn join(&mut self, bucket: &Range<usize>, directions: usize, positions: u64) -> Result<Vec<List>> {
        let mut lists: Vec<List> = bucket.clone().map(|_| List::default()).collect();
        for run in 0..self.runs {
            let row = run * (directions as u64 + 1);
            let starts = self.run_offsets.read(row + bucket.start as u64..row + bucket.end as u64 + 1)?;
            let all = starts[0]..starts[bucket.len()];
            let (run_positions, run_values) =
                (self.run_positions.read(all.clone())?, self.run_values.read(all.clone())?);
            for (list, ends) in lists.iter_mut().zip(starts.windows(2)) {
                let own = (ends[0] - all.start) as usize..(ends[1] - all.start) as usize;
                list.positions.extend_from_slice(&run_positions[own.clone()]);
                list.values.extend_from_slice(&run_values[own]);
            }
        }
        for list in &lists {
            if !rise_below(&list.positions, positions) {
                return Err(self.damaged());
            }
            self.positions.append(&list.positions)?;
            self.values.append(&list.values)?;
            self.offsets.append(&[self.positions.len()])?;
        }
        Ok(lists)
    }

    fn damaged(&self) -> Error {
        Error::damaged(self.run_positions.path().into(), "it is not what the pass wrote")
    }
}

/// The files of what is said of each direction.
struct Summaries {
    maximum: Array<f32>,
    maximum_position: Array<u64>,
    active: Array<u64>,
    prompts: Array<u64>,
    at_first: Array<f32>,
    sum: Array<f64>,
    histogram: Array<u64>,
    token_offsets: Array<u64>,
    tokens: Array<u32>,
    token_counts: Array<u64>,
}

impl Summaries {
    fn create(folder: &Path, sae: usize) -> Result<Summaries> {
        let file = |name| of_sae(sae, name);
        let mut files = Summaries {
            maximum: Array::create(folder, file("maximum.f32"))?,
            maximum_position: Array::create(folder, file("maximum_position.u64"))?,
            active: Array::create(folder, file("active.u64"))?,
            prompts: Array::create(folder, file("prompts.u64"))?,
            at_first: Array::create(folder, file("at_first.f32"))?,
            sum: Array::create(folder, file("sum.f64"))?,
            histogram: Array::create(folder, file("histogram.u64"))?,
            token_offsets: Array::create(folder, file("tokens.indptr.u64"))?,
            tokens: Array::create(folder, file("tokens.tokens.u32"))?,
            token_counts: Array::create(folder, file("tokens.counts.u64"))?,
        };
        files.token_offsets.append(&[0])?;
        Ok(files)
    }

    fn append(&mut self, summary: &Summary) -> Result<()> {
        self.maximum.append(&[summary.maximum])?;
        self.maximum_position.append(&[summary.maximum_position])?;
        self.active.append(&[summary.active])?;
        self.prompts.append(&[summary.prompts])?;
        self.at_first.append(&[summary.at_first])?;
        self.sum.append(&[summary.sum])?;
        self.histogram.append(&summary.histogram)?;
        self.tokens.append(&summary.tokens.iter().map(|of| of.token).collect::<Vec<_>>())?;
        self.token_counts.append(&summary.tokens.iter().map(|of| of.count).collect::<Vec<_>>())?;
        self.token_offsets.append(&[self.tokens.len()])
    }

    fn finish(self) -> Result<Vec<Finished>> {
        Ok(vec![
            self.maximum.finish()?,
            self.maximum_position.finish()?,
            self.active.finish()?,
            self.prompts.finish()?,
            self.at_first.finish()?,
            self.sum.finish()?,
            self.histogram.finish()?,
            self.token_offsets.finish()?,
            self.tokens.finish()?,
            self.token_counts.finish()?,
        ])
    }
}
