//! What a circuit is made of: the nodes, their means, and the model with all others at their means.

use std::collections::BTreeMap;
use std::sync::Arc;

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::{Matrix, SparseActivations, dot};
use directrix_model::{
    Ask, BlockHook, Columns, Edit, Frozen, HookPoint, Intervention, Model, Positions, Prediction, Quantity, Rows,
    Scalar, Target,
};
use directrix_sae::{Normalisation, Sae};
use rayon::prelude::*;

use crate::batch::{BATCH, each_batch};
use crate::{Error, Result};

/// A part of a model that a circuit may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A direction of an SAE.
    Direction {
        /// Number of the SAE.
        sae: usize,
        /// The direction.
        direction: u32,
    },
    /// What an SAE does not reconstruct.
    Error {
        /// Number of the SAE.
        sae: usize,
    },
    /// A head: what it read, before `W_O`.
    Head {
        /// Its block.
        layer: usize,
        /// Its number there.
        head: usize,
    },
}

/// What is measured of a behaviour, at the position that predicts the answer, the last token of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// The log-probability of the answer, in nats.
    LogProb,
    /// The logit of the answer less that of this token.
    LogitDifference(u32),
}

impl Metric {
    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Metric::LogProb => "nats",
            Metric::LogitDifference(_) => "logits",
        }
    }

    /// What it is, for captions.
    pub fn sentence(self) -> &'static str {
        match self {
            Metric::LogProb => "log-probability of the answer in nats",
            Metric::LogitDifference(_) => "logit of the answer less that of the other token",
        }
    }

    fn targets(self, prompt: usize, position: usize, answer: u32) -> Vec<Target> {
        let target = |token| Target { prompt, position, token };
        match self {
            Metric::LogProb => vec![target(answer)],
            Metric::LogitDifference(other) => vec![target(answer), target(other)],
        }
    }

    fn value(predictions: &[Prediction]) -> f64 {
        match predictions {
            [answer, other] => f64::from(answer.logit) - f64::from(other.logit),
            predictions => predictions[0].log_prob,
        }
    }

    fn scalar(self, prompt: usize, position: usize, answer: u32) -> Scalar {
        match self {
            Metric::LogProb => Scalar::of(prompt, position, Quantity::LogProb(answer)),
            Metric::LogitDifference(other) => Scalar::logit_difference(prompt, position, [answer, other]),
        }
    }
}

/// Nodes that are kept, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circuit(Arc<[bool]>);

/// The nodes of a model: every direction of some SAEs, what each of them does not reconstruct, and every head that no SAE stands for; with
/// the mean of each over the positions before the answers of some prompts.
///
/// A position of an SAE's site is the sum of its directions' contributions, its decoder's bias, and what is left, the error. In a circuit,
/// nodes that are kept are as they are in the running model, whatever is ablated before them; all others are at their means, at every
/// position. What is no node (embeddings, MLPs without SAE) is computed from what it reads.
pub struct CircuitNodes<'a> {
    model: &'a Model,
    saes: &'a [Sae],
    metric: Metric,
    /// Numbers of the SAEs in the order of the pass.
    order: Vec<usize>,
    heads: Vec<(usize, usize)>,
    /// Number of the first direction of each SAE, and of all directions.
    first: Vec<usize>,
    means: Vec<SaeMeans>,
    /// By block.
    head_means: BTreeMap<usize, Vec<f32>>,
}

/// Means over positions.
struct SaeMeans {
    /// Of each direction's activation.
    directions: Vec<f32>,
    /// Of the error.
    error: Vec<f32>,
    /// Of the sum of all contributions.
    sum: Vec<f64>,
    /// At how many positions each direction fires.
    fires: Vec<u64>,
}

