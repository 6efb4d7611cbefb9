//! Checkpoints of llama2.c (`.bin`, versions 0 and 1 of its `export.py`): a header of whole numbers, then all weights as `f32`, one
//! kind behind the other. The model is a Llama whose rotated pairs lie side by side.

mod tokenizer;

use directrix_corpus::Settings;
use serde_json::json;

use crate::config::{MOST_HEADS, MOST_LAYERS, MOST_TOKENS, MOST_WIDTH};
use crate::{Config, Folder, Result, family};

pub(crate) use self::tokenizer::tokenizer_json;

/// What files of version 1 and later begin with, "ak42" read backwards.
const MAGIC: u32 = 0x616b_3432;
/// Where their weights begin.
const HEADER: usize = 256;
/// Bytes of the header of version 0.
const PLAIN_HEADER: usize = 7 * 4;

/// The model that a header describes.
struct Header {
    /// Whether it is version 0, which has no magic, other places, and tables of rotations.
    is_plain: bool,
    d_model: usize,
    d_mlp: usize,
    n_layers: usize,
    query_heads: usize,
    key_heads: usize,
    d_vocab: usize,
    n_ctx: usize,
    tied: bool,
}

/// A tensor of such a file, under its name in a Llama of transformers.
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// Byte of its first number.
    pub(crate) start: usize,
}

/// The configuration of a checkpoint.
pub(crate) fn config(folder: &Folder, file: &str) -> Result<Config> {
    let path = folder.describe(file);
    let header = Header::read(&folder.map(file)?).map_err(|problem| not_such(&path, problem))?;
    let text = json!({
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": header.d_model,
        "intermediate_size": header.d_mlp,
        "num_hidden_layers": header.n_layers,
        "num_attention_heads": header.query_heads,
        "num_key_value_heads": header.key_heads,
        "vocab_size": header.d_vocab,
        "max_position_embeddings": header.n_ctx,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": header.tied,
    });
    let settings = Settings::parse(&path, text.to_string().as_bytes())?;
    let mut config = (family::of(&settings)?.config)(&settings)?;
    let rotations = config.attention.layers.iter_mut().filter_map(|layer| layer.rotary.as_mut());
    rotations.for_each(|rotary| rotary.adjacent_pairs = true);
    Ok(config)
}

/// The tensors of a checkpoint, all of `f32`, each row by row.
pub(crate) fn tensors(bytes: &[u8]) -> Result<Vec<Stored>, String> {
    Ok(Header::read(bytes)?.tensors())
}

