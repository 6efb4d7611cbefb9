//! Certified screening: an encoder's few large pre-activations, found in integers and computed in `f32`.
//!
//! A row `x` and a direction `w` are rounded to integers, `m x = q + e` and `n w = p + r`, whose products are exact and much
//! faster than those of `f32`. By Cauchy and Schwarz they cannot be far from the truth:
//!
//! ```text
//! |m x · n w - q · p|  =  |q · r + e · n w|  ≤  ‖q‖ ‖r‖ + ‖e‖ (‖p‖ + ‖r‖).
//! ```
//!
//! Where bytes are multiplied, `q = 256 h + l`, and the products of two low bytes are left out, which adds `‖l‖ ‖l′‖`.
//! [`dot`] is at most `γ ‖x‖ ‖w‖` from the truth, `γ = k u / (1 - k u)` for `k` roundings in a row and `u = 2⁻²⁴` (Higham
//! 2002, section 3.1). Evaluating a bound takes some thirty roundings of at most `u ‖x‖ ‖w‖` each, for which `64 u` are added.
//!
//! Where the upper end passes what is asked of a pre-activation, and only there, it is computed, by [`dot`]. So what is kept
//! does not depend on the instructions that screened, and is all that would be kept if every pre-activation were computed.
//! In rows and directions whose largest number is beyond [`TAME`] products might underflow or overflow: there nothing is
//! known, and everything is computed.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::{Range, RangeInclusive};
use std::{array, fmt};

use multiversion::multiversion;
use rayon::prelude::*;

use crate::encode::{Kept, sparse};
use crate::lanes::sum_of_squares;
use crate::{ByDirection, Encoder, Keep, Matrix, NotFinite, SparseActivations, View};

/// An encoder's weights in integers, to be made anew when they change.
pub struct Screen {
    instructions: Instructions,
    d_in: usize,
    directions: usize,
    /// The inner dimension with its padding.
    depth: usize,
    /// `WIDTH` directions each, in the order in which the products read them.
    panels: Vec<Line>,
    bounds: DirectionBounds,
}

/// What the integer products are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// Tiles of bytes.
    Amx,
    /// AVX-512 with VNNI.
    Vnni,
    /// AVX2.
    Avx2,
}

/// Sixteen directions' words: two or four consecutive integers of each.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; LANES]);

/// A vector's lengths in units of `scale`, rounded up: of its integers, of what is left, and of the low bytes where their
/// products are left out.
#[derive(Clone, Copy)]
struct Quantised {
    scale: f32,
    whole: f32,
    residual: f32,
    low: f32,
}

/// What every direction of the panels brings to the bounds.
#[derive(Default)]
struct DirectionBounds {
    scale: Vec<f32>,
    residual: Vec<f32>,
    /// At least the whole vector's.
    length: Vec<f32>,
    low: Vec<f32>,
}

/// What a row brings to the bounds.
#[derive(Clone, Copy)]
struct RowBounds {
    scale: f32,
    /// What meets a direction's `residual`, `length` and `low`.
    against: [f32; 3],
}

/// A few rows in integers that are multiplied at once, those beyond the last being zero.
struct Block {
    /// How many rows that are.
    height: usize,
    lines: Vec<Line>,
    bounds: Vec<RowBounds>,
}

/// The products of a block's rows with the directions of a panel.
struct Sums {
    /// Of whole integers, or of the high bytes.
    high: [[Line; 2]; HEIGHT],
    /// Of high with low bytes and of low with high bytes.
    cross: [[Line; 2]; HEIGHT],
    bytes: bool,
}

/// What is asked of the pre-activations of every direction of the panels.
struct Demands {
    /// The bias, moved up and down by more than the rounding of its addition.
    above: Vec<f32>,
    below: Vec<f32>,
    threshold: Vec<f32>,
    largest: Option<usize>,
    /// How many directions there are without the padding.
    directions: usize,
}

/// A pre-activation that may be kept, and the ends between which it lies.
struct Candidate {
    direction: u32,
    low: f32,
    high: f32,
}

