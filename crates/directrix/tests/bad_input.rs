//! Bad input: one message that names the thing, a code, and nothing half-written.

mod common;

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use common::{Folder, failed, fixture, run, text};
use directrix::corpus::durable::Lock;
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};

/// Captures with a model that cannot be used; nothing may be left.
fn bad_model(folder: &Folder, model: &str) -> String {
    let corpus = folder.ids("ids.jsonl", 2, 64);
    let message = failed(
        1,
        &["capture", "--model", model, "--prompts", &corpus, "--logits", "--out", &folder.at("out.safetensors")],
    );
    assert!(!folder.names().iter().any(|name| name.starts_with("out.")), "{:?}", folder.names());
    message
}

/// Changes one tensor of a safetensors file.
fn change(file: &str, name: &str, change: impl FnOnce(Dtype, &mut Vec<usize>, &mut Vec<u8>) -> Dtype) {
    let bytes = fs::read(file).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = parsed.tensor(name).unwrap();
    let (mut shape, mut data) = (tensor.shape().to_vec(), tensor.data().to_vec());
    let dtype = change(tensor.dtype(), &mut shape, &mut data);
    let mut tensors: HashMap<String, TensorView<'_>> = parsed.tensors().into_iter().collect();
    tensors.insert(name.into(), TensorView::new(dtype, shape, &data).unwrap());
    fs::write(file, serialize(tensors, None).unwrap()).unwrap();
}

#[test]
fn wrong_usage_is_code_two() {
    for args in [
        &["no-such-command"][..],
        &["direction", "first"],
        &["direction"],
        &["index", "--limit", "0"],
        &["generate", "--threads", "0"],
        &["capture", "--text", "a", "--out", "a.safetensors"],
        &["capture", "--logits", "--out", "a.safetensors"],
        &["capture", "--text", "a", "--prompts", "b.txt", "--logits", "--out", "a.safetensors"],
    ] {
        failed(2, args);
    }
}

#[test]
fn a_damaged_model_file_is_named() {
    let folder = Folder::new();
    let model = folder.model("gpt2-tiny");
    let file = format!("{model}/model.safetensors");
    let whole = fs::read(&file).unwrap();
    let half = whole[..whole.len() / 2].to_vec();
    for content in [Vec::new(), half, b"<html>404</html>".to_vec(), vec![0xFF; 64]] {
        fs::write(&file, content).unwrap();
        let message = bad_model(&folder, &model);
        assert!(message.contains("model.safetensors: not a readable file of tensors"), "{message}");
    }
    fs::remove_file(&file).unwrap();
    assert!(bad_model(&folder, &model).contains("holds none of `model.safetensors`"));
    fs::write(format!("{model}/config.json"), "{").unwrap();
    assert!(bad_model(&folder, &model).contains("config.json: not JSON"));
    fs::remove_file(format!("{model}/config.json")).unwrap();
    assert!(bad_model(&folder, &model).contains("config.json` is missing"));
    fs::remove_dir_all(&model).unwrap();
    let message = bad_model(&folder, &model);
    assert!(message.contains("no folder `") && message.contains("tinystories-2l"), "{message}");
}

#[test]
fn a_wrong_tensor_is_named() {
    let with = |damage: fn(Dtype, &mut Vec<usize>, &mut Vec<u8>) -> Dtype| {
        let folder = Folder::new();
        let model = folder.model("gpt2-tiny");
        change(&format!("{model}/model.safetensors"), "transformer.wpe.weight", damage);
        let message = bad_model(&folder, &model);
        assert!(message.contains("model.safetensors: tensor `transformer.wpe.weight`"), "{message}");
        message
    };
    let shape = with(|dtype, shape, _| {
        shape.reverse();
        dtype
    });
    assert!(shape.contains("has shape [32, 64], expected [64, 32]"), "{shape}");
    let dtype = with(|_, shape, data| {
        data.truncate(data.len() / 4);
        assert_eq!(data.len(), shape.iter().product::<usize>());
        Dtype::I8
    });
    assert!(dtype.contains("holds I8; convert it to F32, F16 or BF16"), "{dtype}");
    let nan = with(|dtype, _, data| {
        data[20..24].copy_from_slice(&f32::NAN.to_le_bytes());
        dtype
    });
    assert!(nan.contains("holds NaN at element 5"), "{nan}");
}

