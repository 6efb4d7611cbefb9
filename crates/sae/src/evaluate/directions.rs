//! What each direction is like: when it fires, and what its weights say.

use std::collections::HashMap;

use directrix_corpus::Prompts;
use directrix_kernels::{Matrix, SparseActivations, dot};
use directrix_model::Model;
use rayon::prelude::*;

use super::{DensityBin, DirectionEvaluation, EvaluationOptions};
use crate::Sae;

/// Different tokens counted per direction.
const TOKENS: usize = 64;
/// Directions whose logits exist at once.
const DIRECTIONS: usize = 64;
/// Least and greatest logarithm of the density histogram, and the number of its bins.
const LOG10_DENSITIES: (f64, f64, usize) = (-7.0, 0.0, 28);

/// When an SAE's directions fire. Per direction, memory is bounded.
pub(super) struct Firing {
    counts: Vec<u64>,
    tokens: Vec<TokenCounts>,
    prompts: Vec<TopPrompts>,
    most: usize,
    /// Scratch: each direction's maximum in the current prompt; `-inf` where it is not active.
    maxima: Vec<f32>,
}

/// Counts of the commonest tokens of a stream; exact until there are more than [`TOKENS`] different ones, then each too
/// low by at most a 1/65 of the stream (Misra and Gries 1982).
#[derive(Default, Clone)]
struct TokenCounts(Vec<(u32, u64)>);

/// Prompts by highest activation, best first; of equal ones the earlier first.
#[derive(Default, Clone)]
struct TopPrompts(Vec<(f32, usize)>);

impl TokenCounts {
    fn add(&mut self, token: u32) {
        if let Some((_, count)) = self.0.iter_mut().find(|(counted, _)| *counted == token) {
            *count += 1;
        } else if self.0.len() < TOKENS {
            self.0.push((token, 1));
        } else {
            self.0.retain_mut(|(_, count)| {
                *count -= 1;
                *count > 0
            });
        }
    }

    /// The commonest token and its count; of equal ones the lower.
    fn top(&self) -> Option<(u32, u64)> {
        self.0.iter().copied().max_by_key(|&(token, count)| (count, std::cmp::Reverse(token)))
    }
}

impl TopPrompts {
    fn add(&mut self, activation: f32, prompt: usize, most: usize) {
        let place = self.0.partition_point(|(other, _)| *other >= activation);
        if place < most {
            self.0.truncate(most - 1);
            self.0.insert(place, (activation, prompt));
        }
    }
}

impl Firing {
    pub(super) fn new(directions: usize, top_prompts: usize) -> Firing {
        Firing {
            counts: vec![0; directions],
            tokens: vec![TokenCounts::default(); directions],
            prompts: vec![TopPrompts::default(); directions],
            most: top_prompts,
            maxima: vec![f32::NEG_INFINITY; directions],
        }
    }

    /// Adds the activations at `rows` of all prompts' rows, ascending; the first prompt has number `first`.
    pub(super) fn add(&mut self, acts: &SparseActivations, prompts: &Prompts, rows: &[usize], first: usize) {
        let mut active = Vec::new();
        let mut position = 0;
        for (prompt, ends) in prompts.offsets().windows(2).enumerate() {
            while rows.get(position).is_some_and(|row| *row < ends[1]) {
                let token = prompts.tokens()[rows[position]];
                let (directions, values) = acts.at(position);
                position += 1;
                for (&direction, &value) in directions.iter().zip(values) {
                    let d = direction as usize;
                    self.counts[d] += 1;
                    self.tokens[d].add(token);
                    if self.maxima[d] == f32::NEG_INFINITY {
                        active.push(d);
                    }
                    self.maxima[d] = self.maxima[d].max(value);
                }
            }
            for direction in active.drain(..) {
                let maximum = std::mem::replace(&mut self.maxima[direction], f32::NEG_INFINITY);
                self.prompts[direction].add(maximum, first + prompt, self.most);
            }
        }
    }

