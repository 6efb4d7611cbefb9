//! Gemma 3, its language model (Gemma Team 2025): as Gemma 2, with norms of queries and keys in place of caps, and rotations
//! of their own in blocks that see a window.

use directrix_corpus::Settings;
use directrix_kernels::Activation;

use super::Family;
use super::gemma2::{gemma, soft_cap, weights};
use super::llama::{Base, Defaults, windowed};
use crate::config::MOST_LAYERS;
use crate::rotary::Rope;
use crate::{Config, Result};

pub(super) static FAMILY: Family = Family {
    architecture: "Gemma3ForCausalLM",
    begins_with_bos: true,
    bare: "Gemma3TextModel",
    model_type: "gemma3_text",
    prefix: "model.",
    unembedding: "lm_head.weight",
    block: "layers.",
    buffers: &["self_attn.rotary_emb."],
    // Transformers writes the pattern with an underscore before it, and does not read that.
    harmless: &["_sliding_window_pattern", "attention_dropout", "hidden_act", "sliding_window_pattern"],
    config,
    weights,
};

const DEFAULTS: Defaults = Defaults {
    d_vocab: 262_208,
    d_model: 2304,
    d_mlp: 9216,
    n_layers: 26,
    query_heads: 8,
    key_heads: Some(4),
    d_head: Some(256),
    n_ctx: 131_072,
    activation: ("hidden_activation", Activation::GeluTanh),
    tied: true,
};

fn config(settings: &Settings) -> Result<Config> {
    let base = Base::read(settings, &DEFAULTS)?;
    let pattern = settings.or("sliding_window_pattern", 6, |field| field.count(MOST_LAYERS))?;
    let windowed = windowed(settings, base.n_layers, |layer| (layer + 1) % pattern != 0)?;
    let [all, window] = Rope::by_window(settings)?;
    let rotations =
        [base.rotary_of(&all, &["rope_theta"], 1e6)?, base.rotary_of(&window, &["rope_local_base_freq"], 1e4)?];
    let mut config = gemma(settings, &FAMILY, base, &windowed, rotations)?;
    config.attention.qk_norms = true;
    config.logit_soft_cap = soft_cap(settings, "final_logit_softcapping", None)?;
    Ok(config)
}
