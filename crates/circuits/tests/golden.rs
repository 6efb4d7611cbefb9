//! Every analysis against the reference procedure on the fixtures.
//!
//! Run with `--nocapture` to see the largest difference of each. `DIRECTRIX_FIXTURES` names another folder of fixtures, made
//! with another seed or size.

use directrix_circuits::*;
use directrix_corpus::{Chunk, Prompts, Watch};
use directrix_index::{Identity, Input, Options, build};
use directrix_kernels::SparseActivations;
use directrix_model::{Ask, BlockHook, Folder, HookPoint, Model, Processing, Tensors};
use directrix_sae::Sae;
use serde_json::Value;

struct Fixture {
    name: &'static str,
    model: Model,
    saes: Vec<Sae>,
    layers: Vec<usize>,
    prompts: Prompts,
    answer: u32,
    json: Value,
    expected: Tensors,
}

fn fixtures() -> impl Iterator<Item = Fixture> {
    ["neo-tiny", "gpt2-tiny", "neox-tiny"].into_iter().map(|name| {
        let root = std::env::var("DIRECTRIX_FIXTURES")
            .unwrap_or_else(|_| format!("{}/../model/tests/fixtures", env!("CARGO_MANIFEST_DIR")));
        let path = format!("{root}/{name}");
        let json: Value = serde_json::from_slice(&std::fs::read(format!("{path}/expected.json")).unwrap()).unwrap();
        let rows: Vec<Vec<u32>> = serde_json::from_value(json["prompts"].clone()).unwrap();
        let layers: Vec<usize> = serde_json::from_value(json["layers"].clone()).unwrap();
        let folder = Folder::open(&path).unwrap();
        let model = Model::load(&folder, Processing::default()).unwrap();
        let sae = |l: &usize| {
            Sae::load(&Folder::open(format!("{path}/sae-l{l}")).unwrap()).unwrap().fit(model.config()).unwrap()
        };
        let saes = layers.iter().map(sae).collect();
        let expected = Tensors::open(&folder, Some("expected.safetensors")).unwrap();
        let answer = json["answer"].as_u64().unwrap() as u32;
        Fixture { name, model, saes, layers, prompts: Prompts::from_rows(rows), answer, json, expected }
    })
}

impl Fixture {
    fn saes(&self) -> impl Iterator<Item = (String, &Sae)> {
        self.layers.iter().map(|layer| format!("l{layer}")).zip(&self.saes)
    }

    fn tensor(&self, name: &str) -> Vec<f64> {
        let shape = self.expected.shape(name).unwrap();
        self.expected.get(name, &shape).unwrap().into_iter().map(f64::from).collect()
    }

    /// The numbers of a JSON array, however nested, in order.
    fn numbers(&self, key: &str) -> Vec<f64> {
        fn flatten(value: &Value, to: &mut Vec<f64>) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| flatten(item, to)),
                other => to.push(other.as_f64().unwrap()),
            }
        }
        let mut all = Vec::new();
        flatten(&self.json[key], &mut all);
        all
    }

    fn directions(&self, key: &str) -> Vec<u32> {
        self.numbers(&format!("{key}.dirs")).into_iter().map(|d| d as u32).collect()
    }

    fn check(&self, what: &str, expected: &[f64], found: &[f64]) {
        assert_eq!(expected.len(), found.len(), "{} {what}", self.name);
        let one = |(&e, &f): (&f64, &f64)| (e - f).abs() / e.abs().max(1.0);
        let worst = expected.iter().zip(found).map(one).fold(0.0, f64::max);
        println!("{:10} {what:28} {:5} values, largest Δ {worst:7.1e}", self.name, found.len());
        assert!(worst <= 1e-4 && !found.iter().any(|f| f.is_nan()), "{} {what}: {worst}", self.name);
    }

    fn maxima(&self, key: &str) -> Vec<f32> {
        let all = self.tensor(&format!("{key}.max_activations"));
        let d = all.len() / self.prompts.len();
        (0..d).map(|i| all.iter().skip(i).step_by(d).fold(0.0, |a, b| b.max(a)) as f32).collect()
    }
}

fn means(rows: &[Component]) -> Vec<f64> {
    rows.iter().map(|row| row.mean).collect()
}

