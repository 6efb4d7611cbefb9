//! Attribution graphs, against a model that is really run with all held that a graph holds.

mod held;

use std::collections::{BTreeMap, BTreeSet};

use directrix_circuits::Error;
use directrix_circuits::graph::{Graph, GraphOptions, Named, Node, Replacement, Via};
use directrix_corpus::Watch;
use directrix_kernels::dot;
use directrix_model::{BlockHook, HookPoint, Model};
use directrix_sae::Sae;
use held::{Held, MODELS, PLACES, Place, model, sae, saes};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Nothing is pruned.
const WHOLE: GraphOptions =
    GraphOptions { logits: 3, probability: 1.0, max_directions: 100_000, node_threshold: 1.0, edge_threshold: 1.0 };

fn prompt(model: &Model, random: &mut ChaCha8Rng) -> Vec<u32> {
    let length = random.random_range(2..8);
    (0..length).map(|_| random.random_range(0..model.config().d_vocab as u32)).collect()
}

/// The value of every direction and logit of a graph, read from rows.
fn values(held: &Held, graph: &Graph, rows: &BTreeMap<(HookPoint, usize), Vec<f32>>) -> BTreeMap<usize, f64> {
    let weights = held.model.weights();
    let w_u = weights.w_u.to_matrix();
    let value = |node: &Node| match *node {
        Node::Direction { sae, direction, position } => {
            let hook = held.saes[sae].site().reads.hook;
            let (by, bias) = held.saes[sae].linear(held.run.captured(hook).row(position), direction);
            Some(dot(&rows[&(hook, position)], &by) + bias)
        }
        Node::Logit { token, position } => {
            let x = &rows[&(HookPoint::UnembedIn, position)];
            let logits: Vec<f64> = (0..w_u.columns())
                .map(|t| {
                    f64::from(weights.b_u[t])
                        + x.iter().zip(w_u.iter_rows()).map(|(x, w)| f64::from(*x) * f64::from(w[t])).sum::<f64>()
                })
                .collect();
            Some(logits[token as usize] - logits.iter().sum::<f64>() / logits.len() as f64)
        }
        _ => None,
    };
    graph.nodes.iter().enumerate().filter_map(|(number, node)| Some((number, value(&node.node)?))).collect()
}

fn read_by(saes: &[Sae]) -> Vec<HookPoint> {
    let reads: BTreeSet<HookPoint> = saes.iter().map(|sae| sae.site().reads.hook).collect();
    reads.into_iter().chain([HookPoint::UnembedIn]).collect()
}

fn weight(graph: &Graph, source: usize, target: usize) -> f64 {
    let edge = graph.edges.iter().find(|edge| edge.source == source && edge.target == target);
    edge.map_or(0.0, |edge| f64::from(edge.weight))
}

/// What a difference in the inputs of a target may be.
fn close(graph: &Graph, target: usize) -> f64 {
    let sum: f64 =
        graph.edges.iter().filter(|edge| edge.target == target).map(|edge| f64::from(edge.weight.abs())).sum();
    let constant = graph.nodes[target].inputs.map_or(0.0, |inputs| inputs.constant.abs());
    1e-4 * (1.0 + sum + constant)
}

