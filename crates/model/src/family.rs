//! The families of models that can be loaded: one file each, and this list.

mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod hooked_transformer;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use std::cell::RefCell;
use std::fmt;

use directrix_corpus::Settings;
use directrix_kernels::Weight;

use crate::config::Norm;
use crate::{Block, Config, Error, NormWeights, Result, Tensors, Weights};

/// A family of checkpoints: how they are called, what their configuration says, where their weights are.
pub struct Family {
    /// As `architectures` of `config.json` names it.
    pub architecture: &'static str,
    /// Whether its models were trained on prompts that begin with BOS, by TransformerLens's convention.
    pub begins_with_bos: bool,
    /// The model without its unembedding, as `architectures` names it.
    bare: &'static str,
    /// As `model_type` names it.
    model_type: &'static str,
    /// What stands before the names of tensors, but for the unembedding's, in checkpoints of the language model; those of the bare
    /// model lack it.
    prefix: &'static str,
    /// The unembedding's tensor.
    unembedding: &'static str,
    /// What a block's tensors begin with, before its number.
    block: &'static str,
    /// Tensors of a block that hold no weights: masks and rotations, which older checkpoints have. One that ends in a dot
    /// stands for all that begin so.
    buffers: &'static [&'static str],
    /// Keys of `config.json` that the family's configuration of transformers has and that change nothing that is computed here.
    pub(crate) harmless: &'static [&'static str],
    pub(crate) config: fn(&Settings) -> Result<Config>,
    pub(crate) weights: fn(&Checkpoint) -> Result<Weights>,
}

static FAMILIES: [&Family; 10] = [
    &gpt_neo::FAMILY,
    &gpt2::FAMILY,
    &gpt_neox::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &hooked_transformer::FAMILY,
];

/// The family that a configuration names: by its architecture, or where it names none by its model type, as transformers does.
pub(crate) fn of(settings: &Settings) -> Result<&'static Family> {
    let known = |find: fn(&Family) -> &'static str| FAMILIES.map(find).map(|name| format!("`{name}`")).join(", ");
    let by_type = match settings.find_some("model_type") {
        Some(named) => Some((named.text()?, named)),
        None => None,
    };
    let of_type = |name: &str| FAMILIES.into_iter().find(|family| family.model_type == name);
    let Some(architectures) = settings.find_some("architectures") else {
        let Some((name, named)) = by_type else {
            return Err(settings.problem("neither `architectures` nor `model_type` says what the model is").into());
        };
        let expected = format!("one of {}; no other is supported", known(|family| family.model_type));
        return of_type(name).ok_or_else(|| named.wrong(&expected).into());
    };
    let first = architectures.list()?.into_iter().next();
    let named = first.ok_or_else(|| architectures.wrong("a list with the name of one"))?;
    let name = named.text()?;
    let found = FAMILIES.into_iter().find(|family| family.architecture == name || family.bare == name);
    let expected = format!("one of {}; no other is supported", known(|family| family.architecture));
    let family = found.ok_or_else(|| named.wrong(&expected))?;
    match by_type {
        Some((name, named)) if name != family.model_type => {
            Err(named.wrong(&format!("\"{}\", the type of a {}", family.model_type, family.architecture)).into())
        }
        _ => Ok(family),
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Family) -> bool {
        self.architecture == other.architecture
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.architecture)
    }
}

impl Family {
    /// Whether a tensor, named without the prefix, holds no weights.
    fn is_buffer(&self, name: &str) -> bool {
        let Some(in_block) = name.strip_prefix(self.block) else { return name == "rotary_emb.inv_freq" };
        let Some((_, of_block)) = in_block.split_once('.') else { return false };
        self.buffers.iter().any(|buffer| of_block == *buffer || (buffer.ends_with('.') && of_block.starts_with(buffer)))
    }

    /// The block of a tensor, named without the prefix, if it is in one.
    fn layer(&self, name: &str) -> Option<usize> {
        name.strip_prefix(self.block)?.split('.').next()?.parse().ok()
    }
}

/// A checkpoint's tensors, read in the shapes that its configuration says.
pub(crate) struct Checkpoint<'a> {
    pub(crate) config: &'a Config,
    tensors: &'a Tensors,
    /// The family's, or nothing.
    prefix: &'static str,
    /// What is to be told of it.
    notes: RefCell<Vec<String>>,
}

