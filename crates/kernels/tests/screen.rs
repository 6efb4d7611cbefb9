//! A screened encoder keeps what one keeps that computes every pre-activation in the order of [`dot`], bit for bit.

use directrix_kernels::{Encoder, Instructions, Keep, Matrix, NotFinite, Screen, SparseActivations};
use proptest::prelude::*;

struct Noise(u64);

impl Noise {
    /// Between -1 and 1.
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next().abs() * n as f32) as usize % n
    }

    /// Rows of `scale`; a few of zeros, and a few of `odd`.
    fn matrix(&mut self, rows: usize, columns: usize, scale: f32, odd: f32, gelu: bool) -> Matrix {
        let mut data = Vec::new();
        for _ in 0..rows {
            let scale = match self.below(8) {
                0 => 0.0,
                1 => odd,
                _ => scale,
            };
            let shape = |x: f32| if gelu && x < 0.3 { x * 0.02 } else { x };
            data.extend((0..columns).map(|_| shape(self.next()) * scale));
        }
        Matrix::new(data, rows, columns)
    }
}

fn noise(seed: u64) -> Noise {
    Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
}

/// Term `i` is added to sum `i mod 64`; then halves of the sums are added.
fn dot(x: &[f32], w: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 64];
    for (i, (x, w)) in x.iter().zip(w).enumerate() {
        sums[i % 64] = x.mul_add(*w, sums[i % 64]);
    }
    for half in [32, 16, 8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}

fn pre_activations(x: &[f32], w: &Matrix, bias: &[f32]) -> Vec<f32> {
    w.iter_rows().zip(bias).map(|(w, bias)| dot(x, w) + bias).collect()
}

/// All pre-activations, and of them those that are kept.
fn plain(x: &Matrix, w: &Matrix, bias: &[f32], keep: Keep) -> Result<SparseActivations, NotFinite> {
    let mut kept = SparseActivations::default();
    for (row, x) in x.iter_rows().enumerate() {
        let pre = pre_activations(x, w, bias);
        if let Some(direction) = pre.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
            return Err(NotFinite { row, direction });
        }
        let threshold = |d: usize| if let Keep::Above(thresholds) = keep { thresholds[d] } else { 0.0 };
        let mut entries: Vec<(u32, f32)> =
            pre.iter().enumerate().filter(|(d, x)| **x > threshold(*d)).map(|(d, x)| (d as u32, *x)).collect();
        if let Keep::Largest(k) = keep {
            entries.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            entries.truncate(k);
            entries.sort_unstable_by_key(|(d, _)| *d);
        }
        kept.push(entries);
    }
    Ok(kept)
}

/// A screen for each of the instructions this machine has.
fn screens(w: &Matrix) -> Vec<Screen> {
    Instructions::ALL.into_iter().filter_map(|instructions| Screen::with(w, instructions)).collect()
}

/// Values beside their bits, so that equal means equal bits.
fn bits(acts: &SparseActivations) -> (&[usize], &[u32], Vec<u32>) {
    (acts.indptr(), acts.directions(), acts.values().iter().map(|x| x.to_bits()).collect())
}

fn check(x: &Matrix, w: &Matrix, bias: &[f32], keep: Keep) -> Result<(), TestCaseError> {
    let wanted = plain(x, w, bias, keep);
    let weights = w.view().transposed();
    for screen in screens(w) {
        let found = directrix_kernels::encode(x.view(), Encoder { weights, bias, keep, screen: Some(&screen) });
        prop_assert_eq!(found.as_ref().map(bits), wanted.as_ref().map(bits), "{:?} {:?}", screen, keep);
    }
    Ok(())
}

fn check_all(x: &Matrix, w: &Matrix, bias: &[f32], thresholds: &[f32], k: usize) -> Result<(), TestCaseError> {
    check(x, w, bias, Keep::Positive)?;
    check(x, w, bias, Keep::Above(thresholds))?;
    check(x, w, bias, Keep::Largest(k))
}

fn lengths() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![1, 2, 3, 15, 16, 17, 63, 64, 65, 100, 128, 200, 513])
}

