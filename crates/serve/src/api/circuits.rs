//! Which directions influence which, and the graph of a prompt.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use directrix_circuits::edges::{Between, Edge, Gradient, Measure, Ranked, Sample, Verify, Way, check_path};
use directrix_circuits::graph::{GraphOptions, Replacement};
use directrix_circuits::{Inactive, attribution_to_direction, largest};
use directrix_corpus::{Prompts, Watch};
use directrix_study::GraphStory;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Json, Part, Path, Query};
use crate::Served;
use crate::error::{Answered, Failure, Refused};
use crate::work::Takes;
use crate::workbench::Workbench;

/// Edges of one answer, of all other SAEs together.
const EDGES: usize = 24;
/// Directions whose effect is measured because another measure ranks them highest.
const TRIED: usize = 24;
const LONGEST: usize = 255;

/// Which edges of a direction are wanted.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// `up` for the directions that influence it, `down` for those that it influences.
    way: WayTo,
    measure: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum WayTo {
    Up,
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum By {
    Cosine,
    Weight,
    Attribution,
    Causal,
}

/// Edges of a direction.
#[derive(Serialize, ToSchema)]
pub(crate) struct EdgeList {
    /// What their values are.
    about: String,
    /// Where they were measured for this answer: how to have them kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<String>,
    edges: Vec<Linked>,
}

/// A direction at the other end of an edge.
#[derive(Serialize, ToSchema)]
struct Linked {
    sae: usize,
    direction: usize,
    value: f64,
    /// Prompts that the value is a mean over.
    n: Option<usize>,
    top_token: Option<String>,
}

/// The strongest edges of a direction by one measure, from or to the directions of all other SAEs.
#[utoipa::path(get, path = "/api/saes/{sae}/directions/{direction}/edges", params(("sae" = usize, Path), ("direction" = usize, Path), ("way" = WayTo, Query), ("measure" = By, Query)), responses((status = 200, body = EdgeList), (status = 404, body = Failure)))]
pub(crate) async fn edges(
    State(served): State<Arc<Served>>,
    Path((sae, direction)): Path<(usize, usize)>,
    Query(wanted): Query<Wanted>,
) -> Answered<Response> {
    let bench = served.bench.clone();
    let (key, takes) = (format!("edges {sae} {direction} {wanted:?}"), takes(&bench, sae, wanted.measure)?);
    let compute = move |watch: &Watch| {
        bench.direction(sae, direction)?;
        let (mut found, mut measured) = (Vec::new(), None);
        for [first, second] in pairs(&bench, sae, wanted.way)? {
            let other = if wanted.way == WayTo::Up { first } else { second };
            let way = if wanted.way == WayTo::Up { Way::Up } else { Way::Down };
            let of_weights_alone = matches!(wanted.measure, By::Cosine | By::Weight);
            let kept = match &bench.indexed {
                None if of_weights_alone => Err(String::new()),
                _ => bench.kept(first, second, wanted.measure.measure())?,
            };
            let of = match kept {
                Ok(kept) => kept.edges(way, direction)?,
                Err(_) if of_weights_alone => of_weights(&bench, [first, second], direction, wanted)?,
                Err(said) => {
                    measured = Some(said);
                    of_model(&bench, [first, second], direction, wanted, watch)?
                }
            };
            found.extend(of.into_iter().map(|(direction, value, n)| (other, direction, value, n)));
        }
        let strongest = largest(found.iter().map(|(_, _, value, _)| value.abs()), EDGES);
        let linked = strongest.into_iter().map(|(at, _)| {
            let (sae, direction, value, n) = found[at];
            Linked { sae, direction, value, n, top_token: bench.top_token(sae, direction) }
        });
        let edges = linked.collect();
        Ok(EdgeList { about: about(wanted, measured.is_some()), measured, edges })
    };
    served.work.answer(takes, key, compute).await
}

/// Whether all edges that need the model are kept.
pub(super) fn are_kept(bench: &Workbench) -> bool {
    (0..bench.opened.saes.len()).all(|sae| takes(bench, sae, By::Causal).ok() == Some(Takes::Moments))
}

/// What is kept is read in a moment.
fn takes(bench: &Workbench, sae: usize, measure: By) -> Answered<Takes> {
    if matches!(measure, By::Cosine | By::Weight) {
        return Ok(Takes::Moments);
    }
    for way in [WayTo::Up, WayTo::Down] {
        for [first, second] in pairs(bench, sae, way)? {
            if bench.kept(first, second, measure.measure())?.is_err() {
                return Ok(Takes::Long);
            }
        }
    }
    Ok(Takes::Moments)
}

/// Those pairs of SAEs between which a direction of this one has edges; of an SAE that lies the other way, or beside it, there is none.
fn pairs(bench: &Workbench, sae: usize, way: WayTo) -> Answered<Vec<[usize; 2]>> {
    let of = bench.sae(sae)?;
    let mut found = Vec::new();
    for (number, other) in bench.opened.saes.iter().enumerate() {
        let (pair, ends) = if way == WayTo::Up { ([number, sae], [other, of]) } else { ([sae, number], [of, other]) };
        if number != sae && check_path(&bench.opened.model, ends[0], ends[1]).is_ok() {
            found.push(pair);
        }
    }
    Ok(found)
}

impl By {
    fn measure(self) -> Measure {
        match self {
            By::Cosine => Measure::Cosine,
            By::Weight => Measure::VirtualWeight,
            By::Attribution => Measure::Attribution,
            By::Causal => Measure::Causal,
        }
    }
}

fn about(wanted: Wanted, measured: bool) -> String {
    let of = match (wanted.way, wanted.measure) {
        (WayTo::Up, By::Causal) if measured => {
            format!("; of the {TRIED} directions with the largest attribution")
        }
        (WayTo::Down, By::Attribution) if measured => {
            format!("; of the {TRIED} directions with the largest causal effect")
        }
        _ => String::new(),
    };
    wanted.measure.measure().sentence().to_owned() + &of
}

type Found = Vec<(usize, f64, Option<usize>)>;

/// Edges that weights alone tell of.
fn of_weights(bench: &Workbench, [first, second]: [usize; 2], direction: usize, wanted: Wanted) -> Answered<Found> {
    let weights = bench.weights(first, second, wanted.measure.measure())?;
    let values = if wanted.way == WayTo::Up { weights.edges_to(direction) } else { weights.edges_from(direction) };
    let strongest = largest(values.iter().map(|value| value.abs()), EDGES);
    Ok(strongest.into_iter().map(|(other, _)| (other, values[other], None)).collect())
}

/// Edges that are measured now.
fn of_model(
    bench: &Workbench,
    [first, second]: [usize; 2],
    direction: usize,
    wanted: Wanted,
    watch: &Watch,
) -> Answered<Found> {
    let is_up = wanted.way == WayTo::Up;
    let (between, sample) = (between(bench, [first, second])?, Sample::default());
    let mut seen: Vec<Ranked> = Vec::new();
    let strongest = |seen: &[Ranked]| -> Vec<Ranked> {
        largest(seen.iter().map(|ranked| ranked.value.abs()), TRIED).into_iter().map(|(at, _)| seen[at]).collect()
    };
    if is_up {
        between.attribution_to(Gradient::Whole, &[direction], sample, watch, |ranked| seen.push(ranked))?;
    } else {
        between.causal_from(&[direction], sample, watch, |ranked| seen.push(ranked))?;
    }
    let first_try = strongest(&seen);
    // The other measure is asked for those alone that the first one ranks highest.
    let is_other = is_up == (wanted.measure == By::Causal);
    if is_other {
        let tried: Vec<usize> =
            first_try.iter().map(|ranked| if is_up { ranked.edge.first } else { ranked.edge.second }).collect();
        seen.clear();
        let ours =
            |ranked: &Ranked| if is_up { ranked.edge.second == direction } else { ranked.edge.first == direction };
        let keep = |ranked: Ranked| {
            if ours(&ranked) {
                seen.push(ranked);
            }
        };
        if is_up {
            between.causal_from(&tried, sample, watch, keep)?;
        } else {
            between.attribution_to(Gradient::Whole, &tried, sample, watch, keep)?;
        }
    }
    let other = |edge: Edge| if is_up { edge.first } else { edge.second };
    Ok(strongest(&seen).into_iter().map(|ranked| (other(ranked.edge), ranked.value, ranked.n)).collect())
}

fn between(bench: &Workbench, [first, second]: [usize; 2]) -> Answered<Between<'_>> {
    let index = &bench.indexed()?.index;
    let saes = [bench.sae(first)?, bench.sae(second)?];
    Ok(Between::new(&bench.opened.model, saes, index, [bench.part(first)?, bench.part(second)?])?)
}

