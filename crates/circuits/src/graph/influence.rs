//! How much nodes and edges matter, and which are kept.
//!
//! The influence of a node on the explained logits is that of circuit-tracer: every row's absolute weights are divided by their sum,
//! and the shares multiplied along all paths, each path weighed by its logit's probability: `p (A + A² + …)`. Rows of later
//! SAEs come first, so that one sweep sums over all paths.

use std::collections::BTreeMap;

use super::trace::{Row, Target};
use super::{Edge, Graph, GraphNode, GraphOptions, Inputs, Node, Replacement};

/// The influence of every node but the logits. Inputs of what `order` puts later are known first.
pub(super) fn influence(rows: &[Row], nodes: usize, order: impl Fn(&Target) -> usize) -> Vec<f64> {
    let mut by = vec![0.0; nodes];
    for row in later_first(rows, order) {
        let own = own(&by, row.target);
        if own > 0.0 && row.total > 0.0 {
            row.edges.iter().for_each(|(node, x)| by[*node as usize] += own * f64::from(x.abs()) / row.total);
        }
    }
    by
}

pub(super) fn later_first(rows: &[Row], order: impl Fn(&Target) -> usize) -> Vec<&Row> {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|row| std::cmp::Reverse(order(&row.target)));
    sorted
}

/// The influence of a target: a logit has its token's probability.
fn own(by: &[f64], target: Target) -> f64 {
    match target {
        Target::Logit { probability, .. } => probability,
        Target::Direction(node) => by[node],
    }
}

/// The graph of these rows without what matters little, as circuit-tracer's `prune_graph`: nodes with the given share of all influence,
/// every token and logit; of the edges between them those with the given share; then no direction or error that nothing comes
/// from, and no direction that nothing goes to.
pub(super) fn pruned(of: &Replacement, rows: Vec<Row>, directions: (usize, usize), options: GraphOptions) -> Graph {
    let by = influence(&rows, of.nodes.len(), of.order());
    let scores = Scores::of(of, &rows, &by);
    let mut has_inputs = vec![false; of.nodes.len()];
    for row in &rows {
        if let Target::Direction(node) = row.target {
            has_inputs[node] = true;
        }
    }
    let can_be: Vec<bool> =
        of.nodes.iter().zip(&has_inputs).map(|(node, has)| *has || !matches!(node, Node::Direction { .. })).collect();
    let candidates: Vec<f64> = (0..by.len()).filter(|node| can_be[*node]).map(|node| by[node]).collect();
    let least = least_kept(candidates, options.node_threshold);
    let is_token = |node: usize| matches!(of.nodes[node], Node::Token { .. });
    let mut kept: Vec<bool> =
        (0..by.len()).map(|node| is_token(node) || can_be[node] && by[node] > 0.0 && by[node] >= least).collect();

    let mut edges = between(of, &rows, &kept);
    let least = least_kept(edges.iter().map(|edge| edge.influence).collect(), options.edge_threshold);
    edges.retain(|edge| edge.influence > 0.0 && edge.influence >= least);
    loop {
        let (mut from, mut to) = (vec![false; by.len()], vec![false; by.len()]);
        for edge in &edges {
            from[edge.source] = true;
            if let Target::Direction(node) = rows[edge.target].target {
                to[node] = true;
            }
        }
        let stays = |node: usize| is_token(node) || from[node] && (to[node] || !has_inputs[node]);
        let before = kept.iter().filter(|kept| **kept).count();
        kept.iter_mut().enumerate().for_each(|(node, kept)| *kept &= stays(node));
        if kept.iter().filter(|kept| **kept).count() == before {
            break;
        }
        edges.retain(|edge| kept[edge.source] && is_kept(&kept, rows[edge.target].target));
    }
    numbered(of, rows, directions, options, Kept { by: &by, can_be: &can_be, nodes: &kept, edges, scores })
}

fn is_kept(kept: &[bool], target: Target) -> bool {
    match target {
        Target::Logit { .. } => true,
        Target::Direction(node) => kept[node],
    }
}

/// The edges between kept nodes, their targets as numbers of rows, with the influence that each has where there are no others.
fn between(of: &Replacement, rows: &[Row], kept: &[bool]) -> Vec<Edge> {
    let among = |row: &Row| {
        let edges: Vec<(u32, f32)> = row.edges.iter().copied().filter(|(node, _)| kept[*node as usize]).collect();
        let total = edges.iter().map(|(_, x)| f64::from(x.abs())).sum();
        Row { target: row.target, value: row.value, constant: row.constant, total, edges }
    };
    let numbers: Vec<usize> = (0..rows.len()).filter(|row| is_kept(kept, rows[*row].target)).collect();
    let among: Vec<Row> = numbers.iter().map(|row| among(&rows[*row])).collect();
    let by = influence(&among, of.nodes.len(), of.order());
    let edges = numbers.iter().zip(&among).flat_map(|(&target, row)| {
        let own = own(&by, row.target);
        row.edges.iter().map(move |&(node, weight)| Edge {
            source: node as usize,
            target,
            weight,
            influence: own * f64::from(weight.abs()) / row.total,
        })
    });
    edges.collect()
}

