//! A model's dimensions and choices, read from `config.json`.

use directrix_corpus::{Field, Settings};
use directrix_kernels::{Activation, AttentionShape};

use crate::family::{self, Family};
use crate::rotary::Rotary;
use crate::{Folder, Result, keys, llama2c};

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
    /// Whether what attention and MLP write passes a norm of its own before it is added to the residual stream.
    pub post_norms: bool,
    /// Logits are bent to within this, `cap tanh(logit / cap)`; `None` leaves them.
    pub logit_soft_cap: Option<f32>,
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
    /// Divided by the root of the mean square (Zhang and Sennrich 2019).
    Rms {
        /// Added to the mean square.
        eps: f32,
    },
}

/// How positions are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionEncoding {
    /// A row of `W_pos` for each position is added to the embedding.
    Learned,
    /// Queries and keys are rotated, as each block's [`AttentionLayer`] says.
    Rotary,
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
    /// Whether what the heads write has a bias.
    pub output_biased: bool,
    /// Whether each head's queries and keys pass a norm before they are rotated (Dehghani et al. 2023).
    pub qk_norms: bool,
    /// Scores are bent to within this, `cap tanh(score / cap)`; `None` leaves them.
    pub soft_cap: Option<f32>,
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
    /// How queries and keys are rotated, where positions are rotary.
    pub rotary: Option<Rotary>,
}

/// The MLP of every block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mlp {
    /// Number of neurons.
    pub d_mlp: usize,
    /// Their activation function.
    pub activation: Activation,
    /// Whether neurons are products: of a gate, behind the activation function, and a linear part (Shazeer 2020).
    pub gated: bool,
    /// Whether there are biases.
    pub biased: bool,
}

impl Config {
    /// Reads `config.json` of a Hugging Face folder, or the header of a checkpoint of llama2.c. What is absent takes the default of
    /// transformers.
    ///
    /// # Errors
    /// If the file is missing, is not JSON, lacks a key, has a value of another type or out of range, or describes an architecture
    /// or a choice that is not supported.
    pub fn from_folder(folder: &Folder) -> Result<Config> {
        Ok(Config::with_notes(folder)?.0)
    }

    /// The configuration, and what is to be told of it.
    pub(crate) fn with_notes(folder: &Folder) -> Result<(Config, Vec<String>)> {
        if let Some(file) = folder.one_file() {
            return Ok((llama2c::config(folder, file)?, Vec::new()));
        }
        let settings = Settings::parse(&folder.describe("config.json"), &folder.read("config.json")?)?;
        let family = family::of(&settings)?;
        let config = (family.config)(&settings)?;
        let note = keys::check_unread(&settings, family, &folder.describe("config.json"))?;
        Ok((config, note.into_iter().collect()))
    }

    /// How block `layer` attends.
    pub(crate) fn attention_shape(&self, layer: usize) -> AttentionShape {
        let Attention { query_heads, key_heads, d_head, soft_cap, ref layers, .. } = self.attention;
        let AttentionLayer { window, scale, .. } = layers[layer];
        AttentionShape { query_heads, key_heads, d_head, window, scale, soft_cap }
    }

    /// Whether every query head has a key head of its own.
    pub(crate) fn heads_are_single(&self) -> bool {
        self.attention.query_heads == self.attention.key_heads
    }
}

/// A field that transformers knows by two names; where both are there, they must say the same.
pub(crate) fn either<'a>(settings: &'a Settings, name: &str, other: &str) -> Result<Option<Field<'a>>> {
    match (settings.find(name), settings.find(other)) {
        (Some(field), Some(other)) if !field.is_same(&other) => {
            Err(other.wrong(&format!("what `{name}` is, which it is another name of")).into())
        }
        (field, other) => Ok(field.or(other)),
    }
}

/// A count that transformers knows by two names.
pub(crate) fn either_count(settings: &Settings, name: &str, other: &str, most: usize) -> Result<usize> {
    either(settings, name, other)?
        .map_or_else(|| settings.get(name), Ok)
        .and_then(|field| field.count(most))
        .map_err(Into::into)
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
        None => Err(field.wrong("one of `gelu`, `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`, `relu`, `silu`")),
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
