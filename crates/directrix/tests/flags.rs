//! Every flag of every command with values that cannot be: a sentence and a code, never a panic, an abort or a wild allocation.

mod common;

use common::{Folder, done, failed, fixture, run, text};

const HOSTILE: [&str; 10] = ["", "abc", "-1", "0", "nan", "-inf", "1e400", "3-9", "1.5", "99999999999999999999"];

/// The commands, by what `--help` lists.
fn commands() -> Vec<Vec<String>> {
    let listed = |help: &str| -> Vec<String> {
        let part = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let names = part.take_while(|line| line.starts_with("  ")).filter_map(|line| line.split_whitespace().next());
        names.filter(|name| *name != "help").map(String::from).collect()
    };
    let mut all = Vec::new();
    for command in listed(&done(&["--help"])) {
        let below = listed(&done(&[&command, "--help"]));
        if below.is_empty() {
            all.push(vec![command]);
        } else {
            all.extend(below.into_iter().map(|sub| vec![command.clone(), sub]));
        }
    }
    all
}

/// The flags of a command that take a value, and what it is called.
fn flags(command: &[String]) -> Vec<(String, String)> {
    let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
    let help = done(&args);
    let flag = |line: &str| {
        let line = line.trim_start();
        let (flag, value) = line.split_once(" <").filter(|_| line.starts_with("--"))?;
        Some((flag.to_owned(), value.split('>').next()?.to_owned()))
    };
    help.lines().filter_map(flag).collect()
}

/// What a command needs beside the flag that is tried: a model so small that what a value is accepted for ends at once.
fn needed(command: &[String], folder: &Folder) -> Vec<String> {
    let (model, saes) = (fixture("gpt2-tiny"), ["sae-l0", "sae-l2"].map(|sae| fixture(&format!("gpt2-tiny/{sae}"))));
    let corpus = folder.ids("ids.jsonl", 8, 64);
    let out = folder.at("out");
    let sae = ["--sae", saes[0].as_str()];
    let two = [&sae[..], &["--sae", &saes[1]]].concat();
    let of_corpus = ["--model", model.as_str(), "--corpus", &corpus];
    let of_prompts = ["--model", model.as_str(), "--prompts", &corpus];
    let flags: Vec<&str> = match command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["evaluate" | "plan"] => [&of_corpus[..], &sae].concat(),
        ["merge"] => vec![corpus.as_str(), "--out", &out],
        ["index"] => [&of_corpus[..], &sae, &["--out", &out]].concat(),
        ["capture"] => [&of_prompts[..], &["--losses", "--out", &out]].concat(),
        ["ablate"] => [&of_prompts[..], &sae, &["--directions", "3"]].concat(),
        ["attribute"] => [&of_prompts[..], &sae, &["--direction", "3"]].concat(),
        ["circuits", "cooccurrence" | "behaviour"] => [&of_prompts[..], &two].concat(),
        ["circuits", "graph"] => {
            let one = folder.ids("one.jsonl", 1, 24);
            return [&["--model", &model, "--prompts", &one][..], &two]
                .concat()
                .into_iter()
                .map(String::from)
                .collect();
        }
        ["circuits", "conjunctions"] => [&["3", "--model", model.as_str()][..], &two].concat(),
        ["circuits", "cosine" | "match" | "edges" | "verify" | "agreement"] => {
            [&["--model", model.as_str()][..], &two].concat()
        }
        ["direction"] => vec!["3"],
        ["search"] => vec!["said"],
        // A server that can be started would not end.
        ["serve"] => vec!["--index=none"],
        ["intervene"] => vec!["--text", "Once upon a time", "--change", "sae-l1/3*0"],
        ["explain"] => [&of_prompts[..], &sae].concat(),
        ["export"] => vec!["--to=parquet"],
        ["study"] => vec!["none.toml"],
        ["train"] => {
            [&of_corpus[..], &["--tokens=64", "--batch=64", "--buffer=128", "--context=8", "--out", &out]].concat()
        }
        _ => Vec::new(),
    };
    flags.into_iter().map(String::from).collect()
}

