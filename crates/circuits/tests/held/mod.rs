//! The local replacement model by other means: the model is really run, with divisors, patterns and slopes held by functions at hook
//! points, and every site and embedding written anew, node by node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use directrix_circuits::graph::Node;
use directrix_corpus::Prompts;
use directrix_kernels::{Activation, Matrix, SparseActivations};
use directrix_model::{
    Ask, BlockHook, Folder, Function, HookPoint, Hooked, Model, PositionEncoding, Positions, Processing, RowAt, Run,
};
use directrix_sae::{Architecture, End, Normalisation, Parameters, Sae, Site};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) const MODELS: [&str; 6] = ["gpt2-tiny", "neo-tiny", "neox-tiny", "llama-tiny", "qwen3-tiny", "gemma2-tiny"];

pub(crate) fn model(name: &str, processed: bool) -> Model {
    let path = format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let processing = if processed { Processing::default() } else { Processing::none() };
    Model::load(&Folder::open(&path).unwrap(), processing).unwrap()
}

/// Where an SAE of a block may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    Neurons,
    Transcoder,
    SkipTranscoder,
    MlpOut,
    AttnOut,
    Head,
    ResidPost,
}

pub(crate) const PLACES: [Place; 7] = [
    Place::Neurons,
    Place::Transcoder,
    Place::SkipTranscoder,
    Place::MlpOut,
    Place::AttnOut,
    Place::Head,
    Place::ResidPost,
];

pub(crate) fn sae(model: &Model, layer: usize, place: Place, random: &mut ChaCha8Rng) -> Sae {
    use BlockHook as B;
    let [reads, writes] = match place {
        Place::Neurons => [B::MlpPost; 2],
        Place::Transcoder => [B::Ln2Normalized, B::MlpOut],
        Place::SkipTranscoder => [B::MlpIn, B::MlpOut],
        Place::MlpOut => [B::MlpOut; 2],
        Place::AttnOut => [B::AttnOut; 2],
        Place::Head => [B::Z; 2],
        Place::ResidPost => [B::ResidPost; 2],
    };
    let end = |hook: BlockHook| {
        let hook = HookPoint::Block(layer, hook);
        let shape = hook.shape(model.config(), 0);
        let head = (place == Place::Head).then_some(1);
        End { hook, head, width: head.map_or(shape.iter().product(), |_| shape[1]) }
    };
    let (reads, writes, n) = (end(reads), end(writes), 20);
    let mut numbers =
        |n: usize, size: f32| -> Vec<f32> { (0..n).map(|_| size * random.random_range(-1.0..1.0)).collect() };
    let (d_in, d_out) = (reads.width, writes.width);
    let one_place = reads == writes;
    let mut parameters = Parameters {
        architecture: Architecture::Relu,
        encoder: Matrix::new(numbers(n * d_in, 0.7), n, d_in),
        w_dec: Matrix::new(numbers(n * d_out, 0.3), n, d_out),
        b_enc: numbers(n, 0.2),
        b_dec: numbers(d_out, 0.2),
        subtract_b_dec: one_place,
        normalisation: Normalisation::None,
        w_skip: (place == Place::SkipTranscoder).then(|| Matrix::new(numbers(d_in * d_out, 0.2), d_out, d_in)),
    };
    let (r_mag, b_mag) = (numbers(n, 0.5), numbers(n, 0.2));
    let threshold: Vec<f32> = numbers(n, 0.1).into_iter().map(f32::abs).collect();
    parameters.architecture = match random.random_range(0..4) {
        0 => Architecture::Relu,
        1 => Architecture::TopK { k: 6 },
        2 => Architecture::JumpRelu { threshold },
        _ => Architecture::Gated { r_mag, b_mag },
    };
    parameters.normalisation = match random.random_range(0..6) {
        0 => Normalisation::LayerNorm,
        1 => Normalisation::ConstantNorm,
        _ => Normalisation::None,
    };
    Sae::new(format!("{place:?}-{layer}"), Site { reads, writes }, parameters).unwrap().fit(model.config()).unwrap()
}

/// Some SAEs of a model, in order.
pub(crate) fn saes(model: &Model, seed: u64) -> Vec<Sae> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut saes = Vec::new();
    for layer in 0..model.config().n_layers {
        let mut places: BTreeSet<usize> = BTreeSet::new();
        for _ in 0..random.random_range(0..3) {
            places.insert(random.random_range(0..PLACES.len()));
        }
        // One of those that write the MLP's output.
        let writes_out: Vec<usize> = places.iter().copied().filter(|p| (1..4).contains(p)).skip(1).collect();
        places.retain(|place| !writes_out.contains(place));
        saes.extend(places.into_iter().map(|place| sae(model, layer, PLACES[place], &mut random)));
    }
    if saes.is_empty() {
        saes.push(sae(model, 0, Place::Neurons, &mut random));
    }
    saes.sort_by_key(|sae| (sae.site().writes.hook, sae.site().reads.hook));
    saes
}

