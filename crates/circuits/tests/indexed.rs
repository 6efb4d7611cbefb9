//! Queries on an index against dense arithmetic: activations before two tokens, and directions of two SAEs matched.

use directrix_circuits::*;
use directrix_corpus::{Chunk, Prompts, Watch};
use directrix_index::{Identity, Index, Input, Options, build};
use directrix_kernels::Matrix;
use directrix_model::{Ask, Folder, Model, Processing};
use directrix_sae::{Counted, Parameters, Sae};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

struct Case {
    model: Model,
    saes: Vec<Sae>,
    prompts: Prompts,
    index: Index,
    _folder: tempfile::TempDir,
}

/// The first SAE of a tiny model, and one of the same site with its directions in another order, some of them changed.
fn case(name: &str, rows: &[Vec<u32>], seed: u64, counted: Counted) -> (Case, Vec<usize>) {
    let root = format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let model = Model::load(&Folder::open(&root).unwrap(), Processing::default()).unwrap();
    let layer = (0..model.config().n_layers).find(|l| Folder::open(format!("{root}/sae-l{l}")).is_ok()).unwrap();
    let first = Sae::load(&Folder::open(format!("{root}/sae-l{layer}")).unwrap()).unwrap().fit(model.config()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..first.directions()).collect();
    order.shuffle(&mut random);
    let mut parameters: Parameters = first.parameters().clone();
    parameters.encoder = first.encoder().gather(order.iter().copied());
    parameters.w_dec = first.w_dec().gather(order.iter().copied());
    parameters.b_enc = order.iter().map(|d| first.b_enc()[*d]).collect();
    for changed in 0..first.directions() / 4 {
        let row = parameters.w_dec.row_mut(changed);
        row.iter_mut().for_each(|x| *x = random.random::<f32>() - 0.5);
        let row = parameters.encoder.row_mut(changed);
        row.iter_mut().for_each(|x| *x = random.random::<f32>() - 0.5);
    }
    let second = Sae::new("second".into(), first.site().clone(), parameters).unwrap();
    let prompts = Prompts::from_rows(rows);
    let folder = tempfile::tempdir().unwrap();
    let input = |name: &str| Input { name: name.into(), hash: String::new() };
    let identity = Identity {
        model: input("model"),
        processing: model.processing(),
        saes: vec![input("first"), input("second")],
        corpus: input("prompts"),
        bos: false,
        column: None,
        limit: None,
        options: Options { counted, ..Options::default() },
    };
    let chunks = std::iter::once(Ok(Chunk { prompts: prompts.clone(), cut: 0 }));
    let saes = vec![first, second];
    let index = build(&model, &saes, chunks, &identity, &folder.path().join("index"), &Watch::nobody()).unwrap();
    (Case { model, saes, prompts, index, _folder: folder }, order)
}

impl Case {
    /// Of every prompt, the dense activations of an SAE by position.
    fn dense(&self, sae: usize) -> Vec<Vec<Vec<f64>>> {
        let (sae, hook) = (&self.saes[sae], self.saes[sae].site().reads.hook);
        let of = |prompt: &[u32]| {
            let run = self.model.run(&Prompts::from_rows([prompt]), &Ask::capture([hook]), &[]).unwrap();
            let dense = sae.encode(run.captured(hook)).unwrap().to_dense(sae.directions());
            dense.chunks(sae.directions()).map(|row| row.iter().map(|x| *x as f64).collect()).collect()
        };
        self.prompts.iter().map(of).collect()
    }
}

fn counted() -> Counted {
    Counted { skip_first: 1, skip_last: true, exclude: vec![7] }
}

