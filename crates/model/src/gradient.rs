//! Derivatives of scalars by hook points.
//!
//! The prompts run once; what the derivatives of each block need is captured by the hook points there are: a [`Tape`]. Then one pass goes
//! back over the rows of all scalars together, from the deepest of them to the first hook point that is asked for.

mod block;
mod cut;
mod scalar;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::{Matrix, View};

pub use cut::Cut;
use scalar::is_row;
pub use scalar::{Quantity, Scalar, Term};

use crate::config::Norm;
use crate::positions::Lengths;
use crate::{Ask, BlockHook, Error, HookPoint, Intervention, Model, Result, Run, Spot};

/// What counts as constant in a derivative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frozen {
    /// The divisors of norms.
    pub norms: bool,
    /// Attention patterns.
    pub patterns: bool,
}

/// Scalars and their derivatives.
pub struct Gradients {
    values: Vec<f64>,
    /// By scalar, the first row; and the number of rows.
    offsets: Vec<usize>,
    found: BTreeMap<HookPoint, Matrix>,
}

impl Gradients {
    /// Those of no scalars.
    fn none(hooks: &[HookPoint]) -> Gradients {
        let of = |hook: &HookPoint| (*hook, Matrix::zeros(0, 0));
        Gradients { values: Vec::new(), offsets: vec![0], found: hooks.iter().map(of).collect() }
    }

    /// The scalars.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The derivative of scalar `scalar` by the row at `hook` of each position of its prompt up to the scalar's last, `[positions, width]`:
    /// shaped as [what is captured](Run::captured) there.
    ///
    /// # Panics
    /// If there is no such scalar, or the hook point was not asked for.
    pub fn of(&self, scalar: usize, hook: HookPoint) -> View<'_> {
        self.found[&hook].view().rows_of(self.offsets[scalar]..self.offsets[scalar + 1])
    }
}

impl Model {
    /// The derivatives of `scalars` by the rows at `hooks`, all scalars in one pass back.
    ///
    /// ```
    /// # use directrix_corpus::Prompts;
    /// # use directrix_model::{Folder, Frozen, HookPoint, Model, Processing, Scalar};
    /// # let model = Model::load(&Folder::open("../../assets/tinystories-2l")?, Processing::default())?;
    /// let hook: HookPoint = "blocks.1.hook_resid_pre".parse()?;
    /// let prompts = Prompts::from_rows([[1, 2, 3], [4, 5, 6]]);
    /// let answers = [Scalar::logit_difference(0, 2, [7, 8]), Scalar::logit_difference(1, 2, [7, 8])];
    /// let gradients = model.gradients(&prompts, &[hook], &answers, Frozen::default(), &Default::default())?;
    /// assert_eq!(gradients.of(1, hook).rows(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Model::run); [`Error::Scalar`] if a scalar has no term, or one along a hook point that is not a row of numbers that
    /// are added up, or of another width.
    pub fn gradients(
        &self,
        prompts: &Prompts,
        hooks: &[HookPoint],
        scalars: &[Scalar],
        frozen: Frozen,
        watch: &Watch,
    ) -> Result<Gradients> {
        check_wanted(self, hooks)?;
        let lengths = Lengths::of(prompts);
        scalars.iter().enumerate().try_for_each(|(number, scalar)| scalar.check(number, self, &lengths))?;
        // Nothing depends on what follows the last position of any of its scalars.
        let mut needed = vec![1; prompts.len()];
        scalars.iter().for_each(|scalar| needed[scalar.prompt] = needed[scalar.prompt].max(scalar.end()));
        let cut = Prompts::from_rows(
            prompts.iter().zip(&needed).map(|(tokens, needed)| &tokens[..*needed.min(&tokens.len())]),
        );
        let along: Vec<HookPoint> = scalars.iter().flat_map(Scalar::hooks).collect();
        let Some(first) = hooks.iter().min().filter(|_| !along.is_empty()) else { return Ok(Gradients::none(hooks)) };
        self.tape(&cut, *first, &along, &[], watch)?.gradients(hooks, scalars, frozen, &[])
    }

