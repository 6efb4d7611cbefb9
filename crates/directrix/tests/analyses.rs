//! The analyses as commands: against the library, and on bad input.

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Folder, directrix, done, failed, json, text};
use directrix::circuits::{Change, Trial, effects, logit_attribution};
use directrix::corpus::{Prompts, Watch};
use directrix::lab;
use directrix::model::{Model, Processing};
use directrix::sae::Sae;
use serde_json::Value;

const TEXT: &str = "Tim had a toy. His mom said, \"I like it.\"";
const STUDY: &str = include_str!("../../../studies/closing-quote.toml");

struct Shipped {
    model: Model,
    sae: Sae,
    prompts: Prompts,
}

fn shipped() -> Shipped {
    let folder = lab::folder("tinystories-2l").unwrap();
    let model = Model::load(&folder, Processing::default()).unwrap();
    let sae = Sae::load(&lab::folder("tinystories-2l/sae-l0").unwrap()).unwrap().fit(model.config()).unwrap();
    let tokenizer = folder.tokenizer().unwrap().unwrap();
    let mut tokens = vec![tokenizer.bos().unwrap()];
    tokens.extend(tokenizer.encode(TEXT).unwrap());
    Shipped { model, sae, prompts: Prompts::from_rows([tokens]) }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn ablate_gives_the_librarys_effects() {
    let Shipped { model, sae, prompts } = shipped();
    let tokens = prompts.get(0);
    let position = tokens.len() - 2;
    // Directions that are active there, so that ablating them does something.
    let run = model.run(&prompts, &directrix::model::Ask::capture([sae.site().reads.hook]), &[]).unwrap();
    let acts = sae.encode(run.captured(sae.site().reads.hook)).unwrap();
    let active: Vec<u32> = acts.at(position).0[..2].to_vec();
    let change = Change::Ablate(active.clone());
    let trial = Trial::answer(&sae, &prompts, 0, change).unwrap();
    let expected = effects(&model, &prompts, &[trial], &Watch::nobody()).unwrap().remove(0);
    let [before, after] = [expected.before.prediction().unwrap(), expected.after.prediction().unwrap()];
    assert!(expected.loss_increase().unwrap().abs() > 1e-3);

    let list = format!("{},{}", active[0], active[1]);
    let args = ["ablate", "--sae", "tinystories-2l/sae-l0", "--directions", &list, "--text", TEXT];
    let found = json(&args);
    let row = &found["rows"][0];
    assert_eq!(number(&row["log_prob"]), before.log_prob);
    assert_eq!(number(&row["log_prob_ablated"]), after.log_prob);
    assert_eq!(row["rank_ablated"], after.rank);

    let everywhere = json(&[&args[..], &["--everywhere"]].concat());
    assert!(number(&everywhere["rows"][0]["loss_increase"]).abs() > 1e-6);
    let each = json(&[&args[..], &["--each"]].concat());
    assert_eq!(each["rows"].as_array().unwrap().len(), 2);
    for (row, direction) in each["rows"].as_array().unwrap().iter().zip(&active) {
        let direction = direction.to_string();
        let alone = json(&["ablate", "--sae", "tinystories-2l/sae-l0", "--directions", &direction, "--text", TEXT]);
        assert_eq!(row["direction"].to_string(), direction);
        assert_eq!(row["loss_increase"], alone["rows"][0]["loss_increase"]);
        assert!(number(&row["random_rows"]).is_finite() && row["random_rows"] != row["loss_increase"]);
    }
}

#[test]
fn attribute_gives_the_librarys_components_and_writes_them() {
    let Shipped { model, prompts, .. } = shipped();
    let folder = Folder::new();
    let found = json(&["attribute", "--text", TEXT, "--out", &folder.at("tables")]);
    let expected = logit_attribution(&model, &prompts, &Watch::nobody()).unwrap();
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), expected.len());
    for (row, component) in rows.iter().zip(expected) {
        assert_eq!(row["component"], component.component);
        assert_eq!(number(&row["mean"]), component.mean);
    }
    let written = fs::read_dir(folder.at("tables")).unwrap().count();
    assert_eq!(written, 2, "one table, as CSV and as Parquet");
    let of_direction = json(&["attribute", "--sae", "tinystories-2l/sae-l1", "--direction", "5", "--text", TEXT]);
    assert!(of_direction["rows"].as_array().unwrap().iter().any(|row| row["component"] == "0_mlp_out"));
}

