//! SAELens's folders as every version of it writes them, and what is refused in them.

use std::collections::BTreeMap;
use std::fs;

use directrix_kernels::Matrix;
use directrix_model::Folder;
use directrix_sae::{Architecture, Sae};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use serde_json::{Map, Value, json};

/// An SAE's folder in memory.
#[derive(Clone)]
struct Stored {
    config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Stored {
    fn of(name: &str) -> Stored {
        let folder = format!("{}/tests/fixtures/architectures/{name}", env!("CARGO_MANIFEST_DIR"));
        let bytes = fs::read(format!("{folder}/sae_weights.safetensors")).unwrap();
        let numbers = |view: &TensorView| view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        Stored {
            config: serde_json::from_slice(&fs::read(format!("{folder}/cfg.json")).unwrap()).unwrap(),
            tensors: tensors.into_iter().map(|(name, t)| (name, (t.shape().to_vec(), numbers(&t)))).collect(),
        }
    }

    /// A ReLU SAE, of the TopK one's numbers.
    fn relu() -> Stored {
        let mut stored = Stored::of("topk");
        stored.config["architecture"] = json!("standard");
        stored.config.as_object_mut().unwrap().shift_remove("k");
        stored
    }

    /// As a version before 6 would have written it.
    fn older(self) -> Stored {
        self.with(json!({ "metadata.sae_lens_version": "5.10.0" }))
    }

    fn with(mut self, changes: Value) -> Stored {
        for (field, value) in changes.as_object().unwrap() {
            match field.strip_prefix("metadata.") {
                Some(inner) => self.config["metadata"][inner] = value.clone(),
                None => self.config[field] = value.clone(),
            }
        }
        self
    }

    fn with_tensor(mut self, name: &str, numbers: Vec<f32>) -> Stored {
        self.tensors.insert(name.into(), (vec![numbers.len()], numbers));
        self
    }

    fn load(&self) -> directrix_sae::Result<Sae> {
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, numbers))| (name, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = bytes
            .iter()
            .map(|(name, shape, data)| (*name, TensorView::new(Dtype::F32, (*shape).clone(), data).unwrap()));
        let files = [
            ("cfg.json".to_owned(), self.config.to_string().into_bytes()),
            ("sae_weights.safetensors".to_owned(), serialize(views, None).unwrap()),
            ("sparsity.safetensors".to_owned(), b"not looked at".to_vec()),
        ];
        Sae::load(&Folder::in_memory("x", files))
    }

    fn message(&self) -> String {
        self.load().unwrap_err().to_string()
    }

    fn d_in(&self) -> usize {
        self.tensors["W_enc"].0[0]
    }

    fn d_sae(&self) -> usize {
        self.tensors["W_enc"].0[1]
    }

    fn k(&self) -> u64 {
        self.config["k"].as_u64().unwrap()
    }
}

fn rows(width: usize) -> Matrix {
    Matrix::new((0..9 * width).map(|i| (i as f32 * 0.37).sin() * 2.0).collect(), 9, width)
}

