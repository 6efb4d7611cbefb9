//! Prompts, batch by batch.

use std::ops::Range;

use directrix_corpus::{Event, Prompts, Watch};
use directrix_model::batches;

use crate::{Error, Result};

/// Positions in one model pass.
pub(crate) const BATCH: usize = 4096;

/// Calls `f` with consecutive batches of about `positions` positions, and tells `watch` of each.
pub(crate) fn each_batch(
    prompts: &Prompts,
    positions: usize,
    step: &'static str,
    watch: &Watch,
    mut f: impl FnMut(Prompts, Range<usize>) -> Result<()>,
) -> Result<()> {
    for batch in batches(prompts, positions) {
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        let end = prompts.offsets()[batch.end];
        f(prompts.range(batch.clone()), batch)?;
        watch.tell(Event::new(step, end as u64, "positions").of(prompts.positions() as u64));
    }
    Ok(())
}
