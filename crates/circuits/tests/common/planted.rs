//! Models with known wiring between two dictionaries.

use std::collections::{BTreeMap, BTreeSet};

use directrix_circuits::edges::{Between, Edge};
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
pub(crate) const HALF: usize = 64;
pub(crate) const D: usize = 2 * HALF;
pub(crate) const NEURONS: usize = 64;
pub(crate) const VOCABULARY: usize = 48;
/// Features of tokens, as many directions in each dictionary.
pub(crate) const FEATURES: usize = 20;
/// Where the first block's neurons write.
pub(crate) const WRITTEN: usize = FEATURES;
/// Where the head writes.
pub(crate) const HEAD: usize = 2 * FEATURES;
/// A constant that dominates every norm, so that its divisor hardly varies.
pub(crate) const CONSTANT: f32 = 40.0;

/// What the second block's directions read. Directions of the first dictionary are numbered as the features they stand for, but for a twin.
pub(crate) struct Planted {
    /// The direction that fires where both of these do.
    pub(crate) and: [usize; 2],
    /// The direction that fires where one of these does, no more strongly where both do.
    pub(crate) or: [usize; 2],
    /// The direction that adds these up, where there is one; both of every pair then fire together at some token.
    pub(crate) sum: Option<[usize; 2]>,
    /// The direction that reads what the head fetches of this.
    pub(crate) fetched: usize,
    /// The direction that reads along this, but is off wherever it fires.
    pub(crate) gated: usize,
    /// A direction of the first dictionary that fires wherever `and[0]` does, and is read by nothing.
    pub(crate) twin: usize,
}

pub(crate) const AND: usize = 0;
pub(crate) const OR: usize = 1;
pub(crate) const FETCHED: usize = 2;
pub(crate) const GATED: usize = 3;
pub(crate) const SUM: usize = 4;

impl Planted {
    pub(crate) fn edges(&self) -> BTreeSet<Edge> {
        let pairs = [(self.and, AND), (self.or, OR)].into_iter().chain(self.sum.map(|sum| (sum, SUM)));
        let of_pairs = pairs.flat_map(|(firsts, second)| firsts.map(|first| Edge { first, second }));
        of_pairs.chain([Edge { first: self.fetched, second: FETCHED }]).collect()
    }

    pub(crate) fn decoys(&self) -> [Edge; 2] {
        [Edge { first: self.gated, second: GATED }, Edge { first: self.twin, second: AND }]
    }
}

pub(crate) struct Wired {
    pub(crate) model: Model,
    pub(crate) saes: [Sae; 2],
    pub(crate) index: Index,
    _folder: tempfile::TempDir,
}

impl Wired {
    pub(crate) fn between(&self) -> Between<'_> {
        let [first, second] = &self.saes;
        Between::new(&self.model, [first, second], &self.index, [self.index.sae(0), self.index.sae(1)]).unwrap()
    }
}

/// Weights, by row.
pub(crate) struct Rows(pub(crate) Vec<Vec<f32>>);

impl Rows {
    pub(crate) fn zeros(rows: usize, columns: usize) -> Rows {
        Rows(vec![vec![0.0; columns]; rows])
    }

    /// Of each of the first neurons, a row.
    pub(crate) fn neurons(n: usize) -> Rows {
        let mut rows = Rows::zeros(n, NEURONS);
        (0..n).for_each(|neuron| rows.0[neuron][neuron] = 1.0);
        rows
    }

    /// Makes column `column` read `place` of the residual stream.
    pub(crate) fn read(&mut self, place: usize, column: usize, by: f32) {
        self.0[place][column] += by / 2.0;
        self.0[place + HALF][column] -= by / 2.0;
    }

    /// Makes row `row` write to `place`.
    pub(crate) fn write(&mut self, row: usize, place: usize, by: f32) {
        self.0[row][place] += by;
        self.0[row][place + HALF] -= by;
    }
}

/// The weights of a GPT-2 of two blocks, of one head each; those that are not put are zero, norms do nothing.
#[derive(Default)]
pub(crate) struct Weights(BTreeMap<String, Rows>);

impl Weights {
    pub(crate) fn put(&mut self, name: &str, rows: Rows) {
        self.0.insert(name.into(), rows);
    }

    pub(crate) fn model(mut self) -> Model {
        let mut shapes = vec![("wte.weight".into(), VOCABULARY, D), ("wpe.weight".into(), 64, D)];
        let mut vectors = vec![("ln_f.weight".into(), D, 1.0), ("ln_f.bias".into(), D, 0.0)];
        for block in 0..2 {
            let matrices = [
                ("attn.c_attn", D, 3 * D),
                ("attn.c_proj", D, D),
                ("mlp.c_fc", D, NEURONS),
                ("mlp.c_proj", NEURONS, D),
            ];
            for (name, rows, columns) in matrices {
                shapes.push((format!("h.{block}.{name}.weight"), rows, columns));
                vectors.push((format!("h.{block}.{name}.bias"), columns, 0.0));
            }
            for norm in ["ln_1", "ln_2"] {
                vectors.push((format!("h.{block}.{norm}.weight"), D, 1.0));
                vectors.push((format!("h.{block}.{norm}.bias"), D, 0.0));
            }
        }
        let mut bytes: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut add = |name: String, shape: Vec<usize>, rows: Rows| {
            assert_eq!(shape.iter().product::<usize>(), rows.0.iter().map(Vec::len).sum::<usize>());
            bytes.push((name, shape, rows.0.concat().iter().flat_map(|x| x.to_le_bytes()).collect()));
        };
        for (name, rows, columns) in shapes {
            let put = self.0.remove(&name).unwrap_or_else(|| Rows::zeros(rows, columns));
            add(name, vec![rows, columns], put);
        }
        for (name, width, by) in vectors {
            let put = self.0.remove(&name).unwrap_or_else(|| Rows(vec![vec![by; width]]));
            add(name, vec![width], put);
        }
        assert!(self.0.is_empty(), "no such weights");
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
        Model::load(&folder, Processing::default()).unwrap()
    }
}

