//! What a model's folder may look like, and what is refused in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use directrix_corpus::Prompts;
use directrix_kernels::Weight;
use directrix_model::{Ask, Block, Folder, Model, Positions, Processing, Weights};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use serde_json::{Value, json};

const MODELS: [(&str, &str); 7] = [
    ("gpt2-tiny", "transformer."),
    ("neo-tiny", "transformer."),
    ("neox-tiny", "gpt_neox."),
    ("llama-tiny", "model."),
    ("qwen2-tiny", "model."),
    ("qwen3-tiny", "model."),
    ("gemma2-tiny", "model."),
];

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A checkpoint in memory: its configuration and its tensors, each a shape and numbers.
#[derive(Clone)]
struct Checkpoint {
    config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Checkpoint {
    fn of(name: &str) -> Checkpoint {
        let bytes = fs::read(format!("{}/model.safetensors", fixture(name))).unwrap();
        let numbers = |view: &TensorView| match view.dtype() {
            Dtype::BF16 => view.data().as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        };
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        Checkpoint {
            config: serde_json::from_slice(&fs::read(format!("{}/config.json", fixture(name))).unwrap()).unwrap(),
            tensors: tensors.into_iter().map(|(name, t)| (name, (t.shape().to_vec(), numbers(&t)))).collect(),
        }
    }

    fn renamed(&self, name: impl Fn(&str) -> String) -> Checkpoint {
        let tensors = self.tensors.iter().map(|(old, tensor)| (name(old), tensor.clone())).collect();
        Checkpoint { config: self.config.clone(), tensors }
    }

    /// One file of some of the tensors, in one of three element types.
    fn file(&self, dtype: Dtype, names: &[&String]) -> Vec<u8> {
        let bytes = |numbers: &[f32]| -> Vec<u8> {
            match dtype {
                Dtype::F16 => numbers.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
                Dtype::BF16 => numbers.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
                _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            }
        };
        let all: Vec<(&String, &Vec<usize>, Vec<u8>)> =
            names.iter().map(|name| (*name, &self.tensors[*name].0, bytes(&self.tensors[*name].1))).collect();
        let views =
            all.iter().map(|(name, shape, data)| (*name, TensorView::new(dtype, (*shape).clone(), data).unwrap()));
        serialize(views, None).unwrap()
    }

    fn write(&self, folder: &Path, dtype: Dtype, shards: usize) {
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        let names: Vec<&String> = self.tensors.keys().collect();
        if shards == 1 {
            return fs::write(folder.join("model.safetensors"), self.file(dtype, &names)).unwrap();
        }
        let mut map = serde_json::Map::new();
        for shard in 0..shards {
            let own: Vec<&String> = names.iter().skip(shard).step_by(shards).copied().collect();
            let file = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
            fs::write(folder.join(&file), self.file(dtype, &own)).unwrap();
            map.extend(own.iter().map(|name| ((*name).clone(), json!(file))));
        }
        let list = json!({ "metadata": {}, "weight_map": map });
        fs::write(folder.join("model.safetensors.index.json"), list.to_string()).unwrap();
    }

    fn load(&self) -> directrix_model::Result<Model> {
        self.load_with(Processing::none())
    }

    fn load_with(&self, processing: Processing) -> directrix_model::Result<Model> {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path(), Dtype::F32, 1);
        Model::load(&Folder::open(folder.path()).unwrap(), processing)
    }
}

/// The buffers that older checkpoints of a family hold, named without the prefix.
fn buffers(model: &str) -> Vec<String> {
    (0..2)
        .flat_map(|layer| match model {
            "gpt2-tiny" => vec![format!("h.{layer}.attn.bias"), format!("h.{layer}.attn.masked_bias")],
            "neo-tiny" => {
                vec![format!("h.{layer}.attn.attention.bias"), format!("h.{layer}.attn.attention.masked_bias")]
            }
            "neox-tiny" => {
                ["bias", "masked_bias", "rotary_emb.inv_freq"].map(|b| format!("layers.{layer}.attention.{b}")).into()
            }
            _ => vec![format!("layers.{layer}.self_attn.rotary_emb.inv_freq")],
        })
        .collect()
}

