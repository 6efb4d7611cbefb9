//! One direction closely: where it fires, and which tokens it promotes.

use std::collections::HashMap;

use directrix_circuits::{About, Chosen, Claim, log_prob_boosts, logit_boosts};
use directrix_corpus::Prompts;
use directrix_lab::Opened;
use directrix_sae::Sae;
use serde::Serialize;

use super::{Body, SectionKind, check_directions, check_written, count, figure, quoted, table};
use crate::findings::Findings;
use crate::report::{Block, Texts};
use crate::{Result, Shape};

options! {
    /// One direction closely.
    Direction {
        /// The direction; the one with the largest single effect if not said.
        direction: Option<usize> = None,
        /// Prompts for the boosts.
        prompts: usize = 100,
        /// Examples.
        examples: usize = 5,
        /// Tokens listed by prompts.
        tokens: usize = 15,
        /// Tokens listed by weights.
        weight_tokens: usize = 25,
        /// Tokens less likely than this mean log-probability are ignored.
        log_prob_above: f64 = -9.0,
        /// Tokens that occur at most this often are ignored.
        min_count: u64 = 100,
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1,
    }
}

impl SectionKind for Direction {
    const KIND: &str = "direction";
    const TITLE: &str = "The top direction closely";

    fn check(&self, opened: &Opened, sae: &Sae) -> Result<(), String> {
        check_written(opened, sae)?;
        check_directions(sae, &self.direction)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let sae = found.sae_index();
        let number = self.direction.unwrap_or(found.top[0] as usize);
        let direction = number as u32;
        let summary = sae.direction(number);
        let active = found.active_on(direction, self.active_above);
        let common: Vec<usize> = found
            .index
            .occurrences()?
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > self.min_count)
            .map(|(token, _)| token)
            .collect();

        let mut blocks = vec![figure(
            "direction-histogram",
            &format!("Activations of direction {number}"),
            ("activation", "positions"),
            "Positions of the corpus at which it fires, in twentieths of its maximum; counts on a logarithmic scale.",
            Shape::Histogram {
                edges: (0..=sae.histogram(number).len())
                    .map(|i| i as f64 * summary.maximum as f64 / sae.histogram(number).len() as f64)
                    .collect(),
                counts: sae.histogram(number).to_vec(),
                log_counts: true,
            },
        )];
        let examples = sae.top_examples(number, self.examples)?;
        blocks.push(Block::Texts(Texts {
            name: "direction-examples".into(),
            title: format!("Prompts on which direction {number} is most active"),
            caption: "Shaded by activation; the highest is outlined.".into(),
            rows: examples
                .iter()
                .map(|e| {
                    let label = format!("prompt {}, {:.2} at position {}", e.prompt, e.activation, e.position);
                    found.shaded(label, e, number)
                })
                .collect::<Result<_>>()?,
        }));

        let promoted = self.boosts(found, direction, &active, &common, &mut blocks)?;
        let weights = logit_boosts(&found.opened.model, found.sae(), direction)?;
        let (high, low) = ends(&common, |t| weights[t] as f64, self.weight_tokens);
        let row =
            |&token: &usize| WeightRow { token: found.token(token as u32), logit_per_unit: weights[token] as f64 };
        for (name, tokens, what) in [("boosted-by-weight", &high, "raised"), ("suppressed-by-weight", &low, "lowered")]
        {
            blocks.push(table(
            name,
            &format!("Tokens whose logit is {what} most per unit of activation, by W_dec W_out W_U; rare tokens are left out."),
            &tokens.iter().map(row).collect::<Vec<_>>(),
        ));
        }
        let prose = vec![
            format!(
                "Direction {number} fires at {:.2} % of all positions, at most {:.2}; it is active before the answer on {} of {} behaviour prompts.",
                100.0 * summary.density,
                summary.maximum,
                active.len(),
                found.behaviour.prompts.len()
            ),
            format!(
                "Measured on prompts, {promoted}; by its weights, {} comes first. Where the two rankings agree, the direction acts on the output itself and not through LayerNorm or other tokens' shares.",
                high.first().map_or_else(|| "no token".into(), |t| quoted(&found.token(*t as u32)))
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

impl Direction {
    /// Shows the tokens that the direction promotes and suppresses most, and says which.
    fn boosts(
        &self,
        found: &Findings,
        direction: u32,
        active: &[(usize, f32)],
        common: &[usize],
        blocks: &mut Vec<Block>,
    ) -> Result<String> {
        if active.is_empty() {
            return Ok("it is active on no behaviour prompt".into());
        }
        let chosen = active.iter().take(self.prompts).map(|(prompt, _)| found.behaviour.prompts.get(*prompt));
        let prompts = Prompts::from_rows(chosen);
        let boosts = log_prob_boosts(&found.opened.model, found.sae(), direction, &prompts, found.watch)?;
        let likely: Vec<usize> = common.iter().copied().filter(|t| boosts.on[*t] >= self.log_prob_above).collect();
        let (high, low) = ends(&likely, |t| boosts.on[t] - boosts.off[t], self.tokens);
        let chosen = if self.direction.is_some() { Chosen::Given } else { found.top_chosen() };
        let about = About {
            chosen,
            change: "ablated before the answer",
            measure: "boost",
            unit: "nats",
            over: "prompts on which it is active",
        };
        // Every token that could have been among the ends is a test.
        let claims = Claim::list(likely.iter().map(|token| (about, boosts.boost[*token], None)));
        let claims: HashMap<usize, Claim> = likely.iter().copied().zip(claims).collect();
        let row = |&token: &usize| BoostRow {
            token: found.token(token as u32),
            boost: claims[&token],
            log_prob: boosts.on[token],
            log_prob_ablated: boosts.off[token],
        };
        let promoted = format!(
            "it promotes {} most and suppresses {} most",
            high.first().map_or_else(|| "no token".into(), |t| quoted(&found.token(*t as u32))),
            low.first().map_or_else(|| "no token".into(), |t| quoted(&found.token(*t as u32)))
        );
        for (name, tokens, what) in
            [("boosted-by-prompt", high, "boosted"), ("suppressed-by-prompt", low, "suppressed")]
        {
            blocks.push(table(
            name,
            &format!(
                "Tokens {what} most: mean log-probability before the answer over {}, with the direction and without, and the difference with its 95 % interval and its false-discovery rate among all tokens that are compared; rare tokens and those below {} are left out.",
                count(prompts.len(), "prompt"),
                self.log_prob_above
            ),
            &tokens.iter().map(row).collect::<Vec<_>>(),
        ));
        }
        Ok(promoted)
    }
}

#[derive(Serialize)]
struct BoostRow {
    token: String,
    #[serde(flatten)]
    boost: Claim,
    log_prob: f64,
    log_prob_ablated: f64,
}

#[derive(Serialize)]
struct WeightRow {
    token: String,
    logit_per_unit: f64,
}

/// The `k` largest and `k` smallest values among `tokens`, largest first; ties by token.
fn ends(tokens: &[usize], value: impl Fn(usize) -> f64, k: usize) -> (Vec<usize>, Vec<usize>) {
    let mut order = tokens.to_vec();
    order.sort_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
    let high = order.iter().copied().filter(|t| value(*t) > 0.0).take(k).collect();
    let low = order.iter().rev().copied().filter(|t| value(*t) < 0.0).take(k).collect();
    (high, low)
}
