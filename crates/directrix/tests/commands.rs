//! Each command as a user runs it.

mod common;

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::{Folder, directrix, done, fixture, json, run, text};
use directrix::corpus::Prompts;
use directrix::lab;
use directrix::model::{Ask, HookPoint, Model, Positions, Processing, Target};
use directrix::sae::Sae;
use safetensors::{Dtype, SafeTensors};

#[test]
fn every_command_helps_with_an_example() {
    for command in [
        "demo",
        "study",
        "evaluate",
        "index",
        "direction",
        "search",
        "explain",
        "capture",
        "ablate",
        "attribute",
        "generate",
        "convert",
    ] {
        let help = done(&[command, "--help"]);
        assert!(help.contains("Examples:") && help.contains(&format!("\n  directrix {command} ")), "{help}");
    }
    assert!(done(&["--help"]).contains("Examples:"));
    assert_eq!(done(&["--version"]), format!("directrix {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_shipped_model_is_indexed_and_its_directions_are_shown() {
    let folder = Folder::new();
    fs::create_dir(folder.at("index")).unwrap();
    let index = folder.at("index");
    let first = json(&["index", "--limit", "20", "--out", &index]);
    assert_eq!((&first["prompts"], &first["already_complete"]), (&20.into(), &false.into()));
    assert_eq!(first["saes"][1]["name"], "sae-l1");
    let again = run(&["index", "--limit", "20", "--out", &index]);
    assert!(again.status.success() && text(&again.stderr).contains("complete already"));
    assert!(text(&again.stdout).contains("blocks.1.mlp.hook_post"));

    // A direction that fires often enough to have every part.
    let report = |direction: usize| json(&["direction", &direction.to_string(), "--index", &index, "--sae", "sae-l1"]);
    let (number, found) = (0..200)
        .map(|direction| (direction, report(direction)))
        .find(|(_, found)| !found["tokens"].as_array().unwrap().is_empty())
        .unwrap();
    let example = &found["examples"]["top"][0];
    assert_eq!(example["activation"], found["maximum"]);
    let position = example["position"].as_u64().unwrap() as usize;
    assert_eq!(example["activations"][position], found["maximum"]);
    assert_eq!(example["texts"][0], "<|endoftext|>");
    assert_eq!(found["histogram"].as_array().unwrap().len(), 20);

    let shown = done(&["direction", &number.to_string(), "--index", &index, "--sae", "1"]);
    assert!(shown.starts_with(&format!("sae-l1, direction {number}, reads blocks.1.mlp.hook_post\n")), "{shown}");
    let marked = format!(":{:.1}»", found["maximum"].as_f64().unwrap());
    assert!(shown.contains("Strongest prompts") && shown.contains(&marked), "{shown}");
    assert!(!shown.contains('\x1b'));
}

#[test]
fn a_model_without_tokenizer_is_indexed_from_ready_ids() {
    let folder = Folder::new();
    let (model, corpus, index) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 40, 64), folder.at("index"));
    let saes = [fixture("gpt2-tiny/sae-l0"), fixture("gpt2-tiny/sae-l2")];
    let args = ["index", "--model", &model, "--sae", &saes[0], "--sae", &saes[1], "--corpus", &corpus, "--out", &index];
    let made = json(&args);
    assert_eq!((&made["prompts"], &made["saes"][1]["name"]), (&40.into(), &"sae-l2".into()));

    let shown = run(&["direction", "3", "--index", &index]);
    assert!(shown.status.success());
    assert!(text(&shown.stderr).contains("shown as [id]"), "{}", text(&shown.stderr));
    assert!(text(&shown.stdout).contains("sae-l2, direction 3"));
}

