//! The kernels a pass and an index are made of, at sizes of which each takes milliseconds.
//!
//! `cargo bench -p directrix-kernels` times them all, `cargo bench -p directrix-kernels -- encode` some of them. Rates are
//! of multiplications with their additions, or of numbers where nothing is multiplied.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use directrix_kernels::{
    AttentionRows, AttentionShape, Encoder, Keep, Matrix, Screen, SparseActivations, Unembedding, attention, decode,
    encode, layer_norm, predict, product,
};

/// Width of what is read and written.
const WIDTH: usize = 1024;
const DIRECTIONS: usize = 8192;
const ROWS: usize = 256;

/// Numbers between -1 and 1 that look random.
fn noise(rows: usize, columns: usize, seed: u64) -> Matrix {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let data = (0..rows * columns).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    Matrix::new(data.collect(), rows, columns)
}

/// The encoder, stored by directions, with a bias for which about 50 fire at a row.
fn encoder() -> (Matrix, Vec<f32>) {
    let deviation = (WIDTH as f32).sqrt() / 3.0;
    (noise(DIRECTIONS, WIDTH, 1), vec![-2.5 * deviation; DIRECTIONS])
}

fn encoded(screen: Option<&Screen>, x: &Matrix, weights: &Matrix, bias: &[f32]) -> SparseActivations {
    let encoder = Encoder { weights: weights.view().transposed(), bias, keep: Keep::Positive, screen };
    encode(x.view(), encoder).expect("noise is finite")
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("product");
    for rows in [1, 16, ROWS] {
        let (a, b, mut out) = (noise(rows, WIDTH, 1), noise(WIDTH, 4 * WIDTH, 2), Matrix::zeros(rows, 4 * WIDTH));
        group.throughput(Throughput::Elements((rows * WIDTH * 4 * WIDTH) as u64));
        group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
            bencher.iter(|| product(black_box(a.view()), b.view(), &mut out, false));
        });
    }
}

fn encoding(criterion: &mut Criterion) {
    let ((weights, bias), x) = (encoder(), noise(ROWS, WIDTH, 2));
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements((ROWS * WIDTH * DIRECTIONS) as u64));
    group.bench_function("whole", |bencher| bencher.iter(|| encoded(None, black_box(&x), &weights, &bias)));
    // None where the machine has no fast integer products.
    if let Some(screen) = Screen::new(&weights) {
        group.bench_function("screened", |bencher| {
            bencher.iter(|| encoded(Some(&screen), black_box(&x), &weights, &bias));
        });
    }
}

fn decoding(criterion: &mut Criterion) {
    let (weights, bias) = encoder();
    let acts = encoded(None, &noise(ROWS, WIDTH, 2), &weights, &bias);
    let (decoder, bias) = (noise(DIRECTIONS, WIDTH, 3), vec![0.0; WIDTH]);
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements((acts.values().len() * WIDTH) as u64));
    group.bench_function("sparse", |bencher| bencher.iter(|| decode(black_box(&acts), &decoder, &bias)));
}

fn attending(criterion: &mut Criterion) {
    let [q, k, v] = [1, 2, 3].map(|seed| noise(ROWS, WIDTH, seed));
    let rows = AttentionRows { first: 0, len: ROWS, keys_before: &[], values_before: &[] };
    let mut group = criterion.benchmark_group("attention");
    for (name, window) in [("causal", None), ("window", Some(64))] {
        let shape =
            AttentionShape { query_heads: 16, key_heads: 16, d_head: WIDTH / 16, window, scale: 0.125, soft_cap: None };
        let seen: usize = (1..=ROWS).map(|position| position.min(window.unwrap_or(ROWS))).sum();
        group.throughput(Throughput::Elements((2 * seen * WIDTH) as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| attention(shape, &[rows], black_box(&q), &k, &v, None));
        });
    }
}

fn normalising(criterion: &mut Criterion) {
    let x = noise(ROWS, WIDTH, 1);
    let mut group = criterion.benchmark_group("layer_norm");
    group.throughput(Throughput::Elements((ROWS * WIDTH) as u64));
    group.bench_function("rows", |bencher| bencher.iter(|| layer_norm(black_box(&x), 1e-5)));
}

fn predicting(criterion: &mut Criterion) {
    let (rows, tokens) = (64, 16_384);
    let (x, w, bias) = (noise(rows, WIDTH, 1), noise(WIDTH, tokens, 2), vec![0.0; tokens]);
    let unembedding = Unembedding { w: w.view().into(), bias: &bias, soft_cap: None };
    let targets: Vec<(usize, u32)> = (0..rows).map(|row| (row, (row * 251 % tokens) as u32)).collect();
    let mut group = criterion.benchmark_group("predict");
    group.throughput(Throughput::Elements((rows * WIDTH * tokens) as u64));
    group.bench_function("one_token_a_row", |bencher| {
        bencher.iter(|| predict(black_box(x.view()), unembedding, &targets));
    });
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = products, encoding, decoding, attending, normalising, predicting
}
criterion_main!(kernels);
