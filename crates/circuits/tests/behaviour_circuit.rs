//! Circuits of behaviours: what is planted is found, and every number is that of a run with functions in place of interventions.

mod common;

use std::sync::{Arc, Mutex};

use common::planted::*;
use directrix_circuits::{BehaviourCircuit, Circuit, CircuitNodes, CircuitOptions, Error, Metric, Node, check_nodes};
use directrix_corpus::{Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{
    Ask, BlockHook, Folder, Function, HookPoint, Hooked, Model, Positions, Processing, RowAt, Target,
};
use directrix_sae::Sae;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ANSWER: u32 = VOCABULARY as u32 - 1;
/// Where the second block writes what the answer reads.
const OUT: usize = HEAD + 1;

/// A model whose answer depends on the sum of two directions of its first block, and on them through one of its second.
struct Behaving {
    model: Model,
    saes: [Sae; 2],
    /// Both fire before every answer.
    needed: [usize; 2],
    prompts: [Prompts; 2],
}

fn behaving(seed: u64) -> Behaving {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let a = random.random_range(0..FEATURES);
    let b = (a + random.random_range(1..FEATURES)) % FEATURES;
    let mut embedding = Rows::zeros(VOCABULARY, D);
    for token in 0..VOCABULARY {
        embedding.write(token, HALF - 1, CONSTANT);
        for feature in 0..FEATURES {
            let is_before = token < 8 && [a, b].contains(&feature);
            if token != ANSWER as usize && (random.random_bool(0.25) || is_before) {
                embedding.write(token, feature, random.random_range(0.8..1.2));
            }
        }
    }
    embedding.write(ANSWER as usize, OUT, 4.0);
    let scale = CONSTANT / (HALF as f32).sqrt() * 1.01;
    let (mut reads, mut writes) = (Rows::zeros(D, NEURONS), Rows::zeros(NEURONS, D));
    for direction in 0..FEATURES {
        reads.read(direction, direction, scale);
        writes.write(direction, WRITTEN + direction, 1.0);
    }
    let mut weights = Weights::default();
    weights.put("wte.weight", embedding);
    weights.put("h.0.mlp.c_fc.weight", reads);
    weights.put("h.0.mlp.c_proj.weight", writes);
    let (mut reads, mut writes) = (Rows::zeros(D, NEURONS), Rows::zeros(NEURONS, D));
    [a, b].iter().for_each(|direction| reads.read(WRITTEN + direction, 0, scale));
    writes.write(0, OUT, 1.0);
    weights.put("h.1.mlp.c_fc.weight", reads);
    weights.put("h.1.mlp.c_proj.weight", writes);
    let prompts = [0, 1].map(|_| {
        let prompt = |_| {
            let mut tokens: Vec<u32> =
                (0..random.random_range(5..14)).map(|_| random.random_range(0..ANSWER)).collect();
            tokens.extend([random.random_range(0..8), ANSWER]);
            tokens
        };
        Prompts::from_rows((0..30).map(prompt).collect::<Vec<_>>())
    });
    let saes = [sae(0, &Rows::neurons(FEATURES), 0.0), sae(1, &Rows::neurons(4), 0.0)];
    Behaving { model: weights.model(), saes, needed: [a, b], prompts }
}

fn circuit(of: &Behaving, saes: &[Sae], metric: Metric) -> BehaviourCircuit {
    let [choosing, reporting] = &of.prompts;
    let nodes = CircuitNodes::of(&of.model, saes, metric, choosing, &Watch::nobody()).unwrap();
    BehaviourCircuit::of(&nodes, [choosing, reporting], CircuitOptions::default(), &Watch::nobody()).unwrap()
}

#[test]
fn the_planted_nodes_are_the_smallest_circuit_and_no_others() {
    for seed in 0..10 {
        let of = behaving(seed);
        let direction = |sae: usize, direction: usize| Node::Direction { sae, direction: direction as u32 };
        let mut needed = of.needed.map(|d| direction(0, d)).to_vec();
        for (saes, metric) in [(1, Metric::LogProb), (1, Metric::LogitDifference(3)), (2, Metric::LogProb)] {
            if saes == 2 {
                needed.push(direction(1, 0));
            }
            let found = circuit(&of, &of.saes[..saes], metric);
            let mut named: Vec<Node> = found.named.iter().map(|node| node.is).collect();
            named.sort_unstable();
            needed.sort_unstable();
            assert_eq!(named, needed, "seed {seed}: {:?}", found.named);
            let at = found.smallest();
            assert!(at.faithfulness > 0.95 && at.faithfulness < 1.05, "seed {seed}: {at:?}");
            assert!(at.completeness.abs() < 0.05 && at.completeness_low <= at.completeness, "seed {seed}: {at:?}");
            assert!(at.random_high < 0.6, "seed {seed}: {at:?}");
            for node in &found.named {
                assert!(node.attribution > 0.1 && node.change.estimate.high() < -0.1, "seed {seed}: {node:?}");
                assert!(node.change.is_beyond_controls(), "seed {seed}: {node:?}");
            }
            for rows in found.curve.windows(2) {
                assert!(rows[1].faithfulness > rows[0].faithfulness - 0.02, "seed {seed}: {rows:?}");
                assert!(rows[1].completeness < rows[0].completeness + 0.02, "seed {seed}: {rows:?}");
            }
            if seed == 0 {
                assert_eq!(found, circuit(&of, &of.saes[..saes], metric), "it is the same every time");
            }
        }
    }
}

struct Shipped {
    model: Model,
    saes: Vec<Sae>,
    prompts: Prompts,
}

fn shipped(seed: u64, n: usize) -> Shipped {
    let root = format!("{}/../../assets/tinystories-2l", env!("CARGO_MANIFEST_DIR"));
    let model = Model::load(&Folder::open(&root).unwrap(), Processing::default()).unwrap();
    let sae =
        |name: &str| Sae::load(&Folder::open(format!("{root}/{name}")).unwrap()).unwrap().fit(model.config()).unwrap();
    let saes = vec![sae("sae-l1"), sae("sae-l0")];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let prompt = |_| {
        let length = random.random_range(2..12);
        (0..length).map(|_| random.random_range(0..model.config().d_vocab as u32)).collect::<Vec<u32>>()
    };
    let prompts = Prompts::from_rows((0..n).map(prompt).collect::<Vec<_>>());
    Shipped { model, saes, prompts }
}

/// Values that nodes have, by the text of what they are.
struct Means {
    directions: Vec<Vec<f64>>,
    errors: Vec<Vec<f64>>,
    heads: Vec<Vec<f64>>,
}

/// Activations and error of a row.
fn taken_apart(sae: &Sae, row: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let row = Matrix::new(row.to_vec(), 1, row.len());
    let acts = sae.encode(&row).unwrap();
    let decoded = sae.decode(&acts, &row);
    let error = row.row(0).iter().zip(decoded.row(0)).map(|(x, r)| f64::from(*x) - f64::from(*r)).collect();
    ((0..sae.directions() as u32).map(|d| f64::from(acts.get(0, d))).collect(), error)
}

fn z(layer: usize) -> HookPoint {
    HookPoint::Block(layer, BlockHook::Z)
}

impl Shipped {
    fn cut(&self) -> Prompts {
        Prompts::from_rows(self.prompts.iter().map(|tokens| &tokens[..tokens.len() - 1]))
    }

    fn means(&self) -> Means {
        let cut = self.cut();
        let layers = self.model.config().n_layers;
        let hooks = self.saes.iter().map(|sae| sae.site().reads.hook).chain((0..layers).map(z));
        let run = self.model.run(&cut, &Ask::capture(hooks), &[]).unwrap();
        let mean = |rows: Vec<Vec<f64>>| -> Vec<f64> {
            (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / rows.len() as f64).collect()
        };
        let apart = |sae: &Sae| -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
            run.captured(sae.site().reads.hook).iter_rows().map(|row| taken_apart(sae, row)).unzip()
        };
        let (directions, errors) = self
            .saes
            .iter()
            .map(|sae| {
                let (acts, errors) = apart(sae);
                (mean(acts), mean(errors))
            })
            .unzip();
        let head = |layer| {
            mean(run.captured(z(layer)).iter_rows().map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect())
        };
        Means { directions, errors, heads: (0..layers).map(head).collect() }
    }

    /// The log-probability of the answer of one prompt, every row rebuilt from what the running model has there, of the nodes that `keeps`, and
    /// means of the others.
    fn naive(&self, means: &Arc<Means>, prompt: usize, keeps: &Arc<dyn Fn(Node) -> bool + Send + Sync>) -> f64 {
        let cut = self.cut();
        let mut functions = Vec::new();
        for (number, sae) in self.saes.iter().enumerate() {
            let (own, keeps, means) = (sae.clone(), keeps.clone(), means.clone());
            let function = move |_: RowAt, row: &mut [f32]| {
                let (acts, error) = taken_apart(&own, row);
                let error = if keeps(Node::Error { sae: number }) { &error } else { &means.errors[number] };
                let mut sum: Vec<f64> = own.b_dec().iter().zip(error).map(|(b, e)| f64::from(*b) + e).collect();
                for (direction, activation) in acts.into_iter().enumerate() {
                    let is_kept = keeps(Node::Direction { sae: number, direction: direction as u32 });
                    let value = if is_kept { activation } else { means.directions[number][direction] };
                    if value != 0.0 {
                        sum.iter_mut()
                            .zip(own.w_dec().row(direction))
                            .for_each(|(sum, w)| *sum += value * f64::from(*w));
                    }
                }
                row.iter_mut().zip(sum).for_each(|(x, sum)| *x = sum as f32);
            };
            functions.push(Hooked {
                hook: sae.site().reads.hook,
                positions: Positions::All,
                function: Function::Each(Arc::new(function)),
            });
        }
        for layer in 0..self.model.config().n_layers {
            let heads = self.model.config().attention.query_heads;
            let (keeps, means) = (keeps.clone(), means.clone());
            let function = move |_: RowAt, row: &mut [f32]| {
                let width = row.len() / heads;
                for head in (0..heads).filter(|head| !keeps(Node::Head { layer, head: *head })) {
                    let own = head * width..(head + 1) * width;
                    row[own.clone()].iter_mut().zip(&means.heads[layer][own]).for_each(|(x, mean)| *x = *mean as f32);
                }
            };
            functions.push(Hooked {
                hook: z(layer),
                positions: Positions::All,
                function: Function::Each(Arc::new(function)),
            });
        }
        let tokens = self.prompts.get(prompt);
        let target = Target { prompt: 0, position: tokens.len() - 2, token: tokens[tokens.len() - 1] };
        let ask = Ask::nothing().with_predictions([target]);
        self.model.run_hooked(&Prompts::from_rows([cut.get(prompt)]), &ask, &[], &functions).unwrap().predictions()[0]
            .log_prob
    }
}

