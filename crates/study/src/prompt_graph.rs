//! The drawing of an attribution graph: nodes by layer from below and by position from the left, edges between them.
//!
//! It is laid out once, here, as SVG. In a report its colours are the page's, and its script (`prompt_graph.js`) answers to what is pointed at;
//! as a file it has the light ones.

use std::collections::BTreeMap;
use std::fmt::Write;

use directrix_circuits::graph::{Edge, Graph, Node};
use directrix_corpus::one_line;
use directrix_model::{BlockHook, HookPoint};
use directrix_sae::Sae;
use serde::Serialize;
use serde_json::{Value, json};

use crate::chart::shortened;
use crate::figure::visible_token;
use crate::palette::LIGHT;

/// Pixels: a node's height, the space between nodes, a character's width.
const HIGH: f64 = 18.0;
const GAP: f64 = 4.0;
const CHARACTER: f64 = 6.3;
/// Between the rows of two layers.
const BETWEEN: f64 = 64.0;
/// What the names of the rows take.
const GUTTER: f64 = 96.0;
/// Where positions without nodes are left out.
const LEFT_OUT: f64 = 18.0;
/// Edges that are drawn before a node is pointed at: the most influential ones.
const DRAWN: usize = 300;

/// An attribution graph to be looked through in a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptGraph {
    /// Identifier, used as anchor and file name: lower case words joined by `-`.
    pub name: String,
    /// Headline.
    pub title: String,
    /// What is shown, in a sentence.
    pub caption: String,
    #[serde(skip)]
    nodes: Vec<Drawn>,
    /// Source, target, weight, influence.
    #[serde(skip)]
    edges: Vec<(usize, usize, f32, f64)>,
    #[serde(skip)]
    rows: Vec<Row>,
    /// Where positions are left out.
    #[serde(skip)]
    breaks: Vec<f64>,
    #[serde(skip)]
    size: (f64, f64),
}

/// A node where it is drawn.
#[derive(Debug, Clone, PartialEq)]
struct Drawn {
    kind: &'static str,
    /// What is written on it.
    text: String,
    /// What it is, in a line.
    title: String,
    /// What is said of it: name and value.
    facts: Vec<(&'static str, String)>,
    /// Where it leads to in a report with a browser.
    link: Option<String>,
    /// Its middle, and its width.
    at: (f64, f64),
    width: f64,
}

/// The nodes of one kind and layer.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    name: String,
    top: f64,
    height: f64,
}

/// What the drawing needs to say what a node is.
pub struct NodeNames<'a> {
    /// The SAEs of the graph.
    pub saes: Vec<&'a Sae>,
    /// The text of a token.
    pub token: &'a dyn Fn(u32) -> String,
    /// Of each node, the token whose logit it raises most.
    pub raised: &'a [Option<u32>],
}

