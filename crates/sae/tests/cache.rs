//! Activations that are kept: written and read by several trainings at once, and by whoever reads Parquet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;

use directrix_corpus::{Chunk, Prompts, Threads, Watch};
use directrix_model::{Ask, Folder, Model, Processing};
use directrix_sae::Result;
use directrix_sae::train::{Feed, Over, Recipe, Split, Training, fill, train};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, RowAccessor};
use serde_json::{Value, json};

const HOOKS: [&str; 2] = ["blocks.0.mlp.hook_post", "blocks.1.hook_resid_post"];

struct Setting {
    model: Model,
    documents: Vec<Vec<u32>>,
    feed: Feed,
    recipes: Vec<(String, Recipe)>,
}

impl Setting {
    /// A run that reads 700 windows, nearly three files of them, not quite twice.
    fn new() -> Setting {
        let path = format!("{}/../model/tests/fixtures/neo-tiny", env!("CARGO_MANIFEST_DIR"));
        let documents = (0..700_u32).map(|i| (0..4 + i % 3).map(|j| (i * 31 + j * 17) % 128).collect()).collect();
        let recipe = |site: &str| {
            let (site, objective) = (site.to_owned(), "topk".to_owned());
            (
                site.clone(),
                Recipe { site, objective, coefficient: vec![], expansion: 0.5, k: 4, warm_up: 3, ..Recipe::default() },
            )
        };
        Setting {
            model: Model::load(&Folder::open(path).unwrap(), Processing::default()).unwrap(),
            documents,
            feed: Feed {
                tokens: 6400,
                batch: 64,
                context: 8,
                buffer: 512,
                log_every: 10,
                evaluate_every: 0,
                ..Feed::default()
            },
            recipes: HOOKS.map(recipe).to_vec(),
        }
    }

    fn with<T>(&self, cache: Option<&Path>, out: &Path, over: Over, run: impl Fn(&Training) -> T) -> T {
        let all = || {
            let chunk = |document| Ok(Chunk { prompts: Prompts::from_rows([document]), cut: 0 });
            Ok(Box::new(self.documents.iter().map(chunk)) as Box<dyn Iterator<Item = _>>)
        };
        run(&Training {
            model: &self.model,
            documents: &all,
            bos: None,
            evaluation: &Prompts::new(),
            feed: &self.feed,
            recipes: &self.recipes,
            from: &BTreeMap::new(),
            cache,
            out,
            model_name: "neo-tiny",
            identity: &json!({ "model": "neo-tiny" }),
            over,
        })
    }

    /// The weights that a run leaves.
    fn train(&self, cache: Option<&Path>, over: Over, out: &Path) -> Result<()> {
        self.with(cache, out, over, |training| train(training, &Watch::nobody(), |_| ()))
    }

    fn weights(out: &Path) -> Vec<Vec<u8>> {
        HOOKS.iter().map(|hook| fs::read(out.join(hook).join("sae_weights.safetensors")).unwrap()).collect()
    }

    fn one(&self, cache: Option<&Path>) -> Result<Vec<Vec<u8>>> {
        let out = tempfile::tempdir().unwrap();
        self.train(cache, Over::One, out.path())?;
        Ok(Setting::weights(out.path()))
    }

    fn by_ranks(&self, size: usize, split: Split, cache: Option<&Path>) -> Vec<Vec<u8>> {
        let out = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            let run = |ranks: Threads| self.train(cache, split.over(Some(&ranks)), out.path()).unwrap();
            Threads::new(size).into_iter().for_each(|ranks| drop(scope.spawn(move || run(ranks))));
        });
        Setting::weights(out.path())
    }

    fn fill(&self, cache: &Path, shard: [usize; 2]) -> Result<()> {
        self.with(Some(cache), Path::new("nowhere"), Over::One, |training| fill(training, shard, &Watch::nobody()))
    }
}

/// The files of windows in a folder, and when each was made.
fn files(folder: &Path) -> BTreeSet<(String, std::time::SystemTime)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let file =
        |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().modified().unwrap());
    entries.map(file).filter(|(name, _)| name != "cache.json").collect()
}

fn names(folder: &Path) -> Vec<String> {
    files(folder).into_iter().map(|(name, _)| name).collect()
}

const WHOLE: [&str; 3] = [
    "windows-000000000000-000000000256.parquet",
    "windows-000000000256-000000000512.parquet",
    "windows-000000000512-000000000700.parquet",
];

