//! `directrix export`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use directrix::corpus::durable::Lock;
use directrix::lab;
use directrix::study::export::write_activations;
use serde_json::json;

use super::direction::{choose_sae, tokenizer_of};
use super::directions::Directions;
use super::terminal::{self, stdout, thousands};
use super::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix export --to parquet
  directrix export --to parquet --sae sae-l0 --directions 0-99 --out out/sae-l0-parquet";

/// Write what an index holds in a form of other tools.
///
/// As Parquet: a row for each position and direction that fires there, with prompt, position, token, text, direction and activation; positions
/// that do not count are there, too.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Export {
    /// Form to write
    #[arg(long, value_name = "FORM", value_enum)]
    to: Form,
    /// Index, as made by `directrix index`
    #[arg(long, value_name = "FOLDER", default_value = "out/index")]
    index: PathBuf,
    /// SAE of the index, by its name or its number from 0 [default: the last]
    #[arg(long, value_name = "SAE")]
    sae: Option<String>,
    /// Directions to write, from 0: numbers and ranges, as 3,17,20-30 [default: all]
    #[arg(long, value_name = "N,N-N,...")]
    directions: Option<Directions>,
    /// Model folder whose tokenizer gives the tokens' text [default: the model of the index]
    #[arg(long, value_name = "FOLDER")]
    model: Option<String>,
    /// Folder to write to
    #[arg(long, value_name = "FOLDER", default_value = "out/export")]
    out: PathBuf,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// Every activation, as a row of activations.parquet
    Parquet,
}

impl Export {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let index = lab::open_index(&self.index)?;
        let sae = choose_sae(&index, self.sae.as_deref())?;
        let mut wanted = vec![self.directions.is_none(); sae.directions()];
        for direction in self.directions.iter().flat_map(Directions::each) {
            let (name, last) = (sae.name(), sae.directions() - 1);
            match wanted.get_mut(direction) {
                Some(wanted) => *wanted = true,
                None => bail!("{name} has directions 0 to {last}, so there is no direction {direction}"),
            }
        }
        let tokenizer = tokenizer_of(self.model.as_deref(), &index)?;
        let lock = Lock::take(&self.out)?;
        lock.clean(&self.out)?;
        let Form::Parquet = self.to;
        let file = self.out.join("activations.parquet");
        let rows = write_activations(&file, &index, sae, &wanted, tokenizer.as_ref(), &watch)?;
        drop(watch);
        let directions = wanted.iter().filter(|wanted| **wanted).count();
        if self.json {
            let sae = sae.name();
            return terminal::json(&json!({ "file": file, "sae": sae, "directions": directions, "rows": rows }));
        }
        let mut out = stdout();
        let (directions, rows) = (thousands(directions as u64), thousands(rows));
        writeln!(out, "{}: {rows} activations of {directions} directions of {}", file.display(), sae.name())?;
        Ok(out.flush()?)
    }
}
