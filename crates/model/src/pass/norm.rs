//! Norms.

use directrix_kernels::Matrix;

use super::{Pass, Passed, Step};
use crate::{HookPoint, NormWeights};

impl Pass<'_> {
    /// What the weights behind a norm read of `x`, `[rows, d_model]`. Its hook points are its scale, and what it makes of `x`
    /// before its own weight and bias.
    pub(super) fn normalize(
        &self,
        x: &Matrix,
        weights: Option<&NormWeights>,
        [scale, normalized]: [HookPoint; 2],
        passed: &mut Passed,
    ) -> Step<Matrix> {
        let (mut x, scales) = self.model.normalize(x);
        self.visit_scales(scale, scales, 1, &mut x, passed)?;
        self.visit(normalized, &mut x, passed)?;
        if let Some(weights) = weights {
            (0..x.rows()).for_each(|row| weights.apply(x.row_mut(row)));
        }
        Ok(x)
    }

    /// The queries or keys of each head, `[rows, heads × d_head]`, each behind a norm of its own.
    pub(super) fn normalize_heads(
        &self,
        x: Matrix,
        weights: &NormWeights,
        [scale, normalized]: [HookPoint; 2],
        passed: &mut Passed,
    ) -> Step<Matrix> {
        let (rows, columns, d_head) = (x.rows(), x.columns(), weights.w.len());
        let heads = columns / d_head;
        let (mut x, scales) = self.model.normalize(&Matrix::new(x.into_data(), rows * heads, d_head));
        self.visit_scales(scale, scales, heads, &mut x, passed)?;
        let mut x = Matrix::new(x.into_data(), rows, columns);
        self.visit(normalized, &mut x, passed)?;
        for row in 0..rows {
            x.row_mut(row).chunks_exact_mut(d_head).for_each(|head| weights.apply(head));
        }
        Ok(x)
    }

    /// Visits the divisors of a norm, so many of them a row; the rows `x` that they made follow their edits.
    fn visit_scales(
        &self,
        hook: HookPoint,
        scales: Vec<f32>,
        in_row: usize,
        x: &mut Matrix,
        passed: &mut Passed,
    ) -> Step {
        if !self.plan.visits(hook) {
            return Ok(());
        }
        let mut edited = Matrix::new(scales.clone(), scales.len() / in_row, in_row);
        self.visit(hook, &mut edited, passed)?;
        for (row, (&old, &new)) in scales.iter().zip(edited.data()).enumerate() {
            if old != new {
                x.row_mut(row).iter_mut().for_each(|x| *x *= old / new);
            }
        }
        Ok(())
    }
}
