use directrix_kernels::*;
use std::time::Instant;
fn main() {
    let (d, n, b) = (4096, 16384, 4096);
    let mut s = 1u64;
    let mut r = || {
        s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((s >> 40) as f32 / 16777216.0) - 0.5
    };
    let x = Matrix::new((0..b * d).map(|_| r()).collect(), b, d);
    let mut w = Matrix::new((0..n * d).map(|_| r()).collect(), n, d);
    let mut m = Matrix::zeros(n, d);
    let mut v = Matrix::zeros(n, d);
    let bias = vec![0.0; n];
    let time = |what: &str, f: &mut dyn FnMut()| {
        for _ in 0..2 {
            let t = Instant::now();
            f();
            println!("{what}: {:.3}", t.elapsed().as_secs_f64());
        }
    };
    let mut acts = None;
    time("encode", &mut || {
        acts = Some(
            Cpu.encode(x.view(), Encoder { weights: w.view().transposed(), bias: &bias, keep: Keep::Largest(50) })
                .unwrap(),
        )
    });
    let mut out = Matrix::zeros(b, n / 4);
    time("product quarter", &mut || Cpu.product(x.view(), w.view().rows_of(0..n / 4).transposed(), &mut out, false));
    drop(out);
    let acts = acts.unwrap();
    let mut by = None;
    time("by_direction", &mut || by = Some(acts.by_direction(n)));
    let by = by.unwrap();
    let values = by.arrange(acts.values());
    let mut e = Matrix::zeros(b, d);
    time("sparse_product", &mut || Cpu.sparse_product(&by, &values, 0..n, &w, &mut e));
    time("sampled", &mut || {
        Cpu.sampled_product(&by, 0..n, &x, &w);
    });
    let adam = Adam::new(1e-3, [0.9, 0.99], 1e-8, 1);
    let term = Outer { pattern: &by, values: &values, rows: &x, directions: 0..n };
    time("descend", &mut || Cpu.descend(&mut w, [&mut m, &mut v], &[term.clone()], None, adam));
    time("normalise", &mut || Cpu.normalise_rows(&mut w));
}
