//! Whether the top directions are active together.

use super::{Body, SectionKind, figure};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Whether the top directions are active together.
    Coactivation {
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1,
    }
}

impl SectionKind for Coactivation {
    const KIND: &str = "coactivation";
    const TITLE: &str = "Are the top directions active together?";

    fn make(&self, found: &Findings) -> Result<Body> {
        let values = directrix_circuits::coactivation(&found.acts, &found.top, self.active_above)?;
        let n = found.top.len();
        let labels: Vec<String> = found.top.iter().map(u32::to_string).collect();
        let strongest = (0..n)
            .flat_map(|i| (i + 1..n).map(move |j| (i, j)))
            .filter(|(i, j)| values[i * n + j].is_finite())
            .max_by(|a, b| values[a.0 * n + a.1].abs().total_cmp(&values[b.0 * n + b.1].abs()));
        let sentence = strongest.map_or_else(
            || "No two of them vary over these prompts, so there is nothing to correlate.".into(),
            |(i, j)| {
                format!(
                    "The strongest correlation is between {} and {}: {:.2}.",
                    found.top[i],
                    found.top[j],
                    values[i * n + j]
                )
            },
        );
        let prose = vec![
            sentence,
            format!(
                "The correlation is over {} prompts, of whether a direction is above {} before the answer: near zero they work on prompts of their own choosing, near one together, below zero one stands in for the other.",
                found.acts.positions(),
                self.active_above
            ),
        ];
        let blocks = vec![figure(
            "coactivation",
            "Correlation of being active",
            ("direction", "direction"),
            "Pearson correlation over behaviour prompts; blank where a direction is active on all prompts or on none.",
            Shape::Heatmap { columns: labels.clone(), rows: labels, values, diverging: true },
        )];
        Ok(Body { prose, blocks })
    }
}
