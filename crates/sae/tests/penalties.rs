//! Penalties and their gradients, against the reference and finite differences.

use directrix_kernels::SparseActivations;
use directrix_model::{Folder, Tensors};
use directrix_sae::train::{Penalty, PenaltyOver};
use proptest::prelude::*;
use serde_json::Value;

fn penalty(name: &str) -> Penalty {
    serde_json::from_value(Value::String(name.into())).unwrap()
}

#[test]
fn penalties_and_their_gradients_agree_with_the_reference() {
    let folder = format!("{}/tests/fixtures/penalties", env!("CARGO_MANIFEST_DIR"));
    let values: Value = serde_json::from_slice(&std::fs::read(format!("{folder}/values.json")).unwrap()).unwrap();
    for (model, layers) in [("neo-tiny", ["l0", "l1"]), ("gpt2-tiny", ["l0", "l2"]), ("neox-tiny", ["l0", "l1"])] {
        let file = Tensors::open(&Folder::open(&folder).unwrap(), Some(&format!("{model}.safetensors"))).unwrap();
        for layer in layers.into_iter().filter(|layer| file.contains(&format!("{layer}.acts"))) {
            let get = |name: &str| {
                let name = format!("{layer}.{name}");
                file.get(&name, &file.shape(&name).unwrap()).unwrap()
            };
            let (positions, directions, acts, shape) = (get("positions"), get("directions"), get("acts"), get("shape"));
            let mut sparse = SparseActivations::default();
            for position in 0..shape[0] as usize {
                let here = (0..acts.len()).filter(|i| positions[*i] as usize == position);
                sparse.push(here.map(|i| (directions[i] as u32, acts[i])));
            }
            for name in Penalty::NAMES {
                let (value, gradient) =
                    penalty(name).value_and_gradient(&sparse, shape[1] as usize, &[1e-3, 2e-3], PenaltyOver::Sum);
                let wanted = values[format!("{model}.{layer}.{name}")].as_f64().unwrap();
                assert!((value - wanted).abs() <= 1e-5 * wanted, "{model} {layer} {name}: {value} against {wanted}");
                for (found, wanted) in gradient.iter().zip(get(&format!("reg_grad.{name}"))) {
                    let close = (found - wanted).abs() <= 1e-5 * wanted.abs().max(1e-3);
                    assert!(close, "{model} {layer} {name}: {found} against {wanted}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn penalties_have_the_gradients_of_finite_differences(
        rows in prop::collection::vec(prop::collection::vec(0.05_f32..3.0, 0..6), 1..6),
        which in 0..9_usize,
        mean in any::<bool>(),
    ) {
        let over = if mean { PenaltyOver::Mean } else { PenaltyOver::Sum };
        let evaluate = |rows: &[Vec<f32>]| {
            let mut acts = SparseActivations::default();
            rows.iter().for_each(|row| acts.push(row.iter().enumerate().map(|(d, x)| (d as u32, *x))));
            penalty(Penalty::NAMES[which]).value_and_gradient(&acts, 8, &[0.7, 0.4], over)
        };
        let (_, gradient) = evaluate(&rows);
        let mut entry = 0;
        for (i, row) in rows.iter().enumerate() {
            for (j, &x) in row.iter().enumerate() {
                // At 1, `sqrt` turns from a root to a line.
                if (x - 1.0).abs() > 0.01 {
                    let moved = |by: f32| {
                        let mut rows = rows.clone();
                        rows[i][j] = x + by;
                        (rows[i][j] as f64, evaluate(&rows).0)
                    };
                    let ((low, below), (high, above)) = (moved(-1e-3), moved(1e-3));
                    let slope = (above - below) / (high - low);
                    let error = (slope - gradient[entry] as f64).abs();
                    prop_assert!(error < 2e-3 * slope.abs().max(0.1), "{}: {slope} {}", Penalty::NAMES[which], gradient[entry]);
                }
                entry += 1;
            }
        }
    }
}
