//! The benchmark as a user runs it.

use std::fs;
use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_directrix-bench")).args(args).output().unwrap()
}

/// Runs what must succeed; gives its stdout.
fn done(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what must fail; gives its stderr.
fn failed(code: i32, args: &[&str]) -> String {
    let output = run(args);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// A temporary folder, and paths in it for flags.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    fn at(&self, name: &str) -> String {
        self.path().join(name).to_str().unwrap().into()
    }
}

#[test]
fn every_task_is_timed_on_inputs_that_are_made_once() {
    let folder = Folder::new();
    let (inputs, out) = (folder.at("inputs"), folder.at("out"));
    let args = ["--sizes", "toy", "--inputs", &inputs, "--out", &out];
    let shown = done(&args);
    assert!(shown.lines().all(|line| line.chars().count() <= 110), "{shown}");
    let made = fs::read(folder.path().join("inputs/inputs.json")).unwrap();

    let timed: serde_json::Value = serde_json::from_str(&done(&[&args[..], &["--json"]].concat())).unwrap();
    let timed = timed.as_array().unwrap();
    for row in timed {
        let task = row["task"].as_str().unwrap();
        assert!(shown.contains(task), "{task} is not in {shown}");
        assert!(row["seconds"].as_f64().unwrap() > 0.0 && row["units"].as_u64().unwrap() > 0, "{row}");
        assert!(row["flop"].as_f64().unwrap() > 0.0, "{row}");
        assert!(folder.path().join(format!("out/{task}.safetensors")).is_file(), "{task}");
    }
    assert_eq!(timed.len(), 20, "six products and fourteen tasks");
    assert_eq!(fs::read(folder.path().join("inputs/inputs.json")).unwrap(), made);
    let left: Vec<_> = fs::read_dir(folder.path().join("inputs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 5, "{left:?}");
}

#[test]
fn the_same_seed_gives_the_same_inputs_and_results_on_any_number_of_threads() {
    let folder = Folder::new();
    let files = ["inputs.json", "model/model.safetensors", "sae-1/sae_weights.safetensors"];
    let [one, two] = ["1", "3"].map(|threads| {
        let (inputs, out) = (folder.at(&format!("in-{threads}")), folder.at(&format!("out-{threads}")));
        let task = ["--task", "cooccurrence", "--task", "tables"];
        let args = ["--sizes", "toy", "--inputs", &inputs, "--out", &out, "--threads", threads];
        done(&[&args[..], &task].concat());
        let results = ["cooccurrence", "tables"].map(|task| format!("out-{threads}/{task}.safetensors"));
        let all = files.iter().map(|file| format!("in-{threads}/{file}")).chain(results);
        all.map(|file| fs::read(folder.path().join(file)).unwrap()).collect::<Vec<_>>()
    });
    assert!(one == two);
}

#[test]
fn wrong_sizes_and_foreign_inputs_are_refused() {
    let folder = Folder::new();
    let inputs = folder.at("inputs");
    for (sizes, said) in [
        ("huge", "begin with `origin` or `toy`"),
        ("toy,width=3", "`width` is none of"),
        ("toy,layers=1", "at least 2"),
        ("toy,layers", "NAME=NUMBER"),
    ] {
        let message = failed(2, &["--sizes", sizes, "--inputs", &inputs]);
        assert!(message.contains(said), "{message}");
    }
    done(&["--sizes", "toy", "--inputs", &inputs, "--only-inputs"]);
    let other = failed(1, &["--sizes", "toy,stories=3", "--inputs", &inputs]);
    assert!(other.contains("other sizes or another seed"), "{other}");
    let file = folder.path().join("inputs/inputs.json");
    let whole = fs::read_to_string(&file).unwrap();
    for damaged in [&whole[..whole.len() / 2], &whole.replace("\"directions\":[0,", "\"directions\":[99999,"), "{}"] {
        fs::write(&file, damaged).unwrap();
        let message = failed(1, &["--sizes", "toy", "--inputs", &inputs]);
        assert!(message.contains("remove the folder"), "{message}");
    }
}