proptest! {
    #[test]
    fn edges_and_constants_are_what_the_held_model_does(which in 0..MODELS.len(), processed: bool, seed: u64) {
        let model = model(MODELS[which], processed);
        let saes = saes(&model, seed);
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 1);
        let tokens = prompt(&model, &mut random);
        let watch = Watch::nobody();
        let of = Replacement::of(&model, saes.iter().collect(), &tokens, false, &watch).unwrap();
        let answer = random.random_range(0..model.config().d_vocab as u32);
        let graph = of.graph(answer, WHOLE).unwrap();
        let held = Held::new(&model, &saes, &tokens);
        let reads = read_by(&saes);
        let run = |is_there: &dyn Fn(&Node) -> bool| values(&held, &graph, &held.rows(of.nodes(), is_there, &reads, |_, _| false));

        // With all nodes there it is the model; with none, what is left are the constants.
        let (all, none) = (run(&|_| true), run(&|_| false));
        for (&target, value) in &all {
            // A direction that nothing comes of is no node.
            let Some(inputs) = graph.nodes[target].inputs else { continue };
            let close = close(&graph, target);
            prop_assert!((inputs.value - value).abs() < close, "value of {:?}: {inputs:?} {value}", graph.nodes[target]);
            prop_assert!((inputs.constant - none[&target]).abs() < close, "constant of {:?}: {inputs:?}, {}", graph.nodes[target], none[&target]);
            let sum: f64 = graph.edges.iter().filter(|edge| edge.target == target).map(|edge| f64::from(edge.weight)).sum();
            prop_assert!((sum + none[&target] - value).abs() < close, "inputs of {:?}: {sum}, {value}", graph.nodes[target]);
            prop_assert!(inputs.left_out.abs() < close);
        }
        // Without one node, each target is less by its edge.
        for _ in 0..12 {
            let source = random.random_range(0..graph.nodes.len());
            let gone = graph.nodes[source].node;
            if matches!(gone, Node::Logit { .. }) {
                continue;
            }
            for (target, value) in run(&|node| *node != gone) {
                let (found, expected) = (weight(&graph, source, target), all[&target] - value);
                prop_assert!(
                    (found - expected).abs() < close(&graph, target),
                    "{} {gone:?} to {:?}: {found}, {expected}", MODELS[which], graph.nodes[target].node
                );
            }
        }
    }

    #[test]
    fn loadings_sum_to_their_edge_and_are_what_goes_through_the_head(which in 0..MODELS.len(), seed: u64) {
        let model = model(MODELS[which], true);
        let saes = saes(&model, seed);
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 2);
        let tokens = prompt(&model, &mut random);
        let watch = Watch::nobody();
        let of = Replacement::of(&model, saes.iter().collect(), &tokens, false, &watch).unwrap();
        let graph = of.graph(3, WHOLE).unwrap();
        let loadings = of.loadings(&graph).unwrap();
        let mut sums = vec![0.0; graph.edges.len()];
        for loading in &loadings {
            sums[loading.edge] += f64::from(loading.weight);
        }
        for (edge, sum) in graph.edges.iter().zip(&sums) {
            prop_assert!((sum - f64::from(edge.weight)).abs() < close(&graph, edge.target), "{edge:?}: {sum}");
        }
        // Where only some heads answer, only what goes through them is left. A head in an SAE's site answers in any case.
        let held = Held::new(&model, &saes, &tokens);
        let reads = read_by(&saes);
        let layer = random.random_range(0..model.config().n_layers);
        let head = random.random_range(0..model.config().attention.query_heads);
        let in_site = |l: usize, h: usize| {
            let hook = HookPoint::Block(l, BlockHook::Z);
            saes.iter().any(|sae| sae.site().writes.hook == hook && sae.site().writes.head == Some(h))
        };
        let holds = |l: usize, h: usize| (l > layer || l == layer && h != head) && !in_site(l, h);
        let run = |gone: Option<Node>| values(&held, &graph, &held.rows(of.nodes(), |node| Some(*node) != gone, &reads, holds));
        let all = run(None);
        for _ in 0..6 {
            let source = random.random_range(0..graph.nodes.len());
            let gone = graph.nodes[source].node;
            if matches!(gone, Node::Logit { .. }) {
                continue;
            }
            for (target, value) in run(Some(gone)) {
                let answers = |via: Via| match via {
                    Via::Direct => true,
                    Via::Head { layer, head } => !holds(layer, head),
                };
                let of_edge = loadings.iter().filter(|loading| {
                    let edge = graph.edges[loading.edge];
                    edge.source == source && edge.target == target && answers(loading.via)
                });
                let found: f64 = of_edge.map(|loading| f64::from(loading.weight)).sum();
                let expected = all[&target] - value;
                prop_assert!((found - expected).abs() < close(&graph, target), "{gone:?} to {:?}: {found}, {expected}", graph.nodes[target].node);
            }
        }
    }

    #[test]
    fn a_heads_score_is_the_sum_over_pairs_of_nodes(which in 0..MODELS.len(), processed: bool, seed: u64) {
        let model = model(MODELS[which], processed);
        let saes = saes(&model, seed);
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 3);
        let tokens = prompt(&model, &mut random);
        let (config, watch) = (model.config(), Watch::nobody());
        let of = Replacement::of(&model, saes.iter().collect(), &tokens, false, &watch).unwrap();
        let (layer, head) = (random.random_range(0..config.n_layers), random.random_range(0..config.attention.query_heads));
        let query = random.random_range(0..tokens.len());
        let look = of.look(layer, head, query, None).unwrap();
        let held = Held::new(&model, &saes, &tokens);

        let score = held.run.captured(HookPoint::Block(layer, BlockHook::AttnScores)).row(query)[head * tokens.len() + look.key];
        let bent = config.attention.soft_cap.map_or(look.score, |cap| f64::from(cap) * (look.score / f64::from(cap)).tanh());
        prop_assert!((bent - f64::from(score)).abs() < 1e-3 * (1.0 + bent.abs()), "{bent} {score}");
        let (terms, others) = look.terms(usize::MAX);
        let sum: f64 = terms.iter().map(|term| f64::from(term.weight)).sum();
        let size: f64 = terms.iter().map(|term| f64::from(term.weight.abs())).sum();
        prop_assert!((sum - look.score).abs() < 1e-4 * (1.0 + size) && others.abs() < 1e-4 * (1.0 + size), "{sum} {}", look.score);
        let (some, others) = look.terms(3);
        let part: f64 = some.iter().map(|term| f64::from(term.weight)).sum();
        prop_assert!((part + others - look.score).abs() < 1e-4 * (1.0 + size));
        prop_assert!(some.iter().zip(&terms).all(|(a, b)| a == b));
        for (ends, name) in [(look.by_key(), "key"), (look.by_query(), "query")] {
            let sum: f64 = ends.iter().map(|(_, x)| x).sum();
            prop_assert!((sum - look.score).abs() < 1e-4 * (1.0 + size), "{name}: {sum}");
        }

        // Without a node, the key is shorter by its part.
        let [rotated, normalized, plain] = [BlockHook::RotK, BlockHook::KNormNormalized, BlockHook::K];
        let is_rotary = config.attention.layers[layer].rotary.is_some();
        let hook = HookPoint::Block(layer, if is_rotary { rotated } else if config.attention.qk_norms { normalized } else { plain });
        let query_hook = HookPoint::Block(layer, if is_rotary { BlockHook::RotQ } else { BlockHook::Q });
        prop_assume!(is_rotary || !config.attention.qk_norms);
        let (d, shared) = (config.attention.d_head, head / (config.attention.query_heads / config.attention.key_heads));
        let key_of = |gone: Option<Node>| held.rows(of.nodes(), |node| Some(*node) != gone, &[hook], |_, _| false)[&(hook, look.key)][shared * d..(shared + 1) * d].to_vec();
        let q = &held.run.captured(query_hook).row(query)[head * d..(head + 1) * d];
        let all = key_of(None);
        for (node, found) in look.by_key().into_iter().filter_map(|(node, x)| Some((node?, x))).take(10) {
            let without = key_of(Some(node));
            let moved: Vec<f32> = all.iter().zip(&without).map(|(a, b)| a - b).collect();
            let expected = dot(q, &moved) * f64::from(config.attention.layers[layer].scale);
            prop_assert!((found - expected).abs() < 1e-4 * (1.0 + size), "{node:?}: {found}, {expected}");
        }
    }

    #[test]
    fn a_graph_is_pruned_as_circuit_tracer_does(which in 0..MODELS.len(), seed: u64, node_threshold in 0.3..0.99_f64, edge_threshold in 0.3..0.99_f64) {
        let model = model(MODELS[which], true);
        let saes = saes(&model, seed);
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 4);
        let tokens = prompt(&model, &mut random);
        let watch = Watch::nobody();
        let of = Replacement::of(&model, saes.iter().collect(), &tokens, false, &watch).unwrap();
        let whole = of.graph(3, WHOLE).unwrap();
        let graph = of.graph(3, GraphOptions { node_threshold, edge_threshold, ..WHOLE }).unwrap();
        let (nodes, edges) = dense_pruned(&whole, node_threshold, edge_threshold);
        let kept: BTreeSet<String> = graph.nodes.iter().map(|node| format!("{:?}", node.node)).collect();
        let expected: BTreeSet<String> = nodes.iter().map(|node| format!("{:?}", whole.nodes[*node].node)).collect();
        prop_assert_eq!(kept, expected);
        prop_assert_eq!(graph.edges.len(), edges.len());
        for edge in &graph.edges {
            let [source, target] = [edge.source, edge.target].map(|n| whole.nodes.iter().position(|node| node.node == graph.nodes[n].node).unwrap());
            prop_assert!(edges.contains(&(source, target)));
            prop_assert!((weight(&whole, source, target) - f64::from(edge.weight)).abs() == 0.0);
        }
        for (number, node) in graph.nodes.iter().enumerate() {
            if let Some(inputs) = node.inputs {
                let sum = inputs.kept + inputs.left_out + inputs.constant;
                prop_assert!((sum - inputs.value).abs() < 1e-9 * (1.0 + sum.abs()), "{number}: {inputs:?}");
            }
        }
        prop_assert!((0.0..=1.0 + 1e-9).contains(&graph.replacement) && (0.0..=1.0 + 1e-9).contains(&graph.completeness));
    }
}

