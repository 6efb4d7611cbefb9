//! The gradient of every objective, by every number of every parameter, against finite differences of its definition in double
//! precision.

use std::collections::BTreeMap;
use std::sync::Arc;

use directrix_kernels::Matrix;
use directrix_sae::train::{
    Aux, BatchTopK, Gated, Gradient, JumpRelu, Matryoshka, Objective, Penalty, PenaltyOver, Relu, StepOptions, TopK,
    Trainer,
};
use serde_json::Value;

fn penalty(name: &str) -> Penalty {
    serde_json::from_value(Value::String(name.into())).unwrap()
}

const POSITIONS: usize = 24;
const DIRECTIONS: usize = 30;
const D_IN: usize = 10;
/// The directions from here on are too weak to be among the largest.
const WEAK: usize = 24;

/// What an objective is, for its definition below.
#[derive(Clone)]
enum Definition {
    Relu { penalty: &'static str, coefficient: Vec<f64>, mean: bool },
    TopK { k: usize },
    BatchTopK { k: usize, prefixes: Vec<usize> },
    JumpRelu { coefficient: f64, bandwidth: f64 },
    Gated { coefficient: f64 },
}

const AUX: Aux = Aux { coefficient: 0.7, k: 2, dead_after: 1 };

impl Definition {
    fn objective(&self) -> Arc<dyn Objective> {
        match self.clone() {
            Definition::Relu { penalty: name, coefficient, mean } => {
                let over = if mean { PenaltyOver::Mean } else { PenaltyOver::Sum };
                Arc::new(Relu { penalty: penalty(name), coefficient, over })
            }
            Definition::TopK { k } => Arc::new(TopK { k, aux: AUX }),
            Definition::BatchTopK { k, prefixes } if prefixes.len() == 1 => Arc::new(BatchTopK { k, aux: AUX }),
            Definition::BatchTopK { k, prefixes } => Arc::new(Matryoshka::new(k, prefixes, AUX)),
            Definition::JumpRelu { coefficient, bandwidth } => {
                Arc::new(JumpRelu { coefficient, bandwidth, threshold: 0.5 })
            }
            Definition::Gated { coefficient } => Arc::new(Gated { coefficient }),
        }
    }
}

/// Every parameter in double precision, by name, row-major.
type Point = BTreeMap<&'static str, Vec<f64>>;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| *x as f64).collect()
}

fn point(trainer: &Trainer) -> Point {
    let mut point = Point::from([
        ("w_enc", wide(trainer.w_enc.value.data())),
        ("w_dec", wide(trainer.w_dec.value.data())),
        ("b_enc", wide(&trainer.b_enc.value)),
        ("b_dec", wide(&trainer.b_dec.value)),
    ]);
    point.extend(trainer.extras.iter().map(|(name, numbers)| (*name, wide(&numbers.value))));
    point
}

/// The gradient as the trainer gives it, by the names of a point.
fn found(gradient: &Gradient, trainer: &Trainer) -> Point {
    let mut point = Point::from([
        ("w_enc", wide(gradient.w_enc().data())),
        ("w_dec", wide(gradient.w_dec(&trainer.w_dec.value).data())),
        ("b_enc", wide(&gradient.b_enc)),
        ("b_dec", wide(&gradient.b_dec)),
    ]);
    point.extend(gradient.extras.iter().map(|(name, values)| (*name, wide(values))));
    point
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The `k` largest of the candidates above 0.
fn largest(mut candidates: Vec<(usize, f64)>, k: usize) -> Vec<usize> {
    candidates.retain(|(_, value)| *value > 0.0);
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
    candidates.into_iter().take(k).map(|(number, _)| number).collect()
}

fn penalty_value(name: &str, acts: &[Vec<f64>], c: &[f64], mean: bool) -> f64 {
    let all = || acts.iter().flatten().filter(|a| **a > 0.0);
    let (sum, squares): (f64, f64) = (all().sum(), all().map(|a| a * a).sum());
    let scale = if mean && name != "hoyer_d" { 1.0 / acts.len() as f64 } else { 1.0 };
    let root_below_one = || all().map(|a| if *a < 1.0 { a.sqrt() } else { *a }).sum::<f64>();
    let root = || all().map(|a| a.sqrt()).sum::<f64>();
    let hoyer_square = || -> f64 {
        let of = |row: &Vec<f64>| (row.iter().sum::<f64>() / (dot(row, row).sqrt() + f32::EPSILON as f64)).powi(2);
        acts.iter().map(of).sum()
    };
    scale
        * match name {
            "l1" => c[0] * sum,
            "sqrt" => c[0] * root_below_one(),
            "pure_sqrt" => c[0] * root(),
            "hoyer_square" => c[0] * hoyer_square(),
            "combined_hoyer_l1" => c[0] * sum + c[1] * hoyer_square(),
            "combined_hoyer_sqrt" => c[0] * root_below_one() + c[1] * hoyer_square(),
            "combined_hoyer_pure_sqrt" => c[0] * root() + c[1] * hoyer_square(),
            "hoyer_d" => c[0] * sum * sum / squares / DIRECTIONS as f64,
            "hoyer_d_scaled_l1" => c[0] * sum.powi(3) / squares / DIRECTIONS as f64,
            name => panic!("{name}"),
        }
}

/// What is beside the parameters in a loss.
struct Given<'a> {
    definition: &'a Definition,
    batch: &'a [Vec<f64>],
    dead: &'a [usize],
    /// Where no gradient is passed on, the parameters are these.
    still: &'a Point,
}

