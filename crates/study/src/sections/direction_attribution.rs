//! Directions by what their weights write towards the answer.

use directrix_circuits::direction_attribution;
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, check_written, figure, list, quoted, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Directions by their weights' attribution to the answer.
    DirectionAttribution {
        /// Directions listed.
        top: usize = 5,
        /// Directions drawn have a mean activation above this.
        active_above: f64 = 0.05,
    }
}

impl SectionKind for DirectionAttribution {
    const KIND: &str = "direction_attribution";
    const TITLE: &str = "Directions by positive logit attribution";

    fn check(&self, opened: &Opened, sae: &Sae) -> Result<(), String> {
        check_written(opened, sae)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let sae = found.sae();
        let mut means = vec![0.0_f64; sae.directions()];
        for (&direction, &value) in found.acts.directions().iter().zip(found.acts.values()) {
            means[direction as usize] += value as f64 / found.acts.positions() as f64;
        }
        let all = direction_attribution(&found.opened.model, sae, &means, found.behaviour.answer)?;
        let mut top = all.clone();
        top.sort_by(|a, b| b.scaled.total_cmp(&a.scaled));
        top.truncate(self.top);
        let drawn: Vec<_> = all.iter().filter(|row| row.mean_activation > self.active_above).collect();
        let agree = top.iter().filter(|row| found.top.contains(&(row.direction as u32))).count();
        let prose = vec![
            format!(
                "By weights and mean activation alone, the directions that push {} most are {}; {} of the {} found by ablation {} among them.",
                quoted(&found.answer()),
                list(&top.iter().map(|row| row.direction).collect::<Vec<_>>()),
                agree,
                found.top.len(),
                if agree == 1 { "is" } else { "are" }
            ),
            format!(
                "A direction at the upper right is both active before the answer and written towards it; of {} drawn, {} point away from it.",
                drawn.len(),
                drawn.iter().filter(|row| row.attribution < 0.0).count()
            ),
        ];
        let scatter = |name: &str,
                       heading: &str,
                       x: &str,
                       value: &dyn Fn(&directrix_circuits::DirectionAttribution) -> f64| {
            figure(
                name,
                heading,
                (x, "mean activation"),
                &format!(
                    "Directions with a mean activation above {} before the answer, over the behaviour prompts measured on.",
                    self.active_above
                ),
                Shape::Scatter {
                    x: drawn.iter().map(|row| value(row)).collect(),
                    y: drawn.iter().map(|row| row.mean_activation).collect(),
                    hover: drawn.iter().map(|row| format!("direction {}", row.direction)).collect(),
                },
            )
        };
        let blocks = vec![
            table(
                "direction-attribution",
                "Attribution is W_dec W_out W_U of the answer, per unit of activation and without LayerNorm's scale; scaled is times the mean activation over behaviour prompts, zeros included.",
                &top,
            ),
            scatter("direction-attribution", "Attribution and activation", "attribution to the answer", &|row| {
                row.attribution
            }),
            scatter(
                "direction-attribution-scaled",
                "Activation × attribution, and activation",
                "mean activation × attribution to the answer",
                &|row| row.scaled,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}
