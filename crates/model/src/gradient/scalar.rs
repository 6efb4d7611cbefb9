//! What is differentiated, and where it meets the model.

use std::sync::Arc;

use directrix_kernels::Matrix;

use super::Back;
use crate::positions::Lengths;
use crate::{BlockHook, Error, HookPoint, Model, Result, Spot};

/// Positions whose logits are held together.
const SPOTS: usize = 64;

/// A number that depends on a prompt: a weighted sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// The prompt.
    pub prompt: usize,
    /// What is summed.
    pub terms: Vec<Term>,
}

/// A part of a [`Scalar`].
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// Position in the prompt.
    pub position: usize,
    /// What the quantity is multiplied by.
    pub weight: f32,
    /// What is read there.
    pub quantity: Quantity,
}

/// A number that a model has at a position.
#[derive(Debug, Clone, PartialEq)]
pub enum Quantity {
    /// A token's logit.
    Logit(u32),
    /// A token's log-probability, in nats.
    LogProb(u32),
    /// The inner product of the row at a hook point with `direction`: with the column of an encoder, a direction's pre-activation but for
    /// its bias.
    Along {
        /// Where the row is: any hook point but those of scores, patterns, divisors of norms, what single heads read, and logits.
        hook: HookPoint,
        /// As wide as the row.
        direction: Arc<[f32]>,
    },
}

impl Scalar {
    /// One quantity at one position.
    pub fn of(prompt: usize, position: usize, quantity: Quantity) -> Scalar {
        Scalar { prompt, terms: vec![Term { position, weight: 1.0, quantity }] }
    }

    /// The logit of the first token less that of the second, predicted at `position`.
    pub fn logit_difference(prompt: usize, position: usize, [token, other]: [u32; 2]) -> Scalar {
        let term = |token, weight| Term { position, weight, quantity: Quantity::Logit(token) };
        Scalar { prompt, terms: vec![term(token, 1.0), term(other, -1.0)] }
    }

    /// The mean loss of predicting every next token of the prompt, whose tokens these are.
    pub fn loss(prompt: usize, tokens: &[u32]) -> Scalar {
        let weight = -1.0 / tokens.len().saturating_sub(1).max(1) as f32;
        let term = |(position, &token)| Term { position, weight, quantity: Quantity::LogProb(token) };
        Scalar { prompt, terms: tokens.iter().skip(1).enumerate().map(term).collect() }
    }

    /// Number of positions that it depends on.
    pub(super) fn end(&self) -> usize {
        self.terms.iter().map(|term| term.position + 1).max().unwrap_or(0)
    }

    /// Where its terms meet the model.
    pub(super) fn hooks(&self) -> impl Iterator<Item = HookPoint> {
        self.terms.iter().map(|term| match &term.quantity {
            Quantity::Logit(_) | Quantity::LogProb(_) => HookPoint::UnembedIn,
            Quantity::Along { hook, .. } => *hook,
        })
    }

    /// Its terms along hook points: hook point, position, weight, direction.
    pub(super) fn along(&self) -> impl Iterator<Item = (HookPoint, usize, f32, &[f32])> {
        self.terms.iter().filter_map(|term| match &term.quantity {
            Quantity::Along { hook, direction } => Some((*hook, term.position, term.weight, &direction[..])),
            _ => None,
        })
    }

