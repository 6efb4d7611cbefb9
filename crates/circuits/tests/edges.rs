//! The measures of edges against each other and against arithmetic written out: they meet where a path is linear.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use directrix_circuits::Error;
use directrix_circuits::edges::{
    Between, Edge, Gradient, Kept, Measure, Path, Ranked, Ranking, Sample, Way, Weights, keep,
};
use directrix_corpus::durable::Lock;
use directrix_corpus::{Chunk, Prompts, Watch};
use directrix_index::{Identity, Index, Input, Options, build};
use directrix_kernels::{Matrix, dot};
use directrix_model::{
    Ask, BlockHook, Edit, Folder, Frozen, HookPoint, Intervention, Model, Positions, Processing, Quantity, Rows, Run,
    Scalar,
};
use directrix_sae::{Architecture, Counted, End, Normalisation, Parameters, Sae, Site};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn model(name: &str) -> Model {
    let folder = format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    Model::load(&Folder::open(folder).unwrap(), Processing::default()).unwrap()
}

/// A random SAE at a hook point, whose directions fire the more often the higher `bias`.
fn sae(model: &Model, hook: HookPoint, directions: usize, bias: f32, seed: u64) -> Sae {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let width = hook.shape(model.config(), 0).iter().product();
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| random.random_range(-0.5..0.5)).collect() };
    let parameters = Parameters {
        architecture: Architecture::Relu,
        encoder: Matrix::new(numbers(directions * width), directions, width),
        w_dec: Matrix::new(numbers(directions * width), directions, width),
        b_enc: vec![bias; directions],
        b_dec: numbers(width),
        subtract_b_dec: true,
        normalisation: Normalisation::None,
        w_skip: None,
    };
    Sae::new(hook.to_string(), Site::at(End { hook, head: None, width }), parameters).unwrap()
}

fn prompts(model: &Model, n: usize, seed: u64) -> Prompts {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut prompts = Prompts::new();
    for _ in 0..n {
        let length = random.random_range(6..20);
        let tokens: Vec<u32> = (0..length).map(|_| random.random_range(0..model.config().d_vocab as u32)).collect();
        prompts.push(&tokens);
    }
    prompts
}

/// An index of both SAEs, in a folder that lives as long.
fn index(model: &Model, saes: &[Sae], prompts: &Prompts) -> (Index, tempfile::TempDir) {
    let input = |name: &str| Input { name: name.into(), hash: String::new() };
    let identity = Identity {
        model: input("model"),
        processing: model.processing(),
        saes: saes.iter().map(|sae| input(sae.name())).collect(),
        corpus: input("random"),
        bos: false,
        column: None,
        limit: None,
        options: Options { counted: Counted { skip_first: 1, ..Counted::default() }, ..Options::default() },
    };
    let out = tempfile::tempdir().unwrap();
    let chunks = std::iter::once(Ok(Chunk { prompts: prompts.clone(), cut: 0 }));
    (build(model, saes, chunks, &identity, &out.path().join("index"), &Watch::nobody()).unwrap(), out)
}

fn between<'a>(model: &'a Model, saes: &'a [Sae; 2], index: &'a Index) -> Between<'a> {
    let [first, second] = saes;
    Between::new(model, [first, second], index, [index.sae(0), index.sae(1)]).unwrap()
}

const EVERY: Sample = Sample { prompts: usize::MAX, least: 1 };

fn by_edge(scan: impl FnOnce(&mut dyn FnMut(Ranked))) -> BTreeMap<Edge, (f64, usize)> {
    let mut found = BTreeMap::new();
    scan(&mut |ranked: Ranked| {
        found.insert(ranked.edge, (ranked.value, ranked.n.unwrap_or(0)));
    });
    found
}

