//! Attribution graphs of one prompt.

use directrix_circuits::graph::{Graph, GraphOptions, HeadLook, Named, Node, Replacement, Via};
use directrix_corpus as corpus;
use directrix_sae as sae;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Serialize;

use super::{Token, fitted, one};
use crate::error::{Failure, Result};
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::Sae;
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(prompt_graph, module)?)
}

#[derive(Serialize)]
struct NodeRow {
    node: usize,
    label: String,
    kind: &'static str,
    sae: String,
    direction: Option<u32>,
    layer: Option<usize>,
    head: Option<usize>,
    position: usize,
    token: u32,
    token_text: String,
    activation: Option<f64>,
    influence: f64,
    cumulative: f64,
    raises: Option<u32>,
    raises_text: String,
    value: Option<f64>,
    kept: Option<f64>,
    left_out: Option<f64>,
    constant: Option<f64>,
}

#[derive(Serialize)]
struct EdgeRow {
    edge: usize,
    source: usize,
    target: usize,
    source_label: String,
    target_label: String,
    weight: f32,
    influence: f64,
}

#[derive(Serialize)]
struct LoadingRow {
    edge: usize,
    source: usize,
    target: usize,
    via: String,
    weight: f32,
}

#[derive(Serialize)]
struct CheckRow {
    source: usize,
    target: usize,
    source_label: String,
    target_label: String,
    direct: f64,
    predicted: f64,
    measured: f64,
}

#[derive(Serialize)]
struct LookRow {
    query: String,
    key: String,
    weight: f64,
}

/// A graph with what it is told by.
struct Told<'a> {
    model: &'a Model,
    saes: &'a [sae::Sae],
    graph: Graph,
    raised: Vec<Option<u32>>,
}

/// All that is found of a graph.
struct Found {
    nodes: Table,
    edges: Table,
    heads: Table,
    checks: Table,
    look: Table,
    json: String,
    notes: Vec<String>,
    summary: [f64; 3],
}

/// The head, and between which positions it is looked at.
type Pair = (usize, usize, Option<(usize, usize)>);

#[pyfunction]
#[pyo3(signature = (
    model, saes, prompt, answer, logits, probability, max_directions, node_threshold, edge_threshold, head_nodes, heads, check, look, terms,
    slug
))]
fn prompt_graph<'py>(
    py: Python<'py>,
    model: &Model,
    saes: Vec<PyRef<Sae>>,
    prompt: &Prompts,
    answer: Option<Token>,
    logits: usize,
    probability: f64,
    max_directions: usize,
    node_threshold: f64,
    edge_threshold: f64,
    head_nodes: bool,
    heads: bool,
    check: usize,
    look: Option<Pair>,
    terms: usize,
    slug: &str,
) -> Result<Bound<'py, PyDict>> {
    let (saes, tokens) = (fitted(model, &saes)?, one(prompt)?);
    let (tokens, answer) = match (answer, tokens) {
        (Some(answer), tokens) => (tokens, answer.of(model.tokenizer.as_ref())?),
        (None, [before @ .., answer]) if !before.is_empty() => (before, *answer),
        _ => {
            let problem = "the prompt has no position before its last token, which would be the answer; give a longer one, or an answer";
            return Err(Failure::argument(problem));
        }
    };
    for (name, share) in
        [("probability", probability), ("node_threshold", node_threshold), ("edge_threshold", edge_threshold)]
    {
        if !(0.0..=1.0).contains(&share) {
            return Err(Failure::argument(format!("`{name}` is {share}; give 0 to 1")));
        }
    }
    if heads && head_nodes {
        return Err(Failure::argument("where heads are nodes, edges are not split over heads; leave one out"));
    }
    let options = GraphOptions { logits, probability, max_directions, node_threshold, edge_threshold };
    let found = watched(py, |watch| {
        let of = Replacement::of(&model.model, saes.iter().collect(), tokens, head_nodes, watch)?;
        let graph = of.graph(answer, options)?;
        let raised = of.raised(&graph)?;
        let told = Told { model, saes: &saes, graph, raised };
        let look = look.map(|(layer, head, at)| {
            let (query, key) = at.map_or((tokens.len() - 1, None), |(query, key)| (query, Some(key)));
            of.look(layer, head, query, key)
        });
        let look = look.transpose()?;
        Ok::<_, Failure>(Found {
            nodes: told.nodes(),
            edges: told.edges(),
            heads: told.heads(&of, heads)?,
            checks: told.checks(&of, check)?,
            look: told.look(look.as_ref(), terms),
            json: told.json(&of, slug),
            notes: told.graph.notes.clone(),
            summary: [told.graph.answer.1, told.graph.replacement, told.graph.completeness],
        })
    })?;
    let result = PyDict::new(py);
    for (name, table) in [
        ("nodes", found.nodes),
        ("edges", found.edges),
        ("heads", found.heads),
        ("checks", found.checks),
        ("look", found.look),
    ] {
        result.set_item(name, Bound::new(py, table)?)?;
    }
    result.set_item("json", found.json)?;
    result.set_item("notes", found.notes)?;
    result.set_item("answer", answer)?;
    for (name, number) in ["probability", "replacement", "completeness"].into_iter().zip(found.summary) {
        result.set_item(name, number)?;
    }
    Ok(result)
}

