//! A sparse autoencoder.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use directrix_kernels::{Encoder, Keep, Matrix, Screen, SparseActivations, View, Weight, dot};
use directrix_model::{BlockHook, Config, HookPoint, Model, Processing};
use rayon::prelude::*;

use crate::{End, Error, Result, Site};

/// What makes activations of pre-activations `pre = x_in W_enc + b_enc`.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// `relu(pre)`: SAELens's `standard`.
    Relu,
    /// `relu(pre)` of the `k` largest at each position, 0 for the others: `topk`.
    TopK {
        /// Active directions per position, at most.
        k: usize,
    },
    /// `pre` where it exceeds a threshold, else 0: `jumprelu`.
    JumpRelu {
        /// One for each direction, not negative.
        threshold: Vec<f32>,
    },
    /// `relu(x_in W_enc exp(r_mag) + b_mag)` where `pre`, whose bias is the gates', is above 0: `gated`.
    Gated {
        /// Logarithm of the magnitudes' share of the encoder, `[directions]`.
        r_mag: Vec<f32>,
        /// Bias of the magnitudes, `[directions]`.
        b_mag: Vec<f32>,
    },
}

impl Architecture {
    /// SAELens's name.
    pub fn name(&self) -> &'static str {
        match self {
            Architecture::Relu => "standard",
            Architecture::TopK { .. } => "topk",
            Architecture::JumpRelu { .. } => "jumprelu",
            Architecture::Gated { .. } => "gated",
        }
    }

    /// The numbers it has for each direction, by name.
    fn numbers(&self) -> Vec<(&'static str, &[f32])> {
        match self {
            Architecture::Relu | Architecture::TopK { .. } => Vec::new(),
            Architecture::JumpRelu { threshold } => vec![("threshold", threshold)],
            Architecture::Gated { r_mag, b_mag } => vec![("r_mag", r_mag), ("b_mag", b_mag)],
        }
    }
}

/// What is done to a row before it is encoded, and, where both ends of the site are one place, undone of its reconstruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normalisation {
    /// Nothing.
    #[default]
    None,
    /// `x √d_in / ‖x‖`: SAELens's `constant_norm_rescale`.
    ConstantNorm,
    /// `(x - mean) / (std + 1e-5)`, `std` with `d_in - 1` as torch has it: SAELens's `layer_norm`, and that of OpenAI's SAEs.
    LayerNorm,
}

impl Normalisation {
    /// SAELens's name.
    pub fn name(self) -> &'static str {
        match self {
            Normalisation::None => "none",
            Normalisation::ConstantNorm => "constant_norm_rescale",
            Normalisation::LayerNorm => "layer_norm",
        }
    }

    /// What is taken from a row, what it is multiplied with then, and what a reconstruction is multiplied with to undo that.
    fn of(self, row: &[f32]) -> (f64, f64, f64) {
        let n = row.len() as f64;
        match self {
            Normalisation::None => (0.0, 1.0, 1.0),
            Normalisation::ConstantNorm => {
                let norm = row.iter().map(|x| (*x as f64).powi(2)).sum::<f64>().sqrt();
                (0.0, n.sqrt() / norm, norm / n.sqrt())
            }
            Normalisation::LayerNorm => {
                let mean = row.iter().map(|x| *x as f64).sum::<f64>() / n;
                let squares = row.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>();
                let std = (squares / (n - 1.0)).sqrt();
                (mean, 1.0 / (std + 1e-5), std)
            }
        }
    }

    /// The row as it is encoded.
    fn apply(self, row: &[f32]) -> impl Iterator<Item = f32> {
        let (mean, scale, _) = self.of(row);
        row.iter().map(move |x| ((*x as f64 - mean) * scale) as f32)
    }
}

/// The numbers an SAE is made of, whatever form they are stored in.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// What makes activations.
    pub architecture: Architecture,
    /// `[directions, d_in]`: the transpose of SAELens's `W_enc`, so that what a direction reads lies together.
    pub encoder: Matrix,
    /// `[directions, d_out]`.
    pub w_dec: Matrix,
    /// Encoder bias, `[directions]`; of a gated SAE, the gates'.
    pub b_enc: Vec<f32>,
    /// Decoder bias, `[d_out]`.
    pub b_dec: Vec<f32>,
    /// Whether the encoder reads `x - b_dec` (SAELens's `apply_b_dec_to_input`): only where both ends are one place.
    pub subtract_b_dec: bool,
    /// What is done to `x` first.
    pub normalisation: Normalisation,
    /// `[d_out, d_in]`: what of `x` itself, as it is, is added to the reconstruction (`x W_skipᵀ`).
    pub w_skip: Option<Matrix>,
}

