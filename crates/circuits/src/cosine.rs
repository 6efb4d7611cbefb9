//! Pairs of directions, one in each of two SAEs, that point the same way.

use std::cmp::Ordering;

use directrix_corpus::Prompts;
use directrix_index::{Example, Index, SaeIndex};
use directrix_kernels::{Encoder, Keep, Screen};
use directrix_model::Model;
use directrix_sae::Sae;
use serde::Serialize;

use crate::cooccurrence::{ActivationTrial, activation_effects};
use crate::{Change, Error, Estimate, Result, Trial, effects};

/// Two directions and the cosine between what the first writes and what the second reads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CosinePair {
    /// Direction of the first SAE.
    pub first: usize,
    /// Direction of the second SAE.
    pub second: usize,
    /// Cosine of `W_dec W_out` of the first with `W_in W_enc` of the second.
    pub cosine: f32,
}

/// First-SAE directions scanned at a time.
const ROWS: usize = 4096;
/// The first block: all of its cosines are held, until it is known which are high.
const FIRST_ROWS: usize = 16;

/// The `k` pairs with the highest cosine, over all pairs; highest first.
///
/// `lower_triangle` leaves out pairs whose second number is above the first, as the origin's `torch.tril` does: between two
/// SAEs that has no meaning, and drops half of the pairs.
///
/// # Errors
/// If the first SAE does not write to the residual stream, the second does not read neurons, or a cosine is not finite.
pub fn cosine_pairs(
    model: &Model,
    first: &Sae,
    second: &Sae,
    k: usize,
    lower_triangle: bool,
) -> Result<Vec<CosinePair>> {
    let (mut writes, mut reads) = (first.writes(model)?, second.reads(model)?);
    directrix_kernels::normalise_rows(&mut writes);
    directrix_kernels::normalise_rows(&mut reads);
    let no_bias = vec![0.0; reads.rows()];
    let screen = Screen::new(&reads);
    let mut top: Vec<CosinePair> = Vec::new();
    let mut start = 0;
    while start < writes.rows() && k > 0 {
        // Only what can still be among the best is kept of a block.
        let floor = if top.len() < k { f32::NEG_INFINITY } else { top[k - 1].cosine };
        let rows = start..(start + if top.len() < k { FIRST_ROWS } else { ROWS }).min(writes.rows());
        let thresholds = vec![floor; reads.rows()];
        let keep = Keep::Above(&thresholds);
        let scan = Encoder { weights: reads.view().transposed(), bias: &no_bias, keep, screen: screen.as_ref() };
        let high = directrix_kernels::encode(writes.view().rows_of(rows.clone()), scan)
            .map_err(|e| Error::NotFinite { first: start + e.row, second: e.direction })?;
        for (row, first) in rows.clone().enumerate() {
            let (seconds, cosines) = high.at(row);
            let pairs = seconds.iter().zip(cosines).map(|(second, &cosine)| (*second as usize, cosine));
            let pairs = pairs.filter(|(second, _)| !lower_triangle || *second <= first);
            top.extend(pairs.map(|(second, cosine)| CosinePair { first, second, cosine }));
        }
        keep_best(&mut top, k);
        start = rows.end;
    }
    Ok(top)
}

fn keep_best(pairs: &mut Vec<CosinePair>, k: usize) {
    let order = |a: &CosinePair, b: &CosinePair| -> Ordering {
        b.cosine.total_cmp(&a.cosine).then((a.first, a.second).cmp(&(b.first, b.second)))
    };
    if pairs.len() > k {
        pairs.select_nth_unstable_by(k - 1, order);
        pairs.truncate(k);
    }
    pairs.sort_unstable_by(order);
}