/// The candidates of one row so far.
struct Candidates {
    found: Vec<Candidate>,
    /// Nothing at or below it can be kept.
    bar: f32,
    /// Of how many candidates a higher bar is sought.
    patience: usize,
}

const LANES: usize = 16;
/// Directions of a panel.
const WIDTH: usize = 2 * LANES;
/// The most rows of a block.
const HEIGHT: usize = 16;
/// Bytes of panels that stay in a core's own cache while all rows pass by.
const NEAR: usize = 1 << 20;
/// Inner dimensions are padded to whole steps of the AMX tiles.
const STEP: usize = 64;
/// Rows that are encoded together: once for so many the `f32` weights are read.
const ROWS: usize = 2048;
/// Candidates a thread computes at a time.
const ENTRIES: usize = 256;
/// Between what a vector's largest number lies if the vector is screened: `2⁻⁴⁰` and `2⁴⁰`.
const TAME: RangeInclusive<f32> = 9.094_947e-13..=1.099_511_6e12;
/// Half a unit in the last place of 1.
const U: f32 = f32::EPSILON / 2.0;

impl Screen {
    /// A screen for weights `[directions, d_in]`; none where this machine has no fast integer products.
    pub fn new(weights: &Matrix) -> Option<Screen> {
        [Instructions::Amx, Instructions::Vnni, Instructions::Avx2].into_iter().find_map(|i| Screen::with(weights, i))
    }

    /// The same by given instructions; none where this machine lacks them, or sums over `d_in` could overflow.
    pub fn with(weights: &Matrix, instructions: Instructions) -> Option<Screen> {
        if weights.columns() == 0 || weights.columns() > instructions.longest() || !integer::available(instructions) {
            return None;
        }
        let depth = weights.columns().next_multiple_of(STEP);
        let mut panels = vec![Line([0; LANES]); weights.rows().div_ceil(WIDTH) * depth];
        let quantised: Vec<_> = panels
            .par_chunks_exact_mut(depth)
            .enumerate()
            .map(|(panel, lines)| pack_panel(weights, panel * WIDTH, instructions, lines))
            .collect();
        let mut bounds = DirectionBounds::default();
        for q in quantised.iter().flatten() {
            bounds.scale.push(q.scale);
            bounds.residual.push(q.residual);
            bounds.length.push(q.length());
            bounds.low.push(q.low);
        }
        Some(Screen { instructions, d_in: weights.columns(), directions: weights.rows(), depth, panels, bounds })
    }

    /// The kept pre-activations of every row, by an encoder whose weights are the transpose of those this was made of.
    pub(crate) fn encode(&self, x: View, encoder: Encoder) -> Result<SparseActivations, NotFinite> {
        let weights = encoder.weights.transposed();
        assert_eq!((weights.rows(), weights.columns()), (self.directions, self.d_in), "a screen of other weights");
        assert_eq!(x.columns(), self.d_in, "inner dimensions differ");
        let demands = Demands::new(encoder, self.bounds.scale.len());
        let encoded: Result<Vec<_>, _> = (0..x.rows())
            .step_by(ROWS)
            .map(|start| {
                let part = self.encode_rows(x.rows_of(start..(start + ROWS).min(x.rows())), encoder, &demands);
                part.map_err(|e| NotFinite { row: start + e.row, ..e })
            })
            .collect();
        Ok(SparseActivations::joined(&encoded?))
    }