/// The folder's configuration in the words of a version.
fn spelled(version: &str, stored: &Stored) -> Value {
    let (d_in, d_sae, k) = (stored.d_in(), stored.d_sae(), stored.k());
    let hook = stored.config["metadata"]["hook_name"].clone();
    match version {
        // The whole configuration of training. Versions 1 and 2 know no TopK; this is how one would be spelled.
        "0" => json!({
            "model_name": "m", "hook_point": "blocks.{layer}.mlp.hook_post", "hook_point_layer": 0,
            "hook_point_head_index": null, "d_in": d_in, "d_sae": null, "expansion_factor": d_sae as f64 / d_in as f64,
            "dtype": "torch.float32", "device": "cpu", "l1_coefficient": 0.001, "prepend_bos": true,
            "activation_fn": "topk", "activation_fn_kwargs": { "k": k },
        }),
        "2" => json!({
            "model_name": "m", "hook_point": hook, "hook_point_layer": 0, "hook_point_head_index": null, "d_in": d_in,
            "d_sae": d_sae, "expansion_factor": 4, "normalize_activations": false, "apply_b_dec_to_input": true,
            "activation_fn": "topk", "activation_fn_kwargs": { "k": k }, "finetuning_scaling_factor": false,
        }),
        "3" => json!({
            "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu", "model_name": "m", "hook_name": hook,
            "hook_layer": 0, "hook_head_index": null, "activation_fn_str": "topk", "activation_fn_kwargs": { "k": k },
            "apply_b_dec_to_input": true, "finetuning_scaling_factor": false, "sae_lens_training_version": "3.13.0",
            "prepend_bos": true, "dataset_path": "d", "context_size": 128, "normalize_activations": "none",
        }),
        "4" => json!({
            "architecture": "standard", "d_in": d_in, "d_sae": d_sae, "dtype": "torch.float32", "hook_name": hook,
            "hook_layer": 0, "hook_head_index": null, "activation_fn_str": "topk", "activation_fn_kwargs": { "k": k },
            "apply_b_dec_to_input": true, "finetuning_scaling_factor": false, "normalize_activations": null,
            "neuronpedia_id": null, "model_from_pretrained_kwargs": {}, "sae_lens_training_version": "4.4.0",
        }),
        "5" => json!({
            "architecture": "topk", "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "hook_name": hook, "hook_layer": 0,
            "hook_head_index": null, "activation_fn": "topk", "activation_fn_kwargs": { "k": k },
            "apply_b_dec_to_input": true, "finetuning_scaling_factor": false, "normalize_activations": "none",
            "seqpos_slice": [null], "sae_lens_training_version": "5.10.0",
        }),
        "6-nested" => {
            let mut config = stored.config.clone();
            config["metadata"]["hook_point"] = Value::Null;
            config
        }
        _ => {
            let mut config = stored.config.clone();
            config.as_object_mut().unwrap().shift_remove("metadata");
            config["hook_name"] = hook;
            config
        }
    }
}

#[test]
fn a_top_k_sae_in_every_versions_words_has_the_bits_of_the_latest() {
    let stored = Stored::of("topk");
    let (expected, rows) = (stored.load().unwrap(), rows(stored.d_in()));
    let acts = expected.encode(&rows).unwrap();
    assert!((0..rows.rows()).all(|row| acts.at(row).0.len() <= stored.k() as usize));
    for version in ["0", "2", "3", "4", "5", "6-nested", "6-flat"] {
        let again = Stored { config: spelled(version, &stored), ..stored.clone() };
        for factors in [false, true] {
            let again = if factors {
                again.clone().with_tensor("scaling_factor", vec![1.0; stored.d_sae()])
            } else {
                again.clone()
            };
            let sae = again.load().unwrap_or_else(|error| panic!("{version}: {error}"));
            assert_eq!(sae.architecture(), &Architecture::TopK { k: stored.k() as usize }, "{version}");
            assert_eq!(sae.site(), expected.site(), "{version}");
            assert_eq!(sae.encode(&rows).unwrap(), acts, "{version}");
            assert_eq!(sae.decode(&acts, &rows).data(), expected.decode(&acts, &rows).data(), "{version}");
        }
    }
}