/// An edge: its ends as numbers of SAE and direction.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Ends {
    from: [usize; 2],
    to: [usize; 2],
}

/// What ablating the one end does to the other.
#[derive(Serialize, ToSchema)]
pub(crate) struct Checked {
    sentence: String,
    /// Whether the effect is told from chance and from both controls.
    verified: bool,
    /// Prompts.
    n: usize,
    /// Change of the activation of the other end, summed over a prompt: mean over prompts.
    effect: f64,
    /// Its 95 % interval.
    low: f64,
    high: f64,
    p: f64,
    controls: Vec<CheckedControl>,
}

#[derive(Serialize, ToSchema)]
struct CheckedControl {
    name: &'static str,
    effect: f64,
    low: f64,
    high: f64,
}

/// What ablating one direction does to another, beside controls.
#[utoipa::path(post, path = "/api/edges/check", request_body = Ends, responses((status = 200, body = Checked), (status = 400, body = Failure)))]
pub(crate) async fn check(State(served): State<Arc<Served>>, Json(wanted): Json<Ends>) -> Answered<Response> {
    let bench = served.bench.clone();
    let key = format!("check {wanted:?}");
    let compute = move |watch: &Watch| {
        let Ends { from: [first, one], to: [second, other] } = wanted;
        bench.direction(first, one)?;
        bench.direction(second, other)?;
        let edge = Edge { first: one, second: other };
        let ranked = Ranked { edge, measure: Measure::Causal, value: f64::NAN, n: None, half_width: None };
        let verified = between(&bench, [first, second])?.verify(&[ranked], Verify::default(), watch)?;
        let found = verified.first().filter(|found| found.prompts > 0);
        let [one, other] = [(first, one), (second, other)]
            .map(|(sae, direction)| format!("{direction} of {}", bench.opened.saes[sae].short_name()));
        let Some(found) = found else {
            let said = format!(
                "{one} and {other} fire together, the first no later, in none of the prompts with an odd number: there is nothing to measure"
            );
            return Err(Refused::missing(said));
        };
        let holds = if found.verified {
            "more than chance and both controls would"
        } else {
            "which is not told from chance or the controls"
        };
        Ok(Checked {
            sentence: format!(
                "Ablating {one} changes the activation of {other} by {:+.3} (95 % interval {:.3} to {:.3}) of {:.3} in all, mean over {} prompts, {holds} (p = {}).",
                found.change,
                found.low,
                found.high,
                found.activation,
                found.prompts,
                short(found.p)
            ),
            verified: found.verified,
            n: found.prompts,
            effect: found.change,
            low: found.low,
            high: found.high,
            p: found.p,
            controls: vec![
                CheckedControl {
                    name: "along random rows",
                    effect: found.random_rows,
                    low: found.random_rows_low,
                    high: found.random_rows_high,
                },
                CheckedControl {
                    name: "random directions of matched density",
                    effect: found.random_directions,
                    low: found.random_directions_low,
                    high: found.random_directions_high,
                },
            ],
        })
    };
    served.work.answer(Takes::Long, key, compute).await
}

