//! GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): partial rotary positions, attention beside the MLP.

use super::{Checkpoint, Family};
use crate::config::{Attention, AttentionLayer, Config, Keys, Mlp, PositionEncoding, Rotary};
use crate::{Block, Result, Weights};

pub(super) static FAMILY: Family =
    Family { architecture: "GPTNeoXForCausalLM", begins_with_bos: false, config, weights };

fn config(keys: &Keys) -> Result<Config> {
    let (d_model, heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
    let n_layers = keys.size("num_hidden_layers")?;
    let d_head = keys.head_width(d_model, heads)?;
    let layer = AttentionLayer { window: None, scale: 1.0 / (d_head as f32).sqrt() };
    Ok(Config {
        family: &FAMILY,
        n_layers,
        d_model,
        d_vocab: keys.size("vocab_size")?,
        n_ctx: keys.size("max_position_embeddings")?,
        norm: keys.layer_norm("layer_norm_eps")?,
        encoding: PositionEncoding::Rotary(rotary(keys, d_head)?),
        attention: Attention { query_heads: heads, key_heads: heads, d_head, layers: vec![layer; n_layers] },
        mlp: Mlp { d_mlp: keys.size("intermediate_size")?, activation: keys.activation("hidden_act")? },
        parallel: keys.flag_or("use_parallel_residual", true),
        tied: keys.flag_or("tie_word_embeddings", false),
    })
}

fn rotary(keys: &Keys, d_head: usize) -> Result<Rotary> {
    if keys.get("rope_scaling").is_some() {
        return Err(keys.problem("`rope_scaling` is not supported; only plain rotary positions are".into()));
    }
    let share = keys.number_or("rotary_pct", keys.number_or("partial_rotary_factor", 0.25)?)?;
    let dimensions = (share * d_head as f64) as usize;
    if !(0.0..=1.0).contains(&share) || dimensions % 2 == 1 {
        return Err(keys.problem(format!("`rotary_pct` {share} of {d_head} is not an even number of dimensions")));
    }
    let base = keys.number_or("rotary_emb_base", keys.number_or("rope_theta", 10000.0)?)?;
    Ok(Rotary { dimensions, base })
}

fn weights(checkpoint: &Checkpoint) -> Result<Weights> {
    let Config { d_model: d, d_vocab, n_layers, ref attention, mlp: Mlp { d_mlp: m, .. }, .. } = *checkpoint.config;
    let dh = attention.d_head;
    let root = |rest: &str| checkpoint.name("gpt_neox.", rest);
    let w_e = checkpoint.tensors.matrix(&root("embed_in.weight"), d_vocab, d)?;
    let block = |layer: usize| {
        let at = |rest: &str| root(&format!("layers.{layer}.{rest}"));
        let norm = |name: &str| checkpoint.norm(at(&format!("{name}.weight")).trim_end_matches(".weight"));
        let fused = checkpoint.linear(&at("attention.query_key_value.weight"), d, 3 * d)?;
        let bias = checkpoint.bias(&at("attention.query_key_value.bias"), 3 * d)?;
        // Columns run (head, q k v, d_head).
        let columns = |part: usize| (0..d).map(move |c| (c / dh * 3 + part) * dh + c % dh);
        let weights = |part: usize| fused.transposed().gather(columns(part)).transposed();
        let biases = |part: usize| columns(part).map(|c| bias[c]).collect();
        Ok(Block {
            ln1: norm("input_layernorm")?,
            w_q: weights(0),
            w_k: weights(1),
            w_v: weights(2),
            b_q: biases(0),
            b_k: biases(1),
            b_v: biases(2),
            w_o: checkpoint.linear(&at("attention.dense.weight"), d, d)?,
            b_o: checkpoint.bias(&at("attention.dense.bias"), d)?,
            ln2: norm("post_attention_layernorm")?,
            w_in: checkpoint.linear(&at("mlp.dense_h_to_4h.weight"), d, m)?,
            b_in: checkpoint.vector(&at("mlp.dense_h_to_4h.bias"), m)?,
            w_out: checkpoint.linear(&at("mlp.dense_4h_to_h.weight"), m, d)?,
            b_out: checkpoint.vector(&at("mlp.dense_4h_to_h.bias"), d)?,
        })
    };
    Ok(Weights {
        w_pos: None,
        blocks: (0..n_layers).map(block).collect::<Result<_>>()?,
        ln_final: checkpoint.norm(root("final_layer_norm.weight").trim_end_matches(".weight"))?,
        w_u: checkpoint.unembedding("embed_out.weight", &w_e)?,
        b_u: vec![0.0; d_vocab],
        w_e,
    })
}
