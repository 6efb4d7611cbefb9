//! Who writes the answer: direct logit attribution (DLA).

use directrix_circuits::{Component, logit_attribution};

use super::{Body, SectionKind, component_bars, count, extremes, figure, labels, means, quoted, table, within};
use crate::findings::Findings;
use crate::{Result, Series, Shape};

options! {
    /// Direct logit attribution.
    LogitAttribution {
        /// Also draw a line over the components in the order of the model, as the notebook did.
        line: bool = false,
    }
}

impl SectionKind for LogitAttribution {
    const KIND: &str = "logit_attribution";
    const TITLE: &str = "Who writes the answer (DLA)";

    fn make(&self, found: &Findings) -> Result<Body> {
        let rows = logit_attribution(&found.opened.model, &found.behaviour.prompts, found.watch)?;
        let prose = vec![
            extremes(&rows).map_or_else(String::new, |ends| who_writes(ends, &quoted(&found.answer()))),
            "The logit is a sum over what heads, MLPs and embeddings wrote, once the final LayerNorm's scale is held fixed: a component far from zero writes towards the answer or against it directly, not through later layers.".into(),
        ];
        let title = format!("Direct logit attribution to {}", quoted(&found.answer()));
        let axes = ("component", "contribution to the logit");
        let over = "Mean over behaviour prompts, at the position that predicts the answer";
        let (bars, left_out) = component_bars(&rows);
        let mut blocks = vec![
            figure("logit-attribution", &title, axes, &format!("{over}; with 95 % intervals.{left_out}"), bars),
            table(
                "logit-attribution",
                "Mean contribution of each component to the answer's logit over n prompts, with standard error and half width of the 95 % interval.",
                &rows,
            ),
        ];
        if self.line {
            let series = vec![Series { name: "mean".into(), values: means(&rows) }];
            let line = Shape::Lines { labels: labels(&rows), series };
            blocks.push(figure(
                "logit-attribution-line",
                &title,
                axes,
                &format!("{over}, in the order of the model."),
                line,
            ));
        }
        Ok(Body { prose, blocks })
    }
}

/// Which component adds most to the answer's logit, and which takes most away.
fn who_writes((high, low): (&Component, &Component), answer: &str) -> String {
    let sure = |row: &Component| if row.half_width < row.mean.abs() { "" } else { ", which may be zero" };
    let number = |row: &Component| format!("{:+.2}{}{}", row.mean, within(row.half_width, 2), sure(row));
    let over = format!("Over {}", count(high.n, "prompt"));
    let adds = if high.mean > 0.0 {
        format!("{} adds most to the logit of {answer} ({})", high.component, number(high))
    } else {
        format!("no component adds to the logit of {answer}")
    };
    let takes = if low.mean < 0.0 {
        format!("{} takes most away ({})", low.component, number(low))
    } else {
        "none takes any away".into()
    };
    format!("{over}, {adds}, and {takes}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_the_answer_is_said_as_it_is() {
        let of = |component: &str, mean, half_width| Component {
            component: component.into(),
            n: 9,
            mean,
            se: 0.1,
            half_width,
        };
        let said = |high: Component, low: Component| who_writes((&high, &low), "‘x’");
        assert_eq!(
            said(of("a", 2.0, 0.5), of("b", -1.0, 0.25)),
            "Over 9 prompts, a adds most to the logit of ‘x’ (+2.00 ± 0.50), and b takes most away (-1.00 ± 0.25)."
        );
        assert!(
            said(of("a", 2.0, 2.5), of("b", 0.5, 0.1))
                .contains("(+2.00 ± 2.50, which may be zero), and none takes any away")
        );
        assert!(said(of("a", -0.2, 0.1), of("b", -0.5, 0.1)).contains("no component adds"));
        assert!(said(of("a", 2.0, f64::NAN), of("b", -1.0, 0.1)).contains("one prompt gives no interval"));
    }
}
