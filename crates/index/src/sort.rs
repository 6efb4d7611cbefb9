//! From runs sorted by direction to one list per direction, and what is said of each direction.

use std::path::Path;

use rayon::prelude::*;

use crate::error::At;
use crate::files::{Appender, Mapped, Pieces};
use crate::index::{BINS, Meta, SaeMeta};
use crate::{Options, Result};

/// Activations held in memory at a time.
const HELD: u64 = 1 << 21;

/// What is computed from one direction's activations.
struct Summary {
    maximum: f32,
    maximum_position: u32,
    prompts: u32,
    sum: f64,
    histogram: [u64; BINS],
    /// (token, count), ascending.
    tokens: Vec<(u32, u32)>,
}

/// Removes the runs of one SAE.
pub(crate) fn remove_runs(folder: &Path, sae: &SaeMeta) -> Result<()> {
    for name in ["runs.indptr.u64", "runs.positions.u32", "runs.values.f32"] {
        let path = folder.join(&sae.folder).join(name);
        std::fs::remove_file(&path).at(&path)?;
    }
    Ok(())
}

/// Joins the runs of one SAE bucket by bucket of directions.
pub(crate) fn by_direction(folder: &Path, sae: &SaeMeta, meta: &Meta, shards: u64) -> Result<()> {
    let own = folder.join(&sae.folder);
    let tokens: Mapped<u32> = Mapped::open(folder.join("tokens.u32"), Some(meta.positions as usize))?;
    let offsets: Mapped<u64> = Mapped::open(folder.join("offsets.u64"), Some(meta.prompts + 1))?;
    let width = sae.directions as u64 + 1;
    let mut run_indptr: Pieces<u64> = Pieces::open(own.join("runs.indptr.u64"))?;
    let mut run_positions: Pieces<u32> = Pieces::open(own.join("runs.positions.u32"))?;
    let mut run_values: Pieces<f32> = Pieces::open(own.join("runs.values.f32"))?;

    let mut counts = vec![0_u64; sae.directions];
    for shard in 0..shards {
        let starts = run_indptr.read(shard * width..(shard + 1) * width)?;
        counts.iter_mut().zip(starts.windows(2)).for_each(|(c, s)| *c += s[1] - s[0]);
    }

    let output = |name: &str| own.join(name);
    let mut indptr: Appender<u64> = Appender::open(output("by_direction.indptr.u64"), 0)?;
    let mut positions: Appender<u32> = Appender::open(output("by_direction.positions.u32"), 0)?;
    let mut values: Appender<f32> = Appender::open(output("by_direction.values.f32"), 0)?;
    let mut maximum: Appender<f32> = Appender::open(output("maximum.f32"), 0)?;
    let mut maximum_position: Appender<u32> = Appender::open(output("maximum_position.u32"), 0)?;
    let mut prompts: Appender<u32> = Appender::open(output("prompts.u32"), 0)?;
    let mut sum: Appender<f64> = Appender::open(output("sum.f64"), 0)?;
    let mut histogram: Appender<u64> = Appender::open(output("histogram.u64"), 0)?;
    let mut token_indptr: Appender<u64> = Appender::open(output("tokens.indptr.u64"), 0)?;
    let mut token_ids: Appender<u32> = Appender::open(output("tokens.tokens.u32"), 0)?;
    let mut token_counts: Appender<u32> = Appender::open(output("tokens.counts.u32"), 0)?;
    indptr.append(&[0])?;
    token_indptr.append(&[0])?;

    let mut first = 0;
    while first < sae.directions {
        let mut last = first + 1;
        let mut held = counts[first];
        while last < sae.directions && held + counts[last] <= HELD {
            held += counts[last];
            last += 1;
        }
        let mut lists: Vec<(Vec<u32>, Vec<f32>)> = counts[first..last]
            .iter()
            .map(|&c| (Vec::with_capacity(c as usize), Vec::with_capacity(c as usize)))
            .collect();
        for shard in 0..shards {
            let base = shard * width;
            let starts = run_indptr.read(base + first as u64..base + last as u64 + 1)?;
            let range = starts[0]..starts[starts.len() - 1];
            let (run_positions, run_values) = (run_positions.read(range.clone())?, run_values.read(range.clone())?);
            for (list, start) in lists.iter_mut().zip(starts.windows(2)) {
                let own = (start[0] - range.start) as usize..(start[1] - range.start) as usize;
                list.0.extend_from_slice(&run_positions[own.clone()]);
                list.1.extend_from_slice(&run_values[own]);
            }
        }
        let summaries: Vec<Summary> = lists
            .par_iter()
            .map(|(positions, values)| summarise(positions, values, &tokens, &offsets, meta.identity.options))
            .collect();
        for ((list_positions, list_values), summary) in lists.iter().zip(summaries) {
            positions.append(list_positions)?;
            values.append(list_values)?;
            indptr.append(&[positions.len()])?;
            maximum.append(&[summary.maximum])?;
            maximum_position.append(&[summary.maximum_position])?;
            prompts.append(&[summary.prompts])?;
            sum.append(&[summary.sum])?;
            histogram.append(&summary.histogram)?;
            token_ids.append(&summary.tokens.iter().map(|t| t.0).collect::<Vec<_>>())?;
            token_counts.append(&summary.tokens.iter().map(|t| t.1).collect::<Vec<_>>())?;
            token_indptr.append(&[token_ids.len()])?;
        }
        first = last;
    }
    indptr.flush()?;
    positions.flush()?;
    values.flush()?;
    maximum.flush()?;
    maximum_position.flush()?;
    prompts.flush()?;
    sum.flush()?;
    histogram.flush()?;
    token_indptr.flush()?;
    token_ids.flush()?;
    token_counts.flush()?;
    Ok(())
}