fn rows() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(0..9_u32, 3..20), 2..7)
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-5 * b.abs().max(1.0) || a.is_nan() && b.is_nan()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// The difference of means and its variance as a regression on which token follows has them: `(XᵀX)⁻¹ Σ_g Xᵀe eᵀX (XᵀX)⁻¹`.
    #[test]
    fn activations_before_two_tokens_are_a_clustered_regression(
        name in prop::sample::select(vec!["neo-tiny", "gpt2-tiny"]), rows in rows(),
    ) {
        let (case, _) = case(name, &rows, 0, counted());
        let found = before_tokens(&case.index, case.index.sae(0), [2, 3], &Watch::nobody()).unwrap();
        let dense = case.dense(0);
        // prompt, whether the one follows, position
        let mut places = Vec::new();
        for (prompt, tokens) in case.prompts.iter().enumerate() {
            for at in (1..tokens.len() - 1).filter(|at| tokens[*at] != 7 && [2, 3].contains(&tokens[at + 1])) {
                places.push((prompt, tokens[at + 1] == 2, at));
            }
        }
        let n = |one: bool| places.iter().filter(|place| place.1 == one).count();
        prop_assert_eq!(found.positions, [n(true), n(false)]);
        if n(true) == 0 || n(false) == 0 {
            prop_assert!(found.directions.is_empty());
            return Ok(());
        }
        let mut clusters: Vec<usize> = places.iter().map(|place| place.0).collect();
        clusters.dedup();
        prop_assert_eq!(found.prompts, clusters.len());
        let fires = |direction: usize| places.iter().any(|(prompt, _, at)| dense[*prompt][*at][direction] > 0.0);
        let firing: Vec<usize> = (0..case.saes[0].directions()).filter(|d| fires(*d)).collect();
        prop_assert_eq!(&found.directions.iter().map(|row| row.direction).collect::<Vec<_>>(), &firing);
        for row in &found.directions {
            let value = |place: &(usize, bool, usize)| dense[place.0][place.2][row.direction];
            let mean = |one: bool| places.iter().filter(|p| p.1 == one).map(value).sum::<f64>() / n(one) as f64;
            let (of_one, of_other) = (mean(true), mean(false));
            prop_assert!(near(row.before_one, of_one) && near(row.before_other, of_other));
            prop_assert!(near(row.difference.mean(), of_one - of_other) && row.difference.estimate.n == places.len());
            // y = a + b x: XᵀX = [[n, n₁], [n₁, n₁]].
            let (all, ones) = (places.len() as f64, n(true) as f64);
            let determinant = all * ones - ones * ones;
            let second_row = [-ones / determinant, all / determinant];
            let mut meat = [[0.0; 2]; 2];
            for cluster in &clusters {
                let mut score = [0.0; 2];
                for place in places.iter().filter(|place| place.0 == *cluster) {
                    let e = value(place) - if place.1 { of_one } else { of_other };
                    score[0] += e;
                    score[1] += if place.1 { e } else { 0.0 };
                }
                (0..2).for_each(|i| (0..2).for_each(|j| meat[i][j] += score[i] * score[j]));
            }
            let mut variance = 0.0;
            (0..2).for_each(|i| (0..2).for_each(|j| variance += second_row[i] * meat[i][j] * second_row[j]));
            let g = clusters.len() as f64;
            let se = if clusters.len() < 2 { f64::NAN } else { (g / (g - 1.0) * variance.max(0.0)).sqrt() };
            let found = row.difference.estimate.se;
            prop_assert!((found - se).abs() <= 1e-5 * se.max(1.0) || found.is_nan() && se.is_nan(), "{} {}", found, se);
        }
    }

    #[test]
    fn directions_of_a_shuffled_copy_are_found_again_by_weights_and_by_activations(
        name in prop::sample::select(vec!["neo-tiny", "gpt2-tiny"]), rows in rows(), seed in 0..1000_u64,
    ) {
        let (case, order) = case(name, &rows, seed, counted());
        let both = [&case.saes[0], &case.saes[1]];
        let indexed = BothIndexed { index: &case.index, saes: [0, 1] };
        let nobody = Watch::nobody();
        let n = order.len();
        let changed = n / 4;
        let [weights, activations] = [Alike::Decoder, Alike::Activations]
            .map(|alike| match_directions(both, alike, Some(indexed), 0.3, &nobody).unwrap());
        for (second, first) in order.iter().enumerate().skip(changed) {
            let pair = weights.pairs.iter().find(|pair| pair.in_second == second);
            prop_assert!(pair.is_some_and(|pair| pair.in_first == *first && pair.decoder_cosine > 0.9999));
        }
        for matching in [&weights, &activations] {
            let of = |sae: usize| {
                let matched = matching.pairs.iter().map(|pair| [pair.in_first, pair.in_second][sae]);
                let alone = matching.unmatched.iter().filter(|row| row.sae == sae).map(|row| row.direction);
                let mut all: Vec<usize> = matched.chain(alone).collect();
                all.sort_unstable();
                all
            };
            prop_assert_eq!(of(0), (0..n).collect::<Vec<_>>());
            prop_assert_eq!(of(1), (0..n).collect::<Vec<_>>());
            prop_assert!(matching.similarities.is_sorted_by(|a, b| a >= b));
        }

        // Correlations by dense arithmetic, over the positions that count.
        let dense = [case.dense(0), case.dense(1)];
        let mut places = Vec::new();
        for (prompt, tokens) in case.prompts.iter().enumerate() {
            places.extend((1..tokens.len() - 1).filter(|at| tokens[*at] != 7).map(|at| (prompt, at)));
        }
        let values = |sae: usize, direction: usize| -> Vec<f64> {
            places.iter().map(|(prompt, at)| dense[sae][*prompt][*at][direction]).collect()
        };
        let r = |one: usize, other: usize| correlation(&[values(0, one), values(1, other)])[1];
        for pair in weights.pairs.iter().chain(&activations.pairs) {
            let found = pair.activations.unwrap();
            prop_assert_eq!(found.n, places.len());
            let expected = r(pair.in_first, pair.in_second);
            prop_assert!(near(found.correlation, expected) || !expected.is_finite(), "{:?} {}", pair, expected);
            if !expected.is_finite() {
                continue;
            }
            // The influence of every position, summed by prompt.
            let standard = |values: Vec<f64>| {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let sd = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
                values.into_iter().map(|x| (x - mean) / sd).collect::<Vec<_>>()
            };
            let (a, b) = (standard(values(0, pair.in_first)), standard(values(1, pair.in_second)));
            let influence = a.iter().zip(&b).map(|(a, b)| a * b - 0.5 * expected * (a * a + b * b));
            let with: Vec<(usize, f64)> = places.iter().map(|place| place.0).zip(influence).collect();
            let clustered = Estimate::clustered(&with);
            let (found, expected) = (found.correlation_half_width, clustered.half_width);
            prop_assert!((found - expected).abs() < 1e-4 * expected.max(1.0) || found.is_nan() && expected.is_nan(), "{} {}", found, expected);
        }
        // What is most like each that has no partner.
        for row in activations.unmatched.iter().filter(|row| row.similarity.is_finite()) {
            let best = (0..n).map(|other| if row.sae == 0 { r(row.direction, other) } else { r(other, row.direction) });
            let best = best.filter(|r| r.is_finite()).fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(near(row.similarity, best), "{:?} {}", row, best);
        }
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let (case, _) = case("neo-tiny", &[vec![1, 2, 3, 4, 5]], 0, Counted::all());
    let nobody = Watch::nobody();
    let both = [&case.saes[0], &case.saes[1]];
    let message = |found: Result<Matching>| found.unwrap_err().to_string();
    assert!(message(match_directions(both, Alike::Activations, None, 0.3, &nobody)).contains("in one index"));
    assert!(message(match_directions(both, Alike::Decoder, None, f64::NAN, &nobody)).contains("`least`"));
    let root = format!("{}/../model/tests/fixtures/neo-tiny", env!("CARGO_MANIFEST_DIR"));
    let last = case.model.config().n_layers - 1;
    let other = Sae::load(&Folder::open(format!("{root}/sae-l{last}")).unwrap()).unwrap();
    let found = message(match_directions([both[0], &other], Alike::Decoder, None, 0.3, &nobody));
    assert!(found.contains("matched between SAEs of one site"), "{found}");

    let before = |tokens| before_tokens(&case.index, case.index.sae(0), tokens, &nobody);
    assert!(before([1, 1]).unwrap_err().to_string().contains("give two that differ"));
    assert!(before([1, 9_999_999]).unwrap_err().to_string().contains("9999999"));
    let nothing = before([2, 40]).unwrap();
    assert!(nothing.positions == [1, 0] && nothing.directions.is_empty());
}

#[test]
fn a_matching_needs_no_index_and_may_be_of_dictionaries_of_different_sizes() {
    let (case, order) = case("gpt2-tiny", &[vec![1, 2, 3]], 5, Counted::all());
    let whole = &case.saes[0];
    let mut parameters = case.saes[1].parameters().clone();
    let kept: Vec<usize> = (order.len() / 2..order.len()).collect();
    let of = |matrix: &Matrix| matrix.gather(kept.iter().copied());
    (parameters.encoder, parameters.w_dec) = (of(&parameters.encoder), of(&parameters.w_dec));
    parameters.b_enc = kept.iter().map(|d| parameters.b_enc[*d]).collect();
    let half = Sae::new("half".into(), whole.site().clone(), parameters).unwrap();
    let found = match_directions([&half, whole], Alike::Decoder, None, 0.9, &Watch::nobody()).unwrap();
    assert!(found.pairs.len() >= kept.len() && found.pairs.iter().all(|pair| pair.activations.is_none()));
    assert_eq!(found.unmatched.len(), order.len() - kept.len());
    assert!(found.pairs.iter().all(|pair| order[kept[pair.in_first]] == pair.in_second));
}
