//! `directrix convert`.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use directrix::corpus::durable::Lock;
use directrix::lab;
use directrix::model::{Folder, HookPoint, Processing, Tensors};
use directrix::sae::{Hook, Place, Sae, agree};
use serde_json::{Value, json};

use super::layout::paragraph;
use super::terminal::{self, note, stdout};
use super::watch::sources;

const EXAMPLES: &str = "\
Examples:
  directrix convert --sae saes/ae-layer-3 --to saelens --out saes/layer-3
  directrix convert --sae tinystories-2l/sae-l1 --to dictionary-learning --out ae";

/// Where SAELens keeps the logarithm of each direction's density.
const DENSITY: &str = "sparsity.safetensors";

/// Write an SAE in the form of another library.
///
/// Any SAE that can be read can be converted, as far as the other form can say what it does; what it cannot is an error. The
/// folder that was written is read again and compared with the SAE on random inputs.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Convert {
    /// SAE: a folder in any form that is read, or owner/name:folder on the hub
    #[arg(long, value_name = "SAE")]
    sae: String,
    /// Form to write
    #[arg(long, value_name = "FORM", value_enum)]
    to: Form,
    /// Folder to write the SAE to
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Hook point that the SAE reads, where its files do not say it
    #[arg(long, value_name = "HOOK")]
    reads: Option<HookPoint>,
    /// Hook point that a transcoder writes, where its files do not say it
    #[arg(long, value_name = "HOOK", requires = "reads")]
    writes: Option<HookPoint>,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// SAELens 6: cfg.json and sae_weights.safetensors
    Saelens,
    /// dictionary_learning: config.json and ae.pt
    DictionaryLearning,
}

impl Convert {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let lock = Lock::take(&self.out)?;
        lock.clean(&self.out)?;
        let folder = sources().sae_folder(&self.sae)?;
        let sae = match self.reads {
            Some(hook) => {
                let end = |hook| Hook { hook, head: None };
                Sae::load_at(&folder, Place { reads: end(hook), writes: end(self.writes.unwrap_or(hook)) })?
            }
            None => Sae::load(&folder)?,
        };
        match self.to {
            Form::Saelens => sae.save(&self.out, &metadata(&folder)?, density(&folder, &sae)?.as_deref())?,
            Form::DictionaryLearning => {
                // Its SAEs are of the weights of the checkpoint, and its files have no room to say anything else.
                for step in lab::other_weights(&sae, Processing::none()) {
                    note(&format!(
                        "{} was trained on weights processed by `{step}`, which dictionary_learning does not do: on its activations it is not the same",
                        sae.name()
                    ));
                }
                sae.save_dictionary_learning(&self.out, "")?;
            }
        }
        agree(&sae, &Sae::load(&Folder::open(&self.out)?)?)?;
        let (out, site) = (self.out.display().to_string(), sae.site());
        if self.json {
            return terminal::json(&json!({
                "sae": sae.name(),
                "out": out,
                "architecture": sae.architecture().name(),
                "directions": sae.directions(),
                "reads": site.reads.to_string(),
                "writes": site.writes.to_string(),
            }));
        }
        let (directions, reads) = (sae.directions(), &site.reads);
        let what = format!("{out}: {directions} directions at {reads}; does what {} does on random inputs", sae.name());
        Ok(writeln!(stdout(), "{}", paragraph(&what, 0).trim_end())?)
    }
}

/// What a SAELens folder says beside the SAE itself: model, data, how it was trained.
fn metadata(folder: &Folder) -> anyhow::Result<Value> {
    let Some(bytes) = folder.read_optional("cfg.json")? else { return Ok(Value::Null) };
    let mut metadata = serde_json::from_slice::<Value>(&bytes)?["metadata"].take();
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|key, _| !key.starts_with("hook_") && key != "sae_lens_version");
    }
    Ok(metadata)
}

/// The share of positions that each direction fires at, if the folder holds it.
fn density(folder: &Folder, sae: &Sae) -> anyhow::Result<Option<Vec<f64>>> {
    if folder.read_optional(DENSITY)?.is_none() {
        return Ok(None);
    }
    let logarithms = Tensors::open(folder, Some(DENSITY))?.get("sparsity", &[sae.directions()])?;
    Ok(Some(logarithms.into_iter().map(|log| (10_f64.powf(log as f64) - 1e-10).max(0.0)).collect()))
}
