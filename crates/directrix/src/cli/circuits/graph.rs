//! `directrix circuits graph`.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::Args;
use directrix::circuits::Table;
use directrix::circuits::graph::{self, GraphOptions, Replacement};
use directrix::corpus::{Chunk, durable};
use directrix::lab::Opened;
use directrix::study::{Block, CheckRow, EdgeRow, GraphStory, LoadingRow, LookRow, Section, write_graph, write_table};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::inputs::{PromptArgs, Saes, SubjectArgs};
use crate::cli::numbers::{MANY, real, whole};
use crate::cli::results::{Found, ResultArgs};
use crate::cli::terminal::{self, note};
use crate::cli::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix circuits graph --text 'Tim said, \"I like it.\"' --out out/graph
  directrix circuits graph --text 'Tim said, \"I like it' --answer '.\"' --check 20
  directrix circuits graph --text 'Tim said, \"I like it.\"' --heads
  directrix circuits graph --text 'Tim said, \"I like it.\"' --qk 1.3

With --out the folder has graph.html, to look at; tables/nodes.csv and tables/edges.csv (and Parquet); and SLUG.json with
graph-metadata.json, which circuit-tracer's page shows. What nodes and edges are: docs/graphs.md.";

/// Pairs of a head's score that are shown.
const PAIRS: usize = 30;

/// The attribution graph of a predicted token, through the directions of SAEs.
///
/// Nodes are embeddings, active directions, what SAEs miss (errors), and logits; an edge is what one adds to another directly. The
/// answer is the prompt's last token, predicted at the position before it.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Graph {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAEs or transcoders, in the order of their layers; give it once for each [default: the model's own]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    /// The token to explain, by its text or id, after the whole prompt [default: the prompt's last token]
    #[arg(long, value_name = "ID|TOKEN")]
    answer: Option<String>,
    /// Explain the N likeliest next tokens too, up to 95 % of the probability
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<usize>(0..=1000))]
    logits: usize,
    /// Directions whose inputs are found, at most, the most influential first
    #[arg(long, value_name = "N", default_value_t = GraphOptions::default().max_directions, value_parser = whole::<usize>(0..=MANY))]
    max_directions: usize,
    /// Keep nodes until they have this share of all influence
    #[arg(long, value_name = "SHARE", default_value_t = GraphOptions::default().node_threshold, value_parser = real::<f64>(0.0..=1.0))]
    node_threshold: f64,
    /// Keep edges between them until they have this share
    #[arg(long, value_name = "SHARE", default_value_t = GraphOptions::default().edge_threshold, value_parser = real::<f64>(0.0..=1.0))]
    edge_threshold: f64,
    /// Take what heads write for nodes, and trace nothing further back through attention
    #[arg(long)]
    head_nodes: bool,
    /// Split every edge over the attention heads that carry it
    #[arg(long, conflicts_with = "head_nodes")]
    heads: bool,
    /// Why a head looks where it does: LAYER.HEAD, from the last position to the one it looks at most, or LAYER.HEAD:QUERY:KEY
    #[arg(long, value_name = "HEAD")]
    qk: Option<Pair>,
    /// Ablate the N most influential directions, and the sources of the N most influential edges, in the model itself
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<usize>(0..=MANY))]
    check: usize,
    /// Rows to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = whole::<usize>(1..=MANY))]
    top: usize,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    results: ResultArgs,
}

/// A head, and the positions it is looked at between.
#[derive(Debug, Clone, Copy)]
struct Pair {
    layer: usize,
    head: usize,
    at: Option<(usize, usize)>,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Pair, String> {
        let read = || {
            let mut parts = text.split(':');
            let (layer, head) = parts.next()?.split_once('.')?;
            let at = match (parts.next(), parts.next(), parts.next()) {
                (None, ..) => None,
                (Some(query), Some(key), None) => Some((query.parse().ok()?, key.parse().ok()?)),
                _ => return None,
            };
            Some(Pair { layer: layer.parse().ok()?, head: head.parse().ok()?, at })
        };
        read().ok_or_else(|| "give LAYER.HEAD, such as 1.3, or LAYER.HEAD:QUERY:KEY, such as 1.3:17:4".into())
    }
}

/// Everything that was found of a graph.
struct All {
    edges: Vec<EdgeRow>,
    heads: Vec<LoadingRow>,
    checks: Vec<CheckRow>,
    look: Vec<LookRow>,
    look_caption: String,
}

