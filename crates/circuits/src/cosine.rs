//! Pairs of directions, one in each of two SAEs, that point the same way.

use std::cmp::Ordering;

use directrix_corpus::{Prompts, Watch};
use directrix_index::{Example, Index, SaeIndex};
use directrix_kernels::{Encoder, Keep, Screen};
use directrix_model::Model;
use directrix_sae::Sae;
use serde::Serialize;

use crate::claim::{named, with_controls};
use crate::{About, Change, Chosen, Claim, Controls, Effect, Error, Estimate, Look, Matched, Result, Trial, effects};

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
/// No more pairs are held.
const MOST_PAIRS: usize = 1 << 20;
/// The first block: all of its cosines are held, until it is known which are high.
const FIRST_ROWS: usize = 16;

/// The `k` pairs with the highest cosine, over all pairs, at most a million; highest first.
///
/// `lower_triangle` leaves out pairs whose second number is above the first, as the origin's `torch.tril` does: between two
/// SAEs that has no meaning, and drops half of the pairs.
///
/// # Errors
/// If the SAEs are in the wrong order, the first does not write to the residual stream, the second does not read neurons, a
/// cosine is not finite, or `watch` stopped it.
pub fn cosine_pairs(
    model: &Model,
    first: &Sae,
    second: &Sae,
    k: usize,
    lower_triangle: bool,
    watch: &Watch,
) -> Result<Vec<CosinePair>> {
    check_order(first, second)?;
    let (mut writes, mut reads) = (first.writes(model)?, second.reads(model)?);
    directrix_kernels::normalise_rows(&mut writes);
    directrix_kernels::normalise_rows(&mut reads);
    let no_bias = vec![0.0; reads.rows()];
    let screen = Screen::new(&reads);
    let k = k.min(MOST_PAIRS);
    let mut top: Vec<CosinePair> = Vec::new();
    let mut start = 0;
    while start < writes.rows() && k > 0 {
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
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
    /// The pair.
    #[serde(flatten)]
    pub pair: CosinePair,
    /// Means over the prompts with the highest activation of the first direction, at the position of that maximum.
    #[serde(flatten)]
    pub means: PairMeans,
    /// How much the second direction's activation changes there when the first is ablated.
    #[serde(flatten, serialize_with = "named")]
    pub activation_change: Claim,
}

/// Means where the first direction of a pair is most active.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairMeans {
    /// Loss, unchanged, nats.
    pub loss: f64,
    /// Half width of its 95 % interval, as below.
    pub loss_half_width: f64,
    /// Loss with the first direction ablated there.
    pub loss_first_ablated: f64,
    /// Its interval.
    pub loss_first_ablated_half_width: f64,
    /// Loss with the second direction ablated there.
    pub loss_second_ablated: f64,
    /// Its interval.
    pub loss_second_ablated_half_width: f64,
    /// Activation of the second direction there.
    pub second_activation: f64,
    /// Its interval.
    pub second_activation_half_width: f64,
    /// The same with the first direction ablated there.
    pub second_activation_first_ablated: f64,
    /// Its interval.
    pub second_activation_first_ablated_half_width: f64,
}

impl PairMeans {
    /// From the effects of ablating either direction on the prediction, and of the first on the second's activation.
    fn of(first: &[Effect], second: &[Effect], activations: &[Effect]) -> Result<PairMeans> {
        let mean = |effects: &[Effect], value: fn(&Effect) -> Result<f64>| {
            Ok::<_, Error>(Estimate::of(effects.iter().map(value).collect::<Result<Vec<_>>>()?))
        };
        let loss = mean(first, |e| e.before.loss())?;
        let [of_first, of_second] = [mean(first, |e| e.after.loss())?, mean(second, |e| e.after.loss())?];
        let activation = mean(activations, |e| Ok(e.before.activation()? as f64))?;
        let ablated = mean(activations, |e| Ok(e.after.activation()? as f64))?;
        Ok(PairMeans {
            loss: loss.mean,
            loss_half_width: loss.half_width,
            loss_first_ablated: of_first.mean,
            loss_first_ablated_half_width: of_first.half_width,
            loss_second_ablated: of_second.mean,
            loss_second_ablated_half_width: of_second.half_width,
            second_activation: activation.mean,
            second_activation_half_width: activation.half_width,
            second_activation_first_ablated: ablated.mean,
            second_activation_first_ablated_half_width: ablated.half_width,
        })
    }
}

