//! One SAE in training: its parameters, and the step that improves them.

use std::ops::Range;

use directrix_kernels::{Adam, ByDirection, Encoder, Keep, Matrix, Outer, SparseActivations};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::objective::{Aux, Objective};
use crate::{Architecture, Error, Parameters, Result, Sae, Site};

/// Weight of the newest batch in the running threshold of BatchTopK.
const THRESHOLD_RATE: f32 = 0.01;

/// A parameter with a row for each direction, and Adam's moments of it.
#[derive(Debug, Clone)]
pub struct Rows {
    /// `[directions, d_in]`.
    pub value: Matrix,
    pub(super) moments: [Matrix; 2],
}

/// A parameter with a number for each direction or input, and Adam's moments of it.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    /// The numbers.
    pub value: Vec<f32>,
    pub(super) moments: [Vec<f32>; 2],
}

impl Rows {
    /// A parameter that Adam has not moved yet.
    pub fn new(value: Matrix) -> Rows {
        let moments = [0, 1].map(|_| Matrix::zeros(value.rows(), value.columns()));
        Rows { value, moments }
    }
}

impl Numbers {
    /// A parameter that Adam has not moved yet.
    pub fn new(value: Vec<f32>) -> Numbers {
        let zeros = vec![0.0; value.len()];
        Numbers { value, moments: [zeros.clone(), zeros] }
    }

    fn descend(&mut self, gradient: &[f32], adam: Adam) {
        let [first, second] = &mut self.moments;
        adam.update(&mut self.value, [first, second], gradient);
    }
}

/// An SAE in training. The encoder is held as rows, like the decoder: `w_enc` is the transpose of SAELens's `W_enc`.
#[derive(Debug, Clone)]
pub struct Trainer {
    pub(super) objective: Objective,
    /// Encoder rows, `[directions, d_in]`.
    pub w_enc: Rows,
    /// Decoder rows, `[directions, d_in]`, of length 1.
    pub w_dec: Rows,
    /// Encoder bias, `[directions]`; of a gated SAE, the gates'.
    pub b_enc: Numbers,
    /// Decoder bias, `[d_in]`, taken from the input too.
    pub b_dec: Numbers,
    /// Logarithms of JumpReLU's thresholds, `[directions]`; empty for others.
    pub log_threshold: Numbers,
    /// Bias of a gated SAE's magnitudes, `[directions]`; empty for others.
    pub b_mag: Numbers,
    /// Logarithm of the magnitudes' share of the encoder in a gated SAE, `[directions]`; empty for others.
    pub r_mag: Numbers,
    /// The running threshold of BatchTopK.
    pub threshold: Option<f32>,
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
    /// Adam's.
    pub betas: [f64; 2],
    /// Adam's.
    pub eps: f64,
    /// Factor on the objective's coefficients.
    pub coefficient_scale: f64,
}

/// What a step found, of the parameters before it. Means are over the batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StepReport {
    /// What is minimised: the sum of the terms below.
    pub loss: f64,
    /// Squared error summed over `d_in`.
    pub mse: f64,
    /// What keeps activations few, times its coefficient.
    pub penalty: f64,
    /// The auxiliary terms, times their weight; with Matryoshka also the shorter prefixes' errors.
    pub aux: f64,
    /// Active directions per position.
    pub l0: f64,
    /// `1 - Σ‖x - x̂‖² / Σ‖x - mean‖²` over the batch.
    pub explained_variance: f64,
}

impl StepReport {
    /// Adds another report, for a mean of several.
    pub(super) fn add(&mut self, other: &StepReport) {
        self.loss += other.loss;
        self.mse += other.mse;
        self.penalty += other.penalty;
        self.aux += other.aux;
        self.l0 += other.l0;
        self.explained_variance += other.explained_variance;
    }

    /// Every number divided by `count`.
    pub(super) fn over(&self, count: u64) -> StepReport {
        let n = count.max(1) as f64;
        StepReport {
            loss: self.loss / n,
            mse: self.mse / n,
            penalty: self.penalty / n,
            aux: self.aux / n,
            l0: self.l0 / n,
            explained_variance: self.explained_variance / n,
        }
    }
}

/// The batch's entries after the encoder, and what the objective adds to their gradients. All in CSR order.
pub(super) struct Encoded {
    /// Pre-activations, or for gated SAEs the gates', where one may matter.
    pub(super) pre: SparseActivations,
    /// Activations beside them; 0 where the direction does not fire.
    pub(super) acts: Vec<f32>,
}