#[test]
fn a_circuit_is_the_model_with_every_row_rebuilt_from_kept_nodes_and_means() {
    for seed in 0..3 {
        let of = shipped(seed, 4);
        let nodes = CircuitNodes::of(&of.model, &of.saes, Metric::LogProb, &of.prompts, &Watch::nobody()).unwrap();
        let means = Arc::new(of.means());
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut cases: Vec<(usize, Circuit)> = Vec::new();
        let mut expected = Vec::new();
        for share in [0.0, 0.03, 0.5, 0.97] {
            for prompt in 0..of.prompts.len() {
                let kept: Vec<usize> = (0..nodes.len()).filter(|_| random.random_bool(share)).collect();
                let names: std::collections::BTreeSet<Node> = kept.iter().map(|number| nodes.node(*number)).collect();
                let keeps: Arc<dyn Fn(Node) -> bool + Send + Sync> = Arc::new(move |node| names.contains(&node));
                expected.push(of.naive(&means, prompt, &keeps));
                cases.push((prompt, nodes.circuit(kept)));
            }
        }
        let found = nodes.measure(&of.prompts, &cases, &Watch::nobody()).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-3 * expected.abs().max(1.0), "seed {seed}: {found} and {expected}");
        }
        for (case, found) in cases.iter().zip(found) {
            let alone = nodes.measure(&of.prompts, std::slice::from_ref(case), &Watch::nobody()).unwrap();
            assert_eq!(alone, [found], "a case alone is what it is among others");
        }
    }
}