/// Nodes and edges that circuit-tracer's `prune_graph` keeps, on a dense matrix.
fn dense_pruned(graph: &Graph, node_threshold: f64, edge_threshold: f64) -> (Vec<usize>, BTreeSet<(usize, usize)>) {
    let n = graph.nodes.len();
    let mut a = vec![vec![0.0; n]; n];
    graph.edges.iter().for_each(|edge| a[edge.target][edge.source] = f64::from(edge.weight.abs()));
    let is_logit = |i: usize| matches!(graph.nodes[i].node, Node::Logit { .. });
    let is_token = |i: usize| matches!(graph.nodes[i].node, Node::Token { .. });
    let is_direction = |i: usize| matches!(graph.nodes[i].node, Node::Direction { .. });
    let weights: Vec<f64> =
        (0..n).map(|i| if is_logit(i) { graph.nodes[i].activation.unwrap() } else { 0.0 }).collect();
    let normalised = |a: &[Vec<f64>]| -> Vec<Vec<f64>> {
        a.iter().map(|row| row.iter().map(|x| x / row.iter().sum::<f64>().max(1e-300)).collect()).collect()
    };
    let influence = |a: &[Vec<f64>]| {
        let step = |v: &[f64]| -> Vec<f64> { (0..n).map(|j| (0..n).map(|i| v[i] * a[i][j]).sum()).collect() };
        let (mut now, mut all) = (step(&weights), vec![0.0; n]);
        while now.iter().any(|x| *x != 0.0) {
            all.iter_mut().zip(&now).for_each(|(all, x)| *all += x);
            now = step(&now);
        }
        all
    };
    let least = |mut scores: Vec<f64>, share: f64| {
        scores.sort_by(|a, b| b.total_cmp(a));
        let whole: f64 = scores.iter().sum();
        let mut sum = 0.0;
        let enough = scores.iter().position(|x| {
            sum += x;
            sum / whole >= share
        });
        scores[enough.unwrap_or(scores.len() - 1)]
    };
    let by = influence(&normalised(&a));
    let bound = least(by.clone(), node_threshold);
    let mut kept: Vec<bool> = (0..n).map(|i| by[i] >= bound && by[i] > 0.0 || is_logit(i) || is_token(i)).collect();
    let mut pruned = a.clone();
    (0..n).for_each(|i| (0..n).filter(|j| !(kept[i] && kept[*j])).for_each(|j| pruned[i][j] = 0.0));
    let pruned = normalised(&pruned);
    let by = influence(&pruned);
    let scores: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| pruned[i][j] * (by[i] + weights[i])).collect()).collect();
    let bound = least(scores.concat(), edge_threshold);
    let mut edges: BTreeSet<(usize, usize)> = (0..n)
        .flat_map(|i| (0..n).map(move |j| (j, i)))
        .filter(|(j, i)| scores[*i][*j] >= bound && scores[*i][*j] > 0.0)
        .collect();
    loop {
        let before = kept.clone();
        for i in (0..n).filter(|i| !is_logit(*i) && !is_token(*i)) {
            kept[i] &= edges.iter().any(|(source, _)| *source == i);
            kept[i] &= !is_direction(i) || edges.iter().any(|(_, target)| *target == i);
        }
        edges.retain(|(source, target)| kept[*source] && kept[*target]);
        if kept == before {
            break;
        }
    }
    ((0..n).filter(|i| kept[*i]).collect(), edges)
}

