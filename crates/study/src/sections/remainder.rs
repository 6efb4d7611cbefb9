//! What the SAE leaves out of what its site writes towards the answer.

use directrix_circuits::Component;
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, check_written, figure, labels, quoted, table, within};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// What the SAE leaves out of the MLP's write.
    Remainder {
        /// Prompts.
        prompts: usize = 200 => 1.0..,
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
        let [site, reconstruction, remainder] = [&rows[0], &rows[1], &rows[2]];
        let prose = vec![
            carried(found.sae().short_name(), &quoted(&found.answer()), [site, reconstruction]),
            left(remainder, site),
        ];
        let blocks = vec![
            figure(
                "remainder",
                "Logit attribution of the site, its reconstruction and the remainder",
                ("what is written", "contribution to the logit"),
                "Mean over prompts at the position that predicts the answer; bars are 95 % intervals.",
                Shape::bars(labels(&rows), rows.iter().map(|row| (row.mean, row.half_width))),
            ),
            table("remainder", "Mean direct logit attribution over n prompts, biases not included.", &rows),
        ];
        Ok(Body { prose, blocks })
    }
}

/// What the site writes towards the answer, and how much of it the reconstruction carries.
fn carried(sae: &str, answer: &str, [site, reconstruction]: [&Component; 2]) -> String {
    let [of_site, of_reconstruction] =
        [site, reconstruction].map(|row| format!("{:+.2}{}", row.mean, within(row.half_width, 2)));
    let said = format!(
        "What the site of {sae} writes contributes {of_site} to the logit of {answer}; the SAE's reconstruction of it carries {of_reconstruction}"
    );
    if site.half_width < site.mean.abs() {
        format!("{said}, that is {:.0} %.", 100.0 * reconstruction.mean / site.mean)
    } else {
        format!("{said}. The site may contribute nothing, so that no share can be said.")
    }
}

/// What is left.
fn left(remainder: &Component, site: &Component) -> String {
    let verdict = if remainder.half_width.is_nan() {
        "which one prompt cannot tell from zero"
    } else if remainder.mean.abs() <= remainder.half_width {
        "which may be zero: the directions account for all of what the site does here, as far as these prompts tell"
    } else if remainder.mean.abs() < 0.2 * site.mean.abs() {
        "a small part of what the site does here is not explained by the directions"
    } else {
        "a good part of what the site does here is not explained by the directions"
    };
    format!("The remainder is {:+.2}{}, {verdict}.", remainder.mean, within(remainder.half_width, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mean: f64, half_width: f64) -> Component {
        Component { component: "x".into(), n: 5, mean, se: 0.1, half_width }
    }

    #[test]
    fn the_share_is_said_only_if_there_is_a_whole() {
        let said = |site, reconstruction| carried("sae-l0", "‘x’", [&site, &reconstruction]);
        assert!(said(of(2.0, 0.1), of(1.5, 0.1)).ends_with("carries +1.50 ± 0.10, that is 75 %."));
        assert!(said(of(-0.1, 0.5), of(1.5, 0.1)).ends_with("no share can be said."));
    }

    #[test]
    fn what_is_left_is_weighed() {
        let said = |remainder| left(&remainder, &of(2.0, 0.1));
        assert!(said(of(0.1, 0.2)).contains("may be zero"));
        assert!(said(of(-0.3, 0.1)).contains("a small part"));
        assert!(said(of(0.9, 0.1)).contains("a good part"));
        assert!(said(of(0.9, f64::NAN)).contains("cannot tell"));
    }
}
