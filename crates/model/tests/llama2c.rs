//! Checkpoints of llama2.c: the same model as a Llama of transformers whose rotated pairs lie half a head apart.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use directrix_corpus::Prompts;
use directrix_model::{Ask, BlockHook, Folder, HookPoint, Model, Positions, Processing};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde_json::json;

#[derive(Debug, Clone, Copy)]
struct Sizes {
    d: usize,
    m: usize,
    layers: usize,
    heads: usize,
    keys: usize,
    vocabulary: usize,
    context: usize,
    tied: bool,
}

/// By name in a Llama, shape and numbers.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn kinds(sizes: Sizes) -> Vec<(&'static str, Vec<usize>)> {
    let Sizes { d, m, heads, keys, vocabulary, .. } = sizes;
    let shared = d / heads * keys;
    vec![
        ("input_layernorm", vec![d]),
        ("post_attention_layernorm", vec![d]),
        ("self_attn.q_proj", vec![d, d]),
        ("self_attn.k_proj", vec![shared, d]),
        ("self_attn.v_proj", vec![shared, d]),
        ("self_attn.o_proj", vec![d, d]),
        ("mlp.gate_proj", vec![m, d]),
        ("mlp.down_proj", vec![d, m]),
        ("mlp.up_proj", vec![m, d]),
        ("embed_tokens", vec![vocabulary, d]),
        ("norm", vec![d]),
        ("lm_head", vec![vocabulary, d]),
    ]
}

fn name(kind: &str, layer: usize) -> String {
    match kind {
        "lm_head" => "lm_head.weight".into(),
        "embed_tokens" | "norm" => format!("model.{kind}.weight"),
        _ => format!("model.layers.{layer}.{kind}.weight"),
    }
}

/// The tensors of random weights, as llama2.c has them.
fn random(sizes: Sizes, seed: u64) -> Tensors {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = Tensors::new();
    for layer in 0..sizes.layers {
        for (kind, shape) in kinds(sizes) {
            let numbers = (0..shape.iter().product()).map(|_| random.random_range(-0.7..0.7)).collect();
            tensors.entry(name(kind, layer)).or_insert((shape, numbers));
        }
    }
    if sizes.tied {
        tensors.remove("lm_head.weight");
    }
    tensors
}

/// A checkpoint of `version`.
fn file(sizes: Sizes, tensors: &Tensors, version: u32) -> Vec<u8> {
    let Sizes { d, m, layers, heads, keys, vocabulary, context, tied } = sizes;
    let mut bytes = Vec::new();
    let mut word = |number: i64| bytes.extend((number as i32).to_le_bytes());
    if version > 0 {
        word(0x616b_3432);
        word(i64::from(version));
    }
    let signed = if version == 0 && !tied { -(vocabulary as i64) } else { vocabulary as i64 };
    [d, m, layers, heads, keys].into_iter().for_each(|size| word(size as i64));
    word(signed);
    word(context as i64);
    if version > 0 {
        bytes.push(u8::from(tied));
        bytes.resize(256, 0);
    }
    let mut of_kind = |kind: &str| {
        let of_blocks = name(kind, 0) != name(kind, 1);
        for layer in 0..if of_blocks { layers } else { 1 } {
            bytes.extend(tensors[&name(kind, layer)].1.iter().flat_map(|x| x.to_le_bytes()));
        }
    };
    let attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
    let mlp = ["mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"];
    let (before, after) = ("input_layernorm", "post_attention_layernorm");
    if version == 0 {
        ["embed_tokens", before].into_iter().chain(attention).chain([after]).chain(mlp).for_each(&mut of_kind);
        of_kind("norm");
        bytes.extend(vec![0x55; 4 * context * (d / heads)]);
    } else {
        [before, after, "norm", "embed_tokens"].into_iter().chain(attention).chain(mlp).for_each(&mut of_kind);
    }
    if !tied {
        bytes.extend(tensors["lm_head.weight"].1.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes
}

/// The same weights as a Llama of transformers: the numbers of a rotated pair, which lie side by side, half a head apart.
fn transformers(sizes: Sizes, tensors: &Tensors) -> Folder {
    let Sizes { d, m, layers, heads, keys, vocabulary, context, tied } = sizes;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": d, "intermediate_size": m, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": keys, "vocab_size": vocabulary, "max_position_embeddings": context,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": tied
    });
    let d_head = d / heads;
    let apart = |(name, (shape, numbers)): (&String, &(Vec<usize>, Vec<f32>))| {
        let is_rotated = name.contains("q_proj") || name.contains("k_proj");
        let row = |to: usize| {
            let (head, place) = (to / d_head, to % d_head);
            head * d_head + 2 * (place % (d_head / 2)) + place / (d_head / 2)
        };
        let rows = (0..shape[0]).map(|to| if is_rotated { row(to) } else { to });
        let width = shape.get(1).copied().unwrap_or(1);
        let bytes = rows.flat_map(|row| numbers[row * width..(row + 1) * width].iter().flat_map(|x| x.to_le_bytes()));
        (name.clone(), shape.clone(), bytes.collect::<Vec<u8>>())
    };
    let stored: Vec<_> = tensors.iter().map(apart).collect();
    let views =
        stored.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let weights = serialize(views, None).unwrap();
    let files = [("config.json", config.to_string().into_bytes()), ("model.safetensors", weights)];
    Folder::in_memory("transformers", files.map(|(name, bytes)| (name.to_owned(), bytes)))
}

