//! Who drives the top directions: attribution to them (DFA).

use directrix_circuits::{Inactive, attribution_to_direction, mean_decomposition};
use directrix_lab::Opened;
use directrix_sae::Sae;
use serde::Serialize;

use super::{Body, SectionKind, extremes, figure, labels, list, means, table};
use crate::findings::Findings;
use crate::{Result, Series, Shape};

options! {
    /// Attribution to the top directions (DFA).
    AttributionToDirection {
        /// Prompts per direction.
        prompts: usize = 100,
        /// Prompts of the corpus over which the mean of inactive neurons is taken.
        mean_prompts: usize = 100,
    }
}

impl SectionKind for AttributionToDirection {
    const KIND: &str = "attribution_to_direction";
    const TITLE: &str = "What drives the top directions (DFA)";

    fn check(&self, _opened: &Opened, sae: &Sae) -> Result<(), String> {
        sae.check_neurons().map_err(|e| e.to_string())
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
                let found = attribution_to_direction(
                    &found.opened.model,
                    sae,
                    direction,
                    &prompts,
                    &positions,
                    inactive,
                    found.watch,
                )?;
                names = labels(&found);
                series.push(Series { name: direction.to_string(), values: means(&found) });
                if let (Some((high, _)), "zeroed") = (extremes(&found), kind) {
                    leaders.push(format!("{} for {direction} ({:+.2})", high.component, high.mean));
                }
                rows.extend(found.into_iter().map(|row| DirectionRow {
                    direction,
                    inactive_neurons: kind,
                    component: row.component,
                    n: row.n,
                    mean: row.mean,
                    se: row.se,
                    half_width: row.half_width,
                }));
            }
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
        blocks.push(table(
        "attribution-to-direction",
        "Mean contribution of each component to the direction's pre-activation through active neurons, over n prompts, with standard error and half width of the 95 % interval.",
        &rows,
    ));
        let prose = vec![
            format!("With inactive neurons zeroed, the component that drives a direction most is {}.", list(&leaders)),
            "A direction reads the MLP's neurons, and they read what earlier components wrote: high points are the heads and embeddings that switch the direction on. The two figures differ in what stands in for neurons that are not active.".into(),
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