#[test]
fn circuits_finds_pairs_by_cosine_and_by_ablation() {
    let found = json(&["circuits", "cosine", "--top", "5"]);
    let cosines: Vec<f64> = found["rows"].as_array().unwrap().iter().map(|row| number(&row["cosine"])).collect();
    assert!(cosines.len() == 5 && cosines.is_sorted_by(|a, b| a >= b) && cosines[0] > 0.5);
    let found = json(&["circuits", "cooccurrence", "--text", TEXT, "--first-position", "5", "--above", "1.5"]);
    assert!(!found["rows"].as_array().unwrap().is_empty());
    for kind in ["cosine", "cooccurrence"] {
        assert!(done(&["circuits", kind, "--help"]).contains("Examples:"));
    }
}

fn study(folder: &Folder, extra: &str, sections: &str) -> String {
    folder.write("study.toml", format!("limit = 120\n{extra}\n{STUDY}\n{sections}"))
}

#[test]
fn a_study_prints_the_path_of_its_report_last() {
    let folder = Folder::new();
    let sections = "[[section]]\nkind = \"tokens\"\n[[section]]\nkind = \"single_ablations\"\n";
    let file = study(&folder, "", sections);
    let out = folder.at("out");
    let report = done(&["study", &file, "--out", &out]).lines().last().unwrap().to_owned();
    let page = fs::read_to_string(&report).unwrap();
    assert!(page.contains("Ablating one direction at a time") && !page.contains("Loss recovered"));
    assert!(Path::new(&out).join("tables/single-ablations.parquet").is_file());
}

#[test]
fn a_bad_study_is_refused_with_what_is_wrong() {
    let message = |extra: &str, sections: &str| {
        let folder = Folder::new();
        let file = study(&folder, extra, sections);
        let message = failed(1, &["study", &file, "--out", &folder.at("out")]);
        assert!(!Path::new(&folder.at("out/report.html")).exists());
        message
    };
    assert!(message("colour = 3", "").contains("colour"));
    assert!(message("", "[[section]]\nkind = \"astrology\"").contains("astrology"));
    assert!(message("directions = [5000]", "").contains("no direction 5000"));
    assert!(message("column = 3", "").contains("column"));
    assert!(failed(1, &["study", "none.toml"]).contains("none.toml"));
    let folder = Folder::new();
    let file = folder.write("s.toml", STUDY.replace("said, \"", "quantum"));
    assert!(failed(1, &["study", &file, "--out", &folder.at("out")]).contains("contains \"quantum\""));
    let file = folder.write("t.toml", STUDY.replace("'.\"'", "'hello there'"));
    assert!(failed(1, &["study", &file, "--out", &folder.at("other")]).contains("hello there"));
    assert!(!Path::new(&folder.at("other/index")).exists(), "the answer is checked before the long work");
    let occupied = folder.write("occupied", "");
    assert!(failed(1, &["demo", "--out", &format!("{occupied}/out")]).contains("occupied"));
}

#[test]
fn a_stopped_demo_goes_on_where_it_was() {
    let folder = Folder::new();
    let out = folder.at("out");
    let child =
        directrix().args(["demo", "--out", &out]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (started, checkpoint) = (Instant::now(), folder.at("out/index.partial/checkpoint.json"));
    while !Path::new(&checkpoint).exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("run the same command again"));
    assert!(output.stdout.is_empty() && !Path::new(&folder.at("out/report.html")).exists());
    let report = done(&["demo", "--out", &out]).lines().last().unwrap().to_owned();
    assert!(fs::read_to_string(report).unwrap().contains("Closing a quotation"));
}

#[test]
fn wrong_directions_positions_and_saes_are_named() {
    let ablate = |more: &[&str]| failed(1, &[&["ablate", "--text", TEXT][..], more].concat());
    assert!(ablate(&["--directions", "99999"]).contains("no direction 99999"));
    assert!(ablate(&["--directions", "1", "--position", "999"]).contains("no position 999"));
    assert!(failed(1, &["attribute", "--text", "", "--no-bos"]).contains("--text"));
    let one = ["circuits", "cosine", "--sae", "tinystories-2l/sae-l1"];
    assert!(failed(1, &one).contains("two"));
    let backwards = [&one[..], &["--sae", "tinystories-2l/sae-l0"]].concat();
    assert!(failed(1, &backwards).contains("give the earlier SAE first"));
    assert!(failed(1, &["circuits", "cosine", "--index", "/nowhere"]).contains("nowhere"));
}
