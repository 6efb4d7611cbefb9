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
//! [`dot()`] is at most `γ ‖x‖ ‖w‖` from the truth, `γ = k u / (1 - k u)` for `k` roundings in a row and `u = 2⁻²⁴` (Higham
//! 2002, section 3.1). Evaluating a bound takes some thirty roundings of at most `u ‖x‖ ‖w‖` each, for which `64 u` are added.
//!
//! Where the upper end passes what is asked of a pre-activation, and only there, it is computed, by [`dot()`]. So what is kept
//! does not depend on the instructions that screened, and is all that would be kept if every pre-activation were computed.
//! In rows and directions whose largest number is beyond `TAME` products might underflow or overflow: there nothing is
//! known, and everything is computed.

mod dot;
#[cfg(target_arch = "x86_64")]
mod integer;
mod quantise;

use std::fmt;
use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use self::dot::{U, dot, sampled};
use self::quantise::{Block, HEIGHT, LANES, Line, RowBounds, STEP, WIDTH, pack_panel};
use crate::encode::{Kept, sparse};
use crate::{Encoder, Keep, Matrix, NotFinite, SparseActivations, View};

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
    Avx512Vnni,
    /// AVX2 with the same instruction.
    AvxVnni,
    /// AVX2.
    Avx2,
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

/// Bytes of panels that stay in a core's own cache while all rows pass by.
const NEAR: usize = 1 << 20;
/// Rows that are encoded together: once for so many the `f32` weights are read.
const ROWS: usize = 2048;
impl Screen {
    /// A screen for weights `[directions, d_in]`; none where this machine has no fast integer products.
    pub fn new(weights: &Matrix) -> Option<Screen> {
        Instructions::ALL.into_iter().find_map(|instructions| Screen::with(weights, instructions))
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
    /// The fastest first.
    pub const ALL: [Instructions; 4] =
        [Instructions::Amx, Instructions::Avx512Vnni, Instructions::AvxVnni, Instructions::Avx2];

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

/// Neither finite nor below everything.
fn broken(pre: f32) -> bool {
    !pre.is_finite() && pre != f32::NEG_INFINITY
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
        for instructions in Instructions::ALL {
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
