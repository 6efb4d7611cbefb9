//! How much of the answer's loss the SAE recovers.

use directrix_circuits::{AnswerLosses, Estimate, Interval, mean_site};
use serde::Serialize;

use super::{Body, SectionKind, figure, percent, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// How much of the loss the SAE recovers.
    LossRecovered {
        /// Prompts of the corpus over which the site's mean is taken.
        mean_prompts: usize = 20 => 1.0..,
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
        let added =
            |by: &[f64]| Estimate::of(by.iter().zip(&losses.original).map(|(changed, original)| changed - original));
        let prose = vec![
            recovered(sae.short_name(), added(&losses.zero), losses.recovered(), [&rows[2], &rows[0]]),
            carried(&found.linked(&found.top), added(&losses.mean), losses.of_the_site()),
        ];
        let blocks = vec![
            figure(
                "loss-recovered",
                "Loss of the answer with the site changed",
                ("site before the answer", "loss, nats"),
                "Mean over the behaviour prompts measured on; bars are 95 % intervals.",
                Shape::bars(
                    rows.iter().map(|row| row.site.into()).collect(),
                    rows.iter().map(|row| (row.mean_loss, row.half_width)),
                ),
            ),
            table(
                "loss-recovered",
                "Mean loss of the answer over n prompts, with standard error and half width of the 95 % interval.",
                &rows,
            ),
            table(
                "loss-recovered-shares",
                "Shares of losses added, each of means over the same n prompts, with both ends of its 95 % interval (bootstrap over prompts): of what zero ablation adds, what the reconstruction takes away again; of what mean ablation adds, what ablating the top directions adds.",
                &[
                    ("reconstruction, of zero ablation", losses.recovered()),
                    ("top directions, of mean ablation", losses.of_the_site()),
                ]
                .map(|(what, (share, Interval { low, high }))| ShareRow {
                    what,
                    n: losses.original.len(),
                    share,
                    low,
                    high,
                }),
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

#[derive(Serialize)]
struct ShareRow<'a> {
    what: &'a str,
    n: usize,
    share: f64,
    low: f64,
    high: f64,
}

/// How much the SAE recovers, if there is a loss to recover.
fn recovered(
    sae: &str,
    added_by_zero: Estimate,
    (share, interval): (f64, Interval),
    [zero, original]: [&LossRow; 2],
) -> String {
    let losses = format!("zero ablation ({:.3}) and the unchanged model ({:.3})", zero.mean_loss, original.mean_loss);
    if added_by_zero.low() > 0.0 {
        format!(
            "With the site of {sae} replaced by its reconstruction before the answer, the SAE recovers {:.1} % ({}) of the loss between {losses}: (zero − sae) / (zero − original), means over {} prompts.",
            100.0 * share,
            percent(interval),
            zero.n
        )
    } else {
        format!(
            "Setting the site of {sae} to zero does not surely raise the answer's loss, so there is none for the SAE to recover here: between {losses}, over {} prompts.",
            zero.n
        )
    }
}

/// Whether the top directions carry what the site does.
fn carried(top: &str, added_by_mean: Estimate, (share, interval): (f64, Interval)) -> String {
    let whole = format!("Replacing the site by its mean adds {:+.3} nats", added_by_mean.mean);
    if added_by_mean.low().is_nan() || added_by_mean.low() <= 0.0 {
        return format!("{whole}, which may be nothing: the answer does not depend on the site as a whole.");
    }
    let verdict = if interval.low.is_nan() {
        "how much may be chance cannot be said"
    } else if interval.low > 1.1 {
        "more than the whole site, so that others of its directions work against them"
    } else if interval.high < 0.9 {
        "their bar does not reach that of mean ablation, and other directions, or what the SAE leaves out, do the rest"
    } else if interval.low > 0.9 {
        "these few carry what the site does here"
    } else {
        "they may carry all of what the site does here, or not"
    };
    format!("{whole}; ablating {top} adds {:.0} % of that ({}): {verdict}.", 100.0 * share, percent(interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_few_carry_the_site_follows_from_the_interval() {
        let sure = Estimate::of([1.0, 1.1, 0.9]);
        let said = |share, low, high| carried("7 and 9", sure, (share, Interval { low, high }));
        assert!(
            said(0.4, 0.3, 0.5).contains("adds 40 % of that (95 % interval 30.0 to 50.0 %): their bar does not reach")
        );
        assert!(said(1.0, 0.95, 1.05).ends_with("these few carry what the site does here."));
        assert!(said(0.9, 0.6, 1.2).ends_with("or not."));
        assert!(said(1.5, 1.3, 1.7).contains("more than the whole site"));
        assert!(said(1.5, f64::NAN, f64::NAN).contains("cannot be said"));
        let nothing = Estimate::of([1.0, -1.0]);
        assert!(carried("7", nothing, (0.5, Interval { low: 0.4, high: 0.6 })).contains("does not depend on the site"));
    }

    #[test]
    fn a_loss_is_recovered_only_if_there_is_one() {
        let row = |mean_loss| LossRow { site: "x", n: 3, mean_loss, se: 0.1, half_width: 0.2 };
        let said = |added: [f64; 3]| {
            recovered("sae-l0", Estimate::of(added), (0.9, Interval { low: 0.85, high: 0.95 }), [&row(2.0), &row(1.0)])
        };
        assert!(
            said([1.0, 1.1, 0.9]).contains("recovers 90.0 % (95 % interval 85.0 to 95.0 %) of the loss between zero")
        );
        assert!(said([-1.0, 1.1, 0.9]).contains("none for the SAE to recover"));
    }
}
