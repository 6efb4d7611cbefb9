//! Edges over whole dictionaries as commands.

mod common;

use std::fs;

use common::{Folder, done, failed, fixture, json};
use serde_json::Value;

/// An index of some of the shipped stories.
fn indexed() -> (Folder, String) {
    let folder = Folder::new();
    let index = folder.at("index");
    done(&["index", "--limit", "60", "--out", &index]);
    (folder, index)
}

fn number(row: &Value, column: &str) -> f64 {
    row[column].as_f64().unwrap_or_else(|| panic!("no {column} in {row}"))
}

fn rows(found: &Value) -> &Vec<Value> {
    found["rows"].as_array().unwrap()
}

#[test]
fn every_measure_ranks_its_strongest_first_and_verification_says_what_holds() {
    let (folder, index) = indexed();
    let few = ["--sample-prompts", "3", "--least-prompts", "2", "--index", &index];
    let measures = [
        ("cosine", 0),
        ("virtual-weight", 0),
        ("mutual-information", 20),
        ("conditional", 20),
        ("correlation", 20),
        ("attribution", 2),
        ("frozen-attribution", 2),
        ("integrated-attribution", 2),
        ("causal", 2),
    ];
    for (by, least) in measures {
        let steps: &[&str] = if by == "integrated-attribution" { &["--steps", "2"] } else { &[] };
        let found = json(&[&["circuits", "edges", "--by", by, "--top", "7"], steps, &few[..]].concat());
        let column = by.replace('-', "_");
        let values: Vec<f64> = rows(&found).iter().map(|row| number(row, &column).abs()).collect();
        assert_eq!(values.len(), 7, "{by}");
        assert!(values.is_sorted_by(|a, b| a >= b), "{by}: {values:?}");
        for row in rows(&found) {
            assert_eq!((&row["from"], &row["to"]), (&"sae-l0".into(), &"sae-l1".into()));
            assert!(least == 0 || number(row, "n") >= f64::from(least), "{by}: {row}");
        }
    }

    let out = folder.at("out");
    let args = [
        &[
            "circuits",
            "verify",
            "--by",
            "correlation",
            "--top",
            "40",
            "--verify-prompts",
            "12",
            "--rate",
            "0.1",
            "--out",
            &out,
        ],
        &few[..],
    ]
    .concat();
    let found = json(&args);
    assert_eq!(rows(&found).len(), 40);
    let mut verified = 0;
    for row in rows(&found) {
        let is_verified = row["verified"].as_bool().unwrap();
        verified += usize::from(is_verified);
        assert!(number(row, "prompts") <= 12.0);
        if number(row, "prompts") >= 2.0 {
            assert_eq!(is_verified, number(row, "q") <= 0.1, "{row}");
            assert!(
                number(row, "low") <= number(row, "change") && number(row, "change") <= number(row, "high"),
                "{row}"
            );
            assert!(number(row, "q") >= number(row, "p") && number(row, "activation") > 0.0, "{row}");
        }
    }
    assert!(verified > 5, "{verified} of 40 are verified");
    assert_eq!(fs::read_to_string(folder.path().join("out/verified-edges.csv")).unwrap().lines().count(), 41);
    assert!(folder.path().join("out/verified-edges.parquet").is_file());
    assert_eq!(
        json(&[&args[..], &["--threads", "1"]].concat()),
        found,
        "as many threads as there are give the same bits"
    );
    let shown = done(&[&args[..], &["--show", "3"]].concat());
    assert_eq!(shown.lines().filter(|line| line.trim_start().starts_with("sae-l0")).count(), 3, "{shown}");
}

