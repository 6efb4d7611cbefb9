//! The positions that a query finds, and the prompts that they are in.

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::set::Set;
use crate::index::Prompts;
use crate::{Result, SaeIndex};

/// The positions of a corpus that a query finds.
///
/// A match is a position: several places of a text that end in one token are one. Matches are looked for everywhere; those at
/// positions that do not [count](crate::Options) are told apart and left out of all else, as they are of a direction's density, so that
/// shares and densities are over the same positions.
#[derive(Debug, Clone)]
pub struct Found {
    pub(super) set: Set,
    pub(super) all: Arc<Prompts>,
    /// Matches at positions that count.
    pub matches: u64,
    /// Prompts that have one.
    pub prompts: u64,
    /// Matches at positions that do not count.
    pub left_out: u64,
}

/// A position of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The prompt.
    pub prompt: usize,
    /// Position in the prompt.
    pub position: usize,
}

impl Found {
    /// All matches at positions that count, in the order of the corpus.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.positions().map(|(_, place)| place)
    }

    /// Whether a position is a match, and counts.
    pub fn contains(&self, place: Place) -> bool {
        let Ok(at) = self.all.place(place.prompt) else { return false };
        let position = self.all.shards[at.shard].first_position + u64::from(at.start) + place.position as u64;
        place.position < (at.end - at.start) as usize && self.set.contains(position)
    }

    /// Of each prompt the match at which a direction fires most strongly, of these the strongest.
    pub(super) fn strongest(&self, sae: &SaeIndex, direction: usize, k: usize) -> Result<Vec<Place>> {
        let fires = sae.activations(direction)?;
        let mut fires = fires
            .iter()
            .flat_map(|shard| {
                shard.positions.iter().zip(shard.values).map(|(p, v)| (shard.first_position + u64::from(*p), *v))
            })
            .peekable();
        let mut best: Vec<(f32, Place)> = Vec::new();
        for (position, place) in self.positions() {
            while fires.next_if(|(at, _)| *at < position).is_some() {}
            let activation = fires.peek().filter(|(at, _)| *at == position).map_or(0.0, |(_, value)| *value);
            match best.last_mut() {
                Some(last) if last.1.prompt == place.prompt && last.0 >= activation => {}
                Some(last) if last.1.prompt == place.prompt => *last = (activation, place),
                _ => best.push((activation, place)),
            }
        }
        best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(best.into_iter().take(k).map(|(_, place)| place).collect())
    }

    /// The first match of each prompt that has one.
    pub(super) fn firsts(&self) -> Vec<Place> {
        let (mut walk, mut firsts, mut from) = (Walk::of(&self.all), Vec::new(), 0);
        while let Some(position) = self.set.first_from(from) {
            let Some(At { prompt, range, .. }) = walk.to(position) else { break };
            firsts.push(Place { prompt, position: (position - range.start) as usize });
            from = range.end;
        }
        firsts
    }

    /// The same as [`places`](Found::places), with their positions in the corpus.
    fn positions(&self) -> impl Iterator<Item = (u64, Place)> {
        let mut walk = Walk::of(&self.all);
        self.set.iter().filter_map(move |position| {
            let at = walk.to(position)?;
            Some((position, Place { prompt: at.prompt, position: (position - at.range.start) as usize }))
        })
    }
}

/// A walk along the prompts.
pub(super) struct Walk<'a> {
    prompts: &'a Prompts,
    shard: usize,
    /// The prompt, counted from the shard's first.
    own: usize,
}

/// The prompt of a position.
pub(super) struct At {
    shard: usize,
    pub(super) prompt: usize,
    /// Its positions in the corpus.
    pub(super) range: Range<u64>,
}

impl Walk<'_> {
    pub(super) fn of(prompts: &Prompts) -> Walk<'_> {
        Walk { prompts, shard: 0, own: 0 }
    }

    /// The prompt of a position that is not before the last one asked for.
    pub(super) fn to(&mut self, position: u64) -> Option<At> {
        loop {
            let shard = self.prompts.shards.get(self.shard)?;
            let prompts = shard.offsets.len() - 1;
            let end = |own: usize| shard.first_position + u64::from(shard.offsets[own + 1]);
            // One step is the common one; after a gap it is a search.
            if self.own < prompts && end(self.own) <= position {
                self.own += 1;
            }
            if self.own < prompts && end(self.own) <= position {
                let ends = &shard.offsets[self.own + 1..];
                self.own += ends.partition_point(|end| shard.first_position + u64::from(*end) <= position);
            }
            if self.own < prompts {
                let start = shard.first_position + u64::from(shard.offsets[self.own]);
                let prompt = shard.first_prompt + self.own;
                return Some(At { shard: self.shard, prompt, range: start..end(self.own) });
            }
            (self.shard, self.own) = (self.shard + 1, 0);
        }
    }
}

impl At {
    pub(super) fn token(&self, prompts: &Prompts, position: u64) -> Result<u32> {
        let own = (position - prompts.shards[self.shard].first_position) as u32;
        Ok(prompts.tokens(self.shard, own..own + 1)?[0])
    }
}

/// All positions that are at most `distance` from one of the set in the same prompt.
pub(super) fn around(prompts: &Prompts, set: &Set, distance: u64) -> Set {
    let mut all = Set::new(prompts.shards.last().map_or(0, |shard| shard.first_position + shard.tokens.len()));
    let mut walk = Walk::of(prompts);
    for position in set.iter() {
        let Some(At { range, .. }) = walk.to(position) else { continue };
        let (from, to) = (position.saturating_sub(distance), position.saturating_add(distance).saturating_add(1));
        all.insert_range(from.max(range.start)..to.min(range.end));
    }
    all
}
