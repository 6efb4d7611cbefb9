//! `directrix index`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use clap::Args;
use directrix::corpus::Corpus;
use directrix::index::{self, Identity, Options, Source};
use serde_json::json;

use super::inputs::{CorpusArgs, Loaded, ModelArgs, ProcessingArgs, SaeArgs, ThreadArgs, note_cut, source};
use super::interrupt::{self, Stopped};
use super::progress::Progress;
use super::terminal::{self, note, stdout, table, thousands};

const EXAMPLES: &str = "\
Examples:
  directrix index
  directrix index --limit 200 --out out/small
  directrix index --model pythia-70m --sae saes/layer-3 --corpus pile.parquet --column text --out out/pile";

/// Find what every direction of one or more SAEs fires on.
///
/// Runs the model once over a corpus, for all SAEs together, and leaves an index on disk: of every direction the maximum,
/// density, mean, histogram and token counts, and every activation of the corpus. Other commands answer from it without
/// running the model. A pass that was interrupted goes on where it was when the same command is run again.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Index {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    saes: SaeArgs,
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Folder to make; the work is done beside it, in FOLDER.partial
    #[arg(long, value_name = "FOLDER", default_value = "out/index")]
    out: PathBuf,
    /// Count tokens where an activation exceeds this share of its direction's maximum
    #[arg(long, value_name = "SHARE", default_value_t = Options::default().count_above)]
    count_above: f32,
    /// Leave this many positions at the start of every prompt out of the token counts
    #[arg(long, value_name = "N", default_value_t = Options::default().skip_first)]
    skip_first: usize,
    /// Let maxima include the last position of every prompt, which predicts nothing
    #[arg(long)]
    include_last: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    processing: ProcessingArgs,
}

impl Index {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if !(0.0..1.0).contains(&self.count_above) {
            bail!("--count-above {}: give a share of the maximum, from 0 to below 1", self.count_above);
        }
        self.threads.apply()?;
        let stop = interrupt::flag();
        let complete = is_complete(&self.out)?;
        let loaded = self.model.load(self.processing.processing())?;
        let saes = self.saes.load_or_shipped(&loaded)?;
        let corpus = self.corpus.open()?;
        let documents = self.count_documents(&corpus, stop)?;
        let identity = Identity {
            model: Source { name: loaded.folder.to_string(), hash: loaded.folder.hash() },
            processing: loaded.model.processing(),
            saes: saes.iter().map(|sae| source(sae.name())).collect::<anyhow::Result<_>>()?,
            corpus: Source { name: corpus.name().into(), hash: corpus.hash()? },
            bos: self.corpus.has_bos(&loaded)?,
            limit: self.corpus.limit(),
            options: Options {
                count_above: self.count_above,
                skip_first: self.skip_first,
                skip_last: !self.include_last,
            },
        };
        let chunks = self.corpus.chunks(&corpus, &loaded)?;
        if self.out.is_dir() && !complete {
            let cannot = || format!("cannot replace the empty folder `{}`", self.out.display());
            fs::remove_dir(&self.out).with_context(cannot)?;
        }
        let mut progress = Progress::new("indexing", documents);
        let index =
            index::build(&loaded.model, &saes, chunks, &identity, &self.out, stop, |done| progress.index(done))?;
        if complete {
            note("the index was complete already; nothing was done");
        } else {
            progress.end();
        }
        if self.json { self.print_json(&index, complete) } else { self.print(&index, &loaded) }
    }

    /// The documents that will be read, all of which can be; for the time left.
    fn count_documents(&self, corpus: &Corpus, stop: &AtomicBool) -> anyhow::Result<usize> {
        let mut count = 0;
        for document in self.corpus.documents(corpus)? {
            document?;
            count += 1;
            if stop.load(Ordering::Relaxed) {
                return Err(Stopped.into());
            }
        }
        if count == 0 {
            bail!("corpus `{}` holds no prompt; it is empty, or all of its documents are", corpus.name());
        }
        Ok(count)
    }

    fn print(&self, index: &index::Index, loaded: &Loaded) -> anyhow::Result<()> {
        let meta = index.meta();
        let mut out = stdout();
        writeln!(
            out,
            "{}: {} prompts, {} positions of {}",
            self.out.display(),
            thousands(meta.prompts as u64),
            thousands(meta.positions),
            meta.identity.corpus.name,
        )?;
        let mut saes = table(&["SAE", "hook point", "directions", "dead", "active per position (L0)"], 2);
        for sae in index.saes() {
            saes.add_row([
                sae.name().to_owned(),
                sae.hook().to_string(),
                thousands(sae.directions() as u64),
                thousands(sae.dead() as u64),
                format!("{:.1}", sae.l0()),
            ]);
        }
        writeln!(out, "{}", saes.trim_fmt())?;
        out.flush()?;
        note_cut(meta.cut, loaded.model.config());
        Ok(())
    }

    fn print_json(&self, index: &index::Index, complete: bool) -> anyhow::Result<()> {
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
            "already_complete": complete,
            "prompts": meta.prompts,
            "positions": meta.positions,
            "cut": meta.cut,
            "saes": saes.collect::<Vec<_>>(),
        }))
    }
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
