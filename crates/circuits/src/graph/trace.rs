//! The rows of a graph: what every node adds to a direction or a logit, those of the most influential directions first.

use directrix_corpus::Event;
use directrix_kernels::log_sum_exp;
use directrix_model::{HookPoint, Scalar};

use super::influence::{influence, pruned};
use super::{Graph, GraphOptions, Node, Replacement};
use crate::{Error, Result};

/// Edges that are held of a row, at most: the largest.
const EDGES: usize = 4096;
/// Blocks of rows between two rankings of directions.
const BLOCKS: usize = 4;

/// What has inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// A token's logit, with the token's probability.
    Logit { token: u32, probability: f64 },
    /// A direction, by its number among the nodes.
    Direction(usize),
}

/// The inputs of a target.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) target: Target,
    /// What they sum to with the constant.
    pub(super) value: f64,
    pub(super) constant: f64,
    /// The sum of their absolute values, those not held included.
    pub(super) total: f64,
    /// Node and what it adds, by node.
    pub(super) edges: Vec<(u32, f32)>,
}

impl Replacement<'_> {
    /// The graph of what made the model predict `answer` after the prompt.
    ///
    /// # Errors
    /// If there is no such token, an edge is not finite, or `watch` stopped it.
    pub fn graph(&self, answer: u32, options: GraphOptions) -> Result<Graph> {
        for (option, share) in [("node_threshold", options.node_threshold), ("edge_threshold", options.edge_threshold)]
        {
            crate::error::threshold(option, share)?;
        }
        let mut rows = self.rows(&self.explained(answer, options)?)?;
        let is_direction = |node: &&Node| matches!(node, Node::Direction { .. });
        let active = self.nodes.iter().filter(is_direction).count();
        let most = options.max_directions.min(active);
        let (mut found, mut done) = (vec![false; self.nodes.len()], 0);
        loop {
            let by = influence(&rows, self.nodes.len(), self.order());
            let wanted = |node: &usize| by[*node] > 0.0 && !found[*node] && is_direction(&&self.nodes[*node]);
            let mut wanted: Vec<usize> = (0..self.nodes.len()).filter(wanted).collect();
            if wanted.is_empty() || done == most {
                break;
            }
            // Where all can be had, their order does not matter.
            if wanted.len() > most - done {
                wanted.sort_by(|a, b| by[*b].total_cmp(&by[*a]).then(a.cmp(b)));
                wanted.truncate((BLOCKS * self.block()).min(most - done));
            }
            for block in wanted.chunks(self.block()) {
                let targets: Vec<Target> = block.iter().map(|node| Target::Direction(*node)).collect();
                rows.extend(self.rows(&targets)?);
                done += block.len();
                self.watch.tell(Event::new("attribution graph", done as u64, "directions").of(most as u64));
            }
            wanted.iter().for_each(|node| found[*node] = true);
        }
        Ok(pruned(self, rows, (active, done), options))
    }

    /// The answer, and the likeliest tokens beside it that are asked for.
    fn explained(&self, answer: u32, options: GraphOptions) -> Result<Vec<Target>> {
        let read = self.run().captured(HookPoint::UnembedIn).gather([self.last()].into_iter());
        let logits = self.model.unembed(&read);
        let (sums, logits) = (log_sum_exp(&logits), logits.row(0));
        if answer as usize >= logits.len() {
            return Err(Error::Token { token: answer, vocabulary: logits.len() });
        }
        let of = |token: u32| {
            // Never zero, so that what a hopeless answer is made of can be seen as well.
            let probability = (f64::from(logits[token as usize]) - sums[0]).exp().max(f64::MIN_POSITIVE);
            Target::Logit { token, probability }
        };
        let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
        tokens.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        let (mut explained, mut sum) = (vec![of(answer)], 0.0);
        for token in tokens.into_iter().take(options.logits) {
            if sum >= options.probability {
                break;
            }
            let target = of(token);
            if let Target::Logit { probability, .. } = target {
                sum += probability;
            }
            explained.extend((token != answer).then_some(target));
        }
        Ok(explained)
    }

    /// Of a direction, the place of its SAE; of a logit, behind all.
    pub(super) fn order(&self) -> impl Fn(&Target) -> usize + '_ {
        |target| match *target {
            Target::Logit { .. } => self.saes.len(),
            Target::Direction(node) => match self.nodes[node] {
                Node::Direction { sae, .. } => sae,
                _ => 0,
            },
        }
    }

    pub(super) fn scalar(&self, target: &Target) -> Result<(Scalar, f64)> {
        match *target {
            Target::Logit { token, .. } => self.of_logit(token),
            Target::Direction(node) => self.of_direction(node).ok_or_else(|| Error::Graph {
                problem: format!("{:?} has no inputs: only directions and logits have", self.nodes[node]),
            }),
        }
    }

    /// The rows of some targets, as many as a block has.
    fn rows(&self, targets: &[Target]) -> Result<Vec<Row>> {
        let (scalars, biases): (Vec<Scalar>, Vec<f64>) =
            targets.iter().map(|target| self.scalar(target)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let gradients = self.gradients(&scalars, &[], &[])?;
        let added = self.added(&gradients, scalars.len())?;
        let row = |(number, target): (usize, &Target)| {
            let (value, added) = (gradients.values()[number] + biases[number], added.row(number));
            let sum: f64 = added.iter().map(|x| f64::from(*x)).sum();
            let mut edges: Vec<(u32, f32)> =
                added.iter().enumerate().filter(|(_, x)| **x != 0.0).map(|(node, x)| (node as u32, *x)).collect();
            let total = edges.iter().map(|(_, x)| f64::from(x.abs())).sum();
            if edges.len() > EDGES {
                edges.select_nth_unstable_by(EDGES, |a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
                edges.truncate(EDGES);
                edges.sort_unstable_by_key(|(node, _)| *node);
                edges.shrink_to_fit();
            }
            Row { target: *target, value, constant: value - sum, total, edges }
        };
        Ok(targets.iter().enumerate().map(row).collect())
    }
}
