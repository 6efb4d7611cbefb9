//! Ablation of the top directions together, and of the whole site.

use directrix_circuits::{About, Change, Chosen, Claim, Estimate, PromptEffect, mean_site};
use serde::Serialize;

use super::{Body, SectionKind, count, figure, list, quoted, table};
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
        /// Prompts of the corpus over which the site's mean is taken.
        mean_prompts: usize = 10,
    }
}

impl SectionKind for JointAblation {
    const KIND: &str = "joint_ablation";
    const TITLE: &str = "Ablating the top directions together";

    fn make(&self, found: &Findings) -> Result<Body> {
        let sae = found.sae();
        let prompts = found.behaviour_prompts(self.prompts);
        let (model, watch) = (&found.opened.model, found.watch);
        let ablate = Change::Ablate(found.top.clone());
        let set = PromptEffect::of(model, sae, &prompts, &ablate, watch)?;
        let control = PromptEffect::of_control(model, sae, &prompts, &ablate, watch)?;
        let mean = mean_site(model, sae, &found.corpus_prompts(self.mean_prompts)?, watch)?;
        let some = found.behaviour_prompts(self.mean_ablation_prompts);
        let site = PromptEffect::of(model, sae, &some, &Change::Replace(mean.into()), watch)?;
        let rows = differences(found, [&set, &site], &control);
        let [of_set, of_site] = [&rows[0], &rows[MEASURES.len()]].map(|row| row.difference);
        let first = |rows: &[PromptEffect], changed: bool| {
            let hits = rows.iter().filter(|e| if changed { e.rank_changed == 0 } else { e.rank == 0 }).count();
            100.0 * hits as f64 / rows.len() as f64
        };
        let prose = vec![
            format!(
                "Ablating {} together before the answer changes its loss by {:+.3} nats (standard deviation {:.3} over {} prompts; 95 % interval {:.3} to {:.3}): {}. As much along random rows changes it by {:+.3}.",
                list(&found.top),
                of_set.mean(),
                of_set.estimate.sd,
                of_set.estimate.n,
                of_set.estimate.low(),
                of_set.estimate.high(),
                of_set.verdict(),
                of_set.control.map_or(f64::NAN, |control| control.mean),
            ),
            format!(
                "{} is the first choice on {:.0} % of the prompts before and {:.0} % after; replacing the whole site by its mean changes the loss by {:+.3} ± {:.3} on {}: {}.",
                quoted(&found.answer()),
                first(&set, false),
                first(&set, true),
                of_site.mean(),
                of_site.estimate.half_width,
                count(site.len(), "prompt"),
                if of_site.estimate.low() > 0.0 {
                    format!(
                        "these directions account for {:.0} % of what the site does for the answer",
                        100.0 * of_set.mean() / of_site.mean()
                    )
                } else {
                    "as a whole, the site is not what the answer depends on".into()
                }
            ),
        ];
        let blocks = vec![
            difference_bars("joint-ablation", "The top directions ablated", &rows[..MEASURES.len()]),
            difference_bars("mean-ablation", "The whole site replaced by its mean", &rows[MEASURES.len()..]),
            table(
                "joint-ablation-summary",
                "Mean over n prompts of original − ablated, with standard error and half width of the 95 % interval, p by Student's t and q, its false-discovery rate in this list; control: the same along random rows of the same norm. A positive difference of log-probability is a loss increase; a negative difference of rank says that the answer fell behind other tokens.",
                &rows,
            ),
            table(
                "joint-ablation",
                "Each prompt: log-probability, logit and rank of the answer, and the same with the top directions ablated.",
                &set.iter().map(|row| PromptEffect { prompt: found.numbers[row.prompt], ..*row }).collect::<Vec<_>>(),
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct DifferenceRow {
    ablated: String,
    measure: &'static str,
    #[serde(flatten)]
    difference: Claim,
}

/// Original − changed, of one prompt.
type Difference = fn(&PromptEffect) -> f64;

const MEASURES: [(&str, Difference); 3] = [
    ("log-probability", |e| e.log_prob - e.log_prob_changed),
    ("logit", |e| (e.logit - e.logit_changed) as f64),
    ("rank", |e| e.rank as f64 - e.rank_changed as f64),
];

/// Every measure of the top directions ablated, with their control, then of the whole site replaced.
fn differences(found: &Findings, [set, site]: [&[PromptEffect]; 2], control: &[PromptEffect]) -> Vec<DifferenceRow> {
    let mean = |rows: &[PromptEffect], of: Difference| Estimate::of(rows.iter().map(of));
    let chosen = found.top_chosen();
    let about = |chosen, change| About { chosen, change, measure: "mean", unit: "of the measure", over: "prompts" };
    let of_set = MEASURES
        .map(|(_, of)| (about(chosen, "ablated together before the answer"), mean(set, of), Some(mean(control, of))));
    let of_site =
        MEASURES.map(|(_, of)| (about(Chosen::Given, "the whole site replaced by its mean"), mean(site, of), None));
    let names = [format!("directions {}", list(&found.top)), "whole site, by its mean".into()];
    let names = names.into_iter().flat_map(|name| MEASURES.map(|(measure, _)| (name.clone(), measure)));
    let row = |((ablated, measure), difference)| DifferenceRow { ablated, measure, difference };
    names.zip(Claim::list(of_set.into_iter().chain(of_site))).map(row).collect()
}

fn difference_bars(name: &str, heading: &str, rows: &[DifferenceRow]) -> Block {
    let estimates = rows.iter().map(|row| row.difference.estimate);
    figure(
        name,
        heading,
        ("measure of the answer", "original − ablated"),
        &format!(
            "Mean over {} prompts; bars are 95 % intervals.",
            rows.first().map_or(0, |row| row.difference.estimate.n)
        ),
        Shape::Bars {
            labels: rows.iter().map(|row| row.measure.into()).collect(),
            values: estimates.clone().map(|estimate| estimate.mean).collect(),
            half_widths: estimates.map(|estimate| estimate.half_width).collect(),
        },
    )
}
