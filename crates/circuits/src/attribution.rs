//! Who wrote a quantity: linear accounts of logits and of directions.

use std::collections::BTreeSet;

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::{Matrix, SparseActivations, dot};
use directrix_model::{Ask, BlockHook, Decomposition, HookPoint, Model, Norm, Positions, Reader, Target};
use directrix_sae::{Sae, Site};
use serde::Serialize;

use crate::batch::{BATCH, each_batch};
use crate::{Error, Estimate, Result};

/// What one component contributes, over prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Component {
    /// Label, as TransformerLens's.
    pub component: String,
    /// Prompts.
    pub n: usize,
    /// Mean contribution over prompts.
    pub mean: f64,
    /// Standard error of the mean.
    pub se: f64,
    /// Half width of its 95 % interval.
    pub half_width: f64,
}

impl Component {
    fn new(component: &str, values: Vec<f64>) -> Component {
        let Estimate { n, mean, se, half_width, .. } = Estimate::of(values);
        Component { component: component.into(), n, mean, se, half_width }
    }
}

/// Column `token` of the unembedding.
fn unembedding(model: &Model, token: u32) -> Result<Vec<f32>> {
    let (w_u, vocabulary) = (&model.weights().w_u, model.config().d_vocab);
    if token as usize >= vocabulary {
        return Err(Error::Token { token, vocabulary });
    }
    Ok(w_u.view().columns_at(&[token as usize]).into_data())
}

/// What a token's logit reads of the residual stream, but for the scale of the final norm: `[d_model]`.
fn read_by_logit(model: &Model, token: u32) -> Result<Vec<f32>> {
    let mut direction = unembedding(model, token)?;
    if let Some(ln) = &model.weights().ln_final {
        direction.iter_mut().zip(&ln.w).for_each(|(x, w)| *x *= w);
    }
    // Centring takes out the mean of a row: the same as taking it out of what the row is multiplied with.
    let mean = match model.config().norm {
        Norm::Layer { .. } => direction.iter().map(|&x| x as f64).sum::<f64>() / direction.len() as f64,
        Norm::Rms { .. } => 0.0,
    };
    Ok(direction.iter().map(|&x| (x as f64 - mean) as f32).collect())
}

/// Who writes one token's logit at one position of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectAttribution {
    /// The logit.
    pub logit: f64,
    /// What each component adds, by its label.
    pub components: Vec<(String, f64)>,
    /// What each active direction of SAEs that write to the residual stream adds.
    pub directions: Vec<DirectionsPart>,
}

/// What a direction adds to a logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DirectionsPart {
    /// Number of the SAE.
    pub sae: usize,
    /// The direction.
    pub direction: u32,
    /// Its activation.
    pub activation: f32,
    /// What it adds: activation times what it writes, as the logit reads it.
    pub value: f64,
}

/// As [`logit_attribution`] of `token` at one position of one prompt, with the parts of the directions that are active there.
///
/// # Errors
/// If the prompt has no such position or the model no such token, or as [`Model::run`].
pub fn direct_attribution(
    model: &Model,
    saes: &[Sae],
    tokens: &[u32],
    position: usize,
    token: u32,
    watch: &Watch,
) -> Result<DirectAttribution> {
    let (unembedding, read) = (unembedding(model, token)?, read_by_logit(model, token)?);
    // Nothing up to a position depends on what follows it.
    let tokens = &tokens[..tokens.len().min(position + 1)];
    let at = Positions::At(vec![position]);
    let hooks: BTreeSet<HookPoint> = saes.iter().map(|sae| sae.site().reads.hook).collect();
    let ask = Ask::nothing().watched(watch).with_predictions([Target { prompt: 0, position, token }]);
    let ask = hooks.into_iter().fold(ask, |ask, hook| ask.with_capture(hook, at.clone()));
    let (decomposition, run) = model.decompose(&Prompts::from_rows([tokens]), &at, Reader::Unembed, ask)?;
    let added = decomposition.components.iter().map(|component| dot(component.row(0), &unembedding));
    let scale = f64::from(run.captured(HookPoint::LnFinalScale).data()[0]);
    let mut directions = Vec::new();
    for (number, sae) in saes.iter().enumerate() {
        let values = run.captured(sae.site().reads.hook);
        let (acts, unit) = (sae.encode(values)?, sae.unit(values.row(0)));
        let (active, activations) = acts.at(0);
        let rows = sae.w_dec().gather(active.iter().map(|direction| *direction as usize));
        let Ok(written) = sae.to_residual(model, &rows) else { continue };
        for ((&direction, &activation), row) in active.iter().zip(activations).zip(written.iter_rows()) {
            let value = f64::from(activation * unit) * dot(row, &read) / scale;
            directions.push(DirectionsPart { sae: number, direction, activation, value });
        }
    }
    let components = decomposition.labels.iter().cloned().zip(added).collect();
    Ok(DirectAttribution { logit: f64::from(run.predictions()[0].logit), components, directions })
}

