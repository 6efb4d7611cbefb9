//! Shuffled activations: a bounded buffer that batches are drawn from, refilled from the model when half of it is used.

use std::collections::BTreeMap;

use bytemuck::cast_slice;
use directrix_corpus::{Event, Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{Ask, HookPoint, Model, batches};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::over::{Over, numbers};
use super::windows::Windows;
use crate::{Error, Result};

/// Positions that the model runs on together.
pub(super) const RUN: usize = 8192;

/// Where activations come from.
pub(super) struct Stream<'a> {
    pub(super) model: &'a Model,
    pub(super) hooks: Vec<HookPoint>,
    pub(super) windows: Windows<'a>,
    /// Tokens whose positions are left out.
    pub(super) exclude: &'a [u32],
    pub(super) cache: Option<Cache>,
    pub(super) watch: Watch,
    pub(super) over: Over<'a>,
}

impl Stream<'_> {
    /// The values at each hook point for all positions of some windows, one window after another. Each rank reads some of
    /// the windows, or runs the model on them: a position's bits do not depend on what the model runs on beside it. The cache
    /// keeps them if it is to.
    fn activations(&mut self, numbers: &[u64], windows: &Prompts, keep: bool) -> Result<Vec<Matrix>> {
        // The corpus is read over and over: the same windows come again.
        let per_reading = self.windows.per_reading();
        let numbers: Vec<u64> = numbers.iter().map(|number| per_reading.map_or(*number, |of| number % of)).collect();
        if let Some(cache) = &mut self.cache {
            cache.look_for(&numbers)?;
        }
        let share = self.over.share(windows.len());
        let mine = self.read_or_run(&numbers[share.clone()], &windows.range(share));
        let all = if self.over.size() == 1 { mine? } else { self.of_all(mine, windows)? };
        if let Some(cache) = self.cache.as_mut().filter(|_| keep) {
            for ((number, tokens), at) in numbers.into_iter().zip(windows.iter()).zip(windows.offsets().windows(2)) {
                let rows: Vec<&[f32]> = all.iter().map(|rows| rows.row_range(at[0]..at[1])).collect();
                cache.keep(number, tokens, &rows)?;
            }
        }
        Ok(all)
    }

    fn widths(&self) -> Vec<usize> {
        self.hooks.iter().map(|hook| hook.shape(self.model.config(), 0).iter().product()).collect()
    }

    /// What this process does of it.
    fn read_or_run(&mut self, numbers: &[u64], windows: &Prompts) -> Result<Vec<Matrix>> {
        let zeros = |width: usize| Matrix::zeros(windows.positions(), width);
        let mut all: Vec<Matrix> = self.widths().into_iter().map(zeros).collect();
        let offsets = windows.offsets();
        let mut put = |window: usize, hook: usize, rows: &[f32]| {
            let start = offsets[window] * all[hook].columns();
            all[hook].data_mut()[start..start + rows.len()].copy_from_slice(rows);
        };
        let (mut missing, mut to_run) = (Vec::new(), Prompts::new());
        for (window, (number, tokens)) in numbers.iter().zip(windows.iter()).enumerate() {
            if let Some(found) = self.cache.as_mut().map_or(Ok(None), |cache| cache.read(*number, tokens))? {
                found.iter().enumerate().for_each(|(hook, rows)| put(window, hook, rows));
            } else {
                missing.push(window);
                to_run.push(tokens);
            }
        }
        // There may be fewer windows than ranks.
        if !missing.is_empty() {
            let made = run(self.model, &self.hooks, &to_run, &self.watch)?;
            for (window, at) in missing.into_iter().zip(to_run.offsets().windows(2)) {
                made.iter().enumerate().for_each(|(hook, rows)| put(window, hook, rows.row_range(at[0]..at[1])));
            }
        }
        Ok(all)
    }

    /// What all ranks have of these windows, where this one has `mine`.
    fn of_all(&self, mine: Result<Vec<Matrix>>, windows: &Prompts) -> Result<Vec<Matrix>> {
        let bytes = |mine: Vec<Matrix>| mine.iter().flat_map(|rows| cast_slice(rows.data())).copied().collect();
        let parts = self.over.all(mine.map(bytes))?;
        let widths = self.widths();
        let mut all = vec![Vec::new(); widths.len()];
        for (rank, part) in parts.iter().enumerate() {
            let share = self.over.share_of(windows.len(), rank);
            let positions = windows.offsets()[share.end] - windows.offsets()[share.start];
            let mut values: Vec<f32> = numbers(rank, part, positions * widths.iter().sum::<usize>())?;
            for (all, width) in all.iter_mut().zip(&widths).rev() {
                all.push(values.split_off(values.len() - positions * width));
            }
        }
        let join = |(parts, width): (Vec<Vec<f32>>, usize)| Matrix::new(parts.concat(), windows.positions(), width);
        Ok(all.into_iter().zip(widths).map(join).collect())
    }

    fn tell_filled(&self, filled: usize, of: usize) {
        self.watch.tell(Event::new("filling the buffer", filled as u64, "positions").of(of as u64));
    }
}

