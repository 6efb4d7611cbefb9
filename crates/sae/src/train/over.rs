//! How the work of a run is divided over several processes.

use std::fmt;
use std::ops::Range;

use bytemuck::{Pod, cast_slice, cast_slice_mut};
use directrix_corpus::{self as corpus, Ranks};
use directrix_kernels::{ByDirection, Encoder, Keep, Matrix, SparseActivations, TILE};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::member;
use super::recipe::Recipe;
use crate::{Error, Result};

/// The ranks that a run is divided over, and what of it is divided. All ranks are given the same training and make the same
/// steps.
///
/// In either way the model's windows are divided: a rank runs the model on its share of them and gives the others the rows,
/// 4 bytes for each number of each position that is trained on.
///
/// **By positions**, every rank holds the whole SAE. A rank encodes its share of the batch and gives the others the
/// entries: of `A` in all, `4 A` bytes of values and `min(4 A, batch × directions / 8)` of places. Of the errors it finds
/// its positions' rows, `4 × batch × d_in` bytes in all, and of the errors' products with decoder rows those of its share
/// of directions, `4 A`. Then every rank has the gradient in factors and takes Adam's step for itself: not only close to
/// one process but with its bits, on any number of ranks.
///
/// The other way would be to add up the weights' gradients, `8 × directions × d_in` bytes that pass twice, once to be added
/// and once to be handed back. The factors are fewer while `batch × (1 + 3 k / d_in) < 4 × directions`, `k` the mean of
/// active directions: with a batch of 4096, 768 inputs and 16 times as many directions, 16 MB against 151 for a `k` of 64.
/// In the first steps of a ReLU SAE, when half of the directions fire, they are more, 220 MB; and so they are where an SAE
/// is small beside its batch, of which a step is short anyway. For those, sums with other bits on each number of ranks are
/// not worth having. So it is factors always.
///
/// **By directions**, a rank holds a contiguous share of the directions (rows of encoder and decoder, their moments and
/// counts), so that ranks together train what none of them can hold. Each encodes the whole batch with its own directions;
/// the `k` largest are found among the `k` largest of each (4 bytes for each entry and position, of every rank); the
/// reconstruction is the sum of all ranks' parts, `4 × batch × d_in` bytes that pass twice, for every prefix, the gates of
/// a gated SAE and its dead directions. Gradients stay where they are. The sums' last bits differ from those of one
/// process, and are their own again on every run.
#[derive(Clone, Copy, Default)]
pub enum Over<'a> {
    /// One process does everything.
    #[default]
    One,
    /// The positions of a batch are divided.
    Positions(&'a dyn Ranks),
    /// The directions of every SAE are divided.
    Directions(&'a dyn Ranks),
}

/// What of a training run is divided over ranks, as the command's flag has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The positions of each batch.
    #[default]
    Positions,
    /// The directions of each SAE.
    Directions,
}

impl Split {
    /// This, over the ranks there are; one process where there are none.
    pub fn over(self, ranks: Option<&dyn Ranks>) -> Over<'_> {
        match (ranks, self) {
            (None, _) => Over::One,
            (Some(ranks), Split::Positions) => Over::Positions(ranks),
            (Some(ranks), Split::Directions) => Over::Directions(ranks),
        }
    }

    /// Bytes that a rank is given by the others in a step of one SAE, whose recipe this is, on a batch of `batch` positions
    /// with `d_in` numbers and `l0` active directions each. The rows of the batch themselves are beside it, `4 × d_in ×
    /// batch` once for all SAEs that read them; and what only the batch can tell: which entries are near the `k` largest,
    /// and what dead directions give.
    ///
    /// # Errors
    /// If the recipe is none for so many inputs.
    pub fn bytes(self, recipe: &Recipe, batch: usize, d_in: usize, l0: f64, ranks: usize) -> Result<f64> {
        const NUMBER: f64 = size_of::<f32>() as f64;
        let directions = member::directions(recipe, d_in)?;
        let objective = recipe.objective(directions, d_in)?;
        let (positions, others) = (batch as f64, ranks.saturating_sub(1) as f64);
        let of_all = others / ranks.max(1) as f64;
        let (prefixes, (each, beside)) = (objective.prefixes(directions).len(), objective.exchanged());
        Ok(match self {
            Split::Positions => {
                let entries = NUMBER * positions * l0;
                let places = entries.min(positions * directions.div_ceil(8) as f64);
                let rows = NUMBER * positions * (d_in * (prefixes + beside)) as f64;
                of_all * (NUMBER * positions + entries + places + rows + entries * (1 + beside) as f64)
            }
            Split::Directions => {
                let rows = positions * (prefixes + beside) as f64 + 1.0;
                others * positions * each as f64 + 2.0 * of_all * NUMBER * d_in as f64 * rows
            }
        })
    }
}

