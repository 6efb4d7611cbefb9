//! Where a pass back is cut.

use std::ops::Range;
use std::sync::Arc;

use directrix_kernels::Matrix;

use super::block::times;
use super::scalar::is_row;
use super::{Back, set_columns};
use crate::{Error, HookPoint, Model, Result};

/// A cut in the passes back through a model.
///
/// What lies behind the hook point depends on the numbers there as on numbers of their own, whatever made them: derivatives by them are
/// found, and nothing is passed on to what is before. A scalar's own terms along the hook point read what is before the cut.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// Where: a hook point that a [`Term`](crate::Term) can be along.
    pub hook: HookPoint,
    /// Which columns of its rows.
    pub columns: Range<usize>,
    /// What passes the cut all the same: of the rows at this or an earlier hook point of the block, and columns there, `x Wᵀ` with this
    /// `W`, `[columns, columns there]`.
    pub skip: Option<(HookPoint, Range<usize>, Arc<Matrix>)>,
}

impl Cut {
    pub(super) fn check(&self, model: &Model) -> Result<()> {
        let failed = |problem: String| Err(Error::Cut { hook: self.hook.to_string(), problem });
        let width = |hook: HookPoint| hook.shape(model.config(), 0).iter().product::<usize>();
        self.hook.check(model.config())?;
        if !is_row(self.hook) {
            return failed("it has no rows that could be cut".into());
        }
        if self.columns.start > self.columns.end || self.columns.end > width(self.hook) {
            return failed(format!("columns {:?} of {}", self.columns, width(self.hook)));
        }
        if let Some((hook, columns, w)) = &self.skip {
            hook.check(model.config())?;
            if *hook > self.hook || hook.layer() != self.hook.layer() || !is_row(*hook) {
                return failed(format!("a skip connection cannot lead to it from {hook}"));
            }
            let fits = [w.rows(), w.columns()] == [self.columns.len(), columns.len()];
            if !fits || columns.start > columns.end || columns.end > width(*hook) {
                let (shape, columns_here) = ([w.rows(), w.columns()], &self.columns);
                return failed(format!("a skip connection of {shape:?} from columns {columns:?} to {columns_here:?}"));
            }
        }
        Ok(())
    }
}

impl Back<'_> {
    /// Takes from `g` what is cut at `hook`, and gives it back: columns, and the gradient that arrived there.
    pub(super) fn cut(&mut self, hook: HookPoint, g: &mut Matrix) -> Vec<(Range<usize>, Matrix)> {
        let mut arrived = Vec::new();
        for cut in self.cuts.iter().filter(|cut| cut.hook == hook) {
            let part = g.columns_of(cut.columns.clone());
            (0..g.rows()).for_each(|row| g.row_mut(row)[cut.columns.clone()].fill(0.0));
            if let Some((from, columns, w)) = &cut.skip {
                let width = from.shape(self.model.config(), 0).iter().product();
                let mut passed = Matrix::zeros(g.rows(), width);
                set_columns(&mut passed, columns.clone(), &times(&part, w.view().into()));
                match self.passed.get_mut(from) {
                    _ if *from == hook => g.add(&passed),
                    Some(sum) => sum.add(&passed),
                    None => drop(self.passed.insert(*from, passed)),
                }
            }
            arrived.push((cut.columns.clone(), part));
        }
        arrived
    }
}
