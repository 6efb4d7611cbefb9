//! The smallest set of directions, errors and heads that keeps a behaviour while all else is at its mean.
//!
//! Nodes are ranked by attribution patching on some prompts; how well the first of them keep a behaviour, and how little of it the others
//! keep without them, is measured on other prompts: faithfulness and completeness, as Marks et al. 2024 (*Sparse feature circuits*, 4)
//! have them, after Wang et al. 2022 (*Interpretability in the wild*).

mod nodes;

use directrix_corpus::{Prompts, Watch};
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

pub use nodes::{Circuit, CircuitNodes, Metric, Node, check_nodes};

use crate::error::threshold;
use crate::statistics::Interval;
use crate::{About, Chosen, Claim, Controls, Error, Estimate, Matched, Result};

/// How a circuit is chosen and shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitOptions {
    /// The faithfulness that the smallest circuit must reach on the prompts that choose it, up to 1.
    pub enough: f64,
    /// Nodes of it that are looked at alone, at most.
    pub named: usize,
}

impl Default for CircuitOptions {
    fn default() -> CircuitOptions {
        CircuitOptions { enough: 0.8, named: 20 }
    }
}

/// A behaviour's circuit.
#[derive(Debug, Clone, PartialEq)]
pub struct BehaviourCircuit {
    /// The behaviour of the model as it is, over the prompts that report.
    pub whole: Estimate,
    /// The same with every node at its mean.
    pub none: Estimate,
    /// Whether the prompts that report are others than those that choose.
    pub apart: bool,
    /// Number of nodes.
    pub nodes: usize,
    /// Nodes of the smallest circuit.
    pub size: usize,
    /// By number of nodes kept.
    pub curve: Vec<CircuitSize>,
    /// The first nodes of the smallest circuit.
    pub named: Vec<CircuitNode>,
}

/// What the first nodes keep of the behaviour, over the prompts that report; with 95 % intervals by bootstrap over them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CircuitSize {
    /// How many.
    pub size: usize,
    /// Prompts.
    pub prompts: usize,
    /// The mean behaviour with these alone as they are.
    pub behaviour: f64,
    /// `(m(circuit) − m(∅)) / (m(model) − m(∅))` of the mean behaviours `m`: with the circuit as it is and all else at its mean, with all at its
    /// mean, and of the model.
    pub faithfulness: f64,
    /// Lower end of its interval.
    pub faithfulness_low: f64,
    /// Upper end.
    pub faithfulness_high: f64,
    /// The same of all other nodes without these: what is left of the behaviour if the circuit is at its mean.
    pub completeness: f64,
    /// Lower end of its interval.
    pub completeness_low: f64,
    /// Upper end.
    pub completeness_high: f64,
    /// The faithfulness of as many nodes at random, of those that have any attribution, drawn anew for each prompt.
    pub random: f64,
    /// Lower end of its interval.
    pub random_low: f64,
    /// Upper end.
    pub random_high: f64,
}

/// A node of the smallest circuit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CircuitNode {
    /// Its name.
    pub node: String,
    /// Its rank by attribution, from 1.
    pub rank: usize,
    /// What it is.
    #[serde(skip)]
    pub is: Node,
    /// To first order, what it adds to the behaviour above its mean, on the prompts that choose.
    pub attribution: f64,
    /// How much the behaviour changes if it alone is at its mean, on the prompts that report.
    #[serde(flatten)]
    pub change: Claim,
}

impl CircuitSize {
    /// What its columns are, for captions.
    pub const SENTENCE: &'static str = "Nodes are directions, reconstruction errors and heads, ranked by attribution patching on the prompts that choose; means of nodes are over the positions of these. Behaviour: its mean with the first nodes as they are and all others at their means, at every position before the answer; faithfulness: that less the behaviour with all nodes at their means, as a share of what the model has above it; completeness: the same with the first nodes at their means and all others as they are; random: faithfulness of as many nodes drawn at random, anew for each prompt, of those that have any attribution. 95 % intervals by bootstrap over prompts.";
}

