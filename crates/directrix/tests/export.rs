//! `directrix export` as a user runs it.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{Folder, done, failed, fixture, json};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

/// The rows of a Parquet file: prompt, position, direction, and the activation's bits.
fn rows(path: &str) -> Vec<(i64, i32, i32, u32)> {
    let file = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    let row = |row: parquet::record::Row| {
        let numbers = [1, 4].map(|column| row.get_int(column).unwrap());
        (row.get_long(0).unwrap(), numbers[0], numbers[1], row.get_float(5).unwrap().to_bits())
    };
    file.get_row_iter(None).unwrap().map(|found| row(found.unwrap())).collect()
}

#[test]
fn every_activation_of_an_index_is_a_row_of_parquet() {
    let folder = Folder::new();
    let (model, sae, corpus) = (fixture("gpt2-tiny"), fixture("gpt2-tiny/sae-l0"), folder.ids("ids.jsonl", 40, 64));
    let (index, out, few) = (folder.at("index"), folder.at("out"), folder.at("few"));
    done(&[
        "index",
        "--model",
        &model,
        "--sae",
        &sae,
        "--corpus",
        &corpus,
        "--out",
        &index,
        "--skip-first=0",
        "--include-last",
    ]);
    let export = |more: &[&str]| json(&[&["export", "--to=parquet", "--index", &index][..], more].concat());
    let made = export(&["--out", &out]);
    let all = rows(&format!("{out}/activations.parquet"));
    assert_eq!(made["rows"].as_u64().unwrap() as usize, all.len());
    assert!(
        all.windows(2).all(|pair| pair[0] < pair[1] || pair[0].0 < pair[1].0),
        "in the order of prompts and positions"
    );

    // What the index says of each direction.
    let mut fires: BTreeMap<i32, (u64, f32)> = BTreeMap::new();
    for (_, _, direction, bits) in &all {
        let of = fires.entry(*direction).or_default();
        *of = (of.0 + 1, of.1.max(f32::from_bits(*bits)));
    }
    for direction in 0..8 {
        let said = json(&["direction", &direction.to_string(), "--index", &index]);
        let (active, maximum) = fires.get(&direction).copied().unwrap_or_default();
        assert_eq!(said["active"].as_u64().unwrap(), active);
        assert!((said["maximum"].as_f64().unwrap() - f64::from(maximum)).abs() < 1e-6);
    }

    export(&["--out", &few, "--directions", "2-4"]);
    let some: Vec<_> = all.iter().copied().filter(|row| (2..=4).contains(&row.2)).collect();
    assert_eq!(rows(&format!("{few}/activations.parquet")), some);
    let bytes = fs::read(format!("{out}/activations.parquet")).unwrap();
    export(&["--out", &out]);
    assert!(bytes == fs::read(format!("{out}/activations.parquet")).unwrap(), "the same again");
}

#[test]
fn what_cannot_be_exported_is_named() {
    let folder = Folder::new();
    let (index, out) = (folder.at("index"), folder.at("out"));
    assert!(failed(1, &["export", "--to=parquet", "--index", &index, "--out", &out]).contains("holds no index"));
    assert!(failed(2, &["export", "--to=arrow", "--index", &index]).contains("parquet"));
    assert!(folder.names().is_empty());
}
