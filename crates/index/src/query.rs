//! What one SAE's directions fire on: queries on an index.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;
use directrix_corpus::durable::Mapped;
use directrix_kernels::SparseActivations;
use directrix_model::HookPoint;
use serde::Serialize;

use crate::activations::{BINS, InPrompt, rise_below};
use crate::index::{Place, Prompts};
use crate::layout::{Contents, Files, SaeMeta, of_part, of_sae};
use crate::size::SaeSize;
use crate::{Activations, Error, Example, Options, Result, TokenCount};

/// The part of an index that belongs to one SAE.
#[derive(Debug)]
pub struct SaeIndex {
    meta: SaeMeta,
    prompts: Arc<Prompts>,
    /// Positions of the corpus.
    positions: u64,
    /// Those that count.
    counted: u64,
    options: Options,
    /// Positions that count at which each direction fires.
    active: Vec<u64>,
    /// Highest activation of each direction at the first position of a prompt.
    at_first: Vec<f32>,
    parts: Vec<Part>,
    maximum: Vec<f32>,
    maximum_position: Vec<u64>,
    prompts_with: Vec<u64>,
    sum: Vec<f64>,
    histogram: Vec<u64>,
    token_offsets: Vec<u64>,
    tokens: Mapped<u32>,
    token_counts: Mapped<u64>,
}

/// The SAE's activations in one shard, in both orders.
#[derive(Debug)]
struct Part {
    position_offsets: Mapped<u64>,
    directions: Mapped<u32>,
    position_values: Mapped<f32>,
    direction_offsets: Vec<u64>,
    positions: Mapped<u32>,
    direction_values: Mapped<f32>,
}

/// What the corpus says of one direction, at the positions that [count](Options).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Direction {
    /// Its number.
    pub direction: usize,
    /// Its highest activation.
    pub maximum: f32,
    /// Positions at which it fires.
    pub active: u64,
    /// Share of the positions at which it fires.
    pub density: f64,
    /// Mean activation over the positions at which it fires; 0 if none.
    pub mean: f64,
    /// Prompts in which it fires.
    pub prompts: u64,
}

impl SaeIndex {
    pub(crate) fn open(number: usize, contents: &Contents, files: &Files, prompts: Arc<Prompts>) -> Result<SaeIndex> {
        let meta = contents.saes[number].clone();
        let directions = meta.directions as u64;
        let parts: Vec<Part> = (0..contents.shards.len())
            .map(|shard| Part::open(shard, number, contents, files, directions))
            .collect::<Result<_>>()?;
        let file = |name| of_sae(number, name);
        let counted = files.numbers::<u32>(&file("tokens.tokens.u32"))?;
        let token_offsets: Vec<u64> = files.offsets(file("tokens.indptr.u64"), directions, counted)?;
        let sae = SaeIndex {
            prompts,
            positions: contents.meta.positions,
            counted: contents.meta.counted,
            options: contents.meta.identity.options.clone(),
            active: files.read(file("active.u64"), directions)?,
            at_first: files.read(file("at_first.f32"), directions)?,
            maximum: files.read(file("maximum.f32"), directions)?,
            maximum_position: files.read(file("maximum_position.u64"), directions)?,
            prompts_with: files.read(file("prompts.u64"), directions)?,
            sum: files.read(file("sum.f64"), directions)?,
            histogram: files.read(file("histogram.u64"), directions.saturating_mul(BINS as u64))?,
            tokens: files.map(file("tokens.tokens.u32"), counted)?,
            token_counts: files.map(file("tokens.counts.u64"), counted)?,
            token_offsets,
            parts,
            meta,
        };
        sae.check_summaries().map_err(|(name, problem)| files.damaged(file(name), problem))?;
        Ok(sae)
    }

