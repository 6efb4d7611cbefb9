//! Factors taken into an SAE's numbers.

use directrix_kernels::Matrix;

/// Of weights trained on `reads` times what they read and `writes` times what they write, those for the activations themselves.
pub(super) fn by_factors(encoder: &mut Matrix, w_dec: &mut Matrix, b_dec: &mut [f32], reads: f32, writes: f32) {
    encoder.data_mut().iter_mut().for_each(|w| *w *= reads);
    w_dec.data_mut().iter_mut().chain(b_dec).for_each(|w| *w /= writes);
}

/// Multiplies pre-activations by their decoder row's length and divides the row by it.
pub(super) fn by_decoder(encoder: &mut Matrix, b_enc: &mut [f32], w_dec: &mut Matrix) {
    for (direction, length) in lengths(w_dec).into_iter().enumerate() {
        encoder.row_mut(direction).iter_mut().for_each(|w| *w *= length);
        b_enc[direction] *= length;
        if length > 0.0 {
            w_dec.row_mut(direction).iter_mut().for_each(|w| *w /= length);
        }
    }
}

/// The length of every decoder row.
pub(super) fn lengths(w_dec: &Matrix) -> Vec<f32> {
    let length = |row: &[f32]| row.iter().map(|w| (*w as f64).powi(2)).sum::<f64>().sqrt() as f32;
    w_dec.iter_rows().map(length).collect()
}