#[test]
fn a_folder_to_write_is_one_place_however_it_is_spelled() {
    let folder = Folder::new();
    let (model, corpus) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 40, 64));
    let sae = fixture("gpt2-tiny/sae-l0");
    let index = |out: &str| {
        let args = ["index", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", out];
        directrix().args(args).current_dir(folder.at("")).output().unwrap()
    };
    let said = text(&index("index/").stderr);
    assert!(!said.contains("error"), "{said}");
    for again in ["index", "./index/.", &folder.at("index//")] {
        let said = text(&index(again).stderr);
        assert!(said.contains("the index was complete already"), "{again}: {said}");
    }
    // It can be named from inside, where none could be made.
    let args = ["index", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", "."];
    let inside = directrix().args(args).current_dir(folder.at("index")).output().unwrap();
    assert!(inside.status.success(), "{}", text(&inside.stderr));
    for _ in 0..2 {
        done(&["export", "--to", "delphi", "--index", &folder.at("index/"), "--out", &folder.at("export/")]);
    }
    assert_eq!(folder.names(), ["export", "ids.jsonl", "index"]);

    fs::create_dir(folder.at("empty")).unwrap();
    let here = directrix()
        .args(["index", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", "."])
        .current_dir(folder.at("empty"))
        .output()
        .unwrap();
    let said = text(&here.stderr);
    assert!(!here.status.success() && said.contains("write to a folder in it, such as `./out`"), "{said}");
    assert_eq!(fs::read_dir(folder.at("empty")).unwrap().count(), 0);
}

/// Presses ctrl-C; gives what the command says of it.
fn interrupted(mut child: Child) -> String {
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{message}");
    message
}

#[test]
fn an_interrupted_capture_leaves_nothing() {
    let folder = Folder::new();
    let out = folder.at("run.safetensors");
    let mut child = directrix()
        .args(["capture", "--prompts", "tinystories-2l/stories.txt", "--logits", "--out", &out])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while folder.names().is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "the capture did not begin");
        sleep(Duration::from_millis(2));
    }
    assert!(interrupted(child).contains("stopped; nothing was written"));
    assert!(folder.names().is_empty());
}

#[test]
fn an_interrupted_index_goes_on_and_equals_an_uninterrupted_one() {
    let folder = Folder::new();
    let (model, sae) = (fixture("gpt2-tiny"), fixture("gpt2-tiny/sae-l0"));
    let corpus = folder.ids("ids.jsonl", 6000, 64);
    let args =
        |out: &str| ["index", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", out].map(String::from);
    let (whole, resumed) = (folder.at("whole"), folder.at("resumed"));
    let mut child = directrix().args(args(&resumed)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !folder.path().join("resumed.partial/checkpoint.json").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the index ended before its first checkpoint");
        sleep(Duration::from_millis(2));
    }
    let message = interrupted(child);
    assert!(message.contains("run the same command again to go on"), "{message}");
    assert!(!folder.path().join("resumed").exists());

    for out in [&resumed, &whole] {
        assert!(directrix().args(args(out)).output().unwrap().status.success());
    }
    assert_eq!(folder.names(), ["ids.jsonl", "resumed", "whole"]);
    for part in ["", "sae-0"] {
        for entry in fs::read_dir(folder.path().join("whole").join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let same = folder.path().join("resumed").join(part).join(path.file_name().unwrap());
                assert!(fs::read(&path).unwrap() == fs::read(&same).unwrap(), "{}", path.display());
            }
        }
    }
}

/// The tensors of a captured file.
struct Captured(Vec<u8>);

impl Captured {
    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        match tensor.dtype() {
            Dtype::I64 => tensor.data().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
            Dtype::I32 => tensor.data().as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes) as i64).collect(),
            other => panic!("{name} is {other:?}"),
        }
    }

    fn bits(&self, name: &str) -> (Vec<usize>, Vec<u32>) {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32);
        let bits = tensor.data().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        (tensor.shape().to_vec(), bits)
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn everything_captured_of_ready_ids_has_the_bits_of_a_run() {
    let folder = Folder::new();
    // Enough positions for several batches, whose longest prompts differ.
    let (corpus, out) = (folder.ids("ids.jsonl", 300, 64), folder.at("made/here.safetensors"));
    let (model_name, sae_name) = (fixture("gpt2-tiny"), fixture("gpt2-tiny/sae-l2"));
    let made = json(&[
        "capture",
        "--model",
        &model_name,
        "--sae",
        &sae_name,
        "--prompts",
        &corpus,
        "--hook",
        "all",
        "--logits",
        "--losses",
        "--out",
        &out,
    ]);
    let captured = Captured(fs::read(&out).unwrap());
    assert_eq!(made["tensors"].as_array().unwrap().len(), captured.tensors().len());

    let lines = fs::read_to_string(&corpus).unwrap();
    let row = |line| serde_json::from_value(serde_json::from_str::<serde_json::Value>(line).unwrap()["tokens"].clone());
    let rows: Vec<Vec<u32>> = lines.lines().map(|line| row(line).unwrap()).collect();
    let prompts = Prompts::from_rows(&rows);
    let model_folder = lab::folder(&model_name).unwrap();
    let model = Model::load(&model_folder, Processing::default()).unwrap();
    let sae = Sae::load(&lab::folder(&sae_name).unwrap()).unwrap().fit(model.config()).unwrap();
    let hooks = HookPoint::all(model.config());
    let ask = Ask::capture(hooks.iter().copied()).with_logits(Positions::All).with_losses();
    let whole = model.run(&prompts, &ask, &[]).unwrap();

    let wide = |numbers: Vec<usize>| numbers.into_iter().map(|n| n as i64).collect::<Vec<_>>();
    assert_eq!(captured.integers("offsets"), wide(prompts.offsets().to_vec()));
    assert_eq!(captured.integers("tokens"), prompts.tokens().iter().map(|token| *token as i64).collect::<Vec<_>>());
    for hook in hooks {
        let shape = [vec![prompts.positions()], hook.shape(model.config(), prompts.longest())].concat();
        let (found, values) = captured.bits(&hook.to_string());
        assert_eq!(found, shape, "{hook}");
        assert!(values == bits(whole.captured(hook).data()), "{hook}");
    }
    assert!(captured.bits("logits").1 == bits(whole.logits().data()));
    let losses = captured.bits("losses").1;
    let mut expected = whole.losses().iter();
    for (prompt, ends) in prompts.offsets().windows(2).enumerate() {
        let (last, before) = losses[ends[0]..ends[1]].split_last().unwrap();
        assert!(f32::from_bits(*last).is_nan(), "prompt {prompt}");
        assert!(before.iter().all(|loss| *loss == expected.next().unwrap().to_bits()), "prompt {prompt}");
    }
    let acts = sae.encode(whole.captured(sae.site().reads.hook)).unwrap();
    assert_eq!(captured.integers("sae-l2.indptr"), wide(acts.indptr().to_vec()));
    let directions: Vec<i64> = acts.directions().iter().map(|direction| *direction as i64).collect();
    assert_eq!(captured.integers("sae-l2.directions"), directions);
    assert!(captured.bits("sae-l2.values").1 == bits(acts.values()));
}