impl<'a> CircuitNodes<'a> {
    /// The nodes of `model` with `saes`; means are over `prompts`, each of which ends with the answer.
    ///
    /// # Errors
    /// As [`check_nodes`]; if a prompt has fewer than two positions or there is none; [`Error::SameAnswer`] if an answer is set against itself; or as
    /// [`Model::run`].
    pub fn of(
        model: &'a Model,
        saes: &'a [Sae],
        metric: Metric,
        prompts: &Prompts,
        watch: &Watch,
    ) -> Result<CircuitNodes<'a>> {
        check_nodes(saes)?;
        if let Metric::LogitDifference(token) = metric
            && token as usize >= model.config().d_vocab
        {
            return Err(Error::Token { token, vocabulary: model.config().d_vocab });
        }
        let mut order: Vec<usize> = (0..saes.len()).collect();
        order.sort_by_key(|sae| saes[*sae].site().reads.hook);
        let config = model.config();
        let all = (0..config.n_layers).flat_map(|l| (0..config.attention.query_heads).map(move |head| (l, head)));
        let is_of_sae = |&(layer, head): &(usize, usize)| {
            let has = |sae: &Sae| {
                let end = &sae.site().reads;
                end.hook == HookPoint::Block(layer, BlockHook::Z) && end.head.is_none_or(|of| of == head)
            };
            saes.iter().any(has)
        };
        let mut first = vec![0];
        first.extend(saes.iter().scan(0, |all, sae| {
            *all += sae.directions();
            Some(*all)
        }));
        let heads = all.filter(|head| !is_of_sae(head)).collect();
        let mut nodes =
            CircuitNodes { model, saes, metric, order, heads, first, means: Vec::new(), head_means: BTreeMap::new() };
        nodes.take_means(prompts, watch)?;
        Ok(nodes)
    }

    /// Prompts without their answers, and the answers.
    fn cut(&self, prompts: &Prompts) -> Result<(Prompts, Vec<u32>)> {
        if let Some(prompt) = prompts.iter().position(|tokens| tokens.len() < 2) {
            return Err(Error::Short { prompt });
        }
        let answers: Vec<u32> = prompts.iter().map(|tokens| tokens[tokens.len() - 1]).collect();
        if let Metric::LogitDifference(other) = self.metric
            && let Some(prompt) = answers.iter().position(|answer| *answer == other)
        {
            return Err(Error::SameAnswer { prompt });
        }
        Ok((Prompts::from_rows(prompts.iter().map(|tokens| &tokens[..tokens.len() - 1])), answers))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.directions() + self.saes.len() + self.heads.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The node of a number: directions, SAE after SAE, then errors, then heads.
    ///
    /// # Panics
    /// If there is none of this number.
    pub fn node(&self, number: usize) -> Node {
        if number < self.directions() {
            let sae = self.first.partition_point(|first| *first <= number) - 1;
            return Node::Direction { sae, direction: (number - self.first[sae]) as u32 };
        }
        let number = number - self.directions();
        if number < self.saes.len() {
            return Node::Error { sae: number };
        }
        let (layer, head) = self.heads[number - self.saes.len()];
        Node::Head { layer, head }
    }

    /// What tables call a node: `sae-l0 17`, `sae-l0 error`, `L1H3`.
    pub fn label(&self, node: Node) -> String {
        match node {
            Node::Direction { sae, direction } => format!("{} {direction}", self.saes[sae].short_name()),
            Node::Error { sae } => format!("{} error", self.saes[sae].short_name()),
            Node::Head { layer, head } => format!("L{layer}H{head}"),
        }
    }

    /// What is measured.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// A circuit of the nodes of these numbers.
    ///
    /// # Panics
    /// If there is none of a number.
    pub fn circuit(&self, numbers: impl IntoIterator<Item = usize>) -> Circuit {
        let mut kept = vec![false; self.len()];
        numbers.into_iter().for_each(|number| kept[number] = true);
        Circuit(kept.into())
    }

    /// The circuit of all other nodes.
    pub fn others(circuit: &Circuit) -> Circuit {
        Circuit(circuit.0.iter().map(|kept| !kept).collect())
    }

    /// At how many of the positions that means are over each direction of an SAE fires.
    pub(super) fn fires(&self, sae: usize) -> &[u64] {
        &self.means[sae].fires
    }

    /// Number of the first direction of an SAE.
    pub(super) fn first_of(&self, sae: usize) -> usize {
        self.first[sae]
    }

    fn directions(&self) -> usize {
        self.first[self.saes.len()]
    }

    /// What of an SAE a circuit keeps: its directions, and whether its error.
    fn of_sae<'c>(&self, sae: usize, circuit: &'c Circuit) -> (&'c [bool], bool) {
        (&circuit.0[self.first[sae]..self.first[sae + 1]], circuit.0[self.directions() + sae])
    }

    /// Where nodes are.
    fn hooks(&self) -> Vec<HookPoint> {
        let of_heads = self.heads.iter().map(|(layer, _)| HookPoint::Block(*layer, BlockHook::Z));
        let mut hooks: Vec<HookPoint> = self.saes.iter().map(|sae| sae.site().reads.hook).chain(of_heads).collect();
        hooks.sort_unstable();
        hooks.dedup();
        hooks
    }

    fn take_means(&mut self, prompts: &Prompts, watch: &Watch) -> Result<()> {
        let (cut, _) = self.cut(prompts)?;
        if cut.is_empty() {
            return Err(Error::Lengths { what: "prompts", given: 0, wanted: 1 });
        }
        let (saes, n) = (self.saes, cut.positions() as f64);
        let mut fires: Vec<Vec<u64>> = saes.iter().map(|sae| vec![0; sae.directions()]).collect();
        let mut acts_sums: Vec<Vec<f64>> = saes.iter().map(|sae| vec![0.0; sae.directions()]).collect();
        let mut errors: Vec<Vec<f64>> = saes.iter().map(|sae| vec![0.0; sae.d_out()]).collect();
        let mut heads: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        let hooks = self.hooks();
        each_batch(&cut, BATCH, "means of the nodes", watch, |part, _| {
            let run = self.model.run(&part, &Ask::capture(hooks.iter().copied()).watched(watch), &[])?;
            for (number, sae) in saes.iter().enumerate() {
                let Site { acts, error } = Site::of(sae, run.captured(sae.site().reads.hook))?;
                for (&direction, &value) in acts.directions().iter().zip(acts.values()) {
                    acts_sums[number][direction as usize] += f64::from(value);
                    fires[number][direction as usize] += 1;
                }
                error.iter_rows().for_each(|row| add(&mut errors[number], 1.0, row));
            }
            for (layer, _) in &self.heads {
                let values = run.captured(HookPoint::Block(*layer, BlockHook::Z));
                heads.entry(*layer).or_insert_with(|| vec![0.0; values.columns()]);
            }
            for (layer, sum) in &mut heads {
                run.captured(HookPoint::Block(*layer, BlockHook::Z)).iter_rows().for_each(|row| add(sum, 1.0, row));
            }
            Ok(())
        })?;
        let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| (sum / n) as f32).collect::<Vec<f32>>();
        self.head_means = heads.into_iter().map(|(layer, sum)| (layer, mean(sum))).collect();
        for (((sae, sums), error), fires) in saes.iter().zip(acts_sums).zip(errors).zip(fires) {
            let (directions, mut sum) = (mean(sums), vec![0.0; sae.d_out()]);
            for (direction, by) in directions.iter().enumerate() {
                add(&mut sum, f64::from(*by), sae.w_dec().row(direction));
            }
            self.means.push(SaeMeans { directions, error: mean(error), sum, fires });
        }
        Ok(())
    }

    /// To first order, what putting each node from its mean to what it is adds to the behaviour: the gradient of the metric there times the
    /// node less its mean, summed over the positions of a prompt, a mean over prompts (attribution patching; Syed et al. 2023, Marks et al.
    /// 2024). By number.
    ///
    /// # Errors
    /// As [`Model::gradients`].
    pub fn attributions(&self, prompts: &Prompts, watch: &Watch) -> Result<Vec<f64>> {
        let (cut, answers) = self.cut(prompts)?;
        let (hooks, mut found) = (self.hooks(), vec![0.0; self.len()]);
        each_batch(&cut, BATCH, "attribution", watch, |part, batch| {
            let run = self.model.run(&part, &Ask::capture(hooks.iter().copied()).watched(watch), &[])?;
            let of_prompt = |(prompt, tokens): (usize, &[u32])| {
                self.metric.scalar(prompt, tokens.len() - 1, answers[batch.start + prompt])
            };
            let scalars: Vec<Scalar> = part.iter().enumerate().map(of_prompt).collect();
            let gradients = self.model.gradients(&part, &hooks, &scalars, Frozen::default(), watch)?;
            let gradient = |hook: HookPoint| -> Vec<&[f32]> {
                let of_prompt = |(prompt, tokens): (usize, &[u32])| {
                    let rows = gradients.of(prompt, hook);
                    (0..tokens.len()).map(move |position| rows.row(position)).collect::<Vec<_>>()
                };
                part.iter().enumerate().flat_map(of_prompt).collect()
            };
            for (number, sae) in self.saes.iter().enumerate() {
                let end = &sae.site().reads;
                let rows: Vec<&[f32]> = gradient(end.hook).into_iter().map(|row| &row[end.columns()]).collect();
                let Site { acts, error } = Site::of(sae, run.captured(end.hook))?;
                let means = &self.means[number];
                let mut sum = vec![0.0_f64; sae.d_out()];
                for (at, row) in rows.iter().enumerate() {
                    add(&mut sum, 1.0, row);
                    let (directions, values) = acts.at(at);
                    for (&direction, &value) in directions.iter().zip(values) {
                        let along = dot(row, sae.w_dec().row(direction as usize));
                        found[self.first[number] + direction as usize] += f64::from(value) * along;
                    }
                    found[self.directions() + number] += dot(row, error.row(at)) - dot(row, &means.error);
                }
                for (direction, mean) in means.directions.iter().enumerate().filter(|(_, mean)| **mean != 0.0) {
                    let along: f64 = sum.iter().zip(sae.w_dec().row(direction)).map(|(g, w)| g * f64::from(*w)).sum();
                    found[self.first[number] + direction] -= f64::from(*mean) * along;
                }
            }
            for (number, (layer, head)) in self.heads.iter().enumerate() {
                let hook = HookPoint::Block(*layer, BlockHook::Z);
                let (values, mean) = (run.captured(hook), &self.head_means[layer]);
                let columns = self.columns_of_head(*head);
                for (at, row) in gradient(hook).iter().enumerate() {
                    let (g, value) = (&row[columns.clone()], &values.row(at)[columns.clone()]);
                    found[self.directions() + self.saes.len() + number] +=
                        dot(g, value) - dot(g, &mean[columns.clone()]);
                }
            }
            Ok(())
        })?;
        found.iter_mut().for_each(|sum| *sum /= prompts.len() as f64);
        Ok(found)
    }

    fn columns_of_head(&self, head: usize) -> std::ops::Range<usize> {
        let width = HookPoint::Block(0, BlockHook::Z).shape(self.model.config(), 0)[1];
        head * width..(head + 1) * width
    }

    /// The behaviour of prompts, each with the nodes of a circuit as they are and all others at their means.
    ///
    /// What an SAE reads depends on what is ablated before it, so that there is a pass up to each SAE, and one to the end; any number of cases
    /// go through them together.
    ///
    /// # Errors
    /// If a prompt has fewer than two positions; [`Error::SameAnswer`]; or as [`Model::run`].
    pub fn measure(&self, prompts: &Prompts, cases: &[(usize, Circuit)], watch: &Watch) -> Result<Vec<f64>> {
        let (cut, answers) = self.cut(prompts)?;
        let of_cases = Prompts::from_rows(cases.iter().map(|(prompt, _)| cut.get(*prompt)));
        let mut values = Vec::with_capacity(cases.len());
        each_batch(&of_cases, BATCH, "circuits", watch, |part, batch| {
            let circuits: Vec<&Circuit> = cases[batch.clone()].iter().map(|(_, circuit)| circuit).collect();
            let interventions = self.interventions(&part, &circuits, watch)?;
            let targets = part.iter().zip(&cases[batch]).enumerate().flat_map(|(case, (tokens, (prompt, _)))| {
                self.metric.targets(case, tokens.len() - 1, answers[*prompt])
            });
            let run =
                self.model.run(&part, &Ask::nothing().with_predictions(targets).watched(watch), &interventions)?;
            let each = run.predictions().len() / part.len();
            values.extend(run.predictions().chunks(each).map(Metric::value));
            Ok(())
        })?;
        Ok(values)
    }

    /// What puts the nodes of each case that are not of its circuit at their means.
    fn interventions(&self, part: &Prompts, circuits: &[&Circuit], watch: &Watch) -> Result<Vec<Intervention>> {
        let mut interventions = Vec::new();
        for (number, (layer, head)) in self.heads.iter().enumerate() {
            let number = self.directions() + self.saes.len() + number;
            let of_case = |(tokens, circuit): (&[u32], &&Circuit)| {
                if circuit.0[number] { Vec::new() } else { (0..tokens.len()).collect() }
            };
            let positions: Vec<Vec<usize>> = part.iter().zip(circuits).map(of_case).collect();
            if positions.iter().any(|positions| !positions.is_empty()) {
                let mean = self.head_means[layer][self.columns_of_head(*head)].to_vec();
                let hook = HookPoint::Block(*layer, BlockHook::Z);
                let set = Intervention::new(hook, Positions::Each(positions), Edit::Set(mean.into()));
                interventions.push(set.in_columns(Columns::Head(*head)));
            }
        }
        for &sae in &self.order {
            if circuits.iter().all(|circuit| self.keeps_all(sae, circuit)) {
                continue;
            }
            let end = &self.saes[sae].site().reads;
            let run = self.model.run(part, &Ask::capture([end.hook]).watched(watch), &interventions)?;
            let rows = Arc::new(self.mixed(sae, run.captured(end.hook), part, circuits)?);
            let set = Edit::Set(Rows::each(&rows, 0..rows.rows()));
            let set = Intervention::new(end.hook, Positions::All, set);
            interventions.push(set.in_columns(Columns::Range(end.columns())));
        }
        Ok(interventions)
    }

    fn keeps_all(&self, sae: usize, circuit: &Circuit) -> bool {
        let (directions, error) = self.of_sae(sae, circuit);
        error && directions.iter().all(|kept| *kept)
    }

    /// The rows of an SAE's site, `captured`, with what is not kept at its mean: each left-out direction and error is exchanged for its
    /// mean, so that a row of which all is kept stays as it is.
    fn mixed(&self, sae: usize, captured: &Matrix, part: &Prompts, circuits: &[&Circuit]) -> Result<Matrix> {
        let (of, means) = (&self.saes[sae], &self.means[sae]);
        let Site { acts, error } = Site::of(of, captured)?;
        let columns = of.site().reads.columns();
        // Circuits are shared by cases that lie side by side.
        let mut bases: Vec<(&Circuit, Vec<f64>)> = Vec::new();
        let mut of_row = Vec::with_capacity(captured.rows());
        for (tokens, circuit) in part.iter().zip(circuits.iter().copied()) {
            if bases.last().is_none_or(|(last, _)| !Arc::ptr_eq(&last.0, &circuit.0)) {
                bases.push((circuit, self.left_out_means(sae, circuit)));
            }
            of_row.extend(std::iter::repeat_n(bases.len() - 1, tokens.len()));
        }
        let row = |at: usize| {
            let (circuit, base) = &bases[of_row[at]];
            let x = &captured.row(at)[columns.clone()];
            if self.keeps_all(sae, circuit) {
                return x.to_vec();
            }
            let (kept, keeps_error) = self.of_sae(sae, circuit);
            let mut sum = base.clone();
            add(&mut sum, 1.0, x);
            if !keeps_error {
                add(&mut sum, 1.0, &means.error);
                add(&mut sum, -1.0, error.row(at));
            }
            let (directions, values) = acts.at(at);
            for (&direction, &value) in
                directions.iter().zip(values).filter(|(direction, _)| !kept[**direction as usize])
            {
                add(&mut sum, -f64::from(value), of.w_dec().row(direction as usize));
            }
            sum.into_iter().map(|x| x as f32).collect()
        };
        let rows: Vec<Vec<f32>> = (0..captured.rows()).into_par_iter().map(row).collect();
        Ok(Matrix::new(rows.concat(), captured.rows(), columns.len()))
    }

    /// What the directions of an SAE that are not kept contribute at their means.
    fn left_out_means(&self, sae: usize, circuit: &Circuit) -> Vec<f64> {
        let (of, means) = (&self.saes[sae], &self.means[sae]);
        let (kept, _) = self.of_sae(sae, circuit);
        let (own, others): (Vec<usize>, Vec<usize>) =
            (0..kept.len()).filter(|direction| means.directions[*direction] != 0.0).partition(|d| kept[*d]);
        let mut sum = vec![0.0; of.d_out()];
        let add_all = |directions: &[usize], sign: f64, sum: &mut Vec<f64>| {
            for &direction in directions {
                add(sum, sign * f64::from(means.directions[direction]), of.w_dec().row(direction));
            }
        };
        if others.len() <= own.len() {
            add_all(&others, 1.0, &mut sum);
        } else {
            sum.clone_from(&means.sum);
            add_all(&own, -1.0, &mut sum);
        }
        sum
    }
}

