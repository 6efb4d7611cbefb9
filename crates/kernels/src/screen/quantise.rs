//! Rows and directions in integers, laid out as the products read them, and their lengths.

use std::array;
use std::ops::RangeInclusive;

use multiversion::multiversion;

use super::Instructions;
use super::dot::rounding;
use crate::lanes::sum_of_squares;
use crate::{Matrix, View};

pub(super) const LANES: usize = 16;
/// Directions of a panel.
pub(super) const WIDTH: usize = 2 * LANES;
/// The most rows of a block.
pub(super) const HEIGHT: usize = 16;
/// Inner dimensions are padded to whole steps of the AMX tiles.
pub(super) const STEP: usize = 64;
/// Between what a vector's largest number lies if the vector is screened: `2⁻⁴⁰` and `2⁴⁰`.
const TAME: RangeInclusive<f32> = 9.094_947e-13..=1.099_511_6e12;
/// Sixteen directions' words: two or four consecutive integers of each.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u32; LANES]);

/// A vector's lengths in units of `scale`, rounded up: of its integers, of what is left, and of the low bytes where their
/// products are left out.
#[derive(Clone, Copy)]
pub(super) struct Quantised {
    pub(super) scale: f32,
    whole: f32,
    pub(super) residual: f32,
    pub(super) low: f32,
}

/// What a row brings to the bounds.
#[derive(Clone, Copy)]
pub(super) struct RowBounds {
    pub(super) scale: f32,
    /// What meets a direction's `residual`, `length` and `low`.
    pub(super) against: [f32; 3],
}

/// A few rows in integers that are multiplied at once, those beyond the last being zero.
pub(super) struct Block {
    /// How many rows that are.
    pub(super) height: usize,
    pub(super) lines: Vec<Line>,
    pub(super) bounds: Vec<RowBounds>,
}

impl Quantised {
    const ZERO: Quantised = Quantised { scale: 1.0, whole: 0.0, residual: 0.0, low: 0.0 };
    /// Of which nothing is known.
    const WILD: Quantised = Quantised { whole: f32::INFINITY, residual: f32::INFINITY, ..Quantised::ZERO };

    pub(super) fn length(&self) -> f32 {
        self.whole + self.residual + self.low
    }
}

/// `x` in integers, with zeros after it. Lengths are rounded by less than the hundredth that is added to them.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn quantise(x: &[f32], instructions: Instructions, q: &mut [i16]) -> Quantised {
    let (norm, largest) = (sum_of_squares(x).sqrt(), largest(x));
    if !norm.is_finite() || !TAME.contains(&largest) {
        q.fill(0);
        return if norm == 0.0 && largest == 0.0 { Quantised::ZERO } else { Quantised::WILD };
    }
    let m = instructions.multiplier(x.len(), norm, largest);
    let mut sums = [[0.0; LANES]; 3];
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (places, _) = q.as_chunks_mut::<LANES>();
    let (full, after) = places.split_at_mut(chunks.len());
    for (x, q) in chunks.iter().zip(full) {
        (*q, sums) = quantise_lanes(x, m, sums);
    }
    after.fill([0; LANES]);
    if !rest.is_empty() {
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        (after[0], sums) = quantise_lanes(&last, m, sums);
    }
    let [whole, residual, low] = sums.map(|squares| 1.01 * squares.iter().sum::<f32>().sqrt());
    Quantised { scale: 1.0 / m, whole, residual, low: if instructions == Instructions::Amx { low } else { 0.0 } }
}

type Squares = [[f32; LANES]; 3];

#[inline(always)]
fn quantise_lanes(x: &[f32; LANES], m: f32, mut sums: Squares) -> ([i16; LANES], Squares) {
    let mut q = [0; LANES];
    for i in 0..LANES {
        let whole = (x[i] * m).round_ties_even();
        // SAFETY: `m` was chosen so that it lies within 16 bits.
        let integer = unsafe { whole.to_int_unchecked::<i32>() };
        let low = (integer - ((integer + 128) >> 8 << 8)) as f32;
        let residual = x[i].mul_add(m, -whole);
        q[i] = integer as i16;
        sums[0][i] = whole.mul_add(whole, sums[0][i]);
        sums[1][i] = residual.mul_add(residual, sums[1][i]);
        sums[2][i] = low.mul_add(low, sums[2][i]);
    }
    (q, sums)
}

