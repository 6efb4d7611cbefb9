//! Tokens that a direction promotes and suppresses.

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::Model;
use directrix_sae::Sae;

use crate::plan::each_effect;
use crate::{Change, Error, Estimate, Look, Result, Trial};

/// Mean log-probabilities of every token with and without a direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Boosts {
    /// Unchanged, `[d_vocab]`: mean over prompts, at the position before the last.
    pub on: Vec<f64>,
    /// With the direction ablated there.
    pub off: Vec<f64>,
    /// How much the direction raises them: the mean of `on - off`, prompts taken as independent.
    pub boost: Vec<Estimate>,
}

/// Mean log-probability of every token before the answer, with and without `direction` ablated there.
///
/// # Errors
/// If a prompt has fewer than two positions, or as [`effects`](crate::effects).
pub fn log_prob_boosts(model: &Model, sae: &Sae, direction: u32, prompts: &Prompts, watch: &Watch) -> Result<Boosts> {
    let vocabulary = model.config().d_vocab;
    let (mut on, mut off) = (vec![0.0; vocabulary], vec![0.0; vocabulary]);
    let trial = |prompt| {
        let answer = Trial::answer(sae, prompts, prompt, Change::Ablate(vec![direction]))?;
        let look = Look::LogProbs { position: answer.positions.start };
        Ok(Trial { look, ..answer })
    };
    let trials: Vec<Trial> = (0..prompts.len()).map(trial).collect::<Result<_>>()?;
    let (mut sums, mut squares) = (vec![0.0; vocabulary], vec![0.0; vocabulary]);
    each_effect(model, prompts, &trials, watch, |_, effect| {
        let both = effect.before.log_probs()?.iter().zip(effect.after.log_probs()?);
        for ((sum, squares), (on, off)) in sums.iter_mut().zip(&mut squares).zip(both) {
            *sum += on - off;
            *squares += (on - off) * (on - off);
        }
        for (sum, seen) in [(&mut on, &effect.before), (&mut off, &effect.after)] {
            sum.iter_mut().zip(seen.log_probs()?).for_each(|(sum, log_prob)| *sum += log_prob);
        }
        Ok(())
    })?;
    let n = prompts.len() as f64;
    on.iter_mut().chain(&mut off).for_each(|x| *x /= n);
    let boost = sums.into_iter().zip(squares).map(|(sum, squares)| Estimate::of_sums(prompts.len(), sum, squares));
    Ok(Boosts { on, off, boost: boost.collect() })
}

/// What a direction adds to every token's logit per unit of activation, by its weights alone: `W_dec W_out W_U`,
/// `[d_vocab]`, LayerNorm's scale not applied.
///
/// # Errors
/// If the site does not write to the residual stream.
pub fn logit_boosts(model: &Model, sae: &Sae, direction: u32) -> Result<Vec<f32>> {
    sae.check(direction as usize)?;
    let decoder = sae.w_dec().gather([direction as usize].into_iter());
    let written = sae.to_residual(model, &decoder)?;
    let w_u = &model.weights().w_u;
    let mut boosts = Matrix::zeros(1, w_u.columns());
    directrix_kernels::product(written.view(), w_u.view(), &mut boosts, false);
    Ok(boosts.into_data())
}

/// Directions whose boosts are looked at together.
const BLOCK: usize = 512;

/// The `k` tokens of `tokens` whose logit a unit of each direction raises most, and the `k` that it lowers most, by
/// [`logit_boosts`]; largest effect first, ties by token. One pair of lists for each direction.
///
/// # Errors
/// If the site does not write to the residual stream, a token is not in the vocabulary, or `watch` stopped it.
pub fn logit_boost_ends(
    model: &Model,
    sae: &Sae,
    tokens: &[usize],
    k: usize,
    watch: &Watch,
) -> Result<Vec<(Vec<usize>, Vec<usize>)>> {
    let (writes, w_u) = (sae.writes(model)?, &model.weights().w_u);
    if let Some(&token) = tokens.iter().find(|token| **token >= w_u.columns()) {
        return Err(Error::Token { token: token as u32, vocabulary: w_u.columns() });
    }
    let w_u = w_u.view().columns_at(tokens);
    let mut ends = Vec::new();
    for start in (0..writes.rows()).step_by(BLOCK) {
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        let rows = start..(start + BLOCK).min(writes.rows());
        let mut boosts = Matrix::zeros(rows.len(), tokens.len());
        directrix_kernels::product(writes.view().rows_of(rows), w_u.view(), &mut boosts, false);
        ends.extend(boosts.iter_rows().map(|row| ends_of(row, tokens, k)));
    }
    Ok(ends)
}

fn ends_of(boosts: &[f32], tokens: &[usize], k: usize) -> (Vec<usize>, Vec<usize>) {
    let end = |sign: f32| {
        let mut order: Vec<usize> = (0..tokens.len()).filter(|i| boosts[*i] * sign > 0.0).collect();
        let by = |a: &usize, b: &usize| (sign * boosts[*b]).total_cmp(&(sign * boosts[*a])).then(a.cmp(b));
        if order.len() > k {
            order.select_nth_unstable_by(k, by);
            order.truncate(k);
        }
        order.sort_unstable_by(by);
        order.into_iter().map(|i| tokens[i]).collect()
    };
    (end(1.0), end(-1.0))
}
