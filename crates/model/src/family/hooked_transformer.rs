//! A HookedTransformer of TransformerLens as it is in memory: its configuration's own keys, its state dict's own names and shapes, folded or
//! not.

use directrix_corpus::{Field, Settings};
use directrix_kernels::{Activation, Matrix, Weight};

use super::llama::{flag, some};
use super::{Checkpoint, Family};
use crate::config::{
    Attention, AttentionLayer, Config, MOST_HEADS, MOST_LAYERS, MOST_TOKENS, MOST_WIDTH, Mlp, Norm, PositionEncoding,
    activation,
};
use crate::rotary::{Rotary, RotaryScaling};
use crate::{Block, Gate, NormWeights, Result, Weights};

pub(super) static FAMILY: Family = Family {
    architecture: "HookedTransformer",
    begins_with_bos: true,
    bare: "HookedTransformer",
    model_type: "hooked_transformer",
    prefix: "",
    unembedding: "unembed.W_U",
    block: "blocks.",
    buffers: &["attn.mask", "attn.IGNORE", "attn.rotary_sin", "attn.rotary_cos"],
    harmless: &[
        "checkpoint_index",
        "checkpoint_label_type",
        "checkpoint_value",
        "d_vocab_out",
        "decoder_start_token_id",
        "default_prepend_bos",
        "device",
        "experts_per_token",
        "final_rms",
        "from_checkpoint",
        "init_mode",
        "init_weights",
        "load_in_4bit",
        "model_name",
        "n_devices",
        "n_params",
        "NTK_by_parts_factor",
        "NTK_by_parts_high_freq_factor",
        "NTK_by_parts_low_freq_factor",
        "NTK_original_ctx_len",
        "norm_topk_prob",
        "original_architecture",
        "quantization_method",
        "relative_attention_max_distance",
        "relative_attention_num_buckets",
        "rotary_base_local",
        "seed",
        "tie_word_embeddings",
        "tokenizer_name",
        "tokenizer_prepends_bos",
        "train_seq_length",
        "trust_remote_code",
        "ungroup_grouped_query_attention",
        "use_attn_in",
        "use_attn_result",
        "use_hook_mlp_in",
        "use_hook_tokens",
        "use_split_qkv_input",
        "uses_rms_norm",
        "layer_norm_folding",
        "yarn_attention_factor",
        "yarn_beta_fast",
        "yarn_beta_slow",
        "yarn_factor",
        "yarn_global_attn_only",
        "yarn_original_max_position_embeddings",
        "yarn_truncate",
    ],
    config,
    weights,
};

/// Choices that are not made here: each must be absent, null or off.
const REFUSED: [&str; 8] = [
    "attn_only",
    "clip_qkv",
    "num_experts",
    "post_embedding_ln",
    "use_attention_sinks",
    "use_dynamic_ntk_rope",
    "use_logn_attn",
    "use_yarn_rope",
];

