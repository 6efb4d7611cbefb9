//! Edges from the first SAE to the last by ablation at one position.

use directrix_circuits::{
    Claim, CooccurrenceOptions, CooccurrencePair, Matched, control_pairs, cooccurrence, cooccurrence_pairs,
};
use directrix_corpus::Prompts;
use directrix_lab::Opened;
use directrix_sae::Sae;
use serde::Serialize;

use super::{Body, SectionKind, check_order, check_range, claim_bars, count, figure, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Pairs of directions by ablation at one position.
    Cooccurrence {
        /// Prompts of the corpus whose positions are looked at.
        prompts: usize = 20 => 1.0..,
        /// Position and activation thresholds.
        options: CooccurrenceOptions = CooccurrenceOptions::default(),
        /// Also look at the last position of this text.
        text: Option<String> = None,
        /// Pairs drawn, and pairs at either end that get controls.
        top: usize = 15 => 1.0..,
    }
}

impl SectionKind for Cooccurrence {
    const KIND: &str = "cooccurrence";
    const TITLE: &str = "Which first directions a second one needs";

    const SAES: usize = 2;

    fn check(&self, opened: &Opened, _sae: &Sae) -> Result<(), String> {
        check_range("above", self.options.above as f64, 0.0..)?;
        check_order(opened)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let (first, second) = (&found.opened.saes[0], &found.opened.saes[found.opened.saes.len() - 1]);
        let model = &found.opened.model;
        let named = |prompts: &Prompts, rows: &[directrix_circuits::Cooccurrence]| -> Vec<Row> {
            let row = |r: &directrix_circuits::Cooccurrence| Row {
                prompt: r.prompt,
                position: r.position,
                token: found.token(prompts.get(r.prompt)[r.position]),
                first: r.first,
                second: r.second,
                activation: r.activation,
                ablated: r.ablated,
                difference: r.difference,
            };
            rows.iter().map(row).collect()
        };
        let prompts = found.corpus_prompts(self.prompts)?;
        let raw = cooccurrence(model, first, second, &prompts, self.options, found.watch)?;
        let rows = named(&prompts, &raw);
        let mut pairs = cooccurrence_pairs(&raw);
        if pairs.is_empty() {
            let none = "No first direction was above the threshold; lower `above` in the study file.".into();
            return Ok(Body { prose: vec![none], blocks: Vec::new() });
        }
        // Pairs with an interval come first.
        let (mut tested, once): (Vec<_>, Vec<_>) = pairs.iter().partition(|pair| pair.change.estimate.clusters > 1);
        let matched = Matched::of(found.index.sae(0));
        control_pairs(model, [first, second], &prompts, &raw, &mut tested, &matched, found.watch)?;
        pairs = tested.iter().chain(&once).copied().collect();
        let prose = vec![
            format!(
                "At every position from {} on of {} prompts, the most active direction of {} was looked at with each direction of {} above {} ablated there: {} tests of {}.",
                self.options.first_position,
                prompts.len(),
                second.short_name(),
                first.short_name(),
                self.options.above,
                rows.len(),
                count(pairs.len(), "pair"),
            ),
            needs(&pairs),
            "A negative mean difference says that the second direction needs the first (an AND if it needs several); a positive one that the first holds it back.".into(),
        ];
        let differences: Vec<f64> = rows.iter().map(|row| row.difference as f64).collect();
        let claims: Vec<Claim> = tested.iter().take(self.top).map(|pair| pair.change).collect();
        let labels = tested.iter().take(self.top).map(|pair| format!("{} → {}", pair.first, pair.second)).collect();
        let mut blocks = vec![
            figure(
                "cooccurrence-pairs",
                "The second directions that need a first one most",
                ("pair", "difference of activation, ablated − original"),
                &format!(
                    "Mean over positions, of the {} with the most negative mean of those found in several prompts; bars are 95 % intervals clustered by prompt, shades those of the controls.",
                    count(claims.len(), "pair")
                ),
                claim_bars(labels, &claims),
            ),
            figure(
                "cooccurrence-differences",
                "Change of the most active second direction",
                ("difference of activation, ablated − original", "tests"),
                "Every active first direction at every position, ablated alone; counts on a logarithmic scale.",
                Shape::histogram(&differences, 60).with_log_counts(),
            ),
            table(
                "cooccurrence-pairs",
                "Each pair over its n positions: the second direction's activation, and its difference with the first ablated there, with half widths of 95 % intervals clustered by prompt, p and q, its false-discovery rate over all pairs. Pairs found in several prompts come first, the most negative first; random rows and random directions: controls of these, at the same positions.",
                &pairs,
            ),
            table(
                "cooccurrence",
                "Every test: activation of the second direction, with the first one ablated, and the difference.",
                &rows,
            ),
        ];
        if let Some(text) = &self.text {
            let tokens = found.opened.tokenizer.as_ref().map(|t| t.encode(text)).transpose()?.unwrap_or_default();
            let prompt: Vec<u32> = found.opened.bos.into_iter().chain(tokens).collect();
            if prompt.is_empty() {
                return Ok(Body { prose, blocks });
            }
            let last = prompt.len() - 1;
            let prompts = Prompts::from_rows([prompt]);
            let options = CooccurrenceOptions { first_position: last, above: self.options.above };
            let rows = cooccurrence(model, first, second, &prompts, options, found.watch)?;
            blocks.push(table(
                "cooccurrence-text",
                &format!("At the last position of “{text}”: activation of the second direction, with the first one ablated, and the difference."),
                &named(&prompts, &rows),
            ));
        }
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct Row {
    prompt: usize,
    position: usize,
    token: String,
    first: usize,
    second: usize,
    activation: f32,
    ablated: f32,
    difference: f32,
}

/// How many pairs depend on each other, in both directions.
fn needs(pairs: &[CooccurrencePair]) -> String {
    let surviving: Vec<&Claim> = pairs.iter().map(|pair| &pair.change).filter(|change| change.q < 0.05).collect();
    let falling = surviving.iter().filter(|change| change.mean() < 0.0).count();
    let untested = pairs.iter().filter(|pair| pair.change.q.is_nan()).count();
    format!(
        "In {falling} of them the second activation falls and in {} it rises, at a false-discovery rate of 5 % over all pairs; of these, the intervals of {} meet none of their controls'. {untested} were found in one prompt only and have no interval.",
        surviving.len() - falling,
        surviving.iter().filter(|change| change.is_beyond_controls()).count(),
    )
}

#[cfg(test)]
mod tests {
    use directrix_circuits::Cooccurrence as Test;

    use super::*;

    #[test]
    fn pairs_are_counted_once_whatever_the_positions() {
        let test = |prompt, second, difference| Test {
            prompt,
            position: 3,
            first: 1,
            second,
            activation: 2.0,
            ablated: 2.0 + difference,
            difference,
        };
        let falls = [-1.0, -1.01, -0.99].iter().enumerate().map(|(prompt, d)| test(prompt, 5, *d));
        let rises = [1.0, 1.01, 0.99].iter().enumerate().map(|(prompt, d)| test(prompt, 6, *d));
        let tests: Vec<Test> = falls.chain(rises).chain([test(0, 7, -9.0)]).collect();
        let pairs = cooccurrence_pairs(&tests);
        assert_eq!(
            pairs.iter().map(|pair| (pair.second, pair.change.estimate.n)).collect::<Vec<_>>(),
            [(7, 1), (5, 3), (6, 3)]
        );
        let said = needs(&pairs);
        assert!(
            said.contains("In 1 of them the second activation falls and in 1 it rises")
                && said.contains("of 2 meet none of their controls'. 1 were found"),
            "{said}"
        );
    }
}