/// Transcoders in all layers: nothing is linearised.
fn transcoders(model: &Model) -> Vec<Sae> {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    (0..model.config().n_layers).map(|layer| sae(model, layer, Place::Transcoder, &mut random)).collect()
}

#[test]
fn with_transcoders_everywhere_nothing_is_linearised_and_the_inputs_are_all_there() {
    for name in ["gpt2-tiny", "neo-tiny", "neox-tiny"] {
        let model = model(name, true);
        let saes = transcoders(&model);
        let watch = Watch::nobody();
        let of = Replacement::of(&model, saes.iter().collect(), &[5, 11, 2, 7, 40, 23], false, &watch).unwrap();
        let graph = of.graph(9, WHOLE).unwrap();
        assert_eq!(graph.notes, Vec::<String>::new(), "{name}");
        assert!(graph.edges.len() > 200, "{name} {}", graph.edges.len());
        for (node, inputs) in graph.nodes.iter().filter_map(|node| Some((node, node.inputs?))) {
            assert!(inputs.left_out.abs() < 1e-4 * (1.0 + inputs.value.abs()), "{name} {node:?}");
        }
    }
}

#[test]
fn fewer_directions_than_are_active_are_the_most_influential_and_the_rest_is_accounted_for() {
    let model = model("gpt2-tiny", true);
    let saes = transcoders(&model);
    let watch = Watch::nobody();
    let of = Replacement::of(&model, saes.iter().collect(), &[5, 11, 2, 7, 40, 23], false, &watch).unwrap();
    let (all, some) = (of.graph(9, WHOLE).unwrap(), of.graph(9, GraphOptions { max_directions: 20, ..WHOLE }).unwrap());
    let directions =
        |graph: &Graph| graph.nodes.iter().filter(|node| matches!(node.node, Node::Direction { .. })).count();
    assert_eq!((directions(&some), some.directions.1), (20, 20));
    assert!(directions(&all) > 60 && some.notes[0].contains("most influential"));
    let left_out =
        some.nodes.iter().filter_map(|node| node.inputs).filter(|inputs| inputs.left_out.abs() > 1e-3).count();
    assert!(left_out > 0);
    // Rows that both have are the same.
    for node in some.nodes.iter().filter(|node| node.inputs.is_some()) {
        let same = all.nodes.iter().find(|other| other.node == node.node).unwrap();
        let [a, b] = [node, same].map(|node| node.inputs.unwrap());
        assert_eq!((a.value, a.constant), (b.value, b.constant));
    }
}

