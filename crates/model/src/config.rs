//! A model's dimensions, read from `config.json`.

use directrix_kernels::{Activation, AttentionShape};
use serde_json::Value;

use crate::{Error, Folder, Result};

/// The families of models that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `GPTNeoForCausalLM`: global and windowed local attention, scores not scaled.
    GptNeo,
    /// `GPT2LMHeadModel`.
    Gpt2,
    /// `GPTNeoXForCausalLM` (Pythia): parallel attention and MLP, partial rotary positions.
    GptNeoX,
}

/// Rotary positions (Su et al. 2021), on the first `dimensions` of each head, halves paired.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rotary {
    pub(crate) dimensions: usize,
    pub(crate) base: f64,
}

/// A model's dimensions; TransformerLens's names.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Family.
    pub architecture: Architecture,
    /// Number of blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Attention heads per block.
    pub n_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Neurons of an MLP.
    pub d_mlp: usize,
    /// Vocabulary size, padding rows included.
    pub d_vocab: usize,
    /// Longest prompt, in positions.
    pub n_ctx: usize,
    /// Added to the variance in LayerNorm.
    pub eps: f32,
    /// The MLP's activation function.
    pub activation: Activation,
    /// How each block attends.
    pub attention: Vec<AttentionShape>,
    /// Whether attention and MLP read the same residual stream, side by side.
    pub parallel: bool,
    /// Whether the unembedding is the transposed embedding.
    pub tied: bool,
    pub(crate) rotary: Option<Rotary>,
}

/// `config.json` with errors that name the key.
struct Keys<'a> {
    json: Value,
    file: &'a str,
}

impl Keys<'_> {
    fn problem(&self, problem: String) -> Error {
        Error::Config { file: self.file.into(), problem }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    fn size(&self, key: &str) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| self.problem(format!("key `{key}` is missing")))?;
        match value.as_u64() {
            Some(n) if n > 0 && n < 1 << 32 => Ok(n as usize),
            _ => Err(self.problem(format!("`{key}` is {value}, expected a whole number above 0"))),
        }
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.problem(format!("`{key}` is {v}, expected a number"))),
        }
    }

    fn flag_or(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    fn activation(&self, key: &str) -> Result<Activation> {
        let name = self.get(key).and_then(Value::as_str).unwrap_or("gelu_new");
        Activation::from_name(name)
            .ok_or_else(|| self.problem(format!("`{key}` is \"{name}\"; supported are gelu, gelu_new, relu")))
    }

    fn head_width(&self, d_model: usize, n_heads: usize) -> Result<usize> {
        if d_model.is_multiple_of(n_heads) {
            Ok(d_model / n_heads)
        } else {
            Err(self.problem(format!("the width {d_model} is not a multiple of the {n_heads} heads")))
        }
    }
}

impl Config {
    /// Reads `config.json` of a Hugging Face folder.
    ///
    /// # Errors
    /// If the file is missing, is not JSON, lacks a key, or describes an architecture that is not supported.
    pub fn from_folder(folder: &Folder) -> Result<Config> {
        let file = folder.describe("config.json");
        let bytes = folder.read("config.json")?;
        let json: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Config { file: file.clone(), problem: format!("not JSON ({e})") })?;
        let keys = Keys { json, file: &file };
        let architecture = keys.json.pointer("/architectures/0").and_then(Value::as_str).unwrap_or("");
        match architecture {
            "GPTNeoForCausalLM" => gpt_neo(&keys),
            "GPT2LMHeadModel" => gpt2(&keys),
            "GPTNeoXForCausalLM" => gpt_neox(&keys),
            other => Err(keys.problem(format!(
                "architecture \"{other}\" is not supported; supported are GPTNeoForCausalLM, GPT2LMHeadModel, GPTNeoXForCausalLM"
            ))),
        }
    }
}

