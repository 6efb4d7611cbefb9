//! Attribution graphs: what of one prompt made a model predict a token, through the directions of SAEs.
//!
//! A [`Replacement`] is a model on one prompt in which every SAE's site is written by the SAE's directions and what they miss (its error),
//! exactly. Divisors of norms and attention patterns are held, and so is the slope of every MLP that no SAE stands for: between its
//! [`Node`]s the model is then linear, and what a node adds to another, or to a logit, is one number, an [`Edge`]. This is the *local
//! replacement model* of Ameisen et al. 2025, *Circuit Tracing*, with SAEs as well as transcoders. Everything that an edge into a
//! direction or a logit can come from is a node, but for the biases: with them the edges sum to the target's value.
//!
//! A [`Graph`] has the nodes and edges that matter for the answer: its rows are made many at a time, those of the most influential directions
//! first, and pruned by influence as circuit-tracer does. [`Replacement::loadings`] splits edges over attention heads,
//! [`Replacement::look`] says why a head looks where it does, [`Replacement::checks`] takes nodes out of the real model.

mod check;
mod influence;
mod json;
mod loadings;
mod look;
mod notes;
mod raised;
mod replacement;
mod trace;

use serde::Serialize;

pub use check::Check;
pub use json::Named;
pub use loadings::{Loading, Via};
pub use look::{HeadLook, LookTerm};
pub use replacement::Replacement;

use trace::Row;

/// What a graph is made of, and how it is pruned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraphOptions {
    /// The likeliest next tokens that are explained beside the answer, at most.
    pub logits: usize,
    /// No more of them than it takes to make up this much probability.
    pub probability: f64,
    /// Directions whose own inputs are found, at most; the most influential ones are first.
    pub max_directions: usize,
    /// Nodes are kept until they have this share of all influence.
    pub node_threshold: f64,
    /// Edges between them are kept until they have this share.
    pub edge_threshold: f64,
}

impl Default for GraphOptions {
    fn default() -> GraphOptions {
        GraphOptions { logits: 0, probability: 0.95, max_directions: 7500, node_threshold: 0.8, edge_threshold: 0.98 }
    }
}

/// A node of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Node {
    /// A direction that is active at a position.
    Direction {
        /// Number of its SAE.
        sae: usize,
        /// The direction.
        direction: u32,
        /// Where.
        position: usize,
    },
    /// What an SAE's reconstruction misses at a position.
    Error {
        /// Number of the SAE.
        sae: usize,
        /// Where.
        position: usize,
    },
    /// What a head writes at a position, where heads are nodes.
    Head {
        /// Its layer.
        layer: usize,
        /// Its number there.
        head: usize,
        /// Where.
        position: usize,
    },
    /// The embedding of the token at a position.
    Token {
        /// The token.
        token: u32,
        /// Where.
        position: usize,
    },
    /// The embedding of a position itself, in models that have one.
    Position {
        /// Which.
        position: usize,
    },
    /// The logit of a token after the prompt, less the mean logit.
    Logit {
        /// The token.
        token: u32,
        /// The last position.
        position: usize,
    },
}

impl Node {
    /// The position it is at.
    pub fn position(&self) -> usize {
        match *self {
            Node::Direction { position, .. }
            | Node::Error { position, .. }
            | Node::Head { position, .. }
            | Node::Token { position, .. }
            | Node::Position { position }
            | Node::Logit { position, .. } => position,
        }
    }
}

/// A node that was kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraphNode {
    /// The node.
    pub node: Node,
    /// How strongly a direction fires, or the probability of a logit's token.
    pub activation: Option<f64>,
    /// What part of the explained logits goes through it, by absolute weights: over all paths, the products of each edge's share
    /// of its target's inputs, times the probability of the path's logit.
    pub influence: f64,
    /// The share of all influence that this node and the more influential ones have: circuit-tracer's `influence` of a node.
    pub cumulative: f64,
    /// Of what its inputs are accounted for.
    pub inputs: Option<Inputs>,
}

/// What the inputs of a direction or a logit sum to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Inputs {
    /// Its activation, or the logit less the mean logit: the sum of the three below.
    pub value: f64,
    /// What the edges that were kept sum to.
    pub kept: f64,
    /// What all other edges sum to.
    pub left_out: f64,
    /// What no node adds: biases, and what lines through the activation functions of MLPs that no SAE stands for have at zero.
    pub constant: f64,
}

/// What a node adds to another directly: not through the directions and errors of a third one's site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    /// Number of the node that adds.
    pub source: usize,
    /// Number of the node that it adds to: a direction or a logit.
    pub target: usize,
    /// How much: of the target's activation, or of its logit.
    pub weight: f32,
    /// The share of it in the explained logits, as [`GraphNode::influence`] is counted.
    pub influence: f64,
}

/// An attribution graph.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The prompt, up to the position that predicts.
    pub tokens: Vec<u32>,
    /// The token that is explained, with its probability.
    pub answer: (u32, f64),
    /// The nodes that were kept: directions and errors by SAE, then heads, embeddings, logits, the answer's first.
    pub nodes: Vec<GraphNode>,
    /// The edges that were kept, by target and falling weight.
    pub edges: Vec<Edge>,
    /// Directions that are active anywhere in the prompt, and those of them whose inputs were found.
    pub directions: (usize, usize),
    /// The share of the influence of embeddings in that of all that has no inputs: circuit-tracer's replacement score, where no
    /// head is a node.
    pub replacement: f64,
    /// The share of inputs that are not errors, over all directions and logits by their influence: circuit-tracer's completeness
    /// score.
    pub completeness: f64,
    /// What is to be known of it: what is linearised, what cannot reach what.
    pub notes: Vec<String>,
    /// How it was made.
    pub options: GraphOptions,
    rows: Vec<Row>,
}
