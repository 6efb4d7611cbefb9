//! What an index holds, in forms of other tools.

use std::path::Path;

use directrix_corpus::durable::Lock;
use directrix_study::export::{
    Export, Subject, write_activations, write_datasets, write_delphi, write_neuronpedia, write_saedashboard,
};
use pyo3::prelude::*;
use serde_json::json;

use crate::error::{Failure, Result};
use crate::index::Index;
use crate::model::Model;
use crate::sae::Sae;
use crate::watch::watched;

/// Writes activations of an SAE of an index to a folder, and says how many rows, activations or batches it wrote. All forms but `parquet` and
/// `delphi` need the model and the SAE; `datasets` is of rows of `context` positions.
#[pyfunction]
#[pyo3(signature = (index, sae, form, out, *, directions = None, context = None, of = None))]
pub(crate) fn export(
    py: Python,
    index: &Index,
    sae: usize,
    form: &str,
    out: &str,
    directions: Option<Vec<usize>>,
    context: Option<usize>,
    of: Option<(PyRef<Model>, PyRef<Sae>)>,
) -> Result<u64> {
    let (fires, index, tokenizer) = (index.sae(sae)?, &index.index, index.tokenizer());
    let mut wanted = vec![directions.is_none(); fires.directions()];
    for direction in directions.into_iter().flatten() {
        let there = wanted.len();
        match wanted.get_mut(direction) {
            Some(wanted) => *wanted = true,
            None => {
                return Err(Failure::argument(format!(
                    "there is no direction {direction}; {} has {there}",
                    fires.name()
                )));
            }
        }
    }
    let of = match of {
        None => None,
        Some((model, sae)) => {
            let fitting = sae.of(&model)?;
            if fitting.directions() != fires.directions() || fitting.site().reads.hook != fires.hook() {
                return Err(Failure::argument(format!(
                    "{} of the index is another SAE than {}",
                    fires.name(),
                    fitting.name()
                )));
            }
            Some((model.model.clone(), fitting))
        }
    };
    let needs = || Failure::argument(format!("`{form}` runs the model; give `of=(model, sae)`"));
    watched(py, |watch| {
        let out = Path::new(out);
        let lock = Lock::take(out)?;
        let about = json!({ "form": form, "sae": fires.name(), "index": index.meta().identity });
        let export = Export::begin(out, &about)?;
        let folder = export.path();
        let written = match form {
            "parquet" => {
                write_activations(&folder.join("activations.parquet"), index, fires, &wanted, tokenizer, watch)?
            }
            "delphi" => write_delphi(&folder.join("latents"), index, fires, &wanted, tokenizer, watch)?,
            "saedashboard" | "neuronpedia" => {
                let (model, sae) = of.as_ref().ok_or_else(needs)?;
                let subject = Subject { index, fires, sae, model, tokenizer };
                let write = if form == "neuronpedia" { write_neuronpedia } else { write_saedashboard };
                write(folder, &subject, &wanted, watch)? as u64
            }
            "datasets" => {
                let (model, sae) = of.as_ref().ok_or_else(needs)?;
                let longest = index.lengths().max().unwrap_or(0);
                let shortest = index.lengths().min().unwrap_or(0);
                let context = match context {
                    Some(context) if (1..=longest).contains(&context) => context,
                    None if shortest == longest && longest > 0 => longest,
                    _ => {
                        return Err(Failure::argument(format!(
                            "rows must be equally long, and the prompts of the index have {shortest} to {longest} tokens; say by `context` \
                             how long rows are to be"
                        )));
                    }
                };
                write_datasets(folder, index, model, sae, context, watch)?
            }
            _ => {
                let forms = "parquet, datasets, delphi, saedashboard, neuronpedia";
                return Err(Failure::argument(format!("`{form}` is not written; there are {forms}")));
            }
        };
        export.finish()?;
        drop(lock);
        Ok(written)
    })
}
