//! Killed at any moment, a command goes on when it is given again: the bytes are those of a run that was not killed, and nothing
//! stray is left.

#![cfg(unix)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Folder, Random, directrix, failed, files, fixture, strings, text};

/// Kills of each kind of work.
const KILLS: usize = 10;
const STUDY: &str = include_str!("../../../studies/closing-quote.toml");

/// Runs `args` to its end in one folder, and with kills at random times in another; `seed` says when.
fn kill(args: &dyn Fn(&str) -> Vec<String>, out: &str, seed: u64) {
    let (whole, killed) = (Folder::new(), Folder::new());
    let start = |out: &str| directrix().args(args(out)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let finish = |out: &str| {
        let output = start(out).wait_with_output().unwrap();
        assert!(output.status.success(), "seed {seed}: {}", text(&output.stderr));
    };
    let begun = Instant::now();
    finish(&whole.at(out));
    let whole_run = begun.elapsed().as_micros() as u64;

    let mut random = Random(seed);
    let mut kills = 0;
    for _ in 0..3 * KILLS {
        let after = Duration::from_micros(random.below(whole_run));
        let mut child = start(&killed.at(out));
        std::thread::sleep(after);
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        println!("seed {seed}: killed after {after:?}, ended {ended}");
        // One that had already ended must have ended well; the next begins anew.
        assert!(output.status.success() || output.status.code().is_none(), "{}", text(&output.stderr));
        if ended {
            fs::remove_dir_all(killed.at(out)).unwrap();
        } else {
            kills += 1;
        }
        if kills == KILLS {
            break;
        }
    }
    finish(&killed.at(out));
    assert!(kills > KILLS / 2, "seed {seed}: most runs ended before they were killed");
    let (expected, found) = (files(whole.path()), files(killed.path()));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "seed {seed}");
    for (name, bytes) in &expected {
        assert!(*bytes == found[name], "seed {seed}: {name} differs");
    }
    assert!(!found.keys().any(|name| name.contains(".partial") || name.contains(".lock")), "{:?}", found.keys());
}

#[test]
fn a_killed_index_goes_on() {
    let folder = Folder::new();
    let (model, sae, corpus) = (fixture("gpt2-tiny"), fixture("gpt2-tiny/sae-l0"), folder.ids("ids.jsonl", 6000, 64));
    kill(&|out| strings(&["index", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", out]), "index", 11);
}

#[test]
fn a_killed_sweep_of_edges_goes_on() {
    let folder = Folder::new();
    let (model, corpus) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 200, 64));
    let [first, second] = ["sae-l0", "sae-l2"].map(|sae| fixture(&format!("gpt2-tiny/{sae}")));
    let inputs = ["--model", &model, "--sae", &first, "--sae", &second, "--corpus", &corpus];
    kill(&|out| strings(&[&["index", "--edges", "--out", out], &inputs[..]].concat()), "index", 15);
}

#[test]
fn a_killed_training_goes_on() {
    let folder = Folder::new();
    let (model, corpus) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 60, 64));
    let flags = ["--objective=topk", "--k=8", "--tokens=64000", "--batch=64", "--buffer=512", "--context=16"];
    let often = ["--log-every=10", "--evaluate-every=100", "--evaluation-prompts=5", "--checkpoint-every=20"];
    kill(
        &|out| {
            strings(&[&["train", "--model", &model, "--corpus", &corpus, "--out", out], &flags[..], &often].concat())
        },
        "sae",
        12,
    );
}

#[test]
fn a_killed_study_goes_on() {
    let folder = Folder::new();
    let sections = "[[section]]\nkind = \"tokens\"\n[[section]]\nkind = \"logit_attribution\"\n";
    let file = folder.write("study.toml", format!("limit = 300\n{STUDY}\n{sections}"));
    kill(&|out| strings(&["study", &file, "--out", out]), "study", 13);
}

#[test]
fn killed_circuits_leave_whole_tables() {
    let args = ["circuits", "cooccurrence", "--prompts", "tinystories-2l/stories.txt", "--limit", "4", "--out"];
    kill(&|out| strings(&[&args[..], &[out]].concat()), "tables", 14);
}

#[test]
fn tables_and_captures_of_a_killed_command_leave_nothing() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path().join("tables")).unwrap();
    for name in ["tables/.summary.csv.7-0.partial", ".acts.safetensors.7-0.partial"] {
        folder.write(name, "half");
    }
    folder.write("tables.lock", "");
    let run = |args: &[&str]| {
        let output = directrix().args(args).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    run(&["evaluate", "--limit", "3", "--out", &folder.at("tables")]);
    run(&["capture", "--text", "Once upon", "--losses", "--out", &folder.at("acts.safetensors")]);
    assert_eq!(folder.names(), ["acts.safetensors", "tables"]);
    assert!(!folder.path().join("tables/.summary.csv.7-0.partial").exists());
    folder.write("tables/.a.csv.7-0.partial", "half");
    run(&["attribute", "--text", "Once upon a time", "--out", &folder.at("tables")]);
    assert!(!folder.path().join("tables/.a.csv.7-0.partial").exists());
}

#[test]
fn a_folder_that_is_deleted_under_a_training_is_a_failure() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("sae"));
    let flags = [
        "--objective=topk",
        "--k=8",
        "--tokens=640000",
        "--batch=64",
        "--buffer=512",
        "--context=16",
        "--checkpoint-every=10",
    ];
    let args = [&["train", "--model", &model, "--corpus", &corpus, "--out", &out], &flags[..]].concat();
    let child = directrix().args(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !Path::new(&out).join("checkpoint.safetensors").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(1));
    }
    // It may write between the removal of a file and that of the folder.
    while Path::new(&out).exists() {
        drop(fs::remove_dir_all(&out));
    }
    let output = child.wait_with_output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("removed") || message.contains("cannot write"), "{message}");
    assert!(!failed(1, &["evaluate", "--model", &model, "--sae", &out, "--corpus", &corpus]).is_empty());
}
