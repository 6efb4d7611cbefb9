//! How much of the answer's loss the SAE recovers.

use directrix_circuits::{AnswerLosses, Estimate, mean_site};
use serde::Serialize;

use super::{Body, SectionKind, figure, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// How much of the loss the SAE recovers.
    LossRecovered {
        /// Prompts of the corpus over which the site's mean is taken.
        mean_prompts: usize = 20,
    }
}

impl SectionKind for LossRecovered {
    const KIND: &str = "loss_recovered";
    const TITLE: &str = "Loss recovered";

    fn make(&self, found: &Findings) -> Result<Body> {
        let sae = found.sae();
        let mean = mean_site(&found.opened.model, sae, &found.corpus_prompts(self.mean_prompts)?, found.watch)?;
        let losses =
            AnswerLosses::of(&found.opened.model, sae, &found.behaviour.prompts, &found.top, &mean, found.watch)?;
        let top = format!("top {} ablated", found.top.len());
        let rows: Vec<LossRow> = [
            ("original", &losses.original),
            ("mean-ablated", &losses.mean),
            ("zero-ablated", &losses.zero),
            (&top, &losses.directions),
            ("reconstructed", &losses.sae),
        ]
        .into_iter()
        .map(|(site, values)| {
            let Estimate { n, mean, se, half_width, .. } = Estimate::of(values.iter().copied());
            LossRow { site, n, mean_loss: mean, se, half_width }
        })
        .collect();
        let prose = vec![
            if rows[2].mean_loss > rows[0].mean_loss {
                format!(
                    "With the site of {} replaced by its reconstruction before the answer, the SAE recovers {:.1} % of the loss between zero ablation ({:.3}) and the unchanged model ({:.3}): (zero − sae) / (zero − original), means over {} prompts.",
                    sae.short_name(),
                    100.0 * losses.recovered(),
                    rows[2].mean_loss,
                    rows[0].mean_loss,
                    rows[0].n
                )
            } else {
                format!(
                    "The answer's loss is lower with the site of {} set to zero ({:.3}) than unchanged ({:.3}), so there is no loss for the SAE to recover here; means over {} prompts.",
                    sae.short_name(),
                    rows[2].mean_loss,
                    rows[0].mean_loss,
                    rows[0].n
                )
            },
            format!(
                "The reconstructed loss is {:.3} ± {:.3}; if the bar of the ablated top directions reaches those of mean and zero ablation, the few directions carry what the site does here.",
                rows[4].mean_loss, rows[4].half_width
            ),
        ];
        let blocks = vec![
            figure(
                "loss-recovered",
                "Loss of the answer with the site changed",
                ("site before the answer", "loss, nats"),
                "Mean over the behaviour prompts measured on; bars are 95 % intervals.",
                Shape::Bars {
                    labels: rows.iter().map(|row| row.site.into()).collect(),
                    values: rows.iter().map(|row| row.mean_loss).collect(),
                    half_widths: rows.iter().map(|row| row.half_width).collect(),
                },
            ),
            table(
                "loss-recovered",
                "Mean loss of the answer over n prompts, with standard error and half width of the 95 % interval.",
                &rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct LossRow<'a> {
    site: &'a str,
    n: usize,
    mean_loss: f64,
    se: f64,
    half_width: f64,
}
