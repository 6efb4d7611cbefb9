//! Norms.

use directrix_kernels::Matrix;

use super::{Pass, Passed, Step};
use crate::{HookPoint, LayerNorm};

impl Pass<'_> {
    /// What the weights behind a norm read of `x`, `[rows, d_model]`. Its hook points are its scale, and what it makes of `x`
    /// before its own weight and bias.
    pub(super) fn normalize(
        &self,
        x: &Matrix,
        ln: Option<&LayerNorm>,
        [scale, normalized]: [HookPoint; 2],
        passed: &mut Passed,
    ) -> Step<Matrix> {
        let (mut x, scales) = self.model.normalize(x);
        if self.plan.visits(scale) {
            let mut edited = Matrix::new(scales.clone(), scales.len(), 1);
            self.visit(scale, &mut edited, passed)?;
            for (row, (&old, &new)) in scales.iter().zip(edited.data()).enumerate() {
                if old != new {
                    x.row_mut(row).iter_mut().for_each(|x| *x *= old / new);
                }
            }
        }
        self.visit(normalized, &mut x, passed)?;
        if let Some(ln) = ln {
            (0..x.rows()).for_each(|row| ln.apply(x.row_mut(row)));
        }
        Ok(x)
    }
}
