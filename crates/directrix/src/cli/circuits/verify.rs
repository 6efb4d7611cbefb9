//! `directrix circuits verify`.

use clap::Args;
use directrix::circuits::edges::{self, VerifiedEdge};
use directrix::corpus::{Team, Watch};
use directrix::lab::{Opened, Wanted};
use serde_json::json;

use super::edges::{EdgeArgs, OfSaes, strength};
use crate::cli::inputs::{Saes, SubjectArgs};
use crate::cli::numbers::{MANY, real, whole};
use crate::cli::ranks::{self, ShardArgs};
use crate::cli::results::{Found, ResultArgs};
use crate::cli::terminal::note;
use crate::cli::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix circuits verify --top 100
  directrix circuits verify --by cosine --top 20 --show 20 --out out/verified";

/// The strongest edges, each verified by ablation beside controls.
///
/// Ranks edges as `directrix circuits edges` does, on every other prompt of the index, and ablates the first direction of each on prompts
/// that did not rank it: how much the second direction's activation changes, and the loss. The same is done along random rows of the
/// same norm, and with other directions of matched density. An edge is verified if the change exceeds zero and both controls, at a
/// false-discovery rate over the list.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Verify {
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    ranked: EdgeArgs,
    /// Edges to verify
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole::<usize>(1..=MANY))]
    top: usize,
    /// Edges to print; --out and --json have all
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = whole::<usize>(1..=MANY))]
    show: usize,
    #[command(flatten)]
    how: VerifyArgs,
    #[command(flatten)]
    share: ShardArgs,
    #[command(flatten)]
    results: ResultArgs,
}

/// How edges are verified.
#[derive(Args)]
pub(super) struct VerifyArgs {
    /// Prompts that each edge is verified on, at most
    #[arg(long, value_name = "N", default_value_t = edges::Verify::default().prompts, value_parser = whole::<usize>(2..=MANY))]
    verify_prompts: usize,
    /// False-discovery rate up to which an edge is verified
    #[arg(long, value_name = "RATE", default_value_t = edges::Verify::default().rate, value_parser = real::<f64>(0.0..=1.0))]
    rate: f64,
}

impl VerifyArgs {
    pub(super) fn meant(&self) -> edges::Verify {
        edges::Verify { prompts: self.verify_prompts, rate: self.rate }
    }
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let is_shard = self.share.shard().is_some();
        ranks::join()?;
        let _lock = if is_shard || !ranks::is_first() { None } else { self.results.lock()? };
        let opened = self.subject.open(Saes::All(&self.ranked.sae), Wanted::default())?;
        let about = json!({
            "saes": (0..opened.saes.len()).map(|sae| opened.sae_source(sae)).collect::<Vec<_>>(),
            "model": opened.model_source(),
            "ranked": self.ranked.about(&opened)?,
            "top": self.top,
            "verify": [self.how.verify_prompts as f64, self.how.rate],
        });
        let watch = self.share.team(&watch, &opened, self.results.folder(), &about)?;
        let made = self.share.waits(self.rows(&opened, &watch))?;
        let Some(rows) = made.filter(|_| !is_shard) else { return Ok(()) };
        if ranks::is_first() {
            self.show(&rows, &opened)?;
        }
        Ok(watch.team().map_or(Ok(()), Team::finish)?)
    }

    /// All edges of the list, verified.
    fn rows<'a>(&self, opened: &'a Opened, watch: &Watch) -> anyhow::Result<Vec<OfSaes<'a, VerifiedEdge>>> {
        let mut ranked = Vec::new();
        self.ranked.rank(opened, self.top, watch, |saes, edges| {
            ranked.extend(edges.into_iter().map(|edge| (saes, edge)));
            Ok(())
        })?;
        ranked.sort_by(|(_, a), (_, b)| strength(b).total_cmp(&strength(a)));
        ranked.truncate(self.top);
        let mut pairs: Vec<[usize; 2]> = ranked.iter().map(|(saes, _)| *saes).collect();
        pairs.sort_unstable();
        pairs.dedup();
        let mut rows: Vec<OfSaes<VerifiedEdge>> = Vec::new();
        for pair in pairs {
            let indexed = self.ranked.sample.open(opened, pair)?;
            let own: Vec<_> = ranked.iter().filter(|(saes, _)| *saes == pair).map(|(_, edge)| *edge).collect();
            let verified = indexed.between(opened)?.verify(&own, self.how.meant(), watch)?;
            let [from, to] = pair.map(|sae| opened.saes[sae].short_name());
            rows.extend(verified.into_iter().map(|edge| OfSaes { from, to, edge }));
        }
        VerifiedEdge::as_one_list(rows.iter_mut().map(|row| &mut row.edge), self.how.rate);
        rows.sort_by(|a, b| strength(&b.edge.ranked).total_cmp(&strength(&a.edge.ranked)));
        Ok(rows)
    }

    fn show(&self, rows: &[OfSaes<VerifiedEdge>], opened: &Opened) -> anyhow::Result<()> {
        let verified = rows.iter().filter(|row| row.edge.verified).count();
        let caption = format!("The strongest edges by {}. {}", self.ranked.sentence(), VerifiedEdge::SENTENCE);
        let found =
            Found { name: "verified-edges", caption: &caption, rows, bars: "change", missing: "", overall: None };
        self.results.show_first(&found, self.show, opened)?;
        note(&format!(
            "{verified} of {} edges are verified at a false-discovery rate of {}",
            rows.len(),
            self.how.rate
        ));
        Ok(())
    }
}
