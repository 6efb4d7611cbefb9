//! What directions fire on.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use directrix_circuits::{Change, Look, Trial, effects as effects_of, largest};
use directrix_corpus::{Prompts, Watch};
use directrix_index::{Example, SaeIndex, TokenCount};
use directrix_kernels::{Matrix, dot};
use futures::StreamExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{Json, Path, Query, Token};
use crate::Served;
use crate::error::{Answered, Failure, Refused};
use crate::work::{Takes, lock};
use crate::workbench::Workbench;

/// Examples of the strongest activations, and of each third of the range.
const STRONGEST: usize = 10;
const OF_THIRD: usize = 5;
/// Tokens around an example's strongest.
const BEFORE: usize = 40;
const AFTER: usize = 15;
const TOKENS: usize = 20;
const BOOSTS: usize = 12;
const NEIGHBOURS: usize = 10;
/// Positions of a direction at which its neighbours are looked for, spread evenly over all at which it fires.
const LOOKED_AT: usize = 20_000;
/// Prompts over which a loss increase is the mean: those in which the direction fires most strongly.
const EFFECT_PROMPTS: usize = 4;
/// Directions whose loss increases are asked for at a time.
const MOST_EFFECTS: usize = 4096;

/// All directions of an SAE, by column.
#[derive(Serialize, ToSchema)]
pub(crate) struct Directions {
    maximum: Vec<f32>,
    density: Vec<f64>,
    mean: Vec<f64>,
    /// Prompts in which each fires.
    prompts: Vec<u64>,
    /// The token it fires on most often, by its place in `tokens`.
    top_token: Vec<Option<usize>>,
    /// The share of that token among strong activations.
    share: Vec<f64>,
    tokens: Vec<String>,
    /// How much the loss rises when it is ablated, nats, where that was measured.
    effect: Vec<Option<f64>>,
}

/// All directions of an SAE, by column.
#[utoipa::path(get, path = "/api/saes/{sae}/directions", params(("sae" = usize, Path)), responses((status = 200, body = Directions), (status = 404, body = Failure)))]
pub(crate) async fn directions(State(served): State<Arc<Served>>, Path(sae): Path<usize>) -> Answered<Response> {
    let bench = served.bench.clone();
    let compute = move |_: &Watch| {
        let (part, tops) = (bench.part(sae)?, bench.tops(sae)?);
        let all: Vec<_> = (0..part.directions()).map(|direction| part.direction(direction)).collect();
        let (mut places, mut tokens) = (HashMap::new(), Vec::new());
        let mut top_token = Vec::new();
        for top in tops {
            top_token.push(top.map(|(token, _)| {
                *places.entry(token).or_insert_with(|| {
                    tokens.push(bench.opened.token(token));
                    tokens.len() - 1
                })
            }));
        }
        let effects = lock(&bench.effects);
        Ok(Directions {
            maximum: all.iter().map(|of| of.maximum).collect(),
            density: all.iter().map(|of| of.density).collect(),
            mean: all.iter().map(|of| of.mean).collect(),
            prompts: all.iter().map(|of| of.prompts).collect(),
            top_token,
            share: tops.iter().map(|top| top.map_or(0.0, |(_, share)| share)).collect(),
            tokens,
            effect: (0..all.len()).map(|direction| effects.get(&(sae, direction)).map(|(mean, _)| *mean)).collect(),
        })
    };
    served.work.answer(Takes::Moments, format!("directions {sae}"), compute).await
}

/// What is known of a direction.
#[derive(Serialize, ToSchema)]
pub(crate) struct Panel {
    sae: usize,
    direction: usize,
    maximum: f32,
    density: f64,
    /// Mean activation where it fires.
    mean: f64,
    /// Positions that count at which it fires.
    active: u64,
    prompts: u64,
    /// Highest activation at the first position of a prompt.
    at_first: f32,
    /// Counts of activations in twenty equal parts of 0 to the maximum.
    histogram: Vec<u64>,
    /// The tokens it fires on most often when strong.
    tokens: Vec<Counted>,
    /// Tokens whose logits a unit of its activation raises most, by its weights, and lowers most.
    raised: Vec<Boost>,
    lowered: Vec<Boost>,
    examples: Vec<Shown>,
    /// How many directions are denser.
    density_rank: usize,
}

