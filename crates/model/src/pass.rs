//! The forward pass, from any stage on, over parts of prompts.
//!
//! A part is a run of consecutive positions of one prompt; the keys and values of the positions before it come from an
//! earlier pass. A whole prompt, a resumed suffix and the next token of a generation are all parts, so there is one pass.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use directrix_corpus::Watch;
use directrix_kernels::{AttentionRows, AttentionStage, Matrix};

use crate::config::Rotary;
use crate::intervention::RowEdit;
use crate::{BlockHook, Error, HookPoint, LayerNorm, Model, Result, Spot};

/// Keys and values of one pass, per layer; `None` for layers that were not reached.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyValues(pub(crate) Vec<Option<(Matrix, Matrix)>>);

/// Consecutive positions of one prompt.
#[derive(Debug, Clone)]
pub(crate) struct Part<'a> {
    pub(crate) tokens: &'a [u32],
    /// Position of the first row in its prompt.
    pub(crate) start: usize,
    /// Rows of the earlier pass that hold the positions before `start`.
    pub(crate) before: Range<usize>,
}

/// Where the pass stands, with the numbers that the rest of it needs.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Before the embedding.
    Start,
    /// Before block `.0` (or, past the last, before the final LayerNorm): the residual stream, as yet unedited.
    Block(usize, Matrix),
    /// After attention in block `.0`: the residual stream with attention added, and what the MLP reads if that differs.
    Mlp(usize, Matrix, Option<Matrix>),
    /// After the neurons of block `.0`: the residual stream with attention added, and the neurons.
    Neurons(usize, Matrix, Matrix),
}

impl Stage {
    /// The stage from which the pass must go on for a change at `hook` to take effect.
    pub(crate) fn name_for(hook: HookPoint, layers: usize) -> StageName {
        match hook {
            HookPoint::Embed | HookPoint::PosEmbed => StageName::Start,
            HookPoint::Block(layer, hook) => match hook.place().0 {
                0 => StageName::Block(layer),
                1 => StageName::Mlp(layer),
                2 => StageName::Neurons(layer),
                _ => StageName::Block(layer + 1),
            },
            _ => StageName::Block(layers),
        }
    }

    pub(crate) fn name(&self) -> StageName {
        match self {
            Stage::Start => StageName::Start,
            Stage::Block(layer, _) => StageName::Block(*layer),
            Stage::Mlp(layer, ..) => StageName::Mlp(*layer),
            Stage::Neurons(layer, ..) => StageName::Neurons(*layer),
        }
    }

    /// The same stage for other rows.
    pub(crate) fn gather(&self, rows: &[usize]) -> Stage {
        let take = |m: &Matrix| m.gather(rows.iter().copied());
        match self {
            Stage::Start => Stage::Start,
            Stage::Block(layer, resid) => Stage::Block(*layer, take(resid)),
            Stage::Mlp(layer, mid, mlp_in) => Stage::Mlp(*layer, take(mid), mlp_in.as_ref().map(take)),
            Stage::Neurons(layer, mid, post) => Stage::Neurons(*layer, take(mid), take(post)),
        }
    }
}

/// The names of the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StageName {
    Start,
    Block(usize),
    Mlp(usize),
    Neurons(usize),
}

impl StageName {
    /// Order in the pass.
    fn order(self) -> (usize, u8) {
        match self {
            StageName::Start => (0, 0),
            StageName::Block(layer) => (layer, 1),
            StageName::Mlp(layer) => (layer, 2),
            StageName::Neurons(layer) => (layer, 3),
        }
    }

    pub(crate) fn is_before(self, other: StageName) -> bool {
        self.order() < other.order()
    }

    /// The first hook point that the pass visits from this stage on.
    fn first_hook(self) -> HookPoint {
        match self {
            StageName::Start => HookPoint::Embed,
            StageName::Block(0) => HookPoint::Block(0, BlockHook::ResidPre),
            StageName::Block(layer) => HookPoint::Block(layer - 1, BlockHook::ResidPost),
            StageName::Mlp(layer) => HookPoint::Block(layer, BlockHook::ResidMid),
            StageName::Neurons(layer) => HookPoint::Block(layer, BlockHook::MlpPost),
        }
    }
}