#[test]
fn with_all_nodes_it_is_the_model_and_with_none_nothing_to_the_last_bit() {
    let of = shipped(9, 12);
    let nodes = CircuitNodes::of(&of.model, &of.saes, Metric::LogProb, &of.prompts, &Watch::nobody()).unwrap();
    // Beside a circuit of none, the rows of that of all are set as well.
    let (all, none) = (nodes.circuit(0..nodes.len()), nodes.circuit([]));
    let cases: Vec<(usize, Circuit)> =
        (0..of.prompts.len()).flat_map(|prompt| [(prompt, all.clone()), (prompt, none.clone())]).collect();
    let found = nodes.measure(&of.prompts, &cases, &Watch::nobody()).unwrap();
    let targets = of.prompts.iter().enumerate().map(|(prompt, tokens)| Target {
        prompt,
        position: tokens.len() - 2,
        token: tokens[tokens.len() - 1],
    });
    let run = of.model.run(&of.prompts, &Ask::nothing().with_predictions(targets), &[]).unwrap();
    for (found, whole) in found.chunks(2).zip(run.predictions()) {
        assert_eq!(found[0], whole.log_prob);
        assert_ne!(found[1], whole.log_prob);
    }
    let options = CircuitOptions { named: 3, ..CircuitOptions::default() };
    let circuit = BehaviourCircuit::of(&nodes, [&of.prompts, &of.prompts], options, &Watch::nobody()).unwrap();
    let (first, last) = (&circuit.curve[0], &circuit.curve[circuit.curve.len() - 1]);
    assert_eq!((first.size, first.faithfulness, first.completeness), (0, 0.0, 1.0));
    assert_eq!((last.size, last.faithfulness, last.completeness), (nodes.len(), 1.0, 0.0));
    assert!(circuit.smallest().faithfulness >= 0.8, "it was chosen on these prompts");
    assert!(circuit.curve.is_sorted_by_key(|row| row.size) && circuit.named.len() <= 3);
}

