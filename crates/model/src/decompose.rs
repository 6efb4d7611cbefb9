//! Residual decomposition: who wrote the residual stream.

use directrix_corpus::Prompts;
use directrix_kernels::Matrix;

use crate::config::{Norm, PositionEncoding};
use crate::{Ask, BlockHook, HookPoint, Model, NormWeights, Positions, Result, Run};

/// What reads the residual stream that is decomposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The MLP of a layer.
    Mlp(usize),
    /// The unembedding.
    Unembed,
}

/// The residual stream at some positions as a sum of components, as its reader's norm sees them.
///
/// Components and labels are those of TransformerLens's `get_full_resid_decomposition(expand_neurons=False)`: heads
/// (`L0H0`, …), MLPs (`0_mlp_out`, …), `embed`, `pos_embed` (not for rotary positions) and `bias`, the sum of attention's
/// output biases. Each is what is really added: where what attention writes passes a norm, heads and biases are as this norm
/// scaled their sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Decomposition {
    /// One label per component.
    pub labels: Vec<String>,
    /// Per component, `[rows, d_model]`: centred, where the norm is a LayerNorm, and divided by the run's own scale
    /// (`apply_ln_to_stack`).
    pub components: Vec<Matrix>,
}

impl Model {
    /// Decomposes what `reader` reads at `positions` of every prompt; rows prompt after prompt. The run it took gives what
    /// else is asked for.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn decompose(
        &self,
        prompts: &Prompts,
        positions: &Positions,
        reader: Reader,
        ask: Ask,
    ) -> Result<(Decomposition, Run)> {
        let config = self.config();
        let (heads_of, mlps_of) = match reader {
            Reader::Unembed => (config.n_layers, config.n_layers),
            Reader::Mlp(layer) if config.parallel => (layer, layer),
            Reader::Mlp(layer) => (layer + 1, layer),
        };
        let z = |layer| HookPoint::Block(layer, BlockHook::Z);
        let mlp_out = |layer| HookPoint::Block(layer, BlockHook::MlpOut);
        let scale = match reader {
            Reader::Unembed => HookPoint::LnFinalScale,
            Reader::Mlp(layer) => HookPoint::Block(layer, BlockHook::Ln2Scale),
        };
        let mut hooks = vec![HookPoint::Embed];
        if config.encoding == PositionEncoding::Learned {
            hooks.push(HookPoint::PosEmbed);
        }
        let post_scale = |layer| HookPoint::Block(layer, BlockHook::Ln1PostScale);
        if config.post_norms {
            hooks.extend((0..heads_of).map(post_scale));
        }
        hooks.extend((0..heads_of).map(z).chain((0..mlps_of).map(mlp_out)).chain([scale]));
        let ask = hooks.iter().fold(ask, |ask, hook| ask.with_capture(*hook, positions.clone()));
        let run = self.run(prompts, &ask, &[])?;

        let scales = run.captured(scale).data();
        let mut bias = Matrix::zeros(scales.len(), config.d_model);
        let (mut labels, mut components) = (Vec::new(), Vec::new());
        for layer in 0..heads_of {
            let block = &self.weights().blocks[layer];
            let results = self.head_results(layer, run.captured(z(layer)));
            let heads = (0..config.attention.query_heads).map(|h| h * config.d_model..(h + 1) * config.d_model);
            let biases = Matrix::repeat(&block.b_o, scales.len());
            let mut written: Vec<Matrix> = heads.map(|columns| results.columns_of(columns)).chain([biases]).collect();
            if let Some([norm, _]) = &block.post_norms {
                let scales = run.captured(post_scale(layer)).data();
                written.iter_mut().for_each(|part| {
                    self.apply_scale(part, scales);
                    multiply_rows(part, &norm.w);
                });
            }
            written.pop().into_iter().for_each(|biases| bias.add(&biases));
            labels.extend((0..written.len()).map(|head| format!("L{layer}H{head}")));
            components.extend(written);
        }
        for layer in 0..mlps_of {
            labels.push(format!("{layer}_mlp_out"));
            components.push(run.captured(mlp_out(layer)).clone());
        }
        labels.push("embed".into());
        components.push(run.captured(HookPoint::Embed).clone());
        if config.encoding == PositionEncoding::Learned {
            labels.push("pos_embed".into());
            components.push(run.captured(HookPoint::PosEmbed).clone());
        }
        labels.push("bias".into());
        components.push(bias);
        components.iter_mut().for_each(|component| self.apply_scale(component, scales));
        let ln = match reader {
            Reader::Unembed => self.weights().ln_final.as_ref(),
            Reader::Mlp(layer) => self.weights().blocks[layer].ln2.as_ref(),
        };
        if let Some(NormWeights { w, b }) = ln {
            components.iter_mut().for_each(|component| multiply_rows(component, w));
            // The bias is the last component.
            let bias = components.iter_mut().last();
            bias.into_iter().zip(b).for_each(|(bias, b)| bias.add_to_rows(b));
        }
        Ok((Decomposition { labels, components }, run))
    }

    /// Divides every row by the run's own scale of a norm, and centres it before where the norm does.
    fn apply_scale(&self, component: &mut Matrix, scales: &[f32]) {
        for (row, scale) in scales.iter().enumerate() {
            let row = component.row_mut(row);
            let mean = match self.config().norm {
                Norm::Layer { .. } => row.iter().map(|&x| x as f64).sum::<f64>() / row.len() as f64,
                Norm::Rms { .. } => 0.0,
            };
            row.iter_mut().for_each(|x| *x = ((*x as f64 - mean) / *scale as f64) as f32);
        }
    }
}

fn multiply_rows(x: &mut Matrix, by: &[f32]) {
    for row in 0..x.rows() {
        x.row_mut(row).iter_mut().zip(by).for_each(|(x, w)| *x *= w);
    }
}
