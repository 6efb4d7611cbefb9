//! SAEDashboard's batch files, as its runner for Neuronpedia writes them.

use std::path::Path;

use directrix_corpus::Watch;
use directrix_corpus::durable;
use serde::Serialize;
use serde_json::json;

use super::dashboard::{BATCH, Dashboard, Dashboards, INTERVALS, OF_INTERVAL, Subject, TOP};
use super::to_json;
use crate::Result;

/// A `batch-N.json`.
#[derive(Serialize)]
struct Batch<'a> {
    model_id: &'a str,
    layer: usize,
    sae_set: &'a str,
    sae_id_suffix: Option<&'a str>,
    features: Vec<Dashboard<'a>>,
}

/// Writes the dashboards of those directions for which `wanted` is true (`[directions]`) to `folder`: `batch-N.json` of 128
/// directions each, `skipped_indexes.json` with the others, and `run_settings.json`. Gives the number of batches.
///
/// # Errors
/// If the index is damaged, the model cannot be run, a file cannot be written, or `watch` stopped it.
///
/// # Panics
/// If `wanted` is shorter than the SAE has directions.
pub fn write_saedashboard(folder: &Path, subject: &Subject, wanted: &[bool], watch: &Watch) -> Result<usize> {
    let texts = subject.texts();
    let dashboards = Dashboards::of(*subject, &texts, wanted, watch)?;
    write_settings(folder, subject, wanted, dashboards.longest())?;
    dashboards.each_batch(watch, |number, features| {
        let (model_id, sae_set) = (subject.model_id(), subject.fires.name());
        let batch = Batch { model_id, layer: subject.layer(), sae_set, sae_id_suffix: None, features };
        Ok(durable::write(&folder.join(format!("batch-{number}.json")), &to_json(&batch))?)
    })
}

/// Writes what SAEDashboard's runner writes beside its batches.
fn write_settings(folder: &Path, subject: &Subject, wanted: &[bool], longest: usize) -> Result<()> {
    let meta = subject.index.meta();
    let (model_id, layer, sae_set) = (subject.model_id(), subject.layer(), subject.fires.name());
    let skipped: Vec<usize> = (0..wanted.len()).filter(|direction| !wanted[*direction]).collect();
    let skipped = json!({
        "model_id": model_id,
        "layer": layer.to_string(),
        "sae_set": sae_set,
        "log_sparsity": null,
        "skipped_indexes": skipped,
    });
    durable::write(&folder.join("skipped_indexes.json"), &to_json(&skipped))?;
    let settings = json!({
        "sae_set": sae_set,
        "sae_path": subject.sae.name(),
        "np_set_name": sae_set,
        "np_sae_id_suffix": null,
        "huggingface_dataset_path": meta.identity.corpus.name,
        "n_prompts_total": meta.prompts,
        "n_tokens_in_prompt": longest,
        "n_features_at_a_time": BATCH,
        "n_quantiles": INTERVALS,
        "top_acts_group_size": TOP,
        "quantile_group_size": OF_INTERVAL,
        "use_dfa": false,
        "model_dtype": "float32",
        "sae_dtype": "float32",
        "model_id": model_id,
        "layer": layer,
        "prepend_bos": meta.identity.bos,
    });
    Ok(durable::write(&folder.join("run_settings.json"), &to_json(&settings))?)
}