/// Per-prompt values of several components, gathered batch by batch.
#[derive(Default)]
struct Gathered {
    labels: Vec<String>,
    values: Vec<Vec<f64>>,
}

impl Gathered {
    /// Adds `value(component, row)` of every row of a decomposition.
    fn add(&mut self, decomposition: &Decomposition, rows: usize, value: impl Fn(&Matrix, usize) -> f64) {
        if self.labels.is_empty() {
            self.labels.clone_from(&decomposition.labels);
            self.values = vec![Vec::new(); self.labels.len()];
        }
        for (values, component) in self.values.iter_mut().zip(&decomposition.components) {
            values.extend((0..rows).map(|row| value(component, row)));
        }
    }

    fn rows(self) -> Vec<Component> {
        self.labels.iter().zip(self.values).map(|(label, values)| Component::new(label, values)).collect()
    }
}

/// Direct logit attribution (DLA): what each component contributes to the logit of the answer, the last token of each
/// prompt, at the position before it. Means over prompts; the unembedding's bias belongs to no component. Where logits have a
/// soft cap, this is the logit before it.
///
/// # Errors
/// If a prompt has fewer than two positions, or as [`Model::run`].
pub fn logit_attribution(model: &Model, prompts: &Prompts, watch: &Watch) -> Result<Vec<Component>> {
    if let Some(prompt) = prompts.iter().position(|p| p.len() < 2) {
        return Err(Error::Short { prompt });
    }
    let mut gathered = Gathered::default();
    each_batch(prompts, BATCH, "attribution to the answer", watch, |part, _| {
        let ask = Ask::nothing().watched(watch);
        let (decomposition, _) = model.decompose(&part, &Positions::FromEnd(2), Reader::Unembed, ask)?;
        let answers: Vec<Vec<f32>> = part.iter().map(|p| unembedding(model, p[p.len() - 1])).collect::<Result<_>>()?;
        gathered.add(&decomposition, part.len(), |component, row| dot(component.row(row), &answers[row]));
        Ok(())
    })?;
    Ok(gathered.rows())
}