/// The values at each hook point for all positions of some windows, made by the model.
pub(super) fn run(model: &Model, hooks: &[HookPoint], windows: &Prompts, watch: &Watch) -> Result<Vec<Matrix>> {
    let run = model.run(windows, &Ask::capture(hooks.iter().copied()).watched(watch), &[])?;
    Ok(hooks.iter().map(|hook| run.captured(*hook).clone()).collect())
}

/// A row's origin: a window of the stream and a position in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) window: u64,
    pub(super) position: u32,
}

/// A window with rows in the buffer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Live {
    tokens: Vec<u32>,
    rows: usize,
}

/// What a checkpoint keeps of a buffer: where its rows came from. The rows themselves are computed again, as a position's
/// bits do not depend on what the model runs on beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BufferState {
    slots: Vec<Slot>,
    order: Vec<u32>,
    next: usize,
    refills: u64,
    live: BTreeMap<u64, Live>,
    /// The next row of a window that did not fit whole.
    pending: Option<Slot>,
    given: u64,
}

impl BufferState {
    /// Whether its parts go together, in a buffer of `capacity` rows.
    pub(super) fn is_sound(&self, capacity: usize) -> bool {
        let BufferState { slots, order, next, live, pending, given, .. } = self;
        let mut seen = vec![false; slots.len()];
        let mut is_new = |slot: &u32| seen.get_mut(*slot as usize).is_some_and(|seen| !std::mem::replace(seen, true));
        let is_live = |slot: &Slot| live.get(&slot.window).is_some_and(|w| (slot.position as usize) < w.tokens.len());
        let mut rows: BTreeMap<u64, usize> = live.keys().map(|window| (*window, 0)).collect();
        slots.iter().for_each(|slot| {
            rows.entry(slot.window).and_modify(|rows| *rows += 1);
        });
        slots.len() == capacity
            && order.len() == capacity
            && *next <= capacity
            && order.iter().all(&mut is_new)
            && slots.iter().chain(pending).all(is_live)
            && live.iter().all(|(window, live)| window < given && live.rows == rows[window])
    }
}

/// The buffer.
pub(super) struct Buffer {
    seed: u64,
    data: Vec<Matrix>,
    state: BufferState,
}

impl Buffer {
    /// Bytes that each row's origin and place in the order take.
    pub(super) const ROW_STATE: u64 = (size_of::<Slot>() + size_of::<u32>()) as u64;

    /// An empty buffer of `capacity` rows for hook points of these widths.
    pub(super) fn new(capacity: usize, widths: &[usize], seed: u64) -> Buffer {
        Buffer {
            seed,
            data: widths.iter().map(|width| Matrix::zeros(capacity, *width)).collect(),
            state: BufferState {
                slots: vec![Slot::default(); capacity],
                order: Vec::new(),
                next: 0,
                refills: 0,
                live: BTreeMap::new(),
                pending: None,
                given: 0,
            },
        }
    }