fn message(result: directrix_model::Result<Model>) -> String {
    result.unwrap_err().to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Every way to store the same numbers gives the same model, bit for bit.
    #[test]
    fn a_checkpoint_gives_the_same_bits_however_it_is_stored(
        which in 0..MODELS.len(),
        is_bare: bool,
        with_buffers: bool,
        shards in 1..4_usize,
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::BF16]),
        architecture in 0..3_usize,
        tied: bool,
        processed: bool,
    ) {
        let (name, prefix) = MODELS[which];
        let mut checkpoint = Checkpoint::of(name);
        for (_, numbers) in checkpoint.tensors.values_mut() {
            match dtype {
                Dtype::F16 => numbers.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32()),
                Dtype::BF16 => numbers.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32()),
                _ => {}
            }
        }
        let processing = if processed { Processing::default() } else { Processing::none() };
        let expected = checkpoint.load_with(processing).unwrap();
        if tied && which < 2 {
            let wte = checkpoint.tensors["transformer.wte.weight"].clone();
            checkpoint.tensors.insert("lm_head.weight".into(), wte);
        }
        if with_buffers {
            for buffer in buffers(name) {
                checkpoint.tensors.insert(format!("{prefix}{buffer}"), (vec![1, 1], vec![-1e4]));
            }
        }
        if is_bare {
            checkpoint = checkpoint.renamed(|name| name.strip_prefix(prefix).unwrap_or(name).to_owned());
        }
        match architecture {
            0 => {}
            1 => checkpoint.config["architectures"] = Value::Null,
            _ => {
                let full = checkpoint.config["architectures"][0].as_str().unwrap().to_owned();
                let bare = full.replace("LMHeadModel", "Model").replace("ForCausalLM", "Model");
                checkpoint.config["architectures"] = json!([bare]);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        checkpoint.write(folder.path(), dtype, shards);
        let found = Model::load(&Folder::open(folder.path()).unwrap(), processing).unwrap();
        prop_assert!(found.weights() == expected.weights());
        prop_assert!(found.notes().is_empty());
        let prompts = Prompts::from_rows([vec![1, 7, 3, 5, 2, 9], vec![4, 4]]);
        let ask = Ask::nothing().with_logits(Positions::All).with_losses();
        let [found, expected] = [&found, &expected].map(|model| model.run(&prompts, &ask, &[]).unwrap());
        prop_assert!(found.logits() == expected.logits() && found.losses() == expected.losses());
    }
}

#[test]
fn halves_stay_as_they_are_stored_whatever_the_processing() {
    for (name, _) in MODELS {
        for (dtype, bytes) in [(Dtype::F16, 2), (Dtype::BF16, 2), (Dtype::F32, 4)] {
            for processing in [Processing::none(), Processing::default()] {
                let folder = tempfile::tempdir().unwrap();
                Checkpoint::of(name).write(folder.path(), dtype, 2);
                let model = Model::load(&Folder::open(folder.path()).unwrap(), processing).unwrap();
                let Weights { w_e, w_pos, blocks, w_u, .. } = model.weights();
                let of_block = |block: &Block| {
                    let gate = block.gate.iter().map(|gate| gate.w.width()).collect::<Vec<_>>();
                    let own = [&block.w_q, &block.w_k, &block.w_v, &block.w_o, &block.w_in, &block.w_out];
                    [gate, own.map(Weight::width).into()].concat()
                };
                let around = [w_e, w_u].into_iter().chain(w_pos).map(Weight::width);
                let mut widths = around.chain(blocks.iter().flat_map(of_block));
                assert!(widths.all(|width| width == bytes), "{name} {dtype:?}");
            }
        }
    }
}

