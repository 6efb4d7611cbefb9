//! Models with known wiring between two dictionaries: what is planted is found, what only looks like it is rejected, and where nothing
//! is planted nothing is found.

use std::collections::{BTreeMap, BTreeSet};

use directrix_circuits::edges::{Between, Edge, Measure, Path, Ranked, Ranking, Sample, VerifiedEdge, Verify, Weights};
use directrix_corpus::{Chunk, Prompts, Watch};
use directrix_index::{Identity, Index, Input, Options, build};
use directrix_kernels::Matrix;
use directrix_model::{BlockHook, Folder, HookPoint, Model, Processing};
use directrix_sae::{Architecture, Counted, End, Normalisation, Parameters, Sae, Site};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};

/// Half of the residual stream: every number is written there and, negated, in the other half, so that no norm sees a mean.
const HALF: usize = 64;
const D: usize = 2 * HALF;
const NEURONS: usize = 64;
const VOCABULARY: usize = 48;
/// Features of tokens, as many directions in each dictionary.
const FEATURES: usize = 20;
/// Where the first block's neurons write.
const WRITTEN: usize = FEATURES;
/// Where the head writes.
const HEAD: usize = 2 * FEATURES;
/// A constant that dominates every norm, so that its divisor hardly varies.
const CONSTANT: f32 = 40.0;

/// What the second block's directions read. Directions of the first dictionary are numbered as the features they stand for, but for a twin.
struct Planted {
    /// The direction that fires where both of these do.
    and: [usize; 2],
    /// The direction that fires where one of these does, no more strongly where both do.
    or: [usize; 2],
    /// The direction that reads what the head fetches of this.
    fetched: usize,
    /// The direction that reads along this, but is off wherever it fires.
    gated: usize,
    /// A direction of the first dictionary that fires wherever `and[0]` does, and is read by nothing.
    twin: usize,
}

const AND: usize = 0;
const OR: usize = 1;
const FETCHED: usize = 2;
const GATED: usize = 3;

impl Planted {
    fn edges(&self) -> BTreeSet<Edge> {
        let [a, b, c, d] = [self.and[0], self.and[1], self.or[0], self.or[1]];
        [(a, AND), (b, AND), (c, OR), (d, OR), (self.fetched, FETCHED)]
            .map(|(first, second)| Edge { first, second })
            .into()
    }

    fn decoys(&self) -> [Edge; 2] {
        [Edge { first: self.gated, second: GATED }, Edge { first: self.twin, second: AND }]
    }
}

struct Wired {
    model: Model,
    saes: [Sae; 2],
    index: Index,
    _folder: tempfile::TempDir,
}

impl Wired {
    fn between(&self) -> Between<'_> {
        let [first, second] = &self.saes;
        Between::new(&self.model, [first, second], &self.index, [self.index.sae(0), self.index.sae(1)]).unwrap()
    }
}

/// Weights, by row.
struct Rows(Vec<Vec<f32>>);

impl Rows {
    fn zeros(rows: usize, columns: usize) -> Rows {
        Rows(vec![vec![0.0; columns]; rows])
    }

    /// Makes column `column` read `place` of the residual stream.
    fn read(&mut self, place: usize, column: usize, by: f32) {
        self.0[place][column] += by / 2.0;
        self.0[place + HALF][column] -= by / 2.0;
    }

    /// Makes row `row` write to `place`.
    fn write(&mut self, row: usize, place: usize, by: f32) {
        self.0[row][place] += by;
        self.0[row][place + HALF] -= by;
    }
}

