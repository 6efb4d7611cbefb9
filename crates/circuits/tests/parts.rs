//! Parts of the model exchanged, against whole runs of every prompt with the rows set one by one.

use directrix_circuits::*;
use directrix_corpus::{Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{
    Ask, BlockHook, Columns, Edit, Folder, HookPoint, Intervention, Model, Positions, Processing, Rows, Target,
};
use directrix_sae::{Architecture, End, Normalisation, Parameters, Sae, Site};
use proptest::prelude::*;
use std::sync::Arc;

const FAMILIES: [&str; 6] = ["neo-tiny", "gpt2-tiny", "neox-tiny", "llama-tiny", "gemma2-tiny", "gemma3-tiny"];

fn model(name: &str) -> Model {
    let root = format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    Model::load(&Folder::open(&root).unwrap(), Processing::default()).unwrap()
}

/// Logit of the first answer less that of the second, after a whole run with interventions.
fn difference(model: &Model, prompt: &[u32], answers: [u32; 2], interventions: &[Intervention]) -> f64 {
    let targets = answers.map(|token| Target { prompt: 0, position: prompt.len() - 1, token });
    let ask = Ask::nothing().with_predictions(targets);
    let run = model.run(&Prompts::from_rows([prompt]), &ask, interventions).unwrap();
    run.predictions()[0].logit as f64 - run.predictions()[1].logit as f64
}

fn columns(part: ModelPart) -> Columns {
    if let ModelPart::Head(_, head) = part { Columns::Head(head) } else { Columns::All }
}

/// All values of a part in a run of its own, `[positions, width]`.
fn values(model: &Model, prompt: &[u32], part: ModelPart) -> Matrix {
    let run = model.run(&Prompts::from_rows([prompt]), &Ask::capture([part.hook()]), &[]).unwrap();
    let all = run.captured(part.hook());
    match part {
        ModelPart::Head(_, head) => {
            let width = model.config().attention.d_head;
            all.columns_of(head * width..(head + 1) * width)
        }
        _ => all.clone(),
    }
}

fn set(part: ModelPart, positions: Vec<usize>, rows: &Matrix) -> Intervention {
    let rows = rows.gather(positions.clone().into_iter());
    let n = rows.rows();
    let edit = Edit::Set(Rows::each(&Arc::new(rows), 0..n));
    Intervention::new(part.hook(), Positions::At(positions), edit).in_columns(columns(part))
}

fn pairs() -> impl Strategy<Value = Vec<PromptPair>> {
    let pair = (2..12_usize).prop_flat_map(|n| {
        let tokens = || prop::collection::vec(0..50_u32, n);
        (tokens(), prop::collection::vec(any::<bool>(), n), tokens(), 0..n, 0..49_u32).prop_map(
            |(clean, changes, other, at, answer)| {
                let mut corrupted = clean.clone();
                for (i, token) in corrupted.iter_mut().enumerate() {
                    if changes[i] && i >= at {
                        *token = other[i];
                    }
                }
                corrupted[at] = (clean[at] + 1) % 50;
                PromptPair { clean, corrupted, answers: [answer, answer + 1] }
            },
        )
    });
    prop::collection::vec(pair, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn patching_is_what_whole_runs_with_the_values_set_give(
        name in prop::sample::select(FAMILIES.to_vec()),
        pairs in pairs(),
    ) {
        let model = model(name);
        let found = patching(&model, &pairs, true, &Watch::nobody()).unwrap();
        let parts = ModelPart::all(model.config());
        prop_assert_eq!(found.parts.len(), parts.len());
        let mean = |of: &dyn Fn(&PromptPair) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len() as f64;
        let near = |found: f64, expected: f64| (found - expected).abs() <= 2e-4 * expected.abs().max(1.0);
        let clean = |pair: &PromptPair| difference(&model, &pair.clean, pair.answers, &[]);
        let end = HookPoint::Block(model.config().n_layers - 1, BlockHook::ResidPost);
        for (row, part) in found.parts.iter().zip(&parts) {
            prop_assert_eq!(&row.component, &part.to_string());
            let all = |pair: &PromptPair| {
                set(*part, (0..pair.clean.len()).collect(), &values(&model, &pair.corrupted, *part))
            };
            let total = mean(&|pair| difference(&model, &pair.clean, pair.answers, &[all(pair)]) - clean(pair));
            prop_assert!(near(row.total_effect.mean(), total), "{} {} {} {}", name, part, row.total_effect.mean(), total);
            // What the part writes otherwise at the last position, added behind the last block.
            let direct = mean(&|pair| {
                let hook = match part {
                    ModelPart::Head(layer, _) => HookPoint::Block(*layer, BlockHook::AttnOut),
                    other => other.hook(),
                };
                let last = |interventions: &[Intervention]| {
                    let run = model.run(&Prompts::from_rows([&pair.clean]), &Ask::capture([hook]), interventions).unwrap();
                    run.captured(hook).row(pair.clean.len() - 1).to_vec()
                };
                let change: Vec<f32> = last(&[all(pair)]).iter().zip(last(&[])).map(|(new, old)| new - old).collect();
                let add = Intervention::new(end, Positions::FromEnd(1), Edit::Add(change.into()));
                difference(&model, &pair.clean, pair.answers, &[add]) - clean(pair)
            });
            prop_assert!(near(row.direct_effect, direct), "{} {} direct {} {}", name, part, row.direct_effect, direct);
            prop_assert!(near(row.direct_effect + row.indirect_effect, row.total_effect.mean()));
            for at in found.positions.iter().filter(|at| at.component == row.component) {
                let there: Vec<&PromptPair> = pairs.iter().filter(|pair| pair.clean.len() >= at.from_end).collect();
                let effect = |pair: &&PromptPair| {
                    let position = pair.clean.len() - at.from_end;
                    let one = set(*part, vec![position], &values(&model, &pair.corrupted, *part));
                    difference(&model, &pair.clean, pair.answers, &[one]) - clean(pair)
                };
                let expected = there.iter().map(effect).sum::<f64>() / there.len() as f64;
                prop_assert!(at.n == there.len() && near(at.total_effect, expected), "{} {}", name, part);
            }
        }
        // The whole residual stream carries everything.
        prop_assert!(near(found.parts[0].share, 1.0) || found.clean == found.corrupted);
        // `NaN` is not itself.
        let again = patching(&model, &pairs, true, &Watch::nobody()).unwrap();
        prop_assert_eq!(format!("{found:?}"), format!("{again:?}"));
        prop_assert!(patching(&model, &pairs, false, &Watch::nobody()).unwrap().positions.is_empty());
    }

    #[test]
    fn mean_ablation_is_what_whole_runs_with_the_means_set_give(
        name in prop::sample::select(FAMILIES.to_vec()),
        rows in prop::collection::vec(prop::collection::vec(0..50_u32, 2..12), 1..4),
        others in prop::collection::vec(prop::collection::vec(0..50_u32, 1..12), 1..4),
    ) {
        let (model, nobody) = (model(name), Watch::nobody());
        let sae = on_neurons(&model, model.config().n_layers - 1);
        let prompts = Prompts::from_rows(rows);
        let means = PartMeans::of(&model, &Prompts::from_rows(&others), &nobody).unwrap();
        let found = mean_ablations(&model, &prompts, &means, &sae, &[3, 5], Chosen::Given, &nobody).unwrap();
        let parts: Vec<ModelPart> =
            ModelPart::all(model.config()).into_iter().filter(|part| !matches!(part, ModelPart::Residual(_))).collect();
        prop_assert_eq!(found.losses.len(), parts.len());
        let reads = sae.site().reads.hook;
        for (row, part) in found.losses.iter().zip(&parts) {
            let mut mean = vec![0.0_f64; values(&model, &others[0], *part).columns()];
            for prompt in &others {
                let values = values(&model, prompt, *part);
                for value in values.iter_rows() {
                    mean.iter_mut().zip(value).for_each(|(m, x)| *m += *x as f64 / prompt.len() as f64 / others.len() as f64);
                }
            }
            let mean: Vec<f32> = mean.into_iter().map(|x| x as f32).collect();
            let run = |prompt: &[u32], changed: bool| {
                let cut = &prompt[..prompt.len() - 1];
                let replace = Intervention::new(part.hook(), Positions::All, Edit::Set(mean.clone().into()));
                let replace = [replace.in_columns(columns(*part))];
                let target = Target { prompt: 0, position: cut.len() - 1, token: prompt[cut.len()] };
                let ask = Ask::capture([reads]).with_predictions([target]);
                let run = model.run(&Prompts::from_rows([cut]), &ask, if changed { &replace } else { &[] }).unwrap();
                let acts = sae.encode(run.captured(reads)).unwrap();
                let of = |direction| acts.get(cut.len() - 1, direction) as f64;
                [-run.predictions()[0].log_prob, of(3), of(5)]
            };
            let mut expected = [0.0; 3];
            for prompt in prompts.iter() {
                let (with, without) = (run(prompt, true), run(prompt, false));
                (0..3).for_each(|i| expected[i] += (with[i] - without[i]) / prompts.len() as f64);
            }
            let near = |found: f64, expected: f64| (found - expected).abs() <= 2e-4 * expected.abs().max(1.0);
            prop_assert!(near(row.loss_increase.mean(), expected[0]), "{} {} {} {}", name, part, row.loss_increase.mean(), expected[0]);
            for (i, direction) in [(1, 3), (2, 5)] {
                let row = found.activations.iter().find(|row| row.direction == direction && row.component == part.to_string());
                match row {
                    Some(row) => prop_assert!(near(row.activation_change.mean(), expected[i])),
                    None => prop_assert!(part.hook() > reads && expected[i] == 0.0),
                }
            }
        }
        let again = mean_ablations(&model, &prompts, &means, &sae, &[3, 5], Chosen::Given, &nobody).unwrap();
        prop_assert_eq!(format!("{found:?}"), format!("{again:?}"));
    }
}

/// A random SAE on the neurons of a block.
fn on_neurons(model: &Model, layer: usize) -> Sae {
    let (hook, width) = (HookPoint::Block(layer, BlockHook::MlpPost), model.config().mlp.d_mlp);
    let numbers = |seed: usize, n: usize| -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729 + layer) % 1009) as f32 / 1009.0 - 0.5).collect()
    };
    let parameters = Parameters {
        architecture: Architecture::Relu,
        encoder: Matrix::new(numbers(1, 40 * width), 40, width),
        w_dec: Matrix::new(numbers(2, 40 * width), 40, width),
        b_enc: numbers(3, 40),
        b_dec: numbers(4, width),
        subtract_b_dec: true,
        normalisation: Normalisation::None,
        w_skip: None,
    };
    Sae::new(format!("random-{layer}"), Site::at(End { hook, head: None, width }), parameters).unwrap()
}

