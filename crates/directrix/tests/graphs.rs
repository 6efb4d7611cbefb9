//! `directrix circuits graph` as a user runs it.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{Folder, done, failed, fixture, json};
use serde_json::Value;

const TEXT: &str = "One day, Tim saw a big dog. Tim said, \"I like it.\"";

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_graph_is_shown_and_written_with_its_page_and_files() {
    let folder = Folder::new();
    let out = folder.at("out");
    let shown = done(&["circuits", "graph", "--text", TEXT, "--out", &out]);
    let line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(line.contains("active directions") && line.contains("logit of .\""), "{shown}");
    let read = |name: &str| fs::read_to_string(format!("{out}/{name}")).unwrap_or_else(|e| panic!("{name}: {e}"));
    let nodes = read("tables/nodes.csv");
    assert!(nodes.starts_with("node,kind,position,token,activation,influence"), "{nodes}");
    assert!(read("tables/edges.csv").lines().count() > 100);
    assert!(fs::metadata(format!("{out}/tables/nodes.parquet")).is_ok());
    assert!(read("figures/graph.svg").starts_with("<svg class"));
    let page = read("graph.html");
    assert!(page.contains("graph-drawing") && page.contains("raises"));

    let list: Value = serde_json::from_str(&read("graph-metadata.json")).unwrap();
    assert_eq!(list["graphs"][0]["slug"], "dog-tim-said-i-like-it");
    let file: Value = serde_json::from_str(&read("dog-tim-said-i-like-it.json")).unwrap();
    assert_eq!(file["metadata"], list["graphs"][0]);
    let ids: BTreeSet<&str> =
        file["nodes"].as_array().unwrap().iter().map(|n| n["node_id"].as_str().unwrap()).collect();
    let links = file["links"].as_array().unwrap();
    assert_eq!(links.len() + 1, read("tables/edges.csv").lines().count());
    assert!(
        links.iter().all(
            |link| ids.contains(link["source"].as_str().unwrap()) && ids.contains(link["target"].as_str().unwrap())
        )
    );

    // Another prompt's graph is listed beside it, the same one's once.
    done(&["circuits", "graph", "--text", "Once upon a time there was", "--out", &out]);
    done(&["circuits", "graph", "--text", TEXT, "--out", &out]);
    let list: Value = serde_json::from_str(&read("graph-metadata.json")).unwrap();
    let slugs: Vec<&str> = list["graphs"].as_array().unwrap().iter().map(|g| g["slug"].as_str().unwrap()).collect();
    assert_eq!(slugs, ["once-upon-a-time-there", "dog-tim-said-i-like-it"]);
    fs::write(format!("{out}/graph-metadata.json"), "{").unwrap();
    assert!(failed(1, &["circuits", "graph", "--text", TEXT, "--out", &out]).contains("is damaged; remove it"));
}

#[test]
fn the_value_of_every_direction_and_logit_is_accounted_for() {
    let found = json(&["circuits", "graph", "--text", TEXT, "--logits", "5", "--heads", "--check", "5"]);
    let nodes = found["nodes"].as_array().unwrap();
    assert_eq!(nodes[0]["node"], "logit of .\"");
    assert!(nodes.iter().filter(|node| node["kind"] == "logit").count() > 1);
    for node in nodes.iter().filter(|node| node["value"].is_number()) {
        let sum = number(&node["kept"]) + number(&node["left_out"]) + number(&node["constant"]);
        assert!((sum - number(&node["value"])).abs() < 1e-6, "{node}");
        let into = found["edges"].as_array().unwrap().iter().filter(|edge| edge["target"] == node["node"]);
        let kept: f64 = into.map(|edge| number(&edge["weight"])).sum();
        assert!((kept - number(&node["kept"])).abs() < 1e-4 * (1.0 + kept.abs()), "{node}");
    }
    for edge in found["edges"].as_array().unwrap().iter().take(50) {
        let parts = found["heads"].as_array().unwrap().iter();
        let parts = parts.filter(|part| part["source"] == edge["source"] && part["target"] == edge["target"]);
        let sum: f64 = parts.map(|part| number(&part["weight"])).sum();
        assert!((sum - number(&edge["weight"])).abs() < 1e-4 * (1.0 + sum.abs()), "{edge} {sum}");
    }
    assert_eq!(found["checks"].as_array().unwrap().len(), 10);
    // Given apart, the answer is the same prompt's.
    let (before, answer) = TEXT.split_at(TEXT.len() - 2);
    let apart = json(&["circuits", "graph", "--text", before, "--answer", answer]);
    assert_eq!(apart["nodes"][0], json(&["circuits", "graph", "--text", TEXT])["nodes"][0]);
}

