//! `directrix circuits edges`, and what the other commands on edges share with it.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use directrix::circuits::edges::{Between, Measure, Path, Ranked, Sample, Weights, check_path};
use directrix::corpus::Watch;
use directrix::index::Index;
use directrix::lab::{Opened, Wanted};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::inputs::{Saes, SubjectArgs};
use crate::cli::numbers::{MANY, whole};
use crate::cli::results::{Found, ResultArgs};
use crate::cli::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix circuits edges --top 50
  directrix circuits edges --by correlation --index out/index
  directrix circuits edges --by virtual-weight --head 1.3 --out out/edges";

/// The strongest edges between the directions of two or more SAEs.
///
/// Ranks all pairs of a direction of one SAE and a direction of a later one: by what the weights say (cosine, virtual-weight), by what
/// fires together (mutual-information, conditional, correlation), by gradients (attribution, frozen-attribution,
/// integrated-attribution), or by what
/// ablating the first does to the second (causal). All but the first two need an index of the SAEs, of whose prompts every other one
/// is used; `directrix circuits verify` tests edges on the rest.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Edges {
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    ranked: EdgeArgs,
    /// Edges to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = whole::<usize>(1..=MANY))]
    top: usize,
    #[command(flatten)]
    results: ResultArgs,
}

/// Which edges, and how they are ranked.
#[derive(Args)]
pub(super) struct EdgeArgs {
    /// SAEs, two or more; edges go from each to every later one [default: the model's own]
    #[arg(long, value_name = "SAE")]
    pub(super) sae: Vec<String>,
    /// What to rank by
    #[arg(long, value_name = "MEASURE", default_value = "causal", value_parser = measures())]
    by: Measure,
    /// For cosine and virtual-weight: edges through what this head, as LAYER.HEAD, reads and writes, instead of the residual stream
    #[arg(long, value_name = "L.H", value_parser = head)]
    head: Option<Path>,
    /// For integrated-attribution: points on the way at which gradients are taken
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = whole::<usize>(1..=1000))]
    steps: usize,
    #[command(flatten)]
    pub(super) sample: SampleArgs,
}

/// Which prompts of an index edges are ranked on.
#[derive(Args)]
pub(super) struct SampleArgs {
    /// Index of the SAEs, as made by `directrix index`
    #[arg(long, value_name = "FOLDER", default_value = "out/index")]
    index: PathBuf,
    /// Prompts of each direction on which effects and gradients are taken, at most
    #[arg(long, value_name = "N", default_value_t = Sample::default().prompts, value_parser = whole::<usize>(1..=MANY))]
    sample_prompts: usize,
    /// Prompts in which both directions must fire for an edge to be ranked by effects or gradients
    #[arg(long, value_name = "N", default_value_t = Sample::default().least, value_parser = whole::<usize>(2..=MANY))]
    least_prompts: usize,
}

fn measures() -> impl TypedValueParser<Value = Measure> {
    PossibleValuesParser::new(Measure::ALL.map(Measure::name))
        .map(|name| Measure::ALL.into_iter().find(|measure| measure.name() == name).expect("one of all measures"))
}

fn head(text: &str) -> Result<Path, String> {
    let parts = text.split_once('.').and_then(|(layer, head)| Some((layer.parse().ok()?, head.parse().ok()?)));
    let (layer, head) = parts.ok_or("give a block and a head, counted from 0, as 1.3")?;
    Ok(Path::Head { layer, head })
}

/// An edge with the SAEs it is between.
#[derive(Serialize)]
pub(super) struct OfSaes<'a, T: Serialize> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    #[serde(flatten)]
    pub(super) edge: T,
}

impl Edges {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::All(&self.ranked.sae), Wanted::default())?;
        let mut rows = Vec::new();
        self.ranked.rank(&opened, self.top, &watch, |[one, two], ranked| {
            let name = |sae: usize| opened.saes[sae].short_name();
            rows.extend(ranked.into_iter().map(|edge| OfSaes { from: name(one), to: name(two), edge }));
            Ok(())
        })?;
        rows.sort_by(|a, b| strength(&b.edge).total_cmp(&strength(&a.edge)));
        rows.truncate(self.top);
        let caption = format!("The strongest edges by {}.", self.ranked.sentence());
        let bars = self.ranked.by.name().replace('-', " ");
        let found = Found { name: "edges", caption: &caption, rows: &rows, bars: &bars, missing: "", overall: None };
        self.results.show(&found, &opened)
    }
}

