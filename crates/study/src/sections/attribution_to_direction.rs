//! Who drives the top directions: attribution to them (DFA).

use directrix_circuits::{Inactive, attribution_to_direction, mean_decomposition};
use directrix_lab::Opened;
use directrix_sae::Sae;
use serde::Serialize;

use super::{Body, SectionKind, component_bars, count, extremes, figure, labels, list, means, table, within};
use crate::findings::Findings;
use crate::{Result, Series, Shape};

options! {
    /// Attribution to the top directions (DFA).
    AttributionToDirection {
        /// Prompts per direction.
        prompts: usize = 100 => 1.0..,
        /// Prompts of the corpus over which the mean of inactive neurons is taken.
        mean_prompts: usize = 100 => 1.0..,
        /// Also draw lines over the components in the order of the model, as the notebook did.
        lines: bool = false,
    }
}

impl SectionKind for AttributionToDirection {
    const KIND: &str = "attribution_to_direction";
    const TITLE: &str = "What drives the top directions (DFA)";

    fn check(&self, opened: &Opened, sae: &Sae) -> Result<(), String> {
        sae.check_linear_neurons(&opened.model).map_err(|e| e.to_string())
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let sae = found.sae();
        let mean =
            mean_decomposition(&found.opened.model, sae, &found.corpus_prompts(self.mean_prompts)?, found.watch)?;
        let kinds = [("mean-replaced", Inactive::Mean(&mean)), ("zeroed", Inactive::Zero)];
        let (mut blocks, mut rows, mut leaders) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, inactive) in kinds {
            let (mut series, mut names) = (Vec::new(), Vec::new());
            for &direction in &found.top {
                let examples = found.sae_index().top_examples(direction as usize, self.prompts)?;
                let prompts = found.prompts_of_index(examples.iter().map(|e| e.prompt))?;
                let positions: Vec<usize> = examples.iter().map(|e| e.position).collect();
                let drives = attribution_to_direction(
                    &found.opened.model,
                    sae,
                    direction,
                    &prompts,
                    &positions,
                    inactive,
                    found.watch,
                )?;
                names = labels(&drives);
                series.push(Series { name: direction.to_string(), values: means(&drives) });
                if kind == "zeroed" {
                    if let Some((high, _)) = extremes(&drives) {
                        let by = format!("{:+.2}{}", high.mean, within(high.half_width, 2));
                        leaders.push(format!("{} for {} ({by})", high.component, found.link(direction)));
                    }
                    let (bars, left_out) = component_bars(&drives);
                    let over = drives.first().map_or(0, |row| row.n);
                    blocks.push(figure(
                        &format!("attribution-to-direction-{direction}"),
                        &format!("Attribution to direction {direction}"),
                        ("component", "contribution to the pre-activation"),
                        &format!(
                            "Mean over the {} of the corpus on which it is most active, at the position of its maximum, inactive neurons zeroed; with 95 % intervals.{left_out}",
                            count(over, "prompt")
                        ),
                        bars,
                    ));
                }
                rows.extend(drives.into_iter().map(|row| DirectionRow {
                    direction,
                    inactive_neurons: kind,
                    component: row.component,
                    n: row.n,
                    mean: row.mean,
                    se: row.se,
                    half_width: row.half_width,
                }));
            }
            if self.lines {
                blocks.push(figure(
                    &format!("attribution-to-direction-{kind}"),
                    &format!("Attribution to the top directions, inactive neurons {kind}"),
                    ("component", "contribution to the pre-activation"),
                    &format!(
                        "Mean over the {} prompts of the corpus on which a direction is most active, at the position of its maximum; one line per direction.",
                        self.prompts
                    ),
                    Shape::Lines { labels: names, series },
                ));
            }
        }
        blocks.push(table(
        "attribution-to-direction",
        "Mean contribution of each component to the direction's pre-activation through active neurons, over n prompts, with standard error and half width of the 95 % interval.",
        &rows,
    ));
        let prose = vec![
            format!("With inactive neurons zeroed, the component that drives a direction most is {}.", list(&leaders)),
            "A direction reads the MLP's neurons, and they read what earlier components wrote: bars above zero are the heads and embeddings that switch the direction on. The table has the same with the mean over the corpus in place of neurons that are not active.".into(),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct DirectionRow<'a> {
    direction: u32,
    inactive_neurons: &'a str,
    component: String,
    n: usize,
    mean: f64,
    se: f64,
    half_width: f64,
}
