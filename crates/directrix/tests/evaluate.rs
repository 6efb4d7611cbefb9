//! `directrix evaluate` as a user runs it.

mod common;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use common::{Folder, directrix, done, failed, fixture, json, run, text};
use directrix::corpus::Prompts;
use directrix::lab;
use directrix::model::{Model, Processing};
use directrix::sae::{EvaluationOptions, Sae, evaluate};

#[test]
fn the_shipped_saes_are_evaluated() {
    let args = ["evaluate", "--limit", "30"];
    let output = run(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(shown.starts_with("30 prompts, "), "{shown}");
    for expected in ["loss recovered", "blocks.0.mlp.hook_post", "sae-l1", "kurtosis", "128"] {
        assert!(shown.contains(expected), "{expected} is not in {shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    assert_eq!(done(&[&args[..], &["--threads", "1"]].concat()), shown);

    let found = json(&args);
    let recovered = |sae: usize| found["saes"][sae]["token_mean"]["recovered"]["value"].as_f64().unwrap();
    assert!(recovered(0) > 0.95 && recovered(1) > 0.8 && recovered(1) < recovered(0));
    let first: Vec<_> =
        found["saes"][0]["by_position"].as_array().unwrap().iter().map(|at| at["first"].clone()).collect();
    assert_eq!(first, [10, 16, 32, 64, 128]);
    assert_eq!(found["counted"], serde_json::json!({ "skip_first": 10, "skip_last": true, "exclude": [] }));
    let all = json(&[&args[..], &["--skip-first", "0", "--include-last", "--exclude", "."]].concat());
    assert_eq!(all["saes"][0]["by_position"][0]["first"], 0);
    assert_eq!(all["counted"]["exclude"].as_array().unwrap().len(), 1);
    assert!(found["saes"][0].get("by_direction").is_none());
}

#[test]
fn numbers_are_the_librarys_and_are_written_as_tables_and_pictures() {
    let folder = Folder::new();
    let (model_name, corpus) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 20, 64));
    let saes = [fixture("gpt2-tiny/sae-l2"), fixture("gpt2-tiny/sae-l0")];
    let out = folder.at("made/here");
    let found = json(&[
        "evaluate",
        "--model",
        &model_name,
        "--sae",
        &saes[0],
        "--sae",
        &saes[1],
        "--corpus",
        &corpus,
        "--rare-below",
        "0.05",
        "--dense-above",
        "0.3",
        "--out",
        &out,
    ]);

    let row = |line| serde_json::from_value(serde_json::from_str::<serde_json::Value>(line).unwrap()["tokens"].clone());
    let rows: Vec<Vec<u32>> = fs::read_to_string(&corpus).unwrap().lines().map(|line| row(line).unwrap()).collect();
    let model = Model::load(&lab::folder(&model_name).unwrap(), Processing::default()).unwrap();
    let saes = saes.map(|name| Sae::load(&lab::folder(&name).unwrap()).unwrap().fit(model.config()).unwrap());
    let options = EvaluationOptions { rare_below: 0.05, dense_above: 0.3, ..EvaluationOptions::default() };
    let expected =
        evaluate(&model, &saes, &Prompts::from_rows(&rows), &options, &directrix::corpus::Watch::nobody()).unwrap();
    assert_eq!(found["saes"], serde_json::to_value(&expected).unwrap());

    let mut names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let tables = ["densities", "directions", "positions", "summary"].iter();
    let mut wanted: Vec<String> = tables.flat_map(|name| [format!("{name}.csv"), format!("{name}.parquet")]).collect();
    wanted.extend(["front.svg".into(), "positions.svg".into()]);
    wanted.sort();
    assert_eq!(names, wanted);
    let read = |name: &str| fs::read_to_string(format!("{out}/{name}")).unwrap();
    assert_eq!(read("directions.csv").lines().count(), 1 + saes.iter().map(Sae::directions).sum::<usize>());
    let summary = read("summary.csv");
    let names: Vec<&str> = summary.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!(names, ["sae-l2", "sae-l0"]);
    assert!(summary.contains(&expected[0].mse.to_string()));
    for picture in ["front.svg", "positions.svg"] {
        assert!(read(picture).contains("sae-l2"), "{picture}");
    }
}

#[test]
fn bad_input_is_named_and_writes_nothing() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 3, 64), folder.at("out"));
    let with = |more: &[&str]| failed(1, &[&["evaluate", "--model", &model, "--out", &out][..], more].concat());
    let sae = fixture("gpt2-tiny/sae-l0");
    assert!(with(&["--corpus", &corpus]).contains("name one or more with --sae"));
    assert!(with(&["--corpus", &corpus, "--sae", "tinystories-2l/sae-l0"]).contains("reads 512 numbers"));
    assert!(with(&["--corpus", &corpus, "--sae", &sae, "--sae", &sae]).contains("both called `sae-l0`"));
    let empty = folder.write("empty.jsonl", "");
    assert!(with(&["--corpus", &empty, "--sae", &sae]).contains("holds no prompt"));
    assert!(with(&["--corpus", &folder.at("none.jsonl"), "--sae", &sae]).contains("none.jsonl"));
    let outside = folder.write("outside.jsonl", "{\"tokens\": [1, 99999]}\n");
    assert!(with(&["--corpus", &outside, "--sae", &sae]).contains("99999"));
    failed(2, &["evaluate", "--limit", "0"]);
    assert!(!folder.names().contains(&"out".to_owned()));
    let occupied = folder.write("occupied", "");
    let args = ["evaluate", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", &occupied];
    assert!(failed(1, &args).contains("occupied"));
}

#[test]
fn an_interrupted_evaluation_writes_nothing() {
    let folder = Folder::new();
    let child = directrix()
        .args(["evaluate", "--out", &folder.at("out")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("stopped; nothing was written") && output.stdout.is_empty());
    assert!(folder.names().is_empty());
}