/// What ablating either direction of a pair does where the first is most active.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairEffect {
    /// Direction of the first SAE.
    pub first: usize,
    /// Direction of the second SAE.
    pub second: usize,
    /// Cosine of the pair.
    pub cosine: f32,
    /// Prompts: those with the highest activation of the first direction.
    pub n: usize,
    /// Mean loss at the position of that maximum, unchanged.
    pub loss: f64,
    /// Mean loss with the first direction ablated there.
    pub loss_first_ablated: f64,
    /// Mean loss with the second direction ablated there.
    pub loss_second_ablated: f64,
    /// Mean activation of the second direction there.
    pub second_activation: f64,
    /// The same with the first direction ablated there.
    pub second_activation_first_ablated: f64,
    /// Mean change of the second direction's activation when the first is ablated.
    pub activation_change: f64,
    /// Half width of the 95 % interval of that change.
    pub activation_change_half_width: f64,
}

/// [`PairEffect`] of each pair over the `k` prompts of the index on which its first direction is most active;
/// `first_index` is the index's part of `first`.
///
/// # Errors
/// If the SAEs are in the wrong order, or as [`effects`].
pub fn pair_effects(
    model: &Model,
    first: &Sae,
    second: &Sae,
    index: &Index,
    first_index: &SaeIndex,
    pairs: &[CosinePair],
    k: usize,
) -> Result<Vec<PairEffect>> {
    check_order(first, second)?;
    let of = |pair: &CosinePair| {
        let examples = first_index.top_examples(pair.first, k)?;
        let rows: Vec<&[u32]> = examples.iter().map(|e| index.prompt(e.prompt)).collect::<Result<_, _>>()?;
        let prompts = Prompts::from_rows(rows);
        pair_effect(model, first, second, &prompts, &examples, *pair)
    };
    pairs.iter().map(of).collect()
}

/// That what `first` writes can reach `second`.
pub(crate) fn check_order(first: &Sae, second: &Sae) -> Result<()> {
    let (writes, reads) = (&first.site().writes, &second.site().reads);
    if writes.hook < reads.hook {
        return Ok(());
    }
    Err(Error::Order {
        first: first.name().into(),
        first_layer: writes.layer(),
        second: second.name().into(),
        second_layer: reads.layer(),
    })
}

fn pair_effect(
    model: &Model,
    first: &Sae,
    second: &Sae,
    prompts: &Prompts,
    examples: &[Example],
    pair: CosinePair,
) -> Result<PairEffect> {
    let trials = |direction: usize| -> Vec<Trial> {
        let predicted = examples.iter().enumerate().filter(|(i, e)| e.position + 1 < prompts.get(*i).len());
        predicted
            .map(|(prompt, e)| Trial {
                prompt,
                position: e.position,
                token: prompts.get(prompt)[e.position + 1],
                change: Change::Ablate(vec![direction as u32]),
            })
            .collect()
    };
    let first_effects = effects(model, first, prompts, &trials(pair.first))?;
    let second_effects = effects(model, second, prompts, &trials(pair.second))?;
    let activations: Vec<ActivationTrial> = examples
        .iter()
        .enumerate()
        .map(|(prompt, e)| ActivationTrial {
            prompt,
            position: e.position,
            first: pair.first as u32,
            second: pair.second as u32,
        })
        .collect();
    let activations = activation_effects(model, first, second, prompts, &activations)?;
    let mean = |values: Vec<f64>| Estimate::of(values).mean;
    let change = Estimate::of(activations.iter().map(|(before, after)| (after - before) as f64));
    Ok(PairEffect {
        first: pair.first,
        second: pair.second,
        cosine: pair.cosine,
        n: examples.len(),
        loss: mean(first_effects.iter().map(|e| -e.before.log_prob).collect()),
        loss_first_ablated: mean(first_effects.iter().map(|e| -e.after.log_prob).collect()),
        loss_second_ablated: mean(second_effects.iter().map(|e| -e.after.log_prob).collect()),
        second_activation: mean(activations.iter().map(|a| a.0 as f64).collect()),
        second_activation_first_ablated: mean(activations.iter().map(|a| a.1 as f64).collect()),
        activation_change: change.mean,
        activation_change_half_width: change.half_width,
    })
}
