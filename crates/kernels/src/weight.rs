//! Weights, in the numbers that their files store.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::matrix::TASK_ROWS;
use crate::transpose::transpose;
use crate::{Matrix, View};

/// A matrix that products read and nothing writes: of `f32`, or of numbers half as wide that stay as they are stored, perhaps in a
/// mapped file, and are widened where a product lays them out.
///
/// What is done to the weights of a model in between ([`scale_rows`](Weight::scale_rows), [`center_rows`](Weight::center_rows),
/// [`center_columns`](Weight::center_columns)) is done at once to `f32`, and kept beside stored halves and done to each as it is
/// widened: the numbers are the same to the bit.
#[derive(Clone)]
pub struct Weight(Kept);

#[derive(Clone)]
enum Kept {
    Floats(Matrix),
    Halves(Halves),
}

/// A type of number of two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// IEEE 754's binary16.
    F16,
    /// The upper half of an `f32`.
    BF16,
}

impl Half {
    /// The number that these bits are.
    pub fn widened(self, bits: u16) -> f32 {
        match self {
            Half::F16 => half::f16::from_bits(bits).to_f32(),
            Half::BF16 => half::bf16::from_bits(bits).to_f32(),
        }
    }
}

/// Where halves are kept.
pub type StoredHalves = Arc<dyn AsRef<[u16]> + Send + Sync>;

#[derive(Clone)]
struct Halves {
    numbers: StoredHalves,
    kind: Half,
    /// Of the first.
    start: usize,
    /// As stored.
    rows: usize,
    columns: usize,
    stride: usize,
    /// Whether the weight is the transpose of what is stored.
    is_turned: bool,
    steps: Vec<Step>,
}

/// What is done to each number as it is widened.
#[derive(Clone)]
struct Step {
    change: Change,
    /// Whether there is a number for each stored row; else, for each stored column.
    by_row: bool,
}

#[derive(Clone)]
enum Change {
    Times(Vec<f32>),
    Less(Vec<f64>),
}

impl From<Matrix> for Weight {
    fn from(matrix: Matrix) -> Weight {
        Weight(Kept::Floats(matrix))
    }
}

