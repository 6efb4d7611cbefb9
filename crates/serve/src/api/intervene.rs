//! What changes do, to what is predicted and to what is written.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use directrix_circuits::{ChangeAt, Hooks, Observed, most_changed};
use directrix_corpus::Watch;
use directrix_model::Sampling;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::directions::ndjson;
use super::prompt::check_position;
use super::{Json, Token};
use crate::Served;
use crate::error::{Answered, Failure, Refused};
use crate::work::Takes;
use crate::workbench::Workbench;

/// Most changes of one request.
const CHANGES: usize = 64;
/// Tokens shown that are likely before or after.
const LIKELY: usize = 10;
/// Directions shown that change most.
const CHANGED: usize = 30;
/// Draws of each control.
const DRAWS: u64 = 8;
/// Most tokens that are generated.
const GENERATED: usize = 200;

/// A text and what is changed in it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct Wanted {
    text: String,
    /// Spelled as `sae-l1/429*0`, `sae-l1/429=3.2@5..9`, `sae-l1=reconstruction`, `L0H3=zero`, `1_mlp_out=mean`.
    #[serde(default)]
    changes: Vec<String>,
    /// The position whose prediction is shown; the last but one, if there is one, by default.
    #[serde(default)]
    position: Option<usize>,
    /// Whether the same is done to random directions.
    #[serde(default)]
    controls: bool,
}

/// What changes did. Pairs are before and after.
#[derive(Serialize, ToSchema)]
pub(crate) struct Intervened {
    changes: Vec<Said>,
    texts: Vec<String>,
    /// Mean over the positions that predict a token, nats.
    mean_loss: Option<[f64; 2]>,
    /// Of the token at each position given those before; null at the first.
    losses: [Vec<Option<f32>>; 2],
    position: usize,
    /// The token that follows there.
    answer: Option<Answer>,
    /// The most likely next tokens, before or after.
    next: Vec<Likely>,
    /// The directions whose activation changes most somewhere.
    directions: Vec<ChangedDirection>,
    controls: Option<Vec<Control>>,
    took_ms: f64,
}

/// A change as it is spelled, and in words.
#[derive(Serialize, ToSchema)]
struct Said {
    text: String,
    sentence: String,
}

#[derive(Serialize, ToSchema)]
struct Answer {
    text: String,
    log_prob: [f64; 2],
    /// Tokens with a higher logit.
    rank: [usize; 2],
    logit: [f32; 2],
}

#[derive(Serialize, ToSchema)]
struct Likely {
    #[serde(flatten)]
    token: Token,
    prob: [f64; 2],
    rank: [usize; 2],
}

#[derive(Serialize, ToSchema)]
struct ChangedDirection {
    sae: usize,
    direction: u32,
    top_token: Option<String>,
    before: f32,
    after: f32,
    /// Where it changes most.
    position: usize,
}

/// The same done to others, once for each draw.
#[derive(Serialize, ToSchema)]
struct Control {
    name: &'static str,
    mean_loss: Vec<f64>,
    /// Of the token that follows; empty at the end of the text.
    log_prob: Vec<f64>,
}

/// What changes do to losses, predictions and other directions, beside controls.
#[utoipa::path(post, path = "/api/intervene", request_body = Wanted, responses((status = 200, body = Intervened), (status = 400, body = Failure)))]
pub(crate) async fn intervene(State(served): State<Arc<Served>>, Json(wanted): Json<Wanted>) -> Answered<Response> {
    let bench = served.bench.clone();
    let key = format!("intervene {wanted:?}");
    let compute = move |watch: &Watch| intervened(&bench, &wanted, watch);
    served.work.answer(Takes::Moments, key, compute).await
}

/// Changes as they are spelled, which a prompt of so many positions must have.
fn parse<'a>(bench: &'a Workbench, spelled: &[String], positions: Option<usize>) -> Answered<Vec<ChangeAt<'a>>> {
    if spelled.len() > CHANGES {
        return Err(Refused::bad(format!("{} changes; {CHANGES} can be made at a time", spelled.len())));
    }
    let opened = &bench.opened;
    let parse = |text: &String| {
        let change = ChangeAt::parse(text, &opened.model, &opened.saes)?;
        if let Some(positions) = positions {
            change.check(positions)?;
        }
        Ok(change)
    };
    spelled.iter().map(parse).collect()
}

fn hooks<'a>(bench: &Workbench, changes: &[ChangeAt<'a>], watch: &Watch) -> Answered<Hooks<'a>> {
    let means = if changes.iter().any(ChangeAt::needs_means) { Some(bench.means(watch)?) } else { None };
    Ok(Hooks::of(&bench.opened.model, changes, means)?)
}