#[test]
fn where_the_path_is_linear_the_virtual_weight_is_the_causal_effect_and_the_attribution() {
    for (name, seed) in [("gpt2-tiny", 1), ("neo-tiny", 2), ("neox-tiny", 3)] {
        let model = model(name);
        let [writes, reads] = [BlockHook::MlpOut, BlockHook::ResidPost].map(|hook| HookPoint::Block(0, hook));
        // The second SAE is always active, so that nothing bends.
        let saes = [sae(&model, writes, 12, 0.0, seed), sae(&model, reads, 9, 100.0, seed + 10)];
        let prompts = prompts(&model, 24, seed);
        let (index, _folder) = index(&model, &saes, &prompts);
        let between = between(&model, &saes, &index);
        let weights = Weights::new(&model, [&saes[0], &saes[1]], Path::Residual, Measure::VirtualWeight).unwrap();
        let causal = by_edge(|see| between.causal(EVERY, &Watch::nobody(), see).unwrap());
        let attribution = by_edge(|see| between.attribution(Gradient::Whole, EVERY, &Watch::nobody(), see).unwrap());
        let frozen = by_edge(|see| between.attribution(Gradient::Frozen, EVERY, &Watch::nobody(), see).unwrap());
        let steps = Gradient::Integrated { steps: 3 };
        let integrated = by_edge(|see| between.attribution(steps, EVERY, &Watch::nobody(), see).unwrap());
        assert!(causal.len() > 50, "{name}: {}", causal.len());
        assert_eq!(attribution.len(), causal.len());
        for (edge, &(change, n)) in &causal {
            // The first direction's activation, summed over each even prompt in which it fires.
            let fires = index.sae(0).fires(edge.first).unwrap();
            let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
            for fires in fires.iter().filter(|fires| fires.prompt % 2 == 0) {
                *sums.entry(fires.prompt).or_default() += f64::from(fires.activation);
            }
            let expected = weights.of(*edge) * sums.values().sum::<f64>() / sums.len() as f64;
            assert_eq!(n, sums.len());
            let near = |value: f64| (value - expected).abs() < 1e-3 * expected.abs().max(1.0);
            assert!(near(-change), "{name} {edge:?}: ablation changes by {change}, weights say {expected}");
            assert!(
                near(attribution[edge].0) && near(frozen[edge].0) && near(integrated[edge].0),
                "{name} {edge:?}: {:?} {expected}",
                attribution[edge]
            );
        }
    }
}

#[test]
fn integrated_gradients_add_up_to_what_all_first_directions_do_together() {
    for (name, seed) in [("gpt2-tiny", 21), ("neo-tiny", 22), ("llama-tiny", 23)] {
        let model = model(name);
        let last = model.config().n_layers - 1;
        let [writes, reads] = [HookPoint::Block(0, BlockHook::MlpOut), HookPoint::Block(last, BlockHook::ResidPost)];
        let saes = [sae(&model, writes, 12, 0.0, seed), sae(&model, reads, 5, 100.0, seed + 10)];
        let prompts = prompts(&model, 2, seed);
        let (index, _folder) = index(&model, &saes, &prompts);
        let between = between(&model, &saes, &index);
        let one = Sample { prompts: 100, least: 1 };
        let found = |gradient| by_edge(|see| between.attribution(gradient, one, &Watch::nobody(), see).unwrap());
        let (integrated, at_the_end) = (found(Gradient::Integrated { steps: 40 }), found(Gradient::Whole));

        // Of the one prompt that ranks, the pre-activations with all contributions and with none, at the positions that count.
        let (first, counted) = (prompts.range(0..1), index.counted(0).unwrap());
        let run = model.run(&first, &Ask::capture([writes, reads]), &[]).unwrap();
        let acts = saes[0].encode(run.captured(writes)).unwrap();
        let bias = Matrix::repeat(saes[0].b_dec(), first.positions());
        let mut without = saes[0].decode(&acts, run.captured(writes));
        for (row, bias) in (0..first.positions()).zip(bias.iter_rows()) {
            let is_counted = counted.contains(&row);
            without.row_mut(row).iter_mut().zip(bias).for_each(|(x, b)| *x = if is_counted { b - *x } else { 0.0 });
        }
        let add = Rows::each(&without.into(), 0..first.positions());
        let none = Intervention::new(writes, Positions::All, Edit::Add(add));
        let changed = model.run(&first, &Ask::capture([reads]), &[none]).unwrap();
        let mut differ = 0.0_f64;
        for second in 0..saes[1].directions() {
            let encoder = saes[1].encoder().row(second);
            let sum = |run: &Run| counted.clone().map(|at| dot(run.captured(reads).row(at), encoder)).sum::<f64>();
            let expected = sum(&run) - sum(&changed);
            let total = |of: &BTreeMap<Edge, (f64, usize)>| {
                of.iter().filter(|(edge, _)| edge.second == second).map(|(_, (value, _))| value).sum::<f64>()
            };
            let (whole, end) = (total(&integrated), total(&at_the_end));
            assert!((whole - expected).abs() < 1e-2 * expected.abs().max(1.0), "{name} {second}: {whole} {expected}");
            differ = differ.max((end - expected).abs() / expected.abs().max(1.0));
        }
        assert!(differ > 1e-2, "{name}: the path bends, and a gradient at its end alone does not add up: {differ}");
    }
}

