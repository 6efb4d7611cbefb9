//! A sparse autoencoder.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use directrix_kernels::{Encoder, Keep, Matrix, NotFinite, Screen, SparseActivations, dot};
use directrix_model::{BlockHook, HookPoint, Model};
use rayon::prelude::*;

use crate::{Error, Result};

/// What an SAE reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Hook point.
    pub hook: HookPoint,
    /// The one head it reads, at hook points that have heads.
    pub head: Option<usize>,
    /// Its columns in the hook point's row: all of them, or those of the head.
    pub columns: Range<usize>,
}

impl Site {
    /// The block it is in; sites are always in a block.
    pub fn layer(&self) -> usize {
        self.hook.layer().unwrap_or(0)
    }

    /// Where the residual stream has the site's [write](Sae::to_residual), if nothing else reads the site: adding to the
    /// one is adding to the other.
    pub fn written_at(&self) -> Option<HookPoint> {
        match self.hook {
            HookPoint::Block(layer, BlockHook::MlpPost | BlockHook::MlpOut | BlockHook::ResidPost) => {
                Some(HookPoint::Block(layer, BlockHook::ResidPost))
            }
            _ => None,
        }
    }
}

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
}

/// What is stored of an SAE.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    pub(crate) architecture: Architecture,
    /// One row per direction: the transpose of SAELens's `W_enc`.
    pub(crate) encoder: Matrix,
    pub(crate) w_dec: Matrix,
    pub(crate) b_enc: Vec<f32>,
    pub(crate) b_dec: Vec<f32>,
    pub(crate) subtract_b_dec: bool,
}

/// A sparse autoencoder: `pre = (x - b_dec) W_enc + b_enc`, activations as its [`Architecture`] says, `recon = acts W_dec +
/// b_dec`. Without `apply_b_dec_to_input`, the encoder reads `x` itself.
#[derive(Debug, Clone)]
pub struct Sae {
    name: String,
    site: Site,
    parameters: Parameters,
    /// `b_enc - b_dec W_enc`: the input bias folded into the encoder's.
    bias: Vec<f32>,
    /// Made of the encoder when it is first used.
    screen: Arc<OnceLock<Option<Screen>>>,
}

impl Sae {
    pub(crate) fn new(name: String, site: Site, parameters: Parameters) -> Sae {
        let Parameters { encoder, b_enc, b_dec, subtract_b_dec, .. } = &parameters;
        let bias = if *subtract_b_dec {
            let folded = |(direction, b): (usize, &f32)| (*b as f64 - dot(b_dec, encoder.row(direction))) as f32;
            b_enc.par_iter().enumerate().map(folded).collect()
        } else {
            b_enc.clone()
        };
        Sae { name, site, bias, parameters, screen: Arc::default() }
    }

    pub(crate) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Where it was loaded from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last part of its name: what tables call it.
    pub fn short_name(&self) -> &str {
        self.name.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(&self.name)
    }