    /// Rows that were not drawn yet.
    pub(super) fn left(&self) -> usize {
        self.state.slots.len() - self.state.next
    }

    /// What a checkpoint keeps.
    pub(super) fn state(&self) -> &BufferState {
        &self.state
    }

    /// Fills the buffer as it was, and brings the stream to where it was. The state must be [sound](BufferState::is_sound).
    ///
    /// # Errors
    /// If the corpus or the model fails, or the work is stopped.
    pub(super) fn restore(&mut self, state: BufferState, stream: &mut Stream) -> Result<()> {
        let passed = stream.windows.skip_to(state.given, &stream.watch);
        stream.over.all(passed.map(|()| Vec::new()))?;
        let mut places: BTreeMap<u64, Vec<(u32, u32)>> = BTreeMap::new();
        for slot in &state.order[state.next..] {
            let Slot { window, position } = state.slots[*slot as usize];
            places.entry(window).or_default().push((position, *slot));
        }
        let numbers: Vec<u64> = places.keys().copied().collect();
        let windows =
            Prompts::from_rows(numbers.iter().map(|n| state.live.get(n).map_or(&[][..], |live| &live.tokens)));
        let mut filled = 0;
        for range in batches(&windows, RUN) {
            let (numbers, windows) = (&numbers[range.clone()], windows.range(range));
            let made = stream.activations(numbers, &windows, false)?;
            for (number, offset) in numbers.iter().zip(windows.offsets()) {
                for &(position, slot) in &places[number] {
                    self.put(slot as usize, &made, offset + position as usize);
                    filled += 1;
                }
            }
            stream.tell_filled(filled, state.order.len() - state.next);
        }
        self.state = state;
        Ok(())
    }

    /// The next `size` rows at each hook point.
    ///
    /// # Errors
    /// If the corpus or the model fails, the corpus does not fill the buffer (what is left out does not count), or the work
    /// is stopped. The state is then what it was.
    pub(super) fn batch(&mut self, size: usize, stream: &mut Stream) -> Result<Vec<Matrix>> {
        if self.state.order.is_empty() || self.state.next >= self.state.slots.len() / 2 {
            let before = self.state.clone();
            self.refill(stream).inspect_err(|_| self.state = before)?;
        }
        let rows = &self.state.order[self.state.next..self.state.next + size];
        let batch = self.data.iter().map(|data| data.gather(rows.iter().map(|row| *row as usize))).collect();
        self.state.next += size;
        Ok(batch)
    }

    fn put(&mut self, slot: usize, made: &[Matrix], row: usize) {
        for (data, made) in self.data.iter_mut().zip(made) {
            data.row_mut(slot).copy_from_slice(made.row(row));
        }
    }