impl Told<'_> {
    /// What a node is called.
    fn label(&self, node: &Node) -> String {
        let there = |position: usize| {
            let token = self.graph.tokens.get(position).map(|token| self.model.token(*token)).unwrap_or_default();
            format!("at {position} ({token})")
        };
        let sae = |sae: usize| self.saes[sae].short_name();
        match *node {
            Node::Direction { sae: of, direction, position } => format!("{} {direction} {}", sae(of), there(position)),
            Node::Error { sae: of, position } => format!("error of {} {}", sae(of), there(position)),
            Node::Head { layer, head, position } => format!("L{layer}H{head} {}", there(position)),
            Node::Token { position, .. } => format!("token {}", there(position)),
            Node::Position { position } => format!("position {position}"),
            Node::Logit { token, .. } => format!("logit of {}", self.model.token(token)),
        }
    }

    fn label_of(&self, node: usize) -> String {
        self.label(&self.graph.nodes[node].node)
    }

    /// What the influence of the explained logits sums to.
    fn explained(&self) -> f64 {
        let logits = self.graph.nodes.iter().filter(|node| matches!(node.node, Node::Logit { .. }));
        logits.map(|node| node.influence).sum()
    }

    fn nodes(&self) -> Table {
        let explained = self.explained();
        let row = |(number, of): (usize, &directrix_circuits::graph::GraphNode)| {
            let position = of.node.position();
            let (mut sae, mut direction, mut layer, mut head) = (String::new(), None, None, None);
            let mut token = self.graph.tokens[position];
            let kind = match of.node {
                Node::Direction { sae: of, direction: d, .. } => {
                    (sae, direction) = (self.saes[of].short_name().into(), Some(d));
                    "direction"
                }
                Node::Error { sae: of, .. } => {
                    sae = self.saes[of].short_name().into();
                    "error"
                }
                Node::Head { layer: l, head: h, .. } => {
                    (layer, head) = (Some(l), Some(h));
                    "head"
                }
                Node::Token { .. } => "token",
                Node::Position { .. } => "position",
                Node::Logit { token: of, .. } => {
                    token = of;
                    "logit"
                }
            };
            let raises = self.raised[number];
            NodeRow {
                node: number,
                label: self.label(&of.node),
                kind,
                sae,
                direction,
                layer,
                head,
                position,
                token,
                token_text: self.model.token(token),
                activation: of.activation,
                influence: of.influence / explained,
                cumulative: of.cumulative,
                raises,
                raises_text: raises.map(|token| self.model.token(token)).unwrap_or_default(),
                value: of.inputs.map(|inputs| inputs.value),
                kept: of.inputs.map(|inputs| inputs.kept),
                left_out: of.inputs.map(|inputs| inputs.left_out),
                constant: of.inputs.map(|inputs| inputs.constant),
            }
        };
        let mut rows: Vec<NodeRow> = self.graph.nodes.iter().enumerate().map(row).collect();
        rows.sort_by(|a, b| (b.kind == "logit").cmp(&(a.kind == "logit")).then(b.influence.total_cmp(&a.influence)));
        let caption = "The nodes, by number; token: that at its position, of a logit its own. Influence is the share of the explained logits that goes \
                       through a node, by absolute weights; cumulative: the share of all influence that it and the more influential ones have. \
                       Activation: a direction's, or a logit's probability. Value: what its inputs sum to, kept and left-out edges and the constant";
        Table::of("nodes", caption, &rows)
    }

    fn edges(&self) -> Table {
        let explained = self.explained();
        let row = |(number, edge): (usize, &directrix_circuits::graph::Edge)| EdgeRow {
            edge: number,
            source: edge.source,
            target: edge.target,
            source_label: self.label_of(edge.source),
            target_label: self.label_of(edge.target),
            weight: edge.weight,
            influence: edge.influence / explained,
        };
        let mut rows: Vec<EdgeRow> = self.graph.edges.iter().enumerate().map(row).collect();
        rows.sort_by(|a, b| b.influence.total_cmp(&a.influence));
        Table::of(
            "edges",
            "The edges: what a node adds to the activation or logit of another directly; most influential first",
            &rows,
        )
    }

    fn heads(&self, of: &Replacement, wanted: bool) -> Result<Table> {
        let mut loadings = if wanted { of.loadings(&self.graph)? } else { Vec::new() };
        let by = |edge: usize| self.graph.edges[edge].influence;
        loadings.sort_by(|a, b| {
            by(b.edge).total_cmp(&by(a.edge)).then(a.edge.cmp(&b.edge)).then(b.weight.abs().total_cmp(&a.weight.abs()))
        });
        let row = |of: &directrix_circuits::graph::Loading| {
            let edge = self.graph.edges[of.edge];
            LoadingRow {
                edge: of.edge,
                source: edge.source,
                target: edge.target,
                via: of.via.to_string(),
                weight: of.weight,
            }
        };
        let rows: Vec<LoadingRow> = loadings.iter().map(row).collect();
        let caption = "Each edge by the last head that its paths pass, or none; the parts of an edge sum to it";
        Ok(Table::of("edge-heads", caption, &rows))
    }

    fn checks(&self, of: &Replacement, n: usize) -> Result<Table> {
        let checks = if n > 0 { of.checks(&self.graph, n)? } else { Vec::new() };
        let row = |check: &directrix_circuits::graph::Check| CheckRow {
            source: check.source,
            target: check.target,
            source_label: self.label_of(check.source),
            target_label: self.label_of(check.target),
            direct: check.direct,
            predicted: check.predicted,
            measured: check.measured,
        };
        let rows: Vec<CheckRow> = checks.iter().map(row).collect();
        let caption = "What ablating a direction takes from the answer's logit (less the mean logit) or another's activation: directly and over all \
                       paths, as the graph says, and measured in the model";
        Ok(Table::of("checks", caption, &rows))
    }

    fn look(&self, look: Option<&HeadLook>, k: usize) -> Table {
        let Some(look) = look else { return Table::of::<LookRow>("look", "No head was looked into", &[]) };
        let name = |node: Option<Node>| node.map_or_else(|| "biases".into(), |node| self.label(&node));
        let (terms, others) = look.terms(k);
        let all = |what: &str, weight: f64| LookRow { query: what.into(), key: what.into(), weight };
        let row = |term: directrix_circuits::graph::LookTerm| LookRow {
            query: name(term.query),
            key: name(term.key),
            weight: f64::from(term.weight),
        };
        let rows: Vec<LookRow> =
            terms.into_iter().map(row).chain([all("all others", others), all("the score", look.score)]).collect();
        let caption = format!(
            "Why head {} looks from position {} at {}, with {:.1} % of its attention there: its score before the softmax, {:.3}, as a sum over what \
             is in the query and what is in the key",
            Via::Head { layer: look.layer, head: look.head },
            look.query,
            look.key,
            100.0 * look.attention,
            look.score
        );
        Table::of("look", &caption, &rows)
    }

    /// As circuit-tracer writes it.
    fn json(&self, of: &Replacement, slug: &str) -> String {
        let prompt = corpus::pieces(self.model.tokenizer.as_ref(), &self.graph.tokens, |_| true).concat();
        let token = |token: u32| self.model.token(token);
        let label = |sae: usize, direction: u32| {
            let is = |node: &Node| matches!(*node, Node::Direction { sae: s, direction: d, .. } if (s, d) == (sae, direction));
            let raised = self.graph.nodes.iter().position(|node| is(&node.node)).and_then(|number| self.raised[number]);
            raised.map_or_else(String::new, |token| format!("raises {}", self.model.token(token)))
        };
        let named = Named { slug, model: &self.model.name, prompt: &prompt, token: &token, label: &label };
        of.to_json(&self.graph, &named).to_string()
    }
}
