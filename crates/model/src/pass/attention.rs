//! Attention of a block.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use directrix_kernels::{AttentionRows, AttentionStage, EditScores, Matrix, Weight};

use super::plan::Narrowed;
use super::{End, Pass, Passed, Step};
use crate::config::Attention;
use crate::intervention::RowEdit;
use crate::{BlockHook, Error, HookPoint, NormWeights, Rotary};

/// Edited rows of what each head reads, `[n_heads × d_model]`, by row.
type HeadInputs = BTreeMap<usize, Vec<f32>>;

/// Weight and bias of queries, keys or values.
type Projection<'a> = (&'a Weight, &'a [f32]);

/// Consecutive rows of keys or values.
type Numbers<'a> = Cow<'a, [f32]>;

impl Pass<'_> {
    /// The residual stream with block `layer`'s attention added, and what the MLP reads if that differs.
    pub(super) fn attention(
        &self,
        layer: usize,
        mut resid: Matrix,
        passed: &mut Passed,
    ) -> Step<(Matrix, Option<Matrix>)> {
        let at = |hook| HookPoint::Block(layer, hook);
        let (config, block) = (self.model.config(), &self.model.weights().blocks[layer]);
        let (d_head, ln, rotary) = (config.attention.d_head, block.ln1.as_ref(), config.attention.layers[layer].rotary);
        self.visit(at(BlockHook::ResidPre), &mut resid, passed)?;
        let narrowed = self.plan.narrowed(layer);
        let narrow = |x: Matrix| match &narrowed {
            Some(narrowed) => narrowed.gather(&x),
            None => x,
        };
        if !self.plan.attends(layer) {
            return Ok((narrow(resid), None));
        }
        let [q_inputs, k_inputs, v_inputs] = self.head_inputs(layer, &resid, passed)?;
        let x = self.normalize(&resid, ln, [at(BlockHook::Ln1Scale), at(BlockHook::Ln1Normalized)], passed)?;

        let mut k = self.project(&x, &k_inputs, ln, (&block.w_k, &block.b_k));
        self.visit(at(BlockHook::K), &mut k, passed)?;
        if let Some([_, norm]) = &block.qk_norms {
            k = self.normalize_heads(k, norm, [BlockHook::KNormScale, BlockHook::KNormNormalized].map(at), passed)?;
        }
        if let Some(rotary) = rotary {
            rotate(rotary, d_head, &self.plan.rows(at(BlockHook::K)).positions(), false, &mut k);
            self.visit(at(BlockHook::RotK), &mut k, passed)?;
        }
        let mut v = self.project(&x, &v_inputs, ln, (&block.w_v, &block.b_v));
        self.visit(at(BlockHook::V), &mut v, passed)?;

        // From here on there may be fewer rows.
        let (x, resid) = (narrow(x), narrow(resid));
        let row_now = |row| narrowed.as_ref().map_or(Some(row), |narrowed| narrowed.row_now(row));
        let q_inputs = q_inputs.into_iter().filter_map(|(row, input)| Some((row_now(row)?, input))).collect();
        let mut q = self.project(&x, &q_inputs, ln, (&block.w_q, &block.b_q));
        self.visit(at(BlockHook::Q), &mut q, passed)?;
        if let Some([norm, _]) = &block.qk_norms {
            q = self.normalize_heads(q, norm, [BlockHook::QNormScale, BlockHook::QNormNormalized].map(at), passed)?;
        }
        if let Some(rotary) = rotary {
            rotate(rotary, d_head, &self.plan.rows(at(BlockHook::Q)).positions(), false, &mut q);
            self.visit(at(BlockHook::RotQ), &mut q, passed)?;
        }

        let z = self.attend(layer, &q, [&k, &v], narrowed.as_ref(), passed);
        if self.plan.keeps_keys() {
            passed.keys.0[layer] = Some((k, v));
        }
        let mut z = z?;
        self.visit(at(BlockHook::Z), &mut z, passed)?;
        let mut attn_out = self.attn_out(layer, &z, passed)?;
        if let Some([norm, _]) = &block.post_norms {
            let hooks = [BlockHook::Ln1PostScale, BlockHook::Ln1PostNormalized].map(at);
            attn_out = self.normalize(&attn_out, Some(norm), hooks, passed)?;
        }
        self.visit(at(BlockHook::AttnOut), &mut attn_out, passed)?;

        let mlp_in = config.parallel.then(|| resid.clone());
        let mut mid = resid;
        mid.add(&attn_out);
        Ok((mid, mlp_in))
    }

    /// Makes the edits at what each head reads, and captures it. Returns the edited rows, for queries, keys and values.
    fn head_inputs(&self, layer: usize, resid: &Matrix, passed: &mut Passed) -> Step<[HeadInputs; 3]> {
        let at = |hook| HookPoint::Block(layer, hook);
        let attn_in = at(BlockHook::AttnIn);
        let hooks = [BlockHook::QInput, BlockHook::KInput, BlockHook::VInput].map(at);
        let mut edited: [HeadInputs; 3] = Default::default();
        if !hooks.iter().chain([&attn_in]).any(|hook| self.plan.visits(*hook)) {
            return Ok(edited);
        }
        let Attention { query_heads, key_heads, .. } = self.model.config().attention;
        let repeated = |heads| {
            let rows = resid.iter_rows().flat_map(|row| row.repeat(heads)).collect();
            Matrix::new(rows, resid.rows(), heads * resid.columns())
        };
        let mut shared = repeated(query_heads);
        self.visit(attn_in, &mut shared, passed)?;
        for ((hook, heads), edited) in hooks.into_iter().zip([query_heads, key_heads, key_heads]).zip(&mut edited) {
            // Where heads share keys, they have no input together.
            let mut input = if heads == query_heads { shared.clone() } else { repeated(heads) };
            self.visit(hook, &mut input, passed)?;
            let rows = self.plan.edits(attn_in).iter().chain(self.plan.edits(hook));
            edited.extend(rows.map(|(row, _)| (*row, input.row(*row).to_vec())));
        }
        Ok(edited)
    }

    /// Queries, keys or values of what the heads read together, `x`; of edited rows, of what each head reads for itself.
    fn project(&self, x: &Matrix, inputs: &HeadInputs, ln: Option<&NormWeights>, (w, b): Projection) -> Matrix {
        let (d_model, d_head) = (self.model.config().d_model, self.model.config().attention.d_head);
        let mut out = directrix_kernels::affine(x.view(), w.view(), b);
        if inputs.is_empty() {
            return out;
        }
        let w = w.to_matrix();
        for (&row, input) in inputs {
            let x = Matrix::new(input.clone(), input.len() / d_model, d_model);
            let (mut x, _) = self.model.normalize(&x);
            if let Some(ln) = ln {
                (0..x.rows()).for_each(|head| ln.apply(x.row_mut(head)));
            }
            for (column, out) in out.row_mut(row).iter_mut().enumerate() {
                let products = x.row(column / d_head).iter().zip(w.iter_rows());
                let read: f64 = products.map(|(&x, w)| x as f64 * w[column] as f64).sum();
                *out = (read + b[column] as f64) as f32;
            }
        }
        out
    }

    /// Attention of the query rows to all key rows, `[rows, n_heads × d_head]`; scores and pattern are edited and captured.
    fn attend(
        &self,
        layer: usize,
        q: &Matrix,
        [k, v]: [&Matrix; 2],
        narrowed: Option<&Narrowed>,
        passed: &mut Passed,
    ) -> Step<Matrix> {
        let shape = self.model.config().attention_shape(layer);
        let rows = self.plan.rows(HookPoint::Block(layer, BlockHook::Q));
        let before = self.before_rows(layer, [k, v], narrowed)?;
        let spans = rows.spans().iter().zip(&before).enumerate();
        let of_parts = spans.map(|(part, (span, [keys, values]))| AttentionRows {
            first: rows.first_of(part),
            len: span.len(),
            keys_before: keys,
            values_before: values,
        });
        let parts: Vec<AttentionRows> = of_parts.collect();
        let [k_own, v_own] = [k, v].map(|m| narrowed.map(|narrowed| narrowed.gather(m)));
        let (k, v) = (k_own.as_ref().unwrap_or(k), v_own.as_ref().unwrap_or(v));
        let attend = |edit: Option<&EditScores>| directrix_kernels::attention(shape, &parts, q, k, v, edit);

        let hooks = [BlockHook::AttnScores, BlockHook::Pattern].map(|hook| HookPoint::Block(layer, hook));
        if !hooks.iter().any(|hook| self.plan.visits(*hook)) {
            return Ok(attend(None));
        }
        let longest = self.plan.longest();
        let width = shape.query_heads * longest;
        let seen = [f32::NEG_INFINITY, 0.0].map(|fill| Mutex::new(Matrix::repeat(&vec![fill; width], q.rows())));
        let edits = hooks.map(|hook| {
            let mut by_row: BTreeMap<usize, Vec<RowEdit>> = BTreeMap::new();
            for (row, edit) in self.plan.edits(hook) {
                by_row.entry(*row).or_default().push(*edit);
            }
            by_row
        });
        let z = attend(Some(&|stage, row, head, values| {
            let which = usize::from(stage == AttentionStage::Pattern);
            edits[which].get(&row).into_iter().flatten().for_each(|edit| edit.apply(Some(head), values));
            let mut seen = seen[which].lock().unwrap_or_else(PoisonError::into_inner);
            seen.row_mut(row)[head * longest..][..values.len()].copy_from_slice(values);
        }));
        for (hook, seen) in hooks.into_iter().zip(seen) {
            self.capture(hook, &seen.into_inner().unwrap_or_else(PoisonError::into_inner), passed)?;
        }
        Ok(z)
    }

    /// By part, the keys and values before its queries: of the earlier pass, of rows that were narrowed away, or of both.
    fn before_rows<'m>(
        &'m self,
        layer: usize,
        own: [&'m Matrix; 2],
        narrowed: Option<&Narrowed>,
    ) -> Step<Vec<[Numbers<'m>; 2]>> {
        let earlier = self.before.and_then(|before| before.0[layer].as_ref());
        if earlier.is_none() && self.plan.parts().iter().any(|part| !part.before.is_empty()) {
            let problem = format!("its own run did not reach the keys of block {layer}; ask it for something as deep");
            return Err(End::Failed(Error::NotKept { problem }));
        }
        let all = self.plan.rows(HookPoint::Block(layer, BlockHook::K));
        let earlier: [Option<&Matrix>; 2] = earlier.map_or([None, None], |(k, v)| [Some(k), Some(v)]);
        let of_part = |(part, before): (usize, &Range<usize>)| {
            let left = narrowed.map(|narrowed| all.first_of(part)..narrowed.of_part(part).start);
            [0, 1].map(|which| join(earlier[which], before.clone(), own[which], left.clone()))
        };
        Ok(self.plan.parts().iter().map(|part| &part.before).enumerate().map(of_part).collect())
    }

    /// What attention writes, `[rows, d_model]`.
    fn attn_out(&self, layer: usize, z: &Matrix, passed: &mut Passed) -> Step<Matrix> {
        let block = &self.model.weights().blocks[layer];
        let hook = HookPoint::Block(layer, BlockHook::Result);
        let mut results = Matrix::default();
        if self.plan.visits(hook) {
            results = self.model.head_results(layer, z);
            self.visit(hook, &mut results, passed)?;
        }
        let mut out = directrix_kernels::affine(z.view(), block.w_o.view(), &block.b_o);
        // Only edited rows are summed from the heads, so that an edit leaves the bits of the others.
        for &(row, _) in self.plan.edits(hook) {
            let out = out.row_mut(row);
            out.copy_from_slice(&block.b_o);
            for result in results.row(row).chunks_exact(out.len()) {
                out.iter_mut().zip(result).for_each(|(o, r)| *o += r);
            }
        }
        Ok(out)
    }
}

