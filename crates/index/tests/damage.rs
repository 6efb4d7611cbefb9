//! Damaged indexes: whatever is in the files, an error or an answer, never a panic; and no damage goes unseen.

mod common;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use common::{files, fixture, index, make};
use directrix_corpus::durable::{Sums, read_json, write_json};
use directrix_index::{Index, Result};
use proptest::prelude::*;
use serde_json::Value;

type Files = Vec<(String, Vec<u8>)>;

/// An index, and one of the same model and SAEs on other prompts.
static INDEXES: LazyLock<[Files; 2]> = LazyLock::new(|| {
    let fixture = fixture("neo-tiny");
    let folder = tempfile::tempdir().unwrap();
    let half = fixture.prompts.len() / 2;
    [0..half, half..2 * half].map(|range: Range<usize>| {
        let out = folder.path().join(range.start.to_string());
        index(&fixture, &fixture.prompts.range(range), &out);
        files(&out)
    })
});

/// Asks for everything.
fn ask(folder: &Path) -> Result<()> {
    let index = Index::open(folder)?;
    index.occurrences()?;
    for sae in index.saes() {
        assert!(sae.dead() <= sae.directions() && sae.l0() >= 0.0);
        for direction in 0..sae.directions() {
            assert_eq!(sae.direction(direction).active, sae.histogram(direction).iter().sum::<u64>());
            assert!(sae.maximum_position(direction) < index.meta().positions);
            sae.activations(direction)?;
            sae.token_counts(direction)?;
            for example in sae.interval_examples(direction, 0.0, 1.0, 3)?.iter().chain(&sae.top_examples(direction, 2)?)
            {
                let (tokens, row) = (index.prompt(example.prompt)?, sae.on_prompt(example.prompt, direction)?);
                assert_eq!((tokens.len(), row[example.position]), (row.len(), example.activation));
            }
        }
        for prompt in 0..index.prompts() {
            for position in 0..index.prompt(prompt)?.len() {
                sae.at(prompt, position)?;
            }
        }
    }
    assert!(index.prompt(index.prompts()).is_err());
    Ok(())
}

/// A copy of the index with other files.
fn copy(change: impl FnOnce(&mut Files)) -> (tempfile::TempDir, PathBuf) {
    let mut files = INDEXES[0].clone();
    change(&mut files);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("index");
    make(&out, &files);
    (folder, out)
}

/// Makes the checksums those of the bytes.
fn sum_again(folder: &Path) {
    let mut contents: Value = read_json(&folder.join("index.json")).unwrap();
    let mut blocks = Vec::new();
    for file in contents["files"].as_array_mut().unwrap() {
        let bytes = std::fs::read(folder.join(file["file"].as_str().unwrap())).unwrap();
        let sums = Sums::of(&bytes);
        (file["bytes"], file["checksum"]) = (bytes.len().into(), sums.checksum().into());
        blocks.extend(sums.blocks().into_iter().flat_map(u32::to_le_bytes));
    }
    std::fs::write(folder.join("checksums.u32"), blocks).unwrap();
    seal(folder, contents);
}

fn seal(folder: &Path, mut contents: Value) {
    contents.as_object_mut().unwrap().remove("crc32c");
    write_json(&folder.join("index.json"), &contents).unwrap();
}

#[test]
fn an_index_that_is_not_damaged_answers() {
    let (_folder, out) = copy(|_| ());
    ask(&out).unwrap();
    sum_again(&out);
    ask(&out).unwrap();
    assert!(files(&out) == INDEXES[0], "the checksums are made as here");
}

#[test]
fn every_damage_of_every_file_is_an_error_that_names_it() {
    type Damage = fn(&mut Vec<u8>, &[u8]);
    let classes: [(&str, Damage); 9] = [
        ("cut by a byte", |bytes, _| bytes.truncate(bytes.len() - 1)),
        ("empty", |bytes, _| bytes.clear()),
        ("a byte more", |bytes, _| bytes.push(0)),
        ("first bit", |bytes, _| bytes[0] ^= 1),
        ("middle bit", |bytes, _| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 16;
        }),
        ("last bit", |bytes, _| *bytes.last_mut().unwrap() ^= 128),
        ("zeros", |bytes, _| bytes.fill(0)),
        ("ones", |bytes, _| bytes.fill(0xff)),
        ("of another index", |bytes, other| *bytes = other.to_vec()),
    ];
    let mut checked = 0;
    for (number, (name, whole)) in INDEXES[0].iter().enumerate() {
        let other = &INDEXES[1].iter().find(|(other, _)| other == name).unwrap().1;
        for (class, damage) in classes {
            let mut bytes = whole.clone();
            if bytes.is_empty() {
                continue;
            }
            damage(&mut bytes, other);
            if bytes == *whole {
                continue;
            }
            let (_folder, out) = copy(|files| files[number].1 = bytes);
            let error = ask(&out).expect_err(&format!("{name}, {class}")).to_string();
            // An `index.json` of another index makes all other files wrong.
            assert!(error.contains(name) || *name == "index.json", "{name}, {class}: {error}");
            checked += 1;
        }
        let (_folder, out) = copy(|files| drop(files.remove(number)));
        assert!(ask(&out).is_err(), "{name} is missing");
    }
    assert!(checked > 200, "{checked}");
}

