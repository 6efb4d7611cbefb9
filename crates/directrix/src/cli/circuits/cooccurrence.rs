//! `directrix circuits cooccurrence`.

use anyhow::bail;
use clap::Args;
use directrix::circuits::{self, CooccurrenceOptions};
use serde::Serialize;

use super::{TwoSaes, two};
use crate::cli::inputs::{PromptArgs, Saes, SubjectArgs};
use crate::cli::numbers::{MANY, real, whole};
use crate::cli::results::{Found, ResultArgs};
use crate::cli::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix circuits cooccurrence --text 'Once upon a time there was a little girl named Lily.'
  directrix circuits cooccurrence --prompts stories.txt --limit 20 --above 2 --out out/and";

/// First directions that a second one needs, at one position (AND).
///
/// At every position, the most active direction of the second SAE, with each active direction of the first ablated there.
/// The largest decreases come first.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Cooccurrence {
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    saes: TwoSaes,
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

impl Cooccurrence {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::Two(&self.saes.sae), self.prompts.wanted())?;
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
