//! `directrix circuits`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use directrix::circuits::{self, CooccurrenceOptions, cosine_pairs, pair_effects};
use directrix::lab::{Opened, Wanted};
use directrix::sae::Sae;
use serde::Serialize;

use super::inputs::{PromptArgs, Saes, SubjectArgs};
use super::numbers::{MANY, real, whole};
use super::results::{Found, ResultArgs};
use super::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix circuits cosine --top 20
  directrix circuits cooccurrence --prompts stories.txt --limit 20";

const COSINE_EXAMPLES: &str = "\
Examples:
  directrix circuits cosine
  directrix circuits cosine --sae tinystories-2l/sae-l0 --sae tinystories-2l/sae-l1 --top 20
  directrix circuits cosine --index out/index --effects-prompts 50 --out out/pairs";

const COOCCURRENCE_EXAMPLES: &str = "\
Examples:
  directrix circuits cooccurrence --text 'Once upon a time there was a little girl named Lily.'
  directrix circuits cooccurrence --prompts stories.txt --limit 20 --above 2 --out out/and";

/// Find circuits between the directions of two SAEs.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Circuits {
    #[command(subcommand)]
    kind: Search,
}

#[derive(Subcommand)]
enum Search {
    Cosine(Cosine),
    Cooccurrence(Cooccurrence),
}

/// Pairs of directions of which the first writes what the second reads.
///
/// The cosine of `W_dec W_out` of the first SAE with `W_in W_enc` of the second, over all pairs. With --index, each pair is
/// also tested by ablation, on the prompts in which its first direction is most active, where it is.
#[derive(Args)]
#[command(after_help = COSINE_EXAMPLES)]
struct Cosine {
    #[command(flatten)]
    subject: SubjectArgs,
    /// The two SAEs, the earlier one first [default: the model's two, tinystories-2l/sae-l0 and tinystories-2l/sae-l1]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    /// Pairs to show
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = whole::<usize>(1..=MANY))]
    top: usize,
    /// Leave out pairs whose second number is above the first
    #[arg(long)]
    lower_triangle: bool,
    /// Index of the first SAE, as made by `directrix index`, to test the pairs by ablation
    #[arg(long, value_name = "FOLDER")]
    index: Option<PathBuf>,
    /// Prompts on which each pair is tested
    #[arg(long, value_name = "N", default_value_t = 100, requires = "index", value_parser = whole::<usize>(1..=MANY))]
    effects_prompts: usize,
    #[command(flatten)]
    results: ResultArgs,
}

/// First directions that a second one needs, at one position (AND).
///
/// At every position, the most active direction of the second SAE, with each active direction of the first ablated there.
/// The largest decreases come first.
#[derive(Args)]
#[command(after_help = COOCCURRENCE_EXAMPLES)]
struct Cooccurrence {
    #[command(flatten)]
    subject: SubjectArgs,
    /// The two SAEs, the earlier one first [default: the model's two, tinystories-2l/sae-l0 and tinystories-2l/sae-l1]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    /// First position of each prompt to look at, from 0
    #[arg(long, value_name = "N", default_value_t = CooccurrenceOptions::default().first_position, value_parser = whole::<usize>(0..=MANY))]
    first_position: usize,
    /// First directions must be more active than this
    #[arg(long, value_name = "ACTIVATION", default_value_t = CooccurrenceOptions::default().above, value_parser = real::<f32>(0.0..=1e30))]
    above: f32,
    /// Rows to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = whole::<usize>(1..=MANY))]
    top: usize,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    results: ResultArgs,
}

#[derive(Serialize)]
struct AtToken {
    token: String,
    #[serde(flatten)]
    found: circuits::Cooccurrence,
}

impl Circuits {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.kind {
            Search::Cosine(cosine) => cosine.run(),
            Search::Cooccurrence(cooccurrence) => cooccurrence.run(),
        }
    }
}

/// The two SAEs, the earlier one first.
fn two(opened: &Opened) -> anyhow::Result<[&Sae; 2]> {
    match &opened.saes[..] {
        [first, second] => Ok([first, second]),
        saes => bail!("this works on two SAEs, not on {}", saes.len()),
    }
}

impl Cosine {
    fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::Two(&self.sae), Wanted::default())?;
        let (model, [first, second]) = (&opened.model, two(&opened)?);
        let (one, two) = (first.short_name(), second.short_name());
        let pairs = cosine_pairs(model, first, second, self.top, self.lower_triangle, &watch)?;
        let Some(folder) = &self.index else {
            let caption = format!("Directions of {one} that write what directions of {two} read, by cosine.");
            let found = Found {
                name: "cosine-pairs",
                caption: &caption,
                rows: &pairs,
                bars: "cosine",
                missing: "",
                overall: None,
            };
            return self.results.show(&found, &opened);
        };
        let (index, number) = opened.existing_index(folder, 0)?;
        let k = self.effects_prompts;
        let rows = pair_effects(model, [first, second], &index, index.sae(number), &pairs, k, &watch)?;
        let caption = format!(
            "Pairs of {one} and {two} by cosine, and what ablating does; means over the prompts on which the first is most active, where it is."
        );
        let bars = "activation change";
        self.results.show(
            &Found { name: "pair-effects", caption: &caption, rows: &rows, bars, missing: "", overall: None },
            &opened,
        )
    }
}

impl Cooccurrence {
    fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::Two(&self.sae), self.prompts.wanted())?;
        let [first, second] = two(&opened)?;
        let prompts = self.prompts.load_some(&opened)?;
        let options = CooccurrenceOptions { first_position: self.first_position, above: self.above };
        let mut found = circuits::cooccurrence(&opened.model, first, second, &prompts, options, &watch)?;
        found.reverse();
        found.truncate(self.top);
        let token = |row: &circuits::Cooccurrence| opened.token(prompts.get(row.prompt)[row.position]);
        let rows: Vec<AtToken> = found.into_iter().map(|found| AtToken { token: token(&found), found }).collect();
        if rows.is_empty() {
            bail!(
                "at no position from {} on is a direction of {} above {} together with one of {}; take longer prompts, or lower --first-position or --above",
                self.first_position,
                first.short_name(),
                self.above,
                second.short_name()
            );
        }
        let caption = format!(
            "The most active direction of {} at a position, and its activation with one of {} ablated there.",
            second.short_name(),
            first.short_name()
        );
        let bars = "difference";
        self.results.show(
            &Found { name: "cooccurrence", caption: &caption, rows: &rows, bars, missing: "", overall: None },
            &opened,
        )
    }
}