#[test]
fn agreement_compares_every_measure_with_the_causal_effect() {
    let (_folder, index) = indexed();
    let found = json(&[
        "circuits",
        "agreement",
        "--index",
        &index,
        "--sample-prompts",
        "3",
        "--least-prompts",
        "2",
        "--verify-prompts",
        "8",
    ]);
    let rows = rows(&found);
    assert_eq!(rows.len(), 8);
    let of = |measure: &str| rows.iter().find(|row| row["measure"] == measure).unwrap();
    assert_eq!((number(of("causal"), "rank_correlation"), number(of("causal"), "precision_at_100")), (1.0, 1.0));
    assert!(number(of("attribution"), "rank_correlation") > number(of("cosine"), "rank_correlation"));
    for row in rows {
        assert!((-1.0..=1.0).contains(&number(row, "rank_correlation")), "{row}");
        assert!((0.0..=1.0).contains(&number(row, "verified_of_100")), "{row}");
    }
}

#[test]
fn an_edge_through_a_head_is_one_of_weights() {
    let through = json(&["circuits", "edges", "--by", "virtual-weight", "--head", "1.3", "--top", "5"]);
    let beside = json(&["circuits", "edges", "--by", "virtual-weight", "--top", "5"]);
    assert_ne!(rows(&through), rows(&beside));
    for (args, says) in [
        (&["--head", "1.3"][..], "--by cosine"),
        (&["--by", "cosine", "--head", "1"], "as 1.3"),
        (&["--by", "cosine", "--head", "1.8"], "8 heads"),
        (&["--by", "cosine", "--head", "0.1"], "does not lie between"),
        (&["--by", "size"], "possible values"),
    ] {
        let code = if says == "as 1.3" || says == "possible values" { 2 } else { 1 };
        let message = failed(code, &[&["circuits", "edges"], args].concat());
        assert!(message.contains(says), "{args:?}: {message}");
    }
}

#[test]
fn what_cannot_be_ranked_says_what_to_do() {
    let folder = Folder::new();
    let nothing = folder.at("nothing");
    let message = failed(1, &["circuits", "verify", "--index", &nothing]);
    assert!(message.contains("directrix index"), "{message}");
    let message = failed(1, &["circuits", "edges", "--sae", "tinystories-2l/sae-l0"]);
    assert!(message.contains("two SAEs or more"), "{message}");
    let one = folder.at("one");
    done(&["index", "--limit", "20", "--sae", "tinystories-2l/sae-l1", "--out", &one]);
    let message = failed(1, &["circuits", "edges", "--index", &one]);
    assert!(message.contains("sae-l0"), "{message}");
    let (_other, index) = indexed();
    let few = ["--sample-prompts", "2", "--least-prompts", "3"];
    let message = failed(1, &[&["circuits", "edges", "--index", &index], &few[..]].concat());
    assert!(message.contains("--least-prompts"), "{message}");
}

#[test]
fn edges_of_an_index_that_stands_are_kept_without_naming_what_it_is_of() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 40, 64), folder.at("index"));
    let [first, second] = ["sae-l0", "sae-l2"].map(|sae| fixture(&format!("gpt2-tiny/{sae}")));
    let inputs = ["--model", &model, "--sae", &first, "--sae", &second, "--corpus", &corpus];
    done(&[&["index", "--out", &out], &inputs[..]].concat());
    let found = json(&["index", "--edges", "--out", &out]);
    let measures: Vec<&Value> = found["edges"].as_array().unwrap().iter().map(|of| &of["measure"]).collect();
    assert_eq!(measures, ["cosine", "virtual-weight", "attribution", "causal"]);
    assert_eq!(found["already_complete"], true);
    let kept = |name: &str| fs::read(folder.path().join("index/edges").join(name)).unwrap();
    let before = kept("0-1.causal");
    // The command that made the index, given again, finds them complete.
    let shown = done(&[&["index", "--edges", "--out", &out], &inputs[..]].concat());
    assert!(shown.contains("causal") && kept("0-1.causal") == before, "{shown}");
    let message = failed(1, &["index", "--edges", "--out", &out, "--limit", "5"]);
    assert!(message.contains("other inputs"), "{message}");
}