#[test]
fn the_same_graph_has_the_same_bits() {
    let model = model("neo-tiny", true);
    let saes = saes(&model, 8);
    let watch = Watch::nobody();
    let made = || {
        let of = Replacement::of(&model, saes.iter().collect(), &[5, 11, 2, 7], false, &watch).unwrap();
        let graph = of.graph(9, GraphOptions::default()).unwrap();
        let loadings = of.loadings(&graph).unwrap();
        (graph.nodes, graph.edges, loadings)
    };
    let (one, other) = (made(), made());
    assert_eq!((one.0, one.1), (other.0, other.1));
    assert_eq!(one.2, other.2);
}

#[test]
fn heads_that_are_nodes_end_what_goes_through_attention() {
    let model = model("neox-tiny", true);
    let saes = transcoders(&model);
    let watch = Watch::nobody();
    let of = Replacement::of(&model, saes.iter().collect(), &[5, 11, 2, 7], true, &watch).unwrap();
    let graph = of.graph(9, WHOLE).unwrap();
    assert!(graph.nodes.iter().any(|node| matches!(node.node, Node::Head { .. })));
    for edge in &graph.edges {
        assert_eq!(graph.nodes[edge.source].node.position(), graph.nodes[edge.target].node.position());
    }
    for (node, inputs) in graph.nodes.iter().filter_map(|node| Some((node, node.inputs?))) {
        assert!(inputs.left_out.abs() < 1e-4 * (1.0 + inputs.value.abs()), "{node:?}");
    }
    assert!(of.loadings(&graph).unwrap().iter().all(|loading| loading.via == Via::Direct));
}

