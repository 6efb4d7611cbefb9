//! An attribution graph as a reader sees it: what nodes are called, rows of tables, a sentence, a drawing, circuit-tracer's file.

use directrix_circuits::graph::{Check, Edge, Graph, HeadLook, Loading, Named, Node, Replacement, Via};
use directrix_lab::Opened;
use serde::Serialize;
use serde_json::Value;

use crate::figure::visible_token;
use crate::prompt_graph::{NodeNames, PromptGraph};
use crate::{Report, Result, Section};

/// A graph with all that it is told by.
pub struct GraphStory<'a> {
    opened: &'a Opened,
    of: &'a Replacement<'a>,
    graph: &'a Graph,
    raised: Vec<Option<u32>>,
}

/// A node of a graph as a row of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeRow {
    /// What it is called.
    pub node: String,
    /// `direction`, `error`, `head`, `token`, `position` or `logit`.
    pub kind: &'static str,
    /// Where it is.
    pub position: usize,
    /// The token there.
    pub token: String,
    /// A direction's activation, a logit's probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<f64>,
    /// The share of the explained logits that goes through it.
    pub influence: f64,
    /// The share of all influence that it and the more influential nodes have.
    pub cumulative: f64,
    /// The token that a direction raises most.
    pub raises: String,
    /// What its inputs sum to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Of that, the edges that were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<f64>,
    /// The edges that were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<f64>,
    /// And what no node adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<f64>,
}

/// An edge as a row of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EdgeRow {
    /// The node that adds.
    pub source: String,
    /// The node that it adds to.
    pub target: String,
    /// How much.
    pub weight: f32,
    /// The share of the explained logits that goes along it.
    pub influence: f64,
}

/// A part of an edge as a row of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadingRow {
    /// The node that adds.
    pub source: String,
    /// The node that it adds to.
    pub target: String,
    /// `direct`, or the last head on the way.
    pub via: String,
    /// How much that way.
    pub weight: f32,
    /// How much in all.
    pub edge: f32,
}

/// A check as a row of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckRow {
    /// The direction that is ablated.
    pub source: String,
    /// What is looked at.
    pub target: String,
    /// What the source adds directly.
    pub direct: f64,
    /// What it adds over all paths.
    pub predicted: f64,
    /// By how much the target falls when it is ablated.
    pub measured: f64,
}

/// A part of a head's score as a row of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LookRow {
    /// What is in the query.
    pub query: String,
    /// What is in the key.
    pub key: String,
    /// What the two add to the score.
    pub weight: f64,
}

