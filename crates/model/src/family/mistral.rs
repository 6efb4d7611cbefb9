//! Mistral (Jiang et al. 2023): as Llama, with attention to a window of positions.

use directrix_corpus::Settings;
use directrix_kernels::Activation;

use super::Family;
use super::llama::{Base, Defaults, weights, window};
use crate::{Config, Result};

pub(super) static FAMILY: Family = Family {
    architecture: "MistralForCausalLM",
    begins_with_bos: true,
    bare: "MistralModel",
    model_type: "mistral",
    prefix: "model.",
    unembedding: "lm_head.weight",
    block: "layers.",
    buffers: &["self_attn.rotary_emb."],
    harmless: &["attention_dropout"],
    config,
    weights,
};

const DEFAULTS: Defaults = Defaults {
    d_vocab: 32_000,
    d_model: 4096,
    d_mlp: 14_336,
    n_layers: 32,
    query_heads: 32,
    key_heads: Some(8),
    d_head: None,
    n_ctx: 131_072,
    activation: ("hidden_act", Activation::Silu),
    tied: false,
};

fn config(settings: &Settings) -> Result<Config> {
    let base = Base::read(settings, &DEFAULTS)?;
    let window = window(settings)?;
    let rotary = base.rotary(settings)?;
    Ok(base.config(&FAMILY, |_| (window, rotary)))
}
