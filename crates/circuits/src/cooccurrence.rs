//! Which directions of a first SAE a direction of a second one needs (AND).

use directrix_corpus::{Prompts, Watch};
use directrix_model::Model;
use directrix_sae::Sae;
use serde::{Deserialize, Serialize};

use crate::batch::{BATCH, each_batch};
use crate::cosine::check_order;
use crate::error::threshold;
use crate::plan::{Base, Needs, Placed};
use crate::{Change, Effect, Look, Result, Trial};

/// A direction of a second SAE with one of a first SAE ablated at the same position.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cooccurrence {
    /// The prompt.
    pub prompt: usize,
    /// The position.
    pub position: usize,
    /// Direction of the first SAE, active there.
    pub first: usize,
    /// Direction of the second SAE: the most active one there.
    pub second: usize,
    /// Its activation.
    pub activation: f32,
    /// Its activation with the first direction ablated.
    pub ablated: f32,
    /// `ablated − activation`: negative if the second direction needs the first.
    pub difference: f32,
}

/// Which positions and directions to look at; the defaults are the origin's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CooccurrenceOptions {
    /// First position looked at.
    pub first_position: usize,
    /// First directions must be more active than this.
    pub above: f32,
}

impl Default for CooccurrenceOptions {
    fn default() -> Self {
        CooccurrenceOptions { first_position: 10, above: 1.0 }
    }
}

/// At every position from `options.first_position` on: the most active second direction, and its activation with each
/// active first direction ablated there. Positions at which no second direction is active are left out. Sorted by
/// difference, highest first.
///
/// # Errors
/// If the SAEs are in the wrong order, or as [`Model::run`].
pub fn cooccurrence(
    model: &Model,
    first: &Sae,
    second: &Sae,
    prompts: &Prompts,
    options: CooccurrenceOptions,
    watch: &Watch,
) -> Result<Vec<Cooccurrence>> {
    check_order(first, second)?;
    threshold("above", options.above)?;
    let mut rows = Vec::new();
    each_batch(prompts, BATCH, "co-occurrence", watch, |part, batch| {
        let base = Base::new(model, Needs::between(first, second, part, options.first_position), watch)?;
        let (known, mut trials) = (rows.len(), Vec::new());
        for (prompt, tokens) in base.prompts().iter().enumerate() {
            for position in options.first_position..tokens.len() {
                let Some(top) = most_active(&base.active(second, prompt, position)?) else { continue };
                let look = Look::Activation { sae: second, direction: top, position };
                let (prompt, positions) = (batch.start + prompt, position..position + 1);
                let active = base.active(first, prompt - batch.start, position)?;
                for (direction, _) in active.into_iter().filter(|(_, value)| *value > options.above) {
                    let change = Change::Ablate(vec![direction]);
                    trials.push(Trial { prompt, sae: first, positions: positions.clone(), change, look });
                    rows.push(Cooccurrence {
                        prompt,
                        position,
                        first: direction as usize,
                        second: top as usize,
                        activation: f32::NAN,
                        ablated: f32::NAN,
                        difference: f32::NAN,
                    });
                }
            }
        }
        let placed: Vec<Placed> =
            trials.iter().map(|trial| Placed { prompt: trial.prompt - batch.start, trial }).collect();
        base.effects(&placed, |number, Effect { before, after }| {
            let row = &mut rows[known + number];
            (row.activation, row.ablated) = (before.activation()?, after.activation()?);
            row.difference = row.ablated - row.activation;
            Ok(())
        })?;
        Ok(())
    })?;
    rows.sort_by(|a, b| b.difference.total_cmp(&a.difference));
    Ok(rows)
}

fn most_active(acts: &[(u32, f32)]) -> Option<u32> {
    Some(acts.iter().reduce(|best, next| if next.1 > best.1 { next } else { best })?.0)
}