#[test]
fn the_weights_through_heads_and_beside_them_sum_to_the_gradient_with_patterns_and_norms_frozen() {
    for (name, seed) in [("gpt2-tiny", 4), ("neo-tiny", 5)] {
        let model = model(name);
        let [writes, reads] = [HookPoint::Block(0, BlockHook::MlpOut), HookPoint::Block(1, BlockHook::ResidMid)];
        let saes = [sae(&model, writes, 6, 0.0, seed), sae(&model, reads, 5, 0.0, seed + 10)];
        let path = |path| Weights::new(&model, [&saes[0], &saes[1]], path, Measure::VirtualWeight).unwrap();
        let direct = path(Path::Residual);
        let heads: Vec<Weights> =
            (0..model.config().attention.query_heads).map(|head| path(Path::Head { layer: 1, head })).collect();
        let prompt = prompts(&model, 1, seed);
        let [pattern, scale, before] = [BlockHook::Pattern, BlockHook::Ln1Scale, BlockHook::ResidPost]
            .map(|hook| HookPoint::Block(usize::from(hook != BlockHook::ResidPost), hook));
        let run = model.run(&prompt, &Ask::capture([pattern, scale]), &[]).unwrap();
        let (target, last) = (3, prompt.longest() - 1);
        let direction = saes[1].encoder().row(target).into();
        let scalar = Scalar::of(0, last, Quantity::Along { hook: reads, direction });
        let frozen = Frozen { norms: true, patterns: true };
        let gradients = model.gradients(&prompt, &[before], &[scalar], frozen, &Watch::nobody()).unwrap();
        for source in 0..saes[0].directions() {
            let edge = Edge { first: source, second: target };
            for position in 0..=last {
                let found = dot(gradients.of(0, before).row(position), saes[0].w_dec().row(source));
                let shares = run.captured(pattern).row(last).chunks(run.captured(pattern).columns() / heads.len());
                let through: f64 =
                    heads.iter().zip(shares).map(|(head, shares)| head.of(edge) * f64::from(shares[position])).sum();
                let through = through / f64::from(run.captured(scale).row(position)[0]);
                let expected = through + if position == last { direct.of(edge) } else { 0.0 };
                assert!((found - expected).abs() < 1e-4, "{name} {edge:?} at {position}: {found} {expected}");
            }
        }
    }
}