/// The largest magnitude; a NaN is passed over.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if x.abs() > *lane { x.abs() } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(0.0, |largest, x| if x.abs() > largest { x.abs() } else { largest })
}

/// Integers as words: in pairs, or by fours the high bytes and then the low bytes.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn to_words(q: &[i16], instructions: Instructions, words: &mut [u32]) {
    if instructions == Instructions::Amx {
        let (high, low) = words.split_at_mut(q.len() / 4);
        for ((high, low), q) in high.iter_mut().zip(low).zip(q.as_chunks::<4>().0) {
            *high = u32::from_le_bytes(q.map(|q| ((q + 128) >> 8) as u8));
            *low = u32::from_le_bytes(q.map(|q| q as u8));
        }
    } else {
        for (word, &[first, second]) in words.iter_mut().zip(q.as_chunks::<2>().0) {
            *word = u32::from(first as u16) | u32::from(second as u16) << 16;
        }
    }
}

/// The panel of some directions, in words: `[depth / 2][two tiles][16]` of pairs, or of bytes
/// `[depth / 64][two tiles][high, low][16][16]`.
pub(super) fn pack_panel(
    weights: &Matrix,
    first: usize,
    instructions: Instructions,
    lines: &mut [Line],
) -> [Quantised; WIDTH] {
    let depth = lines.len();
    let (mut q, mut words) = (vec![0; depth], vec![0; LANES * depth / 2]);
    let mut bounds = [Quantised::ZERO; WIDTH];
    for tile in 0..2 {
        words.fill(0);
        for (lane, words) in words.chunks_exact_mut(depth / 2).enumerate() {
            let place = tile * LANES + lane;
            if first + place < weights.rows() {
                bounds[place] = quantise(weights.row(first + place), instructions, &mut q);
                to_words(&q, instructions, words);
            }
        }
        for word in 0..depth / 2 {
            let place = match instructions {
                Instructions::Amx => {
                    let (half, j) = (word / (depth / 4), word % (depth / 4));
                    ((j / 16 * 2 + tile) * 2 + half) * 16 + j % 16
                }
                _ => word * 2 + tile,
            };
            lines[place].0 = array::from_fn(|lane| words[lane * depth / 2 + word]);
        }
    }
    bounds
}

impl Block {
    /// `[depth / 2][height]` pairs, or `[depth / 64][high, low][16 rows][16]` words of bytes.
    pub(super) fn new(x: View, height: usize, instructions: Instructions) -> Block {
        let depth = x.columns().next_multiple_of(STEP);
        let mut lines = vec![Line([0; LANES]); height * depth / (2 * LANES)];
        let mut bounds = Vec::with_capacity(x.rows());
        let (mut q, mut row_words) = (vec![0; depth], vec![0; depth / 2]);
        for row in 0..x.rows() {
            bounds.push(RowBounds::new(quantise(x.row(row), instructions, &mut q), x.columns()));
            to_words(&q, instructions, &mut row_words);
            if instructions == Instructions::Amx {
                for (i, words) in row_words.as_chunks().0.iter().enumerate() {
                    let (half, step) = (i / (depth / 64), i % (depth / 64));
                    lines[(step * 2 + half) * 16 + row] = Line(*words);
                }
            } else {
                for (pair, word) in row_words.iter().enumerate() {
                    let place = pair * height + row;
                    lines[place / LANES].0[place % LANES] = *word;
                }
            }
        }
        Block { height, lines, bounds }
    }
}

impl RowBounds {
    pub(super) fn wild(&self) -> bool {
        self.against[0].is_infinite()
    }

    fn new(row: Quantised, d_in: usize) -> RowBounds {
        // A thousandth of a unit is more than all that underflows.
        let strays = if row.length() > 0.0 { rounding(d_in) * row.length() + 1e-3 } else { 0.0 };
        RowBounds { scale: row.scale, against: [row.whole, row.residual + strays, row.low] }
    }
}
