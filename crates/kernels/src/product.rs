//! Matrix products in which a number depends on its row and its column alone.
//!
//! The products of every [`DEPTH`] inner positions are summed from zero, in order, by fused multiply-adds; these sums are
//! added to the output, in order. So the bits are the same whatever stands beside a row, however many threads share the
//! work, and whatever instructions the machine has.

mod kernel;

use std::cell::RefCell;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use self::kernel::{Kernel, TALLEST};
use crate::{Factor, Matrix, View};

/// Work (multiply-adds) below which a product stays on one thread.
const PARALLEL: usize = 1 << 18;
/// Tasks per thread, so that none waits long for another.
const TASKS: usize = 4;
/// Inner positions that are summed before they are added to the output.
const DEPTH: usize = 1024;
/// Rows of a left operand whose numbers in such a block stay in a core's own cache.
const ROWS: usize = 96;
/// Columns of a right operand that are laid out at once.
const COLUMNS: usize = 128;
/// Rows for which they are laid out at once, at most.
const MOST_ROWS: usize = 4096;
/// Rows up to which reading the right operand is the limit: more columns, which lie together in memory, and fewer inner
/// positions are then taken at once.
const FEW_ROWS: usize = 64;
/// Their columns.
const FEW_COLUMNS: usize = 1024;
/// Their inner positions.
const FEW_DEPTH: usize = DEPTH * COLUMNS / FEW_COLUMNS;

/// A number among rows that begin `stride` apart.
#[derive(Clone, Copy)]
struct Tile {
    at: *mut f32,
    stride: usize,
}

// SAFETY: tasks write disjoint blocks of an output.
unsafe impl Send for Tile {}
// SAFETY: as above.
unsafe impl Sync for Tile {}

impl Tile {
    fn first_of(matrix: &mut Matrix) -> Tile {
        Tile { stride: matrix.columns(), at: matrix.data_mut().as_mut_ptr() }
    }

    /// The first number of a row that is every row.
    fn same(row: &[f32]) -> Tile {
        Tile { at: row.as_ptr().cast_mut(), stride: 0 }
    }

    /// The number so many rows below and so many columns to the right.
    fn plus(self, rows: usize, columns: usize) -> Tile {
        Tile { at: self.at.wrapping_add(rows * self.stride + columns), ..self }
    }
}

/// `out = a b`, or `out += a b` when `accumulate`, on all threads. Shapes `[m, k]`, `[k, n]`, `[m, n]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn product<'a>(a: View, b: impl Into<Factor<'a>>, out: &mut Matrix, accumulate: bool) {
    let b = b.into();
    assert_eq!((a.rows(), b.columns()), (out.rows(), out.columns()), "the output has another shape");
    let out = Tile::first_of(out);
    // SAFETY: the output has this shape.
    unsafe { multiply_shared(a, b, accumulate.then_some(out), out) }
}

/// `bias + a b`, `[m, n]`, on all threads. Shapes `[m, k]`, `[k, n]`, `[n]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn affine<'a>(a: View, b: impl Into<Factor<'a>>, bias: &[f32]) -> Matrix {
    let b = b.into();
    let (rows, columns) = (a.rows(), b.columns());
    assert_eq!(columns, bias.len(), "the bias has another length");
    let mut data = Vec::with_capacity(rows * columns);
    // SAFETY: the output has this shape, and the whole of it is written.
    unsafe {
        multiply_shared(a, b, Some(Tile::same(bias)), Tile { at: data.as_mut_ptr(), stride: columns });
        data.set_len(rows * columns);
    }
    Matrix::new(data, rows, columns)
}

/// The first columns of `out = bias + a b`, on this thread, of whose work it may be a part.
pub(crate) fn affine_here<'a>(a: View, b: impl Into<Factor<'a>>, bias: &[f32], out: &mut Matrix) {
    let b = b.into();
    assert!(a.rows() == out.rows() && b.columns() <= out.columns(), "the output has another shape");
    assert_eq!(b.columns(), bias.len(), "the bias has another length");
    // SAFETY: the output has as many rows and columns.
    unsafe { multiply(Kernel::best(), a, b, Some(Tile::same(bias)), Tile::first_of(out)) }
}

