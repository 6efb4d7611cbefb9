//! New beginnings for directions that have died.

use directrix_kernels::Matrix;
use rand::SeedableRng;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand_chacha::ChaCha8Rng;

use super::trainer::{Encoded, Numbers, Rows, Trainer};
use crate::Result;

/// Length of a new encoder row, as a share of the living ones' mean (Bricken et al. 2023, "Towards Monosemanticity").
const ENCODER_SHARE: f64 = 0.2;

impl Trainer {
    /// Points directions that fired at a smaller share than `below` of the positions since the last resampling at inputs that
    /// are badly reconstructed: each takes a row of `batch`, drawn with the squared error as weight, as its decoder row
    /// (of length 1) and, shorter, as its encoder row. Their biases and Adam's moments are set to 0. The counts begin
    /// anew. Returns how many there were.
    ///
    /// # Errors
    /// If a pre-activation is not finite.
    pub fn resample(&mut self, batch: &Matrix, below: f64, seed: u64) -> Result<usize> {
        let dead: Vec<usize> = self
            .densities()
            .iter()
            .enumerate()
            .filter(|(_, density)| **density < below)
            .map(|(direction, _)| direction)
            .collect();
        self.fired.fill(0);
        self.counted = 0;
        let x = self.centred(batch);
        let Encoded { pre, acts } = self.encode(&x)?;
        let pattern = pre.by_direction(self.directions());
        let (errors, _) = self.errors(&x, &pattern, &pattern.arrange(&acts));
        let Some(error) = errors.last() else { return Ok(0) };
        let square = |row: &[f32]| row.iter().map(|x| (*x as f64).powi(2)).sum::<f64>();
        let Ok(draw) = WeightedIndex::new(error.iter_rows().map(square)) else { return Ok(0) };
        let alive = self.directions() - dead.len();
        let lengths: f64 = self.w_enc.value.iter_rows().map(|row| square(row).sqrt()).sum();
        let of_dead: f64 = dead.iter().map(|d| square(self.w_enc.value.row(*d)).sqrt()).sum();
        let length = if alive > 0 { ENCODER_SHARE * (lengths - of_dead) / alive as f64 } else { 1.0 };
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for &direction in &dead {
            let row = x.row(draw.sample(&mut random));
            let norm = square(row).sqrt().max(f64::MIN_POSITIVE);
            set_row(&mut self.w_dec, direction, row, 1.0 / norm);
            set_row(&mut self.w_enc, direction, row, length / norm);
            set_number(&mut self.b_enc, direction, 0.0);
            set_number(&mut self.b_mag, direction, 0.0);
            set_number(&mut self.r_mag, direction, 0.0);
            self.silent[direction] = 0;
        }
        Ok(dead.len())
    }
}

fn set_row(rows: &mut Rows, direction: usize, row: &[f32], scale: f64) {
    rows.value.row_mut(direction).iter_mut().zip(row).for_each(|(w, x)| *w = (*x as f64 * scale) as f32);
    rows.moments.iter_mut().for_each(|moment| moment.row_mut(direction).fill(0.0));
}

fn set_number(numbers: &mut Numbers, direction: usize, value: f32) {
    if let Some(number) = numbers.value.get_mut(direction) {
        *number = value;
        numbers.moments.iter_mut().for_each(|moment| moment[direction] = 0.0);
    }
}
