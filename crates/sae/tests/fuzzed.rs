//! The seeds of the fuzzer (`fuzz/`), whole and damaged, and what it found: each is read or refused, nothing panics.

#[allow(unreachable_pub)]
#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};

type Take = fn(&[u8]);

/// What each target does with bytes.
const TARGETS: [(&str, Take); 5] = [
    ("torch", |bytes| fuzz::tensors("a.pt", bytes)),
    ("npz", |bytes| fuzz::tensors("a.npz", bytes)),
    ("safetensors", |bytes| fuzz::tensors("a.safetensors", bytes)),
    ("model", fuzz::model),
    ("sae", fuzz::sae),
];
/// Larger seeds are changed too seldom where it matters.
const LARGEST: usize = 24_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The seeds of a target, by name: of the files that the tests have.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let models = root().join("crates/model/tests/fixtures");
    let of_folders = |place: PathBuf, mark: Option<&str>| {
        let mut found = Vec::new();
        folders(&place, &mut found);
        found.retain(|folder| *folder != place && mark.is_none_or(|mark| folder.join(mark).exists()));
        let name = |folder: &Path| folder.strip_prefix(&place).unwrap().display().to_string().replace('/', "-");
        found.iter().map(|folder| (name(folder), fuzz::packed(folder))).collect()
    };
    let mut seeds: Vec<(String, Vec<u8>)> = match target {
        "model" => of_folders(models, Some("config.json")),
        "sae" => of_folders(root().join("crates/sae/tests/fixtures/formats"), None),
        _ => {
            let files = fs::read_dir(models.join("tensor-files")).unwrap().map(|entry| entry.unwrap().path());
            let is_of = |path: &PathBuf| match path.extension().and_then(|end| end.to_str()) {
                Some(end @ ("npz" | "safetensors")) => end == target,
                _ => target == "torch",
            };
            let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            files.filter(is_of).map(|path| (name(&path), fs::read(&path).unwrap())).collect()
        }
    };
    seeds.retain(|(_, bytes)| (2..LARGEST).contains(&bytes.len()));
    assert!(seeds.len() >= 4, "{target}");
    seeds
}

/// The folders below one that hold files.
fn folders(root: &Path, found: &mut Vec<PathBuf>) {
    let inner: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    if inner.iter().any(|path| path.is_file()) {
        found.push(root.into());
    }
    inner.iter().filter(|path| path.is_dir()).for_each(|path| folders(path, found));
}

#[test]
fn seeds_are_read_or_refused_whole_cut_and_changed() {
    for (target, take) in TARGETS {
        for (_, bytes) in seeds(target) {
            take(&bytes);
            for i in 0..40 {
                let place = i * 7919 % bytes.len();
                take(&bytes[..place]);
                let mut changed = bytes.clone();
                changed[place] ^= 1 << (i % 8);
                take(&changed);
            }
        }
    }
}

#[test]
fn what_was_found_is_read_or_refused() {
    for (target, take) in TARGETS {
        for file in fs::read_dir(root().join("fuzz/found").join(target)).into_iter().flatten() {
            take(&fs::read(file.unwrap().path()).unwrap());
        }
    }
}

/// For the fuzzer, before it is run.
#[test]
#[ignore = "writes the seeds into fuzz/corpus"]
fn seeds_are_written() {
    for (target, _) in TARGETS {
        let corpus = root().join("fuzz/corpus").join(target);
        fs::create_dir_all(&corpus).unwrap();
        seeds(target).into_iter().for_each(|(name, bytes)| fs::write(corpus.join(name), bytes).unwrap());
    }
}