/// Mean DLA to `answer`, at the position before the last, of what the SAE's site writes (`site`), of its reconstruction
/// (`reconstruction`) and of the difference (`remainder`). Biases are not included; the final norm's scale is the run's own. Where
/// logits have a soft cap, this is the logit before it.
///
/// # Errors
/// If the site does not write to the residual stream, or as [`Model::run`].
pub fn remainder(model: &Model, sae: &Sae, prompts: &Prompts, answer: u32, watch: &Watch) -> Result<Vec<Component>> {
    let Site { reads, writes } = sae.site();
    let read = read_by_logit(model, answer)?;
    let mut of_parts = [const { Vec::new() }; 3];
    each_batch(prompts, BATCH, "attribution of the site", watch, |part, _| {
        let at = Positions::FromEnd(2);
        let hooks = BTreeSet::from([reads.hook, writes.hook, HookPoint::LnFinalScale]);
        let ask = hooks.into_iter().fold(Ask::nothing().watched(watch), |ask, hook| ask.with_capture(hook, at.clone()));
        let run = model.run(&part, &ask, &[])?;
        let values = run.captured(reads.hook);
        let recon = sae.to_residual(model, &sae.decode(&sae.encode(values)?, values))?;
        let site = sae.to_residual(model, &run.captured(writes.hook).columns_of(writes.columns()))?;
        let scales = run.captured(HookPoint::LnFinalScale).data();
        for (row, &scale) in scales.iter().enumerate() {
            let [mlp, recon] = [&site, &recon].map(|m| dot(m.row(row), &read) / scale as f64);
            for (values, value) in of_parts.iter_mut().zip([mlp, recon, mlp - recon]) {
                values.push(value);
            }
        }
        Ok(())
    })?;
    let labels = ["site", "reconstruction", "remainder"];
    Ok(labels.iter().zip(of_parts).map(|(label, values)| Component::new(label, values)).collect())
}

/// What stands in for the contributions of neurons that are not active.
#[derive(Debug, Clone, Copy)]
pub enum Inactive<'a> {
    /// Zero.
    Zero,
    /// Their mean over a corpus, per component: [`mean_decomposition`].
    Mean(&'a Matrix),
}

/// What each component contributes to each neuron's pre-activation, `[components, d_mlp]`: the mean over the positions
/// of a prompt, then over prompts.
///
/// # Errors
/// If the SAE does not read neurons, or neurons are gated, or as [`Model::run`].
pub fn mean_decomposition(model: &Model, sae: &Sae, prompts: &Prompts, watch: &Watch) -> Result<Matrix> {
    sae.check_linear_neurons(model)?;
    let layer = sae.site().reads.layer();
    let mut mean: Vec<Vec<f64>> = Vec::new();
    each_batch(prompts, BATCH / 4, "mean of the components", watch, |part, _| {
        let ask = Ask::nothing().watched(watch);
        let (decomposition, _) = model.decompose(&part, &Positions::All, Reader::Mlp(layer), ask)?;
        mean.resize(decomposition.components.len(), vec![0.0; model.config().d_model]);
        for (mean, component) in mean.iter_mut().zip(&decomposition.components) {
            for bounds in part.offsets().windows(2) {
                let weight = 1.0 / ((bounds[1] - bounds[0]) as f64 * prompts.len() as f64);
                for row in bounds[0]..bounds[1] {
                    mean.iter_mut().zip(component.row(row)).for_each(|(m, &x)| *m += x as f64 * weight);
                }
            }
        }
        Ok(())
    })?;
    // The product with W_in is linear, so it can wait until the means are taken.
    let rows: Vec<Vec<f32>> = mean.iter().map(|row| row.iter().map(|&x| x as f32).collect()).collect();
    let w_in = &model.weights().blocks[layer].w_in;
    let mut out = Matrix::zeros(rows.len(), w_in.columns());
    directrix_kernels::product(Matrix::from_rows(&rows).view(), w_in.view(), &mut out, false);
    Ok(out)
}

