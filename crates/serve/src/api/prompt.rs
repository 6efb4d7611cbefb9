//! What a model makes of a text.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use directrix_circuits::{direct_attribution, largest};
use directrix_corpus::{Prompts, Watch};
use directrix_kernels::log_sum_exp;
use directrix_model::{Ask, HookPoint, Positions};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Json, Part};
use crate::Served;
use crate::error::{Answered, Failure, Refused};
use crate::work::Takes;
use crate::workbench::Workbench;

/// Active directions shown at a position.
const ACTIVE: usize = 50;
/// Likely next tokens shown at a position.
const LIKELY: usize = 10;
/// Positions whose logits are held at a time.
const LOGITS: usize = 64;
const ATTRIBUTED: usize = 40;

/// A text, or the number of a prompt of the corpus.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Wanted {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    prompt: Option<usize>,
}

/// What a model makes of a text.
#[derive(Serialize, ToSchema)]
pub(crate) struct PromptView {
    text: String,
    ids: Vec<u32>,
    texts: Vec<String>,
    /// Of the token at each position given those before, nats; null at the first.
    losses: Vec<Option<f32>>,
    /// By SAE and position.
    active: Vec<Vec<ActiveAt>>,
    /// By position.
    next: Vec<Next>,
}

/// The strongest directions at a position.
#[derive(Serialize, ToSchema)]
struct ActiveAt {
    directions: Vec<u32>,
    values: Vec<f32>,
    /// How many are active.
    total: usize,
}

/// The most likely next tokens.
#[derive(Serialize, ToSchema)]
struct Next {
    ids: Vec<u32>,
    texts: Vec<String>,
    probs: Vec<f64>,
}

/// What a model makes of a text: losses, active directions and next tokens at every position.
#[utoipa::path(post, path = "/api/prompt", request_body = Wanted, responses((status = 200, body = PromptView), (status = 400, body = Failure)))]
pub(crate) async fn prompt(State(served): State<Arc<Served>>, Json(wanted): Json<Wanted>) -> Answered<Response> {
    let bench = served.bench.clone();
    let key = format!("view {:?} {:?}", wanted.prompt, wanted.text);
    let compute = move |watch: &Watch| {
        let tokens = match (&wanted.text, wanted.prompt) {
            (Some(text), None) => bench.tokens(text)?,
            (None, Some(prompt)) => bench.indexed()?.index.prompt(prompt)?.to_vec(),
            _ => return Err(Refused::bad("give either `text` or the number of a `prompt`")),
        };
        view(&bench, wanted.text, tokens, watch)
    };
    served.work.answer(Takes::Moments, key, compute).await
}

fn view(bench: &Workbench, text: Option<String>, tokens: Vec<u32>, watch: &Watch) -> Answered<PromptView> {
    let opened = &bench.opened;
    let prompts = Prompts::from_rows([&tokens]);
    let reads: BTreeSet<HookPoint> = opened.saes.iter().map(|sae| sae.site().reads.hook).collect();
    let hooks = reads.into_iter().chain([HookPoint::UnembedIn]);
    let mut ask = Ask::capture(hooks).watched(watch);
    if tokens.len() > 1 {
        ask = ask.with_losses();
    }
    let run = opened.model.run(&prompts, &ask, &[])?;
    let mut active = Vec::new();
    for sae in &opened.saes {
        let acts = sae.encode(run.captured(sae.site().reads.hook))?;
        let at = |position: usize| {
            let (directions, values) = acts.at(position);
            let strongest = largest(values.iter().map(|value| f64::from(*value)), ACTIVE);
            let (directions, values) = strongest.iter().map(|(at, _)| (directions[*at], values[*at])).unzip();
            ActiveAt { directions, values, total: acts.at(position).0.len() }
        };
        active.push((0..tokens.len()).map(at).collect());
    }
    let finals = run.captured(HookPoint::UnembedIn);
    let mut next = Vec::new();
    for start in (0..tokens.len()).step_by(LOGITS) {
        let logits = opened.model.unembed(&finals.gather(start..(start + LOGITS).min(tokens.len())));
        for (row, sum) in logits.iter_rows().zip(log_sum_exp(&logits)) {
            let likely = largest(row.iter().map(|logit| f64::from(*logit)), LIKELY);
            next.push(Next {
                ids: likely.iter().map(|(id, _)| *id as u32).collect(),
                texts: likely.iter().map(|(id, _)| opened.token(*id as u32)).collect(),
                probs: likely.iter().map(|(_, logit)| (logit - sum).exp()).collect(),
            });
        }
    }
    let begun = usize::from(tokens.first().copied() == opened.bos && tokens.len() > 1);
    let text = match text {
        Some(text) => text,
        None => opened.tokenizer()?.decode(&tokens[begun..])?,
    };
    Ok(PromptView {
        text,
        texts: bench.texts(&tokens),
        losses: [None].into_iter().chain(run.losses().iter().copied().map(Some)).collect(),
        active,
        next,
        ids: tokens,
    })
}

