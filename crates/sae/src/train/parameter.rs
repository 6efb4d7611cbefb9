//! What Adam moves: parameters with their moments.

use directrix_kernels::{Adam, Matrix};

use super::trainer::Trainer;
use crate::{Error, Result};

/// A parameter with a row for each direction, and Adam's moments of it.
#[derive(Debug, Clone)]
pub struct Rows {
    /// `[directions, d_in]`.
    pub value: Matrix,
    pub(super) moments: [Matrix; 2],
}

/// A parameter with a number for each direction or input, and Adam's moments of it.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    /// The numbers.
    pub value: Vec<f32>,
    pub(super) moments: [Vec<f32>; 2],
}

impl Rows {
    /// A parameter that Adam has not moved yet.
    pub fn new(value: Matrix) -> Rows {
        let moments = [0, 1].map(|_| Matrix::zeros(value.rows(), value.columns()));
        Rows { value, moments }
    }

    /// Sets a direction's row to `scale` times another row, and its moments to 0.
    pub(super) fn renew(&mut self, direction: usize, row: &[f32], scale: f64) {
        self.value.row_mut(direction).iter_mut().zip(row).for_each(|(w, x)| *w = (*x as f64 * scale) as f32);
        self.moments.iter_mut().for_each(|moment| moment.row_mut(direction).fill(0.0));
    }
}

impl Numbers {
    /// A parameter that Adam has not moved yet.
    pub fn new(value: Vec<f32>) -> Numbers {
        let zeros = vec![0.0; value.len()];
        Numbers { value, moments: [zeros.clone(), zeros] }
    }

    /// Sets a direction's number and its moments to 0.
    pub fn renew(&mut self, direction: usize) {
        self.value[direction] = 0.0;
        self.moments.iter_mut().for_each(|moment| moment[direction] = 0.0);
    }

    pub(super) fn descend(&mut self, gradient: &[f32], adam: Adam) {
        let [first, second] = &mut self.moments;
        adam.update(&mut self.value, [first, second], gradient);
    }
}

/// A parameter's name, its numbers and Adam's moments of them.
type Stored<Numbers> = (&'static str, [Numbers; 3]);

impl Trainer {
    /// Every parameter with its moments.
    pub(super) fn stored(&self) -> Vec<Stored<&[f32]>> {
        let rows = [("w_enc", &self.w_enc), ("w_dec", &self.w_dec)];
        let rows = rows.map(|(name, Rows { value, moments: [m, v] })| (name, [value.data(), m.data(), v.data()]));
        let extras = self.extras.iter().map(|(name, numbers)| (*name, numbers));
        let numbers = [("b_enc", &self.b_enc), ("b_dec", &self.b_dec)].into_iter().chain(extras);
        let numbers = numbers.map(|(name, Numbers { value, moments: [m, v] })| (name, [&value[..], m, v]));
        rows.into_iter().chain(numbers).collect()
    }

    /// The same, to be set.
    pub(super) fn stored_mut(&mut self) -> Vec<Stored<&mut [f32]>> {
        let rows = [("w_enc", &mut self.w_enc), ("w_dec", &mut self.w_dec)];
        let rows =
            rows.map(|(name, Rows { value, moments: [m, v] })| (name, [value.data_mut(), m.data_mut(), v.data_mut()]));
        let extras = self.extras.iter_mut().map(|(name, numbers)| (*name, numbers));
        let numbers = [("b_enc", &mut self.b_enc), ("b_dec", &mut self.b_dec)].into_iter().chain(extras);
        let numbers = numbers.map(|(name, Numbers { value, moments: [m, v] })| (name, [&mut value[..], m, v]));
        rows.into_iter().chain(numbers).collect()
    }

    /// That every parameter is finite after the last step, with its moments.
    pub(super) fn check_finite(&self) -> Result<()> {
        self.not_finite().map_or(Ok(()), |what| Err(Error::Diverged { step: self.steps, what }))
    }

    /// The first parameter that is not finite, or whose moments are not, and where.
    pub(super) fn not_finite(&self) -> Option<String> {
        self.stored().into_iter().find_map(|(name, parts)| {
            let place = parts.iter().find_map(|numbers| numbers.iter().position(|x| !x.is_finite()))?;
            let (of, width) = match name {
                "w_enc" | "w_dec" => ("direction", self.d_in()),
                "b_dec" => ("input", 1),
                _ => ("direction", 1),
            };
            let first = if of == "direction" { self.first } else { 0 };
            Some(format!("`{name}` of {of} {}", first + place / width))
        })
    }
}
