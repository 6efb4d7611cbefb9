//! Llama (Touvron et al. 2023), and what the families after it have alike: RMSNorm, rotary positions, query heads that share
//! keys, gated MLPs.

use directrix_corpus::{Field, Settings};
use directrix_kernels::Activation;

use super::{Checkpoint, Family};
use crate::config::{
    Attention, AttentionLayer, Config, MOST_HEADS, MOST_LAYERS, MOST_TOKENS, MOST_WIDTH, Mlp, Norm, PositionEncoding,
    activation, head_width,
};
use crate::rotary::{Rope, Rotary};
use crate::{Block, Gate, Result, Weights};

pub(super) static FAMILY: Family = Family {
    architecture: "LlamaForCausalLM",
    begins_with_bos: true,
    bare: "LlamaModel",
    model_type: "llama",
    prefix: "model.",
    unembedding: "lm_head.weight",
    block: "layers.",
    buffers: &["self_attn.rotary_emb."],
    harmless: &["attention_dropout", "pretraining_tp"],
    config,
    weights,
};

fn config(settings: &Settings) -> Result<Config> {
    let base = Base::read(settings, &DEFAULTS)?;
    let is_biased = flag(settings, "attention_bias", false)?;
    let rotary = base.rotary(settings)?;
    let mut config = base.config(&FAMILY, |_| (None, rotary));
    (config.attention.biased, config.attention.output_biased) = (is_biased, is_biased);
    config.mlp.biased = flag(settings, "mlp_bias", false)?;
    Ok(config)
}

const DEFAULTS: Defaults = Defaults {
    d_vocab: 32_000,
    d_model: 4096,
    d_mlp: 11_008,
    n_layers: 32,
    query_heads: 32,
    key_heads: None,
    d_head: None,
    n_ctx: 2048,
    activation: ("hidden_act", Activation::Silu),
    tied: false,
};

/// What transformers takes for keys that `config.json` lacks.
pub(super) struct Defaults {
    pub(super) d_vocab: usize,
    pub(super) d_model: usize,
    pub(super) d_mlp: usize,
    pub(super) n_layers: usize,
    pub(super) query_heads: usize,
    /// `None`: as many as there are query heads.
    pub(super) key_heads: Option<usize>,
    /// `None`: the share of a head in `d_model`.
    pub(super) d_head: Option<usize>,
    pub(super) n_ctx: usize,
    /// The key of the activation function, and it.
    pub(super) activation: (&'static str, Activation),
    pub(super) tied: bool,
}

/// The keys that these families have alike.
pub(super) struct Base {
    pub(super) n_layers: usize,
    pub(super) n_ctx: usize,
    pub(super) d_head: usize,
    d_vocab: usize,
    d_model: usize,
    query_heads: usize,
    key_heads: usize,
    mlp: Mlp,
    norm: Norm,
    tied: bool,
}

impl Base {
    pub(super) fn read(settings: &Settings, defaults: &Defaults) -> Result<Base> {
        let count = |name: &str, default: usize, most: usize| settings.or(name, default, |field| field.count(most));
        let d_model = count("hidden_size", defaults.d_model, MOST_WIDTH)?;
        let query_heads = count("num_attention_heads", defaults.query_heads, MOST_HEADS)?;
        let key_heads = match settings.find("num_key_value_heads") {
            None => defaults.key_heads.unwrap_or(query_heads),
            Some(_) => some(settings, "num_key_value_heads", |field| field.count(MOST_HEADS))?.unwrap_or(query_heads),
        };
        if !query_heads.is_multiple_of(key_heads) {
            let problem = format!(
                "{query_heads} attention heads cannot share {key_heads} key heads (`num_key_value_heads`) evenly"
            );
            return Err(settings.problem(problem).into());
        }
        let d_head = match some(settings, "head_dim", |field| field.count(MOST_WIDTH))?.or(defaults.d_head) {
            Some(d_head) => d_head,
            None => head_width(settings, d_model, query_heads)?,
        };
        if d_head % 2 == 1 || query_heads * d_head > MOST_WIDTH {
            let problem = format!(
                "heads are {d_head} wide; expected an even number of which {query_heads} are at most {MOST_WIDTH}"
            );
            return Err(settings.problem(problem).into());
        }
        let eps = settings.or("rms_norm_eps", 1e-6, |field| field.number(f64::from(f32::MIN_POSITIVE)..=1.0))?;
        let (activation_key, default_activation) = defaults.activation;
        Ok(Base {
            n_layers: count("num_hidden_layers", defaults.n_layers, MOST_LAYERS)?,
            n_ctx: count("max_position_embeddings", defaults.n_ctx, MOST_TOKENS)?,
            d_head,
            d_vocab: count("vocab_size", defaults.d_vocab, MOST_TOKENS)?,
            d_model,
            query_heads,
            key_heads,
            mlp: Mlp {
                d_mlp: count("intermediate_size", defaults.d_mlp, MOST_WIDTH)?,
                activation: activation(settings, activation_key, default_activation)?,
                gated: true,
                biased: false,
            },
            norm: Norm::Rms { eps: eps as f32 },
            tied: flag(settings, "tie_word_embeddings", defaults.tied)?,
        })
    }

    /// The rotation of all blocks.
    pub(super) fn rotary(&self, settings: &Settings) -> Result<Rotary> {
        self.rotary_of(&Rope::of(settings)?, &["rope_theta"], 10_000.0)
    }

    /// The rotation of whole heads that `rope` describes; its base is in the object or under one of `names`.
    pub(super) fn rotary_of(&self, rope: &Rope, names: &[&str], base: f64) -> Result<Rotary> {
        rope.check_whole()?;
        let (base, scaling) = (rope.base(names, base)?, rope.scaling(self.n_ctx)?);
        Ok(Rotary { dimensions: self.d_head, base, adjacent_pairs: false, scaling })
    }

