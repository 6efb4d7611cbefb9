//! New beginnings for directions that have died.

use directrix_corpus::Ranks;
use directrix_kernels::Matrix;
use rand::SeedableRng;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand_chacha::ChaCha8Rng;

use super::over::Over;
use super::trainer::Trainer;
use crate::Result;

/// Length of a new encoder row, as a share of the living ones' mean (Bricken et al. 2023, "Towards Monosemanticity").
const ENCODER_SHARE: f64 = 0.2;

impl Trainer {
    /// Points directions that fired at a smaller share than `below` of the positions since the last resampling at inputs that
    /// are badly reconstructed: each takes a row of `batch`, `[positions, d_in]`, drawn with the squared error as weight, as
    /// its decoder row (of length 1) and, shorter, as its encoder row. Their biases and Adam's moments are set to 0. The
    /// counts begin anew. Returns how many there were.
    ///
    /// # Errors
    /// [`Error::Diverged`](crate::Error::Diverged) if a pre-activation or the error of the reconstruction is not finite.
    pub fn resample(&mut self, batch: &Matrix, below: f64, seed: u64) -> Result<usize> {
        self.resample_over(batch, below, seed, Over::One)
    }

    /// The same by several ranks; returns how many there were on all.
    pub(super) fn resample_over(&mut self, batch: &Matrix, below: f64, seed: u64, over: Over) -> Result<usize> {
        let densities = self.densities();
        let dead: Vec<usize> = (0..self.directions()).filter(|direction| densities[*direction] < below).collect();
        self.fired.fill(0);
        self.counted = 0;
        // Dead directions of lower ranks, in the order of directions, draw first.
        let (before, found) = self.before(dead.len(), over)?;
        if found == 0 {
            return Ok(0);
        }
        let x = self.centred(batch);
        let encoded = self.encode(&x, over)?;
        let pattern = encoded.pre.by_direction(self.directions());
        let (errors, _) = self.errors(&x, &pattern, &pattern.arrange(&encoded.acts), over)?;
        let square = |row: &[f32]| row.iter().map(|x| (*x as f64).powi(2)).sum::<f64>();
        let weights: Vec<f64> = errors[errors.len() - 1].1.iter_rows().map(square).collect();
        if let Some(position) = weights.iter().position(|weight| !weight.is_finite()) {
            return Err(self.diverged(format!("the reconstruction of position {position}")));
        }
        // There is nothing to point at where everything is reconstructed.
        let Ok(draw) = WeightedIndex::new(weights) else { return Ok(0) };
        let alive = self.all - found;
        let lengths: f64 = self.w_enc.value.iter_rows().map(|row| square(row).sqrt()).sum();
        let of_dead: f64 = dead.iter().map(|d| square(self.w_enc.value.row(*d)).sqrt()).sum();
        let mut lengths = [lengths, of_dead];
        over.sum_wide(&mut lengths)?;
        let [lengths, of_dead] = lengths;
        let length = if alive > 0 { ENCODER_SHARE * (lengths - of_dead) / alive as f64 } else { 1.0 };
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..before {
            let _: usize = draw.sample(&mut random);
        }
        for &direction in &dead {
            let row = x.row(draw.sample(&mut random));
            let norm = square(row).sqrt().max(f64::MIN_POSITIVE);
            self.w_dec.renew(direction, row, 1.0 / norm);
            self.w_enc.renew(direction, row, length / norm);
            self.b_enc.renew(direction);
            self.objective.renew(&mut self.extras, direction);
            self.silent[direction] = 0;
        }
        Ok(found)
    }

    /// How many of a thing ranks with lower directions have, and how many all have.
    fn before(&self, mine: usize, over: Over) -> Result<(usize, usize)> {
        let mut counts = vec![0.0; over.holds(self.all).len()];
        let rank = over.holders().map_or(0, Ranks::rank);
        counts[rank] = mine as f64;
        over.sum_wide(&mut counts)?;
        let sum = |counts: &[f64]| counts.iter().sum::<f64>() as usize;
        Ok((sum(&counts[..rank]), sum(&counts)))
    }
}