#[test]
fn a_half_that_is_no_number_is_refused_with_its_place() {
    for (bits, shown) in [(0x7FC0_u16, "NaN"), (0xFF80, "-inf")] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::of("llama-tiny");
        checkpoint.write(folder.path(), Dtype::BF16, 1);
        let path = folder.path().join("model.safetensors");
        let mut file = fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let tensor = tensors.tensor("model.layers.1.mlp.up_proj.weight").unwrap();
        let at = tensor.data().as_ptr() as usize - file.as_ptr() as usize + 2 * 5;
        file[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        fs::write(&path, file).unwrap();
        let error = message(Model::load(&Folder::open(folder.path()).unwrap(), Processing::none()));
        assert!(error.contains("model.layers.1.mlp.up_proj.weight") && error.contains(shown), "{error}");
        assert!(error.contains('5'), "{error}");
    }
}

#[test]
fn an_unembedding_that_differs_from_a_tied_embedding_is_used_and_that_is_said() {
    for name in ["gpt2-tiny", "neo-tiny"] {
        let plain = Checkpoint::of(name);
        let mut other = plain.clone();
        let mut head = plain.tensors["transformer.wte.weight"].clone();
        head.1[0] += 1.0;
        other.tensors.insert("lm_head.weight".into(), head);
        let model = other.load().unwrap();
        assert!(model.weights().w_u != plain.load().unwrap().weights().w_u);
        let [note] = model.notes() else { panic!("{:?}", model.notes()) };
        assert!(note.contains("`lm_head.weight` differs from the embedding and is used"), "{note}");

        other.config["tie_word_embeddings"] = json!(false);
        let untied = other.load().unwrap();
        assert!(untied.notes().is_empty() && untied.weights() == model.weights());
        other.tensors.remove("lm_head.weight");
        assert!(message(other.load()).contains("there is no tensor `lm_head.weight`"));
    }
}

#[test]
fn the_unembedding_alone_is_a_tied_embedding_too() {
    for name in ["gpt2-tiny", "neo-tiny"] {
        let plain = Checkpoint::of(name);
        let mut other = plain.clone();
        let embedding = other.tensors.remove("transformer.wte.weight").unwrap();
        other.tensors.insert("lm_head.weight".into(), embedding);
        let model = other.load().unwrap();
        assert!(model.weights() == plain.load().unwrap().weights() && model.notes().is_empty());
        other.config["tie_word_embeddings"] = json!(false);
        assert!(message(other.load()).contains("wte.weight"));
    }
}

#[test]
fn a_tensor_that_is_not_of_the_model_is_refused_by_name() {
    for (name, prefix) in MODELS {
        for (own, why) in [("score.weight", "not one of a"), ("h.0.attn.q_norm.weight", "not one of a")] {
            let mut checkpoint = Checkpoint::of(name);
            checkpoint.tensors.insert(own.into(), (vec![1], vec![1.0]));
            let error = message(checkpoint.load());
            assert!(error.contains(&format!("tensor `{own}`")) && error.contains(why), "{error}");
        }
        // Fewer blocks in the configuration than in the file, and more.
        let key = ["n_layer", "num_layers", "num_hidden_layers"];
        let key = key.into_iter().find(|key| Checkpoint::of(name).config.get(key).is_some()).unwrap();
        let layers = Checkpoint::of(name).config[key].as_u64().unwrap();
        let with = |layers: u64| {
            let mut checkpoint = Checkpoint::of(name);
            checkpoint.config[key] = json!(layers);
            if name == "neo-tiny" {
                checkpoint.config["attention_layers"] = json!(vec!["global"; layers as usize]);
                checkpoint.config["attention_types"] = Value::Null;
            }
            if let Some(kinds) = checkpoint.config.get_mut("layer_types") {
                *kinds = json!(vec!["full_attention"; layers as usize]);
            }
            message(checkpoint.load())
        };
        let fewer = with(layers - 1);
        assert!(fewer.contains(&format!("config.json says {} blocks", layers - 1)), "{fewer}");
        let more = with(layers + 1);
        assert!(more.contains(&format!("no tensor `{prefix}")), "{more}");
    }
}