fn wired(seed: u64, planted: impl FnOnce(&mut ChaCha8Rng) -> Option<Planted>) -> (Wired, Option<Planted>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let planted = planted(&mut random);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let mut put = |name: String, Rows(rows): Rows| {
        let shape = vec![rows.len(), rows[0].len()];
        tensors.insert(name, (shape, rows.concat()));
    };
    let mut embedding = Rows::zeros(VOCABULARY, D);
    for token in 0..VOCABULARY {
        embedding.write(token, HALF - 1, CONSTANT);
        for feature in 0..FEATURES {
            if random.random_bool(0.25) {
                embedding.write(token, feature, random.random_range(0.8..1.2));
            }
        }
    }
    put("wte.weight".into(), embedding);
    put("wpe.weight".into(), Rows::zeros(64, D));
    // What a norm divides by, about.
    let scale = CONSTANT / (HALF as f32).sqrt() * 1.01;

    let (mut w_in, mut w_out) = (Rows::zeros(D, NEURONS), Rows::zeros(NEURONS, D));
    for direction in 0..FEATURES {
        let twin = planted.as_ref().filter(|planted| planted.twin == direction);
        w_in.read(twin.map_or(direction, |planted| planted.and[0]), direction, scale);
        w_out.write(direction, WRITTEN + direction, 1.0);
    }
    put("h.0.mlp.c_fc.weight".into(), w_in);
    put("h.0.mlp.c_proj.weight".into(), w_out);

    let (mut w_in, mut bias, mut encoder) =
        (Rows::zeros(D, NEURONS), vec![0.0_f32; NEURONS], Rows::zeros(FEATURES, NEURONS));
    let (mut attention, mut output) = (Rows::zeros(D, 3 * D), Rows::zeros(D, D));
    for direction in 0..FEATURES {
        encoder.0[direction][direction] = 1.0;
    }
    let own = planted.as_ref().map_or(0, |_| GATED + 1);
    for direction in own..FEATURES {
        w_in.read(random.random_range(0..FEATURES), direction, scale);
    }
    if let Some(Planted { and, or, fetched, gated, .. }) = &planted {
        and.iter().for_each(|direction| w_in.read(WRITTEN + direction, AND, scale));
        bias[AND] = -1.3;
        // Two neurons, of which the second takes back what the first has above one.
        for neuron in [OR, NEURONS - 1] {
            or.iter().for_each(|direction| w_in.read(WRITTEN + direction, neuron, scale));
        }
        bias[NEURONS - 1] = -0.8;
        encoder.0[OR][NEURONS - 1] = -1.0;
        attention.read(WRITTEN + fetched, 2 * D, scale);
        output.write(0, HEAD, 1.0);
        w_in.read(HEAD, FETCHED, scale);
        let other = (gated + 1) % FEATURES;
        w_in.read(WRITTEN + gated, GATED, 10.0 * scale);
        w_in.read(*gated, GATED, -12.0 * scale);
        w_in.read(other, GATED, 0.5 * scale);
    }
    put("h.1.mlp.c_fc.weight".into(), w_in);
    put("h.1.mlp.c_proj.weight".into(), Rows::zeros(NEURONS, D));
    put("h.0.attn.c_attn.weight".into(), Rows::zeros(D, 3 * D));
    put("h.0.attn.c_proj.weight".into(), Rows::zeros(D, D));
    put("h.1.attn.c_attn.weight".into(), attention);
    put("h.1.attn.c_proj.weight".into(), output);
    let mut vector = |name: String, numbers: Vec<f32>| {
        tensors.insert(name, (vec![numbers.len()], numbers));
    };
    for block in 0..2 {
        for norm in ["ln_1", "ln_2"] {
            vector(format!("h.{block}.{norm}.weight"), vec![1.0; D]);
            vector(format!("h.{block}.{norm}.bias"), vec![0.0; D]);
        }
        vector(format!("h.{block}.attn.c_attn.bias"), vec![0.0; 3 * D]);
        vector(format!("h.{block}.attn.c_proj.bias"), vec![0.0; D]);
        vector(format!("h.{block}.mlp.c_fc.bias"), if block == 1 { bias.clone() } else { vec![0.0; NEURONS] });
        vector(format!("h.{block}.mlp.c_proj.bias"), vec![0.0; D]);
    }
    vector("ln_f.weight".into(), vec![1.0; D]);
    vector("ln_f.bias".into(), vec![0.0; D]);

    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, numbers))| (name, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views =
        bytes.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let weights = safetensors::serialize(views, None).unwrap();
    let config = format!(
        r#"{{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": {D}, "n_head": 1, "n_layer": 2, "n_inner": {NEURONS},
            "n_positions": 64, "vocab_size": {VOCABULARY}, "activation_function": "relu", "layer_norm_epsilon": 1e-5}}"#
    );
    let folder = Folder::in_memory(
        "wired",
        [("config.json".to_owned(), config.into_bytes()), ("model.safetensors".to_owned(), weights)],
    );
    let model = Model::load(&folder, Processing::default()).unwrap();
    let unit = |numbers: Rows| Matrix::from_rows(&numbers.0);
    let mut identity = Rows::zeros(FEATURES, NEURONS);
    (0..FEATURES).for_each(|direction| identity.0[direction][direction] = 1.0);
    let same = Rows(identity.0.clone());
    let saes = [sae(0, unit(same), unit(identity)), {
        let decoder = Rows(encoder.0.clone());
        sae(1, unit(encoder), unit(decoder))
    }];

    let mut prompts = Prompts::new();
    for _ in 0..400 {
        let tokens: Vec<u32> = (0..16).map(|_| random.random_range(0..VOCABULARY as u32)).collect();
        prompts.push(&tokens);
    }
    let input = |name: &str| Input { name: name.into(), hash: String::new() };
    let identity = Identity {
        model: input("wired"),
        processing: model.processing(),
        saes: vec![input("first"), input("second")],
        corpus: input("random"),
        bos: false,
        column: None,
        limit: None,
        options: Options { counted: Counted { skip_first: 0, ..Counted::default() }, ..Options::default() },
    };
    let out = tempfile::tempdir().unwrap();
    let chunks = std::iter::once(Ok(Chunk { prompts, cut: 0 }));
    let index = build(&model, &saes, chunks, &identity, &out.path().join("index"), &Watch::nobody()).unwrap();
    (Wired { model, saes, index, _folder: out }, planted)
}

