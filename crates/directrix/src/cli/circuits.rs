//! `directrix circuits`.

mod agreement;
mod behaviour;
mod conjunctions;
mod cooccurrence;
mod cosine;
mod edges;
mod graph;
mod matching;
mod verify;

use anyhow::bail;
use clap::{Args, Subcommand};
use directrix::lab::Opened;
use directrix::sae::Sae;

const EXAMPLES: &str = "\
Examples:
  directrix circuits cosine --top 20
  directrix circuits verify --by attribution --top 100
  directrix circuits cooccurrence --prompts stories.txt --limit 20
  directrix circuits graph --text 'Tim said, \"I like it.\"' --out out/graph
  directrix circuits match --sae saes/seed-1 --sae saes/seed-2
  directrix circuits conjunctions 1063
  directrix circuits behaviour --prompts answers.txt";

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
    Edges(edges::Edges),
    Verify(verify::Verify),
    Agreement(agreement::Agreement),
    Match(matching::Match),
    Graph(graph::Graph),
    Conjunctions(conjunctions::Conjunctions),
    Behaviour(behaviour::Behaviour),
}

impl Circuits {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.kind {
            Search::Cosine(cosine) => cosine.run(),
            Search::Cooccurrence(cooccurrence) => cooccurrence.run(),
            Search::Edges(edges) => edges.run(),
            Search::Verify(verify) => verify.run(),
            Search::Agreement(agreement) => agreement.run(),
            Search::Match(matching) => matching.run(),
            Search::Graph(graph) => graph.run(),
            Search::Conjunctions(conjunctions) => conjunctions.run(),
            Search::Behaviour(behaviour) => behaviour.run(),
        }
    }
}

/// Two SAEs that a search is between.
#[derive(Args)]
struct TwoSaes {
    /// The two SAEs, the earlier one first [default: the model's two, tinystories-2l/sae-l0 and tinystories-2l/sae-l1]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
}

/// The two SAEs, the earlier one first.
fn two(opened: &Opened) -> anyhow::Result<[&Sae; 2]> {
    match &opened.saes[..] {
        [first, second] => Ok([first, second]),
        saes => bail!("this works on two SAEs, not on {}", saes.len()),
    }
}