type Rows = BTreeMap<(HookPoint, usize), Vec<f32>>;

/// A model held on a prompt.
pub(crate) struct Held<'a> {
    pub(crate) model: &'a Model,
    pub(crate) saes: Vec<&'a Sae>,
    pub(crate) prompts: Prompts,
    /// The plain run, at every hook point.
    pub(crate) run: Arc<Run>,
    acts: Vec<SparseActivations>,
}

/// Whether a node is of a kind.
type Is = fn(&Node) -> bool;

impl<'a> Held<'a> {
    pub(crate) fn new(model: &'a Model, saes: &'a [Sae], tokens: &[u32]) -> Held<'a> {
        let prompts = Prompts::from_rows([tokens]);
        let run = Arc::new(model.run(&prompts, &Ask::capture(HookPoint::all(model.config())), &[]).unwrap());
        let acts = saes.iter().map(|sae| sae.encode(run.captured(sae.site().reads.hook)).unwrap()).collect();
        Held { model, saes: saes.iter().collect(), prompts, run, acts }
    }

    /// What a node writes, as a row of its site or of an embedding.
    fn writes(&self, node: &Node) -> Vec<f32> {
        match *node {
            Node::Direction { sae, direction, position } => {
                let sae_of = self.saes[sae];
                let read = self.run.captured(sae_of.site().reads.hook).row(position);
                let by = self.acts[sae].get(position, direction) * sae_of.unit(read);
                sae_of.w_dec().row(direction as usize).iter().map(|x| by * x).collect()
            }
            Node::Error { sae, position } => {
                let site = self.saes[sae].site();
                let recon = self.saes[sae].decode(&self.acts[sae], self.run.captured(site.reads.hook));
                let written = &self.run.captured(site.writes.hook).row(position)[site.writes.columns()];
                written.iter().zip(recon.row(position)).map(|(x, recon)| x - recon).collect()
            }
            Node::Token { position, .. } => self.run.captured(HookPoint::Embed).row(position).to_vec(),
            Node::Position { position } => self.run.captured(HookPoint::PosEmbed).row(position).to_vec(),
            Node::Head { .. } | Node::Logit { .. } => unreachable!("no site is theirs"),
        }
    }

    /// The rows at `wanted`, before they are written anew, where only these of `nodes` are there; `z` are heads that give what they gave.
    pub(crate) fn rows(
        &self,
        nodes: &[Node],
        is_there: impl Fn(&Node) -> bool,
        wanted: &[HookPoint],
        z: impl Fn(usize, usize) -> bool,
    ) -> Rows {
        let seen: Arc<Mutex<Rows>> = Arc::default();
        let mut hooked = self.holds();
        for hook in wanted {
            let (seen, hook) = (seen.clone(), *hook);
            let see = move |at: RowAt, row: &mut [f32]| {
                seen.lock().unwrap().insert((hook, at.spot.position), row.to_vec());
            };
            hooked.push(everywhere(hook, see));
        }
        for (number, sae) in self.saes.iter().enumerate() {
            let own = |node: &&Node| match node {
                Node::Direction { sae, .. } | Node::Error { sae, .. } => *sae == number,
                _ => false,
            };
            hooked.extend(self.rewrites(sae, nodes.iter().filter(own).filter(|node| is_there(node))));
        }
        let embeddings: [(HookPoint, Is); 2] = [
            (HookPoint::Embed, |node| matches!(node, Node::Token { .. })),
            (HookPoint::PosEmbed, |node| matches!(node, Node::Position { .. })),
        ];
        let count = if self.model.config().encoding == PositionEncoding::Learned { 2 } else { 1 };
        for (hook, is) in embeddings.into_iter().take(count) {
            let there: BTreeSet<usize> =
                nodes.iter().filter(|node| is(node) && is_there(node)).map(Node::position).collect();
            hooked.push(everywhere(hook, move |at: RowAt, row: &mut [f32]| {
                if !there.contains(&at.spot.position) {
                    row.fill(0.0);
                }
            }));
        }
        let config = self.model.config();
        let d = config.attention.d_head;
        for layer in 0..config.n_layers {
            let hook = HookPoint::Block(layer, BlockHook::Z);
            let held: Vec<usize> = (0..config.attention.query_heads).filter(|head| z(layer, *head)).collect();
            let run = self.run.clone();
            hooked.push(everywhere(hook, move |at: RowAt, row: &mut [f32]| {
                let was = run.captured(hook).row(at.spot.position);
                held.iter().for_each(|h| row[h * d..(h + 1) * d].copy_from_slice(&was[h * d..(h + 1) * d]));
            }));
        }
        let ask = Ask::capture([HookPoint::UnembedIn]);
        self.model.run_hooked(&self.prompts, &ask, &[], &hooked).unwrap();
        std::mem::take(&mut *seen.lock().unwrap())
    }

    /// Writes a site anew: what the SAE adds in any case, what its skip connection makes of what is read now, and what these nodes write.
    fn rewrites<'n>(&self, sae: &Sae, nodes: impl Iterator<Item = &'n Node>) -> Vec<Hooked<'static>> {
        let (reads, writes) = (sae.site().reads.clone(), sae.site().writes.clone());
        let was_read = self.run.captured(reads.hook);
        let mut nothing = SparseActivations::default();
        (0..was_read.rows()).for_each(|_| nothing.push([]));
        let mut written = sae.decode(&nothing, was_read);
        for node in nodes {
            written.row_mut(node.position()).iter_mut().zip(self.writes(node)).for_each(|(sum, x)| *sum += x);
        }
        let now: Arc<Mutex<BTreeMap<usize, Vec<f32>>>> = Arc::default();
        let (seen, run, skip) = (now.clone(), self.run.clone(), sae.parameters().w_skip.clone());
        let reader = everywhere(reads.hook, move |at: RowAt, row: &mut [f32]| {
            seen.lock().unwrap().insert(at.spot.position, row.to_vec());
        });
        let writer = everywhere(writes.hook, move |at: RowAt, row: &mut [f32]| {
            let position = at.spot.position;
            let site = &mut row[writes.columns()];
            site.copy_from_slice(written.row(position));
            if let Some(w) = &skip {
                let (now, was) = (&now.lock().unwrap()[&position], run.captured(reads.hook).row(position));
                let moved: Vec<f32> = now.iter().zip(was).map(|(now, was)| now - was).collect();
                site.iter_mut().zip(w.iter_rows()).for_each(|(x, w)| *x += directrix_kernels::dot(w, &moved) as f32);
            }
        });
        vec![reader, writer]
    }

    /// What holds divisors, patterns, and the slopes of neurons.
    fn holds(&self) -> Vec<Hooked<'static>> {
        let longest = self.prompts.get(0).len();
        let is_held = |hook: &HookPoint| {
            hook.to_string().ends_with("hook_scale") || matches!(hook, HookPoint::Block(_, BlockHook::Pattern))
        };
        let mut hooked: Vec<Hooked> = Vec::new();
        for hook in HookPoint::all(self.model.config()).into_iter().filter(is_held) {
            let run = self.run.clone();
            hooked.push(everywhere(hook, move |at: RowAt, numbers: &mut [f32]| {
                let start = at.head.map_or(0, |head| head * longest);
                let was = &run.captured(hook).row(at.spot.position)[start..start + numbers.len()];
                numbers.copy_from_slice(was);
            }));
        }
        for layer in 0..self.model.config().n_layers {
            hooked.extend(self.neurons(layer));
        }
        hooked
    }

    fn neurons(&self, layer: usize) -> Vec<Hooked<'static>> {
        let at = |hook| HookPoint::Block(layer, hook);
        let (pre, linear, post) = (at(BlockHook::MlpPre), at(BlockHook::MlpPreLinear), at(BlockHook::MlpPost));
        let gated = self.model.config().mlp.gated;
        let seen: Arc<Mutex<Rows>> = Arc::default();
        let see = |hook: HookPoint| {
            let seen = seen.clone();
            everywhere(hook, move |at: RowAt, row: &mut [f32]| {
                seen.lock().unwrap().insert((hook, at.spot.position), row.to_vec());
            })
        };
        let mut hooked = vec![see(pre)];
        hooked.extend(gated.then(|| see(linear)));
        let (run, activation) = (self.run.clone(), self.model.config().mlp.activation);
        hooked.push(everywhere(post, move |at: RowAt, row: &mut [f32]| {
            let (position, seen) = (at.spot.position, seen.lock().unwrap());
            let was = run.captured(pre).row(position);
            let (values, slopes) = curve(activation, was);
            for (i, x) in row.iter_mut().enumerate() {
                let moved = slopes[i] * (seen[&(pre, position)][i] - was[i]);
                *x = values[i] + moved;
                if gated {
                    let part = run.captured(linear).row(position)[i];
                    *x = *x * part + values[i] * (seen[&(linear, position)][i] - part);
                }
            }
        }));
        hooked
    }
}

/// An activation function and its slope.
fn curve(activation: Activation, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut values = Matrix::from_rows(&[x]);
    directrix_kernels::activate(activation, &mut values);
    let mut slopes = Matrix::repeat(&[1.0], x.len());
    slopes = Matrix::new(slopes.into_data(), 1, x.len());
    directrix_kernels::activation_gradient(activation, &Matrix::from_rows(&[x]), &mut slopes);
    (values.into_data(), slopes.into_data())
}

fn everywhere(hook: HookPoint, function: impl Fn(RowAt, &mut [f32]) + Send + Sync + 'static) -> Hooked<'static> {
    Hooked { hook, positions: Positions::All, function: Function::Each(Arc::new(function)) }
}
