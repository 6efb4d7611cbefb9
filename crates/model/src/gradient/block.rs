//! The pass back through a block.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, PoisonError};

use directrix_kernels::{AttentionStage, Factor, Matrix, SeeScores};

use super::{Back, by_scale, times_columns};
use crate::pass::rotate;
use crate::{BlockHook, HookPoint, NormWeights};

type Step<T = ()> = ControlFlow<(), T>;

impl Back<'_> {
    /// The gradient at the residual stream before block `layer`, from that behind it.
    pub(super) fn through_block(&mut self, layer: usize, mut g: Matrix) -> Step<Matrix> {
        let at = |hook| HookPoint::Block(layer, hook);
        self.visit(at(BlockHook::ResidPost), &mut g)?;
        let mut of_mlp = self.through_mlp_where_it_matters(layer, &g)?;
        self.visit(at(BlockHook::MlpIn), &mut of_mlp)?;
        let of_attention = if self.model.config().parallel {
            let of_attention = self.through_attention(layer, g.clone())?;
            g.add(&of_mlp);
            of_attention
        } else {
            g.add(&of_mlp);
            self.visit(at(BlockHook::ResidMid), &mut g)?;
            self.through_attention(layer, g.clone())?
        };
        g.add(&of_attention);
        self.visit(at(BlockHook::ResidPre), &mut g)?;
        Step::Continue(g)
    }

    /// As [`through_mlp`](Self::through_mlp), over those rows alone at which something comes in: a position's MLP sees no other position, and
    /// most rows are zero where a scalar depends on few positions.
    fn through_mlp_where_it_matters(&mut self, layer: usize, g: &Matrix) -> Step<Matrix> {
        let is_inside = |hook: &HookPoint| matches!(hook, HookPoint::Block(of, hook) if *of == layer && of_mlp(*hook));
        let seeded: BTreeSet<usize> = self
            .seeds
            .iter()
            .filter(|(hook, _)| is_inside(hook))
            .flat_map(|(_, seeds)| seeds.iter().map(|(row, _)| *row))
            .collect();
        let matters = |row: &usize| seeded.contains(row) || g.row(*row).iter().any(|x| *x != 0.0);
        let rows: Vec<usize> = (0..g.rows()).filter(matters).collect();
        let is_cut = self.cuts.iter().any(|cut| is_inside(&cut.hook)) || self.passed.keys().any(is_inside);
        if is_cut || self.wanted.iter().any(is_inside) || rows.len() == g.rows() {
            return self.through_mlp(layer, g.clone());
        }
        let mut seeds = BTreeMap::new();
        for hook in self.seeds.keys().copied().filter(is_inside).collect::<Vec<_>>() {
            let own = self.seeds.remove(&hook).unwrap_or_default().into_iter();
            let place = |row: usize| rows.binary_search(&row).expect("a row that is seeded matters");
            seeds.insert(hook, own.map(|(row, direction)| (place(row), direction)).collect());
        }
        let mut narrow = Back {
            model: self.model,
            frozen: self.frozen,
            cuts: &[],
            passed: BTreeMap::new(),
            run: self.run,
            rows: rows.iter().map(|row| self.rows[*row]).collect(),
            positions: rows.iter().map(|row| self.positions[*row]).collect(),
            offsets: vec![0, rows.len()],
            longest: self.longest,
            wanted: Vec::new(),
            first: self.first,
            seeds,
            found: BTreeMap::new(),
            watch: self.watch,
        };
        let found = narrow.through_mlp(layer, g.gather(rows.iter().copied()))?;
        let mut all = Matrix::zeros(g.rows(), g.columns());
        rows.iter().zip(found.iter_rows()).for_each(|(row, from)| all.row_mut(*row).copy_from_slice(from));
        Step::Continue(all)
    }

    /// The gradient at what the MLP's norm reads, from that at what the MLP adds to the residual stream.
    fn through_mlp(&mut self, layer: usize, mut g: Matrix) -> Step<Matrix> {
        let at = |hook| HookPoint::Block(layer, hook);
        let (config, block) = (self.model.config(), &self.model.weights().blocks[layer]);
        self.visit(at(BlockHook::MlpOut), &mut g)?;
        if let Some([_, norm]) = &block.post_norms {
            self.through_norm(Some(&norm.w), [BlockHook::Ln2PostScale, BlockHook::Ln2PostNormalized].map(at), &mut g)?;
        }
        let mut neurons = times(&g, block.w_out.view().transposed());
        self.visit(at(BlockHook::MlpPost), &mut neurons)?;
        let pre = self.saved(at(BlockHook::MlpPre));
        let mut g = match &block.gate {
            None => {
                directrix_kernels::activation_gradient(config.mlp.activation, &pre, &mut neurons);
                self.visit(at(BlockHook::MlpPre), &mut neurons)?;
                times(&neurons, block.w_in.view().transposed())
            }
            Some(gate) => {
                let mut linear = pre.clone().into_owned();
                directrix_kernels::activate(config.mlp.activation, &mut linear);
                linear.multiply(&neurons);
                self.visit(at(BlockHook::MlpPreLinear), &mut linear)?;
                neurons.multiply(&self.saved(at(BlockHook::MlpPreLinear)));
                directrix_kernels::activation_gradient(config.mlp.activation, &pre, &mut neurons);
                self.visit(at(BlockHook::MlpPre), &mut neurons)?;
                let mut g = times(&linear, block.w_in.view().transposed());
                add_times(&neurons, gate.w.view().transposed(), &mut g);
                g
            }
        };
        let weights = block.ln2.as_ref().map(|norm| &norm.w[..]);
        self.through_norm(weights, [BlockHook::Ln2Scale, BlockHook::Ln2Normalized].map(at), &mut g)?;
        Step::Continue(g)
    }

    /// The gradient at what attention's norm reads, from that at what attention adds to the residual stream.
    fn through_attention(&mut self, layer: usize, mut g: Matrix) -> Step<Matrix> {
        let at = |hook| HookPoint::Block(layer, hook);
        let block = &self.model.weights().blocks[layer];
        self.visit(at(BlockHook::AttnOut), &mut g)?;
        if let Some([norm, _]) = &block.post_norms {
            self.through_norm(Some(&norm.w), [BlockHook::Ln1PostScale, BlockHook::Ln1PostNormalized].map(at), &mut g)?;
        }
        let mut z = self.through_results(layer, &g)?;
        self.visit(at(BlockHook::Z), &mut z)?;

        let [q, k, mut v] = self.through_patterns(layer, &z)?;
        let q = self.through_heads(layer, q, true)?;
        self.visit(at(BlockHook::V), &mut v)?;
        let k = self.through_heads(layer, k, false)?;

        let mut g = times(&q, block.w_q.view().transposed());
        for (gradient, w) in [(&k, &block.w_k), (&v, &block.w_v)] {
            add_times(gradient, w.view().transposed(), &mut g);
        }
        let weights = block.ln1.as_ref().map(|norm| &norm.w[..]);
        self.through_norm(weights, [BlockHook::Ln1Scale, BlockHook::Ln1Normalized].map(at), &mut g)?;
        self.at_head_inputs(layer, [&q, &k, &v])?;
        Step::Continue(g)
    }

    /// The gradient at what each head read, from that at what all of them write.
    fn through_results(&mut self, layer: usize, g: &Matrix) -> Step<Matrix> {
        let hook = HookPoint::Block(layer, BlockHook::Result);
        let w_o = self.model.weights().blocks[layer].w_o.view();
        let is_cut = self.cuts.iter().any(|cut| cut.hook == hook);
        if !is_cut && !self.wanted.contains(&hook) && !self.seeds.contains_key(&hook) {
            return Step::Continue(times(g, w_o.transposed()));
        }
        let (heads, d_head) = (self.model.config().attention.query_heads, self.model.config().attention.d_head);
        let mut results = repeated(g, heads);
        self.visit(hook, &mut results)?;
        let parts = (0..heads).map(|head| {
            let written = results.columns_of(head * g.columns()..(head + 1) * g.columns());
            times(&written, w_o.rows_of(head * d_head..(head + 1) * d_head).transposed())
        });
        Step::Continue(beside(parts.collect()))
    }

    /// The gradients at queries, keys and values as attention takes them.
    fn through_patterns(&mut self, layer: usize, z: &Matrix) -> Step<[Matrix; 3]> {
        let at = |hook| HookPoint::Block(layer, hook);
        let config = self.model.config();
        let shape = config.attention_shape(layer);
        let rotated = config.attention.layers[layer].rotary.is_some();
        let behind_norm = |rotated_hook, plain, normalized, weights: Option<&NormWeights>| match (rotated, weights) {
            (true, _) => self.saved(at(rotated_hook)),
            (false, None) => self.saved(at(plain)),
            (false, Some(norm)) => {
                let mut x = self.saved(at(normalized)).into_owned();
                times_heads(&norm.w, &mut x);
                Cow::Owned(x)
            }
        };
        let norms = self.model.weights().blocks[layer].qk_norms.as_ref();
        let q = behind_norm(BlockHook::RotQ, BlockHook::Q, BlockHook::QNormNormalized, norms.map(|norms| &norms[0]));
        let k = behind_norm(BlockHook::RotK, BlockHook::K, BlockHook::KNormNormalized, norms.map(|norms| &norms[1]));
        let v = self.saved(at(BlockHook::V));
        let parts: Vec<Range<usize>> = self.offsets.windows(2).map(|ends| ends[0]..ends[1]).collect();

        let width = shape.query_heads * self.longest;
        let hooks = [BlockHook::Pattern, BlockHook::AttnScores].map(at);
        let are_seen = hooks.iter().any(|hook| self.wanted.contains(hook));
        let [pattern, scores] = [(); 2].map(|()| Mutex::new(Matrix::zeros(if are_seen { z.rows() } else { 0 }, width)));
        let keep = |stage, row: usize, head: usize, numbers: &[f32]| {
            let seen = if stage == AttentionStage::Pattern { &pattern } else { &scores };
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.row_mut(row)[head * self.longest..][..numbers.len()].copy_from_slice(numbers);
        };
        let see: Option<&SeeScores> = if are_seen { Some(&keep) } else { None };
        let gradients =
            directrix_kernels::attention_gradient(shape, &parts, [&q, &k, &v], z, self.frozen.patterns, see);
        for (hook, seen) in hooks.into_iter().zip([pattern, scores]) {
            self.visit(hook, &mut seen.into_inner().unwrap_or_else(PoisonError::into_inner))?;
        }
        Step::Continue(gradients)
    }

    /// The gradient at queries or keys as they are projected, from that at those that attention takes: back through the rotation and the
    /// norm of each head.
    fn through_heads(&mut self, layer: usize, mut g: Matrix, are_queries: bool) -> Step<Matrix> {
        use BlockHook as B;
        let at = |hook| HookPoint::Block(layer, hook);
        let [rotated, normalized, scale, plain] = if are_queries {
            [B::RotQ, B::QNormNormalized, B::QNormScale, B::Q]
        } else {
            [B::RotK, B::KNormNormalized, B::KNormScale, B::K]
        };
        let attention = &self.model.config().attention;
        if let Some(rotary) = attention.layers[layer].rotary {
            self.visit(at(rotated), &mut g)?;
            rotate(rotary, attention.d_head, &self.positions, true, &mut g);
        }
        if let Some(norms) = &self.model.weights().blocks[layer].qk_norms {
            times_heads(&norms[usize::from(!are_queries)].w, &mut g);
            self.visit(at(normalized), &mut g)?;
            let (rows, columns) = (g.rows(), g.columns());
            let by_head = |x: Matrix| Matrix::new(x.into_data(), rows * columns / attention.d_head, attention.d_head);
            let (x, scales, mut by_heads) =
                (by_head(self.saved(at(normalized)).into_owned()), self.saved(at(scale)), by_head(g));
            if self.wanted.contains(&at(scale)) {
                let of_heads = by_scale(&x, scales.data(), &by_heads).into_data();
                self.visit(at(scale), &mut Matrix::new(of_heads, rows, columns / attention.d_head))?;
            }
            self.divide(&x, scales.data(), &mut by_heads);
            g = Matrix::new(by_heads.into_data(), rows, columns);
        }
        self.visit(at(plain), &mut g)?;
        Step::Continue(g)
    }

    /// The gradients at what single heads read, where they are wanted.
    fn at_head_inputs(&mut self, layer: usize, projections: [&Matrix; 3]) -> Step {
        let at = |hook| HookPoint::Block(layer, hook);
        let hooks = [BlockHook::QInput, BlockHook::KInput, BlockHook::VInput].map(at);
        let together = at(BlockHook::AttnIn);
        let all_wanted = self.wanted.contains(&together);
        if !all_wanted && !hooks.iter().any(|hook| self.wanted.contains(hook)) {
            return Step::Continue(());
        }
        let (d_head, block) = (self.model.config().attention.d_head, &self.model.weights().blocks[layer]);
        let (normalized, scales) = (self.saved(at(BlockHook::Ln1Normalized)), self.saved(at(BlockHook::Ln1Scale)));
        let mut sum: Option<Matrix> = None;
        // In the order of the pass back.
        for (which, w) in [(2, &block.w_v), (1, &block.w_k), (0, &block.w_q)] {
            if !all_wanted && !self.wanted.contains(&hooks[which]) {
                continue;
            }
            let heads = (0..w.columns() / d_head).map(|head| head * d_head..(head + 1) * d_head);
            let of_head = |columns: Range<usize>| {
                let mut g =
                    times(&projections[which].columns_of(columns.clone()), w.view().columns_of(columns).transposed());
                times_columns(block.ln1.as_ref().map(|norm| &norm.w[..]), &mut g);
                self.divide(&normalized, scales.data(), &mut g);
                g
            };
            let mut g = beside(heads.map(of_head).collect());
            self.visit(hooks[which], &mut g)?;
            if all_wanted {
                match &mut sum {
                    None => sum = Some(g),
                    Some(sum) => sum.add(&g),
                }
            }
        }
        sum.map_or(Step::Continue(()), |mut sum| self.visit(together, &mut sum))
    }
}