#[test]
fn ablations_agree() {
    let nobody = Watch::nobody();
    for f in fixtures() {
        for (key, sae) in f.saes() {
            let directions = f.directions(&key);
            let all = || 0..f.prompts.len();
            let losses = |trials: Vec<Trial>| -> Vec<f64> {
                let effects = effects(&f.model, &f.prompts, &trials, &nobody).unwrap();
                effects.iter().flat_map(|e| [e.before.loss().unwrap(), e.after.loss().unwrap()]).collect()
            };
            let answer =
                |prompt, set: &[u32]| Trial::answer(sae, &f.prompts, prompt, Change::Ablate(set.to_vec())).unwrap();
            let trials = directions.iter().flat_map(|d| all().map(|prompt| answer(prompt, &[*d]))).collect();
            f.check(&format!("{key} ablation_at"), &f.numbers(&format!("{key}.ablation_at")), &losses(trials));

            let trials = all().map(|prompt| answer(prompt, &directions[..3])).collect();
            f.check(&format!("{key} ablation_set"), &f.numbers(&format!("{key}.ablation_set")), &losses(trials));

            let everywhere = |d, prompt| Trial::everywhere(sae, &f.prompts, prompt, Change::Ablate(vec![d])).unwrap();
            let trials = directions.iter().flat_map(|d| all().map(|prompt| everywhere(*d, prompt))).collect();
            f.check(&format!("{key} ablation_all"), &f.numbers(&format!("{key}.ablation_all")), &losses(trials));

            let set = Change::Ablate(directions[..3].to_vec());
            let found = PromptEffect::of(&f.model, sae, &f.prompts, &set, &nobody).unwrap();
            let found: Vec<f64> = found
                .iter()
                .flat_map(|e| {
                    [
                        e.log_prob,
                        e.logit as f64,
                        e.rank as f64,
                        e.log_prob_changed,
                        e.logit_changed as f64,
                        e.rank_changed as f64,
                    ]
                })
                .collect();
            f.check(&format!("{key} token_rank"), &f.numbers(&format!("{key}.token_rank")), &found);
        }
    }
}

#[test]
fn loss_recovered_agrees() {
    for f in fixtures() {
        for (key, sae) in f.saes() {
            let nobody = Watch::nobody();
            let mean = mean_site(&f.model, sae, &f.prompts.range(0..4), &nobody).unwrap();
            let directions = &f.directions(&key)[..2];
            let found = AnswerLosses::of(&f.model, sae, &f.prompts, directions, &mean, &nobody).unwrap();
            for (kind, losses) in [
                ("original", &found.original),
                ("mean", &found.mean),
                ("zero", &found.zero),
                ("directions", &found.directions),
                ("sae", &found.sae),
            ] {
                f.check(&format!("{key} loss {kind}"), &f.tensor(&format!("{key}.loss.{kind}")), losses);
            }
            f.check(&format!("{key} recovered"), &f.numbers(&format!("{key}.loss_recovered")), &[found.recovered().0]);
        }
    }
}

#[test]
fn active_directions_and_their_coactivation_agree() {
    for f in fixtures() {
        for (key, sae) in f.saes() {
            let acts = answer_activations(&f.model, sae, &f.prompts, &Watch::nobody()).unwrap();
            let rows = active_directions(&acts, &f.maxima(&key), ActiveOptions::default()).unwrap();
            let found: Vec<f64> = rows.iter().map(|row| row.mean_activation).collect();
            f.check(&format!("{key} active"), &f.tensor(&format!("{key}.top.values")), &found);
            let counts = f.tensor(&format!("{key}.top.counts"));
            let wanted: Vec<f64> = rows.iter().map(|row| counts[row.direction].round()).collect();
            f.check(
                &format!("{key} active prompts"),
                &wanted,
                &rows.iter().map(|r| r.prompts as f64).collect::<Vec<_>>(),
            );
            let directions: Vec<u32> = rows.iter().take(5).map(|row| row.direction as u32).collect();
            assert_eq!(directions, f.directions(&key));

            let found = coactivation(&acts, &directions, 0.1).unwrap();
            f.check(&format!("{key} correlation"), &f.tensor(&format!("{key}.correlation")), &found);
        }
    }
}