fn sae(layer: usize, encoder: Matrix, w_dec: Matrix) -> Sae {
    let end = End { hook: HookPoint::Block(layer, BlockHook::MlpPost), head: None, width: NEURONS };
    let parameters = Parameters {
        architecture: Architecture::Relu,
        b_enc: vec![-0.05; encoder.rows()],
        b_dec: vec![0.0; NEURONS],
        encoder,
        w_dec,
        subtract_b_dec: true,
        normalisation: Normalisation::None,
        w_skip: None,
    };
    Sae::new(format!("sae-l{layer}"), Site::at(end), parameters).unwrap()
}

fn with_wiring(random: &mut ChaCha8Rng) -> Option<Planted> {
    let mut directions: Vec<usize> = (0..FEATURES).collect();
    directions.shuffle(random);
    let [a, b, c, d, fetched, gated, twin, ..] = directions[..] else { unreachable!("there are twenty") };
    Some(Planted { and: [a, b], or: [c, d], fetched, gated, twin })
}

/// All pairs by what ablating does, strongest first.
fn causal(between: &Between) -> Vec<Ranked> {
    let mut ranking = Ranking::new(FEATURES * FEATURES);
    between.causal(Sample::default(), &Watch::nobody(), |ranked| ranking.show(ranked)).unwrap();
    ranking.finish()
}

fn verified(between: &Between, edges: &[Ranked]) -> Vec<VerifiedEdge> {
    between.verify(edges, Verify { prompts: 32, ..Verify::default() }, &Watch::nobody()).unwrap()
}

#[test]
fn every_planted_edge_ranks_first_by_causal_effect_and_is_verified_while_decoys_are_not() {
    for seed in 0..20 {
        let (wired, planted) = wired(seed, with_wiring);
        let (between, planted) = (wired.between(), planted.unwrap());
        let ranked = causal(&between);
        let first: BTreeSet<Edge> = ranked[..5].iter().map(|ranked| ranked.edge).collect();
        assert_eq!(first, planted.edges(), "seed {seed}: {:?}", &ranked[..8]);
        assert!(ranked[..5].iter().all(|ranked| ranked.value < -0.05), "seed {seed}");

        let rows = verified(&between, &ranked);
        for row in &rows {
            let edge = row.ranked.edge;
            assert_eq!(row.verified, planted.edges().contains(&edge), "seed {seed}: {row:?}");
            if row.verified {
                assert!(row.high < 0.0 && row.activation > 0.0, "seed {seed}: {row:?}");
            }
        }

        // What rejects the decoys is that each is high by a measure that is not causal.
        let weights =
            Weights::new(&wired.model, [&wired.saes[0], &wired.saes[1]], Path::Residual, Measure::Cosine).unwrap();
        let [gated, twin] = planted.decoys();
        let fetched = Edge { first: planted.fetched, second: FETCHED };
        assert!(weights.of(gated) > 0.6 && weights.of(fetched).abs() < 1e-5, "seed {seed}");
        let mut correlations = BTreeMap::new();
        let see = |all: [Ranked; 3]| {
            correlations.insert(all[2].edge, all[2].value);
        };
        between.coactivation(&Watch::nobody(), see).unwrap();
        let own = Edge { first: planted.and[0], second: AND };
        assert!((correlations[&twin] - correlations[&own]).abs() < 1e-3 && correlations[&twin] > 0.2, "seed {seed}");
        let head = Path::Head { layer: 1, head: 0 };
        let through = Weights::new(&wired.model, [&wired.saes[0], &wired.saes[1]], head, Measure::Cosine).unwrap();
        assert_eq!(through.strongest(1, &Watch::nobody()).unwrap()[0].edge, fetched, "seed {seed}");
    }
}

#[test]
fn where_nothing_is_wired_verification_finds_no_more_than_its_rate() {
    let (mut tested, mut found) = (0, 0);
    for seed in 0..20 {
        let (wired, _) = wired(seed, |_| None);
        let between = wired.between();
        let ranked = causal(&between);
        let rows = verified(&between, &ranked);
        tested += rows.len();
        found += rows.iter().filter(|row| row.verified).count();
    }
    assert!(tested > 20 * 300, "{tested} pairs were tested");
    assert!(found as f64 <= 0.05 * tested as f64, "{found} of {tested} edges that do not exist were verified");
}