fn intervened(bench: &Workbench, wanted: &Wanted, watch: &Watch) -> Answered<Intervened> {
    let start = Instant::now();
    let opened = &bench.opened;
    let tokens = bench.tokens(&wanted.text)?;
    let changes = parse(bench, &wanted.changes, Some(tokens.len()))?;
    let position = wanted.position.unwrap_or(tokens.len().saturating_sub(2));
    check_position(position, tokens.len())?;
    let observe = |changes: &[ChangeAt], before: Option<&Observed>| -> Answered<Observed> {
        let hooks = hooks(bench, changes, watch)?;
        Ok(Observed::of(&opened.model, &opened.saes, &tokens, position, &hooks, before, watch)?)
    };
    let before = bench.unchanged(&tokens, position, || observe(&[], None))?;
    let observe = |changes: &[ChangeAt]| observe(changes, Some(&before));
    let after = if changes.is_empty() { before.as_ref().clone() } else { observe(&changes)? };
    let both = [before.as_ref(), &after];

    let next_token = tokens.get(position + 1).copied();
    let answer = next_token.map(|token| {
        let [one, two] = both.map(|of| of.prediction(token));
        Answer {
            text: opened.token(token),
            log_prob: [one.log_prob, two.log_prob],
            rank: [one.rank, two.rank],
            logit: [one.logit, two.logit],
        }
    });
    let mut likely = before.likely(LIKELY);
    let new: Vec<u32> = after.likely(LIKELY).into_iter().filter(|token| !likely.contains(token)).collect();
    likely.extend(new);
    let next = likely.into_iter().map(|id| {
        let [one, two] = both.map(|of| of.prediction(id));
        Likely {
            token: Token { id, text: opened.token(id) },
            prob: [one.log_prob.exp(), two.log_prob.exp()],
            rank: [one.rank, two.rank],
        }
    });
    let directions = most_changed(&before, &after, CHANGED).into_iter().map(|of| ChangedDirection {
        sae: of.sae,
        direction: of.direction,
        top_token: bench.top_token(of.sae, of.direction as usize),
        before: of.before,
        after: of.after,
        position: of.position,
    });
    let losses = both.map(|of| [None].into_iter().chain(of.losses.iter().copied().map(Some)).collect());
    let controls = wanted.controls.then(|| controls(bench, &changes, next_token, &observe)).transpose()?;
    Ok(Intervened {
        changes: changes.iter().map(|change| Said { text: change.to_string(), sentence: change.sentence() }).collect(),
        texts: bench.texts(&tokens),
        mean_loss: before.mean_loss().zip(after.mean_loss()).map(|(before, after)| [before, after]),
        losses,
        position,
        answer,
        next: next.collect(),
        directions: directions.collect(),
        controls,
        took_ms: start.elapsed().as_secs_f64() * 1e3,
    })
}

/// The same of random directions of matched density, and along random rows; a kind is left out where a change has none.
fn controls(
    bench: &Workbench,
    changes: &[ChangeAt],
    next_token: Option<u32>,
    observe: &impl Fn(&[ChangeAt]) -> Answered<Observed>,
) -> Answered<Vec<Control>> {
    let mut found = Vec::new();
    for (name, by_density) in [("random directions of equal density", true), ("random rows of equal norm", false)] {
        let mut control = Control { name, mean_loss: Vec::new(), log_prob: Vec::new() };
        for seed in 0..DRAWS {
            let mut drawn = Vec::new();
            for (number, change) in changes.iter().enumerate() {
                let sae = change.sae().and_then(|sae| bench.opened.saes.iter().position(|of| std::ptr::eq(of, sae)));
                let matched = match sae.filter(|_| by_density) {
                    Some(sae) => Some(bench.matched(sae)?),
                    None => None,
                };
                drawn.extend(change.control(matched, seed * CHANGES as u64 + number as u64));
            }
            if drawn.len() < changes.len() || drawn.is_empty() {
                break;
            }
            let seen = observe(&drawn)?;
            control.mean_loss.extend(seen.mean_loss());
            control.log_prob.extend(next_token.map(|token| seen.prediction(token).log_prob));
        }
        if !control.mean_loss.is_empty() {
            found.push(control);
        }
    }
    Ok(found)
}

/// A text to be continued, unchanged and under changes.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Continued {
    text: String,
    #[serde(default)]
    changes: Vec<String>,
    /// Most tokens to draw.
    tokens: usize,
    /// Logits are divided by this; 0 takes the most likely token.
    temperature: f32,
    #[serde(default)]
    seed: u64,
}