/// A sparse autoencoder: `pre = (x - b_dec) W_enc + b_enc`, activations as its [`Architecture`] says, `recon = acts W_dec +
/// b_dec`. Without `subtract_b_dec`, the encoder reads `x` itself. It may [normalise](Normalisation) what it reads, and add some of
/// it to what it writes (`w_skip`). It knows its [`Site`] but needs no model: it encodes anybody's activations. Clones share the numbers.
#[derive(Debug, Clone)]
pub struct Sae {
    name: String,
    site: Site,
    parameters: Arc<Parameters>,
    /// `b_enc - b_dec W_enc`: the input bias folded into the encoder's.
    bias: Arc<[f32]>,
    trained_on: Option<Processing>,
    /// Made of the encoder when it is first used.
    screen: Arc<OnceLock<Option<Screen>>>,
}

impl Sae {
    /// An SAE of these numbers. `name` says where they are from.
    ///
    /// # Errors
    /// If shapes do not go together, a number is not finite, or `b_dec` is to be taken from what is not also written.
    pub fn new(name: String, site: Site, parameters: Parameters) -> Result<Sae> {
        if let Err(problem) = check_parameters(&site, &parameters) {
            return Err(Error::Parameters { sae: name, problem });
        }
        let Parameters { encoder, b_enc, b_dec, subtract_b_dec, .. } = &parameters;
        let bias = if *subtract_b_dec {
            let folded = |(direction, b): (usize, &f32)| (*b as f64 - dot(b_dec, encoder.row(direction))) as f32;
            b_enc.par_iter().enumerate().map(folded).collect::<Vec<f32>>().into()
        } else {
            b_enc.as_slice().into()
        };
        Ok(Sae { name, site, bias, parameters: parameters.into(), trained_on: None, screen: Arc::default() })
    }

    /// The same SAE, trained on a model whose weights were processed like this.
    #[must_use]
    pub fn of_weights(mut self, trained_on: Option<Processing>) -> Sae {
        self.trained_on = trained_on;
        self
    }

    /// How the weights of the model were processed that it was trained on, where its files say so.
    pub fn trained_on(&self) -> Option<Processing> {
        self.trained_on
    }

    /// The SAE, if it fits a model: one whose hook points have the widths of its ends. Whoever opens both checks it once;
    /// what takes an SAE and a model relies on it.
    ///
    /// # Errors
    /// If the model has no such hook point or head, or another width there.
    pub fn fit(self, config: &Config) -> Result<Sae> {
        for (end, does) in [(&self.site.reads, "reads"), (&self.site.writes, "writes")] {
            let there = End::of(end.hook, end.head, config).map_err(|what| Error::Parameters {
                sae: self.name.clone(),
                problem: format!("the SAE {does} {what}"),
            })?;
            if there.width != end.width {
                let (sae, hook) = (self.name, end.hook.to_string());
                return Err(Error::Width { sae, does, hook, expected: there.width, found: end.width });
            }
        }
        Ok(self)
    }

    /// The numbers it is made of.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Where it is from: the folder it was loaded from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last part of its name: what tables call it. Of a repository of the hub at a commit, `owner/name@commit`, it is the name.
    pub fn short_name(&self) -> &str {
        let last = self.name.rsplit(['/', '\\', ':']).find(|part| !part.is_empty()).unwrap_or(&self.name);
        match last.split_once('@') {
            Some((name, commit)) if commit.len() == 40 => name,
            _ => last,
        }
    }

    /// What it reads and writes.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// What makes its activations.
    pub fn architecture(&self) -> &Architecture {
        &self.parameters.architecture
    }

    /// Number of directions.
    pub fn directions(&self) -> usize {
        self.parameters.w_dec.rows()
    }

    /// Width of what it reads.
    pub fn d_in(&self) -> usize {
        self.parameters.encoder.columns()
    }

    /// Width of what it writes.
    pub fn d_out(&self) -> usize {
        self.parameters.w_dec.columns()
    }

    /// Encoder, `[directions, d_in]`: the transpose of SAELens's `W_enc`, so that what a direction reads lies together.
    pub fn encoder(&self) -> &Matrix {
        &self.parameters.encoder
    }

