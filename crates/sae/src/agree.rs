//! Whether two SAEs do the same: the check of one that was written in another form.

use directrix_kernels::Matrix;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::{Error, Result, Sae};

/// Rows that both are given.
const ROWS: usize = 64;
/// Activations and reconstructions may differ by this, times their size where that is above 1.
const TOLERANCE: f32 = 1e-4;

/// That two SAEs have the same ends, and make the same of random rows: activations and reconstructions. Rows are of several sizes,
/// each with some of a direction's own encoder in it, so that directions fire. One activation in 10,000 may differ: of a direction
/// at its threshold, rounding decides.
///
/// # Errors
/// [`Error::Parameters`] with what differs most, or as [`Sae::encode`].
pub fn agree(one: &Sae, other: &Sae) -> Result<()> {
    let differ = |problem: String| {
        let problem = format!("it does not do what {} does: {problem}", one.name());
        Err(Error::Parameters { sae: other.name().into(), problem })
    };
    let ends = |sae: &Sae| (sae.site().clone(), sae.directions());
    if ends(one) != ends(other) {
        return differ("they differ in hook point, width or number of directions".into());
    }
    let rows = rows(one);
    let (acts, others) = (one.encode(&rows)?, other.encode(&rows)?);
    let [dense, others_dense] = [&acts, &others].map(|acts| acts.to_dense(one.directions()));
    let is_near = |a: f32, b: f32| (a - b).abs() <= TOLERANCE * a.abs().max(1.0);
    let apart = dense.iter().zip(&others_dense).filter(|(a, b)| !is_near(**a, **b)).count();
    let fires = acts.values().len().max(others.values().len());
    if apart > fires / 10_000 {
        return differ(format!("{apart} of {fires} activations differ on random rows"));
    }
    let (recon, others) = (one.decode(&acts, &rows), other.decode(&others, &rows));
    // A sum is as exact as its terms are small beside it.
    for (row, (recon, other)) in recon.iter_rows().zip(others.iter_rows()).enumerate() {
        let size = recon.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
        let worst = recon.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if worst > TOLERANCE * size && apart == 0 {
            return differ(format!("reconstructions of random row {row} differ by {worst} of {size}"));
        }
    }
    Ok(())
}

fn rows(sae: &Sae) -> Matrix {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut rows = Matrix::zeros(ROWS, sae.d_in());
    for i in 0..ROWS {
        let size = 10_f32.powi((i % 4) as i32 - 1);
        let encoder = sae.encoder().row(i * sae.directions() / ROWS);
        let norm = encoder.iter().map(|w| w * w).sum::<f32>().sqrt().max(1e-20) / (sae.d_in() as f32).sqrt();
        for (x, w) in rows.row_mut(i).iter_mut().zip(encoder) {
            let noise: f32 = StandardNormal.sample(&mut random);
            *x = size * (noise + w / norm);
        }
    }
    rows
}
