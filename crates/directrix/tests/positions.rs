//! Positions that do not count are left out of everything that is said of a direction.

mod common;

use std::fs;

use common::{Folder, done, failed, json};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use serde_json::{Value, json as of};

const BOS: u32 = 0;
const TRUE_TOKEN: u32 = 7;
const WIDTH: usize = 32;

/// The bytes of a safetensors file of f32 tensors.
fn file(tensors: &[(&str, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(.., x)| x.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes);
    serialize(views.map(|((name, shape, _), x)| (name, TensorView::new(Dtype::F32, shape.clone(), x).unwrap())), None)
        .unwrap()
}

/// A model of which the first number of the embedding is 100 for BOS, 1 for one token and 0 for all others, an SAE whose
/// direction 0 reads that number, and prompts that begin with BOS.
struct Made {
    folder: Folder,
    model: String,
    sae: String,
    corpus: String,
    /// Positions of the true token that count, and those that do not.
    counted: usize,
    early: usize,
}

fn made() -> Made {
    let folder = Folder::new();
    let model = folder.model("gpt2-tiny");
    let path = format!("{model}/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let read =
        |view: &TensorView| view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> =
        parsed.tensors().into_iter().map(|(name, t)| (name, t.shape().to_vec(), read(&t))).collect();
    let wte = tensors.iter_mut().find(|(name, ..)| name.ends_with("wte.weight")).unwrap();
    for (token, row) in wte.2.chunks_mut(WIDTH).enumerate() {
        row[0] = match token as u32 {
            BOS => 100.0,
            TRUE_TOKEN => 1.0,
            _ => 0.0,
        };
    }
    let named: Vec<(&str, Vec<usize>, Vec<f32>)> =
        tensors.iter().map(|(name, shape, x)| (name.as_str(), shape.clone(), x.clone())).collect();
    fs::write(&path, file(&named)).unwrap();

    let sae = folder.at("sae");
    fs::create_dir(&sae).unwrap();
    let mut encoder = vec![0.0; WIDTH];
    encoder[0] = 1.0;
    let weights = [
        ("W_enc", vec![WIDTH, 1], encoder.clone()),
        ("W_dec", vec![1, WIDTH], encoder),
        ("b_enc", vec![1], vec![0.0]),
        ("b_dec", vec![WIDTH], vec![0.0; WIDTH]),
    ];
    fs::write(format!("{sae}/sae_weights.safetensors"), file(&weights)).unwrap();
    let config = of!({ "d_in": WIDTH, "d_sae": 1, "metadata": { "hook_name": "hook_embed" } });
    fs::write(format!("{sae}/cfg.json"), config.to_string()).unwrap();

    let (mut lines, mut counted, mut early) = (String::new(), 0, 0);
    for prompt in 0..30_u32 {
        let mut tokens = vec![BOS];
        tokens.extend((1..40).map(|i| 1 + (prompt * 5 + i * 11) % 60));
        counted += tokens[10..39].iter().filter(|token| **token == TRUE_TOKEN).count();
        early += tokens[..10].iter().filter(|token| **token == TRUE_TOKEN).count();
        lines += &of!({ "tokens": tokens }).to_string();
        lines.push('\n');
    }
    let corpus = folder.write("ids.jsonl", lines);
    Made { folder, model, sae, corpus, counted, early }
}

impl Made {
    /// What `direction 0 --json` says of an index with some flags.
    fn direction(&self, name: &str, flags: &[&str]) -> Value {
        let out = self.folder.at(name);
        let inputs = ["index", "--model", &self.model, "--sae", &self.sae, "--corpus", &self.corpus, "--no-processing"];
        done(&[&inputs[..], &["--out", &out], flags].concat());
        json(&["direction", "0", "--index", &out])
    }
}

#[test]
fn an_outlier_on_bos_changes_nothing_that_is_said_of_a_direction() {
    let made = made();
    assert!(made.counted > 3 && made.early > 0);
    let check = |said: &Value, active: usize| {
        assert_eq!(said["maximum"], 1.0, "{said}");
        assert_eq!(said["mean"], 1.0);
        assert_eq!(said["active"], active);
        assert_eq!(said["histogram"][19], active);
        assert_eq!(said["at_first"], 100.0);
        assert_eq!(said["tokens"].as_array().unwrap().len(), 1);
        assert_eq!((&said["tokens"][0]["token"], &said["tokens"][0]["count"]), (&of!(TRUE_TOKEN), &of!(active)));
        for example in said["examples"]["top"].as_array().unwrap() {
            let place = example["position"].as_u64().unwrap() as usize;
            assert_eq!(example["tokens"][place], TRUE_TOKEN);
            assert_eq!(example["activations"][0], 100.0, "the activations themselves are whole");
        }
    };
    check(&made.direction("default", &[]), made.counted);
    check(&made.direction("by-id", &["--skip-first", "0", "--exclude", "0"]), made.counted + made.early);
    let all = made.direction("all", &["--skip-first", "0"]);
    assert_eq!((&all["maximum"], &all["histogram"][19]), (&of!(100.0), &of!(30)));
    let notebook = made.direction("notebook", &["--as-notebook"]);
    assert_eq!((&notebook["maximum"], &notebook["tokens"]), (&of!(100.0), &of!([])));
}

#[test]
fn which_positions_count_is_said() {
    let made = made();
    let out = made.folder.at("index");
    let inputs = ["index", "--model", &made.model, "--sae", &made.sae, "--corpus", &made.corpus, "--no-processing"];
    let said = "870 positions count; left out: the first 10 positions of every prompt and the last";
    let on_one_line = |text: String| text.replace('\n', " ");
    let index = on_one_line(done(&[&inputs[..], &["--out", &out]].concat()));
    assert!(index.contains(said), "{index}");
    let direction = on_one_line(done(&["direction", "0", "--index", &out]));
    assert!(
        direction.contains(said) && direction.contains("at the first position of a prompt, at most: 100.00"),
        "{direction}"
    );

    let other = failed(1, &[&inputs[..], &["--out", &out, "--exclude", "3"]].concat());
    assert!(other.contains("index of other inputs (other positions count)"), "{other}");
    let none = failed(1, &[&inputs[..], &["--out", &out, "--exclude", "999"]].concat());
    assert!(none.contains("there is no token `999` to be excluded: the model has tokens 0 to 127"), "{none}");
    let text = failed(1, &[&inputs[..], &["--out", &out, "--exclude", "<|endoftext|>"]].concat());
    assert!(text.contains("tokenizer.json` is missing"), "{text}");
}