/// Rotates the first dimensions of each head by their positions (Su et al. 2021), or by the transposed rotation, as gradients go back.
pub(crate) fn rotate(rotary: Rotary, d_head: usize, positions: &[usize], is_transposed: bool, x: &mut Matrix) {
    let (turns, amplitude) = (rotary.turns(), rotary.amplitude());
    let (step, apart) = if rotary.adjacent_pairs { (2, 1) } else { (1, rotary.dimensions / 2) };
    let sign = if is_transposed { -1.0 } else { 1.0 };
    for (row, position) in positions.iter().enumerate() {
        let sin_cos = |turn: &f64| {
            let (sin, cos) = (*position as f64 * turn).sin_cos();
            ((sign * sin * amplitude) as f32, (cos * amplitude) as f32)
        };
        let turns: Vec<(f32, f32)> = turns.iter().map(sin_cos).collect();
        for head in x.row_mut(row).chunks_exact_mut(d_head) {
            for (i, &(sin, cos)) in turns.iter().enumerate() {
                let i = step * i;
                let (a, b) = (head[i], head[i + apart]);
                head[i] = a * cos - b * sin;
                head[i + apart] = b * cos + a * sin;
            }
        }
    }
}

/// Rows of an earlier pass, then rows of this one; borrowed when only one of them has any.
fn join<'a>(
    earlier: Option<&'a Matrix>,
    earlier_rows: Range<usize>,
    own: &'a Matrix,
    own_rows: Option<Range<usize>>,
) -> Numbers<'a> {
    let earlier = earlier.map_or(&[][..], |m| m.row_range(earlier_rows));
    let own = own_rows.map_or(&[][..], |range| own.row_range(range));
    match (earlier, own) {
        (rows, []) | ([], rows) => Cow::Borrowed(rows),
        _ => Cow::Owned([earlier, own].concat()),
    }
}
