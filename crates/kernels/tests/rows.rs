//! Every operation gives a row the same bits, whatever stands beside it, and agrees with double precision.

use directrix_kernels::{Activation, AttentionRows, AttentionShape, Encoder, Keep, Matrix, Unembedding};
use proptest::prelude::*;

/// Numbers that look random but depend only on `seed`.
fn noise(rows: usize, columns: usize, seed: u64) -> Matrix {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let data = (0..rows * columns)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Matrix::new(data, rows, columns)
}

/// `a b`, where `b` may be stored by columns.
fn product(a: &Matrix, b: &Matrix, by_columns: bool) -> Matrix {
    let mut out = Matrix::zeros(a.rows(), b.columns());
    let stored = b.transposed();
    let b = if by_columns { stored.view().transposed() } else { b.view() };
    directrix_kernels::product(a.view(), b, &mut out, false);
    out
}

/// Inner and outer sizes on both sides of every block and tile of the product.
fn sizes() -> impl Strategy<Value = (usize, usize, usize)> {
    let k = prop::sample::select(vec![1, 2, 3, 16, 128, 511, 700, 1024, 1025, 1300]);
    let n = prop::sample::select(vec![1, 2, 15, 16, 63, 64, 65, 100, 128, 300, 1100]);
    (1..200_usize, k, n)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(192)))]

    #[test]
    fn a_product_row_has_the_same_bits_alone_and_in_a_batch((m, k, n) in sizes(), by_columns: bool, seed: u64, pick in 0..200_usize, take in 1..80_usize) {
        let (a, b) = (noise(m, k, seed), noise(k, n, seed ^ 7));
        let whole = product(&a, &b, by_columns);
        let start = pick % m;
        let take = take.min(m - start);
        let part = product(&a.gather(start..start + take), &b, by_columns);
        for i in 0..take {
            prop_assert_eq!(part.row(i), whole.row(start + i));
        }
        let exact: f64 = (0..k).map(|j| a.row(start)[j] as f64 * b.row(j)[n - 1] as f64).sum();
        prop_assert!((whole.row(start)[n - 1] as f64 - exact).abs() < 1e-4);
    }

    #[test]
    fn encoding_keeps_exactly_the_positive_pre_activations(m in 1..300_usize, n in prop::sample::select(vec![1, 64, 1000, 1025, 1088, 1089, 2100]), seed: u64) {
        let (x, w) = (noise(m, 24, seed), noise(24, n, seed ^ 1));
        let bias: Vec<f32> = noise(1, n, seed ^ 2).into_data().iter().map(|b| b - 2.0).collect();
        let sparse = directrix_kernels::encode(x.view(), Encoder { weights: w.view(), bias: &bias, keep: Keep::Positive, screen: None }).unwrap();
        let mut dense = directrix_kernels::affine(x.view(), w.view(), &bias);
        directrix_kernels::activate(directrix_kernels::Activation::Relu, &mut dense);
        prop_assert_eq!(sparse.to_dense(n), dense.data());
    }

    #[test]
    fn predictions_are_those_of_all_logits_whatever_the_batch(rows in 1..70_usize, tokens in 2..1300_usize, soft_cap in prop::option::of(0.5..4.0_f32), seed: u64) {
        let (x, w) = (noise(rows, 17, seed), noise(17, tokens, seed ^ 1));
        let bias = noise(1, tokens, seed ^ 2).into_data();
        let targets: Vec<(usize, u32)> = (0..2 * rows).map(|i| (i / 2, (seed as usize / 7 + 31 * i) as u32 % tokens as u32)).collect();
        let unembedding = Unembedding { w: w.view().into(), bias: &bias, soft_cap };
        let found = directrix_kernels::predict(x.view(), unembedding, &targets);
        let mut logits = directrix_kernels::affine(x.view(), w.view(), &bias);
        if let Some(cap) = soft_cap {
            directrix_kernels::soft_cap(cap, &mut logits);
        }
        for (predicted, &(row, token)) in found.iter().zip(&targets) {
            let own = logits.row(row);
            prop_assert_eq!(predicted.logit, own[token as usize]);
            prop_assert_eq!(predicted.rank, own.iter().filter(|x| **x > predicted.logit).count());
            let exact = own.iter().map(|&x| (x as f64).exp()).sum::<f64>().ln();
            prop_assert!((predicted.log_sum_exp - exact).abs() < 1e-6 * exact.abs().max(1.0));
        }
        let alone = rows / 2;
        let one = directrix_kernels::predict(x.view().rows_of(alone..alone + 1), unembedding, &[(0, targets[2 * alone].1)]);
        prop_assert_eq!(one[0], found[2 * alone]);
    }

    #[test]
    fn attention_with_a_prefix_has_the_bits_of_attention_from_the_start(len in 1..40_usize, cut in 0..40_usize, window in prop::option::of(1..12_usize), soft_cap in prop::option::of(0.1..3.0_f32), seed: u64) {
        let shape = AttentionShape { query_heads: 3, key_heads: 3, d_head: 5, window, scale: 0.7, soft_cap };
        let [q, k, v] = [1, 2, 3].map(|s| noise(len, 15, seed ^ s));
        let all = |len| AttentionRows { first: 0, len, keys_before: &[], values_before: &[] };
        let whole = directrix_kernels::attention(shape, &[all(len)], &q, &k, &v, None);
        let cut = cut % len;
        let rest = AttentionRows { first: 0, len: len - cut, keys_before: k.row_range(0..cut), values_before: v.row_range(0..cut) };
        let part = |m: &Matrix| m.gather(cut..len);
        let tail = directrix_kernels::attention(shape, &[rest], &part(&q), &part(&k), &part(&v), Some(&|_, _, _, _| ()));
        prop_assert_eq!(tail.data(), whole.row_range(cut..len));
    }
}