/// Continues a text unchanged and under changes, with the same seed: a line of JSON for each token as it is drawn.
#[utoipa::path(post, path = "/api/generate", request_body = Continued, responses((status = 200, content_type = "application/x-ndjson", description = "lines of {which: before or after, token, text}; {done: true} at the end"), (status = 400, body = Failure)))]
pub(crate) async fn generate(State(served): State<Arc<Served>>, Json(wanted): Json<Continued>) -> Answered<Response> {
    if !(1..=GENERATED).contains(&wanted.tokens) {
        return Err(Refused::bad(format!("from 1 to {GENERATED} tokens can be drawn, not {}", wanted.tokens)));
    }
    if !(wanted.temperature.is_finite() && wanted.temperature >= 0.0) {
        return Err(Refused::bad("a temperature is 0 or more"));
    }
    let bench = served.bench.clone();
    let tokens = bench.tokens(&wanted.text)?;
    parse(&bench, &wanted.changes, None)?;
    let (lines, drawn) = mpsc::channel(GENERATED * 2);
    let computed = served.work.run(Takes::Moments, move |watch| {
        let opened = &bench.opened;
        let stop = opened.tokenizer()?.bos();
        let sampling =
            Sampling { temperature: wanted.temperature, top_k: None, seed: wanted.seed, count: wanted.tokens, stop };
        for (which, spelled) in [("before", &[][..]), ("after", &wanted.changes[..])] {
            let changes = parse(&bench, spelled, None)?;
            let hooks = hooks(&bench, &changes, watch)?;
            let mut written: Vec<u32> = Vec::new();
            let mut shown = 0;
            let seen = |token: u32| {
                written.push(token);
                // A character is told with its last token.
                let texts = opened.pieces(&written, |_| true).concat();
                let text = texts.get(shown..).unwrap_or_default().to_owned();
                shown = texts.len();
                drop(lines.try_send(json!({ "which": which, "token": token, "text": text })));
            };
            hooks.finished(opened.model.generate(&tokens, sampling, hooks.functions(), watch, seen))?;
        }
        Ok(())
    });
    // It ends when it is done, or when nobody reads any more and the computation is dropped with the stream.
    let lines = futures::stream::unfold((drawn, Some(Box::pin(computed))), async |(mut drawn, mut computed)| {
        loop {
            let Some(running) = &mut computed else {
                return drawn.recv().await.map(|line| (line, (drawn, computed)));
            };
            tokio::select! {
                biased;
                Some(line) = drawn.recv() => return Some((line, (drawn, computed))),
                done = running => {
                    computed = None;
                    if let Err(refused) = done {
                        return Some((json!({ "error": refused.sentence }), (drawn, computed)));
                    }
                }
            }
        }
    });
    Ok(ndjson(lines))
}

/// An intervention in words that others read.
#[derive(Serialize, ToSchema)]
pub(crate) struct Spelled {
    /// For a shell.
    command: String,
    /// For a study file.
    study: String,
    /// For the Python package.
    python: String,
    /// For a shell, asking this server.
    curl: String,
}

/// An intervention as a command line, a study section, Python and curl.
#[utoipa::path(post, path = "/api/spell", request_body = Wanted, responses((status = 200, body = Spelled), (status = 400, body = Failure)))]
pub(crate) async fn spell(
    State(served): State<Arc<Served>>,
    Json(wanted): Json<Wanted>,
) -> Answered<axum::Json<Spelled>> {
    let bench = &served.bench;
    let changes: Vec<String> = parse(bench, &wanted.changes, None)?.iter().map(ToString::to_string).collect();
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let flags = |name: &str, of: &[String]| -> String {
        of.iter().flat_map(|value| [" --", name, " "].map(String::from).into_iter().chain([quoted(value)])).collect()
    };
    let wanted_model = &bench.opened.wanted;
    let (saes, each) = (flags("sae", &wanted_model.saes), flags("change", &changes));
    let at = wanted.position.map_or_else(String::new, |position| format!(" --position {position}"));
    let body = json!({ "text": wanted.text, "changes": changes, "position": wanted.position });
    let url = format!("http://{}/api/intervene", served.address);
    let section = json!({ "text": wanted.text, "changes": changes });
    Ok(axum::Json(Spelled {
        command: format!(
            "directrix intervene --model {}{saes} --text {}{each}{at}",
            quoted(&wanted_model.model),
            quoted(&wanted.text)
        ),
        // TOML's basic strings and arrays of them are those of JSON.
        study: format!(
            "[[section]]\nkind = \"intervention\"\ntext = {}\nchanges = {}\n{}",
            section["text"],
            section["changes"],
            wanted.position.map_or_else(String::new, |position| format!("position = {position}\n"))
        ),
        python: python(bench, &wanted, &changes),
        curl: format!("curl {url} -H 'Content-Type: application/json' -d {}", quoted(&body.to_string())),
    }))
}

/// The intervention as the Python package makes it. Its strings and lists are those of JSON.
fn python(bench: &Workbench, wanted: &Wanted, changes: &[String]) -> String {
    let of = &bench.opened.wanted;
    let (model, saes, text, changes) = (json!(of.model), json!(of.saes), json!(wanted.text), json!(changes));
    let index = bench.indexed.as_ref().map(|indexed| json!(indexed.folder.display().to_string()));
    let opens =
        index.as_ref().map_or_else(String::new, |folder| format!("index = dx.Index.open({folder}, opened.model)\n"));
    let mut more = wanted.position.map_or_else(String::new, |position| format!(", position={position}"));
    more.push_str(if index.is_some() { ", index=index" } else { "" });
    format!(
        "import directrix as dx\n\nopened = dx.open({model}, {saes})\n{opens}found = dx.intervene(\n    opened.model, opened.saes, {text},\n    \
         {changes}{more},\n)\nprint(found.next_tokens.to_dict())\n"
    )
}
