//! What a changed site does to the model's predictions.

use std::ops::Range;

use directrix_kernels::Matrix;
use directrix_model::Model;
use rayon::prelude::*;

/// Rows unembedded at a time: so many logits exist at once, clean and changed.
const ROWS: usize = 64;

/// How each token of a batch is predicted, unchanged and changed.
pub(super) struct Compared {
    /// Losses, in nats.
    pub(super) clean: Vec<f64>,
    /// Per change and token: loss, and `KL(clean ‖ changed)` of the distributions, in nats.
    pub(super) changed: Vec<Vec<(f64, f64)>>,
}

/// Compares predictions: rows are what the unembedding reads (`unembed.hook_in`), `targets` the tokens they predict.
pub(super) fn compare(model: &Model, clean: &Matrix, changed: &[&Matrix], targets: &[u32]) -> Compared {
    let vocabulary = model.config().d_vocab;
    let unembed = |x: &Matrix, rows: &Range<usize>| {
        let logits = model.unembed(&x.gather(rows.clone()));
        let sums = directrix_kernels::log_sum_exp(&logits);
        (logits, sums)
    };
    let mut compared = Compared { clean: Vec::new(), changed: vec![Vec::new(); changed.len()] };
    for start in (0..targets.len()).step_by(ROWS) {
        let rows = start..(start + ROWS).min(targets.len());
        let targets = &targets[rows.clone()];
        let loss = |logits: &[f32], sum: f64, target: u32| sum - logits[target as usize] as f64;
        let (logits, sums) = unembed(clean, &rows);
        compared.clean.extend(targets.iter().enumerate().map(|(i, &target)| loss(logits.row(i), sums[i], target)));
        let mut probabilities = vec![0.0_f64; logits.data().len()];
        probabilities.par_chunks_mut(vocabulary).enumerate().for_each(|(i, row)| {
            row.iter_mut().zip(logits.row(i)).for_each(|(p, &logit)| *p = (logit as f64 - sums[i]).exp());
        });
        for (x, compared) in changed.iter().zip(&mut compared.changed) {
            let (other, other_sums) = unembed(x, &rows);
            let of_row = |i: usize| {
                let p = &probabilities[i * vocabulary..][..vocabulary];
                let kl = divergence(p, logits.row(i), other.row(i), sums[i] - other_sums[i]);
                (loss(other.row(i), other_sums[i], targets[i]), kl)
            };
            compared.par_extend((0..rows.len()).into_par_iter().map(of_row));
        }
    }
    compared
}

/// `Σ p ((a − Σa) − (b − Σb))`, where `shift = Σa − Σb` are the logits' log-sum-exps, in eight partial sums.
fn divergence(p: &[f64], a: &[f32], b: &[f32], shift: f64) -> f64 {
    let mut lanes = [0.0_f64; 8];
    for ((p, a), b) in p.chunks(8).zip(a.chunks(8)).zip(b.chunks(8)) {
        for (((lane, &p), &a), &b) in lanes.iter_mut().zip(p).zip(a).zip(b) {
            *lane += p * ((a as f64 - b as f64) - shift);
        }
    }
    lanes.iter().sum()
}

/// The predictions with a site changed: sums over each prompt's predicted tokens, in nats.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) losses: Vec<f64>,
    /// `KL(clean ‖ changed)`.
    pub(super) kl: Vec<f64>,
}

impl Changed {
    /// Adds the tokens of more prompts; `by_prompt` are each prompt's.
    pub(super) fn add(&mut self, tokens: &[(f64, f64)], by_prompt: &[Range<usize>]) {
        for tokens in by_prompt.iter().map(|range| &tokens[range.clone()]) {
            self.losses.push(tokens.iter().map(|token| token.0).sum());
            self.kl.push(tokens.iter().map(|token| token.1).sum());
        }
    }
}
