//! `directrix index`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use directrix::circuits::edges::{Swept, keep};
use directrix::corpus::{Team, Watch};
use directrix::index::{self, Options};
use directrix::lab::{Opened, OtherIndex, Wanted, open_index};
use serde_json::json;

use super::failure::usage;
use super::inputs::{CorpusArgs, CountedArgs, Saes, SubjectArgs, note_cut, note_model};
use super::layout::{Table, paragraph};
use super::merge::said_of;
use super::numbers::real;
use super::ranks::{self, ShardArgs};
use super::terminal::{self, note, stdout, thousands};
use super::watch::{sources, watch};

const EXAMPLES: &str = "\
Examples:
  directrix index
  directrix index --edges
  directrix index --limit 200 --out out/small
  directrix index --limit 200 --shard 1/2 --out out/first-half
  directrix index --model pythia-70m --sae saes/layer-3 --corpus pile.parquet \\
      --column text --out out/pile";

/// Find what every direction of one or more SAEs fires on.
///
/// Runs the model once over a corpus, for all SAEs together, and leaves an index on disk: of every direction the maximum,
/// density, mean, histogram and token counts, and every activation of the corpus. Other commands answer from it without
/// running the model. A pass that was interrupted goes on where it was when the same command is run again. Of an index that stands, --edges and
/// --out are enough to say.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Index {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAE: a folder, or owner/name:folder on the hub; give it once for each SAE [default: all of the model,
    /// tinystories-2l/sae-l0 and tinystories-2l/sae-l1]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Folder to make; the work is done beside it, in FOLDER.partial
    #[arg(long, value_name = "FOLDER", default_value = "out/index")]
    out: PathBuf,
    /// Count tokens where an activation exceeds this share of its direction's maximum
    #[arg(long, value_name = "SHARE", default_value_t = Options::default().count_above, value_parser = real::<f32>(0.0..1.0))]
    count_above: f32,
    #[command(flatten)]
    counted: CountedArgs,
    /// Count as the origin's notebook: first positions are left out of token counts alone, last ones of maxima alone
    #[arg(long)]
    as_notebook: bool,
    /// Measure, and keep beside the index, the strongest edges of every direction by weights, gradients and ablation, which the workbench
    /// then shows at once. With --shard, one part of them, of an index that stands
    #[arg(long)]
    edges: bool,
    #[command(flatten)]
    share: ShardArgs,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