/// The least score of those that it takes to have `share` of the sum of all.
fn least_kept(mut scores: Vec<f64>, share: f64) -> f64 {
    scores.sort_by(|a, b| b.total_cmp(a));
    let wanted = share * scores.iter().sum::<f64>();
    let mut sum = 0.0;
    let enough = scores.iter().position(|score| {
        sum += score;
        sum >= wanted
    });
    enough.or(scores.len().checked_sub(1)).map_or(0.0, |at| scores[at])
}

/// What a graph as a whole is worth.
struct Scores {
    replacement: f64,
    completeness: f64,
}

impl Scores {
    fn of(of: &Replacement, rows: &[Row], by: &[f64]) -> Scores {
        let sum = |wanted: fn(&Node) -> bool| -> f64 {
            of.nodes.iter().zip(by).filter(|(node, _)| wanted(node)).map(|(_, by)| by).sum()
        };
        let embedded = sum(|node| matches!(node, Node::Token { .. } | Node::Position { .. }));
        let other = sum(|node| matches!(node, Node::Error { .. } | Node::Head { .. }));
        let is_error = |node: u32| matches!(of.nodes[node as usize], Node::Error { .. });
        let (mut whole, mut without) = (0.0, 0.0);
        for row in rows {
            let own = own(by, row.target);
            let errors: f64 =
                row.edges.iter().filter(|(node, _)| is_error(*node)).map(|(_, x)| f64::from(x.abs())).sum();
            whole += own;
            without += own * if row.total > 0.0 { 1.0 - errors / row.total } else { 1.0 };
        }
        Scores { replacement: embedded / (embedded + other), completeness: without / whole }
    }
}

/// What is left of all nodes and edges.
struct Kept<'a> {
    /// The influence of each node.
    by: &'a [f64],
    /// Whether its inputs were found, or it has none.
    can_be: &'a [bool],
    nodes: &'a [bool],
    /// Their targets as numbers of rows.
    edges: Vec<Edge>,
    scores: Scores,
}

/// The graph of what was kept, with numbers of its own.
fn numbered(
    of: &Replacement,
    rows: Vec<Row>,
    directions: (usize, usize),
    options: GraphOptions,
    Kept { by, can_be, nodes: kept, edges, scores }: Kept,
) -> Graph {
    let mut ranked: Vec<usize> = (0..by.len()).collect();
    ranked.sort_by(|a, b| by[*b].total_cmp(&by[*a]).then(a.cmp(b)));
    let (all, mut sum) = (by.iter().sum::<f64>(), 0.0);
    let mut cumulative = vec![0.0; by.len()];
    for node in ranked {
        sum += by[node];
        cumulative[node] = if all > 0.0 { sum / all } else { 1.0 };
    }
    let numbers: Vec<usize> = (0..by.len()).filter(|node| kept[*node]).collect();
    let place = |node: usize| numbers.partition_point(|other| *other < node);
    let logits: Vec<usize> = (0..rows.len()).filter(|row| matches!(rows[*row].target, Target::Logit { .. })).collect();
    let target = |row: usize| match rows[row].target {
        Target::Logit { .. } => numbers.len() + logits.partition_point(|other| *other < row),
        Target::Direction(node) => place(node),
    };
    let mut nodes: Vec<GraphNode> = numbers
        .iter()
        .map(|&node| GraphNode {
            node: of.nodes[node],
            activation: None,
            influence: by[node],
            cumulative: cumulative[node],
            inputs: None,
        })
        .chain(logits.iter().filter_map(|row| match rows[*row].target {
            Target::Logit { token, probability } => Some(GraphNode {
                node: Node::Logit { token, position: of.last() },
                activation: Some(probability),
                influence: probability,
                cumulative: 0.0,
                inputs: None,
            }),
            Target::Direction(_) => None,
        }))
        .collect();

    let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
    edges.iter().for_each(|edge| *sums.entry(edge.target).or_default() += f64::from(edge.weight));
    for (number, row) in rows.iter().enumerate() {
        if !is_kept(kept, row.target) {
            continue;
        }
        let node = &mut nodes[target(number)];
        let kept = sums.get(&number).copied().unwrap_or(0.0);
        let Row { value, constant, .. } = *row;
        node.inputs = Some(Inputs { value, kept, left_out: value - constant - kept, constant });
        if let Target::Direction(_) = row.target {
            node.activation = Some(value);
        }
    }
    let mut edges: Vec<Edge> = edges
        .into_iter()
        .map(|edge| Edge { source: place(edge.source), target: target(edge.target), ..edge })
        .collect();
    edges.sort_by(|a, b| {
        a.target.cmp(&b.target).then(b.weight.abs().total_cmp(&a.weight.abs())).then(a.source.cmp(&b.source))
    });
    let answer = match rows.first().map(|row| row.target) {
        Some(Target::Logit { token, probability }) => (token, probability),
        _ => (0, 0.0),
    };
    let Scores { replacement, completeness } = scores;
    let unfinished = (0..by.len()).filter(|node| by[*node] > 0.0 && !can_be[*node]).count();
    let (tokens, notes) = (of.tokens().to_vec(), of.notes(directions, unfinished));
    Graph { tokens, answer, nodes, edges, directions, replacement, completeness, notes, options, rows }
}
