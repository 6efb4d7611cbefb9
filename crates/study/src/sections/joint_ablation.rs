//! Ablation of the top directions together, and of the whole site.

use directrix_circuits::{Change, Estimate, PromptEffect, mean_site};
use serde::Serialize;

use super::{Body, SectionKind, count, excludes_zero, figure, list, quoted, table};
use crate::findings::Findings;
use crate::report::Block;
use crate::{Result, Shape};

options! {
    /// Ablation of the top directions together.
    JointAblation {
        /// Prompts.
        prompts: usize = 200,
        /// Prompts on which the whole site is mean-ablated.
        mean_ablation_prompts: usize = 100,
        /// Stories over which the site's mean is taken.
        mean_prompts: usize = 10,
    }
}

impl SectionKind for JointAblation {
    const KIND: &str = "joint_ablation";
    const TITLE: &str = "Ablating the top directions together";

    fn make(&self, found: &Findings) -> Result<Body> {
        let sae = found.sae();
        let prompts = found.behaviour_prompts(self.prompts);
        let set = PromptEffect::of(&found.opened.model, sae, &prompts, &Change::Ablate(found.top.clone()))?;
        let mean = mean_site(&found.opened.model, sae, &found.corpus_prompts(self.mean_prompts)?)?;
        let some = found.behaviour_prompts(self.mean_ablation_prompts);
        let site = PromptEffect::of(&found.opened.model, sae, &some, &Change::Replace(mean.into()))?;
        let increase = |rows: &[PromptEffect]| Estimate::of(rows.iter().map(|e| e.log_prob - e.log_prob_changed));
        let (of_set, of_site) = (increase(&set), increase(&site));
        let first = |rows: &[PromptEffect], changed: bool| {
            let hits = rows.iter().filter(|e| if changed { e.rank_changed == 0 } else { e.rank == 0 }).count();
            100.0 * hits as f64 / rows.len() as f64
        };
        let prose = vec![
            format!(
                "Ablating {} together before the answer changes its loss by {:+.3} nats (standard deviation {:.3} over {} prompts; 95 % interval {:.3} to {:.3}): {}.",
                list(&found.top),
                of_set.mean,
                of_set.sd,
                of_set.n,
                of_set.low(),
                of_set.high(),
                excludes_zero(of_set.mean, of_set.half_width)
            ),
            format!(
                "{} is the first choice on {:.0} % of the prompts before and {:.0} % after; replacing the whole site by its mean changes the loss by {:+.3} ± {:.3} on {}: {}.",
                quoted(&found.answer()),
                first(&set, false),
                first(&set, true),
                of_site.mean,
                of_site.half_width,
                count(site.len(), "prompt"),
                if of_site.low() > 0.0 {
                    format!(
                        "these directions account for {:.0} % of what the site does for the answer",
                        100.0 * of_set.mean / of_site.mean
                    )
                } else {
                    "as a whole, the site is not what the answer depends on".into()
                }
            ),
        ];
        let (set_name, site_name) = (format!("directions {}", list(&found.top)), "whole site, by its mean".to_owned());
        let (set_rows, site_rows) = (differences(&set_name, &set), differences(&site_name, &site));
        let blocks = vec![
            difference_bars("joint-ablation", "The top directions ablated", &set_rows),
            difference_bars("mean-ablation", "The whole site replaced by its mean", &site_rows),
            table(
                "joint-ablation-summary",
                "Mean over n prompts of original − ablated, with standard deviation, standard error and half width of the 95 % interval. A positive difference of log-probability is a loss increase; a negative difference of rank says that the answer fell behind other tokens.",
                &set_rows.into_iter().chain(site_rows).collect::<Vec<_>>(),
            ),
            table(
                "joint-ablation",
                "Each prompt: log-probability, logit and rank of the answer, and the same with the top directions ablated.",
                &set,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct DifferenceRow<'a> {
    ablated: &'a str,
    measure: &'a str,
    n: usize,
    mean: f64,
    sd: f64,
    se: f64,
    half_width: f64,
}

/// Original − ablated, per measure.
fn differences<'a>(ablated: &'a str, rows: &[PromptEffect]) -> Vec<DifferenceRow<'a>> {
    type Measure = fn(&PromptEffect) -> f64;
    let measures: [(&str, Measure); 3] = [
        ("log-probability", |e| e.log_prob - e.log_prob_changed),
        ("logit", |e| (e.logit - e.logit_changed) as f64),
        ("rank", |e| e.rank as f64 - e.rank_changed as f64),
    ];
    measures
        .into_iter()
        .map(|(measure, of)| {
            let Estimate { n, mean, sd, se, half_width, .. } = Estimate::of(rows.iter().map(of));
            DifferenceRow { ablated, measure, n, mean, sd, se, half_width }
        })
        .collect()
}

fn difference_bars(name: &str, heading: &str, rows: &[DifferenceRow]) -> Block {
    figure(
        name,
        heading,
        ("measure of the answer", "original − ablated"),
        &format!("Mean over {} prompts; bars are 95 % intervals.", rows.first().map_or(0, |row| row.n)),
        Shape::Bars {
            labels: rows.iter().map(|row| row.measure.into()).collect(),
            values: rows.iter().map(|row| row.mean).collect(),
            half_widths: rows.iter().map(|row| row.half_width).collect(),
        },
    )
}
