//! Interventions: changes made at a hook point, as data.

use std::fmt;
use std::sync::Arc;

use directrix_kernels::dot;

use crate::{HookPoint, Result};

/// Positions of a prompt, or of each prompt of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Positions {
    /// Every position.
    All,
    /// One position, counted from the end of each prompt: 1 is the last, 2 the one before it.
    FromEnd(usize),
    /// These positions, counted from the start.
    At(Vec<usize>),
    /// From this one to the end.
    From(usize),
    /// A list of positions for each prompt.
    Each(Vec<Vec<usize>>),
}

impl Positions {
    /// The positions in prompt number `prompt`, of `len`; `Err` with the first one that it has not.
    pub(crate) fn resolve(&self, prompt: usize, len: usize) -> Result<Vec<usize>, String> {
        let listed = |at: &[usize]| match at.iter().find(|p| **p >= len) {
            Some(p) => Err(p.to_string()),
            None => Ok(at.to_vec()),
        };
        match self {
            Positions::All => Ok((0..len).collect()),
            Positions::FromEnd(n) if *n >= 1 && *n <= len => Ok(vec![len - n]),
            Positions::FromEnd(n) => Err(format!("-{n}")),
            Positions::At(at) => listed(at),
            Positions::Each(lists) => listed(lists.get(prompt).map_or(&[], Vec::as_slice)),
            Positions::From(start) => Ok((*start..len).collect()),
        }
    }
}

/// Where an intervention is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Prompt of the batch, or case when resuming.
    pub prompt: usize,
    /// Position in the prompt.
    pub position: usize,
    /// Head, for attention scores and patterns; 0 elsewhere.
    pub head: usize,
}

/// A function that changes a row.
pub type RowFn = dyn Fn(Place, &mut [f32]) + Send + Sync;

/// What to do to a position's row at a hook point.
#[derive(Clone)]
pub enum Kind {
    /// Set to zero.
    Zero,
    /// Replace by this row.
    Set(Arc<[f32]>),
    /// Add this row.
    Add(Arc<[f32]>),
    /// Multiply by a number.
    Scale(f32),
    /// Remove the component along this row.
    Project(Arc<[f32]>),
    /// Change as a function says: the closure form.
    Map(Arc<RowFn>),
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Zero => f.write_str("Zero"),
            Kind::Set(row) => write!(f, "Set([{}])", row.len()),
            Kind::Add(row) => write!(f, "Add([{}])", row.len()),
            Kind::Scale(by) => write!(f, "Scale({by})"),
            Kind::Project(row) => write!(f, "Project([{}])", row.len()),
            Kind::Map(_) => f.write_str("Map"),
        }
    }
}

impl Kind {
    /// The row length this kind asks for, if any.
    pub(crate) fn width(&self) -> Option<usize> {
        match self {
            Kind::Set(row) | Kind::Add(row) | Kind::Project(row) => Some(row.len()),
            Kind::Zero | Kind::Scale(_) | Kind::Map(_) => None,
        }
    }

    pub(crate) fn apply(&self, place: Place, row: &mut [f32]) {
        match self {
            Kind::Zero => row.fill(0.0),
            Kind::Set(with) => row.copy_from_slice(with),
            Kind::Add(what) => row.iter_mut().zip(what.iter()).for_each(|(x, a)| *x += a),
            // A score of -inf says that a position is not seen; it stays so.
            Kind::Scale(by) => row.iter_mut().filter(|x| **x > f32::NEG_INFINITY).for_each(|x| *x *= by),
            Kind::Project(along) => {
                let square = dot(along, along);
                let share = if square > 0.0 { (dot(row, along) / square) as f32 } else { 0.0 };
                row.iter_mut().zip(along.iter()).for_each(|(x, a)| *x -= share * a);
            }
            Kind::Map(f) => f(place, row),
        }
    }
}

/// A change made at a hook point at some positions.
#[derive(Debug, Clone)]
pub struct Intervention {
    /// Where.
    pub hook: HookPoint,
    /// At which positions of each prompt.
    pub positions: Positions,
    /// What is done there.
    pub kind: Kind,
}

impl Intervention {
    /// An intervention at `hook`.
    pub fn new(hook: HookPoint, positions: Positions, kind: Kind) -> Intervention {
        Intervention { hook, positions, kind }
    }
}
