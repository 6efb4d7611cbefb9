//! `directrix ablate`.

use clap::Args;
use directrix::circuits::{self, About, Change, Chosen, Claim, Effect, LossClaim, Trial, ablate_each, loss_claims};
use directrix::corpus::Prompts;
use directrix::sae::Sae;
use serde::Serialize;

use super::inputs::{PromptArgs, Saes, SubjectArgs, position};
use super::results::{Found, ResultArgs};
use super::watch::watch;

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
        let watch = watch();
        let _lock = self.results.lock()?;
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
        let name = sae.short_name();
        if self.each {
            let of = |direction| self.trials(sae, &prompts, &positions, &[direction]);
            let change = match (self.everywhere, self.reconstruct) {
                (true, _) => "ablated alone at every position",
                (_, true) => "left out alone of the reconstruction before the answer",
                _ => "ablated alone before the answer",
            };
            let about =
                About { chosen: Chosen::Given, change, measure: "loss_increase", unit: "nats", over: "prompts" };
            let rows = ablate_each(&opened.model, &prompts, &directions, about, of, None, &watch)?;
            return self.show(&format!("{name}: {}", rows[0].loss_increase.sentence()), &rows, None);
        }
        let what = if self.reconstruct {
            format!("its site reconstructed by {name} without directions {directions:?}")
        } else {
            format!("directions {directions:?} of {name} ablated")
        };
        let trials = self.trials(sae, &prompts, &positions, &directions)?;
        let change = if self.everywhere { "ablated at every position" } else { "ablated before the answer" };
        let about = About { chosen: Chosen::Given, change, measure: "loss_increase", unit: "nats", over: "prompts" };
        let LossClaim { claim, effects } =
            loss_claims(&opened.model, &prompts, &[(about, trials)], None, &watch)?.remove(0);
        let overall = Some(claim);
        if self.everywhere {
            let row = |(prompt, effect): (usize, &Effect)| {
                let [loss, loss_ablated] = [effect.before.loss()?, effect.after.loss()?];
                Ok(Everywhere { prompt, loss, loss_ablated, loss_increase: effect.loss_increase()? })
            };
            let rows = effects.iter().enumerate().map(row).collect::<circuits::Result<Vec<_>>>()?;
            return self.show(&format!("Mean loss over each prompt, with {what} at every position."), &rows, overall);
        }
        let row = |(prompt, effect): (usize, &Effect)| {
            let [before, after] = [effect.before.prediction()?, effect.after.prediction()?];
            Ok(AtPosition {
                prompt,
                position: positions[prompt],
                answer: opened.token(prompts.get(prompt)[positions[prompt] + 1]),
                log_prob: before.log_prob,
                log_prob_ablated: after.log_prob,
                logit: before.logit,
                logit_ablated: after.logit,
                rank: before.rank,
                rank_ablated: after.rank,
                loss_increase: effect.loss_increase()?,
            })
        };
        let rows = effects.iter().enumerate().map(row).collect::<circuits::Result<Vec<_>>>()?;
        self.show(&format!("The answer's prediction, with {what} at the position before it."), &rows, overall)
    }

    /// The change of `directions` in every prompt.
    fn trials<'a>(
        &self,
        sae: &'a Sae,
        prompts: &Prompts,
        positions: &[usize],
        directions: &[u32],
    ) -> circuits::Result<Vec<Trial<'a>>> {
        let change = if self.reconstruct {
            Change::Reconstruct { without: directions.to_vec() }
        } else {
            Change::Ablate(directions.to_vec())
        };
        let trial = |prompt: usize| {
            let change = change.clone();
            if self.everywhere {
                Trial::everywhere(sae, prompts, prompt, change)
            } else {
                Trial::at(sae, prompts, prompt, positions[prompt], change)
            }
        };
        (0..prompts.len()).map(trial).collect()
    }

    fn show<R: Serialize>(&self, caption: &str, rows: &[R], overall: Option<Claim>) -> anyhow::Result<()> {
        self.results.show(&Found { name: "ablations", caption, rows, bars: "loss increase", overall })
    }
}