#[test]
fn attributions_agree() {
    let nobody = Watch::nobody();
    for f in fixtures() {
        let found = logit_attribution(&f.model, &f.prompts, &nobody).unwrap();
        let labels: Vec<&str> = found.iter().map(|row| row.component.as_str()).collect();
        assert_eq!(f.json["dla_labels"], serde_json::json!(labels));
        f.check("dla", &f.tensor("dla"), &means(&found));
        for (key, sae) in f.saes() {
            let found = remainder(&f.model, sae, &f.prompts, f.answer, &nobody).unwrap();
            f.check(&format!("{key} remainder"), &f.tensor(&format!("{key}.remainder_dla")), &means(&found));
            // The reference's labels and components for a parallel block do not describe what its MLP reads.
            if f.name == "neox-tiny" {
                continue;
            }
            let mean = mean_decomposition(&f.model, sae, &f.prompts.range(0..4), &nobody).unwrap();
            let found: Vec<f64> = mean.data().iter().map(|&x| x as f64).collect();
            f.check(&format!("{key} mean decomposition"), &f.tensor(&format!("{key}.mean_mlp_decomposition")), &found);
            let positions: Vec<usize> = f.prompts.iter().map(|p| p.len() - 2).collect();
            let direction = f.directions(&key)[0];
            for (kind, inactive) in [("zero", Inactive::Zero), ("mean", Inactive::Mean(&mean))] {
                let found =
                    attribution_to_direction(&f.model, sae, direction, &f.prompts, &positions, inactive, &nobody)
                        .unwrap();
                let labels: Vec<&str> = found.iter().map(|row| row.component.as_str()).collect();
                assert_eq!(f.json[format!("{key}.dfa_labels")], serde_json::json!(labels));
                f.check(&format!("{key} dfa {kind}"), &f.tensor(&format!("{key}.dfa_{kind}")), &means(&found));
            }
        }
    }
}

#[test]
fn boosts_agree() {
    for f in fixtures() {
        for (key, sae) in f.saes() {
            let direction = f.directions(&key)[0];
            let found = log_prob_boosts(&f.model, sae, direction, &f.prompts, &Watch::nobody()).unwrap();
            f.check(&format!("{key} logprob on"), &f.tensor(&format!("{key}.logprob_on")), &found.on);
            f.check(&format!("{key} logprob off"), &f.tensor(&format!("{key}.logprob_off")), &found.off);
            let found: Vec<f64> = logit_boosts(&f.model, sae, direction).unwrap().into_iter().map(f64::from).collect();
            f.check(&format!("{key} logit boost"), &f.tensor(&format!("{key}.logit_boost")), &found);
            // The DLA of a direction is its boost of that token.
            let mut acts = SparseActivations::default();
            acts.push([(direction, 1.5)]);
            acts.push([(direction, 2.5)]);
            let rows = direction_attribution(&f.model, sae, &acts, f.answer).unwrap();
            let row = rows[direction as usize];
            assert!((row.attribution - found[f.answer as usize]).abs() < 1e-4);
            assert!((row.scaled - 2.0 * row.attribution).abs() < 1e-9);
        }
    }
}

#[test]
fn cosine_pairs_agree() {
    for f in fixtures() {
        for (key, lower_triangle) in [("cosine", true), ("cosine_all", false)] {
            let found = cosine_pairs(&f.model, &f.saes[0], &f.saes[1], 20, lower_triangle, &Watch::nobody()).unwrap();
            let cosines: Vec<f64> = found.iter().map(|p| p.cosine as f64).collect();
            f.check(key, &f.tensor(&format!("{key}.values")), &cosines);
            let pairs: Vec<f64> = found.iter().flat_map(|p| [p.first as f64, p.second as f64]).collect();
            assert_eq!(pairs, f.numbers(&format!("{key}.pairs")));
        }
    }
}

#[test]
fn cooccurrence_agrees() {
    for f in fixtures() {
        let options = CooccurrenceOptions { above: 0.5, ..CooccurrenceOptions::default() };
        let (two, nobody) = (f.prompts.range(0..2), Watch::nobody());
        let mut found = cooccurrence(&f.model, &f.saes[0], &f.saes[1], &two, options, &nobody).unwrap();
        assert!(found.is_sorted_by(|a, b| a.difference >= b.difference));
        found.sort_by_key(|row| (row.prompt, row.position, row.first));
        let found: Vec<f64> = found
            .iter()
            .flat_map(|r| {
                [
                    r.prompt as f64,
                    r.position as f64,
                    r.first as f64,
                    r.second as f64,
                    r.ablated as f64,
                    r.activation as f64,
                ]
            })
            .collect();
        f.check("cooccurrence", &f.numbers("cooccurrence"), &found);
    }
}

