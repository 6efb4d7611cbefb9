//! Residual decomposition: who wrote the residual stream.

use directrix_corpus::Prompts;
use directrix_kernels::Matrix;

use crate::config::PositionEncoding;
use crate::{Ask, BlockHook, HookPoint, LayerNorm, Model, Positions, Result, Run};

/// What reads the residual stream that is decomposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The MLP of a layer.
    Mlp(usize),
    /// The unembedding.
    Unembed,
}

/// The residual stream at some positions as a sum of components, as its reader's LayerNorm sees them.
///
/// Components and labels are those of TransformerLens's `get_full_resid_decomposition(expand_neurons=False)`: heads
/// (`L0H0`, …), MLPs (`0_mlp_out`, …), `embed`, `pos_embed` (not for rotary positions) and `bias`, the sum of attention's
/// output biases.
#[derive(Debug, Clone, PartialEq)]
pub struct Decomposition {
    /// One label per component.
    pub labels: Vec<String>,
    /// Per component, `[rows, d_model]`: centred and divided by the run's own LayerNorm scale (`apply_ln_to_stack`).
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
        hooks.extend((0..heads_of).map(z).chain((0..mlps_of).map(mlp_out)).chain([scale]));
        let ask = hooks.iter().fold(ask, |ask, hook| ask.with_capture(*hook, positions.clone()));
        let run = self.run(prompts, &ask, &[])?;

        let (mut labels, mut components) = (Vec::new(), Vec::new());
        for layer in 0..heads_of {
            let results = self.head_results(layer, run.captured(z(layer)));
            for head in 0..config.attention.query_heads {
                labels.push(format!("L{layer}H{head}"));
                components.push(results.columns_of(head * config.d_model..(head + 1) * config.d_model));
            }
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
        let scales = run.captured(scale).data();
        let mut bias = Matrix::zeros(scales.len(), config.d_model);
        self.weights().blocks[..heads_of].iter().for_each(|block| bias.add_to_rows(&block.b_o));
        labels.push("bias".into());
        components.push(bias);
        components.iter_mut().for_each(|component| apply_scale(component, scales));
        let ln = match reader {
            Reader::Unembed => self.weights().ln_final.as_ref(),
            Reader::Mlp(layer) => self.weights().blocks[layer].ln2.as_ref(),
        };
        if let Some(LayerNorm { w, b }) = ln {
            for component in &mut components {
                for row in 0..scales.len() {
                    component.row_mut(row).iter_mut().zip(w).for_each(|(x, w)| *x *= w);
                }
            }
            // The bias is the last component.
            components.iter_mut().last().into_iter().for_each(|bias| bias.add_to_rows(b));
        }
        Ok((Decomposition { labels, components }, run))
    }
}

/// Centres every row and divides it by the run's own LayerNorm scale.
fn apply_scale(component: &mut Matrix, scales: &[f32]) {
    for (row, scale) in scales.iter().enumerate() {
        let row = component.row_mut(row);
        let mean = row.iter().map(|&x| x as f64).sum::<f64>() / row.len() as f64;
        row.iter_mut().for_each(|x| *x = ((*x as f64 - mean) / *scale as f64) as f32);
    }
}
