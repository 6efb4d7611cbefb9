//! What is refused in the folders of OpenMOSS, Llama Scope and Goodfire: every key and tensor that is not understood, by name.

use std::fs;
use std::path::Path;

use directrix_model::{Folder, Numbers, torch_file};
use directrix_sae::Sae;
use safetensors::{SafeTensors, serialize, tensor::TensorView};
use serde_json::{Value, json};

/// A folder of the fixtures, its configuration changed.
fn message(folder: &str, config: &str, weights: &str, changes: &Value) -> String {
    let root = format!("{}/tests/fixtures/formats/{folder}", env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read(Path::new(&root).join(name)).unwrap();
    let mut settings: Value = serde_json::from_slice(&read(config)).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            settings.as_object_mut().unwrap().shift_remove(key);
        } else {
            settings[key] = value.clone();
        }
    }
    let files = [(config.to_owned(), settings.to_string().into_bytes()), (weights.to_owned(), read(weights))];
    Sae::load(&Folder::in_memory("x", files)).err().map(|error| error.to_string()).unwrap_or_default()
}

fn openmoss(folder: &str, changes: Value) -> String {
    message(&format!("openmoss/{folder}"), "config.json", "sae_weights.safetensors", &changes)
}

fn llama_scope(changes: Value) -> String {
    message("llama_scope/Llama3_1-8B-Base-L5R-8x", "hyperparams.json", "checkpoints/final.safetensors", &changes)
}

#[test]
fn openmoss_is_refused_where_it_computes_something_else() {
    assert_eq!(openmoss("topk", json!({ "dtype": "float32", "strict_loading": true })), "");
    for (folder, changes, expected) in [
        ("topk", json!({ "sae_type": "crosscoder" }), "`sae_type` is \"crosscoder\", expected one of `sae`"),
        ("topk", json!({ "act_fn": "batchtopk" }), "`act_fn` is \"batchtopk\", expected one of `relu`"),
        ("topk", json!({ "norm_activation": "batch-wise" }), "`norm_activation` is \"batch-wise\""),
        ("topk", json!({ "use_glu_encoder": true }), "`use_glu_encoder` is true, which is not supported"),
        ("topk", json!({ "apply_decoder_bias_to_pre_encoder": true }), "`apply_decoder_bias_to_pre_encoder` is true"),
        ("topk", json!({ "top_k": 0 }), "`top_k` is 0, expected a number from 1 to 10"),
        ("topk", json!({ "top_k": 11 }), "`top_k` is 11, expected a number from 1 to 10"),
        ("topk", json!({ "skip": true }), "`skip` is not known and may change what the SAE computes"),
        ("topk", json!({ "use_decoder_bias": false }), "tensor `b_D` is not one of an SAE of OpenMOSS"),
        ("topk", json!({ "expansion_factor": 2 }), "tensor `W_E`"),
        ("topk", json!({ "expansion_factor": 0.01 }), "`expansion_factor` is 0.01, expected a factor"),
        ("topk", json!({ "hook_point_in": "blocks.1.hook_resid_post" }), "dataset_average_activation_norm.blocks.1"),
        ("topk", json!({ "hook_point_in": null }), "key `hook_point_in` is missing"),
        ("jumprelu", json!({ "act_fn": "relu" }), "tensor `activation_function.log_jumprelu_threshold` is not one"),
        ("relu", json!({ "act_fn": "jumprelu" }), "`activation_function.log_jumprelu_threshold`"),
        ("transcoder", json!({ "norm_activation": "token-wise" }), "`norm_activation` is \"token-wise\""),
    ] {
        let error = openmoss(folder, changes.clone());
        assert!(error.contains(expected), "{changes}: {error}");
    }
}

#[test]
fn llama_scope_is_refused_where_it_computes_something_else() {
    assert_eq!(llama_scope(json!({ "top_k": 7 })), "");
    for (changes, expected) in [
        (json!({ "act_fn": "topk" }), "`act_fn` is \"topk\", expected one of `jumprelu`"),
        (
            json!({ "norm_activation": "token-wise" }),
            "`norm_activation` is \"token-wise\", expected one of `dataset-wise`",
        ),
        (json!({ "use_glu_encoder": true }), "`use_glu_encoder` is true"),
        (json!({ "use_decoder_bias": false }), "`use_decoder_bias` is false"),
        (json!({ "apply_decoder_bias_to_pre_encoder": true }), "`apply_decoder_bias_to_pre_encoder` is true"),
        (json!({ "apply_decoder_bias_to_pre_encoder": null }), "`apply_decoder_bias_to_pre_encoder` is missing"),
        (json!({ "jump_relu_threshold": "0.5" }), "`jump_relu_threshold` is \"0.5\""),
        (json!({ "jump_relu_threshold": -1.0 }), "`jump_relu_threshold` is -1.0"),
        (
            json!({ "dataset_average_activation_norm": { "in": 0, "out": 1 } }),
            "`dataset_average_activation_norm.in` is 0",
        ),
        (
            json!({ "dataset_average_activation_norm": { "in": 1, "out": 1, "mid": 2 } }),
            "`dataset_average_activation_norm.mid`",
        ),
        (json!({ "d_sae": 9 }), "tensor `encoder.weight`"),
        (json!({ "temperature": 2 }), "`temperature` is not known and may change"),
    ] {
        let error = llama_scope(changes.clone());
        assert!(error.contains(expected), "{changes}: {error}");
    }
}

#[test]
fn a_tensor_that_is_not_understood_is_named() {
    let path = format!("{}/tests/fixtures/formats/openmoss/topk", env!("CARGO_MANIFEST_DIR"));
    let bytes = fs::read(format!("{path}/sae_weights.safetensors")).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors.push(("W_skip".into(), TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap()));
    let files = [
        ("config.json".to_owned(), fs::read(format!("{path}/config.json")).unwrap()),
        ("sae_weights.safetensors".to_owned(), serialize(tensors, None).unwrap()),
    ];
    let error = Sae::load(&Folder::in_memory("x", files)).unwrap_err().to_string();
    assert!(error.contains("tensor `W_skip` is not one of an SAE of OpenMOSS"), "{error}");

    let goodfire = |further: &str, name: &str| {
        let tensors = [
            ("encoder_linear.weight", vec![2, 1]),
            ("encoder_linear.bias", vec![2]),
            ("decoder_linear.weight", vec![1, 2]),
            ("decoder_linear.bias", vec![1]),
            (further, vec![1]),
        ];
        let numbers = [0.5; 2];
        let stored = tensors.map(|(name, shape)| {
            let len = shape.iter().product();
            (name, shape, Numbers::F32(&numbers[..len]))
        });
        let files = [(name.to_owned(), torch_file(&stored[..if further.is_empty() { 4 } else { 5 }]).unwrap())];
        Sae::load(&Folder::in_memory("x", files)).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(goodfire("", "a-SAE-l3.pt"), "");
    assert_eq!(goodfire("", "a-SAE-l3.pth"), "");
    assert!(goodfire("", "a.pt").contains("Goodfire names the layer at the end of the file's name"));
    assert!(
        goodfire("threshold", "a-SAE-l3.pt").contains("tensor `threshold` is not one of an autoencoder of Goodfire")
    );
}
