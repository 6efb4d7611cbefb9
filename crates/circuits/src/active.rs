//! Where directions are active.

use std::ops::Range;

use directrix_corpus::{Prompts, Watch};
use directrix_model::{Ask, Model};
use directrix_sae::Sae;

use crate::Result;
use crate::batch::{BATCH, each_batch};

/// For each prompt, those of `directions` that are active at one at least of the positions that `positions` gives of it: ablating the
/// others there changes nothing.
///
/// # Errors
/// As [`Model::run`], and if an activation is not finite.
pub fn active_at(
    model: &Model,
    sae: &Sae,
    prompts: &Prompts,
    positions: impl Fn(usize) -> Range<usize>,
    directions: &[u32],
    watch: &Watch,
) -> Result<Vec<Vec<u32>>> {
    let hook = sae.site().reads.hook;
    let ask = Ask::capture([hook]).watched(watch);
    let mut found = Vec::with_capacity(prompts.len());
    each_batch(prompts, BATCH, "activations", watch, |part, _| {
        let run = model.run(&part, &ask, &[])?;
        for offsets in part.offsets().windows(2) {
            let rows = positions(found.len());
            let acts = sae.encode(&run.captured(hook).gather(offsets[0] + rows.start..offsets[0] + rows.end))?;
            let is_active = |direction: &u32| (0..rows.len()).any(|row| acts.get(row, *direction) > 0.0);
            found.push(directions.iter().copied().filter(is_active).collect());
        }
        Ok(())
    })?;
    Ok(found)
}
