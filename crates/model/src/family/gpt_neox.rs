//! GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): partial rotary positions, attention beside the MLP.

use directrix_corpus::{Field, Settings};
use directrix_kernels::Activation;

use super::{Checkpoint, Family};
use crate::config::{
    Attention, AttentionLayer, Config, MOST_HEADS, MOST_LAYERS, MOST_TOKENS, MOST_WIDTH, Mlp, PositionEncoding, Rotary,
    activation, head_width, layer_norm,
};
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
    config,
    weights,
};

fn config(settings: &Settings) -> Result<Config> {
    let d_model = settings.get("hidden_size")?.count(MOST_WIDTH)?;
    let heads = settings.get("num_attention_heads")?.count(MOST_HEADS)?;
    let n_layers = settings.get("num_hidden_layers")?.count(MOST_LAYERS)?;
    let d_head = head_width(settings, d_model, heads)?;
    let layer = AttentionLayer { window: None, scale: 1.0 / (d_head as f32).sqrt() };
    Ok(Config {
        family: &FAMILY,
        n_layers,
        d_model,
        d_vocab: settings.get("vocab_size")?.count(MOST_TOKENS)?,
        n_ctx: settings.get("max_position_embeddings")?.count(MOST_TOKENS)?,
        norm: layer_norm(settings, "layer_norm_eps")?,
        encoding: PositionEncoding::Rotary(rotary(settings, d_head)?),
        attention: Attention {
            query_heads: heads,
            key_heads: heads,
            d_head,
            biased: settings.or("attention_bias", true, |field| field.flag())?,
            layers: vec![layer; n_layers],
        },
        mlp: Mlp {
            d_mlp: settings.get("intermediate_size")?.count(MOST_WIDTH)?,
            activation: activation(settings, "hidden_act", Activation::Gelu)?,
        },
        parallel: settings.or("use_parallel_residual", true, |field| field.flag())?,
        tied: settings.or("tie_word_embeddings", false, |field| field.flag())?,
    })
}

/// The rotation: of the keys that transformers 4 writes, or of `rope_parameters`, which transformers 5 writes.
fn rotary(settings: &Settings, d_head: usize) -> Result<Rotary> {
    let nested = settings.find_some("rope_parameters").map(|field| field.object()).transpose()?;
    let scaling = settings.find_some("rope_scaling").map(|field| field.object()).transpose()?;
    for kind in
        [&nested, &scaling].into_iter().flatten().flat_map(|of| [of.find("rope_type"), of.find("type")]).flatten()
    {
        if kind.text()? != "default" {
            return Err(kind.wrong("\"default\"; only plain rotary positions are supported").into());
        }
    }
    let one_of = |names: [&str; 2], inner: &str, default: f64, range: std::ops::RangeInclusive<f64>| {
        let inner = nested.as_ref().and_then(|nested| nested.find(inner));
        let fields: Vec<Field> = names.into_iter().filter_map(|name| settings.find(name)).chain(inner).collect();
        let values = fields.iter().map(|field| field.number(range.clone())).collect::<Result<Vec<_>, _>>()?;
        match values.iter().position(|value| *value != values[0]) {
            Some(other) => Err(fields[other].wrong(&format!("{}, which `{}` is", values[0], fields[0].name()))),
            None => Ok(values.first().copied().unwrap_or(default)),
        }
    };
    let share = one_of(["rotary_pct", "partial_rotary_factor"], "partial_rotary_factor", 0.25, 0.0..=1.0)?;
    let dimensions = (share * d_head as f64) as usize;
    if dimensions == 0 || dimensions % 2 == 1 {
        let problem = format!("`rotary_pct` {share} of {d_head} is not an even number of dimensions, 2 or more");
        return Err(settings.problem(problem).into());
    }
    let base = one_of(["rotary_emb_base", "rope_theta"], "rope_theta", 10_000.0, 1.0..=1e15)?;
    Ok(Rotary { dimensions, base })
}

fn weights(checkpoint: &Checkpoint) -> Result<Weights> {
    let Config { d_model: d, d_vocab, n_layers, ref attention, mlp: Mlp { d_mlp: m, .. }, .. } = *checkpoint.config;
    let dh = attention.d_head;
    let w_e = checkpoint.matrix("embed_in.weight", d_vocab, d)?;
    let bias = |name: &str, len: usize| {
        if attention.biased { checkpoint.vector(name, len) } else { Ok(vec![0.0; len]) }
    };
    let block = |layer: usize| {
        let at = |rest: &str| format!("layers.{layer}.{rest}");
        let fused = checkpoint.linear(&at("attention.query_key_value.weight"), d, 3 * d)?;
        let fused_bias = bias(&at("attention.query_key_value.bias"), 3 * d)?;
        // Columns run (head, q k v, d_head).
        let columns = |part: usize| (0..d).map(move |c| (c / dh * 3 + part) * dh + c % dh);
        let weights = |part: usize| fused.transposed().gather(columns(part)).transposed();
        let biases = |part: usize| columns(part).map(|c| fused_bias[c]).collect();
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
            ln2: checkpoint.norm(&at("post_attention_layernorm"))?,
            w_in: checkpoint.linear(&at("mlp.dense_h_to_4h.weight"), d, m)?,
            b_in: checkpoint.vector(&at("mlp.dense_h_to_4h.bias"), m)?,
            w_out: checkpoint.linear(&at("mlp.dense_4h_to_h.weight"), m, d)?,
            b_out: checkpoint.vector(&at("mlp.dense_4h_to_h.bias"), d)?,
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