    /// That what is said of each direction can be true.
    fn check_summaries(&self) -> Result<(), (&'static str, &'static str)> {
        let n = self.positions;
        let prompts = self.prompts.count as u64;
        let stored =
            |d: usize| self.parts.iter().map(|part| part.direction_offsets[d + 1] - part.direction_offsets[d]).sum();
        let counts = |bins: &[u64]| bins.iter().try_fold(0_u64, |sum, n| sum.checked_add(*n));
        if !self.maximum.iter().all(|maximum| maximum.is_finite() && *maximum >= 0.0) {
            Err(("maximum.f32", "a maximum is negative or not a number"))
        } else if !self.maximum_position.iter().all(|position| *position < n.max(1)) {
            Err(("maximum_position.u64", "a position is not one of the corpus"))
        } else if !self.active.iter().enumerate().all(|(d, active)| *active <= self.counted.min(stored(d))) {
            Err(("active.u64", "a direction fires at more positions than there are"))
        } else if !self.at_first.iter().all(|activation| activation.is_finite() && *activation >= 0.0) {
            Err(("at_first.f32", "an activation is negative or not a number"))
        } else if !self.prompts_with.iter().zip(&self.active).all(|(with, active)| *with <= prompts.min(*active)) {
            Err(("prompts.u64", "a direction fires in more prompts than there are"))
        } else if !self.sum.iter().all(|sum| sum.is_finite()) {
            Err(("sum.f64", "a sum is not a number"))
        } else if !self.histogram.chunks(BINS).zip(&self.active).all(|(bins, active)| counts(bins) == Some(*active)) {
            Err(("histogram.u64", "a histogram does not count what its direction has"))
        } else {
            Ok(())
        }
    }

    pub(crate) fn meta(&self) -> &SaeMeta {
        &self.meta
    }

    pub(crate) fn size(&self) -> SaeSize {
        let entries = self.parts.iter().map(|part| part.position_values.len()).sum();
        SaeSize { directions: self.directions() as u64, entries, tokens: self.tokens.len() }
    }

    /// The SAE's short name.
    pub fn name(&self) -> &str {
        &self.meta.name
    }

    /// What the SAE reads.
    pub fn hook(&self) -> HookPoint {
        self.meta.hook
    }

    /// Number of directions.
    pub fn directions(&self) -> usize {
        self.meta.directions
    }

    /// Directions that fire at no position that counts.
    pub fn dead(&self) -> usize {
        self.active.iter().filter(|active| **active == 0).count()
    }

    /// Mean number of active directions per position that counts.
    pub fn l0(&self) -> f64 {
        self.active.iter().sum::<u64>() as f64 / self.counted.max(1) as f64
    }

    /// Highest activation of each direction: `[directions]`.
    pub fn maxima(&self) -> &[f32] {
        &self.maximum
    }

    /// What the corpus says of `direction`.
    ///
    /// # Panics
    /// If there is no such direction.
    pub fn direction(&self, direction: usize) -> Direction {
        let active = self.active[direction];
        Direction {
            direction,
            maximum: self.maximum[direction],
            active,
            density: active as f64 / self.counted.max(1) as f64,
            mean: if active == 0 { 0.0 } else { self.sum[direction] / active as f64 },
            prompts: self.prompts_with[direction],
        }
    }

    /// The position of the highest activation of `direction`, counted over all positions of the corpus.
    ///
    /// # Panics
    /// If there is no such direction.
    pub fn maximum_position(&self, direction: usize) -> u64 {
        self.maximum_position[direction]
    }

    /// The highest activation of `direction` at the first position of a prompt, whether that counts or not: where every prompt
    /// begins with BOS, its activation there.
    ///
    /// # Panics
    /// If there is no such direction.
    pub fn at_first(&self, direction: usize) -> f32 {
        self.at_first[direction]
    }

    /// Counts of activations in twenty equal parts of 0 to the maximum.
    ///
    /// # Panics
    /// If there is no such direction.
    pub fn histogram(&self, direction: usize) -> &[u64] {
        &self.histogram[direction * BINS..(direction + 1) * BINS]
    }

