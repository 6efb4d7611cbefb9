//! `directrix attribute`.

use clap::{Args, ValueEnum};
use directrix::circuits::{self, attribution_to_direction, logit_attribution, mean_decomposition};

use super::inputs::{PromptArgs, Saes, SubjectArgs, position};
use super::numbers::{place, whole};
use super::results::{Found, ResultArgs};
use super::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix attribute --text 'Tim said, \"I like it.\"'
  directrix attribute --prompts stories.txt --limit 100 --direction 17
  directrix attribute --text 'Tim said, \"I like it.\"' --direction 17 --position -3 --inactive mean";

/// See which components write an answer, or drive a direction.
///
/// Without --direction: direct logit attribution (DLA), what each component of the model contributes to the logit of the
/// last token, at the position before it. With one: attribution to it (DFA), what each component contributes to
/// the direction's pre-activation. Values are means over prompts.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Attribute {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAE of the direction: a folder, or owner/name:folder on the hub [default: the model's last, tinystories-2l/sae-l1]
    #[arg(long, value_name = "SAE", requires = "direction")]
    sae: Option<String>,
    /// Direction of the SAE to attribute to, instead of the last token's logit
    #[arg(long, value_name = "N", value_parser = whole::<usize>(0..))]
    direction: Option<usize>,
    /// Position at which the direction is looked at, from 0; negative counts from the end
    #[arg(long, value_name = "N", default_value_t = -2, value_parser = place, requires = "direction")]
    position: i64,
    /// What neurons that are not active contribute: nothing, or their mean over the prompts
    #[arg(long, value_enum, default_value_t = Inactive::Zero, requires = "direction")]
    inactive: Inactive,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    results: ResultArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Inactive {
    Zero,
    Mean,
}

impl Attribute {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let saes = if self.direction.is_some() { Saes::One(self.sae.as_deref()) } else { Saes::Named(&[]) };
        let opened = self.subject.open(saes, self.prompts.wanted())?;
        let model = &opened.model;
        let (name, caption, rows) = if let Some(number) = self.direction {
            let sae = &opened.saes[0];
            let direction = sae.check(number)?;
            let prompts = self.prompts.load_some(&opened)?;
            let at = |prompt| position(&prompts, prompt, self.position, false);
            let positions: Vec<usize> = (0..prompts.len()).map(at).collect::<Result<_, _>>()?;
            let mean = match self.inactive {
                Inactive::Zero => None,
                Inactive::Mean => Some(mean_decomposition(model, sae, &prompts, &watch)?),
            };
            let inactive = mean.as_ref().map_or(circuits::Inactive::Zero, circuits::Inactive::Mean);
            let rows = attribution_to_direction(model, sae, direction, &prompts, &positions, inactive, &watch)?;
            let what = format!("the pre-activation of direction {direction} of {}", sae.short_name());
            ("attribution-to-direction", what, rows)
        } else {
            let prompts = self.prompts.load_some(&opened)?;
            ("logit-attribution", "the logit of the last token".into(), logit_attribution(model, &prompts, &watch)?)
        };
        let caption = format!("What each component contributes to {caption}; means over prompts.");
        self.results
            .show(&Found { name, caption: &caption, rows: &rows, bars: "mean", missing: "", overall: None }, &opened)
    }
}