impl BehaviourCircuit {
    /// The circuit of a behaviour, chosen on the first prompts and reported on the second; each ends with the answer. Sizes are 0, 1, 2, 4 and
    /// so on, the smallest that is found to be [`enough`](CircuitOptions::enough) on the prompts that choose, and all nodes.
    ///
    /// # Errors
    /// As [`CircuitNodes::measure`] and [`CircuitNodes::attributions`]; if there is no prompt to choose or to report on;
    /// [`Error::NothingAblated`] if the behaviour is the same with all nodes at their means.
    pub fn of(
        nodes: &CircuitNodes,
        [choosing, reporting]: [&Prompts; 2],
        how: CircuitOptions,
        watch: &Watch,
    ) -> Result<BehaviourCircuit> {
        threshold("enough", how.enough)?;
        if choosing.is_empty() || reporting.is_empty() {
            return Err(Error::Lengths { what: "prompts", given: 0, wanted: 1 });
        }
        let attributions = nodes.attributions(choosing, watch)?;
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        order.sort_by(|a, b| attributions[*b].abs().total_cmp(&attributions[*a].abs()).then(a.cmp(b)));
        let size = smallest(nodes, &order, choosing, how.enough, watch)?;

        let on_all = |circuit: &Circuit| {
            let cases: Vec<(usize, Circuit)> = (0..reporting.len()).map(|prompt| (prompt, circuit.clone())).collect();
            nodes.measure(reporting, &cases, watch)
        };
        let (none, whole) = (on_all(&nodes.circuit([]))?, on_all(&nodes.circuit(0..nodes.len()))?);
        check_ablated(&whole, &none)?;
        let alive = order.partition_point(|node| attributions[*node] != 0.0);
        let mut curve = Vec::new();
        for size in sizes(nodes.len(), size) {
            let circuit = nodes.circuit(order[..size].iter().copied());
            let kept = on_all(&circuit)?;
            let others = on_all(&CircuitNodes::others(&circuit))?;
            let random: Vec<(usize, Circuit)> = (0..reporting.len())
                .map(|prompt| (prompt, nodes.circuit(drawn(&order, alive, size, prompt as u64))))
                .collect();
            let random = nodes.measure(reporting, &random, watch)?;
            let [faithfulness, completeness, random] =
                [&kept, &others, &random].map(|values| Share::of(values, &whole, &none));
            curve.push(CircuitSize {
                size,
                prompts: kept.len(),
                behaviour: mean(&kept),
                faithfulness: faithfulness.share,
                faithfulness_low: faithfulness.interval.low,
                faithfulness_high: faithfulness.interval.high,
                completeness: completeness.share,
                completeness_low: completeness.interval.low,
                completeness_high: completeness.interval.high,
                random: random.share,
                random_low: random.interval.low,
                random_high: random.interval.high,
            });
        }
        let first = &order[..size.min(how.named)];
        let claims = changes(nodes, first, [choosing, reporting], &whole, watch)?;
        let named = first.iter().zip(claims).enumerate().map(|(at, (node, change))| {
            let is = nodes.node(*node);
            CircuitNode { rank: at + 1, node: nodes.label(is), is, attribution: attributions[*node], change }
        });
        Ok(BehaviourCircuit {
            whole: Estimate::of(whole),
            none: Estimate::of(none),
            apart: choosing != reporting,
            nodes: nodes.len(),
            size,
            curve,
            named: named.collect(),
        })
    }

    /// How small it is, in a sentence.
    pub fn sentence(&self) -> String {
        let at = self.smallest();
        format!(
            "{} of {} nodes are the fewest first ones found that are enough where they were chosen; on {} {} they keep {:.0} % of the behaviour (95 % interval {:.0} to {:.0} %), as many at random {:.0} %, and without them {:.0} % is left ({:.0} to {:.0} %)",
            self.size,
            self.nodes,
            at.prompts,
            if self.apart { "other prompts" } else { "prompts, the same," },
            100.0 * at.faithfulness,
            100.0 * at.faithfulness_low,
            100.0 * at.faithfulness_high,
            100.0 * at.random,
            100.0 * at.completeness,
            100.0 * at.completeness_low,
            100.0 * at.completeness_high,
        )
    }

    /// The smallest circuit in the curve.
    #[expect(clippy::missing_panics_doc, reason = "its size is among the sizes")]
    pub fn smallest(&self) -> &CircuitSize {
        self.curve.iter().find(|row| row.size == self.size).expect("its size is among the sizes")
    }
}

