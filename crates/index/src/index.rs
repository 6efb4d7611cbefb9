//! An index, opened: everything is a query on its memory-mapped files.

use std::path::Path;

use directrix_model::HookPoint;
use serde::{Deserialize, Serialize};

use crate::files::{Mapped, read_json};
use crate::sort::by_prompt;
use crate::{Error, Identity, Result};

/// Bins of a direction's histogram, equal parts of 0 to its maximum.
pub(crate) const BINS: usize = 20;

/// What an index holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of the files' layout.
    pub format: u32,
    /// What it is an index of.
    pub identity: Identity,
    /// Number of prompts.
    pub prompts: usize,
    /// Number of positions of all prompts.
    pub positions: u64,
    /// Prompts that were longer than the context and were cut.
    pub cut: usize,
    /// Size of the model's vocabulary.
    pub vocabulary: usize,
    /// The SAEs.
    pub(crate) saes: Vec<SaeMeta>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SaeMeta {
    pub(crate) folder: String,
    pub(crate) name: String,
    pub(crate) hook: HookPoint,
    pub(crate) directions: usize,
    pub(crate) active: u64,
}

impl Meta {
    pub(crate) const FORMAT: u32 = 1;
}

/// A corpus pass on disk.
pub struct Index {
    meta: Meta,
    tokens: Mapped<u32>,
    offsets: Mapped<u64>,
    saes: Vec<SaeIndex>,
}

/// The part of an index that belongs to one SAE.
pub struct SaeIndex {
    meta: SaeMeta,
    positions: u64,
    skip_last: bool,
    indptr: Mapped<u64>,
    directions: Mapped<u32>,
    values: Mapped<f32>,
    direction_indptr: Mapped<u64>,
    direction_positions: Mapped<u32>,
    direction_values: Mapped<f32>,
    maximum: Mapped<f32>,
    maximum_position: Mapped<u32>,
    prompts: Mapped<u32>,
    sum: Mapped<f64>,
    histogram: Mapped<u64>,
    token_indptr: Mapped<u64>,
    token_ids: Mapped<u32>,
    token_counts: Mapped<u32>,
}

/// What the corpus says of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Direction {
    /// Its number.
    pub direction: usize,
    /// Its highest activation (last positions of prompts left out, unless told otherwise).
    pub maximum: f32,
    /// Positions at which it fires.
    pub active: u64,
    /// Share of all positions at which it fires.
    pub density: f64,
    /// Mean activation over the positions at which it fires; 0 if none.
    pub mean: f64,
    /// Prompts in which it fires.
    pub prompts: u32,
}

/// A prompt in which a direction fires.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Example {
    /// The prompt.
    pub prompt: usize,
    /// Position in the prompt at which the activation is highest.
    pub position: usize,
    /// The activation there.
    pub activation: f32,
}

impl Index {
    /// Opens the index in `folder`.
    ///
    /// # Errors
    /// If there is none, or a file is missing or has another size than it should.
    pub fn open(folder: &Path) -> Result<Index> {
        let file = folder.join("index.json");
        if !file.is_file() {
            let problem = "this folder holds no index; build one with `directrix index`".into();
            return Err(Error::Damaged { path: folder.into(), problem });
        }
        let meta: Meta = read_json(&file)?;
        if meta.format != Meta::FORMAT {
            let problem = format!("index format {}, expected {}; build the index again", meta.format, Meta::FORMAT);
            return Err(Error::Damaged { path: file, problem });
        }
        let saes = meta.saes.iter().map(|sae| SaeIndex::open(folder, sae, &meta)).collect::<Result<_>>()?;
        let offsets: Mapped<u64> = Mapped::open(folder.join("offsets.u64"), Some(meta.prompts + 1))?;
        if offsets.last() != Some(&meta.positions) || !offsets.is_sorted() {
            let problem = "the offsets of the prompts are damaged; build the index again".into();
            return Err(Error::Damaged { path: folder.join("offsets.u64"), problem });
        }
        Ok(Index {
            tokens: Mapped::open(folder.join("tokens.u32"), Some(meta.positions as usize))?,
            offsets,
            saes,
            meta,
        })
    }

