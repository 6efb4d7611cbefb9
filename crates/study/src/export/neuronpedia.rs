//! Neuronpedia's files for bulk import.

use std::io::Write;
use std::path::Path;

use directrix_corpus::durable;
use directrix_corpus::{Watch, hexadecimal};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::dashboard::{Dashboard, Dashboards, Panels, Shown, Subject};
use super::to_json;
use crate::{Error, Result};

/// Whom Neuronpedia's own converter names where nobody is named.
const CREATOR: &str = "clkht01d40000jv08hvalcvly";
/// The same input gives the same bytes: rows carry no time of their making.
const CREATED: &str = "1970-01-01T00:00:00";

/// A row of its table of features.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Feature<'a> {
    model_id: &'a str,
    layer: &'a str,
    index: usize,
    creator_id: &'static str,
    created_at: &'static str,
    max_act_approx: f64,
    has_vector: bool,
    vector: [f64; 0],
    vector_label: Option<&'a str>,
    vector_default_steer_strength: f64,
    hook_name: &'a str,
    #[serde(rename = "topkCosSimIndices")]
    top_indices: [usize; 0],
    #[serde(rename = "topkCosSimValues")]
    top_values: [f64; 0],
    #[serde(flatten)]
    panels: &'a Panels<'a>,
    source_set_name: &'a str,
}

/// A row of its table of activations.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Activation<'a> {
    id: String,
    tokens: &'a [&'a str],
    index: usize,
    layer: &'a str,
    model_id: &'a str,
    max_value: f64,
    max_value_token_index: usize,
    min_value: f64,
    values: &'a [f64],
    creator_id: &'static str,
    data_source: Option<&'a str>,
    data_index: Option<&'a str>,
    dfa_values: [f64; 0],
    dfa_target_index: Option<usize>,
    dfa_max_value: Option<f64>,
    created_at: &'static str,
    loss_values: [f64; 0],
    logit_contributions: Option<&'a str>,
    bin_min: f64,
    bin_max: f64,
    bin_contains: f64,
    qualifying_token_index: usize,
}

/// What every row is of.
struct Source<'a> {
    model: &'a str,
    /// `LAYER-SET`.
    id: String,
    set: &'a str,
    hook: String,
    /// What the index is of, for ids that no other export has.
    identity: Vec<u8>,
}

/// Writes the dashboards of those directions for which `wanted` is true (`[directions]`) to `folder/MODEL/LAYER-SAE`:
/// `release.jsonl`, `model.jsonl`, `sourceset.jsonl`, `source.jsonl`, and by batches of 128 directions `features/batch-N.jsonl.gz`
/// and `activations/batch-N.jsonl.gz`. Gives the number of batches.
///
/// # Errors
/// If the index is damaged, the model cannot be run, a file cannot be written, or `watch` stopped it.
///
/// # Panics
/// If `wanted` is shorter than the SAE has directions.
pub fn write_neuronpedia(folder: &Path, subject: &Subject, wanted: &[bool], watch: &Watch) -> Result<usize> {
    let texts = subject.texts();
    let dashboards = Dashboards::of(*subject, &texts, wanted, watch)?;
    let source = Source {
        model: subject.model_id(),
        id: format!("{}-{}", subject.layer(), subject.fires.name()),
        set: subject.fires.name(),
        hook: subject.fires.hook().to_string(),
        identity: to_json(&subject.index.meta().identity),
    };
    let folder = folder.join(source.model).join(&source.id);
    for (name, row) in descriptions(subject, &source, dashboards.longest()) {
        durable::write(&folder.join(name), &lines([row]))?;
    }
    dashboards.each_batch(watch, |number, dashboards| {
        let activations = dashboards.iter().flat_map(|dashboard| source.activations(dashboard));
        for (name, lines) in [
            ("features", lines(dashboards.iter().map(|dashboard| source.feature(dashboard)))),
            ("activations", lines(activations)),
        ] {
            durable::write(&folder.join(name).join(format!("batch-{number}.jsonl.gz")), &zipped(&lines)?)?;
        }
        Ok(())
    })
}

