//! The fixtures, and indexes of them.

#![allow(dead_code)]

use std::path::Path;

use directrix_corpus::{Chunk, Prompts, Watch};
use directrix_index::{Identity, Index, Input, Options, Result, build};
use directrix_model::{Folder, Model, Processing};
use directrix_sae::Sae;

pub(crate) struct Fixture {
    pub(crate) model: Model,
    pub(crate) saes: Vec<Sae>,
    pub(crate) prompts: Prompts,
}

pub(crate) fn path(name: &str) -> String {
    format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What the fixture was made of.
pub(crate) fn expected(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(format!("{}/expected.json", path(name))).unwrap()).unwrap()
}

/// The layers of its SAEs.
pub(crate) fn layers(expected: &serde_json::Value) -> [usize; 2] {
    serde_json::from_value(expected["layers"].clone()).unwrap()
}

pub(crate) fn fixture(name: &str) -> Fixture {
    let (path, json) = (path(name), expected(name));
    let rows: Vec<Vec<u32>> = serde_json::from_value(json["prompts"].clone()).unwrap();
    let model = Model::load(&Folder::open(&path).unwrap(), Processing::default()).unwrap();
    let sae =
        |l: usize| Sae::load(&Folder::open(format!("{path}/sae-l{l}")).unwrap()).unwrap().fit(model.config()).unwrap();
    let saes = layers(&json).map(sae).to_vec();
    Fixture { model, saes, prompts: Prompts::from_rows(rows) }
}

pub(crate) fn identity(corpus: &str) -> Identity {
    let input = |name: &str| Input { name: name.into(), hash: name.into() };
    Identity {
        model: input("m"),
        processing: Processing::default(),
        saes: vec![input("a"), input("b")],
        corpus: input(corpus),
        bos: false,
        column: None,
        limit: None,
        options: Options { as_notebook: true, ..Options::default() },
    }
}

pub(crate) fn chunks(prompts: &Prompts, size: usize) -> impl Iterator<Item = directrix_corpus::Result<Chunk>> {
    let n = prompts.len();
    (0..n).step_by(size).map(move |i| Ok(Chunk { prompts: prompts.range(i..(i + size).min(n)), cut: 0 }))
}

pub(crate) fn try_index(fixture: &Fixture, prompts: &Prompts, folder: &Path, watch: &Watch) -> Result<Index> {
    build(&fixture.model, &fixture.saes, chunks(prompts, 7), &identity("c"), folder, watch)
}

pub(crate) fn index(fixture: &Fixture, prompts: &Prompts, folder: &Path) -> Index {
    try_index(fixture, prompts, folder, &Watch::nobody()).unwrap()
}

/// Every file in a folder by its path there, and its bytes.
pub(crate) fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
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

/// Makes a folder of `files`.
pub(crate) fn make(folder: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