/// `out = start + a b`, on all threads.
///
/// # Safety
/// Behind `out`, and behind `start`, are as many rows and columns as the product has.
unsafe fn multiply_shared(a: View, b: Factor, start: Option<Tile>, out: Tile) {
    if a.strides().1 != 1 {
        // SAFETY: as the caller says.
        return unsafe { multiply_shared(a.to_matrix().view(), b, start, out) };
    }
    let (kernel, m, n) = (Kernel::best(), a.rows(), b.columns());
    let threads = rayon::current_num_threads();
    if m * n * a.columns() < PARALLEL || threads == 1 {
        // SAFETY: as the caller says.
        return unsafe { multiply(kernel, a, b, start, out) };
    }
    let (height, width) = if m <= FEW_ROWS {
        (m, (n / threads).next_multiple_of(COLUMNS).clamp(COLUMNS, FEW_COLUMNS))
    } else {
        let parts = (threads * TASKS).div_ceil(n.div_ceil(COLUMNS)).max(m.div_ceil(MOST_ROWS));
        (m.div_ceil(parts), COLUMNS)
    };
    blocks(m, height, n, width).collect::<Vec<_>>().into_par_iter().for_each(|(rows, columns)| {
        let here = |place: Tile| place.plus(rows.start, columns.start);
        let (start, out) = (start.map(here), here(out));
        // SAFETY: the blocks are parts of the output, and do not overlap.
        unsafe { multiply(kernel, a.rows_of(rows), b.columns_of(columns), start, out) };
    });
}

thread_local! {
    /// Where a thread lays out its panels.
    static BUFFER: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// A line of the cache.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// `out = start + a b`.
///
/// # Safety
/// Behind `out`, and behind `start`, are as many rows and columns as the product has.
unsafe fn multiply(kernel: Kernel, a: View, b: Factor, start: Option<Tile>, out: Tile) {
    assert!(a.columns() == b.rows(), "inner dimensions differ");
    if a.columns() == 0 {
        let (a, b) = (Matrix::zeros(a.rows(), 1), Matrix::zeros(1, b.columns()));
        // SAFETY: as the caller says.
        return unsafe { multiply(kernel, a.view(), b.view().into(), start, out) };
    }
    let (most_columns, most_depth) = if a.rows() <= FEW_ROWS { (FEW_COLUMNS, FEW_DEPTH) } else { (COLUMNS, DEPTH) };
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize((DEPTH * COLUMNS + FEW_ROWS * FEW_COLUMNS) / 16, Line([0.0; 16]));
        let (buffer, sums) = bytemuck::cast_slice_mut(buffer).split_at_mut(DEPTH * COLUMNS);
        let sums = Tile { at: sums.as_mut_ptr(), stride: FEW_COLUMNS };
        for (rows, columns) in blocks(a.rows(), MOST_ROWS, b.columns(), most_columns) {
            let (a, b) = (a.rows_of(rows.clone()), b.columns_of(columns.clone()));
            let here = |place: Tile| place.plus(rows.start, columns.start);
            let (start, out) = (start.map(here), here(out));
            for (depth, part) in parts(a.columns(), most_depth) {
                let panels = Panels::new(b.rows_of(part.clone()), kernel, a.rows(), buffer);
                let start = if depth.start == 0 { start } else { Some(out) };
                let so_far = (part.start > depth.start).then_some(sums);
                let (start, out) = if part.end == depth.end { (start, out) } else { (None, sums) };
                for few in ranges(a.rows(), ROWS) {
                    let below = |place: Tile| place.plus(few.start, 0);
                    let a = a.rows_of(few.clone()).columns_of(part.clone());
                    // SAFETY: these rows and columns are part of the output.
                    unsafe { panels.multiply(a, so_far.map(below), start.map(below), below(out)) };
                }
            }
        }
    });
}

/// The blocks of inner positions that are summed, each with its parts of at most so many.
fn parts(length: usize, most: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    ranges(length, DEPTH).flat_map(move |block| {
        ranges(block.len(), most).map(move |part| (block.clone(), block.start + part.start..block.start + part.end))
    })
}

/// Some columns of a right operand as a kernel reads them.
struct Panels<'a> {
    kernel: Kernel,
    numbers: &'a [f32],
    /// From one panel, of as many columns as the kernel takes, to the next.
    apart: usize,
    /// From one row of a panel to the next.
    stride: usize,
    depth: usize,
    columns: usize,
}