impl fmt::Debug for Over<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, ranks) = match self {
            Over::One => return f.write_str("One"),
            Over::Positions(ranks) => ("Positions", ranks),
            Over::Directions(ranks) => ("Directions", ranks),
        };
        write!(f, "{name}({} of {})", ranks.rank(), ranks.size())
    }
}

/// A rank's contiguous share of `count` things.
fn share(count: usize, rank: usize, size: usize) -> Range<usize> {
    let start = |rank: usize| (count as u128 * rank as u128 / size.max(1) as u128) as usize;
    start(rank)..start(rank + 1)
}

impl<'a> Over<'a> {
    /// The ranks, if there are several processes.
    pub fn ranks(self) -> Option<&'a dyn Ranks> {
        match self {
            Over::One => None,
            Over::Positions(ranks) | Over::Directions(ranks) => Some(ranks),
        }
    }

    /// Whether this is the rank that writes files: the first one.
    pub fn leads(self) -> bool {
        self.ranks().is_none_or(|ranks| ranks.rank() == 0)
    }

    /// The number of ranks.
    pub(super) fn size(self) -> usize {
        self.ranks().map_or(1, Ranks::size)
    }

    /// This rank's share of `count` things.
    pub(super) fn share(self, count: usize) -> Range<usize> {
        self.ranks().map_or(0..count, |ranks| share(count, ranks.rank(), ranks.size()))
    }

    /// The share of rank `rank`.
    pub(super) fn share_of(self, count: usize, rank: usize) -> Range<usize> {
        share(count, rank, self.size())
    }

    /// The ranks that hold the other directions.
    pub(super) fn holders(self) -> Option<&'a dyn Ranks> {
        if let Over::Directions(ranks) = self { Some(ranks) } else { None }
    }

    /// The directions that this rank holds of so many.
    pub(super) fn held(self, directions: usize) -> Range<usize> {
        self.holders().map_or(0..directions, |ranks| share(directions, ranks.rank(), ranks.size()))
    }

    /// The directions that each rank holds of so many; the first one holds all where they are not divided.
    pub(super) fn holds(self, directions: usize) -> Vec<Range<usize>> {
        let size = self.holders().map_or(1, Ranks::size);
        (0..size).map(|rank| share(directions, rank, size)).collect()
    }

    /// What every rank gives; of one process, what it gives.
    pub(super) fn gather(self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.ranks().map_or_else(|| Ok(vec![mine.clone()]), |ranks| Ok(ranks.gather(&mine)?))
    }

    /// The sum over all directions, where each rank has that over its own.
    pub(super) fn sum(self, numbers: &mut [f32]) -> Result<()> {
        self.holders().map_or(Ok(()), |ranks| Ok(ranks.sum(numbers)?))
    }

    /// The same of `f64`s.
    pub(super) fn sum_wide(self, numbers: &mut [f64]) -> Result<()> {
        let Some(ranks) = self.holders() else { return Ok(()) };
        let parts = ranks.gather(cast_slice(numbers))?;
        numbers.fill(0.0);
        for (rank, part) in parts.iter().enumerate() {
            let part: Vec<f64> = self::numbers(rank, part, numbers.len())?;
            numbers.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        Ok(())
    }

    /// The total of one such number.
    pub(super) fn total(self, number: f64) -> Result<f64> {
        let mut numbers = [number];
        self.sum_wide(&mut numbers)?;
        Ok(numbers[0])
    }

    /// Whether any rank is to stop.
    pub(super) fn any(self, stopped: bool) -> Result<bool> {
        Ok(self.gather(vec![u8::from(stopped)])?.iter().any(|said| said.first() != Some(&0)))
    }

    /// What every rank has made, in their order, or the error of one that has diverged or was stopped: all then end alike.
    /// Those of other kinds end the rank that has them, of which the others are told.
    pub(super) fn all(self, mine: Result<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let said = match mine {
            Ok(mut bytes) => {
                bytes.push(MADE);
                bytes
            }
            Err(Error::Stopped) => vec![STOPPED],
            Err(Error::Diverged { step, what }) => [&step.to_le_bytes()[..], what.as_bytes(), &[DIVERGED]].concat(),
            Err(error) => return Err(error),
        };
        let mut made = self.gather(said)?;
        for (rank, bytes) in made.iter_mut().enumerate() {
            match (bytes.pop(), bytes.split_first_chunk::<8>()) {
                (Some(MADE), _) => {}
                (Some(STOPPED), _) => return Err(Error::Stopped),
                (Some(DIVERGED), Some((step, what))) => {
                    let what = String::from_utf8_lossy(what).into_owned();
                    return Err(Error::Diverged { step: u64::from_le_bytes(*step), what });
                }
                _ => return Err(unlike(rank)),
            }
        }
        Ok(made)
    }

    /// `rows + acts[:, directions] w[directions]`, as the kernel's `sparse_product`, by all ranks.
    pub(super) fn add_product(
        self,
        mut rows: Matrix,
        pattern: &ByDirection,
        acts: &[f32],
        directions: Range<usize>,
        w: &Matrix,
    ) -> Result<Matrix> {
        match self {
            Over::Positions(ranks) if ranks.size() > 1 => {
                let (positions, at) = (rows.rows(), self.share(rows.rows()));
                let mut mine = rows.gather(at.clone());
                directrix_kernels::sparse_product_at(pattern, acts, directions, w, at, positions, &mut mine);
                let parts = self.gather(cast_slice(mine.data()).to_vec())?;
                let all = cast_slice_mut::<f32, u8>(rows.data_mut());
                join(&parts, all)?;
                return Ok(rows);
            }
            Over::Directions(ranks) if ranks.rank() > 0 => rows.data_mut().fill(0.0),
            _ => {}
        }
        directrix_kernels::sparse_product(pattern, acts, directions, w, &mut rows);
        self.sum(rows.data_mut())?;
        Ok(rows)
    }

    /// `rows[position] · w[direction]` at every entry of `directions`, as the kernel's `sampled_product`, by all ranks.
    pub(super) fn dots(
        self,
        pattern: &ByDirection,
        directions: Range<usize>,
        rows: &Matrix,
        w: &Matrix,
    ) -> Result<Vec<f32>> {
        if !matches!(self, Over::Positions(ranks) if ranks.size() > 1) {
            return Ok(directrix_kernels::sampled_product(pattern, directions, rows, w));
        }
        let tiles = self.share(directions.len().div_ceil(TILE));
        let place = |tile: usize| (directions.start + tile * TILE).min(directions.end);
        let mine = directrix_kernels::sampled_product(pattern, place(tiles.start)..place(tiles.end), rows, w);
        let parts = self.gather(cast_slice(&mine).to_vec())?;
        let mut dots = vec![0.0; pattern.indptr()[directions.end] - pattern.indptr()[directions.start]];
        join(&parts, cast_slice_mut(&mut dots))?;
        Ok(dots)
    }

    /// The kernel's `encode` of `x`, `[positions, d_in]`: of all positions and the directions that this rank holds, by all
    /// ranks. Where that spares bytes, entries that are not among the `most` largest of a rank are left out. `diverged`
    /// makes the error of a direction that is not finite.
    ///
    /// # Errors
    /// That, or if a rank is gone.
    pub(super) fn encode(
        self,
        x: &Matrix,
        encoder: Encoder,
        most: usize,
        diverged: impl Fn(usize) -> Error,
    ) -> Result<SparseActivations> {
        let encode = |rows: Range<usize>| {
            directrix_kernels::encode(x.view().rows_of(rows), encoder).map_err(|e| diverged(e.direction))
        };
        match (self, encoder.keep) {
            (Over::Positions(ranks), _) => {
                let mine = encode(self.share(x.rows())).map(|mine| largest(most, mine));
                let directions = encoder.weights.columns();
                let parts = self.all(mine.map(|mine| packed(&mine, directions)))?;
                let mut all = SparseActivations::default();
                for (rank, part) in parts.iter().enumerate() {
                    let rows = share(x.rows(), rank, ranks.size()).len();
                    unpack(part, rows, directions, &mut all).ok_or_else(|| unlike(rank))?;
                }
                Ok(all)
            }
            (Over::Directions(ranks), Keep::Largest(k)) => {
                let (mine, all) = self.values(x.rows(), encode(0..x.rows()))?;
                Ok(largest_of_each(k, &mine, &all, ranks.rank()))
            }
            _ => encode(0..x.rows()),
        }
    }

    /// Of entries of the directions that this rank holds, those that are among the `wanted` largest of the batch and all
    /// ranks, and the smallest of those; of equals the first position's, and there the lowest direction.
    pub(super) fn largest(
        self,
        wanted: usize,
        candidates: SparseActivations,
    ) -> Result<(SparseActivations, Option<f32>)> {
        let positions = candidates.positions();
        // No rank has more among the largest of all than are among its own.
        let mine = largest(wanted, candidates);
        let Some(ranks) = self.holders() else {
            let smallest = mine.values().iter().copied().reduce(f32::min);
            return Ok((mine, smallest));
        };
        let (mine, all) = self.values(positions, Ok(mine))?;
        let mut order: Vec<(f32, usize, usize, usize)> = Vec::new();
        for (rank, values) in all.iter().enumerate() {
            for position in 0..positions {
                order.extend(values.range(position).map(|entry| (values.values[entry], position, rank, entry)));
            }
        }
        if order.len() > wanted && wanted > 0 {
            let before = |a: &(f32, usize, usize, usize), b: &(f32, usize, usize, usize)| {
                b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3)))
            };
            order.select_nth_unstable_by(wanted - 1, before);
        }
        order.truncate(wanted);
        let mut keep = vec![false; mine.active()];
        order.iter().filter(|(_, _, rank, _)| *rank == ranks.rank()).for_each(|(.., entry)| keep[*entry] = true);
        Ok((only(&mine, &keep), order.into_iter().map(|(value, ..)| value).reduce(f32::min)))
    }

    /// The values of all ranks' entries, where each has its own directions'; this rank's are given back.
    fn values(self, positions: usize, mine: Result<SparseActivations>) -> Result<(SparseActivations, Vec<Values>)> {
        let mut own = SparseActivations::default();
        let parts = self.all(mine.map(|mine| {
            own = mine;
            [cast_slice::<u32, u8>(&counts(&own)), cast_slice(own.values())].concat()
        }))?;
        let read = |(rank, part): (usize, &Vec<u8>)| {
            let (counts, values) = part.split_at_checked(4 * positions).ok_or_else(|| unlike(rank))?;
            let mut indptr = vec![0];
            for count in read::<u32>(counts) {
                indptr.push(indptr[indptr.len() - 1] + count as usize);
            }
            let values = numbers(rank, values, indptr[positions])?;
            Ok(Values { indptr, values })
        };
        let all = parts.iter().enumerate().map(read).collect::<Result<_>>()?;
        Ok((own, all))
    }
}

