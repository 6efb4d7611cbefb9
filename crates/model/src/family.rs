//! The families of models that can be loaded: one file each, and this list.

mod gpt2;
mod gpt_neo;
mod gpt_neox;

use std::fmt;

use directrix_kernels::Matrix;

use crate::config::Keys;
use crate::{Block, Config, LayerNorm, Result, Tensors, Weights};

/// A family of checkpoints: how they are called, what their configuration says, where their weights are.
pub struct Family {
    /// As `architectures` of `config.json` names it.
    pub architecture: &'static str,
    /// Whether its models were trained on prompts that begin with BOS, by TransformerLens's convention.
    pub begins_with_bos: bool,
    pub(crate) config: fn(&Keys) -> Result<Config>,
    pub(crate) weights: fn(&Checkpoint) -> Result<Weights>,
}

static FAMILIES: [&Family; 3] = [&gpt_neo::FAMILY, &gpt2::FAMILY, &gpt_neox::FAMILY];

/// The family whose checkpoints have this architecture.
pub(crate) fn of(architecture: &str) -> Option<&'static Family> {
    FAMILIES.into_iter().find(|family| family.architecture == architecture)
}

/// The architectures that can be loaded.
pub(crate) fn architectures() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.architecture).collect()
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

/// A checkpoint's tensors, read in the shapes that its configuration says.
pub(crate) struct Checkpoint<'a> {
    pub(crate) config: &'a Config,
    pub(crate) tensors: &'a Tensors,
}

impl Checkpoint<'_> {
    /// Checkpoints of the bare model lack the prefix that checkpoints of the language model have.
    fn name(&self, prefix: &str, rest: &str) -> String {
        let full = format!("{prefix}{rest}");
        if !self.tensors.contains(&full) && self.tensors.contains(rest) { rest.to_owned() } else { full }
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.tensors.get(name, &[len])
    }

    /// A bias that some checkpoints of the family do not have.
    fn bias(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        if self.tensors.contains(name) { self.vector(name, len) } else { Ok(vec![0.0; len]) }
    }

    /// A `Linear` weight `[outputs, inputs]` as `[inputs, outputs]`.
    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Matrix> {
        Ok(self.tensors.matrix(name, outputs, inputs)?.transposed())
    }

    fn norm(&self, name: &str) -> Result<Option<LayerNorm>> {
        let d = self.config.d_model;
        let (w, b) = (self.vector(&format!("{name}.weight"), d)?, self.vector(&format!("{name}.bias"), d)?);
        Ok(Some(LayerNorm { w, b }))
    }

    /// The unembedding: its own tensor, or the embedding's when the configuration ties them and there is none.
    fn unembedding(&self, name: &str, w_e: &Matrix) -> Result<Matrix> {
        if self.config.tied && !self.tensors.contains(name) {
            return Ok(w_e.transposed());
        }
        self.linear(name, self.config.d_model, self.config.d_vocab)
    }

    /// What GPT-2 and GPT-Neo name alike: everything around the blocks, each of which is made from its prefix.
    fn gpt(&self, block: impl Fn(&str) -> Result<Block>) -> Result<Weights> {
        let d = self.config.d_model;
        let root = |rest: &str| self.name("transformer.", rest);
        let w_e = self.tensors.matrix(&root("wte.weight"), self.config.d_vocab, d)?;
        let blocks = (0..self.config.n_layers).map(|layer| {
            let first = root(&format!("h.{layer}.ln_1.weight"));
            block(first.trim_end_matches("ln_1.weight"))
        });
        Ok(Weights {
            w_pos: Some(self.tensors.matrix(&root("wpe.weight"), self.config.n_ctx, d)?),
            blocks: blocks.collect::<Result<_>>()?,
            ln_final: self.norm(root("ln_f.weight").trim_end_matches(".weight"))?,
            w_u: self.unembedding("lm_head.weight", &w_e)?,
            b_u: vec![0.0; self.config.d_vocab],
            w_e,
        })
    }
}
