//! `directrix circuits cosine`.

use std::path::PathBuf;

use clap::Args;
use directrix::circuits::{cosine_pairs, pair_effects};
use directrix::lab::Wanted;

use super::{TwoSaes, two};
use crate::cli::inputs::{Saes, SubjectArgs};
use crate::cli::numbers::{MANY, whole};
use crate::cli::results::{Found, ResultArgs};
use crate::cli::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix circuits cosine
  directrix circuits cosine --sae tinystories-2l/sae-l0 --sae tinystories-2l/sae-l1 --top 20
  directrix circuits cosine --index out/index --effects-prompts 50 --out out/pairs";

/// Pairs of directions of which the first writes what the second reads.
///
/// The cosine of `W_dec W_out` of the first SAE with `W_in W_enc` of the second, over all pairs. With --index, each pair is
/// also tested by ablation, on the prompts in which its first direction is most active, where it is.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Cosine {
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    saes: TwoSaes,
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

impl Cosine {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::Two(&self.saes.sae), Wanted::default())?;
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
        let (index, [number]) = opened.existing_index(folder, [0])?;
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