/// How what a rank gives to [`Over::all`] ends.
const MADE: u8 = 0;
const STOPPED: u8 = 1;
const DIVERGED: u8 = 2;

/// Values of entries, by position.
struct Values {
    indptr: Vec<usize>,
    values: Vec<f32>,
}

impl Values {
    fn range(&self, position: usize) -> Range<usize> {
        self.indptr[position]..self.indptr[position + 1]
    }
}

/// How many entries each position has.
fn counts(entries: &SparseActivations) -> Vec<u32> {
    entries.indptr().windows(2).map(|at| (at[1] - at[0]) as u32).collect()
}

/// Entries as bytes: how many each position has, the values, and where they are, which is a number for each or a bit for
/// each direction, whichever is less.
fn packed(entries: &SparseActivations, directions: usize) -> Vec<u8> {
    let mut bytes = [cast_slice(&counts(entries)), cast_slice(entries.values())].concat();
    if as_bits(entries.positions(), entries.active(), directions) {
        for position in 0..entries.positions() {
            let start = bytes.len();
            bytes.resize(start + directions.div_ceil(8), 0);
            entries.at(position).0.iter().for_each(|d| bytes[start + *d as usize / 8] |= 1 << (d % 8));
        }
    } else {
        bytes.extend_from_slice(cast_slice(entries.directions()));
    }
    bytes
}