#[test]
fn files_that_are_missing_are_named_as_what_they_are() {
    let checkpoint = Checkpoint::of("neo-tiny");
    let folder = tempfile::tempdir().unwrap();
    let load = || message(Model::load(&Folder::open(folder.path()).unwrap(), Processing::none()));
    checkpoint.write(folder.path(), Dtype::F32, 3);
    let (shard, list) = ("model-00002-of-00003.safetensors", "model.safetensors.index.json");
    let bytes = fs::read(folder.path().join(shard)).unwrap();
    fs::remove_file(folder.path().join(shard)).unwrap();
    let error = load();
    assert!(error.contains(&format!("{shard}` is missing")) && error.contains(list), "{error}");

    fs::write(folder.path().join(shard), checkpoint.file(Dtype::F32, &[])).unwrap();
    let error = load();
    assert!(error.contains(shard) && error.contains("says that it holds tensor"), "{error}");

    fs::write(folder.path().join(shard), bytes).unwrap();
    for (wrong, expected) in [
        (json!({}), "key `weight_map` is missing"),
        (json!({ "weight_map": [] }), "`weight_map` is a list of 0, expected an object"),
        (json!({ "weight_map": {} }), "names no tensor"),
        (json!({ "weight_map": { "a": 3 } }), "`weight_map.a` is 3, expected a string"),
        (json!({ "weight_map": { "a": "../x.safetensors" } }), "the name of a .safetensors or .bin file beside it"),
    ] {
        fs::write(folder.path().join(list), wrong.to_string()).unwrap();
        let error = load();
        assert!(error.contains(list) && error.contains(expected), "{error}");
    }
    // Shards without their list are not read, nor is any other name.
    fs::remove_file(folder.path().join(list)).unwrap();
    let error = load();
    assert!(error.contains("holds none of `model.safetensors`") && error.contains("`model-00001-of-00003"), "{error}");
    assert!(error.contains("fetch their index"), "{error}");
    for shard in 1..=3 {
        fs::remove_file(folder.path().join(format!("model-{shard:05}-of-00003.safetensors"))).unwrap();
    }
    assert!(load().contains("fetch the model's weights"));
    fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
    assert!(load().contains("pytorch_model.bin: not a readable file of tensors"));
}

#[test]
fn a_field_may_have_the_other_name_that_transformers_knows() {
    for (name, names) in [
        (
            "gpt2-tiny",
            &[("n_embd", "hidden_size"), ("n_head", "num_attention_heads"), ("n_layer", "num_hidden_layers")][..],
        ),
        ("neo-tiny", &[("num_heads", "num_attention_heads"), ("num_layers", "num_hidden_layers")]),
    ] {
        let mut checkpoint = Checkpoint::of(name);
        let expected = checkpoint.load().unwrap();
        for (own, other) in names {
            let value = checkpoint.config.as_object_mut().unwrap().remove(*own).unwrap();
            checkpoint.config[*other] = value;
        }
        let found = checkpoint.load().unwrap();
        assert!(
            found.weights() == expected.weights() && found.config() == expected.config() && found.notes().is_empty()
        );
    }
}

#[test]
fn a_folder_has_a_name_of_its_own_however_its_path_ends() {
    for path in ["tests/fixtures/gpt2-tiny", "tests/fixtures/gpt2-tiny/", "tests/fixtures/gpt2-tiny/."] {
        assert_eq!(Folder::open(path).unwrap().to_string(), "tests/fixtures/gpt2-tiny");
    }
    let here = fs::canonicalize(".").unwrap().display().to_string();
    for path in [".", "tests/.."] {
        assert_eq!(Folder::open(path).unwrap().to_string(), here);
    }
}

