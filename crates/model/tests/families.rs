//! What the configurations of the families after Llama may say.

use directrix_model::{Config, Folder, Model, Processing};
use serde_json::{Value, json};

const FAMILIES: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"];

fn read(model: &str, file: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/{model}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn open(model: &str) -> Model {
    let path = format!("{}/tests/fixtures/{model}", env!("CARGO_MANIFEST_DIR"));
    Model::load(&Folder::open(path).unwrap(), Processing::default()).unwrap()
}

fn load(files: [(&str, Vec<u8>); 2]) -> directrix_model::Result<Model> {
    Model::load(&Folder::in_memory("memory", files.map(|(name, bytes)| (name.to_owned(), bytes))), Processing::none())
}

/// The tiny model of a family, with other values in its configuration.
fn with(family: &str, changes: &Value) -> directrix_model::Result<Model> {
    let name = format!("{family}-tiny");
    let mut config: Value = serde_json::from_slice(&read(&name, "config.json")).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    load([("config.json", config.to_string().into_bytes()), ("model.safetensors", read(&name, "model.safetensors"))])
}

fn refused(family: &str, changes: &Value) -> String {
    match with(family, changes) {
        Ok(_) => panic!("{family} takes {changes}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_transformers_saves_is_read_without_a_word() {
    for family in FAMILIES {
        let name = format!("{family}-tiny");
        for file in ["config.json", "config-4.json"] {
            let files = [("config.json", read(&name, file)), ("model.safetensors", read(&name, "model.safetensors"))];
            assert_eq!(load(files).unwrap().notes(), [""; 0], "{family} {file}");
        }
    }
    for name in ["gpt2-tiny", "neo-tiny", "neox-tiny"] {
        assert_eq!(open(name).notes(), [""; 0], "{name}");
    }
}

#[test]
fn a_key_that_nobody_knows_is_told() {
    for family in FAMILIES {
        let model = with(family, &json!({ "n_tricks": 3, "empty": null })).unwrap();
        let [note] = model.notes() else { panic!("{:?}", model.notes()) };
        assert!(note.contains("config.json: `n_tricks` is not used; transformers does not use such keys"), "{note}");
    }
    // Transformers has this key for Gemma 3 and does not use it.
    let capped = with("gemma3", &json!({ "attn_logit_softcapping": 3.0 })).unwrap();
    assert!(capped.notes()[0].contains("`attn_logit_softcapping` is not used"));
    assert!(capped.config().attention.soft_cap.is_none());
    let scaled =
        json!({ "rope_parameters": { "rope_type": "linear", "factor": 3.0, "rope_theta": 1e4, "beta_fast": 3 } });
    assert!(with("qwen3", &scaled).unwrap().notes()[0].contains("`rope_parameters.beta_fast` is not used"));
}

#[test]
fn a_value_of_another_type_or_out_of_range_is_an_error_that_names_its_key() {
    let counts = [
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
        "max_position_embeddings",
    ];
    let wrong = [json!(true), json!("3"), json!(-1), json!(0), json!(2.5), json!(1_u64 << 40), json!([]), json!({})];
    for family in FAMILIES {
        let gemma = family.starts_with("gemma");
        let activation = if gemma { "hidden_activation" } else { "hidden_act" };
        let mut keys: Vec<&str> = counts.into_iter().chain(["num_key_value_heads", "head_dim"]).collect();
        if family != "llama" {
            keys.push("sliding_window");
        }
        for key in keys {
            for value in &wrong {
                let error = refused(family, &json!({ key: value }));
                assert!(error.contains("config.json: ") && error.contains(key), "{family} {key} {value}: {error}");
            }
        }
        let numbers: &[&str] = if gemma { &["rms_norm_eps", "query_pre_attn_scalar"] } else { &["rms_norm_eps"] };
        for key in numbers {
            for value in [json!(null), json!("1"), json!(0), json!(-1.0), json!(1e30), json!([])] {
                assert!(refused(family, &json!({ *key: value })).contains(key));
            }
        }
        for value in [json!(null), json!(3), json!("softplus")] {
            assert!(refused(family, &json!({ activation: value })).contains(activation));
        }
        for value in [json!(null), json!(1), json!("true")] {
            assert!(refused(family, &json!({ "tie_word_embeddings": value })).contains("tie_word_embeddings"));
        }
        for value in [json!(3), json!("yarn"), json!([])] {
            assert!(refused(family, &json!({ "rope_parameters": value })).contains("rope_parameters"));
        }
    }
    for (family, flag) in [
        ("llama", "attention_bias"),
        ("llama", "mlp_bias"),
        ("qwen2", "use_sliding_window"),
        ("gemma2", "attention_bias"),
    ] {
        assert!(refused(family, &json!({ flag: "yes" })).contains(flag));
    }
    for (family, key) in [
        ("gemma2", "attn_logit_softcapping"),
        ("gemma2", "final_logit_softcapping"),
        ("gemma3", "final_logit_softcapping"),
    ] {
        for value in [json!(true), json!(0), json!(-30)] {
            assert!(refused(family, &json!({ key: value })).contains(key));
        }
    }
}

#[test]
fn what_is_not_supported_or_contradicts_itself_is_refused_by_name() {
    let llama3 = |key: &str| {
        let mut rope = json!({ "rope_type": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 4 });
        rope.as_object_mut().unwrap().remove(key);
        json!({ "rope_parameters": rope })
    };
    for (family, changes, expected) in [
        ("llama", json!({ "num_key_value_heads": 3 }), "4 attention heads cannot share 3 key heads"),
        ("llama", json!({ "head_dim": 5 }), "heads are 5 wide; expected an even number"),
        (
            "llama",
            json!({ "head_dim": null, "num_attention_heads": 5, "num_key_value_heads": 5 }),
            "not a multiple of the 5 heads",
        ),
        (
            "llama",
            json!({ "quantization_config": { "bits": 4 } }),
            "`quantization_config` is an object, expected none: quantised weights",
        ),
        ("llama", json!({ "pruned_heads": { "0": [1] } }), "`pruned_heads`"),
        ("llama", json!({ "per_layer_config": { "0": { "head_dim": 8 } } }), "`per_layer_config`"),
        ("llama", json!({ "is_encoder_decoder": true }), "`is_encoder_decoder`"),
        ("gemma2", json!({ "use_bidirectional_attention": true }), "positions that see later ones are not supported"),
        ("gemma3", json!({ "use_bidirectional_attention": true }), "positions that see later ones are not supported"),
        (
            "llama",
            json!({ "rope_scaling": { "rope_type": "dynamic", "factor": 2 } }),
            "`rope_scaling.rope_type` is \"dynamic\"",
        ),
        (
            "llama",
            json!({ "rope_scaling": { "type": "longrope", "factor": 2 } }),
            "`rope_scaling.type` is \"longrope\"",
        ),
        (
            "llama",
            json!({ "rope_scaling": { "type": "yarn", "rope_type": "linear" } }),
            "expected what `rope_scaling.rope_type` is",
        ),
        ("llama", json!({ "rope_theta": 3.0 }), "`rope_parameters.rope_theta` is 500.0, expected 3"),
        ("llama", json!({ "partial_rotary_factor": 0.5 }), "this family rotates whole heads"),
        ("llama", llama3("factor"), "their key `factor` is missing"),
        ("llama", llama3("low_freq_factor"), "their key `low_freq_factor` is missing"),
        ("llama", llama3("high_freq_factor"), "their key `high_freq_factor` is missing"),
        (
            "llama",
            json!({ "rope_parameters": { "rope_type": "llama3", "factor": 4, "low_freq_factor": 4, "high_freq_factor": 4 } }),
            "`low_freq_factor` is not below `high_freq_factor`",
        ),
        ("qwen3", json!({ "rope_parameters": { "full_attention": {} } }), "the same positions in every block"),
        (
            "gemma3",
            json!({ "rope_scaling": { "rope_type": "linear", "factor": 8 } }),
            "both say how positions are rotated",
        ),
        ("qwen2", json!({ "layer_types": ["full_attention"] }), "expected the kinds of 2 blocks"),
        ("qwen2", json!({ "layer_types": ["full_attention", "conv"] }), "`layer_types[1]` is \"conv\""),
        ("qwen2", json!({ "use_sliding_window": false }), "there is no window"),
        ("gemma2", json!({ "sliding_window": null }), "`sliding_window` is null"),
        ("gemma3", json!({ "architectures": ["Gemma3ForConditionalGeneration"] }), "`Gemma3ForCausalLM`"),
        ("llama", json!({ "attention_bias": true }), "self_attn.q_proj.bias"),
        ("llama", json!({ "mlp_bias": true }), "mlp.gate_proj.bias"),
        ("qwen3", json!({ "attention_bias": true }), "self_attn.q_proj.bias"),
        (
            "llama",
            json!({ "head_dim": 8 }),
            "tensor `model.layers.0.self_attn.q_proj.weight` has shape [16, 16], expected [32, 16]",
        ),
    ] {
        let error = refused(family, &changes);
        assert!(error.contains(expected), "{family} {changes}: {error}");
    }
}

/// What a model leaves out of the processing asked for is not said to have been done.
#[test]
fn processing_is_what_the_model_allows() {
    for (name, centers, of_unembedding) in
        [("gpt2-tiny", true, true), ("llama-tiny", false, true), ("gemma2-tiny", false, false)]
    {
        let processing = open(name).processing();
        assert_eq!([processing.center_writing_weights, processing.center_unembed], [centers, of_unembedding], "{name}");
        assert!(processing.fold_ln && processing.fold_value_biases);
    }
}

/// Dimensions alone must not make a configuration ask for memory.
#[test]
fn a_huge_configuration_is_only_numbers() {
    let config = json!({ "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4096, "hidden_size": 1 << 22,
        "num_attention_heads": 1 << 14, "vocab_size": 1 << 24, "intermediate_size": 1 << 22 });
    let folder = Folder::in_memory("memory", [("config.json".to_owned(), config.to_string().into_bytes())]);
    assert_eq!(Config::from_folder(&folder).unwrap().n_layers, 4096);
}
