//! The one order in which a pre-activation is summed.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use multiversion::multiversion;
use rayon::prelude::*;

use super::quantise::LANES;
use crate::{ByDirection, View};

/// Candidates a thread computes at a time.
const ENTRIES: usize = 256;
/// Half a unit in the last place of 1.
pub(super) const U: f32 = f32::EPSILON / 2.0;

/// `x[position] · w[direction]` at every entry of a pattern, in its order.
pub(super) fn sampled(x: View, w: View, pattern: &ByDirection) -> Vec<f32> {
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

/// `x · w` in the one order of all screens: term `i` goes to sum `i mod 64`, then halves of the sums are added. Meanwhile
/// `next`, which comes after `x`, is brought nearer.
#[inline(always)]
pub(super) fn dot(x: &[f32], w: &[f32], next: &[f32]) -> f32 {
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
pub(super) fn rounding(d_in: usize) -> f32 {
    (1.1 * (d_in.div_ceil(64) + 6) as f32 + 64.0) * U
}