fn write(folder: &Path, bytes: &[u8]) -> Folder {
    let path = folder.join("stories.bin");
    fs::write(&path, bytes).unwrap();
    Folder::of_file(path).unwrap()
}

const SMALL: Sizes = Sizes { d: 16, m: 24, layers: 2, heads: 4, keys: 2, vocabulary: 30, context: 20, tied: true };

fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let folder = write(folder.path(), bytes);
    Model::load(&folder, Processing::none()).unwrap_err().to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_checkpoint_is_the_llama_of_its_weights(
        (heads, keys) in prop::sample::select(vec![(1_usize, 1_usize), (4, 4), (4, 2), (6, 1)]),
        pairs in 1..5_usize,
        m in 1..40_usize,
        layers in 1..4_usize,
        vocabulary in 10..60_usize,
        tied: bool,
        version in 0..2_u32,
        processed: bool,
        seed: u64,
    ) {
        let sizes = Sizes { d: heads * 2 * pairs, m, layers, heads, keys, vocabulary, context: 12, tied };
        let tensors = random(sizes, seed);
        let processing = if processed { Processing::default() } else { Processing::none() };
        let folder = tempfile::tempdir().unwrap();
        let found = Model::load(&write(folder.path(), &file(sizes, &tensors, version)), processing).unwrap();
        let expected = Model::load(&transformers(sizes, &tensors), processing).unwrap();
        let prompts = Prompts::from_rows([vec![1, 7, 3, 5, 2, 9, 0, 4], vec![4, 4], (0..10).collect()]);
        let last = HookPoint::Block(layers - 1, BlockHook::ResidPost);
        let ask = Ask::capture([last]).with_logits(Positions::All);
        let [found, expected] = [&found, &expected].map(|model| model.run(&prompts, &ask, &[]).unwrap());
        for (a, b) in [(found.logits(), expected.logits()), (found.captured(last), expected.captured(last))] {
            let worst = a.data().iter().zip(b.data()).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
            prop_assert!(worst < 2e-5, "{worst}");
        }
    }

    #[test]
    fn a_header_of_any_numbers_is_an_error_or_fits_the_file(
        place in 0..9_usize,
        number in prop_oneof![any::<i32>(), -3..40_i32, Just(i32::MIN), Just(i32::MAX)],
        version in 0..2_u32,
    ) {
        let mut bytes = file(SMALL, &random(SMALL, 1), version);
        let place = place.min(if version == 0 { 6 } else { 8 }) * 4;
        prop_assume!(bytes[place..place + 4] != number.to_le_bytes());
        bytes[place..place + 4].copy_from_slice(&number.to_le_bytes());
        let folder = tempfile::tempdir().unwrap();
        let found = Model::load(&write(folder.path(), &bytes), Processing::none());
        // Other numbers of heads may fit, and any context where there are no tables of rotations.
        let (heads, context) = if version == 0 { (12, None) } else { (20, Some(32)) };
        prop_assert!(found.is_err() || place == heads || Some(place) == context);
    }
}