#[test]
fn an_sae_of_another_model_is_refused() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 2, 64), folder.at("out"));
    let with = |sae: &str| failed(1, &["index", "--model", &model, "--sae", sae, "--corpus", &corpus, "--out", &out]);
    let width = with("tinystories-2l/sae-l0");
    assert!(width.contains("reads 512 numbers at blocks.0.mlp.hook_post, but the model has 128"), "{width}");

    let sae = folder.at("sae");
    fs::create_dir(&sae).unwrap();
    fs::copy(fixture("gpt2-tiny/sae-l0/sae_weights.safetensors"), format!("{sae}/sae_weights.safetensors")).unwrap();
    let config = fs::read_to_string(fixture("gpt2-tiny/sae-l0/cfg.json")).unwrap();
    for (hook, expected) in
        [("blocks.7.mlp.hook_post", "the model does not have"), ("mlp.out", "no hook point `mlp.out`")]
    {
        fs::write(format!("{sae}/cfg.json"), config.replace("blocks.0.mlp.hook_post", hook)).unwrap();
        let message = with(&sae);
        assert!(message.contains(hook) && message.contains(expected), "{message}");
    }
    fs::write(format!("{sae}/cfg.json"), &config).unwrap();
    change(&format!("{sae}/sae_weights.safetensors"), "b_enc", |dtype, _, data| {
        data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        dtype
    });
    assert!(with(&sae).contains("tensor `b_enc` holds inf"));
    assert!(with("tinystories-2l/sae-l9").contains("no folder `tinystories-2l/sae-l9`"));
    let none = failed(1, &["index", "--model", &model, "--corpus", &corpus, "--out", &out]);
    assert!(none.contains("name one or more with --sae"), "{none}");
    assert_eq!(folder.names(), ["ids.jsonl", "sae"]);
}

#[test]
fn a_corpus_that_cannot_be_used_is_named() {
    let folder = Folder::new();
    let (model, sae, out) = (fixture("gpt2-tiny"), fixture("gpt2-tiny/sae-l0"), folder.at("out"));
    let with = |corpus: &str| {
        let message = failed(1, &["index", "--model", &model, "--sae", &sae, "--corpus", corpus, "--out", &out]);
        assert!(message.contains(corpus), "{message}");
        assert!(!folder.path().join("out").exists());
        message
    };
    assert!(with(&folder.write("empty.jsonl", "")).contains("holds no prompt"));
    assert!(
        with(&folder.write("id.jsonl", "{\"tokens\": [1, 99999]}\n")).contains("position 1: token id 99999 is outside")
    );
    assert!(with(&folder.write("text.jsonl", "{\"text\": \"Hi\"}\n")).contains("there is no tokenizer"));
    assert!(with(&folder.write("wrong.jsonl", "{\"tokens\": [1]}\n{\n")).contains("line 2"));
    assert!(with(&folder.write("cut.parquet", "PAR1 and no more")).contains("cannot be read as Parquet"));
    assert!(with(&folder.write("a.csv", "a,b\n")).contains("expected files ending in .txt"));
    assert!(with(&folder.at("missing.txt")).contains("no corpus"));
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let folder = Folder::new();
    let out = folder.at("out.safetensors");
    let hook = |name: &str| failed(1, &["capture", "--text", "a", "--hook", name, "--out", &out]);
    for name in ["blocks.0.mlp.post", "blocks.2.mlp.hook_post", "*nothing*", "hook_pattern"] {
        let message = hook(name);
        assert!(message.contains(&format!("no hook point `{name}`")), "{message}");
        assert!(message.contains("blocks.0–1.mlp.hook_post"), "{message}");
    }
    let no_model = failed(1, &["generate", "--model", "tinystories-3l"]);
    assert!(no_model.contains("no folder `tinystories-3l`") && no_model.contains("tinystories-2l"), "{no_model}");
    let no_tokenizer = failed(1, &["generate", "--model", &fixture("gpt2-tiny"), "--prompt", "a"]);
    assert!(no_tokenizer.contains("tokenizer.json` is missing"), "{no_tokenizer}");
    let too_long = failed(1, &["generate", "--prompt", &" once upon a time".repeat(100)]);
    assert!(too_long.contains("the prompt has 401 tokens, but the model's context ends at 256"), "{too_long}");
    assert!(folder.names().is_empty());
}

