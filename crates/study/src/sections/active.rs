//! The directions active before the answer.

use directrix_circuits::{ActiveOptions, Interval};
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, check_range, count, figure, percent, table, within};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Directions active before the answer.
    Active {
        /// Prompts looked at.
        prompts: usize = 1000 => 1.0..,
        /// Thresholds.
        options: ActiveOptions = ActiveOptions::default(),
    }
}

impl SectionKind for Active {
    const KIND: &str = "active";
    const TITLE: &str = "Directions active before the answer";

    fn check(&self, _opened: &Opened, _sae: &Sae) -> Result<(), String> {
        check_range("share_of_maximum", self.options.share_of_maximum as f64, 0.0..1.0)?;
        check_range("share_of_prompts", self.options.share_of_prompts, 0.0..=1.0)?;
        check_range("top", self.options.top as f64, 1.0..)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let sae = found.sae();
        let mut sums = vec![0.0_f64; sae.directions()];
        let prompts = found.selection.acts.positions();
        for prompt in 0..prompts {
            let (directions, values) = found.selection.acts.at(prompt);
            directions.iter().zip(values).for_each(|(d, v)| sums[*d as usize] += *v as f64);
        }
        let means: Vec<f64> = sums.iter().map(|sum| sum / prompts as f64).filter(|mean| *mean > 0.0).collect();
        let rows = &found.selection.active;
        let prose = vec![
            format!(
                "Before the answer, {} of {} fire on at least one of {} prompts; {} exceed {} of their maximum on at least {:.0} % of them.",
                means.len(),
                count(sae.directions(), "direction"),
                prompts,
                rows.len(),
                self.options.share_of_maximum,
                100.0 * self.options.share_of_prompts
            ),
            rows.first().map_or_else(
                || "None is a candidate for the behaviour at these thresholds.".into(),
                |row| {
                    format!(
                        "The strongest is {}, with a mean of {:.2}{} over the {:.0} % of prompts ({}) on which it exceeds its threshold: candidates for the behaviour are the directions in this table, and the next section tests them.",
                        found.link(row.direction),
                        row.mean_activation,
                        within(row.half_width, 2),
                        100.0 * row.share,
                        percent(Interval { low: row.share_low, high: row.share_high })
                    )
                },
            ),
        ];
        let blocks = vec![
            figure(
                "mean-activations",
                "Mean activation before the answer",
                ("mean activation over prompts, zeros included", "directions"),
                "Directions that fire on at least one prompt; counts on a logarithmic scale.",
                Shape::histogram(&means, 50).with_log_counts(),
            ),
            table(
                "active-directions",
                "Directions above their threshold on enough prompts of the selection; the mean activation is over the prompts on which they are, with the half width of its 95 % interval; the share of all prompts with both ends of its own (Wilson).",
                rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}
