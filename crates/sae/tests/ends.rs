//! An SAE without a model, and one whose two ends are different places.

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{Ask, Edit, Folder, HookPoint, Intervention, Model, Positions, Processing};
use directrix_sae::{
    Architecture, Counted, End, Error, EvaluationOptions, Normalisation, Parameters, Sae, Site, evaluate,
};

const DIRECTIONS: usize = 40;

fn model() -> Model {
    let folder = format!("{}/../model/tests/fixtures/neo-tiny", env!("CARGO_MANIFEST_DIR"));
    Model::load(&Folder::open(&folder).unwrap(), Processing::default()).unwrap()
}

/// As if random, between -0.5 and 0.5.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

fn end(hook: &str, head: Option<usize>, width: usize) -> End {
    End { hook: hook.parse().unwrap(), head, width }
}

fn parameters(architecture: Architecture, d_in: usize, d_out: usize, subtract_b_dec: bool) -> Parameters {
    Parameters {
        architecture,
        encoder: Matrix::new(numbers(1, DIRECTIONS * d_in), DIRECTIONS, d_in),
        w_dec: Matrix::new(numbers(2, DIRECTIONS * d_out), DIRECTIONS, d_out),
        b_enc: numbers(3, DIRECTIONS),
        b_dec: numbers(4, d_out),
        subtract_b_dec,
        normalisation: Normalisation::None,
        w_skip: None,
    }
}

/// Stands for an MLP: reads its input, writes its output.
fn transcoder(architecture: Architecture) -> Sae {
    let site =
        Site { reads: end("blocks.1.ln2.hook_normalized", None, 32), writes: end("blocks.1.hook_mlp_out", None, 32) };
    Sae::new("transcoder".into(), site, parameters(architecture, 32, 32, false)).unwrap()
}

fn architectures() -> [Architecture; 4] {
    let threshold = numbers(5, DIRECTIONS).iter().map(|t| t.abs()).collect();
    let gated = Architecture::Gated { r_mag: numbers(6, DIRECTIONS), b_mag: numbers(7, DIRECTIONS) };
    [Architecture::Relu, Architecture::TopK { k: 5 }, Architecture::JumpRelu { threshold }, gated]
}

/// Activations by the formula, in double precision.
fn activations(p: &Parameters, x: &[f32]) -> Vec<f64> {
    let product = |d: usize| -> f64 {
        let x = x.iter().enumerate().map(|(i, x)| (x - if p.subtract_b_dec { p.b_dec[i] } else { 0.0 }) as f64);
        x.zip(p.encoder.row(d)).map(|(x, w)| x * *w as f64).sum()
    };
    let pre: Vec<f64> = (0..DIRECTIONS).map(|d| product(d) + p.b_enc[d] as f64).collect();
    let mut sorted = pre.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let of = |d: usize| match &p.architecture {
        Architecture::TopK { k } if pre[d] < sorted[k - 1] => 0.0,
        Architecture::Relu | Architecture::TopK { .. } => pre[d].max(0.0),
        Architecture::JumpRelu { threshold } if pre[d] <= threshold[d] as f64 => 0.0,
        Architecture::JumpRelu { .. } => pre[d],
        Architecture::Gated { .. } if pre[d] <= 0.0 => 0.0,
        Architecture::Gated { r_mag, b_mag } => (product(d) * (r_mag[d] as f64).exp() + b_mag[d] as f64).max(0.0),
    };
    (0..DIRECTIONS).map(of).collect()
}

