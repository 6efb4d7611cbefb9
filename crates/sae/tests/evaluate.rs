//! Evaluations against a straightforward computation in double precision, and what must hold of every one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{Ask, Edit, Folder, Intervention, Model, Positions, Processing};
use directrix_sae::{Counted, Error, Evaluation, EvaluationOptions, Sae, evaluate};
use serde_json::json;

fn path(name: &str) -> String {
    format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn model() -> Model {
    Model::load(&Folder::open(path("neo-tiny")).unwrap(), Processing::default()).unwrap()
}

fn load(name: &str, model: &Model) -> Sae {
    Sae::load(&Folder::open(name).unwrap()).unwrap().fit(model.config()).unwrap()
}

fn fixtures(model: &Model) -> Vec<Sae> {
    vec![load(&path("neo-tiny/sae-l0"), model), load(&path("neo-tiny/sae-l1"), model)]
}

fn prompts() -> Prompts {
    let expected = fs::read(path("neo-tiny/expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let mut rows: Vec<Vec<u32>> = serde_json::from_value(expected["prompts"].clone()).unwrap();
    // One that predicts nothing.
    rows.insert(3, vec![0]);
    Prompts::from_rows(rows)
}

/// Thresholds that the fixtures' directions lie on both sides of; every position counts.
fn options() -> EvaluationOptions {
    EvaluationOptions {
        counted: Counted::all(),
        dense_above: 0.1035,
        rare_below: 0.1025,
        aligned_from: 0.1,
        top_prompts: 4,
        shared_from: 1.0,
        single_token_from: 0.12,
        ..EvaluationOptions::default()
    }
}

fn evaluated(model: &Model, saes: &[Sae], options: &EvaluationOptions) -> Vec<Evaluation> {
    evaluate(model, saes, &prompts(), options, &Watch::nobody()).unwrap()
}

/// Tensors of an SAE to be made: name, shape, values.
type Tensors<'a> = &'a [(&'a str, Vec<usize>, Vec<f32>)];

/// An SAE from its weights, by way of a folder.
fn made(model: &Model, name: &str, hook: &str, head: Option<usize>, weights: [&Matrix; 2]) -> Sae {
    let [w_enc, w_dec] = weights;
    let (d_in, d_sae) = (w_enc.rows(), w_enc.columns());
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join(name);
    fs::create_dir(&folder).unwrap();
    let config = json!({
        "architecture": "standard", "d_in": d_in, "d_sae": d_sae,
        "metadata": { "hook_name": hook, "hook_head_index": head },
    });
    fs::write(folder.join("cfg.json"), config.to_string()).unwrap();
    let tensors: Tensors = &[
        ("W_enc", vec![d_in, d_sae], w_enc.data().to_vec()),
        ("W_dec", vec![d_sae, d_in], w_dec.data().to_vec()),
        ("b_enc", vec![d_sae], vec![0.0; d_sae]),
        ("b_dec", vec![d_in], vec![0.0; d_in]),
    ];
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        header.insert((*name).into(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(folder.join("sae_weights.safetensors"), bytes).unwrap();
    load(folder.to_str().unwrap(), model)
}

/// Reconstructs without error: one direction for each number's positive part and one for its negative.
fn identity(model: &Model, hook: &str, head: Option<usize>, width: usize) -> Sae {
    let mut w_enc = Matrix::zeros(width, 2 * width);
    for i in 0..width {
        (w_enc.row_mut(i)[i], w_enc.row_mut(i)[width + i]) = (1.0, -1.0);
    }
    made(model, "identity", hook, head, [&w_enc, &w_enc.transposed()])
}

fn random(model: &Model, name: &str, hook: &str, head: Option<usize>, width: usize) -> Sae {
    let mut state = 7_u64 + width as u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut matrix =
        |rows: usize, columns: usize| Matrix::new((0..rows * columns).map(|_| next()).collect(), rows, columns);
    let weights = [matrix(width, 3 * width), matrix(3 * width, width)];
    made(model, name, hook, head, [&weights[0], &weights[1]])
}

fn near(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= 2e-4 * expected.abs().max(1.0), "{what}: {found} instead of {expected}");
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|&x| x as f64).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Dense activations and reconstruction of a row; `encoded` are its active directions.
fn dense(sae: &Sae, x: &[f64], encoded: &[u32]) -> (Vec<f64>, Vec<f64>) {
    let (b_dec, b_enc) = (wide(sae.b_dec()), wide(sae.b_enc()));
    let mut recon = b_dec.clone();
    let mut acts = Vec::new();
    for (direction, bias) in b_enc.into_iter().enumerate() {
        let pre: f64 =
            (0..sae.d_in()).map(|i| (x[i] - b_dec[i]) * sae.encoder().row(direction)[i] as f64).sum::<f64>() + bias;
        // Pre-activations that are zero but for rounding, as the fixtures have at BOS, count as the encoder has them.
        let active = if pre.abs() < 1e-4 { encoded.contains(&(direction as u32)) } else { pre > 0.0 };
        let activation = if active { pre.abs() } else { 0.0 };
        recon.iter_mut().zip(sae.w_dec().row(direction)).for_each(|(r, &w)| *r += activation * w as f64);
        acts.push(activation);
    }
    (acts, recon)
}

/// `ln softmax` of the logits of every position, with the values at the SAE's hook point set to `rows` at their positions.
fn log_probs(model: &Model, tokens: &[u32], sae: &Sae, rows: &[(usize, Vec<f32>)]) -> Vec<Vec<f64>> {
    let set = |(position, row): &(usize, Vec<f32>)| {
        Intervention::new(sae.site().reads.hook, Positions::At(vec![*position]), Edit::Set(row.as_slice().into()))
    };
    let interventions: Vec<Intervention> = rows.iter().map(set).collect();
    let ask = Ask::nothing().with_logits(Positions::All);
    let run = model.run(&Prompts::from_rows([tokens]), &ask, &interventions).unwrap();
    let log_softmax = |row: &[f32]| {
        let row = wide(row);
        let sum = row.iter().map(|x| x.exp()).sum::<f64>().ln();
        row.iter().map(|x| x - sum).collect()
    };
    run.logits().iter_rows().map(log_softmax).collect()
}

#[test]
fn every_number_agrees_with_a_straightforward_computation() {
    agrees_with_a_straightforward_computation(Counted::all());
}

#[test]
fn positions_that_do_not_count_are_left_as_they_are_and_out_of_every_number() {
    let exclude = vec![prompts().get(0)[5], prompts().get(1)[2]];
    agrees_with_a_straightforward_computation(Counted { skip_first: 3, skip_last: true, exclude: exclude.clone() });
    agrees_with_a_straightforward_computation(Counted { skip_first: 0, skip_last: false, exclude });
}

#[expect(clippy::too_many_lines, reason = "one computation, number by number")]
fn agrees_with_a_straightforward_computation(counted: Counted) {
    let all = counted == Counted::all();
    let (model, prompts, options) = (model(), prompts(), EvaluationOptions { counted, ..options() });
    let saes = fixtures(&model);
    for (sae, found) in saes.iter().zip(evaluated(&model, &saes, &options)) {
        let hook = sae.site().reads.hook;
        // By position: number in its prompt, row, activations, reconstruction, prompt, token.
        let mut places = Vec::new();
        // By prompt: clean, reconstructed and zeroed losses; KL of the last two.
        let mut losses = Vec::new();
        for (number, tokens) in prompts.iter().enumerate() {
            let run = model.run(&Prompts::from_rows([tokens]), &Ask::capture([hook]), &[]).unwrap();
            let encoded = sae.encode(run.captured(hook)).unwrap();
            let (mut recons, mut zeros) = (Vec::new(), Vec::new());
            let counts = |position: &usize| options.counted.counts(*position, tokens.len(), tokens[*position]);
            let positions: Vec<usize> = (0..tokens.len()).filter(counts).collect();
            for &position in &positions {
                let row = run.captured(hook).row(position);
                let (acts, recon) = dense(sae, &wide(row), encoded.at(position).0);
                recons.push((position, recon.iter().map(|&x| x as f32).collect::<Vec<f32>>()));
                zeros.push((position, vec![0.0; sae.d_in()]));
                places.push((position, wide(row), acts, recon, number, tokens[position]));
            }
            let clean = log_probs(&model, tokens, sae, &[]);
            let changed = [&recons, &zeros].map(|rows| log_probs(&model, tokens, sae, rows));
            let predicting = || positions.iter().copied().filter(|position| position + 1 < tokens.len());
            let loss = |of: &[Vec<f64>]| -> Vec<f64> { predicting().map(|p| -of[p][tokens[p + 1] as usize]).collect() };
            let kl = |of: &[Vec<f64>]| -> Vec<f64> {
                let of_row = |(p, q): (&Vec<f64>, &Vec<f64>)| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum();
                predicting().map(|p| of_row((&clean[p], &of[p]))).collect()
            };
            losses.push([loss(&clean), loss(&changed[0]), loss(&changed[1]), kl(&changed[0]), kl(&changed[1])]);
        }

        let n = places.len() as f64;
        assert_eq!((found.positions, found.prompts), (places.len() as u64, prompts.len()));
        let active = |acts: &[f64]| acts.iter().filter(|a| **a > 0.0).count() as f64;
        let error = |x: &[f64], recon: &[f64]| x.iter().zip(recon).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        let middle: Vec<f64> = (0..sae.d_in()).map(|i| places.iter().map(|p| p.1[i]).sum::<f64>() / n).collect();
        near(found.l0, places.iter().map(|p| active(&p.2)).sum::<f64>() / n, "L0");
        near(found.mse, places.iter().map(|p| error(&p.1, &p.3)).sum::<f64>() / n, "MSE");
        let explained = |first: usize, last: usize| {
            let of = || places.iter().filter(|p| (first..=last).contains(&p.0));
            1.0 - of().map(|p| error(&p.1, &p.3)).sum::<f64>() / of().map(|p| error(&p.1, &middle)).sum::<f64>()
        };
        near(found.explained_variance, explained(0, usize::MAX), "explained variance");
        let length = |x: &[f64]| dot(x, x).sqrt();
        let cosine = |a: &[f64], b: &[f64]| dot(a, b) / (length(a) * length(b));
        near(found.cosine, places.iter().map(|p| cosine(&p.1, &p.3)).sum::<f64>() / n, "cosine");
        let lengths = |of: &dyn Fn(&Vec<f64>, &Vec<f64>) -> f64| places.iter().map(|p| of(&p.1, &p.3)).sum::<f64>();
        near(found.norm_ratio, lengths(&|_, r| length(r)) / lengths(&|x, _| length(x)), "norm ratio");
        let bounds: Vec<(usize, usize)> = found.by_position.iter().map(|at| (at.first, at.last)).collect();
        let mut expected = vec![(0, 0), (1, 3), (4, 7), (8, 15), (16, 31), (32, prompts.longest() - 1)];
        if options.counted.skip_first == 3 {
            // The longest prompt ends with the only position of the last interval.
            expected = vec![(3, 3), (4, 7), (8, 15), (16, 31)];
        }
        assert_eq!(bounds, expected);
        for at in &found.by_position {
            near(at.explained_variance, explained(at.first, at.last), "explained variance by position");
            let of: Vec<f64> =
                places.iter().filter(|p| (at.first..=at.last).contains(&p.0)).map(|p| active(&p.2)).collect();
            assert_eq!(at.positions, of.len() as u64);
            near(at.l0, mean(&of), "L0 by position");
        }

        let by_token = |kind: usize| mean(&losses.iter().flat_map(|l| l[kind].clone()).collect::<Vec<f64>>());
        let by_prompt = |kind: usize| {
            mean(&losses.iter().map(|l| &l[kind]).filter(|l| !l.is_empty()).map(|l| mean(l)).collect::<Vec<f64>>())
        };
        for (found, mean, what) in [
            (found.token_mean, &by_token as &dyn Fn(usize) -> f64, "token mean"),
            (found.prompt_mean, &by_prompt, "prompt mean"),
        ] {
            near(found.clean, mean(0), what);
            near(found.reconstructed, mean(1), what);
            near(found.zeroed, mean(2), what);
            // The model predicts its random tokens no better with the site than without: the ratio is of small numbers.
            let expected = (mean(2) - mean(1)) / (mean(2) - mean(0));
            assert!((found.recovered.value - expected).abs() < 1e-3 * expected.abs().max(1.0), "{what}");
            assert_eq!(found.recovered.n, losses.iter().filter(|l| !l[0].is_empty()).count());
        }
        near(found.kl_reconstructed, by_token(3), "KL reconstructed");
        near(found.kl_zeroed, by_token(4), "KL zeroed");

        let count = |direction: usize| places.iter().filter(|p| p.2[direction] > 0.0).count();
        let is_rare = |direction: usize| count(direction) > 0 && (count(direction) as f64) < options.rare_below * n;
        let column = |direction: usize| sae.encoder().row(direction).iter().map(|w| *w as f64).collect::<Vec<f64>>();
        let normalised = |direction: usize| {
            let column = column(direction);
            column.iter().map(|x| x / length(&column)).collect::<Vec<f64>>()
        };
        let rare: Vec<usize> = (0..sae.directions()).filter(|d| is_rare(*d)).collect();
        let top = |direction: usize| -> BTreeSet<usize> {
            let mut maxima: BTreeMap<usize, f64> = BTreeMap::new();
            for place in places.iter().filter(|p| p.2[direction] > 0.0) {
                let most = maxima.entry(place.4).or_default();
                *most = most.max(place.2[direction]);
            }
            let mut maxima: Vec<(usize, f64)> = maxima.into_iter().collect();
            maxima.sort_by(|a, b| b.1.total_cmp(&a.1));
            maxima.into_iter().take(options.top_prompts).map(|(prompt, _)| prompt).collect()
        };
        let tops: Vec<BTreeSet<usize>> = (0..sae.directions()).map(top).collect();
        let writes = sae.writes(&model).unwrap();
        for direction in &found.by_direction {
            let d = direction.direction;
            assert_eq!(direction.density, count(d) as f64 / n, "density of {d}");
            near(
                direction.encoder_decoder_cosine,
                cosine(&column(d), &wide(sae.w_dec().row(d))),
                "encoder and decoder",
            );
            let w_u = model.weights().w_u.to_matrix();
            let logits: Vec<f64> = (0..model.config().d_vocab)
                .map(|token| (0..writes.columns()).map(|i| writes.row(d)[i] as f64 * w_u.row(i)[token] as f64).sum())
                .collect();
            let moment =
                |power: i32| mean(&logits.iter().map(|x| (x - mean(&logits)).powi(power)).collect::<Vec<f64>>());
            near(direction.logit_kurtosis, moment(4) / moment(2).powi(2) - 3.0, "kurtosis");

            let mut tokens: BTreeMap<u32, usize> = BTreeMap::new();
            places.iter().filter(|p| p.2[d] > 0.0).for_each(|p| *tokens.entry(p.5).or_default() += 1);
            let most = tokens.values().max().map_or(f64::NAN, |most| *most as f64 / count(d) as f64);
            if tokens.len() <= 64 {
                assert!(direction.top_token_share == most || (most.is_nan() && direction.top_token.is_none()));
            } else {
                assert!((most - 1.0 / 65.0..=most).contains(&direction.top_token_share));
            }

            assert_eq!(direction.rare, is_rare(d));
            if direction.rare {
                let mut others = vec![0.0; sae.d_in()];
                for other in rare.iter().filter(|other| **other != d) {
                    others.iter_mut().zip(normalised(*other)).for_each(|(sum, x)| *sum += x);
                }
                near(direction.rare_cosine, cosine(&normalised(d), &others), "rare cosine");
                let shared = rare.iter().filter(|other| **other != d).map(|other| {
                    tops[d].intersection(&tops[*other]).count() as f64 / tops[d].len().max(tops[*other].len()) as f64
                });
                assert_eq!(direction.shared_prompts_share, shared.fold(0.0, f64::max), "prompts of {d}");
            }
            assert_eq!(direction.aligned, direction.rare_cosine >= options.aligned_from);
            assert_eq!(direction.shared_prompts, direction.shared_prompts_share >= options.shared_from);
            assert_eq!(direction.single_token, direction.rare && most >= options.single_token_from);
        }
        let number = |of: &dyn Fn(usize) -> bool| (0..sae.directions()).filter(|d| of(*d)).count();
        assert_eq!(found.dead, number(&|d| count(d) == 0));
        assert_eq!(found.dense, number(&|d| count(d) as f64 > options.dense_above * n));
        assert_eq!(found.rare, rare.len());
        let sum = |of: &dyn Fn(&directrix_sae::DirectionEvaluation) -> bool| {
            found.by_direction.iter().filter(|d| of(d)).count()
        };
        let classes = [sum(&|d| d.aligned), sum(&|d| d.shared_prompts), sum(&|d| d.single_token)];
        assert_eq!([found.rare_aligned, found.rare_shared_prompts, found.rare_single_token], classes);
        if all {
            assert!(classes.iter().all(|class| (1..rare.len()).contains(class)), "{classes:?} of {}", rare.len());
            assert!((1..sae.directions()).contains(&found.dense) && rare.len() < sae.directions(), "{}", found.dense);
        }
        let binned: u64 = found.densities.iter().map(|bin| bin.directions).sum();
        assert_eq!(binned as usize, sae.directions() - found.dead);
    }
}

/// Everything of an evaluation, as text: equal if the bits are, `NaN` included.
fn bits(evaluations: &[Evaluation]) -> String {
    let direction = |e: &Evaluation| format!("{:?}", e.by_direction);
    format!("{evaluations:?}{}", evaluations.iter().map(direction).collect::<String>())
}

#[test]
fn neither_batches_nor_threads_nor_other_saes_change_a_bit() {
    let model = model();
    let mut saes = fixtures(&model);
    // Not in the order of the pass; two on one site; parts of a hook point and whole ones.
    saes.push(random(&model, "resid", "blocks.1.hook_resid_pre", None, 32));
    saes.push(random(&model, "head-1", "blocks.0.attn.hook_z", Some(1), 8));
    saes.push(random(&model, "out", "blocks.1.hook_mlp_out", None, 32));
    saes.push(random(&model, "out-2", "blocks.1.hook_mlp_out", None, 32));
    saes.push(random(&model, "head-3", "blocks.0.attn.hook_z", Some(3), 8));
    saes.push(random(&model, "query", "blocks.1.attn.hook_q", None, 32));
    let whole = evaluated(&model, &saes, &options());
    for batch_positions in [1, 40, 100_000] {
        let options = EvaluationOptions { batch_positions, ..options() };
        assert_eq!(bits(&evaluated(&model, &saes, &options)), bits(&whole), "{batch_positions} positions");
    }
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| evaluated(&model, &saes, &options()));
        assert_eq!(bits(&found), bits(&whole), "{threads} threads");
    }
    for (i, sae) in saes.iter().enumerate() {
        let alone = evaluated(&model, std::slice::from_ref(sae), &options());
        assert_eq!(bits(&alone), bits(&whole[i..=i]), "{} alone", sae.short_name());
    }
    let kurtosis: Vec<bool> = whole.iter().map(|e| e.logit_kurtosis.is_some()).collect();
    assert_eq!(kurtosis, [true, true, true, true, true, true, true, false], "queries are not written");
}

#[test]
fn a_perfect_reconstruction_recovers_everything() {
    let model = model();
    let saes = [
        identity(&model, "blocks.0.mlp.hook_post", None, 128),
        identity(&model, "blocks.1.attn.hook_z", Some(2), 8),
        identity(&model, "blocks.1.hook_resid_post", None, 32),
    ];
    for found in evaluated(&model, &saes, &options()) {
        assert_eq!((found.mse, found.explained_variance, found.norm_ratio), (0.0, 1.0, 1.0));
        assert!((found.cosine - 1.0).abs() < 1e-12);
        assert_eq!((found.token_mean.recovered.value, found.prompt_mean.recovered.value), (1.0, 1.0));
        assert_eq!(found.token_mean.recovered.half_width, 0.0);
        assert_eq!((found.kl_reconstructed, found.token_mean.reconstructed), (0.0, found.token_mean.clean));
        assert!(found.kl_zeroed > 0.0);
        assert_eq!(found.encoder_decoder_cosine.mean, 1.0);
        assert!(found.by_position.iter().all(|at| at.explained_variance == 1.0));
    }
}

#[test]
fn a_reconstruction_of_zero_recovers_nothing() {
    let model = model();
    let sae = made(&model, "zero", "blocks.0.mlp.hook_post", None, [&Matrix::zeros(128, 4), &Matrix::zeros(4, 128)]);
    let found = &evaluated(&model, &[sae], &options())[0];
    assert_eq!((found.token_mean.recovered.value, found.prompt_mean.recovered.value), (0.0, 0.0));
    assert_eq!(found.kl_reconstructed, found.kl_zeroed);
    assert_eq!((found.l0, found.cosine, found.norm_ratio, found.dead, found.rare), (0.0, 0.0, 0.0, 4, 0));
    assert!(found.explained_variance <= 0.0);
    assert!(found.encoder_decoder_cosine.n == 0 && found.logit_kurtosis.is_none());
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let model = model();
    let saes = fixtures(&model);
    let fails = |saes: &[Sae], prompts: &Prompts, stop: bool| {
        evaluate(&model, saes, prompts, &options(), &Watch::new(Arc::new(stop.into()), |_| ())).unwrap_err()
    };
    assert!(matches!(fails(&saes, &Prompts::new(), false), Error::NoPrompt));
    assert!(matches!(fails(&saes, &prompts(), true), Error::Stopped));
    let empty = Prompts::from_rows([&[0, 1][..], &[]]);
    assert!(fails(&saes, &empty, false).to_string().contains("prompt 1 has 0 positions"));
    assert!(fails(&saes, &Prompts::from_rows([[0, 999]]), false).to_string().contains("token 999"));

    let (mut first, huge) = (Matrix::zeros(32, 2), Matrix::repeat(&[3e38; 32], 2));
    first.row_mut(0).copy_from_slice(&[1e3, -1e3]);
    for hook in ["blocks.1.hook_resid_post", "blocks.0.hook_resid_pre"] {
        let sae = made(&model, "huge", hook, None, [&first, &huge]);
        let message = fails(&[sae], &prompts(), false).to_string();
        assert!(message.contains("the reconstruction of blocks.") && message.contains("is not finite"), "{message}");
    }

    let one = Prompts::from_rows([[5]]);
    let found = evaluate(&model, &saes, &one, &options(), &Watch::nobody()).unwrap();
    assert!(found[0].token_mean.clean.is_nan() && found[0].predicted_tokens == 0 && found[0].l0 > 0.0);
    assert!(evaluate(&model, &[], &one, &options(), &Watch::nobody()).unwrap().is_empty());
    let skipping = EvaluationOptions { counted: Counted::default(), ..options() };
    let error = evaluate(&model, &saes, &one, &skipping, &Watch::nobody()).unwrap_err();
    assert!(error.to_string().contains("no position counts: the longest prompt has 1"), "{error}");
}
