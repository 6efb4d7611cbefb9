//! Gemma 2 (Gemma Team 2024): norms before and behind attention and MLP, soft caps, windows in every other block.

use directrix_corpus::Settings;
use directrix_kernels::Activation;

use super::llama::{self, Base, Defaults, flag, some, windowed};
use super::{Checkpoint, Family};
use crate::config::MOST_TOKENS;
use crate::{Config, NormWeights, Result, Rotary, Weights};

pub(super) static FAMILY: Family = Family {
    architecture: "Gemma2ForCausalLM",
    begins_with_bos: true,
    bare: "Gemma2Model",
    model_type: "gemma2",
    prefix: "model.",
    unembedding: "lm_head.weight",
    block: "layers.",
    buffers: &["self_attn.rotary_emb."],
    // `hidden_act` and `sliding_window_size` stand in early files beside the keys that count.
    harmless: &["attention_dropout", "hidden_act", "sliding_window_size"],
    config,
    weights,
};

const DEFAULTS: Defaults = Defaults {
    d_vocab: 256_000,
    d_model: 2304,
    d_mlp: 9216,
    n_layers: 26,
    query_heads: 8,
    key_heads: Some(4),
    d_head: Some(256),
    n_ctx: 8192,
    activation: ("hidden_activation", Activation::GeluTanh),
    tied: true,
};

fn config(settings: &Settings) -> Result<Config> {
    let base = Base::read(settings, &DEFAULTS)?;
    let rotary = base.rotary(settings)?;
    let windowed = windowed(settings, base.n_layers, |layer| layer % 2 == 0)?;
    let mut config = gemma(settings, &FAMILY, base, &windowed, [rotary; 2])?;
    config.attention.soft_cap = soft_cap(settings, "attn_logit_softcapping", Some(50.0))?;
    config.logit_soft_cap = soft_cap(settings, "final_logit_softcapping", Some(30.0))?;
    Ok(config)
}

/// What Gemma 2 and 3 have alike; `rotary` is the rotation of blocks that see all positions and of those that see a window.
pub(super) fn gemma(
    settings: &Settings,
    family: &'static Family,
    base: Base,
    windowed: &[bool],
    [rotary, rotary_of_window]: [Rotary; 2],
) -> Result<Config> {
    let is_biased = flag(settings, "attention_bias", false)?;
    let width = settings.or("query_pre_attn_scalar", 256.0, |field| field.number(1e-6..=1e9))?;
    let window = if windowed.contains(&true) {
        settings.or("sliding_window", 4096, |field| field.count(MOST_TOKENS))?
    } else {
        some(settings, "sliding_window", |field| field.count(MOST_TOKENS))?.unwrap_or(4096)
    };
    let of_layer = |layer: usize| if windowed[layer] { (Some(window), rotary_of_window) } else { (None, rotary) };
    let mut config = base.config(family, of_layer);
    config.attention.layers.iter_mut().for_each(|layer| layer.scale = width.powf(-0.5) as f32);
    (config.attention.biased, config.attention.output_biased) = (is_biased, is_biased);
    config.post_norms = true;
    Ok(config)
}

/// A soft cap: `default` where the key is absent, none where it is null.
pub(super) fn soft_cap(settings: &Settings, name: &str, default: Option<f32>) -> Result<Option<f32>> {
    match settings.find(name) {
        None => Ok(default),
        Some(_) => Ok(some(settings, name, |field| field.number(1e-6..=1e9))?.map(|cap| cap as f32)),
    }
}

/// Norm weights are stored less one, and embeddings are multiplied by `sqrt(d_model)` before they are added.
pub(super) fn weights(checkpoint: &Checkpoint) -> Result<Weights> {
    let mut weights = llama::weights(checkpoint)?;
    let scale = (checkpoint.config.d_model as f64).sqrt() as f32;
    weights.w_e.scale_rows(&vec![scale; checkpoint.config.d_vocab]);
    let of_blocks = weights.blocks.iter_mut().flat_map(|block| {
        let pairs = [&mut block.qk_norms, &mut block.post_norms].into_iter().flatten().flatten();
        [&mut block.ln1, &mut block.ln2].into_iter().flatten().chain(pairs)
    });
    for NormWeights { w, .. } in of_blocks.chain(&mut weights.ln_final) {
        w.iter_mut().for_each(|w| *w += 1.0);
    }
    Ok(weights)
}
