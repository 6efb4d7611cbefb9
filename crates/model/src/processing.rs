//! Weight processing that leaves the predictions as they are and makes the weights easier to read.
//!
//! The steps and their order are TransformerLens's (`weight_processing.py`, `ProcessWeights.process_weights`).

use directrix_kernels::Weight;
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
            weights.w_u.center_rows();
            center(&mut weights.b_u);
        }
        if self.fold_value_biases {
            for block in &mut weights.blocks {
                add_row_times(&value_biases(config, &block.b_v), &block.w_o, &mut block.b_o);
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
    let fold_into = |ln: &NormWeights, w: &mut Weight, b: &mut [f32]| match config.norm {
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
fn fold_into(ln: &NormWeights, w: &mut Weight, b: &mut [f32]) {
    if let Some(bias) = &ln.b {
        add_row_times(bias, w, b);
    }
    w.scale_rows(&ln.w);
}

/// As [`fold_into`], then mean zero over the rows: LayerNorm's output has no mean to read.
fn fold_into_centred(ln: &NormWeights, w: &mut Weight, b: &mut [f32]) {
    fold_into(ln, w, b);
    w.center_columns();
}

fn center_writing_weights(weights: &mut Weights) {
    weights.w_e.center_rows();
    if let Some(w_pos) = &mut weights.w_pos {
        w_pos.center_rows();
    }
    for block in &mut weights.blocks {
        block.w_o.center_rows();
        center(&mut block.b_o);
        block.w_out.center_rows();
        center(&mut block.b_out);
    }
}

fn center(row: &mut [f32]) {
    let mean = row.iter().map(|&x| x as f64).sum::<f64>() / row.len() as f64;
    row.iter_mut().for_each(|x| *x = (*x as f64 - mean) as f32);
}

/// `to += row w`, accumulated in double precision.
fn add_row_times(row: &[f32], w: &Weight, to: &mut [f32]) {
    if row.iter().all(|x| *x == 0.0) {
        return;
    }
    let mut sums = vec![0.0_f64; w.columns()];
    for (&a, row) in row.iter().zip(w.to_matrix().iter_rows()) {
        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += a as f64 * x as f64);
    }
    to.iter_mut().zip(sums).for_each(|(x, sum)| *x = (*x as f64 + sum) as f32);
}
