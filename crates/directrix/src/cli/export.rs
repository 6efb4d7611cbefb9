//! `directrix export`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use directrix::corpus::Watch;
use directrix::corpus::durable::Lock;
use directrix::index::{Identity, Index, SaeIndex};
use directrix::lab::{self, Opened, Steps, Wanted};
use directrix::study::export::{
    self, Subject, write_activations, write_datasets, write_delphi, write_neuronpedia, write_saedashboard,
};
use serde_json::json;

use super::direction::{choose_sae, tokenizer_of};
use super::directions::Directions;
use super::inputs::note_model;
use super::numbers::{MANY, whole};
use super::terminal::{self, stdout, thousands};
use super::watch::{sources, watch};

const EXAMPLES: &str = "\
Examples:
  directrix export --to parquet
  directrix export --to saedashboard --sae sae-l0 --directions 0-99
  directrix export --to neuronpedia --index out/index --out out/upload
  directrix export --to datasets --context 128";

/// Write what an index holds in a form of other tools.
///
/// docs/exports.md says what is in each form. Forms that show more than activations open the model and the SAE that the index is
/// of and run the model once over its prompts. An export takes the place of an earlier one in the same form, and of nothing else.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Export {
    /// Form to write
    #[arg(long, value_name = "FORM", value_enum)]
    to: Form,
    /// Index, as made by `directrix index`
    #[arg(long, value_name = "FOLDER", default_value = "out/index")]
    index: PathBuf,
    /// SAE of the index, by its name or its number from 0; by its folder where it was moved since [default: the last]
    #[arg(long, value_name = "SAE")]
    sae: Option<String>,
    /// Directions to write, from 0: numbers and ranges, as 3,17,20-30 [default: all]
    #[arg(long, value_name = "N,N-N,...")]
    directions: Option<Directions>,
    /// Model folder, where it was moved since; for forms that need no weights, any with its tokenizer [default: the model of
    /// the index]
    #[arg(long, value_name = "FOLDER")]
    model: Option<String>,
    /// Folder to write to [default: out/export/FORM]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Positions of a row of `datasets` [default: as long as the prompts, where all are equally long]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=MANY))]
    context: Option<usize>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// Every activation, as a row of activations.parquet
    Parquet,
    /// Dashboards, as SAEDashboard's batch-N.json
    Saedashboard,
    /// Dashboards, as Neuronpedia's files for bulk import
    Neuronpedia,
    /// Every activation, as the cache that delphi explains directions from
    Delphi,
    /// What the SAE reads, as the folder of cached activations that SAELens trains on
    Datasets,
}

/// How much was written, in words and for `--json`.
struct Written {
    file: PathBuf,
    number: u64,
    what: &'static str,
}