fn scales() -> impl Strategy<Value = f32> {
    prop::sample::select(vec![1.0, 1.0, 1.0, 1e-3, 1e-44, 1e-30, 1e-13, 1e-12, 1e11, 1e12, 1e13, 1e19, 1e30])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_screen_loses_nothing_and_adds_nothing(
        seed: u64, rows in 1..50_usize, d_in in lengths(), directions in 1..200_usize, k in 0..30_usize, gelu: bool,
        scale in scales(), odd in scales(), least in -0.5..2.0_f32,
    ) {
        let mut noise = noise(seed);
        let x = noise.matrix(rows, d_in, scale, odd, gelu);
        let w = noise.matrix(directions, d_in, 1.0, odd, false);
        let size = scale * (d_in as f32).sqrt() / 3.0;
        let bias: Vec<f32> = (0..directions).map(|_| (noise.next() * 0.2 - least) * size).collect();
        let thresholds: Vec<f32> = (0..directions).map(|_| noise.next().abs() * 0.3 * size).collect();
        check_all(&x, &w, &bias, &thresholds, k)?;
    }

    #[test]
    fn what_lies_at_a_threshold_is_decided_as_by_the_plain_sums(
        seed: u64, rows in 1..20_usize, d_in in lengths(), directions in 1..150_usize, k in 1..20_usize, equal in 1..6_usize,
        scale in scales(), with_bias: bool,
    ) {
        let mut noise = noise(seed);
        let x = noise.matrix(rows, d_in, scale, 1.0, true);
        // Some directions are the same, so that there are ties for the last place.
        let few = noise.matrix(directions, d_in, 1.0, 1e-5, false);
        let w = few.gather((0..directions).map(|d| d / equal * equal));
        let row = |noise: &mut Noise| noise.below(rows);
        let zero = vec![0.0; directions];
        let mut bias = zero.clone();
        if with_bias {
            for (d, bias) in bias.iter_mut().enumerate() {
                *bias = -dot(x.row(row(&mut noise)), w.row(d));
            }
        }
        if bias.iter().any(|b| !b.is_finite()) {
            return Ok(());
        }
        let mut thresholds = zero;
        for (d, threshold) in thresholds.iter_mut().enumerate() {
            let pre = dot(x.row(row(&mut noise)), w.row(d)) + bias[d];
            *threshold = [pre.next_down(), pre, pre.next_up()][noise.below(3)];
        }
        check_all(&x, &w, &bias, &thresholds, k)?;
    }

    #[test]
    fn what_is_not_finite_is_reported(
        seed: u64, rows in 1..40_usize, d_in in lengths(), directions in 1..100_usize, k in 0..5_usize, many in 1..4_usize,
        bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38]), place in 0..3_usize,
    ) {
        let mut noise = noise(seed);
        let (mut x, mut w) = (noise.matrix(rows, d_in, 10.0, 3.0, true), noise.matrix(directions, d_in, 1.0, 20.0, false));
        let mut bias = vec![-1.0; directions];
        for _ in 0..many {
            match place {
                0 => x.row_mut(noise.below(rows))[noise.below(d_in)] = bad,
                1 => w.row_mut(noise.below(directions))[noise.below(d_in)] = bad,
                _ => bias[noise.below(directions)] = bad,
            }
        }
        check_all(&x, &w, &bias, &vec![0.5; directions], k)?;
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_a_batch_on_any_number_of_threads(
        seed: u64, rows in 2..60_usize, d_in in lengths(), directions in 1..400_usize, from in 0..60_usize, k in 1..20_usize,
    ) {
        let mut noise = noise(seed);
        let (x, w) = (noise.matrix(rows, d_in, 1.0, 5.0, true), noise.matrix(directions, d_in, 1.0, 0.1, false));
        let bias: Vec<f32> = (0..directions).map(|_| noise.next()).collect();
        let from = from % rows;
        for screen in screens(&w) {
            for keep in [Keep::Positive, Keep::Largest(k)] {
                let encoder = Encoder { weights: w.view().transposed(), bias: &bias, keep, screen: Some(&screen) };
                let encode = |threads: usize, range: std::ops::Range<usize>| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| directrix_kernels::encode(x.view().rows_of(range), encoder).unwrap())
                };
                let parts = [encode(1, 0..from), encode(2, from..from + 1), encode(3, from + 1..rows)];
                prop_assert_eq!(SparseActivations::joined(&parts), encode(2, 0..rows));
            }
        }
    }
}

#[test]
fn many_rows_and_few_kept_of_many_directions() {
    let mut noise = noise(7);
    let (x, w) = (noise.matrix(2100, 40, 1.0, 3.0, true), noise.matrix(33, 40, 1.0, 2.0, false));
    check_all(&x, &w, &[-1.5; 33], &[0.2; 33], 3).unwrap();
    let (x, w) = (noise.matrix(9, 1000, 1.0, 3.0, true), noise.matrix(3000, 1000, 1.0, 1.5, false));
    check_all(&x, &w, &[-20.0; 3000], &[5.0; 3000], 20).unwrap();
    check_all(&x, &w, &[20.0; 3000], &[5.0; 3000], 20).unwrap();
}

#[test]
fn no_rows_and_no_directions() {
    let (x, w) = (Matrix::zeros(3, 5), Matrix::zeros(0, 5));
    check(&x, &w, &[], Keep::Positive).unwrap();
    check(&Matrix::zeros(0, 5), &Matrix::zeros(4, 5), &[1.0; 4], Keep::Largest(2)).unwrap();
    assert!(Screen::new(&Matrix::zeros(4, 0)).is_none());
}

#[cfg(target_arch = "x86_64")]
#[test]
fn there_is_a_screen_where_there_is_avx2() {
    let w = Matrix::zeros(4, 4);
    assert_eq!(Screen::new(&w).is_some(), is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
}