/// Whether places of entries are fewer bytes as bits.
fn as_bits(positions: usize, active: usize, directions: usize) -> bool {
    positions * directions.div_ceil(8) < size_of::<u32>() * active
}

/// Appends the entries that were [`packed`]; `None` if the bytes are none.
fn unpack(bytes: &[u8], positions: usize, directions: usize, all: &mut SparseActivations) -> Option<()> {
    let (counts, rest) = bytes.split_at_checked(size_of::<u32>() * positions)?;
    let counts: Vec<u32> = read(counts);
    let active = counts.iter().map(|count| *count as usize).sum();
    let (values, places) = rest.split_at_checked(size_of::<f32>().checked_mul(active)?)?;
    let mut values = read::<f32>(values).into_iter();
    if as_bits(positions, active, directions) {
        let bits = places.chunks_exact(directions.div_ceil(8));
        for (count, bits) in counts.iter().zip(bits) {
            let is_set = |d: &u32| bits[*d as usize / 8] & 1 << (d % 8) != 0;
            let places = (0..directions as u32).filter(is_set);
            all.push(places.zip(values.by_ref().take(*count as usize)));
        }
    } else {
        let mut places = read::<u32>(places).into_iter();
        for count in counts {
            all.push(places.by_ref().zip(values.by_ref()).take(count as usize));
        }
    }
    Some(())
}

