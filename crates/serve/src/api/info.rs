//! What is served.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use directrix_circuits::ModelPart;
use directrix_kernels::Matrix;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Served;

/// What is served.
#[derive(Serialize, ToSchema)]
pub(crate) struct Info {
    version: &'static str,
    model: ModelInfo,
    saes: Vec<SaeInfo>,
    /// The index; null if none is served.
    index: Option<IndexInfo>,
    /// Parts of the model that can be made zero or their means.
    components: Vec<String>,
    /// Whether notes may be written.
    edit: bool,
    /// A text to begin with.
    example: String,
}

#[derive(Serialize, ToSchema)]
struct ModelInfo {
    name: String,
    layers: usize,
    heads: usize,
    d_model: usize,
    d_vocab: usize,
    n_ctx: usize,
    /// The token before every text, if any.
    bos: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct SaeInfo {
    name: String,
    /// The hook point it reads.
    reads: String,
    /// The hook point its reconstruction stands for.
    writes: String,
    layer: usize,
    directions: usize,
    d_in: usize,
    d_out: usize,
    architecture: &'static str,
    /// Mean number of active directions per position that counts.
    l0: Option<f64>,
    /// Directions that fire nowhere in the corpus.
    dead: Option<usize>,
    /// Whether it writes to the residual stream, so that a direction raises logits by its weights.
    logits: bool,
}

#[derive(Serialize, ToSchema)]
struct IndexInfo {
    corpus: String,
    prompts: usize,
    positions: u64,
    /// Positions that count.
    counted: u64,
    /// Which positions do not.
    left_out: String,
    /// Whether edges by attribution and causal effect are kept.
    edges: bool,
}

/// What is served: model, SAEs, index.
#[utoipa::path(get, path = "/api/info", responses((status = 200, body = Info)))]
pub(crate) async fn info(State(served): State<Arc<Served>>) -> Json<Info> {
    let bench = &served.bench;
    let (opened, config) = (&bench.opened, bench.opened.model.config());
    let index = bench.indexed.as_ref().map(|indexed| {
        let meta = indexed.index.meta();
        IndexInfo {
            corpus: meta.identity.corpus.name.clone(),
            prompts: meta.prompts,
            positions: meta.positions,
            counted: meta.counted,
            left_out: meta.identity.options.left_out(|token| format!("\"{}\"", opened.token(token))),
            edges: super::circuits::are_kept(bench),
        }
    });
    let sae = |(number, sae): (usize, &directrix_sae::Sae)| {
        let part = bench.part(number).ok();
        SaeInfo {
            name: sae.short_name().into(),
            reads: sae.site().reads.to_string(),
            writes: sae.site().writes.to_string(),
            layer: sae.site().reads.layer(),
            directions: sae.directions(),
            d_in: sae.d_in(),
            d_out: sae.d_out(),
            architecture: sae.architecture().name(),
            l0: part.map(directrix_index::SaeIndex::l0),
            dead: part.map(directrix_index::SaeIndex::dead),
            logits: sae.to_residual(&opened.model, &Matrix::zeros(1, sae.d_out())).is_ok(),
        }
    };
    Json(Info {
        version: env!("CARGO_PKG_VERSION"),
        model: ModelInfo {
            name: opened.wanted.model.clone(),
            layers: config.n_layers,
            heads: config.attention.query_heads,
            d_model: config.d_model,
            d_vocab: config.d_vocab,
            n_ctx: config.n_ctx,
            bos: opened.bos.map(|token| opened.token(token)),
        },
        saes: opened.saes.iter().enumerate().map(sae).collect(),
        index,
        components: ModelPart::all(config)
            .into_iter()
            .filter(|part| !matches!(part, ModelPart::Residual(_)))
            .map(|part| part.to_string())
            .collect(),
        edit: bench.notes.as_ref().is_some_and(|notes| notes.may_write),
        example: "Tim said, \"I like it.\"".into(),
    })
}
