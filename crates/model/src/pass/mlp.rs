//! The MLP of a block.

use directrix_kernels::Matrix;

use super::{Pass, Passed, Step};
use crate::{BlockHook, HookPoint};

impl Pass<'_> {
    /// The neurons of block `layer`, `[rows, d_mlp]`, which read `mid`, the residual stream with attention added, or
    /// `mlp_in` if that differs. Gives `mid` back.
    pub(super) fn neurons(
        &self,
        layer: usize,
        mut mid: Matrix,
        mut mlp_in: Option<Matrix>,
        passed: &mut Passed,
    ) -> Step<(Matrix, Matrix)> {
        let at = |hook| HookPoint::Block(layer, hook);
        let block = &self.model.weights().blocks[layer];
        self.visit(at(BlockHook::ResidMid), &mut mid, passed)?;
        if self.plan.visits(at(BlockHook::MlpIn)) {
            self.visit(at(BlockHook::MlpIn), mlp_in.get_or_insert_with(|| mid.clone()), passed)?;
        }
        let hooks = [at(BlockHook::Ln2Scale), at(BlockHook::Ln2Normalized)];
        let x = self.normalize(mlp_in.as_ref().unwrap_or(&mid), block.ln2.as_ref(), hooks, passed)?;
        let activation = self.model.config().mlp.activation;
        let mut linear = directrix_kernels::affine(x.view(), block.w_in.view(), &block.b_in);
        let Some(gate) = &block.gate else {
            self.visit(at(BlockHook::MlpPre), &mut linear, passed)?;
            directrix_kernels::activate(activation, &mut linear);
            return Ok((mid, linear));
        };
        let mut neurons = directrix_kernels::affine(x.view(), gate.w.view(), &gate.b);
        self.visit(at(BlockHook::MlpPre), &mut neurons, passed)?;
        self.visit(at(BlockHook::MlpPreLinear), &mut linear, passed)?;
        directrix_kernels::activate(activation, &mut neurons);
        neurons.multiply(&linear);
        Ok((mid, neurons))
    }

    /// The residual stream behind block `layer`.
    pub(super) fn mlp_out(
        &self,
        layer: usize,
        mut resid: Matrix,
        mut neurons: Matrix,
        passed: &mut Passed,
    ) -> Step<Matrix> {
        let at = |hook| HookPoint::Block(layer, hook);
        let block = &self.model.weights().blocks[layer];
        self.visit(at(BlockHook::MlpPost), &mut neurons, passed)?;
        let mut mlp_out = directrix_kernels::affine(neurons.view(), block.w_out.view(), &block.b_out);
        if let Some([_, norm]) = &block.post_norms {
            let hooks = [at(BlockHook::Ln2PostScale), at(BlockHook::Ln2PostNormalized)];
            mlp_out = self.normalize(&mlp_out, Some(norm), hooks, passed)?;
        }
        self.visit(at(BlockHook::MlpOut), &mut mlp_out, passed)?;
        resid.add(&mlp_out);
        Ok(resid)
    }
}
