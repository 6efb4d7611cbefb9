//! What keeps the activations of a ReLU SAE few.

use directrix_kernels::SparseActivations;
use serde::{Deserialize, Serialize};

/// A penalty on the activations of a ReLU SAE, named as in the origin (lovis-heindrich/superposition). `a` are the activations of
/// a batch, `c` the coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Penalty {
    /// `c₀ Σ a`
    L1,
    /// `c₀ Σ (√a where a < 1, else a)`
    Sqrt,
    /// `c₀ Σ √a`
    PureSqrt,
    /// `c₀ Σₚ (‖aₚ‖₁ / ‖aₚ‖₂)²`, p over positions
    HoyerSquare,
    /// `L1` with `c₀` plus `HoyerSquare` with `c₁`
    CombinedHoyerL1,
    /// `Sqrt` with `c₀` plus `HoyerSquare` with `c₁`
    CombinedHoyerSqrt,
    /// `PureSqrt` with `c₀` plus `HoyerSquare` with `c₁`
    CombinedHoyerPureSqrt,
    /// `c₀ (Σ a)² / Σ a² / directions`, over the whole batch
    HoyerD,
    /// `HoyerD` times `Σ a`
    HoyerDScaledL1,
}

/// What a penalty's sums over positions are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PenaltyOver {
    /// Sums over the batch, while the error is a mean over it: the origin's, whose coefficients so depend on the batch.
    #[default]
    Sum,
    /// Means over the batch.
    Mean,
}

impl Penalty {
    /// Names of all, as recipes have them.
    pub const NAMES: [&str; 9] = [
        "l1",
        "sqrt",
        "pure_sqrt",
        "hoyer_square",
        "combined_hoyer_l1",
        "combined_hoyer_sqrt",
        "combined_hoyer_pure_sqrt",
        "hoyer_d",
        "hoyer_d_scaled_l1",
    ];

    /// Number of coefficients it takes.
    pub fn coefficients(self) -> usize {
        use Penalty::{CombinedHoyerL1, CombinedHoyerPureSqrt, CombinedHoyerSqrt};
        if matches!(self, CombinedHoyerL1 | CombinedHoyerSqrt | CombinedHoyerPureSqrt) { 2 } else { 1 }
    }

    /// The penalty of a batch's activations (all above 0), and its derivative by each of them, in their order; `coefficients` are
    /// as many as it [takes](Penalty::coefficients). Activations that are 0 are not entries: their derivative is not asked for, as
    /// ReLU passes none on.
    ///
    /// # Panics
    /// If there are fewer coefficients.
    pub fn value_and_gradient(
        self,
        acts: &SparseActivations,
        directions: usize,
        coefficients: &[f64],
        over: PenaltyOver,
    ) -> (f64, Vec<f32>) {
        let scale = match over {
            PenaltyOver::Sum => 1.0,
            PenaltyOver::Mean => 1.0 / acts.positions().max(1) as f64,
        };
        let c = |i: usize| coefficients[i] * scale;
        let mut gradient = vec![0.0; acts.active()];
        let total = match self {
            Penalty::L1 => each(acts, &mut gradient, |a| (c(0) * a, c(0))),
            Penalty::Sqrt => each(acts, &mut gradient, |a| root_below_one(a, c(0))),
            Penalty::PureSqrt => each(acts, &mut gradient, |a| root(a, c(0))),
            Penalty::HoyerSquare => hoyer_square(acts, &mut gradient, c(0)),
            Penalty::CombinedHoyerL1 => {
                each(acts, &mut gradient, |a| (c(0) * a, c(0))) + hoyer_square(acts, &mut gradient, c(1))
            }
            Penalty::CombinedHoyerSqrt => {
                each(acts, &mut gradient, |a| root_below_one(a, c(0))) + hoyer_square(acts, &mut gradient, c(1))
            }
            Penalty::CombinedHoyerPureSqrt => {
                each(acts, &mut gradient, |a| root(a, c(0))) + hoyer_square(acts, &mut gradient, c(1))
            }
            Penalty::HoyerD => {
                let (sum, squares) = sums(acts);
                let factor = coefficients[0] / directions as f64;
                // d/da (S² / Q) = 2 S / Q - 2 a S² / Q²
                add(acts, &mut gradient, |a| factor * 2.0 * (sum / squares) * (1.0 - a * sum / squares));
                factor * sum * sum / squares
            }
            Penalty::HoyerDScaledL1 => {
                let (sum, squares) = sums(acts);
                let factor = c(0) / directions as f64;
                // d/da (S³ / Q) = 3 S² / Q - 2 a S³ / Q²
                add(acts, &mut gradient, |a| factor * sum * sum / squares * (3.0 - 2.0 * a * sum / squares));
                factor * sum.powi(3) / squares
            }
        };
        (if acts.active() == 0 { 0.0 } else { total }, gradient)
    }
}

/// `√a` and its derivative, times `c`.
fn root(a: f64, c: f64) -> (f64, f64) {
    (c * a.sqrt(), c * 0.5 / a.sqrt())
}

fn root_below_one(a: f64, c: f64) -> (f64, f64) {
    if a < 1.0 { root(a, c) } else { (c * a, c) }
}

/// The sum of a function of each activation; adds its derivatives.
fn each(acts: &SparseActivations, gradient: &mut [f32], f: impl Fn(f64) -> (f64, f64)) -> f64 {
    let mut total = 0.0;
    for (g, &a) in gradient.iter_mut().zip(acts.values()) {
        let (value, derivative) = f(a as f64);
        total += value;
        *g += derivative as f32;
    }
    total
}

fn add(acts: &SparseActivations, gradient: &mut [f32], derivative: impl Fn(f64) -> f64) {
    gradient.iter_mut().zip(acts.values()).for_each(|(g, &a)| *g += derivative(a as f64) as f32);
}

/// `Σ a` and `Σ a²`.
fn sums(acts: &SparseActivations) -> (f64, f64) {
    acts.values().iter().fold((0.0, 0.0), |(sum, squares), &a| (sum + a as f64, squares + (a as f64).powi(2)))
}

fn hoyer_square(acts: &SparseActivations, gradient: &mut [f32], c: f64) -> f64 {
    let mut total = 0.0;
    for position in 0..acts.positions() {
        let range = acts.indptr()[position]..acts.indptr()[position + 1];
        let values = &acts.values()[range.clone()];
        let (sum, squares) =
            values.iter().fold((0.0, 0.0), |(sum, squares), &a| (sum + a as f64, squares + (a as f64).powi(2)));
        if squares == 0.0 {
            continue;
        }
        // The origin adds f32's epsilon to the norm, against division by zero.
        let (length, norm) = (squares.sqrt(), squares.sqrt() + f32::EPSILON as f64);
        let ratio = sum / norm;
        total += c * ratio * ratio;
        for (g, &a) in gradient[range].iter_mut().zip(values) {
            *g += (2.0 * c * ratio / norm * (1.0 - ratio * a as f64 / length)) as f32;
        }
    }
    total
}
