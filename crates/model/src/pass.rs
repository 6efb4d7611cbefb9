//! The forward pass, from any stage on, over parts of prompts.
//!
//! A part is a run of consecutive positions of one prompt; the keys and values of the positions before it come from an
//! earlier pass. A whole prompt, a resumed suffix and the next token of a generation are all parts, so there is one pass.
//!
//! What is computed is planned before it begins ([`Plan`]): the rows at every depth, those that are edited and captured at
//! each hook point, and where it ends. The pass itself reads as the model is written: the embedding, then in each block
//! attention and the MLP, each behind its norm, then the final norm.

mod attention;
mod mlp;
mod norm;
mod plan;
mod stage;

use std::collections::BTreeMap;

use directrix_corpus::Watch;
use directrix_kernels::Matrix;

use crate::intervention::RowEdit;
use crate::{BlockHook, Error, HookPoint, Model, Result};

pub(crate) use attention::rotate;
pub(crate) use plan::{Edits, Part, Plan, Returns};
pub(crate) use stage::{Kept, Stage, StageName};

/// Keys and values of one pass, per layer; `None` for layers that were not reached.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyValues(pub(crate) Vec<Option<(Matrix, Matrix)>>);

/// A planned pass.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model,
    pub(crate) plan: Plan<'a>,
    /// Keys and values of the positions before the parts.
    pub(crate) before: Option<&'a KeyValues>,
    pub(crate) watch: &'a Watch,
}

/// What a pass brings back.
#[derive(Default)]
pub(crate) struct Passed {
    pub(crate) captured: BTreeMap<HookPoint, Matrix>,
    /// What the unembedding reads, at the spots asked for.
    pub(crate) finals: Matrix,
    pub(crate) kept: Option<Kept>,
    pub(crate) keys: KeyValues,
}

/// Why a pass goes no further.
enum End {
    /// Everything asked for is there.
    Done,
    Failed(Error),
}

type Step<T = ()> = Result<T, End>;

impl Pass<'_> {
    /// Goes on from `stage` until everything asked for is there.
    pub(crate) fn run(&self, stage: Stage) -> Result<Passed> {
        let keys = KeyValues(vec![None; self.model.config().n_layers]);
        let mut passed = Passed { keys, ..Passed::default() };
        match self.go_on(stage, &mut passed) {
            Ok(()) | Err(End::Done) => Ok(passed),
            Err(End::Failed(error)) => Err(error),
        }
    }

    fn go_on(&self, mut stage: Stage, passed: &mut Passed) -> Step {
        let layers = self.model.config().n_layers;
        loop {
            self.arrive(&stage, passed)?;
            stage = match stage {
                Stage::Embed => {
                    let resid = self.embed(passed)?;
                    Stage::at_block(0, layers, resid)
                }
                Stage::Attention(layer, resid) => {
                    let resid = self.leave_block_before(layer, resid, passed)?;
                    let (mid, mlp_in) = self.attention(layer, resid, passed)?;
                    Stage::Mlp(layer, mid, mlp_in)
                }
                Stage::Mlp(layer, mid, mlp_in) => {
                    let (mid, neurons) = self.neurons(layer, mid, mlp_in, passed)?;
                    Stage::MlpOut(layer, mid, neurons)
                }
                Stage::MlpOut(layer, mid, neurons) => {
                    let resid = self.mlp_out(layer, mid, neurons, passed)?;
                    Stage::at_block(layer + 1, layers, resid)
                }
                Stage::Unembed(resid) => {
                    let resid = self.leave_block_before(layers, resid, passed)?;
                    return self.final_norm(&resid, passed);
                }
            };
        }
    }

    /// Before a stage: whether to go on, and whether to keep it.
    fn arrive(&self, stage: &Stage, passed: &mut Passed) -> Step {
        if self.watch.is_stopped() {
            return Err(End::Failed(Error::Stopped));
        }
        let name = stage.name();
        if self.plan.keeps(name) {
            let parts = self.plan.rows_at(name).spans().to_vec();
            passed.kept = Some(Kept { stage: stage.clone(), parts });
        }
        if self.plan.ends_before(name) { Err(End::Done) } else { Ok(()) }
    }

    fn embed(&self, passed: &mut Passed) -> Step<Matrix> {
        let weights = self.model.weights();
        let tokens: Vec<usize> = self.plan.tokens().into_iter().map(|token| token as usize).collect();
        let mut resid = weights.w_e.view().rows_at(&tokens);
        self.visit(HookPoint::Embed, &mut resid, passed)?;
        if let Some(w_pos) = &weights.w_pos {
            let positions = self.plan.rows(HookPoint::PosEmbed).positions();
            let mut pos = w_pos.view().rows_at(&positions);
            self.visit(HookPoint::PosEmbed, &mut pos, passed)?;
            resid.add(&pos);
        }
        Ok(resid)
    }

    /// The residual stream as the block before block `layer` leaves it: edited only when the next stage begins, so that this
    /// can be resumed.
    fn leave_block_before(&self, layer: usize, mut resid: Matrix, passed: &mut Passed) -> Step<Matrix> {
        if let Some(before) = layer.checked_sub(1) {
            self.visit(HookPoint::Block(before, BlockHook::ResidPost), &mut resid, passed)?;
        }
        Ok(resid)
    }

    fn final_norm(&self, resid: &Matrix, passed: &mut Passed) -> Step {
        let hooks = [HookPoint::LnFinalScale, HookPoint::LnFinalNormalized];
        let mut x = self.normalize(resid, self.model.weights().ln_final.as_ref(), hooks, passed)?;
        self.edit(HookPoint::UnembedIn, &mut x);
        passed.finals = x.gather(self.plan.finals().iter().copied());
        self.capture(HookPoint::UnembedIn, &x, passed)
    }

    /// Makes the edits at `hook`, then captures it.
    fn visit(&self, hook: HookPoint, value: &mut Matrix, passed: &mut Passed) -> Step {
        self.edit(hook, value);
        self.capture(hook, value, passed)
    }

    fn edit(&self, hook: HookPoint, value: &mut Matrix) {
        RowEdit::apply_all(self.plan.edits(hook), value);
    }

    /// Takes the rows asked for at `hook`; behind the deepest such hook point the pass is done.
    fn capture(&self, hook: HookPoint, value: &Matrix, passed: &mut Passed) -> Step {
        if let Some(rows) = self.plan.captures(hook) {
            passed.captured.insert(hook, value.gather(rows.iter().copied()));
        }
        if self.plan.ends_at(hook) { Err(End::Done) } else { Ok(()) }
    }
}
