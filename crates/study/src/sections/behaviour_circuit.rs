//! The smallest set of directions, errors and heads that keeps the behaviour.

use directrix_circuits::{
    BehaviourCircuit as Found, CircuitNodes, CircuitOptions, CircuitSize, Metric, Node, check_nodes,
};
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, count, figure, list, quoted, table, within};
use crate::findings::Findings;
use crate::study::Study;
use crate::{Result, Series, Shape};

options! {
    /// Circuits of the behaviour by size.
    BehaviourCircuit {
        /// Prompts that choose nodes, and as many others that report.
        prompts: usize = 50 => 1.0..,
        /// Share of the behaviour that the smallest circuit must keep.
        enough: f64 = CircuitOptions::default().enough => 0.0..=1.0,
        /// Measure the answer's logit less that of this token; if not said, the answer's log-probability.
        against: Option<String> = None,
        /// Nodes of the smallest circuit that are looked at alone, at most.
        named: usize = CircuitOptions::default().named => 1.0..,
    }
}

impl SectionKind for BehaviourCircuit {
    const KIND: &str = "behaviour_circuit";
    const TITLE: &str = "The smallest circuit that keeps the behaviour";
    const BY_DEFAULT: bool = false;

    fn check(&self, opened: &Opened, _sae: &Sae) -> Result<(), String> {
        check_nodes(&opened.saes).map_err(|e| e.to_string())
    }

    fn check_study(&self, _study: &Study, opened: &Opened) -> Result<(), String> {
        let Some(token) = &self.against else { return Ok(()) };
        let tokenizer = opened.tokenizer().map_err(|e| e.to_string())?;
        tokenizer.single_token(token).map(drop).map_err(|e| format!("`against`: {e}"))
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let (opened, watch) = (found.opened, found.watch);
        let metric = match &self.against {
            Some(token) => Metric::LogitDifference(opened.tokenizer()?.single_token(token)?),
            None => Metric::LogProb,
        };
        let choosing = found.choosing.range(0..self.prompts.min(found.choosing.len()));
        let reporting = found.behaviour_prompts(self.prompts);
        let nodes = CircuitNodes::of(&opened.model, &opened.saes, metric, &choosing, watch)?;
        let options = CircuitOptions { enough: self.enough, named: self.named };
        let circuit = Found::of(&nodes, [&choosing, &reporting], options, watch)?;
        let prose = vec![
            range(&circuit, metric, &quoted(&found.answer())),
            format!("{}.", circuit.sentence()),
            kinds(&circuit),
        ];
        let line = |name: &str, value: fn(&CircuitSize) -> f64| Series {
            name: name.into(),
            values: circuit.curve.iter().map(value).collect(),
        };
        let blocks = vec![
            figure(
                "behaviour-circuit",
                "What the first nodes keep of the behaviour, and what is left without them",
                ("nodes in the circuit", "share of the behaviour"),
                &format!(
                    "Over {}{}; 0 is the behaviour with every node at its mean, 1 that of the model.",
                    count(reporting.len(), "prompt"),
                    if circuit.apart { " that chose no node" } else { ", the same that chose the nodes" }
                ),
                Shape::Lines {
                    labels: circuit.curve.iter().map(|row| row.size.to_string()).collect(),
                    series: vec![
                        line("faithfulness: the circuit alone", |row| row.faithfulness),
                        line("completeness: all others", |row| row.completeness),
                        line("as many nodes at random", |row| row.random),
                    ],
                },
            ),
            table(
                "circuit-sizes",
                &format!("{} Behaviour: {}.", CircuitSize::SENTENCE, metric.sentence()),
                &circuit.curve,
            ),
            table(
                "circuit-nodes",
                &format!(
                    "The first nodes of the smallest circuit: attribution on the prompts that chose it, and the change of the {} if the node alone is at its mean. {}",
                    metric.sentence(),
                    circuit.named.first().map_or_else(String::new, |node| node.change.sentence())
                ),
                &circuit.named,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

/// From what to what the behaviour ranges.
fn range(circuit: &Found, metric: Metric, answer: &str) -> String {
    let Found { whole, none, nodes, .. } = circuit;
    format!(
        "The {} is {:.3}{} in the model, where the answer is {answer}, and {:.3}{} with all {nodes} nodes at their means.",
        metric.sentence(),
        whole.mean,
        within(whole.half_width, 3),
        none.mean,
        within(none.half_width, 3)
    )
}

/// What the nodes of the smallest circuit are.
fn kinds(circuit: &Found) -> String {
    let of = |is: fn(&Node) -> bool| circuit.named.iter().filter(|node| is(&node.is)).count();
    let kinds = [
        (of(|node| matches!(node, Node::Direction { .. })), "direction"),
        (of(|node| matches!(node, Node::Error { .. })), "reconstruction error"),
        (of(|node| matches!(node, Node::Head { .. })), "head"),
    ];
    let counted: Vec<String> = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, what)| count(*n, what)).collect();
    let sure = circuit.named.iter().filter(|node| node.change.q < 0.05 && node.change.is_beyond_controls()).count();
    let first = if circuit.named.len() < circuit.size { "first " } else { "" };
    format!(
        "Its {first}{} {}; {sure} of them change the behaviour alone, at a false-discovery rate of 5 % and beyond their controls. A node that does not may be one of several that stand in for each other.",
        if circuit.named.len() == 1 { "node is".to_owned() } else { format!("{} nodes are", circuit.named.len()) },
        list(&counted)
    )
}

#[cfg(test)]
mod tests {
    use directrix_circuits::{About, Chosen, CircuitNode, Claim, Controls, Estimate};

    use super::*;

    #[test]
    fn the_nodes_of_a_circuit_are_counted_by_kind() {
        let about =
            About { chosen: Chosen::Given, change: "at its mean", measure: "change", unit: "nats", over: "prompts" };
        let claims = Claim::list(
            [-1.0, 0.0].map(|mean| (about, Estimate::of([mean - 0.01, mean, mean + 0.01]), Controls::default())),
        );
        let is = [Node::Direction { sae: 0, direction: 3 }, Node::Head { layer: 1, head: 2 }];
        let node = |(change, is)| CircuitNode { rank: 1, node: String::new(), is, attribution: 1.0, change };
        let named: Vec<CircuitNode> = claims.into_iter().zip(is).map(node).collect();
        let estimate = Estimate::of([1.0, 2.0]);
        let mut circuit =
            Found { whole: estimate, none: estimate, apart: true, nodes: 9, size: 2, curve: Vec::new(), named };
        assert!(
            kinds(&circuit).starts_with("Its 2 nodes are 1 direction and 1 head; 1 of them change"),
            "{}",
            kinds(&circuit)
        );
        circuit.size = 5;
        assert!(kinds(&circuit).starts_with("Its first 2 nodes are"));
        assert!(range(&circuit, Metric::LogProb, "‘x’").contains("with all 9 nodes at their means"));
    }
}