    /// What it holds.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Number of prompts.
    pub fn prompts(&self) -> usize {
        self.meta.prompts
    }

    /// The tokens of a prompt.
    pub fn prompt(&self, prompt: usize) -> &[u32] {
        &self.tokens[self.offsets[prompt] as usize..self.offsets[prompt + 1] as usize]
    }

    /// How often each token occurs in the corpus, BOS included: `[vocabulary]`.
    pub fn occurrences(&self) -> Vec<u64> {
        let mut counts = vec![0; self.meta.vocabulary];
        self.tokens.iter().for_each(|token| counts[*token as usize] += 1);
        counts
    }

    /// The part of SAE number `sae`.
    pub fn sae(&self, sae: usize) -> &SaeIndex {
        &self.saes[sae]
    }

    /// The parts of all SAEs.
    pub fn saes(&self) -> &[SaeIndex] {
        &self.saes
    }
}

impl SaeIndex {
    fn open(folder: &Path, sae: &SaeMeta, meta: &Meta) -> Result<SaeIndex> {
        let own = folder.join(&sae.folder);
        let file = |name: &str| own.join(name);
        let (directions, active) = (sae.directions, sae.active as usize);
        let token_indptr: Mapped<u64> = Mapped::open(file("tokens.indptr.u64"), Some(directions + 1))?;
        let counted = token_indptr.last().map_or(0, |n| *n as usize);
        Ok(SaeIndex {
            meta: sae.clone(),
            positions: meta.positions,
            skip_last: meta.identity.options.skip_last,
            indptr: Mapped::open(file("by_position.indptr.u64"), Some(meta.positions as usize + 1))?,
            directions: Mapped::open(file("by_position.directions.u32"), Some(active))?,
            values: Mapped::open(file("by_position.values.f32"), Some(active))?,
            direction_indptr: Mapped::open(file("by_direction.indptr.u64"), Some(directions + 1))?,
            direction_positions: Mapped::open(file("by_direction.positions.u32"), Some(active))?,
            direction_values: Mapped::open(file("by_direction.values.f32"), Some(active))?,
            maximum: Mapped::open(file("maximum.f32"), Some(directions))?,
            maximum_position: Mapped::open(file("maximum_position.u32"), Some(directions))?,
            prompts: Mapped::open(file("prompts.u32"), Some(directions))?,
            sum: Mapped::open(file("sum.f64"), Some(directions))?,
            histogram: Mapped::open(file("histogram.u64"), Some(directions * BINS))?,
            token_ids: Mapped::open(file("tokens.tokens.u32"), Some(counted))?,
            token_counts: Mapped::open(file("tokens.counts.u32"), Some(counted))?,
            token_indptr,
        })
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

    /// Directions that fire nowhere in the corpus.
    pub fn dead(&self) -> usize {
        self.direction_indptr.windows(2).filter(|w| w[0] == w[1]).count()
    }

    /// Mean number of active directions per position.
    pub fn l0(&self) -> f64 {
        self.meta.active as f64 / self.positions.max(1) as f64
    }

    /// Highest activation of each direction.
    pub fn maxima(&self) -> &[f32] {
        &self.maximum
    }

    /// What the corpus says of `direction`.
    pub fn direction(&self, direction: usize) -> Direction {
        let active = self.direction_indptr[direction + 1] - self.direction_indptr[direction];
        Direction {
            direction,
            maximum: self.maximum[direction],
            active,
            density: active as f64 / self.positions.max(1) as f64,
            mean: if active == 0 { 0.0 } else { self.sum[direction] / active as f64 },
            prompts: self.prompts[direction],
        }
    }

    /// The place of the highest activation of `direction`, counted over all positions of the corpus.
    pub fn maximum_position(&self, direction: usize) -> u32 {
        self.maximum_position[direction]
    }

    /// Counts of activations in equal parts of 0 to the maximum.
    pub fn histogram(&self, direction: usize) -> &[u64] {
        &self.histogram[direction * BINS..(direction + 1) * BINS]
    }

    /// The positions (over the whole corpus) at which `direction` fires, ascending, and its activations there.
    pub fn activations(&self, direction: usize) -> (&[u32], &[f32]) {
        let range = self.direction_indptr[direction] as usize..self.direction_indptr[direction + 1] as usize;
        (&self.direction_positions[range.clone()], &self.direction_values[range])
    }

    /// The directions active at `position` of `prompt`, ascending, and their activations.
    pub fn at(&self, index: &Index, prompt: usize, position: usize) -> (&[u32], &[f32]) {
        let row = index.offsets[prompt] as usize + position;
        let range = self.indptr[row] as usize..self.indptr[row + 1] as usize;
        (&self.directions[range.clone()], &self.values[range])
    }

    /// The activation of `direction` at every position of `prompt`.
    pub fn on_prompt(&self, index: &Index, prompt: usize, direction: usize) -> Vec<f32> {
        let (start, end) = (index.offsets[prompt], index.offsets[prompt + 1]);
        let (positions, values) = self.activations(direction);
        let first = positions.partition_point(|p| (*p as u64) < start);
        let mut row = vec![0.0; (end - start) as usize];
        for (&position, &value) in positions[first..].iter().zip(&values[first..]) {
            match row.get_mut((position as u64 - start) as usize) {
                Some(slot) => *slot = value,
                None => break,
            }
        }
        row
    }

    /// The highest activation of `direction` in each prompt in which it fires, in the order of the prompts.
    pub fn prompt_maxima(&self, index: &Index, direction: usize) -> Vec<Example> {
        let (positions, values) = self.activations(direction);
        by_prompt(positions, values, &index.offsets)
            .filter_map(|(prompt, start, len, positions, values)| {
                let end = start + len - u64::from(self.skip_last);
                let counted = positions.iter().zip(values).take_while(|(p, _)| (**p as u64) < end);
                let highest = counted.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
                Some(Example { prompt, position: (*highest.0 as u64 - start) as usize, activation: *highest.1 })
            })
            .collect()
    }

    /// The `k` prompts in which `direction` fires most strongly, strongest first.
    pub fn top_examples(&self, index: &Index, direction: usize, k: usize) -> Vec<Example> {
        let mut examples = self.prompt_maxima(index, direction);
        examples.sort_by(|a, b| b.activation.total_cmp(&a.activation).then(a.prompt.cmp(&b.prompt)));
        examples.truncate(k);
        examples
    }

    /// `k` prompts whose highest activation lies above `low` and up to `high` times the direction's maximum, spread evenly
    /// over those that do, strongest first.
    pub fn interval_examples(&self, index: &Index, direction: usize, low: f32, high: f32, k: usize) -> Vec<Example> {
        let maximum = self.maximum[direction];
        let mut examples = self.top_examples(index, direction, usize::MAX);
        examples.retain(|e| e.activation > low * maximum && e.activation <= high * maximum);
        let n = examples.len();
        if n <= k {
            return examples;
        }
        (0..k).map(|i| examples[i * n / k]).collect()
    }

    /// How often each token is at a position where `direction` exceeds a share of its maximum
    /// ([`Options::count_above`](crate::Options)); most frequent first.
    pub fn token_counts(&self, direction: usize) -> Vec<(u32, u32)> {
        let range = self.token_indptr[direction] as usize..self.token_indptr[direction + 1] as usize;
        let mut counts: Vec<(u32, u32)> =
            self.token_ids[range.clone()].iter().copied().zip(self.token_counts[range].iter().copied()).collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        counts
    }
}
