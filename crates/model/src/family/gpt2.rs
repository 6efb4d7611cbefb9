//! GPT-2 (Radford et al. 2019): learned positions, `Conv1D` weights stored as they multiply, fused projections.

use directrix_corpus::Settings;
use directrix_kernels::Activation;

use super::{Checkpoint, Family};
use crate::config::{
    Attention, AttentionLayer, Config, MOST_HEADS, MOST_LAYERS, MOST_TOKENS, MOST_WIDTH, Mlp, PositionEncoding,
    activation, either, either_count, head_width, layer_norm, neurons,
};
use crate::{Block, Result, Weights};

pub(super) static FAMILY: Family = Family {
    architecture: "GPT2LMHeadModel",
    begins_with_bos: true,
    bare: "GPT2Model",
    model_type: "gpt2",
    prefix: "transformer.",
    unembedding: "lm_head.weight",
    block: "h.",
    buffers: &["attn.bias", "attn.masked_bias"],
    harmless: &[
        "attn_pdrop",
        "embd_pdrop",
        "n_ctx",
        "predict_special_tokens",
        "reorder_and_upcast_attn",
        "resid_pdrop",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
    config,
    weights,
};

fn config(settings: &Settings) -> Result<Config> {
    let d_model = either_count(settings, "n_embd", "hidden_size", MOST_WIDTH)?;
    let heads = either_count(settings, "n_head", "num_attention_heads", MOST_HEADS)?;
    let n_layers = either_count(settings, "n_layer", "num_hidden_layers", MOST_LAYERS)?;
    let d_head = head_width(settings, d_model, heads)?;
    let is_scaled = settings.or("scale_attn_weights", true, |field| field.flag())?;
    let scale = if is_scaled { 1.0 / (d_head as f32).sqrt() } else { 1.0 };
    let by_layer = settings.or("scale_attn_by_inverse_layer_idx", false, |field| field.flag())?;
    if settings.or("add_cross_attention", false, |field| field.flag())? {
        return Err(settings
            .problem("`add_cross_attention` is true; a model that reads another one is not supported")
            .into());
    }
    // Older files have both, and transformers reads the first.
    let n_ctx = either(settings, "n_positions", "max_position_embeddings")?.or_else(|| settings.find("n_ctx"));
    let layer = |layer: usize| AttentionLayer {
        window: None,
        scale: if by_layer { scale / (layer + 1) as f32 } else { scale },
        rotary: None,
    };
    Ok(Config {
        family: &FAMILY,
        n_layers,
        d_model,
        d_vocab: settings.get("vocab_size")?.count(MOST_TOKENS)?,
        n_ctx: n_ctx.map_or(Ok(1024), |field| field.count(MOST_TOKENS))?,
        norm: layer_norm(settings, "layer_norm_epsilon")?,
        encoding: PositionEncoding::Learned,
        attention: Attention {
            query_heads: heads,
            key_heads: heads,
            d_head,
            biased: true,
            output_biased: true,
            qk_norms: false,
            soft_cap: None,
            layers: (0..n_layers).map(layer).collect(),
        },
        mlp: Mlp {
            d_mlp: neurons(settings, "n_inner", d_model)?,
            activation: activation(settings, "activation_function", Activation::GeluTanh)?,
            gated: false,
            biased: true,
        },
        parallel: false,
        post_norms: false,
        logit_soft_cap: None,
        tied: settings.or("tie_word_embeddings", true, |field| field.flag())?,
    })
}

fn weights(checkpoint: &Checkpoint) -> Result<Weights> {
    let (d, m) = (checkpoint.config.d_model, checkpoint.config.mlp.d_mlp);
    checkpoint.gpt(|block| {
        let at = |rest: &str| format!("{block}{rest}");
        let fused = checkpoint.weight(&at("attn.c_attn.weight"), d, 3 * d)?;
        let bias = checkpoint.vector(&at("attn.c_attn.bias"), 3 * d)?;
        Ok(Block {
            ln1: checkpoint.norm(&at("ln_1"))?,
            w_q: fused.select_columns(0..d),
            w_k: fused.select_columns(d..2 * d),
            w_v: fused.select_columns(2 * d..3 * d),
            b_q: bias[..d].to_vec(),
            b_k: bias[d..2 * d].to_vec(),
            b_v: bias[2 * d..].to_vec(),
            w_o: checkpoint.weight(&at("attn.c_proj.weight"), d, d)?,
            b_o: checkpoint.vector(&at("attn.c_proj.bias"), d)?,
            qk_norms: None,
            ln2: checkpoint.norm(&at("ln_2"))?,
            gate: None,
            w_in: checkpoint.weight(&at("mlp.c_fc.weight"), d, m)?,
            b_in: checkpoint.vector(&at("mlp.c_fc.bias"), m)?,
            w_out: checkpoint.weight(&at("mlp.c_proj.weight"), m, d)?,
            b_out: checkpoint.vector(&at("mlp.c_proj.bias"), d)?,
            post_norms: None,
        })
    })
}
