//! One direction ablated in other places.

use directrix_circuits::{About, Change, Chosen, Claim, Interval, LossClaim, Trial, loss_claims};
use directrix_corpus::Prompts;
use directrix_lab::Opened;
use directrix_sae::Sae;
use serde::Serialize;

use super::{Body, SectionKind, check_directions, count, ends, figure, table, within};
use crate::findings::Findings;
use crate::report::{Block, ShadedText, Texts};
use crate::{Result, Shape};

options! {
    /// More ablations of the one direction.
    MoreAblations {
        /// The direction; the one with the largest single effect if not said.
        direction: Option<usize> = None,
        /// Prompts with the highest activation.
        prompts: usize = 100 => 1.0..,
        /// Prompts with the largest loss increase shown.
        examples: usize = 10 => 1.0..,
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1 => 0.0..,
        /// One position at a time: those above this share of the maximum.
        share_of_maximum: f32 = 0.1 => 0.0..1.0,
    }
}

impl SectionKind for MoreAblations {
    const KIND: &str = "more_ablations";
    const TITLE: &str = "More ablations of the top direction";

    fn check(&self, _opened: &Opened, sae: &Sae) -> Result<(), String> {
        check_directions(sae, &self.direction)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let direction = self.direction.map_or(found.top[0], |d| d as u32);
        let active = found.active_on(direction, self.active_above);
        let found_claims = self.claims(found, direction, &active)?;
        let increases = found_claims[0].increases()?;
        let row = |&LossClaim { claim, .. }: &LossClaim| PlaceRow {
            ablated: claim.about.change,
            mean_is_over: claim.about.over,
            loss_increase: claim,
        };
        let rows: Vec<PlaceRow> = found_claims.iter().map(row).collect();
        let activations: Vec<f64> = active.iter().map(|(_, a)| *a as f64).collect();
        let correlated = |prompts: &[usize]| {
            let of = |values: &[f64]| prompts.iter().map(|i| values[*i]).collect::<Vec<_>>();
            directrix_circuits::correlation(&[of(&activations), of(&increases)])[1]
        };
        let correlation = correlated(&(0..increases.len()).collect::<Vec<_>>());
        let interval = Interval::bootstrap(increases.len(), correlated);
        let prose = vec![
            places(&found.link(direction), [0, 1, 2].map(|i| rows[i].loss_increase)),
            growing(correlation, interval, increases.len()),
        ];
        let blocks = vec![
            figure(
                "loss-increases",
                &format!("Loss increase from ablating {direction} before the answer"),
                ("loss increase, nats", "prompts"),
                "Behaviour prompts on which the direction is active.",
                Shape::histogram(&increases, 40),
            ),
            figure(
                "increase-by-activation",
                "Loss increase against activation",
                ("activation before the answer", "loss increase, nats"),
                "One point per behaviour prompt on which the direction is active.",
                Shape::Scatter {
                    x: activations,
                    y: increases.clone(),
                    hover: active.iter().map(|(prompt, _)| format!("prompt {}", found.numbers[*prompt])).collect(),
                },
            ),
            table(
                "ablation-places",
                &format!(
                    "Mean loss increase over n values, with standard error and half width of the 95 % interval (clustered by prompt where a prompt gives several), p by Student's t and q, its false-discovery rate in this list; {}. `mean is over` says what the values are.",
                    rows[0].loss_increase.controls.sentence()
                ),
                &rows,
            ),
            Block::Texts(Texts {
                name: "largest-increases".into(),
                title: "Prompts with the largest loss increase".into(),
                caption: format!(
                    "Shaded by the activation of direction {direction}; the position that predicts the answer is outlined."
                ),
                rows: self.shaded(found, direction, &active, &increases)?,
            }),
        ];
        Ok(Body { prose, blocks })
    }
}

impl MoreAblations {
    /// What ablating the direction does before the answer, everywhere in the prompts on which it is most active, and at one
    /// active position of these at a time.
    fn claims(&self, found: &Findings, direction: u32, active: &[(usize, f32)]) -> Result<Vec<LossClaim>> {
        let sae = found.sae();
        let change = || Change::Ablate(vec![direction]);
        let examples = found.sae_index().top_examples(direction as usize, self.prompts)?;
        let strongest = found.prompts_of_index(examples.iter().map(|e| e.prompt))?;

        // The prompts of the behaviour, then those on which the direction is most active.
        let mut prompts = found.behaviour.prompts.clone();
        let first_strongest = prompts.len();
        prompts.extend(&strongest);
        let before_answer = active.iter().map(|&(prompt, _)| Trial::answer(sae, &prompts, prompt, change()));
        let everywhere = (first_strongest..prompts.len()).map(|p| Trial::everywhere(sae, &prompts, p, change()));
        let threshold = self.share_of_maximum * found.sae_index().maxima()[direction as usize];
        let mut one_at_a_time = Vec::new();
        for (prompt, example) in (first_strongest..).zip(&examples) {
            let values = found.sae_index().on_prompt(example.prompt, direction as usize)?;
            let predicting = 0..values.len().saturating_sub(1);
            for position in predicting.filter(|position| values[*position] > threshold) {
                one_at_a_time.push(Trial::at(sae, &prompts, prompt, position, change())?);
            }
        }
        let chosen = if self.direction.is_some() { Chosen::Given } else { found.top_chosen() };
        let about = |change, over| About { chosen, change, measure: "loss_increase", unit: "nats", over };
        let lists = [
            (
                about("before the answer", "behaviour prompts on which it is active"),
                before_answer.collect::<directrix_circuits::Result<Vec<_>>>()?,
            ),
            (
                about("everywhere", "its top prompts, mean loss over a prompt"),
                everywhere.collect::<directrix_circuits::Result<Vec<_>>>()?,
            ),
            (about("one active position at a time", "active positions of its top prompts"), one_at_a_time),
        ];
        Ok(loss_claims(&found.opened.model, &prompts, &lists, Some(&found.matched), found.watch)?)
    }

