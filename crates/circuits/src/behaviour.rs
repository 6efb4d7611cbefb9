//! Prompts that show a behaviour, and the directions active on them.

use directrix_corpus::{Document, Prompts, Tokenizer, Watch};
use directrix_kernels::SparseActivations;
use directrix_model::{Ask, Model, Positions};
use directrix_sae::Sae;
use serde::{Deserialize, Serialize};

use crate::batch::{BATCH, each_batch};
use crate::error::threshold;
use crate::{Error, Estimate, Interval, Result, correlation};

/// A behaviour, by the text that shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviour {
    /// Text that a document must contain.
    pub contains: String,
    /// The document is cut after the next occurrence of this text, which must be the single answer token.
    pub ends_with: String,
    /// At most this many prompts.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// The prompts that show a behaviour; each ends with the answer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BehaviourPrompts {
    /// The prompts.
    pub prompts: Prompts,
    /// The answer.
    pub answer: u32,
    /// Documents looked at.
    pub documents: usize,
    /// Prompts left out because they were longer than the context.
    pub too_long: usize,
}

/// Documents containing a text, cut after the next occurrence of the answer, kept if their last token is the answer.
///
/// # Errors
/// If the answer is not a single token, a document cannot be read or tokenised, there is no text, no prompt is found, or `watch`
/// stopped it.
pub fn behaviour_prompts(
    documents: impl Iterator<Item = directrix_corpus::Result<Document>>,
    tokenizer: Option<&Tokenizer>,
    behaviour: &Behaviour,
    bos: Option<u32>,
    context: usize,
    watch: &Watch,
) -> Result<BehaviourPrompts> {
    let tokenizer = tokenizer.ok_or(Error::NoText)?;
    let answer = tokenizer.single_token(&behaviour.ends_with)?;
    let mut found = BehaviourPrompts { prompts: Prompts::new(), answer, documents: 0, too_long: 0 };
    for document in documents {
        if behaviour.limit.is_some_and(|limit| found.prompts.len() >= limit) {
            break;
        }
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        found.documents += 1;
        let text = match document? {
            Document::Text(text) => text,
            Document::Tokens(tokens) => tokenizer.decode(&tokens)?,
        };
        let Some(cut) = cut_after_answer(&text, behaviour) else { continue };
        let mut tokens: Vec<u32> = bos.into_iter().collect();
        tokens.extend(tokenizer.encode(cut)?);
        if tokens.len() > context {
            found.too_long += 1;
        } else if tokens.len() >= 2 && tokens.last() == Some(&answer) {
            found.prompts.push(&tokens);
        }
    }
    if found.prompts.is_empty() {
        return Err(Error::NoPrompt {
            documents: found.documents,
            contains: behaviour.contains.clone(),
            ends_with: behaviour.ends_with.clone(),
        });
    }
    Ok(found)
}

fn cut_after_answer<'a>(text: &'a str, behaviour: &Behaviour) -> Option<&'a str> {
    let start = text.find(&behaviour.contains)? + behaviour.contains.len();
    let end = start + text[start..].find(&behaviour.ends_with)? + behaviour.ends_with.len();
    Some(&text[..end])
}

/// The SAE's activations at the position before the answer, one row per prompt.
///
/// # Errors
/// If a prompt has fewer than two positions, or as [`Model::run`].
pub fn answer_activations(model: &Model, sae: &Sae, prompts: &Prompts, watch: &Watch) -> Result<SparseActivations> {
    let hook = sae.site().reads.hook;
    let mut acts = SparseActivations::default();
    let ask = Ask::nothing().with_capture(hook, Positions::FromEnd(2)).watched(watch);
    each_batch(prompts, BATCH, "activations before the answer", watch, |part, _| {
        acts.extend(&sae.encode(model.run(&part, &ask, &[])?.captured(hook))?);
        Ok(())
    })?;
    Ok(acts)
}

