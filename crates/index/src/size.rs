//! What an index weighs on disk: its files are plain arrays, so that it follows from a few counts.

use serde::Serialize;

use crate::activations::BINS;
use crate::build::{RUN, SHARD};
use crate::sort::HELD;
use crate::{Index, SaeIndex};

/// The counts that the sizes of an index's files follow from (`docs/index-format.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Prompts.
    pub prompts: u64,
    /// Positions of all prompts.
    pub positions: u64,
    /// Each SAE's.
    pub saes: Vec<SaeSize>,
}

/// Of one SAE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SaeSize {
    /// Directions.
    pub directions: u64,
    /// Stored activations, at all positions.
    pub entries: u64,
    /// Rows of the token counts: pairs of a direction and a token that it fires on above half of its maximum.
    pub tokens: u64,
}

impl Size {
    /// Positions that a run has, and the prompt that fills it.
    pub const RUN: u64 = RUN as u64;
    /// Activations that are sorted by direction at a time; more where one direction alone has more.
    pub const SORTED: u64 = HELD;

    /// Shards: each has as many positions as 32 bits can number.
    pub fn shards(&self) -> u64 {
        self.positions.div_ceil(SHARD).max(1)
    }

    /// Sorted runs that are written before the lists by direction are: a run ends with the prompt that fills it.
    pub fn runs(&self) -> u64 {
        let mean = self.positions / self.prompts.max(1);
        self.positions.div_ceil(Size::RUN + mean / 2).max(self.shards())
    }

    /// Bytes of the finished index, all but `index.json`.
    pub fn bytes(&self) -> u64 {
        let shard = [4 * self.positions, 4 * (self.prompts + self.shards())];
        let files = shard.into_iter().chain(self.saes.iter().flat_map(|sae| self.of_sae(sae)));
        files.map(|bytes| bytes + 4 * directrix_corpus::durable::Sums::blocks_in(bytes)).sum()
    }

    /// Bytes of the runs, which stand beside the finished files until the index is renamed.
    pub fn run_bytes(&self) -> u64 {
        self.saes.iter().map(|sae| 8 * sae.entries + 8 * self.runs() * (sae.directions + 1)).sum()
    }

    /// Bytes of one SAE's files.
    pub fn sae_bytes(&self, sae: usize) -> u64 {
        self.saes.get(sae).map_or(0, |sae| self.of_sae(sae).into_iter().sum())
    }

    /// Bytes of a finished index that a merge with others reads: all but the lists by direction.
    pub fn merged_bytes(&self) -> u64 {
        self.bytes() - self.saes.iter().map(|sae| 8 * sae.entries).sum::<u64>()
    }

    /// Files.
    pub fn files(&self) -> u64 {
        2 + self.shards() * (2 + 6 * self.saes.len() as u64) + 10 * self.saes.len() as u64
    }

    /// Bytes of each of its files; those of several shards as one.
    fn of_sae(&self, sae: &SaeSize) -> [u64; 16] {
        let &SaeSize { directions, entries, tokens } = sae;
        let (shards, each) = (self.shards(), 4 * entries);
        let by_position = [8 * (self.positions + shards), each, each];
        let by_direction = [8 * shards * (directions + 1), each, each];
        let [[a, b, c], [d, e, f]] = [by_position, by_direction];
        let [single, double] = [4 * directions, 8 * directions];
        let histogram = BINS as u64 * double;
        let counts = [8 * (directions + 1), 4 * tokens, 8 * tokens];
        let [g, h, i] = counts;
        // Maximum and where, positions, prompts, sum, highest at the first position.
        [a, b, c, d, e, f, single, double, double, double, double, single, histogram, g, h, i]
    }
}

impl Index {
    /// What its files' sizes follow from.
    pub fn size(&self) -> Size {
        let meta = self.meta();
        let saes = self.saes().iter().map(SaeIndex::size).collect();
        Size { prompts: meta.prompts as u64, positions: meta.positions, saes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_and_runs_are_counted() {
        let size = |positions| Size { prompts: positions / 100, positions, saes: Vec::new() };
        assert_eq!((size(1000).shards(), size(SHARD).shards(), size(SHARD + 100).shards()), (1, 1, 2));
        assert_eq!((size(1000).runs(), size(10 * RUN as u64).runs()), (1, 10));
    }
}