#[test]
fn values_that_cannot_be_are_errors_also_with_checksums_of_their_own() {
    for (number, (name, whole)) in INDEXES[0].iter().enumerate() {
        let impossible = match name.rsplit('.').next().unwrap() {
            "f32" => f32::NAN.to_le_bytes().to_vec(),
            "f64" => f64::NAN.to_le_bytes().to_vec(),
            "u32" => u32::MAX.to_le_bytes().to_vec(),
            "u64" => u64::MAX.to_le_bytes().to_vec(),
            _ => continue,
        };
        if name == "checksums.u32" {
            continue;
        }
        let n = whole.len() / impossible.len();
        for place in [0, n / 2, n - 1] {
            let (_folder, out) = copy(|files| {
                files[number].1[place * impossible.len()..(place + 1) * impossible.len()].copy_from_slice(&impossible);
            });
            sum_again(&out);
            let error = ask(&out).expect_err(&format!("{name}, number {place}")).to_string();
            assert!(error.contains(name), "{name}, number {place}: {error}");
        }
    }
}

#[test]
fn numbers_of_index_json_that_cannot_be_are_errors() {
    /// The places of all numbers in a value.
    fn places(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                object.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found));
            }
            Value::Array(array) => {
                array.iter().enumerate().for_each(|(i, value)| places(value, &format!("{at}/{i}"), found));
            }
            Value::Number(_) => found.push(at.to_owned()),
            _ => {}
        }
    }
    let (_folder, out) = copy(|_| ());
    let contents: Value = read_json(&out.join("index.json")).unwrap();
    let mut all = Vec::new();
    places(&contents, "", &mut all);
    assert!(all.len() > 50);
    for place in all {
        for number in [0, 1, u64::from(u32::MAX), u64::MAX] {
            let mut changed = contents.clone();
            if changed.pointer(&place) == Some(&number.into()) {
                continue;
            }
            *changed.pointer_mut(&place).unwrap() = number.into();
            seal(&out, changed);
            let answered = ask(&out).is_ok();
            // Thresholds and the count of cut prompts may be anything; a vocabulary may be larger.
            let free = place.contains("/options/") || place == "/meta/cut" || place == "/meta/vocabulary";
            assert!(free || !answered, "{place} = {number}");
        }
    }
}

#[test]
fn an_index_of_another_format_is_told_from_a_damaged_one() {
    let (_folder, out) = copy(|_| ());
    std::fs::write(out.join("index.json"), r#"{"format": 1, "prompts": 3}"#).unwrap();
    let message = Index::open(&out).unwrap_err().to_string();
    assert!(message.contains("index format 1, expected 3; remove the folder and build the index again"), "{message}");
    let message = Index::open(&out.join("none")).unwrap_err().to_string();
    assert!(message.contains("holds no index"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn random_damage_never_panics(
        file in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 8]>(), 1..9_usize), 1..6),
        length in prop::option::of(0..200_000_usize),
        summed in any::<bool>(),
    ) {
        let number = file.index(INDEXES[0].len());
        let (name, whole) = &INDEXES[0][number];
        let mut bytes = whole.clone();
        for (place, with, n) in edits {
            let at = place.index(bytes.len());
            let n = n.min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&with[..n]);
        }
        if let Some(length) = length {
            bytes.resize(length, 0xff);
        }
        let changed = bytes != *whole;
        let (_folder, out) = copy(|files| files[number].1 = bytes);
        if summed && name != "index.json" {
            sum_again(&out);
            drop(ask(&out));
        } else {
            prop_assert!(ask(&out).is_err() == changed);
        }
    }
}