#[test]
fn co_activation_is_that_of_the_dense_matrices() {
    let model = model("gpt2-tiny");
    let [writes, reads] = [HookPoint::Block(0, BlockHook::MlpOut), HookPoint::Block(2, BlockHook::MlpPost)];
    let saes = [sae(&model, writes, 10, 0.0, 7), sae(&model, reads, 11, 0.1, 8)];
    let prompts = prompts(&model, 40, 9);
    let (index, _folder) = index(&model, &saes, &prompts);
    let mut found = BTreeMap::new();
    let see = |all: [Ranked; 3]| {
        found.insert(all[0].edge, all);
    };
    between(&model, &saes, &index).coactivation(&Watch::nobody(), see).unwrap();

    // Activations of every direction at every position that counts of every even prompt.
    let run = model.run(&prompts, &Ask::capture([writes, reads]), &[]).unwrap();
    let columns = |sae: &Sae, hook: HookPoint| -> Vec<Vec<f64>> {
        let acts = sae.encode(run.captured(hook)).unwrap();
        let rows = prompts.offsets().windows(2).step_by(2).flat_map(|ends| ends[0] + 1..ends[1] - 1);
        let rows: Vec<usize> = rows.collect();
        (0..sae.directions() as u32).map(|d| rows.iter().map(|row| f64::from(acts.get(*row, d))).collect()).collect()
    };
    let (firsts, seconds) = (columns(&saes[0], writes), columns(&saes[1], reads));
    let n = firsts[0].len() as f64;
    let mut both_fire = 0;
    for (first, x) in firsts.iter().enumerate() {
        for (second, y) in seconds.iter().enumerate() {
            let count =
                |fires: &dyn Fn(f64, f64) -> bool| x.iter().zip(y).filter(|(x, y)| fires(**x, **y)).count() as f64;
            let (both, one, other) =
                (count(&|x, y| x > 0.0 && y > 0.0), count(&|x, _| x > 0.0), count(&|_, y| y > 0.0));
            let edge = Edge { first, second };
            if both < 20.0 {
                assert!(!found.contains_key(&edge));
                continue;
            }
            both_fire += 1;
            let correlation = directrix_circuits::correlation(&[x.clone(), y.clone()])[1];
            let expected = [(both * n / (one * other)).ln(), both / one, correlation];
            for (ranked, expected) in found[&edge].iter().zip(expected) {
                assert!((ranked.value - expected).abs() < 1e-6, "{ranked:?} {expected}");
                assert_eq!(ranked.n, Some(both as usize));
            }
        }
    }
    assert!(both_fire > 20, "{both_fire}");
}

#[test]
fn a_ranking_is_the_head_of_all_pairs_sorted() {
    let model = model("neo-tiny");
    let [writes, reads] = [HookPoint::Block(0, BlockHook::MlpPost), HookPoint::Block(1, BlockHook::MlpPost)];
    let saes = [sae(&model, writes, 150, 0.0, 11), sae(&model, reads, 70, 0.0, 12)];
    for measure in [Measure::Cosine, Measure::VirtualWeight] {
        let weights = Weights::new(&model, [&saes[0], &saes[1]], Path::Residual, measure).unwrap();
        let mut all: Vec<(f64, Edge)> = (0..150)
            .flat_map(|first| (0..70).map(move |second| Edge { first, second }))
            .map(|edge| (weights.of(edge), edge))
            .collect();
        all.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()).then(a.1.cmp(&b.1)));
        for k in [0, 1, 7, 1000, 20_000] {
            let strongest = weights.strongest(k, &Watch::nobody()).unwrap();
            let found: Vec<(f64, Edge)> = strongest.into_iter().map(|ranked| (ranked.value, ranked.edge)).collect();
            assert_eq!(found, all[..k.min(all.len())], "{measure:?} {k}");
        }
        let mut ranking = Ranking::new(5);
        for (value, edge) in all.iter().rev() {
            ranking.show(Ranked { edge: *edge, measure, value: *value, n: None, half_width: None });
        }
        assert_eq!(ranking.shown(), 10_500);
        assert!(ranking.finish().iter().map(|ranked| ranked.edge).eq(all[..5].iter().map(|(_, edge)| *edge)));
    }
}

