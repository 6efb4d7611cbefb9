//! One SAE in training: its parameters, and the step that improves them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use directrix_kernels::{Adam, ByDirection, Encoder, Keep, Matrix, SparseActivations};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::gradient::Gradient;
use super::objective::{Batch, Encoded, Objective, Revived, Terms, mean_square, negated, per_position};
use super::over::Over;
use super::parameter::{Numbers, Rows};
use super::report::StepReport;
use crate::{Error, Normalisation, Parameters, Result, Sae, Site};

/// Groups of directions, each with the sum of the errors that it has a part in, `[positions, d_in]`.
pub(super) type Errors = Vec<(Range<usize>, Matrix)>;

/// Uniform numbers in a number of a first weight.
const DRAWS: usize = 4;

/// An SAE in training, or those of its directions that a rank holds. The encoder is held as rows, like the decoder: `w_enc`
/// is the transpose of SAELens's `W_enc`.
#[derive(Debug, Clone)]
pub struct Trainer {
    pub(super) objective: Arc<dyn Objective>,
    /// The number of its first direction, and how many there are, here and on other ranks.
    pub(super) first: usize,
    pub(super) all: usize,
    /// Encoder rows, `[directions, d_in]`.
    pub w_enc: Rows,
    /// Decoder rows, `[directions, d_in]`, of length 1.
    pub w_dec: Rows,
    /// Encoder bias, `[directions]`; of a gated SAE, the gates'.
    pub b_enc: Numbers,
    /// Decoder bias, `[d_in]`, taken from the input too.
    pub b_dec: Numbers,
    /// What the objective trains beside, by name, `[directions]` each.
    pub extras: BTreeMap<&'static str, Numbers>,
    /// What the objective keeps of the batches so far, such as a running threshold.
    pub running: Vec<f32>,
    /// Steps taken.
    pub(super) steps: u64,
    /// Positions since each direction last fired.
    pub(super) silent: Vec<u64>,
    /// Positions each direction has fired at since the counts were last taken, and positions in all.
    pub(super) fired: Vec<u64>,
    pub(super) counted: u64,
}

/// How a step is taken.
#[derive(Debug, Clone, Copy)]
pub struct StepOptions {
    /// Learning rate.
    pub rate: f64,
    /// Shares that Adam keeps of its running means, of the gradient and of its square.
    pub betas: [f64; 2],
    /// What Adam adds to the root it divides by.
    pub eps: f64,
    /// Factor on the objective's coefficients.
    pub coefficient_scale: f64,
}

impl Trainer {
    /// An SAE with random unit decoder rows, the encoder their transpose, and no bias (`b_dec` as given, `[d_in]`).
    ///
    /// # Panics
    /// As [`from_parts`](Trainer::from_parts).
    pub fn new(objective: Arc<dyn Objective>, directions: usize, b_dec: Vec<f32>, seed: u64) -> Trainer {
        Trainer::held(objective, 0..directions, directions, b_dec, seed)
    }

    /// Some of the `all` directions of [`new`](Trainer::new), with the numbers they have there.
    pub(super) fn held(
        objective: Arc<dyn Objective>,
        held: Range<usize>,
        all: usize,
        b_dec: Vec<f32>,
        seed: u64,
    ) -> Trainer {
        let (directions, d_in) = (held.len(), b_dec.len());
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // A number of 32 bits is a word of the stream.
        random.set_word_pos(DRAWS as u128 * held.start as u128 * d_in as u128);
        // Sums of uniforms are near enough to normal that the directions are uniform on the sphere.
        let mut draw = || (0..DRAWS).map(|_| random.random::<f32>() - 0.5).sum::<f32>();
        let mut w = Matrix::new((0..directions * d_in).map(|_| draw()).collect(), directions, d_in);
        directrix_kernels::normalise_rows(&mut w);
        Trainer::of(objective, held.start, all, [w.clone(), w], [vec![0.0; directions], b_dec])
    }

    /// An SAE of these weights (`[directions, d_in]`) and biases; what the objective trains beside is at its beginning.
    ///
    /// # Panics
    /// If the objective's prefixes do not ascend to all directions.
    pub fn from_parts(
        objective: Arc<dyn Objective>,
        w_enc: Matrix,
        w_dec: Matrix,
        b_enc: Vec<f32>,
        b_dec: Vec<f32>,
    ) -> Trainer {
        let directions = w_dec.rows();
        Trainer::of(objective, 0, directions, [w_enc, w_dec], [b_enc, b_dec])
    }

