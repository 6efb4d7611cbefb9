//! A model's dimensions and choices, read from `config.json`.

use directrix_corpus::{Field, Settings};
use directrix_kernels::{Activation, AttentionShape};

use crate::family::{self, Family};
use crate::{Folder, Result};

/// No model has more blocks, so that a wrong count asks for no memory.
pub(crate) const MOST_LAYERS: usize = 1 << 12;
/// No model has more heads in a block.
pub(crate) const MOST_HEADS: usize = 1 << 14;
/// No model has more numbers at a position of any hook point.
pub(crate) const MOST_WIDTH: usize = 1 << 22;
/// No model has more tokens, or longer prompts.
pub(crate) const MOST_TOKENS: usize = 1 << 24;

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
    /// Whether queries, keys and values have biases.
    pub biased: bool,
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
    /// Reads `config.json` of a Hugging Face folder. What is absent takes the default of transformers.
    ///
    /// # Errors
    /// If the file is missing, is not JSON, lacks a key, has a value of another type or out of range, or describes an architecture
    /// that is not supported.
    pub fn from_folder(folder: &Folder) -> Result<Config> {
        let settings = Settings::parse(&folder.describe("config.json"), &folder.read("config.json")?)?;
        let family = family::of(&settings)?;
        (family.config)(&settings)
    }

    /// How block `layer` attends.
    pub(crate) fn attention_shape(&self, layer: usize) -> AttentionShape {
        let Attention { query_heads, key_heads, d_head, ref layers, .. } = self.attention;
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

/// The epsilon of a LayerNorm, which every family's configuration has by default as 1e-5.
pub(crate) fn layer_norm(settings: &Settings, name: &str) -> Result<Norm> {
    let eps = settings.or(name, 1e-5, |field| field.number(f64::from(f32::MIN_POSITIVE)..=1.0))?;
    Ok(Norm::Layer { eps: eps as f32 })
}

/// The MLP's activation function.
pub(crate) fn activation(settings: &Settings, name: &str, default: Activation) -> Result<Activation> {
    let read = |field: Field| match Activation::from_name(field.text()?) {
        Some(activation) => Ok(activation),
        None => Err(field.wrong("one of `gelu`, `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`, `relu`")),
    };
    Ok(settings.or(name, default, read)?)
}

/// The number of neurons, of which the family's default is four for each number of the residual stream.
pub(crate) fn neurons(settings: &Settings, name: &str, d_model: usize) -> Result<usize> {
    Ok(settings.find_some(name).map_or(Ok(4 * d_model), |field| field.count(MOST_WIDTH))?)
}

/// The width of each of `heads` heads that share `d_model`.
pub(crate) fn head_width(settings: &Settings, d_model: usize, heads: usize) -> Result<usize> {
    if d_model.is_multiple_of(heads) {
        Ok(d_model / heads)
    } else {
        Err(settings.problem(format!("the width {d_model} is not a multiple of the {heads} heads")).into())
    }
}
