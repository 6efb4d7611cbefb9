//! `directrix ablate`.

use clap::Args;
use directrix::circuits::{Change, Effect, Estimate, SingleAblation, Trial, ablate_everywhere, effects};
use directrix::corpus::Prompts;
use directrix::lab::Opened;
use directrix::sae::Sae;
use serde::Serialize;

use super::inputs::{PromptArgs, Saes, SubjectArgs, position};
use super::results::{Found, ResultArgs};

const EXAMPLES: &str = "\
Examples:
  directrix ablate --directions 3,17 --text 'Tim said, \"I like it.\"'
  directrix ablate --sae tinystories-2l/sae-l0 --directions 3 --prompts stories.txt --everywhere
  directrix ablate --directions 3,17 --each --prompts stories.txt --limit 100 --out out/ablations";

/// Ablate directions and see what it does to predictions.
///
/// Takes what the directions contribute out of the SAE's hook point at one position of each prompt, and compares the
/// prediction of the token after it, the answer, with and without. Losses are in nats; the rank is the number of tokens
/// with a higher logit.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Ablate {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Directions to ablate, all together
    #[arg(long, visible_alias = "direction", value_name = "N,...", value_delimiter = ',', required = true)]
    directions: Vec<usize>,
    /// Ablate each direction alone; a row is a direction, its values means over prompts
    #[arg(long)]
    each: bool,
    /// Position to change, from 0; negative counts from the end: -2 predicts the last token
    #[arg(long, value_name = "N", default_value_t = -2, allow_negative_numbers = true)]
    position: i64,
    /// Change every position; losses are means over the positions of a prompt
    #[arg(long, conflicts_with_all = ["position", "reconstruct"])]
    everywhere: bool,
    /// Replace the values by the SAE's reconstruction without the directions, instead of subtracting these
    #[arg(long)]
    reconstruct: bool,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    results: ResultArgs,
}

/// What a change does at one position of a prompt.
#[derive(Serialize)]
struct AtPosition {
    prompt: usize,
    position: usize,
    answer: String,
    log_prob: f64,
    log_prob_ablated: f64,
    logit: f32,
    logit_ablated: f32,
    rank: usize,
    rank_ablated: usize,
    loss_increase: f64,
}

/// What a change at every position does to a prompt.
#[derive(Serialize)]
struct Everywhere {
    prompt: usize,
    loss: f64,
    loss_ablated: f64,
    loss_increase: f64,
}

impl Ablate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let opened = self.subject.open(Saes::One, self.prompts.wanted())?;
        let sae = &opened.saes[0];
        let directions: Vec<u32> = self.directions.iter().map(|d| sae.check(*d)).collect::<Result<_, _>>()?;
        let prompts = self.prompts.load_some(&opened)?;
        // Every position is checked before the first is changed.
        let positions: Vec<usize> = if self.everywhere {
            for prompt in 0..prompts.len() {
                position(&prompts, prompt, -2, true)?;
            }
            Vec::new()
        } else {
            (0..prompts.len())
                .map(|prompt| position(&prompts, prompt, self.position, true))
                .collect::<Result<_, _>>()?
        };
        if self.each {
            return self.show_each(&opened, sae, &prompts, &positions, &directions);
        }
        let name = sae.short_name();
        let what = if self.reconstruct {
            format!("its site reconstructed by {name} without directions {directions:?}")
        } else {
            format!("directions {directions:?} of {name} ablated")
        };
        if self.everywhere {
            let rows = everywhere(&opened, sae, &prompts, &directions)?;
            let caption = format!("Mean loss over each prompt, with {what} at every position.");
            let overall = Estimate::of(rows.iter().map(|row| row.loss_increase));
            return self.show(&caption, &rows, Some(overall));
        }
        let effects = self.effects(&opened, sae, &prompts, &positions, &directions)?;
        let row = |(prompt, Effect { before, after }): (usize, &Effect)| AtPosition {
            prompt,
            position: positions[prompt],
            answer: opened.token(prompts.get(prompt)[positions[prompt] + 1]),
            log_prob: before.log_prob,
            log_prob_ablated: after.log_prob,
            logit: before.logit,
            logit_ablated: after.logit,
            rank: before.rank,
            rank_ablated: after.rank,
            loss_increase: before.log_prob - after.log_prob,
        };
        let rows: Vec<AtPosition> = effects.iter().enumerate().map(row).collect();
        let overall = Estimate::of(effects.iter().map(Effect::loss_increase));
        self.show(&format!("The answer's prediction, with {what} at the position before it."), &rows, Some(overall))
    }

    fn effects(
        &self,
        opened: &Opened,
        sae: &Sae,
        prompts: &Prompts,
        positions: &[usize],
        directions: &[u32],
    ) -> anyhow::Result<Vec<Effect>> {
        let change = if self.reconstruct {
            Change::Reconstruct { without: directions.to_vec() }
        } else {
            Change::Ablate(directions.to_vec())
        };
        let trial = |(prompt, &position): (usize, &usize)| {
            let token = prompts.get(prompt)[position + 1];
            Trial { prompt, position, token, change: change.clone() }
        };
        let trials: Vec<Trial> = positions.iter().enumerate().map(trial).collect();
        Ok(effects(&opened.model, sae, prompts, &trials)?)
    }

    fn show_each(
        &self,
        opened: &Opened,
        sae: &Sae,
        prompts: &Prompts,
        positions: &[usize],
        directions: &[u32],
    ) -> anyhow::Result<()> {
        let row = |&direction: &u32| -> anyhow::Result<SingleAblation> {
            let increases: Vec<f64> = if self.everywhere {
                everywhere(opened, sae, prompts, &[direction])?.iter().map(|row| row.loss_increase).collect()
            } else {
                let effects = self.effects(opened, sae, prompts, positions, &[direction])?;
                effects.iter().map(Effect::loss_increase).collect()
            };
            let Estimate { n, mean, se, half_width, .. } = Estimate::of(increases);
            Ok(SingleAblation { direction: direction as usize, n, loss_increase: mean, se, half_width })
        };
        let rows: Vec<SingleAblation> = directions.iter().map(row).collect::<Result<_, _>>()?;
        let place = if self.everywhere { "every position" } else { "the position before the answer" };
        let caption = format!("Each direction of {} ablated alone at {place}; means over prompts.", sae.short_name());
        self.show(&caption, &rows, None)
    }

    fn show<R: Serialize>(&self, caption: &str, rows: &[R], overall: Option<Estimate>) -> anyhow::Result<()> {
        let overall = overall.map(|estimate| ("loss increase", estimate));
        self.results.show(&Found { name: "ablations", caption, rows, bars: "loss increase", overall })
    }
}

/// Mean losses with directions ablated at every position.
fn everywhere(opened: &Opened, sae: &Sae, prompts: &Prompts, directions: &[u32]) -> anyhow::Result<Vec<Everywhere>> {
    let trials: Vec<_> = (0..prompts.len()).map(|prompt| (prompt, directions.to_vec())).collect();
    let losses = ablate_everywhere(&opened.model, sae, prompts, &trials)?.into_iter().enumerate();
    let row =
        |(prompt, (loss, loss_ablated))| Everywhere { prompt, loss, loss_ablated, loss_increase: loss_ablated - loss };
    Ok(losses.map(row).collect())
}
