//! Derivatives of scalars: against what happens when the numbers at a hook point are moved a little.

#[expect(dead_code, reason = "of what tests share, some is of others")]
mod common;

use std::sync::Arc;

use common::{MODELS, by_key, model};
use directrix_corpus::{Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{
    Ask, BlockHook, Cut, Frozen, Function, HookPoint, Hooked, Model, Positions, Processing, Quantity, RowAt, Run,
    Scalar, Target, Term,
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

fn is_scale(hook: HookPoint) -> bool {
    hook.to_string().ends_with("hook_scale")
}

/// Whether a head reads this by itself: its norm is then of what it reads.
fn is_of_head(hook: HookPoint) -> bool {
    use BlockHook as B;
    matches!(hook, HookPoint::Block(_, B::AttnIn | B::QInput | B::KInput | B::VInput))
}

/// What the run must give so that the scalars can be read.
fn ask(scalars: &[Scalar]) -> Ask {
    let mut ask = Ask::nothing();
    for scalar in scalars {
        for Term { position, quantity, .. } in &scalar.terms {
            ask = match quantity {
                Quantity::Logit(token) | Quantity::LogProb(token) => {
                    ask.with_predictions([Target { prompt: scalar.prompt, position: *position, token: *token }])
                }
                Quantity::Along { hook, .. } => ask.with_capture(*hook, Positions::All),
            };
        }
    }
    ask
}

fn values(run: &Run, prompts: &Prompts, scalars: &[Scalar]) -> Vec<f64> {
    let mut predictions = run.predictions().iter();
    let mut value = |prompt: usize, term: &Term| {
        f64::from(term.weight)
            * match &term.quantity {
                Quantity::Logit(_) => f64::from(predictions.next().unwrap().logit),
                Quantity::LogProb(_) => predictions.next().unwrap().log_prob,
                Quantity::Along { hook, direction } => {
                    let row = run.captured(*hook).row(prompts.offsets()[prompt] + term.position);
                    directrix_kernels::dot(row, direction)
                }
            }
    };
    scalars.iter().map(|scalar| scalar.terms.iter().map(|term| value(scalar.prompt, term)).sum()).collect()
}

/// Keeps divisors and patterns as they were.
fn held(model: &Model, prompts: &Prompts, frozen: Frozen) -> Vec<Hooked<'static>> {
    let is_held = |hook: &HookPoint| {
        frozen.norms && is_scale(*hook) || frozen.patterns && matches!(hook, HookPoint::Block(_, BlockHook::Pattern))
    };
    let hooks: Vec<HookPoint> = HookPoint::all(model.config()).into_iter().filter(is_held).collect();
    let run = Arc::new(model.run(prompts, &Ask::capture(hooks.iter().copied()), &[]).unwrap());
    let offsets = prompts.offsets().to_vec();
    let longest = prompts.iter().map(<[u32]>::len).max().unwrap();
    let hold = |hook: HookPoint| {
        let (run, offsets) = (run.clone(), offsets.clone());
        let function = move |at: RowAt, numbers: &mut [f32]| {
            let was = run.captured(hook).row(offsets[at.spot.prompt] + at.spot.position);
            let start = at.head.map_or(0, |head| head * longest);
            numbers.copy_from_slice(&was[start..start + numbers.len()]);
        };
        Hooked { hook, positions: Positions::All, function: Function::Each(Arc::new(function)) }
    };
    hooks.into_iter().map(hold).collect()
}

fn random_direction(random: &mut ChaCha8Rng, width: usize) -> Vec<f32> {
    (0..width).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn scalars(model: &Model, prompts: &Prompts, random: &mut ChaCha8Rng) -> Vec<Scalar> {
    let vocabulary = model.config().d_vocab as u32;
    let along = |hook: HookPoint, random: &mut ChaCha8Rng| {
        let width = hook.shape(model.config(), 0).iter().product();
        Quantity::Along { hook, direction: random_direction(random, width).into() }
    };
    let mut token = || random.random_range(0..vocabulary);
    let (a, b, c) = (token(), token(), token());
    let mut all = vec![
        Scalar::logit_difference(0, 4, [a, b]),
        Scalar::of(1, 2, Quantity::LogProb(c)),
        Scalar::loss(0, prompts.get(0)),
        Scalar {
            prompt: 1,
            terms: vec![
                Term { position: 1, weight: 0.7, quantity: Quantity::Logit(a) },
                Term { position: 3, weight: -1.3, quantity: Quantity::LogProb(b) },
            ],
        },
    ];
    let last = model.config().n_layers - 1;
    let mut ends = vec![
        BlockHook::MlpPost,
        BlockHook::Z,
        BlockHook::Result,
        BlockHook::Ln2Normalized,
        BlockHook::MlpOut,
        BlockHook::Q,
    ];
    ends.push(if model.config().parallel { BlockHook::AttnOut } else { BlockHook::ResidMid });
    for end in ends {
        all.push(Scalar::of(0, 3, along(HookPoint::Block(last, end), random)));
    }
    all.push(Scalar {
        prompt: 0,
        terms: vec![
            Term { position: 2, weight: 0.5, quantity: along(HookPoint::Block(0, BlockHook::ResidPost), random) },
            Term { position: 4, weight: 1.0, quantity: Quantity::Logit(c) },
        ],
    });
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(36))]

    #[test]
    fn a_derivative_is_what_a_small_change_does(
        which in 0..MODELS.len(),
        processed: bool,
        norms: bool,
        patterns: bool,
        seed: u64,
    ) {
        let model = model(MODELS[which], if processed { Processing::default() } else { Processing::none() });
        let frozen = Frozen { norms, patterns };
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let vocabulary = model.config().d_vocab as u32;
        let prompts = Prompts::from_rows([6, 5].map(|len| (0..len).map(|_| random.random_range(0..vocabulary)).collect::<Vec<_>>()));
        let scalars = scalars(&model, &prompts, &mut random);
        let hooks: Vec<HookPoint> = HookPoint::all(model.config())
            .into_iter()
            .filter(|hook| {
                let is_held = norms && (is_scale(*hook) || is_of_head(*hook)) || patterns && by_key(*hook);
                *hook != HookPoint::UnembedOut && !is_held
            })
            .collect();
        let gradients = model.gradients(&prompts, &hooks, &scalars, frozen, &Watch::nobody()).unwrap();
        let held = held(&model, &prompts, frozen);
        let plain = model.run_hooked(&prompts, &ask(&scalars), &[], &held).unwrap();
        for (found, expected) in gradients.values().iter().zip(values(&plain, &prompts, &scalars)) {
            prop_assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found} {expected}");
        }

        // One random row of each prompt at each of some hook points.
        for _ in 0..14 {
            let hook = hooks[random.random_range(0..hooks.len())];
            let prompt = random.random_range(0..2_usize);
            let position = random.random_range(0..prompts.get(prompt).len());
            let width: usize = hook.shape(model.config(), 6).iter().product();
            let mut direction = random_direction(&mut random, width);
            if by_key(hook) {
                // Of keys that are not seen yet there is no score.
                direction.iter_mut().enumerate().filter(|(at, _)| at % 6 > position).for_each(|(_, x)| *x = 0.0);
            }
            let moved = |step: f32| {
                let direction = direction.clone();
                let function = move |at: RowAt, numbers: &mut [f32]| {
                    let start = at.head.map_or(0, |head| head * 6);
                    let own = &direction[start..start + numbers.len()];
                    numbers.iter_mut().zip(own).for_each(|(x, by)| *x += step * by);
                };
                let mut at = vec![Vec::new(); 2];
                at[prompt] = vec![position];
                let mut all = held.clone();
                all.push(Hooked { hook, positions: Positions::Each(at), function: Function::Each(Arc::new(function)) });
                values(&model.run_hooked(&prompts, &ask(&scalars), &[], &all).unwrap(), &prompts, &scalars)
            };
            let step = 8e-3;
            let [(more, less), (more_near, less_near)] = [step, step / 2.0].map(|step| (moved(step), moved(-step)));
            for (number, scalar) in scalars.iter().enumerate() {
                let of = gradients.of(number, hook);
                // Two steps, of which one is half of the other, tell how much the slope itself changes.
                let far = (more[number] - less[number]) / (2.0 * f64::from(step));
                let near = (more_near[number] - less_near[number]) / f64::from(step);
                let expected = (4.0 * near - far) / 3.0;
                let found = if scalar.prompt != prompt || position >= of.rows() {
                    0.0
                } else if by_key(hook) {
                    // The gradient is as wide as the longest prompt that was needed.
                    let (longest, heads) = (of.columns() / model.config().attention.query_heads, model.config().attention.query_heads);
                    let row = of.row(position);
                    (0..heads).map(|head| directrix_kernels::dot(&row[head * longest..][..longest], &direction[head * 6..][..longest])).sum()
                } else {
                    directrix_kernels::dot(of.row(position), &direction)
                };
                let tolerance = 4e-3 * expected.abs().max(1.0) * if by_key(hook) || is_scale(hook) { 4.0 } else { 1.0 } + 2.0 * (far - near).abs();
                prop_assert!(
                    (found - expected).abs() < tolerance,
                    "{} {hook}, prompt {prompt}, position {position}, scalar {number}: {found}, by differences {expected}", MODELS[which]
                );
            }
        }
    }
}

