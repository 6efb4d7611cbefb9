//! The pass against the reference procedure, and what must hold however it was interrupted.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use directrix_corpus::{Chunk, Prompts};
use directrix_index::{Error, Identity, Index, Options, Source, build};
use directrix_model::{Folder, Model, Processing, Tensors};
use directrix_sae::Sae;

struct Fixture {
    model: Model,
    saes: Vec<Sae>,
    layers: [usize; 2],
    prompts: Prompts,
    expected: Tensors,
    expected_file: Vec<u8>,
}

fn fixture(name: &str) -> Fixture {
    let path = format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{path}/expected.json")).unwrap()).unwrap();
    let rows: Vec<Vec<u32>> = serde_json::from_value(json["prompts"].clone()).unwrap();
    let layers: [usize; 2] = serde_json::from_value(json["layers"].clone()).unwrap();
    let folder = Folder::open(&path).unwrap();
    let model = Model::load(&folder, Processing::default()).unwrap();
    let sae =
        |l: usize| Sae::load(&Folder::open(format!("{path}/sae-l{l}")).unwrap()).unwrap().fit(model.config()).unwrap();
    let saes = layers.map(sae).to_vec();
    let expected = Tensors::open(&folder, Some("expected.safetensors")).unwrap();
    let expected_file = std::fs::read(format!("{path}/expected.safetensors")).unwrap();
    Fixture { model, saes, layers, prompts: Prompts::from_rows(rows), expected, expected_file }
}

fn identity(corpus: &str) -> Identity {
    let source = |name: &str| Source { name: name.into(), hash: name.into() };
    Identity {
        model: source("m"),
        processing: Processing::default(),
        saes: vec![source("a"), source("b")],
        corpus: source(corpus),
        bos: false,
        limit: None,
        options: Options::default(),
    }
}

fn chunks(prompts: &Prompts, size: usize) -> impl Iterator<Item = directrix_corpus::Result<Chunk>> {
    let n = prompts.len();
    (0..n).step_by(size).map(move |i| Ok(Chunk { prompts: prompts.range(i..(i + size).min(n)), cut: 0 }))
}

fn index(fixture: &Fixture, prompts: &Prompts, folder: &Path) -> Index {
    let never = AtomicBool::new(false);
    build(&fixture.model, &fixture.saes, chunks(prompts, 5), &identity("c"), folder, &never, |_| ()).unwrap()
}

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
        for (number, layer) in fixture.layers.into_iter().enumerate() {
            let sae = index.sae(number);
            let (n, d) = (index.prompts(), sae.directions());
            let maxima = fixture.expected.get(&format!("l{layer}.max_activations"), &[n, d]).unwrap();
            let positions = integers(&fixture.expected_file, &format!("l{layer}.max_positions"));
            let counts = integers(&fixture.expected_file, &format!("l{layer}.token_counts"));
            let vocabulary = counts.len() / d;
            let mut worst = 0.0_f32;
            for direction in 0..d {
                let mut found = vec![(0.0, 0); n];
                for example in sae.prompt_maxima(&index, direction) {
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
                sae.token_counts(direction).iter().for_each(|(token, count)| row[*token as usize] = *count as i32);
                assert_eq!(row, counts[direction * vocabulary..(direction + 1) * vocabulary], "{name} {direction}");
            }
            println!("{name} l{layer} maxima: largest Δ {worst:.1e}");
            assert!(worst <= 1e-4);
        }
    }
}

/// Enough copies of the fixture's prompts for several shards.
fn many(fixture: &Fixture) -> Prompts {
    let mut prompts = Prompts::new();
    while prompts.positions() < 100_000 {
        prompts.extend(&fixture.prompts);
    }
    prompts
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                left.push(entry);
            } else {
                let name = entry.strip_prefix(folder).unwrap().display().to_string();
                all.push((name, std::fs::read(&entry).unwrap()));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn an_interrupted_pass_goes_on_and_gives_the_same_files() {
    let fixture = fixture("neo-tiny");
    let prompts = many(&fixture);
    let folder = tempfile::tempdir().unwrap();
    let (whole, resumed) = (folder.path().join("whole"), folder.path().join("resumed"));
    index(&fixture, &prompts, &whole);

    let stop = AtomicBool::new(false);
    let mut seen = 0;
    let mut attempts = 0;
    loop {
        attempts += 1;
        stop.store(false, Ordering::Relaxed);
        let limit = seen + 40_000;
        let result = build(&fixture.model, &fixture.saes, chunks(&prompts, 7), &identity("c"), &resumed, &stop, |p| {
            assert!(p.positions >= seen, "work that was done is not done again");
            if p.positions > limit && !p.sorting {
                stop.store(true, Ordering::Relaxed);
            }
        });
        match result {
            Ok(_) => break,
            Err(Error::Stopped { prompts: done }) => seen = prompts.offsets()[done] as u64,
            Err(other) => panic!("{other}"),
        }
        assert!(!resumed.exists(), "a half-made index is not there under its name");
    }
    assert!(attempts > 1);
    assert_eq!(files(&whole), files(&resumed));
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
            assert_eq!(sae.histogram(direction).iter().sum::<u64>(), summary.active);
            for example in sae.top_examples(&index, direction, 3) {
                let (directions, values) = sae.at(&index, example.prompt, example.position);
                let i = directions.binary_search(&(direction as u32)).unwrap();
                assert_eq!(values[i], example.activation);
                assert_eq!(sae.on_prompt(&index, example.prompt, direction)[example.position], example.activation);
            }
        }
        let by_position: usize = (0..index.prompts())
            .flat_map(|p| (0..index.prompt(p).len()).map(move |i| (p, i)))
            .map(|(p, i)| sae.at(&index, p, i).0.len())
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
    let never = AtomicBool::new(false);
    let again = |corpus: &str| {
        let none = std::iter::from_fn(|| -> Option<directrix_corpus::Result<Chunk>> { panic!("nothing is read") });
        build(&fixture.model, &fixture.saes, none, &identity(corpus), &path, &never, |_| ()).map(|_| ())
    };
    again("c").unwrap();
    let message = again("another").unwrap_err().to_string();
    assert!(message.contains("another corpus"), "{message}");
}

#[test]
fn damaged_files_are_named() {
    let fixture = fixture("neo-tiny");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let message = |path: &Path| Index::open(path).map(|_| ()).unwrap_err().to_string();
    assert!(message(&path).contains("holds no index"));
    index(&fixture, &fixture.prompts, &path);
    let file = path.join("sae-1/maximum.f32");
    std::fs::write(&file, [0; 7]).unwrap();
    assert!(message(&path).contains("maximum.f32"), "{}", message(&path));
    std::fs::write(path.join("index.json"), "{").unwrap();
    assert!(message(&path).contains("index.json"));
}
