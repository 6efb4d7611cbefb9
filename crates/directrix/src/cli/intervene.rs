//! `directrix intervene`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use directrix::circuits::{ChangeAt, PartMeans};
use directrix::corpus::{Prompts, Watch};
use directrix::lab::{Opened, Wanted, open_index};
use directrix::study::Intervention;

use super::inputs::{Saes, SubjectArgs};
use super::numbers::{MANY, whole};
use super::results::{Found, ResultArgs};
use super::terminal::note;
use super::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix intervene --text 'Tim said, \"I like it.\"' --change 'sae-l1/429*0'
  directrix intervene --text 'Tim said, \"I like it.\"' --change L0H1=zero --directions \\
      --change 'sae-l1/429=8@5..7'
  directrix intervene --text 'Once upon a time' --change 1_mlp_out=mean --index out/index

SAE/DIRECTIONS*NUMBER multiplies the activations of directions (0 ablates them), =NUMBER sets them; SAE=reconstruction puts the SAE's
reconstruction in place of its site; a part of the model (L0H1, 0_attn_out, 1_mlp_out) becomes zero or, with an index, its mean.
@5 or @5..9 behind it says at which positions; without, at every one.";

/// Prompts of the index over which parts have their means.
const MEAN_PROMPTS: usize = 200;

/// Change a prompt's run in several places together.
///
/// Shows the most likely next tokens without and with the changes, or the directions whose activation changes most; a sentence says what
/// becomes of the losses. The workbench (`directrix serve`) shows the same as a page, and gives such a command to copy.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Intervene {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAEs whose directions are changed and looked at [default: the model's own]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    /// The prompt
    #[arg(long, value_name = "TEXT")]
    text: String,
    /// A change, spelled as below; give it once for each
    #[arg(long, value_name = "CHANGE", required = true)]
    change: Vec<String>,
    /// Position whose prediction is shown, from 0 [default: the last but one, which predicts the last token]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(0..=MANY))]
    position: Option<usize>,
    /// Show the directions whose activation changes most, instead of next tokens
    #[arg(long)]
    directions: bool,
    /// Rows to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = whole::<usize>(1..=MANY))]
    top: usize,
    /// Index over whose prompts a part has its mean
    #[arg(long, value_name = "FOLDER")]
    index: Option<PathBuf>,
    #[command(flatten)]
    results: ResultArgs,
}

impl Intervene {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::All(&self.sae), Wanted::default())?;
        let chunk = opened.prompts_of("--text", std::slice::from_ref(&self.text))?;
        if chunk.prompts.is_empty() || chunk.cut > 0 {
            let context = opened.model.config().n_ctx;
            bail!("--text needs at least one token and at most the {context} of the model's context");
        }
        let means = self.means(&opened, &watch)?;
        let tokens = chunk.prompts.get(0);
        let made = Intervention::of(&opened, tokens, &self.change, self.position, means.as_ref(), &watch)?;
        if self.directions {
            let rows = made.directions(self.top);
            let caption = "Directions whose activation changes most at some position, each where it does";
            let (name, bars, missing, overall) = ("changed-directions", "change", "", None);
            self.results.show(&Found { name, caption, rows: &rows, bars, missing, overall }, &opened)?;
        } else {
            let rows = made.next(self.top.div_ceil(2));
            let caption = "Most likely next tokens without and with the changes: probabilities, and ranks from 0";
            let (name, bars, missing, overall) = ("next-tokens", "change", "", None);
            self.results.show(&Found { name, caption, rows: &rows, bars, missing, overall }, &opened)?;
        }
        note(&made.summary());
        Ok(())
    }

    /// The means of the model's parts, if a change takes one and there is an index.
    fn means(&self, opened: &Opened, watch: &Watch) -> anyhow::Result<Option<PartMeans>> {
        let parse = |text: &String| ChangeAt::parse(text, &opened.model, &opened.saes);
        let changes = self.change.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let Some(folder) = self.index.as_ref().filter(|_| changes.iter().any(ChangeAt::needs_means)) else {
            return Ok(None);
        };
        let index = open_index(folder)?;
        let prompts = Prompts::from_rows(index.spread(MEAN_PROMPTS)?);
        Ok(Some(PartMeans::of(&opened.model, &prompts, watch)?))
    }
}
