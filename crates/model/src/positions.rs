//! Which positions of which prompts.

use directrix_corpus::Prompts;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Positions of a prompt, or of each prompt of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// A position of a prompt of a batch, or of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// Prompt of the batch, or case when resuming.
    pub prompt: usize,
    /// Position in the prompt.
    pub position: usize,
}

/// The lengths of a batch's prompts: what positions are checked against.
pub(crate) struct Lengths(Vec<usize>);

impl Lengths {
    pub(crate) fn of(prompts: &Prompts) -> Lengths {
        Lengths(prompts.iter().map(<[u32]>::len).collect())
    }

    pub(crate) fn new(lengths: Vec<usize>) -> Lengths {
        Lengths(lengths)
    }

    pub(crate) fn longest(&self) -> usize {
        self.0.iter().copied().max().unwrap_or(0)
    }

    /// The number of positions of prompt `prompt`.
    pub(crate) fn get(&self, prompt: usize) -> Result<usize> {
        self.0.get(prompt).copied().ok_or(Error::Prompt { prompt, prompts: self.0.len() })
    }

    pub(crate) fn check(&self, Spot { prompt, position }: Spot) -> Result<()> {
        let positions = self.get(prompt)?;
        if position < positions {
            return Ok(());
        }
        Err(Error::Position { prompt, position: position.to_string(), positions })
    }

    /// The positions in one prompt, in the order they are listed in.
    pub(crate) fn in_prompt(&self, prompt: usize, positions: &Positions) -> Result<Vec<usize>> {
        let len = self.get(prompt)?;
        let listed = match positions {
            Positions::All => return Ok((0..len).collect()),
            Positions::From(start) => return Ok((*start..len).collect()),
            Positions::FromEnd(n) if *n >= 1 && *n <= len => return Ok(vec![len - n]),
            Positions::FromEnd(n) => {
                return Err(Error::Position { prompt, position: format!("-{n}"), positions: len });
            }
            Positions::At(listed) => listed,
            Positions::Each(lists) if lists.len() == self.0.len() => &lists[prompt],
            Positions::Each(lists) => {
                return Err(Error::PositionLists { lists: lists.len(), prompts: self.0.len() });
            }
        };
        listed.iter().try_for_each(|&position| self.check(Spot { prompt, position }))?;
        Ok(listed.clone())
    }

    /// The positions in every prompt, prompt after prompt.
    pub(crate) fn spots(&self, positions: &Positions) -> Result<Vec<Spot>> {
        let mut spots = Vec::new();
        for prompt in 0..self.0.len() {
            let at = self.in_prompt(prompt, positions)?;
            spots.extend(at.into_iter().map(|position| Spot { prompt, position }));
        }
        Ok(spots)
    }
}
