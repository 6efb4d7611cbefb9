//! Which directions of a first SAE a direction of a second one needs (AND).

use directrix_corpus::Prompts;
use directrix_kernels::SparseActivations;
use directrix_model::{Ask, Model, Positions, batches};
use directrix_sae::Sae;
use serde::{Deserialize, Serialize};

use crate::cosine::check_order;
use crate::effects::{BATCH, Bench, Changed, by_batch};
use crate::{Change, Result};

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
) -> Result<Vec<Cooccurrence>> {
    check_order(first, second)?;
    let mut trials = Vec::new();
    for batch in batches(prompts, BATCH) {
        let part = prompts.range(batch.clone());
        let hooks = [first.site().reads.hook, second.site().reads.hook];
        let run = model.run(&part, &Ask::capture(hooks), &[])?;
        let [first_acts, second_acts] =
            [(first, hooks[0]), (second, hooks[1])].map(|(sae, hook)| sae.encode(run.captured(hook)));
        let (first_acts, second_acts) = (first_acts?, second_acts?);
        for (prompt, bounds) in part.offsets().windows(2).enumerate() {
            for row in (bounds[0] + options.first_position).min(bounds[1])..bounds[1] {
                let Some(top) = most_active(&second_acts, row) else { continue };
                let (directions, values) = first_acts.at(row);
                let active = directions.iter().zip(values).filter(|(_, value)| **value > options.above);
                trials.extend(active.map(|(&direction, _)| ActivationTrial {
                    prompt: batch.start + prompt,
                    position: row - bounds[0],
                    first: direction,
                    second: top,
                }));
            }
        }
    }
    let effects = activation_effects(model, first, second, prompts, &trials)?;
    let mut rows: Vec<Cooccurrence> = trials
        .iter()
        .zip(effects)
        .map(|(t, (activation, ablated))| Cooccurrence {
            prompt: t.prompt,
            position: t.position,
            first: t.first as usize,
            second: t.second as usize,
            activation,
            ablated,
            difference: ablated - activation,
        })
        .collect();
    rows.sort_by(|a, b| b.difference.total_cmp(&a.difference));
    Ok(rows)
}

fn most_active(acts: &SparseActivations, row: usize) -> Option<u32> {
    let (directions, values) = acts.at(row);
    let best = directions.iter().zip(values).reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    Some(*best.0)
}

/// A first direction to ablate, and the second direction to look at, at one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ActivationTrial {
    pub(crate) prompt: usize,
    pub(crate) position: usize,
    pub(crate) first: u32,
    pub(crate) second: u32,
}

/// The second direction's activation as (before, after) the first one is ablated, at the trial's position.
pub(crate) fn activation_effects(
    model: &Model,
    first: &Sae,
    second: &Sae,
    prompts: &Prompts,
    trials: &[ActivationTrial],
) -> Result<Vec<(f32, f32)>> {
    let hook = second.site().reads.hook;
    let needs: Vec<(usize, usize)> = trials.iter().map(|t| (t.prompt, t.position)).collect();
    let mut found = vec![(0.0, 0.0); trials.len()];
    by_batch(prompts, &needs, |prompts, own| {
        let mut positions = vec![Vec::new(); prompts.len()];
        own.iter().for_each(|&(trial, prompt)| positions[prompt].push(trials[trial].position));
        positions.iter_mut().for_each(|list: &mut Vec<usize>| {
            list.sort_unstable();
            list.dedup();
        });
        let ask = Ask::nothing().with_capture(hook, Positions::Each(positions.clone()));
        let rows = positions.iter().map(Vec::len).collect::<Vec<_>>();
        let bench = Bench::new(model, first, prompts, positions.clone(), hook, ask)?;
        let before = bench.session.run().captured(hook);
        let mut changes = Vec::new();
        let ablations: Vec<Change> = own.iter().map(|(trial, _)| Change::Ablate(vec![trials[*trial].first])).collect();
        for (&(trial, prompt), change) in own.iter().zip(&ablations) {
            let ActivationTrial { position, second: looked_at, .. } = trials[trial];
            let at = positions[prompt].binary_search(&position).expect("collected above");
            let row = rows[..prompt].iter().sum::<usize>() + at;
            let activation = second.activation(before.row(row), looked_at)?;
            found[trial] = (activation, activation);
            changes.push(Changed { prompt, positions: position..position + 1, change });
        }
        let ask = |_: &[_]| Ask::nothing().with_capture(hook, Positions::FromEnd(1));
        bench.resume(&changes, ask, |group, run| {
            for (&(number, _), values) in group.iter().zip(run.captured(hook).iter_rows()) {
                let trial = own[number].0;
                found[trial].1 = second.activation(values, trials[trial].second)?;
            }
            Ok(())
        })
    })?;
    Ok(found)
}