impl<'a> GraphStory<'a> {
    /// The story of a graph; `opened` has the SAEs it was made with, in their order.
    ///
    /// # Errors
    /// As [`Replacement::raised`].
    pub fn of(opened: &'a Opened, of: &'a Replacement<'a>, graph: &'a Graph) -> Result<GraphStory<'a>> {
        Ok(GraphStory { opened, of, graph, raised: of.raised(graph)? })
    }

    /// What a node is called.
    pub fn name(&self, node: &Node) -> String {
        let there = |position: usize| {
            let token = self.graph.tokens.get(position).map(|token| self.opened.token(*token)).unwrap_or_default();
            format!("at {position} ({})", visible_token(&token))
        };
        let sae = |sae: usize| self.opened.saes[sae].short_name();
        match *node {
            Node::Direction { sae: s, direction, position } => format!("{} {direction} {}", sae(s), there(position)),
            Node::Error { sae: s, position } => format!("error of {} {}", sae(s), there(position)),
            Node::Head { layer, head, position } => format!("L{layer}H{head} {}", there(position)),
            Node::Token { position, .. } => format!("token {}", there(position)),
            Node::Position { position } => format!("position {position}"),
            Node::Logit { token, .. } => format!("logit of {}", visible_token(&self.opened.token(token))),
        }
    }

    fn name_of(&self, node: usize) -> String {
        self.name(&self.graph.nodes[node].node)
    }

    /// The nodes, the most influential first, logits before all.
    pub fn nodes(&self) -> Vec<NodeRow> {
        let explained = self.explained();
        let row = |number: usize| {
            let of = &self.graph.nodes[number];
            let kind = match of.node {
                Node::Direction { .. } => "direction",
                Node::Error { .. } => "error",
                Node::Head { .. } => "head",
                Node::Token { .. } => "token",
                Node::Position { .. } => "position",
                Node::Logit { .. } => "logit",
            };
            let position = of.node.position();
            NodeRow {
                node: self.name(&of.node),
                kind,
                position,
                token: self.opened.token(self.graph.tokens[position]),
                activation: of.activation,
                influence: of.influence / explained,
                cumulative: of.cumulative,
                raises: self.raised[number].map(|token| self.opened.token(token)).unwrap_or_default(),
                value: of.inputs.map(|inputs| inputs.value),
                kept: of.inputs.map(|inputs| inputs.kept),
                left_out: of.inputs.map(|inputs| inputs.left_out),
                constant: of.inputs.map(|inputs| inputs.constant),
            }
        };
        let is_logit = |number: &usize| matches!(self.graph.nodes[*number].node, Node::Logit { .. });
        let (logits, mut others): (Vec<usize>, Vec<usize>) = (0..self.graph.nodes.len()).partition(is_logit);
        others.sort_by(|a, b| self.graph.nodes[*b].influence.total_cmp(&self.graph.nodes[*a].influence));
        logits.into_iter().chain(others).map(row).collect()
    }

    /// What the influence of the explained logits sums to.
    fn explained(&self) -> f64 {
        let logits = self.graph.nodes.iter().filter(|node| matches!(node.node, Node::Logit { .. }));
        logits.map(|node| node.influence).sum()
    }

    /// The edges, the most influential first.
    pub fn edges(&self) -> Vec<EdgeRow> {
        let explained = self.explained();
        let mut edges = self.graph.edges.clone();
        edges.sort_by(|a, b| b.influence.total_cmp(&a.influence));
        let row = |edge: Edge| EdgeRow {
            source: self.name_of(edge.source),
            target: self.name_of(edge.target),
            weight: edge.weight,
            influence: edge.influence / explained,
        };
        edges.into_iter().map(row).collect()
    }

    /// Parts of edges, those of the most influential edge first, and of each the largest.
    pub fn loadings(&self, loadings: &[Loading]) -> Vec<LoadingRow> {
        let mut loadings = loadings.to_vec();
        let by = |loading: &Loading| self.graph.edges[loading.edge].influence;
        loadings.sort_by(|a, b| {
            by(b).total_cmp(&by(a)).then(a.edge.cmp(&b.edge)).then(b.weight.abs().total_cmp(&a.weight.abs()))
        });
        let row = |Loading { edge, via, weight }: Loading| {
            let of = self.graph.edges[edge];
            let (source, target, via) = (self.name_of(of.source), self.name_of(of.target), via.to_string());
            LoadingRow { source, target, via, weight, edge: of.weight }
        };
        loadings.into_iter().map(row).collect()
    }

    /// What ablations did beside what the graph says.
    pub fn checks(&self, checks: &[Check]) -> Vec<CheckRow> {
        let row = |check: &Check| CheckRow {
            source: self.name_of(check.source),
            target: self.name_of(check.target),
            direct: check.direct,
            predicted: check.predicted,
            measured: check.measured,
        };
        checks.iter().map(row).collect()
    }

    /// The `k` largest parts of a head's score, what the others add, and the score.
    pub fn look(&self, look: &HeadLook, k: usize) -> Vec<LookRow> {
        let name = |node: Option<Node>| node.map_or_else(|| "biases".into(), |node| self.name(&node));
        let (terms, others) = look.terms(k);
        let rows = terms.into_iter().map(|term| LookRow {
            query: name(term.query),
            key: name(term.key),
            weight: f64::from(term.weight),
        });
        let all = |what: &str, weight: f64| LookRow { query: what.into(), key: what.into(), weight };
        rows.chain([all("all others", others), all("the score", look.score)]).collect()
    }

    /// What a head looks at and how much, in a sentence.
    pub fn look_caption(&self, look: &HeadLook) -> String {
        let token = |position: usize| visible_token(&self.opened.token(self.graph.tokens[position]));
        format!(
            "Why head {} looks from position {} ({}) at {} ({}), with {:.1} % of its attention there: its score before the softmax, {:.3}, as a sum \
             over what is in the query and what is in the key.",
            Via::Head { layer: look.layer, head: look.head },
            look.query,
            token(look.query),
            look.key,
            token(look.key),
            100.0 * look.attention,
            look.score
        )
    }

    /// What the graph is of and how much of it there is, in a sentence or two.
    pub fn summary(&self) -> String {
        let (answer, probability) = self.graph.answer;
        let (active, _) = self.graph.directions;
        let directions = self.graph.nodes.iter().filter(|node| matches!(node.node, Node::Direction { .. })).count();
        let has_heads = self.graph.nodes.iter().any(|node| matches!(node.node, Node::Head { .. }));
        format!(
            "What makes {} follow (probability {probability:.3}): {} nodes, among them {directions} of {active} active directions, and {} edges. \
             Of the influence of what has no inputs, {:.0} % is the embeddings', the rest {} (replacement score); of inputs, by influence, \
             {:.0} % are no errors (completeness score).",
            visible_token(&self.opened.token(answer)),
            self.graph.nodes.len(),
            self.graph.edges.len(),
            100.0 * self.graph.replacement,
            if has_heads { "errors' and heads'" } else { "errors'" },
            100.0 * self.graph.completeness
        )
    }

    /// The drawing.
    pub fn drawing(&self, name: &str) -> PromptGraph {
        let token = |token: u32| self.opened.token(token);
        let names = NodeNames { saes: self.opened.saes.iter().collect(), token: &token, raised: &self.raised };
        let title = format!("What makes {} follow", visible_token(&self.opened.token(self.graph.answer.0)));
        let caption = "Nodes by layer, from the embeddings up, and by position. An edge is what a node adds to the activation or logit of another \
                       directly; the most influential ones are drawn, all of them of the node that is pointed at. Directions have their numbers; \
                       an error is what its SAE's reconstruction misses.";
        PromptGraph::of(name, &title, caption, self.graph, &names)
    }

    /// The prompt as text, and a short name of it.
    pub fn prompt(&self) -> (String, String) {
        let text: String = self.opened.pieces(&self.graph.tokens, |_| true).concat();
        let bos = self.opened.bos.map(|bos| self.opened.token(bos)).unwrap_or_default();
        let words: Vec<String> = text
            .strip_prefix(&bos)
            .unwrap_or(&text)
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty() && word.is_ascii())
            .map(str::to_ascii_lowercase)
            .collect();
        let slug: String = words[words.len().saturating_sub(6)..].join("-").chars().take(60).collect();
        (text, if slug.is_empty() { "graph".into() } else { slug })
    }

    /// The graph as circuit-tracer writes it, under the prompt's short name.
    pub fn to_json(&self) -> Value {
        let (text, slug) = self.prompt();
        let token = |token: u32| self.opened.token(token);
        let label = |sae: usize, direction: u32| {
            let is = |node: &Node| matches!(*node, Node::Direction { sae: s, direction: d, .. } if (s, d) == (sae, direction));
            let raised = self.graph.nodes.iter().position(|node| is(&node.node)).and_then(|number| self.raised[number]);
            raised.map_or_else(String::new, |token| format!("raises {}", visible_token(&self.opened.token(token))))
        };
        let named = Named { slug: &slug, model: self.opened.model_name(), prompt: &text, token: &token, label: &label };
        self.of.to_json(self.graph, &named)
    }

    /// One page with these sections.
    pub fn page(&self, sections: Vec<Section>) -> Report {
        let (text, _) = self.prompt();
        Report {
            title: format!("What makes {} follow", visible_token(&self.opened.token(self.graph.answer.0))),
            lead: format!("The prompt: {text}"),
            corpus: String::new(),
            facts: Vec::new(),
            sections,
            footer: format!("Directrix {}; model {}.", env!("CARGO_PKG_VERSION"), self.opened.wanted.model),
            saes: (0, self.opened.saes.len()),
            files: Vec::new(),
        }
    }

    /// What is to be known of the graph.
    pub fn notes(&self) -> &[String] {
        &self.graph.notes
    }
}