fn config(settings: &Settings) -> Result<Config> {
    for name in REFUSED {
        if let Some(field) = settings.find_some(name)
            && (!field.is_flag() || field.flag()?)
        {
            return Err(field.wrong("null or false; such models are not supported").into());
        }
    }
    if let Some(direction) = settings.find_some("attention_dir") {
        direction.choice(&["causal"])?;
    }
    let count = |name: &str, most: usize| settings.get(name).and_then(|field| field.count(most));
    let d_model = count("d_model", MOST_WIDTH)?;
    let n_layers = count("n_layers", MOST_LAYERS)?;
    let heads = count("n_heads", MOST_HEADS)?;
    let key_heads = some(settings, "n_key_value_heads", |field| field.count(MOST_HEADS))?.unwrap_or(heads);
    if !heads.is_multiple_of(key_heads) {
        let problem = format!("{heads} heads cannot share {key_heads} key heads (`n_key_value_heads`) evenly");
        return Err(settings.problem(problem).into());
    }
    let d_head = count("d_head", MOST_WIDTH)?;
    let eps = settings.or("eps", 1e-5, |field| field.number(f64::from(f32::MIN_POSITIVE)..=1.0))? as f32;
    let norm = match settings.get("normalization_type")?.choice(&["LN", "LNPre", "RMS", "RMSPre"])? {
        "LN" | "LNPre" => Norm::Layer { eps },
        _ => Norm::Rms { eps },
    };
    let positions = settings.or("positional_embedding_type", "standard", |f| f.choice(&["standard", "rotary"]))?;
    let encoding = if positions == "rotary" { PositionEncoding::Rotary } else { PositionEncoding::Learned };
    let scale = if flag(settings, "use_attn_scale", true)? {
        let by = some(settings, "attn_scale", |field| field.number(-1.0..=1e6))?.filter(|by| *by > 0.0);
        1.0 / by.unwrap_or((d_head as f64).sqrt()) as f32
    } else {
        some(settings, "attn_scale", |field| field.number(-1.0..=1e6))?;
        1.0
    };
    let by_layer = flag(settings, "scale_attn_by_inverse_layer_idx", false)?;
    let windows = windows(settings, n_layers)?;
    let layer = |layer: usize| {
        let window = windows[layer];
        let rotary = if encoding == PositionEncoding::Rotary { Some(rotary(settings, d_head, window)?) } else { None };
        let scale = if by_layer { scale / (layer + 1) as f32 } else { scale };
        Ok(AttentionLayer { window, scale, rotary })
    };
    Ok(Config {
        family: &FAMILY,
        n_layers,
        d_model,
        d_vocab: count("d_vocab", MOST_TOKENS)?,
        n_ctx: count("n_ctx", MOST_TOKENS)?,
        norm,
        encoding,
        attention: Attention {
            query_heads: heads,
            key_heads,
            d_head,
            biased: true,
            output_biased: true,
            qk_norms: flag(settings, "use_qk_norm", false)?,
            soft_cap: soft_cap(settings, "attn_scores_soft_cap")?,
            layers: (0..n_layers).map(layer).collect::<Result<_>>()?,
        },
        mlp: Mlp {
            d_mlp: count("d_mlp", MOST_WIDTH)?,
            activation: activation(settings, "act_fn", Activation::Relu)?,
            gated: flag(settings, "gated_mlp", false)?,
            biased: true,
        },
        parallel: flag(settings, "parallel_attn_mlp", false)?,
        post_norms: flag(settings, "use_normalization_before_and_after", false)?,
        logit_soft_cap: soft_cap(settings, "output_logits_soft_cap")?,
        tied: false,
    })
}

/// Not positive is none.
fn soft_cap(settings: &Settings, name: &str) -> Result<Option<f32>> {
    Ok(some(settings, name, |field| field.number(-1.0..=1e9))?.filter(|cap| *cap > 0.0).map(|cap| cap as f32))
}

/// The window of each block.
fn windows(settings: &Settings, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let window = some(settings, "window_size", |field| field.count(MOST_TOKENS))?;
    let types = settings.find_some("attn_types");
    if !flag(settings, "use_local_attn", false)? {
        return Ok(vec![None; n_layers]);
    }
    let (Some(types), Some(window)) = (types, window) else {
        return Err(settings.problem("`use_local_attn` is true, without `attn_types` or `window_size`").into());
    };
    let named = types.list()?;
    if named.len() != n_layers {
        return Err(types.wrong(&format!("the kinds of {n_layers} blocks")).into());
    }
    let of = |kind: &Field| Ok((kind.choice(&["global", "local"])? == "local").then_some(window));
    named.iter().map(of).collect()
}

/// The rotation of a block; TransformerLens scales that of blocks without a window alone, and may give the others a base of their own.
fn rotary(settings: &Settings, d_head: usize, window: Option<usize>) -> Result<Rotary> {
    let number = |name: &str| some(settings, name, |field| field.number(1e-9..=1e12));
    let dimensions = some(settings, "rotary_dim", |field| field.count(d_head))?.unwrap_or(d_head);
    let (base, local) = (number("rotary_base")?.unwrap_or(10_000.0), number("rotary_base_local")?);
    let factor = number("rotary_scaling_factor")?.unwrap_or(1.0);
    let scaling = if flag(settings, "use_NTK_by_parts_rope", false)? {
        RotaryScaling::Llama3 {
            factor: number("NTK_by_parts_factor")?.unwrap_or(8.0),
            low: number("NTK_by_parts_low_freq_factor")?.unwrap_or(1.0),
            high: number("NTK_by_parts_high_freq_factor")?.unwrap_or(4.0),
            original: number("NTK_original_ctx_len")?.unwrap_or(8192.0),
        }
    } else if factor != 1.0 && window.is_none() {
        RotaryScaling::Linear { factor }
    } else {
        RotaryScaling::Default
    };
    let adjacent_pairs = flag(settings, "rotary_adjacent_pairs", false)?;
    if dimensions % 2 == 1 {
        return Err(settings
            .problem(format!("{dimensions} dimensions are rotated (`rotary_dim`); give an even number"))
            .into());
    }
    let base = if window.is_some() { local.unwrap_or(base) } else { base };
    Ok(Rotary { dimensions, base, adjacent_pairs, scaling })
}

