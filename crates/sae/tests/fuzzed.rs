//! The seeds of the fuzzer (`fuzz/`), whole and damaged, and what it found: each is read or refused, nothing panics.

#[allow(unreachable_pub)]
#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};

type Take = fn(&[u8]);

/// What each target does with bytes.
const TARGETS: [(&str, Take); 6] = [
    ("torch", |bytes| fuzz::tensors("a.pt", bytes)),
    ("npz", |bytes| fuzz::tensors("a.npz", bytes)),
    ("safetensors", |bytes| fuzz::tensors("a.safetensors", bytes)),
    ("model", fuzz::model),
    ("sae", fuzz::sae),
    ("llama2c", fuzz::llama2c),
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
        "llama2c" => (0..4).map(llama2c).collect(),
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

/// A checkpoint of zeros and its tokenizer, of version 0 or 1, its unembedding its own or not.
fn llama2c(which: usize) -> (String, Vec<u8>) {
    let (version, tied, vocabulary) = (which / 2, which % 2 == 1, 262_usize);
    let words = |words: &[i32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let signed = if version == 0 && !tied { -262 } else { 262 };
    let sizes = words(&[4, 6, 2, 2, 1, signed, 8]);
    let mut header =
        if version == 0 { sizes } else { [words(&[0x616b_3432, 1]), sizes, vec![u8::from(tied)]].concat() };
    header.resize(if version == 0 { 28 } else { 256 }, 0);
    let of_block = 4 + 4 * 4 + 2 * (2 * 4) + 4 * 4 + 4 + 3 * (4 * 6);
    let rotations = if version == 0 { 8 * 2 } else { 0 };
    let numbers = vocabulary * 4 * if tied { 1 } else { 2 } + 2 * of_block + 4 + rotations;
    let checkpoint = [header, vec![0; 4 * numbers]].concat();
    let piece = |id: usize| {
        let text = if id < 259 { format!("{id}") } else { "aab"[id - 259..].to_owned() };
        [words(&[0, text.len() as i32]), text.into_bytes()].concat()
    };
    let tokenizer = [words(&[3]), (0..vocabulary).flat_map(piece).collect()].concat();
    let length = (checkpoint.len() as u32).to_le_bytes();
    (format!("{which}"), [&length[..3], &checkpoint, &tokenizer].concat())
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
fn seeds_of_llama2c_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (_, bytes) in seeds("llama2c") {
        let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) as usize;
        fs::write(folder.path().join("a.bin"), &bytes[3..3 + length]).unwrap();
        fs::write(folder.path().join("tokenizer.bin"), &bytes[3 + length..]).unwrap();
        let folder = directrix_model::Folder::of_file(folder.path().join("a.bin")).unwrap();
        directrix_model::Model::load(&folder, directrix_model::Processing::none()).unwrap();
        assert_eq!(folder.tokenizer().unwrap().unwrap().encode("aab").unwrap().len(), 6);
    }
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
