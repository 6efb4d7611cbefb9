//! Every example of every `--help`, of README.md and of docs/*.md runs; what README shows is what is printed.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Folder, done, text};
use directrix::circuits::Table;
use directrix::study::write_table;
use serde_json::json;

/// What a first try of a training is, as its help says.
const SHORT: &str = "--tokens 50k --buffer 16k";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A folder with what a user of the examples would have: models, SAEs and corpora under their names.
fn users_folder() -> Folder {
    let (folder, assets) = (Folder::new(), root().join("assets/tinystories-2l"));
    let copy = |from: &Path, to: &str| {
        let to = folder.path().join(to);
        fs::create_dir_all(&to).unwrap();
        for file in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    };
    for model in ["pythia-70m", "MODEL"] {
        copy(&assets, model);
    }
    for (sae, names) in [
        ("sae-l0", ["saes/layer-3", "SAE0", "saes/seed-1", "saes/seed-2"].as_slice()),
        ("sae-l1", &["saes/layer-4", "SAE1"]),
    ] {
        names.iter().for_each(|name| copy(&assets.join(sae), name));
    }
    copy(&root().join("crates/sae/tests/fixtures/formats/dictionary_learning/standard"), "saes/ae-layer-3");
    let stories = fs::read_to_string(assets.join("stories.txt")).unwrap();
    let some: Vec<&str> = stories.split("<|endoftext|>").take(100).collect();
    for name in ["stories.txt", "held-out.txt", "heldout.txt"] {
        folder.write(name, some.join("<|endoftext|>"));
    }
    let answers = [
        "Lily was sad because",
        "Mia said that",
        "Tim asked if",
        "Anna thought that",
        "Sue said that",
        "Mum hoped that",
    ];
    folder.write("answers.txt", answers.map(|start| format!("{start} she")).join("\n<|endoftext|>\n"));
    let rows: Vec<_> = some.iter().take(50).map(|story| json!({ "text": story })).collect();
    write_table(folder.path(), &Table::from_rows("pile", "", &rows)).unwrap();
    folder.write("train.toml", "objective = 'topk'\n");
    let study = include_str!("../../../studies/closing-quote.toml");
    fs::create_dir(folder.path().join("studies")).unwrap();
    let sections = "\n[[section]]\nkind = 'tokens'\n";
    for name in ["studies/closing-quote.toml", "mine.toml", "my-study.toml"] {
        folder.write(name, format!("limit = 200\n{study}{sections}"));
    }
    folder
}

/// Runs a line of a shell, in which `directrix` is the command.
fn shell(folder: &Path, line: &str) -> Output {
    in_shell(folder, line).output().unwrap()
}