#[test]
fn what_is_no_whole_checkpoint_is_refused_and_said_to_be_what_it_is() {
    for version in [0, 1] {
        let whole = file(SMALL, &random(SMALL, 1), version);
        let cut = refused(&whole[..whole.len() - 4]);
        assert!(cut.contains("stories.bin") && cut.contains("fetch it again"), "{cut}");
        for len in [0, 3, 27, 28, 200, 300] {
            assert!(refused(&whole[..len.min(whole.len())]).contains("llama2.c"));
        }
        assert!(refused(&[&whole[..], &[0; 4]].concat()).contains("llama2.c"));
        let mut infinite = whole.clone();
        let at = if version == 0 { 28 } else { 256 };
        infinite[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(refused(&infinite).contains("NaN"));
    }
    let of_version = |version| refused(&file(SMALL, &random(SMALL, 1), version));
    assert!(of_version(2).contains("rounded to 8 bits; export it again with version 0 or 1"));
    assert!(of_version(3).contains("version 3"));
    assert!(refused(b"PK\x03\x04 and then other things that are no header").contains("name the folder"));
}

// ---- its tokenizer ----

/// A tokenizer of single bytes and these pieces.
fn tokenizer_file(pieces: &[(&str, f32)]) -> Vec<u8> {
    let mut bytes = 9_i32.to_le_bytes().to_vec();
    let mut add = |text: &str, score: f32| {
        bytes.extend(score.to_le_bytes());
        bytes.extend((text.len() as i32).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    ["<unk>", "\n<s>\n", "\n</s>\n"].into_iter().for_each(|text| add(text, 0.0));
    (0..256).for_each(|byte| add(&format!("<0x{byte:02X}>"), 0.0));
    pieces.iter().for_each(|(text, score)| add(text, *score));
    bytes
}

const PIECES: [(&str, f32); 16] = [
    (" t", -0.0),
    ("he", -1.0),
    (" a", -2.0),
    (" the", -3.0),
    ("nd", -4.0),
    (" and", -5.0),
    ("é", -6.5),
    (" ", -7.0),
    ("t", -8.0),
    ("h", -9.0),
    ("e", -10.0),
    ("a", -11.0),
    ("n", -12.0),
    ("d", -13.0),
    ("an", -13.5),
    ("then", -14.0),
];

/// A model of so many tokens.
const TEXT: Sizes = Sizes { vocabulary: 275, ..SMALL };

/// As llama2.c's `encode`: the text behind a space, character by character, the best pair joined until there is none.
fn joined(text: &str) -> Vec<u32> {
    let id = |text: &str| PIECES.iter().position(|(piece, _)| *piece == text).map(|at| at as u32 + 259);
    let mut tokens = Vec::new();
    for character in format!(" {text}").chars() {
        let text = character.to_string();
        match id(&text) {
            Some(token) => tokens.push(token),
            None => tokens.extend(text.bytes().map(|byte| u32::from(byte) + 3)),
        }
    }
    let piece = |token: u32| token.checked_sub(259).map(|at| PIECES[at as usize].0);
    loop {
        let of_pair = |at: usize| {
            let both = format!("{}{}", piece(tokens[at])?, piece(tokens[at + 1])?);
            let token = id(&both)?;
            Some((at, token, PIECES[token as usize - 259].1))
        };
        let mut best: Option<(usize, u32, f32)> = None;
        for pair in (0..tokens.len() - 1).filter_map(of_pair) {
            if best.is_none_or(|best| pair.2 > best.2) {
                best = Some(pair);
            }
        }
        let Some((at, token, _)) = best else { return tokens };
        tokens.splice(at..at + 2, [token]);
    }
}

proptest! {
    #[test]
    fn text_becomes_the_tokens_that_llama2c_gives_it(text in "[theand é\u{1F600}<]{1,40}") {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.bin"), tokenizer_file(&PIECES)).unwrap();
        let model = write(folder.path(), &file(TEXT, &random(TEXT, 1), 0));
        let tokenizer = model.tokenizer().unwrap().unwrap();
        let found = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(&found, &joined(&text));
        prop_assert_eq!(tokenizer.decode(&found).unwrap(), text);
    }
}

#[test]
fn the_tokenizer_lies_beside_the_checkpoint_under_one_of_two_names() {
    let folder = tempfile::tempdir().unwrap();
    let of = |vocabulary: usize| {
        let sizes = Sizes { vocabulary, ..TEXT };
        write(folder.path(), &file(sizes, &random(sizes, 1), 1))
    };
    let model = of(275);
    assert!(model.tokenizer().unwrap().is_none());
    fs::write(folder.path().join("tok275.bin"), tokenizer_file(&PIECES)).unwrap();
    let tokenizer = of(275).tokenizer().unwrap().unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.vocab_size()), (Some(1), 275));

    let broken = |bytes: &[u8], vocabulary: usize| {
        fs::write(folder.path().join("tok275.bin"), bytes).unwrap();
        of(vocabulary).tokenizer().unwrap_err().to_string()
    };
    let whole = tokenizer_file(&PIECES);
    for len in (0..whole.len()).step_by(7) {
        let error = broken(&whole[..len], 275);
        assert!(error.contains("tok275.bin") && error.contains("and the model has 275"), "{error}");
    }
    assert!(broken(&whole, 276).contains("before token 275"));
    assert!(broken(&tokenizer_file(&[("a", 0.0), ("a", 1.0)]), 261).contains("tokens 259 and 260 are both"));
    assert!(broken(&tokenizer_file(&[("a", f32::NAN)]), 260).contains("token 259 has no score"));
    let mut long = whole.clone();
    long[8..12].copy_from_slice(&i32::MAX.to_le_bytes());
    assert!(broken(&long, 275).contains("within or before token 0"));
}