/// The auxiliary reconstruction of the residual by dead directions.
struct Revival {
    pattern: ByDirection,
    acts: Vec<f32>,
    error: Matrix,
    dots: Vec<f32>,
    value: f64,
    weight: f64,
}

impl Trainer {
    /// An SAE with random unit decoder rows, the encoder their transpose, and no bias (`b_dec` as given).
    pub fn new(objective: Objective, directions: usize, b_dec: Vec<f32>, threshold: f64, seed: u64) -> Trainer {
        let d_in = b_dec.len();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Sums of uniforms are near enough to normal that the directions are uniform on the sphere.
        let mut draw = || (0..4).map(|_| random.random::<f32>() - 0.5).sum::<f32>();
        let mut w = Matrix::new((0..directions * d_in).map(|_| draw()).collect(), directions, d_in);
        directrix_kernels::normalise_rows(&mut w);
        Trainer::from_parts(objective, w.clone(), w, vec![0.0; directions], b_dec, threshold)
    }

    /// An SAE of these weights (rows for directions), gates and thresholds at their beginning.
    pub fn from_parts(
        objective: Objective,
        w_enc: Matrix,
        w_dec: Matrix,
        b_enc: Vec<f32>,
        b_dec: Vec<f32>,
        threshold: f64,
    ) -> Trainer {
        let directions = w_dec.rows();
        let filled = |on: bool, value: f32| Numbers::new(if on { vec![value; directions] } else { Vec::new() });
        let gated = matches!(objective, Objective::Gated { .. });
        let jump = matches!(objective, Objective::JumpRelu { .. });
        Trainer {
            objective,
            w_enc: Rows::new(w_enc),
            w_dec: Rows::new(w_dec),
            b_enc: Numbers::new(b_enc),
            b_dec: Numbers::new(b_dec),
            log_threshold: filled(jump, threshold.ln() as f32),
            b_mag: filled(gated, 0.0),
            r_mag: filled(gated, 0.0),
            threshold: None,
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
    pub fn from_sae(objective: Objective, sae: &Sae, threshold: f64) -> Result<Trainer> {
        let parameters = sae.parameters();
        let fits = match (&objective, &parameters.architecture) {
            (Objective::Gated { .. }, architecture) => matches!(architecture, Architecture::Gated { .. }),
            (_, Architecture::Gated { .. }) => false,
            (Objective::Relu { .. }, architecture) => *architecture == Architecture::Relu,
            (Objective::JumpRelu { .. }, architecture) => !matches!(architecture, Architecture::TopK { .. }),
            _ => true,
        };
        if !fits || !parameters.subtract_b_dec {
            let problem = format!(
                "`{}` is of architecture `{}`{}, which this objective cannot go on from",
                sae.name(),
                parameters.architecture.name(),
                if parameters.subtract_b_dec { "" } else { " without apply_b_dec_to_input" }
            );
            return Err(Error::Recipe { name: "from".into(), problem });
        }
        let (w_enc, w_dec) = (parameters.encoder.clone(), parameters.w_dec.clone());
        let (b_enc, b_dec) = (parameters.b_enc.clone(), parameters.b_dec.clone());
        let mut trainer = Trainer::from_parts(objective, w_enc, w_dec, b_enc, b_dec, threshold);
        match &parameters.architecture {
            Architecture::JumpRelu { threshold } if !trainer.log_threshold.value.is_empty() => {
                trainer.log_threshold = Numbers::new(threshold.iter().map(|t| t.max(1e-6).ln()).collect());
            }
            Architecture::Gated { r_mag, b_mag } => {
                trainer.r_mag = Numbers::new(r_mag.clone());
                trainer.b_mag = Numbers::new(b_mag.clone());
            }
            _ => {}
        }
        Ok(trainer)
    }

    /// The SAE as it is now, to be used or saved.
    ///
    /// # Errors
    /// If a parameter is not finite, or `site` has another width.
    pub fn to_sae(&self, name: &str, site: Site) -> Result<Sae> {
        let architecture = match &self.objective {
            Objective::Relu { .. } => Architecture::Relu,
            Objective::TopK { k, .. } => Architecture::TopK { k: *k },
            Objective::BatchTopK { .. } | Objective::Matryoshka { .. } => {
                Architecture::JumpRelu { threshold: vec![self.threshold.unwrap_or(0.0); self.directions()] }
            }
            Objective::JumpRelu { .. } => {
                Architecture::JumpRelu { threshold: self.log_threshold.value.iter().map(|t| t.exp()).collect() }
            }
            Objective::Gated { .. } => {
                Architecture::Gated { r_mag: self.r_mag.value.clone(), b_mag: self.b_mag.value.clone() }
            }
        };
        let parameters = Parameters {
            architecture,
            encoder: self.w_enc.value.clone(),
            w_dec: self.w_dec.value.clone(),
            b_enc: self.b_enc.value.clone(),
            b_dec: self.b_dec.value.clone(),
            subtract_b_dec: true,
        };
        Sae::new(name.to_owned(), site, parameters)
    }

    /// Directions that have not fired at the last `after` positions.
    pub fn dead(&self, after: u64) -> usize {
        self.silent.iter().filter(|silent| **silent >= after).count()
    }

    /// The share of positions each direction has fired at since the counts were last taken.
    pub fn densities(&self) -> Vec<f64> {
        self.fired.iter().map(|fired| *fired as f64 / self.counted.max(1) as f64).collect()
    }

    /// What it is trained for.
    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// Number of directions.
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

    /// One step on a batch, `[positions, d_in]`.
    ///
    /// # Errors
    /// If a pre-activation or the loss is not finite; the parameters are then as they were.
    pub fn step(&mut self, batch: &Matrix, options: &StepOptions) -> Result<StepReport> {
        let positions = batch.rows();
        let x = self.centred(batch);
        let Encoded { pre, acts } = self.encode(&x)?;
        let pattern = pre.by_direction(self.directions());
        let by_direction = pattern.arrange(&acts);
        let (errors, mses) = self.errors(&x, &pattern, &by_direction);
        let (mut dots, groups) = (Vec::with_capacity(pattern.active()), self.groups());
        for (group, error) in groups.iter().zip(&errors) {
            dots.extend(directrix_kernels::sampled_product(&pattern, group.clone(), error, &self.w_dec.value));
        }
        let per_position = 2.0 / positions as f64;
        let mut act_gradient: Vec<f32> = dots.iter().map(|dot| dot * per_position as f32).collect();
        let mut along = vec![0.0_f32; self.directions()];
        add_by_direction(&pattern, &mut along, |i| by_direction[i] * act_gradient[i]);

        let mse = mses.last().copied().unwrap_or_default();
        let mut report = StepReport { mse, aux: mses.iter().rev().skip(1).sum(), ..StepReport::default() };
        let active = acts.iter().filter(|a| **a > 0.0).count();
        report.l0 = active as f64 / positions as f64;

        let revival = match self.objective.aux() {
            Some(aux) => self.revive(&x, &errors[errors.len() - 1], aux)?,
            None => None,
        };
        let mut numbers = NumberGradients::default();
        let scale = options.coefficient_scale;
        match &self.objective {
            Objective::Relu { penalty, coefficient, over } => {
                let coefficients: Vec<f64> = coefficient.iter().map(|c| c * scale).collect();
                let acts = pre.clone().with_values(acts);
                let (value, gradient) = penalty.value_and_gradient(&acts, self.directions(), &coefficients, *over);
                report.penalty = value;
                act_gradient.iter_mut().zip(pattern.arrange(&gradient)).for_each(|(g, p)| *g += p);
            }
            Objective::JumpRelu { coefficient, bandwidth } => {
                let weight = coefficient * scale / positions as f64;
                report.penalty = weight * active as f64;
                let pre = pattern.arrange(pre.values());
                numbers.log_threshold =
                    self.threshold_gradient(&pattern, &pre, &by_direction, &mut act_gradient, weight, *bandwidth);
            }
            Objective::Gated { coefficient } => {
                let weight = coefficient * scale / positions as f64;
                let gates = pattern.arrange(pre.values());
                report.penalty = weight * gates.iter().map(|g| *g as f64).sum::<f64>();
                let mut error = negated(&x);
                let all = 0..self.directions();
                directrix_kernels::sparse_product(&pattern, &gates, all.clone(), &self.w_dec.value, &mut error);
                report.aux += mean_square(&error);
                let gate_dots = directrix_kernels::sampled_product(&pattern, all, &error, &self.w_dec.value);
                self.gate_gradients(&pattern, &gates, &by_direction, &mut act_gradient, &mut numbers, |i| {
                    weight as f32 + gate_dots[i] * per_position as f32
                });
            }
            _ => {}
        }
        if let Some(revival) = &revival {
            report.aux += revival.weight * revival.value;
        }
        report.loss = report.mse + report.penalty + report.aux;
        report.explained_variance = 1.0 - report.mse / mean_variance(batch);
        if !report.loss.is_finite() {
            return Err(Error::Diverged { step: self.steps + 1, what: "the loss".into() });
        }

        self.steps += 1;
        let adam = Adam::new(options.rate, options.betas, options.eps, self.steps);
        let scaled: Vec<f32> = by_direction.iter().map(|a| a * per_position as f32).collect();
        let mut decoder: Vec<Outer> = groups
            .into_iter()
            .zip(&errors)
            .map(|(directions, rows)| Outer { pattern: &pattern, values: &scaled, rows, directions })
            .collect();
        let all = 0..self.directions();
        let mut encoder = vec![Outer { pattern: &pattern, values: &act_gradient, rows: &x, directions: all.clone() }];
        let mut b_enc = vec![0.0_f32; self.directions()];
        add_by_direction(&pattern, &mut b_enc, |i| act_gradient[i]);
        let revived = revival.as_ref().map(|revival| {
            let weight = (revival.weight * per_position) as f32;
            let by_weight = |values: &[f32]| values.iter().map(|v| v * weight).collect::<Vec<f32>>();
            (revival, by_weight(&revival.acts), by_weight(&revival.dots))
        });
        if let Some((revival, acts, gradient)) = &revived {
            let Revival { pattern, error, .. } = revival;
            add_by_direction(pattern, &mut along, |i| revival.acts[i] * gradient[i]);
            add_by_direction(pattern, &mut b_enc, |i| gradient[i]);
            decoder.push(Outer { pattern, values: acts, rows: error, directions: all.clone() });
            encoder.push(Outer { pattern, values: gradient, rows: &x, directions: all });
        }
        let b_dec = self.decoder_bias_gradient(&errors[0], per_position as f32, &b_enc);
        let b_enc = numbers.gates.unwrap_or(b_enc);

        let Rows { value, moments: [first, second] } = &mut self.w_dec;
        directrix_kernels::descend(value, [first, second], &decoder, Some(&along), adam);
        directrix_kernels::normalise_rows(value);
        let Rows { value, moments: [first, second] } = &mut self.w_enc;
        directrix_kernels::descend(value, [first, second], &encoder, None, adam);
        self.b_enc.descend(&b_enc, adam);
        self.b_dec.descend(&b_dec, adam);
        self.log_threshold.descend(&numbers.log_threshold, adam);
        self.r_mag.descend(&numbers.r_mag, adam);
        self.b_mag.descend(&numbers.b_mag, adam);
        self.count(&pattern, &by_direction, positions);
        Ok(report)
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

    pub(super) fn encode(&mut self, x: &Matrix) -> Result<Encoded> {
        let run = |keep: Keep| {
            let encoder =
                Encoder { weights: self.w_enc.value.view().transposed(), bias: &self.b_enc.value, keep, screen: None };
            directrix_kernels::encode(x.view(), encoder).map_err(|e| Error::Diverged {
                step: self.steps + 1,
                what: format!("the pre-activation of direction {}", e.direction),
            })
        };
        match &self.objective {
            Objective::Relu { .. } => {
                let pre = run(Keep::Positive)?;
                Ok(Encoded { acts: pre.values().to_vec(), pre })
            }
            Objective::TopK { k, .. } => {
                let pre = run(Keep::Largest(*k))?;
                Ok(Encoded { acts: pre.values().to_vec(), pre })
            }
            Objective::BatchTopK { k, .. } | Objective::Matryoshka { k, .. } => {
                let wanted = k * x.rows();
                // Few are above the running threshold's neighbourhood; if too few, look lower.
                let mut least = self.threshold.map_or(0.0, |t| 0.8 * t);
                let mut candidates = run(Keep::Above(&vec![least; self.directions()]))?;
                while candidates.active() < wanted && least > 0.0 {
                    least = if least > 1e-3 { 0.5 * least } else { 0.0 };
                    candidates = run(Keep::Above(&vec![least; self.directions()]))?;
                }
                let pre = largest(&candidates, wanted);
                if let Some(smallest) = pre.values().iter().copied().reduce(f32::min) {
                    let running = self.threshold.map_or(smallest, |t| t + THRESHOLD_RATE * (smallest - t));
                    self.threshold = Some(running);
                }
                Ok(Encoded { acts: pre.values().to_vec(), pre })
            }
            Objective::JumpRelu { bandwidth, .. } => {
                let thresholds: Vec<f32> = self.log_threshold.value.iter().map(|t| t.exp()).collect();
                let least: Vec<f32> = thresholds.iter().map(|t| t - 0.5 * *bandwidth as f32).collect();
                let pre = run(Keep::Above(&least))?;
                let above = |(&d, &x): (&u32, &f32)| if x > thresholds[d as usize] { x } else { 0.0 };
                Ok(Encoded { acts: pre.directions().iter().zip(pre.values()).map(above).collect(), pre })
            }
            Objective::Gated { .. } => {
                let pre = run(Keep::Positive)?;
                let magnitude = |(&d, &gate): (&u32, &f32)| {
                    let d = d as usize;
                    ((gate - self.b_enc.value[d]) * self.r_mag.value[d].exp() + self.b_mag.value[d]).max(0.0)
                };
                Ok(Encoded { acts: pre.directions().iter().zip(pre.values()).map(magnitude).collect(), pre })
            }
        }
    }

    /// The directions that a prefix adds to the one before it; all of them where there are no prefixes.
    fn groups(&self) -> Vec<Range<usize>> {
        match &self.objective {
            Objective::Matryoshka { widths, .. } => {
                let starts = std::iter::once(0).chain(widths.iter().copied());
                starts.zip(widths).map(|(start, &end)| start..end).collect()
            }
            _ => std::iter::once(0..self.directions()).collect(),
        }
    }

    /// For each group of directions the sum of the errors `x̂ - x` of all prefixes it is in, and for each prefix its `mse`.
    pub(super) fn errors(&self, x: &Matrix, pattern: &ByDirection, acts: &[f32]) -> (Vec<Matrix>, Vec<f64>) {
        let mut error = negated(x);
        let (mut errors, mut mses): (Vec<Matrix>, Vec<f64>) = (Vec::new(), Vec::new());
        for group in self.groups() {
            if !errors.is_empty() {
                error = errors[errors.len() - 1].clone();
            }
            directrix_kernels::sparse_product(pattern, acts, group, &self.w_dec.value, &mut error);
            mses.push(mean_square(&error));
            errors.push(std::mem::take(&mut error));
        }
        for i in (0..errors.len() - 1).rev() {
            let (before, after) = errors.split_at_mut(i + 1);
            before[i].add(&after[0]);
        }
        (errors, mses)
    }

    /// The auxiliary loss, if there are dead directions; `error` is the full reconstruction's.
    fn revive(&self, x: &Matrix, error: &Matrix, aux: Aux) -> Result<Option<Revival>> {
        let dead: Vec<usize> = (0..self.directions()).filter(|d| self.silent[*d] >= aux.dead_after).collect();
        if dead.is_empty() || aux.coefficient == 0.0 {
            return Ok(None);
        }
        let weights = self.w_enc.value.gather(dead.iter().copied());
        let bias: Vec<f32> = dead.iter().map(|d| self.b_enc.value[*d]).collect();
        let encoder =
            Encoder { weights: weights.view().transposed(), bias: &bias, keep: Keep::Largest(aux.k), screen: None };
        let pre = directrix_kernels::encode(x.view(), encoder).map_err(|e| Error::Diverged {
            step: self.steps + 1,
            what: format!("the pre-activation of direction {}", dead[e.direction]),
        })?;
        let mut named = SparseActivations::default();
        for position in 0..pre.positions() {
            let (directions, values) = pre.at(position);
            named.push(directions.iter().map(|d| dead[*d as usize] as u32).zip(values.iter().copied()));
        }
        let all = 0..self.directions();
        let mut residual = error.clone();
        let pattern = named.by_direction(self.directions());
        let acts = pattern.arrange(named.values());
        directrix_kernels::sparse_product(&pattern, &acts, all.clone(), &self.w_dec.value, &mut residual);
        let dots = directrix_kernels::sampled_product(&pattern, all, &residual, &self.w_dec.value);
        let value = mean_square(&residual);
        Ok(Some(Revival { pattern, acts, error: residual, dots, value, weight: aux.coefficient }))
    }

    /// JumpReLU's straight-through gradient of the thresholds' logarithms; activations' gradients become those of
    /// pre-activations.
    fn threshold_gradient(
        &self,
        pattern: &ByDirection,
        pre: &[f32],
        acts: &[f32],
        act_gradient: &mut [f32],
        weight: f64,
        bandwidth: f64,
    ) -> Vec<f32> {
        let mut gradient = vec![0.0; self.directions()];
        for (direction, total) in gradient.iter_mut().enumerate() {
            let threshold = self.log_threshold.value[direction].exp();
            let mut sum = 0.0_f64;
            for i in pattern.range(direction) {
                if ((pre[i] - threshold).abs() as f64) < 0.5 * bandwidth {
                    sum -= (threshold * act_gradient[i]) as f64 + weight;
                }
                if acts[i] == 0.0 {
                    act_gradient[i] = 0.0;
                }
            }
            *total = (sum / bandwidth) as f32 * threshold;
        }
        gradient
    }

    /// A gated SAE's gradients; activations' gradients become those of `x W_enc`.
    fn gate_gradients(
        &self,
        pattern: &ByDirection,
        gates: &[f32],
        acts: &[f32],
        act_gradient: &mut [f32],
        numbers: &mut NumberGradients,
        gate_gradient: impl Fn(usize) -> f32,
    ) {
        let zeros = vec![0.0_f32; self.directions()];
        let (mut r_mag, mut b_mag, mut b_gate) = (zeros.clone(), zeros.clone(), zeros);
        for direction in 0..self.directions() {
            let scale = self.r_mag.value[direction].exp();
            for i in pattern.range(direction) {
                let magnitude = if acts[i] > 0.0 { act_gradient[i] } else { 0.0 };
                let gate = gate_gradient(i);
                r_mag[direction] += magnitude * (gates[i] - self.b_enc.value[direction]) * scale;
                b_mag[direction] += magnitude;
                b_gate[direction] += gate;
                act_gradient[i] = magnitude * scale + gate;
            }
        }
        (numbers.r_mag, numbers.b_mag, numbers.gates) = (r_mag, b_mag, Some(b_gate));
    }

    /// `b_dec` is added to the reconstruction and taken from the input.
    fn decoder_bias_gradient(&self, error: &Matrix, scale: f32, pre: &[f32]) -> Vec<f32> {
        let added = directrix_kernels::weighted_sum(error, &vec![scale; error.rows()]);
        let taken = directrix_kernels::weighted_sum(&self.w_enc.value, pre);
        added.iter().zip(taken).map(|(added, taken)| added - taken).collect()
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

/// Gradients of parameters that only some objectives have.
#[derive(Default)]
struct NumberGradients {
    log_threshold: Vec<f32>,
    r_mag: Vec<f32>,
    b_mag: Vec<f32>,
    /// The gates' bias, where it is not that of all that the encoder feeds.
    gates: Option<Vec<f32>>,
}

/// Adds up a value of each entry by direction.
fn add_by_direction(pattern: &ByDirection, totals: &mut [f32], value: impl Fn(usize) -> f32) {
    for (direction, total) in totals.iter_mut().enumerate() {
        let entries = pattern.range(direction);
        *total += entries.map(|i| value(i) as f64).sum::<f64>() as f32;
    }
}

/// The `wanted` largest entries; of equals the first.
fn largest(candidates: &SparseActivations, wanted: usize) -> SparseActivations {
    if candidates.active() <= wanted {
        return candidates.clone();
    }
    let values = candidates.values();
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let before = |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
    if wanted > 0 {
        order.select_nth_unstable_by(wanted - 1, before);
    }
    let mut keep = vec![false; values.len()];
    order[..wanted].iter().for_each(|i| keep[*i as usize] = true);
    let mut kept = SparseActivations::default();
    for position in 0..candidates.positions() {
        let first = candidates.indptr()[position];
        let (directions, values) = candidates.at(position);
        let entries = directions.iter().copied().zip(values.iter().copied()).enumerate();
        kept.push(entries.filter(|(i, _)| keep[first + i]).map(|(_, entry)| entry));
    }
    kept
}

fn negated(x: &Matrix) -> Matrix {
    let mut negated = x.clone();
    negated.data_mut().par_iter_mut().for_each(|x| *x = -*x);
    negated
}

/// `Σ row²`, mean over rows.
fn mean_square(rows: &Matrix) -> f64 {
    let columns = rows.columns().max(1);
    let sums: Vec<f64> =
        rows.data().par_chunks(columns).map(|row| row.iter().map(|x| (*x as f64).powi(2)).sum()).collect();
    sums.iter().sum::<f64>() / rows.rows().max(1) as f64
}

/// `Σ (row - mean row)²`, mean over rows.
fn mean_variance(rows: &Matrix) -> f64 {
    let mut mean = vec![0.0_f64; rows.columns()];
    rows.iter_rows().for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += *x as f64));
    let n = rows.rows().max(1) as f64;
    mean_square(rows) - mean.iter().map(|m| (m / n).powi(2)).sum::<f64>()
}
