//! A training run that was stopped goes on with the bits of one that was not, and never from files that are not as they were
//! written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use directrix_corpus::durable::{Beside, Lock, seal, unsealed};
use directrix_corpus::{Chunk, Prompts, Watch};
use directrix_model::{Folder, Model, Processing};
use directrix_sae::train::{Feed, Notice, Over, Recipe, Training, is_complete, train};
use directrix_sae::{Error, Result};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// What a short run of three SAEs is made of.
struct Setting {
    model: Model,
    documents: Vec<Vec<u32>>,
    evaluation: Prompts,
    feed: Feed,
    recipes: Vec<(String, Recipe)>,
}

impl Setting {
    fn new() -> Setting {
        let path = format!("{}/../model/tests/fixtures/neo-tiny", env!("CARGO_MANIFEST_DIR"));
        let mut state = 3_u64;
        let mut next = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) % below) as u32
        };
        let documents: Vec<Vec<u32>> =
            (0..40).map(|_| std::iter::once(0).chain((0..4 + next(16)).map(|_| next(128))).collect()).collect();
        let recipe = |objective: &str, coefficient: &[f64]| Recipe {
            objective: objective.into(),
            coefficient: coefficient.into(),
            expansion: 0.5,
            k: 4,
            learning_rate: 1e-3,
            warm_up: 3,
            dead_below: 0.02,
            resample: vec![10],
            ..Recipe::default()
        };
        let second = Recipe { site: "blocks.1.hook_resid_post".into(), ..recipe("batch_topk", &[]) };
        Setting {
            model: Model::load(&Folder::open(path).unwrap(), Processing::default()).unwrap(),
            evaluation: Prompts::from_rows(&documents[..3]),
            documents,
            feed: Feed {
                tokens: 16 * 60,
                batch: 16,
                context: 8,
                buffer: 64,
                log_every: 4,
                evaluate_every: 8,
                checkpoint_every: 5,
                ..Feed::default()
            },
            recipes: vec![
                ("l1".into(), recipe("combined_hoyer_l1", &[1e-4, 1e-4])),
                ("batch".into(), second),
                ("gated".into(), recipe("gated", &[0.01])),
            ],
        }
    }

    /// Trains into `folder`; stops when so many documents have been read. Returns the step it went on after.
    fn train(&self, folder: &Path, documents: u64) -> Result<u64> {
        let (stop, read) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
        let all = || {
            let chunks = self.documents.iter().map(|document| {
                stop.fetch_or(read.fetch_add(1, Ordering::Relaxed) >= documents, Ordering::Relaxed);
                Ok(Chunk { prompts: Prompts::from_rows([document]), cut: 0 })
            });
            Ok(Box::new(chunks) as Box<dyn Iterator<Item = _>>)
        };
        let training = Training {
            model: &self.model,
            documents: &all,
            bos: Some(0),
            evaluation: &self.evaluation,
            feed: &self.feed,
            recipes: &self.recipes,
            from: &BTreeMap::new(),
            cache: Some(&folder.join("cache")),
            out: &folder.join("out"),
            model_name: "neo-tiny",
            identity: &json!({ "model": "neo-tiny" }),
            over: Over::One,
        };
        let mut resumed = 0;
        let watch = Watch::new(stop.clone(), |_| ());
        train(&training, &watch, |notice| {
            if let Notice::Resumed { step } = notice {
                resumed = step;
            }
        })?;
        Ok(resumed)
    }

    /// What a run leaves: weights, densities and metrics of each SAE.
    fn results(&self, folder: &Path) -> Vec<Vec<u8>> {
        let files = ["sae_weights.safetensors", "sparsity.safetensors", "metrics.jsonl", "cfg.json"];
        let paths =
            self.recipes.iter().flat_map(|(name, _)| files.map(|file| folder.join("out").join(name).join(file)));
        paths.map(|path| fs::read(path).unwrap()).collect()
    }
}

/// Every file below a folder, by path.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

