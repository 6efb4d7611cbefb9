//! Edges from the first SAE to the last by ablation at one position.

use directrix_circuits::CooccurrenceOptions;
use directrix_corpus::Prompts;
use directrix_lab::Opened;
use directrix_sae::Sae;
use serde::Serialize;

use super::{Body, SectionKind, check_order, figure, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Pairs of directions by ablation at one position.
    Cooccurrence {
        /// Prompts of the corpus whose positions are looked at.
        prompts: usize = 20,
        /// Position and activation thresholds.
        options: CooccurrenceOptions = CooccurrenceOptions::default(),
        /// Also look at the last position of this text.
        text: Option<String> = None,
        /// Rows listed from each end.
        top: usize = 15,
    }
}

impl SectionKind for Cooccurrence {
    const KIND: &str = "cooccurrence";
    const TITLE: &str = "Which first directions a second one needs";

    const SAES: usize = 2;

    fn check(&self, opened: &Opened, _sae: &Sae) -> Result<(), String> {
        check_order(opened)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let (first, second) = (&found.opened.saes[0], &found.opened.saes[found.opened.saes.len() - 1]);
        let rows_of = |prompts: &Prompts, options: CooccurrenceOptions| -> Result<Vec<Row>> {
            let rows =
                directrix_circuits::cooccurrence(&found.opened.model, first, second, prompts, options, found.watch)?;
            let row = |r: directrix_circuits::Cooccurrence| Row {
                prompt: r.prompt,
                position: r.position,
                token: found.token(prompts.get(r.prompt)[r.position]),
                first: r.first,
                second: r.second,
                activation: r.activation,
                ablated: r.ablated,
                difference: r.difference,
            };
            Ok(rows.into_iter().map(row).collect())
        };
        let prompts = found.corpus_prompts(self.prompts)?;
        let rows = rows_of(&prompts, self.options)?;
        let needs = rows.iter().filter(|row| row.difference < -0.5 * row.activation).count();
        let mut prose = vec![
            format!(
                "At every position from {} on of {} prompts, the most active direction of {} was looked at with each direction of {} above {} ablated there: {} pairs, of which {needs} lose more than half of the second activation.",
                self.options.first_position,
                prompts.len(),
                second.short_name(),
                first.short_name(),
                self.options.above,
                rows.len()
            ),
            "A large negative difference says that the second direction needs the first (an AND if it needs several); a positive one that the first holds it back.".into(),
        ];
        if rows.is_empty() {
            prose.push("No first direction was above the threshold; lower `above` in the study file.".into());
            return Ok(Body { prose, blocks: Vec::new() });
        }
        let differences: Vec<f64> = rows.iter().map(|row| row.difference as f64).collect();
        let mut blocks = vec![figure(
            "cooccurrence-differences",
            "Change of the most active second direction",
            ("difference of activation, ablated − original", "pairs"),
            "Every active first direction at every position, ablated alone; counts on a logarithmic scale.",
            Shape::histogram(&differences, 60).with_log_counts(),
        )];
        let caption = "Activation of the second direction, with the first one ablated, and the difference";
        let needed: Vec<&Row> = rows.iter().rev().take(self.top).collect();
        let held_back: Vec<&Row> = rows.iter().take(self.top).collect();
        for (name, rows, what) in [
            ("cooccurrence-needed", needed, "most negative differences"),
            ("cooccurrence-held-back", held_back, "most positive differences"),
        ] {
            blocks.push(table(name, &format!("{caption}; the {what}."), &rows));
        }
        if let Some(text) = &self.text {
            let tokens = found.opened.tokenizer.as_ref().map(|t| t.encode(text)).transpose()?.unwrap_or_default();
            let prompt: Vec<u32> = found.opened.bos.into_iter().chain(tokens).collect();
            if prompt.is_empty() {
                return Ok(Body { prose, blocks });
            }
            let last = prompt.len() - 1;
            let rows = rows_of(
                &Prompts::from_rows([prompt]),
                CooccurrenceOptions { first_position: last, above: self.options.above },
            )?;
            blocks.push(table("cooccurrence-text", &format!("{caption}; at the last position of “{text}”."), &rows));
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
