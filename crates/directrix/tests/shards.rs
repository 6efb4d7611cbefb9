//! Work in shards, which anything can start: what is put together of them is what one process gives.

mod common;

use std::path::Path;

use common::{Folder, done, failed, files, fixture, run, strings, text};

/// An index of two SAEs by one process, and the flags that name what it is of.
fn indexed(folder: &Folder) -> (String, Vec<String>) {
    let (model, corpus, out) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 400, 64), folder.at("index"));
    let [first, second] = ["sae-l0", "sae-l2"].map(|sae| fixture(&format!("gpt2-tiny/{sae}")));
    let inputs = strings(&["--model", &model, "--sae", &first, "--sae", &second, "--corpus", &corpus]);
    done(&[&["index", "--out", &out], &flags(&inputs)[..]].concat());
    (out, inputs)
}

fn flags(of: &[String]) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

#[test]
fn shards_of_an_index_are_merged_to_the_bits_of_one_pass() {
    let folder = Folder::new();
    let (whole, inputs) = indexed(&folder);
    let shard = |i: usize, out: &str| {
        done(&[&["index", "--shard", &format!("{i}/5"), "--out", out], &flags(&inputs)[..]].concat())
    };
    let parts: Vec<String> = (1..=5).map(|i| folder.at(&format!("shard-{i}"))).collect();
    let said: Vec<String> = parts.iter().enumerate().map(|(i, part)| shard(i + 1, part)).collect();
    assert!(said[1].contains("documents 80 to 160 of 400"), "{}", said[1]);

    let (half, merged) = (folder.at("half"), folder.at("merged"));
    let missing = failed(1, &["merge", &parts[0], &parts[2], &parts[4], "--out", &merged]);
    assert!(missing.contains("--shard 2/5") && missing.contains("--shard 4/5"), "{missing}");
    assert!(!Path::new(&merged).exists());
    let said = done(&["merge", &parts[4], &parts[0], &parts[2], "--piece", "--out", &half]);
    assert!(said.contains("0 to 80, 160 to 240, 320 to 400 of 400"), "{said}");
    done(&["merge", &parts[3], &half, &parts[1], "--out", &merged]);
    assert!(files(Path::new(&merged)) == files(Path::new(&whole)));
    // It is there already, and stays.
    done(&["merge", &parts[3], &half, &parts[1], "--out", &merged]);

    let twice = failed(1, &["merge", &parts[0], &half, &parts[1], &parts[3], "--out", &folder.at("twice")]);
    assert!(twice.contains("document 0 is in"), "{twice}");
    let other = folder.at("other");
    done(&[&["index", "--shard", "2/5", "--limit", "300", "--out", &other], &flags(&inputs)[..]].concat());
    let other = failed(1, &["merge", &half, &other, &parts[3], "--out", &folder.at("mixed")]);
    assert!(other.contains("not pieces of one index"), "{other}");
    for (value, says) in [("0/4", "from 1/N to N/N"), ("5/4", "2/8"), ("1", "2/8"), ("-1/2", "2/8"), ("1/0", "2/8")] {
        let said = failed(2, &["index", "--shard", value]);
        assert!(said.contains(says), "{said}");
    }
    let piece = failed(1, &[&["index", "--out", &parts[0]], &flags(&inputs)[..]].concat());
    assert!(piece.contains("other documents of the corpus"), "{piece}");
}

