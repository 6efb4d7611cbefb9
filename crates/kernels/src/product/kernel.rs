//! The inner loop of a product, by what this machine's instructions are.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::{Panel, Tile};
use crate::View;

/// A tile of the output that is summed in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Six rows, four vectors of sixteen columns.
    Avx512,
    /// Six rows, two vectors of eight columns.
    Avx2,
    /// Four rows, two vectors of eight columns, as the compiler makes them.
    Plain,
}

/// Steps that a loop takes at once.
const UNROLLED: usize = 4;
/// Columns of the widest tile.
const WIDEST: usize = 64;
/// Rows of the tallest.
pub(super) const TALLEST: usize = 6;

impl Kernel {
    /// The kernels that this machine can run, the best first.
    pub(super) fn available() -> impl Iterator<Item = Kernel> {
        #[cfg(target_arch = "x86_64")]
        let (avx512, avx2) =
            (is_x86_feature_detected!("avx512f"), is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
        #[cfg(not(target_arch = "x86_64"))]
        let (avx512, avx2) = (false, false);
        let kernels = [(Kernel::Avx512, avx512), (Kernel::Avx2, avx2), (Kernel::Plain, true)];
        kernels.into_iter().filter_map(|(kernel, available)| available.then_some(kernel))
    }

    pub(super) fn best() -> Kernel {
        Kernel::available().next().unwrap_or(Kernel::Plain)
    }

    /// Columns of its tile.
    pub(super) fn width(self) -> usize {
        if self == Kernel::Avx512 { WIDEST } else { 16 }
    }

    /// Rows of its tallest tile.
    fn height(self) -> usize {
        if self == Kernel::Plain { 4 } else { TALLEST }
    }

    /// `out = start + (sums + a b)`, where the rows of `a` lie together.
    ///
    /// # Safety
    /// Behind each place are as many rows and columns as the product has.
    pub(super) unsafe fn multiply(self, a: View, panel: &Panel, sums: Option<Tile>, start: Option<Tile>, out: Tile) {
        assert!(a.strides().1 == 1 && a.columns() == panel.depth && panel.depth > 0);
        assert!((panel.depth - 1) * panel.stride + self.width() <= panel.numbers.len());
        let mut row = 0;
        while row < a.rows() {
            let rest = a.rows() - row;
            let height = if rest >= self.height() { self.height() } else { 1 << rest.ilog2() };
            let few = a.rows_of(row..row + height);
            let below = |place: Tile| place.plus(row, 0);
            let (sums, start, out) = (sums.map(below), start.map(below), below(out));
            // SAFETY: the instructions are there; so are the numbers, by the assertions and as the caller says.
            unsafe {
                if panel.columns == self.width() {
                    self.tile(few, panel, sums, start, out);
                } else {
                    let mut whole = [0.0; TALLEST * WIDEST];
                    let place = Tile { at: whole.as_mut_ptr(), stride: WIDEST };
                    if let Some(sums) = sums {
                        for (i, row) in whole.chunks_exact_mut(WIDEST).take(height).enumerate() {
                            (0..panel.columns).for_each(|j| row[j] = *sums.plus(i, j).at);
                        }
                    }
                    self.tile(few, panel, Some(place), None, place);
                    for (i, row) in whole.chunks_exact(WIDEST).take(height).enumerate() {
                        for (j, &sum) in row[..panel.columns].iter().enumerate() {
                            *out.plus(i, j).at = start.map_or(sum, |start| *start.plus(i, j).at + sum);
                        }
                    }
                }
            }
            row += height;
        }
    }

    unsafe fn tile(self, a: View, panel: &Panel, sums: Option<Tile>, start: Option<Tile>, out: Tile) {
        macro_rules! of_height {
            ($tile:ident, $($height:literal)*) => {
                match a.rows() {
                    $($height => $tile::<$height>(a, panel, sums, start, out),)*
                    height => unreachable!("no tile of {height} rows"),
                }
            };
        }
        // SAFETY: as the caller says.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512 => of_height!(avx512, 6 4 2 1),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx2 => of_height!(avx2, 6 4 2 1),
                _ => of_height!(plain, 4 2 1),
            }
        }
    }
}

/// `out = start + (sums + a b)` for a tile of as many rows as `a` has, and columns as a panel.
macro_rules! tile {
    (
        $(#[$attribute:meta])* $name:ident, $vectors:literal, $lanes:literal,
        $zero:expr, $load:expr, $spread:expr, $fma:expr, $add:expr, $store:expr
    ) => {
        $(#[$attribute])*
        unsafe fn $name<const HEIGHT: usize>(a: View, panel: &Panel, so_far: Option<Tile>, start: Option<Tile>, out: Tile) {
            // SAFETY: as many numbers are there as the caller says.
            unsafe {
                let mut sums = [[$zero; $vectors]; HEIGHT];
                if let Some(so_far) = so_far {
                    for (i, sums) in sums.iter_mut().enumerate() {
                        for (j, sum) in sums.iter_mut().enumerate() {
                            *sum = $load(so_far.plus(i, j * $lanes).at.cast_const());
                        }
                    }
                }
                let (a, a_stride) = (a.numbers().as_ptr(), a.strides().0);
                let rows: [*const f32; HEIGHT] = std::array::from_fn(|i| a.add(i * a_stride));
                let (b, b_stride, depth) = (panel.numbers.as_ptr(), panel.stride, panel.depth);
                let mut step = |k: usize| {
                    let b = b.add(k * b_stride);
                    let mut columns = [$zero; $vectors];
                    for (j, column) in columns.iter_mut().enumerate() {
                        *column = $load(b.add(j * $lanes));
                    }
                    for (row, sums) in rows.iter().zip(&mut sums) {
                        let a = $spread(*row.add(k));
                        for (sum, &column) in sums.iter_mut().zip(&columns) {
                            *sum = $fma(a, column, *sum);
                        }
                    }
                };
                let unrolled = depth - depth % UNROLLED;
                for k in (0..unrolled).step_by(UNROLLED) {
                    (k..k + UNROLLED).for_each(&mut step);
                }
                (unrolled..depth).for_each(step);
                for (i, sums) in sums.iter().enumerate() {
                    for (j, &sum) in sums.iter().enumerate() {
                        let sum = match start {
                            Some(start) => $add($load(start.plus(i, j * $lanes).at.cast_const()), sum),
                            None => sum,
                        };
                        $store(out.plus(i, j * $lanes).at, sum);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
tile!(
    #[target_feature(enable = "avx512f")]
    avx512,
    4,
    16,
    _mm512_setzero_ps(),
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_storeu_ps
);

#[cfg(target_arch = "x86_64")]
tile!(
    #[target_feature(enable = "avx2,fma")]
    avx2,
    2,
    8,
    _mm256_setzero_ps(),
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_storeu_ps
);

tile!(plain, 2, 8, [0.0; 8], load, |x| [x; 8], fma, add, store);

#[inline(always)]
unsafe fn load(from: *const f32) -> [f32; 8] {
    // SAFETY: as the caller says.
    unsafe { from.cast::<[f32; 8]>().read_unaligned() }
}

#[inline(always)]
unsafe fn store(to: *mut f32, x: [f32; 8]) {
    // SAFETY: as the caller says.
    unsafe { to.cast::<[f32; 8]>().write_unaligned(x) }
}

#[inline(always)]
fn fma(a: [f32; 8], b: [f32; 8], sum: [f32; 8]) -> [f32; 8] {
    std::array::from_fn(|i| a[i].mul_add(b[i], sum[i]))
}

#[inline(always)]
fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
    std::array::from_fn(|i| a[i] + b[i])
}