#[test]
fn saes_in_the_wrong_order_are_refused() {
    let f = fixtures().next().unwrap();
    let (options, nobody) = (CooccurrenceOptions::default(), Watch::nobody());
    let error = cooccurrence(&f.model, &f.saes[1], &f.saes[0], &f.prompts, options, &nobody).unwrap_err();
    assert!(error.to_string().contains("give the earlier SAE first"), "{error}");
}

/// What `bench/peers/analyses.py` computed with plain formulas.
fn analyses(f: &Fixture) -> Value {
    let path = format!("{}/tests/fixtures/{}.json", env!("CARGO_MANIFEST_DIR"), f.name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The column of some rows.
fn column(rows: &Value, name: &str) -> Vec<f64> {
    rows.as_array().unwrap().iter().map(|row| row[name].as_f64().unwrap()).collect()
}

#[test]
fn pair_effects_agree() {
    for f in fixtures() {
        let expected = &analyses(&f)["pairs"];
        let folder = tempfile::tempdir().unwrap();
        let input = |name: &str| Input { name: name.into(), hash: String::new() };
        let identity = Identity {
            model: input("model"),
            processing: f.model.processing(),
            saes: vec![input("first"), input("second")],
            corpus: input("prompts"),
            bos: false,
            column: None,
            limit: None,
            options: Options { as_notebook: true, ..Options::default() },
        };
        let chunks = std::iter::once(Ok(Chunk { prompts: f.prompts.clone(), cut: 0 }));
        let nobody = Watch::nobody();
        let index = build(&f.model, &f.saes, chunks, &identity, &folder.path().join("index"), &nobody).unwrap();
        let pair = |row: &Value| CosinePair {
            first: row["first"].as_u64().unwrap() as usize,
            second: row["second"].as_u64().unwrap() as usize,
            cosine: row["cosine"].as_f64().unwrap() as f32,
        };
        let pairs: Vec<CosinePair> = expected.as_array().unwrap().iter().map(pair).collect();
        let k = expected[0]["n"].as_u64().unwrap() as usize;
        let saes = [&f.saes[0], &f.saes[1]];
        let found = pair_effects(&f.model, saes, &index, index.sae(0), &pairs, k, &nobody).unwrap();
        let table = Table::from_rows("pairs", "", &found);
        for name in [
            "n",
            "loss",
            "loss_first_ablated",
            "loss_second_ablated",
            "second_activation",
            "second_activation_first_ablated",
            "activation_change",
            "activation_change_half_width",
        ] {
            let cells = &table.columns.iter().find(|column| column.name == name.replace('_', " ")).unwrap().cells;
            let found: Vec<f64> = match cells {
                Cells::Integer(cells) => cells.iter().map(|n| *n as f64).collect(),
                Cells::Real(cells) => cells.clone(),
                Cells::Text(_) => unreachable!("numbers"),
            };
            f.check(&format!("pair {name}"), &column(expected, name), &found);
        }
        assert!(found.iter().any(|row| row.activation_change.mean().abs() > 1e-3), "{}: no pair is a circuit", f.name);
    }
}

type Field = fn(&Estimate) -> f64;
type Of<'a> = Box<dyn Fn(usize, u32) -> Result<Trial<'a>> + 'a>;

#[test]
fn directions_ablated_each_alone_agree_however_they_are_ablated() {
    let nobody = Watch::nobody();
    for f in fixtures() {
        let expected = analyses(&f);
        for (number, (key, sae)) in f.saes().enumerate() {
            let compare = |what: &str, expected: &Value, found: &[SingleAblation]| {
                let directions: Vec<f64> = found.iter().map(|row| row.direction as f64).collect();
                assert_eq!(directions, column(expected, "direction"), "{} {what}", f.name);
                let fields: [(&str, Field); 4] =
                    [("n", |e| e.n as f64), ("mean", |e| e.mean), ("se", |e| e.se), ("half_width", |e| e.half_width)];
                for (name, field) in fields {
                    let found: Vec<f64> = found.iter().map(|row| field(&row.loss_increase.estimate)).collect();
                    f.check(&format!("{key} {what} {name}"), &column(expected, name), &found);
                }
            };
            let each = &expected["saes"][number]["each"];
            let directions: Vec<u32> = serde_json::from_value(each["directions"].clone()).unwrap();
            let ablate = |direction| Change::Ablate(vec![direction]);
            let about = About {
                chosen: Chosen::Given,
                change: "ablated alone",
                measure: "loss_increase",
                unit: "nats",
                over: "prompts",
            };
            let kinds: [(&str, Of); 4] = [
                ("before_answer", Box::new(|prompt, d| Trial::answer(sae, &f.prompts, prompt, ablate(d)))),
                ("position", Box::new(|prompt, d| Trial::at(sae, &f.prompts, prompt, 3, ablate(d)))),
                (
                    "reconstructed",
                    Box::new(|prompt, d| {
                        Trial::answer(sae, &f.prompts, prompt, Change::Reconstruct { without: vec![d] })
                    }),
                ),
                ("everywhere", Box::new(|prompt, d| Trial::everywhere(sae, &f.prompts, prompt, ablate(d)))),
            ];
            for (kind, of) in kinds {
                let of = |direction| (0..f.prompts.len()).map(|prompt| of(prompt, direction)).collect();
                let found = ablate_each(&f.model, &f.prompts, &directions, about, of, None, &nobody).unwrap();
                compare(kind, &each[kind], &found);
            }
            let singles = &expected["saes"][number]["single_ablations"];
            let directions: Vec<u32> = column(singles, "direction").into_iter().map(|d| d as u32).collect();
            let acts = answer_activations(&f.model, sae, &f.prompts, &nobody).unwrap();
            let on = ActivePrompts { acts: &acts, above: 0.5, limit: 3, matched: None };
            let found = single_ablations(&f.model, sae, &f.prompts, &directions, Chosen::Given, on, &nobody).unwrap();
            compare("single ablations", singles, &found);
        }
    }
}

#[test]
fn components_add_up_to_what_they_are_attributed_to_however_weights_are_processed() {
    let nobody = Watch::nobody();
    for f in fixtures() {
        let folder = format!("{}/../model/tests/fixtures/{}", env!("CARGO_MANIFEST_DIR"), f.name);
        for processing in [Processing::default(), Processing::none()] {
            let model = Model::load(&Folder::open(&folder).unwrap(), processing).unwrap();
            let sum = |rows: &[Component]| rows.iter().map(|row| row.mean).sum::<f64>();
            let n = f.prompts.len() as f64;

            let effects = PromptEffect::of(&model, &f.saes[0], &f.prompts, &Change::None, &nobody).unwrap();
            let bias = |prompt: &[u32]| model.weights().b_u[prompt[prompt.len() - 1] as usize] as f64;
            let logits = effects.iter().map(|e| e.logit as f64).sum::<f64>() / n;
            let expected = logits - f.prompts.iter().map(bias).sum::<f64>() / n;
            let found = sum(&logit_attribution(&model, &f.prompts, &nobody).unwrap());
            f.check("sum of the DLA", &[expected], &[found]);

            let (sae, direction) = (&f.saes[1], f.directions(&format!("l{}", f.layers[1]))[0]);
            let layer = sae.site().reads.layer();
            let [pre, post] = [BlockHook::MlpPre, BlockHook::MlpPost].map(|hook| HookPoint::Block(layer, hook));
            let run = model.run(&f.prompts, &Ask::capture([pre, post]), &[]).unwrap();
            let positions: Vec<usize> = f.prompts.iter().map(|prompt| prompt.len() - 2).collect();
            let of_prompt = |(prompt, position): (usize, &usize)| {
                let row = f.prompts.offsets()[prompt] + position;
                let (pre, post) = (run.captured(pre).row(row), run.captured(post).row(row));
                let bias = &model.weights().blocks[layer].b_in;
                let of_neuron = |i: usize| (pre[i] - bias[i]) as f64 * sae.encoder().row(direction as usize)[i] as f64;
                (0..pre.len()).filter(|i| post[*i] > 0.0).map(of_neuron).sum::<f64>()
            };
            let expected = positions.iter().enumerate().map(of_prompt).sum::<f64>() / n;
            let inactive = Inactive::Zero;
            let rows =
                attribution_to_direction(&model, sae, direction, &f.prompts, &positions, inactive, &nobody).unwrap();
            f.check("sum of the DFA", &[expected], &[sum(&rows)]);
        }
    }
}