    /// The configuration of a family without biases, norms of its own and caps, in which `layer` gives the window and the
    /// rotation of each block.
    pub(super) fn config(self, family: &'static Family, layer: impl Fn(usize) -> (Option<usize>, Rotary)) -> Config {
        let of_layer = |number: usize| {
            let (window, rotary) = layer(number);
            AttentionLayer { window, scale: 1.0 / (self.d_head as f32).sqrt(), rotary: Some(rotary) }
        };
        Config {
            family,
            n_layers: self.n_layers,
            d_model: self.d_model,
            d_vocab: self.d_vocab,
            n_ctx: self.n_ctx,
            norm: self.norm,
            encoding: PositionEncoding::Rotary,
            attention: Attention {
                query_heads: self.query_heads,
                key_heads: self.key_heads,
                d_head: self.d_head,
                biased: false,
                output_biased: false,
                qk_norms: false,
                soft_cap: None,
                layers: (0..self.n_layers).map(of_layer).collect(),
            },
            mlp: self.mlp,
            parallel: false,
            post_norms: false,
            logit_soft_cap: None,
            tied: self.tied,
        }
    }
}

/// What `read` makes of a key, if it is there and not null.
pub(super) fn some<T>(
    settings: &Settings,
    name: &str,
    read: impl FnOnce(Field) -> Result<T, directrix_corpus::Error>,
) -> Result<Option<T>> {
    Ok(settings.find_some(name).map(read).transpose()?)
}

pub(super) fn flag(settings: &Settings, name: &str, default: bool) -> Result<bool> {
    Ok(settings.or(name, default, |field| field.flag())?)
}

/// The window of Mistral and Qwen, 4,096 positions where none is named; null is none.
pub(super) fn window(settings: &Settings) -> Result<Option<usize>> {
    match settings.find("sliding_window") {
        None => Ok(Some(4096)),
        Some(_) => some(settings, "sliding_window", |field| field.count(MOST_TOKENS)),
    }
}

/// Which blocks see a window only: those that `layer_types` names so, or else those that `default` does.
pub(super) fn windowed(settings: &Settings, n_layers: usize, default: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
    let Some(types) = settings.find_some("layer_types") else { return Ok((0..n_layers).map(default).collect()) };
    let named = types.list()?;
    if named.len() != n_layers {
        return Err(types.wrong(&format!("the kinds of {n_layers} blocks")).into());
    }
    let is_windowed = |kind: &Field| Ok(kind.choice(&["full_attention", "sliding_attention"])? == "sliding_attention");
    named.iter().map(is_windowed).collect()
}

pub(super) fn weights(checkpoint: &Checkpoint) -> Result<Weights> {
    let Config { d_model: d, d_vocab, n_layers, ref attention, ref mlp, post_norms, .. } = *checkpoint.config;
    let (m, dh) = (mlp.d_mlp, attention.d_head);
    let (queries, keys) = (attention.query_heads * dh, attention.key_heads * dh);
    let w_e = checkpoint.embedding("embed_tokens.weight")?;
    let block = |layer: usize| {
        let at = |part: &str, rest: &str| format!("layers.{layer}.{part}{rest}");
        let weight = |part: &str, inputs, outputs| checkpoint.linear(&at(part, ".weight"), inputs, outputs);
        let bias = |part: &str, len, is_there| checkpoint.bias(&at(part, ".bias"), len, is_there);
        let norm = |part: &str| checkpoint.norm_of(&at(part, ""), d);
        let head_norm = |part: &str| checkpoint.norm_of(&at(part, ""), dh);
        // With norms of what is written, the names of the norms before and behind differ.
        let before_mlp = if post_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let both = |is_there: bool, names: [&str; 2], norm: &dyn Fn(&str) -> Result<_>| {
            Ok::<_, crate::Error>(if is_there { Some([norm(names[0])?, norm(names[1])?]) } else { None })
        };
        Ok(Block {
            ln1: Some(norm("input_layernorm")?),
            w_q: weight("self_attn.q_proj", d, queries)?,
            w_k: weight("self_attn.k_proj", d, keys)?,
            w_v: weight("self_attn.v_proj", d, keys)?,
            b_q: bias("self_attn.q_proj", queries, attention.biased)?,
            b_k: bias("self_attn.k_proj", keys, attention.biased)?,
            b_v: bias("self_attn.v_proj", keys, attention.biased)?,
            qk_norms: both(attention.qk_norms, ["self_attn.q_norm", "self_attn.k_norm"], &head_norm)?,
            w_o: weight("self_attn.o_proj", queries, d)?,
            b_o: bias("self_attn.o_proj", d, attention.output_biased)?,
            ln2: Some(norm(before_mlp)?),
            gate: Some(Gate { w: weight("mlp.gate_proj", d, m)?, b: bias("mlp.gate_proj", m, mlp.biased)? }),
            w_in: weight("mlp.up_proj", d, m)?,
            b_in: bias("mlp.up_proj", m, mlp.biased)?,
            w_out: weight("mlp.down_proj", m, d)?,
            b_out: bias("mlp.down_proj", d, mlp.biased)?,
            post_norms: both(post_norms, ["post_attention_layernorm", "post_feedforward_layernorm"], &norm)?,
        })
    };
    Ok(Weights {
        w_pos: None,
        blocks: (0..n_layers).map(block).collect::<Result<_>>()?,
        ln_final: checkpoint.norm("norm")?,
        w_u: checkpoint.unembedding(&w_e)?,
        b_u: vec![0.0; d_vocab],
        w_e,
    })
}
