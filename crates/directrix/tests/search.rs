//! Where texts, tokens and directions are, and what is active at a text, as commands.

mod common;

use std::collections::BTreeSet;

use common::{Folder, done, failed, fixture, json, run, text};
use directrix::index::Place;
use directrix::lab;
use serde_json::Value;

fn rows<'a>(found: &'a Value, key: &str) -> &'a Vec<Value> {
    found[key].as_array().unwrap()
}

/// An index of some stories.
fn indexed() -> (Folder, String) {
    let folder = Folder::new();
    let index = folder.at("index");
    done(&["index", "--limit", "60", "--out", &index]);
    (folder, index)
}

#[test]
fn a_text_is_found_with_the_directions_that_fire_on_it() {
    let (folder, index) = indexed();
    let out = folder.at("out");
    let found = json(&["search", "said, \"", "--index", &index, "--out", &out, "--top", "1000000", "--examples", "3"]);
    let opened = lab::open_index(index.as_ref()).unwrap();
    let matches = found["matches"].as_u64().unwrap();
    assert!(matches > 20, "{matches}");
    assert_eq!(rows(&found, "examples").len(), 3);
    for example in rows(&found, "examples") {
        let read = format!("{}{}", example["before"].as_str().unwrap(), example["token"].as_str().unwrap());
        assert!(read.ends_with("said, \""), "{example}");
    }

    // The places and the directions that were written, counted again.
    let written = std::fs::read_to_string(format!("{out}/matches.csv")).unwrap();
    let places: BTreeSet<Place> = written
        .lines()
        .skip(1)
        .map(|line| line.split_once(',').unwrap())
        .map(|(prompt, position)| Place { prompt: prompt.parse().unwrap(), position: position.parse().unwrap() })
        .collect();
    assert_eq!(places.len() as u64, matches);
    let prompts: BTreeSet<usize> = places.iter().map(|place| place.prompt).collect();
    assert_eq!(prompts.len() as u64, found["prompts"].as_u64().unwrap());
    for (sae, name) in ["sae-l0", "sae-l1"].into_iter().enumerate() {
        let own: Vec<&Value> = rows(&found, "directions").iter().filter(|row| row["sae"] == name).collect();
        let mut fires = vec![0_u64; opened.sae(sae).directions()];
        for Place { prompt, position } in &places {
            opened.sae(sae).at(*prompt, *position).unwrap().0.iter().for_each(|d| fires[*d as usize] += 1);
        }
        assert_eq!(own.len(), fires.iter().filter(|n| **n > 0).count());
        for row in own {
            let direction = row["direction"].as_u64().unwrap() as usize;
            assert_eq!(row["fires"].as_u64().unwrap(), fires[direction]);
            assert_eq!(row["density"], opened.sae(sae).direction(direction).density);
        }
    }
    assert!(std::fs::read_to_string(format!("{out}/directions.csv")).unwrap().starts_with("sae,direction,fires,"));

    let shown = done(&["search", "said, \"", "--index", &index, "--sae", "sae-l1", "--top", "3", "--examples", "1"]);
    assert!(shown.starts_with("\"said, \\\"\" in tinystories-2l/stories.txt: "), "{shown}");
    assert!(shown.contains("sae-l1") && !shown.contains("sae-l0") && shown.contains("said, «\"»"), "{shown}");
    let again = done(&[
        "search",
        "said, \"",
        "--index",
        &index,
        "--sae",
        "1",
        "--top",
        "3",
        "--examples",
        "1",
        "--threads",
        "1",
    ]);
    assert_eq!(shown, again, "on any number of threads");
}

