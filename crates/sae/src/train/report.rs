//! What a step found.

/// What a step found, of the parameters before it. Means are over the batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StepReport {
    /// What is minimised: the sum of the terms below.
    pub loss: f64,
    /// Squared error summed over `d_in`.
    pub mse: f64,
    /// What keeps activations few, times its coefficient.
    pub penalty: f64,
    /// The auxiliary terms, times their weight; with Matryoshka also the shorter prefixes' errors.
    pub aux: f64,
    /// Active directions per position.
    pub l0: f64,
    /// `1 - Σ‖x - x̂‖² / Σ‖x - mean‖²` over the batch; 0 if all rows are the same.
    pub explained_variance: f64,
}

impl StepReport {
    /// Adds another report, for a mean of several.
    pub(super) fn add(&mut self, other: &StepReport) {
        self.loss += other.loss;
        self.mse += other.mse;
        self.penalty += other.penalty;
        self.aux += other.aux;
        self.l0 += other.l0;
        self.explained_variance += other.explained_variance;
    }

    /// Every number divided by `count`.
    pub(super) fn over(&self, count: u64) -> StepReport {
        let n = count.max(1) as f64;
        StepReport {
            loss: self.loss / n,
            mse: self.mse / n,
            penalty: self.penalty / n,
            aux: self.aux / n,
            l0: self.l0 / n,
            explained_variance: self.explained_variance / n,
        }
    }
}
