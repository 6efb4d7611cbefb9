//! Training by several ranks: the bits of one process where positions are divided, within rounding where directions are;
//! files that do not depend on how many there were.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use directrix_corpus::{Chunk, Event, Prompts, Ranks, Threads, Watch};
use directrix_model::{Folder, Model, Processing};
use directrix_sae::train::{Feed, Metrics, Notice, Over, Penalty, Recipe, Training, train};
use directrix_sae::{Error, Result};
use safetensors::SafeTensors;
use serde_json::{Value, json};

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
                expansion: if objective == "batch_topk" { 4.0 } else { 0.5 },
                k: 4,
                learning_rate: 1e-3,
                warm_up: 3,
                dead_below: 0.05,
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

    /// One rank's run into `folder`; it is stopped when so many positions were trained on, and when so many documents have been
    /// read.
    fn train(&self, folder: &Path, positions: u64, documents: u64, over: Over) -> Result<()> {
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
        let now = stop.clone();
        let stops = move |event: &Event| {
            now.fetch_or(event.step == "training" && event.done >= positions, Ordering::Relaxed);
        };
        train(&training, &Watch::new(stop.clone(), stops), |_| ())
    }

    /// What all files but the locks are after a run.
    fn results(&self, folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let files = ["sae_weights.safetensors", "sparsity.safetensors", "metrics.jsonl", "cfg.json", "train.toml"];
        let names = self.recipes.iter().flat_map(|(name, _)| files.map(|file| format!("{name}/{file}")));
        names.map(|name| (name.clone(), fs::read(folder.join("out").join(&name)).unwrap())).collect()
    }

    fn one(&self) -> BTreeMap<String, Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        self.train(folder.path(), u64::MAX, u64::MAX, Over::One).unwrap();
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

fn train_by(setting: &Setting, size: usize, divided: Divided, folder: &Path) -> Vec<Result<()>> {
    by_ranks(size, divided, |_, over| setting.train(folder, u64::MAX, u64::MAX, over))
}

fn weights(file: &[u8]) -> BTreeMap<String, Vec<f32>> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let numbers = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    tensors.tensors().into_iter().map(|(name, tensor)| (name, numbers(tensor.data()))).collect()
}