impl Weight {
    /// A weight of `rows × columns` halves, row after row.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn of_halves(numbers: StoredHalves, kind: Half, rows: usize, columns: usize) -> Weight {
        let stored = (*numbers).as_ref().len();
        assert_eq!(stored, rows * columns, "{stored} numbers are not {rows} × {columns}");
        let (start, stride, is_turned) = (0, columns, false);
        Weight(Kept::Halves(Halves { numbers, kind, start, rows, columns, stride, is_turned, steps: Vec::new() }))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.view().rows()
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.view().columns()
    }

    /// Bytes of each number.
    pub fn width(&self) -> usize {
        match self.0 {
            Kept::Floats(_) => size_of::<f32>(),
            Kept::Halves(_) => size_of::<u16>(),
        }
    }

    /// The whole weight, for a product.
    pub fn view(&self) -> Factor<'_> {
        Factor(match &self.0 {
            Kept::Floats(matrix) => Part::Floats(matrix.view()),
            Kept::Halves(halves) => Part::Halves(HalvesPart {
                of: halves,
                row: 0,
                rows: halves.rows,
                column: 0,
                columns: halves.columns,
                is_turned: halves.is_turned,
            }),
        })
    }

    /// The numbers as `f32`: copied, if they are stored otherwise.
    pub fn to_matrix(&self) -> Cow<'_, Matrix> {
        match &self.0 {
            Kept::Floats(matrix) => Cow::Borrowed(matrix),
            Kept::Halves(halves) => Cow::Owned({
                let mut stored = Matrix::zeros(halves.rows, halves.columns);
                stored.for_rows(|row, out| halves.widen(row, 0, out));
                if halves.is_turned { stored.transposed() } else { stored }
            }),
        }
    }

    /// The transpose.
    #[must_use]
    pub fn transposed(&self) -> Weight {
        Weight(match &self.0 {
            Kept::Floats(matrix) => Kept::Floats(matrix.transposed()),
            Kept::Halves(halves) => Kept::Halves(Halves { is_turned: !halves.is_turned, ..halves.clone() }),
        })
    }

    /// A weight of these rows of this one, in that order; halves are copied as they are.
    ///
    /// # Panics
    /// If halves were turned or changed before.
    #[must_use]
    pub fn select_rows(&self, rows: impl ExactSizeIterator<Item = usize>) -> Weight {
        match &self.0 {
            Kept::Floats(matrix) => matrix.gather(rows).into(),
            Kept::Halves(halves) => {
                halves.assert_as_stored();
                let (count, numbers) =
                    (rows.len(), rows.flat_map(|row| halves.row(row)).copied().collect::<Vec<u16>>());
                Weight::of_halves(Arc::new(numbers), halves.kind, count, halves.columns)
            }
        }
    }

    /// A weight of columns `range` of this one; halves stay where they are.
    ///
    /// # Panics
    /// If halves were turned or changed before.
    #[must_use]
    pub fn select_columns(&self, range: Range<usize>) -> Weight {
        match &self.0 {
            Kept::Floats(matrix) => matrix.columns_of(range).into(),
            Kept::Halves(halves) => {
                halves.assert_as_stored();
                assert!(range.end <= halves.columns);
                let start = halves.start + range.start;
                Weight(Kept::Halves(Halves { start, columns: range.len(), ..halves.clone() }))
            }
        }
    }

    /// Multiplies each row by its number.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn scale_rows(&mut self, by: &[f32]) {
        assert_eq!(self.rows(), by.len());
        match &mut self.0 {
            Kept::Floats(matrix) => matrix.for_rows(|row, numbers| times_one(numbers, by[row])),
            Kept::Halves(halves) => halves.then(Change::Times(by.to_vec()), true),
        }
    }

    /// Takes its mean from each row.
    pub fn center_rows(&mut self) {
        let columns = self.columns() as f64;
        match &mut self.0 {
            Kept::Floats(matrix) => matrix.for_rows(|_, row| less_one(row, sum(row) / columns)),
            Kept::Halves(halves) => {
                let means = halves.sums(true).into_iter().map(|sum| sum / columns).collect();
                halves.then(Change::Less(means), true);
            }
        }
    }

    /// Takes its mean from each column.
    pub fn center_columns(&mut self) {
        let rows = self.rows() as f64;
        match &mut self.0 {
            Kept::Floats(matrix) => {
                let mut means = vec![0.0; matrix.columns()];
                matrix.iter_rows().for_each(|row| add(&mut means, row));
                means.iter_mut().for_each(|mean| *mean /= rows);
                matrix.for_rows(|_, row| less(row, &means));
            }
            Kept::Halves(halves) => {
                let means = halves.sums(false).into_iter().map(|sum| sum / rows).collect();
                halves.then(Change::Less(means), false);
            }
        }
    }
}

impl PartialEq for Weight {
    fn eq(&self, other: &Weight) -> bool {
        let size = |weight: &Weight| (weight.rows(), weight.columns());
        let rows_of = |weight: &Weight, rows: &Range<usize>| weight.view().rows_at(&rows.clone().collect::<Vec<_>>());
        size(self) == size(other)
            && crate::product::ranges(self.rows(), TASK_ROWS).all(|rows| rows_of(self, &rows) == rows_of(other, &rows))
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = match &self.0 {
            Kept::Floats(_) => "f32",
            Kept::Halves(Halves { kind: Half::F16, .. }) => "f16",
            Kept::Halves(Halves { kind: Half::BF16, .. }) => "bf16",
        };
        write!(f, "Weight({} × {} {numbers})", self.rows(), self.columns())
    }
}

impl Halves {
    fn assert_as_stored(&self) {
        assert!(!self.is_turned && self.steps.is_empty(), "the weight was turned or changed");
    }