    fn encode_rows(&self, x: View, encoder: Encoder, demands: &Demands) -> Result<SparseActivations, NotFinite> {
        let blocks = self.blocks(x);
        let wild = blocks.iter().flat_map(|block| &block.bounds).enumerate().filter(|(_, row)| row.wild());
        if let Some(error) = wild.map(|(row, _)| row).find_map(|row| broken_row(x, row, encoder)) {
            // In an earlier row something may overflow.
            self.encode_rows(x.rows_of(0..error.row), encoder, demands)?;
            return Err(error);
        }
        let mut candidates = SparseActivations::default();
        for row in self.candidates(&blocks, demands) {
            candidates.push(row.found.iter().map(|candidate| (candidate.direction, 0.0)));
        }
        let pattern = candidates.by_direction(self.directions);
        let dots = sampled(x, encoder.weights.transposed(), &pattern);
        let mut kept = vec![Kept::default(); x.rows()];
        let mut error: Option<NotFinite> = None;
        for (direction, (bias, threshold)) in encoder.bias.iter().zip(&demands.threshold).enumerate() {
            for entry in pattern.range(direction) {
                let (row, pre) = (pattern.positions()[entry] as usize, dots[entry] + bias);
                if broken(pre) && error.is_none_or(|e| row < e.row) {
                    error = Some(NotFinite { row, direction });
                }
                if pre > *threshold {
                    kept[row].entries.push((direction as u32, pre));
                }
            }
        }
        error.map_or_else(|| Ok(sparse(kept, encoder.keep)), Err)
    }

    fn blocks(&self, x: View) -> Vec<Block> {
        let block = |rows: Range<usize>| {
            Block::new(x.rows_of(rows.start..rows.end.min(x.rows())), rows.len(), self.instructions)
        };
        self.instructions.blocks(x.rows()).into_par_iter().map(block).collect()
    }

    /// The candidates of every row.
    fn candidates(&self, blocks: &[Block], demands: &Demands) -> Vec<Candidates> {
        let part = self.panels.len().div_ceil(8 * rayon::current_num_threads()).max(1).next_multiple_of(self.depth);
        let parts: Vec<Vec<Candidates>> = self
            .panels
            .par_chunks(part)
            .enumerate()
            .map(|(i, panels)| self.screen(blocks, panels, i * part / self.depth * WIDTH, demands))
            .collect();
        let mut rows: Vec<Candidates> = blocks.iter().flat_map(|b| &b.bounds).map(|_| Candidates::default()).collect();
        for part in parts {
            rows.iter_mut().zip(part).for_each(|(row, part)| row.found.extend(part.found));
        }
        if let Some(k) = demands.largest {
            rows.par_iter_mut().for_each(|row| row.raise(k));
        }
        rows
    }

    /// The candidates of every row in panels that begin with direction `first`.
    fn screen(&self, blocks: &[Block], panels: &[Line], mut first: usize, demands: &Demands) -> Vec<Candidates> {
        let mut rows: Vec<Candidates> = blocks.iter().flat_map(|b| &b.bounds).map(|_| Candidates::default()).collect();
        let multiplier = integer::Multiplier::new(self.instructions);
        let mut sums = Sums::new(self.instructions);
        let near = (NEAR / size_of::<Line>() / self.depth).max(1);
        for panels in panels.chunks(near * self.depth) {
            let mut rest = &mut rows[..];
            for block in blocks {
                let (these, after) = rest.split_at_mut(block.bounds.len());
                for (i, panel) in panels.chunks_exact(self.depth).enumerate() {
                    multiplier.multiply(block, panel, &mut sums);
                    sift(&sums, &block.bounds, &self.bounds, demands, first + i * WIDTH, these);
                }
                if let Some(k) = demands.largest {
                    let full = these.iter_mut().filter(|row| row.found.len() >= row.patience.max(2 * k));
                    full.for_each(|row| row.raise(k));
                }
                rest = after;
            }
            first += panels.len() / self.depth * WIDTH;
        }
        rows
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Screen({} × {}, {:?})", self.directions, self.d_in, self.instructions)
    }
}

impl Instructions {
    /// The largest inner dimension: up to it sums over bytes stay below `2³¹`, and lengths are rounded by less than 1 %.
    fn longest(self) -> usize {
        if self == Instructions::Amx { 1 << 15 } else { 1 << 20 }
    }

    /// What a vector is multiplied by. Lengths over 16 bits stay below `√2³¹`, so sums of products stay below `2³¹`.
    fn multiplier(self, length: usize, norm: f32, largest: f32) -> f32 {
        match self {
            Instructions::Amx => 32_638.0 / largest,
            _ => ((46_000.0 - 0.5 * (length as f32).sqrt()) / norm).min(32_766.0 / largest),
        }
    }