/// Two significant digits.
fn short(p: f64) -> String {
    if p < 1e-3 { format!("{p:.1e}") } else { format!("{p:.3}") }
}

/// Where a direction fires.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Spot {
    prompt: usize,
    position: usize,
}

/// Who drives a direction.
#[derive(Serialize, ToSchema)]
pub(crate) struct Driven {
    about: &'static str,
    activation: f32,
    components: Vec<Part>,
}

/// Direct feature attribution: what each component adds to a direction's pre-activation at a position.
#[utoipa::path(get, path = "/api/saes/{sae}/directions/{direction}/attribution", params(("sae" = usize, Path), ("direction" = usize, Path), Spot), responses((status = 200, body = Driven), (status = 404, body = Failure)))]
pub(crate) async fn attribution(
    State(served): State<Arc<Served>>,
    Path((sae, direction)): Path<(usize, usize)>,
    Query(spot): Query<Spot>,
) -> Answered<Response> {
    let bench = served.bench.clone();
    let key = format!("dfa {sae} {direction} {spot:?}");
    let compute = move |watch: &Watch| {
        let of = bench.direction(sae, direction)?;
        let tokens = bench.indexed()?.index.prompt(spot.prompt)?;
        super::prompt::check_position(spot.position, tokens.len())?;
        let activation = bench.part(sae)?.on_prompt(spot.prompt, direction)?[spot.position];
        let prompts = Prompts::from_rows([tokens]);
        let model = &bench.opened.model;
        let found =
            attribution_to_direction(model, of, direction as u32, &prompts, &[spot.position], Inactive::Zero, watch)?;
        Ok(Driven {
            about: "What each component adds to the direction's pre-activation, through the neurons that are active there; biases of neurons and encoder are not among it.",
            activation,
            components: found.into_iter().map(|of| Part { label: of.component, value: of.mean }).collect(),
        })
    };
    served.work.answer(Takes::Moments, key, compute).await
}

