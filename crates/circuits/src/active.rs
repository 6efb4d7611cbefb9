//! Where directions are active.

use std::ops::Range;

use directrix_corpus::{Prompts, Watch};
use directrix_model::{Ask, Model};
use directrix_sae::Sae;

use crate::batch::{BATCH, each_batch};
use crate::{Matched, Result};

/// Where directions are active.
#[derive(Debug, Clone)]
pub struct Activity {
    /// For each prompt, those that are active at one at least of the positions asked for: ablating the others there changes
    /// nothing.
    pub active: Vec<Vec<u32>>,
    /// Draws directions that fire at about as many positions of all prompts.
    pub matched: Matched,
}

/// Which of `directions` are active at the positions that `positions` gives of each prompt, and which of all fire as often as they.
///
/// # Errors
/// As [`Model::run`], and if an activation is not finite.
pub fn activity(
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    positions: impl Fn(usize) -> Range<usize>,
    directions: &[u32],
    watch: &Watch,
) -> Result<Activity> {
    let hook = sae.site().reads.hook;
    let ask = Ask::capture([hook]).watched(watch);
    let mut found = Vec::with_capacity(prompts.len());
    let mut fires = vec![0; sae.directions()];
    each_batch(prompts, BATCH, "activations", watch, |part, _| {
        let run = model.run(&part, &ask, &[])?;
        let acts = sae.encode(run.captured(hook))?;
        acts.directions().iter().for_each(|direction| fires[*direction as usize] += 1);
        for offset in &part.offsets()[..part.len()] {
            let rows = positions(found.len()).map(|position| offset + position);
            let is_active = |direction: &u32| rows.clone().any(|row| acts.get(row, *direction) > 0.0);
            found.push(directions.iter().copied().filter(is_active).collect());
        }
        Ok(())
    })?;
    Ok(Activity { active: found, matched: Matched::by(fires.into_iter()) })
}
