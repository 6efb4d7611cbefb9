//! `directrix circuits agreement`.

use clap::Args;
use directrix::circuits::edges::AgreementRow;
use directrix::lab::Wanted;

use super::edges::SampleArgs;
use super::verify::VerifyArgs;
use super::{TwoSaes, two};
use crate::cli::inputs::{Saes, SubjectArgs};
use crate::cli::results::{Found, ResultArgs};
use crate::cli::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix circuits agreement --out out/agreement";

/// How far the measures of edges agree with what ablation does.
///
/// Ranks all pairs of directions of two SAEs by every measure of `directrix circuits edges`, verifies the best of each, and compares each
/// ranking with that by causal effect: rank correlation, and how many of the best they share.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Agreement {
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    saes: TwoSaes,
    #[command(flatten)]
    sample: SampleArgs,
    #[command(flatten)]
    verify: VerifyArgs,
    #[command(flatten)]
    results: ResultArgs,
}

impl Agreement {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::Two(&self.saes.sae), Wanted::default())?;
        two(&opened)?;
        let indexed = self.sample.open(&opened, [0, 1])?;
        let agreement = indexed.between(&opened)?.agreement(self.sample.meant(), self.verify.meant(), &watch)?;
        let caption = AgreementRow::sentence(agreement.pairs);
        let found = Found {
            name: "agreement",
            caption: &caption,
            rows: &agreement.rows,
            bars: "rank correlation",
            missing: "",
            overall: None,
        };
        self.results.show(&found, &opened)
    }
}
