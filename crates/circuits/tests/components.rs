//! Parts exchanged, directions set, kept and compared, against what `bench/peers/components.py` computed.
//!
//! Run with `--nocapture` to see the largest difference of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use directrix_circuits::*;
use directrix_corpus::{Prompts, Watch};
use directrix_model::{Folder, Model, Processing};
use directrix_sae::Sae;
use serde_json::Value;

struct Case {
    name: &'static str,
    model: Model,
    saes: Vec<Sae>,
    prompts: Prompts,
    expected: Value,
}

fn cases() -> impl Iterator<Item = Case> {
    ["neo-tiny", "gpt2-tiny", "neox-tiny"].into_iter().map(|name| {
        let crates = format!("{}/..", env!("CARGO_MANIFEST_DIR"));
        let path = format!("{crates}/model/tests/fixtures/{name}");
        let json = |path: String| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let fixture = json(format!("{path}/expected.json"));
        let rows: Vec<Vec<u32>> = serde_json::from_value(fixture["prompts"].clone()).unwrap();
        let layers: Vec<usize> = serde_json::from_value(fixture["layers"].clone()).unwrap();
        let model = Model::load(&Folder::open(&path).unwrap(), Processing::default()).unwrap();
        let sae = |layer: &usize| {
            Sae::load(&Folder::open(format!("{path}/sae-l{layer}")).unwrap()).unwrap().fit(model.config()).unwrap()
        };
        let saes = layers.iter().map(sae).collect();
        let expected = json(format!("{crates}/circuits/tests/fixtures/components/{name}.json"));
        Case { name, model, saes, prompts: Prompts::from_rows(rows), expected }
    })
}