#[test]
fn attributions_are_the_derivatives_towards_the_means() {
    let of = shipped(4, 3);
    let nodes = CircuitNodes::of(&of.model, &of.saes, Metric::LogProb, &of.prompts, &Watch::nobody()).unwrap();
    let found = nodes.attributions(&of.prompts, &Watch::nobody()).unwrap();
    let means = of.means();
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by(|a, b| found[*b].abs().total_cmp(&found[*a].abs()));
    let heads = order.iter().copied().filter(|number| matches!(nodes.node(*number), Node::Head { .. })).take(3);
    let errors = order.iter().copied().filter(|number| matches!(nodes.node(*number), Node::Error { .. }));
    let directions =
        order.iter().copied().filter(|number| matches!(nodes.node(*number), Node::Direction { .. })).take(8);
    for number in heads.chain(errors).chain(directions) {
        let node = nodes.node(number);
        let hook = match node {
            Node::Head { layer, .. } => z(layer),
            Node::Direction { sae, .. } | Node::Error { sae } => of.saes[sae].site().reads.hook,
        };
        // What the node is above its mean, by prompt and position, as the unchanged run has it.
        let above = |row: &[f32]| -> Vec<f64> {
            match node {
                Node::Head { layer, head } => {
                    let width = row.len() / of.model.config().attention.query_heads;
                    let is_own = |i: usize| i / width == head;
                    (0..row.len())
                        .map(|i| if is_own(i) { f64::from(row[i]) - means.heads[layer][i] } else { 0.0 })
                        .collect()
                }
                Node::Error { sae } => {
                    let (_, error) = taken_apart(&of.saes[sae], row);
                    error.iter().zip(&means.errors[sae]).map(|(e, mean)| e - mean).collect()
                }
                Node::Direction { sae, direction } => {
                    let (acts, _) = taken_apart(&of.saes[sae], row);
                    let by = acts[direction as usize] - means.directions[sae][direction as usize];
                    of.saes[sae].w_dec().row(direction as usize).iter().map(|w| by * f64::from(*w)).collect()
                }
            }
        };
        let cut = of.cut();
        let run = of.model.run(&cut, &Ask::capture([hook]), &[]).unwrap();
        let rows: Vec<Vec<f64>> = run.captured(hook).iter_rows().map(above).collect();
        let rows = Arc::new(Mutex::new(rows));
        let moved = |by: f64| -> f64 {
            let (rows, offsets) = (rows.clone(), cut.offsets().to_vec());
            let function = move |at: RowAt, row: &mut [f32]| {
                let rows = rows.lock().unwrap();
                let above = &rows[offsets[at.spot.prompt] + at.spot.position];
                row.iter_mut().zip(above).for_each(|(x, above)| *x += (by * above) as f32);
            };
            let hooked = Hooked { hook, positions: Positions::All, function: Function::Each(Arc::new(function)) };
            let targets = of.prompts.iter().enumerate().map(|(prompt, tokens)| Target {
                prompt,
                position: tokens.len() - 2,
                token: tokens[tokens.len() - 1],
            });
            let run = of.model.run_hooked(&cut, &Ask::nothing().with_predictions(targets), &[], &[hooked]).unwrap();
            run.predictions().iter().map(|prediction| prediction.log_prob).sum::<f64>() / of.prompts.len() as f64
        };
        let step = 0.02;
        let derivative = (moved(step) - moved(-step)) / (2.0 * step);
        let error = (found[number] - derivative).abs();
        assert!(error < 2e-3 + 0.02 * derivative.abs(), "{node:?}: {} and {derivative}", found[number]);
    }
}