fn not_such(path: &str, problem: String) -> crate::Error {
    crate::Error::TensorFile { file: path.into(), problem }
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header, String> {
        let not_such = || {
            "it is no checkpoint of llama2.c, whose header gives sizes that the file has; a model is such a .bin file, or a folder with \
             a config.json: name the folder"
                .to_owned()
        };
        let numbers = |start: usize, count: usize| -> Option<Vec<i32>> {
            let bytes = bytes.get(start..start + 4 * count)?;
            Some(bytes.as_chunks().0.iter().map(|number| i32::from_le_bytes(*number)).collect())
        };
        let first = numbers(0, 2).ok_or_else(not_such)?;
        let is_plain = first[0].cast_unsigned() != MAGIC;
        match first[1] {
            _ if is_plain => {}
            1 => {}
            2 => return Err("it is of version 2 of llama2.c, whose weights are rounded to 8 bits; export it again with version 0 or 1".into()),
            version => return Err(format!("it is of version {version} of llama2.c; expected 0 or 1")),
        }
        let sizes = numbers(if is_plain { 0 } else { 8 }, 7).ok_or_else(not_such)?;
        let [d_model, d_mlp, n_layers, query_heads, key_heads, d_vocab, n_ctx] = sizes[..] else {
            return Err(not_such());
        };
        // In version 0 the sign of the vocabulary's size says whether the unembedding is the embedding.
        let tied = if is_plain { d_vocab > 0 } else { bytes.get(36).ok_or_else(not_such)? != &0 };
        let d_vocab = if is_plain { d_vocab.checked_abs().unwrap_or(0) } else { d_vocab };
        let within =
            |number: i32, most: usize| usize::try_from(number).ok().filter(|number| (1..=most).contains(number));
        let header = (|| {
            Some(Header {
                is_plain,
                d_model: within(d_model, MOST_WIDTH)?,
                d_mlp: within(d_mlp, MOST_WIDTH)?,
                n_layers: within(n_layers, MOST_LAYERS)?,
                query_heads: within(query_heads, MOST_HEADS)?,
                key_heads: within(key_heads, MOST_HEADS)?,
                d_vocab: within(d_vocab, MOST_TOKENS)?,
                n_ctx: within(n_ctx, MOST_TOKENS)?,
                tied,
            })
        })();
        let header = header.ok_or_else(not_such)?;
        if !header.d_model.is_multiple_of(header.query_heads) || !header.query_heads.is_multiple_of(header.key_heads) {
            return Err(not_such());
        }
        match header.len() {
            Some(len) if len == bytes.len() => Ok(header),
            Some(len) if !is_plain || len / 2 < bytes.len() && bytes.len() < len => Err(format!(
                "its header describes a checkpoint of llama2.c of {len} bytes, and it has {}: fetch it again",
                bytes.len()
            )),
            _ => Err(not_such()),
        }
    }

    fn d_head(&self) -> usize {
        self.d_model / self.query_heads
    }

    /// Where the weights begin.
    fn start(&self) -> usize {
        if self.is_plain { PLAIN_HEADER } else { HEADER }
    }

    /// Every kind of weight in the order of the file: its name in a block, or alone, and its shape. Of a kind that is nameless
    /// nothing is read.
    fn kinds(&self) -> Vec<(&'static str, Vec<usize>)> {
        let Header { d_model: d, d_mlp: m, d_vocab: v, .. } = *self;
        let keys = self.key_heads * self.d_head();
        let embedding = ("embed_tokens", vec![v, d]);
        let [norm, mlp_norm] = ["input_layernorm", "post_attention_layernorm"].map(|name| (name, vec![d]));
        let attention =
            [("q_proj", d), ("k_proj", keys), ("v_proj", keys), ("o_proj", d)].map(|(name, to)| (name, vec![to, d]));
        let mlp = [("gate_proj", m, d), ("down_proj", d, m), ("up_proj", m, d)]
            .map(|(name, to, from)| (name, vec![to, from]));
        let last = ("norm", vec![d]);
        let mut kinds = if self.is_plain {
            let rotations = ("", vec![self.n_ctx, self.d_head()]);
            [vec![embedding, norm], attention.into(), vec![mlp_norm], mlp.into(), vec![last, rotations]].concat()
        } else {
            [vec![norm, mlp_norm, last, embedding], attention.into(), mlp.into()].concat()
        };
        kinds.extend((!self.tied).then_some(("lm_head", vec![v, d])));
        kinds
    }

    /// Bytes of the whole file, unless they are too many to count.
    fn len(&self) -> Option<usize> {
        self.kinds().into_iter().try_fold(self.start(), |end, (name, shape)| {
            let numbers =
                shape.into_iter().try_fold(if place(name, 0).1 { self.n_layers } else { 1 }, usize::checked_mul)?;
            end.checked_add(numbers.checked_mul(4)?)
        })
    }

    fn tensors(&self) -> Vec<Stored> {
        let (mut start, mut tensors) = (self.start(), Vec::new());
        for (kind, shape) in self.kinds() {
            let of_blocks = place(kind, 0).1;
            for layer in 0..if of_blocks { self.n_layers } else { 1 } {
                if !kind.is_empty() {
                    tensors.push(Stored { name: place(kind, layer).0, shape: shape.clone(), start });
                }
                start += 4 * shape.iter().product::<usize>();
            }
        }
        tensors
    }
}

/// The name of a kind of weight in a Llama, in block `layer` if it is of blocks, and whether it is.
fn place(kind: &str, layer: usize) -> (String, bool) {
    let part = match kind {
        "input_layernorm" | "post_attention_layernorm" => kind.to_owned(),
        "q_proj" | "k_proj" | "v_proj" | "o_proj" => format!("self_attn.{kind}"),
        "gate_proj" | "up_proj" | "down_proj" => format!("mlp.{kind}"),
        "lm_head" => return ("lm_head.weight".into(), false),
        _ => return (format!("model.{kind}.weight"), false),
    };
    (format!("model.layers.{layer}.{part}.weight"), true)
}