    /// Decoder, `[directions, d_out]`.
    pub fn w_dec(&self) -> &Matrix {
        &self.parameters.w_dec
    }

    /// Encoder bias, `[directions]`.
    pub fn b_enc(&self) -> &[f32] {
        &self.parameters.b_enc
    }

    /// Decoder bias, `[d_out]`.
    pub fn b_dec(&self) -> &[f32] {
        &self.parameters.b_dec
    }

    /// `direction`, if it is one of its.
    ///
    /// # Errors
    /// [`Error::Direction`] if not.
    pub fn check(&self, direction: usize) -> Result<u32> {
        if direction < self.directions() {
            return Ok(direction as u32);
        }
        Err(Error::Direction { sae: self.name.clone(), direction, last: self.directions() - 1 })
    }

    /// The activations of every row. A row is what the SAE reads, `[rows, d_in]`; of one that reads a head it may also be
    /// that of all heads, `[rows, heads × d_in]`, of which the SAE takes its own.
    ///
    /// # Errors
    /// If rows have another width, or an activation is not finite.
    pub fn encode(&self, rows: &Matrix) -> Result<SparseActivations> {
        self.encode_view(rows.view())
    }

    fn encode_view(&self, rows: View) -> Result<SparseActivations> {
        let Parameters { architecture, encoder, .. } = &*self.parameters;
        let keep = match architecture {
            Architecture::Relu | Architecture::Gated { .. } => Keep::Positive,
            Architecture::TopK { k } => Keep::Largest(*k),
            Architecture::JumpRelu { threshold } => Keep::Above(threshold),
        };
        let x =
            rows.columns_of(self.site.reads.columns_in(rows.columns()).ok_or_else(|| self.row_width(rows.columns()))?);
        let normalised = self.normalised(x);
        let x = normalised.as_ref().map_or(x, Matrix::view);
        let screen = self.screen.get_or_init(|| Screen::new(encoder)).as_ref();
        let weights = encoder.view().transposed();
        let acts = directrix_kernels::encode(x, Encoder { weights, bias: &self.bias, keep, screen })
            .map_err(|e| self.not_finite(e.direction, e.row))?;
        match architecture {
            Architecture::Gated { r_mag, b_mag } => self.magnitudes(&acts, r_mag, b_mag),
            _ => Ok(acts),
        }
    }

    /// The rows as they are encoded, where they are not encoded as they are.
    fn normalised(&self, x: View) -> Option<Matrix> {
        let normalisation = self.parameters.normalisation;
        if normalisation == Normalisation::None {
            return None;
        }
        let rows = (0..x.rows()).flat_map(|row| normalisation.apply(x.row(row)));
        Some(Matrix::new(rows.collect(), x.rows(), x.columns()))
    }

    /// The activations of a gated SAE from its open gates' pre-activations.
    fn magnitudes(&self, gates: &SparseActivations, r_mag: &[f32], b_mag: &[f32]) -> Result<SparseActivations> {
        let mut acts = SparseActivations::default();
        let mut active = Vec::new();
        for position in 0..gates.positions() {
            let (directions, values) = gates.at(position);
            for (&direction, &gate) in directions.iter().zip(values) {
                let d = direction as usize;
                let magnitude = (gate - self.parameters.b_enc[d]) * r_mag[d].exp() + b_mag[d];
                if !magnitude.is_finite() {
                    return Err(self.not_finite(d, position));
                }
                if magnitude > 0.0 {
                    active.push((direction, magnitude));
                }
            }
            acts.push(active.drain(..));
        }
        Ok(acts)
    }

    fn not_finite(&self, direction: usize, row: usize) -> Error {
        Error::NotFinite { sae: self.name.clone(), direction, row }
    }

    fn row_width(&self, found: usize) -> Error {
        let (sae, reads, expected) = (self.name.clone(), self.site.reads.to_string(), self.d_in());
        Error::RowWidth { sae, reads, expected, found }
    }

    /// Whether a direction's activation depends on its own pre-activation alone: not for TopK.
    pub fn activates_by_itself(&self) -> bool {
        !matches!(self.parameters.architecture, Architecture::TopK { .. })
    }

    /// One direction's activation on one row, as [`activations`](Sae::activations).
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn activation(&self, row: &[f32], direction: u32) -> Result<f32> {
        Ok(self.activations(row, &[direction])?[0])
    }