#[test]
fn an_index_answers_only_for_what_it_has() {
    let folder = Folder::new();
    let (model, sae, index) = (fixture("gpt2-tiny"), fixture("gpt2-tiny/sae-l0"), folder.at("index"));
    let none = failed(1, &["direction", "0", "--index", &index]);
    assert!(none.contains("holds no index; make one with `directrix index --out"), "{none}");

    let corpus = folder.ids("ids.jsonl", 3, 64);
    let args = ["index", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", &index];
    assert!(run(&args).status.success());
    let direction = failed(1, &["direction", "256", "--index", &index]);
    assert!(direction.contains("directions 0 to 255, so there is no direction 256"), "{direction}");
    let other = failed(1, &["direction", "0", "--index", &index, "--sae", "sae-l1"]);
    assert!(other.contains("no SAE `sae-l1`; it has 0 (sae-l0)"), "{other}");
    let limited = failed(1, &[&args[..], &["--limit", "2"]].concat());
    assert!(limited.contains("index of other inputs (other prompts of the corpus)"), "{limited}");

    fs::write(format!("{index}/sae-0/maximum.f32"), [0; 3]).unwrap();
    let damaged = failed(1, &["direction", "0", "--index", &index]);
    assert!(damaged.contains("maximum.f32"), "{damaged}");
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let folder = Folder::new();
    let file = folder.write("file", "kept");
    let (model, sae, corpus) = (fixture("gpt2-tiny"), fixture("gpt2-tiny/sae-l0"), folder.ids("ids.jsonl", 3, 64));
    let index = |out: &str| failed(1, &["index", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", out]);
    let capture =
        |out: &str| failed(1, &["capture", "--model", &model, "--prompts", &corpus, "--logits", "--out", out]);
    let below = format!("{file}/below");
    assert!(index(&below).contains(&below));
    assert!(capture(&below).contains(&below));
    assert!(index(&file).contains("is not an index"));
    assert!(index(folder.path().to_str().unwrap()).contains("is not an index"));
    assert!(capture(folder.path().to_str().unwrap()).contains("is a folder"));
    assert_eq!(folder.names(), ["file", "ids.jsonl"]);
    assert_eq!(fs::read(&file).unwrap(), b"kept");
}

#[cfg(unix)]
#[test]
fn a_disk_without_room_leaves_the_old_file() {
    let folder = Folder::new();
    let (corpus, out) = (folder.ids("ids.jsonl", 100, 64), folder.write("out.safetensors", "old"));
    // A limit on the size of files stands for a full disk: writes fail in the same way.
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_directrix"), "capture"])
        .args(["--model", &fixture("gpt2-tiny"), "--prompts", &corpus, "--hook", "all", "--out", &out])
        .output()
        .unwrap();
    let message = text(&limited.stderr);
    assert_eq!(limited.status.code(), Some(1), "{message}");
    assert!(message.contains("out.safetensors") && message.contains("check that the disk has room"), "{message}");
    assert_eq!(folder.names(), ["ids.jsonl", "out.safetensors"]);
    assert_eq!(fs::read(&out).unwrap(), b"old");
}

#[cfg(unix)]
#[test]
fn an_index_and_a_study_without_room_leave_nothing_under_their_names() {
    let folder = Folder::new();
    let limited = |args: &[&str]| {
        let output = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_directrix")])
            .args(args)
            .output()
            .unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("the disk has room"), "{message}");
    };
    let (index, demo) = (folder.at("index"), folder.at("demo"));
    limited(&["index", "--limit", "60", "--out", &index]);
    limited(&["demo", "--out", &demo]);
    assert_eq!(folder.names(), ["demo"]);
    assert!(!std::path::Path::new(&format!("{demo}/index")).exists());
    assert!(!std::path::Path::new(&format!("{demo}/report.html")).exists());
}

#[test]
fn activations_that_are_not_finite_are_named_and_leave_nothing() {
    let folder = Folder::new();
    let model = folder.model("gpt2-tiny");
    change(&format!("{model}/model.safetensors"), "transformer.h.0.mlp.c_fc.weight", |dtype, _, data| {
        data.as_chunks_mut::<4>().0.iter_mut().for_each(|value| *value = f32::MAX.to_le_bytes());
        dtype
    });
    let (corpus, sae, out) = (folder.ids("ids.jsonl", 2, 64), fixture("gpt2-tiny/sae-l2"), folder.at("out"));
    let message = failed(1, &["index", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", &out]);
    assert!(message.contains("is not finite at position"), "{message}");
    assert_eq!(folder.names(), ["ids.jsonl", "model"]);
}

#[test]
fn an_out_that_another_process_writes_is_left_alone_with_one_sentence() {
    let folder = Folder::new();
    let (out, file) = (folder.at("out"), folder.at("acts.safetensors"));
    let _writing = [&out, &file].map(|out| Lock::take(out.as_ref()).unwrap());
    let text = ["--text", "Tim said, \"I like it.\""];
    let with_text = |args: &[&'static str]| [args, &text].concat();
    for (command, out) in [
        (vec!["index"], &out),
        (vec!["demo"], &out),
        (vec!["train", "--site", "blocks.0.mlp.hook_post", "--tokens", "10k"], &out),
        (vec!["evaluate", "--limit", "2"], &out),
        (with_text(&["ablate", "--directions", "3"]), &out),
        (with_text(&["attribute"]), &out),
        (with_text(&["explain"]), &out),
        (with_text(&["circuits", "cooccurrence"]), &out),
        (vec!["circuits", "cosine"], &out),
        (with_text(&["circuits", "graph"]), &out),
        (with_text(&["capture", "--losses"]), &file),
    ] {
        let message = failed(1, &[&command[..], &["--out", out]].concat());
        assert!(message.contains("is being written by another process; wait for it to end"), "{command:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{command:?}: {message}");
    }
    assert_eq!(folder.names(), ["acts.safetensors.lock", "out.lock"]);
}
