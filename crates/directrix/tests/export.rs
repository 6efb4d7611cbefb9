//! `directrix export` as a user runs it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;

use common::{Folder, done, failed, fixture, json, run};
use flate2::read::GzDecoder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

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
    assert_eq!(made["activations"].as_u64().unwrap() as usize, all.len());
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

/// An index of the smallest model, at all positions.
fn index(folder: &Folder) -> String {
    let (model, sae, corpus) = (fixture("gpt2-tiny"), fixture("gpt2-tiny/sae-l0"), folder.ids("ids.jsonl", 40, 64));
    let index = folder.at("index");
    let of = ["index", "--model", &model, "--sae", &sae, "--corpus", &corpus, "--out", &index];
    done(&[&of[..], &["--skip-first=0", "--include-last"]].concat());
    index
}

fn lines(path: String) -> Vec<Value> {
    let mut text = String::new();
    GzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn dashboards_show_what_the_index_holds() {
    let folder = Folder::new();
    let index = index(&folder);
    let [dashboards, upload, parquet] = ["dashboards", "upload", "parquet"].map(|name| folder.at(name));
    let export = |form: &str, out: &str| json(&["export", "--to", form, "--index", &index, "--out", out]);
    export("parquet", &parquet);
    export("saedashboard", &dashboards);
    export("neuronpedia", &upload);
    let mut fires: BTreeMap<i32, Vec<f32>> = BTreeMap::new();
    for (_, _, direction, bits) in rows(&format!("{parquet}/activations.parquet")) {
        fires.entry(direction).or_default().push(f32::from_bits(bits));
    }

    let batch: Value = serde_json::from_slice(&fs::read(format!("{dashboards}/batch-0.json")).unwrap()).unwrap();
    assert_eq!((&batch["layer"], &batch["model_id"]), (&0.into(), &"gpt2-tiny".into()));
    let positions = json(&["direction", "0", "--index", &index])["corpus_positions"].as_f64().unwrap();
    let mut examples = 0;
    for dashboard in batch["features"].as_array().unwrap() {
        let direction = dashboard["feature_index"].as_i64().unwrap() as i32;
        let mut values = fires.remove(&direction).unwrap_or_default();
        values.sort_by(|a, b| b.total_cmp(a));
        let neurons = numbers(&dashboard["correlated_neurons_pearson"]);
        // No direction fires equally at every position.
        assert_eq!(neurons.len(), if values.is_empty() { 0 } else { 3 }, "{direction}");
        assert!(neurons.is_sorted_by(|a, b| a >= b) && neurons.iter().all(|pearson| pearson.abs() <= 1.0));
        let heights = numbers(&dashboard["freq_hist_data_bar_heights"]);
        assert_eq!(heights.iter().sum::<f64>(), values.len() as f64);
        let share = dashboard["frac_nonzero"].as_f64().unwrap();
        assert!((share - values.len() as f64 / positions).abs() <= 5.1e-6, "{direction}");
        let shown = dashboard["activations"].as_array().unwrap();
        examples += shown.len();
        // Decoder rows of this SAE have other lengths than 1, by which all activations of a direction are multiplied.
        let scale = shown.first().map_or(0.0, |top| top["bin_max"].as_f64().unwrap() / f64::from(values[0]));
        for (example, value) in shown.iter().filter(|example| example["bin_min"] == -1.0).zip(&values) {
            let at = example["qualifying_token_index"].as_u64().unwrap() as usize;
            let found = numbers(&example["values"])[at];
            assert!((found - f64::from(*value) * scale).abs() <= 2e-3 + 1e-3 * found, "{direction}: {found} {value}");
            assert_eq!(example["tokens"].as_array().unwrap().len(), numbers(&example["values"]).len());
        }
        for example in shown.iter().filter(|example| example["bin_min"] != -1.0) {
            let [low, high] = ["bin_min", "bin_max"].map(|end| example[end].as_f64().unwrap());
            let at = example["qualifying_token_index"].as_u64().unwrap() as usize;
            let found = numbers(&example["values"])[at];
            assert!(low - 1e-3 <= found && found <= high + 1e-3, "{direction}: {found} in {low} to {high}");
        }
    }
    let source = format!("{upload}/gpt2-tiny/0-sae-l0");
    let (features, activations) =
        (lines(format!("{source}/features/batch-0.jsonl.gz")), lines(format!("{source}/activations/batch-0.jsonl.gz")));
    assert_eq!((features.len(), activations.len()), (batch["features"].as_array().unwrap().len(), examples));
    for (feature, dashboard) in features.iter().zip(batch["features"].as_array().unwrap()) {
        for panel in ["pos_str", "frac_nonzero", "correlated_features_l1", "neuron_alignment_l1"] {
            assert_eq!(feature[panel], dashboard[panel]);
        }
        for panel in ["indices", "pearson", "l1"].map(|of| format!("correlated_neurons_{of}")) {
            assert_eq!(feature[&panel], dashboard[&panel]);
        }
        assert_eq!(feature["index"], dashboard["feature_index"]);
    }
    let ids: BTreeSet<&str> = activations.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert!(ids.len() == examples && ids.iter().all(|id| id.len() == 25));

    let some = folder.at("some");
    json(&["export", "--to=saedashboard", "--index", &index, "--out", &some, "--directions=5,9"]);
    let few: Value = serde_json::from_slice(&fs::read(format!("{some}/batch-0.json")).unwrap()).unwrap();
    assert_eq!(few["features"], serde_json::json!([batch["features"][5], batch["features"][9]]));
    fs::remove_dir_all(&some).unwrap();

    let features = format!("{source}/features/batch-0.jsonl.gz");
    let bytes = fs::read(&features).unwrap();
    export("neuronpedia", &upload);
    assert!(bytes == fs::read(&features).unwrap(), "the same again");
    assert_eq!(folder.names(), ["dashboards", "ids.jsonl", "index", "parquet", "upload"]);
}

#[test]
fn a_latent_cache_holds_every_activation_and_none_on_padding() {
    let folder = Folder::new();
    let (index, out, parquet) = (index(&folder), folder.at("out"), folder.at("parquet"));
    let export = |form: &str, out: &str| json(&["export", "--to", form, "--index", &index, "--out", out]);
    export("parquet", &parquet);
    let made = export("delphi", &out);
    let mut found = Vec::new();
    let module = format!("{out}/latents/blocks.0.mlp.hook_post");
    for entry in fs::read_dir(&module).unwrap() {
        let path = entry.unwrap().path();
        let Some((start, _)) = path.file_stem().unwrap().to_str().unwrap().split_once('_') else { continue };
        let start: i32 = start.parse().unwrap();
        let bytes = fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let [locations, activations, tokens] =
            ["locations", "activations", "tokens"].map(|name| tensors.tensor(name).unwrap());
        assert_eq!((locations.dtype(), activations.dtype(), tokens.dtype()), (Dtype::U16, Dtype::F16, Dtype::I64));
        assert_eq!((tokens.shape()[0], locations.shape()), (40, &[activations.shape()[0], 3][..]));
        let numbers: Vec<i32> =
            locations.data().chunks(2).map(|b| i32::from(u16::from_le_bytes([b[0], b[1]]))).collect();
        for (location, bits) in numbers.chunks(3).zip(activations.data().chunks(2)) {
            let bits = u16::from_le_bytes([bits[0], bits[1]]);
            found.push((i64::from(location[0]), location[1], start + location[2], bits));
        }
    }
    found.sort_unstable();
    assert_eq!(made["activations"].as_u64().unwrap() as usize, found.len());
    let all = rows(&format!("{parquet}/activations.parquet")).into_iter();
    let all: Vec<_> = all.filter(|row| f32::from_bits(row.3) > 1e-5).collect();
    assert_eq!(all.len(), found.len());
    for (one, half) in all.iter().zip(&found) {
        assert_eq!((one.0, one.1, one.2), (half.0, half.1, half.2), "where there is a token, and a direction fires");
        let (exponent, mantissa) = (i32::from(half.3 >> 10), f32::from(half.3 & 1023));
        let value = if exponent == 0 {
            mantissa / 1024.0 * 2_f32.powi(-14)
        } else {
            (1.0 + mantissa / 1024.0) * 2_f32.powi(exponent - 15)
        };
        let exact = f32::from_bits(one.3);
        assert!((value - exact).abs() <= exact / 2048.0 + 1e-7, "{value} {exact}");
    }
}

#[test]
fn rows_of_datasets_are_whole_runs_of_a_prompt() {
    let folder = Folder::new();
    let (index, out) = (index(&folder), folder.at("out"));
    let args = ["export", "--to=datasets", "--index", &index, "--out", &out];
    let message = failed(1, &args);
    assert!(message.contains("have 5 to ") && message.contains("say by --context how long"), "{message}");
    assert!(failed(1, &[&args[..], &["--context=1000"]].concat()).contains("no prompt of the index is as long"));
    assert!(failed(1, &[&args[..], &["--context=5", "--directions=1"]].concat()).contains("leave out --directions"));
    assert!(
        failed(1, &["export", "--to=parquet", "--index", &index, "--context=5"]).contains("of --to datasets alone")
    );

    let corpus = fs::read_to_string(folder.at("ids.jsonl")).unwrap();
    let lengths = corpus.lines().map(|line| line.split(',').count());
    let expected: usize = lengths.map(|length| length / 7).sum();
    let made = json(&[&args[..], &["--context=7"]].concat());
    assert_eq!(made["rows"].as_u64().unwrap() as usize, expected);
    let info: Value = serde_json::from_slice(&fs::read(format!("{out}/dataset_info.json")).unwrap()).unwrap();
    assert_eq!(info["features"]["blocks.0.mlp.hook_post"]["shape"][0], 7);
    assert_eq!(info["features"]["token_ids"]["length"], 7);
    let bytes = || fs::read(format!("{out}/data-00000-of-00001.arrow")).unwrap();
    let before = bytes();
    json(&[&args[..], &["--context=7"]].concat());
    assert!(before == bytes(), "the same again");
}

#[test]
fn directions_that_are_not_asked_for_are_named_as_skipped() {
    let folder = Folder::new();
    let (index, out) = (index(&folder), folder.at("out"));
    let args = ["export", "--to=saedashboard", "--index", &index, "--out", &out, "--directions", "3,0"];
    assert_eq!(json(&args)["batches"], 1);
    let read = |file: &str| -> Value { serde_json::from_slice(&fs::read(format!("{out}/{file}")).unwrap()).unwrap() };
    let of: Vec<_> =
        read("batch-0.json")["features"].as_array().unwrap().iter().map(|f| f["feature_index"].clone()).collect();
    assert_eq!(of, [0, 3]);
    assert_eq!(numbers(&read("skipped_indexes.json")["skipped_indexes"])[..3], [1.0, 2.0, 4.0]);
}

#[test]
fn what_cannot_be_exported_is_named() {
    let folder = Folder::new();
    let (index, out) = (folder.at("index"), folder.at("out"));
    assert!(failed(1, &["export", "--to=parquet", "--index", &index, "--out", &out]).contains("holds no index"));
    assert!(failed(2, &["export", "--to=arrow", "--index", &index]).contains("parquet"));
    assert!(folder.names().is_empty());

    let index = crate::index(&folder);
    let export = |form: &str, more: &[&str]| {
        let args = ["export", "--to", form, "--index", &index, "--out", &out];
        run(&[&args[..], more].concat())
    };
    let refused = |output: std::process::Output| {
        assert_eq!(output.status.code(), Some(1));
        common::text(&output.stderr)
    };
    let message = refused(export("saedashboard", &["--directions", "0,100000"]));
    assert!(message.contains("there is no direction 100000"), "{message}");
    let message = refused(export("saedashboard", &["--model", &fixture("neo-tiny")]));
    assert!(message.contains("is of the model"), "{message}");
    assert!(!std::path::Path::new(&out).exists());
    assert!(export("parquet", &[]).status.success());
    let message = refused(export("neuronpedia", &[]));
    assert!(message.contains("it holds an export as \"parquet\"; choose another --out"), "{message}");
    fs::create_dir(folder.at("own")).unwrap();
    let own = folder.write("own/notes.txt", "mine");
    let args = ["export", "--to=parquet", "--index", &index, "--out", own.strip_suffix("/notes.txt").unwrap()];
    assert!(failed(1, &args).contains("files that are no export"));
    assert_eq!(fs::read_to_string(own).unwrap(), "mine");
}
