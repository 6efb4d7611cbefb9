//! Who writes the answer: direct logit attribution (DLA).

use directrix_circuits::logit_attribution;

use super::{Body, SectionKind, extremes, figure, labels, means, quoted, table};
use crate::findings::Findings;
use crate::{Result, Series, Shape};

options! {
    /// Direct logit attribution.
    LogitAttribution {}
}

impl SectionKind for LogitAttribution {
    const KIND: &str = "logit_attribution";
    const TITLE: &str = "Who writes the answer (DLA)";

    fn make(&self, found: &Findings) -> Result<Body> {
        let rows = logit_attribution(&found.opened.model, &found.behaviour.prompts, found.watch)?;
        let prose = vec![
            extremes(&rows).map_or_else(String::new, |(high, low)| {
                format!(
                    "Over {} prompts, {} adds most to the logit of {} ({:+.2} ± {:.2}, 95 % interval), and {} takes most away ({:+.2}).",
                    high.n,
                    high.component,
                    quoted(&found.answer()),
                    high.mean,
                    high.half_width,
                    low.component,
                    low.mean
                )
            }),
            "The logit is a sum over what heads, MLPs and embeddings wrote, once the final LayerNorm's scale is held fixed: a component far from zero writes towards the answer or against it directly, not through later layers.".into(),
        ];
        let blocks = vec![
            figure(
                "logit-attribution",
                &format!("Direct logit attribution to {}", quoted(&found.answer())),
                ("component", "contribution to the logit"),
                "Mean over behaviour prompts, at the position that predicts the answer.",
                Shape::Lines {
                    labels: labels(&rows),
                    series: vec![Series { name: "mean".into(), values: means(&rows) }],
                },
            ),
            table(
                "logit-attribution",
                "Mean contribution of each component to the answer's logit over n prompts, with standard error and half width of the 95 % interval.",
                &rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}
