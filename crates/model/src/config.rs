//! A model's dimensions and choices, read from `config.json`.

use directrix_kernels::{Activation, AttentionShape};
use serde_json::Value;

use crate::family::{self, Family};
use crate::{Error, Folder, Result};

/// A model's dimensions, under TransformerLens's names, and what it is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Whose checkpoints these are.
    pub family: &'static Family,
    /// Number of blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Vocabulary size, padding rows included.
    pub d_vocab: usize,
    /// Longest prompt, in positions.
    pub n_ctx: usize,
    /// What stands before each reader of the residual stream.
    pub norm: Norm,
    /// How a position is told from another.
    pub encoding: PositionEncoding,
    /// How positions read each other.
    pub attention: Attention,
    /// What each position computes alone.
    pub mlp: Mlp,
    /// Whether attention and MLP read the same residual stream, side by side.
    pub parallel: bool,
    /// Whether the unembedding is the transposed embedding.
    pub tied: bool,
}

/// The normalisation before each reader of the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// Centred and divided by the standard deviation (Ba, Kiros and Hinton 2016).
    Layer {
        /// Added to the variance.
        eps: f32,
    },
}

/// How positions are told apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PositionEncoding {
    /// A row of `W_pos` for each position is added to the embedding.
    Learned,
    /// Queries and keys are rotated.
    Rotary(Rotary),
}

/// Rotary positions (Su et al. 2021), on the first `dimensions` of each head, halves paired.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Numbers of a head that are rotated; even.
    pub dimensions: usize,
    /// Pair `i` turns by `base^(-2i / dimensions)` radians from one position to the next.
    pub base: f64,
}

/// Attention of all blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Heads that ask, in each block.
    pub query_heads: usize,
    /// Heads that are looked at, a divisor of `query_heads`.
    pub key_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// What differs from block to block, one for each.
    pub layers: Vec<AttentionLayer>,
}

/// Attention of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionLayer {
    /// A position sees at most this many positions, itself included; `None` sees all before it.
    pub window: Option<usize>,
    /// Scores are multiplied by this.
    pub scale: f32,
}

/// The MLP of every block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mlp {
    /// Number of neurons.
    pub d_mlp: usize,
    /// Their activation function.
    pub activation: Activation,
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
        let Some(family) = family::of(architecture) else {
            return Err(keys.problem(format!(
                "architecture \"{architecture}\" is not supported; supported are {}",
                family::architectures().join(", ")
            )));
        };
        (family.config)(&keys)
    }

    /// How block `layer` attends.
    pub(crate) fn attention_shape(&self, layer: usize) -> AttentionShape {
        let Attention { query_heads, key_heads, d_head, ref layers } = self.attention;
        let AttentionLayer { window, scale } = layers[layer];
        AttentionShape { query_heads, key_heads, d_head, window, scale }
    }

    /// The rotation of queries and keys, where positions are rotary.
    pub(crate) fn rotary(&self) -> Option<Rotary> {
        match self.encoding {
            PositionEncoding::Learned => None,
            PositionEncoding::Rotary(rotary) => Some(rotary),
        }
    }
}

/// `config.json` with errors that name the key.
pub(crate) struct Keys<'a> {
    json: Value,
    file: &'a str,
}

impl Keys<'_> {
    pub(crate) fn problem(&self, problem: String) -> Error {
        Error::Config { file: self.file.into(), problem }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| self.problem(format!("key `{key}` is missing")))?;
        match value.as_u64() {
            Some(n) if n > 0 && n < 1 << 32 => Ok(n as usize),
            _ => Err(self.problem(format!("`{key}` is {value}, expected a whole number above 0"))),
        }
    }

    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    pub(crate) fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.problem(format!("`{key}` is {v}, expected a number"))),
        }
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    pub(crate) fn layer_norm(&self, key: &str) -> Result<Norm> {
        Ok(Norm::Layer { eps: self.number_or(key, 1e-5)? as f32 })
    }

    pub(crate) fn activation(&self, key: &str) -> Result<Activation> {
        let name = self.get(key).and_then(Value::as_str).unwrap_or("gelu_new");
        Activation::from_name(name)
            .ok_or_else(|| self.problem(format!("`{key}` is \"{name}\"; supported are gelu, gelu_new, relu")))
    }

    /// The width of each of `heads` heads that share `d_model`.
    pub(crate) fn head_width(&self, d_model: usize, heads: usize) -> Result<usize> {
        if d_model.is_multiple_of(heads) {
            Ok(d_model / heads)
        } else {
            Err(self.problem(format!("the width {d_model} is not a multiple of the {heads} heads")))
        }
    }
}
