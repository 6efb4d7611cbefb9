//! GPT-Neo (Black et al. 2021): learned positions, global and windowed local attention, scores not scaled.

use serde_json::Value;

use super::{Checkpoint, Family};
use crate::config::{Attention, AttentionLayer, Config, Keys, Mlp, PositionEncoding};
use crate::{Block, Result, Weights};

pub(super) static FAMILY: Family = Family { architecture: "GPTNeoForCausalLM", begins_with_bos: true, config, weights };

fn config(keys: &Keys) -> Result<Config> {
    let (d_model, heads, n_layers) = (keys.size("hidden_size")?, keys.size("num_heads")?, keys.size("num_layers")?);
    let d_head = keys.head_width(d_model, heads)?;
    let local = keys.size_or("window_size", 256)?;
    let kinds = attention_kinds(keys);
    if kinds.len() != n_layers {
        return Err(keys.problem(format!("`attention_layers` names {} layers of {n_layers}", kinds.len())));
    }
    let layer = |kind: &String| {
        let window = match kind.as_str() {
            "global" => None,
            "local" => Some(local),
            other => return Err(keys.problem(format!("attention of kind \"{other}\"; known are global and local"))),
        };
        Ok(AttentionLayer { window, scale: 1.0 })
    };
    Ok(Config {
        family: &FAMILY,
        n_layers,
        d_model,
        d_vocab: keys.size("vocab_size")?,
        n_ctx: keys.size("max_position_embeddings")?,
        norm: keys.layer_norm("layer_norm_epsilon")?,
        encoding: PositionEncoding::Learned,
        attention: Attention {
            query_heads: heads,
            key_heads: heads,
            d_head,
            layers: kinds.iter().map(layer).collect::<Result<_>>()?,
        },
        mlp: Mlp {
            d_mlp: keys.size_or("intermediate_size", 4 * d_model)?,
            activation: keys.activation("activation_function")?,
        },
        parallel: false,
        tied: keys.flag_or("tie_word_embeddings", true),
    })
}

/// One kind per layer, from `attention_layers` or, in older files, `attention_types`.
fn attention_kinds(keys: &Keys) -> Vec<String> {
    let words = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(|w| w.as_str().map(str::to_owned)).collect()
    };
    if let Some(layers) = keys.get("attention_layers") {
        return words(layers);
    }
    let groups = keys.get("attention_types").and_then(Value::as_array).cloned().unwrap_or_default();
    groups
        .iter()
        .flat_map(|group| {
            let times = group.get(1).and_then(Value::as_u64).unwrap_or(0).min(4096) as usize;
            std::iter::repeat_n(group.get(0).map(words).unwrap_or_default(), times).flatten()
        })
        .collect()
}

fn weights(checkpoint: &Checkpoint) -> Result<Weights> {
    let (d, m) = (checkpoint.config.d_model, checkpoint.config.mlp.d_mlp);
    checkpoint.gpt(|block| {
        let at = |rest: &str| format!("{block}{rest}");
        let attention = |rest: &str| at(&format!("attn.attention.{rest}"));
        Ok(Block {
            ln1: checkpoint.norm(&at("ln_1"))?,
            w_q: checkpoint.linear(&attention("q_proj.weight"), d, d)?,
            w_k: checkpoint.linear(&attention("k_proj.weight"), d, d)?,
            w_v: checkpoint.linear(&attention("v_proj.weight"), d, d)?,
            b_q: vec![0.0; d],
            b_k: vec![0.0; d],
            b_v: vec![0.0; d],
            w_o: checkpoint.linear(&attention("out_proj.weight"), d, d)?,
            b_o: checkpoint.vector(&attention("out_proj.bias"), d)?,
            ln2: checkpoint.norm(&at("ln_2"))?,
            w_in: checkpoint.linear(&at("mlp.c_fc.weight"), d, m)?,
            b_in: checkpoint.vector(&at("mlp.c_fc.bias"), m)?,
            w_out: checkpoint.linear(&at("mlp.c_proj.weight"), m, d)?,
            b_out: checkpoint.vector(&at("mlp.c_proj.bias"), d)?,
        })
    })
}