#[test]
fn the_root_of_a_hub_cache_is_its_snapshot() {
    let checkpoint = Checkpoint::of("gpt2-tiny");
    let cache = tempfile::tempdir().unwrap();
    let root = cache.path().join("models--owner--name");
    let load = || Model::load(&Folder::open(&root)?, Processing::none());
    for folder in ["refs", "blobs", "snapshots"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    assert!(message(load()).contains("holds no snapshot"));
    for (revision, layers) in [("aaa", 3), ("bbb", 99)] {
        let mut other = checkpoint.clone();
        other.config["n_layer"] = json!(layers);
        let snapshot = root.join("snapshots").join(revision);
        fs::create_dir(&snapshot).unwrap();
        other.write(&snapshot, Dtype::F32, 1);
        if revision == "aaa" {
            assert!(load().is_ok(), "the only snapshot");
        }
    }
    let error = message(load());
    assert!(error.contains("several snapshots") && error.contains("aaa") && error.contains("bbb"), "{error}");
    fs::write(root.join("refs/main"), "aaa").unwrap();
    assert!(load().is_ok());
    fs::write(root.join("refs/main"), "bbb").unwrap();
    assert!(message(load()).contains("snapshots/bbb"));
}

/// What a field is: which values it may have is tried with every wrong one.
#[derive(Clone, Copy)]
enum Kind {
    /// A whole number above 0.
    Count,
    /// A number above 0.
    Number,
    Flag,
    Text,
    List,
    /// As the others, or null.
    Nullable(&'static Kind),
}

/// Every field that is read of each family, and its kind.
const FIELDS: [(&str, &[(&str, Kind)]); 3] = [
    (
        "gpt2-tiny",
        &[
            ("architectures", Kind::Nullable(&Kind::List)),
            ("model_type", Kind::Nullable(&Kind::Text)),
            ("n_embd", Kind::Count),
            ("n_head", Kind::Count),
            ("n_layer", Kind::Count),
            ("n_inner", Kind::Nullable(&Kind::Count)),
            ("n_positions", Kind::Count),
            ("vocab_size", Kind::Count),
            ("layer_norm_epsilon", Kind::Number),
            ("activation_function", Kind::Text),
            ("scale_attn_weights", Kind::Flag),
            ("scale_attn_by_inverse_layer_idx", Kind::Flag),
            ("add_cross_attention", Kind::Flag),
            ("tie_word_embeddings", Kind::Flag),
        ],
    ),
    (
        "neo-tiny",
        &[
            ("architectures", Kind::Nullable(&Kind::List)),
            ("model_type", Kind::Nullable(&Kind::Text)),
            ("hidden_size", Kind::Count),
            ("num_heads", Kind::Count),
            ("num_layers", Kind::Count),
            ("intermediate_size", Kind::Nullable(&Kind::Count)),
            ("max_position_embeddings", Kind::Count),
            ("vocab_size", Kind::Count),
            ("window_size", Kind::Count),
            ("layer_norm_epsilon", Kind::Number),
            ("activation_function", Kind::Text),
            ("attention_layers", Kind::Nullable(&Kind::List)),
            ("attention_types", Kind::Nullable(&Kind::List)),
            ("tie_word_embeddings", Kind::Flag),
        ],
    ),
    (
        "neox-tiny",
        &[
            ("architectures", Kind::Nullable(&Kind::List)),
            ("model_type", Kind::Nullable(&Kind::Text)),
            ("hidden_size", Kind::Count),
            ("num_attention_heads", Kind::Count),
            ("num_hidden_layers", Kind::Count),
            ("intermediate_size", Kind::Count),
            ("max_position_embeddings", Kind::Count),
            ("vocab_size", Kind::Count),
            ("layer_norm_eps", Kind::Number),
            ("hidden_act", Kind::Text),
            ("rotary_pct", Kind::Number),
            ("partial_rotary_factor", Kind::Number),
            ("rotary_emb_base", Kind::Number),
            ("rope_theta", Kind::Number),
            ("attention_bias", Kind::Flag),
            ("use_parallel_residual", Kind::Flag),
            ("tie_word_embeddings", Kind::Flag),
        ],
    ),
];

/// Whether no field of a kind may hold a value.
fn is_wrong(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Count => value.as_u64().is_none_or(|n| n == 0 || n > 1 << 24),
        Kind::Number => value.as_f64().is_none_or(|x| x <= 0.0 || x > 1e16),
        Kind::Flag => !value.is_boolean(),
        Kind::Text => !matches!(value.as_str(), Some("gelu" | "gelu_new" | "relu")),
        Kind::List => true,
        Kind::Nullable(kind) => !value.is_null() && is_wrong(*kind, value),
    }
}

/// Every field that is read, of every family, with every value that it must not have: an error that names file and field.
#[test]
fn a_value_of_another_type_is_an_error_and_never_the_default() {
    let values = [
        json!(null),
        json!(true),
        json!("32"),
        json!("no such name"),
        json!(-1),
        json!(0),
        json!(2.5),
        json!(1e-60),
        json!(1e300),
        json!(2_147_483_647),
        json!(1_u64 << 40),
        json!([]),
        json!([3]),
        json!(["global", 1, "local"]),
        json!({ "a": 1 }),
    ];
    let mut tried = 0;
    for (name, fields) in FIELDS {
        for (field, kind) in fields {
            for value in values.iter().filter(|value| is_wrong(*kind, value)) {
                let mut checkpoint = Checkpoint::of(name);
                checkpoint.config[*field] = value.clone();
                let error = message(checkpoint.load());
                assert!(error.contains("config.json: ") && error.contains(field), "{name} {field} {value}: {error}");
                tried += 1;
            }
        }
        let heads = fields.iter().find(|(field, _)| field.ends_with("head") || field.ends_with("heads")).unwrap().0;
        let mut checkpoint = Checkpoint::of(name);
        checkpoint.config[heads] = json!(5);
        assert!(message(checkpoint.load()).contains("the width 32 is not a multiple of the 5 heads"));
    }
    assert!(tried > 400, "{tried}");
}

#[test]
fn fields_that_contradict_each_other_are_errors() {
    let with = |name: &str, changes: Value| {
        let mut checkpoint = Checkpoint::of(name);
        for (field, value) in changes.as_object().unwrap() {
            checkpoint.config[field] = value.clone();
        }
        message(checkpoint.load())
    };
    for (name, changes, expected) in [
        ("neo-tiny", json!({ "attention_layers": ["global"] }), "name different layers"),
        ("neo-tiny", json!({ "attention_layers": ["global"], "attention_types": null }), "names 1 layers of 2"),
        ("neo-tiny", json!({ "attention_layers": null, "attention_types": [[["global"], 3]] }), "names 3 layers of 2"),
        ("neo-tiny", json!({ "attention_types": [[["global"], 4_000_000_000_u32]] }), "attention_types[0][1]"),
        ("neo-tiny", json!({ "model_type": "gpt2" }), "`model_type` is \"gpt2\""),
        ("neox-tiny", json!({ "rotary_pct": 0.5 }), "`partial_rotary_factor` is 0.25, expected 0.5"),
        ("neox-tiny", json!({ "rope_theta": 500 }), "`rope_theta` is 500"),
        (
            "neox-tiny",
            json!({ "rope_scaling": { "type": "dynamic", "factor": 2 } }),
            "`rope_scaling.type` is \"dynamic\"",
        ),
        ("neox-tiny", json!({ "rope_parameters": { "rope_type": "linear" } }), "their key `factor` is missing"),
        (
            "neox-tiny",
            json!({ "rope_scaling": { "type": "linear", "rope_type": "yarn", "factor": 2 } }),
            "expected what `rope_scaling.rope_type` is",
        ),
        ("neox-tiny", json!({ "rotary_pct": 0.01, "partial_rotary_factor": 0.01 }), "an even number of dimensions"),
        ("neox-tiny", json!({ "attention_bias": false }), "tensor `gpt_neox.layers.0.attention.dense.bias`"),
        ("gpt2-tiny", json!({ "architectures": ["MambaForCausalLM"] }), "`GPT2LMHeadModel`"),
        ("gpt2-tiny", json!({ "architectures": null, "model_type": null }), "neither `architectures` nor `model_type`"),
        ("gpt2-tiny", json!({ "num_attention_heads": 8 }), "`num_attention_heads` is 8, expected what `n_head` is"),
        ("gpt2-tiny", json!({ "max_position_embeddings": 8 }), "expected what `n_positions` is"),
        ("neo-tiny", json!({ "num_hidden_layers": 3 }), "expected what `num_layers` is"),
        ("gpt2-tiny", json!({ "add_cross_attention": true }), "a model that reads another one"),
    ] {
        let error = with(name, changes.clone());
        assert!(error.contains(expected), "{changes}: {error}");
    }
}