#[test]
fn an_activation_that_is_not_known_is_refused_by_name() {
    for field in ["activation_fn", "activation_fn_str"] {
        let relu = Stored::relu().older().with(json!({ field: "relu", "activation_fn_kwargs": {} }));
        assert_eq!(relu.load().unwrap().architecture(), &Architecture::Relu);
        for name in ["tanh-relu", "gelu", "", "TopK"] {
            let error = Stored::relu().older().with(json!({ field: name })).message();
            assert!(error.contains(&format!("`{field}` is \"{name}\", expected one of `relu`, `topk`")), "{error}");
        }
        assert!(Stored::relu().older().with(json!({ field: "topk" })).message().contains("key `k` is missing"));
        assert!(
            Stored::of("gated").older().with(json!({ field: "topk", "k": 3 })).message().contains("does not go with")
        );
        assert!(Stored::of("topk").older().with(json!({ field: "relu" })).message().contains("does not go with"));
    }
    let differ = Stored::relu().older().with(json!({ "activation_fn": "relu", "activation_fn_str": "topk", "k": 3 }));
    assert!(differ.message().contains("`activation_fn_str` and `activation_fn` differ"));
    let differ = Stored::of("topk").older().with(json!({ "activation_fn_kwargs": { "k": 3 } }));
    assert!(differ.message().contains("`activation_fn_kwargs.k` is 3, expected the same as `k`"));
    let other = Stored::of("topk").older().with(json!({ "activation_fn_kwargs": { "k": 8, "postact_fn": "abs" } }));
    assert!(other.message().contains("`postact_fn`"));
    for name in ["temporal", "matching_pursuit", "abstopk", "Standard", ""] {
        let error = Stored::relu().with(json!({ "architecture": name })).message();
        assert!(error.contains(&format!("`architecture` is \"{name}\", expected one of `standard`")), "{error}");
    }

    // Of version 6, keys that its class does not have count for nothing, whatever they hold.
    let left =
        json!({ "k": 1, "rescale_acts_by_decoder_norm": true, "activation_fn": "gelu", "activation_fn_kwargs": 3 });
    for name in ["relu", "jumprelu", "gated"] {
        let stored = if name == "relu" { Stored::relu() } else { Stored::of(name) };
        let rows = rows(stored.d_in());
        let acts = |stored: &Stored| stored.load().unwrap().encode(&rows).unwrap();
        assert_eq!(acts(&stored.clone().with(left.clone())), acts(&stored), "{name}");
    }
    for (version, expected) in [
        ("5.9", "`activation_fn` is \"gelu\""),
        ("6.0.0-dev1", "`activation_fn` is \"gelu\""),
        ("6.0.0-rc.0", ""),
        ("6.0.0rc1", ""),
        ("6.54.12", ""),
        ("10.0", ""),
        ("new", "`metadata.sae_lens_version` is \"new\", expected a version"),
    ] {
        let stored = Stored::relu().with(left.clone()).with(json!({ "metadata.sae_lens_version": version }));
        let error = stored.load().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected) && error.is_empty() == expected.is_empty(), "{version}: {error}");
    }
}

#[test]
fn factors_of_fine_tuning_are_applied_where_the_configuration_says_so_and_else_refused() {
    let plain = Stored::relu().load().unwrap();
    let rows = rows(plain.d_in());
    let acts = plain.encode(&rows).unwrap();
    let factors: Vec<f32> = (0..plain.directions()).map(|d| 0.5 + (d % 4) as f32 * 0.25).collect();
    for name in ["scaling_factor", "finetuning_scaling_factor"] {
        let stored = Stored::relu().older().with_tensor(name, factors.clone());
        assert!(stored.message().contains(&format!("tensor `{name}` is not all ones")));
        let sae = stored.with(json!({ "finetuning_scaling_factor": true })).load().unwrap();
        assert_eq!(sae.encode(&rows).unwrap(), acts);
        for (d, factor) in factors.iter().enumerate() {
            let expected: Vec<f32> = plain.w_dec().row(d).iter().map(|w| w * factor).collect();
            assert_eq!(sae.w_dec().row(d), expected);
        }
    }
    // Since version 6 there is no such thing, but for one that changes nothing.
    let stored = Stored::relu().with(json!({ "finetuning_scaling_factor": true }));
    let error = stored.clone().with_tensor("scaling_factor", factors).message();
    assert!(error.contains("tensor `scaling_factor` is one of SAELens before version 6"), "{error}");
    assert!(stored.with_tensor("scaling_factor", vec![1.0; plain.directions()]).load().is_ok());
}

#[test]
fn a_tensor_of_another_architecture_is_refused_by_name() {
    let ones = |stored: &Stored| vec![1.0; stored.d_sae()];
    for (stored, name) in [
        (Stored::relu(), "threshold"),
        (Stored::of("topk"), "threshold"),
        (Stored::relu(), "W_skip"),
        (Stored::of("jumprelu"), "log_threshold"),
        (Stored::of("gated"), "b_enc"),
        (Stored::relu(), "b_gate"),
        (Stored::relu(), "encoder.weight"),
    ] {
        let error = stored.clone().with_tensor(name, ones(&stored)).message();
        assert!(error.contains(&format!("tensor `{name}` is not one of an SAE of architecture")), "{error}");
    }
    let mut logarithms = Stored::of("jumprelu");
    let expected = logarithms.load().unwrap();
    let (shape, threshold) = logarithms.tensors.remove("threshold").unwrap();
    let logs = threshold.iter().map(|t| t.ln()).collect();
    logarithms.tensors.insert("log_threshold".into(), (shape, logs));
    let (Architecture::JumpRelu { threshold: one }, sae) = (expected.architecture(), logarithms.load().unwrap()) else {
        panic!("{:?}", expected.architecture())
    };
    let Architecture::JumpRelu { threshold: two } = sae.architecture() else { panic!("{:?}", sae.architecture()) };
    assert!(one.iter().zip(two).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs()));
}

