//! GPT-Neo (Black et al. 2021): learned positions, global and windowed local attention, scores not scaled.

use directrix_corpus::{Field, Settings};
use directrix_kernels::Activation;

use super::{Checkpoint, Family};
use crate::config::{
    Attention, AttentionLayer, Config, MOST_HEADS, MOST_LAYERS, MOST_TOKENS, MOST_WIDTH, Mlp, PositionEncoding,
    activation, either_count, head_width, layer_norm, neurons,
};
use crate::{Block, Result, Weights};

pub(super) static FAMILY: Family = Family {
    architecture: "GPTNeoForCausalLM",
    begins_with_bos: true,
    bare: "GPTNeoModel",
    model_type: "gpt_neo",
    prefix: "transformer.",
    unembedding: "lm_head.weight",
    block: "h.",
    buffers: &["attn.attention.bias", "attn.attention.masked_bias"],
    harmless: &[
        "attention_dropout",
        "classifier_dropout",
        "embed_dropout",
        "resid_dropout",
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
    let d_model = settings.get("hidden_size")?.count(MOST_WIDTH)?;
    let heads = either_count(settings, "num_heads", "num_attention_heads", MOST_HEADS)?;
    let n_layers = either_count(settings, "num_layers", "num_hidden_layers", MOST_LAYERS)?;
    let window = settings.or("window_size", 256, |field| field.count(MOST_TOKENS))?;
    let layer = |kind| AttentionLayer { window: (kind == Kind::Local).then_some(window), scale: 1.0, rotary: None };
    Ok(Config {
        family: &FAMILY,
        n_layers,
        d_model,
        d_vocab: settings.get("vocab_size")?.count(MOST_TOKENS)?,
        n_ctx: settings.get("max_position_embeddings")?.count(MOST_TOKENS)?,
        norm: layer_norm(settings, "layer_norm_epsilon")?,
        encoding: PositionEncoding::Learned,
        attention: Attention {
            query_heads: heads,
            key_heads: heads,
            d_head: head_width(settings, d_model, heads)?,
            biased: false,
            output_biased: true,
            qk_norms: false,
            soft_cap: None,
            layers: attention_kinds(settings, n_layers)?.into_iter().map(layer).collect(),
        },
        mlp: Mlp {
            d_mlp: neurons(settings, "intermediate_size", d_model)?,
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

/// How far a block's positions see.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Global,
    Local,
}

/// The kind of each block: from `attention_layers`, from `attention_types`, which older files have alone, or both alike.
fn attention_kinds(settings: &Settings, n_layers: usize) -> Result<Vec<Kind>> {
    let named = settings.find_some("attention_layers").map(|layers| kinds(&layers)).transpose()?;
    let repeated = settings.find_some("attention_types").map(|types| repeated_kinds(&types)).transpose()?;
    if let (Some(named), Some(repeated)) = (&named, &repeated)
        && named != repeated
    {
        return Err(settings.problem("`attention_layers` and `attention_types` name different layers").into());
    }
    let default = || [Kind::Global, Kind::Local].repeat(12);
    let kinds = named.or(repeated).unwrap_or_else(default);
    if kinds.len() == n_layers {
        return Ok(kinds);
    }
    Err(settings.problem(format!("`attention_layers` names {} layers of {n_layers}", kinds.len())).into())
}

fn kinds(names: &Field) -> Result<Vec<Kind>> {
    let kind =
        |name: &Field| Ok(if name.choice(&["global", "local"])? == "local" { Kind::Local } else { Kind::Global });
    names.list()?.iter().map(kind).collect()
}

/// The kinds in groups, each with how often it comes: `[[["global", "local"], 12]]`.
fn repeated_kinds(groups: &Field) -> Result<Vec<Kind>> {
    let mut all = Vec::new();
    for group in groups.list()? {
        let [names, times] = &group.list()?[..] else {
            return Err(group.wrong("a list of two: kinds of attention, and how often they come").into());
        };
        let names = kinds(names)?;
        let times = times.count(MOST_LAYERS)?;
        if all.len() + names.len() * times > MOST_LAYERS {
            return Err(group.wrong(&format!("at most {MOST_LAYERS} layers")).into());
        }
        all.extend(names.repeat(times));
    }
    Ok(all)
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
            qk_norms: None,
            ln2: checkpoint.norm(&at("ln_2"))?,
            gate: None,
            w_in: checkpoint.linear(&at("mlp.c_fc.weight"), d, m)?,
            b_in: checkpoint.vector(&at("mlp.c_fc.bias"), m)?,
            w_out: checkpoint.linear(&at("mlp.c_proj.weight"), m, d)?,
            b_out: checkpoint.vector(&at("mlp.c_proj.bias"), d)?,
            post_norms: None,
        })
    })
}