pub(crate) fn wired(seed: u64, planted: impl FnOnce(&mut ChaCha8Rng) -> Option<Planted>) -> (Wired, Option<Planted>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let planted = planted(&mut random);
    let mut weights = Weights::default();
    let mut embedding = Rows::zeros(VOCABULARY, D);
    for token in 0..VOCABULARY {
        embedding.write(token, HALF - 1, CONSTANT);
        for feature in 0..FEATURES {
            let pairs = planted.iter().filter_map(|planted| Some([planted.and, planted.or, planted.sum?]));
            let is_together = pairs.flatten().enumerate().any(|(pair, of)| pair == token && of.contains(&feature));
            if random.random_bool(0.25) || is_together {
                embedding.write(token, feature, random.random_range(0.8..1.2));
            }
        }
    }
    weights.put("wte.weight", embedding);
    // What a norm divides by, about.
    let scale = CONSTANT / (HALF as f32).sqrt() * 1.01;

    let (mut w_in, mut w_out) = (Rows::zeros(D, NEURONS), Rows::zeros(NEURONS, D));
    for direction in 0..FEATURES {
        let twin = planted.as_ref().filter(|planted| planted.twin == direction);
        w_in.read(twin.map_or(direction, |planted| planted.and[0]), direction, scale);
        w_out.write(direction, WRITTEN + direction, 1.0);
    }
    weights.put("h.0.mlp.c_fc.weight", w_in);
    weights.put("h.0.mlp.c_proj.weight", w_out);

    let (mut w_in, mut bias, mut encoder) =
        (Rows::zeros(D, NEURONS), vec![0.0_f32; NEURONS], Rows::zeros(FEATURES, NEURONS));
    let (mut attention, mut output) = (Rows::zeros(D, 3 * D), Rows::zeros(D, D));
    for direction in 0..FEATURES {
        encoder.0[direction][direction] = 1.0;
    }
    let own = planted.as_ref().map_or(0, |planted| planted.sum.map_or(SUM, |_| SUM + 1));
    for direction in own..FEATURES {
        w_in.read(random.random_range(0..FEATURES), direction, scale);
    }
    if let Some(Planted { and, or, sum, fetched, gated, .. }) = &planted {
        and.iter().for_each(|direction| w_in.read(WRITTEN + direction, AND, scale));
        bias[AND] = -1.3;
        sum.iter().flatten().for_each(|direction| w_in.read(WRITTEN + direction, SUM, scale));
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
    weights.put("h.1.mlp.c_fc.weight", w_in);
    weights.put("h.1.attn.c_attn.weight", attention);
    weights.put("h.1.attn.c_proj.weight", output);
    weights.put("h.1.mlp.c_fc.bias", Rows(vec![bias]));
    let model = weights.model();
    let saes = [sae(0, &Rows::neurons(FEATURES), -0.05), sae(1, &encoder, -0.05)];

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

/// An SAE on the neurons of a block whose directions read and write these rows.
pub(crate) fn sae(layer: usize, rows: &Rows, bias: f32) -> Sae {
    let end = End { hook: HookPoint::Block(layer, BlockHook::MlpPost), head: None, width: NEURONS };
    let parameters = Parameters {
        architecture: Architecture::Relu,
        b_enc: vec![bias; rows.0.len()],
        b_dec: vec![0.0; NEURONS],
        encoder: Matrix::from_rows(&rows.0),
        w_dec: Matrix::from_rows(&rows.0),
        subtract_b_dec: true,
        normalisation: Normalisation::None,
        w_skip: None,
    };
    Sae::new(format!("sae-l{layer}"), Site::at(end), parameters).unwrap()
}

pub(crate) fn with_wiring(random: &mut ChaCha8Rng) -> Planted {
    let mut directions: Vec<usize> = (0..FEATURES).collect();
    directions.shuffle(random);
    let [a, b, c, d, fetched, gated, twin, ..] = directions[..] else { unreachable!("there are twenty") };
    Planted { and: [a, b], or: [c, d], sum: None, fetched, gated, twin }
}

/// The same with a sum.
pub(crate) fn with_sum(random: &mut ChaCha8Rng) -> Option<Planted> {
    let planted = with_wiring(random);
    let used = [planted.and, planted.or, [planted.fetched, planted.gated], [planted.twin; 2]].concat();
    let mut others = (0..FEATURES).filter(|direction| !used.contains(direction));
    let sum = Some([others.next()?, others.next()?]);
    Some(Planted { sum, ..planted })
}