/// Whether a field may hold a value.
type Fits<'a> = &'a dyn Fn(&Value) -> bool;

/// Every field that is read, with every value that it must not have: an error that names file and field.
#[test]
fn a_value_of_another_type_is_an_error_and_never_the_default() {
    let values = [
        json!(null),
        json!(true),
        json!("32"),
        json!(-1),
        json!(0),
        json!(2.5),
        json!(2_147_483_647),
        json!(1_u64 << 40),
        json!([8]),
        json!({ "a": 1 }),
    ];
    let count = |value: &Value| value.as_u64().is_some_and(|n| n > 0 && n < 1 << 20);
    let index = |value: &Value| value.is_null() || value.as_u64().is_some_and(|n| n < 1 << 14);
    let flag = Value::is_boolean;
    let fields: [(&str, Fits<'_>); 16] = [
        ("architecture", &|_| false),
        ("activation_fn", &Value::is_null),
        ("activation_fn_str", &Value::is_null),
        ("activation_fn_kwargs", &Value::is_null),
        ("k", &count),
        ("d_in", &count),
        ("d_sae", &count),
        ("apply_b_dec_to_input", &flag),
        ("rescale_acts_by_decoder_norm", &flag),
        ("finetuning_scaling_factor", &flag),
        ("normalize_activations", &Value::is_null),
        ("reshape_activations", &|_| false),
        ("metadata", &|_| false),
        ("metadata.hook_name", &|_| false),
        ("metadata.hook_head_index", &index),
        ("hook_point_head_index", &index),
    ];
    let mut tried = 0;
    for (field, fits) in fields {
        for value in values.iter().filter(|value| !fits(value)) {
            let stored = Stored::of("topk").with(json!({ field: value }));
            let is_old = field.starts_with("activation") || field.starts_with("finetuning");
            let error = if is_old { stored.older() } else { stored }.message();
            let name = if field == "metadata" && value.is_object() { "metadata.hook_name" } else { field };
            let name = if value.is_null() && name == "metadata" { "metadata.hook_name" } else { name };
            assert!(error.starts_with("x/cfg.json: ") && error.contains(name), "{field} {value}: {error}");
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
    for (changes, expected) in [
        (json!({ "k": 100_000 }), "`k` is 100000, expected a whole number from 1 to"),
        (
            json!({ "normalize_activations": "covariance_whitening" }),
            "expected one of `none`, `expected_average_only_in`",
        ),
        (json!({ "normalize_activations": "expected_average_only_in" }), "`activation_scaler.json`, which would hold"),
        (json!({ "reshape_activations": "hook_z" }), "but the hook point is blocks.0.mlp.hook_post"),
        (json!({ "normalize_activations": true }), "`normalize_activations` is true"),
        (json!({ "reshape_activations": "hook_q" }), "expected one of `none`, `hook_z`"),
        (json!({ "hook_point": "blocks.1.mlp.hook_post" }), "`metadata.hook_name` and `hook_point` differ"),
        (json!({ "architecture": "transcoder", "d_out": 4, "k": null }), "`apply_b_dec_to_input` is true"),
    ] {
        let mut stored = Stored::of("topk");
        stored.config["metadata"]["hook_name_out"] = json!("blocks.0.hook_mlp_out");
        let error = stored.with(changes.clone()).message();
        assert!(error.contains(expected), "{changes}: {error}");
    }
    let empty = Stored { config: Value::Object(Map::new()), ..Stored::relu() };
    assert!(empty.message().contains("x/cfg.json: key `d_in` is missing"));
}
