//! `directrix ablate`.

use clap::Args;
use directrix::circuits::{Ablated, AblatedAnswer, AblatedPrompts, Ablation, AblationOptions, SingleAblation};
use directrix::lab::Opened;
use serde::Serialize;

use super::directions::Directions;
use super::inputs::{PromptArgs, Saes, SubjectArgs, position};
use super::numbers::place;
use super::results::{Found, ResultArgs};
use super::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix ablate --directions 3,17 --text 'Tim said, \"I like it.\"'
  directrix ablate --sae tinystories-2l/sae-l0 --directions 3 --prompts stories.txt --everywhere
  directrix ablate --directions 3,17,40-44 --each --prompts stories.txt \\
      --limit 100 --out out/ablations";

/// Ablate directions and see what it does to predictions.
///
/// Takes what the directions contribute out of the SAE's hook point at one position of each prompt, and compares the
/// prediction of the token after it, the answer, with and without. Losses are in nats; the rank is the number of tokens
/// with a higher logit. Beside the mean stand two controls on the same prompts: as much taken out along random rows, and
/// random directions that fire at about as many positions of these prompts. Where no direction is active nothing is ablated: such prompts are shown as inactive, and means
/// are over the others.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Ablate {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAE: a folder, or owner/name:folder on the hub [default: the model's last, tinystories-2l/sae-l1]
    #[arg(long, value_name = "SAE")]
    sae: Option<String>,
    /// Directions to ablate, all together: numbers and ranges
    #[arg(long, visible_alias = "direction", value_name = "N,N-N,...", required = true)]
    directions: Directions,
    /// Ablate each direction alone; a row is a direction, its values means over the prompts in which it is active
    #[arg(long)]
    each: bool,
    /// Position to change, from 0; negative counts from the end: -2 predicts the last token
    #[arg(long, value_name = "N", default_value_t = -2, value_parser = place)]
    position: i64,
    /// Change every position; losses are means over the positions of a prompt
    #[arg(long, conflicts_with_all = ["position", "reconstruct"])]
    everywhere: bool,
    /// Replace the values by the SAE's reconstruction without the directions, instead of subtracting these; that changes
    /// every prompt
    #[arg(long)]
    reconstruct: bool,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    results: ResultArgs,
}

/// An effect on an answer, with the answer.
#[derive(Serialize)]
struct AtPosition {
    prompt: usize,
    position: usize,
    answer: String,
    #[serde(flatten)]
    ablated: AblatedAnswer,
}

impl Ablate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::One(self.sae.as_deref()), self.prompts.wanted())?;
        let sae = &opened.saes[0];
        let directions: Vec<u32> = self.directions.each().map(|d| sae.check(d)).collect::<Result<_, _>>()?;
        let prompts = self.prompts.load_some(&opened)?;
        // Every position is checked before the first is changed.
        let at = if self.everywhere { -2 } else { self.position };
        let positions: Vec<usize> =
            (0..prompts.len()).map(|prompt| position(&prompts, prompt, at, true)).collect::<Result<_, _>>()?;
        let positions = (!self.everywhere).then_some(positions);
        let options = AblationOptions { directions, positions, reconstruct: self.reconstruct, all: false };
        let ablation = Ablation::new(&opened.model, sae, &prompts, options, &watch)?;
        if self.each {
            return self.show_each(&ablation.each(&watch)?, &opened);
        }
        let Ablated { claim, prompts: of_prompts } = ablation.together(&watch)?;
        let overall = Some(claim);
        let caption = ablation.caption(&self.directions.to_string());
        match of_prompts {
            AblatedPrompts::At(rows) => {
                let row = |ablated: AblatedAnswer| {
                    let AblatedAnswer { prompt, position, .. } = ablated;
                    let answer = opened.token(prompts.get(prompt)[position + 1]);
                    AtPosition { prompt, position, answer, ablated }
                };
                let rows: Vec<AtPosition> = rows.into_iter().map(row).collect();
                self.results.show(&Found { overall, ..found(&caption, &rows) }, &opened)
            }
            AblatedPrompts::Everywhere(rows) => {
                self.results.show(&Found { overall, ..found(&caption, &rows) }, &opened)
            }
        }
    }

    fn show_each(&self, rows: &[SingleAblation], opened: &Opened) -> anyhow::Result<()> {
        let inactive = rows.iter().filter(|row| row.loss_increase.estimate.n == 0).count();
        let remark = match inactive {
            0 => String::new(),
            n => format!(" {n} of {} directions are active in no prompt there.", rows.len()),
        };
        let caption = format!("{}: {}{remark}", opened.saes[0].short_name(), rows[0].loss_increase.sentence());
        self.results.show(&found(&caption, rows), opened)
    }
}

fn found<'a, R>(caption: &'a str, rows: &'a [R]) -> Found<'a, R> {
    Found { name: "ablations", caption, rows, bars: "loss increase", missing: "inactive", overall: None }
}