/// Calls `f` with (prompt, first position of the prompt, positions of the prompt, entries) for every prompt in which the
/// direction fires.
pub(crate) fn by_prompt<'a>(
    positions: &'a [u32],
    values: &'a [f32],
    offsets: &'a [u64],
) -> impl Iterator<Item = (usize, u64, u64, &'a [u32], &'a [f32])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let position = *positions.get(at)? as u64;
        let prompt = offsets.partition_point(|o| *o <= position) - 1;
        let (start, end) = (offsets[prompt], offsets[prompt + 1]);
        let n = positions[at..].partition_point(|p| (*p as u64) < end);
        let entries = at..at + n;
        at += n;
        Some((prompt, start, end - start, &positions[entries.clone()], &values[entries]))
    })
}

fn summarise(positions: &[u32], values: &[f32], tokens: &[u32], offsets: &[u64], options: Options) -> Summary {
    let (mut maximum, mut maximum_position, mut prompts) = (0.0_f32, 0, 0);
    for (_, start, len, positions, values) in by_prompt(positions, values, offsets) {
        let end = start + len - u64::from(options.skip_last);
        let mut seen = false;
        for (&position, &value) in positions.iter().zip(values).take_while(|(p, _)| (**p as u64) < end) {
            seen = true;
            if value > maximum {
                (maximum, maximum_position) = (value, position);
            }
        }
        prompts += u32::from(seen);
    }
    let mut histogram = [0; BINS];
    for &value in values {
        let bin = if maximum > 0.0 { (value / maximum * BINS as f32) as usize } else { BINS };
        histogram[bin.min(BINS - 1)] += 1;
    }
    let threshold = options.count_above * maximum;
    let mut counted: Vec<u32> = by_prompt(positions, values, offsets)
        .flat_map(|(_, start, _, positions, values)| {
            positions
                .iter()
                .zip(values)
                .filter(move |(p, v)| **v > threshold && **p as u64 - start >= options.skip_first as u64)
        })
        .map(|(&position, _)| tokens[position as usize])
        .collect();
    counted.sort_unstable();
    let tokens = counted.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)).collect();
    let sum = values.iter().map(|&v| v as f64).sum();
    Summary { maximum, maximum_position, prompts, sum, histogram, tokens }
}