impl Graph {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::All(&self.sae), self.prompts.wanted())?;
        let (tokens, answer) = self.prompt(&opened)?;
        let options = GraphOptions {
            logits: self.logits,
            max_directions: self.max_directions,
            node_threshold: self.node_threshold,
            edge_threshold: self.edge_threshold,
            ..GraphOptions::default()
        };
        let of = Replacement::of(&opened.model, opened.saes.iter().collect(), &tokens, self.head_nodes, &watch)?;
        let graph = of.graph(answer, options)?;
        let story = GraphStory::of(&opened, &of, &graph)?;
        let look = self.qk.map(|Pair { layer, head, at }| {
            let (query, key) = at.map_or((tokens.len() - 1, None), |(query, key)| (query, Some(key)));
            of.look(layer, head, query, key)
        });
        let look = look.transpose()?;
        let all = All {
            edges: story.edges(),
            heads: if self.heads { story.loadings(&of.loadings(&graph)?) } else { Vec::new() },
            checks: if self.check > 0 { story.checks(&of.checks(&graph, self.check)?) } else { Vec::new() },
            look: look.as_ref().map_or_else(Vec::new, |look| story.look(look, PAIRS)),
            look_caption: look.as_ref().map_or_else(String::new, |look| story.look_caption(look)),
        };
        if let Some(folder) = self.results.folder() {
            write(folder, &story, &all)?;
        }
        story.notes().iter().for_each(|said| note(said));
        self.show(&opened, &story, &all)
    }

    /// The tokens before the answer, and the answer.
    fn prompt(&self, opened: &Opened) -> anyhow::Result<(Vec<u32>, u32)> {
        let Chunk { prompts, cut } = self.prompts.load(opened)?;
        if prompts.len() != 1 {
            bail!("a graph is of one prompt, and there are {}; give one with --text, or --limit 1", prompts.len());
        }
        if cut > 0 {
            let context = opened.model.config().n_ctx;
            bail!(
                "the prompt is longer than the model's context of {context} positions; a graph of a part of it would explain another prediction"
            );
        }
        let tokens = prompts.get(0);
        let Some(answer) = &self.answer else {
            return match tokens {
                [before @ .., answer] if !before.is_empty() => Ok((before.to_vec(), *answer)),
                _ => bail!(
                    "the prompt has no position before its last token, which would be the answer; give a longer one, or --answer"
                ),
            };
        };
        let answer = match answer.parse::<u32>() {
            Ok(id) => id,
            Err(_) => opened.tokenizer()?.single_token(answer).context("--answer")?,
        };
        Ok((tokens.to_vec(), answer))
    }

    /// The table that was asked for; nodes if none.
    fn show(&self, opened: &Opened, story: &GraphStory, all: &All) -> anyhow::Result<()> {
        let summary = story.summary();
        if self.results.is_json() {
            return terminal::json(&json!({
                "model": opened.wanted.model,
                "saes": opened.wanted.saes,
                "caption": summary,
                "notes": story.notes(),
                "nodes": story.nodes(),
                "edges": all.edges,
                "heads": all.heads,
                "checks": all.checks,
                "look": all.look,
            }));
        }
        if self.qk.is_some() {
            return self.table("look", &all.look_caption, &all.look, "weight", opened);
        }
        if self.check > 0 {
            return self.table("checks", CHECKS, &all.checks, "measured", opened);
        }
        if self.heads {
            return self.table("edge-heads", HEADS, &all.heads, "weight", opened);
        }
        self.table("nodes", &summary, &story.nodes(), "influence", opened)
    }

    fn table<R: Serialize>(
        &self,
        name: &str,
        caption: &str,
        rows: &[R],
        bars: &str,
        opened: &Opened,
    ) -> anyhow::Result<()> {
        let shown = &rows[..rows.len().min(if name == "look" { rows.len() } else { self.top })];
        self.results.print(&Found { name, caption, rows: shown, bars, missing: "", overall: None }, opened)
    }
}

const NODES: &str =
    "The nodes. Influence is the share of the explained logits that goes through a node, by absolute weights.";
const EDGES: &str = "The edges: what a node adds to the activation or logit of another directly.";
const HEADS: &str = "Each edge by the last head that its paths pass, or none; the parts of an edge sum to it.";
const CHECKS: &str = "What ablating a direction takes from the answer's logit (less the mean logit) or another's activation: directly and over all \
                      paths, as the graph says, and measured in the model.";

/// Writes tables, circuit-tracer's files and the page.
fn write(folder: &Path, story: &GraphStory, all: &All) -> anyhow::Result<()> {
    let mut tables =
        vec![Table::from_rows("nodes", NODES, &story.nodes()), Table::from_rows("edges", EDGES, &all.edges)];
    if !all.heads.is_empty() {
        tables.push(Table::from_rows("edge-heads", HEADS, &all.heads));
    }
    if !all.checks.is_empty() {
        tables.push(Table::from_rows("checks", CHECKS, &all.checks));
    }
    if !all.look.is_empty() {
        tables.push(Table::from_rows("look", &all.look_caption, &all.look));
    }
    let drawing = story.drawing("graph");
    let mut files = vec![("figures/graph.svg".to_owned(), write_graph(&folder.join("figures"), &drawing)?)];
    for table in &tables {
        files.push((format!("tables/{}.csv", table.name), write_table(&folder.join("tables"), table)?));
    }
    let file = story.to_json();
    let (_, slug) = story.prompt();
    durable::write(&folder.join(format!("{slug}.json")), &serde_json::to_vec(&file)?)?;
    let list = folder.join("graph-metadata.json");
    let before: Option<Value> = if list.exists() {
        let bytes = fs::read(&list).with_context(|| format!("cannot read {}", list.display()))?;
        Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged; remove it", list.display()))?)
    } else {
        None
    };
    let listed = graph::Graph::listed(&file, before.as_ref());
    durable::write(&list, &serde_json::to_vec_pretty(&listed)?)?;

    let prose = [story.summary()].into_iter().chain(story.notes().iter().cloned()).collect();
    let mut blocks = vec![Block::Graph(drawing)];
    blocks.extend(tables.into_iter().map(Block::Table));
    let section = Section { name: "graph".into(), title: "The graph".into(), prose, blocks };
    let page = directrix::study::Report { files, ..story.page(vec![section]) };
    durable::write(&folder.join("graph.html"), page.to_html()?.as_bytes())?;
    Ok(())
}