#[test]
fn texts_are_captured_with_and_without_bos_and_processing() {
    let folder = Folder::new();
    let shipped = lab::folder("tinystories-2l").unwrap();
    let tokenizer = shipped.tokenizer().unwrap().unwrap();
    let mut tokens = tokenizer.encode("Once upon a time").unwrap();
    let bare: Vec<i64> = tokens.iter().map(|token| *token as i64).collect();
    let capture = |flags: &[&str]| {
        let out = folder.at("run.safetensors");
        let args = ["capture", "--text", "Once upon a time", "--hook", "*.hook_resid_post", "--out", &out];
        done(&[&args, flags].concat());
        Captured(fs::read(out).unwrap())
    };
    assert_eq!(capture(&["--no-bos"]).integers("tokens"), bare);
    assert_eq!(capture(&["--no-bos", "--bos"]).integers("tokens"), [&[0], &bare[..]].concat());

    tokens.insert(0, 0);
    let model = Model::load(&shipped, Processing::none()).unwrap();
    let hook: HookPoint = "blocks.1.hook_resid_post".parse().unwrap();
    let run = model.run(&Prompts::from_rows([tokens]), &Ask::capture([hook]), &[]).unwrap();
    assert!(capture(&["--no-processing"]).bits("blocks.1.hook_resid_post").1 == bits(run.captured(hook).data()));
    assert!(capture(&[]).bits("blocks.1.hook_resid_post").1 != bits(run.captured(hook).data()));
    assert_eq!(folder.names(), ["run.safetensors"]);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let args = ["generate", "--prompt", "Once upon a time", "--tokens", "25"];
    let text = done(&args);
    assert!(text.starts_with("Once upon a time") && text.ends_with('\n'), "{text}");
    assert_eq!(done(&[&args[..], &["--threads", "1"]].concat()), text);
    let drawn = json(&args);
    assert_eq!(format!("{}\n", drawn[0]["text"].as_str().unwrap()), text);
    assert_eq!(drawn[0]["prompt"][0], 0);

    let two = done(&[&args[..], &["--count", "2"]].concat());
    let (first, second) = two.split_once("<|endoftext|>\n").unwrap();
    assert_eq!(first, text);
    assert_eq!(done(&[&args[..], &["--seed", "1"]].concat()), second);
}

