//! Which heads carry an edge.
//!
//! With patterns held, what a node adds to a target is a sum over paths, and each path is told by the head that it passes last, closest
//! to the target, or passes none. The gradient that reaches a head without passing another is the target's own, cut behind
//! every head; from there back, that head's part of it is a scalar like any other.

use std::collections::{BTreeMap, HashMap};

use directrix_kernels::Matrix;
use directrix_model::{HookPoint, Quantity, Scalar, Term};

use super::trace::Target;
use super::{Graph, GraphNode, Node, Replacement};
use crate::{Error, Result};

/// By which head a path reaches its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// None, but for the head that the target's SAE may read.
    Direct,
    /// The last that it passes.
    Head {
        /// Its layer.
        layer: usize,
        /// Its number there.
        head: usize,
    },
}

impl std::fmt::Display for Via {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Via::Direct => f.write_str("direct"),
            Via::Head { layer, head } => write!(f, "L{layer}H{head}"),
        }
    }
}

/// A part of an edge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loading {
    /// Number of the edge.
    pub edge: usize,
    /// What carries it.
    pub via: Via,
    /// How much of the edge's weight it carries.
    pub weight: f32,
}

impl Replacement<'_> {
    /// The edges of a graph, each split over the heads that its paths pass last. Parts that are zero are left out; the parts of an edge
    /// sum to its weight.
    ///
    /// # Errors
    /// If the graph is of something else, a number is not finite, or `watch` stopped it.
    pub fn loadings(&self, graph: &Graph) -> Result<Vec<Loading>> {
        let numbers = self.numbers(graph)?;
        let mut by_target: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, edge) in graph.edges.iter().enumerate() {
            by_target.entry(edge.target).or_default().push(number);
        }
        let by_target: Vec<(usize, Vec<usize>)> = by_target.into_iter().collect();
        let mut loadings = Vec::new();
        for block in by_target.chunks(self.block()) {
            let targets: Vec<Target> =
                block.iter().map(|(node, _)| Replacement::target(graph, &numbers, *node)).collect();
            self.of_block(&targets, |number, via, added| {
                for &edge in &block[number].1 {
                    let weight = added[numbers[graph.edges[edge].source]];
                    loadings.extend((weight != 0.0).then_some(Loading { edge, via, weight }));
                }
            })?;
        }
        loadings.sort_by_key(|loading| (loading.edge, loading.via));
        Ok(loadings)
    }

    /// Hands out, for each of these targets, what every node adds by each way: the target's number, the way, by node what it adds.
    fn of_block(&self, targets: &[Target], mut seen: impl FnMut(usize, Via, &[f32])) -> Result<()> {
        let scalars: Vec<Scalar> = targets.iter().map(|target| Ok(self.scalar(target)?.0)).collect::<Result<_>>()?;
        let heads = self.uncut_heads();
        let hooks: Vec<HookPoint> = heads.iter().map(|cut| cut.hook).collect();
        let gradients = self.gradients(&scalars, &heads, &hooks)?;
        let direct = self.added(&gradients, scalars.len())?;
        direct.iter_rows().enumerate().for_each(|(number, added)| seen(number, Via::Direct, added));

        let (mut ways, mut parts) = (Vec::new(), Vec::new());
        for number in 0..scalars.len() {
            for cut in &heads {
                let reached = gradients.of(number, cut.hook);
                let term = |position: usize| {
                    let own = &reached.row(position)[cut.columns.clone()];
                    own.iter().any(|x| *x != 0.0).then(|| {
                        let mut direction = vec![0.0; reached.columns()];
                        direction[cut.columns.clone()].copy_from_slice(own);
                        let quantity = Quantity::Along { hook: cut.hook, direction: direction.into() };
                        Term { position, weight: 1.0, quantity }
                    })
                };
                let terms: Vec<Term> = (0..reached.rows()).filter_map(term).collect();
                if !terms.is_empty() {
                    let head = cut.columns.start / cut.columns.len();
                    ways.push((number, Via::Head { layer: cut.hook.layer().unwrap_or(0), head }));
                    parts.push(Scalar { prompt: 0, terms });
                }
            }
        }
        for (ways, parts) in ways.chunks(self.block()).zip(parts.chunks(self.block())) {
            let added: Matrix = self.added(&self.gradients(parts, &[], &[])?, parts.len())?;
            ways.iter().zip(added.iter_rows()).for_each(|(&(number, via), added)| seen(number, via, added));
        }
        Ok(())
    }

    /// Of each node of a graph, its number here; a logit has none.
    pub(super) fn numbers(&self, graph: &Graph) -> Result<Vec<usize>> {
        let places: HashMap<Node, usize> = self.nodes.iter().copied().zip(0..).collect();
        let number = |node: &GraphNode| match node.node {
            Node::Logit { .. } => Ok(usize::MAX),
            other => places.get(&other).copied().ok_or_else(|| Error::Graph {
                problem: format!("its node {other:?} is none here; give the graph that was made of this"),
            }),
        };
        graph.nodes.iter().map(number).collect()
    }

    /// What a node of a graph is as a target, by the numbers of its nodes.
    pub(super) fn target(graph: &Graph, numbers: &[usize], node: usize) -> Target {
        match graph.nodes[node].node {
            Node::Logit { token, .. } => {
                Target::Logit { token, probability: graph.nodes[node].activation.unwrap_or_default() }
            }
            _ => Target::Direction(numbers[node]),
        }
    }
}
