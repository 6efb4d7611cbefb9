//! Matrix products on the `gemm` crate, arranged so that a row's bits depend only on that row.

use gemm::Parallelism;
use rayon::prelude::*;

use crate::{Matrix, View};

/// Work (multiply-adds) below which a product stays on one thread.
const PARALLEL: usize = 1 << 18;

/// Products of at most so many columns are summed in another order.
pub(crate) const NARROW: usize = 64;
/// Numbers of an output that `gemm` may treat as a product of few rows and columns.
const SMALLEST: usize = 256;

struct Destination(*mut f32);
// SAFETY: tasks write disjoint blocks of the destination.
unsafe impl Send for Destination {}
unsafe impl Sync for Destination {}

/// `out = a b`, or `out += a b` when `accumulate`, on all threads.
pub(crate) fn product(a: View, b: View, out: &mut Matrix, accumulate: bool) {
    let threads = if a.rows() * b.columns() * a.columns() < PARALLEL { 1 } else { rayon::current_num_threads() };
    product_on(threads, a, b, out, accumulate);
}

/// The same on so many threads, with the same bits: on one, inside a task that runs beside others.
///
/// `gemm` splits the inner dimension by its size alone as long as there are at least two rows and the blocks it is given
/// keep to one of its two size classes; `block_rows` and the doubled single row see to that.
pub(crate) fn product_on(threads: usize, a: View, b: View, out: &mut Matrix, accumulate: bool) {
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    assert_eq!(k, b.rows(), "inner dimensions differ");
    assert_eq!((m, n), (out.rows(), out.columns()), "the output has another shape");
    if m == 0 || n == 0 {
        return;
    }
    if n == 1 {
        return matrix_vector(a, b, out, accumulate);
    }
    if m == 1 {
        let row: Vec<f32> = (0..k).map(|j| a.at(0, j)).collect();
        let twice = Matrix::from_rows(&[&row, &row]);
        let mut rows = Matrix::from_rows(&[out.row(0), out.row(0)]);
        product_on(threads, twice.view(), b, &mut rows, accumulate);
        out.row_mut(0).copy_from_slice(rows.row(0));
        return;
    }
    // gemm treats blocks of at most 64 × 64 apart, so narrow products keep to such blocks and wide ones never form them.
    let (block_rows, block_columns) = if n <= NARROW {
        (62, n)
    } else if m >= 16 * threads {
        (m.div_ceil(threads).max(2), n)
    } else {
        (m, n.div_ceil(threads).next_multiple_of(64).max(128))
    };
    let rows = split(m, block_rows, 2);
    let columns = split(n, block_columns, NARROW + 1);
    let destination = Destination(out.data_mut().as_mut_ptr());
    let task = |(rows, columns): (&std::ops::Range<usize>, &std::ops::Range<usize>)| {
        let (a, b) = (a.rows_of(rows.clone()), b.columns_of(columns.clone()));
        // gemm sums the smallest products in another order when the columns of `b` lie together, so there they must not.
        let small = a.rows() * b.columns() <= SMALLEST && b.strides().0 == 1;
        let by_rows = small.then(|| b.to_matrix());
        let b = by_rows.as_ref().map_or(b, Matrix::view);
        let destination = &destination;
        let ((a_row, a_column), (b_row, b_column)) = (a.strides(), b.strides());
        // SAFETY: the views were checked when made, and the blocks of the destination do not overlap.
        unsafe {
            gemm::gemm(
                a.rows(),
                b.columns(),
                k,
                destination.0.add(rows.start * n + columns.start),
                1,
                n as isize,
                accumulate,
                a.as_ptr(),
                a_column as isize,
                a_row as isize,
                b.as_ptr(),
                b_column as isize,
                b_row as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    };
    let blocks: Vec<_> = rows.iter().flat_map(|r| columns.iter().map(move |c| (r, c))).collect();
    if threads == 1 {
        blocks.into_iter().for_each(task);
    } else {
        blocks.into_par_iter().for_each(task);
    }
}

/// `0..length` in ranges of about `size`, none shorter than `least` unless there is only one.
pub(crate) fn split(length: usize, size: usize, least: usize) -> Vec<std::ops::Range<usize>> {
    let mut starts: Vec<usize> = (0..length).step_by(size.max(1)).collect();
    if starts.len() > 1 && length - starts[starts.len() - 1] < least {
        starts.pop();
    }
    let ends = starts.iter().skip(1).copied().chain([length]).collect::<Vec<_>>();
    starts.into_iter().zip(ends).map(|(start, end)| start..end).collect()
}

fn matrix_vector(a: View, b: View, out: &mut Matrix, accumulate: bool) {
    for i in 0..a.rows() {
        let start = if accumulate { out.row(i)[0] } else { 0.0 };
        let dot = (0..a.columns()).fold(0.0_f32, |acc, j| a.at(i, j).mul_add(b.at(j, 0), acc));
        out.row_mut(i)[0] = start + dot;
    }
}
