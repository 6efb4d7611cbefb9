//! ARCHITECTURE.md and CONTRIBUTING.md say what is so: the rooms, the arrows between them, the paths they name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const LONGEST_FILE: usize = 700;

/// For every room, the rooms it may use.
type Arrows = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The rooms of the table in ARCHITECTURE.md, in its order: crate, folder, what it may use.
fn rooms() -> Vec<(String, String, BTreeSet<String>)> {
    let text = read("ARCHITECTURE.md");
    let rows = text.lines().filter(|line| line.starts_with("| `directrix"));
    let rooms = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, folder, _, uses] = cells[..] else { panic!("a row of the rooms has {} cells: {row}", cells.len()) };
        let uses = uses
            .split(", ")
            .filter(|uses| *uses != "—")
            .map(|uses| if uses == "directrix" { uses.to_owned() } else { format!("directrix-{uses}") })
            .collect();
        (name.trim_matches('`').to_owned(), folder.trim_matches('`').to_owned(), uses)
    });
    rooms.collect()
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The crates of the workspace: folder, and the crates of it that each declares, those for tests left out.
fn crates() -> BTreeMap<String, (PathBuf, BTreeSet<String>)> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |package: &Value| package["name"].as_str().unwrap().to_owned();
    let of_workspace: BTreeSet<String> = packages.iter().map(name).collect();
    let crates = packages.iter().map(|package| {
        let uses = package["dependencies"].as_array().unwrap().iter().filter(|uses| uses["kind"].is_null()).map(name);
        let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned();
        (name(package), (folder, uses.filter(|uses| of_workspace.contains(uses)).collect()))
    });
    crates.collect()
}

/// Adds to every room what the rooms it uses may use.
fn closure(rooms: &Arrows, name: &str) -> BTreeSet<String> {
    let own = rooms.get(name).unwrap_or_else(|| panic!("`{name}` is used, but is no room"));
    own.iter().flat_map(|uses| closure(rooms, uses).into_iter().chain([uses.clone()])).collect()
}

#[test]
fn the_rooms_are_the_crates_and_use_each_other_as_the_table_says() {
    let (rooms, crates) = (rooms(), crates());
    let named: BTreeSet<&String> = rooms.iter().map(|(name, ..)| name).collect();
    assert_eq!(named, crates.keys().collect());

    let allowed: Arrows = rooms.iter().map(|(name, _, uses)| (name.clone(), uses.clone())).collect();
    let found: Arrows = crates.iter().map(|(name, (_, uses))| (name.clone(), uses.clone())).collect();
    for (number, (name, folder, _)) in rooms.iter().enumerate() {
        let may = closure(&allowed, name);
        assert_eq!(closure(&found, name), may, "what `{name}` uses");
        let before: BTreeSet<String> = rooms[..number].iter().map(|(name, ..)| name.clone()).collect();
        assert!(may.is_subset(&before), "`{name}` uses a room behind it");
        let (expected, found) = (root().join(folder).canonicalize(), crates[name].0.canonicalize());
        assert_eq!(expected.unwrap(), found.unwrap(), "the folder of `{name}`");
    }
}

/// Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| match path.is_dir() {
        true => sources(&path),
        false if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
        false => Vec::new(),
    });
    below.collect()
}

#[test]
fn no_file_is_too_long_to_read() {
    for (folder, _) in crates().values() {
        for path in sources(folder) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines < LONGEST_FILE, "{} has {lines} lines: it holds more than one subject", path.display());
        }
    }
}

/// What stands between backticks and looks like a path of this repository.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    const TOP: [&str; 8] = ["crates/", "assets/", "bench/", "docs/", "studies/", "web/", "python/", ".ci/"];
    text.split('`').skip(1).step_by(2).filter(|code| TOP.iter().any(|top| code.starts_with(top)) && !code.contains(' '))
}

#[test]
fn the_paths_that_documents_name_exist() {
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = read(document);
        for path in paths(&text) {
            assert!(root().join(path).exists(), "{document} names `{path}`");
        }
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http") && !link.starts_with('#')) {
            assert!(root().join(link).exists(), "{document} links to {link}");
        }
    }
}

#[test]
fn the_library_alone_needs_none_of_the_commands_crates() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let tree = |more: &[&str]| {
        let output = Command::new(&cargo)
            .args(["tree", "-p", "directrix", "-e", "normal", "--prefix", "none", "--locked", "--offline"])
            .args(more)
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter_map(|line| line.split(' ').next()).map(String::from).collect::<BTreeSet<String>>()
    };
    let (command, library) = (tree(&[]), tree(&["--no-default-features"]));
    for name in ["clap", "clap_complete", "clap_mangen", "indicatif", "ctrlc", "terminal_size", "anyhow"] {
        assert!(command.contains(name) && !library.contains(name), "{name}");
    }
}