#[test]
fn a_run_has_its_bits_with_a_cache_that_is_empty_full_or_filled_by_others() {
    let setting = Setting::new();
    let expected = setting.one(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (own, filled) = (folder.path().join("own"), folder.path().join("filled"));
    assert!(setting.one(Some(&own)).unwrap() == expected, "empty");
    assert_eq!(names(&own), WHOLE);
    let before = files(&own);
    assert!(setting.one(Some(&own)).unwrap() == expected, "full");
    thread::scope(|scope| {
        for shard in 0..2 {
            let (setting, filled) = (&setting, &filled);
            scope.spawn(move || setting.fill(filled, [shard, 3]).unwrap());
        }
    });
    assert_eq!(names(&filled), WHOLE[..2]);
    assert!(setting.one(Some(&filled)).unwrap() == expected, "filled but for a part");
    assert_eq!(names(&filled), WHOLE);
    for name in WHOLE {
        assert!(fs::read(own.join(name)).unwrap() == fs::read(filled.join(name)).unwrap(), "{name}");
    }
    setting.fill(&own, [0, 1]).unwrap();
    assert!(files(&own) == before, "what is there stays as it is");
}

#[test]
fn filling_goes_as_far_as_training_reads() {
    let mut setting = Setting::new();
    setting.feed.tokens = 1024;
    let folder = tempfile::tempdir().unwrap();
    setting.fill(folder.path(), [0, 1]).unwrap();
    let before = files(folder.path());
    setting.one(Some(folder.path())).unwrap();
    assert!(files(folder.path()) == before, "{before:?}");
    assert!(before.len() == 2, "{before:?}");
    setting.feed.tokens = 1_000_000;
    setting.fill(folder.path(), [0, 1]).unwrap();
    let held: Vec<u64> = (0..701)
        .filter(|number| {
            names(folder.path()).iter().any(|name| {
                let range: Vec<u64> = name[8..33].split('-').map(|number| number.parse().unwrap()).collect();
                (range[0]..range[1]).contains(number)
            })
        })
        .collect();
    assert_eq!(held, (0..700).collect::<Vec<u64>>());
}

#[test]
fn ranks_read_and_write_it_together() {
    let setting = Setting::new();
    let expected = setting.one(None).unwrap();
    for split in [Split::Positions, Split::Directions] {
        for size in 1..=4 {
            let folder = tempfile::tempdir().unwrap();
            let without = setting.by_ranks(size, split, None);
            let with = || setting.by_ranks(size, split, Some(folder.path()));
            assert!(with() == without, "empty, {size} ranks, {split:?}");
            assert_eq!(names(folder.path()), WHOLE);
            assert!(with() == without, "full, {size} ranks, {split:?}");
            assert!(split == Split::Directions || without == expected);
        }
    }
}

#[test]
fn runs_that_start_together_share_a_folder() {
    let setting = Setting::new();
    let expected = setting.one(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        let run = || setting.one(Some(folder.path())).unwrap();
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
        let filling = scope.spawn(|| setting.fill(folder.path(), [0, 1]).unwrap());
        for thread in threads {
            assert!(thread.join().unwrap() == expected);
        }
        filling.join().unwrap();
    });
    assert!(setting.one(Some(folder.path())).unwrap() == expected);
    assert!(WHOLE.iter().all(|name| names(folder.path()).iter().any(|found| found == name)));
    assert!(names(folder.path()).iter().all(|name| name.starts_with("windows-")), "nothing is left beside");
}

#[test]
fn a_damaged_file_ends_the_run_with_its_name() {
    let setting = Setting::new();
    let folder = tempfile::tempdir().unwrap();
    setting.fill(folder.path(), [0, 1]).unwrap();
    let path = folder.path().join(WHOLE[1]);
    let bytes = fs::read(&path).unwrap();
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    for changed in [&changed, &bytes[..bytes.len() / 2], &[]] {
        fs::write(&path, changed).unwrap();
        let message = setting.one(Some(folder.path())).unwrap_err().to_string();
        assert!(message.contains(WHOLE[1]) && message.contains("is damaged"), "{message}");
    }
    fs::remove_file(&path).unwrap();
    setting.one(Some(folder.path())).unwrap();
    assert!(fs::read(&path).unwrap() == bytes, "made again");
}

#[test]
fn any_reader_of_parquet_finds_windows_tokens_and_rows() {
    let setting = Setting::new();
    let folder = tempfile::tempdir().unwrap();
    setting.fill(folder.path(), [0, 1]).unwrap();
    let reader = SerializedFileReader::new(fs::File::open(folder.path().join(WHOLE[2])).unwrap()).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr().root_schema().clone();
    let columns: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
    assert_eq!(columns, ["window", "tokens", HOOKS[0], HOOKS[1]]);
    let numbers = |list: &parquet::record::List| -> Vec<f32> {
        list.elements().iter().map(|x| if let Field::Float(x) = x { *x } else { panic!("{x}") }).collect()
    };
    let mut windows = 0;
    for (row, number) in reader.get_row_iter(None).unwrap().zip(512..) {
        let (row, document) = (row.unwrap(), &setting.documents[number]);
        assert_eq!(row.get_ulong(0).unwrap(), number as u64);
        let tokens: Vec<Field> = document.iter().map(|token| Field::UInt(*token)).collect();
        assert_eq!(row.get_list(1).unwrap().elements(), tokens);
        let hooks = HOOKS.map(|hook| hook.parse().unwrap());
        let run = setting.model.run(&Prompts::from_rows([document]), &Ask::capture(hooks), &[]).unwrap();
        for (place, hook) in hooks.into_iter().enumerate() {
            assert!(numbers(row.get_list(2 + place).unwrap()) == run.captured(hook).data());
        }
        windows += 1;
    }
    assert_eq!(windows, 188);
    let pairs = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let said: Value = serde_json::from_str(pairs[0].value.as_deref().unwrap()).unwrap();
    assert_eq!(said["widths"], json!([[HOOKS[0], 128], [HOOKS[1], 32]]));
    assert_eq!(said["crc32c"].as_array().unwrap().len(), 188);
}