#[test]
fn what_has_no_path_is_refused_with_the_reason() {
    let gpt2 = model("gpt2-tiny");
    let at = |model: &Model, layer, hook| sae(model, HookPoint::Block(layer, hook), 4, 0.0, 1);
    let (early, late) = (at(&gpt2, 0, BlockHook::MlpOut), at(&gpt2, 2, BlockHook::ResidPost));
    let new = |model, saes, path| Weights::new(model, saes, path, Measure::Cosine).map(|_| ());
    assert!(matches!(new(&gpt2, [&late, &early], Path::Residual), Err(Error::Order { .. })));
    assert!(matches!(new(&gpt2, [&early, &late], Path::Head { layer: 1, head: 9 }), Err(Error::NoHead { .. })));
    for layer in [1, 2] {
        new(&gpt2, [&early, &late], Path::Head { layer, head: 0 }).unwrap();
    }
    assert!(matches!(new(&gpt2, [&early, &late], Path::Head { layer: 0, head: 0 }), Err(Error::HeadNotBetween { .. })));

    let neox = model("neox-tiny");
    let (attention, mlp) = (at(&neox, 1, BlockHook::AttnOut), at(&neox, 1, BlockHook::MlpPost));
    assert!(neox.config().parallel);
    let refused = new(&neox, [&attention, &mlp], Path::Residual).unwrap_err();
    assert!(refused.to_string().contains("the same residual stream"), "{refused}");
    let early = at(&neox, 0, BlockHook::MlpOut);
    let refused = new(&neox, [&early, &mlp], Path::Head { layer: 1, head: 0 });
    assert!(matches!(refused, Err(Error::HeadNotBetween { .. })), "the MLP does not read the head beside it");
}

/// The measures that are kept.
const KEPT: [&str; 4] = ["cosine", "virtual-weight", "attribution", "causal"];

/// A direction's edges: the other end, the value, and the prompts that it is a mean over.
type Edges = Vec<(usize, f64, Option<usize>)>;

/// All edges of a direction both ways, by a measure, as they are kept.
fn kept(folder: &FilePath, index: &Index, measure: Measure) -> [Vec<Edges>; 2] {
    let kept = Kept::open(folder, index, [0, 1], measure).unwrap().unwrap();
    let of = |way, sae: usize| {
        (0..index.sae(sae).directions()).map(|direction| kept.edges(way, direction).unwrap()).collect()
    };
    [of(Way::Down, 0), of(Way::Up, 1)]
}

/// Stops at the `n`th event.
fn stopping(n: usize) -> Watch {
    let (stop, seen) = (Arc::<AtomicBool>::default(), AtomicUsize::new(0));
    let ours = stop.clone();
    Watch::new(stop, move |_| {
        if seen.fetch_add(1, Ordering::Relaxed) + 1 >= n {
            ours.store(true, Ordering::Relaxed);
        }
    })
}