#[test]
fn a_check_says_what_ablating_does_and_agrees_where_the_model_is_linear() {
    let model = model("gpt2-tiny", true);
    let saes = transcoders(&model);
    let watch = Watch::nobody();
    let of = Replacement::of(&model, saes.iter().collect(), &[5, 11, 2, 7, 40, 23], false, &watch).unwrap();
    let graph = of.graph(9, WHOLE).unwrap();
    let checks = of.checks(&graph, 15).unwrap();
    assert_eq!(checks.len(), 30);
    for check in &checks {
        let direct = weight(&graph, check.source, check.target);
        assert_eq!(check.direct, direct);
        assert!(check.measured.is_finite() && check.predicted.is_finite());
    }
    // The same ablation by hand, on the whole prompt.
    let check = checks[0];
    let Node::Direction { sae, direction, position } = graph.nodes[check.source].node else { panic!("{check:?}") };
    let held = Held::new(&model, &saes, &[5, 11, 2, 7, 40, 23]);
    let site = saes[sae].site();
    let mut row = held.run.captured(site.writes.hook).row(position).to_vec();
    let active = saes[sae].activation(held.run.captured(site.reads.hook).row(position), direction).unwrap()
        * saes[sae].unit(held.run.captured(site.reads.hook).row(position));
    row.iter_mut().zip(saes[sae].w_dec().row(direction as usize)).for_each(|(x, w)| *x -= active * w);
    let set = directrix_model::Intervention::new(
        site.writes.hook,
        directrix_model::Positions::At(vec![position]),
        directrix_model::Edit::Set(row.into()),
    );
    let ask = directrix_model::Ask::nothing().with_logits(directrix_model::Positions::FromEnd(1));
    let over_mean = |edits: &[directrix_model::Intervention]| {
        let run = model.run(&held.prompts, &ask, edits).unwrap();
        let row = run.logits().row(0);
        f64::from(row[9]) - row.iter().map(|x| f64::from(*x)).sum::<f64>() / row.len() as f64
    };
    let measured = over_mean(&[]) - over_mean(&[set]);
    assert!((measured - check.measured).abs() < 1e-4, "{measured} {check:?}");
}

