//! A pass of the model over an index's prompts.

use directrix_corpus::{Event, Prompts, Watch};
use directrix_index::Index;
use directrix_kernels::View;
use directrix_model::{Ask, Model};
use directrix_sae::Sae;

use crate::{Error, Result};

/// Positions that the model runs on together.
const BATCH: usize = 4096;

/// Runs the model on the index's prompts, of each as many tokens as `kept` gives for its length, and hands on, batch by batch,
/// the prompts and what `sae` reads at their positions: `[positions, d_in]`. Memory: a batch's run.
pub(super) fn each_read(
    index: &Index,
    model: &Model,
    sae: &Sae,
    kept: impl Fn(usize) -> usize,
    watch: &Watch,
    mut take: impl FnMut(&Prompts, View) -> Result<()>,
) -> Result<()> {
    let end = &sae.site().reads;
    let ask = Ask::capture([end.hook]).watched(watch);
    let mut batch = Prompts::new();
    for prompt in 0..index.prompts() {
        let tokens = index.prompt(prompt)?;
        let kept = kept(tokens.len());
        if kept > 0 {
            batch.push(&tokens[..kept]);
        }
        if batch.positions() < BATCH && prompt + 1 < index.prompts() {
            continue;
        }
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        if !batch.is_empty() {
            let run = model.run(&batch, &ask, &[])?;
            let captured = run.captured(end.hook);
            let columns = end.columns_in(captured.columns()).expect("the SAE fits the model");
            take(&batch, captured.view().columns_of(columns))?;
            batch = Prompts::new();
        }
        watch.tell(Event::new("activations", prompt as u64 + 1, "prompts").of(index.prompts() as u64));
    }
    Ok(())
}