/// What a loss is made of, and on which side of every kink its entries are.
struct Loss {
    value: f64,
    sides: Vec<(usize, usize, u8)>,
    /// The derivative of the squared error by each activation, `[positions][directions]`.
    by_act: Vec<Vec<f64>>,
    pre: Vec<Vec<f64>>,
}

fn pre_activations(p: &Point, x: &[f64]) -> Vec<f64> {
    let x: Vec<f64> = x.iter().zip(&p["b_dec"]).map(|(x, b)| x - b).collect();
    (0..DIRECTIONS).map(|d| dot(&x, &p["w_enc"][d * D_IN..][..D_IN]) + p["b_enc"][d]).collect()
}

fn decoded(acts: &[f64], w_dec: &[f64], b_dec: &[f64]) -> Vec<f64> {
    let column = |j: usize| (0..acts.len()).map(|d| acts[d] * w_dec[d * D_IN + j]).sum::<f64>();
    (0..D_IN).map(|j| column(j) + b_dec[j]).collect()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// Activations of a batch as the objective defines them, and where each is on a kink's one side or the other.
fn activations(given: &Given, p: &Point, pre: &[Vec<f64>], sides: &mut Vec<(usize, usize, u8)>) -> Vec<Vec<f64>> {
    let mut acts = vec![vec![0.0; DIRECTIONS]; pre.len()];
    let numbered = |row: &Vec<f64>| row.iter().copied().enumerate().collect::<Vec<_>>();
    match given.definition {
        Definition::Relu { .. } => acts = pre.iter().map(|row| row.iter().map(|x| x.max(0.0)).collect()).collect(),
        Definition::TopK { k } => {
            for (row, acts) in pre.iter().zip(&mut acts) {
                largest(numbered(row), *k).into_iter().for_each(|d| acts[d] = row[d]);
            }
        }
        Definition::BatchTopK { k, .. } => {
            let all = pre.iter().flatten().copied().enumerate().collect();
            for entry in largest(all, k * pre.len()) {
                let (row, d) = (entry / DIRECTIONS, entry % DIRECTIONS);
                acts[row][d] = pre[row][d];
            }
        }
        // What passes a threshold does not depend on the parameters, as far as the squared error's gradient goes.
        Definition::JumpRelu { .. } => {
            for ((row, acts), x) in pre.iter().zip(&mut acts).zip(given.batch) {
                let still = pre_activations(given.still, x);
                for d in (0..DIRECTIONS).filter(|d| still[*d] > given.still["log_threshold"][*d].exp()) {
                    acts[d] = row[d];
                }
            }
        }
        Definition::Gated { .. } => {
            for (row, (pre, acts)) in pre.iter().zip(&mut acts).enumerate() {
                for d in (0..DIRECTIONS).filter(|d| pre[*d] > 0.0) {
                    sides.push((row, d, 1));
                    acts[d] = ((pre[d] - p["b_enc"][d]) * p["r_mag"][d].exp() + p["b_mag"][d]).max(0.0);
                }
            }
        }
    }
    for (row, acts) in acts.iter().enumerate() {
        let fired = acts.iter().enumerate().filter(|(_, a)| **a > 0.0);
        sides.extend(fired.map(|(d, a)| (row, d, if *a < 1.0 { 2 } else { 3 })));
    }
    acts
}

fn loss(given: &Given, p: &Point) -> Loss {
    let mut sides = Vec::new();
    let n = given.batch.len() as f64;
    let pre: Vec<Vec<f64>> = given.batch.iter().map(|x| pre_activations(p, x)).collect();
    let acts = activations(given, p, &pre, &mut sides);
    let prefixes = match given.definition {
        Definition::BatchTopK { prefixes, .. } => prefixes.clone(),
        _ => vec![DIRECTIONS],
    };
    let mut value = 0.0;
    let mut by_act = vec![vec![0.0; DIRECTIONS]; given.batch.len()];
    for ((x, acts), by_act) in given.batch.iter().zip(&acts).zip(&mut by_act) {
        for &prefix in &prefixes {
            let error = difference(&decoded(&acts[..prefix], &p["w_dec"], &p["b_dec"]), x);
            value += dot(&error, &error) / n;
            for (d, by_act) in by_act[..prefix].iter_mut().enumerate() {
                *by_act += 2.0 / n * dot(&error, &p["w_dec"][d * D_IN..][..D_IN]);
            }
        }
    }
    match given.definition {
        Definition::Relu { penalty, coefficient, mean } => value += penalty_value(penalty, &acts, coefficient, *mean),
        Definition::TopK { .. } | Definition::BatchTopK { .. } => {
            // The residual that the dead directions are to reconstruct is passed no gradient.
            let still: Vec<Vec<f64>> = given.batch.iter().map(|x| pre_activations(given.still, x)).collect();
            let whole = activations(given, given.still, &still, &mut Vec::new());
            for (row, x) in given.batch.iter().enumerate() {
                let recon = decoded(&whole[row], &given.still["w_dec"], &given.still["b_dec"]);
                let mut revived = vec![0.0; DIRECTIONS];
                for d in largest(given.dead.iter().map(|d| (*d, pre[row][*d])).collect(), AUX.k) {
                    sides.push((row, d, 4));
                    revived[d] = pre[row][d];
                }
                let error = difference(&decoded(&revived, &p["w_dec"], &[0.0; D_IN]), &difference(x, &recon));
                value += AUX.coefficient * dot(&error, &error) / n;
            }
        }
        Definition::JumpRelu { coefficient, .. } => {
            value += coefficient * acts.iter().flatten().filter(|a| **a > 0.0).count() as f64 / n;
        }
        Definition::Gated { coefficient } => {
            // The gates' reconstruction moves neither decoder nor decoder bias.
            for (x, pre) in given.batch.iter().zip(&pre) {
                let gates: Vec<f64> = pre.iter().map(|x| x.max(0.0)).collect();
                let error = difference(&decoded(&gates, &given.still["w_dec"], &given.still["b_dec"]), x);
                value += coefficient * gates.iter().sum::<f64>() / n + dot(&error, &error) / n;
            }
        }
    }
    Loss { value, sides, by_act, pre }
}

/// The slope along every number of a parameter, without crossing a kink.
fn slopes(given: &Given, name: &'static str) -> Vec<f64> {
    const STEP: f64 = 1e-6;
    let sides = loss(given, given.still).sides;
    let moved = |i: usize, by: f64| {
        let mut p = given.still.clone();
        p.get_mut(name).unwrap()[i] += by;
        let loss = loss(given, &p);
        assert_eq!(loss.sides, sides, "{name} {i} crosses a kink");
        loss.value
    };
    (0..given.still[name].len()).map(|i| (moved(i, STEP) - moved(i, -STEP)) / (2.0 * STEP)).collect()
}

/// The straight-through gradient of the thresholds' logarithms, as the paper defines it: with `K` the rectangle of width 1,
/// a threshold's derivative is `-θ/ε K((pre - θ)/ε)` of an activation and `-1/ε K((pre - θ)/ε)` of a step in L0.
fn straight_through(given: &Given, coefficient: f64, bandwidth: f64) -> Vec<f64> {
    let Loss { by_act, pre, .. } = loss(given, given.still);
    let of = |d: usize| {
        let threshold = given.still["log_threshold"][d].exp();
        let near = (0..POSITIONS).filter(|row| ((pre[*row][d] - threshold) / bandwidth).abs() < 0.5);
        let by_threshold = |row: usize| -(threshold * by_act[row][d] + coefficient / POSITIONS as f64) / bandwidth;
        near.map(by_threshold).sum::<f64>() * threshold
    };
    (0..DIRECTIONS).map(of).collect()
}

/// A trainer and a batch whose numbers are as if random, the weak directions dead.
fn case(objective: Arc<dyn Objective>) -> (Trainer, Matrix) {
    let mut state = 7_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let batch = Matrix::new((0..POSITIONS * D_IN).map(|_| 4.0 * next()).collect(), POSITIONS, D_IN);
    let mut trainer = Trainer::new(objective, DIRECTIONS, (0..D_IN).map(|_| next()).collect(), 5);
    trainer.b_enc.value.iter_mut().for_each(|x| *x = 0.3 * next());
    trainer.w_enc.value.data_mut().iter_mut().for_each(|w| *w += 0.1 * next());
    for numbers in trainer.extras.values_mut() {
        numbers.value.iter_mut().for_each(|x| *x += 0.3 * next());
    }
    if trainer.objective().has_coefficient() {
        return (trainer, batch);
    }
    for d in WEAK..DIRECTIONS {
        trainer.w_enc.value.row_mut(d).iter_mut().for_each(|w| *w *= 0.2);
    }
    // A step that moves nothing, after which it is known what does not fire.
    trainer.step(&batch, &StepOptions { rate: 0.0, ..PLAIN }).unwrap();
    (trainer, batch)
}

/// With these options Adam moves a parameter by its gradient.
const PLAIN: StepOptions = StepOptions { rate: 1e8, betas: [0.0, 0.0], eps: 1e8, coefficient_scale: 1.0 };

fn definitions() -> Vec<Definition> {
    let relu = |mean: bool| {
        Penalty::NAMES.map(|penalty| {
            let scale = if mean && penalty != "hoyer_d" { 1.0 } else { 0.05 };
            let coefficient = [0.7 * scale, 0.4 * scale][..self::penalty(penalty).coefficients()].to_vec();
            Definition::Relu { penalty, coefficient, mean }
        })
    };
    let mut all: Vec<Definition> = relu(false).into_iter().chain(relu(true)).collect();
    all.extend([
        Definition::TopK { k: 4 },
        Definition::BatchTopK { k: 4, prefixes: vec![DIRECTIONS] },
        Definition::BatchTopK { k: 4, prefixes: vec![5, 12, DIRECTIONS] },
        Definition::JumpRelu { coefficient: 0.3, bandwidth: 0.4 },
        Definition::Gated { coefficient: 0.2 },
    ]);
    all
}

#[test]
fn every_number_of_every_parameter_has_the_slope_of_the_definition() {
    for definition in definitions() {
        let (trainer, batch) = case(definition.objective());
        let what = format!("{:?}", trainer.objective());
        let gradient = trainer.gradient(&batch, 1.0).unwrap();
        let still = point(&trainer);
        let rows: Vec<Vec<f64>> = batch.iter_rows().map(wide).collect();
        let dead: Vec<usize> = (0..DIRECTIONS).filter(|d| trainer.silent()[*d] > 0).collect();
        let given = Given { definition: &definition, batch: &rows, dead: &dead, still: &still };
        let value = loss(&given, &still).value;
        assert!((gradient.report.loss - value).abs() < 1e-5 * value, "{what}: {} {value}", gradient.report.loss);
        if !trainer.objective().has_coefficient() {
            assert!(dead.len() >= 4 && gradient.report.aux > 1.0, "{what}: {dead:?} {}", gradient.report.aux);
        }

        let found = found(&gradient, &trainer);
        assert_eq!(found.keys().collect::<Vec<_>>(), still.keys().collect::<Vec<_>>());
        for (name, found) in found {
            let mut expected = match definition {
                Definition::JumpRelu { coefficient, bandwidth } if name == "log_threshold" => {
                    straight_through(&given, coefficient, bandwidth)
                }
                _ => slopes(&given, name),
            };
            if name == "w_dec" {
                // Rows keep their length: what is along them is taken out.
                for (slope, w) in expected.chunks_mut(D_IN).zip(still[name].chunks(D_IN)) {
                    let along = dot(slope, w);
                    slope.iter_mut().zip(w).for_each(|(slope, w)| *slope -= along * w);
                }
            }
            assert_eq!(found.len(), expected.len());
            for (i, (found, slope)) in found.iter().zip(&expected).enumerate() {
                let error = (found - slope).abs();
                assert!(error < 1e-5 * slope.abs().max(1.0), "{what}: {name} {i}: {found} instead of {slope}");
            }
            let steep = expected.iter().filter(|slope| slope.abs() > 1e-3).count();
            assert!(2 * steep > expected.len(), "{what}: {name}: only {steep} of {} say anything", expected.len());
        }
    }
}

#[test]
fn a_step_moves_every_number_by_its_gradient() {
    for definition in definitions() {
        let (mut trainer, batch) = case(definition.objective());
        let what = format!("{:?}", trainer.objective());
        let start = point(&trainer);
        let gradient = found(&trainer.gradient(&batch, 1.0).unwrap(), &trainer);
        trainer.step(&batch, &PLAIN).unwrap();
        for (name, after) in point(&trainer) {
            let mut expected = difference(&start[name], &gradient[name]);
            if name == "w_dec" {
                for row in expected.chunks_mut(D_IN) {
                    let length = dot(row, row).sqrt();
                    row.iter_mut().for_each(|x| *x /= length);
                }
            }
            for (i, (after, expected)) in after.iter().zip(&expected).enumerate() {
                let close = (after - expected).abs() < 1e-5 * expected.abs().max(1.0);
                assert!(close, "{what}: {name} {i}: {after} instead of {expected}");
            }
        }
    }
}

/// Sets number `place` of the parameter `name`.
fn set(trainer: &mut Trainer, name: &str, place: usize, to: f32) {
    match name {
        "w_enc" => trainer.w_enc.value.data_mut()[place] = to,
        "w_dec" => trainer.w_dec.value.data_mut()[place] = to,
        "b_enc" => trainer.b_enc.value[place] = to,
        "b_dec" => trainer.b_dec.value[place] = to,
        name => trainer.extras.get_mut(name).unwrap().value[place] = to,
    }
}

#[test]
fn a_parameter_that_is_not_finite_is_an_error_that_names_it_and_the_step() {
    for definition in definitions() {
        let (mut whole, batch) = case(definition.objective());
        let steps = whole.steps();
        for name in point(&whole).into_keys() {
            for (bad, resampled) in
                [(f32::NAN, false), (f32::INFINITY, false), (f32::NEG_INFINITY, false), (f32::NAN, true)]
            {
                let mut trainer = whole.clone();
                let place = if name.starts_with("w_") { 3 * D_IN + 2 } else { 3 };
                set(&mut trainer, name, place, bad);
                let found = if resampled {
                    trainer.resample(&batch, 2.0, 1).map(|_| ())
                } else {
                    trainer.step(&batch, &PLAIN).map(|_| ())
                };
                let message = found.expect_err(name).to_string();
                let of = if name == "b_dec" { "input" } else { "direction" };
                let expected = format!("step {}: `{name}` of {of} 3 is not finite", steps + 1);
                assert!(message.starts_with(&expected), "{:?}: {bad} in {name}: {message}", whole.objective());
            }
        }
        assert_eq!(whole.resample(&batch, 2.0, 1).unwrap(), DIRECTIONS);
    }
}

#[test]
fn rows_that_are_all_the_same_leave_nothing_to_explain() {
    let (mut trainer, batch) = case(Definition::TopK { k: 4 }.objective());
    let report = trainer.step(&Matrix::repeat(batch.row(0), 8), &PLAIN).unwrap();
    assert!(report.mse > 0.0 && report.explained_variance == 0.0, "{report:?}");
}
