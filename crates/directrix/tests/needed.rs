//! Which directions are needed together, and which for a behaviour, as commands.

mod common;

use common::{Folder, done, failed, json};
use serde_json::Value;

fn number(row: &Value, column: &str) -> f64 {
    row[column].as_f64().unwrap_or_else(|| panic!("no {column} in {row}"))
}

fn rows(found: &Value) -> &Vec<Value> {
    found["rows"].as_array().unwrap()
}

#[test]
fn pairs_of_upstream_directions_have_the_interaction_of_what_each_takes() {
    let folder = Folder::new();
    let index = folder.at("index");
    done(&["index", "--limit", "120", "--out", &index]);
    let args = ["circuits", "conjunctions", "1063", "--index", &index, "--upstream", "4"];
    let found = json(&args);
    assert!(!rows(&found).is_empty() && rows(&found).len() <= 6);
    for row in rows(&found) {
        assert_eq!(row["second"], 1063);
        assert!(["and", "or", "additive", "neither"].contains(&row["verdict"].as_str().unwrap()), "{row}");
        let expected = number(row, "lost_both") - number(row, "lost_first") - number(row, "lost_other");
        assert!((number(row, "interaction") - expected).abs() < 1e-6, "{row}");
    }
    let joint = json(&[&args[..], &["--joint"]].concat());
    for (place, row) in rows(&joint).iter().enumerate() {
        assert_eq!(number(row, "size"), place as f64 + 1.0);
    }
    let message = failed(1, &["circuits", "conjunctions", "2048", "--index", &index]);
    assert!(message.contains("2047") || message.contains("2048"), "{message}");
}

#[test]
fn a_circuit_of_all_nodes_is_the_model_and_one_of_none_nothing() {
    let folder = Folder::new();
    let starts = ["Lily was sad because", "Mia said that", "Tim asked if", "Anna thought that"];
    let prompts = folder.write("answers.txt", starts.map(|start| format!("{start} she")).join("\n<|endoftext|>\n"));
    let found = json(&["circuits", "behaviour", "--prompts", &prompts]);
    let (none, all) = (&rows(&found)[0], rows(&found).last().unwrap());
    assert_eq!((number(none, "size"), number(none, "faithfulness"), number(none, "completeness")), (0.0, 0.0, 1.0));
    assert_eq!((number(all, "faithfulness"), number(all, "completeness")), (1.0, 0.0));
    let sizes: Vec<f64> = rows(&found).iter().map(|row| number(row, "size")).collect();
    assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");

    let few = folder.write("few.txt", "Lily was sad because she");
    let message = failed(1, &["circuits", "behaviour", "--prompts", &few]);
    assert!(message.contains("four or more"), "{message}");
}
