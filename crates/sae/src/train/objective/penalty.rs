//! What keeps the activations of a ReLU SAE few.

use directrix_kernels::SparseActivations;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::train::over::Over;

/// A penalty on the activations of a ReLU SAE, named as in the origin (lovis-heindrich/superposition). `a` are the
/// activations of a batch, `c` the coefficients.
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

    /// Whether a position's activations are added up in it.
    pub(super) fn is_by_position(self) -> bool {
        self.coefficients() == 2 || self == Penalty::HoyerSquare
    }

    /// The penalty of a batch's activations (all above 0), and its derivative by each of them, in their order;
    /// `coefficients` are as many as it [takes](Penalty::coefficients). Activations that are 0 are not entries: their
    /// derivative is not asked for, as ReLU passes none on.
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
        self.found(acts, directions, coefficients, over, Over::One).unwrap_or_default()
    }

    /// The same, where the activations are those of some of the `directions`: the penalty of all, and the derivatives by these.
    pub(in crate::train) fn found(
        self,
        acts: &SparseActivations,
        directions: usize,
        coefficients: &[f64],
        over: PenaltyOver,
        ranks: Over,
    ) -> Result<(f64, Vec<f32>)> {
        let scale = match over {
            PenaltyOver::Sum => 1.0,
            PenaltyOver::Mean => 1.0 / acts.positions().max(1) as f64,
        };
        let c = |i: usize| coefficients[i] * scale;
        let mut gradient = vec![0.0; acts.active()];
        let mut each = |f: &dyn Fn(f64) -> (f64, f64)| ranks.total(each(acts, &mut gradient, f));
        let of_each = match self {
            Penalty::L1 | Penalty::CombinedHoyerL1 => each(&|a| (c(0) * a, c(0)))?,
            Penalty::Sqrt | Penalty::CombinedHoyerSqrt => each(&|a| root_below_one(a, c(0)))?,
            Penalty::PureSqrt | Penalty::CombinedHoyerPureSqrt => each(&|a| root(a, c(0)))?,
            Penalty::HoyerSquare | Penalty::HoyerD | Penalty::HoyerDScaledL1 => 0.0,
        };
        let of_all = match self {
            Penalty::L1 | Penalty::Sqrt | Penalty::PureSqrt => 0.0,
            Penalty::HoyerSquare => hoyer_square(acts, &mut gradient, c(0), ranks)?,
            Penalty::CombinedHoyerL1 | Penalty::CombinedHoyerSqrt | Penalty::CombinedHoyerPureSqrt => {
                hoyer_square(acts, &mut gradient, c(1), ranks)?
            }
            Penalty::HoyerD | Penalty::HoyerDScaledL1 => {
                let mut found = sums(acts.values());
                ranks.sum_wide(&mut found)?;
                let [sum, squares] = found;
                if squares == 0.0 {
                    0.0
                } else if self == Penalty::HoyerD {
                    let factor = coefficients[0] / directions as f64;
                    // d/da (S² / Q) = 2 S / Q - 2 a S² / Q²
                    add(acts, &mut gradient, |a| factor * 2.0 * (sum / squares) * (1.0 - a * sum / squares));
                    factor * sum * sum / squares
                } else {
                    let factor = c(0) / directions as f64;
                    // d/da (S³ / Q) = 3 S² / Q - 2 a S³ / Q²
                    add(acts, &mut gradient, |a| factor * sum * sum / squares * (3.0 - 2.0 * a * sum / squares));
                    factor * sum.powi(3) / squares
                }
            }
        };
        Ok((of_each + of_all, gradient))
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
fn each(acts: &SparseActivations, gradient: &mut [f32], f: &dyn Fn(f64) -> (f64, f64)) -> f64 {
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
fn sums(acts: &[f32]) -> [f64; 2] {
    acts.iter().fold([0.0, 0.0], |[sum, squares], &a| [sum + a as f64, squares + (a as f64).powi(2)])
}

fn hoyer_square(acts: &SparseActivations, gradient: &mut [f32], c: f64, ranks: Over) -> Result<f64> {
    let mut found: Vec<f64> = (0..acts.positions()).flat_map(|position| sums(acts.at(position).1)).collect();
    ranks.sum_wide(&mut found)?;
    let mut total = 0.0;
    for (position, found) in found.as_chunks::<2>().0.iter().enumerate() {
        let [sum, squares] = *found;
        if squares == 0.0 {
            continue;
        }
        // The origin adds f32's epsilon to the norm, against division by zero.
        let (length, norm) = (squares.sqrt(), squares.sqrt() + f32::EPSILON as f64);
        let ratio = sum / norm;
        total += c * ratio * ratio;
        let range = acts.indptr()[position]..acts.indptr()[position + 1];
        for (g, &a) in gradient[range.clone()].iter_mut().zip(&acts.values()[range]) {
            *g += (2.0 * c * ratio / norm * (1.0 - ratio * a as f64 / length)) as f32;
        }
    }
    Ok(total)
}
