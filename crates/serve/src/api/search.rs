//! Where texts and directions are in the corpus, and what fires there.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use directrix_corpus::Watch;
use directrix_index::{Found, Match, Query as Sought};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Query;
use crate::Served;
use crate::error::{Answered, Failure};
use crate::work::Takes;
use crate::workbench::Workbench;

/// Directions listed of each SAE, and examples shown.
const DIRECTIONS: usize = 50;
const EXAMPLES: usize = 20;
/// Tokens around a match.
const BEFORE: usize = 30;
const AFTER: usize = 15;

/// What is looked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Find {
    find: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A text, across tokens and within them.
    Text,
    /// One token, given by its text.
    Token,
    /// The tokens of a text, one after another.
    Ngram,
    /// A regular expression, as in Rust's crate regex.
    Regex,
}

/// What fires where something was found.
#[derive(Serialize, ToSchema)]
pub(crate) struct FoundDirections {
    /// Matches at positions that count.
    matches: u64,
    /// Prompts that have one.
    prompts: u64,
    took_ms: f64,
    /// By how surely they fire more often at matches than elsewhere.
    directions: Vec<Firing>,
    examples: Vec<Example>,
}

/// A direction that fires at matches.
#[derive(Serialize, ToSchema)]
struct Firing {
    sae: usize,
    direction: usize,
    top_token: Option<String>,
    /// Matches at which it fires, and their share of all matches.
    fires: u64,
    share: f64,
    /// Its mean activation there.
    mean: f64,
    /// Share of all positions at which it fires, and by how much its share exceeds that.
    density: f64,
    lift: f64,
    /// Log-likelihood ratio of firing at matches and elsewhere (Dunning 1993).
    g2: f64,
}

/// A prompt around a match.
#[derive(Serialize, ToSchema)]
struct Example {
    prompt: usize,
    position: usize,
    /// The position of the first text.
    start: usize,
    /// Positions of the whole prompt.
    length: usize,
    texts: Vec<String>,
    /// The activation of the first direction that the query names, or 1 where the match is.
    values: Vec<f32>,
}

/// Directions that fire where a text, token, n-gram or regular expression is.
#[utoipa::path(get, path = "/api/search/directions", params(Find), responses((status = 200, body = FoundDirections), (status = 400, body = Failure)))]
pub(crate) async fn directions(State(served): State<Arc<Served>>, Query(wanted): Query<Find>) -> Answered<Response> {
    let bench = served.bench.clone();
    let key = format!("find {wanted:?}");
    let compute = move |watch: &Watch| {
        let start = Instant::now();
        let search = &bench.indexed()?.search;
        let query = match wanted.kind {
            Kind::Text => Sought::text(&wanted.find)?,
            Kind::Regex => Sought::regex(&wanted.find)?,
            Kind::Token => Sought::tokens(&[bench.opened.tokenizer()?.single_token(&wanted.find)?], search.index())?,
            Kind::Ngram => Sought::tokens(&bench.opened.tokenizer()?.encode(&wanted.find)?, search.index())?,
        };
        let found = search.find(&query, watch)?;
        let mut directions = Vec::new();
        for sae in 0..bench.opened.saes.len() {
            for of in search.firing(&found, bench.part_number(sae)?, DIRECTIONS)? {
                let top_token = bench.top_token(sae, of.direction);
                let directrix_index::Firing { direction, fires, share, mean, density, lift, g2, .. } = of;
                directions.push(Firing { sae, direction, top_token, fires, share, mean, density, lift, g2 });
            }
        }
        directions.sort_by(|a, b| b.g2.total_cmp(&a.g2));
        Ok(FoundDirections {
            matches: found.matches,
            prompts: found.prompts,
            directions,
            examples: examples(&bench, &found, &query)?,
            took_ms: start.elapsed().as_secs_f64() * 1e3,
        })
    };
    served.work.answer(Takes::Moments, key, compute).await
}

/// A combination of directions, texts and tokens.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Combined {
    /// As `sae-l1/429 & !sae-l0/17`, `sae-l0/17 within 5 of "said"`.
    query: String,
}

/// Where a combination is.
#[derive(Serialize, ToSchema)]
pub(crate) struct FoundPositions {
    matches: u64,
    prompts: u64,
    took_ms: f64,
    examples: Vec<Example>,
}

/// Positions at which a combination of directions, texts and tokens is.
#[utoipa::path(get, path = "/api/search/positions", params(Combined), responses((status = 200, body = FoundPositions), (status = 400, body = Failure)))]
pub(crate) async fn positions(State(served): State<Arc<Served>>, Query(wanted): Query<Combined>) -> Answered<Response> {
    let bench = served.bench.clone();
    let key = format!("positions {}", wanted.query);
    let compute = move |watch: &Watch| {
        let start = Instant::now();
        let search = &bench.indexed()?.search;
        let query = Sought::parse(&wanted.query, search.index())?;
        let found = search.find(&query, watch)?;
        Ok(FoundPositions {
            matches: found.matches,
            prompts: found.prompts,
            examples: examples(&bench, &found, &query)?,
            took_ms: start.elapsed().as_secs_f64() * 1e3,
        })
    };
    served.work.answer(Takes::Moments, key, compute).await
}

fn examples(bench: &Workbench, found: &Found, query: &Sought) -> Answered<Vec<Example>> {
    let indexed = bench.indexed()?;
    let shown = |Match { prompt, position, .. }: Match| {
        let tokens = indexed.index.prompt(prompt)?;
        let start = position.saturating_sub(BEFORE);
        let end = (position + AFTER + 1).min(tokens.len());
        let values = match query.directions().first() {
            Some(&(sae, direction)) => indexed.index.sae(sae).on_prompt(prompt, direction)?[start..end].to_vec(),
            None => (start..end).map(|at| if at == position { 1.0 } else { 0.0 }).collect(),
        };
        Ok(Example { prompt, position, start, length: tokens.len(), texts: bench.texts(&tokens[start..end]), values })
    };
    indexed.search.matches(found, query, EXAMPLES)?.into_iter().map(shown).collect()
}
