//! One direction closely: where it fires, and which tokens it promotes.

use std::collections::HashMap;

use directrix_circuits::{About, Chosen, Claim, Controls, log_prob_boosts, logit_boosts};
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
        prompts: usize = 100 => 1.0..,
        /// Examples.
        examples: usize = 5 => 1.0..,
        /// Tokens listed by prompts.
        tokens: usize = 15 => 1.0..,
        /// Tokens listed by weights.
        weight_tokens: usize = 25 => 1.0..,
        /// Tokens less likely than this mean log-probability are ignored.
        log_prob_above: f64 = -9.0 => ..=0.0,
        /// Tokens that occur at most this often are ignored.
        min_count: u64 = 100,
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1 => 0.0..,
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
        let common = found.common_tokens(self.min_count)?;

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

        let weights = logit_boosts(&found.opened.model, found.sae(), direction)?;
        let (high, low) = ends(&common, |t| weights[t] as f64, self.weight_tokens);
        let measured = self.boosts(found, direction, &active, &common, &high, &mut blocks)?;
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
                "Direction {} fires at {:.2} % of all positions, at most {:.2}; it is active before the answer on {} of {} behaviour prompts.",
                found.link(number),
                100.0 * summary.density,
                summary.maximum,
                active.len(),
                found.behaviour.prompts.len()
            ),
            rankings(
                measured.as_ref(),
                &high.iter().map(|t| quoted(&found.token(*t as u32))).collect::<Vec<_>>(),
                self.log_prob_above,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

impl Direction {
    /// Shows the tokens that the direction promotes and suppresses most on prompts; `None` if it is active on none. `by_weights`
    /// are those that its weights raise most.
    fn boosts(
        &self,
        found: &Findings,
        direction: u32,
        active: &[(usize, f32)],
        common: &[usize],
        by_weights: &[usize],
        blocks: &mut Vec<Block>,
    ) -> Result<Option<Measured>> {
        if active.is_empty() {
            return Ok(None);
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
        let claims = Claim::list(likely.iter().map(|token| (about, boosts.boost[*token], Controls::default())));
        let claims: HashMap<usize, Claim> = likely.iter().copied().zip(claims).collect();
        let row = |&token: &usize| BoostRow {
            token: found.token(token as u32),
            boost: claims[&token],
            log_prob: boosts.on[token],
            log_prob_ablated: boosts.off[token],
        };
        let texts = |tokens: &[usize]| tokens.iter().map(|t| quoted(&found.token(*t as u32))).collect::<Vec<_>>();
        let measured = Measured {
            raised: texts(&high),
            lowered: texts(&low),
            sure: high.first().is_some_and(|token| claims[token].q < 0.05),
            first_by_weights: by_weights.first().map(|token| boosts.on[*token]),
        };
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
        Ok(Some(measured))
    }
}

/// The tokens that a direction raises and lowers most on prompts.
struct Measured {
    raised: Vec<String>,
    lowered: Vec<String>,
    /// Whether the first of those raised survives among all tokens.
    sure: bool,
    /// Mean log-probability there of the token that its weights raise most.
    first_by_weights: Option<f64>,
}

/// Whether what is measured on prompts and what the weights say agree.
fn rankings(measured: Option<&Measured>, by_weights: &[String], likely_above: f64) -> String {
    let none = || String::from("no token");
    let first_by_weights = by_weights.first().cloned().unwrap_or_else(none);
    let Some(measured) = measured else {
        return format!(
            "It is active on no behaviour prompt, so that nothing is measured there; by its weights alone, {first_by_weights} comes first."
        );
    };
    let raised = measured.raised.first().cloned().unwrap_or_else(none);
    let doubt = if measured.sure { "" } else { " (which may be chance)" };
    let on_prompts = format!(
        "Measured on prompts, it promotes {raised} most{doubt} and suppresses {} most",
        measured.lowered.first().cloned().unwrap_or_else(none)
    );
    if by_weights.is_empty() || raised == first_by_weights {
        return format!(
            "{on_prompts}; its weights put {first_by_weights} first, too: the direction acts on the output itself."
        );
    }
    let shared = measured.raised.iter().filter(|token| by_weights.contains(token)).count();
    let why = match measured.first_by_weights {
        Some(log_prob) if log_prob < likely_above => format!(
            "that token has a mean log-probability of {log_prob:.1} there, so that raising its logit changes next to nothing"
        ),
        _ => "what it does goes through LayerNorm, later layers or other tokens' shares, or is shared with other directions".into(),
    };
    format!(
        "{on_prompts}; its weights put another first, {first_by_weights}: {why}. Of the {} raised most on prompts, {shared} {} among the {} that its weights raise most.",
        measured.raised.len(),
        if shared == 1 { "is" } else { "are" },
        by_weights.len()
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rankings_that_disagree_are_said_to() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_string()).collect::<Vec<_>>();
        let said = |raised: &[&str], sure, log_prob, by_weights: &[&str]| {
            let measured =
                Measured { raised: texts(raised), lowered: texts(&["z"]), sure, first_by_weights: Some(log_prob) };
            rankings(Some(&measured), &texts(by_weights), -8.0)
        };
        assert!(said(&["a", "b"], true, -1.0, &["a", "c"]).contains("its weights put a first, too"));
        let other = said(&["a", "b"], false, -8.2, &["c", "b"]);
        assert!(other.contains("promotes a most (which may be chance) and suppresses z most"));
        assert!(other.contains("put another first, c: that token has a mean log-probability of -8.2 there"));
        assert!(other.ends_with("Of the 2 raised most on prompts, 1 is among the 2 that its weights raise most."));
        assert!(said(&["a"], true, -2.0, &["c"]).contains("goes through LayerNorm"));
        assert!(rankings(None, &texts(&["c"]), -8.0).contains("by its weights alone, c comes first"));
        assert!(rankings(None, &[], -8.0).contains("no token"));
    }
}