/// What an SAE makes of the rows of its site.
struct Site {
    acts: SparseActivations,
    /// What it does not reconstruct, `[rows, d_out]`.
    error: Matrix,
}

impl Site {
    fn of(sae: &Sae, captured: &Matrix) -> Result<Site> {
        let acts = sae.encode(captured)?;
        let mut error = sae.decode(&acts, captured);
        let columns = sae.site().reads.columns();
        for at in 0..error.rows() {
            error.row_mut(at).iter_mut().zip(&captured.row(at)[columns.clone()]).for_each(|(e, x)| *e = x - *e);
        }
        Ok(Site { acts, error })
    }
}

/// That directions and errors of these SAEs can be nodes of a circuit together.
///
/// # Errors
/// [`Error::NoNodes`] if one does not write what it reads, or normalises it, or shares its site with another.
pub fn check_nodes(saes: &[Sae]) -> Result<()> {
    for (number, sae) in saes.iter().enumerate() {
        let (own, parameters) = (&sae.site().reads, sae.parameters());
        let shares = |other: &Sae| {
            let end = &other.site().reads;
            end.hook == own.hook && (end.head == own.head || end.head.is_none() || own.head.is_none())
        };
        let problem = if !sae.site().is_one_place() || parameters.w_skip.is_some() {
            "writes another place than it reads"
        } else if parameters.normalisation != Normalisation::None {
            "normalises what it reads"
        } else if saes[..number].iter().any(shares) {
            "shares its site with one given before"
        } else {
            continue;
        };
        return Err(Error::NoNodes { sae: sae.name().into(), problem });
    }
    Ok(())
}

fn add(sum: &mut [f64], by: f64, row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += by * f64::from(*x));
}