/// The changes to make, by hook point. Their spots are of parts.
pub(crate) type Edits<'a> = BTreeMap<HookPoint, Vec<RowEdit<'a>>>;

/// What a pass is to do on the way and to bring back.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model,
    pub(crate) parts: Vec<Part<'a>>,
    pub(crate) before: Option<&'a KeyValues>,
    pub(crate) edits: Edits<'a>,
    pub(crate) captures: BTreeMap<HookPoint, Vec<Spot>>,
    /// Spots of which the final LayerNorm's output is wanted.
    pub(crate) finals: Vec<Spot>,
    /// The stage to keep for resuming, and the spots that may be computed again.
    pub(crate) keep: Option<StageName>,
    pub(crate) keep_spots: Vec<Spot>,
    /// Whether to keep keys and values.
    pub(crate) keep_keys: bool,
    /// Positions of the longest prompt: the width of captured scores and patterns.
    pub(crate) longest: usize,
    pub(crate) watch: &'a Watch,
}

/// Edited rows of what each head reads: `[n_heads × d_model]` by row.
type HeadInputs = BTreeMap<usize, Vec<f32>>;

/// A stage to resume from: its rows are, part by part, some consecutive positions.
pub(crate) struct Kept {
    pub(crate) stage: Stage,
    pub(crate) parts: Vec<Range<usize>>,
}

impl Kept {
    /// First row of each part.
    pub(crate) fn first_rows(&self) -> Vec<usize> {
        let first = |row: &mut usize, part: &Range<usize>| Some(std::mem::replace(row, *row + part.len()));
        self.parts.iter().scan(0, first).collect()
    }
}

/// What a pass brings back.
#[derive(Default)]
pub(crate) struct Passed {
    pub(crate) captured: BTreeMap<HookPoint, Matrix>,
    /// What the unembedding reads, at `finals`.
    pub(crate) finals: Option<Matrix>,
    pub(crate) kept: Option<Kept>,
    pub(crate) keys: KeyValues,
}