/// A direction that is active before the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ActiveDirection {
    /// The direction.
    pub direction: usize,
    /// Mean activation over the prompts on which it exceeds its threshold.
    pub mean_activation: f64,
    /// Half width of its 95 % interval.
    pub half_width: f64,
    /// Those prompts.
    pub prompts: usize,
    /// Their share of all prompts.
    pub share: f64,
    /// Lower end of its 95 % interval.
    pub share_low: f64,
    /// Upper end.
    pub share_high: f64,
}

/// When a direction counts as active; the defaults are the origin's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActiveOptions {
    /// Threshold, as a share of the direction's maximum over the corpus.
    pub share_of_maximum: f32,
    /// It must exceed the threshold on at least this share of the prompts.
    pub share_of_prompts: f64,
    /// At most this many directions.
    pub top: usize,
}

impl Default for ActiveOptions {
    fn default() -> Self {
        ActiveOptions { share_of_maximum: 0.17, share_of_prompts: 0.05, top: 100 }
    }
}

/// The directions active before the answer, by mean activation, highest first. `maxima` are those of the corpus.
///
/// # Errors
/// If a threshold is not a number.
pub fn active_directions(
    acts: &SparseActivations,
    maxima: &[f32],
    options: ActiveOptions,
) -> Result<Vec<ActiveDirection>> {
    threshold("share_of_maximum", options.share_of_maximum)?;
    threshold("share_of_prompts", options.share_of_prompts)?;
    let mut above: Vec<Vec<f64>> = vec![Vec::new(); maxima.len()];
    for (&direction, &value) in acts.directions().iter().zip(acts.values()) {
        let direction = direction as usize;
        let Some(maximum) = maxima.get(direction) else {
            return Err(Error::Lengths { what: "maxima", given: maxima.len(), wanted: direction + 1 });
        };
        if value > options.share_of_maximum * maximum {
            above[direction].push(value as f64);
        }
    }
    let n = acts.positions();
    let enough = |values: &Vec<f64>| !values.is_empty() && values.len() as f64 >= options.share_of_prompts * n as f64;
    let row = |(direction, values): (usize, Vec<f64>)| {
        let prompts = values.len();
        let Interval { low, high } = Interval::of_share(prompts, n);
        let Estimate { mean, half_width, .. } = Estimate::of(values);
        ActiveDirection {
            direction,
            mean_activation: mean,
            half_width,
            prompts,
            share: prompts as f64 / n as f64,
            share_low: low,
            share_high: high,
        }
    };
    let active = above.into_iter().enumerate().filter(|(_, values)| enough(values));
    let mut rows: Vec<ActiveDirection> = active.map(row).collect();
    rows.sort_by(|a, b| b.mean_activation.total_cmp(&a.mean_activation).then(a.direction.cmp(&b.direction)));
    rows.truncate(options.top);
    Ok(rows)
}

/// Correlation, over prompts, of whether directions are active above `above`. Row-major, `[directions, directions]`.
///
/// # Errors
/// If `above` is not a number.
pub fn coactivation(acts: &SparseActivations, directions: &[u32], above: f32) -> Result<Vec<f64>> {
    threshold("above", above)?;
    let active = |&direction: &u32| -> Vec<f64> {
        (0..acts.positions()).map(|prompt| f64::from(u8::from(acts.get(prompt, direction) > above))).collect()
    };
    Ok(correlation(&directions.iter().map(active).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_cut_after_the_first_answer_behind_the_text() {
        let behaviour = Behaviour { contains: "said, \"".into(), ends_with: ".\"".into(), limit: None };
        let story = "\"No.\" Tim said, \"Yes! I do.\" He ran. \"Stop.\"";
        assert_eq!(cut_after_answer(story, &behaviour), Some("\"No.\" Tim said, \"Yes! I do.\""));
        assert_eq!(cut_after_answer("Tim said, \"Yes!\"", &behaviour), None);
        assert_eq!(cut_after_answer("\"No.\"", &behaviour), None);
    }
}