fn metrics(file: &[u8]) -> Vec<Metrics> {
    str::from_utf8(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The largest difference of two runs: of losses, relative, and of weights.
fn difference(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> (f64, f64) {
    let (mut losses, mut numbers) = (0.0_f64, 0.0_f64);
    for (name, a) in a {
        let b = &b[name];
        if name.ends_with("metrics.jsonl") {
            let (a, b) = (metrics(a), metrics(b));
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

/// That a run had dead directions to help and to resample, without which it would say little.
fn check_that_directions_died(results: &BTreeMap<String, Vec<u8>>) {
    for name in ["topk", "batch_topk", "matryoshka"] {
        let lines = metrics(&results[&format!("{name}/metrics.jsonl")]);
        let (resampled, aux) =
            (lines.iter().any(|line| line.resampled > 0), lines.iter().any(|line| line.mean.aux > 0.0));
        assert!(resampled && aux, "{name}: {resampled} {aux}");
    }
}

#[test]
fn divided_by_positions_any_number_of_ranks_gives_the_bits_of_one_process() {
    let setting = Setting::new();
    let expected = setting.one();
    check_that_directions_died(&expected);
    for size in 1..=4 {
        let folder = tempfile::tempdir().unwrap();
        for result in train_by(&setting, size, Positions, folder.path()) {
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
            for result in train_by(&setting, size, Directions, folder.path()) {
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
        assert!(losses < 1e-5 && numbers < 1e-5, "{size} ranks: {losses} {numbers}");
    }
}

/// Trains by so many ranks until the last of them is stopped, at a step or while the buffer is filled.
fn stop(setting: &Setting, (size, divided): (usize, Divided), in_a_step: bool, folder: &Path) {
    let results = by_ranks(size, divided, |rank, over| {
        let is_stopped = rank == size - 1;
        let at = |stops: bool, at: u64| if is_stopped && stops { at } else { u64::MAX };
        setting.train(folder, at(in_a_step, 12 * 18), at(!in_a_step, 30), over)
    });
    for result in results {
        assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
    }
    assert!(folder.join("out/checkpoint.safetensors").is_file());
}

#[test]
fn stopped_on_four_ranks_a_run_goes_on_on_two() {
    let setting = Setting::of(&["combined_hoyer_sqrt", "topk", "matryoshka", "jumprelu", "gated"]);
    let expected = setting.one();
    for (first, then) in [
        ((4, Positions), (2, Positions)),
        ((1, Positions), (3, Positions)),
        ((4, Directions), (2, Directions)),
        ((3, Directions), (2, Positions)),
        ((2, Positions), (4, Directions)),
    ] {
        for in_a_step in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            stop(&setting, first, in_a_step, folder.path());
            for result in train_by(&setting, then.0, then.1, folder.path()) {
                result.unwrap();
            }
            let found = setting.results(folder.path());
            if first.1 == Positions && then.1 == Positions {
                assert!(found == expected, "{first:?} {then:?}");
            }
            let (losses, numbers) = difference(&expected, &found);
            assert!(losses < 1e-5 && numbers < 1e-5, "{first:?} {then:?}: {losses} {numbers}");
        }
    }
}

#[test]
fn a_checkpoint_does_not_say_how_many_ranks_wrote_it() {
    let setting = Setting::of(&["topk", "gated"]);
    let checkpoint = |size, divided| {
        let folder = tempfile::tempdir().unwrap();
        stop(&setting, (size, divided), true, folder.path());
        let bytes = fs::read(folder.path().join("out/checkpoint.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut state: Value = serde_json::from_slice(tensors.tensor("state").unwrap().data()).unwrap();
        // TensorBoard's file has times in it.
        for member in state["members"].as_array_mut().unwrap() {
            member["state"]["logged"].as_object_mut().unwrap().remove("events").unwrap();
        }
        let arrays = tensors.tensors().into_iter().filter(|(name, _)| name != "state");
        let arrays = arrays.map(|(name, tensor)| (name, (tensor.shape().to_vec(), tensor.data().to_vec())));
        (state, arrays.collect::<BTreeMap<_, _>>())
    };
    let one = checkpoint(1, Positions);
    assert!(checkpoint(1, Directions) == one);
    for size in 2..=4 {
        assert!(checkpoint(size, Positions) == one, "{size}");
        let shapes = |arrays: &BTreeMap<String, (Vec<usize>, Vec<u8>)>| {
            arrays.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect::<Vec<_>>()
        };
        assert_eq!(shapes(&checkpoint(size, Directions).1), shapes(&one.1), "{size}");
    }
}

/// What is done to a setting, and the beginning of what is said then.
type Change = (fn(&mut Setting), &'static str);

#[test]
fn ranks_that_were_given_different_trainings_are_told_what_differs() {
    let changes: [Change; 5] = [
        (|setting| setting.feed.batch = 16, "feed.batch: not the same on all ranks (rank 0: 18; rank 2: 16)"),
        (|setting| setting.recipes[0].1.k = 5, "recipes.0.1.k: not the same on all ranks (rank 0: 4; rank 2: 5)"),
        (
            |setting| setting.recipes[0].1.target_l0 = Some(3.0),
            "recipes.0.1.target-l0: not the same on all ranks (rank 0: nothing; rank 2: 3.0)",
        ),
        (|setting| setting.documents[0][1] ^= 1, "the model's and corpus's bits: not the same on all ranks"),
        (
            |setting| setting.feed.exclude = vec![5],
            "feed.exclude.0: not the same on all ranks (rank 0: nothing; rank 2: 5)",
        ),
    ];
    let setting = Setting::of(&["topk"]);
    for (change, expected) in changes {
        let mut other = Setting::of(&["topk"]);
        change(&mut other);
        for divided in [Positions, Directions] {
            let folder = tempfile::tempdir().unwrap();
            let results = by_ranks(3, divided, |rank, over| {
                (if rank == 2 { &other } else { &setting }).train(folder.path(), u64::MAX, u64::MAX, over)
            });
            for result in results {
                let message = result.unwrap_err().to_string();
                assert!(message.starts_with(expected), "{message}");
            }
            assert!(!folder.path().join("out/topk/cfg.json").exists());
        }
    }
}

#[test]
fn an_error_of_one_rank_ends_all() {
    let setting = Setting::of(&["topk"]);
    for divided in [Positions, Directions] {
        for fails in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let results = by_ranks(3, divided, |rank, over| {
                let documents = || {
                    let chunks = setting.documents.iter().enumerate().map(|(i, document)| {
                        if rank == fails && i == 30 {
                            return Err(directrix_corpus::Error::Empty { corpus: "stories".into() });
                        }
                        Ok(Chunk { prompts: Prompts::from_rows([document]), cut: 0 })
                    });
                    Ok(Box::new(chunks) as Box<dyn Iterator<Item = _>>)
                };
                let training = Training {
                    model: &setting.model,
                    documents: &documents,
                    bos: Some(0),
                    evaluation: &setting.evaluation,
                    feed: &setting.feed,
                    recipes: &setting.recipes,
                    from: &BTreeMap::new(),
                    cache: None,
                    out: folder.path(),
                    model_name: "neo-tiny",
                    identity: &json!({}),
                    over,
                };
                train(&training, &Watch::nobody(), |_| ())
            });
            for (rank, result) in results.into_iter().enumerate() {
                let message = result.unwrap_err().to_string();
                let expected = if rank == fails { "corpus `stories` holds no prompt" } else { "has ended" };
                assert!(message.contains(expected), "{divided:?} {fails} {rank}: {message}");
            }
        }
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_no_rank() {
    let setting = Setting::of(&["topk", "gated"]);
    for divided in [Positions, Directions] {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("checkpoint.safetensors");
        fs::create_dir_all(&in_the_way).unwrap();
        let failed = AtomicU64::new(0);
        let results = by_ranks(3, divided, |_, over| {
            let documents = || {
                let chunk = Chunk { prompts: Prompts::from_rows(&setting.documents), cut: 0 };
                Ok(Box::new(std::iter::once(Ok(chunk))) as Box<dyn Iterator<Item = _>>)
            };
            let training = Training {
                model: &setting.model,
                documents: &documents,
                bos: Some(0),
                evaluation: &setting.evaluation,
                feed: &setting.feed,
                recipes: &setting.recipes,
                from: &BTreeMap::new(),
                cache: None,
                out: folder.path(),
                model_name: "neo-tiny",
                identity: &json!({}),
                over,
            };
            train(&training, &Watch::nobody(), |notice| {
                if let Notice::CheckpointFailed { .. } = notice {
                    failed.fetch_add(1, Ordering::Relaxed);
                    fs::remove_dir(&in_the_way).unwrap();
                }
            })
        });
        results.into_iter().for_each(|result| result.unwrap());
        assert_eq!(failed.into_inner(), 1);
        assert!(folder.path().join("topk/cfg.json").is_file() && !in_the_way.exists());
    }
}

#[test]
fn what_cannot_be_divided_is_refused_with_what_to_do() {
    let mut setting = Setting::of(&["topk"]);
    setting.feed.evaluate_every = 8;
    let refused = |setting: &Setting, size| {
        let folder = tempfile::tempdir().unwrap();
        let results = train_by(setting, size, Directions, folder.path());
        results.into_iter().map(|result| result.unwrap_err().to_string()).collect::<Vec<_>>()
    };
    for message in refused(&setting, 2) {
        assert!(message.starts_with("evaluate-every: no rank holds a whole SAE"), "{message}");
    }
    setting.feed.evaluate_every = 0;
    (setting.recipes[0].1.expansion, setting.recipes[0].1.k) = (2.0 / 128.0, 1);
    for message in refused(&setting, 3) {
        assert!(message.starts_with("expansion: 2 directions cannot be divided over 3 ranks"), "{message}");
    }
}

#[test]
fn more_ranks_than_windows_or_positions_find_work_or_none() {
    let mut setting = Setting::of(&["batch_topk", "gated"]);
    // A window or two fill the buffer.
    setting.feed = Feed { tokens: 40, batch: 2, buffer: 4, ..setting.feed };
    setting.recipes.iter_mut().for_each(|(_, recipe)| recipe.dead_below = 0.2);
    let expected = setting.one();
    for (size, divided) in [(6, Positions), (6, Directions)] {
        let folder = tempfile::tempdir().unwrap();
        for result in train_by(&setting, size, divided, folder.path()) {
            result.unwrap();
        }
        let (losses, numbers) = difference(&expected, &setting.results(folder.path()));
        let most = if divided == Positions { 0.0 } else { 1e-5 };
        assert!(losses <= most && numbers <= most, "{divided:?}: {losses} {numbers}");
    }
}
