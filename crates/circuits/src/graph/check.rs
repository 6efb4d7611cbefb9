//! What taking a node out of the real model does, beside what the graph says.
//!
//! The graph is linear: what a node adds to another, over all paths between them, is a sum of products. The model is not: where a norm,
//! a pattern or an activation function answers to the change, or a direction falls silent, the two differ.

use std::collections::BTreeMap;

use crate::{Change, Look, Result, Trial, effects};

use super::influence::later_first;
use super::trace::{Row, Target};
use super::{Graph, Node, Replacement};

/// A direction's effect on something behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Check {
    /// Number of the direction among the graph's nodes.
    pub source: usize,
    /// Number of a direction or of the answer.
    pub target: usize,
    /// What it adds directly: the edge, kept or not.
    pub direct: f64,
    /// What it adds over all paths of the graph as it was before it was pruned.
    pub predicted: f64,
    /// By how much the target's activation, or the answer's logit less the mean logit, falls when the direction is ablated.
    pub measured: f64,
}

impl Replacement<'_> {
    /// Ablates the `n` most influential directions of a graph, each at its position, and sees what that does to the answer; and the sources
    /// of the `n` most influential edges between directions, and sees what that does to their targets.
    ///
    /// # Errors
    /// If the graph is of something else, or as [`effects`].
    pub fn checks(&self, graph: &Graph, n: usize) -> Result<Vec<Check>> {
        let numbers = self.numbers(graph)?;
        let is_direction = |node: &usize| matches!(graph.nodes[*node].node, Node::Direction { .. });
        let answer = graph.nodes.iter().position(|node| matches!(node.node, Node::Logit { .. }));
        let mut sources: Vec<usize> = (0..graph.nodes.len()).filter(is_direction).collect();
        sources.sort_by(|a, b| graph.nodes[*b].influence.total_cmp(&graph.nodes[*a].influence).then(a.cmp(b)));
        let mut between: Vec<(usize, usize, f64)> = graph
            .edges
            .iter()
            .filter(|edge| is_direction(&edge.source) && is_direction(&edge.target))
            .map(|edge| (edge.source, edge.target, edge.influence))
            .collect();
        between.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        let pairs: Vec<(usize, usize)> = (sources.into_iter().take(n))
            .filter_map(|source| Some((source, answer?)))
            .chain(between.into_iter().take(n).map(|(source, target, _)| (source, target)))
            .collect();

        let trials: Vec<Trial> =
            pairs.iter().filter_map(|(source, target)| self.trial(graph, *source, *target)).collect();
        let effects = effects(self.model, &self.prompts, &trials, self.watch)?;
        let mut paths: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        let mut checks = Vec::new();
        for ((source, target), effect) in pairs.into_iter().zip(effects) {
            let of = Replacement::target(graph, &numbers, target);
            let along = paths.entry(target).or_insert_with(|| self.paths(&graph.rows, of));
            let (predicted, node) = (along[numbers[source]], numbers[source] as u32);
            let row = graph.rows.iter().find(|row| same(row.target, of));
            let direct = row.and_then(|row| row.edges.iter().find(|edge| edge.0 == node)).map_or(0.0, |edge| edge.1);
            let measured = if let (Target::Logit { token, .. }, [before, after]) = (of, [&effect.before, &effect.after])
            {
                over_mean(before.log_probs()?, token) - over_mean(after.log_probs()?, token)
            } else {
                f64::from(effect.before.activation()? - effect.after.activation()?)
            };
            checks.push(Check { source, target, direct: f64::from(direct), predicted, measured });
        }
        Ok(checks)
    }

    fn trial(&self, graph: &Graph, source: usize, target: usize) -> Option<Trial<'_>> {
        let Node::Direction { sae, direction, position } = graph.nodes[source].node else { return None };
        let look = match graph.nodes[target].node {
            Node::Direction { sae, direction, position } => {
                Look::Activation { sae: self.saes[sae], direction, position }
            }
            other => Look::LogProbs { position: other.position() },
        };
        let change = Change::Ablate(vec![direction]);
        Some(Trial { prompt: 0, sae: self.saes[sae], positions: position..position + 1, change, look })
    }

    /// What every node adds to a target over all paths.
    fn paths(&self, rows: &[Row], target: Target) -> Vec<f64> {
        let mut whole = vec![0.0; self.nodes.len()];
        for row in later_first(rows, self.order()) {
            // By how much the target grows with what is added here.
            let by = match row.target {
                own if same(own, target) => 1.0,
                Target::Direction(node) if row.value != 0.0 => whole[node] / row.value,
                _ => 0.0,
            };
            if by != 0.0 {
                row.edges.iter().for_each(|(node, x)| whole[*node as usize] += by * f64::from(*x));
            }
        }
        whole
    }
}

fn same(one: Target, other: Target) -> bool {
    match (one, other) {
        (Target::Logit { token, .. }, Target::Logit { token: other, .. }) => token == other,
        (Target::Direction(node), Target::Direction(other)) => node == other,
        _ => false,
    }
}

/// A logit less the mean logit, from log-probabilities.
fn over_mean(log_probs: &[f64], token: u32) -> f64 {
    log_probs[token as usize] - log_probs.iter().sum::<f64>() / log_probs.len() as f64
}