    /// The activations of some directions on one row (as of [`encode`](Sae::encode)), without the others where they do not matter.
    ///
    /// # Errors
    /// As [`encode`](Sae::encode); the row is number 0.
    ///
    /// # Panics
    /// If it has no such direction.
    pub fn activations(&self, row: &[f32], directions: &[u32]) -> Result<Vec<f32>> {
        if !self.activates_by_itself() {
            let acts = self.encode_view(View::new(row, 1, row.len(), row.len()))?;
            return Ok(directions.iter().map(|direction| acts.get(0, *direction)).collect());
        }
        let columns = self.site.reads.columns_in(row.len()).ok_or_else(|| self.row_width(row.len()))?;
        let x = match self.parameters.normalisation {
            Normalisation::None => Cow::Borrowed(&row[columns]),
            normalisation => Cow::Owned(normalisation.apply(&row[columns]).collect()),
        };
        directions.iter().map(|direction| self.activation_of(&x, *direction as usize)).collect()
    }

    /// The activation of a direction that activates by itself on what is encoded.
    fn activation_of(&self, x: &[f32], d: usize) -> Result<f32> {
        let Parameters { architecture, encoder, b_enc, .. } = &*self.parameters;
        let pre = (dot(x, encoder.row(d)) + self.bias[d] as f64) as f32;
        let magnitude = match architecture {
            Architecture::Gated { r_mag, b_mag } => (pre - b_enc[d]) * r_mag[d].exp() + b_mag[d],
            _ => pre,
        };
        if !(pre.is_finite() && magnitude.is_finite()) {
            return Err(self.not_finite(d, 0));
        }
        let threshold = if let Architecture::JumpRelu { threshold } = architecture { threshold[d] } else { 0.0 };
        Ok(if pre > threshold { magnitude.max(0.0) } else { 0.0 })
    }

    /// A direction's activation on `row` (as [`encode`](Sae::encode) takes it) as a linear function of it, which it is while the direction is
    /// active and the divisor of a normalisation is held: what the row's inner product is taken with, as wide as the row, and what
    /// is added.
    ///
    /// # Panics
    /// If it has no such direction, or the row is of another width than the SAE reads.
    pub fn linear(&self, row: &[f32], direction: u32) -> (Vec<f32>, f64) {
        let d = direction as usize;
        let Parameters { architecture, encoder, b_enc, normalisation, .. } = &*self.parameters;
        let columns = self.site.reads.columns_in(row.len()).expect("the row is as wide as the SAE reads");
        let (_, mut scale, _) = normalisation.of(&row[columns.clone()]);
        let mut bias = f64::from(self.bias[d]);
        if let Architecture::Gated { r_mag, b_mag } = architecture {
            let magnified = f64::from(r_mag[d].exp());
            bias = (bias - f64::from(b_enc[d])) * magnified + f64::from(b_mag[d]);
            scale *= magnified;
        }
        // To centre a row is to centre what it is multiplied with.
        let read = encoder.row(d);
        let mean = match normalisation {
            Normalisation::LayerNorm => read.iter().map(|x| f64::from(*x)).sum::<f64>() / read.len() as f64,
            Normalisation::None | Normalisation::ConstantNorm => 0.0,
        };
        let mut by = vec![0.0; row.len()];
        by[columns].iter_mut().zip(read).for_each(|(by, x)| *by = ((f64::from(*x) - mean) * scale) as f32);
        (by, bias)
    }

    /// The reconstruction of what it writes, `[positions, d_out]`, of activations of `rows` (as [`encode`](Sae::encode) takes
    /// them), be it all of them or some. The rows matter to an SAE that normalises them or has a skip connection.
    ///
    /// # Panics
    /// If there are other rows than positions, or they are of another width than the SAE reads.
    pub fn decode(&self, acts: &SparseActivations, rows: &Matrix) -> Matrix {
        let mut recon = directrix_kernels::decode(acts, self.w_dec(), self.b_dec());
        let Parameters { normalisation, w_skip, .. } = &*self.parameters;
        let undone = self.undoes_normalisation();
        if !undone && w_skip.is_none() {
            return recon;
        }
        let columns = self.site.reads.columns_in(rows.columns()).expect("rows are as wide as the SAE reads");
        assert_eq!(rows.rows(), recon.rows(), "there is a row for each position");
        let x = rows.view().columns_of(columns);
        if undone {
            for row in 0..x.rows() {
                let (mean, _, scale) = normalisation.of(x.row(row));
                recon.row_mut(row).iter_mut().for_each(|r| *r = (*r as f64 * scale + mean) as f32);
            }
        }
        if let Some(w_skip) = w_skip {
            directrix_kernels::product(x, w_skip.view().transposed(), &mut recon, true);
        }
        recon
    }

