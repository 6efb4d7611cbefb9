//! A direction's activations, and what is said of them.

use serde::Serialize;

use crate::Options;

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
    /// The highest activation and where it is, counted from the prompt's first position; the first of several.
    pub(crate) fn highest(&self, skip_last: bool) -> Option<Example> {
        let end = self.end - u32::from(skip_last);
        let counted = self.positions.iter().zip(self.values).take_while(|(position, _)| **position < end);
        let (position, activation) = counted.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        Some(Example { prompt: self.prompt, position: (position - self.start) as usize, activation: *activation })
    }
}

/// Whether positions or directions rise strictly and stay below `end`, as those of a list do.
pub(crate) fn rise_below(numbers: &[u32], end: u64) -> bool {
    numbers.is_sorted_by(|a, b| a < b) && numbers.last().is_none_or(|last| u64::from(*last) < end)
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

/// How often a token is at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenCount {
    /// The token.
    pub token: u32,
    /// How often.
    pub count: u64,
}

/// What is computed from one direction's activations.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) maximum: f32,
    /// Where it is, counted over the corpus.
    pub(crate) maximum_position: u64,
    pub(crate) prompts: u64,
    pub(crate) sum: f64,
    pub(crate) histogram: [u64; BINS],
    /// Ascending by token.
    pub(crate) tokens: Vec<TokenCount>,
}

impl Summary {
    /// Of a direction's activations in all shards; `tokens` are each shard's.
    pub(crate) fn of(shards: &[Activations], tokens: &[&[u32]], options: Options) -> Summary {
        let (mut maximum, mut maximum_position, mut prompts) = (0.0_f32, 0, 0);
        for shard in shards {
            for prompt in shard.by_prompt() {
                prompts += 1;
                let Some(example) = prompt.highest(options.skip_last) else { continue };
                if example.activation > maximum {
                    maximum = example.activation;
                    maximum_position = shard.first_position + u64::from(prompt.start) + example.position as u64;
                }
            }
        }
        let mut histogram = [0; BINS];
        for &value in shards.iter().flat_map(|shard| shard.values) {
            let bin = if maximum > 0.0 { (value / maximum * BINS as f32) as usize } else { BINS };
            histogram[bin.min(BINS - 1)] += 1;
        }
        let threshold = options.count_above * maximum;
        let mut counted = Vec::new();
        for (shard, tokens) in shards.iter().zip(tokens) {
            for InPrompt { start, positions, values, .. } in shard.by_prompt() {
                let above = positions.iter().zip(values).filter(|(position, value)| {
                    **value > threshold && (**position - start) as usize >= options.skip_first
                });
                counted.extend(above.map(|(position, _)| tokens[*position as usize]));
            }
        }
        counted.sort_unstable();
        let tokens =
            counted.chunk_by(|a, b| a == b).map(|same| TokenCount { token: same[0], count: same.len() as u64 });
        let sum = shards.iter().flat_map(|shard| shard.values).map(|value| f64::from(*value)).sum();
        Summary { maximum, maximum_position, prompts, sum, histogram, tokens: tokens.collect() }
    }
}