impl Export {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.to {
            Form::Datasets if self.directions.is_some() => {
                bail!("--to datasets writes what the SAE reads, which is of no direction; leave out --directions")
            }
            Form::Datasets => {}
            _ if self.context.is_some() => bail!("--context is of --to datasets alone"),
            _ => {}
        }
        let watch = watch();
        let index = lab::open_index(&self.index)?;
        let sae = choose_sae(&index, self.sae.as_deref())?;
        let wanted = self.wanted(sae.name(), sae.directions())?;
        let name = self.to.name();
        let out = self.out.clone().unwrap_or_else(|| PathBuf::from("out/export").join(&name));
        let lock = Lock::take(&out)?;
        let about = json!({ "form": name, "sae": sae.name(), "index": index.meta().identity });
        let export = export::Export::begin(&out, &about)?;
        let Written { file, number, what } = self.write(&export, &index, sae, &wanted, &watch)?;
        export.finish()?;
        drop((watch, lock));
        let (file, sae) = (out.join(file), sae.name());
        let directions = wanted.iter().filter(|wanted| **wanted).count();
        if self.json {
            let mut made = json!({ "form": name, "file": file, "sae": sae, "directions": directions });
            made[what] = number.into();
            return terminal::json(&made);
        }
        let mut out = stdout();
        let (directions, number) = (thousands(directions as u64), thousands(number));
        writeln!(out, "{}: {number} {what} of {directions} directions of {sae}", file.display())?;
        Ok(out.flush()?)
    }

    /// Which of an SAE's directions are wanted.
    fn wanted(&self, sae: &str, there: usize) -> anyhow::Result<Vec<bool>> {
        let mut wanted = vec![self.directions.is_none(); there];
        for direction in self.directions.iter().flat_map(Directions::each) {
            match wanted.get_mut(direction) {
                Some(wanted) => *wanted = true,
                None => bail!("{sae} has directions 0 to {}, so there is no direction {direction}", there - 1),
            }
        }
        Ok(wanted)
    }

    fn write(
        &self,
        export: &export::Export,
        index: &Index,
        sae: &SaeIndex,
        wanted: &[bool],
        watch: &Watch,
    ) -> anyhow::Result<Written> {
        let folder = export.path();
        match self.to {
            Form::Parquet => {
                let tokenizer = tokenizer_of(self.model.as_deref(), index)?;
                let file = PathBuf::from("activations.parquet");
                let number = write_activations(&folder.join(&file), index, sae, wanted, tokenizer.as_ref(), watch)?;
                Ok(Written { file, number, what: "activations" })
            }
            Form::Saedashboard | Form::Neuronpedia => {
                let opened = self.open(index, sae)?;
                let subject = Subject {
                    index,
                    fires: sae,
                    sae: &opened.saes[0],
                    model: &opened.model,
                    tokenizer: opened.tokenizer.as_ref(),
                };
                let write = if let Form::Neuronpedia = self.to { write_neuronpedia } else { write_saedashboard };
                let number = write(folder, &subject, wanted, watch)? as u64;
                Ok(Written { file: PathBuf::new(), number, what: "batches" })
            }
            Form::Delphi => {
                let tokenizer = tokenizer_of(self.model.as_deref(), index)?;
                let file = PathBuf::from("latents");
                let number = write_delphi(&folder.join(&file), index, sae, wanted, tokenizer.as_ref(), watch)?;
                Ok(Written { file, number, what: "activations" })
            }
            Form::Datasets => {
                let context = self.context(index)?;
                let opened = self.open(index, sae)?;
                let number = write_datasets(folder, index, &opened.model, &opened.saes[0], context, watch)?;
                Ok(Written { file: PathBuf::new(), number, what: "rows" })
            }
        }
    }

    /// Positions of a row: as asked for, or those of every prompt.
    fn context(&self, index: &Index) -> anyhow::Result<usize> {
        let (shortest, longest) = (index.lengths().min().unwrap_or(0), index.lengths().max().unwrap_or(0));
        match self.context {
            Some(context) if context > longest => {
                bail!("--context {context}: no prompt of the index is as long; the longest has {longest} tokens")
            }
            Some(context) => Ok(context),
            None if shortest == longest && longest > 0 => Ok(longest),
            None => bail!(
                "rows must be equally long, and the prompts of the index have {shortest} to {longest} tokens; say by --context how long rows are to be"
            ),
        }
    }

    /// The model and the SAE that the index is of.
    fn open(&self, index: &Index, sae: &SaeIndex) -> anyhow::Result<Opened> {
        let Identity { model, processing, saes, .. } = &index.meta().identity;
        let named = index.saes().iter().zip(saes).find(|(other, _)| other.name() == sae.name()).map(|(_, named)| named);
        let moved = self.sae.clone().filter(|given| given.contains(['/', '\\']));
        let saes = moved.or(named.map(|named| named.name.clone())).into_iter().collect();
        let model = self.model.clone().unwrap_or_else(|| model.name.clone());
        let wanted = Wanted { model, processing: Steps::from(*processing), saes, ..Wanted::default() };
        let opened = wanted.open_from(&sources())?;
        note_model(&opened);
        opened.existing_index(&self.index, [0])?;
        Ok(opened)
    }
}

impl Form {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
