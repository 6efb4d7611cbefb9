//! `directrix circuits conjunctions`.

use anyhow::bail;
use clap::Args;
use directrix::circuits::Chosen;
use directrix::circuits::edges::{self, Conjunction};
use directrix::lab::Wanted;
use directrix::sae::Sae;

use super::edges::SampleArgs;
use super::{TwoSaes, two};
use crate::cli::directions::Directions;
use crate::cli::inputs::{Saes, SubjectArgs};
use crate::cli::numbers::{MANY, real, whole};
use crate::cli::results::{Found, ResultArgs};
use crate::cli::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix circuits conjunctions 1063
  directrix circuits conjunctions 1063 --joint --enough 0.9 --out out/joint";

/// Directions that another needs together (AND), or of which each is enough (OR).
///
/// Takes the directions of the first SAE that DIRECTION of the second loses most without, found on every other prompt of the index. On
/// the rest, at positions at which two of them and DIRECTION fire, each is ablated alone and both together. The interaction is the share of
/// DIRECTION's activation that both take together less the shares that each takes: about -1 if both are needed, 1 if each is enough, 0 if
/// they add up. With --joint: the smallest set of these directions that together take most of the activation.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Conjunctions {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Direction of the second SAE
    #[arg(value_name = "DIRECTION", value_parser = whole::<usize>(0..))]
    direction: usize,
    #[command(flatten)]
    saes: TwoSaes,
    /// Directions of the first SAE to look at [default: those that take most alone]
    #[arg(long, value_name = "N,N-N,...", conflicts_with = "upstream")]
    first: Option<Directions>,
    /// How many of those that take most alone to look at
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = whole::<usize>(2..=MANY))]
    upstream: usize,
    /// Find the smallest set that takes --enough of the activation, instead of pairs
    #[arg(long)]
    joint: bool,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    sample: SampleArgs,
    /// Pairs to print; --out and --json have all
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = whole::<usize>(1..=MANY))]
    show: usize,
    #[command(flatten)]
    results: ResultArgs,
}

/// Where directions are looked at, and what counts.
#[derive(Args)]
struct HowArgs {
    /// Positions of each pair or set, at most
    #[arg(long, value_name = "N", default_value_t = defaults().positions, value_parser = whole::<usize>(2..=MANY))]
    positions: usize,
    /// Look only where DIRECTION fires at least at this share of its maximum
    #[arg(long, value_name = "SHARE", default_value_t = defaults().share_of_maximum, value_parser = real::<f32>(0.0..=1.0))]
    share_of_maximum: f32,
    /// An interaction beyond this, either way, is none of a sum
    #[arg(long, value_name = "SHARE", default_value_t = defaults().interaction, value_parser = real::<f64>(0.0..=1.0))]
    interaction: f64,
    /// What each of two must take alone for them to count as adding up
    #[arg(long, value_name = "SHARE", default_value_t = defaults().needed, value_parser = real::<f64>(0.0..=1.0))]
    needed: f64,
    /// False-discovery rate up to which an interaction counts
    #[arg(long, value_name = "RATE", default_value_t = defaults().rate, value_parser = real::<f64>(0.0..=1.0))]
    rate: f64,
    /// Share of the activation that a joint set must take
    #[arg(long, value_name = "SHARE", default_value_t = defaults().enough, value_parser = real::<f64>(0.0..=1.0))]
    enough: f64,
}

fn defaults() -> edges::Conjunctions {
    edges::Conjunctions::default()
}

impl HowArgs {
    fn meant(&self) -> edges::Conjunctions {
        let HowArgs { positions, share_of_maximum, interaction, needed, rate, enough } = *self;
        edges::Conjunctions { positions, share_of_maximum, interaction, needed, rate, enough }
    }
}

impl Conjunctions {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::Two(&self.saes.sae), Wanted::default())?;
        let names = two(&opened)?.map(Sae::short_name);
        let indexed = self.sample.open(&opened, [0, 1])?;
        let (between, how) = (indexed.between(&opened)?, self.how.meant());
        let (firsts, chosen) = match &self.first {
            Some(first) => (first.each().collect(), Chosen::Given),
            None => between.most_upstream(self.direction, self.sample.meant(), &how, self.upstream, &watch)?,
        };
        let nothing = |what: &str| {
            format!(
                "{what} of {} with direction {} of {} in enough prompts; index more prompts, name directions with --first, or lower --least-prompts or --share-of-maximum",
                names[0], self.direction, names[1]
            )
        };
        let about = format!("Direction {} of {}, by directions of {}.", self.direction, names[1], names[0]);
        if self.joint {
            let steps = between.joint_set(self.direction, &firsts, &how, &watch)?;
            let Some(last) = steps.last() else {
                bail!(nothing("no direction fires"));
            };
            let caption = format!("{about} {}", last.sentence(how.enough));
            let found =
                Found { name: "joint-set", caption: &caption, rows: &steps, bars: "lost", missing: "", overall: None };
            return self.results.show(&found, &opened);
        }
        let rows = between.conjunctions(self.direction, &firsts, chosen, &how, &watch)?;
        let Some(Conjunction { interaction, .. }) = rows.first() else {
            bail!(nothing("no two directions fire"));
        };
        let caption = format!("{about} {} {}", Conjunction::SENTENCE, interaction.sentence());
        let found = Found {
            name: "conjunctions",
            caption: &caption,
            rows: &rows,
            bars: "interaction",
            missing: "",
            overall: None,
        };
        self.results.show_first(&found, self.show, &opened)
    }
}
