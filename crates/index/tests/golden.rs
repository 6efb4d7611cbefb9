//! An index and its queries against dense activations from TransformerLens and the formulas of the docs.
//!
//! `bench/peers/analyses.py` made the numbers; it knows nothing of Directrix.

use directrix_corpus::{Chunk, Prompts, Watch};
use directrix_index::{Example, Identity, Index, Input, Options, SaeIndex, build};
use directrix_model::{Folder, Model, Processing};
use directrix_sae::{Counted, Sae};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Expected {
    /// (token, how often it is in the corpus), most frequent first.
    token_occurrences: Vec<(usize, u64)>,
    saes: Vec<ExpectedSae>,
}

#[derive(Deserialize)]
struct ExpectedSae {
    default: Summary,
    /// With other thresholds.
    otherwise: Summary,
    examples: Vec<Examples>,
}

#[derive(Deserialize)]
struct Summary {
    directions: Vec<Facts>,
    /// (direction, positions counted, the token that most of them hold, how many do).
    top_tokens: Vec<(usize, u64, u32, u64)>,
}

/// The tiny SAEs have pre-activations that are zero but for rounding. Counts are of other activations.
#[derive(Deserialize)]
struct Facts {
    direction: usize,
    maximum: f64,
    maximum_position: u64,
    prompts: u64,
    active: u64,
    /// Positions at which it may be active, or not.
    faint: u64,
    sum: f64,
    histogram: Vec<u64>,
}

#[derive(Deserialize)]
struct Examples {
    direction: usize,
    /// (prompt, position, activation).
    top: Vec<(usize, usize, f64)>,
    interval: Vec<(usize, usize, f64)>,
}

fn near(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-4 * expected.abs().max(1.0)
}

fn check(name: &str, sae: &SaeIndex, expected: &Summary) {
    for wanted in &expected.directions {
        let found = sae.direction(wanted.direction);
        assert!(near(found.maximum as f64, wanted.maximum), "{name}: {found:?}");
        assert!(near(found.mean * found.active as f64, wanted.sum), "{name}: {found:?}");
        let counted = |found: u64, wanted: u64, faint: u64| (wanted..=wanted + faint).contains(&found);
        assert!(counted(found.active, wanted.active, wanted.faint), "{name}: {found:?}");
        assert!(counted(found.prompts, wanted.prompts, wanted.faint), "{name}: {found:?}");
        assert_eq!(sae.maximum_position(wanted.direction), wanted.maximum_position, "{name}: {found:?}");
        let bins = sae.histogram(wanted.direction);
        assert!(counted(bins[0], wanted.histogram[0], wanted.faint), "{name}: {found:?}");
        assert_eq!(bins[1..], wanted.histogram[1..], "{name}: {found:?}");
    }
    let top_token = |direction: usize| {
        let counts = sae.token_counts(direction).unwrap();
        let most = counts.first()?;
        Some((direction, counts.iter().map(|counted| counted.count).sum(), most.token, most.count))
    };
    let found: Vec<(usize, u64, u32, u64)> = (0..sae.directions()).filter_map(top_token).collect();
    assert_eq!(found, expected.top_tokens, "{name}");
}

fn same_examples(found: &[Example], expected: &[(usize, usize, f64)]) -> bool {
    let same = |(found, &(prompt, position, activation)): (&Example, &(usize, usize, f64))| {
        (found.prompt, found.position) == (prompt, position) && near(found.activation as f64, activation)
    };
    found.len() == expected.len() && found.iter().zip(expected).all(same)
}

#[test]
fn what_is_said_of_directions_and_tokens_agrees_with_transformer_lens() {
    for name in ["neo-tiny", "gpt2-tiny", "neox-tiny"] {
        let root = env!("CARGO_MANIFEST_DIR");
        let path = format!("{root}/../model/tests/fixtures/{name}");
        let made_of: Value = serde_json::from_slice(&std::fs::read(format!("{path}/expected.json")).unwrap()).unwrap();
        let expected: Expected =
            serde_json::from_slice(&std::fs::read(format!("{root}/tests/fixtures/{name}.json")).unwrap()).unwrap();
        let rows: Vec<Vec<u32>> = serde_json::from_value(made_of["prompts"].clone()).unwrap();
        let layers: Vec<usize> = serde_json::from_value(made_of["layers"].clone()).unwrap();
        let model = Model::load(&Folder::open(&path).unwrap(), Processing::default()).unwrap();
        let load = |layer| Sae::load(&Folder::open(format!("{path}/sae-l{layer}")).unwrap()).unwrap();
        let saes: Vec<Sae> = layers.into_iter().map(|layer| load(layer).fit(model.config()).unwrap()).collect();
        let folder = tempfile::tempdir().unwrap();
        let index = |out: &str, options: Options| -> Index {
            let input = |name: &str| Input { name: name.into(), hash: name.into() };
            let identity = Identity {
                model: input(name),
                processing: Processing::default(),
                saes: vec![input("first"), input("second")],
                corpus: input("prompts"),
                bos: false,
                column: None,
                limit: None,
                options,
            };
            let chunks = rows.chunks(5).map(|rows| Ok(Chunk { prompts: Prompts::from_rows(rows), cut: 0 }));
            build(&model, &saes, chunks, &identity, &folder.path().join(out), &Watch::nobody()).unwrap()
        };

        let default = index("default", Options { as_notebook: true, ..Options::default() });
        let otherwise = index(
            "otherwise",
            Options {
                count_above: 0.25,
                counted: Counted { skip_first: 3, skip_last: false, exclude: Vec::new() },
                as_notebook: true,
            },
        );
        let occurrences = default.occurrences().unwrap();
        for &(token, count) in &expected.token_occurrences {
            assert_eq!(occurrences[token], count, "{name}: token {token}");
        }
        assert_eq!(occurrences.iter().sum::<u64>() as usize, rows.concat().len());
        for (number, wanted) in expected.saes.iter().enumerate() {
            check(name, default.sae(number), &wanted.default);
            check(name, otherwise.sae(number), &wanted.otherwise);
            for Examples { direction, top, interval } in &wanted.examples {
                let sae = default.sae(number);
                let found = sae.top_examples(*direction, 3).unwrap();
                assert!(same_examples(&found, top), "{name}: {found:?} instead of {top:?}");
                let found = sae.interval_examples(*direction, 0.2, 0.8, 3).unwrap();
                assert!(same_examples(&found, interval), "{name}: {found:?} instead of {interval:?}");
            }
        }
    }
}
