//! What commands print fits the width there is, and breaks no number.

mod common;

use common::{Folder, directrix, text};

const TEXT: &str = "Mia saw a cake. She said, \"I want to eat it.\"";

/// What a command prints where there are so many columns.
fn shown(args: &[&str], columns: usize) -> String {
    let output = directrix().args(args).env("COLUMNS", columns.to_string()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// What stands between spaces and has a digit.
fn numbers(shown: &str) -> impl Iterator<Item = &str> {
    shown
        .split_whitespace()
        .map(|word| word.trim_matches(['(', ',', ')']))
        .filter(|word| word.contains(|c: char| c.is_ascii_digit()))
}

#[test]
fn every_table_fits_40_80_and_120_columns_and_breaks_no_number() {
    let folder = Folder::new();
    let (index, acts, sae) = (folder.at("i"), "a.safetensors", "tinystories-2l/sae-l0");
    let captured = folder.at(acts);
    shown(&["index", "--limit", "60", "--out", &index], 80);
    let ablate =
        ["ablate", "--sae", sae, "--directions", "429,3", "--text", TEXT, "--text", "She said, \"Look at it.\""];
    let commands: [(&[&str], bool); 16] = [
        (&ablate, true),
        (&[&ablate[..], &["--each"]].concat(), true),
        (&[&ablate[..], &["--everywhere"]].concat(), true),
        (&["attribute", "--text", TEXT], true),
        (&["attribute", "--sae", sae, "--direction", "429", "--text", TEXT], true),
        (&["circuits", "cosine", "--top", "5"], true),
        (&["circuits", "cooccurrence", "--text", TEXT, "--first-position", "5", "--top", "5"], true),
        (&["circuits", "graph", "--text", TEXT], true),
        (&["circuits", "graph", "--text", TEXT, "--heads"], true),
        (&["circuits", "graph", "--text", TEXT, "--qk", "1.3"], true),
        (&["evaluate", "--limit", "5"], true),
        (&["search", "said, \"", "--index", &index], true),
        (&["search", "--query", "sae-l0/429", "--index", &index], true),
        (&["explain", "--text", TEXT, "--index", &index], true),
        (&["direction", "429,0", "--sae", "sae-l0", "--index", &index], true),
        // The folder's name may be as long as it is.
        (&["capture", "--text", TEXT, "--sae", sae, "--hook", "blocks.*.mlp.hook_post", "--out", &captured], false),
    ];
    for (args, whole) in commands {
        let wide = shown(args, 400);
        let known: Vec<&str> = numbers(&wide).collect();
        for columns in [40, 80, 120] {
            let shown = shown(args, columns);
            for line in shown.lines().skip(usize::from(!whole)) {
                assert!(line.chars().count() <= columns, "{args:?} at {columns}: {line}");
            }
            for number in numbers(&shown).filter(|number| !number.contains('…')) {
                assert!(known.contains(&number), "{args:?} at {columns}: {number} in\n{shown}");
            }
        }
    }
}

#[test]
fn what_is_no_terminal_has_80_columns_and_json_has_all() {
    let args = ["ablate", "--sae", "tinystories-2l/sae-l0", "--directions", "429", "--text", TEXT];
    let plain = directrix().args(args).env_remove("COLUMNS").output().unwrap();
    assert_eq!(text(&plain.stdout), shown(&args, 80));
    assert!(text(&plain.stdout).contains("--json"));
    let all = shown(&[&args[..], &["--json"]].concat(), 40);
    for key in ["log_prob_ablated", "logit_ablated", "rank_ablated", "loss_increase", "\"saes\"", "\"model\""] {
        assert!(all.contains(key), "{key}");
    }
}