/// Of a rank's entries, those that are among the `k` largest of their position and all ranks; of equals the lower direction.
fn largest_of_each(k: usize, mine: &SparseActivations, all: &[Values], rank: usize) -> SparseActivations {
    let of = |position: usize| -> Vec<(u32, f32)> {
        let values = |rank: usize| &all[rank].values[all[rank].range(position)];
        let entries = |rank: usize| values(rank).iter().enumerate().map(move |(i, value)| (*value, rank, i));
        let mut order: Vec<(f32, usize, usize)> = (0..all.len()).flat_map(entries).collect();
        if order.len() > k && k > 0 {
            order.select_nth_unstable_by(k - 1, |a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        }
        order.truncate(k);
        let mut own: Vec<usize> = order.into_iter().filter(|(_, of, _)| *of == rank).map(|(.., i)| i).collect();
        own.sort_unstable();
        let (directions, values) = mine.at(position);
        own.into_iter().map(|i| (directions[i], values[i])).collect()
    };
    let kept: Vec<Vec<(u32, f32)>> = (0..mine.positions()).into_par_iter().map(of).collect();
    let mut largest = SparseActivations::default();
    kept.into_iter().for_each(|entries| largest.push(entries));
    largest
}

/// Puts what ranks gave together.
fn join(parts: &[Vec<u8>], mut whole: &mut [u8]) -> Result<()> {
    for (rank, part) in parts.iter().enumerate() {
        let (place, rest) = whole.split_at_mut_checked(part.len()).ok_or_else(|| unlike(rank))?;
        place.copy_from_slice(part);
        whole = rest;
    }
    if whole.is_empty() { Ok(()) } else { Err(unlike(parts.len().saturating_sub(1))) }
}

/// Numbers as they were before they became bytes.
fn read<T: Pod>(bytes: &[u8]) -> Vec<T> {
    let mut numbers = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    let whole = size_of_val(&numbers[..]);
    cast_slice_mut(&mut numbers).copy_from_slice(&bytes[..whole]);
    numbers
}

/// Numbers that a rank gave, which must be so many.
pub(super) fn numbers<T: Pod>(rank: usize, bytes: &[u8], count: usize) -> Result<Vec<T>> {
    if bytes.len() == count * size_of::<T>() { Ok(read(bytes)) } else { Err(unlike(rank)) }
}

/// The error of a rank that gave something else than the others do.
pub(super) fn unlike(rank: usize) -> Error {
    let problem = format!("rank {rank} is at another place of the training");
    corpus::Error::Ranks { problem }.into()
}

/// The `wanted` largest entries; of equals the first.
fn largest(wanted: usize, candidates: SparseActivations) -> SparseActivations {
    if candidates.active() <= wanted {
        return candidates;
    }
    let values = candidates.values();
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let before = |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
    if wanted > 0 {
        order.select_nth_unstable_by(wanted - 1, before);
    }
    let mut keep = vec![false; values.len()];
    order[..wanted].iter().for_each(|i| keep[*i as usize] = true);
    only(&candidates, &keep)
}

/// The entries that are kept.
fn only(candidates: &SparseActivations, keep: &[bool]) -> SparseActivations {
    let mut kept = SparseActivations::default();
    for position in 0..candidates.positions() {
        let first = candidates.indptr()[position];
        let (directions, values) = candidates.at(position);
        let entries = directions.iter().copied().zip(values.iter().copied()).enumerate();
        kept.push(entries.filter(|(i, _)| keep[first + i]).map(|(_, entry)| entry));
    }
    kept
}

#[cfg(test)]
mod tests;
