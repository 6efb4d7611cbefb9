//! Every form of an SAE gives what its library gives (`bench/peers/sae_formats.py`).

use std::fs;

use directrix_kernels::Matrix;
use directrix_model::{Folder, Tensors};
use directrix_sae::{Hook, Place, Sae};
use serde_json::Value;

fn root() -> String {
    format!("{}/tests/fixtures/formats", env!("CARGO_MANIFEST_DIR"))
}

fn cases() -> Vec<Value> {
    serde_json::from_slice(&fs::read(format!("{}/cases.json", root())).unwrap()).unwrap()
}

fn place(case: &Value) -> Place {
    let hook = |end: &str| Hook { hook: case[end].as_str().unwrap().parse().unwrap(), head: None };
    Place { reads: hook("reads"), writes: hook("writes") }
}

/// The SAE of a case, told where it is if its files do not say it.
fn load(case: &Value) -> Sae {
    let folder = Folder::open(format!("{}/{}", root(), case["folder"].as_str().unwrap())).unwrap();
    if case["told"] == true {
        let error = Sae::load(&folder).unwrap_err().to_string();
        assert!(error.contains("do not say which hook point") && error.contains("say it"), "{error}");
        return Sae::load_at(&folder, place(case)).unwrap();
    }
    Sae::load(&folder).unwrap_or_else(|error| panic!("{error}"))
}

/// Rows, activations and reconstructions of a case.
fn expected(case: &Value) -> [Matrix; 3] {
    let folder = Folder::open(root()).unwrap();
    let tensors = Tensors::open(&folder, Some(&format!("{}.safetensors", case["folder"].as_str().unwrap()))).unwrap();
    ["x", "acts", "recon"].map(|name| {
        let shape = tensors.shape(name).unwrap();
        tensors.matrix(name, shape[0], shape[1]).unwrap()
    })
}

fn worst(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(f, w)| (f - w).abs() / w.abs().max(1.0)).fold(0.0, f32::max)
}

#[test]
fn activations_and_reconstructions_are_those_of_the_library() {
    let cases = cases();
    assert!(cases.len() > 60, "{}", cases.len());
    for case in cases {
        let name = case["folder"].as_str().unwrap();
        let (sae, [x, acts, recon]) = (load(&case), expected(&case));
        assert_eq!(
            [sae.site().reads.to_string(), sae.site().writes.to_string()],
            [&case["reads"], &case["writes"]].map(|n| n.as_str().unwrap().to_owned()),
            "{name}"
        );
        let found = sae.encode(&x).unwrap();
        let difference = worst(&found.to_dense(sae.directions()), acts.data());
        assert!(difference <= 1e-5, "{name}: activations differ by {difference}");
        let difference = worst(sae.decode(&found, &x).data(), recon.data());
        assert!(difference <= 1e-5, "{name}: reconstructions differ by {difference}");
        for (row, x) in x.iter_rows().enumerate() {
            for direction in 0..sae.directions() as u32 {
                let one = sae.activation(x, direction).unwrap();
                assert!((one - found.get(row, direction)).abs() <= 1e-5, "{name}: direction {direction}");
            }
        }
    }
}
