//! Filling the cache of activations without training.

use directrix_corpus::{Event, Prompts, Watch};
use directrix_model::batches;

use super::buffer::{RUN, Stream, run};
use super::cache::BLOCK;
use super::recipe::problem;
use super::training::{Training, end_of, hooks_of, open_stream};
use crate::{Error, Result};

/// Keeps the activations that [`train`](super::train) will want, in the training's cache: of `shard`, `[i, n]`, the `i`-th
/// (from 0) of `n` parts of them, each of whole files. Those that are there stay. Nothing is trained, and nothing is written
/// but the cache.
///
/// # Errors
/// As [`train`](super::train), or if the training has no cache.
pub fn fill(training: &Training, shard: [usize; 2], watch: &Watch) -> Result<()> {
    let feed = training.feed;
    feed.check()?;
    if training.cache.is_none() {
        return Err(problem("cache", "name the folder that is filled"));
    }
    let ends = training.recipes.iter().map(|(_, recipe)| end_of(recipe, training.model)).collect::<Result<Vec<_>>>()?;
    let (hooks, widths) = hooks_of(&ends, training.model);
    let share = [shard[0] as u64, shard[1].max(1) as u64];
    let mut stream = open_stream(training, &hooks, &widths, share, watch)?;
    let wanted = feed.tokens.saturating_add(feed.buffer as u64);
    let (mut positions, mut block) = (0, Prompts::new());
    loop {
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        let first = stream.windows.given() - block.len() as u64;
        let tokens = if positions < wanted { Some(stream.windows.advance()?) } else { None };
        // The first window of the next reading is there already.
        let tokens = tokens.filter(|_| stream.windows.per_reading().is_none());
        let is_last = tokens.is_none();
        if let Some(tokens) = tokens {
            positions += tokens.iter().filter(|token| !feed.exclude.contains(token)).count() as u64;
            block.push(&tokens);
        }
        if is_last || block.len() as u64 == BLOCK {
            keep(&mut stream, first, &block)?;
            watch.tell(Event::new("filling the cache", positions.min(wanted), "positions").of(wanted));
            block = Prompts::new();
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Keeps those of some windows of a block, from number `first` on, that the cache is to keep and has not.
fn keep(stream: &mut Stream, first: u64, block: &Prompts) -> Result<()> {
    let Stream { model, hooks, cache: Some(cache), watch, .. } = stream else { return Ok(()) };
    if !cache.keeps(first) {
        return Ok(());
    }
    let numbers: Vec<u64> = (first..first + block.len() as u64).collect();
    cache.look_for(&numbers)?;
    let missing: Vec<u64> = numbers.into_iter().filter(|number| !cache.has(*number)).collect();
    let windows = Prompts::from_rows(missing.iter().map(|number| block.get((number - first) as usize)));
    for range in batches(&windows, RUN) {
        let (numbers, windows) = (&missing[range.clone()], windows.range(range));
        let made = run(model, hooks, &windows, watch)?;
        for ((number, tokens), at) in numbers.iter().zip(windows.iter()).zip(windows.offsets().windows(2)) {
            let rows: Vec<&[f32]> = made.iter().map(|rows| rows.row_range(at[0]..at[1])).collect();
            cache.keep(*number, tokens, &rows)?;
        }
    }
    cache.finish()
}