impl PromptGraph {
    /// The drawing of a graph.
    pub fn of(name: &str, title: &str, caption: &str, graph: &Graph, names: &NodeNames) -> PromptGraph {
        let order = Order::of(graph, &names.saes);
        let mut linked = vec![false; graph.nodes.len()];
        graph.edges.iter().for_each(|edge| [edge.source, edge.target].into_iter().for_each(|node| linked[node] = true));
        // Tokens are always kept; they are drawn where something else is, too.
        let is_token = |node: usize| matches!(graph.nodes[node].node, Node::Token { .. });
        let mut columns: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
        let shown: Vec<usize> = (0..graph.nodes.len()).filter(|node| linked[*node] || !is_token(*node)).collect();
        for &node in &shown {
            let (position, row) = (graph.nodes[node].node.position(), order.row(&graph.nodes[node].node));
            columns.entry(position).or_default().entry(row).or_default().push(node);
        }
        for node in (0..graph.nodes.len()).filter(|node| is_token(*node) && !linked[*node]) {
            if let Some(column) = columns.get_mut(&graph.nodes[node].node.position()) {
                column.entry(0).or_default().insert(0, node);
            }
        }

        let mut nodes: Vec<Drawn> = (0..graph.nodes.len()).map(|node| drawn(graph, node, names)).collect();
        let mut heights = vec![HIGH; order.names.len()];
        let mut placed: Vec<(usize, usize, f64, f64)> = Vec::new();
        let (mut x, mut breaks, mut before) = (GUTTER, Vec::new(), None);
        for (position, rows) in &columns {
            if before.map_or(*position > 0, |before: usize| before + 1 < *position) {
                breaks.push(x + LEFT_OUT / 2.0);
                x += LEFT_OUT;
            }
            before = Some(*position);
            let cells: Vec<(usize, Vec<Vec<usize>>)> = rows.iter().map(|(row, of)| (*row, lines(of, &nodes))).collect();
            let wide = |line: &Vec<usize>| line.iter().map(|node| nodes[*node].width + GAP).sum::<f64>() - GAP;
            let width = cells.iter().flat_map(|(_, lines)| lines).map(wide).fold(0.0, f64::max);
            for (row, lines) in &cells {
                heights[*row] = heights[*row].max(lines.len() as f64 * (HIGH + GAP) - GAP);
                for (number, line) in lines.iter().enumerate() {
                    let mut left = x + (width - wide(line)) / 2.0;
                    for &node in line {
                        placed.push((
                            node,
                            *row,
                            left + nodes[node].width / 2.0,
                            number as f64 * (HIGH + GAP) + HIGH / 2.0,
                        ));
                        left += nodes[node].width + GAP;
                    }
                }
            }
            x += width + 3.0 * GAP;
        }
        // Logits are on top.
        let (mut y, mut tops) = (HIGH, vec![0.0; heights.len()]);
        for row in (0..heights.len()).rev() {
            tops[row] = y;
            y += heights[row] + BETWEEN;
        }
        for (node, row, middle, below) in placed {
            nodes[node].at = (middle, tops[row] + below);
        }
        let row = |(row, name): (usize, &String)| Row { name: name.clone(), top: tops[row], height: heights[row] };
        let rows = order.names.iter().enumerate().map(row).collect();
        let edge = |edge: &Edge| (edge.source, edge.target, edge.weight, edge.influence);
        PromptGraph {
            name: name.into(),
            title: title.into(),
            caption: caption.into(),
            nodes,
            edges: graph.edges.iter().map(edge).collect(),
            rows,
            breaks,
            size: (x + GAP, y - BETWEEN + HIGH),
        }
    }

    /// The drawing as a file of its own, light.
    pub fn to_svg(&self) -> String {
        let page = &LIGHT.page;
        let colours = [
            ("--ink", page.ink),
            ("--soft", page.soft),
            ("--faint", page.faint),
            ("--line", page.line),
            ("--raised", page.raised),
            ("--hover", page.hover),
            ("--positive", LIGHT.series[0]),
            ("--negative", LIGHT.series[1]),
        ];
        let colours: Vec<String> = colours.iter().map(|(name, colour)| format!("{name}: {colour};")).collect();
        let style = format!("<style>svg {{ {} background: {}; }}{STYLE}</style>", colours.join(" "), page.page);
        let content = format!("{style}<title>{}</title>{}{}", escaped(&self.title), self.marks(), self.names());
        self.svg("class=\"graph-drawing\" xmlns=\"http://www.w3.org/2000/svg\"", self.size.0, &content)
    }

    /// The drawing within a page: the names of the rows, which stay where they are, and what is moved under them.
    pub fn inline(&self) -> String {
        let behind = format!("<rect class=\"behind\" width=\"{GUTTER}\" height=\"{:.0}\"/>", self.size.1);
        let names = self.svg("class=\"graph-drawing graph-rows\"", GUTTER, &(behind + &self.names()));
        let named = format!("role=\"img\" aria-label=\"{}\"", escaped(&self.title));
        names + &self.svg(&format!("class=\"graph-drawing graph-marks\" {named}"), self.size.0, &self.marks())
    }

    fn svg(&self, attributes: &str, width: f64, content: &str) -> String {
        let height = self.size.1;
        let size = format!("width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\"");
        format!("<svg {attributes} {size}>{content}</svg>\n")
    }

    /// The names of the rows.
    fn names(&self) -> String {
        let most = (GUTTER / CHARACTER) as usize - 1;
        let name = |row: &Row| {
            let text: String = row.name.chars().take(most).collect();
            let middle = row.top + row.height / 2.0 + 4.0;
            format!("<text class=\"row\" x=\"8\" y=\"{middle:.1}\">{}</text>", escaped(&text))
        };
        self.rows.iter().map(name).collect()
    }

    /// What a page's script reads.
    pub fn data(&self) -> Value {
        let node =
            |node: &Drawn| json!([node.title, node.facts, node.link, node.at.0.round(), node.at.1.round(), node.kind]);
        let edge = |edge: &(usize, usize, f32, f64)| json!([edge.0, edge.1, edge.2]);
        json!({
            "nodes": self.nodes.iter().map(node).collect::<Vec<_>>(),
            "edges": self.edges.iter().map(edge).collect::<Vec<_>>(),
            "most": self.edges.iter().map(|edge| edge.2.abs()).fold(0.0, f32::max),
            "height": HIGH,
        })
    }