impl Source<'_> {
    fn feature<'a>(&'a self, dashboard: &'a Dashboard) -> Feature<'a> {
        let maximum = dashboard.activations.iter().map(|shown| highest(shown).1).fold(0.0, f64::max);
        Feature {
            model_id: self.model,
            layer: &self.id,
            index: dashboard.feature_index,
            creator_id: CREATOR,
            created_at: CREATED,
            max_act_approx: maximum,
            has_vector: false,
            vector: [],
            vector_label: None,
            vector_default_steer_strength: maximum,
            hook_name: &self.hook,
            top_indices: [],
            top_values: [],
            panels: &dashboard.panels,
            source_set_name: self.set,
        }
    }

    fn activations<'a>(&'a self, dashboard: &'a Dashboard) -> impl Iterator<Item = Activation<'a>> {
        dashboard.activations.iter().enumerate().map(|(number, shown)| {
            let (max_value_token_index, max_value) = highest(shown);
            Activation {
                id: self.row_id(dashboard.feature_index, number),
                tokens: &shown.tokens,
                index: dashboard.feature_index,
                layer: &self.id,
                model_id: self.model,
                max_value,
                max_value_token_index,
                min_value: shown.values.iter().copied().fold(f64::INFINITY, f64::min),
                values: &shown.values,
                creator_id: CREATOR,
                data_source: None,
                data_index: None,
                dfa_values: [],
                dfa_target_index: None,
                dfa_max_value: None,
                created_at: CREATED,
                loss_values: [],
                logit_contributions: None,
                bin_min: shown.bin_min,
                bin_max: shown.bin_max,
                bin_contains: shown.bin_contains,
                qualifying_token_index: shown.qualifying_token_index,
            }
        })
    }

    /// `c` and 24 digits, of what the index is of and which of its examples this is.
    fn row_id(&self, direction: usize, number: usize) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.identity);
        hash.update(format!("{}/{direction}/{number}", self.id));
        format!("c{}", &hexadecimal(&hash.finalize())[..24])
    }
}

/// The first of the highest activations shown, and where it is.
fn highest(shown: &Shown) -> (usize, f64) {
    let values = shown.values.iter().copied().enumerate();
    values.reduce(|best, next| if next.1 > best.1 { next } else { best }).unwrap_or_default()
}

/// The rows of what the directions belong to, by file.
fn descriptions(subject: &Subject, source: &Source, longest: usize) -> [(&'static str, Value); 4] {
    let (meta, config) = (subject.index.meta(), subject.model.config());
    let release = json!({
        "name": source.set,
        "description": source.set,
        "creatorName": "",
        "creatorId": CREATOR,
        "visibility": "PUBLIC",
        "isNewUi": false,
        "featured": false,
        "descriptionShort": source.set,
        "urls": [],
        "creatorEmail": null,
        "creatorNameShort": "",
        "defaultSourceSetName": null,
        "defaultSourceId": null,
        "defaultUmapSourceIds": [],
        "createdAt": CREATED,
    });
    let model = json!({
        "id": source.model,
        "instruct": source.model.ends_with("-it"),
        "creatorId": CREATOR,
        "displayNameShort": source.model,
        "displayName": source.model,
        "tlensId": null,
        "dimension": config.d_model,
        "visibility": "PUBLIC",
        "defaultSourceSetName": null,
        "defaultSourceId": null,
        "inferenceEnabled": false,
        "layers": config.n_layers,
        "neuronsPerLayer": config.mlp.d_mlp,
        "createdAt": CREATED,
        "owner": "",
        "updatedAt": CREATED,
        "website": null,
    });
    let set = json!({
        "modelId": source.model,
        "name": source.set,
        "creatorId": CREATOR,
        "hasDashboards": true,
        "visibility": "PUBLIC",
        "description": source.set,
        "type": "",
        "creatorName": "",
        "urls": [],
        "creatorEmail": null,
        "releaseName": source.set,
        "defaultOfModelId": null,
        "defaultRange": 1,
        "defaultShowBreaks": true,
        "showDfa": false,
        "showCorrelated": false,
        "showHeadAttribution": false,
        "showUmap": false,
        "createdAt": CREATED,
    });
    let of = json!({
        "id": source.id,
        "modelId": source.model,
        "setName": source.set,
        "creatorId": CREATOR,
        "hasDashboards": true,
        "inferenceEnabled": false,
        "inferenceHosts": [],
        "saelensConfig": null,
        "saelensRelease": null,
        "saelensSaeId": null,
        "hfRepoId": null,
        "hfFolderId": null,
        "visibility": "PUBLIC",
        "defaultOfModelId": null,
        "hasUmap": false,
        "hasUmapLogSparsity": false,
        "hasUmapClusters": false,
        "num_prompts": meta.prompts,
        "num_tokens_in_prompt": longest,
        "dataset": meta.identity.corpus.name,
        "notes": null,
        "createdAt": CREATED,
    });
    [("release.jsonl", release), ("model.jsonl", model), ("sourceset.jsonl", set), ("source.jsonl", of)]
}

/// Rows as JSON, one on a line.
fn lines(rows: impl IntoIterator<Item = impl Serialize>) -> Vec<u8> {
    rows.into_iter().flat_map(|row| [to_json(&row), b"\n".to_vec()].concat()).collect()
}

fn zipped(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes).and_then(|()| gzip.finish()).map_err(|source| Error::Pack { source })
}