#[test]
fn anybodys_activations_are_encoded_by_the_formula_without_a_model() {
    for architecture in architectures() {
        for (d_out, subtract_b_dec) in [(7, false), (12, true), (12, false)] {
            let reads = end("blocks.0.hook_resid_pre", None, 12);
            let writes = if subtract_b_dec { reads.clone() } else { end("blocks.3.hook_mlp_out", None, d_out) };
            let parameters = parameters(architecture.clone(), 12, d_out, subtract_b_dec);
            let sae = Sae::new("one".into(), Site { reads, writes }, parameters.clone()).unwrap();
            assert_eq!((sae.d_in(), sae.d_out(), sae.directions()), (12, d_out, DIRECTIONS));
            let x = Matrix::new(numbers(9, 12 * 20).iter().map(|x| 3.0 * x).collect(), 20, 12);
            let acts = sae.encode(&x).unwrap();
            let recon = sae.decode(&acts, &x);
            assert_eq!((recon.rows(), recon.columns()), (20, d_out));
            for (row, x) in x.iter_rows().enumerate() {
                let expected = activations(&parameters, x);
                for (d, expected) in expected.iter().enumerate() {
                    assert!((acts.get(row, d as u32) as f64 - expected).abs() < 1e-5, "{architecture:?}");
                    assert!((sae.activation(x, d as u32).unwrap() as f64 - expected).abs() < 1e-5, "{architecture:?}");
                }
                for (j, found) in recon.row(row).iter().enumerate() {
                    let sum: f64 =
                        expected.iter().enumerate().map(|(d, a)| a * parameters.w_dec.row(d)[j] as f64).sum();
                    assert!((*found as f64 - sum - parameters.b_dec[j] as f64).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn an_sae_of_a_head_takes_its_own_columns_or_the_whole_row() {
    let end = end("blocks.0.attn.hook_z", Some(2), 8);
    let sae = Sae::new("head".into(), Site::at(end), parameters(Architecture::Relu, 8, 8, true)).unwrap();
    let rows = Matrix::new(numbers(11, 3 * 32), 3, 32);
    assert_eq!(sae.encode(&rows).unwrap(), sae.encode(&rows.columns_of(16..24)).unwrap());
    assert_eq!(sae.activation(rows.row(1), 3).unwrap(), sae.activation(&rows.row(1)[16..24], 3).unwrap());
    for width in [7, 9, 16] {
        let error = sae.encode(&Matrix::zeros(1, width)).unwrap_err().to_string();
        assert!(error.contains("rows of 8 numbers (head 2 of blocks.0.attn.hook_z)"), "{error}");
        assert!(sae.activation(&vec![0.0; width], 0).is_err());
    }
}

#[test]
fn a_number_that_is_not_finite_is_an_error_and_not_an_inactive_direction() {
    for architecture in architectures() {
        let place = Site::at(end("blocks.0.hook_resid_pre", None, 12));
        let sae = Sae::new("one".into(), place.clone(), parameters(architecture.clone(), 12, 12, true)).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = Matrix::zeros(2, 12);
            x.row_mut(1)[3] = bad;
            assert!(matches!(sae.encode(&x), Err(Error::NotFinite { row: 1, .. })), "{architecture:?}");
            assert!(matches!(sae.activation(x.row(1), 0), Err(Error::NotFinite { .. })), "{architecture:?}");
            let mut broken = parameters(architecture.clone(), 12, 12, true);
            broken.b_enc[7] = bad;
            let error = Sae::new("one".into(), place.clone(), broken).unwrap_err().to_string();
            assert!(error.contains("`b_enc` is not finite at 7"), "{error}");
        }
    }
    // Gates that are open and magnitudes that overflow: infinity times zero.
    let gated = Architecture::Gated { r_mag: vec![1e3; DIRECTIONS], b_mag: vec![0.0; DIRECTIONS] };
    let mut overflowing = parameters(gated, 12, 12, true);
    overflowing.b_enc.fill(1.0);
    let x = Matrix::repeat(&overflowing.b_dec, 1);
    let sae = Sae::new("one".into(), Site::at(end("blocks.0.hook_resid_pre", None, 12)), overflowing).unwrap();
    assert!(sae.encode(&x).is_err() && sae.activation(x.row(0), 2).is_err());
}

#[test]
fn numbers_that_do_not_go_together_are_refused() {
    let refused = |site: Site, change: &dyn Fn(&mut Parameters)| {
        let mut parameters = parameters(Architecture::Relu, 12, 12, true);
        change(&mut parameters);
        Sae::new("one".into(), site, parameters).unwrap_err().to_string()
    };
    let place = || Site::at(end("blocks.0.hook_resid_pre", None, 12));
    let two = Site { writes: end("blocks.0.hook_mlp_out", None, 12), ..place() };
    assert!(refused(two, &|_| ()).contains("cannot be taken from what the SAE reads"));
    assert!(refused(place(), &|p| p.b_enc.truncate(3)).contains("`b_enc` has 3 numbers, expected 40"));
    assert!(refused(place(), &|p| p.encoder = Matrix::zeros(40, 11)).contains("shape [40, 11], expected [40, 12]"));
    assert!(refused(place(), &|p| p.architecture = Architecture::TopK { k: 0 }).contains("`k` is 0"));
    let below = Architecture::JumpRelu { threshold: vec![-1.0; DIRECTIONS] };
    assert!(refused(place(), &|p| p.architecture = below.clone()).contains("below 0"));
}

#[test]
fn a_transcoder_survives_saving_and_is_checked_at_both_ends() {
    let disk = tempfile::tempdir().unwrap();
    let model = model();
    let [relu, top_k, jump, _] = architectures();
    for (name, architecture) in [("relu", relu), ("jump", jump)] {
        let sae = transcoder(architecture);
        let folder = disk.path().join(name);
        sae.save(&folder, &serde_json::Value::Null, None).unwrap();
        let again = Sae::load(&Folder::open(folder).unwrap()).unwrap().fit(model.config()).unwrap();
        assert_eq!((again.site(), again.parameters()), (sae.site(), sae.parameters()));
    }
    let error = transcoder(top_k).save(&disk.path().join("k"), &serde_json::Value::Null, None).unwrap_err();
    assert!(error.to_string().contains("SAELens has no transcoder of architecture `topk`"), "{error}");

    let fits = |reads: End, writes: End| {
        let parameters = parameters(Architecture::Relu, reads.width, writes.width, false);
        Sae::new("x".into(), Site { reads, writes }, parameters).unwrap().fit(model.config()).map_err(|e| e.to_string())
    };
    let normalized = || end("blocks.1.ln2.hook_normalized", None, 32);
    assert!(fits(normalized(), end("blocks.0.attn.hook_z", Some(3), 8)).is_ok());
    let error = fits(normalized(), end("blocks.1.hook_mlp_out", None, 30)).unwrap_err();
    assert!(error.contains("writes 30 numbers at blocks.1.hook_mlp_out, but the model has 32"), "{error}");
    let error = fits(normalized(), end("blocks.0.attn.hook_z", Some(4), 8)).unwrap_err();
    assert!(error.contains("writes head 4 of blocks.0.attn.hook_z, which the model does not have"), "{error}");
    let error = fits(end("blocks.0.attn.hook_pattern", None, 32), normalized()).unwrap_err();
    assert!(error.contains("as many numbers as positions"), "{error}");
}

#[test]
fn a_folder_of_no_known_form_says_what_was_looked_for() {
    let disk = tempfile::tempdir().unwrap();
    std::fs::write(disk.path().join("weights.h5"), "x").unwrap();
    let error = Sae::load(&Folder::open(disk.path()).unwrap()).unwrap_err().to_string();
    assert!(error.contains("`cfg.json` (SAELens)") && error.contains("found weights.h5"), "{error}");
}

/// The site that is replaced and compared with is the one written; the one read is only encoded.
#[test]
fn evaluation_replaces_what_a_transcoder_writes() {
    let model = model();
    let plain = transcoder(Architecture::Relu).fit(model.config()).unwrap();
    let changed = |change: &dyn Fn(&mut Parameters)| {
        let mut parameters = plain.parameters().clone();
        change(&mut parameters);
        Sae::new("transcoder".into(), plain.site().clone(), parameters).unwrap()
    };
    let skipping = changed(&|p| p.w_skip = Some(Matrix::new(numbers(8, 32 * 32), 32, 32)));
    let normalising = changed(&|p| p.normalisation = Normalisation::LayerNorm);
    for sae in [plain.clone(), skipping, normalising] {
        evaluated(&model, &sae);
    }
}

fn evaluated(model: &Model, sae: &Sae) {
    let (reads, writes) = (sae.site().reads.hook, sae.site().writes.hook);
    let tokens: Vec<u32> = (0..24).map(|i| (i * 7 + 3) % 90).collect();
    let prompts = Prompts::from_rows([&tokens]);
    let options = EvaluationOptions { counted: Counted::all(), ..EvaluationOptions::default() };
    let found = &evaluate(model, std::slice::from_ref(sae), &prompts, &options, &Watch::nobody()).unwrap()[0];

    let clean = model.run(&prompts, &Ask::capture([reads, writes]), &[]).unwrap();
    let read = clean.captured(reads);
    let recon = sae.decode(&sae.encode(read).unwrap(), read);
    let x = clean.captured(writes);
    let square = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum::<f64>();
    let mse = x.iter_rows().zip(recon.iter_rows()).map(|(x, r)| square(x, r)).sum::<f64>() / tokens.len() as f64;
    assert!((found.mse - mse).abs() < 1e-6 * mse, "{} against {mse}", found.mse);
    let set = |(position, row): (usize, &[f32])| {
        Intervention::new(writes, Positions::At(vec![position]), Edit::Set(row.into()))
    };
    let interventions: Vec<Intervention> = recon.iter_rows().enumerate().map(set).collect();
    let changed = model.run(&prompts, &Ask::nothing().with_losses(), &interventions).unwrap();
    let losses = changed.losses();
    let mean = losses.iter().map(|x| *x as f64).sum::<f64>() / losses.len() as f64;
    assert!((found.token_mean.reconstructed - mean).abs() < 1e-5, "{} {mean}", found.token_mean.reconstructed);
    assert_eq!((found.hook, found.encoder_decoder_cosine.n), (writes, 0));
    assert!(found.logit_kurtosis.is_some() && found.l0 > 0.0);
    assert!(matches!(found.hook, HookPoint::Block(1, _)));
}