    /// Rows that are multiplied at once; the last may go beyond the end.
    fn blocks(self, rows: usize) -> Vec<Range<usize>> {
        let mut blocks = Vec::new();
        let mut start = 0;
        while start < rows {
            let tall = match self {
                Instructions::Amx => 16,
                _ if rows - start > 8 => 12,
                _ => 4,
            };
            blocks.push(start..start + tall);
            start += tall;
        }
        blocks
    }
}

impl Demands {
    fn new(encoder: Encoder, length: usize) -> Demands {
        assert_eq!(encoder.bias.len(), encoder.weights.columns());
        let moved = |by: f32| {
            let moved = encoder.bias.iter().map(|&b| if b.is_finite() { b + by * b.abs() } else { b });
            moved.chain(std::iter::repeat(f32::NEG_INFINITY)).take(length).collect()
        };
        let (mut threshold, largest) = match encoder.keep {
            Keep::Positive => (vec![0.0; encoder.bias.len()], None),
            Keep::Above(thresholds) => (thresholds[..encoder.bias.len()].to_vec(), None),
            Keep::Largest(k) => (vec![0.0; encoder.bias.len()], Some(k)),
        };
        threshold.resize(length, f32::INFINITY);
        let directions = encoder.bias.len();
        Demands { above: moved(8.0 * U), below: moved(-8.0 * U), threshold, largest, directions }
    }
}

impl Default for Candidates {
    fn default() -> Candidates {
        Candidates { found: Vec::new(), bar: f32::NEG_INFINITY, patience: 64 }
    }
}

impl Candidates {
    /// Drops those that `k` others surpass.
    fn raise(&mut self, k: usize) {
        if self.found.len() <= k {
            return;
        }
        let surpassed = match k {
            0 => f32::INFINITY,
            _ => self.found.select_nth_unstable_by(k - 1, |a, b| b.low.total_cmp(&a.low)).1.low,
        };
        self.bar = surpassed.next_down();
        let bar = self.bar;
        self.found.retain(|candidate| candidate.high > bar || candidate.high.is_nan());
        self.patience = 2 * self.found.len() + 64;
    }
}

impl Sums {
    fn new(instructions: Instructions) -> Sums {
        let zero = [[Line([0; LANES]); 2]; HEIGHT];
        Sums { high: zero, cross: zero, bytes: instructions == Instructions::Amx }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> [f32; WIDTH] {
        let mut products = [0.0; WIDTH];
        for (i, product) in products.iter_mut().enumerate() {
            let number = |sums: &[[Line; 2]; HEIGHT]| sums[row][i / LANES].0[i % LANES].cast_signed() as f32;
            let high = number(&self.high);
            *product = if self.bytes { 256.0 * high.mul_add(256.0, number(&self.cross)) } else { high };
        }
        products
    }
}

/// The first pre-activation of a row that is broken, if the row itself is not finite.
fn broken_row(x: View, row: usize, encoder: Encoder) -> Option<NotFinite> {
    if x.row(row).iter().all(|x| x.is_finite()) {
        return None;
    }
    let weights = encoder.weights.transposed();
    let pre = |direction: usize| dot(x.row(row), weights.row(direction), x.row(row)) + encoder.bias[direction];
    (0..weights.rows()).find(|direction| broken(pre(*direction))).map(|direction| NotFinite { row, direction })
}

/// `x[position] · w[direction]` at every entry of a pattern, in its order.
fn sampled(x: View, w: View, pattern: &ByDirection) -> Vec<f32> {
    let mut all = vec![0.0; pattern.active()];
    all.par_chunks_mut(ENTRIES).enumerate().for_each(|(chunk, some)| dots(x, w, pattern, chunk * ENTRIES, some));
    all
}

/// The same from entry `first` on.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn dots(x: View, w: View, pattern: &ByDirection, first: usize, out: &mut [f32]) {
    let mut direction = pattern.indptr().partition_point(|start| *start <= first) - 1;
    for (entry, out) in (first..).zip(out) {
        while pattern.range(direction).end <= entry {
            direction += 1;
        }
        let row = |entry: usize| x.row(pattern.positions()[entry] as usize);
        let next = row((entry + 1).min(pattern.active() - 1));
        *out = dot(row(entry), w.row(direction), next);
    }
}

