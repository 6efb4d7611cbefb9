//! Graphs as circuit-tracer's files.
//!
//! `SLUG.json` holds `metadata`, `qParams`, `nodes` and `links`; `graph-metadata.json` lists the metadata of all graphs in the folder.
//! circuit-tracer knows one SAE for each layer: of a second one in a layer, directions are numbered on from the first's.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Graph, GraphNode, Node, Replacement};

/// What a graph's file says that the graph does not know.
pub struct Named<'a> {
    /// The file's name without its end.
    pub slug: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// The prompt as text.
    pub prompt: &'a str,
    /// The text of a token.
    pub token: &'a dyn Fn(u32) -> String,
    /// What a direction is called (circuit-tracer's `clerp`), by the number of its SAE and its own.
    pub label: &'a dyn Fn(usize, u32) -> String,
}

impl Replacement<'_> {
    /// The graph as circuit-tracer writes it.
    pub fn to_json(&self, graph: &Graph, named: &Named) -> Value {
        let mut taken = BTreeSet::new();
        // Directions have their ids first: those of errors may be the same, and are then counted on.
        let mut ids = vec![String::new(); graph.nodes.len()];
        let is_error = |node: &GraphNode| matches!(node.node, Node::Error { .. });
        for errors in [false, true] {
            for (id, node) in ids.iter_mut().zip(&graph.nodes).filter(|(_, node)| is_error(node) == errors) {
                *id = self.ids(&node.node).find(|id| !taken.contains(id)).unwrap_or_default();
                taken.insert(id.clone());
            }
        }
        let nodes = graph.nodes.iter().zip(&ids).map(|(node, id)| self.node(graph, node, id, named));
        let link = |edge: &super::Edge| json!({ "source": ids[edge.source], "target": ids[edge.target], "weight": edge.weight });
        json!({
            "metadata": self.metadata(graph, named),
            "qParams": { "pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": "" },
            "nodes": nodes.collect::<Vec<Value>>(),
            "links": graph.edges.iter().map(link).collect::<Vec<Value>>(),
        })
    }

    fn metadata(&self, graph: &Graph, named: &Named) -> Value {
        let options = &graph.options;
        json!({
            "slug": named.slug,
            "scan": named.model,
            "transcoder_list": self.saes.iter().map(|sae| sae.name()).collect::<Vec<_>>(),
            "prompt_tokens": graph.tokens.iter().map(|token| (named.token)(*token)).collect::<Vec<_>>(),
            "prompt": named.prompt,
            "node_threshold": options.node_threshold,
            "schema_version": 1,
            "info": {
                "description": graph.notes.join(" "),
                "generator": { "name": "directrix", "version": env!("CARGO_PKG_VERSION") },
            },
            "generation_settings": {
                "max_n_logits": options.logits.max(1),
                "desired_logit_prob": options.probability,
                "batch_size": self.block(),
                "max_feature_nodes": options.max_directions,
            },
            "pruning_settings": { "node_threshold": options.node_threshold, "edge_threshold": options.edge_threshold },
            "replacement_score": graph.replacement,
            "completeness_score": graph.completeness,
        })
    }

    fn node(&self, graph: &Graph, of: &GraphNode, id: &str, named: &Named) -> Value {
        let (config, position) = (self.model.config(), of.node.position());
        let mut node = Map::new();
        let mut set = |key: &str, value: Value| drop(node.insert(key.into(), value));
        set("node_id", id.into());
        set("ctx_idx", position.into());
        set("run_idx", 0.into());
        set("reverse_ctx_idx", 0.into());
        set("token_prob", json!(0.0));
        set("is_target_logit", false.into());
        set("influence", of.cumulative.into());
        set("activation", Value::Null);
        let (layer, feature, kind, js, clerp) = match of.node {
            Node::Direction { sae, direction, .. } => {
                let (layer, number) = (self.layer(sae), self.number(sae, direction));
                set("activation", json!(of.activation));
                let (feature, js) = (json!(cantor(layer, number)), format!("{layer}_{number}-0"));
                (layer.to_string(), feature, "cross layer transcoder", js, (named.label)(sae, direction))
            }
            Node::Error { sae, .. } => {
                let layer = self.layer(sae).to_string();
                (layer.clone(), json!(-1), "mlp reconstruction error", format!("{layer}_{position}-0"), String::new())
            }
            Node::Head { layer, head, .. } => {
                let number = layer * config.attention.query_heads + head;
                let js = format!("H_{number}-{position}");
                (layer.to_string(), json!(number), "attention head", js, format!("L{layer}H{head}"))
            }
            Node::Token { token, .. } => {
                let clerp = format!("Emb: \"{}\"", (named.token)(token));
                ("E".into(), json!(position), "embedding", format!("E_{token}-{position}"), clerp)
            }
            Node::Position { .. } => {
                let number = config.d_vocab + position;
                (
                    "E".into(),
                    json!(number),
                    "position embedding",
                    format!("E_{number}-{position}"),
                    format!("Pos: {position}"),
                )
            }
            Node::Logit { token, .. } => {
                let probability = of.activation.unwrap_or_default();
                set("token_prob", probability.into());
                set("is_target_logit", (token == graph.answer.0).into());
                set("influence", Value::Null);
                let clerp = format!("Output \"{}\" (p={probability:.3})", (named.token)(token));
                let layer = (config.n_layers + 1).to_string();
                (layer, json!(token), "logit", format!("L_{token}-{position}"), clerp)
            }
        };
        let rest = [("layer", layer), ("feature_type", kind.into()), ("jsNodeId", js), ("clerp", clerp)];
        rest.into_iter().for_each(|(key, value)| set(key, value.into()));
        set("feature", feature);
        Value::Object(node)
    }

    /// The ids that a node may have, the first being circuit-tracer's.
    fn ids(&self, node: &Node) -> impl Iterator<Item = String> + use<> {
        let config = self.model.config();
        let (first, step, position) = match *node {
            Node::Error { sae, position } => ("0".to_owned(), Some((self.layer(sae), config.n_layers)), position),
            Node::Direction { sae, direction, position } => {
                (format!("{}_{}", self.layer(sae), self.number(sae, direction)), None, position)
            }
            Node::Head { layer, head, position } => {
                (format!("H_{}", layer * config.attention.query_heads + head), None, position)
            }
            Node::Token { token, position } => (format!("E_{token}"), None, position),
            Node::Position { position } => (format!("E_{}", config.d_vocab + position), None, position),
            Node::Logit { token, position } => (format!("{}_{token}", config.n_layers + 1), None, position),
        };
        (0..).map(move |again| match step {
            Some((layer, layers)) => format!("{first}_{}_{position}", layer + again * layers),
            None => format!("{first}_{position}"),
        })
    }

    fn layer(&self, sae: usize) -> usize {
        self.saes[sae].site().writes.layer()
    }

    /// The number of a direction among those of all SAEs of its layer.
    fn number(&self, sae: usize, direction: u32) -> usize {
        let before = (0..sae).filter(|other| self.layer(*other) == self.layer(sae));
        before.map(|other| self.saes[other].directions()).sum::<usize>() + direction as usize
    }
}

/// One whole number for two (Cantor's).
fn cantor(a: usize, b: usize) -> usize {
    (a + b) * (a + b + 1) / 2 + b
}

impl Graph {
    /// The content of `graph-metadata.json` with the graph whose file this is, beside those that it lists `before`.
    pub fn listed(file: &Value, before: Option<&Value>) -> Value {
        let others = before.and_then(|before| before["graphs"].as_array()).into_iter().flatten();
        let own = &file["metadata"];
        let graphs = others.filter(|graph| graph["slug"] != own["slug"]).chain([own]).cloned();
        json!({ "graphs": graphs.collect::<Vec<Value>>() })
    }
}
