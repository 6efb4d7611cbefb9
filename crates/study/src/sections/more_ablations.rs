//! One direction ablated in other places.

use directrix_circuits::{Change, Effect, Estimate, Trial, ablate_everywhere, effects};
use directrix_corpus::Prompts;
use directrix_model::Model;
use directrix_sae::Sae;
use serde::Serialize;

use super::{Body, SectionKind, check_directions, count, figure, table};
use crate::findings::Findings;
use crate::report::{Block, ShadedText, Texts};
use crate::{Result, Shape};

options! {
    /// More ablations of the one direction.
    MoreAblations {
        /// The direction; the one with the largest single effect if not said.
        direction: Option<usize> = None,
        /// Prompts with the highest activation.
        prompts: usize = 100,
        /// Prompts with the largest loss increase shown.
        examples: usize = 10,
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1,
        /// One position at a time: those above this share of the maximum.
        share_of_maximum: f32 = 0.1,
    }
}

impl SectionKind for MoreAblations {
    const KIND: &str = "more_ablations";
    const TITLE: &str = "More ablations of the top direction";

    fn check(&self, _model: &Model, sae: &Sae) -> Result<(), String> {
        check_directions(sae, &self.direction)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let sae = found.sae();
        let direction = self.direction.map_or(found.top[0], |d| d as u32);
        let change = || Change::Ablate(vec![direction]);
        let active = found.active_on(direction, self.active_above);

        let trials: Vec<Trial> = active
            .iter()
            .map(|&(prompt, _)| {
                let tokens = found.behaviour.prompts.get(prompt);
                Trial { prompt, position: tokens.len() - 2, token: found.behaviour.answer, change: change() }
            })
            .collect();
        let increases: Vec<f64> = effects(&found.opened.model, sae, &found.behaviour.prompts, &trials)?
            .iter()
            .map(Effect::loss_increase)
            .collect();

        let examples = found.sae_index().top_examples(direction as usize, self.prompts)?;
        let stories = found.prompts_of_index(examples.iter().map(|e| e.prompt))?;
        let everywhere: Vec<f64> = ablate_everywhere(
            &found.opened.model,
            sae,
            &stories,
            &(0..stories.len()).map(|story| (story, vec![direction])).collect::<Vec<_>>(),
        )?
        .into_iter()
        .map(|(original, ablated)| ablated - original)
        .collect();

        let threshold = self.share_of_maximum * found.sae_index().maxima()[direction as usize];
        let mut one_at_a_time = Vec::new();
        for (story, example) in examples.iter().enumerate() {
            let tokens = stories.get(story);
            let values = found.sae_index().on_prompt(example.prompt, direction as usize)?;
            for position in 0..tokens.len().saturating_sub(1) {
                if values[position] > threshold {
                    one_at_a_time.push(Trial {
                        prompt: story,
                        position,
                        token: tokens[position + 1],
                        change: change(),
                    });
                }
            }
        }
        let at_positions: Vec<f64> =
            effects(&found.opened.model, sae, &stories, &one_at_a_time)?.iter().map(Effect::loss_increase).collect();

        let row = |ablated, mean_is_over, values: &[f64]| {
            let Estimate { n, mean, sd, se, half_width, .. } = Estimate::of(values.iter().copied());
            PlaceRow { ablated, mean_is_over, n, loss_increase: mean, sd, se, half_width }
        };
        let rows = [
            row("before the answer", "behaviour prompts on which it is active", &increases),
            row("everywhere", "its top stories, mean loss over a story", &everywhere),
            row("one active position at a time", "active positions of its top stories", &at_positions),
        ];
        let activations: Vec<f64> = active.iter().map(|(_, a)| *a as f64).collect();
        let correlation = directrix_circuits::correlation(&[activations.clone(), increases.clone()])[1];
        let prose = vec![
            format!(
                "Ablating direction {direction} raises the loss by {:.3} ± {:.3} before the answer, by {:.4} ± {:.4} over whole stories on which it is most active, and by {:.3} ± {:.3} at a single active position there (95 % intervals).",
                rows[0].loss_increase,
                rows[0].half_width,
                rows[1].loss_increase,
                rows[1].half_width,
                rows[2].loss_increase,
                rows[2].half_width
            ),
            format!(
                "If the first number is much larger than the last, the direction serves this behaviour more than others; the increase and the activation correlate at {correlation:.2} over {}, which says how far a large effect is just a large activation.",
                count(active.len(), "prompt")
            ),
        ];
        let mut order: Vec<usize> = (0..increases.len()).collect();
        order.sort_by(|a, b| increases[*b].total_cmp(&increases[*a]));
        order.truncate(self.examples);
        let shown = Prompts::from_rows(order.iter().map(|i| found.behaviour.prompts.get(active[*i].0)));
        let values = found.on_prompts(&shown, direction)?;
        let shaded = order
            .iter()
            .zip(values)
            .enumerate()
            .map(|(row, (&i, values))| {
                let label = format!("prompt {}, loss increase {:.3}", active[i].0, increases[i]);
                let maximum = values.iter().copied().fold(0.0, f32::max);
                ShadedText {
                    label,
                    tokens: found.texts(shown.get(row)),
                    values,
                    maximum,
                    marked: Some(shown.get(row).len() - 2),
                }
            })
            .collect();
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
                    hover: active.iter().map(|(prompt, _)| format!("prompt {prompt}")).collect(),
                },
            ),
            table(
                "ablation-places",
                "Mean loss increase over n values, with standard deviation, standard error and half width of the 95 % interval; `mean is over` says what the values are.",
                &rows,
            ),
            Block::Texts(Texts {
                name: "largest-increases".into(),
                title: "Prompts with the largest loss increase".into(),
                caption: format!(
                    "Shaded by the activation of direction {direction}; the position that predicts the answer is outlined."
                ),
                rows: shaded,
            }),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct PlaceRow<'a> {
    ablated: &'a str,
    mean_is_over: &'a str,
    n: usize,
    loss_increase: f64,
    sd: f64,
    se: f64,
    half_width: f64,
}
