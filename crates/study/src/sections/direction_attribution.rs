//! Directions by what their weights write towards the answer.

use directrix_circuits::direction_attribution;
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, check_written, figure, leading, quoted, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Directions by their weights' attribution to the answer.
    DirectionAttribution {
        /// Directions listed.
        top: usize = 5 => 1.0..,
        /// Directions drawn have a mean activation above this.
        active_above: f64 = 0.05 => 0.0..,
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
        let all = direction_attribution(&found.opened.model, sae, &found.acts, found.behaviour.answer)?;
        let mut ranked = all.clone();
        ranked.retain(|row| row.mean_activation > 0.0);
        ranked.sort_by(|a, b| b.scaled.total_cmp(&a.scaled));
        let top = &ranked[..self.top.min(ranked.len())];
        let drawn: Vec<_> = all.iter().filter(|row| row.mean_activation > self.active_above).collect();
        let agree = top.iter().filter(|row| found.top.contains(&(row.direction as u32))).count();
        let prose = vec![
            format!(
                "By weights and mean activation alone, the directions that push {} most are {}. {}",
                quoted(&found.answer()),
                found.linked(&top.iter().map(|row| row.direction).collect::<Vec<_>>()),
                agreement(agree, top.len(), found.top.len())
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
            let block = figure(
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
                    hover: drawn.iter().map(|row| row.direction.to_string()).collect(),
                },
            );
            leading(block, drawn.iter().map(|row| found.anchor(row.direction)).collect())
        };
        let blocks = vec![
            table(
                "direction-attribution",
                "Attribution is W_dec W_out W_U of the answer, per unit of activation and without LayerNorm's scale; scaled is times the mean activation over behaviour prompts, zeros included; each of these with the half width of its 95 % interval over prompts. Every direction that fires before an answer.",
                &ranked,
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

/// How far the ranking by weights agrees with that by ablation.
fn agreement(agree: usize, by_weights: usize, by_ablation: usize) -> String {
    let verdict = if agree == 0 {
        "the two rankings disagree, and what a direction writes towards the answer does not tell what the model loses without it"
    } else if agree == by_ablation {
        "the two rankings agree"
    } else {
        "the two rankings agree in part"
    };
    format!(
        "Of the {by_ablation} found by ablation, {agree} {} among these {by_weights}: {verdict}.",
        if agree == 1 { "is" } else { "are" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rankings_agree_in_whole_in_part_or_not() {
        assert!(agreement(0, 5, 5).ends_with("what the model loses without it."));
        assert!(
            agreement(1, 5, 5)
                .contains("Of the 5 found by ablation, 1 is among these 5: the two rankings agree in part.")
        );
        assert!(agreement(3, 5, 3).ends_with("the two rankings agree."));
    }
}