    /// Whether reconstructions are brought back to the size of the row: a transcoder writes another place.
    fn undoes_normalisation(&self) -> bool {
        self.parameters.normalisation != Normalisation::None && self.site.is_one_place()
    }

    /// What a unit of activation adds to the reconstruction of `row` (as [`encode`](Sae::encode) takes it), in rows of `w_dec`: 1,
    /// or the size of the row that was normalised.
    ///
    /// # Panics
    /// If the row is of another width than the SAE reads.
    pub fn unit(&self, row: &[f32]) -> f32 {
        if !self.undoes_normalisation() {
            return 1.0;
        }
        let columns = self.site.reads.columns_in(row.len()).expect("the row is as wide as the SAE reads");
        self.parameters.normalisation.of(&row[columns]).2 as f32
    }

    /// The error of an SAE whose normalisation is in the way of an analysis by weights, unless it is not.
    fn check_linear(&self, is_linear: bool) -> Result<()> {
        if is_linear {
            return Ok(());
        }
        let problem = format!(
            "the SAE normalises what it reads (`{}`), so that what a direction is worth differs from position to position; \
             this analysis is for SAEs that do not",
            self.parameters.normalisation.name()
        );
        Err(Error::Parameters { sae: self.name.clone(), problem })
    }

    /// What each direction writes to the residual stream per unit of activation: `[directions, d_model]`; `W_dec W_out`
    /// for an SAE on neurons, `W_dec W_O` on head values, `W_dec` on what is itself written.
    ///
    /// # Errors
    /// If what it writes is not written to the residual stream, or a unit of activation is not the same at all positions.
    pub fn writes(&self, model: &Model) -> Result<Matrix> {
        self.check_linear(!self.undoes_normalisation())?;
        self.to_residual(model, self.w_dec())
    }

    /// Rows of what it writes (`[rows, d_out]`) as they are in the residual stream (`[rows, d_model]`), biases not
    /// included.
    ///
    /// # Errors
    /// If what it writes is not written to the residual stream, or only through a norm, which no matrix stands for.
    pub fn to_residual(&self, model: &Model, rows: &Matrix) -> Result<Matrix> {
        let end = &self.site.writes;
        let behind_norm = || {
            let problem = format!(
                "in this model, what is written at {} passes a norm before it is added to the residual stream, so that a direction \
                 has no effect of its own on it; take an SAE on hook_attn_out, hook_mlp_out or the residual stream",
                end.hook
            );
            Err(Error::Parameters { sae: self.name.clone(), problem })
        };
        let through = |w: &Weight| {
            let mut out = Matrix::zeros(rows.rows(), w.columns());
            directrix_kernels::product(rows.view(), w.view().rows_of(end.columns()), &mut out, false);
            Ok(out)
        };
        match end.hook {
            HookPoint::Block(_, BlockHook::MlpPost | BlockHook::Z | BlockHook::Result) if model.config().post_norms => {
                behind_norm()
            }
            HookPoint::Block(layer, BlockHook::MlpPost) => through(&model.weights().blocks[layer].w_out),
            HookPoint::Block(layer, BlockHook::Z) => through(&model.weights().blocks[layer].w_o),
            HookPoint::Block(
                _,
                BlockHook::MlpOut
                | BlockHook::AttnOut
                | BlockHook::Result
                | BlockHook::ResidPre
                | BlockHook::ResidMid
                | BlockHook::ResidPost,
            ) => Ok(rows.clone()),
            hook => {
                let problem = format!("{hook} does not write to the residual stream, which this analysis needs");
                Err(Error::Parameters { sae: self.name.clone(), problem })
            }
        }
    }

    /// What each direction reads of the residual stream per unit, `[directions, d_model]`, LayerNorm left aside: the transpose
    /// of `W_in W_enc` for an SAE that reads neurons, the encoder of one that reads the residual stream or the MLP's input itself.
    ///
    /// # Errors
    /// If the SAE reads neither the residual stream nor `mlp.hook_post`, `ln2.hook_normalized` or `hook_mlp_in`, normalises it, or
    /// reads neurons that are gated.
    pub fn reads(&self, model: &Model) -> Result<Matrix> {
        self.check_readable(model)?;
        if self.reads_itself() {
            return Ok(self.encoder().clone());
        }
        let w_in = &model.weights().blocks[self.site.reads.layer()].w_in;
        let mut out = Matrix::zeros(self.directions(), w_in.rows());
        directrix_kernels::product(self.encoder().view(), w_in.view().transposed(), &mut out, false);
        Ok(out)
    }

