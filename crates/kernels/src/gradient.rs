//! What training an SAE takes after the encoder: products that follow the active entries, and Adam fused with the gradient.
//!
//! Every operation goes over blocks of columns: a block of all positions' rows then stays in a core's own cache while the
//! directions pass by, so that each entry costs a short read from there. Directions that fire at many positions
//! are taken together, densely, as matrix products. What is dense is decided by the pattern alone, and every number is
//! summed in one order, so results do not depend on threads.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use crate::lanes::{add_scaled, sum_of_squares};
use crate::product::product;
use crate::{ByDirection, Matrix};

/// Directions that are judged dense or sparse together: parts of a range of directions that begin at multiples of this from
/// its beginning give the bits that the whole does.
pub const TILE: usize = 128;

/// The share of active entries from which a tile is dense: where matrix products on all of it become cheaper, as measured.
const DENSE: f64 = 0.07;

/// A gradient of weights that have a row for each direction: `Σ value × rows[position]` over the entries of each.
#[derive(Debug, Clone)]
pub struct Outer<'a> {
    /// Where the entries are.
    pub pattern: &'a ByDirection,
    /// One value for each entry, in the pattern's order.
    pub values: &'a [f32],
    /// One row for each position.
    pub rows: &'a Matrix,
    /// The directions that get a part; the others' entries are passed over.
    pub directions: Range<usize>,
}

/// A step of Adam (Kingma and Ba 2015), as `torch.optim.Adam` takes it.
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// Learning rate divided by `1 - β₁ᵗ`.
    step: f32,
    /// `1 / sqrt(1 - β₂ᵗ)`.
    scale: f32,
    betas: [f32; 2],
    eps: f32,
}

impl Adam {
    /// Step number `t`, from 1.
    pub fn new(rate: f64, betas: [f64; 2], eps: f64, t: u64) -> Adam {
        let correction = |beta: f64| 1.0 - beta.powf(t as f64);
        Adam {
            step: (rate / correction(betas[0])) as f32,
            scale: (1.0 / correction(betas[1]).sqrt()) as f32,
            betas: betas.map(|beta| beta as f32),
            eps: eps as f32,
        }
    }

    /// Moves weights against their gradient.
    pub fn update(&self, weights: &mut [f32], moments: [&mut [f32]; 2], gradient: &[f32]) {
        let [first, second] = moments;
        adam(*self, weights, first, second, gradient);
    }

    #[inline(always)]
    fn move_one(&self, w: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        let [b1, b2] = self.betas;
        *m = (g - *m).mul_add(1.0 - b1, *m);
        *v = (*v * b2) + (1.0 - b2) * g * g;
        *w -= self.step * *m / v.sqrt().mul_add(self.scale, self.eps);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn adam(adam: Adam, weights: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
    for (((w, m), v), &g) in weights.iter_mut().zip(first).zip(second).zip(gradient) {
        adam.move_one(w, m, v, g);
    }
}

/// Tiles of `directions`, each with whether it is dense in any of the patterns.
fn tiles(
    terms: &[(&ByDirection, Range<usize>)],
    directions: Range<usize>,
    positions: usize,
) -> Vec<(Range<usize>, bool)> {
    let starts = directions.clone().step_by(TILE);
    let tile = |start: usize| {
        let tile = start..(start + TILE).min(directions.end);
        let full = (tile.len() * positions) as f64;
        let dense = terms.iter().any(|(pattern, range)| {
            let (from, to) = (tile.start.max(range.start), tile.end.min(range.end));
            from < to && (pattern.indptr()[to] - pattern.indptr()[from]) as f64 > DENSE * full
        });
        (tile, dense)
    };
    starts.map(tile).collect()
}

/// Columns in blocks of at most `widest`, whose widths the functions below are compiled for.
fn blocks(columns: usize, widest: usize) -> Vec<(usize, usize)> {
    let mut blocks = Vec::new();
    let mut start = 0;
    while start < columns {
        let width =
            [128, 64, 16, 1].into_iter().find(|width| *width <= widest && columns - start >= *width).unwrap_or(1);
        blocks.push((start, width));
        start += width;
    }
    blocks
}

/// Calls a function with the width of a block as its const parameter.
macro_rules! by_width {
    ($width:expr, $f:ident($($argument:expr),* $(,)?)) => {
        match $width {
            128 => $f::<128>($($argument),*),
        64 => $f::<64>($($argument),*),
            16 => $f::<16>($($argument),*),
            _ => $f::<1>($($argument),*),
        }
    };
}

/// A matrix that tasks write in disjoint blocks of columns.
struct Shared {
    data: *mut f32,
    length: usize,
    columns: usize,
}
// SAFETY: tasks touch disjoint blocks of columns.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn new(matrix: &mut Matrix) -> Shared {
        let columns = matrix.columns();
        let data = matrix.data_mut();
        Shared { data: data.as_mut_ptr(), length: data.len(), columns }
    }

