//! Agreement with TransformerLens's hooks on edits at every hook point of the first and the last block: what the final
//! LayerNorm gives at the last position, and the loss at every position.
//!
//! `bench/peers/interventions.py` made the cases, seeded with the model's name and its processing, and what TransformerLens
//! 3.9.0 gives on them; it knows nothing of Directrix. Run with `--nocapture` to see the largest difference of each kind.

use std::collections::{BTreeMap, BTreeSet};

use directrix_corpus::Prompts;
use directrix_model::{Ask, Edit, Folder, HookPoint, Intervention, Model, Positions, Processing, Tensors};
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    prompts: Vec<Vec<u32>>,
    processed: Vec<Case>,
    raw: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: usize,
    interventions: Vec<Intervention>,
}

impl Case {
    fn kind(&self) -> &'static str {
        match &self.interventions[..] {
            [Intervention { edit: Edit::Zero, .. }] => "zero",
            [Intervention { edit: Edit::Set(_), .. }] => "set",
            [Intervention { edit: Edit::Add(_), .. }] => "add",
            [Intervention { edit: Edit::Scale(_), .. }] => "scale",
            [Intervention { edit: Edit::Project(_), .. }] => "project",
            _ => "several",
        }
    }
}

/// What the final LayerNorm gives at the last position, and the losses.
fn outcome(model: &Model, tokens: &[u32], interventions: &[Intervention]) -> [Vec<f32>; 2] {
    let end = HookPoint::LnFinalNormalized;
    let ask = Ask::nothing().with_capture(end, Positions::FromEnd(1)).with_losses();
    let run = model.run(&Prompts::from_rows([tokens]), &ask, interventions).unwrap();
    [run.captured(end).data().to_vec(), run.losses().to_vec()]
}

/// The largest |Δ| / max(1, |x|).
fn difference(expected: &[&[f32]; 2], found: &[Vec<f32>; 2]) -> f64 {
    let one = |(&e, &f): (&f32, &f32)| (e as f64 - f as f64).abs() / (e as f64).abs().max(1.0);
    let of = |(expected, found): (&&[f32], &Vec<f32>)| {
        assert_eq!(expected.len(), found.len());
        expected.iter().zip(found).map(one).fold(0.0, f64::max)
    };
    expected.iter().zip(found).map(of).fold(0.0, f64::max)
}

#[test]
fn edits_at_every_hook_point_agree_with_transformer_lens() {
    println!("{:10} {:9} {:8} {:>5} {:>9}", "model", "weights", "edit", "cases", "largest Δ");
    for name in ["neo-tiny", "gpt2-tiny", "neox-tiny", "gemma2-tiny", "gemma3-tiny"] {
        let folder = Folder::open(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let Cases { prompts, processed, raw } =
            serde_json::from_slice(&folder.read("interventions.json").unwrap()).unwrap();
        let expected = Tensors::open(&folder, Some("interventions.safetensors")).unwrap();
        for (weights, cases, processing) in
            [("processed", &processed, Processing::default()), ("raw", &raw, Processing::none())]
        {
            let model = Model::load(&folder, processing).unwrap();
            let plain: Vec<_> = prompts.iter().map(|tokens| outcome(&model, tokens, &[])).collect();
            let get = |what: &str| {
                let name = format!("{weights}.{what}");
                expected.get(&name, &expected.shape(&name).unwrap()).unwrap()
            };
            let (ends, losses) = (get("end"), get("losses"));
            let mut ends = ends.chunks_exact(model.config().d_model);
            let mut losses = &losses[..];
            let mut worst: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
            for case in cases {
                let Case { prompt, interventions } = case;
                let (of_prompt, rest) = losses.split_at(prompts[*prompt].len() - 1);
                losses = rest;
                let expected = [ends.next().unwrap(), of_prompt];
                let delta = difference(&expected, &outcome(&model, &prompts[*prompt], interventions));
                assert!(delta <= 1e-4, "{name} {weights}: {delta} at {interventions:?}");
                // Without the edits it would not agree.
                assert!(
                    difference(&expected, &plain[*prompt]) > 5e-3,
                    "{name} {weights}: no effect of {interventions:?}"
                );
                let (count, largest) = worst.entry(case.kind()).or_default();
                (*count, *largest) = (*count + 1, largest.max(delta));
            }
            assert!(ends.next().is_none() && losses.is_empty());
            for (kind, (count, largest)) in worst {
                println!("{name:10} {weights:9} {kind:8} {count:5} {largest:9.1e}");
            }
        }

        let config = Model::load(&folder, Processing::none()).unwrap().config().clone();
        let edited: BTreeSet<HookPoint> =
            processed.iter().flat_map(|case| &case.interventions).map(|i| i.hook).collect();
        let outer = |hook: &HookPoint| hook.layer().is_none_or(|layer| layer == 0 || layer + 1 == config.n_layers);
        // TransformerLens has no hook points around the unembedding.
        let missing: Vec<HookPoint> = HookPoint::all(&config)
            .into_iter()
            .filter(|hook| outer(hook) && *hook < HookPoint::UnembedIn && !edited.contains(hook))
            .collect();
        assert_eq!(missing, [], "{name}");
    }
}