    fn marks(&self) -> String {
        let mut svg = String::new();
        let right = self.size.0;
        for row in &self.rows {
            let (top, height) = (row.top - GAP, row.height + 2.0 * GAP);
            put(
                &mut svg,
                format_args!(
                    "<rect class=\"band\" x=\"0\" y=\"{top:.1}\" width=\"{right:.1}\" height=\"{height:.1}\"/>"
                ),
            );
        }
        for x in &self.breaks {
            let y = self.rows.first().map_or(0.0, |row| row.top + HIGH - 4.0);
            put(&mut svg, format_args!("<text class=\"break\" x=\"{x:.1}\" y=\"{y:.1}\">…</text>"));
        }
        let mut edges: Vec<&(usize, usize, f32, f64)> = self.edges.iter().collect();
        edges.sort_by(|a, b| b.3.total_cmp(&a.3).then((a.0, a.1).cmp(&(b.0, b.1))));
        edges.truncate(DRAWN);
        let most = edges.first().map_or(1.0, |edge| edge.3);
        svg.push_str("<g class=\"edges\">");
        for &&(source, target, weight, influence) in edges.iter().rev() {
            let share = (influence / most).sqrt();
            let sign = if weight < 0.0 { " negative" } else { "" };
            let path = self.path(source, target);
            let (width, opacity) = (0.5 + 3.0 * share, 0.12 + 0.5 * share);
            put(
                &mut svg,
                format_args!(
                    "<path class=\"edge{sign}\" d=\"{path}\" stroke-width=\"{width:.2}\" opacity=\"{opacity:.2}\"/>"
                ),
            );
        }
        svg.push_str("</g><g class=\"chosen\"></g>");
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.at.1 > 0.0) {
            let (left, top) = (node.at.0 - node.width / 2.0, node.at.1 - HIGH / 2.0);
            let round = if node.kind == "direction" { HIGH / 2.0 } else { 3.0 };
            put(
                &mut svg,
                format_args!(
                    "<g class=\"node {}\" data-node=\"{number}\"><title>{}</title><rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{HIGH}\" rx=\"{round}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
                    node.kind,
                    escaped(&node.title),
                    node.width,
                    node.at.0,
                    node.at.1 + 3.5,
                    escaped(&node.text)
                ),
            );
        }
        svg
    }

    fn path(&self, source: usize, target: usize) -> String {
        let ((x, y), (to_x, to_y)) = (self.nodes[source].at, self.nodes[target].at);
        let (y, to_y) = (y - HIGH / 2.0, to_y + HIGH / 2.0);
        let middle = f64::midpoint(y, to_y);
        format!("M{x:.1} {y:.1}C{x:.1} {middle:.1} {to_x:.1} {middle:.1} {to_x:.1} {to_y:.1}")
    }
}

/// How the marks look, by the colours of the page.
pub(crate) const STYLE: &str = "
.graph-drawing text { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: var(--ink); text-anchor: middle; }
.graph-drawing text.row { text-anchor: start; fill: var(--soft); font-family: system-ui, sans-serif; font-size: 11.5px; }
.graph-drawing text.break { fill: var(--faint); }
.graph-drawing .band { fill: var(--hover); opacity: .6; }
.graph-drawing .edge { fill: none; stroke: var(--positive); }
.graph-drawing .edge.negative { stroke: var(--negative); }
.graph-drawing .node rect { fill: var(--raised); stroke: var(--soft); }
.graph-drawing .node.error rect { stroke-dasharray: 3 2; stroke: var(--faint); }
.graph-drawing .node.error text { fill: var(--soft); }
.graph-drawing .node.token rect, .graph-drawing .node.position rect { stroke: var(--line); }
.graph-drawing .node.logit rect { stroke: var(--ink); stroke-width: 1.5; }
";

/// The rows of a drawing, from below.
struct Order {
    names: Vec<String>,
    places: BTreeMap<(usize, usize), usize>,
}

