//! Turning rows into columns.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
    _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};

use crate::View;

/// Side of the squares that are turned in registers.
const SIDE: usize = 8;

/// Writes the columns of `from`, whose rows lie together, as the rows of `to`, which begin `stride` apart.
pub(crate) fn transpose(from: View, to: &mut [f32], stride: usize) {
    let (rows, columns) = (from.rows(), from.columns());
    if columns == 0 {
        return;
    }
    assert!(rows <= stride && (columns - 1) * stride + rows <= to.len());
    #[cfg(target_arch = "x86_64")]
    let square = if is_x86_feature_detected!("avx2") { avx2 } else { plain };
    #[cfg(not(target_arch = "x86_64"))]
    let square = plain;
    if rows < SIDE || columns < SIDE {
        for i in 0..rows {
            from.row(i).iter().enumerate().for_each(|(j, &x)| to[j * stride + i] = x);
        }
        return;
    }
    // The last squares may overlap those before them.
    let starts = |length: usize| (0..length - SIDE).step_by(SIDE).chain([length - SIDE]);
    for i in starts(rows) {
        for j in starts(columns) {
            let (from, from_stride) = (&from.row(i)[j..], from.strides().0);
            // SAFETY: the instructions are there, and by the assertion and the view's own so are eight rows of eight.
            unsafe { square(from.as_ptr(), from_stride, to[j * stride + i..].as_mut_ptr(), stride) };
        }
    }
}

unsafe fn plain(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    for i in 0..SIDE {
        for j in 0..SIDE {
            // SAFETY: as the caller says.
            unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    let mut rows = [_mm256_setzero_ps(); SIDE];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: as the caller says.
        *row = unsafe { _mm256_loadu_ps(from.add(i * from_stride)) };
    }
    // Rows are interleaved by twos, by fours, and then all eight.
    let (mut twos, mut fours) = (rows, rows);
    for i in 0..SIDE {
        let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
        twos[i] = if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) };
    }
    for i in 0..SIDE {
        let (a, b) = (twos[i / 4 * 4 + i % 4 / 2], twos[i / 4 * 4 + i % 4 / 2 + 2]);
        fours[i] = if i % 2 == 0 { _mm256_shuffle_ps::<0x44>(a, b) } else { _mm256_shuffle_ps::<0xEE>(a, b) };
    }
    for i in 0..SIDE {
        let (a, b) = (fours[i % 4], fours[i % 4 + 4]);
        let row = if i < 4 { _mm256_permute2f128_ps::<0x20>(a, b) } else { _mm256_permute2f128_ps::<0x31>(a, b) };
        // SAFETY: as the caller says.
        unsafe { _mm256_storeu_ps(to.add(i * to_stride), row) };
    }
}

#[cfg(test)]
mod tests {
    use crate::Matrix;

    #[test]
    fn a_transpose_has_every_number_in_its_place() {
        for (rows, columns) in [(0, 3), (3, 0), (1, 1), (8, 8), (7, 20), (33, 17), (64, 100)] {
            let data = (0..rows * columns).map(|i| i as f32).collect();
            let matrix = Matrix::new(data, rows, columns);
            let turned = matrix.transposed();
            assert_eq!((turned.rows(), turned.columns()), (columns, rows));
            for i in 0..rows {
                assert!((0..columns).all(|j| turned.row(j)[i] == matrix.row(i)[j]));
            }
        }
    }
}
