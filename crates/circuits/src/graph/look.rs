//! Why a head looks where it does.
//!
//! Before the softmax a head's score of a key is the scaled inner product of a query with it, both rotated where positions are rotary.
//! With the divisors of norms and earlier patterns held, either is a sum over the nodes that come before and a constant of biases: so
//! the score is a sum over pairs of these.

use directrix_kernels::{Matrix, dot, product};
use directrix_model::{BlockHook, HookPoint, Quantity, Scalar};

use super::{Node, Replacement};
use crate::{Error, Result};

/// Rows of pairs held at a time.
const ROWS: usize = 256;

/// What a head's score of one position at another is made of.
#[derive(Debug, Clone)]
pub struct HeadLook {
    /// The layer.
    pub layer: usize,
    /// The head, among those that ask.
    pub head: usize,
    /// The position that looks.
    pub query: usize,
    /// The position that is looked at.
    pub key: usize,
    /// The score, before any soft cap and the softmax.
    pub score: f64,
    /// What share of the head's attention there the key gets.
    pub attention: f64,
    queries: Side,
    keys: Side,
}

/// A query or a key as a sum.
#[derive(Debug, Clone)]
struct Side {
    /// Those nodes that have a part in it; `None` is the biases.
    nodes: Vec<Option<Node>>,
    /// What each adds, `[nodes, d_head]`; queries are scaled.
    rows: Matrix,
}

/// One pair's part of a score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LookTerm {
    /// What is in the query; `None` is the biases.
    pub query: Option<Node>,
    /// What is in the key; `None` is the biases.
    pub key: Option<Node>,
    /// What the pair adds to the score.
    pub weight: f32,
}

impl Replacement<'_> {
    /// What head `head` of layer `layer` scores `key` by, from `query`; the most attended key if none is given.
    ///
    /// # Errors
    /// If there is no such layer, head or position, the head does not see the key from there, or as [`Replacement::graph`].
    pub fn look(&self, layer: usize, head: usize, query: usize, key: Option<usize>) -> Result<HeadLook> {
        let config = self.model.config();
        let (heads, length) = (config.attention.query_heads, self.tokens().len());
        let failed = |problem: String| Err(Error::Graph { problem });
        if layer >= config.n_layers || head >= heads {
            return failed(format!(
                "there is no head {layer}.{head}: the model has {} layers of {heads} heads, counted from 0",
                config.n_layers
            ));
        }
        if let Some(position) = [Some(query), key].into_iter().flatten().find(|position| *position >= length) {
            return failed(format!("there is no position {position}: the prompt has {length}, counted from 0"));
        }
        let pattern_hook = HookPoint::Block(layer, BlockHook::Pattern);
        let run =
            self.model.run(&self.prompts, &directrix_model::Ask::capture([pattern_hook]).watched(self.watch), &[])?;
        let pattern = &run.captured(pattern_hook).row(query)[head * length..][..=query];
        let most = (0..=query).max_by(|a, b| pattern[*a].total_cmp(&pattern[*b]));
        let key = key.or(most).unwrap_or(query);
        let sees = config.attention.layers[layer].window.is_none_or(|window| key + window > query);
        if key > query || !sees {
            return failed(format!("head {layer}.{head} does not see position {key} from position {query}"));
        }
        let sharing = heads / config.attention.key_heads;
        let mut queries = self.side(layer, head, query, true)?;
        let keys = self.side(layer, head / sharing, key, false)?;
        queries.rows.data_mut().iter_mut().for_each(|x| *x *= config.attention.layers[layer].scale);
        let sum = |side: &Side| {
            let columns = side.rows.columns();
            side.rows.iter_rows().fold(vec![0.0_f64; columns], |mut sum, row| {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
                sum
            })
        };
        let score = sum(&queries).iter().zip(sum(&keys)).map(|(q, k)| q * k).sum();
        Ok(HeadLook { layer, head, query, key, score, attention: f64::from(pattern[key]), queries, keys })
    }

    /// The query or key of a head at a position, as a sum.
    fn side(&self, layer: usize, head: usize, position: usize, is_query: bool) -> Result<Side> {
        use BlockHook as B;
        let attention = &self.model.config().attention;
        let norms = self.model.weights().blocks[layer].qk_norms.as_ref();
        let [rotated, normalized, plain] =
            if is_query { [B::RotQ, B::QNormNormalized, B::Q] } else { [B::RotK, B::KNormNormalized, B::K] };
        // As attention takes them: rotated, or at least behind their norm.
        let (hook, weights) = match (attention.layers[layer].rotary, norms) {
            (Some(_), _) => (rotated, None),
            (None, Some(norms)) => (normalized, Some(&norms[usize::from(!is_query)].w)),
            (None, None) => (plain, None),
        };
        let hook = HookPoint::Block(layer, hook);
        let width = hook.shape(self.model.config(), 0).iter().product();
        let scalar = |number: usize| {
            let mut direction = vec![0.0; width];
            direction[head * attention.d_head + number] = weights.map_or(1.0, |w| w[number]);
            Scalar::of(0, position, Quantity::Along { hook, direction: direction.into() })
        };
        let scalars: Vec<Scalar> = (0..attention.d_head).map(scalar).collect();
        let (mut by_number, mut values) = (Vec::new(), Vec::new());
        for block in scalars.chunks(self.block()) {
            let gradients = self.gradients(block, &[], &[])?;
            by_number.push(self.added(&gradients, block.len())?);
            values.extend_from_slice(gradients.values());
        }
        let added: Vec<&[f32]> = by_number.iter().flat_map(Matrix::iter_rows).collect();
        let has_part = |node: &usize| added.iter().any(|row| row[*node] != 0.0);
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(has_part).collect();
        let mut rows: Vec<Vec<f32>> = nodes.iter().map(|node| added.iter().map(|row| row[*node]).collect()).collect();
        let sum = |row: &&[f32]| row.iter().map(|x| f64::from(*x)).sum::<f64>();
        rows.push(added.iter().zip(&values).map(|(row, value)| (value - sum(row)) as f32).collect());
        let nodes = nodes.into_iter().map(|node| Some(self.nodes[node])).chain([None]).collect();
        Ok(Side { nodes, rows: Matrix::from_rows(&rows) })
    }
}