#[test]
fn what_cannot_be_a_circuit_is_said() {
    let of = shipped(1, 3);
    let twice = [of.saes[0].clone(), of.saes[0].clone()];
    assert!(matches!(check_nodes(&twice), Err(Error::NoNodes { .. })));
    let short = Prompts::from_rows([vec![1, 2], vec![3]]);
    let nodes =
        |prompts: &Prompts, metric| CircuitNodes::of(&of.model, &of.saes, metric, prompts, &Watch::nobody()).err();
    assert!(matches!(nodes(&short, Metric::LogProb), Some(Error::Short { prompt: 1 })));
    assert!(matches!(nodes(&of.prompts, Metric::LogitDifference(u32::MAX)), Some(Error::Token { .. })));
    let pair = Prompts::from_rows([vec![1, 2], vec![1, 3]]);
    assert!(matches!(nodes(&pair, Metric::LogitDifference(3)), Some(Error::SameAnswer { prompt: 1 })));
    assert!(matches!(nodes(&Prompts::new(), Metric::LogProb), Some(Error::Lengths { .. })));
    // Of one position, every node is at its mean.
    let one = Prompts::from_rows([vec![1, 2]]);
    let nodes = CircuitNodes::of(&of.model, &of.saes, Metric::LogProb, &one, &Watch::nobody()).unwrap();
    let found = BehaviourCircuit::of(&nodes, [&one, &one], CircuitOptions::default(), &Watch::nobody());
    assert!(matches!(found, Err(Error::NothingAblated)), "{found:?}");
}