fn gpt_neo(keys: &Keys) -> Result<Config> {
    let (d_model, n_heads, n_layers) = (keys.size("hidden_size")?, keys.size("num_heads")?, keys.size("num_layers")?);
    let d_head = keys.head_width(d_model, n_heads)?;
    let window = keys.size_or("window_size", 256)?;
    let kinds = attention_kinds(keys);
    if kinds.len() != n_layers {
        return Err(keys.problem(format!("`attention_layers` names {} layers of {n_layers}", kinds.len())));
    }
    let attention = kinds
        .iter()
        .map(|kind| match kind.as_str() {
            "global" => Ok(None),
            "local" => Ok(Some(window)),
            other => Err(keys.problem(format!("attention of kind \"{other}\"; known are global and local"))),
        })
        .map(|window| window.map(|window| AttentionShape { heads: n_heads, d_head, window, scale: 1.0 }))
        .collect::<Result<_>>()?;
    Ok(Config {
        architecture: Architecture::GptNeo,
        n_layers,
        d_model,
        n_heads,
        d_head,
        d_mlp: keys.size_or("intermediate_size", 4 * d_model)?,
        d_vocab: keys.size("vocab_size")?,
        n_ctx: keys.size("max_position_embeddings")?,
        eps: keys.number_or("layer_norm_epsilon", 1e-5)? as f32,
        activation: keys.activation("activation_function")?,
        attention,
        parallel: false,
        tied: keys.flag_or("tie_word_embeddings", true),
        rotary: None,
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

fn gpt2(keys: &Keys) -> Result<Config> {
    let (d_model, n_heads, n_layers) = (keys.size("n_embd")?, keys.size("n_head")?, keys.size("n_layer")?);
    let d_head = keys.head_width(d_model, n_heads)?;
    let scale = if keys.flag_or("scale_attn_weights", true) { 1.0 / (d_head as f32).sqrt() } else { 1.0 };
    let by_layer = keys.flag_or("scale_attn_by_inverse_layer_idx", false);
    let attention = (0..n_layers)
        .map(|layer| AttentionShape {
            heads: n_heads,
            d_head,
            window: None,
            scale: if by_layer { scale / (layer + 1) as f32 } else { scale },
        })
        .collect();
    Ok(Config {
        architecture: Architecture::Gpt2,
        n_layers,
        d_model,
        n_heads,
        d_head,
        d_mlp: keys.size_or("n_inner", 4 * d_model)?,
        d_vocab: keys.size("vocab_size")?,
        n_ctx: if keys.get("n_positions").is_some() { keys.size("n_positions")? } else { keys.size_or("n_ctx", 1024)? },
        eps: keys.number_or("layer_norm_epsilon", 1e-5)? as f32,
        activation: keys.activation("activation_function")?,
        attention,
        parallel: false,
        tied: keys.flag_or("tie_word_embeddings", true),
        rotary: None,
    })
}

fn gpt_neox(keys: &Keys) -> Result<Config> {
    let (d_model, n_heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
    let n_layers = keys.size("num_hidden_layers")?;
    let d_head = keys.head_width(d_model, n_heads)?;
    if keys.get("rope_scaling").is_some() {
        return Err(keys.problem("`rope_scaling` is not supported; only plain rotary positions are".into()));
    }
    let share = keys.number_or("rotary_pct", keys.number_or("partial_rotary_factor", 0.25)?)?;
    let dimensions = (share * d_head as f64) as usize;
    if !(0.0..=1.0).contains(&share) || dimensions % 2 == 1 {
        return Err(keys.problem(format!("`rotary_pct` {share} of {d_head} is not an even number of dimensions")));
    }
    let base = keys.number_or("rotary_emb_base", keys.number_or("rope_theta", 10000.0)?)?;
    let scale = 1.0 / (d_head as f32).sqrt();
    Ok(Config {
        architecture: Architecture::GptNeoX,
        n_layers,
        d_model,
        n_heads,
        d_head,
        d_mlp: keys.size("intermediate_size")?,
        d_vocab: keys.size("vocab_size")?,
        n_ctx: keys.size("max_position_embeddings")?,
        eps: keys.number_or("layer_norm_eps", 1e-5)? as f32,
        activation: keys.activation("hidden_act")?,
        attention: vec![AttentionShape { heads: n_heads, d_head, window: None, scale }; n_layers],
        parallel: keys.flag_or("use_parallel_residual", true),
        tied: keys.flag_or("tie_word_embeddings", false),
        rotary: Some(Rotary { dimensions, base }),
    })
}
