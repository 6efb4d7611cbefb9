//! The non-linearities of a model's MLP.

use multiversion::multiversion;

use crate::Matrix;
use crate::lanes::{erf, exp, tanh};

/// An element-wise activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)` (Hendrycks and Gimpel 2016); Hugging Face's `gelu`.
    Gelu,
    /// The tanh approximation of GELU; Hugging Face's `gelu_new`, `gelu_fast` and `gelu_pytorch_tanh`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + e^-x)` (Elfwing, Uchibe and Doya 2017); Hugging Face's `silu` and `swish`.
    Silu,
}

impl Activation {
    /// The activation that Hugging Face's configurations call `name`.
    pub fn from_name(name: &str) -> Option<Activation> {
        match name {
            "gelu" => Some(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Activation::GeluTanh),
            "relu" => Some(Activation::Relu),
            "silu" | "swish" => Some(Activation::Silu),
            _ => None,
        }
    }
}

/// `f` of every number, in place.
pub fn activate(f: Activation, x: &mut Matrix) {
    x.for_rows(|_, row| activate_row(f, row));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn activate_row(f: Activation, xs: &mut [f32]) {
    match f {
        Activation::Gelu => {
            for x in xs {
                *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
            }
        }
        Activation::GeluTanh => {
            let c = (2.0 / std::f32::consts::PI).sqrt();
            for x in xs {
                let u = c * (0.044_715 * *x * *x).mul_add(*x, *x);
                // `(1 + tanh u) / 2` is the logistic function of `2 u`, which keeps its digits far below zero.
                *x /= 1.0 + exp(-2.0 * u);
            }
        }
        Activation::Relu => {
            for x in xs {
                *x = if *x < 0.0 { 0.0 } else { *x };
            }
        }
        Activation::Silu => {
            for x in xs {
                *x /= 1.0 + exp(-*x);
            }
        }
    }
}

/// Bends every number smoothly to within `±cap`, in place: `cap tanh(x / cap)` (Gemma Team 2024).
pub fn soft_cap(cap: f32, x: &mut Matrix) {
    x.for_rows(|_, row| soft_cap_row(cap, row));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(crate) fn soft_cap_row(cap: f32, xs: &mut [f32]) {
    for x in xs {
        *x = cap * tanh(*x / cap);
    }
}