impl Order {
    fn of(graph: &Graph, saes: &[&Sae]) -> Order {
        // By where a row is written: embeddings, heads and SAEs as the model reaches them, logits.
        let mut found: BTreeMap<(HookPoint, usize, usize), String> = BTreeMap::new();
        found.insert((HookPoint::Embed, 0, 0), "embeddings".into());
        found.insert((HookPoint::UnembedOut, 3, 0), "logits".into());
        for node in &graph.nodes {
            let (key, name) = match node.node {
                Node::Head { layer, .. } => {
                    ((HookPoint::Block(layer, BlockHook::Z), 1, layer), format!("L{layer} heads"))
                }
                Node::Direction { sae, .. } | Node::Error { sae, .. } => {
                    let name = format!("L{} {}", saes[sae].site().writes.layer(), saes[sae].short_name());
                    ((saes[sae].site().writes.hook, 2, sae), name)
                }
                _ => continue,
            };
            found.insert(key, name);
        }
        let places = found.keys().enumerate().map(|(row, (_, kind, number))| ((*kind, *number), row)).collect();
        Order { names: found.into_values().collect(), places }
    }

    fn row(&self, node: &Node) -> usize {
        let key = match *node {
            Node::Token { .. } | Node::Position { .. } => (0, 0),
            Node::Head { layer, .. } => (1, layer),
            Node::Direction { sae, .. } | Node::Error { sae, .. } => (2, sae),
            Node::Logit { .. } => (3, 0),
        };
        self.places.get(&key).copied().unwrap_or(0)
    }
}

/// Nodes of one row and position in lines, about as wide as high.
fn lines(nodes: &[usize], drawn: &[Drawn]) -> Vec<Vec<usize>> {
    let area: f64 = nodes.iter().map(|node| (drawn[*node].width + GAP) * (HIGH + GAP)).sum();
    let most = (1.6 * area).sqrt();
    let mut lines: Vec<Vec<usize>> = Vec::new();
    let mut width = f64::INFINITY;
    for &node in nodes {
        if width + drawn[node].width > most {
            lines.push(Vec::new());
            width = 0.0;
        }
        width += drawn[node].width + GAP;
        if let Some(line) = lines.last_mut() {
            line.push(node);
        }
    }
    lines
}

fn drawn(graph: &Graph, number: usize, names: &NodeNames) -> Drawn {
    let of = &graph.nodes[number];
    let position = of.node.position();
    let at = |position: usize| {
        let token = graph.tokens.get(position).map(|token| (names.token)(*token)).unwrap_or_default();
        format!("at {position} ({})", visible_token(&token))
    };
    let number_of = |x: f64| format!("{x:.3}");
    let mut facts = Vec::new();
    let mut link = None;
    let (kind, text, title) = match of.node {
        Node::Direction { sae, direction, .. } => {
            facts.extend(of.activation.map(|activation| ("activation", number_of(activation))));
            let raised = names.raised[number].map(|token| visible_token(&(names.token)(token)));
            let raises = raised.map_or_else(String::new, |token| format!(", raises {token}"));
            link = Some(format!("direction/{sae}/{direction}"));
            let title = format!("{}, direction {direction} {}{raises}", names.saes[sae].short_name(), at(position));
            ("direction", direction.to_string(), title)
        }
        Node::Error { sae, .. } => {
            ("error", "error".into(), format!("error of {} {}", names.saes[sae].short_name(), at(position)))
        }
        Node::Head { layer, head, .. } => {
            ("head", format!("L{layer}H{head}"), format!("head L{layer}H{head} {}", at(position)))
        }
        Node::Token { token, .. } => (
            "token",
            shortened(&visible_token(&(names.token)(token))),
            format!("embedding of the token {}", at(position)),
        ),
        Node::Position { .. } => {
            ("position", format!("pos {position}"), format!("embedding of the position {position}"))
        }
        Node::Logit { token, .. } => {
            let (token, probability) = (visible_token(&(names.token)(token)), of.activation.unwrap_or_default());
            facts.push(("probability", number_of(probability)));
            let text = format!("{} {:.0} %", shortened(&token), 100.0 * probability);
            ("logit", text, format!("logit of {token}"))
        }
    };
    if !matches!(of.node, Node::Logit { .. }) {
        facts.push(("influence", format!("{:.2} %", 100.0 * share(graph, of.influence))));
    }
    if let Some(inputs) = of.inputs {
        facts.push(("value", number_of(inputs.value)));
        facts.push(("edges kept", number_of(inputs.kept)));
        facts.push(("left out", number_of(inputs.left_out)));
        facts.push(("constant", number_of(inputs.constant)));
    }
    let (text, title) = (one_line(&text), one_line(&title));
    let width = (text.chars().count() as f64 * CHARACTER + 12.0).max(22.0);
    Drawn { kind, text, title, facts, link, at: (0.0, 0.0), width }
}