    /// All directions of `sae`, which fired like this over `positions`.
    pub(super) fn directions(
        &self,
        model: &Model,
        sae: &Sae,
        positions: u64,
        options: &EvaluationOptions,
    ) -> Vec<DirectionEvaluation> {
        let kurtosis = logit_kurtosis(model, sae);
        let density = |direction: usize| self.counts[direction] as f64 / positions as f64;
        let is_rare = |direction: &usize| self.counts[*direction] > 0 && density(*direction) < options.rare_below;
        let rare: Vec<usize> = (0..sae.directions()).filter(is_rare).collect();
        let mut cosines = vec![f64::NAN; sae.directions()];
        let mut shared = cosines.clone();
        for (&direction, cosine) in rare.iter().zip(cosines_with_others(sae.encoder(), &rare)) {
            cosines[direction] = cosine;
        }
        for (&direction, share) in rare.iter().zip(self.shared_prompts(&rare)) {
            shared[direction] = share;
        }
        let of = |direction: usize| {
            let top = self.tokens[direction].top();
            let top_token_share = top.map_or(f64::NAN, |(_, count)| count as f64 / self.counts[direction] as f64);
            let rare = is_rare(&direction);
            DirectionEvaluation {
                direction,
                density: density(direction),
                encoder_decoder_cosine: if sae.site().is_one_place() {
                    cosine(sae.encoder().row(direction), sae.w_dec().row(direction))
                } else {
                    f64::NAN
                },
                logit_kurtosis: kurtosis.as_ref().map_or(f64::NAN, |kurtosis| kurtosis[direction]),
                top_token: top.map(|(token, _)| token),
                top_token_share,
                rare_cosine: cosines[direction],
                shared_prompts_share: shared[direction],
                rare,
                aligned: rare && cosines[direction] >= options.aligned_from,
                shared_prompts: rare && shared[direction] >= options.shared_from,
                single_token: rare && top_token_share >= options.single_token_from,
            }
        };
        (0..sae.directions()).map(of).collect()
    }

    /// For each of some directions, the largest number of top prompts it has in common with another of them, as a share of
    /// the longer of the two lists.
    fn shared_prompts(&self, among: &[usize]) -> Vec<f64> {
        let mut by_prompt: HashMap<usize, Vec<usize>> = HashMap::new();
        for &direction in among {
            for (_, prompt) in &self.prompts[direction].0 {
                by_prompt.entry(*prompt).or_default().push(direction);
            }
        }
        let share = |&direction: &usize| {
            let own = &self.prompts[direction].0;
            let mut common: HashMap<usize, usize> = HashMap::new();
            for other in own.iter().flat_map(|(_, prompt)| &by_prompt[prompt]).filter(|other| **other != direction) {
                *common.entry(*other).or_default() += 1;
            }
            let share = |(other, n): (&usize, &usize)| *n as f64 / own.len().max(self.prompts[*other].0.len()) as f64;
            common.iter().map(share).fold(0.0, f64::max)
        };
        among.par_iter().map(share).collect()
    }
}

/// For each of some rows, its cosine with the sum of the others, all normalised; `NaN` where there is no other.
fn cosines_with_others(rows: &Matrix, among: &[usize]) -> Vec<f64> {
    let normalised = |&row: &usize| {
        let length = dot(rows.row(row), rows.row(row)).sqrt();
        rows.row(row).iter().map(move |&x| if length > 0.0 { x as f64 / length } else { 0.0 })
    };
    let mut sum = vec![0.0_f64; rows.columns()];
    for row in among {
        sum.iter_mut().zip(normalised(row)).for_each(|(sum, x)| *sum += x);
    }
    let cosine = |row: &usize| {
        if among.len() < 2 {
            return f64::NAN;
        }
        let (mut along, mut square) = (0.0_f64, 0.0_f64);
        for (sum, x) in sum.iter().zip(normalised(row)) {
            let others = sum - x;
            along += others * x;
            square += others * others;
        }
        along / square.sqrt()
    };
    among.par_iter().map(cosine).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Excess kurtosis over the vocabulary of what each direction adds to the logits per unit of activation, LayerNorm's scale
/// not applied; `None` where the site does not write to the residual stream.
fn logit_kurtosis(model: &Model, sae: &Sae) -> Option<Vec<f64>> {
    let writes = sae.writes(model).ok()?;
    let w_u = &model.weights().w_u;
    let mut kurtosis = Vec::with_capacity(writes.rows());
    for start in (0..writes.rows()).step_by(DIRECTIONS) {
        let block = writes.view().rows_of(start..(start + DIRECTIONS).min(writes.rows()));
        let mut logits = Matrix::zeros(block.rows(), w_u.columns());
        directrix_kernels::product(block, w_u.view(), &mut logits, false);
        kurtosis.par_extend((0..logits.rows()).into_par_iter().map(|row| excess_kurtosis(logits.row(row))));
    }
    Some(kurtosis)
}

/// `m₄ / m₂² − 3`, of the central moments.
fn excess_kurtosis(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| x as f64).sum::<f64>() / n;
    let (mut second, mut fourth) = (0.0_f64, 0.0_f64);
    for &x in values {
        let square = (x as f64 - mean).powi(2);
        second += square;
        fourth += square * square;
    }
    n * fourth / (second * second) - 3.0
}

