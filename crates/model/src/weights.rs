//! A model's weights, in the layout the pass multiplies with.

use directrix_kernels::Matrix;

use crate::Config;

/// Weight and bias of a LayerNorm that was not folded.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    /// Scale, `[d_model]`.
    pub w: Vec<f32>,
    /// Bias, `[d_model]`.
    pub b: Vec<f32>,
}

impl LayerNorm {
    /// Scales a normalised row and adds the bias.
    pub(crate) fn apply(&self, row: &mut [f32]) {
        for ((x, w), b) in row.iter_mut().zip(&self.w).zip(&self.b) {
            *x = x.mul_add(*w, *b);
        }
    }
}

/// One block. Heads stand side by side in the columns of `w_q`, `w_k`, `w_v` and in the rows of `w_o`.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// LayerNorm before attention; `None` once folded.
    pub ln1: Option<LayerNorm>,
    /// Queries, `[d_model, n_heads × d_head]`.
    pub w_q: Matrix,
    /// Keys, as `w_q`.
    pub w_k: Matrix,
    /// Values, as `w_q`.
    pub w_v: Matrix,
    /// `[n_heads × d_head]`.
    pub b_q: Vec<f32>,
    /// `[n_heads × d_head]`.
    pub b_k: Vec<f32>,
    /// `[n_heads × d_head]`.
    pub b_v: Vec<f32>,
    /// Output, `[n_heads × d_head, d_model]`.
    pub w_o: Matrix,
    /// `[d_model]`.
    pub b_o: Vec<f32>,
    /// LayerNorm before the MLP; `None` once folded.
    pub ln2: Option<LayerNorm>,
    /// `[d_model, d_mlp]`.
    pub w_in: Matrix,
    /// `[d_mlp]`.
    pub b_in: Vec<f32>,
    /// `[d_mlp, d_model]`.
    pub w_out: Matrix,
    /// `[d_model]`.
    pub b_out: Vec<f32>,
}

/// All weights of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Embedding, `[d_vocab, d_model]`.
    pub w_e: Matrix,
    /// Positional embedding, `[n_ctx, d_model]`; `None` for rotary positions.
    pub w_pos: Option<Matrix>,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// LayerNorm before the unembedding; `None` once folded.
    pub ln_final: Option<LayerNorm>,
    /// Unembedding, `[d_model, d_vocab]`.
    pub w_u: Matrix,
    /// `[d_vocab]`.
    pub b_u: Vec<f32>,
}

impl Weights {
    /// Every weight under TransformerLens's name, with its shape there (heads as an axis of their own).
    pub fn named(&self, config: &Config) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let (h, d, dh, m) = (config.attention.query_heads, config.d_model, config.attention.d_head, config.mlp.d_mlp);
        let mut all = vec![("embed.W_E".to_owned(), vec![config.d_vocab, d], self.w_e.data().to_vec())];
        if let Some(w_pos) = &self.w_pos {
            all.push(("pos_embed.W_pos".into(), vec![config.n_ctx, d], w_pos.data().to_vec()));
        }
        let norm = |all: &mut Vec<_>, name: String, ln: &Option<LayerNorm>| {
            if let Some(ln) = ln {
                all.push((format!("{name}.w"), vec![d], ln.w.clone()));
                all.push((format!("{name}.b"), vec![d], ln.b.clone()));
            }
        };
        for (l, block) in self.blocks.iter().enumerate() {
            let name = |part: &str| format!("blocks.{l}.{part}");
            norm(&mut all, name("ln1"), &block.ln1);
            for (part, w, b) in
                [("Q", &block.w_q, &block.b_q), ("K", &block.w_k, &block.b_k), ("V", &block.w_v, &block.b_v)]
            {
                let by_head = (0..h).flat_map(|i| w.columns_of(i * dh..(i + 1) * dh).into_data()).collect();
                all.push((name(&format!("attn.W_{part}")), vec![h, d, dh], by_head));
                all.push((name(&format!("attn.b_{part}")), vec![h, dh], b.clone()));
            }
            all.push((name("attn.W_O"), vec![h, dh, d], block.w_o.data().to_vec()));
            all.push((name("attn.b_O"), vec![d], block.b_o.clone()));
            norm(&mut all, name("ln2"), &block.ln2);
            all.push((name("mlp.W_in"), vec![d, m], block.w_in.data().to_vec()));
            all.push((name("mlp.b_in"), vec![m], block.b_in.clone()));
            all.push((name("mlp.W_out"), vec![m, d], block.w_out.data().to_vec()));
            all.push((name("mlp.b_out"), vec![d], block.b_out.clone()));
        }
        norm(&mut all, "ln_final".into(), &self.ln_final);
        all.push(("unembed.W_U".into(), vec![d, config.d_vocab], self.w_u.data().to_vec()));
        all.push(("unembed.b_U".into(), vec![config.d_vocab], self.b_u.clone()));
        all
    }
}
