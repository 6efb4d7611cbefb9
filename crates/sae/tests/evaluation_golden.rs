//! Evaluations against TransformerLens and the formulas of the docs, in PyTorch.
//!
//! `bench/peers/analyses.py` made the numbers; it knows nothing of Directrix.

use directrix_corpus::{Prompts, Watch};
use directrix_model::{Folder, Model, Processing};
use directrix_sae::{Counted, EvaluationOptions, LossMeans, Sae, evaluate};
use serde_json::Value;

fn read(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The largest |Δ| / max(1, |x|) of what is found and the numbers at `expected`'s keys.
fn difference(expected: &Value, found: &[(&str, f64)]) -> f64 {
    let one = |(key, found): &(&str, f64)| {
        let wanted = key.split('.').fold(expected, |value, key| &value[key]).as_f64().expect(key);
        (wanted - found).abs() / wanted.abs().max(1.0)
    };
    found.iter().map(one).fold(0.0, f64::max)
}

#[test]
fn losses_and_reconstructions_agree_with_transformer_lens() {
    for name in ["neo-tiny", "gpt2-tiny", "neox-tiny"] {
        let root = env!("CARGO_MANIFEST_DIR");
        let path = format!("{root}/../model/tests/fixtures/{name}");
        let made_of = read(&format!("{path}/expected.json"));
        let expected = read(&format!("{root}/tests/fixtures/evaluation/{name}.json"));
        let rows: Vec<Vec<u32>> = serde_json::from_value(made_of["prompts"].clone()).unwrap();
        let layers: Vec<usize> = serde_json::from_value(made_of["layers"].clone()).unwrap();
        let model = Model::load(&Folder::open(&path).unwrap(), Processing::default()).unwrap();
        let load = |layer| Sae::load(&Folder::open(format!("{path}/sae-l{layer}")).unwrap()).unwrap();
        let saes: Vec<Sae> = layers.into_iter().map(|layer| load(layer).fit(model.config()).unwrap()).collect();
        let prompts = Prompts::from_rows(rows);
        let options = EvaluationOptions { counted: Counted::all(), ..EvaluationOptions::default() };
        let found = evaluate(&model, &saes, &prompts, &options, &Watch::nobody()).unwrap();
        for (found, expected) in found.iter().zip(expected["saes"].as_array().unwrap()) {
            // The tiny SAEs have pre-activations that are zero but for rounding.
            let [active, faint] = ["active", "faint"].map(|key| expected[key].as_u64().unwrap() as f64);
            let counted = found.l0 * found.positions as f64;
            assert!((active - 0.5..active + faint + 0.5).contains(&counted), "{name}: L0 {}", found.l0);

            let kurtosis = found.logit_kurtosis.unwrap();
            let cosine = found.encoder_decoder_cosine;
            let mut worst = difference(
                expected,
                &[
                    ("mse", found.mse),
                    ("explained_variance", found.explained_variance),
                    ("cosine", found.cosine),
                    ("norm_ratio", found.norm_ratio),
                    ("kl_reconstructed", found.kl_reconstructed),
                    ("kl_zeroed", found.kl_zeroed),
                    ("encoder_decoder_cosine.mean", cosine.mean),
                    ("encoder_decoder_cosine.median", cosine.median),
                    ("encoder_decoder_cosine.q05", cosine.q05),
                    ("logit_kurtosis.mean", kurtosis.mean),
                    ("logit_kurtosis.median", kurtosis.median),
                    ("logit_kurtosis.q05", kurtosis.q05),
                ],
            );
            let by_position: Vec<[f64; 5]> = serde_json::from_value(expected["by_position"].clone()).unwrap();
            assert_eq!(by_position.len(), found.by_position.len(), "{name}");
            for (wanted, at) in by_position.iter().zip(&found.by_position) {
                assert_eq!([wanted[0], wanted[1], wanted[2]], [at.first as f64, at.last as f64, at.positions as f64]);
                for (wanted, found) in [(wanted[3], at.mse), (wanted[4], at.explained_variance)] {
                    worst = worst.max((wanted - found).abs() / wanted.abs().max(1.0));
                }
            }
            for (key, LossMeans { clean, reconstructed, zeroed, recovered }) in
                [("token_mean", found.token_mean), ("prompt_mean", found.prompt_mean)]
            {
                let losses = [("clean", clean), ("reconstructed", reconstructed), ("zeroed", zeroed)];
                worst = worst.max(difference(&expected[key], &losses));
                // The tiny models predict as well without the site as with it: this is a ratio of differences of losses.
                let ratio = [("value", recovered.value), ("se", recovered.se), ("half_width", recovered.half_width)];
                let share = (zeroed - clean).abs().min(1.0);
                assert!(difference(&expected[key]["recovered"], &ratio) * share <= 1e-4, "{name}: {recovered:?}");
                assert_eq!(expected[key]["recovered"]["n"], recovered.n);
            }
            println!("{name:10} {:8} largest Δ {worst:.1e}", found.name);
            assert!(worst <= 1e-4, "{name} {}: {worst}", found.name);
        }
    }
}