#[test]
fn every_number_of_every_command_is_refused_in_one_sentence_where_it_cannot_be() {
    let mut tried = 0;
    for command in commands() {
        for (flag, value) in flags(&command) {
            // These may be anything; what is not there is another test's.
            if [
                "CORPUS",
                "FILE",
                "FOLDER",
                "MODEL",
                "NAME",
                "TEXT",
                "SAE",
                "HOOK",
                "FORM",
                "MEASURE",
                "WHAT",
                "WHICH",
                "TOKEN",
                "CHANGE",
                "NAME=VALUES",
                "HOW",
                "ID|TOKEN",
                "inactive",
                "INACTIVE",
            ]
            .contains(&value.as_str())
            {
                continue;
            }
            for hostile in HOSTILE {
                let folder = Folder::new();
                let mut needed = needed(&command, &folder);
                if let Some(given) = needed.iter().position(|arg| *arg == flag) {
                    needed.drain(given..given + 2);
                }
                // A demo or a text of such a flag would be made.
                if ["demo", "generate"].contains(&command[0].as_str()) && ["0", "1.5"].contains(&hostile) {
                    continue;
                }
                let mut args: Vec<String> = [command.clone(), needed].concat();
                args.extend([flag.clone(), hostile.into()]);
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let output = run(&args);
                let message = text(&output.stderr);
                assert!(matches!(output.status.code(), Some(0..=2)), "{args:?}: {:?} {message}", output.status);
                assert!(!message.contains("panicked") && !message.contains("fault of its own"), "{args:?}: {message}");
                let errors: Vec<&str> = message.lines().filter(|line| line.starts_with("error:")).collect();
                assert_eq!(errors.len(), usize::from(!output.status.success()), "{args:?}: {message}");
                if matches!(hostile, "" | "abc" | "nan" | "1e400" | "-inf") {
                    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
                    // What a recipe's numbers may be is said by the recipe, which has them from files, too.
                    let name = flag.trim_start_matches("--");
                    let names_it = message.starts_with(&format!("error: {flag} {hostile}"))
                        || message.starts_with(&format!("error: {flag} ''"))
                        || message.starts_with(&format!("error: {name}: it is "))
                        || message.contains(&format!("`{name}`"));
                    assert!(
                        names_it && (message.contains("give ") || message.contains("expected")),
                        "{args:?}: {message}"
                    );
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn a_value_out_of_range_is_answered_with_the_flag_what_was_given_and_the_range() {
    for (args, said) in [
        (&["index", "--limit", "0"][..], "--limit 0: give a whole number from 1 on"),
        (&["generate", "--top-k", "0"], "--top-k 0: give a whole number from 1 on"),
        (&["generate", "--top-k", "-1"], "--top-k -1: give a whole number from 1 on"),
        (&["generate", "--temperature", "-1"], "--temperature -1: give a number from 0 to 1000"),
        (&["generate", "--tokens", "1.5"], "--tokens 1.5: give a whole number from 1 to 1000000"),
        (&["generate", "--count", "0"], "--count 0: give a whole number from 1 to 1000000"),
        (&["generate", "--threads", "0"], "--threads 0: give a whole number from 1 to 1024"),
        (&["generate", "--threads", "100000"], "--threads 100000: give a whole number from 1 to 1024"),
        (&["circuits", "cosine", "--top", "0"], "--top 0: give a whole number from 1 to 1000000"),
        (&["direction", "3", "--examples", "0"], "--examples 0: give a whole number from 1 to 1000000"),
        (&["direction", "9-3"], "give numbers from 0 on and rising ranges"),
        (&["ablate", "--text", "a", "--directions", "-1"], "--directions -1: give numbers from 0 on"),
        (&["ablate", "--text", "a", "--directions", "3", "--position", "3-9"], "--position 3-9: give a whole number"),
        (&["attribute", "--text", "a", "--direction", "3-9"], "--direction 3-9: give a whole number from 0 on"),
        (&["index", "--count-above", "1"], "--count-above 1: give a number from 0 to below 1"),
        (&["evaluate", "--rare-below", "inf"], "--rare-below inf: give a number from 0 to 1"),
        (&["train", "--tokens", "1.5"], "--tokens 1.5: give a whole number from 1"),
        (
            &["train", "--objective=topk", "--aux-coefficient", "-1"],
            "aux-coefficient: it is -1; give a number from 0 to 1000",
        ),
        (
            &["train", "--objective=topk", "--learning-rate", "1e5"],
            "learning-rate: it is 100000; give a number above 0, at most 1",
        ),
        (
            &["train", "--objective=topk", "--tokens=40960", "--warm-up", "11"],
            "warm-up: 11 steps of warm-up and decay, and the run has 10",
        ),
        (&["train", "--objective=topk", "--tokens=10"], "tokens: 10 are less than one batch of 4096"),
    ] {
        let message = failed(2, args);
        assert!(message.starts_with("error: ") && message.contains(said), "{args:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
    }
}

#[test]
fn what_cannot_fit_the_memory_is_refused_before_it_is_asked_for() {
    let folder = Folder::new();
    let out = folder.at("out");
    for (flags, option) in [
        (&["--buffer=4294967295"][..], "buffer"),
        (&["--batch=1000000000", "--buffer=4294967295", "--tokens=1B"], "buffer"),
        (&["--expansion=100000"], "expansion"),
        (&["--sweep=expansion=90000;100000"], "expansion"),
    ] {
        let args = [&["train", "--objective=topk", "--out", &out][..], flags].concat();
        let message = failed(2, &args);
        assert!(
            message.contains("this needs at least ") && message.trim_end().ends_with(&format!("lower {option}")),
            "{message}"
        );
    }
    assert!(failed(2, &["train", "--objective=topk", "--buffer", "4294967296"]).contains("buffer: it is 4294967296"));
    assert!(folder.names().is_empty());
}

#[test]
fn ranges_hold_in_a_file_too() {
    let folder = Folder::new();
    for (line, said) in [
        ("learning-rate = 1e5", "learning-rate: it is 100000"),
        ("aux-coefficient = nan", "aux-coefficient: it is NaN"),
        ("expansion = inf", "expansion: it is inf"),
        ("tokens = '1.5'", "tokens: it is 1.5; give a whole number"),
        ("batch = -1", "batch"),
        ("k = 0", "k: 0 of"),
        ("warm-up = 10000000000", "warm-up: 10000000000 steps"),
    ] {
        let config = folder.write("t.toml", format!("objective = 'topk'\n{line}\n"));
        let message = failed(2, &["train", "--config", &config, "--out", &folder.at("out")]);
        assert!(message.contains(said), "{line}: {message}");
    }
}