pub(super) fn strength(ranked: &Ranked) -> f64 {
    ranked.measure.strength(ranked.value)
}

impl EdgeArgs {
    /// What edges are ranked by.
    pub(super) fn sentence(&self) -> &'static str {
        self.by.sentence()
    }

    /// What determines a ranking, beside model and SAEs.
    pub(super) fn about(&self, opened: &Opened) -> anyhow::Result<Value> {
        let Sample { prompts, least } = self.sample.meant();
        let index = opened.existing_index_of_all(&self.sample.index)?.0;
        let head = self.head.map(|head| format!("{head:?}"));
        Ok(json!({
            "by": self.by.name(),
            "head": head,
            "steps": self.steps,
            "prompts": prompts,
            "least": least,
            "index": index.meta().identity,
        }))
    }

    /// Ranks the edges of each pair of SAEs and hands on the `top` strongest.
    pub(super) fn rank(
        &self,
        opened: &Opened,
        top: usize,
        watch: &Watch,
        mut found: impl FnMut([usize; 2], Vec<Ranked>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let pairs = pairs(opened)?;
        let of_weights = matches!(self.by, Measure::Cosine | Measure::VirtualWeight);
        if self.head.is_some() && !of_weights {
            bail!("--head is for --by cosine and --by virtual-weight");
        }
        for [one, two] in pairs {
            let saes = [&opened.saes[one], &opened.saes[two]];
            let ranked = if of_weights {
                let path = self.head.unwrap_or(Path::Residual);
                Weights::new(&opened.model, saes, path, self.by)?.strongest(top, watch)?
            } else {
                let indexed = self.sample.open(opened, [one, two])?;
                self.by_prompts(indexed.between(opened)?, top, watch)?
            };
            found([one, two], ranked)?;
        }
        Ok(())
    }

    fn by_prompts(&self, between: Between, top: usize, watch: &Watch) -> anyhow::Result<Vec<Ranked>> {
        let sample = self.sample.meant();
        let found = between.strongest(self.by, self.steps, sample, top, watch)?;
        if found.is_empty() {
            bail!(
                "no two directions fire in the same {} prompts or more; index more prompts, or lower --least-prompts",
                sample.least
            );
        }
        Ok(found)
    }
}

/// The pairs of SAEs of which the first reaches the second.
fn pairs(opened: &Opened) -> anyhow::Result<Vec<[usize; 2]>> {
    let saes = &opened.saes;
    let all =
        (0..saes.len()).flat_map(|one| (0..saes.len()).map(move |two| [one, two])).filter(|[one, two]| one != two);
    let pairs: Vec<[usize; 2]> =
        all.filter(|[one, two]| check_path(&opened.model, &saes[*one], &saes[*two]).is_ok()).collect();
    match &saes[..] {
        [] | [_] => bail!("edges are between two SAEs or more, and there is {}; name them with --sae", saes.len()),
        [one, two, ..] if pairs.is_empty() => {
            Err(check_path(&opened.model, one, two).expect_err("no pair has a path").into())
        }
        _ => Ok(pairs),
    }
}

/// The parts of an index that two SAEs have.
pub(super) struct Indexed {
    index: Index,
    saes: [usize; 2],
    parts: [usize; 2],
}

impl Indexed {
    pub(super) fn between<'a>(&'a self, opened: &'a Opened) -> anyhow::Result<Between<'a>> {
        let saes = self.saes.map(|sae| &opened.saes[sae]);
        Ok(Between::new(&opened.model, saes, &self.index, self.parts.map(|part| self.index.sae(part)))?)
    }
}

impl SampleArgs {
    pub(super) fn open(&self, opened: &Opened, saes: [usize; 2]) -> anyhow::Result<Indexed> {
        let (index, parts) = opened.existing_index(&self.index, saes)?;
        Ok(Indexed { index, saes, parts })
    }

    pub(super) fn meant(&self) -> Sample {
        Sample { prompts: self.sample_prompts, least: self.least_prompts }
    }
}
