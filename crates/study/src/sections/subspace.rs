//! Only the subspace of chosen directions kept.

use std::sync::Arc;

use directrix_circuits::{About, Change, Claim, Estimate, LossClaim, Trial, loss_claims, mean_site};
use serde::Serialize;

use super::{Body, SectionKind, count, figure, interval, quoted, table, within};
use crate::findings::Findings;
use crate::{Result, Series, Shape};

options! {
    /// The site with nothing kept but the span of the first chosen directions.
    Subspace {
        /// Prompts.
        prompts: usize = 100 => 1.0..,
        /// Prompts of the corpus over which the site's mean is taken.
        mean_prompts: usize = 20 => 1.0..,
        /// How many directions are kept, in turn.
        sizes: Vec<usize> = vec![0, 1, 2, 5, 10, 20, 40],
    }
}

impl SectionKind for Subspace {
    const KIND: &str = "subspace";
    const TITLE: &str = "Keeping only the chosen directions";
    const BY_DEFAULT: bool = false;

    fn make(&self, found: &Findings) -> Result<Body> {
        let ranked = ranked(found);
        let mut sizes: Vec<usize> = self.sizes.iter().map(|size| (*size).min(ranked.len())).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let (original, rows) = self.rows(found, &ranked, &sizes)?;
        let prose = vec![
            carried(&rows, found.sae().short_name(), &quoted(&found.answer()), ranked.len(), &original),
            format!(
                "The site before the answer is projected on the span of the first {} by the study's choice: those named or on top, then the others by their effect on the prompts that choose. What is orthogonal to it is replaced by the site's mean over the corpus, or by zero.",
                if sizes.len() == 1 {
                    "decoder rows".into()
                } else {
                    format!("{} to {} decoder rows", sizes[0], sizes[sizes.len() - 1])
                },
            ),
        ];
        let line = |rest: &str, control: bool| Series {
            name: format!("{}, {rest} for the rest", if control { "random rows" } else { "chosen directions" }),
            values: rows.iter().filter(|row| row.rest == rest).map(|row| row.of(control)).collect(),
        };
        let blocks = vec![
            figure(
                "subspace",
                "Loss of the answer with only a subspace kept",
                ("directions kept", "loss increase, nats"),
                &format!(
                    "Mean over {}; the random rows span as many dimensions, drawn anew for each prompt.",
                    count(original.n, "prompt")
                ),
                Shape::Lines {
                    labels: sizes.iter().map(usize::to_string).collect(),
                    series: vec![line("mean", false), line("mean", true), line("zero", false), line("zero", true)],
                },
            ),
            table(
                "subspace",
                "Increase of the answer's loss in nats with only the span of so many directions kept of the site, mean over n prompts with standard error and half width of the 95 % interval, p and q, its false-discovery rate in this list; random rows: as many dimensions of random rows kept.",
                &rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct Row {
    directions_kept: usize,
    dimensions: usize,
    rest: &'static str,
    #[serde(flatten)]
    loss_increase: Claim,
}

impl Row {
    fn of(&self, control: bool) -> f64 {
        let of_control = self.loss_increase.controls.rows.map_or(f64::NAN, |rows| rows.mean);
        if control { of_control } else { self.loss_increase.mean() }
    }
}

/// The study's top directions, then the others that were active by their effect on the prompts that choose.
fn ranked(found: &Findings) -> Vec<u32> {
    let mut ranked = found.top.clone();
    ranked.extend(found.selection.singles.iter().map(|row| row.direction as u32).filter(|d| !found.top.contains(d)));
    ranked
}

impl Subspace {
    /// The unchanged loss, and for each kind of rest and each size what is left of the behaviour.
    fn rows(&self, found: &Findings, ranked: &[u32], sizes: &[usize]) -> Result<(Estimate, Vec<Row>)> {
        let (model, sae, watch) = (&found.opened.model, found.sae(), found.watch);
        let prompts = found.behaviour_prompts(self.prompts);
        let mean: Arc<[f32]> = mean_site(model, sae, &found.corpus_prompts(self.mean_prompts)?, watch)?.into();
        let (mut lists, mut rows) = (Vec::new(), Vec::new());
        for (rest, by) in [("mean", Some(mean)), ("zero", None)] {
            for &size in sizes {
                let kept = sae.w_dec().gather(ranked[..size].iter().map(|direction| *direction as usize));
                let subspace = Arc::new(directrix_circuits::Subspace::span(&kept));
                rows.push((size, subspace.dimensions(), rest));
                let change = Change::Keep { subspace, rest: by.clone() };
                let trial = |prompt| Trial::answer(sae, &prompts, prompt, change.clone());
                let about = About {
                    chosen: found.top_chosen(),
                    change: "alone kept before the answer",
                    measure: "loss_increase",
                    unit: "nats",
                    over: "prompts",
                };
                lists.push((about, (0..prompts.len()).map(trial).collect::<Result<Vec<_>, _>>()?));
            }
        }
        let claims = loss_claims(model, &prompts, &lists, Some(&found.matched), watch)?;
        let before = claims[0].effects.iter().map(|effect| effect.before.loss()).collect::<Result<Vec<_>, _>>()?;
        let row = |((directions_kept, dimensions, rest), LossClaim { claim, .. })| Row {
            directions_kept,
            dimensions,
            rest,
            loss_increase: claim,
        };
        Ok((Estimate::of(before), rows.into_iter().zip(claims).map(row).collect()))
    }
}

/// How few directions carry the behaviour, with the mean for the rest.
fn carried(rows: &[Row], sae: &str, answer: &str, all: usize, original: &Estimate) -> String {
    let (loss, half_width) = interval(original);
    let unchanged = format!("Unchanged, the loss of {answer} is {loss:.3}{}", within(half_width, 3));
    let with_mean: Vec<&Row> = rows.iter().filter(|row| row.rest == "mean").collect();
    let said = |claim: &Claim| format!("{:+.3}{}", claim.mean(), within(claim.estimate.half_width, 3));
    let Some(none) = with_mean.first() else { return format!("{unchanged}.") };
    let last = with_mean[with_mean.len() - 1];
    let enough = with_mean.iter().find(|row| {
        let claim = &row.loss_increase;
        row.directions_kept > 0 && claim.estimate.high() < 0.5 * none.loss_increase.mean() && is_below_rows(claim)
    });
    let verdict = if none.directions_kept > 0 || none.loss_increase.estimate.low() <= 0.0 {
        format!(
            "with {} of {sae} alone it changes by {}",
            count(last.directions_kept, "direction"),
            said(&last.loss_increase)
        )
    } else if let Some(row) = enough {
        format!(
            "with nothing of its site but the mean it changes by {}; {} it to {}, less than half of that and less than as many random rows do",
            said(&none.loss_increase),
            match row.directions_kept {
                1 => "the first direction brings".into(),
                n => format!("the first {n} directions bring"),
            },
            said(&row.loss_increase)
        )
    } else {
        format!(
            "with nothing of its site but the mean it changes by {}, and the first {} of {all} do not halve that beyond what as many random rows do ({}): what the site does here is not in these directions alone",
            said(&none.loss_increase),
            last.directions_kept,
            said(&last.loss_increase)
        )
    };
    format!("{unchanged}; {verdict}.")
}

/// Whether less is lost than with as many dimensions of random rows.
fn is_below_rows(claim: &Claim) -> bool {
    claim.controls.rows.is_none_or(|rows| rows.low() > claim.estimate.high())
}

#[cfg(test)]
mod tests {
    use directrix_circuits::{Chosen, Controls};

    use super::*;

    #[test]
    fn few_directions_carry_the_behaviour_if_they_do_what_random_rows_do_not() {
        let of = |mean: f64| Estimate::of([mean - 0.01, mean, mean + 0.01]);
        let about =
            About { chosen: Chosen::Given, change: "kept", measure: "loss_increase", unit: "nats", over: "prompts" };
        let said = |kept: &[(usize, f64, f64)]| {
            let claims = kept
                .iter()
                .map(|(_, mean, control)| (about, of(*mean), Controls { rows: Some(of(*control)), directions: None }));
            let row = |(&(directions_kept, ..), loss_increase): (&(usize, f64, f64), Claim)| Row {
                directions_kept,
                dimensions: directions_kept,
                rest: "mean",
                loss_increase,
            };
            let rows: Vec<Row> = kept.iter().zip(Claim::list(claims)).map(row).collect();
            carried(&rows, "sae-l0", "‘x’", 9, &of(0.5))
        };
        let none = (0, 2.0, 2.0);
        assert!(said(&[none, (1, 1.5, 2.0), (2, 0.5, 1.9)]).contains("the first 2 directions bring it to +0.500"));
        assert!(said(&[none, (1, 0.5, 1.9)]).contains("the first direction brings it to"));
        assert!(said(&[none, (1, 0.5, 0.5)]).contains("the first 1 of 9 do not halve that"));
        assert!(said(&[(2, 0.5, 0.5)]).contains("with 2 directions of sae-l0 alone it changes by"));
        assert!(said(&[]).ends_with("0.500 ± 0.025."));
    }
}