#[test]
fn edges_that_are_kept_are_those_that_are_measured_however_often_it_was_stopped() {
    let model = model("gpt2-tiny");
    let [writes, reads] = [BlockHook::MlpOut, BlockHook::ResidPost].map(|hook| HookPoint::Block(0, hook));
    let saes = [sae(&model, writes, 200, -0.2, 1), sae(&model, reads, 150, -0.2, 2)];
    let prompts = prompts(&model, 60, 3);
    let (index, out) = index(&model, &saes, &prompts);
    let folder = out.path().join("index");
    let between = between(&model, &saes, &index);

    let mut stops = 0;
    let swept = loop {
        match keep(&model, &saes, &index, &folder, &stopping(3)) {
            Ok(swept) => break swept,
            Err(Error::StoppedAt { done, total, .. }) => assert!(done < total && total == 750),
            Err(error) => panic!("{error}"),
        }
        stops += 1;
        assert!(stops < 100, "it does not go on from where it was");
    };
    assert!(stops > 2, "{stops}");
    assert_eq!(swept.iter().map(|of| of.measure).collect::<Vec<_>>(), KEPT);

    for measure in [Measure::Cosine, Measure::VirtualWeight, Measure::Attribution, Measure::Causal] {
        let mut all = Vec::new();
        let see = |ranked: Ranked| all.push(ranked);
        match measure {
            Measure::Cosine | Measure::VirtualWeight => {
                let weights = Weights::new(&model, [&saes[0], &saes[1]], Path::Residual, measure).unwrap();
                all = weights.strongest(200 * 150, &Watch::nobody()).unwrap();
            }
            Measure::Causal => between.causal(Sample::default(), &Watch::nobody(), see).unwrap(),
            _ => between.attribution(Gradient::Whole, Sample::default(), &Watch::nobody(), see).unwrap(),
        }
        let [down, up] = kept(&folder, &index, measure);
        let mut full = 0;
        for (way, rows) in [(Way::Down, &down), (Way::Up, &up)] {
            for (direction, found) in rows.iter().enumerate() {
                let ends =
                    |edge: Edge| if way == Way::Down { (edge.first, edge.second) } else { (edge.second, edge.first) };
                let mut expected: Edges = all
                    .iter()
                    .filter(|ranked| ends(ranked.edge).0 == direction)
                    .map(|ranked| (ends(ranked.edge).1, ranked.value, ranked.n))
                    .collect();
                expected.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
                full += usize::from(expected.len() > 24);
                expected.truncate(24);
                assert_eq!(found, &expected, "{measure:?} {way:?} {direction}");
            }
        }
        assert!(full > 50, "{full} directions have more edges than are kept");
    }

    // Nothing is measured that is kept, and at once the files are those of a sweep that was not stopped.
    let bytes = || KEPT.map(|name| fs::read(folder.join("edges").join(format!("0-1.{name}"))).unwrap());
    let before = bytes();
    keep(&model, &saes, &index, &folder, &Watch::nobody()).unwrap();
    assert_eq!(bytes(), before);
    fs::remove_dir_all(folder.join("edges")).unwrap();
    keep(&model, &saes, &index, &folder, &Watch::nobody()).unwrap();
    assert_eq!(bytes(), before);
}

#[test]
fn kept_edges_of_something_else_or_damaged_are_not_used() {
    let model = model("gpt2-tiny");
    let [writes, reads] = [BlockHook::MlpOut, BlockHook::ResidPost].map(|hook| HookPoint::Block(0, hook));
    let saes = [sae(&model, writes, 12, 0.0, 1), sae(&model, reads, 9, 0.0, 2)];
    let (index_of, out) = index(&model, &saes, &prompts(&model, 20, 3));
    let folder = out.path().join("index");
    let open = |index: &Index| Kept::open(&folder, index, [0, 1], Measure::Causal);
    assert!(open(&index_of).unwrap().is_none());
    keep(&model, &saes, &index_of, &folder, &Watch::nobody()).unwrap();
    assert!(open(&index_of).unwrap().is_some());

    let path = folder.join("edges/0-1.causal");
    let whole = fs::read(&path).unwrap();
    let hold = Lock::take(&folder).unwrap();
    let error = keep(&model, &saes, &index_of, &folder, &Watch::nobody()).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    drop(hold);

    let mut random = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..300 {
        let mut bytes = whole.clone();
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        if random.random_range(0..4) == 0 {
            bytes.truncate(at);
        }
        fs::write(&path, &bytes).unwrap();
        // It is an error, or known to be incomplete; never another answer.
        assert!(!matches!(open(&index_of), Ok(Some(_))), "byte {at} of {}", whole.len());
    }
    keep(&model, &saes, &index_of, &folder, &Watch::nobody()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), whole, "what is damaged is measured anew");

    // Edges of another corpus, put where those of this one were.
    let mut identity = index_of.meta().identity.clone();
    identity.corpus.hash = "other".into();
    let other_folder = out.path().join("other");
    let chunks = std::iter::once(Ok(Chunk { prompts: prompts(&model, 20, 9), cut: 0 }));
    let other = build(&model, &saes, chunks, &identity, &other_folder, &Watch::nobody()).unwrap();
    keep(&model, &saes, &other, &other_folder, &Watch::nobody()).unwrap();
    fs::copy(other_folder.join("edges/0-1.causal"), &path).unwrap();
    let error = open(&index_of).unwrap_err().to_string();
    assert!(error.contains("another corpus") && error.contains("directrix index --edges"), "{error}");
    keep(&model, &saes, &index_of, &folder, &Watch::nobody()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), whole);
}