    fn refill(&mut self, stream: &mut Stream) -> Result<()> {
        let first_fill = self.state.order.is_empty();
        let capacity = self.state.slots.len();
        let mut free: Vec<u32> =
            if first_fill { (0..capacity as u32).collect() } else { self.state.order[..self.state.next].to_vec() };
        if !first_fill {
            for slot in &free {
                let window = self.state.slots[*slot as usize].window;
                if let Some(live) = self.state.live.get_mut(&window) {
                    live.rows -= 1;
                }
            }
            let pending = self.state.pending.map(|slot| slot.window);
            self.state.live.retain(|window, live| live.rows > 0 || Some(*window) == pending);
        }
        free.reverse();
        while !free.is_empty() {
            let (mut numbers, mut windows, mut starts) = (Vec::new(), Prompts::new(), Vec::new());
            while windows.positions() < RUN.min(free.len()) {
                let (number, start) = if let Some(Slot { window, position }) = self.state.pending.take() {
                    (window, position as usize)
                } else {
                    let tokens = stream.windows.advance()?;
                    let number = stream.windows.given() - 1;
                    if first_fill && stream.windows.per_reading().is_some() {
                        return Err(Error::SmallCorpus { found: capacity - free.len(), buffer: capacity });
                    }
                    self.state.live.insert(number, Live { tokens, rows: 0 });
                    (number, 0)
                };
                windows.push(&self.state.live[&number].tokens);
                numbers.push(number);
                starts.push(start);
            }
            if first_fill {
                stream.tell_filled(capacity - free.len(), capacity);
            }
            let made = stream.activations(&numbers, &windows, true)?;
            for (i, number) in numbers.iter().enumerate() {
                let (from, to) = (windows.offsets()[i], windows.offsets()[i + 1]);
                for position in starts[i]..to - from {
                    if stream.exclude.contains(&windows.get(i)[position]) {
                        continue;
                    }
                    let slot_of = Slot { window: *number, position: position as u32 };
                    let Some(slot) = free.pop() else {
                        self.state.pending.get_or_insert(slot_of);
                        break;
                    };
                    self.put(slot as usize, &made, from + position);
                    self.state.slots[slot as usize] = slot_of;
                    if let Some(live) = self.state.live.get_mut(number) {
                        live.rows += 1;
                    }
                }
            }
        }
        self.state.given = stream.windows.given();
        self.state.order = (0..capacity as u32).collect();
        let seed = self.seed.wrapping_add(self.state.refills.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.state.order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        self.state.refills += 1;
        self.state.next = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use directrix_corpus::Chunk;
    use directrix_model::{Folder, Processing};

    use super::super::recipe::WindowStyle;
    use super::*;

    #[test]
    fn positions_of_excluded_tokens_never_come_out_of_the_buffer() {
        let path = format!("{}/../model/tests/fixtures/neo-tiny", env!("CARGO_MANIFEST_DIR"));
        let model = Model::load(&Folder::open(path).unwrap(), Processing::default()).unwrap();
        let hook: HookPoint = "blocks.0.hook_resid_post".parse().unwrap();
        let rows: Vec<Vec<u32>> =
            (0..30).map(|i| (0..9).map(|j| if j == 0 { 0 } else { (i * j) % 7 }).collect()).collect();
        let documents = || {
            let chunk = Chunk { prompts: Prompts::from_rows(&rows), cut: 0 };
            Ok(Box::new(std::iter::once(Ok(chunk))) as Box<dyn Iterator<Item = _>>)
        };
        let stream = |exclude| Stream {
            model: &model,
            hooks: vec![hook],
            windows: Windows::new(&documents, WindowStyle::Documents, 9, Some(0)).unwrap(),
            exclude,
            cache: None,
            watch: Watch::nobody(),
            over: Over::One,
        };
        let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        // The rows that a buffer gives over several readings of the corpus.
        let given = |mut stream: Stream| -> Vec<Vec<u32>> {
            let mut buffer = Buffer::new(64, &[32], 1);
            let batches: Vec<Matrix> = (0..12).map(|_| buffer.batch(16, &mut stream).unwrap().remove(0)).collect();
            batches.iter().flat_map(Matrix::iter_rows).map(bits).collect()
        };
        let prompts = Prompts::from_rows(&rows);
        let run = model.run(&prompts, &Ask::capture([hook]), &[]).unwrap();
        let of = |wanted: &dyn Fn(u32) -> bool| -> std::collections::BTreeSet<Vec<u32>> {
            let rows = run.captured(hook).iter_rows().zip(prompts.tokens()).filter(|(_, token)| wanted(**token));
            rows.map(|(row, _)| bits(row)).collect()
        };
        let exclude = [0, 3];
        let (kept, left_out) = (of(&|token| !exclude.contains(&token)), of(&|token| exclude.contains(&token)));
        assert!(given(stream(&exclude)).iter().all(|row| kept.contains(row)));
        assert!(given(stream(&[])).iter().any(|row| left_out.contains(row)));
        let error = Buffer::new(64, &[32], 1).batch(16, &mut stream(&[0, 1, 2, 3, 4, 5, 6])).unwrap_err();
        assert!(matches!(error, Error::SmallCorpus { found: 0, .. }), "{error}");
    }
}
