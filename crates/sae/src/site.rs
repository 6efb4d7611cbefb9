//! Where in a model an SAE is.

use std::fmt;
use std::ops::Range;

use directrix_model::{BlockHook, Config, HookPoint};

/// Where an SAE is: what it reads, and what its reconstruction stands for. The two ends are the same place, but for a
/// transcoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// What is encoded.
    pub reads: End,
    /// What is reconstructed.
    pub writes: End,
}

/// A hook point, or one head of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Hook point.
    pub hook: HookPoint,
    /// The one head, at hook points that have heads.
    pub head: Option<usize>,
    /// Numbers at a position: all of the hook point's, or those of the head.
    pub width: usize,
}

impl Site {
    /// One place for both ends.
    pub fn at(end: End) -> Site {
        Site { reads: end.clone(), writes: end }
    }

    /// Whether both ends are one place.
    pub fn is_one_place(&self) -> bool {
        self.reads == self.writes
    }
}

impl End {
    /// The end at `hook`, or one head of it, in a model. The error says what such an end has that the model has not.
    pub(crate) fn of(hook: HookPoint, head: Option<usize>, config: &Config) -> Result<End, String> {
        if !HookPoint::all(config).contains(&hook) {
            return Err(format!("{hook}, which the model does not have"));
        }
        if matches!(hook, HookPoint::Block(_, BlockHook::AttnScores | BlockHook::Pattern)) {
            return Err(format!("{hook}, which has as many numbers as positions: too many for an SAE"));
        }
        let shape = hook.shape(config, 0);
        let width = match (head, &shape[..]) {
            (None, _) => shape.iter().product(),
            (Some(head), &[heads, width]) if head < heads => width,
            (Some(head), _) => return Err(format!("head {head} of {hook}, which the model does not have")),
        };
        Ok(End { hook, head, width })
    }

    /// The block it is in; 0 for a hook point before the blocks.
    pub fn layer(&self) -> usize {
        self.hook.layer().unwrap_or(0)
    }

    /// Its columns in the hook point's row.
    pub fn columns(&self) -> Range<usize> {
        let first = self.head.unwrap_or(0) * self.width;
        first..first + self.width
    }

    /// Its columns in a row of so many numbers: all where the row is what the end has, the head's where the row is that of
    /// all heads; `None` for any other row.
    pub fn columns_in(&self, width: usize) -> Option<Range<usize>> {
        if width == self.width {
            return Some(0..width);
        }
        let columns = self.columns();
        (self.head.is_some() && width.is_multiple_of(self.width) && columns.end <= width).then_some(columns)
    }

    /// Where the residual stream has what is [written](crate::Sae::to_residual) here, if nothing else reads it: adding to
    /// the one is adding to the other. Neurons whose sum passes a norm are not among it.
    pub fn written_at(&self, config: &Config) -> Option<HookPoint> {
        match self.hook {
            HookPoint::Block(_, BlockHook::MlpPost) if config.post_norms => None,
            HookPoint::Block(layer, BlockHook::MlpPost | BlockHook::MlpOut | BlockHook::ResidPost) => {
                Some(HookPoint::Block(layer, BlockHook::ResidPost))
            }
            _ => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.head {
            Some(head) => write!(f, "head {head} of {}", self.hook),
            None => write!(f, "{}", self.hook),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_found_in_a_row_of_all_heads_and_in_its_own() {
        let end = |head| End { hook: HookPoint::Block(0, BlockHook::Z), head, width: 8 };
        assert_eq!((end(Some(2)).columns_in(32), end(Some(2)).columns_in(8)), (Some(16..24), Some(0..8)));
        assert_eq!((end(Some(4)).columns_in(32), end(Some(1)).columns_in(20)), (None, None));
        assert_eq!((end(None).columns_in(8), end(None).columns_in(32)), (Some(0..8), None));
    }
}