    /// The behaviour prompts on which ablating the direction raises the loss most, shaded by its activation.
    fn shaded(
        &self,
        found: &Findings,
        direction: u32,
        active: &[(usize, f32)],
        increases: &[f64],
    ) -> Result<Vec<ShadedText>> {
        let mut order: Vec<usize> = (0..increases.len()).collect();
        order.sort_by(|a, b| increases[*b].total_cmp(&increases[*a]));
        order.truncate(self.examples);
        let shown = Prompts::from_rows(order.iter().map(|i| found.behaviour.prompts.get(active[*i].0)));
        let values = found.on_prompts(&shown, direction)?;
        Ok(order
            .iter()
            .zip(values)
            .enumerate()
            .map(|(row, (&i, values))| {
                let label = format!("prompt {}, loss increase {:.3}", found.numbers[active[i].0], increases[i]);
                let maximum = values.iter().copied().fold(0.0, f32::max);
                let tokens = shown.get(row);
                found.shade(label, tokens, values, maximum, tokens.len() - 2)
            })
            .collect())
    }
}

#[derive(Serialize)]
struct PlaceRow {
    ablated: &'static str,
    mean_is_over: &'static str,
    #[serde(flatten)]
    loss_increase: Claim,
}

/// What the ablation does before the answer, everywhere in other prompts, and at one position of these.
fn places(direction: &str, [answer, everywhere, one]: [Claim; 3]) -> String {
    let said = |claim: Claim, decimals: usize| {
        format!("{:+.decimals$}{}", claim.mean(), within(claim.estimate.half_width, decimals))
    };
    let (here, there) = (answer.estimate, one.estimate);
    let verdict = if answer.estimate.n == 0 {
        "It is active before no answer here, so that the places cannot be compared"
    } else if here.low() > there.high() {
        "It matters more before this answer than where it fires elsewhere"
    } else if here.high() < there.low() {
        "It matters less before this answer than where it fires elsewhere: it serves other behaviour more"
    } else {
        "The intervals before the answer and elsewhere meet: it does not serve this behaviour more than others, as far as these prompts tell"
    };
    format!(
        "Ablating direction {direction} changes the loss by {} before the answer, by {} over whole prompts of the corpus on which it is most active, and by {} at a single active position there. {verdict}.",
        said(answer, 3),
        said(everywhere, 4),
        said(one, 3)
    )
}

/// Whether a larger activation has a larger effect.
fn growing(correlation: f64, interval: Interval, n: usize) -> String {
    let over = count(n, "prompt");
    if correlation.is_nan() || interval.low.is_nan() {
        return format!("Over {over}, no correlation of increase and activation can be said.");
    }
    let verdict = if interval.low > 0.0 {
        "a larger activation has a larger effect"
    } else if interval.high < 0.0 {
        "a larger activation has a smaller effect"
    } else {
        "how strongly it fires does not tell how much it matters"
    };
    format!(
        "The increase and the activation correlate at {correlation:.2} ({}) over {over}: {verdict}.",
        ends(interval, 2)
    )
}

#[cfg(test)]
mod tests {
    use directrix_circuits::{Controls, Estimate};

    use super::*;

    #[test]
    fn where_a_direction_matters_follows_from_the_intervals() {
        let about =
            About { chosen: Chosen::Given, change: "ablated", measure: "loss_increase", unit: "nats", over: "prompts" };
        let claim = |values: &[f64]| {
            Claim::list([(about, Estimate::of(values.iter().copied()), Controls::default())]).remove(0)
        };
        let said = |here: &[f64], there: &[f64]| places("7", [claim(here), claim(&[0.1, 0.2]), claim(there)]);
        assert!(said(&[1.0, 1.1, 0.9], &[0.1, 0.12, 0.09]).contains("matters more before this answer"));
        assert!(said(&[0.1, 0.12, 0.09], &[1.0, 1.1, 0.9]).contains("matters less"));
        assert!(said(&[1.0, 1.1, 0.9], &[0.9, 1.2, 1.0]).contains("intervals before the answer and elsewhere meet"));
        assert!(said(&[], &[0.9, 1.2, 1.0]).contains("active before no answer"));
    }

    #[test]
    fn a_correlation_is_read_by_its_interval() {
        let said = |low, high| growing(0.5 * (low + high), Interval { low, high }, 9);
        assert!(said(0.1, 0.5).ends_with("larger activation has a larger effect."));
        assert!(said(-0.5, -0.1).ends_with("smaller effect."));
        assert!(said(-0.5, 0.6).ends_with("how much it matters."));
        assert!(said(f64::NAN, f64::NAN).contains("no correlation"));
    }
}
