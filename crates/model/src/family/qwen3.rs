//! Qwen3 (Yang et al. 2025): as Qwen2, with norms of queries and keys in place of biases.

use directrix_corpus::Settings;
use directrix_kernels::Activation;

use super::Family;
use super::llama::{Base, Defaults, flag, weights};
use super::qwen2::windows;
use crate::{Config, Result};

pub(super) static FAMILY: Family = Family {
    architecture: "Qwen3ForCausalLM",
    begins_with_bos: false,
    bare: "Qwen3Model",
    model_type: "qwen3",
    prefix: "model.",
    unembedding: "lm_head.weight",
    block: "layers.",
    buffers: &["self_attn.rotary_emb."],
    harmless: &["attention_dropout"],
    config,
    weights,
};

const DEFAULTS: Defaults = Defaults {
    d_vocab: 151_936,
    d_model: 4096,
    d_mlp: 22_016,
    n_layers: 32,
    query_heads: 32,
    key_heads: Some(32),
    d_head: Some(128),
    n_ctx: 32_768,
    activation: ("hidden_act", Activation::Silu),
    tied: false,
};

fn config(settings: &Settings) -> Result<Config> {
    let base = Base::read(settings, &DEFAULTS)?;
    let is_biased = flag(settings, "attention_bias", false)?;
    let (windows, rotary) = (windows(settings, base.n_layers)?, base.rotary(settings)?);
    let mut config = base.config(&FAMILY, |layer| (windows[layer], rotary));
    (config.attention.biased, config.attention.output_biased) = (is_biased, is_biased);
    config.attention.qk_norms = true;
    Ok(config)
}