impl Index {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let ranks = ranks::join()?;
        self.share.check(ranks.is_some())?;
        let complete = is_complete(&self.out)?;
        if self.edges && self.share.shard().is_some() && !complete {
            return Err(usage(
                "--edges is of a whole index: make it first, then shards of --edges measure a part each",
            ));
        }
        let (index, opened) = if complete && self.edges && self.names_nothing() {
            self.subject.threads.apply()?;
            of_itself(&self.out)?
        } else {
            self.made(&watch)?
        };
        if complete {
            note("the index was complete already");
        }
        let edges = if self.edges { self.with_edges(&opened, &index, &watch)? } else { None };
        drop(watch);
        if self.edges && self.share.shard().is_some() {
            return Ok(());
        }
        if self.json { self.print_json(&index, complete, edges) } else { self.print(&index, &opened, edges) }
    }

    fn made(&self, watch: &Watch) -> anyhow::Result<(index::Index, Opened)> {
        let opened = self.subject.open(Saes::All(&self.sae), self.corpus.wanted())?;
        let &Index { count_above, as_notebook, .. } = self;
        let options = Options { count_above, counted: self.counted.meant(&opened)?, as_notebook };
        if let Some(shard) = self.share.shard().filter(|_| !self.edges) {
            return Ok((opened.index_shard(&self.out, options, shard, watch)?, opened));
        }
        let watch =
            self.share.team(watch, &opened, None, &json!({ "saes": opened.wanted.saes, "options": options }))?;
        Ok((opened.index(&self.out, options, OtherIndex::Keep, &watch)?, opened))
    }

    /// Measures the edges, or the shard's part of them; `None` where others have not done theirs.
    fn with_edges(&self, opened: &Opened, index: &index::Index, watch: &Watch) -> anyhow::Result<Option<Vec<Swept>>> {
        let about = json!({ "edges": index.meta().identity });
        let watch = self.share.team(watch, opened, Some(&self.out.join("edges")), &about)?;
        let swept = keep(&opened.model, &opened.saes, index, &self.out, &watch);
        let swept = self.share.waits(swept.map_err(anyhow::Error::from))?;
        if swept.is_some() {
            watch.team().map_or(Ok(()), Team::finish)?;
        }
        Ok(swept)
    }

    /// Whether no flag says of what the index is.
    fn names_nothing(&self) -> bool {
        let Index { subject, sae, corpus, count_above, counted, as_notebook, .. } = self;
        let is_default = subject.is_default() && sae.is_empty() && corpus.wanted() == Wanted::default();
        is_default && *count_above == Options::default().count_above && counted.is_default() && !as_notebook
    }

    fn print(&self, index: &index::Index, opened: &Opened, edges: Option<Vec<Swept>>) -> anyhow::Result<()> {
        let meta = index.meta();
        let mut out = stdout();
        writeln!(out, "{}", paragraph(&said_of(&self.out, meta), 0))?;
        let left_out = meta.identity.options.left_out(|token| format!("{:?}", opened.token(token)));
        let counted = format!("{} positions count; left out: {left_out}", thousands(meta.counted));
        writeln!(out, "{}", paragraph(&counted, 0))?;
        let mut saes = Table::new(&["SAE", "hook point", "directions", "dead", "active per position (L0)"], 2);
        for (sae, own) in index.saes().iter().zip(&opened.saes) {
            saes.row([
                sae.name().to_owned(),
                own.site().reads.to_string(),
                thousands(sae.directions() as u64),
                thousands(sae.dead() as u64),
                format!("{:.1}", sae.l0()),
            ]);
        }
        writeln!(out, "{}", saes.shown())?;
        if let Some(edges) = edges {
            let mut table = Table::new(&["edges from", "to", "measure", "kB"], 3);
            for Swept { from, to, measure, bytes } in edges {
                table.row([from, to, measure.into(), thousands(bytes.div_ceil(1024))]);
            }
            writeln!(out, "{}", table.shown())?;
        }
        out.flush()?;
        note_cut(meta.cut, opened.model.config());
        Ok(())
    }

    fn print_json(&self, index: &index::Index, complete: bool, edges: Option<Vec<Swept>>) -> anyhow::Result<()> {
        let meta = index.meta();
        let saes = index.saes().iter().map(|sae| {
            json!({
                "name": sae.name(),
                "hook": sae.hook(),
                "directions": sae.directions(),
                "dead": sae.dead(),
                "l0": sae.l0(),
            })
        });
        terminal::json(&json!({
            "index": self.out,
            "model": meta.identity.model.name,
            "corpus": meta.identity.corpus.name,
            "already_complete": complete,
            "prompts": meta.prompts,
            "positions": meta.positions,
            "counted": meta.counted,
            "options": meta.identity.options,
            "cut": meta.cut,
            "pieces": meta.pieces,
            "saes": saes.collect::<Vec<_>>(),
            "edges": edges,
        }))
    }
}

/// An index that stands, with the model and SAEs it is of.
pub(super) fn of_itself(folder: &Path) -> anyhow::Result<(index::Index, Opened)> {
    let index = open_index(folder)?;
    let opened = Wanted::of_index(index.meta().identity.clone()).open_from(&sources())?;
    note_model(&opened);
    Ok((opened.existing_index_of_all(folder)?.0, opened))
}

/// Whether the folder holds an index. An empty folder gives way to one, anything else must not.
fn is_complete(folder: &Path) -> anyhow::Result<bool> {
    let name = folder.display();
    if !folder.exists() || folder.join("index.json").is_file() {
        return Ok(folder.exists());
    }
    if !folder.is_dir() || fs::read_dir(folder).with_context(|| format!("`{name}`"))?.next().is_some() {
        bail!("`{name}` is there and is not an index; choose another --out");
    }
    Ok(false)
}
