//! The stages of a pass: the points from which it can go on, and the numbers that the rest of it needs there.

use std::ops::Range;

use directrix_kernels::Matrix;

use crate::HookPoint;
use crate::hook::BlockStage;

/// What is about to be computed, and what it is computed from.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// The embedding.
    Embed,
    /// Attention of block `.0`, from the residual stream that the block before leaves, as yet unedited.
    Attention(usize, Matrix),
    /// The neurons of block `.0`, from the residual stream with attention added, or what the MLP reads if that differs.
    Mlp(usize, Matrix, Option<Matrix>),
    /// What the neurons of block `.0` write: the residual stream with attention added, and the neurons.
    MlpOut(usize, Matrix, Matrix),
    /// The final norm, from the residual stream that the last block leaves, as yet unedited.
    Unembed(Matrix),
}

impl Stage {
    /// The residual stream before block `layer` of `n_layers`, or behind the last one.
    pub(super) fn at_block(layer: usize, n_layers: usize, resid: Matrix) -> Stage {
        if layer < n_layers { Stage::Attention(layer, resid) } else { Stage::Unembed(resid) }
    }

    pub(crate) fn name(&self) -> StageName {
        match self {
            Stage::Embed => StageName::Embed,
            Stage::Attention(layer, _) => StageName::Attention(*layer),
            Stage::Mlp(layer, ..) => StageName::Mlp(*layer),
            Stage::MlpOut(layer, ..) => StageName::MlpOut(*layer),
            Stage::Unembed(_) => StageName::Unembed,
        }
    }

    /// The same stage for other rows.
    pub(crate) fn gather(&self, rows: &[usize]) -> Stage {
        let take = |m: &Matrix| m.gather(rows.iter().copied());
        match self {
            Stage::Embed => Stage::Embed,
            Stage::Attention(layer, resid) => Stage::Attention(*layer, take(resid)),
            Stage::Mlp(layer, mid, mlp_in) => Stage::Mlp(*layer, take(mid), mlp_in.as_ref().map(take)),
            Stage::MlpOut(layer, mid, neurons) => Stage::MlpOut(*layer, take(mid), take(neurons)),
            Stage::Unembed(resid) => Stage::Unembed(take(resid)),
        }
    }
}

/// The names of the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StageName {
    Embed,
    Attention(usize),
    Mlp(usize),
    MlpOut(usize),
    Unembed,
}

impl StageName {
    /// The stage from which a pass must go on for a change at `hook` to take effect.
    pub(crate) fn of(hook: HookPoint, n_layers: usize) -> StageName {
        match hook {
            HookPoint::Embed | HookPoint::PosEmbed => StageName::Embed,
            HookPoint::Block(layer, hook) => match hook.stage() {
                BlockStage::Attention => StageName::Attention(layer),
                BlockStage::Mlp => StageName::Mlp(layer),
                BlockStage::MlpOut => StageName::MlpOut(layer),
                BlockStage::Next if layer + 1 < n_layers => StageName::Attention(layer + 1),
                BlockStage::Next => StageName::Unembed,
            },
            HookPoint::LnFinalScale | HookPoint::LnFinalNormalized | HookPoint::UnembedIn | HookPoint::UnembedOut => {
                StageName::Unembed
            }
        }
    }

    /// Its place in the order of the pass: the block, counted from 1, and what is computed in it.
    fn order(self) -> (usize, usize) {
        match self {
            StageName::Embed => (0, 0),
            StageName::Attention(layer) => (layer + 1, 0),
            StageName::Mlp(layer) => (layer + 1, 1),
            StageName::MlpOut(layer) => (layer + 1, 2),
            StageName::Unembed => (usize::MAX, 0),
        }
    }

    pub(crate) fn is_before(self, other: StageName) -> bool {
        self.order() < other.order()
    }

    /// The last block whose attention is computed before this stage.
    pub(super) fn last_attention(self, n_layers: usize) -> Option<usize> {
        match self {
            StageName::Embed => None,
            StageName::Attention(layer) => layer.checked_sub(1),
            StageName::Mlp(layer) | StageName::MlpOut(layer) => Some(layer),
            StageName::Unembed => n_layers.checked_sub(1),
        }
    }
}

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