    /// A stored row.
    fn row(&self, row: usize) -> &[u16] {
        &(*self.numbers).as_ref()[self.start + row * self.stride..][..self.columns]
    }

    /// `change` after those before, of each row of the weight, or of each column.
    fn then(&mut self, change: Change, of_rows: bool) {
        self.steps.push(Step { change, by_row: of_rows != self.is_turned });
    }

    /// Numbers of a stored row from `column` on, as many as `out` takes.
    fn widen(&self, row: usize, column: usize, out: &mut [f32]) {
        let stored = &self.row(row)[column..column + out.len()];
        match self.kind {
            Half::F16 => stored.reinterpret_cast::<half::f16>().convert_to_f32_slice(out),
            Half::BF16 => widen(stored, out),
        }
        for Step { change, by_row } in &self.steps {
            match (change, by_row) {
                (Change::Times(by), true) => times_one(out, by[row]),
                (Change::Times(by), false) => times(out, &by[column..]),
                (Change::Less(what), true) => less_one(out, what[row]),
                (Change::Less(what), false) => less(out, &what[column..]),
            }
        }
    }

    /// The sums of the weight's rows, or of its columns.
    fn sums(&self, of_rows: bool) -> Vec<f64> {
        if of_rows != self.is_turned {
            let sum_of = |row| {
                let mut numbers = vec![0.0; self.columns];
                self.widen(row, 0, &mut numbers);
                sum(&numbers)
            };
            return (0..self.rows).into_par_iter().map(sum_of).collect();
        }
        let (mut sums, mut numbers) = (vec![0.0; self.columns], vec![0.0; self.columns]);
        for row in 0..self.rows {
            self.widen(row, 0, &mut numbers);
            add(&mut sums, &numbers);
        }
        sums
    }
}

/// What a product multiplies with: a [`View`] of `f32`, or all or a part of a [`Weight`].
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a>(Part<'a>);

#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    Floats(View<'a>),
    Halves(HalvesPart<'a>),
}

/// A block of stored halves, or the transpose of one.
#[derive(Clone, Copy)]
struct HalvesPart<'a> {
    of: &'a Halves,
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
    is_turned: bool,
}

impl<'a> From<View<'a>> for Factor<'a> {
    fn from(view: View<'a>) -> Factor<'a> {
        Factor(Part::Floats(view))
    }
}