/// A position whose prediction is to be taken apart.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Attributed {
    text: String,
    position: usize,
    /// The token whose logit it is; the one that follows, or else the most likely.
    #[serde(default)]
    token: Option<String>,
}

/// Who writes a logit.
#[derive(Serialize, ToSchema)]
pub(crate) struct Attribution {
    token: String,
    logit: f64,
    about: &'static str,
    components: Vec<Part>,
    directions: Vec<OfDirection>,
}

/// What a direction adds to a logit.
#[derive(Serialize, ToSchema)]
struct OfDirection {
    sae: usize,
    direction: u32,
    activation: f32,
    value: f64,
}

/// Direct logit attribution: what each component and each active direction adds to a token's logit at a position.
#[utoipa::path(post, path = "/api/attribution", request_body = Attributed, responses((status = 200, body = Attribution), (status = 400, body = Failure)))]
pub(crate) async fn attribution(
    State(served): State<Arc<Served>>,
    Json(wanted): Json<Attributed>,
) -> Answered<Response> {
    let bench = served.bench.clone();
    let key = format!("dla {} {:?} {}", wanted.position, wanted.token, wanted.text);
    let compute = move |watch: &Watch| {
        let tokens = bench.tokens(&wanted.text)?;
        check_position(wanted.position, tokens.len())?;
        let opened = &bench.opened;
        let token = match &wanted.token {
            Some(text) => Some(opened.tokenizer()?.single_token(text)?),
            None => tokens.get(wanted.position + 1).copied(),
        };
        let token = if let Some(token) = token {
            token
        } else {
            let ask = Ask::nothing().with_logits(Positions::At(vec![wanted.position])).watched(watch);
            let run = opened.model.run(&Prompts::from_rows([&tokens]), &ask, &[])?;
            largest(run.logits().row(0).iter().map(|logit| f64::from(*logit)), 1)[0].0 as u32
        };
        let found = direct_attribution(&opened.model, &opened.saes, &tokens, wanted.position, token, watch)?;
        let strongest = largest(found.directions.iter().map(|of| of.value.abs()), ATTRIBUTED);
        let directions = strongest.into_iter().map(|(at, _)| {
            let of = found.directions[at];
            OfDirection { sae: of.sae, direction: of.direction, activation: of.activation, value: of.value }
        });
        Ok(Attribution {
            token: opened.token(token),
            logit: found.logit,
            about: "What each component adds to the logit, the final norm's scale as it is in this run; the unembedding's bias belongs to none. A direction's part is what its activation writes; it is among what its component adds.",
            components: found.components.into_iter().map(|(label, value)| Part { label, value }).collect(),
            directions: directions.collect(),
        })
    };
    served.work.answer(Takes::Moments, key, compute).await
}

/// That a prompt has a position.
pub(crate) fn check_position(position: usize, positions: usize) -> Answered<()> {
    if position < positions {
        return Ok(());
    }
    Err(Refused::bad(format!("the prompt has positions 0 to {}, so there is no position {position}", positions - 1)))
}