/// [`PairEffect`] of each pair over the `k` prompts of the index on which its first direction is most active;
/// `first_index` is the index's part of the first SAE.
///
/// # Errors
/// If the SAEs are in the wrong order, or as [`effects`].
pub fn pair_effects(
    model: &Model,
    [first, second]: [&Sae; 2],
    index: &Index,
    first_index: &SaeIndex,
    pairs: &[CosinePair],
    k: usize,
    watch: &Watch,
) -> Result<Vec<PairEffect>> {
    check_order(first, second)?;
    let matched = Matched::of(first_index);
    let examples: Vec<Vec<Example>> =
        pairs.iter().map(|pair| first_index.top_examples(pair.first, k)).collect::<Result<_, _>>()?;
    // A prompt of several pairs is run once for all of them.
    let mut numbers: Vec<usize> = examples.iter().flatten().map(|example| example.prompt).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let rows: Vec<&[u32]> = numbers.iter().map(|&prompt| index.prompt(prompt)).collect::<Result<_, _>>()?;
    let prompts = Prompts::from_rows(rows);
    let place = |example: &Example| (numbers.partition_point(|p| *p < example.prompt), example.position);
    let mut trials = Vec::new();
    for (pair, examples) in pairs.iter().zip(&examples) {
        let [one, two] = [pair.first, pair.second].map(|direction| Change::Ablate(vec![direction as u32]));
        for (sae, change) in [(first, &one), (second, &two)] {
            for (prompt, position) in predicting(&prompts, examples.iter().map(place)) {
                trials.push(Trial::at(sae, &prompts, prompt, position, change.clone())?);
            }
        }
        let activation = |(prompt, position)| Trial {
            prompt,
            sae: first,
            positions: position..position + 1,
            change: one.clone(),
            look: Look::Activation { sae: second, direction: pair.second as u32, position },
        };
        let activations: Vec<Trial> = examples.iter().map(place).map(activation).collect();
        trials.extend(with_controls(&activations, Some(&matched)).into_iter().flatten());
    }
    let mut effects = effects(model, &prompts, &trials, watch)?.into_iter();
    let about = About {
        chosen: Chosen::ByWeights("cosine"),
        change: "the first ablated where it is most active",
        measure: "activation_change",
        unit: "activation of the second",
        over: "prompts",
    };
    let change = |effects: &[Effect]| {
        let of = |e: &Effect| Ok((e.after.activation()? - e.before.activation()?) as f64);
        Ok::<_, Error>(Estimate::of(effects.iter().map(of).collect::<Result<Vec<_>>>()?))
    };
    let (mut means, mut claims) = (Vec::new(), Vec::new());
    for examples in &examples {
        let predicted = predicting(&prompts, examples.iter().map(place)).count();
        let there = examples.len();
        let [one, two, activations, rows, directions] =
            [predicted, predicted, there, there, there].map(|n| effects.by_ref().take(n).collect::<Vec<_>>());
        let controls = Controls { rows: Some(change(&rows)?), directions: Some(change(&directions)?) };
        claims.push((about, change(&activations)?, controls));
        means.push(PairMeans::of(&one, &two, &activations)?);
    }
    let row = |((pair, means), activation_change): ((&CosinePair, PairMeans), Claim)| PairEffect {
        pair: *pair,
        means,
        activation_change,
    };
    Ok(pairs.iter().zip(means).zip(Claim::list(claims)).map(row).collect())
}

/// Those places whose position has a next token.
fn predicting(prompts: &Prompts, places: impl Iterator<Item = (usize, usize)>) -> impl Iterator<Item = (usize, usize)> {
    places.filter(|&(prompt, position)| position + 1 < prompts.get(prompt).len())
}

/// That what `first` writes can reach `second`.
///
/// # Errors
/// [`Error::Order`] if not.
pub fn check_order(first: &Sae, second: &Sae) -> Result<()> {
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
