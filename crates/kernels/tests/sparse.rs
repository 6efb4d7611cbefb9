//! What follows the active entries only gives what dense arithmetic gives, for every shape, density and number of threads.

use directrix_kernels::{Adam, Encoder, Keep, Matrix, Outer, SparseActivations};
use proptest::prelude::*;

fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

fn matrix(seed: u64, rows: usize, columns: usize) -> Matrix {
    Matrix::new(numbers(seed, rows * columns), rows, columns)
}

fn close(found: &[f32], wanted: impl Fn(usize) -> f64) -> bool {
    found.iter().enumerate().all(|(i, x)| (*x as f64 - wanted(i)).abs() < 1e-4)
}

/// Activations of which a share is active; every eighth direction fires nearly always.
fn activations(seed: u64, positions: usize, directions: usize, share: f32) -> SparseActivations {
    let draws = matrix(seed, positions, directions);
    let mut acts = SparseActivations::default();
    for row in draws.iter_rows() {
        let fires = |(d, x): &(usize, &f32)| **x + 0.5 < if d % 8 == 0 { 0.95 } else { share };
        acts.push(row.iter().enumerate().filter(fires).map(|(d, x)| (d as u32, x + 1.0)));
    }
    acts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn products_and_steps_of_adam_are_those_of_dense_matrices(
        seed in any::<u64>(), positions in 1..40_usize, directions in 1..300_usize, d_in in 1..150_usize, share in 0.0..1.0_f32,
    ) {
        let acts = activations(seed, positions, directions, share);
        let (dense, pattern) = (acts.to_dense(directions), acts.by_direction(directions));
        let values = pattern.arrange(acts.values());
        let (w, x) = (matrix(seed ^ 1, directions, d_in), matrix(seed ^ 2, positions, d_in));
        let at = |p: usize, d: usize| dense[p * directions + d] as f64;
        let middle = directions / 2..directions;

        let mut out = x.clone();
        directrix_kernels::sparse_product(&pattern, &values, middle.clone(), &w, &mut out);
        let product = |i: usize| {
            let (p, j) = (i / d_in, i % d_in);
            x.row(p)[j] as f64 + middle.clone().map(|d| at(p, d) * w.row(d)[j] as f64).sum::<f64>()
        };
        prop_assert!(close(out.data(), product));

        let dots = directrix_kernels::sampled_product(&pattern, middle.clone(), &x, &w);
        let mut wanted = Vec::new();
        for d in middle.clone() {
            for i in pattern.range(d) {
                let row = x.row(pattern.positions()[i] as usize);
                wanted.push(row.iter().zip(w.row(d)).map(|(x, w)| *x as f64 * *w as f64).sum::<f64>());
            }
        }
        prop_assert_eq!(dots.len(), wanted.len());
        prop_assert!(close(&dots, |i| wanted[i]));

        // Adam without memory and with a large epsilon moves weights by the gradient.
        let along = numbers(seed ^ 3, directions);
        let terms = [
            Outer { pattern: &pattern, values: &values, rows: &x, directions: 0..directions },
            Outer { pattern: &pattern, values: &values, rows: &out, directions: middle.clone() },
        ];
        let (mut moved, mut first, mut second) = (w.clone(), matrix(0, directions, d_in), matrix(0, directions, d_in));
        directrix_kernels::descend(&mut moved, [&mut first, &mut second], &terms, Some(&along), Adam::new(1e8, [0.0, 0.0], 1e8, 1));
        let gradient = |i: usize| {
            let (d, j) = (i / d_in, i % d_in);
            let of = |rows: &Matrix| (0..positions).map(|p| at(p, d) * rows.row(p)[j] as f64).sum::<f64>();
            of(&x) + if middle.contains(&d) { of(&out) } else { 0.0 } - along[d] as f64 * w.row(d)[j] as f64
        };
        let scale = (0..directions * d_in).map(|i| gradient(i).abs()).fold(1.0, f64::max);
        prop_assert!(first.data().iter().enumerate().all(|(i, m)| (*m as f64 - gradient(i)).abs() < 1e-5 * scale));
        prop_assert!(moved.data().iter().enumerate().all(|(i, x)| (w.data()[i] as f64 - *x as f64 - gradient(i)).abs() < 1e-4 * scale));

        let sum = directrix_kernels::weighted_sum(&w, &along);
        prop_assert!(close(&sum, |j| (0..directions).map(|d| along[d] as f64 * w.row(d)[j] as f64).sum()));
    }

    #[test]
    fn kept_are_those_above_a_threshold_or_the_largest(
        seed in any::<u64>(), positions in 1..30_usize, directions in 2..700_usize, d_in in 2..20_usize, k in 0..40_usize,
    ) {
        let (x, w) = (matrix(seed, positions, d_in), matrix(seed ^ 1, directions, d_in));
        let (bias, thresholds) = (numbers(seed ^ 2, directions), numbers(seed ^ 3, directions));
        let encode = |keep| {
            directrix_kernels::encode(x.view(), Encoder { weights: w.view().transposed(), bias: &bias, keep, screen: None }).unwrap()
        };
        let none = vec![-1e9; directions];
        let all = encode(Keep::Above(&none));
        prop_assert_eq!(all.active(), positions * directions);
        for p in 0..positions {
            let (_, pre) = all.at(p);
            for (d, &found) in pre.iter().enumerate() {
                let exact: f64 = x.row(p).iter().zip(w.row(d)).map(|(x, w)| *x as f64 * *w as f64).sum();
                prop_assert!((found as f64 - exact - bias[d] as f64).abs() < 1e-5);
            }
        }
        let above = encode(Keep::Above(&thresholds));
        let positive = encode(Keep::Positive);
        let largest = encode(Keep::Largest(k));
        for p in 0..positions {
            let (_, pre) = all.at(p);
            let those = |keep: &dyn Fn(usize) -> bool| (0..directions as u32).filter(|d| keep(*d as usize)).collect::<Vec<_>>();
            prop_assert_eq!(above.at(p).0, those(&|d| pre[d] > thresholds[d]));
            prop_assert_eq!(positive.at(p).0, those(&|d| pre[d] > 0.0));
            let mut order = those(&|d| pre[d] > 0.0);
            order.sort_by(|a, b| pre[*b as usize].total_cmp(&pre[*a as usize]).then(a.cmp(b)));
            order.truncate(k);
            order.sort_unstable();
            prop_assert_eq!(largest.at(p).0, order);
            prop_assert!(largest.at(p).0.iter().zip(largest.at(p).1).all(|(d, x)| pre[*d as usize] == *x));
        }
    }

    #[test]
    fn parts_have_the_bits_of_the_whole(
        seed in any::<u64>(), directions in 1..600_usize, d_in in 1..200_usize, share in 0.0..0.9_f32, first in 0..64_usize, tiles in 0..6_usize,
    ) {
        let acts = activations(seed, 64, directions, share);
        let pattern = acts.by_direction(directions);
        let values = pattern.arrange(acts.values());
        let (w, x) = (matrix(seed ^ 1, directions, d_in), matrix(seed ^ 2, 64, d_in));
        let mut whole = x.clone();
        directrix_kernels::sparse_product(&pattern, &values, 0..directions, &w, &mut whole);
        let at = first..first.midpoint(65);
        let mut part = x.gather(at.clone());
        directrix_kernels::sparse_product_at(&pattern, &values, 0..directions, &w, at.clone(), 64, &mut part);
        prop_assert!(part.data() == whole.row_range(at));
        let dots = directrix_kernels::sampled_product(&pattern, 0..directions, &x, &w);
        let start = (tiles * directrix_kernels::TILE).min(directions);
        let after = directrix_kernels::sampled_product(&pattern, start..directions, &x, &w);
        prop_assert!(after == dots[pattern.indptr()[start]..]);
    }

    #[test]
    fn bits_do_not_depend_on_threads(seed in any::<u64>(), directions in 1..600_usize, d_in in 1..200_usize, share in 0.0..0.9_f32) {
        let acts = activations(seed, 64, directions, share);
        let pattern = acts.by_direction(directions);
        let values = pattern.arrange(acts.values());
        let x = matrix(seed ^ 2, 64, d_in);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut w = matrix(seed ^ 1, directions, d_in);
                let mut out = x.clone();
                directrix_kernels::sparse_product(&pattern, &values, 0..directions, &w, &mut out);
                let dots = directrix_kernels::sampled_product(&pattern, 0..directions, &out, &w);
                let terms = [Outer { pattern: &pattern, values: &dots, rows: &out, directions: 0..directions }];
                let mut moments = [w.clone(), Matrix::zeros(directions, d_in)];
                let [first, second] = &mut moments;
                directrix_kernels::descend(&mut w, [first, second], &terms, None, Adam::new(1e-3, [0.9, 0.99], 1e-8, 3));
                directrix_kernels::normalise_rows(&mut w);
                let sum = directrix_kernels::weighted_sum(&w, &numbers(seed, directions));
                (w, moments, out, dots, sum)
            })
        };
        prop_assert!(run(1) == run(3));
    }
}