    /// A run of the prompts, changed by `interventions`, that keeps what passes back to `first` need, of scalars whose terms are along these
    /// hook points: logits are along `unembed.hook_in`. Derivatives by what is at a hook point are by what is there when it is changed.
    ///
    /// # Errors
    /// As [`run`](Model::run); if there is no such hook point, or no term can be along it.
    pub fn tape<'a>(
        &'a self,
        prompts: &Prompts,
        first: HookPoint,
        along: &[HookPoint],
        interventions: &[Intervention],
        watch: &'a Watch,
    ) -> Result<Tape<'a>> {
        along.iter().chain([&first]).try_for_each(|hook| hook.check(self.config()))?;
        if let Some(hook) = along.iter().find(|hook| !is_row(**hook)) {
            return Err(Error::NotKept { problem: format!("{hook} has no rows that a term can be along") });
        }
        let last = along.iter().max().copied().unwrap_or(first);
        let captured: BTreeSet<HookPoint> = self.needed(first, last).into_iter().chain(along.iter().copied()).collect();
        let run = self.run(prompts, &Ask::capture(captured.iter().copied()).watched(watch), interventions)?;
        Ok(Tape { model: self, prompts: prompts.clone(), run, first, captured, watch })
    }

    /// What the pass back from `last` to `first` needs of the run.
    fn needed(&self, first: HookPoint, last: HookPoint) -> Vec<HookPoint> {
        use BlockHook as B;
        let config = self.config();
        let layers = first.layer().unwrap_or(if first > HookPoint::PosEmbed { config.n_layers } else { 0 })
            ..last.layer().map_or(config.n_layers, |layer| layer + 1);
        let of_block = [
            B::Ln1Scale,
            B::Ln1Normalized,
            B::K,
            B::KNormScale,
            B::KNormNormalized,
            B::RotK,
            B::V,
            B::Q,
            B::QNormScale,
            B::QNormNormalized,
            B::RotQ,
            B::Ln1PostScale,
            B::Ln1PostNormalized,
            B::Ln2Scale,
            B::Ln2Normalized,
            B::MlpPre,
            B::MlpPreLinear,
            B::Ln2PostScale,
            B::Ln2PostNormalized,
        ];
        let of_blocks = layers.flat_map(|layer| of_block.map(|hook| HookPoint::Block(layer, hook)));
        of_blocks
            .chain([HookPoint::LnFinalScale, HookPoint::LnFinalNormalized, HookPoint::UnembedIn])
            .filter(|hook| hook.check(config).is_ok() && (hook.layer().is_some() || last.layer().is_none()))
            .collect()
    }
}

/// A run of prompts with what passes back through it need: any number of them.
pub struct Tape<'a> {
    model: &'a Model,
    prompts: Prompts,
    run: Run,
    /// The first hook point that it reaches back to.
    first: HookPoint,
    captured: BTreeSet<HookPoint>,
    watch: &'a Watch,
}

