//! Tokens of the corpus, and the tokens that directions fire on.

use directrix_index::{Index, SaeIndex};
use serde::Serialize;

/// How often a token occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenCount {
    /// The token.
    pub token: u32,
    /// Its occurrences in the corpus.
    pub count: u64,
}

/// Every token's occurrences, most frequent first.
pub fn token_occurrences(index: &Index) -> Vec<TokenCount> {
    let counts = index.occurrences().into_iter().enumerate();
    let mut rows: Vec<TokenCount> = counts.map(|(token, count)| TokenCount { token: token as u32, count }).collect();
    rows.sort_by(|a, b| b.count.cmp(&a.count).then(a.token.cmp(&b.token)));
    rows
}

/// The token at which a direction fires most often above half of its maximum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TopToken {
    /// The direction.
    pub direction: usize,
    /// Positions above the threshold, over the corpus.
    pub occurrences: u64,
    /// The most frequent token among them; the lowest id of several.
    pub token: u32,
    /// Its count among them.
    pub token_occurrences: u32,
    /// Its share of them.
    pub share: f64,
}

/// The top token of every direction that exceeds the threshold anywhere.
pub fn top_tokens(sae: &SaeIndex) -> Vec<TopToken> {
    (0..sae.directions())
        .filter_map(|direction| {
            let counts = sae.token_counts(direction);
            let occurrences: u64 = counts.iter().map(|(_, count)| *count as u64).sum();
            let (token, token_occurrences) = *counts.first()?;
            let share = token_occurrences as f64 / occurrences as f64;
            Some(TopToken { direction, occurrences, token, token_occurrences, share })
        })
        .collect()
}
