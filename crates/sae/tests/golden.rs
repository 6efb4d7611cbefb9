//! Agreement with the reference procedure on the fixtures, and what is refused.

use directrix_corpus::Prompts;
use directrix_model::{Ask, Folder, Model, Processing, Tensors};
use directrix_sae::Sae;

fn path(name: &str) -> String {
    format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn folder(name: &str) -> Folder {
    Folder::open(path(name)).unwrap()
}

fn model(name: &str) -> Model {
    Model::load(&folder(name), Processing::default()).unwrap()
}

#[test]
fn activations_agree_with_the_reference() {
    for (name, layers) in [("neo-tiny", [0, 1]), ("gpt2-tiny", [0, 2]), ("neox-tiny", [0, 1])] {
        let model = model(name);
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path(&format!("{name}/expected.json"))).unwrap()).unwrap();
        let first: Vec<u32> = serde_json::from_value(json["prompts"][0].clone()).unwrap();
        let prompts = Prompts::from_rows([first]);
        let expected = Tensors::open(&folder(name), Some("expected.safetensors")).unwrap();
        for layer in layers {
            let sae = Sae::load(&folder(&format!("{name}/sae-l{layer}"))).unwrap().fit(model.config()).unwrap();
            let run = model.run(&prompts, &Ask::capture([sae.site().reads.hook]), &[]).unwrap();
            let read = run.captured(sae.site().reads.hook);
            let acts = sae.encode(read).unwrap();
            let dense = acts.to_dense(sae.directions());
            let wanted = expected.get(&format!("l{layer}.acts"), &[prompts.positions(), sae.directions()]).unwrap();
            let difference = |(e, f): (&f32, &f32)| (e - f).abs() / e.abs().max(1.0);
            let worst = wanted.iter().zip(&dense).map(difference).fold(0.0, f32::max);
            println!("{name} sae-l{layer} activations: largest Δ {worst:.1e}");
            assert!(worst <= 1e-4, "{name} sae-l{layer}: {worst}");

            // Sparse decoding is the dense product.
            let recon = sae.decode(&acts, read);
            let last = prompts.positions() - 1;
            for j in [0, sae.d_in() - 1] {
                let exact: f64 = (0..sae.directions())
                    .map(|d| dense[last * sae.directions() + d] as f64 * sae.w_dec().row(d)[j] as f64)
                    .sum();
                assert!((recon.row(last)[j] as f64 - exact - sae.b_dec()[j] as f64).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn an_sae_of_another_model_is_refused() {
    let shipped = Model::load(&Folder::open("../../assets/tinystories-2l").unwrap(), Processing::default()).unwrap();
    let error = Sae::load(&folder("neo-tiny/sae-l0")).unwrap().fit(shipped.config()).unwrap_err().to_string();
    assert!(error.contains("reads 128 numbers at blocks.0.mlp.hook_post, but the model has 512"), "{error}");
    let error =
        Sae::load(&folder("gpt2-tiny/sae-l2")).unwrap().fit(model("neo-tiny").config()).unwrap_err().to_string();
    assert!(error.contains("blocks.2.mlp.hook_post, which the model does not have"), "{error}");
}

/// Every inference architecture gives SAELens's activations and reconstruction (`bench/peers/sae_architectures.py`), and
/// what is saved is what was loaded.
#[test]
fn architectures_agree_with_saelens_and_survive_saving() {
    let model = model("neo-tiny");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path("neo-tiny/expected.json")).unwrap()).unwrap();
    let first: Vec<u32> = serde_json::from_value(json["prompts"][0].clone()).unwrap();
    let prompts = Prompts::from_rows([first]);
    let disk = tempfile::tempdir().unwrap();
    for name in ["topk", "topk-rescaled", "jumprelu", "gated"] {
        let fixture = format!("{}/tests/fixtures/architectures/{name}", env!("CARGO_MANIFEST_DIR"));
        let fixture = Folder::open(&fixture).unwrap();
        let sae = Sae::load(&fixture).unwrap().fit(model.config()).unwrap();
        let run = model.run(&prompts, &Ask::capture([sae.site().reads.hook]), &[]).unwrap();
        let values = run.captured(sae.site().reads.hook);
        let acts = sae.encode(values).unwrap();
        let recon = sae.decode(&acts, values);
        let expected = Tensors::open(&fixture, Some("expected.safetensors")).unwrap();
        let dense = acts.to_dense(sae.directions());
        for (key, found, columns) in [("acts", &dense[..], sae.directions()), ("recon", recon.data(), sae.d_in())] {
            let wanted = expected.get(key, &[prompts.positions(), columns]).unwrap();
            let worst = wanted.iter().zip(found).map(|(e, f)| (e - f).abs() / e.abs().max(1.0)).fold(0.0, f32::max);
            println!("{name} {key}: largest Δ {worst:.1e}");
            assert!(worst <= 1e-4, "{name} {key}: {worst}");
        }
        for (position, row) in values.iter_rows().enumerate() {
            for direction in 0..sae.directions() as u32 {
                let one = sae.activation(row, direction).unwrap();
                assert!((one - acts.get(position, direction)).abs() < 1e-4, "{name}: direction {direction}");
            }
        }

        let saved = disk.path().join(name);
        sae.save(&saved, &serde_json::Value::Null, None).unwrap();
        let again = Sae::load(&Folder::open(saved.to_str().unwrap()).unwrap()).unwrap().fit(model.config()).unwrap();
        assert_eq!(again.architecture(), sae.architecture());
        assert_eq!(again.encode(values).unwrap(), acts);
    }
}