impl Tape<'_> {
    /// The run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The derivatives of `scalars` by the rows at `hooks`, all scalars in one pass back. What lies behind a [`Cut`] depends on the
    /// numbers there as on numbers of their own.
    ///
    /// # Errors
    /// As [`Model::gradients`]; [`Error::Cut`] if a cut has no such columns, [`Error::NotKept`] if the tape does not reach a hook point.
    pub fn gradients(
        &self,
        hooks: &[HookPoint],
        scalars: &[Scalar],
        frozen: Frozen,
        cuts: &[Cut],
    ) -> Result<Gradients> {
        check_wanted(self.model, hooks)?;
        let lengths = Lengths::of(&self.prompts);
        scalars.iter().enumerate().try_for_each(|(number, scalar)| scalar.check(number, self.model, &lengths))?;
        cuts.iter().try_for_each(|cut| cut.check(self.model))?;
        let ends: Vec<usize> = scalars.iter().map(Scalar::end).collect();
        let (Some(first), Some(last)) = (hooks.iter().min(), scalars.iter().flat_map(Scalar::hooks).max()) else {
            return Ok(Gradients::none(hooks));
        };
        let mut read = scalars.iter().flat_map(Scalar::hooks);
        let missing = read.find(|hook| !self.captured.contains(hook));
        if let Some(hook) = missing.or_else(|| (*first < self.first).then_some(*first)) {
            return Err(Error::NotKept { problem: format!("the tape was not asked for {hook}") });
        }

        let mut offsets = vec![0];
        offsets.extend(ends.iter().scan(0, |all, end| {
            *all += end;
            Some(*all)
        }));
        let positions = ends.iter().flat_map(|end| 0..*end).collect();
        let rows = scalars.iter().zip(&ends).flat_map(|(scalar, end)| {
            let start = self.prompts.offsets()[scalar.prompt];
            start..start + end
        });
        let mut back = Back {
            model: self.model,
            frozen,
            cuts,
            passed: BTreeMap::new(),
            run: &self.run,
            rows: rows.collect(),
            positions,
            offsets,
            longest: lengths.longest(),
            wanted: hooks.to_vec(),
            first: *first,
            seeds: BTreeMap::new(),
            found: BTreeMap::new(),
            watch: self.watch,
        };
        let mut values = back.plant(scalars);
        if *first <= last {
            let _: ControlFlow<()> = back.go(scalars, last, &mut values)?;
        }
        for hook in hooks {
            // What no scalar depends on.
            let width = hook.shape(self.model.config(), back.longest).iter().product();
            back.found.entry(*hook).or_insert_with(|| Matrix::zeros(back.rows.len(), width));
        }
        back.check_finite(scalars)?;
        Ok(Gradients { values, offsets: back.offsets, found: back.found })
    }
}

/// The pass back. A row is a position of a scalar's prompt, up to the last that the scalar depends on; scalar after scalar.
struct Back<'a> {
    model: &'a Model,
    frozen: Frozen,
    cuts: &'a [Cut],
    /// What the skip connections of cuts pass on, where it is read.
    passed: BTreeMap<HookPoint, Matrix>,
    run: &'a Run,
    /// Of each row, that of the run.
    rows: Vec<usize>,
    /// Of each row, its position.
    positions: Vec<usize>,
    /// The first row of each scalar, and the number of rows.
    offsets: Vec<usize>,
    longest: usize,
    wanted: Vec<HookPoint>,
    /// The first of these.
    first: HookPoint,
    /// What terms along hook points add to the gradient there, by row.
    seeds: BTreeMap<HookPoint, Vec<(usize, Vec<f32>)>>,
    found: BTreeMap<HookPoint, Matrix>,
    watch: &'a Watch,
}

