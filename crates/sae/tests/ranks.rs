//! Training by several ranks: the bits of one process where positions are divided, within rounding where directions are; files that do
//! not depend on how many there were.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use directrix_corpus::{Chunk, Prompts, Ranks, Threads, Watch};
use directrix_model::{Folder, Model, Processing};
use directrix_sae::train::{Feed, Metrics, Over, Penalty, Recipe, Training, train};
use directrix_sae::{Error, Result};
use safetensors::SafeTensors;
use serde_json::json;

/// What is divided.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Divided {
    Positions,
    Directions,
}

use Divided::{Directions, Positions};

/// A short run of an SAE of every objective.
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
        let recipe = |objective: &str| {
            let coefficient = match objective {
                "topk" | "batch_topk" | "matryoshka" => vec![],
                combined if combined.starts_with("combined") => vec![1e-4, 1e-4],
                "gated" | "jumprelu" => vec![0.01],
                _ => vec![1e-4],
            };
            let recipe = Recipe {
                site: if objective == "batch_topk" { "blocks.1.hook_resid_post" } else { "blocks.0.mlp.hook_post" }
                    .into(),
                objective: objective.into(),
                coefficient,
                expansion: 0.5,
                k: 4,
                learning_rate: 1e-3,
                warm_up: 3,
                dead_below: 0.02,
                resample: vec![10],
                ..Recipe::default()
            };
            (objective.to_owned(), recipe)
        };
        let objectives = Penalty::NAMES.into_iter().chain(["topk", "batch_topk", "matryoshka", "jumprelu", "gated"]);
        Setting {
            model: Model::load(&Folder::open(path).unwrap(), Processing::default()).unwrap(),
            evaluation: Prompts::from_rows(&documents[..3]),
            documents,
            feed: Feed {
                tokens: 18 * 24,
                // No number of ranks but one and two divides it.
                batch: 18,
                context: 8,
                buffer: 64,
                log_every: 1,
                evaluate_every: 0,
                checkpoint_every: 5,
                ..Feed::default()
            },
            recipes: objectives.map(recipe).collect(),
        }
    }

    /// Only some of the SAEs.
    fn of(names: &[&str]) -> Setting {
        let mut setting = Setting::new();
        setting.recipes.retain(|(name, _)| names.contains(&name.as_str()));
        setting
    }

    /// One rank's run into `folder`; it stops when so many documents have been read.
    fn train(&self, folder: &Path, documents: u64, over: Over) -> Result<()> {
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
            over,
        };
        train(&training, &Watch::new(stop.clone(), |_| ()), |_| ())
    }

    /// What all files but the locks are after a run.
    fn results(&self, folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let files = ["sae_weights.safetensors", "sparsity.safetensors", "metrics.jsonl", "cfg.json", "train.toml"];
        let names = self.recipes.iter().flat_map(|(name, _)| files.map(|file| format!("{name}/{file}")));
        names.map(|name| (name.clone(), fs::read(folder.join("out").join(&name)).unwrap())).collect()
    }

    fn one(&self) -> BTreeMap<String, Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        self.train(folder.path(), u64::MAX, Over::One).unwrap();
        self.results(folder.path())
    }
}

/// What each of `size` ranks has of a run of its own setting.
fn by_ranks<T: Send>(size: usize, divided: Divided, run: impl Fn(usize, Over) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let run = &run;
        let start = |ranks: Threads| {
            scope.spawn(move || {
                run(ranks.rank(), if divided == Positions { Over::Positions(&ranks) } else { Over::Directions(&ranks) })
            })
        };
        let threads: Vec<_> = Threads::new(size).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn train_by(setting: &Setting, size: usize, divided: Divided, folder: &Path, documents: u64) -> Vec<Result<()>> {
    // Each rank reads a little less far than the one before.
    by_ranks(size, divided, |rank, over| setting.train(folder, documents.saturating_add(rank as u64), over))
}

fn weights(file: &[u8]) -> BTreeMap<String, Vec<f32>> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let numbers = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    tensors.tensors().into_iter().map(|(name, tensor)| (name, numbers(tensor.data()))).collect()
}

/// The largest difference of two runs: of losses, relative, and of weights.
fn difference(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> (f64, f64) {
    let (mut losses, mut numbers) = (0.0_f64, 0.0_f64);
    for (name, a) in a {
        let b = &b[name];
        if name.ends_with("metrics.jsonl") {
            let lines = |file: &[u8]| -> Vec<Metrics> {
                str::from_utf8(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
            };
            let (a, b) = (lines(a), lines(b));
            assert_eq!(a.len(), b.len());
            for (a, b) in a.iter().zip(&b) {
                losses = losses.max((a.mean.loss - b.mean.loss).abs() / a.mean.loss);
                assert_eq!((a.dead, a.resampled), (b.dead, b.resampled), "{name}");
            }
        } else if name.ends_with("sae_weights.safetensors") {
            for (name, a) in weights(a) {
                let b = &weights(b)[&name];
                assert_eq!(a.len(), b.len());
                a.iter().zip(b).for_each(|(a, b)| numbers = numbers.max((a - b).abs() as f64));
            }
        } else if !name.ends_with("sparsity.safetensors") {
            assert!(a == b, "{name}");
        }
    }
    (losses, numbers)
}

#[test]
fn divided_by_positions_any_number_of_ranks_gives_the_bits_of_one_process() {
    let setting = Setting::new();
    let expected = setting.one();
    for size in 1..=4 {
        let folder = tempfile::tempdir().unwrap();
        for result in train_by(&setting, size, Positions, folder.path(), u64::MAX) {
            result.unwrap();
        }
        let found = setting.results(folder.path());
        for (name, bytes) in &expected {
            assert!(found[name] == *bytes, "{name} on {size} ranks");
        }
    }
}

#[test]
fn divided_by_directions_a_run_stays_close_to_one_process_and_repeats_its_own_bits() {
    let setting = Setting::new();
    let expected = setting.one();
    for size in 1..=4 {
        let [first, second] = [(); 2].map(|()| {
            let folder = tempfile::tempdir().unwrap();
            for result in train_by(&setting, size, Directions, folder.path(), u64::MAX) {
                result.unwrap();
            }
            setting.results(folder.path())
        });
        assert!(first == second, "{size} ranks");
        let (losses, numbers) = difference(&expected, &first);
        println!("{size} ranks: losses within {losses:.1e}, weights within {numbers:.1e}");
        if size == 1 {
            assert!(first == expected);
        }
        assert!(losses < 1e-4 && numbers < 1e-3, "{size} ranks: {losses} {numbers}");
    }
}