fn write(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A run that was stopped, as its files; what a run that was not leaves.
fn stopped(setting: &Setting) -> (BTreeMap<String, Vec<u8>>, Vec<Vec<u8>>) {
    let [whole, part] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    assert_eq!(setting.train(whole.path(), u64::MAX).unwrap(), 0);
    assert!(matches!(setting.train(part.path(), 60), Err(Error::Stopped)));
    (files(part.path()), setting.results(whole.path()))
}

const CHECKPOINT: &str = "out/checkpoint.safetensors";

#[test]
fn stopped_at_any_document_a_run_goes_on_with_the_same_bits() {
    let setting = Setting::new();
    let whole = tempfile::tempdir().unwrap();
    setting.train(whole.path(), u64::MAX).unwrap();
    let expected = setting.results(whole.path());
    let mut went_on = 0;
    for documents in (0..90).step_by(4) {
        let folder = tempfile::tempdir().unwrap();
        let mut runs = 0;
        loop {
            // Each time a little further, as what was read before is passed over.
            match setting.train(folder.path(), documents + 17 * runs) {
                Err(Error::Stopped) => runs += 1,
                resumed => break went_on += u64::from(resumed.unwrap() > 0),
            }
        }
        assert!(setting.results(folder.path()) == expected, "stopped at {documents} documents and {runs} times");
        let left = files(folder.path());
        assert!(!left.keys().any(|name| name.contains("partial") || name.contains("lock") || name == CHECKPOINT));
    }
    assert!(went_on > 10, "{went_on}");
}

#[test]
fn a_change_of_any_part_of_a_file_is_found() {
    let setting = Setting::new();
    let (files, _) = stopped(&setting);
    let checkpoint = &files[CHECKPOINT];
    let (header, metadata) = SafeTensors::read_metadata(checkpoint).unwrap();
    let text = String::from_utf8_lossy(&checkpoint[8..8 + header]);
    // The header's length, the checksum, a name, a size, and every array.
    let mut places: Vec<usize> = (0..8)
        .chain(["crc32c\":\"", "w_enc", "data_offsets\":["].map(|of| 8 + text.find(of).unwrap() + of.len()))
        .collect();
    let arrays = metadata.tensors().into_values().map(|info| info.data_offsets);
    places.extend(arrays.map(|(start, end)| 8 + header + usize::midpoint(start, end)));
    assert!(places.len() == 60, "{}", places.len());
    let mut changes: Vec<(String, usize)> = places.into_iter().map(|place| (CHECKPOINT.to_owned(), place)).collect();
    for (name, bytes) in &files {
        // What is after the checkpoint's lines is dropped; and of the windows only those still in use are read again.
        if name.ends_with("metrics.jsonl") || name.ends_with("directrix") || name.ends_with("cache.json") {
            changes.extend([0, bytes.len() / 4, bytes.len() / 3].map(|place| (name.clone(), place)));
        }
    }
    for (name, place) in changes {
        for truncated in [false, true] {
            let mut files = files.clone();
            let bytes = files.get_mut(&name).unwrap();
            if truncated {
                bytes.truncate(place);
            } else {
                bytes[place] ^= 0x10;
            }
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &files);
            let message = setting.train(folder.path(), u64::MAX).expect_err(&name).to_string();
            let is_named = message.contains(name.rsplit('/').next().unwrap()) && message.contains("is damaged");
            assert!(is_named, "{name} at {place}: {message}");
            assert!(!folder.path().join("out/l1/cfg.json").exists());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn whatever_is_changed_a_run_fails_or_gives_the_same_bits(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 24,
        ),
    ) {
        let setting = Setting::new();
        let (files, expected) = stopped(&setting);
        for (file, place, change, in_head) in changes {
            let mut files = files.clone();
            let name = file.get(&files.keys().cloned().collect::<Vec<_>>()).clone();
            let bytes = files.get_mut(&name).unwrap();
            let place = place.index(if in_head { bytes.len().min(300) } else { bytes.len() }.max(1));
            // No change stands for a cut.
            if change == 0 || bytes.is_empty() { bytes.truncate(place) } else { bytes[place] ^= change }
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &files);
            match setting.train(folder.path(), u64::MAX) {
                Ok(_) => prop_assert!(setting.results(folder.path()) == expected, "{} at {}", name, place),
                Err(error) => prop_assert!(error.to_string().contains("is damaged"), "{} at {}: {}", name, place, error),
            }
        }
    }
}