/// The fewest first nodes found that are faithful enough: the first power of two that is, and then by halving what lies between it and the
/// one before.
fn smallest(nodes: &CircuitNodes, order: &[usize], prompts: &Prompts, enough: f64, watch: &Watch) -> Result<usize> {
    let with = |size: usize| {
        let circuit = nodes.circuit(order[..size].iter().copied());
        let cases: Vec<(usize, Circuit)> = (0..prompts.len()).map(|prompt| (prompt, circuit.clone())).collect();
        nodes.measure(prompts, &cases, watch)
    };
    let (none, whole) = (with(0)?, with(order.len())?);
    check_ablated(&whole, &none)?;
    let is_enough = |size: usize| Ok::<_, Error>(share(&with(size)?, &whole, &none) >= enough);
    let (mut too_few, mut size) = (0, order.len());
    for next in sizes(order.len(), 0).into_iter().skip(1) {
        if next == order.len() || is_enough(next)? {
            size = next;
            break;
        }
        too_few = next;
    }
    while size - too_few > 1 {
        let middle = usize::midpoint(too_few, size);
        if is_enough(middle)? { size = middle } else { too_few = middle }
    }
    Ok(size)
}

/// 0, 1, 2, 4 and so on, `size`, and `all`; ascending.
fn sizes(all: usize, size: usize) -> Vec<usize> {
    let powers = (0..).map(|power| 1_usize << power).take_while(|power| *power < all);
    let mut sizes: Vec<usize> = powers.chain([0, size, all]).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// `size` nodes at random: of the first `alive` of `order` while there are as many, else all of these and the next.
fn drawn(order: &[usize], alive: usize, size: usize, prompt: u64) -> Vec<usize> {
    if size >= alive {
        return order[..size].to_vec();
    }
    let mut random = ChaCha8Rng::seed_from_u64(prompt);
    random.set_stream(size as u64);
    index::sample(&mut random, alive, size).into_iter().map(|at| order[at]).collect()
}

/// How the behaviour changes if each node alone is at its mean; of a direction beside another that fires as often on the prompts that choose,
/// drawn anew for each prompt.
fn changes(
    nodes: &CircuitNodes,
    numbers: &[usize],
    [choosing, reporting]: [&Prompts; 2],
    whole: &[f64],
    watch: &Watch,
) -> Result<Vec<Claim>> {
    let without = |number: usize| CircuitNodes::others(&nodes.circuit([number]));
    let about = About {
        chosen: Chosen::On { prompts: choosing.len(), by: "attribution", apart: choosing != reporting },
        change: "each alone at its mean",
        measure: "change",
        unit: nodes.metric().unit(),
        over: "prompts",
    };
    let mut found = Vec::new();
    for &number in numbers {
        let changes = |cases: Vec<(usize, Circuit)>| {
            let values = nodes.measure(reporting, &cases, watch)?;
            Ok::<_, Error>(Estimate::of(values.iter().zip(&cases).map(|(value, (prompt, _))| value - whole[*prompt])))
        };
        let circuit = without(number);
        let own = changes((0..reporting.len()).map(|prompt| (prompt, circuit.clone())).collect())?;
        let control = if let Node::Direction { sae, direction } = nodes.node(number) {
            let matched = Matched::by(nodes.fires(sae).iter().copied());
            let first = nodes.first_of(sae);
            let is_other = |other: u32| !numbers.contains(&(first + other as usize));
            let of_prompt = |prompt: usize| {
                let drawn = matched.draw_among(&[direction], prompt as u64, is_other);
                drawn.first().map(|other| (prompt, without(first + *other as usize)))
            };
            let cases: Vec<(usize, Circuit)> = (0..reporting.len()).filter_map(of_prompt).collect();
            if cases.is_empty() { None } else { Some(changes(cases)?) }
        } else {
            None
        };
        found.push((about, own, Controls { rows: None, directions: control }));
    }
    Ok(Claim::list(found))
}

/// A share of a behaviour, with its interval.
struct Share {
    share: f64,
    interval: Interval,
}

impl Share {
    fn of(values: &[f64], whole: &[f64], none: &[f64]) -> Share {
        let of = |drawn: &[usize]| {
            let [values, whole, none] = [values, whole, none].map(|of| drawn.iter().map(|i| of[*i]).sum::<f64>());
            (values - none) / (whole - none)
        };
        Share { share: share(values, whole, none), interval: Interval::bootstrap(values.len(), of) }
    }
}

fn share(values: &[f64], whole: &[f64], none: &[f64]) -> f64 {
    let (values, whole, none) = (mean(values), mean(whole), mean(none));
    (values - none) / (whole - none)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn check_ablated(whole: &[f64], none: &[f64]) -> Result<()> {
    if mean(whole) == mean(none) { Err(Error::NothingAblated) } else { Ok(()) }
}
