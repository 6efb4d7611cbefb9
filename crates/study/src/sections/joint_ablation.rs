//! Ablation of the top directions together, and of the whole site.

use directrix_circuits::{
    About, Change, Chosen, Claim, Controls, Estimate, Interval, PromptEffect, mean_site, share_of_means,
};
use serde::Serialize;

use super::{Body, SectionKind, figure, interval, list, of_controls, percent, quoted, table, within};
use crate::findings::Findings;
use crate::report::Block;
use crate::{Result, Shape};

options! {
    /// Ablation of the top directions together.
    JointAblation {
        /// Prompts; on all of them the whole site is mean-ablated, too.
        prompts: usize = 200 => 1.0..,
        /// Prompts of the corpus over which the site's mean is taken.
        mean_prompts: usize = 10 => 1.0..,
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
        let [set, along_rows, of_others] =
            PromptEffect::with_controls(model, sae, &prompts, &ablate, &found.matched, watch)?;
        let mean = mean_site(model, sae, &found.corpus_prompts(self.mean_prompts)?, watch)?;
        let site = PromptEffect::of(model, sae, &prompts, &Change::Replace(mean.into()), watch)?;
        let rows = differences(found, [&set, &along_rows, &of_others, &site]);
        let [of_set, of_site] = [&rows[0].difference, &rows[MEASURES.len()].difference];
        let first = |ranks: Vec<usize>| ranks.into_iter().filter(|rank| *rank == 0).count();
        let [before, after] =
            [first(set.iter().map(|e| e.rank).collect()), first(set.iter().map(|e| e.rank_changed).collect())];
        let increase = |rows: &[PromptEffect], i: usize| rows[i].log_prob - rows[i].log_prob_changed;
        let share = share_of_means(|i| increase(&set, i), |i| increase(&site, i), set.len());
        let prose = vec![
            together(&found.linked(&found.top), of_set),
            format!(
                "{} is the first choice on {:.0} % of the prompts before ({}) and {:.0} % after ({}).",
                quoted(&found.answer()),
                100.0 * before as f64 / set.len() as f64,
                percent(Interval::of_share(before, set.len())),
                100.0 * after as f64 / set.len() as f64,
                percent(Interval::of_share(after, set.len())),
            ),
            of_the_site(of_site, share),
        ];
        let mut blocks: Vec<Block> = MEASURES
            .iter()
            .enumerate()
            .map(|(i, (measure, _, axis))| {
                measure_bars(measure, axis, &rows[i].difference, &rows[MEASURES.len() + i].difference)
            })
            .collect();
        blocks.extend([
            table(
                "joint-ablation-summary",
                &format!("Mean over n prompts of original − ablated, with standard error and half width of the 95 % interval, p by Student's t and q, its false-discovery rate in this list; {}. A positive difference of log-probability is a loss increase; a negative difference of rank says that the answer fell behind other tokens.", of_set.controls.sentence()),
                &rows,
            ),
            table(
                "joint-ablation",
                "Each prompt: log-probability, logit and rank of the answer, and the same with the top directions ablated.",
                &set.iter().map(|row| PromptEffect { prompt: found.numbers[row.prompt], ..*row }).collect::<Vec<_>>(),
            ),
        ]);
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

/// What is measured of the answer, how, and its axis.
const MEASURES: [(&str, Difference, &str); 3] = [
    ("log-probability", |e| e.log_prob - e.log_prob_changed, "log-probability, original − ablated, nats"),
    ("logit", |e| (e.logit - e.logit_changed) as f64, "logit, original − ablated"),
    ("rank", |e| e.rank as f64 - e.rank_changed as f64, "rank, original − ablated"),
];

/// Every measure of the top directions ablated, with their controls, then of the whole site replaced.
fn differences(found: &Findings, [set, rows, directions, site]: [&[PromptEffect]; 4]) -> Vec<DifferenceRow> {
    let mean = |effects: &[PromptEffect], of: Difference| Estimate::of(effects.iter().map(of));
    let about = |chosen, change| About { chosen, change, measure: "mean", unit: "of the measure", over: "prompts" };
    let of_set = MEASURES.map(|(_, of, _)| {
        let controls = Controls { rows: Some(mean(rows, of)), directions: Some(mean(directions, of)) };
        (about(found.top_chosen(), "ablated together before the answer"), mean(set, of), controls)
    });
    let of_site = MEASURES.map(|(_, of, _)| {
        (about(Chosen::Given, "the whole site replaced by its mean"), mean(site, of), Controls::default())
    });
    let names = [format!("directions {}", list(&found.top)), "whole site, by its mean".into()];
    let names = names.into_iter().flat_map(|name| MEASURES.map(|(measure, _, _)| (name.clone(), measure)));
    let row = |((ablated, measure), difference)| DifferenceRow { ablated, measure, difference };
    names.zip(Claim::list(of_set.into_iter().chain(of_site))).map(row).collect()
}

/// One measure of the directions, their controls and the whole site.
fn measure_bars(measure: &str, axis: &str, of_set: &Claim, of_site: &Claim) -> Block {
    let named = [
        ("top directions", Some(of_set.estimate)),
        ("random rows", of_set.controls.rows),
        ("random directions", of_set.controls.directions),
        ("whole site by its mean", Some(of_site.estimate)),
    ];
    let bars: Vec<(&str, Estimate)> =
        named.into_iter().filter_map(|(name, estimate)| Some((name, estimate?))).collect();
    figure(
        &format!("joint-ablation-{measure}"),
        &format!("What is taken out, and the answer's {measure}"),
        ("ablated before the answer", axis),
        &format!("Mean over the same {} prompts; bars are 95 % intervals.", of_set.estimate.n),
        Shape::bars(
            bars.iter().map(|(name, _)| (*name).into()).collect(),
            bars.iter().map(|(_, estimate)| interval(estimate)),
        ),
    )
}

/// What the directions do together, against their controls.
fn together(top: &str, claim: &Claim) -> String {
    let [rows, directions] = of_controls(claim);
    format!(
        "Ablating {top} together before the answer changes its loss by {:+.3}{} nats (standard deviation {:.3} over {} prompts): {}. As much along random rows changes it by {rows}, as many random directions of matched density by {directions}: {}.",
        claim.mean(),
        within(claim.estimate.half_width, 3),
        claim.estimate.sd,
        claim.estimate.n,
        claim.verdict(),
        if claim.is_beyond_controls() {
            "the effect is beyond both"
        } else {
            "the effect is not told from what chance does"
        }
    )
}

/// How much of what the site does that is.
fn of_the_site(of_site: &Claim, (share, interval): (f64, Interval)) -> String {
    let site = format!(
        "Replacing the whole site by its mean changes the loss by {:+.3}{} on the same prompts",
        of_site.mean(),
        within(of_site.estimate.half_width, 3)
    );
    if of_site.estimate.low() > 0.0 {
        format!(
            "{site}: these directions account for {:.0} % of what the site does for the answer ({}).",
            100.0 * share,
            percent(interval)
        )
    } else {
        format!("{site}: as a whole, the site is not what the answer depends on.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(values: [f64; 3], control: [f64; 3]) -> Claim {
        let about = About { chosen: Chosen::Given, change: "ablated", measure: "mean", unit: "nats", over: "prompts" };
        let controls = Controls { rows: Some(Estimate::of(control)), directions: Some(Estimate::of(control)) };
        Claim::list([(about, Estimate::of(values), controls)]).remove(0)
    }

    #[test]
    fn an_effect_that_chance_has_too_is_said_to_be_none() {
        assert!(together("7", &claim([1.0, 1.1, 0.9], [0.0; 3])).ends_with("the effect is beyond both."));
        assert!(together("7", &claim([1.0, 1.1, 0.9], [0.9, 1.1, 1.0])).ends_with("what chance does."));
        assert!(together("7", &claim([1.0, -1.1, 0.9], [0.0; 3])).contains("includes zero"));
    }

    #[test]
    fn a_share_of_the_site_is_said_if_the_site_does_something() {
        let interval = Interval { low: 0.3, high: 0.5 };
        let said = |values| of_the_site(&claim(values, [0.0; 3]), (0.4, interval));
        assert!(
            said([1.0, 1.1, 0.9])
                .ends_with("account for 40 % of what the site does for the answer (95 % interval 30.0 to 50.0 %).")
        );
        assert!(said([1.0, -1.1, 0.9]).ends_with("not what the answer depends on."));
    }
}
