//! Weight processing that leaves the predictions as they are and makes the weights easier to read.
//!
//! The steps and their order are TransformerLens's (`weight_processing.py`, `ProcessWeights.process_weights`).

use directrix_kernels::Matrix;
use serde::{Deserialize, Serialize};

use crate::config::Norm;
use crate::{Config, NormWeights, Weights};

/// Which steps to take. All are on by default, as in `HookedTransformer.from_pretrained`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Processing {
    /// Fold the weights and biases of norms into the weights that read their output.
    pub fold_ln: bool,
    /// Give every weight that writes to the residual stream mean zero over `d_model`.
    pub center_writing_weights: bool,
    /// Give the unembedding mean zero over the vocabulary: logits shift by a constant per position.
    pub center_unembed: bool,
    /// Fold value biases into the output bias of attention.
    pub fold_value_biases: bool,
}

impl Default for Processing {
    fn default() -> Self {
        Processing { fold_ln: true, center_writing_weights: true, center_unembed: true, fold_value_biases: true }
    }
}

impl Processing {
    /// No step: the weights as they are in the checkpoint.
    pub fn none() -> Processing {
        Processing { fold_ln: false, center_writing_weights: false, center_unembed: false, fold_value_biases: false }
    }

    /// The steps that a model allows, as TransformerLens has it: an RMSNorm reads the mean of the residual stream, and a soft
    /// cap the size of logits.
    #[must_use]
    pub(crate) fn allowed(self, config: &Config) -> Processing {
        let centers = matches!(config.norm, Norm::Layer { .. });
        Processing {
            center_writing_weights: self.center_writing_weights && centers,
            center_unembed: self.center_unembed && config.logit_soft_cap.is_none(),
            ..self
        }
    }

    /// Takes the steps, which are [allowed](Processing::allowed).
    pub(crate) fn apply(self, config: &Config, weights: &mut Weights) {
        if self.fold_ln {
            fold_ln(config, weights);
        }
        if self.center_writing_weights {
            center_writing_weights(weights);
        }
        if self.center_unembed {
            center_rows(&mut weights.w_u);
            center(&mut weights.b_u);
        }
        if self.fold_value_biases {
            for block in &mut weights.blocks {
                let folded = row_times(&value_biases(config, &block.b_v), &block.w_o);
                add(&mut block.b_o, &folded);
                block.b_v.fill(0.0);
                if self.center_writing_weights {
                    center(&mut block.b_o);
                }
            }
        }
    }
}

/// The value biases of every query head.
fn value_biases(config: &Config, b_v: &[f32]) -> Vec<f32> {
    let sharing = config.attention.query_heads / config.attention.key_heads;
    b_v.chunks_exact(config.attention.d_head).flat_map(|head| head.repeat(sharing)).collect()
}

fn fold_ln(config: &Config, weights: &mut Weights) {
    let fold_into = |ln: &NormWeights, w: &mut Matrix, b: &mut [f32]| match config.norm {
        Norm::Layer { .. } => fold_into_centred(ln, w, b),
        Norm::Rms { .. } => fold_into(ln, w, b),
    };
    for block in &mut weights.blocks {
        if let Some(ln) = block.ln1.take() {
            for (w, b) in
                [(&mut block.w_q, &mut block.b_q), (&mut block.w_k, &mut block.b_k), (&mut block.w_v, &mut block.b_v)]
            {
                fold_into(&ln, w, b);
            }
        }
        if let Some(ln) = block.ln2.take() {
            fold_into(&ln, &mut block.w_in, &mut block.b_in);
            if let Some(gate) = &mut block.gate {
                fold_into(&ln, &mut gate.w, &mut gate.b);
            }
        }
    }
    if let Some(ln) = weights.ln_final.take() {
        fold_into(&ln, &mut weights.w_u, &mut weights.b_u);
    }
}

/// `b += ln.b w`, then `w *= ln.w` row by row.
fn fold_into(ln: &NormWeights, w: &mut Matrix, b: &mut [f32]) {
    if let Some(bias) = &ln.b {
        add(b, &row_times(bias, w));
    }
    for (i, &scale) in ln.w.iter().enumerate() {
        w.row_mut(i).iter_mut().for_each(|x| *x *= scale);
    }
}

/// As [`fold_into`], then mean zero over the rows: LayerNorm's output has no mean to read.
fn fold_into_centred(ln: &NormWeights, w: &mut Matrix, b: &mut [f32]) {
    fold_into(ln, w, b);
    let mut means = vec![0.0_f64; w.columns()];
    for row in w.iter_rows() {
        means.iter_mut().zip(row).for_each(|(m, &x)| *m += x as f64);
    }
    let rows = w.rows();
    for i in 0..rows {
        w.row_mut(i).iter_mut().zip(&means).for_each(|(x, m)| *x = (*x as f64 - m / rows as f64) as f32);
    }
}

fn center_writing_weights(weights: &mut Weights) {
    center_rows(&mut weights.w_e);
    if let Some(w_pos) = &mut weights.w_pos {
        center_rows(w_pos);
    }
    for block in &mut weights.blocks {
        center_rows(&mut block.w_o);
        center(&mut block.b_o);
        center_rows(&mut block.w_out);
        center(&mut block.b_out);
    }
}

fn center_rows(w: &mut Matrix) {
    for i in 0..w.rows() {
        center(w.row_mut(i));
    }
}

fn center(row: &mut [f32]) {
    let mean = row.iter().map(|&x| x as f64).sum::<f64>() / row.len() as f64;
    row.iter_mut().for_each(|x| *x = (*x as f64 - mean) as f32);
}

fn add(to: &mut [f32], what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(x, &y)| *x = (*x as f64 + y) as f32);
}

/// `row w`, accumulated in double precision.
fn row_times(row: &[f32], w: &Matrix) -> Vec<f64> {
    let mut out = vec![0.0_f64; w.columns()];
    for (&a, row) in row.iter().zip(w.iter_rows()) {
        out.iter_mut().zip(row).for_each(|(o, &x)| *o += a as f64 * x as f64);
    }
    out
}