    pub(super) fn check(&self, number: usize, model: &Model, lengths: &Lengths) -> Result<()> {
        let failed = |problem: String| Err(Error::Scalar { scalar: number, problem });
        if self.terms.is_empty() {
            return failed("it has no term".into());
        }
        for Term { position, weight, quantity } in &self.terms {
            lengths.check(Spot { prompt: self.prompt, position: *position })?;
            if !weight.is_finite() {
                return failed(format!("a weight is {weight}"));
            }
            match quantity {
                Quantity::Logit(token) | Quantity::LogProb(token) => {
                    model.check_token(self.prompt, *position, *token)?;
                }
                Quantity::Along { hook, direction } => {
                    hook.check(model.config())?;
                    if !is_row(*hook) {
                        return failed(format!("{hook} has no rows that a term can be along"));
                    }
                    let width: usize = hook.shape(model.config(), 0).iter().product();
                    if direction.len() != width {
                        return failed(format!(
                            "a direction has {} numbers, and a row at {hook} has {width}",
                            direction.len()
                        ));
                    }
                    if let Some(at) = direction.iter().position(|x| !x.is_finite()) {
                        return failed(format!("number {at} of a direction is {}", direction[at]));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether a term may be along the rows of a hook point.
pub(super) fn is_row(hook: HookPoint) -> bool {
    use BlockHook as B;
    match hook {
        HookPoint::Block(_, hook) => !matches!(
            hook,
            B::AttnIn
                | B::QInput
                | B::KInput
                | B::VInput
                | B::AttnScores
                | B::Pattern
                | B::Ln1Scale
                | B::Ln2Scale
                | B::Ln1PostScale
                | B::Ln2PostScale
                | B::QNormScale
                | B::KNormScale
        ),
        HookPoint::LnFinalScale | HookPoint::UnembedOut => false,
        _ => true,
    }
}

impl Back<'_> {
    /// The scalars' terms along hook points, to be met on the way, and what they sum to.
    pub(super) fn plant(&mut self, scalars: &[Scalar]) -> Vec<f64> {
        let mut values = vec![0.0; scalars.len()];
        for (number, scalar) in scalars.iter().enumerate() {
            for (hook, position, weight, direction) in scalar.along() {
                let row = self.offsets[number] + position;
                let at = self.run.captured(hook).row(self.rows[row]);
                values[number] += f64::from(weight) * directrix_kernels::dot(at, direction);
                let scaled = direction.iter().map(|x| weight * x).collect();
                self.seeds.entry(hook).or_default().push((row, scaled));
            }
        }
        values
    }

    /// The gradient at what the unembedding reads; what the scalars' terms of logits sum to is added to their values.
    pub(super) fn at_unembedding(&self, scalars: &[Scalar], values: &mut [f64]) -> Matrix {
        let mut g = Matrix::zeros(self.rows.len(), self.model.config().d_model);
        let mut by_row: Vec<(usize, usize, &Term)> = Vec::new();
        for (number, scalar) in scalars.iter().enumerate() {
            let of_logits = scalar.terms.iter().filter(|term| !matches!(term.quantity, Quantity::Along { .. }));
            by_row.extend(of_logits.map(|term| (self.offsets[number] + term.position, number, term)));
        }
        by_row.sort_by_key(|(row, ..)| *row);
        let rows: Vec<usize> = by_row.chunk_by(|a, b| a.0 == b.0).map(|same| same[0].0).collect();
        for rows in rows.chunks(SPOTS) {
            let x = self.run.captured(HookPoint::UnembedIn).gather(rows.iter().map(|row| self.rows[*row]));
            let mut logits = self.model.unembed(&x);
            let sums = directrix_kernels::log_sum_exp(&logits);
            for (at, row) in rows.iter().enumerate() {
                let first = by_row.partition_point(|term| term.0 < *row);
                let own: Vec<_> = by_row[first..].iter().take_while(|term| term.0 == *row).collect();
                let row = logits.row_mut(at);
                let of_token = |token: u32| f64::from(row[token as usize]);
                for (_, number, Term { weight, quantity, .. }) in &own {
                    let value = match quantity {
                        Quantity::LogProb(token) => of_token(*token) - sums[at],
                        Quantity::Logit(token) => of_token(*token),
                        Quantity::Along { .. } => 0.0,
                    };
                    values[*number] += f64::from(*weight) * value;
                }
                let share: f32 = own
                    .iter()
                    .filter(|(.., term)| matches!(term.quantity, Quantity::LogProb(_)))
                    .map(|(.., term)| term.weight)
                    .sum();
                let cap = self.model.config().logit_soft_cap;
                let slope = |logit: f32| cap.map_or(1.0, |cap| 1.0 - (logit / cap).powi(2));
                let tokens: Vec<(usize, f32)> = own
                    .iter()
                    .filter_map(|(.., term)| match term.quantity {
                        Quantity::Logit(token) | Quantity::LogProb(token) => {
                            Some((token as usize, term.weight * slope(row[token as usize])))
                        }
                        Quantity::Along { .. } => None,
                    })
                    .collect();
                for logit in row.iter_mut() {
                    let probability = if share == 0.0 { 0.0 } else { (f64::from(*logit) - sums[at]).exp() as f32 };
                    *logit = -share * probability * slope(*logit);
                }
                tokens.into_iter().for_each(|(token, weight)| row[token] += weight);
            }
            // Now the scalars' derivatives by every logit before any soft cap.
            let mut by_row = Matrix::zeros(rows.len(), g.columns());
            directrix_kernels::product(logits.view(), self.model.weights().w_u.view().transposed(), &mut by_row, false);
            for (row, from) in rows.iter().zip(by_row.iter_rows()) {
                g.row_mut(*row).copy_from_slice(from);
            }
        }
        g
    }
}
