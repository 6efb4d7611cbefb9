//! The smallest circuit that keeps a behaviour.

use directrix_circuits::{BehaviourCircuit, CircuitNode, CircuitNodes, CircuitOptions, CircuitSize, Metric, Node};
use directrix_corpus as corpus;
use directrix_sae as sae;
use pyo3::prelude::*;
use serde::Serialize;

use super::{Token, fitted, some};
use crate::error::{Failure, Result};
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::Sae;
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(behaviour_circuit, module)?)
}

#[derive(Serialize)]
struct Named<'a> {
    kind: &'static str,
    sae: String,
    direction: Option<u32>,
    layer: Option<usize>,
    head: Option<usize>,
    #[serde(flatten)]
    node: &'a CircuitNode,
}

impl<'a> Named<'a> {
    fn of(node: &'a CircuitNode, saes: &[sae::Sae]) -> Named<'a> {
        let name = |sae: usize| saes[sae].short_name().to_owned();
        let of = |kind, sae, direction, layer, head| Named { kind, sae, direction, layer, head, node };
        match node.is {
            Node::Direction { sae, direction } => of("direction", name(sae), Some(direction), None, None),
            Node::Error { sae } => of("error", name(sae), None, None, None),
            Node::Head { layer, head } => of("head", String::new(), None, Some(layer), Some(head)),
        }
    }
}

/// Circuits by size, the nodes of the smallest, and what both say. Without `reporting`, every other prompt reports.
#[pyfunction]
#[pyo3(signature = (model, saes, prompts, reporting, against, enough, named))]
fn behaviour_circuit(
    py: Python,
    model: &Model,
    saes: Vec<PyRef<Sae>>,
    prompts: &Prompts,
    reporting: Option<&Prompts>,
    against: Option<Token>,
    enough: f64,
    named: usize,
) -> Result<(Table, Table, String)> {
    let (saes, prompts) = (fitted(model, &saes)?, some(prompts)?);
    let metric = match against {
        Some(token) => Metric::LogitDifference(token.of(model.tokenizer.as_ref())?),
        None => Metric::LogProb,
    };
    let [choosing, reporting] = match reporting {
        Some(reporting) => [prompts.clone(), some(reporting)?.clone()],
        None if prompts.len() < 4 => {
            return Err(Failure::argument(format!(
                "there are {} prompts; half of them choose a circuit and the others report on it, so give four or more",
                prompts.len()
            )));
        }
        None => [0, 1].map(|first| {
            corpus::Prompts::from_rows((first..prompts.len()).step_by(2).map(|prompt| prompts.get(prompt)))
        }),
    };
    let circuit = watched(py, |watch| {
        let nodes = CircuitNodes::of(&model.model, &saes, metric, &choosing, watch)?;
        BehaviourCircuit::of(&nodes, [&choosing, &reporting], CircuitOptions { enough, named }, watch)
    })?;
    let rows: Vec<Named> = circuit.named.iter().map(|node| Named::of(node, &saes)).collect();
    let what = metric.sentence();
    let sizes = format!("Circuits by number of nodes; behaviour: {what}. {}", CircuitSize::SENTENCE);
    let about = circuit.named.first().map_or_else(String::new, |node| node.change.sentence());
    let nodes = format!("The {} nodes of the smallest circuit; change of the {what}. {about}", circuit.size);
    Ok((
        Table::of("circuit-sizes", &sizes, &circuit.curve),
        Table::of("circuit-nodes", &nodes, &rows),
        circuit.sentence(),
    ))
}
