//! `directrix circuits behaviour`.

use anyhow::bail;
use clap::Args;
use directrix::circuits::{BehaviourCircuit, CircuitNodes, CircuitOptions, CircuitSize, Metric};
use directrix::corpus::Prompts;

use crate::cli::inputs::{PromptArgs, Saes, SubjectArgs};
use crate::cli::numbers::{MANY, real, whole};
use crate::cli::results::{Found, ResultArgs};
use crate::cli::terminal::note;
use crate::cli::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix circuits behaviour --prompts answers.txt
  directrix circuits behaviour --prompts answers.txt --against ' he' --nodes --out out/circuit
  directrix circuits behaviour --prompts answers.txt --sae tinystories-2l/sae-l0 --enough 0.9";

/// The smallest set of directions and heads that keeps a behaviour.
///
/// Prompts end with the answer; the behaviour is its log-probability, or its logit less that of --against. Nodes are the directions of the
/// SAEs, what each SAE does not reconstruct, and the heads. Every other prompt ranks them by attribution patching and chooses how many are
/// enough; the rest report how much of the behaviour the first nodes keep with all others at their means (faithfulness), and how much the
/// others keep without them (completeness).
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Behaviour {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAEs whose directions are nodes, each of a site of its own [default: the model's own]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    /// Measure the logit of the answer less that of this token, given by its text
    #[arg(long, value_name = "TOKEN")]
    against: Option<String>,
    /// Share of the behaviour that the smallest circuit must keep
    #[arg(long, value_name = "SHARE", default_value_t = CircuitOptions::default().enough, value_parser = real::<f64>(0.0..=1.0))]
    enough: f64,
    /// Show the nodes of the smallest circuit, instead of circuits by size
    #[arg(long)]
    nodes: bool,
    /// Nodes of the smallest circuit that are looked at alone, at most
    #[arg(long, value_name = "N", default_value_t = CircuitOptions::default().named, value_parser = whole::<usize>(1..=MANY))]
    named: usize,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    results: ResultArgs,
}

impl Behaviour {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::All(&self.sae), self.prompts.wanted())?;
        let metric = match &self.against {
            Some(token) => Metric::LogitDifference(opened.tokenizer()?.single_token(token)?),
            None => Metric::LogProb,
        };
        let prompts = self.prompts.load_some(&opened)?;
        if prompts.len() < 4 {
            bail!(
                "there are {} prompts; half of them choose a circuit and the others report on it, so give four or more",
                prompts.len()
            );
        }
        let [choosing, reporting] =
            [0, 1].map(|first| Prompts::from_rows((first..prompts.len()).step_by(2).map(|prompt| prompts.get(prompt))));
        let nodes = CircuitNodes::of(&opened.model, &opened.saes, metric, &choosing, &watch)?;
        let named = if self.nodes { self.named } else { 0 };
        let options = CircuitOptions { enough: self.enough, named };
        let circuit = BehaviourCircuit::of(&nodes, [&choosing, &reporting], options, &watch)?;
        let what = metric.sentence();
        if self.nodes {
            let about = circuit.named.first().map_or_else(String::new, |node| node.change.sentence());
            let caption = format!("The {} nodes of the smallest circuit; change of the {what}. {about}", circuit.size);
            let found = Found {
                name: "circuit-nodes",
                caption: &caption,
                rows: &circuit.named,
                bars: "change",
                missing: "",
                overall: None,
            };
            self.results.show(&found, &opened)?;
        } else {
            let caption = format!("Circuits by number of nodes; behaviour: {what}. {}", CircuitSize::SENTENCE);
            let found = Found {
                name: "circuit-sizes",
                caption: &caption,
                rows: &circuit.curve,
                bars: "faithfulness",
                missing: "",
                overall: None,
            };
            self.results.show(&found, &opened)?;
        }
        note(&circuit.sentence());
        Ok(())
    }
}
