//! A model's weights, in the layout the pass multiplies with.

use directrix_kernels::Weight;

use crate::Config;

/// Weight and bias of a norm that was not folded.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// Scale, as wide as what is normalised.
    pub w: Vec<f32>,
    /// Bias, as wide; an RMSNorm has none.
    pub b: Option<Vec<f32>>,
}

impl NormWeights {
    /// Scales a normalised row and adds the bias.
    pub(crate) fn apply(&self, row: &mut [f32]) {
        match &self.b {
            None => row.iter_mut().zip(&self.w).for_each(|(x, w)| *x *= w),
            Some(b) => row.iter_mut().zip(&self.w).zip(b).for_each(|((x, w), b)| *x = x.mul_add(*w, *b)),
        }
    }
}

/// The gate of an MLP whose neurons are products.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// `[d_model, d_mlp]`.
    pub w: Weight,
    /// `[d_mlp]`.
    pub b: Vec<f32>,
}

/// One block. Heads stand side by side in the columns of `w_q`, `w_k`, `w_v` and in the rows of `w_o`.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The norm before attention; `None` once folded.
    pub ln1: Option<NormWeights>,
    /// Queries, `[d_model, query_heads × d_head]`.
    pub w_q: Weight,
    /// Keys, `[d_model, key_heads × d_head]`.
    pub w_k: Weight,
    /// Values, as `w_k`.
    pub w_v: Weight,
    /// `[query_heads × d_head]`.
    pub b_q: Vec<f32>,
    /// `[key_heads × d_head]`.
    pub b_k: Vec<f32>,
    /// `[key_heads × d_head]`.
    pub b_v: Vec<f32>,
    /// The norms of each head's queries and keys, `[d_head]` each, where there are some; never folded.
    pub qk_norms: Option<[NormWeights; 2]>,
    /// Output, `[query_heads × d_head, d_model]`.
    pub w_o: Weight,
    /// `[d_model]`.
    pub b_o: Vec<f32>,
    /// The norm before the MLP; `None` once folded.
    pub ln2: Option<NormWeights>,
    /// The gate, where neurons are products.
    pub gate: Option<Gate>,
    /// `[d_model, d_mlp]`.
    pub w_in: Weight,
    /// `[d_mlp]`.
    pub b_in: Vec<f32>,
    /// `[d_mlp, d_model]`.
    pub w_out: Weight,
    /// `[d_model]`.
    pub b_out: Vec<f32>,
    /// The norms of what attention and the MLP write, where there are some; never folded.
    pub post_norms: Option<[NormWeights; 2]>,
}

/// All weights of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Embedding, `[d_vocab, d_model]`, as it is added to the residual stream.
    pub w_e: Weight,
    /// Positional embedding, `[n_ctx, d_model]`; `None` for rotary positions.
    pub w_pos: Option<Weight>,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// The norm before the unembedding; `None` once folded.
    pub ln_final: Option<NormWeights>,
    /// Unembedding, `[d_model, d_vocab]`.
    pub w_u: Weight,
    /// `[d_vocab]`.
    pub b_u: Vec<f32>,
}

impl Weights {
    /// Every weight under TransformerLens's name, with its shape there: heads as an axis of their own, and `_W_K`, `_W_V` and
    /// their biases where several query heads share each.
    pub fn named(&self, config: &Config) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let (h, d, dh, m) = (config.attention.query_heads, config.d_model, config.attention.d_head, config.mlp.d_mlp);
        let numbers = |w: &Weight| w.to_matrix().into_owned().into_data();
        let mut all = vec![("embed.W_E".to_owned(), vec![config.d_vocab, d], numbers(&self.w_e))];
        if let Some(w_pos) = &self.w_pos {
            all.push(("pos_embed.W_pos".into(), vec![config.n_ctx, d], numbers(w_pos)));
        }
        let norm = |all: &mut Vec<_>, name: String, ln: Option<&NormWeights>| {
            let Some(NormWeights { w, b }) = ln else { return };
            all.push((format!("{name}.w"), vec![w.len()], w.clone()));
            all.extend(b.as_ref().map(|b| (format!("{name}.b"), vec![b.len()], b.clone())));
        };
        let shared = if config.heads_are_single() { "" } else { "_" };
        for (l, block) in self.blocks.iter().enumerate() {
            let name = |part: &str| format!("blocks.{l}.{part}");
            norm(&mut all, name("ln1"), block.ln1.as_ref());
            for (mark, part, w, b) in [
                ("", "Q", &block.w_q, &block.b_q),
                (shared, "K", &block.w_k, &block.b_k),
                (shared, "V", &block.w_v, &block.b_v),
            ] {
                let heads = b.len() / dh;
                let w = w.to_matrix();
                let by_head = (0..heads).flat_map(|i| w.columns_of(i * dh..(i + 1) * dh).into_data()).collect();
                all.push((name(&format!("attn.{mark}W_{part}")), vec![heads, d, dh], by_head));
                all.push((name(&format!("attn.{mark}b_{part}")), vec![heads, dh], b.clone()));
            }
            let [q_norm, k_norm] = block.qk_norms.as_ref().map_or([None; 2], |norms| norms.each_ref().map(Some));
            norm(&mut all, name("attn.q_norm"), q_norm);
            norm(&mut all, name("attn.k_norm"), k_norm);
            all.push((name("attn.W_O"), vec![h, dh, d], numbers(&block.w_o)));
            all.push((name("attn.b_O"), vec![d], block.b_o.clone()));
            norm(&mut all, name("ln2"), block.ln2.as_ref());
            if let Some(Gate { w, b }) = &block.gate {
                all.push((name("mlp.W_gate"), vec![d, m], numbers(w)));
                all.push((name("mlp.b_gate"), vec![m], b.clone()));
            }
            all.push((name("mlp.W_in"), vec![d, m], numbers(&block.w_in)));
            all.push((name("mlp.b_in"), vec![m], block.b_in.clone()));
            all.push((name("mlp.W_out"), vec![m, d], numbers(&block.w_out)));
            all.push((name("mlp.b_out"), vec![d], block.b_out.clone()));
            let [ln1_post, ln2_post] = block.post_norms.as_ref().map_or([None; 2], |norms| norms.each_ref().map(Some));
            norm(&mut all, name("ln1_post"), ln1_post);
            norm(&mut all, name("ln2_post"), ln2_post);
        }
        norm(&mut all, "ln_final".into(), self.ln_final.as_ref());
        all.push(("unembed.W_U".into(), vec![d, config.d_vocab], numbers(&self.w_u)));
        all.push(("unembed.b_U".into(), vec![config.d_vocab], self.b_u.clone()));
        all
    }
}
