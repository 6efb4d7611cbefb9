//! `directrix circuits match`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use directrix::circuits::{Alike, BothIndexed, Matching, check_site, match_directions};
use directrix::lab::Wanted;
use directrix::sae::Sae;

use super::two;
use crate::cli::inputs::{Saes, SubjectArgs};
use crate::cli::numbers::{MANY, real, whole};
use crate::cli::results::{Found, ResultArgs};
use crate::cli::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix circuits match --sae saes/seed-1 --sae saes/seed-2
  directrix circuits match --sae saes/seed-1 --sae saes/seed-2 --show unmatched --top 50
  directrix circuits match --sae saes/seed-1 --sae saes/seed-2 \\
      --index out/index --by activations --out out/matched";

/// Which directions of two SAEs of one site are the same.
///
/// Directions are matched one to one, so that the sum of their similarities is as large as can be over all such matchings of
/// pairs more alike than --least: exactly, not greedily. Two SAEs of other seeds, objectives or lengths of training agree on
/// those that match well; the rest one of them has alone. With --index, of both SAEs, each pair also has the correlation of its
/// activations.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Match {
    #[command(flatten)]
    subject: SubjectArgs,
    /// The two SAEs, of one hook point
    #[arg(long, value_name = "SAE", required = true)]
    sae: Vec<String>,
    /// What makes two directions alike
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = By::Decoder)]
    by: By,
    /// Pairs less alike than this are no match
    #[arg(long, value_name = "SIMILARITY", default_value_t = 0.3, value_parser = real::<f64>(0.0..=1.0))]
    least: f64,
    /// Pairs at least this alike count as stable
    #[arg(long, value_name = "SIMILARITY", default_value_t = 0.7, value_parser = real::<f64>(0.0..=1.0))]
    stable: f64,
    /// Index of both SAEs, as made by `directrix index` with two of --sae
    #[arg(long, value_name = "FOLDER", required_if_eq("by", "activations"))]
    index: Option<PathBuf>,
    /// Which directions to list
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Show::Matched)]
    show: Show,
    /// Rows to list, the most alike first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = whole::<usize>(1..=MANY))]
    top: usize,
    #[command(flatten)]
    results: ResultArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// The cosine of their decoder rows
    Decoder,
    /// The correlation of their activations over the index
    Activations,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Show {
    /// Pairs
    Matched,
    /// Directions without a partner, with what they are most like
    Unmatched,
}

impl Match {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::Two(&self.sae), Wanted::default())?;
        let both = two(&opened)?;
        check_site(both[0], both[1])?;
        let index = self.index.as_ref().map(|folder| opened.existing_index(folder, [0, 1])).transpose()?;
        let indexed = index.as_ref().map(|(index, saes)| BothIndexed { index, saes: *saes });
        let (alike, similarity) = match self.by {
            By::Decoder => (Alike::Decoder, "cosine of the decoder rows"),
            By::Activations => (Alike::Activations, "correlation of the activations"),
        };
        let Matching { mut pairs, similarities, mut unmatched } =
            match_directions(both, alike, indexed, self.least, &watch)?;
        let [one, two] = both.map(Sae::short_name);
        let stable = similarities.iter().filter(|similarity| **similarity >= self.stable).count();
        let counted = format!(
            "{} of {} directions of {one} and of {} of {two} are matched one to one by the {similarity}, {stable} of them stable (at least {})",
            pairs.len(),
            both[0].directions(),
            both[1].directions(),
            self.stable
        );
        match self.show {
            Show::Matched => {
                pairs.truncate(self.top);
                let bars = match self.by {
                    By::Decoder => "decoder cosine",
                    By::Activations => "correlation",
                };
                let caption = format!("{counted}; the most alike first.");
                let (name, missing) = ("matched-directions", "");
                let found = Found { name, caption: &caption, rows: &pairs, bars, missing, overall: None };
                self.results.show(&found, &opened)
            }
            Show::Unmatched => {
                unmatched.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.direction.cmp(&b.direction)));
                // A NaN, of directions that never fire, is not the most alike.
                unmatched.sort_by_key(|row| row.similarity.is_nan());
                unmatched.truncate(self.top);
                let caption = format!(
                    "{counted}. Those without a partner of {one} (0) and {two} (1), and what each is nearest to in the other, which may be another's partner."
                );
                let (name, missing) = ("unmatched-directions", "never active");
                let found =
                    Found { name, caption: &caption, rows: &unmatched, bars: "similarity", missing, overall: None };
                self.results.show(&found, &opened)
            }
        }
    }
}