impl<'a> Back<'a> {
    fn go(&mut self, scalars: &[Scalar], last: HookPoint, values: &mut [f64]) -> Result<ControlFlow<()>> {
        let config = self.model.config();
        let mut g = Matrix::zeros(self.rows.len(), config.d_model);
        let mut layers = config.n_layers;
        if let Some(layer) = last.layer() {
            layers = layer + 1;
        } else {
            g = self.at_unembedding(scalars, values);
            if self.through_final_norm(&mut g).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        for layer in (0..layers).rev() {
            if self.watch.is_stopped() {
                return Err(Error::Stopped);
            }
            match self.through_block(layer, g) {
                ControlFlow::Break(()) => return Ok(ControlFlow::Break(())),
                ControlFlow::Continue(before) => g = before,
            }
        }
        let hooks = [HookPoint::PosEmbed, HookPoint::Embed];
        Ok(hooks.into_iter().try_for_each(|hook| self.visit(hook, &mut g)))
    }

    fn through_final_norm(&mut self, g: &mut Matrix) -> ControlFlow<()> {
        self.visit(HookPoint::UnembedIn, g)?;
        let weights = self.model.weights().ln_final.as_ref().map(|norm| &norm.w[..]);
        self.through_norm(weights, [HookPoint::LnFinalScale, HookPoint::LnFinalNormalized], g)
    }

    /// The gradient at what a norm read, in place of that at what its readers read.
    fn through_norm(&mut self, weights: Option<&[f32]>, hooks: [HookPoint; 2], g: &mut Matrix) -> ControlFlow<()> {
        let [scale, normalized] = hooks;
        times_columns(weights, g);
        self.visit(normalized, g)?;
        let at = self.saved(normalized);
        let scales = self.saved(scale);
        if self.wanted.contains(&scale) {
            self.visit(scale, &mut by_scale(&at, scales.data(), g))?;
        }
        self.divide(&at, scales.data(), g);
        ControlFlow::Continue(())
    }

    fn divide(&self, normalized: &Matrix, scales: &[f32], g: &mut Matrix) {
        let is_centred = matches!(self.model.config().norm, Norm::Layer { .. });
        directrix_kernels::norm_gradient(normalized, scales, is_centred, self.frozen.norms, g);
    }

    /// What the run had at `hook`, by row.
    fn saved(&self, hook: HookPoint) -> Cow<'a, Matrix> {
        let all = self.run.captured(hook);
        if self.rows.iter().copied().eq(0..all.rows()) {
            return Cow::Borrowed(all);
        }
        Cow::Owned(all.gather(self.rows.iter().copied()))
    }

    /// Adds what scalars have along `hook`, and keeps the gradient there if it is wanted. Behind the first hook point that is
    /// wanted the pass is done.
    fn visit(&mut self, hook: HookPoint, g: &mut Matrix) -> ControlFlow<()> {
        if let Some(passed) = self.passed.remove(&hook) {
            g.add(&passed);
        }
        let arrived = self.cut(hook, g);
        for (row, direction) in self.seeds.remove(&hook).unwrap_or_default() {
            g.row_mut(row).iter_mut().zip(direction).for_each(|(g, x)| *g += x);
        }
        if self.wanted.contains(&hook) {
            let mut found = g.clone();
            arrived.into_iter().for_each(|(columns, part)| set_columns(&mut found, columns, &part));
            self.found.insert(hook, found);
        }
        if hook == self.first { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn check_finite(&self, scalars: &[Scalar]) -> Result<()> {
        for (hook, g) in &self.found {
            if let Some((row, _)) = g.first_not_finite() {
                let scalar = self.offsets.partition_point(|offset| *offset <= row) - 1;
                let spot = Spot { prompt: scalars[scalar].prompt, position: self.positions[row] };
                return Err(Error::not_finite(*hook, spot));
            }
        }
        Ok(())
    }
}

/// That derivatives can be taken at these hook points.
fn check_wanted(model: &Model, hooks: &[HookPoint]) -> Result<()> {
    hooks.iter().try_for_each(|hook| hook.check(model.config()))?;
    if hooks.contains(&HookPoint::UnembedOut) {
        let why = "derivatives are taken at what the unembedding reads: ask for unembed.hook_in".into();
        return Err(Error::NoSuchHook { hook: HookPoint::UnembedOut.to_string(), why });
    }
    Ok(())
}

fn set_columns(out: &mut Matrix, columns: Range<usize>, part: &Matrix) {
    (0..out.rows()).for_each(|row| out.row_mut(row)[columns.clone()].copy_from_slice(part.row(row)));
}

fn times_columns(weights: Option<&[f32]>, g: &mut Matrix) {
    if let Some(weights) = weights {
        (0..g.rows()).for_each(|row| g.row_mut(row).iter_mut().zip(weights).for_each(|(g, w)| *g *= w));
    }
}

/// The gradient at the divisors of a norm, `[rows, 1]`.
fn by_scale(normalized: &Matrix, scales: &[f32], g: &Matrix) -> Matrix {
    let of_row = |(row, scale): (usize, &f32)| -directrix_kernels::dot(g.row(row), normalized.row(row)) as f32 / scale;
    Matrix::new(scales.iter().enumerate().map(of_row).collect(), g.rows(), 1)
}
