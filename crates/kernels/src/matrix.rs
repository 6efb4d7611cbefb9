//! Row-major `f32` matrices.

use std::ops::Range;

use rayon::prelude::*;

use crate::transpose::transpose;

/// Rows that a task takes at a time: in a transpose, whole lines of the cache.
pub(crate) const TASK_ROWS: usize = 32;

/// A row-major matrix that owns its numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matrix {
    data: Vec<f32>,
    rows: usize,
    columns: usize,
}

/// A borrowed block of a row-major matrix, or the transpose of one.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    /// Distance between a number and the one below it.
    row_stride: usize,
    /// Distance between a number and the one to its right.
    column_stride: usize,
}

impl Matrix {
    /// `rows × columns` zeros.
    pub fn zeros(rows: usize, columns: usize) -> Matrix {
        Matrix { data: vec![0.0; rows * columns], rows, columns }
    }

    /// A matrix of the given shape over `data`, row after row.
    ///
    /// # Panics
    /// If `data` does not hold `rows × columns` numbers.
    pub fn new(data: Vec<f32>, rows: usize, columns: usize) -> Matrix {
        assert_eq!(data.len(), rows * columns, "{} numbers are not {rows} × {columns}", data.len());
        Matrix { data, rows, columns }
    }

    /// A matrix with these rows, all of one length.
    pub fn from_rows<R: AsRef<[f32]>>(rows: &[R]) -> Matrix {
        let columns = rows.first().map_or(0, |row| row.as_ref().len());
        let data = rows.iter().flat_map(|row| row.as_ref().iter().copied()).collect();
        Matrix::new(data, rows.len(), columns)
    }

    /// Runs `f` on every row (with its number), in parallel.
    pub(crate) fn for_rows(&mut self, f: impl Fn(usize, &mut [f32]) + Sync) {
        let columns = self.columns.max(1);
        self.data.par_chunks_mut(columns * TASK_ROWS).enumerate().for_each(|(block, rows)| {
            for (i, row) in rows.chunks_exact_mut(columns).enumerate() {
                f(block * TASK_ROWS + i, row);
            }
        });
    }

    /// `rows` copies of one row.
    pub fn repeat(row: &[f32], rows: usize) -> Matrix {
        Matrix { data: row.repeat(rows), rows, columns: row.len() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All numbers, row after row.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All numbers, to change.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The numbers, given up.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.columns..(i + 1) * self.columns]
    }

    /// Row `i`, to change.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.columns..(i + 1) * self.columns]
    }

    /// All rows in order.
    pub fn iter_rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        (0..self.rows).map(|i| self.row(i))
    }

    /// Rows `range` as one slice.
    pub fn row_range(&self, range: Range<usize>) -> &[f32] {
        &self.data[range.start * self.columns..range.end * self.columns]
    }

    /// The whole matrix, borrowed.
    pub fn view(&self) -> View<'_> {
        View { data: &self.data, rows: self.rows, columns: self.columns, row_stride: self.columns, column_stride: 1 }
    }

    /// A copy of the rows at `indices`, in that order.
    pub fn gather(&self, indices: impl ExactSizeIterator<Item = usize>) -> Matrix {
        let mut out = Matrix::zeros(indices.len(), self.columns);
        let indices: Vec<usize> = indices.collect();
        let rows = out.data.par_chunks_mut(self.columns.max(1)).with_min_len(TASK_ROWS);
        rows.zip(indices).for_each(|(row, i)| row.copy_from_slice(self.row(i)));
        out
    }

    /// A copy of columns `range`.
    pub fn columns_of(&self, range: Range<usize>) -> Matrix {
        let mut data = Vec::with_capacity(self.rows * range.len());
        for row in self.iter_rows() {
            data.extend_from_slice(&row[range.clone()]);
        }
        Matrix { data, rows: self.rows, columns: range.len() }
    }

    /// The transpose, copied.
    pub fn transposed(&self) -> Matrix {
        self.view().transposed().to_matrix()
    }

    /// Adds `other`, element by element.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn add(&mut self, other: &Matrix) {
        assert_eq!((self.rows, self.columns), (other.rows, other.columns));
        let size = (TASK_ROWS * self.columns).max(1);
        self.data.par_chunks_mut(size).zip(other.data.par_chunks(size)).for_each(|(rows, others)| {
            rows.iter_mut().zip(others).for_each(|(a, b)| *a += b);
        });
    }

    /// Multiplies by `other`, element by element.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn multiply(&mut self, other: &Matrix) {
        assert_eq!((self.rows, self.columns), (other.rows, other.columns));
        let size = (TASK_ROWS * self.columns).max(1);
        self.data.par_chunks_mut(size).zip(other.data.par_chunks(size)).for_each(|(rows, others)| {
            rows.iter_mut().zip(others).for_each(|(a, b)| *a *= b);
        });
    }

    /// Adds one row to every row.
    ///
    /// # Panics
    /// If the row has another length.
    pub fn add_to_rows(&mut self, row: &[f32]) {
        assert_eq!(self.columns, row.len());
        for out in self.data.chunks_exact_mut(self.columns.max(1)) {
            for (a, b) in out.iter_mut().zip(row) {
                *a += b;
            }
        }
    }

    /// The first number that is not finite, as (row, column).
    pub fn first_not_finite(&self) -> Option<(usize, usize)> {
        // A whole row at a time, which the compiler makes vector code of.
        let row = self.iter_rows().position(|row| row.iter().fold(false, |any, x| any | !x.is_finite()))?;
        let column = self.row(row).iter().position(|x| !x.is_finite())?;
        Some((row, column))
    }
}

