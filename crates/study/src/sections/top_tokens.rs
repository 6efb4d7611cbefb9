//! The token every direction fires on most.

use directrix_circuits::TopToken;
use serde::Serialize;

use super::{Body, SectionKind, figure, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Top token of each direction.
    TopTokens {
        /// List directions whose top token has less than this share.
        share_below: f64 = 0.2 => 0.0..=1.0,
    }
}

impl SectionKind for TopTokens {
    const KIND: &str = "top_tokens";
    const TITLE: &str = "Top token of every direction";

    fn make(&self, found: &Findings) -> Result<Body> {
        let mut blocks = Vec::new();
        let mut prose = Vec::new();
        for (number, sae) in found.index.saes().iter().enumerate() {
            let all = directrix_circuits::top_tokens(sae)?;
            let shares: Vec<f64> = all.iter().map(|row| row.share).collect();
            blocks.push(figure(
                &format!("top-token-share-{number}"),
                &format!("Share of the top token, {}", sae.name()),
                ("share of the top token", "directions"),
                "Directions by the share of their most frequent token among positions above half of their maximum.",
                Shape::histogram(&shares, 50),
            ));
            let mut low: Vec<_> = all.iter().filter(|row| row.share < self.share_below).collect();
            low.sort_by(|a, b| b.occurrences.cmp(&a.occurrences).then(a.direction.cmp(&b.direction)));
            let of = |row: &TopToken| TopTokenRow {
                sae: number,
                direction: row.direction,
                top_token: found.token(row.token),
                share: row.share,
                token_occurrences: row.token_occurrences,
                occurrences: row.occurrences,
            };
            let rows: Vec<TopTokenRow> = low.iter().map(|row| of(row)).collect();
            let single = all.iter().filter(|row| row.share > 0.9).count();
            prose.push(format!(
            "In {}, {} of {} directions fire nowhere in this corpus; {single} of the {} that do have one token at more than 90 % of their strong activations, and {} have none above {:.0} %.",
            sae.name(),
            sae.dead(),
            sae.directions(),
            all.len(),
            low.len(),
            100.0 * self.share_below
        ));
            if !rows.is_empty() {
                blocks.push(table(
                &format!("contextual-directions-{number}"),
                &format!(
                    "Directions of {} whose top token has a share below {}, most active first: they fire on a context and not on a token. Occurrences are positions above half of the maximum.",
                    sae.name(),
                    self.share_below
                ),
                &rows,
            ));
            }
            blocks.push(table(
                &format!("top-tokens-{number}"),
                &format!("The top token of every direction of {} that fires.", sae.name()),
                &all.iter().map(of).collect::<Vec<_>>(),
            ));
        }
        prose.push(
            "Directions at the right of a histogram are detectors of one token; the interesting ones are at the left."
                .into(),
        );
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct TopTokenRow {
    sae: usize,
    direction: usize,
    top_token: String,
    share: f64,
    token_occurrences: u64,
    occurrences: u64,
}