    /// `N` numbers of a row.
    ///
    /// # Safety
    /// No other task may hold any of these columns.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    unsafe fn block<const N: usize>(&self, row: usize, column: usize) -> &mut [f32; N] {
        let start = row * self.columns + column;
        assert!(start + N <= self.length);
        // SAFETY: within the matrix; columns are this task's alone.
        unsafe { &mut *self.data.add(start).cast::<[f32; N]>() }
    }
}

/// The dense form of a tile's entries, `[positions, tile]`.
fn densify(pattern: &ByDirection, values: &[f32], tile: &Range<usize>, positions: usize) -> Matrix {
    let mut dense = Matrix::zeros(positions, tile.len());
    let columns = tile.len();
    for (column, direction) in tile.clone().enumerate() {
        let entries = pattern.range(direction);
        for (position, value) in pattern.positions()[entries.clone()].iter().zip(&values[entries]) {
            dense.data_mut()[*position as usize * columns + column] = *value;
        }
    }
    dense
}

/// `out += acts[:, directions] w[directions]`, `[positions, d_in]`; `values` in the pattern's order, `w` is `[directions,
/// d_in]`.
pub fn sparse_product(pattern: &ByDirection, values: &[f32], directions: Range<usize>, w: &Matrix, out: &mut Matrix) {
    let positions = out.rows();
    sparse_product_at(pattern, values, directions, w, 0..positions, positions, out);
}