proptest! {
    /// What passes a hook point and what does not are the two parts of a derivative.
    #[test]
    fn a_cut_takes_out_what_passes_it(which in 0..MODELS.len(), norms: bool, patterns: bool, seed: u64) {
        use BlockHook as B;
        let model = model(MODELS[which], Processing::default());
        let (frozen, mut random) = (Frozen { norms, patterns }, ChaCha8Rng::seed_from_u64(seed));
        let vocabulary = model.config().d_vocab as u32;
        let prompts = Prompts::from_rows([(0..6).map(|_| random.random_range(0..vocabulary)).collect::<Vec<_>>()]);
        let layer = random.random_range(0..model.config().n_layers);
        let ends = [B::Z, B::Result, B::AttnOut, B::MlpPre, B::MlpPost, B::MlpOut, B::ResidPost];
        let hook = HookPoint::Block(layer, ends[random.random_range(0..ends.len())]);
        let width: usize = hook.shape(model.config(), 0).iter().product();
        let columns = if random.random() { 0..width } else { width / 4..width / 2 };
        let cut = Cut { hook, columns: columns.clone(), skip: None };
        let scalar = Scalar::logit_difference(0, 5, [random.random_range(0..vocabulary), 1]);
        let hooks = [HookPoint::Embed, HookPoint::Block(0, B::V), hook];
        let watch = Watch::nobody();
        let whole = model.gradients(&prompts, &hooks, std::slice::from_ref(&scalar), frozen, &watch).unwrap();
        let tape = model.tape(&prompts, HookPoint::Embed, &[HookPoint::UnembedIn, hook], &[], &watch).unwrap();
        let apart = tape.gradients(&hooks, &[scalar], frozen, std::slice::from_ref(&cut)).unwrap();
        prop_assert!((0..6).all(|row| whole.of(0, hook).row(row) == apart.of(0, hook).row(row)));
        // Along the hook point itself a cut changes nothing but what is found there.
        let terms = (0..6).map(|position| {
            let mut direction = vec![0.0; width];
            direction[columns.clone()].copy_from_slice(&apart.of(0, hook).row(position)[columns.clone()]);
            Term { position, weight: 1.0, quantity: Quantity::Along { hook, direction: direction.into() } }
        });
        let passes = Scalar { prompt: 0, terms: terms.collect() };
        let passed = tape.gradients(&hooks, std::slice::from_ref(&passes), frozen, &[cut]).unwrap();
        prop_assert!((0..6).all(|row| passed.of(0, hook).row(row)[columns.clone()].iter().all(|x| *x == 0.0)));
        for before in [HookPoint::Embed, HookPoint::Block(0, B::V)].into_iter().filter(|before| *before < hook) {
            for row in 0..6 {
                let parts = apart.of(0, before).row(row).iter().zip(passed.of(0, before).row(row)).map(|(a, b)| a + b);
                for (sum, whole) in parts.zip(whole.of(0, before).row(row)) {
                    prop_assert!((sum - whole).abs() < 1e-4 * whole.abs().max(1.0), "{hook} {before} {row}: {sum} {whole}");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_cut_is_an_error_that_says_why() {
    let model = model("gpt2-tiny", Processing::default());
    let (prompts, watch) = (Prompts::from_rows([[1, 2, 3]]), Watch::nobody());
    let tape = model.tape(&prompts, HookPoint::Embed, &[HookPoint::UnembedIn], &[], &watch).unwrap();
    let failed = |cut: Cut| {
        let scalar = Scalar::logit_difference(0, 1, [1, 2]);
        tape.gradients(&[HookPoint::Embed], &[scalar], Frozen::default(), &[cut]).err().unwrap().to_string()
    };
    let at = |hook: BlockHook, columns| Cut { hook: HookPoint::Block(1, hook), columns, skip: None };
    assert!(failed(at(BlockHook::Pattern, 0..1)).contains("no rows that could be cut"));
    assert!(failed(at(BlockHook::MlpOut, 3..40)).contains("columns 3..40 of 32"));
    let skipping = |from: HookPoint, rows: usize| Cut {
        skip: Some((from, 0..32, Arc::new(Matrix::zeros(rows, 32)))),
        ..at(BlockHook::MlpOut, 0..32)
    };
    assert!(failed(skipping(HookPoint::Block(0, BlockHook::MlpIn), 32)).contains("cannot lead to it from blocks.0"));
    assert!(failed(skipping(HookPoint::Block(1, BlockHook::ResidPost), 32)).contains("cannot lead to it"));
    assert!(failed(skipping(HookPoint::Block(1, BlockHook::MlpIn), 31)).contains("a skip connection of [31, 32]"));

    // A tape has what it was asked for.
    let late = model.tape(&prompts, HookPoint::Block(1, BlockHook::V), &[HookPoint::UnembedIn], &[], &watch).unwrap();
    let of = |hook, quantity| {
        let scalar = Scalar::of(0, 1, quantity);
        late.gradients(&[hook], &[scalar], Frozen::default(), &[]).err().unwrap().to_string()
    };
    assert!(of(HookPoint::Embed, Quantity::Logit(1)).contains("was not asked for hook_embed"));
    let hook = HookPoint::Block(2, BlockHook::MlpPost);
    let along = Quantity::Along { hook, direction: vec![1.0; 128].into() };
    assert!(of(HookPoint::Block(1, BlockHook::V), along).contains("was not asked for blocks.2.mlp.hook_post"));
    assert!(model.tape(&prompts, hook, &[HookPoint::Block(2, BlockHook::Pattern)], &[], &watch).is_err());
}

/// `cos(1.7 i)`.
fn cosines(n: usize) -> Vec<f32> {
    (0..n).map(|i| (1.7 * i as f64).cos() as f32).collect()
}

/// `bench/peers/gradients.py` writes what autograd says of TransformerLens's models.
#[test]
fn derivatives_agree_with_transformer_lens() {
    for name in ["gpt2-tiny", "neo-tiny", "neox-tiny", "llama-tiny", "qwen3-tiny", "gemma2-tiny"] {
        let path = format!("{}/tests/fixtures/{name}/gradients.json", env!("CARGO_MANIFEST_DIR"));
        let expected: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let model = model(name, Processing::default());
        let numbers = |value: &Value| value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
        let tokens = |key: &str| numbers(&expected[key]).into_iter().map(|token| token as u32).collect::<Vec<_>>();
        let (prompt, of) = (tokens("prompt"), tokens("tokens"));
        let (prompts, last) = (Prompts::from_rows([&prompt]), prompt.len() - 1);
        let neurons = HookPoint::Block(model.config().n_layers - 1, BlockHook::MlpPost);
        let direction = cosines(model.config().mlp.d_mlp).into();
        let scalars = [
            ("logit_difference", Scalar::logit_difference(0, last, [of[0], of[1]])),
            ("log_prob", Scalar::of(0, last - 1, Quantity::LogProb(of[1]))),
            ("loss", Scalar::loss(0, &prompt)),
            ("along", Scalar::of(0, last - 1, Quantity::Along { hook: neurons, direction })),
        ];
        let mut compared = 0;
        for case in expected["cases"].as_array().unwrap() {
            let frozen = Frozen { norms: case["norms"] == true, patterns: case["patterns"] == true };
            for (kind, scalar) in &scalars {
                let expected = &case["scalars"][kind];
                let by = expected["by"].as_object().unwrap();
                // Divisors that are frozen have no gradient there, and one here.
                let hooks = by.keys().map(|name| name.parse().unwrap()).collect::<Vec<HookPoint>>();
                let scalar = std::slice::from_ref(scalar);
                let found = model.gradients(&prompts, &hooks, scalar, frozen, &Watch::nobody()).unwrap();
                assert!((found.values()[0] - expected["value"].as_f64().unwrap()).abs() < 2e-5, "{name} {kind}");
                for (hook, name_of) in hooks.iter().zip(by.keys()) {
                    let rows = found.of(0, *hook);
                    for (position, expected) in numbers(&by[name_of]).into_iter().enumerate() {
                        let found = if position < rows.rows() {
                            by_cosines(rows.row(position), *hook, prompt.len(), model.config().attention.query_heads)
                        } else {
                            0.0
                        };
                        let close = 1e-4 * expected.abs().max(1.0);
                        assert!(
                            (found - expected).abs() < close,
                            "{name} {kind} {hook} {position}: {found} {expected}"
                        );
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 2000, "{compared}");
    }
}

/// The inner product with a direction of cosines over all heads and keys of the prompt, of which the row may have fewer.
fn by_cosines(row: &[f32], hook: HookPoint, positions: usize, heads: usize) -> f64 {
    if !by_key(hook) {
        return directrix_kernels::dot(row, &cosines(row.len()));
    }
    let (longest, all) = (row.len() / heads, cosines(heads * positions));
    let of_head =
        |head: usize| directrix_kernels::dot(&row[head * longest..][..longest], &all[head * positions..][..longest]);
    (0..heads).map(of_head).sum()
}

#[test]
fn a_gradient_of_many_scalars_has_the_bits_of_each_alone() {
    for name in MODELS {
        let model = model(name, Processing::default());
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let prompts = Prompts::from_rows([vec![1, 2, 3, 4, 5, 6], vec![9, 8, 7, 6, 5]]);
        let scalars = scalars(&model, &prompts, &mut random);
        let hooks = [HookPoint::Embed, HookPoint::Block(0, BlockHook::MlpPost), HookPoint::Block(1, BlockHook::Z)];
        let together = model.gradients(&prompts, &hooks, &scalars, Frozen::default(), &Watch::nobody()).unwrap();
        for (number, scalar) in scalars.iter().enumerate() {
            let alone =
                model.gradients(&prompts, &hooks, std::slice::from_ref(scalar), Frozen::default(), &Watch::nobody());
            let alone = alone.unwrap();
            for hook in hooks {
                let [a, b] = [together.of(number, hook), alone.of(0, hook)];
                assert!(
                    (0..a.rows()).all(|row| a.row(row) == b.row(row)) && a.rows() == b.rows(),
                    "{name} {hook} {number}"
                );
            }
        }
    }
}

#[test]
fn what_cannot_be_differentiated_is_an_error_that_says_why() {
    let model = model("gpt2-tiny", Processing::default());
    let prompts = Prompts::from_rows([[1, 2, 3]]);
    let hook = HookPoint::Block(0, BlockHook::MlpPost);
    let failed = |hooks: &[HookPoint], scalar: Scalar| {
        model.gradients(&prompts, hooks, &[scalar], Frozen::default(), &Watch::nobody()).err().unwrap().to_string()
    };
    let along =
        |hook: HookPoint, width: usize| Scalar::of(0, 1, Quantity::Along { hook, direction: vec![1.0; width].into() });
    assert!(failed(&[hook], Scalar { prompt: 0, terms: Vec::new() }).contains("it has no term"));
    assert!(
        failed(&[hook], along(hook, 3)).contains("a direction has 3 numbers, and a row at blocks.0.mlp.hook_post has")
    );
    assert!(
        failed(&[hook], along(HookPoint::Block(0, BlockHook::Pattern), 3)).contains("no rows that a term can be along")
    );
    assert!(
        failed(&[HookPoint::UnembedOut], Scalar::logit_difference(0, 1, [1, 2])).contains("ask for unembed.hook_in")
    );
    assert!(failed(&[hook], Scalar::logit_difference(0, 3, [1, 2])).contains("position 3"));
    assert!(failed(&[hook], Scalar::logit_difference(1, 0, [1, 2])).contains("prompt"));
    assert!(failed(&[hook], Scalar::logit_difference(0, 0, [1, 1 << 20])).contains("token"));
    let endless =
        Scalar { prompt: 0, terms: vec![Term { position: 0, weight: f32::NAN, quantity: Quantity::Logit(0) }] };
    assert!(failed(&[hook], endless).contains("a weight is NaN"));

    // What lies behind a scalar does not change it.
    let behind = HookPoint::Block(1, BlockHook::MlpPost);
    let none = model.gradients(
        &prompts,
        &[behind],
        &[along(hook, model.config().mlp.d_mlp)],
        Frozen::default(),
        &Watch::nobody(),
    );
    let none = none.unwrap();
    assert!((0..2).all(|row| none.of(0, behind).row(row).iter().all(|x| *x == 0.0)));
}