/// Whether a hook point lies between what the MLP's norm reads and what the MLP adds.
fn of_mlp(hook: BlockHook) -> bool {
    use BlockHook as B;
    matches!(
        hook,
        B::Ln2Scale
            | B::Ln2Normalized
            | B::MlpPre
            | B::MlpPreLinear
            | B::MlpPost
            | B::Ln2PostScale
            | B::Ln2PostNormalized
            | B::MlpOut
    )
}

/// `g w`. Rows of zeros, which are many where a scalar depends on few positions, are left out of the product.
pub(super) fn times(g: &Matrix, w: Factor) -> Matrix {
    let mut out = Matrix::zeros(g.rows(), w.columns());
    add_times(g, w, &mut out);
    out
}

/// `out += g w`.
fn add_times(g: &Matrix, w: Factor, out: &mut Matrix) {
    let rows: Vec<usize> = (0..g.rows()).filter(|row| g.row(*row).iter().any(|x| *x != 0.0)).collect();
    if rows.len() == g.rows() {
        return directrix_kernels::product(g.view(), w, out, true);
    }
    let mut own = out.gather(rows.iter().copied());
    directrix_kernels::product(g.gather(rows.iter().copied()).view(), w, &mut own, true);
    rows.iter().zip(own.iter_rows()).for_each(|(row, from)| out.row_mut(*row).copy_from_slice(from));
}

fn times_heads(w: &[f32], x: &mut Matrix) {
    for row in 0..x.rows() {
        for head in x.row_mut(row).chunks_exact_mut(w.len()) {
            head.iter_mut().zip(w).for_each(|(x, w)| *x *= w);
        }
    }
}

/// Every row several times, side by side.
fn repeated(g: &Matrix, times: usize) -> Matrix {
    Matrix::new(g.iter_rows().flat_map(|row| row.repeat(times)).collect(), g.rows(), times * g.columns())
}

/// Matrices of as many rows, side by side.
fn beside(parts: Vec<Matrix>) -> Matrix {
    let rows = parts.first().map_or(0, Matrix::rows);
    let columns = parts.iter().map(Matrix::columns).sum();
    let data = (0..rows).flat_map(|row| parts.iter().flat_map(move |part| part.row(row).iter().copied())).collect();
    Matrix::new(data, rows, columns)
}
