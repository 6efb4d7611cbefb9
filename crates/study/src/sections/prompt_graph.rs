//! The attribution graph of one prompt.

use directrix_circuits::graph::{GraphOptions, Replacement};
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, table};
use crate::Result;
use crate::findings::Findings;
use crate::graph_story::GraphStory;
use crate::report::Block;

options! {
    /// The attribution graph of one of the behaviour's prompts.
    PromptGraph {
        /// The prompt's number among those of the behaviour, from 0.
        prompt: usize = 0,
        /// Directions whose inputs are found, at most.
        max_directions: usize = 2000 => 1.0..,
        /// Nodes are kept until they have this share of all influence.
        node_threshold: f64 = 0.6 => 0.0..=1.0,
        /// Edges are kept until they have this share.
        edge_threshold: f64 = 0.9 => 0.0..=1.0,
        /// Directions and edges that are checked by ablation.
        checks: usize = 10 => 0.0..=1000.0,
    }
}

impl SectionKind for PromptGraph {
    const KIND: &str = "prompt_graph";
    const TITLE: &str = "What one prompt's answer is made of";

    fn check(&self, opened: &Opened, _sae: &Sae) -> Result<(), String> {
        Replacement::check_order(&opened.saes.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let prompts = &found.behaviour.prompts;
        let number = self.prompt.min(prompts.len() - 1);
        let tokens = prompts.get(number);
        let (answer, before) = (tokens[tokens.len() - 1], &tokens[..tokens.len() - 1]);
        let of = Replacement::of(&found.opened.model, found.opened.saes.iter().collect(), before, false, found.watch)?;
        let options = GraphOptions {
            max_directions: self.max_directions,
            node_threshold: self.node_threshold,
            edge_threshold: self.edge_threshold,
            ..GraphOptions::default()
        };
        let graph = of.graph(answer, options)?;
        let story = GraphStory::of(found.opened, &of, &graph)?;
        let mut prose = vec![
            story.summary(),
            format!(
                "It is one prompt, number {} of the behaviour, and one graph of what the model did there; what holds over prompts is in the \
                 other sections.{}",
                found.numbers[number],
                [&[String::new()], story.notes()].concat().join(" ")
            ),
        ];
        let mut blocks = vec![
            Block::Graph(story.drawing("prompt-graph")),
            table(
                "prompt-graph-nodes",
                "The nodes. Influence is the share of the answer's logit that goes through a node, by absolute weights; the value of a \
                 direction or logit is the sum of its kept edges, those left out and the constant.",
                &story.nodes(),
            ),
            table(
                "prompt-graph-edges",
                "The edges: what a node adds to the activation or logit of another directly.",
                &story.edges(),
            ),
        ];
        let checks = of.checks(&graph, self.checks)?;
        if !checks.is_empty() {
            let pairs: Vec<[f64; 2]> = checks.iter().map(|check| [check.predicted, check.measured]).collect();
            let columns = [0, 1].map(|which| pairs.iter().map(|pair| pair[which]).collect::<Vec<f64>>());
            prose.push(format!(
                "{} directions and edges were checked by ablating their source in the model itself: what the graph predicts and what \
                 happens correlate at {:.2}.",
                checks.len(),
                directrix_circuits::correlation(&columns)[1]
            ));
            blocks.push(table(
                "prompt-graph-checks",
                "What ablating a direction takes from the answer's logit (less the mean logit) or another direction's activation: directly and over \
                 all paths, as the graph says, and measured.",
                &story.checks(&checks),
            ));
        }
        Ok(Body { prose, blocks })
    }
}
