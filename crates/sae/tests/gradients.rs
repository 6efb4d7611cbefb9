//! Gradients: of the penalties against the reference and finite differences, of whole objectives against finite differences.

use directrix_kernels::{Matrix, SparseActivations};
use directrix_model::{Folder, Tensors};
use directrix_sae::train::{Aux, Objective, Penalty, PenaltyOver, StepOptions, Trainer};
use proptest::prelude::*;
use serde_json::Value;

const PENALTIES: [&str; 9] = [
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
            for name in PENALTIES {
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
            penalty(PENALTIES[which]).value_and_gradient(&acts, 8, &[0.7, 0.4], over)
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
                    prop_assert!(error < 2e-3 * slope.abs().max(0.1), "{}: {slope} {}", PENALTIES[which], gradient[entry]);
                }
                entry += 1;
            }
        }
    }
}

/// A batch and a trainer whose numbers are as if random.
fn case(objective: Objective) -> (Trainer, Matrix) {
    let mut state = 7_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let batch = Matrix::new((0..24 * 10).map(|_| 4.0 * next()).collect(), 24, 10);
    let mut trainer = Trainer::new(objective, 30, (0..10).map(|_| next()).collect(), 0.3, 5);
    for numbers in [&mut trainer.b_enc, &mut trainer.b_mag, &mut trainer.r_mag] {
        numbers.value.iter_mut().for_each(|x| *x = 0.3 * next());
    }
    trainer.w_enc.value.data_mut().iter_mut().for_each(|w| *w += 0.1 * next());
    (trainer, batch)
}

/// With these options Adam moves a parameter by its gradient times 1e-3.
const PLAIN: StepOptions = StepOptions { rate: 1e5, betas: [0.0, 0.0], eps: 1e8, coefficient_scale: 1.0 };

#[test]
fn objectives_descend_along_the_gradient_of_finite_differences() {
    let aux = Aux { coefficient: 0.0, k: 1, dead_after: 1 };
    let coefficient = vec![0.05, 0.02];
    let objectives = [
        Objective::Relu { penalty: Penalty::CombinedHoyerSqrt, coefficient, over: PenaltyOver::Mean },
        Objective::TopK { k: 6, aux },
        Objective::Matryoshka { k: 6, widths: vec![5, 12, 30], aux },
        Objective::BatchTopK { k: 6, aux },
        Objective::JumpRelu { coefficient: 0.1, bandwidth: 1e-6 },
        Objective::Gated { coefficient: 0.1 },
    ];
    for objective in objectives {
        let (start, batch) = case(objective);
        let mut stepped = start.clone();
        stepped.step(&batch, &PLAIN).unwrap();
        let loss = |trainer: Trainer| trainer.clone().step(&batch, &PLAIN).unwrap().loss;
        // The objective changes where a direction begins or ceases to fire, so a few numbers may be off.
        let (mut checked, mut off) = (0, 0);
        let mut check = |moved: f32, change: &dyn Fn(&mut Trainer, f32)| {
            let with = |by: f32| {
                let mut trainer = start.clone();
                change(&mut trainer, by);
                loss(trainer)
            };
            let slope = (with(2e-3) - with(-2e-3)) / 4e-3;
            checked += 1;
            if (slope - moved as f64 / 1e-3).abs() > 0.02 * slope.abs().max(0.5) {
                off += 1;
            }
        };
        // A gated SAE's auxiliary loss passes no gradient to the decoder, on purpose.
        let gated = matches!(start.objective(), Objective::Gated { .. });
        for d in 0..30 {
            if gated {
                check(start.r_mag.value[d] - stepped.r_mag.value[d], &|t, by| t.r_mag.value[d] += by);
                check(start.b_mag.value[d] - stepped.b_mag.value[d], &|t, by| t.b_mag.value[d] += by);
            }
            check(start.b_enc.value[d] - stepped.b_enc.value[d], &|t, by| t.b_enc.value[d] += by);
            for j in [0, 4, 9] {
                let moved = start.w_enc.value.row(d)[j] - stepped.w_enc.value.row(d)[j];
                check(moved, &|t, by| t.w_enc.value.row_mut(d)[j] += by);
                if gated {
                    continue;
                }
                // Decoder rows stay of length 1: move along the sphere.
                let w = start.w_dec.value.row(d).to_vec();
                let tangent: Vec<f32> = (0..10).map(|i| f32::from(i == j) - w[j] * w[i]).collect();
                let moved: f32 = (0..10).map(|i| (w[i] - stepped.w_dec.value.row(d)[i]) * tangent[i]).sum();
                check(moved, &|t, by| {
                    t.w_dec.value.row_mut(d).iter_mut().zip(&tangent).for_each(|(w, t)| *w += by * t);
                });
            }
        }
        for j in (0..10).filter(|_| !gated) {
            check(start.b_dec.value[j] - stepped.b_dec.value[j], &|t, by| t.b_dec.value[j] += by);
        }
        println!("{:?}: {off} of {checked} differ", start.objective());
        // JumpReLU jumps at its thresholds, a gated SAE where gates open, so that more differences step over one.
        let most =
            if gated || matches!(start.objective(), Objective::JumpRelu { .. }) { checked / 5 } else { checked / 50 };
        assert!(off <= most, "{:?}: {off} of {checked} differ", start.objective());
    }
}