#[test]
fn a_graph_is_written_as_circuit_tracer_writes_it() {
    let model = model("gpt2-tiny", true);
    // Two SAEs of one layer, and errors whose ids are also those of directions.
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut saes = transcoders(&model);
    saes.insert(0, sae(&model, 0, Place::AttnOut, &mut random));
    let watch = Watch::nobody();
    let tokens = [5, 11, 2, 7, 40, 23];
    let of = Replacement::of(&model, saes.iter().collect(), &tokens, false, &watch).unwrap();
    let graph = of.graph(9, WHOLE).unwrap();
    let token = |token: u32| format!("<{token}>");
    let label = |sae: usize, direction: u32| format!("{sae}/{direction}");
    let named = Named { slug: "a", model: "gpt2-tiny", prompt: "text", token: &token, label: &label };
    let file = of.to_json(&graph, &named);
    let (nodes, links) = (file["nodes"].as_array().unwrap(), file["links"].as_array().unwrap());
    assert_eq!((nodes.len(), links.len()), (graph.nodes.len(), graph.edges.len()));
    let ids: BTreeSet<&str> = nodes.iter().map(|node| node["node_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), nodes.len());
    assert!(
        links.iter().all(
            |link| ids.contains(link["source"].as_str().unwrap()) && ids.contains(link["target"].as_str().unwrap())
        )
    );
    assert_eq!(file["metadata"]["prompt_tokens"][1], "<11>");
    for (node, written) in graph.nodes.iter().zip(nodes) {
        match node.node {
            Node::Direction { sae, direction, position } => {
                let layer = saes[sae].site().writes.layer();
                let number = direction as usize + if sae == 1 { saes[0].directions() } else { 0 };
                assert_eq!(written["node_id"], format!("{layer}_{number}_{position}"));
                assert_eq!(written["feature"], (layer + number) * (layer + number + 1) / 2 + number);
                assert_eq!(
                    (&written["layer"], &written["jsNodeId"]),
                    (&layer.to_string().into(), &format!("{layer}_{number}-0").into())
                );
                assert_eq!(written["clerp"], format!("{sae}/{direction}"));
                assert!(written["activation"].as_f64().unwrap() > 0.0);
            }
            Node::Error { position, .. } => {
                assert_eq!((&written["feature"], &written["ctx_idx"]), (&(-1).into(), &position.into()));
                assert_eq!(written["feature_type"], "mlp reconstruction error");
            }
            Node::Token { token, position } => assert_eq!(written["node_id"], format!("E_{token}_{position}")),
            Node::Logit { token, .. } => {
                assert_eq!(written["node_id"], format!("4_{token}_5"));
                assert_eq!(written["is_target_logit"], token == 9);
                assert_eq!(written["token_prob"].as_f64(), node.activation);
            }
            Node::Head { .. } | Node::Position { .. } => {}
        }
    }
    let list = Graph::listed(&file, Some(&serde_json::json!({ "graphs": [{ "slug": "a" }, { "slug": "b" }] })));
    let slugs: Vec<&str> =
        list["graphs"].as_array().unwrap().iter().map(|graph| graph["slug"].as_str().unwrap()).collect();
    assert_eq!(slugs, ["b", "a"]);
}

#[test]
fn what_has_no_graph_is_an_error_that_says_why() {
    let model = model("gpt2-tiny", true);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let saes: Vec<Sae> = PLACES.iter().map(|place| sae(&model, 1, *place, &mut random)).collect();
    let watch = Watch::nobody();
    let failed = |saes: Vec<&Sae>, tokens: &[u32]| Replacement::of(&model, saes, tokens, false, &watch).err().unwrap();
    let (neurons, transcoder, out) = (&saes[0], &saes[1], &saes[3]);
    assert!(matches!(failed(vec![out, neurons], &[1, 2]), Error::Order { .. }));
    let both = failed(vec![transcoder, out], &[1, 2]).to_string();
    assert!(both.contains("both stand for blocks.1.hook_mlp_out"), "{both}");
    assert!(failed(Vec::new(), &[1, 2]).to_string().contains("no SAE"));
    assert!(failed(vec![neurons], &[]).to_string().contains('0'));
    assert!(failed(vec![neurons], &[1; 65]).to_string().contains("65"));
    let of = Replacement::of(&model, vec![neurons], &[1, 2, 3], false, &watch).unwrap();
    assert!(matches!(of.graph(500, WHOLE), Err(Error::Token { token: 500, vocabulary: 128 })));
    for (place, says) in [
        ((3, 0, 0, None), "3 layers"),
        ((0, 9, 0, None), "4 heads"),
        ((0, 0, 3, None), "no position 3"),
        ((0, 0, 1, Some(2)), "does not see"),
    ] {
        let problem = of.look(place.0, place.1, place.2, place.3).err().unwrap().to_string();
        assert!(problem.contains(says), "{problem}");
    }
    let nan = GraphOptions { node_threshold: f64::NAN, ..WHOLE };
    assert!(matches!(of.graph(1, nan), Err(Error::Threshold { option: "node_threshold" })));
}

#[test]
fn where_attention_and_mlp_are_parallel_nothing_goes_from_one_to_the_other() {
    let model = model("neox-tiny", true);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let saes = [sae(&model, 1, Place::AttnOut, &mut random), sae(&model, 1, Place::Transcoder, &mut random)];
    let watch = Watch::nobody();
    let of = Replacement::of(&model, saes.iter().collect(), &[5, 11, 2, 7], false, &watch).unwrap();
    let graph = of.graph(9, WHOLE).unwrap();
    let sae_of = |node: usize| match graph.nodes[node].node {
        Node::Direction { sae, .. } | Node::Error { sae, .. } => Some(sae),
        _ => None,
    };
    assert!(graph.edges.iter().all(|edge| (sae_of(edge.source), sae_of(edge.target)) != (Some(0), Some(1))));
    assert!(graph.notes.iter().any(|note| note.contains("parallel")), "{:?}", graph.notes);
}
