//! Which directions of a first SAE a direction of a second one needs (AND).

use std::collections::BTreeMap;

use directrix_corpus::{Prompts, Watch};
use directrix_model::Model;
use directrix_sae::Sae;
use serde::{Deserialize, Serialize};

use crate::batch::{BATCH, each_batch};
use crate::claim::with_controls;
use crate::cosine::check_order;
use crate::error::threshold;
use crate::plan::{Base, Needs, Placed};
use crate::{About, Change, Chosen, Claim, Controls, Effect, Error, Estimate, Look, Matched, Result, Trial, effects};

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
        let base = Base::new(model, Needs::between(model, first, second, part, options.first_position), watch)?;
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

/// A pair of directions over all positions at which it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CooccurrencePair {
    /// Direction of the first SAE.
    pub first: usize,
    /// Direction of the second SAE.
    pub second: usize,
    /// Mean activation of the second over these positions.
    pub activation: f64,
    /// Half width of its 95 % interval, clustered by prompt.
    pub activation_half_width: f64,
    /// What ablating the first does to it.
    #[serde(flatten)]
    pub change: Claim,
}

/// Each pair over its positions, the most negative mean change first; no controls yet.
pub fn cooccurrence_pairs(rows: &[Cooccurrence]) -> Vec<CooccurrencePair> {
    let mut by_pair: BTreeMap<(usize, usize), Vec<&Cooccurrence>> = BTreeMap::new();
    for row in rows {
        by_pair.entry((row.first, row.second)).or_default().push(row);
    }
    let about = About {
        chosen: Chosen::Given,
        change: "the first ablated where it is active and the second is the most active of its SAE",
        measure: "difference",
        unit: "activation of the second",
        over: "positions",
    };
    let estimate = |rows: &[&Cooccurrence], value: fn(&Cooccurrence) -> f32| {
        Estimate::clustered(&rows.iter().map(|row| (row.prompt, value(row) as f64)).collect::<Vec<_>>())
    };
    let claims =
        Claim::list(by_pair.values().map(|rows| (about, estimate(rows, |r| r.difference), Controls::default())));
    let row = |(((first, second), rows), change): (((usize, usize), Vec<&Cooccurrence>), Claim)| {
        let activation = estimate(&rows, |r| r.activation);
        CooccurrencePair {
            first,
            second,
            activation: activation.mean,
            activation_half_width: activation.half_width,
            change,
        }
    };
    let mut pairs: Vec<CooccurrencePair> = by_pair.into_iter().zip(claims).map(row).collect();
    pairs.sort_by(|a, b| a.change.mean().total_cmp(&b.change.mean()));
    pairs
}

/// Gives `pairs` the controls of their positions in `rows`: what the same does along random rows and with random directions.
///
/// # Errors
/// As [`effects`].
pub fn control_pairs(
    model: &Model,
    [first, second]: [&Sae; 2],
    prompts: &Prompts,
    rows: &[Cooccurrence],
    pairs: &mut [CooccurrencePair],
    matched: &Matched,
    watch: &Watch,
) -> Result<()> {
    let mut trials: BTreeMap<(usize, usize), Vec<Trial>> = BTreeMap::new();
    for row in rows {
        trials.entry((row.first, row.second)).or_default().push(Trial {
            prompt: row.prompt,
            sae: first,
            positions: row.position..row.position + 1,
            change: Change::Ablate(vec![row.first as u32]),
            look: Look::Activation { sae: second, direction: row.second as u32, position: row.position },
        });
    }
    let controls: Vec<[Vec<Trial>; 2]> = pairs
        .iter()
        .map(|pair| {
            let own = trials.get(&(pair.first, pair.second)).map_or(&[][..], Vec::as_slice);
            let [_, rows, directions] = with_controls(own, Some(matched));
            [rows, directions]
        })
        .collect();
    let all: Vec<Trial> = controls.iter().flatten().flatten().cloned().collect();
    let mut effects = effects(model, prompts, &all, watch)?.into_iter();
    for (pair, controls) in pairs.iter_mut().zip(&controls) {
        let [rows, directions] = controls.each_ref().map(|trials| {
            let change = |(trial, effect): (&Trial, Effect)| {
                Ok((trial.prompt, (effect.after.activation()? - effect.before.activation()?) as f64))
            };
            let changes = trials.iter().zip(effects.by_ref()).map(change).collect::<Result<Vec<_>>>()?;
            // None can be drawn for a direction that nowhere counts.
            Ok::<_, Error>((!changes.is_empty()).then(|| Estimate::clustered(&changes)))
        });
        pair.change.controls = Controls { rows: rows?, directions: directions? };
    }
    Ok(())
}

fn most_active(acts: &[(u32, f32)]) -> Option<u32> {
    Some(acts.iter().reduce(|best, next| if next.1 > best.1 { next } else { best })?.0)
}
