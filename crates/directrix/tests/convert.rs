//! `directrix convert` as a user runs it.

mod common;

use std::fs;

use common::{Folder, directrix, done, failed, json, text};
use directrix::lab;
use directrix::model::Processing;
use directrix::sae::{Sae, agree};

/// A committed SAE of the library's tests.
fn stored(name: &str) -> String {
    format!("{}/../sae/tests/fixtures/formats/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_shipped_sae_goes_to_both_forms_and_back() {
    let folder = Folder::new();
    let (lens, dictionary, back) = (folder.at("lens"), folder.at("dictionary"), folder.at("back"));
    let shipped = "tinystories-2l/sae-l1";
    let shown = done(&["convert", "--sae", shipped, "--to", "saelens", "--out", &lens]);
    assert!(shown.contains("2048 directions at blocks.1.mlp.hook_post"), "{shown}");
    let found = json(&["convert", "--sae", &lens, "--to", "dictionary-learning", "--out", &dictionary]);
    assert_eq!(
        (&found["reads"], &found["writes"]),
        (&"blocks.1.mlp.hook_post".into(), &"blocks.1.mlp.hook_post".into())
    );
    done(&["convert", "--sae", &dictionary, "--to", "saelens", "--out", &back]);
    let sae = |name: &str| Sae::load(&lab::folder(name).unwrap()).unwrap();
    for name in [&lens, &dictionary, &back] {
        agree(&sae(shipped), &sae(name)).unwrap();
    }
    let config = |folder: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(format!("{folder}/cfg.json")).unwrap()).unwrap()
    };
    assert_eq!(config(&lens)["metadata"]["sae_lens_version"], "6.54.12");
    assert_eq!(config(&lens)["metadata"]["hook_name"], "blocks.1.mlp.hook_post");
}

#[test]
fn a_place_that_no_file_says_is_told() {
    let folder = Folder::new();
    let (sae, out) = (stored("sparsify/skip-transcode/layers.3.mlp"), folder.at("out"));
    let args = ["convert", "--sae", &sae, "--to", "saelens", "--out", &out];
    assert!(failed(1, &args).contains("do not say which hook point"));
    let told = ["--reads", "blocks.3.ln2.hook_normalized", "--writes", "blocks.3.hook_mlp_out"];
    let error = failed(1, &[&args[..], &told].concat());
    assert!(error.contains("has no transcoder of architecture `topk`"), "{error}");
    let (sae, out) = (stored("dictionary_learning/nameless"), folder.at("named"));
    let args = ["convert", "--sae", &sae, "--to", "saelens", "--out", &out, "--reads", "blocks.2.hook_resid_mid"];
    assert_eq!(json(&args)["reads"], "blocks.2.hook_resid_mid");
    // dictionary_learning trains on the weights of the checkpoint, and what is written of its SAE says so.
    assert_eq!(Sae::load(&lab::folder(&out).unwrap()).unwrap().trained_on(), Some(Processing::none()));
    let other =
        ["convert", "--sae", &out, "--to", "saelens", "--out", &folder.at("x"), "--reads", "blocks.2.hook_mlp_out"];
    let error = failed(1, &other);
    assert!(error.contains("by its files the SAE reads blocks.2.hook_resid_mid"), "{error}");
}

#[test]
fn weights_that_a_form_cannot_name_are_told() {
    let folder = Folder::new();
    let centred = stored("superposition/mlp");
    let told = |sae: &str| {
        let args = ["convert", "--sae", sae, "--to", "dictionary-learning", "--out", &folder.at("out")];
        text(&directrix().args(args).output().unwrap().stderr)
    };
    assert!(told(&stored("openai/mlp_post_act")).is_empty());
    assert!(told("tinystories-2l/sae-l1").is_empty(), "neurons are the same either way");
    let (raw, resid) = (stored("dictionary_learning/new"), folder.at("resid"));
    done(&["convert", "--sae", &raw, "--to", "saelens", "--out", &resid]);
    assert!(told(&resid).is_empty());
    let config = fs::read_to_string(format!("{resid}/cfg.json")).unwrap();
    fs::write(
        format!("{resid}/cfg.json"),
        config.replace("\"center_writing_weights\": false", "\"center_writing_weights\": true"),
    )
    .unwrap();
    assert!(told(&resid).contains("processed by `center_writing_weights`"));
    assert!(!told(&centred).contains("processed by"), "it is on neurons");
}

#[test]
fn what_a_form_cannot_say_is_an_error() {
    let folder = Folder::new();
    let (sae, out) = (stored("sae_lens/skip_transcoder-none"), folder.at("out"));
    let error = failed(1, &["convert", "--sae", &sae, "--to", "dictionary-learning", "--out", &out]);
    assert!(error.contains("dictionary_learning has no transcoders"), "{error}");
    assert!(!fs::exists(&out).unwrap());
    failed(2, &["convert", "--sae", &sae, "--to", "onnx", "--out", &out]);
    failed(2, &["convert", "--sae", &sae, "--to", "saelens"]);
}