    /// All positions at which `direction` fires and its activations there, shard by shard.
    ///
    /// # Errors
    /// If there is no such direction, or its activations are damaged.
    pub fn activations(&self, direction: usize) -> Result<Vec<Activations<'_>>> {
        (0..self.parts.len()).map(|shard| self.in_shard(shard, direction)).collect()
    }

    fn in_shard(&self, shard: usize, direction: usize) -> Result<Activations<'_>> {
        self.check(direction)?;
        let (part, prompts) = (&self.parts[shard], &self.prompts.shards[shard]);
        let range = part.direction_offsets[direction]..part.direction_offsets[direction + 1];
        let positions = part.positions.get(range.clone())?;
        if !rise_below(positions, prompts.tokens.len()) {
            return Err(damaged(&part.positions, "positions do not rise, or are not in the shard"));
        }
        Ok(Activations {
            first_prompt: prompts.first_prompt,
            first_position: prompts.first_position,
            positions,
            values: finite(&part.direction_values, range)?,
            offsets: &prompts.offsets,
        })
    }

    /// The directions active at `position` of `prompt`, ascending, and their activations.
    ///
    /// # Errors
    /// If there is no such prompt or position, or what is there is damaged.
    pub fn at(&self, prompt: usize, position: usize) -> Result<(&[u32], &[f32])> {
        let Place { shard, start, end } = self.prompts.place(prompt)?;
        let there = (end - start) as usize;
        if position >= there {
            return Err(Error::Outside { what: "position", number: position, there });
        }
        let row = start + position as u32;
        self.rows(shard, row..row + 1)
    }

    /// Appends the activations at all positions of a prompt.
    pub(crate) fn append_prompt(&self, prompt: usize, to: &mut SparseActivations) -> Result<()> {
        let Place { shard, start, end } = self.prompts.place(prompt)?;
        let (directions, values) = self.rows(shard, start..end)?;
        let offsets = self.parts[shard].position_offsets.get(u64::from(start)..u64::from(end) + 1)?;
        for ends in offsets.windows(2) {
            let own = (ends[0] - offsets[0]) as usize..(ends[1] - offsets[0]) as usize;
            to.push(directions[own.clone()].iter().copied().zip(values[own].iter().copied()));
        }
        Ok(())
    }

    /// The directions active at some positions of a shard, ascending at each, and their activations.
    pub(crate) fn rows(&self, shard: usize, rows: Range<u32>) -> Result<(&[u32], &[f32])> {
        let part = &self.parts[shard];
        let offsets = part.position_offsets.get(u64::from(rows.start)..u64::from(rows.end) + 1)?;
        let range = offsets[0]..offsets[offsets.len() - 1];
        if !offsets.is_sorted() || range.end > part.directions.len() {
            return Err(damaged(&part.position_offsets, "its offsets do not rise"));
        }
        let directions = part.directions.get(range.clone())?;
        let of_row = |ends: &[u64]| &directions[(ends[0] - range.start) as usize..(ends[1] - range.start) as usize];
        if !offsets.windows(2).all(|ends| rise_below(of_row(ends), self.directions() as u64)) {
            return Err(damaged(&part.directions, "directions do not rise, or are not of the SAE"));
        }
        Ok((directions, finite(&part.position_values, range)?))
    }

    /// The activation of `direction` at every position of `prompt`.
    ///
    /// # Errors
    /// If there is no such prompt or direction, or its activations are damaged.
    pub fn on_prompt(&self, prompt: usize, direction: usize) -> Result<Vec<f32>> {
        let Place { shard, start, end } = self.prompts.place(prompt)?;
        let Activations { positions, values, .. } = self.in_shard(shard, direction)?;
        let first = positions.partition_point(|position| *position < start);
        let own = positions[first..].iter().zip(&values[first..]).take_while(|(position, _)| **position < end);
        let mut row = vec![0.0; (end - start) as usize];
        own.for_each(|(position, value)| row[(position - start) as usize] = *value);
        Ok(row)
    }

    /// The highest activation of `direction` that counts in each prompt that has one, in the order of the prompts.
    ///
    /// # Errors
    /// As [`activations`](SaeIndex::activations).
    pub fn prompt_maxima(&self, direction: usize) -> Result<Vec<Example>> {
        let mut examples = Vec::new();
        for (number, shard) in self.activations(direction)?.into_iter().enumerate() {
            for prompt in shard.by_prompt() {
                examples.extend(prompt.highest(&self.options, self.tokens_asked(number, &prompt)?));
            }
        }
        Ok(examples)
    }

    /// Every position at which `direction` fires that counts for its maximum, in the order of the corpus.
    ///
    /// # Errors
    /// As [`activations`](SaeIndex::activations).
    pub fn fires(&self, direction: usize) -> Result<Vec<Example>> {
        let mut fires = Vec::new();
        for (number, shard) in self.activations(direction)?.into_iter().enumerate() {
            for prompt in shard.by_prompt() {
                fires.extend(prompt.fires(&self.options, self.tokens_asked(number, &prompt)?));
            }
        }
        Ok(fires)
    }

    /// Every position at which `direction` fires, whether it counts or not, in the order of the corpus.
    ///
    /// # Errors
    /// As [`activations`](SaeIndex::activations).
    pub fn fires_anywhere(&self, direction: usize) -> Result<Vec<Example>> {
        let mut fires = Vec::new();
        for prompt in self.activations(direction)?.into_iter().flat_map(Activations::by_prompt) {
            fires.extend(prompt.fires_anywhere());
        }
        Ok(fires)
    }

    /// The tokens of a prompt, or none where none is excluded.
    fn tokens_asked(&self, shard: usize, prompt: &InPrompt) -> Result<&[u32]> {
        let is_asked = !self.options.counted.exclude.is_empty();
        if is_asked { self.prompts.tokens(shard, prompt.start..prompt.end) } else { Ok(&[]) }
    }

    /// The `k` prompts in which `direction` fires most strongly, strongest first.
    ///
    /// # Errors
    /// As [`activations`](SaeIndex::activations).
    pub fn top_examples(&self, direction: usize, k: usize) -> Result<Vec<Example>> {
        let mut examples = self.prompt_maxima(direction)?;
        examples.sort_by(|a, b| b.activation.total_cmp(&a.activation).then(a.prompt.cmp(&b.prompt)));
        examples.truncate(k);
        Ok(examples)
    }

    /// `k` prompts whose highest activation lies above `low` and up to `high` times the direction's maximum, spread evenly
    /// over those that do, strongest first.
    ///
    /// # Errors
    /// As [`activations`](SaeIndex::activations).
    pub fn interval_examples(&self, direction: usize, low: f32, high: f32, k: usize) -> Result<Vec<Example>> {
        let mut examples = self.top_examples(direction, usize::MAX)?;
        let maximum = self.maximum[direction];
        examples.retain(|e| e.activation > low * maximum && e.activation <= high * maximum);
        let n = examples.len();
        if n <= k {
            return Ok(examples);
        }
        Ok((0..k).map(|i| examples[i * n / k]).collect())
    }

    /// How often each token is at a position where `direction` exceeds a share of its maximum
    /// ([`Options::count_above`](crate::Options)); most frequent first.
    ///
    /// # Errors
    /// If there is no such direction, or its counts are damaged.
    pub fn token_counts(&self, direction: usize) -> Result<Vec<TokenCount>> {
        self.check(direction)?;
        let range = self.token_offsets[direction]..self.token_offsets[direction + 1];
        let (tokens, counts) = (self.tokens.get(range.clone())?, self.token_counts.get(range)?);
        if tokens.iter().any(|token| *token as usize >= self.prompts.vocabulary) {
            return Err(damaged(&self.tokens, "it holds a token outside the vocabulary"));
        }
        let total = counts.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count));
        if total.is_none_or(|total| total > self.active[direction]) {
            return Err(damaged(&self.token_counts, "it counts more positions than there are"));
        }
        let mut counts: Vec<TokenCount> =
            tokens.iter().zip(counts).map(|(token, count)| TokenCount { token: *token, count: *count }).collect();
        counts.sort_by(|a, b| b.count.cmp(&a.count).then(a.token.cmp(&b.token)));
        Ok(counts)
    }

    fn check(&self, direction: usize) -> Result<()> {
        let there = self.directions();
        if direction < there {
            return Ok(());
        }
        Err(Error::Outside { what: "direction", number: direction, there })
    }
}

impl Part {
    fn open(shard: usize, sae: usize, contents: &Contents, files: &Files, directions: u64) -> Result<Part> {
        let meta = &contents.shards[shard];
        let (positions, active) = (meta.positions, meta.active[sae]);
        let file = |name| of_part(shard, sae, name);
        Ok(Part {
            position_offsets: files.map(file("by_position.indptr.u64"), positions + 1)?,
            directions: files.map(file("by_position.directions.u32"), active)?,
            position_values: files.map(file("by_position.values.f32"), active)?,
            direction_offsets: files.offsets(file("by_direction.indptr.u64"), directions, active)?,
            positions: files.map(file("by_direction.positions.u32"), active)?,
            direction_values: files.map(file("by_direction.values.f32"), active)?,
        })
    }
}

/// Activations, all of them numbers.
fn finite(file: &Mapped<f32>, range: Range<u64>) -> Result<&[f32]> {
    let values = file.get(range)?;
    if values.iter().all(|value| value.is_finite()) {
        return Ok(values);
    }
    Err(damaged(file, "an activation is not a number"))
}

fn damaged<T: Pod>(file: &Mapped<T>, problem: &str) -> Error {
    Error::damaged(file.path().into(), problem)
}