#[test]
fn the_most_likely_token_is_drawn_at_temperature_zero() {
    let drawn = json(&["generate", "--prompt", "Once upon a", "--tokens", "1", "--temperature", "0"]);
    let token = drawn[0]["tokens"][0].as_u64().unwrap() as u32;
    let tokens: Vec<u32> = serde_json::from_value(drawn[0]["prompt"].clone()).unwrap();
    let model = Model::load(&lab::folder("tinystories-2l").unwrap(), Processing::default()).unwrap();
    let target = Target { prompt: 0, position: tokens.len() - 1, token };
    let run = model.run(&Prompts::from_rows([tokens]), &Ask::nothing().with_predictions([target]), &[]).unwrap();
    assert_eq!(run.predictions()[0].rank, 0);
    assert_eq!(drawn[0]["text"], "Once upon a time");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = directrix()
        .args(["generate", "--prompt", "One day", "--tokens", "30"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

/// Runs a command with `input` on its standard input; gives its stdout.
fn with_input(args: &[&str], input: &str) -> String {
    let mut child = directrix().args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    text(&output.stdout)
}

#[test]
fn prompts_are_read_from_standard_input_as_text_and_as_json_lines() {
    let args = ["attribute", "--prompts", "-", "--json"];
    let one = with_input(&args, "Tim said, \"I like it.\"\n<|endoftext|>\nShe said, \"No.\"\n");
    let lines = "{\"text\": \"Tim said, \\\"I like it.\\\"\"}\n{\"text\": \"She said, \\\"No.\\\"\"}\n";
    assert_eq!(with_input(&args, lines), one);
    let texts = ["--text", "Tim said, \"I like it.\"", "--text", "She said, \"No.\""];
    assert_eq!(done(&[&["attribute", "--json"], &texts[..]].concat()), one);
    let first = with_input(&[&args[..], &["--limit", "1"]].concat(), lines);
    assert!(first != one && first.contains("\"n\": 1"));
}

#[test]
fn several_directions_are_json_lines_and_the_default_sae_is_the_last_everywhere() {
    let folder = Folder::new();
    let index = folder.at("index");
    done(&["index", "--limit", "10", "--out", &index]);
    let lines = done(&["direction", "1-3,7", "--index", &index, "--json"]);
    let rows: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<u64> = rows.iter().map(|row| row["direction"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 7]);
    assert_eq!(rows[1], json(&["direction", "2", "--index", &index]));
    assert!(rows.iter().all(|row| row["sae"] == "sae-l1"));
    let text = "Tim said, \"I like it.\"";
    let ablated = json(&["ablate", "--directions", "2", "--text", text]);
    let attributed = json(&["attribute", "--direction", "2", "--text", text]);
    for found in [ablated, attributed] {
        assert_eq!(found["saes"], serde_json::json!(["tinystories-2l/sae-l1"]));
    }
}

#[test]
fn a_direction_that_is_inactive_where_it_is_ablated_is_reported_so() {
    let args = [
        "ablate",
        "--sae",
        "tinystories-2l/sae-l0",
        "--text",
        "Tim said, \"I like it.\"",
        "--text",
        "She saw a dog and a cat.",
    ];
    let found = json(&[&args[..], &["--directions", "429"]].concat());
    let active: Vec<bool> =
        found["rows"].as_array().unwrap().iter().map(|row| row["active"].as_bool().unwrap()).collect();
    assert_eq!(active, [true, false]);
    assert!(found["rows"][1]["loss_increase"].is_null() && found["rows"][1]["rank_ablated"].is_null());
    assert!(found["rows"][1]["log_prob"].is_number());
    assert_eq!(
        (&found["overall"]["n"], &found["overall"]["loss_increase"]),
        (&1.into(), &found["rows"][0]["loss_increase"])
    );
    assert!(found["overall"]["half_width"].is_null(), "one prompt gives no interval");
    let shown = done(&[&args[..], &["--directions", "429"]].concat());
    assert!(shown.contains("inactive") && !shown.contains("0.0000"), "{shown}");

    let each = json(&[&args[..], &["--directions", "429,3", "--each"]].concat());
    assert_eq!((&each["rows"][0]["n"], &each["rows"][1]["n"]), (&1.into(), &0.into()));
    assert!(each["rows"][1]["loss_increase"].is_null());
    let shown = done(&[&args[..], &["--directions", "3"]].concat());
    assert!(shown.contains("nothing was ablated") && !shown.contains("0.0000"), "{shown}");
    let everywhere = json(&[&args[..], &["--directions", "429", "--everywhere"]].concat());
    assert_eq!(everywhere["rows"].as_array().unwrap().len(), 2);
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = done(&["completions", shell]);
        assert!(script.contains("cooccurrence") && script.contains("effects-prompts"), "{shell}");
    }
    done(&["man", "--out", &folder.at("man")]);
    let page = |name: &str| fs::read_to_string(folder.path().join("man").join(name)).unwrap();
    assert!(page("directrix.1").contains("directrix"));
    assert!(page("directrix-circuits-cosine.1").contains("lower") && page("directrix-ablate.1").contains("Examples"));
}