/// Influence as a share of what the explained logits have.
fn share(graph: &Graph, influence: f64) -> f64 {
    let logits = graph.nodes.iter().filter(|node| matches!(node.node, Node::Logit { .. }));
    influence / logits.map(|node| node.influence).sum::<f64>()
}

fn put(svg: &mut String, part: std::fmt::Arguments) {
    svg.write_fmt(part).expect("a text can be made longer");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use directrix_circuits::graph::{GraphOptions, Replacement};
    use directrix_corpus::Watch;
    use directrix_lab::{Opened, Wanted};

    use super::*;
    use crate::graph_story::GraphStory;
    use crate::{Block, Section};

    fn opened() -> Opened {
        let saes = ["tinystories-2l/sae-l0", "tinystories-2l/sae-l1"].map(String::from).to_vec();
        Wanted { saes, ..Wanted::default() }.open().unwrap()
    }

    fn with_graph(text: &str, options: GraphOptions, see: impl FnOnce(&GraphStory, &Graph)) {
        let (opened, watch) = (opened(), Watch::nobody());
        let prompts = opened.prompts_of("text", &[text.into()]).unwrap().prompts;
        let (answer, before) = prompts.get(0).split_last().unwrap();
        let of = Replacement::of(&opened.model, opened.saes.iter().collect(), before, false, &watch).unwrap();
        let graph = of.graph(*answer, options).unwrap();
        see(&GraphStory::of(&opened, &of, &graph).unwrap(), &graph);
    }

    #[test]
    fn nodes_do_not_overlap_and_edges_lead_upwards() {
        let text = "One day, Tim saw a big dog. Tim said, \"I like it.\"";
        with_graph(text, GraphOptions { logits: 4, ..GraphOptions::default() }, |story, graph| {
            let drawing = story.drawing("graph");
            let shown: Vec<&Drawn> = drawing.nodes.iter().filter(|node| node.at.1 > 0.0).collect();
            assert!(shown.len() > 40 && shown.len() <= graph.nodes.len(), "{}", shown.len());
            for (number, node) in shown.iter().enumerate() {
                let (width, height) = drawing.size;
                let half = node.width / 2.0;
                assert!(node.at.0 - half >= GUTTER && node.at.0 + half <= width, "{node:?}");
                assert!(node.at.1 >= HIGH / 2.0 && node.at.1 + HIGH / 2.0 <= height, "{node:?}");
                for other in &shown[..number] {
                    let apart = (node.at.0 - other.at.0).abs() >= half + other.width / 2.0 + GAP - 1e-6
                        || (node.at.1 - other.at.1).abs() >= HIGH + GAP - 1e-6;
                    assert!(apart, "{node:?} {other:?}");
                }
            }
            for (source, target, ..) in &drawing.edges {
                let [from, to] = [source, target].map(|node| drawing.nodes[*node].at);
                assert!(from.1 > to.1 && from.0 > 0.0, "{from:?} {to:?}");
            }
            // Positions stand in their order.
            let mut middles: Vec<(usize, f64)> = graph
                .nodes
                .iter()
                .zip(&drawing.nodes)
                .filter(|(_, d)| d.kind == "token" && d.at.1 > 0.0)
                .map(|(n, d)| (n.node.position(), d.at.0))
                .collect();
            middles.sort_by_key(|(position, _)| *position);
            assert!(middles.is_sorted_by(|a, b| a.1 < b.1));
        });
    }

    #[test]
    fn what_a_token_is_cannot_become_markup() {
        let text = "Tim said, \"</script><svg onload='x'> & I like it.\"";
        with_graph(text, GraphOptions { node_threshold: 1.0, ..GraphOptions::default() }, |story, _| {
            let drawing = story.drawing("graph");
            let section = Section {
                name: "graph".into(),
                title: "The graph".into(),
                prose: vec![story.summary()],
                blocks: vec![Block::Graph(drawing.clone())],
            };
            let page = story.page(vec![section]).to_html().unwrap();
            assert!(page.contains("graph-drawing") && page.contains("prompt-graph") && !page.contains("onload='x'"));
            assert_eq!(page.matches("<svg").count(), 2);
            let data = page.split("application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["nodes"].as_array().unwrap().len(), drawing.nodes.len());
            let svg = drawing.to_svg();
            assert!(svg.starts_with("<svg class") && !svg.contains("var(--accent)"));
            for name in svg.split("var(").skip(1).filter_map(|rest| rest.split(')').next()) {
                assert!(svg.contains(&format!("{name}: #")), "{name}");
            }
        });
    }
}
