//! Elementary functions and reductions written so that the compiler turns them into vector code.
//!
//! Everything here is `inline(always)` and must be called from a function under `multiversion`, which is compiled for each
//! instruction set and picks one when it runs. Reductions keep sixteen partial results in a fixed order, so their
//! bits do not depend on the instruction set's width.

const LANES: usize = 16;

/// `e^x` with a relative error below 2e-7. Range reduction by multiples of ln 2, then a polynomial (Cephes `expf`).
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.0, 88.0);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693_359_375, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_15e-4_f32;
    p = p.mul_add(r, 1.398_199_95e-3);
    p = p.mul_add(r, 8.333_451_9e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_55e-1);
    p = p.mul_add(r, 5.000_000_12e-1);
    let p = p.mul_add(r * r, r) + 1.0;
    // SAFETY: `n` is a whole number between -126 and 127, or NaN; NaN gives an unspecified integer, and `p` is then NaN.
    let n: i32 = unsafe { if n.is_nan() { 0.0 } else { n }.to_int_unchecked() };
    let y = p * f32::from_bits(((n + 127) << 23) as u32);
    if x < -87.0 { 0.0 } else { y }
}

/// The error function, absolute error below 5e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / 0.327_591_1_f32.mul_add(a, 1.0);
    let mut p = 1.061_405_429_f32;
    p = p.mul_add(t, -1.453_152_027);
    p = p.mul_add(t, 1.421_413_741);
    p = p.mul_add(t, -0.284_496_736);
    p = p.mul_add(t, 0.254_829_592);
    let y = 1.0 - p * t * exp(-a * a);
    y.copysign(x)
}

/// The hyperbolic tangent with a relative error below 3e-7: a polynomial near zero (Cephes `tanhf`), else by [`exp`].
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(crate) fn tanh(x: f32) -> f32 {
    let square = x * x;
    let mut p = -5.704_988_727_45e-3_f32;
    p = p.mul_add(square, 2.063_908_879_54e-2);
    p = p.mul_add(square, -5.373_971_555_31e-2);
    p = p.mul_add(square, 1.333_144_220_36e-1);
    p = p.mul_add(square, -3.333_328_194_22e-1);
    let near = (p * square).mul_add(x, x);
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 { near } else { far.copysign(x) }
}

/// Folds `f` over `xs` in sixteen lanes, then the lanes in order.
#[inline(always)]
fn fold(xs: &[f32], start: f32, f: impl Fn(f32, f32) -> f32 + Copy, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = xs.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = f(*lane, x);
    }
    lanes.into_iter().fold(start, join)
}

/// Sum.
#[inline(always)]
pub(crate) fn sum(xs: &[f32]) -> f32 {
    fold(xs, 0.0, |a, x| a + x, |a, b| a + b)
}

/// Sum of squares.
#[inline(always)]
pub(crate) fn sum_of_squares(xs: &[f32]) -> f32 {
    fold(xs, 0.0, |a, x| x.mul_add(x, a), |a, b| a + b)
}

/// Maximum; `-inf` for none. A NaN is passed over.
#[inline(always)]
pub(crate) fn maximum(xs: &[f32]) -> f32 {
    let pick = |a: f32, x: f32| if x > a { x } else { a };
    fold(xs, f32::NEG_INFINITY, pick, pick)
}

/// `y += a x`.
#[inline(always)]
pub(crate) fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.mul_add(x, *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elementary_functions_agree_with_double_precision() {
        for i in -4000..=4000 {
            let x = i as f32 * 0.01;
            let e = exp(x) as f64;
            assert!((e / (x as f64).exp() - 1.0).abs() < 3e-7, "exp {x}");
        }
        // Values of erf from its power series in double precision.
        for i in -300..=300 {
            let x = i as f64 * 0.01;
            let (mut term, mut series) = (x, x);
            for n in 1..80 {
                term *= -x * x / n as f64;
                series += term / (2 * n + 1) as f64;
            }
            let exact = series * 2.0 / std::f64::consts::PI.sqrt();
            assert!((erf(x as f32) as f64 - exact).abs() < 5e-7, "erf {x}");
        }
        for i in -2000..=2000 {
            let x = i as f32 * 0.01;
            let exact = (x as f64).tanh();
            assert!((tanh(x) as f64 - exact).abs() <= 3e-7 * exact.abs(), "tanh {x}");
        }
        assert_eq!([tanh(f32::INFINITY), tanh(f32::NEG_INFINITY), tanh(1e-30)], [1.0, -1.0, 1e-30]);
        assert!(tanh(f32::NAN).is_nan());
        assert_eq!(exp(-1e9), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
