//! Qwen2 and Qwen2.5 (Yang et al. 2024): as Llama, with biases on queries, keys and values, and windows in some blocks.

use directrix_corpus::Settings;
use directrix_kernels::Activation;

use super::Family;
use super::llama::{Base, Defaults, flag, weights, window, windowed};
use crate::config::MOST_LAYERS;
use crate::{Config, Result};

pub(super) static FAMILY: Family = Family {
    architecture: "Qwen2ForCausalLM",
    begins_with_bos: false,
    bare: "Qwen2Model",
    model_type: "qwen2",
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
    d_head: None,
    n_ctx: 32_768,
    activation: ("hidden_act", Activation::Silu),
    tied: false,
};

fn config(settings: &Settings) -> Result<Config> {
    let base = Base::read(settings, &DEFAULTS)?;
    let (windows, rotary) = (windows(settings, base.n_layers)?, base.rotary(settings)?);
    let mut config = base.config(&FAMILY, |layer| (windows[layer], rotary));
    config.attention.biased = true;
    Ok(config)
}

/// The window of each block, as Qwen2 and Qwen3 have it.
pub(super) fn windows(settings: &Settings, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let is_used = flag(settings, "use_sliding_window", false)?;
    let window = window(settings)?.filter(|_| is_used);
    let first = settings.or("max_window_layers", 28, |field| field.index(MOST_LAYERS))?;
    let windowed = windowed(settings, n_layers, |layer| window.is_some() && layer >= first)?;
    if windowed.contains(&true) && window.is_none() {
        let problem = "`layer_types` names blocks of `sliding_attention`, and by `use_sliding_window` and `sliding_window` there is no window";
        return Err(settings.problem(problem).into());
    }
    Ok(windowed.into_iter().map(|is_windowed| window.filter(|_| is_windowed)).collect())
}