/// The rows that [`sparse_product`] gives at some of its `positions`, with the bits they have there: `out` is `[at.len(),
/// d_in]`.
pub fn sparse_product_at(
    pattern: &ByDirection,
    values: &[f32],
    directions: Range<usize>,
    w: &Matrix,
    at: Range<usize>,
    positions: usize,
    out: &mut Matrix,
) {
    let tiles = tiles(&[(pattern, directions.clone())], directions, positions);
    for (tile, _) in tiles.iter().filter(|(_, dense)| *dense) {
        let acts = densify(pattern, values, tile, positions);
        product(acts.view().rows_of(at.clone()), w.view().rows_of(tile.clone()), out, true);
    }
    let entries_at = |direction: usize| {
        let entries = pattern.range(direction);
        let of = &pattern.positions()[entries.clone()];
        let place = |position: usize| entries.start + of.partition_point(|of| (*of as usize) < position);
        (direction, place(at.start)..place(at.end))
    };
    let sparse = tiles.into_iter().filter(|(_, dense)| !dense).flat_map(|(tile, _)| tile);
    let sparse: Vec<(usize, Range<usize>)> =
        sparse.map(entries_at).filter(|(_, entries)| !entries.is_empty()).collect();
    let columns = out.columns();
    let out = Shared::new(out);
    blocks(columns, 64).into_par_iter().for_each(|(column, width)| {
        for (direction, entries) in &sparse {
            let (positions, values) = (&pattern.positions()[entries.clone()], &values[entries.clone()]);
            by_width!(width, scatter(&out, column, w.row(*direction), at.start, positions, values));
        }
    });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn scatter<const N: usize>(out: &Shared, column: usize, w: &[f32], first: usize, positions: &[u32], values: &[f32]) {
    let Some(w) = w[column..].first_chunk::<N>() else { return };
    for (&position, &value) in positions.iter().zip(values) {
        // SAFETY: a task has these columns for itself.
        let row = unsafe { out.block::<N>(position as usize - first, column) };
        for i in 0..N {
            row[i] = value.mul_add(w[i], row[i]);
        }
    }
}

/// `rows[position] · w[direction]` at every entry of `directions`, in the pattern's order.
pub fn sampled_product(pattern: &ByDirection, directions: Range<usize>, rows: &Matrix, w: &Matrix) -> Vec<f32> {
    let first = pattern.indptr()[directions.start];
    let mut dots = vec![0.0; pattern.indptr()[directions.end] - first];
    let tiles = tiles(&[(pattern, directions.clone())], directions, rows.rows());
    for (tile, _) in tiles.iter().filter(|(_, dense)| *dense) {
        let mut all = Matrix::zeros(rows.rows(), tile.len());
        product(rows.view(), w.view().rows_of(tile.clone()).transposed(), &mut all, false);
        for (column, direction) in tile.clone().enumerate() {
            for entry in pattern.range(direction) {
                dots[entry - first] = all.row(pattern.positions()[entry] as usize)[column];
            }
        }
    }
    let blocks = blocks(rows.columns(), 128);
    // As many chunks as threads: each passes over all rows once. A dot is summed block after block, whatever the chunk.
    let chunk = tiles.len().div_ceil(rayon::current_num_threads()).max(1);
    let mut parts = Vec::new();
    let mut rest = &mut dots[..];
    for tiles in tiles.chunks(chunk) {
        let range = tiles[0].0.start..tiles[tiles.len() - 1].0.end;
        let (part, after) = rest.split_at_mut(pattern.indptr()[range.end] - pattern.indptr()[range.start]);
        parts.push((tiles, part));
        rest = after;
    }
    parts.into_par_iter().for_each(|(tiles, dots)| {
        let first = pattern.indptr()[tiles[0].0.start];
        for &(column, width) in &blocks {
            for direction in tiles.iter().filter(|(_, dense)| !dense).flat_map(|(tile, _)| tile.clone()) {
                let entries = pattern.range(direction);
                let positions = &pattern.positions()[entries.clone()];
                let dots = &mut dots[entries.start - first..entries.end - first];
                by_width!(width, add_dots(rows, column, w.row(direction), positions, dots));
            }
        }
    });
    dots
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn add_dots<const N: usize>(rows: &Matrix, column: usize, w: &[f32], positions: &[u32], dots: &mut [f32]) {
    let Some(w) = w[column..].first_chunk::<N>() else { return };
    for (&position, dot) in positions.iter().zip(dots) {
        let Some(row) = rows.row(position as usize)[column..].first_chunk::<N>() else { return };
        if N < 16 {
            *dot = w[0].mul_add(row[0], *dot);
            continue;
        }
        let mut lanes = [0.0_f32; 16];
        for (w, row) in w.as_chunks::<16>().0.iter().zip(row.as_chunks::<16>().0) {
            for i in 0..16 {
                lanes[i] = w[i].mul_add(row[i], lanes[i]);
            }
        }
        let eight: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        *dot += (four[0] + four[2]) + (four[1] + four[3]);
    }
}

/// One step of Adam on weights `[directions, d_in]` whose gradient is the sum of `terms`, less `along[direction]` times the
/// row itself where that is given. The gradient is formed block by block and never stored. `moments` are Adam's two, of the
/// weights' shape.
pub fn descend(w: &mut Matrix, moments: [&mut Matrix; 2], terms: &[Outer], along: Option<&[f32]>, adam: Adam) {
    let (directions, columns) = (w.rows(), w.columns());
    let [first, second] = moments;
    let patterns: Vec<_> = terms.iter().map(|term| (term.pattern, term.directions.clone())).collect();
    let positions = terms.iter().map(|term| term.rows.rows()).max().unwrap_or(0);
    let tiles = tiles(&patterns, 0..directions, positions);
    for (tile, _) in tiles.iter().filter(|(_, dense)| *dense) {
        let gradient = dense_gradient(tile, columns, terms);
        let numbers = tile.start * columns..tile.end * columns;
        let weights = w.data_mut()[numbers.clone()].par_chunks_mut(columns);
        let firsts = first.data_mut()[numbers.clone()].par_chunks_mut(columns);
        let seconds = second.data_mut()[numbers].par_chunks_mut(columns);
        let gradients = gradient.data().par_chunks(columns);
        weights.zip(firsts).zip(seconds).zip(gradients).zip(tile.clone()).for_each(|((((w, m), v), g), direction)| {
            let shrink = along.map_or(0.0, |along| along[direction]);
            let g: Vec<f32> = g.iter().zip(&*w).map(|(g, w)| g - shrink * w).collect();
            adam.update(w, [m, v], &g);
        });
    }
    let sparse: Vec<usize> = tiles.into_iter().filter(|(_, dense)| !dense).flat_map(|(tile, _)| tile).collect();
    let weights = [Shared::new(w), Shared::new(first), Shared::new(second)];
    blocks(columns, 64).into_par_iter().for_each(|(column, width)| {
        for &direction in &sparse {
            let shrink = along.map_or(0.0, |along| along[direction]);
            by_width!(width, descend_block(&weights, column, direction, terms, shrink, adam));
        }
    });
}

fn dense_gradient(tile: &Range<usize>, columns: usize, terms: &[Outer]) -> Matrix {
    let mut gradient = Matrix::zeros(tile.len(), columns);
    for term in terms {
        let range = tile.start.max(term.directions.start)..tile.end.min(term.directions.end);
        if range.is_empty() {
            continue;
        }
        let acts = densify(term.pattern, term.values, &range, term.rows.rows());
        let mut part = Matrix::zeros(range.len(), columns);
        product(acts.view().transposed(), term.rows.view(), &mut part, false);
        for (row, direction) in range.enumerate() {
            let total = gradient.row_mut(direction - tile.start);
            total.iter_mut().zip(part.row(row)).for_each(|(total, part)| *total += part);
        }
    }
    gradient
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn descend_block<const N: usize>(
    weights: &[Shared; 3],
    column: usize,
    direction: usize,
    terms: &[Outer],
    shrink: f32,
    adam: Adam,
) {
    let mut gradient = [0.0_f32; N];
    for term in terms.iter().filter(|term| term.directions.contains(&direction)) {
        let entries = term.pattern.range(direction);
        for (&position, &value) in term.pattern.positions()[entries.clone()].iter().zip(&term.values[entries]) {
            let Some(row) = term.rows.row(position as usize)[column..].first_chunk::<N>() else { return };
            for i in 0..N {
                gradient[i] = value.mul_add(row[i], gradient[i]);
            }
        }
    }
    // SAFETY: a task has these columns for itself.
    let [w, m, v] = unsafe { [0, 1, 2].map(|i| weights[i].block::<N>(direction, column)) };
    for i in 0..N {
        let g = gradient[i] - shrink * w[i];
        adam.move_one(&mut w[i], &mut m[i], &mut v[i], g);
    }
}

/// `Σ weight × row`. Summed in parts of so many rows, whatever the threads.
pub fn weighted_sum(rows: &Matrix, weights: &[f32]) -> Vec<f32> {
    const PART: usize = 256;
    let columns = rows.columns();
    let parts: Vec<Vec<f32>> = rows
        .data()
        .par_chunks(PART * columns.max(1))
        .zip(weights.par_chunks(PART))
        .map(|(rows, weights)| sum_rows(rows, weights, columns))
        .collect();
    let mut total = vec![0.0; columns];
    parts.iter().for_each(|part| total.iter_mut().zip(part).for_each(|(t, p)| *t += p));
    total
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn sum_rows(rows: &[f32], weights: &[f32], columns: usize) -> Vec<f32> {
    let mut sum = vec![0.0; columns];
    for (row, &weight) in rows.chunks_exact(columns).zip(weights) {
        add_scaled(&mut sum, weight, row);
    }
    sum
}

/// Divides every row by its length; rows of zeros stay.
pub fn normalise_rows(w: &mut Matrix) {
    let columns = w.columns().max(1);
    w.data_mut().par_chunks_mut(columns).for_each(normalise);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn normalise(row: &mut [f32]) {
    let length = sum_of_squares(row).sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|x| *x /= length);
    }
}