/// Neither finite nor below everything.
fn broken(pre: f32) -> bool {
    !pre.is_finite() && pre != f32::NEG_INFINITY
}

/// `x · w` in the one order of all screens: term `i` goes to sum `i mod 64`, then halves of the sums are added. Meanwhile
/// `next`, which comes after `x`, is brought nearer.
#[inline(always)]
fn dot(x: &[f32], w: &[f32], next: &[f32]) -> f32 {
    let ((x, x_rest), (w, w_rest)) = (x.as_chunks::<64>(), w.as_chunks::<64>());
    let mut sums = [[0.0; LANES]; 4];
    for ((x, w), next) in x.iter().zip(w).zip(next.as_chunks::<64>().0) {
        prefetch(next);
        sums = add_products(sums, x, w);
    }
    if !x_rest.is_empty() {
        let (mut x, mut w) = ([0.0; 64], [0.0; 64]);
        x[..x_rest.len()].copy_from_slice(x_rest);
        w[..w_rest.len()].copy_from_slice(w_rest);
        sums = add_products(sums, &x, &w);
    }
    let [mut first, second, third, fourth] = sums;
    for i in 0..LANES {
        first[i] = (first[i] + third[i]) + (second[i] + fourth[i]);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            first[i] += first[i + half];
        }
    }
    first[0]
}