fn in_shell(folder: &Path, line: &str) -> Command {
    let own = Path::new(env!("CARGO_BIN_EXE_directrix")).parent().unwrap();
    let path = format!("{}:{}", own.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(folder).env("PATH", path).env_remove("COLUMNS");
    command
}

/// Runs an example, which must succeed. What an earlier one made in its place gives way; a training is a first try, as the help
/// says how.
fn runs(folder: &Path, line: &str) -> String {
    if line.starts_with("directrix serve") && !line.contains("--help") {
        return serves(folder, line);
    }
    let makes = |command: &str| line.starts_with(&format!("directrix {command}")) && !line.contains("--help");
    if makes("index") || makes("train") {
        let default = if makes("index") { "out/index" } else { "out/sae" };
        let out = line.split("--out ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or(default);
        drop(fs::remove_dir_all(folder.join(out)));
    }
    let output = shell(folder, &if makes("train") { format!("{line} {SHORT}") } else { line.into() });
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs an example that serves, until it has given its page.
fn serves(folder: &Path, line: &str) -> String {
    let index = line.split("--index ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("out/index");
    if !folder.join(index).is_dir() {
        runs(folder, &format!("directrix index --limit 20 --out {index}"));
    }
    let line = if line.contains("--port") { line.into() } else { format!("{line} --port 0") };
    let mut process = in_shell(folder, &format!("exec {line}")).stdout(Stdio::piped()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let address = url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut stream = TcpStream::connect(&address).unwrap_or_else(|error| panic!("{line}: {url}: {error}"));
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{line}: {page}");
    process.kill().unwrap();
    process.wait().unwrap();
    url
}

/// The examples of a help text, in which `\` goes on with the next line.
fn of_help(help: &str) -> Vec<String> {
    let examples = help.split("Examples:").nth(1).unwrap_or_default().replace(" \\\n      ", " ");
    let lines = examples.lines().map(str::trim).filter(|line| line.starts_with("directrix "));
    lines.map(|line| line.split("    ").next().unwrap().to_owned()).collect()
}

/// The commands of a document: indented lines, with or without `$`, and what is shown below those with.
fn of_document(document: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let document = document.replace("\\\n", " ");
    let mut shown = false;
    for line in document.lines() {
        let code = line.strip_prefix("    ");
        let command = code.and_then(|code| {
            code.strip_prefix("$ ").or_else(|| Some(code).filter(|code| code.starts_with("directrix ")))
        });
        if let Some(command) = command.filter(|command| command.starts_with("directrix ")) {
            found.push((command.split(" # ").next().unwrap().trim().into(), Vec::new()));
            shown = code.is_some_and(|code| code.starts_with("$ "));
        } else if let (Some((_, output)), true) = (found.last_mut(), shown && (code.is_some() || line.is_empty())) {
            output.push(code.unwrap_or_default().trim_end().into());
        } else {
            shown = false;
        }
    }
    for (_, output) in &mut found {
        while output.last().is_some_and(String::is_empty) {
            output.pop();
        }
    }
    found
}

/// Whether lines are as shown, where a line `…` stands for any lines.
fn is_shown(shown: &[String], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line.trim() == "…" => {
            (0..=printed.len()).any(|skipped| is_shown(rest, &printed[skipped..]))
        }
        Some((line, rest)) => {
            printed.first().is_some_and(|first| first.trim_end() == line) && is_shown(rest, &printed[1..])
        }
    }
}

fn takes_minutes(example: &str) -> bool {
    ["demo", "circuits agreement", "index --edges"].iter().any(|long| example.starts_with(&format!("directrix {long}")))
}

#[test]
fn every_example_of_every_help_runs() {
    let folder = users_folder();
    let mut tried = 0;
    let listed = |help: &str| -> Vec<String> {
        let part = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        part.take_while(|line| line.starts_with("  "))
            .filter_map(|line| line.split_whitespace().next())
            .map(String::from)
            .collect()
    };
    let mut helps = vec![vec!["--help".to_owned()]];
    for command in listed(&done(&["--help"])).into_iter().filter(|name| name != "help") {
        let below = listed(&done(&[&command, "--help"]));
        helps.extend(
            below.into_iter().filter(|name| name != "help").map(|sub| vec![command.clone(), sub, "--help".into()]),
        );
        helps.push(vec![command, "--help".into()]);
    }
    for help in helps {
        let args: Vec<&str> = help.iter().map(String::as_str).collect();
        let examples = of_help(&text(&common::directrix().args(&args).env("COLUMNS", "300").output().unwrap().stdout));
        assert!(!examples.is_empty(), "{help:?} has no example");
        for example in examples {
            // These have tests of their own, and take a minute or more.
            if takes_minutes(&example) {
                continue;
            }
            // The whole of the shipped stories would take a minute, effects of every direction as long.
            let few = if example.starts_with("directrix evaluate") && !example.contains("--limit") {
                " --limit 100"
            } else if example.starts_with("directrix circuits edges") {
                " --sample-prompts 2 --least-prompts 2"
            } else if example.starts_with("directrix circuits verify") {
                " --sample-prompts 2 --least-prompts 2 --verify-prompts 4"
            } else {
                ""
            };
            runs(folder.path(), &format!("{example}{few}"));
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried}");
}

#[test]
fn what_the_readme_shows_is_printed_and_the_documents_commands_run() {
    let folder = users_folder();
    let documents = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = documents.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut compared = 0;
    for document in [root().join("README.md")].into_iter().chain(documents) {
        for (command, shown) in of_document(&fs::read_to_string(&document).unwrap()) {
            // What a sentence says of an argument that the reader is to fill in; and what takes minutes.
            if command.contains("…") || command == "directrix demo --serve" || command.contains("index --edges") {
                continue;
            }
            let printed = runs(folder.path(), &command);
            if !shown.is_empty() {
                let lines: Vec<&str> = printed.trim_end().lines().collect();
                assert!(is_shown(&shown, &lines), "{}: {command} prints\n{printed}", document.display());
                compared += 1;
            }
        }
    }
    assert!(compared > 4, "{compared}");
}
