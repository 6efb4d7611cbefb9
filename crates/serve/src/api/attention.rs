//! Where heads look.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use directrix_corpus::{Prompts, Watch};
use directrix_model::{Ask, BlockHook, HookPoint, batches};
use directrix_study::{Figure, Series, Shape};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Json, Query};
use crate::Served;
use crate::error::{Answered, Failure, Refused};
use crate::work::Takes;
use crate::workbench::Workbench;

/// Prompts of the corpus that a mean is over, and the positions of one batch.
const PROMPTS: usize = 100;
const BATCH: usize = 1024;
/// Distances that a mean is told for.
const DISTANCES: usize = 64;

/// A head, and a text that it reads.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Looking {
    text: String,
    layer: usize,
    head: usize,
}

/// Where a head looks.
#[derive(Serialize, ToSchema)]
pub(crate) struct Pattern {
    /// A row for each position: its attention to that and those before.
    pattern: Vec<Vec<f32>>,
}

fn check(bench: &Workbench, layer: usize, head: usize) -> Answered<HookPoint> {
    let config = bench.opened.model.config();
    let (layers, heads) = (config.n_layers, config.attention.query_heads);
    if layer < layers && head < heads {
        return Ok(HookPoint::Block(layer, BlockHook::Pattern));
    }
    let said = format!(
        "there is no head L{layer}H{head}: the model has {layers} blocks of {heads} heads, both counted from 0"
    );
    Err(Refused::missing(said))
}

/// Where a head looks on a text.
#[utoipa::path(post, path = "/api/attention", request_body = Looking, responses((status = 200, body = Pattern), (status = 400, body = Failure)))]
pub(crate) async fn attention(State(served): State<Arc<Served>>, Json(wanted): Json<Looking>) -> Answered<Response> {
    let bench = served.bench.clone();
    let Looking { text, layer, head } = wanted;
    let key = format!("attention {layer} {head} {text}");
    let compute = move |watch: &Watch| {
        let hook = check(&bench, layer, head)?;
        let tokens = bench.tokens(&text)?;
        let ask = Ask::capture([hook]).watched(watch);
        let run = bench.opened.model.run(&Prompts::from_rows([&tokens]), &ask, &[])?;
        let n = tokens.len();
        let row = |(query, row): (usize, &[f32])| row[head * n..][..=query].to_vec();
        Ok(Pattern { pattern: run.captured(hook).iter_rows().enumerate().map(row).collect() })
    };
    served.work.answer(Takes::Moments, key, compute).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Head {
    layer: usize,
    head: usize,
}

/// Where a head looks on average: over the prompts' positions but the first, mean over prompts.
#[derive(Serialize, ToSchema)]
pub(crate) struct MeanPattern {
    prompts: usize,
    /// Share of attention to the first position.
    to_first: f64,
    to_self: f64,
    to_previous: f64,
    /// Share by distance: 0 is the position itself.
    by_distance: Vec<f64>,
    /// The same as a chart.
    #[schema(value_type = Object)]
    figure: serde_json::Value,
}

/// Where a head looks on average over prompts of the corpus.
#[utoipa::path(get, path = "/api/attention/mean", params(Head), responses((status = 200, body = MeanPattern), (status = 404, body = Failure)))]
pub(crate) async fn mean(
    State(served): State<Arc<Served>>,
    Query(Head { layer, head }): Query<Head>,
) -> Answered<Response> {
    let bench = served.bench.clone();
    let compute = move |watch: &Watch| {
        let hook = check(&bench, layer, head)?;
        let index = &bench.indexed()?.index;
        let prompts = Prompts::from_rows(index.spread(PROMPTS)?.into_iter().filter(|tokens| tokens.len() > 1));
        let (mut by_distance, mut to_first) = (vec![0.0_f64; DISTANCES], 0.0);
        for batch in batches(&prompts, BATCH) {
            let part = prompts.range(batch);
            let run = bench.opened.model.run(&part, &Ask::capture([hook]).watched(watch), &[])?;
            let pattern = run.captured(hook);
            let width = pattern.columns() / bench.opened.model.config().attention.query_heads;
            for bounds in part.offsets().windows(2) {
                let share = 1.0 / ((bounds[1] - bounds[0] - 1) as f64 * prompts.len() as f64);
                for query in 1..bounds[1] - bounds[0] {
                    let row = &pattern.row(bounds[0] + query)[head * width..][..=query];
                    to_first += share * f64::from(row[0]);
                    for (sum, weight) in by_distance.iter_mut().zip(row.iter().rev()) {
                        *sum += share * f64::from(*weight);
                    }
                }
            }
        }
        let figure = Figure {
            name: format!("attention-L{layer}H{head}"),
            title: format!("How far back L{layer}H{head} looks"),
            x: "positions back".into(),
            y: "share of attention".into(),
            caption: String::new(),
            shape: Shape::Lines {
                labels: (0..DISTANCES).map(|distance| distance.to_string()).collect(),
                series: vec![Series { name: "share".into(), values: by_distance.clone() }],
            },
            links: Vec::new(),
        };
        Ok(MeanPattern {
            prompts: prompts.len(),
            to_first,
            to_self: by_distance[0],
            to_previous: by_distance[1],
            by_distance,
            figure: figure.to_plotly(),
        })
    };
    served.work.answer(Takes::Long, format!("mean attention {layer} {head}"), compute).await
}
