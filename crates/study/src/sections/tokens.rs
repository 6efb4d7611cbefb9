//! Which tokens are common in the corpus, and which rare.

use directrix_circuits::token_occurrences;
use serde::Serialize;

use super::{Body, SectionKind, figure, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Common and rare tokens.
    Tokens {
        /// A token is common if it occurs more often than this.
        min_count: u64 = 100,
    }
}

impl SectionKind for Tokens {
    const KIND: &str = "tokens";
    const TITLE: &str = "Common and rare tokens";

    fn make(&self, found: &Findings) -> Result<Body> {
        let counts = token_occurrences(found.index)?;
        let total: u64 = counts.iter().map(|row| row.count).sum();
        let common = counts.iter().filter(|row| row.count > self.min_count).count();
        let covered: u64 = counts[..common].iter().map(|row| row.count).sum();
        let rows: Vec<TokenRow> = counts
            .iter()
            .filter(|row| row.count > 0)
            .map(|row| TokenRow {
                token: found.token(row.token),
                id: row.token,
                count: row.count,
                share: row.count as f64 / total as f64,
            })
            .collect();
        let prose = vec![
            format!(
                "Of {} tokens in the vocabulary, {common} occur more than {} times in the {} prompts; these common tokens make up {:.1} % of all {total} positions.",
                counts.len(),
                self.min_count,
                found.index.prompts(),
                100.0 * covered as f64 / total as f64
            ),
            "Later sections leave rare tokens out of their rankings, because their log-probabilities rest on too few examples.".into(),
        ];
        let numbers: Vec<u64> = counts.iter().map(|row| row.count).collect();
        let blocks = vec![
            figure(
                "token-occurrences",
                "How often tokens occur",
                ("log₁₀ of occurrences in the corpus", "tokens"),
                "Tokens that occur at least once, by the logarithm of their count; every interval holds a whole number.",
                Shape::log_histogram(&numbers, 40),
            ),
            table(
                "tokens",
                "Every token that occurs, most frequent first; share is of all positions, BOS included.",
                &rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct TokenRow {
    token: String,
    id: u32,
    count: u64,
    share: f64,
}
