//! From Hugging Face's tensors to [`Weights`].

use directrix_kernels::Matrix;

use crate::{Architecture, Block, Config, LayerNorm, Result, Tensors, Weights};

/// Reads and arranges all weights; `Linear` layers are transposed, fused projections taken apart.
pub(crate) fn convert(config: &Config, tensors: &Tensors) -> Result<Weights> {
    let source = Source { config, tensors };
    match config.architecture {
        Architecture::GptNeo => source.gpt_neo(),
        Architecture::Gpt2 => source.gpt2(),
        Architecture::GptNeoX => source.gpt_neox(),
    }
}

struct Source<'a> {
    config: &'a Config,
    tensors: &'a Tensors,
}

impl Source<'_> {
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

    /// What GPT-Neo and GPT-2 name alike: everything around the blocks.
    fn gpt(&self, block: impl Fn(usize) -> Result<Block>) -> Result<Weights> {
        let d = self.config.d_model;
        let root = |rest: &str| self.name("transformer.", rest);
        let w_e = self.tensors.matrix(&root("wte.weight"), self.config.d_vocab, d)?;
        Ok(Weights {
            w_pos: Some(self.tensors.matrix(&root("wpe.weight"), self.config.n_ctx, d)?),
            blocks: (0..self.config.n_layers).map(block).collect::<Result<_>>()?,
            ln_final: self.norm(&root("ln_f"))?,
            w_u: self.unembedding("lm_head.weight", &w_e)?,
            b_u: vec![0.0; self.config.d_vocab],
            w_e,
        })
    }

    fn gpt_neo(&self) -> Result<Weights> {
        let (d, m) = (self.config.d_model, self.config.d_mlp);
        let root = |rest: &str| self.name("transformer.", rest);
        let block = |l: usize| {
            let at = |rest: &str| root(&format!("h.{l}.{rest}"));
            let attention = |rest: &str| at(&format!("attn.attention.{rest}"));
            Ok(Block {
                ln1: self.norm(&at("ln_1"))?,
                w_q: self.linear(&attention("q_proj.weight"), d, d)?,
                w_k: self.linear(&attention("k_proj.weight"), d, d)?,
                w_v: self.linear(&attention("v_proj.weight"), d, d)?,
                b_q: vec![0.0; d],
                b_k: vec![0.0; d],
                b_v: vec![0.0; d],
                w_o: self.linear(&attention("out_proj.weight"), d, d)?,
                b_o: self.vector(&attention("out_proj.bias"), d)?,
                ln2: self.norm(&at("ln_2"))?,
                w_in: self.linear(&at("mlp.c_fc.weight"), d, m)?,
                b_in: self.vector(&at("mlp.c_fc.bias"), m)?,
                w_out: self.linear(&at("mlp.c_proj.weight"), m, d)?,
                b_out: self.vector(&at("mlp.c_proj.bias"), d)?,
            })
        };
        self.gpt(block)
    }

    fn gpt2(&self) -> Result<Weights> {
        let (d, m) = (self.config.d_model, self.config.d_mlp);
        let root = |rest: &str| self.name("transformer.", rest);
        let block = |l: usize| {
            let at = |rest: &str| root(&format!("h.{l}.{rest}"));
            let fused = self.tensors.matrix(&at("attn.c_attn.weight"), d, 3 * d)?;
            let bias = self.vector(&at("attn.c_attn.bias"), 3 * d)?;
            Ok(Block {
                ln1: self.norm(&at("ln_1"))?,
                w_q: fused.columns_of(0..d),
                w_k: fused.columns_of(d..2 * d),
                w_v: fused.columns_of(2 * d..3 * d),
                b_q: bias[..d].to_vec(),
                b_k: bias[d..2 * d].to_vec(),
                b_v: bias[2 * d..].to_vec(),
                w_o: self.tensors.matrix(&at("attn.c_proj.weight"), d, d)?,
                b_o: self.vector(&at("attn.c_proj.bias"), d)?,
                ln2: self.norm(&at("ln_2"))?,
                w_in: self.tensors.matrix(&at("mlp.c_fc.weight"), d, m)?,
                b_in: self.vector(&at("mlp.c_fc.bias"), m)?,
                w_out: self.tensors.matrix(&at("mlp.c_proj.weight"), m, d)?,
                b_out: self.vector(&at("mlp.c_proj.bias"), d)?,
            })
        };
        self.gpt(block)
    }

    fn gpt_neox(&self) -> Result<Weights> {
        let (d, m, dh) = (self.config.d_model, self.config.d_mlp, self.config.d_head);
        let root = |rest: &str| self.name("gpt_neox.", rest);
        let w_e = self.tensors.matrix(&root("embed_in.weight"), self.config.d_vocab, d)?;
        let block = |l: usize| {
            let at = |rest: &str| root(&format!("layers.{l}.{rest}"));
            let fused = self.linear(&at("attention.query_key_value.weight"), d, 3 * d)?;
            let bias = self.bias(&at("attention.query_key_value.bias"), 3 * d)?;
            // Columns run (head, q k v, d_head).
            let columns = |part: usize| (0..d).map(move |c| (c / dh * 3 + part) * dh + c % dh);
            let weights = |part: usize| fused.transposed().gather(columns(part)).transposed();
            let biases = |part: usize| columns(part).map(|c| bias[c]).collect();
            Ok(Block {
                ln1: self.norm(&at("input_layernorm"))?,
                w_q: weights(0),
                w_k: weights(1),
                w_v: weights(2),
                b_q: biases(0),
                b_k: biases(1),
                b_v: biases(2),
                w_o: self.linear(&at("attention.dense.weight"), d, d)?,
                b_o: self.bias(&at("attention.dense.bias"), d)?,
                ln2: self.norm(&at("post_attention_layernorm"))?,
                w_in: self.linear(&at("mlp.dense_h_to_4h.weight"), d, m)?,
                b_in: self.vector(&at("mlp.dense_h_to_4h.bias"), m)?,
                w_out: self.linear(&at("mlp.dense_4h_to_h.weight"), m, d)?,
                b_out: self.vector(&at("mlp.dense_4h_to_h.bias"), d)?,
            })
        };
        Ok(Weights {
            w_pos: None,
            blocks: (0..self.config.n_layers).map(block).collect::<Result<_>>()?,
            ln_final: self.norm(&root("final_layer_norm"))?,
            w_u: self.unembedding("embed_out.weight", &w_e)?,
            b_u: vec![0.0; self.config.d_vocab],
            w_e,
        })
    }
}
