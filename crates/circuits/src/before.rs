//! Activations before one token against those before another.

use std::collections::BTreeMap;

use directrix_corpus::Watch;
use directrix_index::{Index, SaeIndex};
use serde::Serialize;

use crate::{About, Chosen, Claim, Controls, Error, Estimate, Result};

/// How strongly a direction fires where one token follows, and where another does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BeforeTokens {
    /// The direction.
    pub direction: usize,
    /// Mean activation at the positions before the one token, zeros included.
    pub before_one: f64,
    /// The same before the other token.
    pub before_other: f64,
    /// The first mean less the second.
    #[serde(flatten)]
    pub difference: Claim,
}

/// What is found before two tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Before {
    /// Positions before each of the two.
    pub positions: [usize; 2],
    /// Prompts that have such a position, before either.
    pub prompts: usize,
    /// Every direction that fires at one of them, by number.
    pub directions: Vec<BeforeTokens>,
}

/// Positions of one prompt before each of the two tokens.
#[derive(Clone, Copy, Default)]
struct There {
    n: [f64; 2],
}

/// Mean activations of every direction of `sae`, a part of `index`, at the positions whose next token is `one` and at those whose next
/// token is `other`, of those positions of the corpus that count. The difference of means has an interval clustered by prompt: that of a
/// regression on which token follows, with the robust variance of Liang and Zeger 1986.
///
/// # Errors
/// If the two are the same, a token is not in the vocabulary, or the index is damaged; [`Error::Stopped`].
pub fn before_tokens(index: &Index, sae: &SaeIndex, [one, other]: [u32; 2], watch: &Watch) -> Result<Before> {
    let vocabulary = index.meta().vocabulary;
    if let Some(token) = [one, other].into_iter().find(|token| *token as usize >= vocabulary) {
        return Err(Error::Token { token, vocabulary });
    }
    if one == other {
        return Err(Error::SameToken { token: one });
    }
    let counted = &index.meta().identity.options.counted;
    let mut there: Vec<There> = Vec::new();
    // By direction, the prompts in which it fires there (by their number in `there`) with the sums before each token.
    let mut sums: BTreeMap<u32, Vec<(usize, [f64; 2])>> = BTreeMap::new();
    for prompt in 0..index.prompts() {
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        let tokens = index.prompt(prompt)?;
        let mut own = There::default();
        for (position, pair) in tokens.windows(2).enumerate() {
            let Some(which) = [one, other].iter().position(|token| *token == pair[1]) else { continue };
            if !counted.counts(position, tokens.len(), pair[0]) {
                continue;
            }
            own.n[which] += 1.0;
            let (directions, values) = sae.at(prompt, position)?;
            for (direction, value) in directions.iter().zip(values) {
                let of = sums.entry(*direction).or_default();
                let mut sum = [0.0; 2];
                sum[which] = *value as f64;
                match of.last_mut() {
                    Some((number, known)) if *number == there.len() => known[which] += sum[which],
                    _ => of.push((there.len(), sum)),
                }
            }
        }
        if own.n != [0.0; 2] {
            there.push(own);
        }
    }
    let total = [0, 1].map(|which| there.iter().map(|prompt| prompt.n[which]).sum::<f64>());
    let about = About {
        chosen: Chosen::Given,
        change: "before one token, and before the other",
        measure: "difference",
        unit: "activation",
        over: "positions",
    };
    let rows: Vec<(usize, [f64; 2], Estimate)> = if total.contains(&0.0) {
        Vec::new()
    } else {
        let row = |(direction, of): (u32, Vec<(usize, [f64; 2])>)| {
            let (means, difference) = difference(&there, total, &of);
            (direction as usize, means, difference)
        };
        sums.into_iter().map(row).collect()
    };
    let claims = Claim::list(rows.iter().map(|(_, _, difference)| (about, *difference, Controls::default())));
    let row = |(&(direction, means, _), difference): (&(usize, [f64; 2], Estimate), Claim)| {
        let [before_one, before_other] = means;
        BeforeTokens { direction, before_one, before_other, difference }
    };
    Ok(Before {
        positions: total.map(|n| n as usize),
        prompts: there.len(),
        directions: rows.iter().zip(claims).map(row).collect(),
    })
}

/// Both means and their difference, of the sums of those prompts in which a direction fires.
fn difference(there: &[There], total: [f64; 2], sums: &[(usize, [f64; 2])]) -> ([f64; 2], Estimate) {
    let means = [0, 1].map(|which| sums.iter().map(|(_, sum)| sum[which]).sum::<f64>() / total[which]);
    // What a prompt adds to the error of the difference.
    let part = |n: [f64; 2], sum: [f64; 2]| {
        let [one, other] = [0, 1].map(|which| (sum[which] - means[which] * n[which]) / total[which]);
        one - other
    };
    let silent = |prompt: &There| part(prompt.n, [0.0; 2]).powi(2);
    let mut squares: f64 = there.iter().map(silent).sum();
    for (number, sum) in sums {
        squares += part(there[*number].n, *sum).powi(2) - silent(&there[*number]);
    }
    let n = (total[0] + total[1]) as usize;
    (means, Estimate::of_parts(n, means[0] - means[1], there.len(), squares))
}
