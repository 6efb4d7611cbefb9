//! Prompts of the corpus on which directions fire.

use directrix_index::Example;
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, check_directions, list, table};
use crate::Result;
use crate::findings::Findings;
use crate::report::{Block, Texts};

options! {
    /// Examples of directions.
    Examples {
        /// Directions of the SAE taken apart; the top ones if not said.
        directions: Option<Vec<usize>> = None,
        /// Examples of each kind.
        examples: usize = 3,
    }
}

impl SectionKind for Examples {
    const KIND: &str = "examples";
    const TITLE: &str = "Top examples of the top directions";

    fn check(&self, _opened: &Opened, sae: &Sae) -> Result<(), String> {
        check_directions(sae, self.directions.iter().flatten())
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let sae = found.sae_index();
        let directions: Vec<usize> =
            self.directions.clone().unwrap_or_else(|| found.top.iter().map(|d| *d as usize).collect());
        let mut blocks = Vec::new();
        for &direction in &directions {
            let n = self.examples;
            let mut chosen: Vec<(&str, Example)> =
                sae.top_examples(direction, n)?.into_iter().map(|e| ("highest", e)).collect();
            for (name, low, high) in [
                ("upper third", 2.0 / 3.0, 0.999),
                ("middle third", 1.0 / 3.0, 2.0 / 3.0),
                ("lower third", 0.0, 1.0 / 3.0),
            ] {
                let known: Vec<usize> = chosen.iter().map(|(_, e)| e.prompt).collect();
                let more = sae.interval_examples(direction, low, high, n)?;
                chosen.extend(more.into_iter().filter(|e| !known.contains(&e.prompt)).map(|e| (name, e)));
            }
            let rows = chosen
                .into_iter()
                .map(|(kind, e)| {
                    let label = format!("{kind}: prompt {}, {:.2} at position {}", e.prompt, e.activation, e.position);
                    found.shaded(label, &e, direction)
                })
                .collect::<Result<_>>()?;
            blocks.push(Block::Texts(Texts {
            name: format!("examples-{direction}"),
            title: format!("Direction {direction}"),
            caption: format!(
                "Prompts shaded by the activation of direction {direction} (darkest: {:.2}, its maximum), by where in its range their highest activation lies.",
                sae.maxima()[direction]
            ),
            rows,
        }));
        }
        let summaries: Vec<_> = directions.iter().map(|d| sae.direction(*d)).collect();
        blocks.insert(
        0,
        table(
            "directions",
            "What the corpus says of each direction: its maximum, the positions at which it fires and their share, its mean activation there, and the prompts in which it fires.",
            &summaries,
        ),
    );
        let dense = summaries.iter().max_by(|a, b| a.density.total_cmp(&b.density));
        let prose = vec![
            format!(
                "The directions whose ablation raises the loss most are {}; the densest of them fires at {:.2} % of all positions.",
                list(&directions),
                dense.map_or(0.0, |d| 100.0 * d.density)
            ),
            "Read the darkest tokens and what comes before them: a direction means something if its examples share it over its whole range, not only at the top.".into(),
        ];
        Ok(Body { prose, blocks })
    }
}
