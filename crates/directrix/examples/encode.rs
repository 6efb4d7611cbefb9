//! Encode activations of your own: an SAE needs no model.
//!
//!     cargo run --release --example encode

use directrix::kernels::Matrix;
use directrix::lab;
use directrix::sae::Sae;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sae = Sae::load(&lab::folder("embedded:tinystories-2l/sae-l0")?)?;

    // One row per position, from wherever you have them; here waves.
    let rows = 4;
    let numbers = (0..rows * sae.d_in()).map(|i| (i as f32 * 0.37).sin().max(0.0)).collect();
    let activations = Matrix::new(numbers, rows, sae.d_in());

    let sparse = sae.encode(&activations)?;
    let reconstruction = sae.decode(&sparse, &activations);
    for row in 0..rows {
        let (directions, _) = sparse.at(row);
        let error: f32 =
            activations.row(row).iter().zip(reconstruction.row(row)).map(|(x, r)| (x - r).powi(2)).sum::<f32>();
        println!("row {row}: {} of {} directions active, squared error {error:.2}", directions.len(), sae.directions());
    }
    Ok(())
}
