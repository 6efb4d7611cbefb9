//! What the SAE leaves out of what its site writes towards the answer.
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, check_written, figure, labels, means, quoted, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// What the SAE leaves out of the MLP's write.
    Remainder {
        /// Prompts.
        prompts: usize = 200,
    }
}

impl SectionKind for Remainder {
    const KIND: &str = "remainder";
    const TITLE: &str = "MLP, reconstruction, remainder";

    fn check(&self, opened: &Opened, sae: &Sae) -> Result<(), String> {
        check_written(opened, sae)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let rows = directrix_circuits::remainder(
            &found.opened.model,
            found.sae(),
            &found.behaviour_prompts(self.prompts),
            found.behaviour.answer,
            found.watch,
        )?;
        let share = rows[1].mean / rows[0].mean;
        let prose = vec![
            format!(
                "What the site of {} writes contributes {:+.2} to the logit of {}; the SAE's reconstruction of it carries {:+.2}, that is {:.0} %.",
                found.sae().short_name(),
                rows[0].mean,
                quoted(&found.answer()),
                rows[1].mean,
                100.0 * share
            ),
            format!(
                "The remainder, {:+.2} ± {:.2}, is what the directions cannot explain of this behaviour: the closer to zero, the more of it they account for.",
                rows[2].mean, rows[2].half_width
            ),
        ];
        let blocks = vec![
            figure(
                "remainder",
                "Logit attribution of the site, its reconstruction and the remainder",
                ("what is written", "contribution to the logit"),
                "Mean over prompts at the position that predicts the answer; bars are 95 % intervals.",
                Shape::Bars {
                    labels: labels(&rows),
                    values: means(&rows),
                    half_widths: rows.iter().map(|row| row.half_width).collect(),
                },
            ),
            table("remainder", "Mean direct logit attribution over n prompts, biases not included.", &rows),
        ];
        Ok(Body { prose, blocks })
    }
}