/// Attribution to a direction (DFA): what each component contributes to its pre-activation, through the neurons that are
/// active, at one position of each prompt (`positions[prompt]`). Means over prompts.
///
/// # Errors
/// If the SAE does not read neurons, or neurons are gated, or as [`Model::run`].
pub fn attribution_to_direction(
    model: &Model,
    sae: &Sae,
    direction: u32,
    prompts: &Prompts,
    positions: &[usize],
    inactive: Inactive,
    watch: &Watch,
) -> Result<Vec<Component>> {
    sae.check_linear_neurons(model)?;
    sae.check(direction as usize)?;
    if positions.len() != prompts.len() {
        return Err(Error::Lengths { what: "positions", given: positions.len(), wanted: prompts.len() });
    }
    let layer = sae.site().reads.layer();
    let hook = HookPoint::Block(layer, BlockHook::MlpPost);
    let encoder = sae.encoder().row(direction as usize);
    let w_in = &model.weights().blocks[layer].w_in;
    let mut gathered = Gathered::default();
    each_batch(prompts, BATCH, "attribution to a direction", watch, |part, batch| {
        // Nothing up to a position depends on what follows it.
        let positions = &positions[batch];
        let part = Prompts::from_rows(part.iter().zip(positions).map(|(p, at)| &p[..p.len().min(at + 1)]));
        let at = Positions::Each(positions.iter().map(|p| vec![*p]).collect());
        let ask = Ask::nothing().with_capture(hook, at.clone()).watched(watch);
        let (decomposition, run) = model.decompose(&part, &at, Reader::Mlp(layer), ask)?;
        // Per prompt: the encoder column on active neurons, pulled back through W_in to the residual stream.
        let active: Vec<Vec<bool>> =
            run.captured(hook).iter_rows().map(|row| row.iter().map(|x| *x > 0.0).collect()).collect();
        let masked = |active: &Vec<bool>| -> Vec<f32> {
            encoder.iter().zip(active).map(|(e, on)| if *on { *e } else { 0.0 }).collect()
        };
        let masked = Matrix::from_rows(&active.iter().map(masked).collect::<Vec<_>>());
        let mut pulled = Matrix::zeros(part.len(), w_in.rows());
        directrix_kernels::product(masked.view(), w_in.view().transposed(), &mut pulled, false);
        gathered.add(&decomposition, part.len(), |component, row| dot(component.row(row), pulled.row(row)));
        if let Inactive::Mean(mean) = inactive {
            for (component, values) in gathered.values.iter_mut().enumerate() {
                let first = values.len() - part.len();
                for (value, active) in values[first..].iter_mut().zip(&active) {
                    let terms = mean.row(component).iter().zip(encoder).zip(active);
                    *value += terms.filter(|(_, on)| !**on).map(|((&m, &e), _)| m as f64 * e as f64).sum::<f64>();
                }
            }
        }
        Ok(())
    })?;
    Ok(gathered.rows())
}

/// A direction's own logit attribution to an answer, by its weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DirectionAttribution {
    /// The direction.
    pub direction: usize,
    /// `W_dec W_out W_U[answer]`: logit per unit of activation, LayerNorm's scale not applied.
    pub attribution: f64,
    /// Mean activation over prompts, zeros included.
    pub mean_activation: f64,
    /// Half width of its 95 % interval.
    pub mean_activation_half_width: f64,
    /// Attribution times mean activation.
    pub scaled: f64,
    /// Half width of its 95 % interval.
    pub scaled_half_width: f64,
}

/// The DLA of every direction to `answer`, and times its mean activation; `acts` has one row per prompt.
///
/// # Errors
/// If the site does not write to the residual stream, or the activations are of another SAE.
pub fn direction_attribution(
    model: &Model,
    sae: &Sae,
    acts: &SparseActivations,
    answer: u32,
) -> Result<Vec<DirectionAttribution>> {
    let mut sums = vec![(0.0_f64, 0.0_f64); sae.directions()];
    for (&direction, &value) in acts.directions().iter().zip(acts.values()) {
        let (sum, squares) = &mut sums[sae.check(direction as usize)? as usize];
        *sum += value as f64;
        *squares += value as f64 * value as f64;
    }
    let unembedding = unembedding(model, answer)?;
    let writes = sae.writes(model)?;
    let row = |(direction, row): (usize, &[f32])| {
        let (sum, squares) = sums[direction];
        let activation = Estimate::of_sums(acts.positions(), sum, squares);
        let attribution = dot(row, &unembedding);
        DirectionAttribution {
            direction,
            attribution,
            mean_activation: activation.mean,
            mean_activation_half_width: activation.half_width,
            scaled: attribution * activation.mean,
            scaled_half_width: attribution.abs() * activation.half_width,
        }
    };
    Ok(writes.iter_rows().enumerate().map(row).collect())
}