    /// The directions from `first` on, of `all`, with these weights and biases.
    pub(super) fn of(
        objective: Arc<dyn Objective>,
        first: usize,
        all: usize,
        [w_enc, w_dec]: [Matrix; 2],
        [b_enc, b_dec]: [Vec<f32>; 2],
    ) -> Trainer {
        let directions = w_dec.rows();
        let prefixes = objective.prefixes(all);
        assert!(prefixes.is_sorted() && prefixes.last() == Some(&all), "prefixes {prefixes:?} of {all}");
        let extras =
            objective.extras(directions).into_iter().map(|(name, value)| (name, Numbers::new(value))).collect();
        Trainer {
            objective,
            first,
            all,
            w_enc: Rows::new(w_enc),
            w_dec: Rows::new(w_dec),
            b_enc: Numbers::new(b_enc),
            b_dec: Numbers::new(b_dec),
            extras,
            running: Vec::new(),
            steps: 0,
            silent: vec![0; directions],
            fired: vec![0; directions],
            counted: 0,
        }
    }

    /// An SAE to go on from; Adam begins anew.
    ///
    /// # Errors
    /// If the SAE's architecture is not the one that the objective trains, or its encoder does not read `x - b_dec`.
    ///
    /// # Panics
    /// As [`from_parts`](Trainer::from_parts).
    pub fn from_sae(objective: Arc<dyn Objective>, sae: &Sae) -> Result<Trainer> {
        Trainer::held_of(objective, sae, 0..sae.directions())
    }

    /// Some of the directions of [`from_sae`](Trainer::from_sae).
    pub(super) fn held_of(objective: Arc<dyn Objective>, sae: &Sae, held: Range<usize>) -> Result<Trainer> {
        let Parameters { architecture, encoder, w_dec, b_enc, b_dec, subtract_b_dec, normalisation, w_skip } =
            sae.parameters();
        let differs = match (subtract_b_dec, normalisation, w_skip) {
            (true, Normalisation::None, None) => None,
            (false, ..) => Some(" without apply_b_dec_to_input"),
            (_, _, Some(_)) => Some(" with a skip connection"),
            _ => Some(" that normalises what it reads"),
        };
        let extras = objective.extras_of(sae.parameters()).filter(|_| differs.is_none()).ok_or_else(|| {
            let without = differs.unwrap_or_default();
            let (sae, architecture) = (sae.name(), architecture.name());
            let problem =
                format!("`{sae}` is of architecture `{architecture}`{without}, which this objective cannot go on from");
            Error::Recipe { name: "from".into(), problem }
        })?;
        let weights = [encoder, w_dec].map(|rows| rows.gather(held.clone()));
        let biases = [b_enc[held.clone()].to_vec(), b_dec.clone()];
        let mut trainer = Trainer::of(objective, held.start, sae.directions(), weights, biases);
        let extras = extras.into_iter().map(|(name, value)| (name, Numbers::new(value[held.clone()].to_vec())));
        trainer.extras.extend(extras);
        Ok(trainer)
    }

    /// The SAE as it is now, to be used or saved.
    ///
    /// # Errors
    /// If a parameter is not finite, or `site` has another width.
    pub fn to_sae(&self, name: &str, site: Site) -> Result<Sae> {
        let parameters = Parameters {
            architecture: self.objective.architecture(self),
            encoder: self.w_enc.value.clone(),
            w_dec: self.w_dec.value.clone(),
            b_enc: self.b_enc.value.clone(),
            b_dec: self.b_dec.value.clone(),
            subtract_b_dec: true,
            normalisation: Normalisation::None,
            w_skip: None,
        };
        Sae::new(name.to_owned(), site, parameters)
    }

    /// Directions that have not fired at the last `after` positions.
    pub fn dead(&self, after: u64) -> usize {
        self.silent.iter().filter(|silent| **silent >= after).count()
    }

    /// Positions since each direction last fired, `[directions]`.
    pub fn silent(&self) -> &[u64] {
        &self.silent
    }

    /// The share of positions each direction has fired at since the counts were last taken.
    pub fn densities(&self) -> Vec<f64> {
        self.fired.iter().map(|fired| *fired as f64 / self.counted.max(1) as f64).collect()
    }

    /// What it is trained for.
    pub fn objective(&self) -> &dyn Objective {
        &*self.objective
    }

    /// Number of directions that it holds.
    pub fn directions(&self) -> usize {
        self.w_dec.value.rows()
    }

