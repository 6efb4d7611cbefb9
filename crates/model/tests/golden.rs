//! Agreement with TransformerLens on the fixtures: every weight, hook point, logit and loss.
//!
//! Run with `--nocapture` to see the largest difference of each kind.

use std::collections::BTreeMap;

use directrix_corpus::Prompts;
use directrix_model::{Ask, Config, Folder, HookPoint, Model, Positions, Processing, Tensors};

const MODELS: [&str; 9] = [
    "neo-tiny",
    "gpt2-tiny",
    "neox-tiny",
    "llama-tiny",
    "mistral-tiny",
    "qwen2-tiny",
    "qwen3-tiny",
    "gemma2-tiny",
    "gemma3-tiny",
];

struct Fixture {
    folder: Folder,
    expected: Tensors,
    prompts: Prompts,
}

fn fixture(name: &str) -> Fixture {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{path}/expected.json")).unwrap()).unwrap();
    let rows: Vec<Vec<u32>> = serde_json::from_value(json["prompts"].clone()).unwrap();
    let folder = Folder::open(&path).unwrap();
    let expected = Tensors::open(&folder, Some("expected.safetensors")).unwrap();
    Fixture { folder, expected, prompts: Prompts::from_rows(rows) }
}

/// The largest |Δ| / max(1, |x|); infinities must match.
fn difference(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let one = |(&e, &f): (&f32, &f32)| {
        if e.is_infinite() || f.is_infinite() {
            return if e == f { 0.0 } else { f64::INFINITY };
        }
        (e as f64 - f as f64).abs() / (e as f64).abs().max(1.0)
    };
    expected.iter().zip(found).map(one).fold(0.0, f64::max)
}

/// Every tensor of the fixtures under `prefix`, by the name after it.
fn expected(fixture: &Fixture, prefix: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let file = fixture.folder.read("expected.safetensors").unwrap();
    let of = |name: &str| {
        let shape = fixture.expected.shape(name).unwrap();
        // Attention scores hold -inf, which `get` refuses.
        let parsed = safetensors::SafeTensors::deserialize(&file).unwrap();
        let values = parsed.tensor(name).unwrap().data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (name[prefix.len()..].to_owned(), shape, values)
    };
    let names: Vec<&str> = fixture.expected.names().filter(|n| n.starts_with(prefix)).collect();
    names.into_iter().map(of).collect()
}

#[test]
fn weights_hook_points_logits_and_losses_agree_with_transformer_lens() {
    println!("{:10} {:34} {:>9}", "model", "what", "largest Δ");
    for name in MODELS {
        let fixture = fixture(name);
        let model = Model::load(&fixture.folder, Processing::default()).unwrap();
        let report = |what: &str, delta: f64| {
            println!("{name:10} {what:34} {delta:9.1e}");
            assert!(delta <= 1e-4, "{name} {what}: {delta}");
        };

        let named: BTreeMap<_, _> = model
            .weights()
            .named(model.config())
            .into_iter()
            // TransformerLens has no bias of a gate.
            .filter(|weight| !weight.name.ends_with("b_gate"))
            .map(|weight| (weight.name.clone(), (weight.shape.clone(), weight.numbers())))
            .collect();
        let expected_weights = expected(&fixture, "weight.");
        assert_eq!(expected_weights.len(), named.len());
        let mut worst = 0.0_f64;
        for (weight, shape, values) in &expected_weights {
            assert_eq!(&named[weight].0, shape, "{weight}");
            worst = worst.max(difference(values, &named[weight].1));
        }
        report(&format!("{} weights", expected_weights.len()), worst);

        let first = fixture.prompts.range(0..1);
        let expected_cache = expected(&fixture, "cache.");
        let hooks: Vec<HookPoint> = expected_cache.iter().map(|(name, ..)| name.parse().unwrap()).collect();
        let run =
            model.run(&first, &Ask::capture(hooks.clone()).with_losses().with_logits(Positions::All), &[]).unwrap();
        for ((hook_name, _, values), hook) in expected_cache.iter().zip(hooks) {
            let found = run.captured(hook).data();
            if hook_name.ends_with("attn_scores") || hook_name.ends_with("pattern") {
                // TransformerLens: [head, query, key]; here [query, head, key].
                let (heads, n) = (model.config().attention.query_heads, first.positions());
                let turned: Vec<f32> =
                    (0..heads * n * n).map(|i| found[(i / n % n) * heads * n + i / (n * n) * n + i % n]).collect();
                report(hook_name, difference(values, &turned));
            } else {
                report(hook_name, difference(values, found));
            }
        }
        let get = |name: &str| expected(&fixture, name).remove(0).2;
        report("logits", difference(&get("logits"), run.logits().data()));
        report("loss_per_token", difference(&get("loss_per_token"), run.losses()));

        let raw = Model::load(&fixture.folder, Processing::none()).unwrap();
        let run = raw.run(&first, &Ask::nothing().with_logits(Positions::All), &[]).unwrap();
        report("logits_raw", difference(&get("logits_raw"), run.logits().data()));
    }
}

#[test]
fn each_processing_step_leaves_the_losses_as_they_are() {
    for name in MODELS {
        let fixture = fixture(name);
        let losses = |processing| {
            let model = Model::load(&fixture.folder, processing).unwrap();
            model.run(&fixture.prompts, &Ask::nothing().with_losses(), &[]).unwrap().losses().to_vec()
        };
        let raw = losses(Processing::none());
        for step in 0..4 {
            let mut processing = Processing::none();
            match step {
                0 => processing.fold_ln = true,
                1 => processing.center_writing_weights = true,
                2 => processing.center_unembed = true,
                _ => processing.fold_value_biases = true,
            }
            assert!(difference(&raw, &losses(processing)) < 1e-4, "{name}, step {step}");
        }
    }
}

fn config_of(path: &str) -> Config {
    let file = std::fs::read(format!("{}/tests/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    Config::from_folder(&Folder::in_memory("memory", [("config.json".to_owned(), file)])).unwrap()
}

/// `config-4.json` and the files of `configs` are what transformers 4.57 and 5.23 save.
#[test]
fn both_generations_of_transformers_describe_the_same_model() {
    for name in &MODELS[3..] {
        let [older, newer] = ["config-4", "config"].map(|file| config_of(&format!("fixtures/{name}/{file}.json")));
        assert_eq!(older, newer);
    }
    for family in ["neox", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"] {
        let [older, newer] = ["4", "5"].map(|generation| config_of(&format!("configs/{family}-{generation}.json")));
        assert_eq!(older, newer);
    }
}

#[test]
fn what_a_configuration_lacks_is_the_default_of_transformers() {
    for family in ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"] {
        let whole = config_of(&format!("configs/{family}-5.json"));
        let named = format!(r#"{{ "architectures": ["{}"] }}"#, whole.family.architecture);
        let folder = Folder::in_memory("memory", [("config.json".to_owned(), named.into_bytes())]);
        assert_eq!(Config::from_folder(&folder).unwrap(), whole);
    }
}
