//! A direction's activations, and what is said of them.

use serde::Serialize;

use crate::Options;
use crate::identity::For;

/// Bins of a direction's histogram, equal parts of 0 to its maximum.
pub(crate) const BINS: usize = 20;

/// The positions of one shard at which a direction fires, ascending, and its activations there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activations<'a> {
    /// Prompts of the corpus before the shard's first.
    pub first_prompt: usize,
    /// Positions of the corpus before the shard's first.
    pub first_position: u64,
    /// Positions, counted from the shard's first.
    pub positions: &'a [u32],
    /// The activation at each of them.
    pub values: &'a [f32],
    /// Where the shard's prompts begin, and where the last ends.
    pub(crate) offsets: &'a [u32],
}

/// A direction's activations in one prompt.
pub(crate) struct InPrompt<'a> {
    /// The prompt, counted over the corpus.
    pub(crate) prompt: usize,
    /// Where it begins in its shard.
    pub(crate) start: u32,
    /// Where it ends.
    pub(crate) end: u32,
    /// Positions in the shard.
    pub(crate) positions: &'a [u32],
    pub(crate) values: &'a [f32],
}

impl<'a> Activations<'a> {
    /// The prompts in which the direction fires, in order.
    pub(crate) fn by_prompt(self) -> impl Iterator<Item = InPrompt<'a>> {
        let Activations { first_prompt, positions, values, offsets, .. } = self;
        let mut at = 0;
        std::iter::from_fn(move || {
            let position = *positions.get(at)?;
            let prompt = offsets.partition_point(|offset| *offset <= position) - 1;
            let (start, end) = (offsets[prompt], offsets[prompt + 1]);
            let entries = at..at + positions[at..].partition_point(|position| *position < end);
            at = entries.end;
            let (positions, values) = (&positions[entries.clone()], &values[entries]);
            Some(InPrompt { prompt: first_prompt + prompt, start, end, positions, values })
        })
    }
}

impl InPrompt<'_> {
    /// All positions.
    pub(crate) fn fires_anywhere(&self) -> impl Iterator<Item = Example> {
        let InPrompt { prompt, start, positions, values, .. } = *self;
        let example = move |(position, activation): (&u32, &f32)| {
            let position = (*position - start) as usize;
            Example { prompt, position, activation: *activation }
        };
        positions.iter().zip(values).map(example)
    }

    /// The positions that count for something. `tokens` are the prompt's, or none where none is excluded.
    fn counted(&self, options: &Options, what: For, tokens: &[u32]) -> impl Iterator<Item = Example> {
        let length = (self.end - self.start) as usize;
        let counts = move |Example { position, .. }: &Example| {
            options.counts(what, *position, length, tokens.get(*position).copied())
        };
        self.fires_anywhere().filter(counts)
    }

    /// The positions that count for the maximum.
    pub(crate) fn fires(&self, options: &Options, tokens: &[u32]) -> impl Iterator<Item = Example> {
        self.counted(options, For::Maximum, tokens)
    }

    /// The highest activation that counts and where it is; the first of several.
    pub(crate) fn highest(&self, options: &Options, tokens: &[u32]) -> Option<Example> {
        self.fires(options, tokens).reduce(|best, next| if next.activation > best.activation { next } else { best })
    }
}

/// Whether positions or directions rise strictly and stay below `end`, as those of a list do.
pub(crate) fn rise_below(numbers: &[u32], end: u64) -> bool {
    numbers.is_sorted_by(|a, b| a < b) && numbers.last().is_none_or(|last| u64::from(*last) < end)
}

/// A position at which a direction fires: where it does so most strongly in a prompt, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Example {
    /// The prompt.
    pub prompt: usize,
    /// Position in the prompt.
    pub position: usize,
    /// The activation there.
    pub activation: f32,
}

/// How often a token is at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenCount {
    /// The token.
    pub token: u32,
    /// How often.
    pub count: u64,
}

/// What is computed from one direction's activations at the positions that count.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) maximum: f32,
    /// Where it is, counted over the corpus.
    pub(crate) maximum_position: u64,
    /// Positions at which it fires.
    pub(crate) active: u64,
    pub(crate) prompts: u64,
    pub(crate) sum: f64,
    /// The highest activation at the first position of a prompt, whether that counts or not.
    pub(crate) at_first: f32,
    pub(crate) histogram: [u64; BINS],
    /// Ascending by token.
    pub(crate) tokens: Vec<TokenCount>,
}

impl Summary {
    /// Of a direction's activations in all shards; `tokens` are each shard's.
    pub(crate) fn of(shards: &[Activations], tokens: &[&[u32]], options: &Options) -> Summary {
        let of_prompt = |prompt: &InPrompt, shard: usize| &tokens[shard][prompt.start as usize..prompt.end as usize];
        let (mut maximum, mut maximum_position, mut at_first) = (0.0_f32, 0, 0.0_f32);
        let (mut active, mut prompts, mut sum) = (0, 0, 0.0);
        for (number, shard) in shards.iter().enumerate() {
            for prompt in shard.by_prompt() {
                if prompt.positions.first() == Some(&prompt.start) {
                    at_first = at_first.max(prompt.values[0]);
                }
                let tokens = of_prompt(&prompt, number);
                let before = active;
                for fires in prompt.counted(options, For::Rest, tokens) {
                    active += 1;
                    sum += f64::from(fires.activation);
                }
                prompts += u64::from(active > before);
                let Some(example) = prompt.highest(options, tokens) else { continue };
                if example.activation > maximum {
                    maximum = example.activation;
                    maximum_position = shard.first_position + u64::from(prompt.start) + example.position as u64;
                }
            }
        }
        let threshold = options.count_above * maximum;
        let mut histogram = [0; BINS];
        let mut counted = Vec::new();
        for (number, shard) in shards.iter().enumerate() {
            for prompt in shard.by_prompt() {
                let tokens = of_prompt(&prompt, number);
                for fires in prompt.counted(options, For::Rest, tokens) {
                    let share = fires.activation / maximum;
                    let bin = if maximum > 0.0 { (share * BINS as f32) as usize } else { BINS };
                    histogram[bin.min(BINS - 1)] += 1;
                }
                let above = prompt.counted(options, For::Tokens, tokens).filter(|fires| fires.activation > threshold);
                counted.extend(above.map(|fires| tokens[fires.position]));
            }
        }
        counted.sort_unstable();
        let tokens =
            counted.chunk_by(|a, b| a == b).map(|same| TokenCount { token: same[0], count: same.len() as u64 });
        Summary { maximum, maximum_position, active, prompts, sum, at_first, histogram, tokens: tokens.collect() }
    }
}