impl HeadLook {
    /// The `k` pairs that add most, up or down, and what all others add together: the weights and that sum to the score.
    pub fn terms(&self, k: usize) -> (Vec<LookTerm>, f64) {
        let mut best: Vec<(usize, usize, f32)> = Vec::new();
        for first in (0..self.queries.nodes.len()).step_by(ROWS) {
            let rows = first..self.queries.nodes.len().min(first + ROWS);
            let mut pairs = Matrix::zeros(rows.len(), self.keys.nodes.len());
            product(self.queries.rows.view().rows_of(rows), self.keys.rows.view().transposed(), &mut pairs, false);
            let row = |(query, row): (usize, &[f32])| -> Vec<(usize, usize, f32)> {
                row.iter().enumerate().map(|(key, weight)| (first + query, key, *weight)).collect()
            };
            best.extend(pairs.iter_rows().enumerate().flat_map(row));
            best.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()).then((a.0, a.1).cmp(&(b.0, b.1))));
            best.truncate(k);
        }
        let sum: f64 = best.iter().map(|(.., weight)| f64::from(*weight)).sum();
        let term = |(query, key, weight): (usize, usize, f32)| LookTerm {
            query: self.queries.nodes[query],
            key: self.keys.nodes[key],
            weight,
        };
        (best.into_iter().map(term).collect(), self.score - sum)
    }

    /// What each part of the key adds, whatever the query has; `None` is the biases. They sum to the score.
    pub fn by_key(&self) -> Vec<(Option<Node>, f64)> {
        by(&self.keys, &self.queries)
    }

    /// What each part of the query adds, whatever the key has.
    pub fn by_query(&self) -> Vec<(Option<Node>, f64)> {
        by(&self.queries, &self.keys)
    }
}

fn by(parts: &Side, whole: &Side) -> Vec<(Option<Node>, f64)> {
    let mut sum = vec![0.0_f64; whole.rows.columns()];
    whole.rows.iter_rows().for_each(|row| sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x)));
    let sum: Vec<f32> = sum.into_iter().map(|x| x as f32).collect();
    parts.nodes.iter().zip(parts.rows.iter_rows()).map(|(node, row)| (*node, dot(row, &sum))).collect()
}