#[test]
fn a_head_is_looked_into() {
    let found = json(&["circuits", "graph", "--text", TEXT, "--qk", "1.3"]);
    let look = found["look"].as_array().unwrap();
    let (score, parts) = look.split_last().unwrap();
    let sum: f64 = parts.iter().map(|part| number(&part["weight"])).sum();
    assert!(score["query"] == "the score" && (sum - number(&score["weight"])).abs() < 1e-6, "{sum} {score}");
    let shown = done(&["circuits", "graph", "--text", TEXT, "--qk", "1.3:5:2"]);
    assert!(shown.contains("from position 5") && shown.contains("at 2 ("), "{shown}");
    for (pair, says) in [
        ("1.9", "the model has 2 layers of 8 heads"),
        ("2.0", "the model has 2 layers of 8 heads"),
        ("1.3:2:5", "does not see position 5 from position 2"),
        ("1.3:99:5", "no position 99"),
    ] {
        let message = failed(1, &["circuits", "graph", "--text", TEXT, "--qk", pair]);
        assert!(message.contains(says), "{pair}: {message}");
    }
    for pair in ["", "1", "1.", "1.2:3", "1.2:3:4:5", "a.b"] {
        let message = failed(2, &["circuits", "graph", "--text", TEXT, "--qk", pair]);
        assert!(message.contains("give LAYER.HEAD"), "{pair}: {message}");
    }
}

#[test]
fn what_has_no_graph_is_said_in_a_sentence() {
    let graph = |more: &[&str]| failed(1, &[&["circuits", "graph"], more].concat());
    assert!(graph(&["--text", "Tim", "--no-bos"]).contains("no position before its last token"));
    assert!(graph(&["--text", "Tim said", "--text", "Tim ran"]).contains("a graph is of one prompt, and there are 2"));
    let long = "Tim ran. ".repeat(200);
    assert!(graph(&["--text", &long]).contains("longer than the model's context of 256"));
    let several = graph(&["--text", TEXT, "--answer", " dog and a cat"]);
    assert!(several.contains("--answer") && several.contains("token"), "{several}");
    let (one, two) = ("tinystories-2l/sae-l0", "tinystories-2l/sae-l1");
    let order = graph(&["--text", TEXT, "--sae", two, "--sae", one]);
    assert!(order.contains("must come before"), "{order}");
    assert!(graph(&["--text", TEXT, "--answer", "99999"]).contains("no token 99999"));
}

#[test]
fn a_prompt_as_long_as_the_context_has_a_graph() {
    let folder = Folder::new();
    let tokens: Vec<usize> = (0..64).map(|place| place * 37 % 128).collect();
    let prompts = folder.write("ids.jsonl", format!("{{\"tokens\": {tokens:?}}}"));
    let sae = |layer: usize| fixture(&format!("gpt2-tiny/sae-l{layer}"));
    let args = ["--model", &fixture("gpt2-tiny"), "--sae", &sae(0), "--sae", &sae(2), "--prompts", &prompts];
    let found = json(&[&["circuits", "graph", "--max-directions", "50"], &args[..]].concat());
    let nodes = found["nodes"].as_array().unwrap();
    assert!(nodes.iter().filter(|node| node["kind"] == "direction").count() <= 50);
    assert_eq!(nodes.iter().filter(|node| node["kind"] == "token").count(), 63);
    assert!(found["notes"].to_string().contains("most influential"), "{}", found["notes"]);
    assert!(found["notes"].to_string().contains("No SAE stands for the MLP of layer 1"), "{}", found["notes"]);
}