/// A checkpoint with another state, sealed.
fn with_state(checkpoint: &[u8], state: &Value) -> Vec<u8> {
    let state = state.to_string().into_bytes();
    let tensors = SafeTensors::deserialize(checkpoint).unwrap();
    let changed = TensorView::new(Dtype::U8, vec![state.len()], &state).unwrap();
    let tensors = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| if name == "state" { (name, changed.clone()) } else { (name, view) });
    let (key, zeros) = unsealed();
    let bytes = safetensors::serialize(tensors, Some([(key.to_owned(), zeros.to_owned())].into())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut file = Beside::create(&folder.path().join("checkpoint")).unwrap();
    file.write_at(0, &bytes).unwrap();
    seal(&mut file).unwrap();
    fs::read(file.path()).unwrap()
}

#[test]
fn a_checkpoint_whose_values_do_not_go_together_is_an_error() {
    let setting = Setting::new();
    let (files, expected) = stopped(&setting);
    let checkpoint = &files[CHECKPOINT];
    let state = SafeTensors::deserialize(checkpoint).unwrap().tensor("state").unwrap().data().to_vec();
    let state: Value = serde_json::from_slice(&state).unwrap();
    let first = state["buffer"]["live"].as_object().unwrap().keys().next().unwrap().clone();
    let live = format!("/buffer/live/{first}");
    for (place, to) in [
        (String::new(), json!(null)),
        ("/step".into(), json!(-1)),
        ("/members".into(), json!([])),
        ("/buffer/slots".into(), json!([])),
        ("/buffer/slots/3/window".into(), json!(1_u64 << 40)),
        ("/buffer/slots/3/position".into(), json!(1000)),
        ("/buffer/order/3".into(), state["buffer"]["order"][4].clone()),
        ("/buffer/order/3".into(), json!(64)),
        ("/buffer/next".into(), json!(65)),
        ("/buffer/given".into(), json!(1)),
        ("/buffer/pending".into(), json!({ "window": 1_u64 << 40, "position": 0 })),
        (format!("{live}/rows"), json!(0)),
        (format!("{live}/tokens"), json!([])),
        ("/members/0/state/logged/metrics/bytes".into(), json!(u64::MAX)),
    ] {
        let mut changed = state.clone();
        *changed.pointer_mut(&place).unwrap() = to;
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &files);
        fs::write(folder.path().join(CHECKPOINT), with_state(checkpoint, &changed)).unwrap();
        let message = setting.train(folder.path(), u64::MAX).expect_err(&place).to_string();
        assert!(message.contains("is damaged"), "{place}: {message}");
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &files);
    fs::write(folder.path().join(CHECKPOINT), with_state(checkpoint, &state)).unwrap();
    setting.train(folder.path(), u64::MAX).unwrap();
    assert!(setting.results(folder.path()) == expected);
}

#[test]
fn one_process_at_a_time_trains_into_a_folder() {
    let setting = Setting::new();
    let folder = tempfile::tempdir().unwrap();
    let lock = Lock::take(&folder.path().join("out")).unwrap();
    let message = setting.train(folder.path(), u64::MAX).unwrap_err().to_string();
    let expected = "out` is being written by another process; wait for it to end, or write elsewhere";
    assert!(message.ends_with(expected), "{message}");
    drop(lock);
    setting.train(folder.path(), u64::MAX).unwrap();
}

#[test]
fn a_finished_run_with_other_options_is_not_taken_for_this_one() {
    let setting = Setting::new();
    let folder = tempfile::tempdir().unwrap();
    setting.train(folder.path(), u64::MAX).unwrap();
    let (out, identity) = (folder.path().join("out"), json!({ "model": "neo-tiny" }));
    assert!(is_complete(&out, &setting.feed, &setting.recipes, &identity).unwrap());
    assert!(is_complete(&out, &setting.feed, &setting.recipes, &json!({ "model": "another" })).is_err());
    let options = out.join("gated/train.toml");
    let text = fs::read(&options).unwrap();
    for place in 0..text.len() {
        let mut changed = text.clone();
        changed[place] ^= 1;
        fs::write(&options, &changed).unwrap();
        assert!(is_complete(&out, &setting.feed, &setting.recipes, &identity).is_err(), "byte {place}");
    }
}
