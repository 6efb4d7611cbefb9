//! Tokens of the corpus, and the tokens that directions fire on.

use directrix_index::{Index, SaeIndex, TokenCount};
use serde::Serialize;

use crate::Result;

/// Every token's occurrences in the corpus, most frequent first.
///
/// # Errors
/// If the index is damaged.
pub fn token_occurrences(index: &Index) -> Result<Vec<TokenCount>> {
    let counts = index.occurrences()?.into_iter().enumerate();
    let mut rows: Vec<TokenCount> = counts.map(|(token, count)| TokenCount { token: token as u32, count }).collect();
    rows.sort_by(|a, b| b.count.cmp(&a.count).then(a.token.cmp(&b.token)));
    Ok(rows)
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
    pub token_occurrences: u64,
    /// Its share of them.
    pub share: f64,
}

/// The top token of every direction that exceeds the threshold anywhere.
///
/// # Errors
/// If the index is damaged.
pub fn top_tokens(sae: &SaeIndex) -> Result<Vec<TopToken>> {
    let mut rows = Vec::new();
    for direction in 0..sae.directions() {
        let counts = sae.token_counts(direction)?;
        let occurrences: u64 = counts.iter().map(|of| of.count).sum();
        let Some(&TokenCount { token, count: token_occurrences }) = counts.first() else { continue };
        let share = token_occurrences as f64 / occurrences as f64;
        rows.push(TopToken { direction, occurrences, token, token_occurrences, share });
    }
    Ok(rows)
}