impl<'a> Panels<'a> {
    /// `b`, laid out in `buffer` unless it is read only once and can be read where it is.
    fn new(b: Factor<'a>, kernel: Kernel, rows: usize, buffer: &'a mut [f32]) -> Panels<'a> {
        let (depth, columns, width) = (b.rows(), b.columns(), kernel.width());
        if let Some((numbers, stride)) = b.in_place()
            && rows <= TALLEST
            && columns.is_multiple_of(width)
        {
            return Panels { kernel, numbers, apart: width, stride, depth, columns };
        }
        for (panel, columns) in buffer.chunks_exact_mut(depth * width).zip(ranges(columns, width)) {
            if columns.len() < width {
                panel.fill(0.0);
            }
            b.columns_of(columns).lay_out(panel, width);
        }
        Panels { kernel, numbers: buffer, apart: depth * width, stride: width, depth, columns }
    }

    /// `out = start + (sums + a b)`.
    ///
    /// # Safety
    /// Behind each place are as many rows and columns as the product has.
    unsafe fn multiply(&self, a: View, sums: Option<Tile>, start: Option<Tile>, out: Tile) {
        for (number, columns) in ranges(self.columns, self.kernel.width()).enumerate() {
            let panel = Panel {
                numbers: &self.numbers[number * self.apart..],
                stride: self.stride,
                depth: self.depth,
                columns: columns.len(),
            };
            let right = |place: Tile| place.plus(0, columns.start);
            // SAFETY: these columns are part of the output.
            unsafe { self.kernel.multiply(a, &panel, sums.map(right), start.map(right), right(out)) };
        }
    }
}

/// As many columns as a kernel takes, or the last.
struct Panel<'a> {
    /// Row after row, in each as many numbers as the kernel takes.
    numbers: &'a [f32],
    stride: usize,
    depth: usize,
    columns: usize,
}

/// Blocks of rows and columns.
fn blocks(
    rows: usize,
    height: usize,
    columns: usize,
    width: usize,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    ranges(rows, height).flat_map(move |rows| ranges(columns, width).map(move |columns| (rows.clone(), columns)))
}

/// `0..length` in ranges of `size`.
pub(crate) fn ranges(length: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(size.max(1)).map(move |start| start..(start + size).min(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(rows: usize, columns: usize, seed: usize) -> Matrix {
        let number = |i: usize| ((i + seed).wrapping_mul(0x9E37_79B9) % 2001) as f32 / 1000.0 - 1.0;
        Matrix::new((0..rows * columns).map(number).collect(), rows, columns)
    }

    fn multiplied(kernel: Kernel, a: View, b: Factor, start: Option<&Matrix>) -> Matrix {
        let mut start = start.cloned();
        let mut out = Matrix::zeros(a.rows(), b.columns());
        // SAFETY: both have the shape of the product.
        unsafe { multiply(kernel, a, b, start.as_mut().map(Tile::first_of), Tile::first_of(&mut out)) };
        out
    }

    #[test]
    fn every_kernel_gives_the_bits_of_the_order_that_is_promised() {
        for (m, k, n) in
            [(1, 1, 1), (2, 5, 64), (6, 64, 128), (7, 1024, 16), (13, 1025, 65), (100, 2500, 40), (97, 9, 200)]
        {
            let (a, b, before) = (numbers(m, k, 3), numbers(k, n, 5), numbers(m, n, 7));
            let turned = b.transposed();
            for accumulate in [false, true] {
                let expected = |i: usize, j: usize| {
                    let sum = |depth: Range<usize>| depth.fold(0.0, |sum, p| a.row(i)[p].mul_add(b.row(p)[j], sum));
                    let start = accumulate.then(|| before.row(i)[j]);
                    ranges(k, DEPTH).map(sum).fold(start, |all, sum| Some(all.map_or(sum, |all| all + sum)))
                };
                for kernel in Kernel::available() {
                    for b in [b.view(), turned.view().transposed()].map(Factor::from) {
                        let out = multiplied(kernel, a.view(), b, accumulate.then_some(&before));
                        let same = |i: usize| (0..n).all(|j| expected(i, j) == Some(out.row(i)[j]));
                        assert!((0..m).all(same), "{kernel:?}, {m} × {k} × {n}, accumulate {accumulate}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_bias_is_what_the_product_starts_from() {
        for (m, k, n) in [(1, 0, 3), (3, 7, 5), (50, 1030, 300)] {
            let (a, b, bias) = (numbers(m, k, 3), numbers(k, n, 5), numbers(1, n, 7).into_data());
            let mut expected = Matrix::repeat(&bias, m);
            product(a.view(), b.view(), &mut expected, true);
            assert_eq!(affine(a.view(), b.view(), &bias), expected);
            let mut wider = Matrix::zeros(m, n + 2);
            affine_here(a.view(), b.view(), &bias, &mut wider);
            assert_eq!(wider.columns_of(0..n), expected);
            assert_eq!(wider.columns_of(n..n + 2), Matrix::zeros(m, 2));
        }
    }

    #[test]
    fn a_sum_of_no_products_is_zero() {
        let mut out = numbers(3, 5, 1);
        let before = out.clone();
        product(Matrix::zeros(3, 0).view(), Matrix::zeros(0, 5).view(), &mut out, true);
        assert_eq!(out, before);
        product(Matrix::zeros(3, 0).view(), Matrix::zeros(0, 5).view(), &mut out, false);
        assert_eq!(out, Matrix::zeros(3, 5));
    }
}