#[test]
fn edges_kept_by_shards_of_an_index_are_those_of_one_process() {
    let folder = Folder::new();
    let (index, inputs) = indexed(&folder);
    let (alone, shared) = (folder.at("alone"), folder.at("parts"));
    let keep = |out: &str, more: &[&str]| {
        let args = [&["index", "--edges", "--out", out], more].concat();
        let output = run(&args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let early = failed(2, &[&["index", "--edges", "--shard", "1/3", "--out", &alone], &flags(&inputs)[..]].concat());
    assert!(early.contains("make it first"), "{early}");
    for out in [&alone, &shared] {
        done(&[&["index", "--out", out], &flags(&inputs)[..]].concat());
    }
    let (expected, _) = keep(&alone, &[]);
    let kept = files(Path::new(&alone));
    assert_eq!(kept.len(), files(Path::new(&index)).len() + 4, "{:?}", kept.keys());

    let (shown, said) = keep(&shared, &["--shard", "3/3"]);
    assert!(shown.is_empty() && said.contains("the shards 1/3, 2/3"), "{shown}{said}");
    let early = failed(1, &["index", "--edges", "--out", &shared]);
    assert!(early.contains("the shards 1/3, 2/3"), "{early}");
    // Each of the others once: no sweep waits for another.
    keep(&shared, &["--shard", "1/3"]);
    let (shown, said) = keep(&shared, &["--shard", "2/3"]);
    assert!(shown.is_empty() && !said.contains("shards"), "{shown}{said}");
    assert_eq!(keep(&shared, &[]).0.replace(&shared, &alone), expected);
    assert!(files(Path::new(&shared)) == kept);
}

#[test]
fn edges_verified_in_shards_are_those_of_one_process() {
    let folder = Folder::new();
    let (index, inputs) = indexed(&folder);
    let verify = |out: &str, more: &[&str]| -> Vec<String> {
        let inputs = &inputs[..inputs.len() - 2];
        let how =
            ["--by", "causal", "--top", "30", "--sample-prompts", "6", "--least-prompts", "2", "--verify-prompts", "8"];
        strings(&[&["circuits", "verify", "--index", &index, "--out", out], &how[..], &flags(inputs), more].concat())
    };
    let (alone, out) = (folder.at("alone"), folder.at("shards"));
    let expected = done(&flags(&verify(&alone, &[])));
    let shard = |i: usize| {
        let output = run(&flags(&verify(&out, &["--shard", &format!("{i}/3")])));
        assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    // Rankings first: what is verified is known when all shards have ranked.
    let said = shard(2);
    assert!(said.contains("`edges`") && said.contains("the shards 1/3"), "{said}");
    let early = failed(1, &flags(&verify(&out, &[])));
    assert!(early.contains("the shards 1/3"), "{early}");
    let other = failed(1, &flags(&verify(&out, &["--shard", "1/4"])));
    assert!(other.contains("`shards` was 3 and is 4"), "{other}");
    let other = failed(1, &flags(&verify(&out, &["--shard", "1/3", "--rate", "0.2"])));
    assert!(other.contains("another run"), "{other}");
    for i in [1, 3, 2, 1, 3, 2] {
        shard(i);
    }
    assert_eq!(done(&flags(&verify(&out, &[]))), expected);
    assert!(files(Path::new(&out)) == files(Path::new(&alone)));
    assert!(!Path::new(&format!("{out}.units")).exists());
    let nowhere = verify(&out, &["--shard", "1/3"]).into_iter().filter(|arg| *arg != "--out" && *arg != out);
    assert!(failed(2, &flags(&nowhere.collect::<Vec<_>>())).contains("--out"));
}

#[test]
fn a_study_in_shards_goes_on_in_rounds_to_the_report_of_one_process() {
    let folder = Folder::new();
    let study = include_str!("../../../studies/closing-quote.toml");
    let sections = "[[section]]\nkind = \"single_ablations\"\n[[section]]\nkind = \"joint_ablation\"\n";
    let file = folder.write("study.toml", format!("limit = 150\n{study}\n{sections}"));
    let (alone, out) = (folder.at("alone"), folder.at("shards"));
    done(&["study", &file, "--out", &alone]);
    let shard = |i: usize| run(&["study", &file, "--out", &out, "--shard", &format!("{i}/2")]);
    let no_index = shard(1);
    assert!(!no_index.status.success() && text(&no_index.stderr).contains("directrix index"));
    let index = format!("{out}/index");
    done(&["index", "--limit", "150", "--out", &index]);
    for round in 0.. {
        assert!(round < 12, "it does not end");
        let both = [shard(1), shard(2)];
        assert!(both.iter().all(|shard| shard.status.success() && shard.stdout.is_empty()));
        if !both.iter().any(|shard| text(&shard.stderr).contains("goes on when")) {
            break;
        }
    }
    done(&["study", &file, "--out", &out]);
    let (mut expected, mut found) = (files(Path::new(&alone)), files(Path::new(&out)));
    assert!(expected.remove("report.html").is_some() && found.remove("report.html").is_some());
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in expected {
        assert!(found[&name] == bytes, "{name}");
    }
}