/// The histogram of the logarithms of `densities`, zeros left out.
pub(super) fn densities(densities: impl Iterator<Item = f64>) -> Vec<DensityBin> {
    let (least, greatest, bins) = LOG10_DENSITIES;
    let width = (greatest - least) / bins as f64;
    let bound = |bin: usize| least + bin as f64 * width;
    let bin = |bin| DensityBin { log10_from: bound(bin), log10_to: bound(bin + 1), directions: 0 };
    let mut histogram: Vec<DensityBin> = (0..bins).map(bin).collect();
    for density in densities.filter(|density| *density > 0.0) {
        let bin = ((density.log10() - least) / width).max(0.0) as usize;
        histogram[bin.min(bins - 1)].directions += 1;
    }
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_counts_are_exact_while_tokens_are_few_and_never_far_off() {
        let mut counts = TokenCounts::default();
        for i in 0..TOKENS as u32 {
            counts.add(i);
            counts.add(7);
        }
        assert_eq!(counts.top(), Some((7, TOKENS as u64 + 1)));
        let mut counts = TokenCounts::default();
        for i in 0..10_000_u32 {
            counts.add(if i % 10 == 0 { 1000 + i } else { 3 });
        }
        let (token, count) = counts.top().unwrap();
        assert!(token == 3 && (9000 - 10_000 / 65..=9000).contains(&count), "{count}");
    }

    #[test]
    fn top_prompts_are_the_highest_and_of_equals_the_first() {
        let mut top = TopPrompts::default();
        for (prompt, activation) in [1.0, 3.0, 2.0, 3.0, 2.0, 0.5].into_iter().enumerate() {
            top.add(activation, prompt, 3);
        }
        assert_eq!(top.0, [(3.0, 1), (3.0, 3), (2.0, 2)]);
        top.add(9.0, 6, 0);
        assert_eq!(top.0.len(), 3);
    }

    #[test]
    fn kurtosis_of_two_values_is_minus_two_and_of_an_outlier_large() {
        assert_eq!(excess_kurtosis(&[1.0, -1.0, 1.0, -1.0]), -2.0);
        let mut values = [0.0; 100];
        values[0] = 1.0;
        assert!(excess_kurtosis(&values) > 90.0);
        assert!(excess_kurtosis(&[2.0; 4]).is_nan());
    }

    #[test]
    fn densities_fall_into_fixed_bins() {
        let bins = densities([1.0, 0.5, 1e-9, 0.0, 1e-3].into_iter());
        assert_eq!((bins.len(), bins[0].directions, bins[27].directions, bins[26].directions), (28, 1, 1, 1));
        assert_eq!(bins[27].log10_to, 0.0);
        assert_eq!(bins.iter().map(|bin| bin.directions).sum::<u64>(), 4);
    }

    #[test]
    fn rows_that_agree_have_cosine_one() {
        let rows = Matrix::from_rows(&[[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]);
        assert_eq!(cosines_with_others(&rows, &[0, 1]), [1.0, 1.0]);
        assert!(cosines_with_others(&rows, &[2])[0].is_nan());
        assert!(cosines_with_others(&rows, &[0, 2])[1].abs() < 1e-12);
    }
}