#[derive(Serialize, ToSchema)]
struct Counted {
    #[serde(flatten)]
    token: Token,
    count: u64,
    share: f64,
}

#[derive(Serialize, ToSchema)]
struct Boost {
    #[serde(flatten)]
    token: Token,
    value: f64,
}

/// A prompt around a position.
#[derive(Serialize, ToSchema)]
pub(crate) struct Shown {
    /// 0 for the strongest, 1 to 3 for those of the upper, middle and lower third of the range.
    kind: usize,
    prompt: usize,
    /// The position of its highest activation.
    position: usize,
    activation: f32,
    /// The position of the first text.
    start: usize,
    /// Positions of the whole prompt.
    length: usize,
    texts: Vec<String>,
    /// The activation at each.
    values: Vec<f32>,
}

/// What is known of a direction: what it fires on, how, and what it raises.
#[utoipa::path(get, path = "/api/saes/{sae}/directions/{direction}", params(("sae" = usize, Path), ("direction" = usize, Path)), responses((status = 200, body = Panel), (status = 404, body = Failure)))]
pub(crate) async fn direction(
    State(served): State<Arc<Served>>,
    Path((sae, direction)): Path<(usize, usize)>,
) -> Answered<Response> {
    let bench = served.bench.clone();
    let compute = move |_: &Watch| panel(&bench, sae, direction);
    served.work.answer(Takes::Moments, format!("direction {sae} {direction}"), compute).await
}

fn panel(bench: &Workbench, sae: usize, direction: usize) -> Answered<Panel> {
    let of = bench.direction(sae, direction)?;
    let part = bench.part(sae)?;
    let facts = part.direction(direction);
    let counts = part.token_counts(direction)?;
    let all: u64 = counts.iter().map(|of| of.count).sum();
    let token = |id: u32| Token { id, text: bench.opened.token(id) };
    let (mut raised, mut lowered) = (Vec::new(), Vec::new());
    // What is written elsewhere than to the residual stream raises no logits of its own.
    if let Ok(written) = of.to_residual(&bench.opened.model, &of.w_dec().gather([direction].into_iter())) {
        let (tokens, read) = bench.common()?;
        let mut boosts = Matrix::zeros(1, tokens.len());
        directrix_kernels::product(written.view(), read.view(), &mut boosts, false);
        for (sign, ends) in [(1.0, &mut raised), (-1.0, &mut lowered)] {
            let most = largest(boosts.row(0).iter().map(|boost| sign * f64::from(*boost)), BOOSTS).into_iter();
            let most = most.filter(|(_, value)| *value > 0.0);
            ends.extend(most.map(|(at, value)| Boost { token: token(tokens[at] as u32), value: sign * value }));
        }
    }
    let denser = (0..part.directions()).filter(|other| part.direction(*other).active > facts.active).count();
    Ok(Panel {
        sae,
        direction,
        maximum: facts.maximum,
        density: facts.density,
        mean: facts.mean,
        active: facts.active,
        prompts: facts.prompts,
        at_first: part.at_first(direction),
        histogram: part.histogram(direction).to_vec(),
        tokens: counts
            .iter()
            .take(TOKENS)
            .map(|&TokenCount { token: id, count }| Counted {
                token: token(id),
                count,
                share: count as f64 / all.max(1) as f64,
            })
            .collect(),
        raised,
        lowered,
        examples: examples(bench, part, direction)?,
        density_rank: denser,
    })
}