#[test]
fn pairs_that_cannot_be_patched_are_refused_by_number() {
    let model = model("neo-tiny");
    let pair = |clean: &[u32], corrupted: &[u32], answers| PromptPair {
        clean: clean.to_vec(),
        corrupted: corrupted.to_vec(),
        answers,
    };
    let good = pair(&[1, 2, 3], &[1, 4, 3], [5, 6]);
    let message =
        |bad: PromptPair| patching(&model, &[good.clone(), bad], false, &Watch::nobody()).unwrap_err().to_string();
    assert_eq!(
        message(pair(&[1, 2, 3], &[1, 2], [5, 6])),
        "pair 2 of those given: the clean prompt has 3 tokens and the corrupted one 2; values are exchanged position by position, so give two of equally many"
    );
    assert!(message(pair(&[1, 2], &[1, 2], [5, 6])).contains("are the same; give two that differ"));
    assert!(message(pair(&[1, 2], &[1, 3], [5, 5])).contains("are the same"));
    assert!(message(pair(&[], &[], [5, 6])).contains("are the same"));
    assert!(message(pair(&[1, 2], &[1, 3], [5, 999_999])).contains("999999"));
    assert!(message(pair(&[1, 2], &[1, 999_999], [5, 6])).contains("999999"));
    assert!(patching(&model, &[], true, &Watch::nobody()).unwrap().clean.is_empty());
}

#[test]
fn as_large_a_change_along_random_rows_stands_beside_every_part() {
    let model = model("gpt2-tiny");
    let pairs: Vec<PromptPair> = (0..6)
        .map(|i| PromptPair { clean: vec![1, i, 3, 4], corrupted: vec![1, i + 7, 3, 9], answers: [5, 6] })
        .collect();
    let found = patching(&model, &pairs, false, &Watch::nobody()).unwrap();
    for row in &found.parts {
        let control = row.total_effect.controls.rows.unwrap();
        assert!(control.n == 6 && control.mean != 0.0 && control.mean != row.total_effect.mean(), "{}", row.component);
    }
}