#[test]
fn the_ways_of_saying_what_is_looked_for_agree() {
    let (_folder, index) = indexed();
    let find = |how: &[&str]| {
        let found = json(&[&["search", "--index", index.as_str(), "--top", "3"], how].concat());
        (found["matches"].clone(), found["left_out"].clone(), found["directions"].clone(), found["examples"].clone())
    };
    assert_eq!(find(&["said, \""]), find(&["--regex", "said, \\x22"]));
    assert_eq!(find(&["said, \""]), find(&["--query", r#""said, \"""#]));
    let it = find(&["--tokens", " it"]);
    let id = done(&["direction", "429", "--sae", "sae-l0", "--index", &index, "--json"]);
    let id = serde_json::from_str::<Value>(&id).unwrap()["tokens"][0].clone();
    assert_eq!(id["text"], " it");
    assert_eq!(it, find(&["--tokens", &id["token"].to_string()]));
    assert_eq!(it, find(&["--query", &format!("[{}]", id["token"])]));
    let both = find(&["--query", &format!("sae-l0/429 & [{}]", id["token"])]);
    let first = &both.3[0];
    assert!(first["activations"]["sae-l0/429"].as_f64().unwrap() > 1.0 && first["token"] == " it", "{first}");
    // At the start of a story is where nothing counts.
    let start = json(&["search", "Once upon a time", "--index", &index]);
    assert_eq!((&start["matches"], start["left_out"].as_u64().unwrap() > 40), (&0.into(), true));
}

#[test]
fn what_cannot_be_looked_for_is_answered_in_a_sentence() {
    let (_folder, index) = indexed();
    for (args, said) in [
        (&[""][..], "FIND: an empty text is everywhere; give at least one character"),
        (&["--regex", "a("], "FIND: the regular expression cannot be understood: unclosed group"),
        (&["--tokens", ""], "FIND: no tokens are given"),
        (&["--tokens", "5000"], "FIND: there is no token 5000: the vocabulary has 0 to 4095"),
        (&["--query", "sae-l2/3"], "at character 1: the index has no SAE `sae-l2`; it has sae-l0, sae-l1"),
        (&["--query", "sae-l1/2048"], "at character 8: sae-l1 has directions 0 to 2047, so there is no direction 2048"),
        (&["--query", "sae-l1/3 &"], "at character 11: expected SAE/DIRECTION, \"text\", /regex/"),
        (&["--query", ""], "at character 1: expected"),
    ] {
        let message = failed(2, &[&["search", "--index", &index], args].concat());
        assert!(message.contains(said) && message.lines().count() == 1, "{args:?}: {message}");
    }
    let both = failed(2, &["search", "--index", &index, "--regex", "--query", "a"]);
    assert!(both.contains("cannot be used with"), "{both}");
    assert!(failed(2, &["search"]).contains("<FIND>"));
    let sae = failed(1, &["search", "a", "--index", &index, "--sae", "sae-l2"]);
    assert!(sae.contains("no SAE `sae-l2`; it has 0 (sae-l0), 1 (sae-l1)"), "{sae}");
    let none = failed(1, &["search", "a", "--index", "no/such/index"]);
    assert!(none.contains("holds no index; make one with"), "{none}");
}

#[test]
fn without_a_tokenizer_tokens_and_directions_are_found() {
    let folder = Folder::new();
    let (model, corpus, index) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 40, 64), folder.at("index"));
    let sae = fixture("gpt2-tiny/sae-l0");
    done(&["index", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", &index, "--skip-first", "0"]);
    let output = run(&["search", "a", "--index", &index]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("there is no tokenizer; name a folder with one by --model, or give token ids")
    );
    let found = json(&["search", "--tokens", "7", "--index", &index]);
    assert!(found["matches"].as_u64().unwrap() > 3);
    assert_eq!(found["examples"][0]["token"], "[7]");
    assert!(done(&["search", "--query", "[7] & !sae-l0/3", "--index", &index]).contains("«[7]»"));
}

#[test]
fn every_direction_that_is_active_at_a_text_is_listed() {
    let (folder, index) = indexed();
    // A prompt of the corpus, of which the index has every activation.
    let opened = lab::open_index(index.as_ref()).unwrap();
    let tokens = opened.prompt(7).unwrap();
    let ids = folder.write("ids.jsonl", format!("{{\"tokens\": {tokens:?}}}\n"));
    let found = json(&["explain", "--prompts", &ids, "--top", "1000000", "--index", &index]);
    let mut row = rows(&found, "rows").iter();
    for position in 0..tokens.len() {
        for (number, name) in ["sae-l0", "sae-l1"].into_iter().enumerate() {
            let sae = opened.sae(number);
            let (directions, values) = sae.at(7, position).unwrap();
            let mut active: Vec<(u32, f32)> = directions.iter().copied().zip(values.iter().copied()).collect();
            active.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            for (direction, activation) in active {
                let row = row.next().unwrap();
                assert_eq!((&row["sae"], &row["direction"]), (&name.into(), &direction.into()), "{row}");
                assert_eq!((&row["prompt"], &row["position"]), (&0.into(), &position.into()));
                assert_eq!(row["activation"].as_f64().unwrap() as f32, activation);
                let maximum = sae.maxima()[direction as usize];
                assert_eq!(
                    row["of_maximum"].as_f64().map(|of| of as f32),
                    (maximum > 0.0).then_some(activation / maximum)
                );
                assert!(row["top_token"].is_string() && row["token"].is_string());
            }
        }
    }
    assert!(row.next().is_none());

    let out = folder.at("out");
    let two = json(&["explain", "--text", "Tim said", "--sae", "tinystories-2l/sae-l1", "--top", "2", "--out", &out]);
    assert_eq!(rows(&two, "rows").len(), 3 * 2);
    assert_eq!(rows(&two, "rows")[2]["token"], "Tim");
    assert!(two["rows"][0].get("top_token").is_none());
    assert!(
        std::fs::read_to_string(format!("{out}/active.csv"))
            .unwrap()
            .starts_with("prompt,position,token,sae,direction,activation\n")
    );
}

#[test]
fn what_cannot_be_explained_is_answered_in_a_sentence() {
    let (folder, index) = indexed();
    assert!(failed(1, &["explain", "--text", ""]).contains("holds no prompt"));
    assert!(failed(2, &["explain"]).contains("--text"));
    assert!(failed(1, &["explain", "--text", "a", "--index", "no/such/index"]).contains("holds no index"));
    assert!(failed(1, &["explain", "--text", "a", "--sae", "tinystories-2l/sae-l9"]).contains("no folder"));
    assert!(failed(2, &["explain", "--text", "a", "--top", "0"]).contains("--top 0: give a whole number from 1 to"));
    let raw = failed(1, &["explain", "--text", "a", "--index", &index, "--no-processing"]);
    assert!(raw.contains("weights that were processed in another way"), "{raw}");
    drop(folder);
}
