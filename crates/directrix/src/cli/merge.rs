//! `directrix merge`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use directrix::index::{Merged, Meta, Piece, merge};
use serde_json::json;

use super::inputs::ThreadArgs;
use super::layout::paragraph;
use super::terminal::{self, stdout, thousands};
use super::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix index --limit 200 --shard 1/2 --out out/part-1
  directrix index --limit 200 --shard 2/2 --out out/part-2
  directrix merge out/part-1 out/part-2 --out out/merged
  directrix merge out/part-2 --piece --out out/piece";

/// Make one index of those of several shards.
///
/// Each was made by `directrix index --shard`, or by this command with --piece. What they are of must be one corpus, model, SAEs and options,
/// and together all of the corpus, in whichever order they are given. The index has the bits of one that was made at once.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Merge {
    /// Folders of shards
    #[arg(value_name = "FOLDER", required = true)]
    shards: Vec<PathBuf>,
    /// Folder to make; the work is done beside it, in FOLDER.partial
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Some of the shards are missing: what is made is to be merged with them later
    #[arg(long)]
    piece: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

impl Merge {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.threads.apply()?;
        let merged = if self.piece { Merged::Piece } else { Merged::Whole };
        let index = merge(&self.shards, &self.out, merged, &watch())?;
        let meta = index.meta();
        if self.json {
            return terminal::json(&json!({
                "index": self.out,
                "shards": self.shards.len(),
                "prompts": meta.prompts,
                "positions": meta.positions,
                "counted": meta.counted,
                "cut": meta.cut,
                "pieces": meta.pieces,
            }));
        }
        let mut out = stdout();
        writeln!(out, "{}", paragraph(&said_of(&self.out, meta), 0))?;
        Ok(out.flush()?)
    }
}

/// What an index holds, and of which documents where these are not all.
pub(super) fn said_of(folder: &Path, meta: &Meta) -> String {
    let Meta { identity, prompts, positions, pieces, .. } = meta;
    let number = |n: usize| thousands(n as u64);
    let piece = |Piece { documents, .. }: &Piece| format!("{} to {}", number(documents.start), number(documents.end));
    let of_pieces = pieces.first().map_or_else(String::new, |first| {
        let documents: Vec<String> = pieces.iter().map(piece).collect();
        format!("; a piece of it, documents {} of {}", documents.join(", "), number(first.of))
    });
    let (prompts, positions) = (number(*prompts), thousands(*positions));
    format!("{}: {prompts} prompts, {positions} positions of {}{of_pieces}", folder.display(), identity.corpus.name)
}
