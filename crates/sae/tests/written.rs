//! What is written in a form is read from it again and does the same; what a form cannot say is an error. That the libraries
//! read it so too is checked by `bench/peers/sae_formats.py --check`.

use std::fs;

use directrix_kernels::Matrix;
use directrix_model::Folder;
use directrix_sae::{Architecture, End, Normalisation, Parameters, Sae, Site, agree};
use proptest::prelude::*;
use serde_json::Value;

fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn sae(seed: u64, d_in: usize, directions: usize, architecture: usize, subtract_b_dec: bool, hook: &str) -> Sae {
    let of = |name: u64, n| numbers(seed * 8 + name, n);
    let architecture = match architecture {
        0 => Architecture::Relu,
        1 => Architecture::TopK { k: 1 + seed as usize % directions },
        2 => Architecture::JumpRelu { threshold: of(1, directions).iter().map(|t| t.abs()).collect() },
        _ => Architecture::Gated { r_mag: of(1, directions), b_mag: of(2, directions) },
    };
    let parameters = Parameters {
        architecture,
        encoder: Matrix::new(of(3, directions * d_in), directions, d_in),
        w_dec: Matrix::new(of(4, directions * d_in), directions, d_in),
        b_enc: of(5, directions),
        b_dec: of(6, d_in),
        subtract_b_dec,
        normalisation: Normalisation::None,
        w_skip: None,
    };
    let end = End { hook: hook.parse().unwrap(), head: None, width: d_in };
    Sae::new("made".into(), Site::at(end), parameters).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_written_does_the_same(
        seed in 0..1000_u64, d_in in 1..9_usize, directions in 1..30_usize, architecture in 0..4_usize, subtract: bool,
        hook in prop::sample::select(vec!["blocks.2.hook_resid_post", "blocks.0.mlp.hook_post", "blocks.7.hook_mlp_out", "hook_embed"]),
    ) {
        let (sae, disk) = (sae(seed, d_in, directions, architecture, subtract, hook), tempfile::tempdir().unwrap());
        sae.save(&disk.path().join("a"), &Value::Null, None).unwrap();
        sae.save_dictionary_learning(&disk.path().join("b"), "m").unwrap();
        for folder in ["a", "b"] {
            let again = Sae::load(&Folder::open(disk.path().join(folder)).unwrap()).unwrap();
            prop_assert_eq!(again.site(), sae.site());
            agree(&sae, &again).unwrap();
        }
    }
}

#[test]
fn what_a_form_cannot_say_is_an_error_and_nothing_is_written() {
    let plain = sae(1, 6, 9, 0, false, "blocks.2.hook_resid_post");
    let changed = |site: Site, change: &dyn Fn(&mut Parameters)| {
        let mut parameters = plain.parameters().clone();
        change(&mut parameters);
        Sae::new("made".into(), site, parameters).unwrap()
    };
    let here = || plain.site().clone();
    let end = |hook: &str, head| End { hook: hook.parse().unwrap(), head, width: 6 };
    let mut elsewhere = here();
    elsewhere.writes = end("blocks.3.hook_mlp_out", None);
    let skip = |p: &mut Parameters| p.w_skip = Some(Matrix::zeros(6, 6));
    let top_k = |p: &mut Parameters| p.architecture = Architecture::TopK { k: 2 };
    let disk = tempfile::tempdir().unwrap();
    for (sae, lens, dictionary) in [
        (changed(elsewhere.clone(), &|_| {}), "", "has no transcoders"),
        (changed(elsewhere.clone(), &skip), "", "has no transcoders"),
        (changed(elsewhere, &top_k), "has no transcoder of architecture `topk`", "has no transcoders"),
        (changed(here(), &skip), "has no SAE with a skip connection", "has no skip connections"),
        (changed(here(), &|p| p.normalisation = Normalisation::LayerNorm), "", "has no input that is normalised"),
        (changed(Site::at(end("blocks.2.attn.hook_z", Some(1))), &|_| {}), "", "has no SAEs of one head"),
    ] {
        let saved = sae.save(&disk.path().join("a"), &Value::Null, None).err().map(|e| e.to_string());
        assert!(saved.as_deref().unwrap_or_default().contains(lens) && saved.is_none() == lens.is_empty(), "{saved:?}");
        if lens.is_empty() {
            agree(&sae, &Sae::load(&Folder::open(disk.path().join("a")).unwrap()).unwrap()).unwrap();
        }
        let error = sae.save_dictionary_learning(&disk.path().join("b"), "m").unwrap_err().to_string();
        assert!(error.contains(dictionary) && !disk.path().join("b").exists(), "{error}");
    }
}

#[test]
fn saes_that_do_not_do_the_same_are_told_apart() {
    let one = sae(3, 5, 12, 2, true, "blocks.2.hook_resid_post");
    let differs = |change: &dyn Fn(&mut Parameters)| {
        let mut parameters = one.parameters().clone();
        change(&mut parameters);
        agree(&one, &Sae::new("other".into(), one.site().clone(), parameters).unwrap()).unwrap_err().to_string()
    };
    assert!(agree(&one, &one).is_ok());
    assert!(differs(&|p| p.b_enc[3] += 0.1).contains("activations differ on random rows"));
    assert!(differs(&|p| p.b_dec[1] += 0.1).contains("differ"));
    assert!(differs(&|p| p.w_dec.row_mut(2)[0] += 0.1).contains("reconstructions of random row"));
    assert!(differs(&|p| p.subtract_b_dec = false).contains("activations differ"));
    assert!(differs(&|p| p.normalisation = Normalisation::LayerNorm).contains("differ"));
    assert!(differs(&|p| p.w_skip = Some(Matrix::new(numbers(1, 25), 5, 5))).contains("reconstructions of random row"));
    let other = sae(3, 5, 12, 2, true, "blocks.3.hook_resid_post");
    assert!(agree(&one, &other).unwrap_err().to_string().contains("differ in hook point"));
}

/// Every committed file of every form, cut short, with bytes changed, or with values of another kind: read, or an error that names
/// the folder; never a panic.
#[test]
fn a_damaged_folder_is_read_or_refused() {
    let root = format!("{}/tests/fixtures/formats", env!("CARGO_MANIFEST_DIR"));
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(format!("{root}/cases.json")).unwrap()).unwrap();
    let mut refused = 0;
    for case in &cases {
        let name = case["folder"].as_str().unwrap();
        let folder = Folder::open(format!("{root}/{name}")).unwrap();
        let files: Vec<(String, Vec<u8>)> = folder
            .names()
            .unwrap()
            .into_iter()
            .chain(["checkpoints/final.safetensors".to_owned()])
            .filter_map(|file| Some((file.clone(), folder.read_optional(&file).unwrap()?.to_vec())))
            .collect();
        for (number, (_, bytes)) in files.iter().enumerate() {
            let mut try_with = |bytes: Vec<u8>| {
                let mut files = files.clone();
                files[number].1 = bytes;
                if let Err(error) = Sae::load(&Folder::in_memory(name, files)) {
                    assert!(error.to_string().starts_with(name), "{error}");
                    refused += 1;
                }
            };
            for len in (0..bytes.len()).step_by(bytes.len() / 40 + 1) {
                try_with(bytes[..len].to_vec());
            }
            for place in (0..bytes.len()).step_by(bytes.len() / 150 + 1) {
                for mask in [0x01, 0x10, 0x80] {
                    let mut flipped = bytes.clone();
                    flipped[place] ^= mask;
                    try_with(flipped);
                }
            }
        }
    }
    assert!(refused > 10_000, "{refused}");
}
