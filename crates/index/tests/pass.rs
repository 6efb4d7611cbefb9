//! The pass against the reference procedure, and what must hold however it was interrupted.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::{Fixture, chunks, files, fixture, identity, index, layers, make, path, try_index};
use directrix_corpus::durable::Lock;
use directrix_corpus::{Chunk, Event, Prompts, Watch};
use directrix_index::{Error, Example, Index, Options, build, rebuild};
use directrix_model::{Ask, Folder, Tensors};
use directrix_sae::Counted;
use proptest::prelude::*;

/// The integers of an `i32` tensor.
fn integers(expected: &[u8], name: &str) -> Vec<i32> {
    let parsed = safetensors::SafeTensors::deserialize(expected).unwrap();
    parsed.tensor(name).unwrap().data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

#[test]
fn maxima_positions_and_token_counts_agree_with_the_reference() {
    for name in ["neo-tiny", "gpt2-tiny", "neox-tiny"] {
        let fixture = fixture(name);
        let folder = tempfile::tempdir().unwrap();
        let index = index(&fixture, &fixture.prompts, &folder.path().join("index"));
        let expected = Tensors::open(&Folder::open(path(name)).unwrap(), Some("expected.safetensors")).unwrap();
        let expected_file = std::fs::read(format!("{}/expected.safetensors", path(name))).unwrap();
        for (number, layer) in layers(&common::expected(name)).into_iter().enumerate() {
            let sae = index.sae(number);
            let (n, d) = (index.prompts(), sae.directions());
            let maxima = expected.get(&format!("l{layer}.max_activations"), &[n, d]).unwrap();
            let positions = integers(&expected_file, &format!("l{layer}.max_positions"));
            let counts = integers(&expected_file, &format!("l{layer}.token_counts"));
            let vocabulary = counts.len() / d;
            let mut worst = 0.0_f32;
            for direction in 0..d {
                let mut found = vec![(0.0, 0); n];
                for example in sae.prompt_maxima(direction).unwrap() {
                    found[example.prompt] = (example.activation, example.position as i32);
                }
                for (prompt, (activation, position)) in found.into_iter().enumerate() {
                    let wanted = maxima[prompt * d + direction];
                    worst = worst.max((activation - wanted).abs() / wanted.abs().max(1.0));
                    if wanted > 1e-4 {
                        assert_eq!(position, positions[prompt * d + direction], "{name} {direction} {prompt}");
                    }
                }
                let mut row = vec![0; vocabulary];
                for counted in sae.token_counts(direction).unwrap() {
                    row[counted.token as usize] = counted.count as i32;
                }
                assert_eq!(row, counts[direction * vocabulary..(direction + 1) * vocabulary], "{name} {direction}");
            }
            println!("{name} l{layer} maxima: largest Δ {worst:.1e}");
            assert!(worst <= 1e-4);
        }
    }
}

/// Enough copies of the fixture's prompts for several runs between checkpoints.
fn many(fixture: &Fixture) -> Prompts {
    let mut prompts = Prompts::new();
    while prompts.positions() < 70_000 {
        prompts.extend(&fixture.prompts);
    }
    prompts
}

#[test]
fn an_interrupted_pass_goes_on_and_gives_the_same_files() {
    let fixture = fixture("neo-tiny");
    let prompts = many(&fixture);
    let folder = tempfile::tempdir().unwrap();
    let (whole, resumed) = (folder.path().join("whole"), folder.path().join("resumed"));
    index(&fixture, &prompts, &whole);

    let mut seen = 0;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let stop = Arc::new(AtomicBool::new(false));
        let (setting, lowest) = (stop.clone(), Arc::new(AtomicU64::new(u64::MAX)));
        let (limit, least) = (seen + prompts.len() as u64 / 2, lowest.clone());
        let watch = Watch::new(stop, move |event: &Event| {
            if event.step == "index" {
                least.fetch_min(event.done, Ordering::Relaxed);
                setting.fetch_or(event.done > limit, Ordering::Relaxed);
            }
        });
        let result = try_index(&fixture, &prompts, &resumed, &watch);
        assert!(lowest.load(Ordering::Relaxed) >= seen, "work that was done is not done again");
        match result {
            Ok(_) => break,
            Err(Error::Stopped { prompts: done }) => seen = done as u64,
            Err(other) => panic!("{other}"),
        }
        assert!(!resumed.exists(), "a half-made index is not there under its name");
    }
    assert!(attempts > 1);
    assert_eq!(files(&whole), files(&resumed));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn killed_at_any_moment_and_damaged_since_a_pass_goes_on() {
    let fixture = fixture("neo-tiny");
    let prompts = many(&fixture);
    let folder = tempfile::tempdir().unwrap();
    let (out, partial) = (folder.path().join("index"), folder.path().join("index.partial"));
    // What lies on the disk at some moments of the pass, as a kill would leave it.
    let states = Arc::new(Mutex::new(Vec::new()));
    let (seen, there) = (states.clone(), partial.clone());
    let every = AtomicU64::new(0);
    let watch = Watch::new(Arc::default(), move |event: &Event| {
        if event.step == "sort" || every.fetch_add(1, Ordering::Relaxed).is_multiple_of(16) {
            seen.lock().unwrap().push(files(&there));
        }
    });
    try_index(&fixture, &prompts, &out, &watch).unwrap();
    let whole = files(&out);
    let mut states = std::mem::take(&mut *states.lock().unwrap());
    assert!(states.len() > 4);
    // Killed between the last two steps: the index is whole but for its name, with or without its checkpoint.
    let mut ended = states[states.len() - 1].clone();
    ended.retain(|(name, _)| !whole.iter().any(|(of_whole, _)| of_whole == name));
    ended.extend(whole.iter().cloned());
    states.push(ended.clone());
    ended.retain(|(name, _)| name != "checkpoint.json");
    states.push(ended);
    // Damage: the last bytes of a file are lost, a bit is flipped, a file is gone; and a JSON file was half written.
    let state = states[states.len() / 2].clone();
    for i in 0..state.len() {
        let mut changed = state.clone();
        let bytes = &mut changed[i].1;
        let half = bytes.len() / 2;
        match i % 3 {
            0 => bytes.truncate(half),
            1 => bytes.iter_mut().skip(half).take(1).for_each(|byte| *byte ^= 4),
            _ => drop(changed.remove(i)),
        }
        changed.push((".checkpoint.json.1-0.partial".into(), b"{".to_vec()));
        states.push(changed);
    }
    // Killed while it removed a pass that it could not go on from: some of that one's files are left, beside its place.
    std::fs::remove_dir_all(&out).unwrap();
    make(&folder.path().join(".index.partial.old"), &state[..state.len() / 2]);
    index(&fixture, &prompts, &out);
    assert!(files(&out) == whole);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    for state in states {
        std::fs::remove_dir_all(&out).unwrap();
        make(&partial, &state);
        let resumed = try_index(&fixture, &prompts, &out, &Watch::nobody());
        assert!(resumed.is_ok(), "{} after {:?}", resumed.unwrap_err(), state.iter().map(|s| &s.0).collect::<Vec<_>>());
        assert!(files(&out) == whole);
        assert!(!partial.exists());
    }
}

#[test]
fn an_index_of_other_inputs_gives_way_when_the_new_one_is_complete() {
    let fixture = fixture("neo-tiny");
    let folder = tempfile::tempdir().unwrap();
    let (out, stopped) = (folder.path().join("index"), Arc::new(AtomicBool::new(true)));
    index(&fixture, &fixture.prompts, &out);
    let old = files(&out);
    let again = |watch: &Watch| {
        let fewer = fixture.prompts.range(0..2);
        rebuild(&fixture.model, &fixture.saes, chunks(&fewer, 5), &identity("fewer"), &out, watch).map(|_| ())
    };
    assert!(matches!(again(&Watch::new(stopped, |_| ())), Err(Error::Stopped { .. })));
    assert_eq!(files(&out), old, "the old one is there until then");
    again(&Watch::nobody()).unwrap();
    assert_eq!(Index::open(&out).unwrap().prompts(), 2);
    // Killed while the folders were exchanged.
    let new = files(&out);
    std::fs::rename(&out, folder.path().join("index.partial")).unwrap();
    make(&folder.path().join(".index.old"), &old);
    again(&Watch::nobody()).unwrap();
    assert_eq!(files(&out), new);
    std::fs::write(out.join("index.json"), "{").unwrap();
    again(&Watch::nobody()).unwrap();
    assert_eq!(files(&out), new, "and so does a damaged one");
    std::fs::remove_dir_all(&out).unwrap();
    make(&out, &[("index.json".into(), b"{ \"posts\": [] }".to_vec()), ("post.md".into(), b"mine".to_vec())]);
    assert!(again(&Watch::nobody()).is_err(), "but not what is no index");
    assert_eq!(std::fs::read(out.join("post.md")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn one_process_writes_an_index_at_a_time() {
    let fixture = fixture("neo-tiny");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("index");
    let lock = Lock::take(&out).unwrap();
    let message = try_index(&fixture, &fixture.prompts, &out, &Watch::nobody()).unwrap_err().to_string();
    assert!(message.contains("index` is being written by another process"), "{message}");
    drop(lock);
    index(&fixture, &fixture.prompts, &out);
    let _lock = Lock::take(&out).unwrap();
    index(&fixture, &fixture.prompts, &out);
}

#[test]
fn both_orders_hold_the_same_activations() {
    let fixture = fixture("gpt2-tiny");
    let folder = tempfile::tempdir().unwrap();
    let index = index(&fixture, &fixture.prompts, &folder.path().join("index"));
    for sae in index.saes() {
        let mut total = 0;
        for direction in 0..sae.directions() {
            let summary = sae.direction(direction);
            total += summary.active;
            let at = |prompt: usize| {
                let row = sae.on_prompt(prompt, direction).unwrap().into_iter().enumerate();
                row.filter(|(_, activation)| *activation > 0.0).map(move |(position, activation)| Example {
                    prompt,
                    position,
                    activation,
                })
            };
            let all: Vec<Example> = (0..index.prompts()).flat_map(at).collect();
            assert_eq!(sae.fires_anywhere(direction).unwrap(), all);
            assert_eq!(sae.histogram(direction).iter().sum::<u64>(), summary.active);
            for example in sae.top_examples(direction, 3).unwrap() {
                let (directions, values) = sae.at(example.prompt, example.position).unwrap();
                let i = directions.binary_search(&(direction as u32)).unwrap();
                assert_eq!(values[i], example.activation);
                assert_eq!(sae.on_prompt(example.prompt, direction).unwrap()[example.position], example.activation);
            }
        }
        let by_position: usize = index
            .lengths()
            .enumerate()
            .flat_map(|(p, length)| (0..length).map(move |i| (p, i)))
            .map(|(p, i)| sae.at(p, i).unwrap().0.len())
            .sum();
        assert_eq!(total, by_position as u64);
    }
}

#[test]
fn a_finished_index_is_reused_and_one_of_other_inputs_refused() {
    let fixture = fixture("neo-tiny");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    index(&fixture, &fixture.prompts, &path);
    let again = |corpus: &str| {
        let none = std::iter::from_fn(|| -> Option<directrix_corpus::Result<Chunk>> { panic!("nothing is read") });
        build(&fixture.model, &fixture.saes, none, &identity(corpus), &path, &Watch::nobody()).map(|_| ())
    };
    again("c").unwrap();
    let message = again("another").unwrap_err().to_string();
    assert!(message.contains("another corpus"), "{message}");
}

/// An index of which the positions that count are chosen.
fn index_by(fixture: &Fixture, prompts: &Prompts, options: &Options) -> Index {
    let folder = tempfile::tempdir().unwrap();
    let mut identity = identity("c");
    identity.options = options.clone();
    let chunks = std::iter::once(Ok(Chunk { prompts: prompts.clone(), cut: 0 }));
    let out = folder.path().join("index");
    build(&fixture.model, &fixture.saes, chunks, &identity, &out, &Watch::nobody()).unwrap()
}

/// A direction's activation at a position.
struct At {
    prompt: usize,
    place: usize,
    of_corpus: u64,
    token: u32,
    activation: f32,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// What an index says of a direction is what plain formulas over the positions that count say, and nothing else.
    #[test]
    fn everything_in_an_index_is_of_the_positions_that_count(
        rows in prop::collection::vec(prop::collection::vec(0..12_u32, 1..20), 1..30),
        skip_first in 0..12_usize,
        skip_last: bool,
        exclude in prop::collection::btree_set(0..12_u32, 0..3),
        count_above in prop::sample::select(vec![0.0_f32, 0.25, 0.5, 0.9]),
    ) {
        let (fixture, prompts) = (fixture("neo-tiny"), Prompts::from_rows(&rows));
        let options =
            Options { count_above, counted: Counted { skip_first, skip_last, exclude: exclude.iter().copied().collect() }, as_notebook: false };
        let index = index_by(&fixture, &prompts, &options);
        let counts = |place: usize, length: usize, token: u32| {
            place >= skip_first && !(skip_last && place + 1 == length) && !exclude.contains(&token)
        };
        let counted = rows.iter().flat_map(|row| row.iter().enumerate().filter(|(p, t)| counts(*p, row.len(), **t))).count();
        prop_assert_eq!(index.meta().counted, counted as u64);

        for (number, sae) in fixture.saes.iter().enumerate() {
            let hook = sae.site().reads.hook;
            let run = fixture.model.run(&prompts, &Ask::capture([hook]), &[]).unwrap();
            let acts = sae.encode(run.captured(hook)).unwrap();
            let found = index.sae(number);
            let mut fires = 0;
            for d in (0..sae.directions()).step_by(7) {
                let mut all: Vec<At> = Vec::new();
                for (prompt, row) in rows.iter().enumerate() {
                    for (place, token) in row.iter().enumerate() {
                        let of_corpus = prompts.offsets()[prompt] + place;
                        let activation = acts.get(of_corpus, d as u32);
                        all.push(At { prompt, place, of_corpus: of_corpus as u64, token: *token, activation });
                    }
                }
                let at_first = all.iter().filter(|at| at.place == 0).map(|at| at.activation).fold(0.0, f32::max);
                prop_assert_eq!(found.at_first(d), at_first);
                all.retain(|at| at.activation > 0.0 && counts(at.place, rows[at.prompt].len(), at.token));
                fires += all.len();

                let maximum = all.iter().map(|at| at.activation).fold(0.0, f32::max);
                let said = found.direction(d);
                prop_assert_eq!(said.maximum, maximum);
                prop_assert_eq!(said.active, all.len() as u64);
                prop_assert_eq!(said.density, all.len() as f64 / (counted as f64).max(1.0));
                let sum: f64 = all.iter().map(|at| f64::from(at.activation)).sum();
                prop_assert!((said.mean * all.len() as f64 - sum).abs() <= 1e-9 * sum.max(1.0));
                let strongest = all.iter().find(|at| at.activation == maximum);
                prop_assert_eq!(found.maximum_position(d), strongest.map_or(0, |at| at.of_corpus));

                let mut histogram = [0; 20];
                all.iter().for_each(|at| histogram[((at.activation / maximum * 20.0) as usize).min(19)] += 1);
                prop_assert_eq!(found.histogram(d), histogram);

                let mut examples: BTreeMap<usize, Example> = BTreeMap::new();
                for at in &all {
                    let new = Example { prompt: at.prompt, position: at.place, activation: at.activation };
                    let best = examples.entry(at.prompt).or_insert(new);
                    if new.activation > best.activation {
                        *best = new;
                    }
                }
                prop_assert_eq!(said.prompts, examples.len() as u64);
                let examples: Vec<Example> = examples.into_values().collect();
                prop_assert_eq!(found.prompt_maxima(d).unwrap(), examples.clone());
                let within = |e: &&Example| e.activation > 0.3 * maximum && e.activation <= 0.8 * maximum;
                let between = found.interval_examples(d, 0.3, 0.8, usize::MAX).unwrap();
                prop_assert_eq!(between.len(), examples.iter().filter(within).count());

                let mut tokens: BTreeMap<u32, u64> = BTreeMap::new();
                let above = all.iter().filter(|at| at.activation > count_above * maximum);
                above.for_each(|at| *tokens.entry(at.token).or_default() += 1);
                let said: BTreeMap<u32, u64> =
                    found.token_counts(d).unwrap().iter().map(|of| (of.token, of.count)).collect();
                prop_assert_eq!(said, tokens);
            }
            prop_assert!(fires > 0 || counted < 50);
        }
    }
}