impl<'a> Checkpoint<'a> {
    pub(crate) fn new(config: &'a Config, tensors: &'a Tensors) -> Checkpoint<'a> {
        let prefix = config.family.prefix;
        let has_prefix = tensors.names().any(|name| name.starts_with(prefix));
        Checkpoint { config, tensors, prefix: if has_prefix { prefix } else { "" }, notes: RefCell::default() }
    }

    /// What is to be told of it: where it contradicts its configuration, and what was taken.
    pub(crate) fn into_notes(self) -> Vec<String> {
        self.notes.into_inner()
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.tensors.get(&self.name(name), &[len])
    }

    fn weight(&self, name: &str, rows: usize, columns: usize) -> Result<Weight> {
        self.tensors.weight(&self.name(name), rows, columns)
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A `Linear` weight `[outputs, inputs]` as `[inputs, outputs]`.
    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Weight> {
        Ok(self.weight(name, outputs, inputs)?.transposed())
    }

    /// The bias of a `Linear`, or zeros where the configuration says that there is none.
    fn bias(&self, name: &str, len: usize, is_there: bool) -> Result<Vec<f32>> {
        if is_there { self.vector(name, len) } else { Ok(vec![0.0; len]) }
    }

    /// A norm of `width` numbers.
    fn norm_of(&self, name: &str, width: usize) -> Result<NormWeights> {
        let b = match self.config.norm {
            Norm::Layer { .. } => Some(self.vector(&format!("{name}.bias"), width)?),
            Norm::Rms { .. } => None,
        };
        Ok(NormWeights { w: self.vector(&format!("{name}.weight"), width)?, b })
    }

    /// A norm of the residual stream.
    fn norm(&self, name: &str) -> Result<Option<NormWeights>> {
        self.norm_of(name, self.config.d_model).map(Some)
    }

    /// The embedding; where the configuration ties it to the unembedding and the checkpoint holds that alone, it is that, as in
    /// transformers 5.
    fn embedding(&self, name: &str) -> Result<Weight> {
        let Config { family, tied, d_model, d_vocab, .. } = *self.config;
        let is_alone = tied && !self.tensors.contains(&self.name(name)) && self.tensors.contains(family.unembedding);
        let name = if is_alone { family.unembedding.to_owned() } else { self.name(name) };
        self.tensors.weight(&name, d_vocab, d_model)
    }

    /// The unembedding: the embedding again where the configuration ties it, unless the checkpoint holds another, which
    /// transformers 5 takes.
    fn unembedding(&self, w_e: &Weight) -> Result<Weight> {
        let Config { family, tied, d_model, d_vocab, .. } = *self.config;
        let name = family.unembedding;
        if !self.tensors.contains(name) {
            return if tied {
                Ok(w_e.transposed())
            } else {
                Err(Error::NoUnembedding { folder: self.tensors.folder().into(), name: name.into() })
            };
        }
        let own = self.tensors.weight(name, d_vocab, d_model)?;
        if tied && own != *w_e {
            self.notes.borrow_mut().push(format!(
                "{}: tensor `{name}` differs from the embedding and is used, although config.json ties the two \
                 (`tie_word_embeddings`); transformers 5 does the same, transformers 4 would use the embedding: remove the tensor \
                 for that, or set the key to false",
                self.tensors.folder()
            ));
        }
        Ok(own.transposed())
    }

    /// That nothing in the checkpoint was left out that could be weights.
    pub(crate) fn check_all_read(&self) -> Result<()> {
        let Config { family, n_layers, .. } = self.config;
        for name in self.tensors.unread() {
            let own = name.strip_prefix(self.prefix).unwrap_or(&name);
            if family.is_buffer(own) {
                continue;
            }
            let why = match family.layer(own) {
                Some(layer) if layer >= *n_layers => {
                    format!("of block {layer}, and config.json says {n_layers} blocks")
                }
                _ => format!("not one of a {}", family.architecture),
            };
            return Err(Error::UnknownTensor { folder: self.tensors.folder().into(), name, why });
        }
        Ok(())
    }

    /// What GPT-2 and GPT-Neo name alike: everything around the blocks, each of which is made from its prefix.
    fn gpt(&self, block: impl Fn(&str) -> Result<Block>) -> Result<Weights> {
        let d = self.config.d_model;
        let w_e = self.embedding("wte.weight")?;
        Ok(Weights {
            w_pos: Some(self.weight("wpe.weight", self.config.n_ctx, d)?),
            blocks: (0..self.config.n_layers).map(|layer| block(&format!("h.{layer}."))).collect::<Result<_>>()?,
            ln_final: self.norm("ln_f")?,
            w_u: self.unembedding(&w_e)?,
            b_u: vec![0.0; self.config.d_vocab],
            w_e,
        })
    }
}