    /// What it reads.
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
        self.parameters.w_dec.columns()
    }

    /// Encoder, `[directions, d_in]`: the transpose of SAELens's `W_enc`, so that what a direction reads lies together.
    pub fn encoder(&self) -> &Matrix {
        &self.parameters.encoder
    }

    /// Decoder, `[directions, d_in]`.
    pub fn w_dec(&self) -> &Matrix {
        &self.parameters.w_dec
    }

    /// Encoder bias, `[directions]`.
    pub fn b_enc(&self) -> &[f32] {
        &self.parameters.b_enc
    }

    /// Decoder bias, `[d_in]`.
    pub fn b_dec(&self) -> &[f32] {
        &self.parameters.b_dec
    }

    /// That `direction` is one of its.
    pub fn check(&self, direction: usize) -> Result<u32> {
        if direction < self.directions() {
            return Ok(direction as u32);
        }
        Err(Error::Direction { sae: self.name.clone(), direction, last: self.directions() - 1 })
    }

    /// The activations of every row of its hook point's values (`[rows, width of the hook point]`).
    ///
    /// # Errors
    /// If a pre-activation is not finite.
    pub fn encode(&self, values: &Matrix) -> Result<SparseActivations> {
        self.sparse(values).map_err(|e| Error::NotFinite { sae: self.name.clone(), direction: e.direction, row: e.row })
    }

    fn sparse(&self, values: &Matrix) -> Result<SparseActivations, NotFinite> {
        let Parameters { architecture, encoder, .. } = &self.parameters;
        let keep = match architecture {
            Architecture::Relu | Architecture::Gated { .. } => Keep::Positive,
            Architecture::TopK { k } => Keep::Largest(*k),
            Architecture::JumpRelu { threshold } => Keep::Above(threshold),
        };
        let x = values.view().columns_of(self.site.columns.clone());
        let screen = self.screen.get_or_init(|| Screen::new(encoder)).as_ref();
        let weights = encoder.view().transposed();
        let acts = directrix_kernels::encode(x, Encoder { weights, bias: &self.bias, keep, screen })?;
        Ok(match architecture {
            Architecture::Gated { r_mag, b_mag } => self.magnitudes(&acts, r_mag, b_mag),
            _ => acts,
        })
    }

    /// The activations of a gated SAE from its open gates' pre-activations.
    fn magnitudes(&self, gates: &SparseActivations, r_mag: &[f32], b_mag: &[f32]) -> SparseActivations {
        let mut acts = SparseActivations::default();
        for position in 0..gates.positions() {
            let (directions, values) = gates.at(position);
            let magnitude = |(&direction, &gate): (&u32, &f32)| {
                let d = direction as usize;
                (direction, (gate - self.parameters.b_enc[d]) * r_mag[d].exp() + b_mag[d])
            };
            acts.push(directions.iter().zip(values).map(magnitude).filter(|(_, act)| *act > 0.0));
        }
        acts
    }

    /// Whether a direction's activation depends on its own pre-activation alone: not for TopK.
    pub fn activates_by_itself(&self) -> bool {
        !matches!(self.parameters.architecture, Architecture::TopK { .. })
    }

    /// One direction's activation on one row of its hook point, without the others where they do not matter.
    pub fn activation(&self, values: &[f32], direction: u32) -> f32 {
        let d = direction as usize;
        let Parameters { architecture, encoder, b_enc, .. } = &self.parameters;
        if !self.activates_by_itself() {
            let row = Matrix::from_rows(&[values]);
            return self.sparse(&row).map_or(f32::NAN, |acts| acts.get(0, direction));
        }
        let x = &values[self.site.columns.clone()];
        let pre = (dot(x, encoder.row(d)) + self.bias[d] as f64) as f32;
        match architecture {
            Architecture::JumpRelu { threshold } if pre <= threshold[d] => 0.0,
            Architecture::Gated { .. } if pre <= 0.0 => 0.0,
            Architecture::Gated { r_mag, b_mag } => ((pre - b_enc[d]) * r_mag[d].exp() + b_mag[d]).max(0.0),
            _ => pre.max(0.0),
        }
    }

    /// The reconstruction, `[positions, d_in]`.
    pub fn decode(&self, acts: &SparseActivations) -> Matrix {
        directrix_kernels::decode(acts, self.w_dec(), self.b_dec())
    }

    /// What each direction writes to the residual stream per unit of activation: `[directions, d_model]`; `W_dec W_out`
    /// for an SAE on neurons, `W_dec W_O` on head values, `W_dec` on what is itself written.
    ///
    /// # Errors
    /// If the site does not write to the residual stream.
    pub fn writes(&self, model: &Model) -> Result<Matrix> {
        self.to_residual(model, self.w_dec())
    }

    /// Rows of the site (`[rows, d_in]`) as written to the residual stream (`[rows, d_model]`), biases not included.
    ///
    /// # Errors
    /// If the site does not write to the residual stream.
    pub fn to_residual(&self, model: &Model, rows: &Matrix) -> Result<Matrix> {
        let block = &model.weights().blocks[self.site.layer()];
        let through = |w: &Matrix| {
            let mut out = Matrix::zeros(rows.rows(), w.columns());
            directrix_kernels::product(rows.view(), w.view().rows_of(self.site.columns.clone()), &mut out, false);
            Ok(out)
        };
        match self.site.hook {
            HookPoint::Block(_, BlockHook::MlpPost) => through(&block.w_out),
            HookPoint::Block(_, BlockHook::Z) => through(&block.w_o),
            HookPoint::Block(
                _,
                BlockHook::MlpOut
                | BlockHook::AttnOut
                | BlockHook::Result
                | BlockHook::ResidPre
                | BlockHook::ResidMid
                | BlockHook::ResidPost,
            ) => Ok(rows.clone()),
            hook => Err(Error::Config {
                file: self.name.clone(),
                problem: format!("{hook} does not write to the residual stream, which this analysis needs"),
            }),
        }
    }

    /// What each direction reads from the MLP's input per unit: the transpose of `W_in W_enc`, `[directions, d_model]`.
    ///
    /// # Errors
    /// If the SAE does not read neurons (`mlp.hook_post`).
    pub fn reads(&self, model: &Model) -> Result<Matrix> {
        self.check_neurons()?;
        let w_in = &model.weights().blocks[self.site.layer()].w_in;
        let mut out = Matrix::zeros(self.directions(), w_in.rows());
        directrix_kernels::product(self.encoder().view(), w_in.view().transposed(), &mut out, false);
        Ok(out)
    }

    /// That the SAE reads neurons (`mlp.hook_post`).
    pub fn check_neurons(&self) -> Result<()> {
        match self.site.hook {
            HookPoint::Block(_, BlockHook::MlpPost) => Ok(()),
            hook => Err(Error::Config {
                file: self.name.clone(),
                problem: format!("the SAE reads {hook}; this analysis is for SAEs on mlp.hook_post"),
            }),
        }
    }
}