/// The strongest examples, and some of each third that are not among those before.
fn examples(bench: &Workbench, part: &SaeIndex, direction: usize) -> Answered<Vec<Shown>> {
    let mut chosen: Vec<(usize, Example)> =
        part.top_examples(direction, STRONGEST)?.into_iter().map(|example| (0, example)).collect();
    let mut known: BTreeSet<usize> = chosen.iter().map(|(_, example)| example.prompt).collect();
    for (kind, third) in [(1, 2.0), (2, 1.0), (3, 0.0)] {
        for example in part.interval_examples(direction, third / 3.0, (third + 1.0) / 3.0, OF_THIRD)? {
            if known.insert(example.prompt) {
                chosen.push((kind, example));
            }
        }
    }
    let shown = |(kind, Example { prompt, position, activation }): (usize, Example)| {
        let (tokens, values) = (bench.indexed()?.index.prompt(prompt)?, part.on_prompt(prompt, direction)?);
        let start = position.saturating_sub(BEFORE);
        let end = (position + AFTER + 1).min(tokens.len());
        let texts = bench.texts(&tokens[start..end]);
        Ok(Shown {
            kind,
            prompt,
            position,
            activation,
            start,
            length: tokens.len(),
            texts,
            values: values[start..end].to_vec(),
        })
    };
    chosen.into_iter().map(shown).collect()
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Of {
    /// The SAE and direction whose activations are wanted.
    sae: usize,
    direction: usize,
}

/// A whole prompt.
#[derive(Serialize, ToSchema)]
pub(crate) struct WholePrompt {
    texts: Vec<String>,
    values: Vec<f32>,
}

/// A whole prompt of the corpus, with a direction's activations.
#[utoipa::path(get, path = "/api/prompts/{prompt}", params(("prompt" = usize, Path), Of), responses((status = 200, body = WholePrompt), (status = 404, body = Failure)))]
pub(crate) async fn prompt(
    State(served): State<Arc<Served>>,
    Path(prompt): Path<usize>,
    Query(of): Query<Of>,
) -> Answered<Response> {
    let bench = served.bench.clone();
    let key = format!("prompt {prompt} {} {}", of.sae, of.direction);
    let compute = move |_: &Watch| {
        bench.direction(of.sae, of.direction)?;
        let values = bench.part(of.sae)?.on_prompt(prompt, of.direction)?;
        Ok(WholePrompt { texts: bench.texts(bench.indexed()?.index.prompt(prompt)?), values })
    };
    served.work.answer(Takes::Moments, key, compute).await
}

/// Directions of the same SAE that are like one.
#[derive(Serialize, ToSchema)]
pub(crate) struct Neighbours {
    /// By cosine of encoder rows.
    encoder: Vec<Neighbour>,
    /// By cosine of decoder rows.
    decoder: Vec<Neighbour>,
    /// By correlation of firing (phi coefficient) over the positions that count.
    coactivation: Vec<Neighbour>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Neighbour {
    sae: usize,
    direction: usize,
    value: f64,
    /// Positions at which both fire.
    n: Option<u64>,
    top_token: Option<String>,
}

/// Directions of the same SAE that are like one: by encoder, by decoder, by firing together.
#[utoipa::path(get, path = "/api/saes/{sae}/directions/{direction}/neighbours", params(("sae" = usize, Path), ("direction" = usize, Path)), responses((status = 200, body = Neighbours), (status = 404, body = Failure)))]
pub(crate) async fn neighbours(
    State(served): State<Arc<Served>>,
    Path((sae, direction)): Path<(usize, usize)>,
) -> Answered<Response> {
    let bench = served.bench.clone();
    let compute = move |_: &Watch| {
        bench.direction(sae, direction)?;
        let alike = |rows: &Matrix| {
            let row = rows.row(direction);
            let of = |other: usize| if other == direction { f64::NAN } else { dot(rows.row(other), row) };
            let cosines: Vec<f64> = (0..rows.rows()).into_par_iter().map(of).collect();
            largest(cosines.into_iter(), NEIGHBOURS)
        };
        let named = |(direction, value): (usize, f64), n| Neighbour {
            sae,
            direction,
            value,
            n,
            top_token: bench.top_token(sae, direction),
        };
        let plain = |found: Vec<(usize, f64)>| found.into_iter().map(|of| named(of, None)).collect();
        let together = match bench.part(sae) {
            Ok(part) => firing_together(part, direction)?,
            Err(_) => Vec::new(),
        };
        Ok(Neighbours {
            encoder: plain(alike(bench.rows(sae, true)?)),
            decoder: plain(alike(bench.rows(sae, false)?)),
            coactivation: together.into_iter().map(|(of, value, n)| named((of, value), Some(n))).collect(),
        })
    };
    served.work.answer(Takes::Moments, format!("neighbours {sae} {direction}"), compute).await
}

/// Directions whose firing goes along with that of one: direction, phi coefficient, positions of both.
fn firing_together(part: &SaeIndex, direction: usize) -> Answered<Vec<(usize, f64, u64)>> {
    let fires = part.fires(direction)?;
    let looked_at = fires.len().min(LOOKED_AT);
    let mut both = vec![0_u64; part.directions()];
    for i in 0..looked_at {
        let Example { prompt, position, .. } = fires[i * fires.len() / looked_at];
        part.at(prompt, position)?.0.iter().for_each(|other| both[*other as usize] += 1);
    }
    let facts = part.direction(direction);
    let all = facts.active as f64 / facts.density;
    let scale = facts.active as f64 / looked_at.max(1) as f64;
    let phi = |other: usize| {
        let (one, two) = (facts.active as f64, part.direction(other).active as f64);
        let n = both[other] as f64 * scale;
        if other == direction || both[other] == 0 {
            return f64::NAN;
        }
        (n * all - one * two) / (one * two * (all - one) * (all - two)).sqrt()
    };
    let found = largest((0..both.len()).map(phi), NEIGHBOURS);
    Ok(found.into_iter().map(|(other, phi)| (other, phi, (both[other] as f64 * scale).round() as u64)).collect())
}

/// Directions whose loss increases are wanted.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Effects {
    directions: Vec<usize>,
}

/// How much the loss rises when a direction is ablated everywhere, mean over the prompts in which it fires most strongly: a line of JSON
/// for each, as it is measured.
#[utoipa::path(post, path = "/api/saes/{sae}/effects", params(("sae" = usize, Path)), request_body = Effects, responses((status = 200, content_type = "application/x-ndjson", description = "lines of {direction, effect, n}; {done: true} at the end"), (status = 404, body = Failure)))]
pub(crate) async fn effects(
    State(served): State<Arc<Served>>,
    Path(sae): Path<usize>,
    Json(Effects { directions }): Json<Effects>,
) -> Answered<Response> {
    served.bench.part(sae)?;
    if directions.len() > MOST_EFFECTS {
        return Err(Refused::bad(format!("ask for up to {MOST_EFFECTS} directions at a time")));
    }
    for direction in &directions {
        served.bench.direction(sae, *direction)?;
    }
    let lines = futures::stream::iter(directions).then(move |direction| {
        let (bench, served) = (served.bench.clone(), served.clone());
        async move {
            let known = lock(&bench.effects).get(&(sae, direction)).copied();
            let found = match known {
                Some(known) => Ok(known),
                None => served.work.run(Takes::Long, move |watch| effect(&bench, sae, direction, watch)).await,
            };
            match found {
                Ok((effect, n)) => json!({ "direction": direction, "effect": effect, "n": n }),
                Err(refused) => json!({ "direction": direction, "error": refused.sentence }),
            }
        }
    });
    Ok(ndjson(lines))
}

/// Lines of JSON as they come, and one that says that there are no more.
pub(crate) fn ndjson(lines: impl futures::Stream<Item = serde_json::Value> + Send + 'static) -> Response {
    let lines = lines.chain(futures::stream::iter([json!({ "done": true })]));
    let body = Body::from_stream(lines.map(|line| Ok::<_, std::convert::Infallible>(format!("{line}\n"))));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn effect(bench: &Workbench, sae: usize, direction: usize, watch: &Watch) -> Answered<(f64, usize)> {
    let (of, index) = (bench.sae(sae)?, &bench.indexed()?.index);
    let examples = bench.part(sae)?.top_examples(direction, EFFECT_PROMPTS)?;
    let prompts = examples.iter().map(|example| index.prompt(example.prompt)).collect::<Result<Vec<_>, _>>()?;
    let prompts = Prompts::from_rows(prompts.into_iter().filter(|tokens| tokens.len() > 1));
    let trial = |prompt: usize| Trial {
        prompt,
        sae: of,
        positions: 0..prompts.get(prompt).len(),
        change: Change::Ablate(vec![direction as u32]),
        look: Look::MeanLoss,
    };
    let trials: Vec<Trial> = (0..prompts.len()).map(trial).collect();
    let mut sum = 0.0;
    for effect in effects_of(&bench.opened.model, &prompts, &trials, watch)? {
        sum += effect.loss_increase()?;
    }
    let found = (sum / trials.len().max(1) as f64, trials.len());
    lock(&bench.effects).insert((sae, direction), found);
    Ok(found)
}
