//! GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): partial rotary positions, attention beside the MLP.

use directrix_corpus::Settings;
use directrix_kernels::Activation;

use super::{Checkpoint, Family};
use crate::config::{
    Attention, AttentionLayer, Config, MOST_HEADS, MOST_LAYERS, MOST_TOKENS, MOST_WIDTH, Mlp, PositionEncoding,
    activation, head_width, layer_norm,
};
use crate::rotary::{Rope, Rotary};
use crate::{Block, Result, Weights};

pub(super) static FAMILY: Family = Family {
    architecture: "GPTNeoXForCausalLM",
    begins_with_bos: false,
    bare: "GPTNeoXModel",
    model_type: "gpt_neox",
    prefix: "gpt_neox.",
    unembedding: "embed_out.weight",
    block: "layers.",
    buffers: &["attention.bias", "attention.masked_bias", "attention.rotary_emb."],
    harmless: &["attention_dropout", "classifier_dropout", "hidden_dropout"],
    config,
    weights,
};

fn config(settings: &Settings) -> Result<Config> {
    let d_model = settings.get("hidden_size")?.count(MOST_WIDTH)?;
    let heads = settings.get("num_attention_heads")?.count(MOST_HEADS)?;
    let n_layers = settings.get("num_hidden_layers")?.count(MOST_LAYERS)?;
    let d_head = head_width(settings, d_model, heads)?;
    let n_ctx = settings.get("max_position_embeddings")?.count(MOST_TOKENS)?;
    let rotary = Some(rotary(settings, d_head, n_ctx)?);
    let layer = AttentionLayer { window: None, scale: 1.0 / (d_head as f32).sqrt(), rotary };
    let biased = settings.or("attention_bias", true, |field| field.flag())?;
    Ok(Config {
        family: &FAMILY,
        n_layers,
        d_model,
        d_vocab: settings.get("vocab_size")?.count(MOST_TOKENS)?,
        n_ctx,
        norm: layer_norm(settings, "layer_norm_eps")?,
        encoding: PositionEncoding::Rotary,
        attention: Attention {
            query_heads: heads,
            key_heads: heads,
            d_head,
            biased,
            output_biased: biased,
            qk_norms: false,
            soft_cap: None,
            layers: vec![layer; n_layers],
        },
        mlp: Mlp {
            d_mlp: settings.get("intermediate_size")?.count(MOST_WIDTH)?,
            activation: activation(settings, "hidden_act", Activation::Gelu)?,
            gated: false,
            biased: true,
        },
        parallel: settings.or("use_parallel_residual", true, |field| field.flag())?,
        post_norms: false,
        logit_soft_cap: None,
        tied: settings.or("tie_word_embeddings", false, |field| field.flag())?,
    })
}

/// The rotation of a share of each head.
fn rotary(settings: &Settings, d_head: usize, n_ctx: usize) -> Result<Rotary> {
    let rope = Rope::of(settings)?;
    let names = ["rotary_pct", "partial_rotary_factor"];
    let share = rope.number("partial_rotary_factor", &names, 0.0..=1.0)?.unwrap_or(0.25);
    let dimensions = (share * d_head as f64) as usize;
    if dimensions == 0 || dimensions % 2 == 1 {
        let problem = format!("`rotary_pct` {share} of {d_head} is not an even number of dimensions, 2 or more");
        return Err(settings.problem(problem).into());
    }
    let base = rope.base(&["rotary_emb_base", "rope_theta"], 10_000.0)?;
    Ok(Rotary { dimensions, base, adjacent_pairs: false, scaling: rope.scaling(n_ctx)? })
}

fn weights(checkpoint: &Checkpoint) -> Result<Weights> {
    let Config { d_model: d, d_vocab, n_layers, ref attention, mlp: Mlp { d_mlp: m, .. }, .. } = *checkpoint.config;
    let dh = attention.d_head;
    let w_e = checkpoint.embedding("embed_in.weight")?;
    let bias = |name: &str, len: usize| checkpoint.bias(name, len, attention.biased);
    let block = |layer: usize| {
        let at = |rest: &str| format!("layers.{layer}.{rest}");
        let fused = checkpoint.weight(&at("attention.query_key_value.weight"), 3 * d, d)?;
        let fused_bias = bias(&at("attention.query_key_value.bias"), 3 * d)?;
        // Outputs run (head, q k v, d_head).
        let outputs = |part: usize| (0..d).map(move |i| (i / dh * 3 + part) * dh + i % dh);
        let weights = |part: usize| fused.select_rows(outputs(part)).transposed();
        let biases = |part: usize| outputs(part).map(|i| fused_bias[i]).collect();
        Ok(Block {
            ln1: checkpoint.norm(&at("input_layernorm"))?,
            w_q: weights(0),
            w_k: weights(1),
            w_v: weights(2),
            b_q: biases(0),
            b_k: biases(1),
            b_v: biases(2),
            w_o: checkpoint.linear(&at("attention.dense.weight"), d, d)?,
            b_o: bias(&at("attention.dense.bias"), d)?,
            qk_norms: None,
            ln2: checkpoint.norm(&at("post_attention_layernorm"))?,
            gate: None,
            w_in: checkpoint.linear(&at("mlp.dense_h_to_4h.weight"), d, m)?,
            b_in: checkpoint.vector(&at("mlp.dense_h_to_4h.bias"), m)?,
            w_out: checkpoint.linear(&at("mlp.dense_4h_to_h.weight"), m, d)?,
            b_out: checkpoint.vector(&at("mlp.dense_4h_to_h.bias"), d)?,
            post_norms: None,
        })
    };
    Ok(Weights {
        w_pos: None,
        blocks: (0..n_layers).map(block).collect::<Result<_>>()?,
        ln_final: checkpoint.norm("final_layer_norm")?,
        w_u: checkpoint.unembedding(&w_e)?,
        b_u: vec![0.0; d_vocab],
        w_e,
    })
}
