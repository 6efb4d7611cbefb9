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

/// A weight under TransformerLens's name.
#[derive(Debug, Clone)]
pub struct NamedWeight<'a> {
    /// `embed.W_E`, `blocks.0.attn.W_Q`, …; `_W_K`, `_W_V` and their biases where several query heads share each.
    pub name: String,
    /// Its shape there: heads are an axis of their own, before the others.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub stored: Stored<'a>,
}

/// Where the numbers of a [`NamedWeight`] lie.
#[derive(Debug, Clone, Copy)]
pub enum Stored<'a> {
    /// Row after row, in the shape's order.
    Rows(&'a Weight),
    /// `[d_model, heads × d_head]`: heads side by side in the columns.
    HeadsInColumns(&'a Weight),
    /// In the shape's order.
    Numbers(&'a [f32]),
}

impl NamedWeight<'_> {
    /// A copy of its numbers, in the shape's order.
    pub fn numbers(&self) -> Vec<f32> {
        match self.stored {
            Stored::Rows(weight) => weight.to_matrix().into_owned().into_data(),
            Stored::Numbers(numbers) => numbers.to_vec(),
            Stored::HeadsInColumns(weight) => {
                let (weight, d_head) = (weight.to_matrix(), self.shape[2]);
                let of_head = |head| weight.columns_of(head * d_head..(head + 1) * d_head).into_data();
                (0..self.shape[0]).flat_map(of_head).collect()
            }
        }
    }
}

impl Weights {
    /// Every weight under TransformerLens's name, where it lies.
    pub fn named(&self, config: &Config) -> Vec<NamedWeight<'_>> {
        let (h, d, dh, m) = (config.attention.query_heads, config.d_model, config.attention.d_head, config.mlp.d_mlp);
        let mut all = Named(Vec::new());
        all.add("embed.W_E", &[config.d_vocab, d], Stored::Rows(&self.w_e));
        if let Some(w_pos) = &self.w_pos {
            all.add("pos_embed.W_pos", &[config.n_ctx, d], Stored::Rows(w_pos));
        }
        let shared = if config.heads_are_single() { "" } else { "_" };
        for (l, block) in self.blocks.iter().enumerate() {
            let name = |part: &str| format!("blocks.{l}.{part}");
            all.norm(&name("ln1"), block.ln1.as_ref());
            for (mark, part, w, b) in [
                ("", "Q", &block.w_q, &block.b_q),
                (shared, "K", &block.w_k, &block.b_k),
                (shared, "V", &block.w_v, &block.b_v),
            ] {
                let heads = b.len() / dh;
                all.add(&name(&format!("attn.{mark}W_{part}")), &[heads, d, dh], Stored::HeadsInColumns(w));
                all.add(&name(&format!("attn.{mark}b_{part}")), &[heads, dh], Stored::Numbers(b));
            }
            let [q_norm, k_norm] = block.qk_norms.as_ref().map_or([None; 2], |norms| norms.each_ref().map(Some));
            all.norm(&name("attn.q_norm"), q_norm);
            all.norm(&name("attn.k_norm"), k_norm);
            all.add(&name("attn.W_O"), &[h, dh, d], Stored::Rows(&block.w_o));
            all.add(&name("attn.b_O"), &[d], Stored::Numbers(&block.b_o));
            all.norm(&name("ln2"), block.ln2.as_ref());
            if let Some(Gate { w, b }) = &block.gate {
                all.add(&name("mlp.W_gate"), &[d, m], Stored::Rows(w));
                all.add(&name("mlp.b_gate"), &[m], Stored::Numbers(b));
            }
            all.add(&name("mlp.W_in"), &[d, m], Stored::Rows(&block.w_in));
            all.add(&name("mlp.b_in"), &[m], Stored::Numbers(&block.b_in));
            all.add(&name("mlp.W_out"), &[m, d], Stored::Rows(&block.w_out));
            all.add(&name("mlp.b_out"), &[d], Stored::Numbers(&block.b_out));
            let [ln1_post, ln2_post] = block.post_norms.as_ref().map_or([None; 2], |norms| norms.each_ref().map(Some));
            all.norm(&name("ln1_post"), ln1_post);
            all.norm(&name("ln2_post"), ln2_post);
        }
        all.norm("ln_final", self.ln_final.as_ref());
        all.add("unembed.W_U", &[d, config.d_vocab], Stored::Rows(&self.w_u));
        all.add("unembed.b_U", &[config.d_vocab], Stored::Numbers(&self.b_u));
        all.0
    }
}

/// Weights that are being named.
struct Named<'a>(Vec<NamedWeight<'a>>);

impl<'a> Named<'a> {
    fn add(&mut self, name: &str, shape: &[usize], stored: Stored<'a>) {
        self.0.push(NamedWeight { name: name.into(), shape: shape.into(), stored });
    }

    fn norm(&mut self, name: &str, norm: Option<&'a NormWeights>) {
        let Some(NormWeights { w, b }) = norm else { return };
        self.add(&format!("{name}.w"), &[w.len()], Stored::Numbers(w));
        if let Some(b) = b {
            self.add(&format!("{name}.b"), &[b.len()], Stored::Numbers(b));
        }
    }
}
