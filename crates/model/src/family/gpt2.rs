//! GPT-2 (Radford et al. 2019): learned positions, `Conv1D` weights stored as they multiply, fused projections.

use super::{Checkpoint, Family};
use crate::config::{Attention, AttentionLayer, Config, Keys, Mlp, PositionEncoding};
use crate::{Block, Result, Weights};

pub(super) static FAMILY: Family = Family { architecture: "GPT2LMHeadModel", begins_with_bos: true, config, weights };

fn config(keys: &Keys) -> Result<Config> {
    let (d_model, heads, n_layers) = (keys.size("n_embd")?, keys.size("n_head")?, keys.size("n_layer")?);
    let d_head = keys.head_width(d_model, heads)?;
    let scale = if keys.flag_or("scale_attn_weights", true) { 1.0 / (d_head as f32).sqrt() } else { 1.0 };
    let by_layer = keys.flag_or("scale_attn_by_inverse_layer_idx", false);
    let layer = |layer: usize| AttentionLayer {
        window: None,
        scale: if by_layer { scale / (layer + 1) as f32 } else { scale },
    };
    Ok(Config {
        family: &FAMILY,
        n_layers,
        d_model,
        d_vocab: keys.size("vocab_size")?,
        n_ctx: if keys.get("n_positions").is_some() { keys.size("n_positions")? } else { keys.size_or("n_ctx", 1024)? },
        norm: keys.layer_norm("layer_norm_epsilon")?,
        encoding: PositionEncoding::Learned,
        attention: Attention {
            query_heads: heads,
            key_heads: heads,
            d_head,
            layers: (0..n_layers).map(layer).collect(),
        },
        mlp: Mlp { d_mlp: keys.size_or("n_inner", 4 * d_model)?, activation: keys.activation("activation_function")? },
        parallel: false,
        tied: keys.flag_or("tie_word_embeddings", true),
    })
}

fn weights(checkpoint: &Checkpoint) -> Result<Weights> {
    let (d, m) = (checkpoint.config.d_model, checkpoint.config.mlp.d_mlp);
    checkpoint.gpt(|block| {
        let at = |rest: &str| format!("{block}{rest}");
        let fused = checkpoint.tensors.matrix(&at("attn.c_attn.weight"), d, 3 * d)?;
        let bias = checkpoint.vector(&at("attn.c_attn.bias"), 3 * d)?;
        Ok(Block {
            ln1: checkpoint.norm(&at("ln_1"))?,
            w_q: fused.columns_of(0..d),
            w_k: fused.columns_of(d..2 * d),
            w_v: fused.columns_of(2 * d..3 * d),
            b_q: bias[..d].to_vec(),
            b_k: bias[d..2 * d].to_vec(),
            b_v: bias[2 * d..].to_vec(),
            w_o: checkpoint.tensors.matrix(&at("attn.c_proj.weight"), d, d)?,
            b_o: checkpoint.vector(&at("attn.c_proj.bias"), d)?,
            ln2: checkpoint.norm(&at("ln_2"))?,
            w_in: checkpoint.tensors.matrix(&at("mlp.c_fc.weight"), d, m)?,
            b_in: checkpoint.vector(&at("mlp.c_fc.bias"), m)?,
            w_out: checkpoint.tensors.matrix(&at("mlp.c_proj.weight"), m, d)?,
            b_out: checkpoint.vector(&at("mlp.c_proj.bias"), d)?,
        })
    })
}