impl<'a> View<'a> {
    /// A block over `data`, whose rows begin `stride` apart.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> View<'a> {
        assert!(columns <= stride || rows <= 1);
        assert!(rows == 0 || (rows - 1) * stride + columns <= data.len());
        View { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The transpose; nothing is moved.
    #[must_use]
    pub fn transposed(&self) -> View<'a> {
        View {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..*self
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn strides(&self) -> (usize, usize) {
        (self.row_stride, self.column_stride)
    }

    /// The numbers from the first on, those between rows included.
    pub(crate) fn numbers(&self) -> &'a [f32] {
        self.data
    }

    /// A copy, row after row.
    pub(crate) fn to_matrix(self) -> Matrix {
        let mut out = Matrix::zeros(self.rows, self.columns);
        out.data.par_chunks_mut((self.columns * TASK_ROWS).max(1)).enumerate().for_each(|(block, out)| {
            let rows = self.rows_of(block * TASK_ROWS..self.rows.min((block + 1) * TASK_ROWS));
            if self.column_stride == 1 {
                out.chunks_exact_mut(self.columns).enumerate().for_each(|(i, out)| out.copy_from_slice(rows.row(i)));
            } else {
                transpose(rows.transposed(), out, self.columns);
            }
        });
        out
    }

    /// The number at row `i` and column `j`.
    ///
    /// # Panics
    /// If it lies outside.
    pub fn at(&self, i: usize, j: usize) -> f32 {
        assert!(i < self.rows && j < self.columns);
        self.data[i * self.row_stride + j * self.column_stride]
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is no such row, or this is a transpose, whose rows do not lie together.
    pub fn row(&self, i: usize) -> &'a [f32] {
        assert_eq!(self.column_stride, 1, "the rows of a transpose do not lie together");
        &self.data[i * self.row_stride..i * self.row_stride + self.columns]
    }

    /// Rows `range` of this block.
    ///
    /// # Panics
    /// If it has not all of them.
    pub fn rows_of(&self, range: Range<usize>) -> View<'a> {
        assert!(range.start <= range.end && range.end <= self.rows);
        let start = (range.start * self.row_stride).min(self.data.len());
        View { data: &self.data[start..], rows: range.len(), ..*self }
    }

    /// Columns `range` of this block.
    ///
    /// # Panics
    /// If it has not all of them.
    pub fn columns_of(&self, range: Range<usize>) -> View<'a> {
        assert!(range.start <= range.end && range.end <= self.columns);
        let start = (range.start * self.column_stride).min(self.data.len());
        View { data: &self.data[start..], columns: range.len(), ..*self }
    }
}