    /// That the SAE reads what [`reads`](Sae::reads) can trace to the MLP's input.
    ///
    /// # Errors
    /// As there.
    pub fn check_readable(&self, model: &Model) -> Result<()> {
        self.check_linear(self.parameters.normalisation == Normalisation::None)?;
        if self.reads_itself() { Ok(()) } else { self.check_linear_neurons(model) }
    }

    /// Whether it reads rows of the residual stream, be it behind a norm.
    fn reads_itself(&self) -> bool {
        use BlockHook as B;
        let is_row = |hook| matches!(hook, B::ResidPre | B::ResidMid | B::ResidPost | B::Ln2Normalized | B::MlpIn);
        matches!(self.site.reads.hook, HookPoint::Block(_, hook) if is_row(hook))
    }

    /// That the SAE reads neurons (`mlp.hook_post`) of which each, while active, is about a linear function of the MLP's input:
    /// gated ones are a product of two.
    ///
    /// # Errors
    /// [`Error::Parameters`] if not.
    pub fn check_linear_neurons(&self, model: &Model) -> Result<()> {
        self.check_neurons()?;
        if model.config().mlp.gated {
            let problem = "the model's neurons are products of a gate and a linear part, and this analysis takes each for a linear \
                           function of the MLP's input; take an SAE that reads ln2.hook_normalized";
            return Err(Error::Parameters { sae: self.name.clone(), problem: problem.into() });
        }
        Ok(())
    }

    /// That the SAE reads neurons (`mlp.hook_post`) as they are.
    ///
    /// # Errors
    /// [`Error::Parameters`] if not.
    pub fn check_neurons(&self) -> Result<()> {
        self.check_linear(self.parameters.normalisation == Normalisation::None)?;
        match self.site.reads.hook {
            HookPoint::Block(_, BlockHook::MlpPost) => Ok(()),
            hook => {
                let problem = format!("the SAE reads {hook}; this analysis is for SAEs on mlp.hook_post");
                Err(Error::Parameters { sae: self.name.clone(), problem })
            }
        }
    }
}

/// What is wrong with an SAE of these numbers.
fn check_parameters(site: &Site, parameters: &Parameters) -> Result<(), String> {
    let Parameters { architecture, encoder, w_dec, b_enc, b_dec, subtract_b_dec, normalisation: _, w_skip } =
        parameters;
    let (directions, d_in, d_out) = (w_dec.rows(), site.reads.width, site.writes.width);
    let shapes = [("encoder", encoder, [directions.max(1), d_in]), ("w_dec", w_dec, [directions.max(1), d_out])];
    for (name, matrix, expected) in shapes.into_iter().chain(w_skip.as_ref().map(|w| ("w_skip", w, [d_out, d_in]))) {
        let found = [matrix.rows(), matrix.columns()];
        if found != expected {
            return Err(format!("`{name}` has shape {found:?}, expected {expected:?}"));
        }
        if let Some((row, column)) = matrix.first_not_finite() {
            return Err(format!("`{name}` is not finite at row {row}, column {column}"));
        }
    }
    let numbers = [("b_enc", &b_enc[..], directions), ("b_dec", b_dec, d_out)].into_iter();
    for (name, numbers, expected) in
        numbers.chain(architecture.numbers().into_iter().map(|(n, of)| (n, of, directions)))
    {
        if numbers.len() != expected {
            return Err(format!("`{name}` has {} numbers, expected {expected}", numbers.len()));
        }
        if let Some(place) = numbers.iter().position(|number| !number.is_finite()) {
            return Err(format!("`{name}` is not finite at {place}"));
        }
    }
    match architecture {
        Architecture::TopK { k: 0 } => Err("`k` is 0: no direction would ever fire".into()),
        Architecture::JumpRelu { threshold } if threshold.iter().any(|t| *t < 0.0) => {
            Err("a threshold is below 0".into())
        }
        _ if *subtract_b_dec && !site.is_one_place() => {
            Err("`b_dec` cannot be taken from what the SAE reads, as it writes another place".into())
        }
        _ => Ok(()),
    }
}