#[inline(always)]
fn prefetch(numbers: &[f32; 64]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.as_chunks::<LANES>().0 {
        // SAFETY: every x86-64 has this instruction, which changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

#[inline(always)]
fn add_products(mut sums: [[f32; LANES]; 4], x: &[f32; 64], w: &[f32; 64]) -> [[f32; LANES]; 4] {
    for (i, sums) in sums.iter_mut().enumerate() {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = x[i * LANES + j].mul_add(w[i * LANES + j], *sum);
        }
    }
    sums
}

/// How far [`dot`] and the evaluation of a bound may stray, as a share of the product of the lengths.
fn rounding(d_in: usize) -> f32 {
    (1.1 * (d_in.div_ceil(64) + 6) as f32 + 64.0) * U
}

impl Quantised {
    const ZERO: Quantised = Quantised { scale: 1.0, whole: 0.0, residual: 0.0, low: 0.0 };
    /// Of which nothing is known.
    const WILD: Quantised = Quantised { whole: f32::INFINITY, residual: f32::INFINITY, ..Quantised::ZERO };

    fn length(&self) -> f32 {
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
fn pack_panel(weights: &Matrix, first: usize, instructions: Instructions, lines: &mut [Line]) -> [Quantised; WIDTH] {
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
    fn new(x: View, height: usize, instructions: Instructions) -> Block {
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
    fn wild(&self) -> bool {
        self.against[0].is_infinite()
    }

    fn new(row: Quantised, d_in: usize) -> RowBounds {
        // A thousandth of a unit is more than all that underflows.
        let strays = if row.length() > 0.0 { rounding(d_in) * row.length() + 1e-3 } else { 0.0 };
        RowBounds { scale: row.scale, against: [row.whole, row.residual + strays, row.low] }
    }
}

/// Adds the candidates of a panel to those of each row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn sift(
    sums: &Sums,
    rows: &[RowBounds],
    directions: &DirectionBounds,
    demands: &Demands,
    first: usize,
    candidates: &mut [Candidates],
) {
    let [scale, residual, length, low, above, below, threshold] = [
        &directions.scale,
        &directions.residual,
        &directions.length,
        &directions.low,
        &demands.above,
        &demands.below,
        &demands.threshold,
    ]
    .map(|numbers| numbers[first..].first_chunk::<WIDTH>().unwrap_or(&[0.0; WIDTH]));
    for (i, (row, candidates)) in rows.iter().zip(candidates).enumerate() {
        let products = sums.row(i);
        let [by_residual, by_length, by_low] = row.against;
        let bar = candidates.bar;
        let mut passes = 0_u32;
        for j in 0..WIDTH {
            let high = by_residual.mul_add(residual[j], products[j]);
            let high = by_low.mul_add(low[j], by_length.mul_add(length[j], high));
            let high = high.mul_add(row.scale * scale[j], above[j]);
            let least = if threshold[j] > bar { threshold[j] } else { bar };
            // Where a bound is not a number, nothing is known.
            passes |= u32::from(high > least || high.is_nan()) << j;
        }
        passes &= u32::MAX >> WIDTH.saturating_sub(demands.directions - first);
        while passes != 0 {
            let j = passes.trailing_zeros() as usize;
            passes &= passes - 1;
            let reach = by_low.mul_add(low[j], by_length.mul_add(length[j], by_residual * residual[j]));
            let end = |sum: f32, bias: f32| sum.mul_add(row.scale * scale[j], bias);
            candidates.found.push(Candidate {
                direction: (first + j) as u32,
                low: end(products[j] - reach, below[j]).max(f32::NEG_INFINITY),
                high: end(products[j] + reach, above[j]),
            });
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod integer {
    use super::{Block, Instructions, Line, Sums};

    pub(super) struct Multiplier;

    impl Multiplier {
        pub(super) fn new(_: Instructions) -> Multiplier {
            Multiplier
        }

        pub(super) fn multiply(&self, _: &Block, _: &[Line], _: &mut Sums) {}
    }

    pub(super) fn available(_: Instructions) -> bool {
        false
    }
}

/// The integer products.
#[cfg(target_arch = "x86_64")]
mod integer {
    use std::arch::asm;
    use std::arch::x86_64::{
        __cpuid_count, __m256i, __m512i, _mm256_add_epi32, _mm256_load_si256, _mm256_madd_epi16, _mm256_set1_epi32,
        _mm256_setzero_si256, _mm256_store_si256, _mm512_dpwssd_epi32, _mm512_load_si512, _mm512_set1_epi32,
        _mm512_setzero_si512, _mm512_store_si512,
    };
    use std::marker::PhantomData;
    use std::sync::OnceLock;

    use super::{Block, HEIGHT, Instructions, LANES, Line, STEP, Sums};

    pub(super) fn available(instructions: Instructions) -> bool {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        match instructions {
            Instructions::Amx => amx(),
            Instructions::Vnni => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni"),
            Instructions::Avx2 => avx2,
        }
    }

    /// Whether there are byte tiles, and the system lets this process use them.
    fn amx() -> bool {
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        *ALLOWED.get_or_init(|| {
            const TILES_AND_BYTES: u32 = 0b11 << 24;
            // SAFETY: leaf 7 exists wherever AVX2 does.
            #[allow(unused_unsafe)]
            let features = if is_x86_feature_detected!("avx2") { unsafe { __cpuid_count(7, 0) }.edx } else { 0 };
            features & TILES_AND_BYTES == TILES_AND_BYTES && request_tiles()
        })
    }

    #[cfg(target_os = "linux")]
    fn request_tiles() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const REQUEST_PERMISSION: i64 = 0x1023;
        const TILE_DATA: i64 = 18;
        let mut status = ARCH_PRCTL;
        // SAFETY: this asks for a permission and changes nothing else.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") status,
                in("rdi") REQUEST_PERMISSION,
                in("rsi") TILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        status == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn request_tiles() -> bool {
        false
    }

    /// Multiplies on one thread.
    pub(super) struct Multiplier {
        instructions: Instructions,
        /// Held as long as this is.
        _tiles: Option<Tiles>,
    }

    impl Multiplier {
        pub(super) fn new(instructions: Instructions) -> Multiplier {
            assert!(available(instructions));
            Multiplier { instructions, _tiles: (instructions == Instructions::Amx).then(Tiles::configure) }
        }

        /// The products of a block with a panel.
        pub(super) fn multiply(&self, block: &Block, panel: &[Line], sums: &mut Sums) {
            assert!(block.lines.len() * 2 * LANES == block.height * panel.len() && panel.len().is_multiple_of(STEP));
            let (a, b, pairs) = (block.lines.as_ptr().cast::<i32>(), panel.as_ptr(), panel.len() / 2);
            let (high, cross) = (sums.high.as_mut_ptr(), sums.cross.as_mut_ptr());
            // SAFETY: the instructions are there, and by the assertion and the layouts so are the numbers.
            unsafe {
                match (self.instructions, block.height) {
                    (Instructions::Amx, HEIGHT) => multiply_bytes(a, b, panel.len() / STEP, high, cross),
                    (Instructions::Vnni, 12) => multiply_vnni::<12>(a, b, pairs, high),
                    (Instructions::Vnni, 4) => multiply_vnni::<4>(a, b, pairs, high),
                    (Instructions::Avx2, 12) => multiply_avx2::<12, 6>(a, b, pairs, high),
                    (Instructions::Avx2, 4) => multiply_avx2::<4, 4>(a, b, pairs, high),
                    (instructions, height) => unreachable!("{instructions:?} with {height} rows"),
                }
            }
        }
    }

    /// `sums[ROWS][WIDTH] = a[pairs][ROWS] b[pairs][WIDTH]`.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn multiply_vnni<const ROWS: usize>(a: *const i32, b: *const Line, pairs: usize, sums: *mut [Line; 2]) {
        let mut lanes = [[_mm512_setzero_si512(); 2]; ROWS];
        // SAFETY: as many numbers are there as the shapes say.
        unsafe {
            for pair in 0..pairs {
                let b = b.add(2 * pair).cast::<__m512i>();
                let b = [_mm512_load_si512(b), _mm512_load_si512(b.add(1))];
                for (i, lanes) in lanes.iter_mut().enumerate() {
                    let a = _mm512_set1_epi32(*a.add(pair * ROWS + i));
                    lanes[0] = _mm512_dpwssd_epi32(lanes[0], a, b[0]);
                    lanes[1] = _mm512_dpwssd_epi32(lanes[1], a, b[1]);
                }
            }
            for (i, lanes) in lanes.iter().enumerate() {
                let sums = sums.add(i).cast::<__m512i>();
                _mm512_store_si512(sums, lanes[0]);
                _mm512_store_si512(sums.add(1), lanes[1]);
            }
        }
    }

    /// The same in blocks of `TALL` rows and sixteen directions, and in pieces that stay in the first cache.
    #[target_feature(enable = "avx2")]
    unsafe fn multiply_avx2<const ROWS: usize, const TALL: usize>(
        a: *const i32,
        b: *const Line,
        pairs: usize,
        sums: *mut [Line; 2],
    ) {
        const PIECE: usize = 192;
        for start in (0..pairs).step_by(PIECE) {
            for (first, tile) in (0..ROWS).step_by(TALL).flat_map(|first| [(first, 0), (first, 1)]) {
                let mut lanes = [[_mm256_setzero_si256(); 2]; TALL];
                // SAFETY: as many numbers are there as the shapes say.
                unsafe {
                    for pair in start..pairs.min(start + PIECE) {
                        let b = b.add(2 * pair + tile).cast::<__m256i>();
                        let b = [_mm256_load_si256(b), _mm256_load_si256(b.add(1))];
                        for (i, lanes) in lanes.iter_mut().enumerate() {
                            let a = _mm256_set1_epi32(*a.add(pair * ROWS + first + i));
                            lanes[0] = _mm256_add_epi32(lanes[0], _mm256_madd_epi16(a, b[0]));
                            lanes[1] = _mm256_add_epi32(lanes[1], _mm256_madd_epi16(a, b[1]));
                        }
                    }
                    for (i, lanes) in lanes.iter().enumerate() {
                        let sums = sums.add(first + i).cast::<__m256i>().add(2 * tile);
                        for (j, lanes) in lanes.iter().enumerate() {
                            let sums = sums.add(j);
                            let before = if start == 0 { _mm256_setzero_si256() } else { _mm256_load_si256(sums) };
                            _mm256_store_si256(sums, _mm256_add_epi32(before, *lanes));
                        }
                    }
                }
            }
        }
    }

    /// This thread's tiles, all of sixteen rows of 64 bytes, until they are released.
    struct Tiles(PhantomData<*const u8>);

    impl Tiles {
        fn configure() -> Tiles {
            #[repr(C, align(64))]
            struct Configuration {
                palette: u8,
                start_row: u8,
                reserved: [u8; 14],
                row_bytes: [u16; 16],
                rows: [u8; 16],
            }
            let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
            row_bytes[..8].fill(64);
            rows[..8].fill(16);
            let configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
            // SAFETY: the caller has made sure that this process may use tiles.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
            Tiles(PhantomData)
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            // SAFETY: the tiles were configured on this thread.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }

    /// `high = h h` and `cross = h l + l h`, each `[16][WIDTH]`, over steps of 64 columns: `a[steps][h, l]` and
    /// `b[steps][two tiles][h, l]`.
    unsafe fn multiply_bytes(a: *const i32, b: *const Line, steps: usize, high: *mut [Line; 2], cross: *mut [Line; 2]) {
        // SAFETY: the tiles are configured, and as many numbers are there as the shapes say.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a} + {line}]",
                "tileloadd tmm6, [{b} + {line}]",
                "tileloadd tmm7, [{b} + {line} + 1024]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm2, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 1024]",
                "tdpbssd tmm2, tmm5, tmm6",
                "tileloadd tmm6, [{b} + {line} + 2048]",
                "tileloadd tmm7, [{b} + {line} + 3072]",
                "tdpbssd tmm1, tmm4, tmm6",
                "tdpbssd tmm3, tmm4, tmm7",
                "tdpbssd tmm3, tmm5, tmm6",
                "add {a}, 2048",
                "add {b}, 4096",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{high} + {row}], tmm0",
                "tilestored [{high} + {row} + 64], tmm1",
                "tilestored [{cross} + {row}], tmm2",
                "tilestored [{cross} + {row} + 64], tmm3",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                steps = inout(reg) steps => _,
                high = in(reg) high,
                cross = in(reg) cross,
                row = in(reg) size_of::<[Line; 2]>(),
                line = in(reg) size_of::<Line>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(rows: usize, columns: usize, mut state: u64) -> Matrix {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        Matrix::new((0..rows * columns).map(|_| next()).collect(), rows, columns)
    }

    #[test]
    fn ends_enclose_the_pre_activation_and_few_others_become_candidates() {
        let (x, w) = (noise(100, 1000, 1), noise(700, 1000, 2));
        let (bias, lowest) = (vec![-20.0; 700], vec![f32::NEG_INFINITY; 700]);
        for instructions in [Instructions::Amx, Instructions::Vnni, Instructions::Avx2] {
            let Some(screen) = Screen::with(&w, instructions) else { continue };
            let candidates = |keep| {
                let encoder = Encoder { weights: w.view().transposed(), bias: &bias, keep, screen: None };
                let demands = Demands::new(encoder, screen.bounds.scale.len());
                screen.candidates(&screen.blocks(x.view()), &demands)
            };
            let count = |keep| candidates(keep).iter().map(|row| row.found.len()).sum::<usize>();
            let mut kept = 0;
            for (row, all) in candidates(Keep::Above(&lowest)).iter().enumerate() {
                assert_eq!(all.found.len(), 700);
                for c in &all.found {
                    let pre = dot(x.row(row), w.row(c.direction as usize), x.row(row)) - 20.0;
                    assert!(c.low <= pre && pre <= c.high && c.high - c.low < 0.8, "{} {pre} {}", c.low, c.high);
                    kept += usize::from(pre > 0.0);
                }
            }
            let positive = count(Keep::Positive);
            assert!(kept > 500 && kept <= positive && positive < kept + kept / 10, "{positive} for {kept}");
            let largest = count(Keep::Largest(5));
            assert!((500..550).contains(&largest), "{largest} for 500");
        }
    }
}