    /// Width of what it reads.
    pub fn d_in(&self) -> usize {
        self.w_dec.value.columns()
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step on a batch, `[positions, d_in]`: down its gradient.
    ///
    /// # Errors
    /// If a pre-activation or the loss is not finite; the parameters are then as they were.
    pub fn step(&mut self, batch: &Matrix, options: &StepOptions) -> Result<StepReport> {
        self.step_over(batch, options, Over::One)
    }

    /// The same by several ranks, which all have the batch.
    pub(super) fn step_over(&mut self, batch: &Matrix, options: &StepOptions, over: Over) -> Result<StepReport> {
        let gradient = self.gradient_over(batch, options.coefficient_scale, over)?;
        self.apply(&gradient, options);
        Ok(gradient.report)
    }

    /// The gradient of the loss of a batch, `[positions, d_in]`, with the objective's coefficients times a factor.
    ///
    /// # Errors
    /// If a pre-activation or the loss is not finite.
    pub fn gradient(&self, batch: &Matrix, coefficient_scale: f64) -> Result<Gradient> {
        self.gradient_over(batch, coefficient_scale, Over::One)
    }

    /// The same of the directions that it holds, by several ranks; the report is of all.
    pub(super) fn gradient_over(&self, batch: &Matrix, coefficient_scale: f64, over: Over) -> Result<Gradient> {
        let positions = batch.rows();
        let x = self.centred(batch);
        let encoded = self.encode(&x, over)?;
        let pattern = encoded.pre.by_direction(self.directions());
        let acts = pattern.arrange(&encoded.acts);
        let (errors, mses) = self.errors(&x, &pattern, &acts, over)?;
        let mut entries = Vec::with_capacity(pattern.active());
        for (group, error) in &errors {
            entries.extend(over.dots(&pattern, group.clone(), error, &self.w_dec.value)?);
        }
        let per_position = per_position(positions);
        entries.iter_mut().for_each(|dot| *dot *= per_position as f32);
        let mut along = vec![0.0_f32; self.directions()];
        add_by_direction(&pattern, &mut along, |i| acts[i] * entries[i]);

        let mse = mses.last().copied().unwrap_or_default();
        let aux = mses.iter().rev().skip(1).sum();
        let mut terms = Terms { penalty: 0.0, aux, entries, b_enc: None, extras: [].into(), revived: None };
        let error = &errors[errors.len() - 1].1;
        let found = Batch { x: &x, encoded: &encoded, pattern: &pattern, acts: &acts, error, coefficient_scale, over };
        self.objective.add_terms(self, &found, &mut terms)?;
        let Terms { penalty, aux, entries, b_enc: own_b_enc, extras, revived } = terms;
        let variance = mean_variance(batch);
        let report = StepReport {
            loss: mse + penalty + aux,
            mse,
            penalty,
            aux,
            l0: over.total(encoded.active() as f64)? / positions as f64,
            explained_variance: if variance > 0.0 { 1.0 - mse / variance } else { 0.0 },
        };
        if !report.loss.is_finite() {
            return Err(self.diverged("the loss"));
        }

        let mut by_input = vec![0.0_f32; self.directions()];
        add_by_direction(&pattern, &mut by_input, |i| entries[i]);
        if let Some(Revived { pattern, acts, entries, .. }) = &revived {
            add_by_direction(pattern, &mut along, |i| acts[i] * entries[i]);
            add_by_direction(pattern, &mut by_input, |i| entries[i]);
        }
        Ok(Gradient {
            report,
            b_dec: self.decoder_bias_gradient(&errors[0].1, per_position as f32, &by_input, over)?,
            b_enc: own_b_enc.unwrap_or(by_input),
            extras,
            scaled: acts.iter().map(|a| a * per_position as f32).collect(),
            running: encoded.running,
            x,
            pattern,
            acts,
            entries,
            errors,
            revived,
            along,
        })
    }

    /// Moves the parameters down a gradient that was found of them, by a step of Adam, and counts what fired.
    ///
    /// # Panics
    /// If the gradient is of an SAE of other dimensions or another objective.
    pub fn apply(&mut self, gradient: &Gradient, options: &StepOptions) {
        self.steps += 1;
        let adam = Adam::new(options.rate, options.betas, options.eps, self.steps);
        let Rows { value, moments: [first, second] } = &mut self.w_dec;
        directrix_kernels::descend(value, [first, second], &gradient.decoder(), Some(&gradient.along), adam);
        directrix_kernels::normalise_rows(value);
        let Rows { value, moments: [first, second] } = &mut self.w_enc;
        directrix_kernels::descend(value, [first, second], &gradient.encoder(), None, adam);
        self.b_enc.descend(&gradient.b_enc, adam);
        self.b_dec.descend(&gradient.b_dec, adam);
        for (name, numbers) in &mut self.extras {
            numbers.descend(&gradient.extras[name], adam);
        }
        self.running.clone_from(&gradient.running);
        self.count(&gradient.pattern, &gradient.acts, gradient.x.rows());
    }

    /// `x - b_dec`.
    pub(super) fn centred(&self, batch: &Matrix) -> Matrix {
        let mut x = batch.clone();
        let columns = x.columns().max(1);
        x.data_mut()
            .par_chunks_mut(columns)
            .for_each(|row| row.iter_mut().zip(&self.b_dec.value).for_each(|(x, b)| *x -= b));
        x
    }

    /// The pre-activations of `x`, `[positions, d_in]`, that are kept, of the directions it holds; `b_dec` is already taken
    /// from it.
    ///
    /// # Errors
    /// If one is not finite, or a rank is gone.
    pub fn pre_activations(&self, x: &Matrix, keep: Keep, over: Over) -> Result<SparseActivations> {
        self.largest(x, keep, usize::MAX, over)
    }

    /// The same, where no more than the `most` largest of the batch are of use.
    pub(super) fn largest(&self, x: &Matrix, keep: Keep, most: usize, over: Over) -> Result<SparseActivations> {
        let weights = self.w_enc.value.view().transposed();
        let encoder = Encoder { weights, bias: &self.b_enc.value, keep, screen: None };
        let diverged = |d| self.diverged(format!("the pre-activation of direction {}", self.first + d));
        over.encode(x, encoder, most, diverged)
    }

    /// What of a batch may matter after the encoder. `x` is `[positions, d_in]`, `b_dec` already taken from it.
    pub(super) fn encode(&self, x: &Matrix, over: Over) -> Result<Encoded> {
        // Among these, what is not finite may only silence a direction.
        if self.extras.values().chain([&self.b_enc]).any(|numbers| numbers.value.iter().any(|x| !x.is_finite())) {
            return Err(self.diverged("a parameter"));
        }
        self.objective.encode(self, x, over)
    }

    /// The error that `what`, or the parameter it comes from, is not finite in the step that is being taken.
    pub(super) fn diverged(&self, what: impl Into<String>) -> Error {
        Error::Diverged { step: self.steps + 1, what: self.not_finite().unwrap_or_else(|| what.into()) }
    }

    /// For each group of directions, those that a prefix adds to the one before it, the sum of the errors `x̂ - x` of all
    /// prefixes it is in; and for each prefix its `mse`. Of a group, the directions that it holds.
    pub(super) fn errors(
        &self,
        x: &Matrix,
        pattern: &ByDirection,
        acts: &[f32],
        over: Over,
    ) -> Result<(Errors, Vec<f64>)> {
        let (mut errors, mut mses) = (Errors::new(), Vec::new());
        for end in self.objective.prefixes(self.all) {
            let (start, before) = match errors.last() {
                Some((before, error)) => (before.end, error.clone()),
                None => (0, negated(x)),
            };
            let group = start..end.saturating_sub(self.first).clamp(start, self.directions());
            let error = over.add_product(before, pattern, acts, group.clone(), &self.w_dec.value)?;
            mses.push(mean_square(&error));
            errors.push((group, error));
        }
        for i in (0..errors.len() - 1).rev() {
            let (before, after) = errors.split_at_mut(i + 1);
            before[i].1.add(&after[0].1);
        }
        Ok((errors, mses))
    }

    /// `b_dec` is added to the reconstruction and taken from the input.
    fn decoder_bias_gradient(&self, error: &Matrix, scale: f32, by_input: &[f32], over: Over) -> Result<Vec<f32>> {
        let added = directrix_kernels::weighted_sum(error, &vec![scale; error.rows()]);
        let mut taken = directrix_kernels::weighted_sum(&self.w_enc.value, by_input);
        over.sum(&mut taken)?;
        Ok(added.iter().zip(taken).map(|(added, taken)| added - taken).collect())
    }

    fn count(&mut self, pattern: &ByDirection, acts: &[f32], positions: usize) {
        for direction in 0..self.directions() {
            let entries = pattern.range(direction);
            let fired = acts[entries].iter().filter(|a| **a > 0.0).count() as u64;
            self.fired[direction] += fired;
            self.silent[direction] = if fired > 0 { 0 } else { self.silent[direction] + positions as u64 };
        }
        self.counted += positions as u64;
    }
}

/// Adds up a value of each entry by direction.
fn add_by_direction(pattern: &ByDirection, totals: &mut [f32], value: impl Fn(usize) -> f32) {
    for (direction, total) in totals.iter_mut().enumerate() {
        let entries = pattern.range(direction);
        *total += entries.map(|i| value(i) as f64).sum::<f64>() as f32;
    }
}

/// `Σ (row - mean row)²`, mean over rows.
fn mean_variance(rows: &Matrix) -> f64 {
    let mut mean = vec![0.0_f64; rows.columns()];
    rows.iter_rows().for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += *x as f64));
    let n = rows.rows().max(1) as f64;
    mean_square(rows) - mean.iter().map(|m| (m / n).powi(2)).sum::<f64>()
}