impl<'a> Factor<'a> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self.0 {
            Part::Floats(view) => view.rows(),
            Part::Halves(part) if part.is_turned => part.columns,
            Part::Halves(part) => part.rows,
        }
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.transposed().rows()
    }

    /// The transpose; nothing is moved.
    #[must_use]
    pub fn transposed(&self) -> Factor<'a> {
        Factor(match self.0 {
            Part::Floats(view) => Part::Floats(view.transposed()),
            Part::Halves(part) => Part::Halves(HalvesPart { is_turned: !part.is_turned, ..part }),
        })
    }

    /// Rows `range` of this one.
    ///
    /// # Panics
    /// If it has not all of them.
    #[must_use]
    pub fn rows_of(&self, range: Range<usize>) -> Factor<'a> {
        assert!(range.start <= range.end && range.end <= self.rows());
        Factor(match self.0 {
            Part::Floats(view) => Part::Floats(view.rows_of(range)),
            Part::Halves(part) if part.is_turned => {
                Part::Halves(HalvesPart { column: part.column + range.start, columns: range.len(), ..part })
            }
            Part::Halves(part) => Part::Halves(HalvesPart { row: part.row + range.start, rows: range.len(), ..part }),
        })
    }

    /// Columns `range` of this one.
    ///
    /// # Panics
    /// If it has not all of them.
    #[must_use]
    pub fn columns_of(&self, range: Range<usize>) -> Factor<'a> {
        self.transposed().rows_of(range).transposed()
    }

    /// The rows at `indices`, in that order.
    ///
    /// # Panics
    /// If it has not all of them.
    pub fn rows_at(&self, indices: &[usize]) -> Matrix {
        assert!(indices.iter().all(|row| *row < self.rows()));
        let mut out = Matrix::zeros(indices.len(), self.columns());
        out.for_rows(|i, out| match self.0 {
            Part::Floats(view) if view.strides().1 == 1 => out.copy_from_slice(view.row(indices[i])),
            Part::Floats(view) => out.iter_mut().enumerate().for_each(|(j, out)| *out = view.at(indices[i], j)),
            Part::Halves(part) if part.is_turned => {
                for (j, out) in out.iter_mut().enumerate() {
                    part.of.widen(part.row + j, part.column + indices[i], std::slice::from_mut(out));
                }
            }
            Part::Halves(part) => part.of.widen(part.row + indices[i], part.column, out),
        });
        out
    }

    /// The columns at `indices`, in that order.
    ///
    /// # Panics
    /// If it has not all of them.
    pub fn columns_at(&self, indices: &[usize]) -> Matrix {
        self.transposed().rows_at(indices).transposed()
    }

    /// The numbers where they are, if they are `f32` and rows lie together, and the distance between rows.
    pub(crate) fn in_place(&self) -> Option<(&'a [f32], usize)> {
        match self.0 {
            Part::Floats(view) if view.strides().1 == 1 => Some((view.numbers(), view.strides().0)),
            _ => None,
        }
    }

    /// Writes all numbers as rows that begin `stride` apart.
    pub(crate) fn lay_out(&self, to: &mut [f32], stride: usize) {
        match self.0 {
            Part::Floats(view) if view.strides().1 == 1 => {
                for (row, to) in to.chunks_mut(stride).take(view.rows()).enumerate() {
                    to[..view.columns()].copy_from_slice(view.row(row));
                }
            }
            Part::Floats(view) => transpose(view.transposed(), to, stride),
            Part::Halves(part) => part.lay_out(to, stride),
        }
    }
}

/// Numbers of a row that are widened before a block of such rows is turned.
const TURNED: usize = 64;

impl HalvesPart<'_> {
    fn lay_out(&self, to: &mut [f32], stride: usize) {
        if !self.is_turned {
            for (row, to) in to.chunks_mut(stride).take(self.rows).enumerate() {
                self.of.widen(self.row + row, self.column, &mut to[..self.columns]);
            }
            return;
        }
        let mut block = [0.0; TURNED * TASK_ROWS];
        for rows in crate::product::ranges(self.rows, TASK_ROWS) {
            for columns in crate::product::ranges(self.columns, TURNED) {
                for (row, out) in rows.clone().zip(block.chunks_exact_mut(TURNED)) {
                    self.of.widen(self.row + row, self.column + columns.start, &mut out[..columns.len()]);
                }
                let block = View::new(&block, rows.len(), columns.len(), TURNED);
                transpose(block, &mut to[columns.start * stride + rows.start..], stride);
            }
        }
    }
}

impl fmt::Debug for HalvesPart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} × {}", self.of.kind, self.rows, self.columns)
    }
}

/// `Σ x`, in order.
fn sum(row: &[f32]) -> f64 {
    row.iter().map(|x| *x as f64).sum()
}