impl Case {
    fn check(&self, what: &str, expected: &[f64], found: &[f64]) {
        assert_eq!(expected.len(), found.len(), "{} {what}", self.name);
        let one = |(&e, &f): (&f64, &f64)| (e - f).abs() / e.abs().max(1.0);
        let worst = expected.iter().zip(found).map(one).fold(0.0, f64::max);
        println!("{:10} {what:28} {:5} values, largest Δ {worst:7.1e}", self.name, found.len());
        assert!(worst <= 1e-4 && !found.iter().any(|f| f.is_nan()), "{} {what}: {worst}", self.name);
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn column(rows: &Value, name: &str) -> Vec<f64> {
    rows.as_array().unwrap().iter().map(|row| row[name].as_f64().unwrap()).collect()
}

/// Rows by the component that they are of.
fn by_component(rows: &Value) -> BTreeMap<&str, &Value> {
    rows.as_array().unwrap().iter().map(|row| (row["component"].as_str().unwrap(), row)).collect()
}

#[test]
fn patching_agrees_with_transformer_lens() {
    for case in cases() {
        let expected = &case.expected["patching"];
        let tokens = |pair: &Value, which: &str| serde_json::from_value::<Vec<u32>>(pair[which].clone()).unwrap();
        let pair = |pair: &Value| PromptPair {
            clean: tokens(pair, "clean"),
            corrupted: tokens(pair, "corrupted"),
            answers: tokens(pair, "answers").try_into().unwrap(),
        };
        let pairs: Vec<PromptPair> = expected["pairs"].as_array().unwrap().iter().map(pair).collect();
        let found = patching(&case.model, &pairs, true, &Watch::nobody()).unwrap();
        let differences: Vec<f64> = found.clean.iter().zip(&found.corrupted).flat_map(|(a, b)| [*a, *b]).collect();
        let wanted: Vec<f64> = expected["differences"].as_array().unwrap().iter().flat_map(numbers).collect();
        case.check("logit differences", &wanted, &differences);

        let parts = by_component(&expected["parts"]);
        assert_eq!(parts.len(), found.parts.len());
        for (name, of) in [
            ("mean", (|row| row.total_effect.mean()) as fn(&Patched) -> f64),
            ("se", |row| row.total_effect.estimate.se),
            ("half_width", |row| row.total_effect.estimate.half_width),
            ("direct", |row| row.direct_effect),
        ] {
            let wanted: Vec<f64> =
                found.parts.iter().map(|row| parts[&*row.component][name].as_f64().unwrap()).collect();
            case.check(&format!("patching {name}"), &wanted, &found.parts.iter().map(of).collect::<Vec<_>>());
        }
        let wanted = expected["positions"].as_array().unwrap();
        let key = |component: &str, from_end: u64| (component.to_owned(), from_end);
        let own: BTreeMap<(String, u64), &PatchedAt> =
            found.positions.iter().map(|row| (key(&row.component, row.from_end as u64), row)).collect();
        let (mut effects, mut here) = (Vec::new(), Vec::new());
        for row in wanted {
            let place = key(row["component"].as_str().unwrap(), row["from_end"].as_u64().unwrap());
            effects.push(row["effect"].as_f64().unwrap());
            // What comes before every difference is not listed: it is zero.
            here.push(own.get(&place).map_or(0.0, |row| row.total_effect));
            assert!(own.get(&place).is_none_or(|own| own.n as u64 == row["n"].as_u64().unwrap()));
        }
        case.check("patching by position", &effects, &here);
        assert!(effects.iter().any(|effect| effect.abs() > 0.01), "{}: nothing was patched", case.name);
    }
}

#[test]
fn mean_ablation_agrees() {
    for case in cases() {
        let expected = &case.expected["mean_ablation"];
        let (nobody, sae) = (Watch::nobody(), case.saes.last().unwrap());
        let directions: Vec<u32> = serde_json::from_value(expected["directions"].clone()).unwrap();
        let means = PartMeans::of(&case.model, &case.prompts.range(0..4), &nobody).unwrap();
        let found =
            mean_ablations(&case.model, &case.prompts, &means, sae, &directions, Chosen::Given, &nobody).unwrap();
        let components: Vec<&str> = found.losses.iter().map(|row| row.component.as_str()).collect();
        let rows = expected["rows"].as_array().unwrap();
        assert_eq!(components, rows.iter().map(|row| row["component"].as_str().unwrap()).collect::<Vec<_>>());
        for (name, of) in [
            ("mean", (|e| e.mean) as fn(&Estimate) -> f64),
            ("se", |e| e.se),
            ("half_width", |e| e.half_width),
            ("n", |e| e.n as f64),
        ] {
            let own: Vec<f64> = found.losses.iter().map(|row| of(&row.loss_increase.estimate)).collect();
            case.check(&format!("mean-ablation {name}"), &column(&expected["rows"], name), &own);
        }
        let rows = by_component(&expected["rows"]);
        for (i, direction) in directions.iter().enumerate() {
            let own = found.activations.iter().filter(|row| row.direction == *direction as usize);
            let (wanted, own): (Vec<f64>, Vec<f64>) = own
                .map(|row| (rows[&*row.component]["changes"][i].as_f64().unwrap(), row.activation_change.mean()))
                .unzip();
            case.check("activation without a part", &wanted, &own);
        }
        for (row, of) in rows {
            let is_found = found.activations.iter().any(|found| found.component == row);
            assert!(
                is_found || numbers(&of["changes"]).iter().all(|change| change.abs() < 1e-4),
                "{} {row}",
                case.name
            );
        }
    }
}

#[test]
fn directions_set_and_kept_agree() {
    for case in cases() {
        let (nobody, to) = (Watch::nobody(), case.expected["to"].as_f64().unwrap() as f32);
        for (number, sae) in case.saes.iter().enumerate() {
            let expected = &case.expected["changes"][number];
            let directions: Vec<u32> = serde_json::from_value(expected["directions"].clone()).unwrap();
            let mean = mean_site(&case.model, sae, &case.prompts.range(0..4), &nobody).unwrap();
            let rows = sae.w_dec().gather(directions.iter().map(|direction| *direction as usize));
            let subspace = Arc::new(Subspace::span(&rows));
            for (name, change) in [
                ("set", Change::Set { directions: directions.clone(), to }),
                ("reconstruct_set", Change::ReconstructSet { directions: directions.clone(), to }),
                ("keep_zero", Change::Keep { subspace: subspace.clone(), rest: None }),
                ("keep_mean", Change::Keep { subspace, rest: Some(mean.into()) }),
            ] {
                let trial = |prompt| Trial::answer(sae, &case.prompts, prompt, change.clone()).unwrap();
                let trials: Vec<Trial> = (0..case.prompts.len()).map(trial).collect();
                let found = effects(&case.model, &case.prompts, &trials, &nobody).unwrap();
                let found: Vec<f64> = found.iter().map(|effect| effect.after.loss().unwrap()).collect();
                case.check(name, &numbers(&expected["losses"][name]), &found);
            }
            // Nothing kept is the whole site replaced; set to zero is ablated.
            let nothing = Arc::new(Subspace::random(0, sae.d_out(), 0));
            let pairs = [
                (Change::Keep { subspace: nothing, rest: None }, Change::Zero),
                (Change::Set { directions: directions.clone(), to: 0.0 }, Change::Ablate(directions.clone())),
                (
                    Change::ReconstructSet { directions: directions.clone(), to: 0.0 },
                    Change::Reconstruct { without: directions },
                ),
            ];
            for (one, other) in pairs {
                let of = |change: &Change| PromptEffect::of(&case.model, sae, &case.prompts, change, &nobody).unwrap();
                let loss = |effects: Vec<PromptEffect>| -> Vec<f64> {
                    effects.iter().map(|effect| effect.log_prob_changed).collect()
                };
                case.check("the same said otherwise", &loss(of(&other)), &loss(of(&one)));
            }
        }
    }
}

#[test]
fn changes_that_do_not_fit_their_site_are_refused() {
    let case = cases().next().unwrap();
    let sae = &case.saes[0];
    let message = |change| {
        let trial = Trial::answer(sae, &case.prompts, 0, change).unwrap();
        effects(&case.model, &case.prompts, &[trial], &Watch::nobody()).unwrap_err().to_string()
    };
    let narrow = Arc::new(Subspace::random(1, 3, 0));
    assert!(message(Change::Keep { subspace: narrow, rest: None }).contains("there are 3 numbers in a row"));
    let fits = Arc::new(Subspace::random(1, sae.d_out(), 0));
    assert!(message(Change::Keep { subspace: fits, rest: Some(vec![0.0].into()) }).contains("the row of the rest"));
    assert!(message(Change::Replace(vec![0.0; 2].into())).contains("there are 2 numbers in the row"));
    assert!(message(Change::Set { directions: vec![0], to: f32::NAN }).contains("`to` is not a number"));
    assert!(message(Change::ReconstructSet { directions: vec![1 << 20], to: 1.0 }).contains("no direction 1048576"));
}

#[test]
fn similarities_agree() {
    for case in cases() {
        for (number, sae) in case.saes.iter().enumerate() {
            let found = similarities(sae, 5, &Watch::nobody()).unwrap();
            assert_eq!(found.len(), 3);
            for of in found {
                let expected = &case.expected["similarity"][number][of.between];
                let single = |values: &[f32]| values.iter().map(|x| *x as f64).collect::<Vec<_>>();
                case.check(
                    &format!("{} mean, sd", of.between),
                    &[expected["mean"].as_f64().unwrap(), expected["sd"].as_f64().unwrap()],
                    &[of.mean, of.sd],
                );
                let top: Vec<f64> = of.top.iter().map(|pair| pair.cosine as f64).collect();
                case.check(&format!("{} top", of.between), &numbers(&expected["top"]), &top);
                case.check(&format!("{} nearest", of.between), &numbers(&expected["nearest"]), &single(&of.nearest));
                if !of.own.is_empty() {
                    case.check("own", &numbers(&case.expected["similarity"][number]["own"]), &single(&of.own));
                }
            }
        }
    }
}

#[test]
fn a_matching_is_worth_as_much_as_scipy_finds() {
    for case in cases() {
        let expected = &case.expected["matching"];
        // As if of one site.
        let [first, other] = [&case.saes[0], &case.saes[1]];
        let second = Sae::new("second".into(), first.site().clone(), other.parameters().clone()).unwrap();
        let least = expected["least"].as_f64().unwrap();
        let found = match_directions([first, &second], Alike::Decoder, None, least, &Watch::nobody()).unwrap();
        let sum: f64 = found.similarities.iter().sum();
        case.check("matching", &[expected["sum"].as_f64().unwrap()], &[sum]);
        assert_eq!(found.pairs.len() as u64, expected["pairs"].as_u64().unwrap());
        for (pair, similarity) in found.pairs.iter().zip(&found.similarities) {
            assert!((pair.decoder_cosine as f64 - similarity).abs() < 1e-5 && *similarity > least);
        }
        for row in &found.unmatched {
            assert!(row.similarity.is_finite());
        }
    }
}