impl Pass<'_> {
    /// Goes on from `stage` until everything asked for is there.
    pub(crate) fn run(mut self, mut stage: Stage) -> Result<Passed> {
        let layers = self.model.config().n_layers;
        let mut passed = Passed { keys: KeyValues(vec![None; layers]), ..Passed::default() };
        let deepest = self.deepest();
        loop {
            if self.watch.is_stopped() {
                return Err(Error::Stopped);
            }
            let name = stage.name();
            if self.keep == Some(name) {
                self.keep_stage(stage.clone(), &mut passed);
            }
            if self.keep.is_none() && deepest.is_none_or(|hook| name.first_hook() > hook) {
                return Ok(passed);
            }
            if let Stage::Block(layer @ 1.., resid) = &mut stage {
                let hook = HookPoint::Block(*layer - 1, BlockHook::ResidPost);
                self.visit(hook, resid, &mut passed);
                if self.keep.is_none() && deepest == Some(hook) {
                    return Ok(passed);
                }
            }
            stage = match stage {
                Stage::Start => Stage::Block(0, self.embed(&mut passed)),
                Stage::Block(layer, resid) if layer == layers => {
                    self.finish(resid, &mut passed);
                    return Ok(passed);
                }
                Stage::Block(layer, resid) => {
                    let (mid, mlp_in) = self.attention(layer, resid, deepest, &mut passed)?;
                    Stage::Mlp(layer, mid, mlp_in)
                }
                Stage::Mlp(layer, mut mid, mlp_in) => {
                    self.visit(HookPoint::Block(layer, BlockHook::ResidMid), &mut mid, &mut passed);
                    let post = self.neurons(layer, mlp_in.as_ref().unwrap_or(&mid), &mut passed);
                    Stage::Neurons(layer, mid, post)
                }
                Stage::Neurons(layer, mid, post) => {
                    let Some(resid) = self.mlp_out(layer, mid, post, deepest, &mut passed) else { return Ok(passed) };
                    Stage::Block(layer + 1, resid)
                }
            };
        }
    }

    fn keep_stage(&mut self, stage: Stage, passed: &mut Passed) {
        let parts = self.parts.iter().map(|part| part.start..part.start + part.tokens.len()).collect();
        passed.kept = Some(Kept { stage, parts });
        self.keep = None;
    }

    /// The deepest hook point of which something is wanted.
    fn deepest(&self) -> Option<HookPoint> {
        let finals = (!self.finals.is_empty()).then_some(HookPoint::UnembedIn);
        self.captures.keys().next_back().copied().max(finals)
    }

    fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.tokens.len()).sum()
    }

    /// First row of each part, and the total.
    fn first_rows(&self) -> Vec<usize> {
        let mut first = vec![0];
        for part in &self.parts {
            first.push(first[first.len() - 1] + part.tokens.len());
        }
        first
    }

    fn row_of(&self, first_rows: &[usize], spot: Spot) -> usize {
        first_rows[spot.prompt] + spot.position - self.parts[spot.prompt].start
    }

    /// Makes the edits at `hook`, then captures it.
    fn visit(&self, hook: HookPoint, value: &mut Matrix, passed: &mut Passed) {
        let first_rows = self.first_rows();
        for edit in self.edits.get(&hook).into_iter().flatten() {
            edit.apply(None, value.row_mut(self.row_of(&first_rows, edit.spot)));
        }
        if let Some(spots) = self.captures.get(&hook) {
            let rows: Vec<usize> = spots.iter().map(|spot| self.row_of(&first_rows, *spot)).collect();
            passed.captured.insert(hook, value.gather(rows.into_iter()));
        }
    }

    fn visited(&self, hook: HookPoint) -> bool {
        self.edits.contains_key(&hook) || self.captures.contains_key(&hook)
    }

    fn embed(&self, passed: &mut Passed) -> Matrix {
        let weights = self.model.weights();
        let tokens: Vec<usize> = self.parts.iter().flat_map(|p| p.tokens.iter().map(|&t| t as usize)).collect();
        let mut resid = weights.w_e.gather(tokens.into_iter());
        self.visit(HookPoint::Embed, &mut resid, passed);
        if let Some(w_pos) = &weights.w_pos {
            let positions: Vec<usize> = self.parts.iter().flat_map(|p| p.start..p.start + p.tokens.len()).collect();
            let mut pos = w_pos.gather(positions.into_iter());
            self.visit(HookPoint::PosEmbed, &mut pos, passed);
            resid.add(&pos);
        }
        resid
    }

    /// LayerNorm with its two hook points; what the following weights read.
    fn normalize(
        &self,
        x: &Matrix,
        ln: Option<&LayerNorm>,
        scale_hook: HookPoint,
        normalized_hook: HookPoint,
        passed: &mut Passed,
    ) -> Matrix {
        let (mut normalized, scales) = self.model.normalize(x);
        if self.visited(scale_hook) {
            let mut edited = Matrix::new(scales.clone(), scales.len(), 1);
            self.visit(scale_hook, &mut edited, passed);
            for (row, (&old, &new)) in scales.iter().zip(edited.data()).enumerate() {
                if old != new {
                    normalized.row_mut(row).iter_mut().for_each(|x| *x *= old / new);
                }
            }
        }
        self.visit(normalized_hook, &mut normalized, passed);
        if let Some(ln) = ln {
            for row in 0..normalized.rows() {
                for ((x, w), b) in normalized.row_mut(row).iter_mut().zip(&ln.w).zip(&ln.b) {
                    *x = x.mul_add(*w, *b);
                }
            }
        }
        normalized
    }

    /// The residual stream with block `layer`'s attention added, and what the MLP reads when that differs.
    fn attention(
        &mut self,
        layer: usize,
        mut resid: Matrix,
        deepest: Option<HookPoint>,
        passed: &mut Passed,
    ) -> Result<(Matrix, Option<Matrix>)> {
        let (model, at) = (self.model, |hook| HookPoint::Block(layer, hook));
        let (config, block) = (model.config(), &model.weights().blocks[layer]);
        self.visit(at(BlockHook::ResidPre), &mut resid, passed);
        if self.attention_unused(layer, deepest) {
            return Ok((resid, None));
        }
        let x =
            self.normalize(&resid, block.ln1.as_ref(), at(BlockHook::Ln1Scale), at(BlockHook::Ln1Normalized), passed);
        let [q_inputs, k_inputs, v_inputs] = self.head_inputs(layer, &resid, passed);
        let mut k = directrix_kernels::affine(x.view(), block.w_k.view(), &block.b_k);
        self.read_by_head(&mut k, &k_inputs, block.ln1.as_ref(), (&block.w_k, &block.b_k));
        self.visit(at(BlockHook::K), &mut k, passed);
        if let Some(rotary) = config.rotary() {
            self.rotate(rotary, &mut k);
            self.visit(at(BlockHook::RotK), &mut k, passed);
        }
        let mut v = directrix_kernels::affine(x.view(), block.w_v.view(), &block.b_v);
        self.read_by_head(&mut v, &v_inputs, block.ln1.as_ref(), (&block.w_v, &block.b_v));
        self.visit(at(BlockHook::V), &mut v, passed);

        let (all_rows, ranges) = self.narrow(layer, deepest);
        let narrowed = all_rows.is_some();
        let (x, resid) = match &all_rows {
            Some(rows) => (x.gather(rows.iter().copied()), resid.gather(rows.iter().copied())),
            None => (x, resid),
        };
        let mut q = directrix_kernels::affine(x.view(), block.w_q.view(), &block.b_q);
        let row_now = |row: usize| all_rows.as_ref().map_or(Some(row), |rows| rows.binary_search(&row).ok());
        let q_inputs = q_inputs.into_iter().filter_map(|(row, input)| Some((row_now(row)?, input))).collect();
        self.read_by_head(&mut q, &q_inputs, block.ln1.as_ref(), (&block.w_q, &block.b_q));
        self.visit(at(BlockHook::Q), &mut q, passed);
        if let Some(rotary) = config.rotary() {
            self.rotate(rotary, &mut q);
            self.visit(at(BlockHook::RotQ), &mut q, passed);
        }
        let mut z = self.attend(layer, &q, &k, &v, narrowed.then_some(&ranges), passed)?;
        if self.keep_keys {
            passed.keys.0[layer] = Some((k, v));
        }
        self.visit(at(BlockHook::Z), &mut z, passed);
        let mut attn_out = self.attn_out(layer, &z, passed);
        self.visit(at(BlockHook::AttnOut), &mut attn_out, passed);

        let mlp_in = config.parallel.then(|| resid.clone());
        let mut mid = resid;
        mid.add(&attn_out);
        Ok((mid, mlp_in))
    }

    /// Makes the edits at what each head reads, and captures it. Returns the edited rows, for queries, keys and values.
    fn head_inputs(&self, layer: usize, resid: &Matrix, passed: &mut Passed) -> [HeadInputs; 3] {
        let hooks = [BlockHook::AttnIn, BlockHook::QInput, BlockHook::KInput, BlockHook::VInput]
            .map(|hook| HookPoint::Block(layer, hook));
        if !hooks.iter().any(|hook| self.visited(*hook)) {
            return Default::default();
        }
        let heads = self.model.config().attention.query_heads;
        let repeated = resid.iter_rows().flat_map(|row| row.repeat(heads)).collect();
        let mut attn_in = Matrix::new(repeated, resid.rows(), heads * resid.columns());
        self.visit(hooks[0], &mut attn_in, passed);
        let first_rows = self.first_rows();
        [1, 2, 3].map(|i| {
            let mut input = attn_in.clone();
            self.visit(hooks[i], &mut input, passed);
            let edits = [hooks[0], hooks[i]].into_iter().filter_map(|hook| self.edits.get(&hook)).flatten();
            edits.map(|edit| self.row_of(&first_rows, edit.spot)).map(|row| (row, input.row(row).to_vec())).collect()
        })
    }

    /// Replaces rows of queries, keys or values by what each head reads from an input of its own.
    fn read_by_head(&self, out: &mut Matrix, inputs: &HeadInputs, ln: Option<&LayerNorm>, (w, b): (&Matrix, &[f32])) {
        let config = self.model.config();
        for (&row, input) in inputs {
            let x = Matrix::new(input.clone(), config.attention.query_heads, config.d_model);
            let (x, _) = self.model.normalize(&x);
            for (column, out) in out.row_mut(row).iter_mut().enumerate() {
                let x = x.row(column / config.attention.d_head);
                let read = |(i, &x): (usize, &f32)| {
                    let x = ln.map_or(x, |ln| x.mul_add(ln.w[i], ln.b[i]));
                    x as f64 * w.row(i)[column] as f64
                };
                *out = (x.iter().enumerate().map(read).sum::<f64>() + b[column] as f64) as f32;
            }
        }
    }

    /// In a parallel block the MLP does not need attention: nothing to do when only the MLP's inside is wanted.
    fn attention_unused(&self, layer: usize, deepest: Option<HookPoint>) -> bool {
        let inside = HookPoint::Block(layer, BlockHook::AttnIn)..HookPoint::Block(layer, BlockHook::MlpIn);
        self.model.config().parallel
            && !self.keep_keys
            && self.keep.is_none()
            && deepest < Some(HookPoint::Block(layer, BlockHook::ResidPost))
            && self.captures.range(inside).next().is_none()
    }

    /// In the last block that is run, positions of which nothing is wanted need keys and values only. Shortens the parts to
    /// the wanted positions; returns the rows kept (`None`: all) and, per part, its range in the old rows.
    fn narrow(&mut self, layer: usize, deepest: Option<HookPoint>) -> (Option<Vec<usize>>, Vec<Range<usize>>) {
        let first_rows = self.first_rows();
        let whole = |p: usize| first_rows[p]..first_rows[p + 1];
        let last_block = layer + 1 == self.model.config().n_layers
            || deepest.is_some_and(|hook| hook <= HookPoint::Block(layer, BlockHook::ResidPost));
        let from = HookPoint::Block(layer, BlockHook::Q);
        let wanted =
            self.captures.range(from..).flat_map(|(_, spots)| spots).chain(&self.finals).chain(&self.keep_spots);
        let mut range: Vec<Option<(usize, usize)>> = vec![None; self.parts.len()];
        for &Spot { prompt: part, position } in wanted {
            let (low, high) = range[part].get_or_insert((position, position));
            (*low, *high) = ((*low).min(position), (*high).max(position));
        }
        if !last_block || range.iter().any(Option::is_none) {
            return (None, Vec::new());
        }
        let ranges: Vec<Range<usize>> = range
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(p, (low, high))| {
                let first = whole(p).start;
                first + low - self.parts[p].start..first + high + 1 - self.parts[p].start
            })
            .collect();
        if ranges.iter().enumerate().all(|(p, range)| *range == whole(p)) {
            return (None, Vec::new());
        }
        for (p, range) in ranges.iter().enumerate() {
            let part = &mut self.parts[p];
            let (skip, len) = (range.start - first_rows[p], range.len());
            part.tokens = &part.tokens[skip..skip + len];
            part.start += skip;
        }
        for (_, edits) in self.edits.range_mut(from..) {
            let parts = &self.parts;
            edits.retain(|edit| {
                let Part { start, tokens, .. } = &parts[edit.spot.prompt];
                (*start..start + tokens.len()).contains(&edit.spot.position)
            });
        }
        (Some(ranges.iter().cloned().flatten().collect()), ranges)
    }

    /// Attention of the (possibly narrowed) query rows to all key rows; scores and pattern are edited and captured.
    fn attend(
        &self,
        layer: usize,
        q: &Matrix,
        k: &Matrix,
        v: &Matrix,
        narrowed: Option<&Vec<Range<usize>>>,
        passed: &mut Passed,
    ) -> Result<Matrix> {
        let config = self.model.config();
        let shape = config.attention_shape(layer);
        let earlier = self.before.and_then(|before| before.0[layer].as_ref());
        if earlier.is_none() && self.parts.iter().any(|part| !part.before.is_empty()) {
            let problem = format!("its own run did not reach the keys of block {layer}; ask it for something as deep");
            return Err(Error::NotKept { problem });
        }
        let first_rows = self.first_rows();
        // Keys and values before each part: of the earlier pass, of rows that were narrowed away, or of both.
        let before: Vec<(Rows, Rows)> = self
            .parts
            .iter()
            .enumerate()
            .map(|(p, part)| {
                let own = narrowed.map(|ranges| {
                    let end = ranges[p].start;
                    end - (part.start - part.before.len())..end
                });
                (
                    join(earlier.map(|e| &e.0), part.before.clone(), k, own.clone()),
                    join(earlier.map(|e| &e.1), part.before.clone(), v, own),
                )
            })
            .collect();
        let rows: Vec<AttentionRows> = before
            .iter()
            .enumerate()
            .map(|(p, (keys, values))| AttentionRows {
                first: first_rows[p],
                len: self.parts[p].tokens.len(),
                keys_before: keys,
                values_before: values,
            })
            .collect();
        let own = |m: &Matrix| {
            narrowed.map(|ranges| m.gather(ranges.iter().cloned().flatten().collect::<Vec<_>>().into_iter()))
        };
        let (k_own, v_own) = (own(k), own(v));
        let (k, v) = (k_own.as_ref().unwrap_or(k), v_own.as_ref().unwrap_or(v));

        let hooks = [BlockHook::AttnScores, BlockHook::Pattern].map(|hook| HookPoint::Block(layer, hook));
        if !hooks.iter().any(|hook| self.visited(*hook)) {
            return Ok(directrix_kernels::attention(shape, &rows, q, k, v, None));
        }
        let longest = self.longest;
        let width = shape.query_heads * longest;
        let seen = [f32::NEG_INFINITY, 0.0].map(|fill| Mutex::new(Matrix::repeat(&vec![fill; width], q.rows())));
        let edits: [BTreeMap<usize, Vec<RowEdit>>; 2] = hooks.map(|hook| {
            let mut by_row: BTreeMap<usize, Vec<RowEdit>> = BTreeMap::new();
            for edit in self.edits.get(&hook).into_iter().flatten() {
                by_row.entry(self.row_of(&first_rows, edit.spot)).or_default().push(*edit);
            }
            by_row
        });
        let edit = |stage: AttentionStage, row: usize, head: usize, values: &mut [f32]| {
            let which = usize::from(stage == AttentionStage::Pattern);
            edits[which].get(&row).into_iter().flatten().for_each(|edit| edit.apply(Some(head), values));
            let mut seen = seen[which].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            seen.row_mut(row)[head * longest..][..values.len()].copy_from_slice(values);
        };
        let z = directrix_kernels::attention(shape, &rows, q, k, v, Some(&edit));
        for (hook, seen) in hooks.into_iter().zip(seen) {
            let seen = seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(spots) = self.captures.get(&hook) {
                let rows: Vec<usize> = spots.iter().map(|spot| self.row_of(&first_rows, *spot)).collect();
                passed.captured.insert(hook, seen.gather(rows.into_iter()));
            }
        }
        Ok(z)
    }

    fn attn_out(&self, layer: usize, z: &Matrix, passed: &mut Passed) -> Matrix {
        let (config, block) = (self.model.config(), &self.model.weights().blocks[layer]);
        let hook = HookPoint::Block(layer, BlockHook::Result);
        let mut out = directrix_kernels::affine(z.view(), block.w_o.view(), &block.b_o);
        if self.visited(hook) {
            let mut results = self.model.head_results(layer, z);
            self.visit(hook, &mut results, passed);
            let first_rows = self.first_rows();
            // Only edited rows are summed from the heads, so that an edit leaves the bits of the others.
            for edit in self.edits.get(&hook).into_iter().flatten() {
                let row = self.row_of(&first_rows, edit.spot);
                out.row_mut(row).copy_from_slice(&block.b_o);
                for result in results.row(row).chunks_exact(config.d_model) {
                    out.row_mut(row).iter_mut().zip(result).for_each(|(o, r)| *o += r);
                }
            }
        }
        out
    }

    fn rotate(&self, rotary: Rotary, x: &mut Matrix) {
        let d_head = self.model.config().attention.d_head;
        let half = rotary.dimensions / 2;
        let frequencies: Vec<f64> = (0..half).map(|i| rotary.base.powf(-(i as f64) / half as f64)).collect();
        let positions = self.parts.iter().flat_map(|p| p.start..p.start + p.tokens.len());
        for (row, position) in positions.collect::<Vec<_>>().into_iter().enumerate() {
            let turns: Vec<(f32, f32)> = frequencies
                .iter()
                .map(|f| (position as f64 * f).sin_cos())
                .map(|(sin, cos)| (sin as f32, cos as f32))
                .collect();
            for head in x.row_mut(row).chunks_exact_mut(d_head) {
                for (i, &(sin, cos)) in turns.iter().enumerate() {
                    let (a, b) = (head[i], head[i + half]);
                    head[i] = a * cos - b * sin;
                    head[i + half] = b * cos + a * sin;
                }
            }
        }
    }

    fn neurons(&self, layer: usize, mlp_in: &Matrix, passed: &mut Passed) -> Matrix {
        let (model, at) = (self.model, |hook| HookPoint::Block(layer, hook));
        let block = &model.weights().blocks[layer];
        let mut mlp_in = Cow::Borrowed(mlp_in);
        if self.visited(at(BlockHook::MlpIn)) {
            self.visit(at(BlockHook::MlpIn), mlp_in.to_mut(), passed);
        }
        let x =
            self.normalize(&mlp_in, block.ln2.as_ref(), at(BlockHook::Ln2Scale), at(BlockHook::Ln2Normalized), passed);
        let mut neurons = directrix_kernels::affine(x.view(), block.w_in.view(), &block.b_in);
        self.visit(at(BlockHook::MlpPre), &mut neurons, passed);
        directrix_kernels::activate(model.config().mlp.activation, &mut neurons);
        neurons
    }

    /// The residual stream after block `layer`; `None` if nothing past the neurons is wanted.
    fn mlp_out(
        &self,
        layer: usize,
        mid: Matrix,
        mut neurons: Matrix,
        deepest: Option<HookPoint>,
        passed: &mut Passed,
    ) -> Option<Matrix> {
        let at = |hook| HookPoint::Block(layer, hook);
        let block = &self.model.weights().blocks[layer];
        self.visit(at(BlockHook::MlpPost), &mut neurons, passed);
        if self.keep.is_none() && deepest == Some(at(BlockHook::MlpPost)) {
            return None;
        }
        let mut mlp_out = directrix_kernels::affine(neurons.view(), block.w_out.view(), &block.b_out);
        self.visit(at(BlockHook::MlpOut), &mut mlp_out, passed);
        let mut resid = mid;
        resid.add(&mlp_out);
        Some(resid)
    }

    fn finish(&self, resid: Matrix, passed: &mut Passed) {
        let weights = self.model.weights();
        debug_assert_eq!(resid.rows(), self.rows());
        let mut x = self.normalize(
            &resid,
            weights.ln_final.as_ref(),
            HookPoint::LnFinalScale,
            HookPoint::LnFinalNormalized,
            passed,
        );
        self.visit(HookPoint::UnembedIn, &mut x, passed);
        let first_rows = self.first_rows();
        let rows: Vec<usize> = self.finals.iter().map(|spot| self.row_of(&first_rows, *spot)).collect();
        passed.finals = Some(x.gather(rows.into_iter()));
    }
}

/// Consecutive rows of keys or values.
type Rows<'a> = Cow<'a, [f32]>;

/// Rows of an earlier pass, then rows of this one; borrowed when only one of them has any.
fn join<'a>(
    earlier: Option<&'a Matrix>,
    earlier_rows: Range<usize>,
    own: &'a Matrix,
    own_rows: Option<Range<usize>>,
) -> Rows<'a> {
    let earlier = earlier.map_or(&[][..], |m| m.row_range(earlier_rows));
    let own = own_rows.map_or(&[][..], |range| own.row_range(range));
    match (earlier, own) {
        (rows, []) | ([], rows) => Cow::Borrowed(rows),
        _ => Cow::Owned([earlier, own].concat()),
    }
}