fn weights(checkpoint: &Checkpoint) -> Result<Weights> {
    let Config { d_model: d, d_vocab, n_layers, n_ctx, ref attention, ref mlp, post_norms, .. } = *checkpoint.config;
    let Attention { query_heads, key_heads, d_head, qk_norms, .. } = *attention;
    let m = mlp.d_mlp;
    let shared = if query_heads == key_heads { "" } else { "_" };
    let block = |layer: usize| {
        let at = |rest: &str| format!("blocks.{layer}.{rest}");
        let reads = |mark: &str, part: &str, heads: usize| {
            let weight = by_head(checkpoint, &at(&format!("attn.{mark}W_{part}")), [heads, d, d_head])?;
            Ok::<_, crate::Error>((weight, checkpoint.numbers(&at(&format!("attn.{mark}b_{part}")), &[heads, d_head])?))
        };
        let both = |is_there: bool, [one, other]: [&str; 2], width: usize| {
            let of = |part| checkpoint.hooked_norm(&at(part), width);
            Ok::<_, crate::Error>(if is_there {
                of(one)?.zip(of(other)?).map(|(one, other)| [one, other])
            } else {
                None
            })
        };
        let (w_q, b_q) = reads("", "Q", query_heads)?;
        let (w_k, b_k) = reads(shared, "K", key_heads)?;
        let (w_v, b_v) = reads(shared, "V", key_heads)?;
        let w_o = checkpoint.numbers(&at("attn.W_O"), &[query_heads, d_head, d])?;
        let gate = if mlp.gated {
            Some(Gate { w: checkpoint.weight(&at("mlp.W_gate"), d, m)?, b: vec![0.0; m] })
        } else {
            None
        };
        Ok(Block {
            ln1: checkpoint.hooked_norm(&at("ln1"), d)?,
            w_q,
            w_k,
            w_v,
            b_q,
            b_k,
            b_v,
            qk_norms: both(qk_norms, ["attn.q_norm", "attn.k_norm"], d_head)?,
            w_o: Matrix::new(w_o, query_heads * d_head, d).into(),
            b_o: checkpoint.vector(&at("attn.b_O"), d)?,
            ln2: checkpoint.hooked_norm(&at("ln2"), d)?,
            gate,
            w_in: checkpoint.weight(&at("mlp.W_in"), d, m)?,
            b_in: checkpoint.vector(&at("mlp.b_in"), m)?,
            w_out: checkpoint.weight(&at("mlp.W_out"), m, d)?,
            b_out: checkpoint.vector(&at("mlp.b_out"), d)?,
            post_norms: both(post_norms, ["ln1_post", "ln2_post"], d)?,
        })
    };
    let w_pos = match checkpoint.config.encoding {
        PositionEncoding::Learned => Some(checkpoint.weight("pos_embed.W_pos", n_ctx, d)?),
        PositionEncoding::Rotary => None,
    };
    Ok(Weights {
        w_e: checkpoint.weight("embed.W_E", d_vocab, d)?,
        w_pos,
        blocks: (0..n_layers).map(block).collect::<Result<_>>()?,
        ln_final: checkpoint.hooked_norm("ln_final", d)?,
        w_u: checkpoint.weight("unembed.W_U", d, d_vocab)?,
        b_u: checkpoint.vector("unembed.b_U", d_vocab)?,
    })
}

/// `[heads, d_model, d_head]` as the pass reads it: heads side by side in the columns.
fn by_head(checkpoint: &Checkpoint, name: &str, shape: [usize; 3]) -> Result<Weight> {
    let numbers = checkpoint.numbers(name, &shape)?;
    let [heads, d_model, d_head] = shape;
    let mut weight = Matrix::zeros(d_model, heads * d_head);
    for (i, row) in numbers.chunks_exact(d_head).enumerate() {
        let (head, at) = (i / d_model, i % d_model);
        weight.row_mut(at)[head * d_head..][..d_head].copy_from_slice(row);
    }
    Ok(weight.into())
}

impl Checkpoint<'_> {
    fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.tensors.get(name, shape)
    }

    /// A norm, unless it was folded: then it has no weights.
    fn hooked_norm(&self, name: &str, width: usize) -> Result<Option<NormWeights>> {
        let [w, b] = ["w", "b"].map(|part| format!("{name}.{part}"));
        if !self.tensors.contains(&w) {
            return Ok(None);
        }
        let b = match self.config.norm {
            Norm::Layer { .. } => Some(self.vector(&b, width)?),
            Norm::Rms { .. } => None,
        };
        Ok(Some(NormWeights { w: self.vector(&w, width)?, b }))
    }
}