/// A text whose prediction is to be told by directions.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Told {
    text: String,
    /// The token that is predicted after it; the last of the text by default.
    #[serde(default)]
    answer: Option<String>,
}

/// The attribution graph of a prompt.
#[derive(Serialize, ToSchema)]
pub(crate) struct PromptGraph {
    title: String,
    caption: String,
    /// SVG; every text in it is escaped.
    drawing: String,
    #[schema(value_type = Object)]
    data: serde_json::Value,
    notes: Vec<String>,
    /// As circuit-tracer writes it.
    #[schema(value_type = Object)]
    json: serde_json::Value,
}

/// The attribution graph of a prompt, from its tokens through directions to the answer.
#[utoipa::path(post, path = "/api/graph", request_body = Told, responses((status = 200, body = PromptGraph), (status = 400, body = Failure)))]
pub(crate) async fn graph(State(served): State<Arc<Served>>, Json(wanted): Json<Told>) -> Answered<Response> {
    let bench = served.bench.clone();
    let key = format!("graph {wanted:?}");
    let compute = move |watch: &Watch| {
        let opened = &bench.opened;
        let mut tokens = bench.tokens(&wanted.text)?;
        let answer = match &wanted.answer {
            Some(text) => opened.tokenizer()?.single_token(text)?,
            None if tokens.len() > 1 => tokens.pop().unwrap_or_default(),
            None => return Err(Refused::bad("the text has one token; a graph needs what comes before the answer")),
        };
        if tokens.len() > LONGEST {
            return Err(Refused::bad(format!(
                "a graph here is of up to {LONGEST} tokens; `directrix circuits graph` makes longer ones"
            )));
        }
        let saes: Vec<_> = opened.saes.iter().collect();
        Replacement::check_order(&saes)?;
        let of = Replacement::of(&opened.model, saes, &tokens, false, watch)?;
        let graph = of.graph(
            answer,
            GraphOptions { max_directions: 1000, node_threshold: 0.6, edge_threshold: 0.9, ..GraphOptions::default() },
        )?;
        let story = GraphStory::of(opened, &of, &graph)?;
        let drawing = story.drawing("graph");
        Ok(PromptGraph {
            title: drawing.title.clone(),
            caption: drawing.caption.clone(),
            drawing: drawing.inline(),
            data: drawing.data(),
            notes: story.notes().to_vec(),
            json: story.to_json(),
        })
    };
    served.work.answer(Takes::Long, key, compute).await
}