#[test]
fn query_heads_that_share_a_key_head_attend_as_if_each_had_its_own() {
    let (q, k, v) = (noise(9, 24, 1), noise(9, 8, 2), noise(9, 8, 3));
    let own = |m: &Matrix| {
        let row = |row: &[f32]| row.chunks(4).flat_map(|head| head.repeat(3)).collect::<Vec<f32>>();
        Matrix::from_rows(&m.iter_rows().map(row).collect::<Vec<_>>())
    };
    let shape = |key_heads| AttentionShape {
        query_heads: 6,
        key_heads,
        d_head: 4,
        window: Some(5),
        scale: 0.5,
        soft_cap: None,
    };
    let prefix = |k: &Matrix, v: &Matrix, key_heads| {
        let rows = AttentionRows { first: 0, len: 6, keys_before: k.row_range(0..3), values_before: v.row_range(0..3) };
        let [q, k, v] = [&q, k, v].map(|m| m.gather(3..9));
        directrix_kernels::attention(shape(key_heads), &[rows], &q, &k, &v, None)
    };
    assert_eq!(prefix(&k, &v, 2), prefix(&own(&k), &own(&v), 6));
}

#[test]
fn norms_activations_and_caps_agree_with_double_precision() {
    let mut x = noise(4, 37, 5);
    x.data_mut().iter_mut().for_each(|x| *x *= 30.0);
    let (normalised, scales) = directrix_kernels::rms_norm(&x, 1e-2);
    let (mut silu, mut capped) = (x.clone(), x.clone());
    directrix_kernels::activate(Activation::Silu, &mut silu);
    directrix_kernels::soft_cap(5.0, &mut capped);
    let close = |found: f32, exact: f64| (found as f64 - exact).abs() <= 1e-6 * exact.abs().max(1.0);
    for (row, &scale) in scales.iter().enumerate() {
        let mean = x.row(row).iter().map(|&x| x as f64 * x as f64).sum::<f64>() / 37.0;
        assert!(close(scale, (mean + 1e-2).sqrt()));
        for (i, x) in x.row(row).iter().map(|&x| x as f64).enumerate() {
            assert!(close(normalised.row(row)[i], x / (mean + 1e-2).sqrt()));
            assert!(close(silu.row(row)[i], x / (1.0 + (-x).exp())));
            assert!(close(capped.row(row)[i], 5.0 * (x / 5.0).tanh()));
        }
    }
}

#[test]
fn a_pre_activation_that_is_not_a_number_is_reported() {
    let mut x = noise(200, 8, 1);
    x.row_mut(150)[3] = f32::NAN;
    let w = noise(8, 40, 2);
    let error = directrix_kernels::encode(
        x.view(),
        Encoder { weights: w.view(), bias: &[0.0; 40], keep: Keep::Positive, screen: None },
    )
    .unwrap_err();
    assert_eq!((error.row, error.direction), (150, 0));
}

#[test]
fn log_sum_exp_agrees_with_double_precision() {
    let x = noise(5, 1000, 3);
    for (row, lse) in x.iter_rows().zip(directrix_kernels::log_sum_exp(&x)) {
        let exact = row.iter().map(|&v| (v as f64).exp()).sum::<f64>().ln();
        assert!((lse - exact).abs() < 1e-6);
    }
}