fn add(to: &mut [f64], what: &[f32]) {
    to.iter_mut().zip(what).for_each(|(to, x)| *to += *x as f64);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn widen(from: &[u16], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, half)| *to = f32::from_bits(u32::from(*half) << 16));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn times(to: &mut [f32], by: &[f32]) {
    to.iter_mut().zip(by).for_each(|(to, by)| *to *= by);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn times_one(to: &mut [f32], by: f32) {
    to.iter_mut().for_each(|to| *to *= by);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn less(to: &mut [f32], what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to = (*to as f64 - what) as f32);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn less_one(to: &mut [f32], what: f64) {
    to.iter_mut().for_each(|to| *to = (*to as f64 - what) as f32);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Half, Weight};
    use crate::{Matrix, affine, product};

    /// A weight of halves, and the same one of `f32`.
    fn both(kind: Half, rows: usize, columns: usize) -> [Weight; 2] {
        let float = |i: usize| ((i * 7919) % 613) as f32 / 100.0 - 3.0;
        let numbers: Vec<u16> = (0..rows * columns)
            .map(|i| match kind {
                Half::F16 => half::f16::from_f32(float(i)).to_bits(),
                Half::BF16 => half::bf16::from_f32(float(i)).to_bits(),
            })
            .collect();
        let wide = Matrix::new(numbers.iter().map(|bits| kind.widened(*bits)).collect(), rows, columns);
        [Weight::of_halves(Arc::new(numbers), kind, rows, columns), wide.into()]
    }

    fn changed(mut weight: Weight, by: &[f32]) -> [Weight; 3] {
        let as_stored = weight.clone();
        weight.scale_rows(by);
        weight.center_columns();
        let scaled = weight.clone();
        weight = weight.transposed();
        weight.center_columns();
        [as_stored, scaled, weight]
    }

    #[test]
    fn halves_give_the_bits_of_the_same_numbers_in_full() {
        for kind in [Half::F16, Half::BF16] {
            for (rows, columns) in [(1, 1), (5, 3), (33, 70), (130, 257), (1030, 40)] {
                let by: Vec<f32> = (0..rows).map(|i| i as f32 / 7.0 - 2.0).collect();
                let [halves, wide] = both(kind, rows, columns).map(|weight| changed(weight, &by));
                for (halves, wide) in halves.iter().zip(&wide) {
                    assert_eq!((halves.width(), wide.width()), (2, 4));
                    assert_eq!(halves.to_matrix(), wide.to_matrix(), "{kind:?}");
                    let some = [halves.columns() - 1, 0];
                    assert_eq!(halves.view().columns_at(&some), wide.view().columns_at(&some));
                    let some = [halves.rows() - 1, 0];
                    assert_eq!(halves.view().rows_at(&some), wide.to_matrix().gather(some.into_iter()));
                    for height in [1, 7, 100] {
                        let number = |i: usize| (i % 89) as f32 / 17.0 - 2.5;
                        let left = |width: usize| Matrix::new((0..height * width).map(number).collect(), height, width);
                        let bias: Vec<f32> = (0..halves.columns()).map(number).collect();
                        let x = left(halves.rows());
                        let [found, expected] = [halves, wide].map(|w| affine(x.view(), w.view(), &bias));
                        assert_eq!(found, expected, "{kind:?} {rows} × {columns}, {height} rows");
                        let x = left(halves.columns());
                        let [found, expected] = [halves, wide].map(|w| {
                            let mut out = Matrix::zeros(height, w.rows());
                            product(x.view(), w.view().transposed(), &mut out, false);
                            out
                        });
                        assert_eq!(found, expected, "{kind:?} {rows} × {columns}, turned, {height} rows");
                        let (from, to) = (halves.rows() / 3, halves.rows());
                        let x = left(to - from);
                        let [found, expected] = [halves, wide].map(|w| {
                            let mut out = Matrix::zeros(height, w.columns());
                            product(x.view(), w.view().rows_of(from..to), &mut out, false);
                            out
                        });
                        assert_eq!(found, expected, "{kind:?} {rows} × {columns}, some rows, {height} rows");
                    }
                }
            }
        }
    }

    #[test]
    fn parts_of_stored_halves_are_weights_of_their_own() {
        for [halves, wide] in [Half::F16, Half::BF16].map(|kind| both(kind, 20, 12)) {
            assert_eq!(halves.select_columns(3..9).to_matrix(), wide.select_columns(3..9).to_matrix());
            let turned = |w: &Weight| w.select_columns(3..9).transposed();
            assert_eq!(turned(&halves).to_matrix(), turned(&wide).to_matrix());
            let rows = [19, 0, 4];
            assert_eq!(halves.select_rows(rows.into_iter()), wide.select_rows(rows.into_iter()));
        }
    }
}
