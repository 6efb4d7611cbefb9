//! `directrix circuits`.

mod cooccurrence;
mod cosine;
mod graph;

use anyhow::bail;
use clap::{Args, Subcommand};
use directrix::lab::Opened;
use directrix::sae::Sae;

const EXAMPLES: &str = "\
Examples:
  directrix circuits cosine --top 20
  directrix circuits cooccurrence --prompts stories.txt --limit 20
  directrix circuits graph --text 'Tim said, \"I like it.\"' --out out/graph";

/// Find circuits between the directions of SAEs.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Circuits {
    #[command(subcommand)]
    kind: Search,
}

#[derive(Subcommand)]
enum Search {
    Cosine(cosine::Cosine),
    Cooccurrence(cooccurrence::Cooccurrence),
    Graph(graph::Graph),
}

impl Circuits {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.kind {
            Search::Cosine(cosine) => cosine.run(),
            Search::Cooccurrence(cooccurrence) => cooccurrence.run(),
            Search::Graph(graph) => graph.run(),
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
