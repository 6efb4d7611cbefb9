//! A model on one prompt, linear between the directions of its SAEs.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::{Matrix, SparseActivations, View, dot, product};
use directrix_model::{
    BlockHook, Cut, Frozen, Gradients, HookPoint, Model, PositionEncoding, Quantity, Run, Scalar, Tape,
};
use directrix_sae::Sae;

use super::Node;
use crate::{Error, Result};

/// Numbers held at a time by a pass back, about.
const NUMBERS: usize = 1 << 25;
/// Scalars in a pass back, at most.
const SCALARS: usize = 256;

/// Where attention takes queries and keys, rotated or not.
const READ_BY_HEADS: [BlockHook; 6] = [
    BlockHook::Q,
    BlockHook::QNormNormalized,
    BlockHook::RotQ,
    BlockHook::K,
    BlockHook::KNormNormalized,
    BlockHook::RotK,
];

/// A model on one prompt, in which the sites of SAEs are written by their directions and errors, and which is linear between these.
pub struct Replacement<'a> {
    pub(super) model: &'a Model,
    pub(super) saes: Vec<&'a Sae>,
    /// The prompt alone.
    pub(super) prompts: Prompts,
    pub(super) watch: &'a Watch,
    /// At the sites of the SAEs, and of heads that are nodes.
    pub(super) cuts: Vec<Cut>,
    tape: Tape<'a>,
    /// All nodes but logits.
    pub(super) nodes: Vec<Node>,
    written: Vec<Written>,
    /// The mean column of the unembedding, and its bias.
    mean_logit: (Vec<f32>, f64),
}

/// What some nodes write at a hook point.
struct Written {
    hook: HookPoint,
    columns: Range<usize>,
    /// Number of the first of these nodes.
    first: usize,
    by: By,
}

enum By {
    /// The directions of an SAE, position after position, with what each has of its decoder row.
    Directions { sae: usize, acts: SparseActivations },
    /// A node for each position, with its row.
    Rows(Matrix),
}

impl<'a> Replacement<'a> {
    /// The model on the prompt `tokens`. SAEs come in the order in which the model reaches what they write. With `heads`, what heads write
    /// are nodes too, and nothing is traced further back through attention.
    ///
    /// # Errors
    /// If SAEs are in another order or two write the same place, there is no prompt or it is longer than the context, or as
    /// [`Model::run`].
    pub fn of(
        model: &'a Model,
        saes: Vec<&'a Sae>,
        tokens: &[u32],
        heads: bool,
        watch: &'a Watch,
    ) -> Result<Replacement<'a>> {
        Replacement::check_order(&saes)?;
        let config = model.config();
        let prompts = Prompts::from_rows([tokens]);
        let mut hooks: BTreeSet<HookPoint> =
            saes.iter().flat_map(|sae| [sae.site().reads.hook, sae.site().writes.hook]).collect();
        hooks.insert(HookPoint::Embed);
        let has_positions = config.encoding == PositionEncoding::Learned;
        hooks.extend(has_positions.then_some(HookPoint::PosEmbed));
        let z = |layer| HookPoint::Block(layer, BlockHook::Z);
        // A head that is looked into is read where attention takes its queries and keys.
        let all = HookPoint::all(config).into_iter();
        hooks.extend(all.filter(|hook| matches!(hook, HookPoint::Block(_, hook) if READ_BY_HEADS.contains(hook))));
        hooks.extend((0..config.n_layers).map(z).chain([HookPoint::UnembedIn]));
        let hooks: Vec<HookPoint> = hooks.into_iter().collect();
        let tape = model.tape(&prompts, HookPoint::Embed, &hooks, &[], watch)?;

        let mut found = Replacement {
            model,
            saes,
            prompts,
            watch,
            cuts: Vec::new(),
            tape,
            nodes: Vec::new(),
            written: Vec::new(),
            mean_logit: mean_logit(model),
        };
        for sae in 0..found.saes.len() {
            found.add_sae(sae)?;
        }
        if heads {
            for cut in found.uncut_heads() {
                let (layer, head) = (cut.hook.layer().unwrap_or(0), cut.columns.start / config.attention.d_head);
                let rows = found.run().captured(cut.hook).columns_of(cut.columns.clone());
                found.add_rows(cut.hook, cut.columns.clone(), rows, |position| Node::Head { layer, head, position });
                found.cuts.push(cut);
            }
        }
        let all = 0..config.d_model;
        let token = |position: usize| Node::Token { token: tokens[position], position };
        found.add_rows(HookPoint::Embed, all.clone(), found.run().captured(HookPoint::Embed).clone(), token);
        if has_positions {
            let rows = found.run().captured(HookPoint::PosEmbed).clone();
            found.add_rows(HookPoint::PosEmbed, all, rows, |position| Node::Position { position });
        }
        Ok(found)
    }

    /// That SAEs come in the order of what they write, and write different places: that there can be a graph of them.
    ///
    /// # Errors
    /// If not.
    pub fn check_order(saes: &[&Sae]) -> Result<()> {
        if saes.is_empty() {
            return Err(Error::Graph { problem: "there is no SAE whose directions could be nodes; give one".into() });
        }
        for pair in saes.windows(2) {
            let [first, second] = [&pair[0].site().writes, &pair[1].site().writes];
            if first.hook > second.hook {
                return Err(Error::Order {
                    first: pair[0].name().into(),
                    first_layer: first.layer(),
                    second: pair[1].name().into(),
                    second_layer: second.layer(),
                });
            }
        }
        for (number, one) in saes.iter().enumerate() {
            let cut =
                |sae: &Sae| Cut { hook: sae.site().writes.hook, columns: sae.site().writes.columns(), skip: None };
            if let Some(other) = saes[..number].iter().find(|other| overlap(&cut(one), &cut(other))) {
                let (one, other, site) = (one.name(), other.name(), &one.site().writes);
                let problem = format!("{other} and {one} both stand for {site}, which only one can; leave one out");
                return Err(Error::Graph { problem });
            }
        }
        Ok(())
    }

    /// All nodes but logits: what a graph chooses from.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The prompt.
    pub fn tokens(&self) -> &[u32] {
        self.prompts.get(0)
    }

    /// The plain run.
    pub(super) fn run(&self) -> &Run {
        self.tape.run()
    }

    pub(super) fn last(&self) -> usize {
        self.tokens().len() - 1
    }

    /// Adds the directions and errors of an SAE, and cuts its site.
    fn add_sae(&mut self, number: usize) -> Result<()> {
        let sae = self.saes[number];
        let (reads, writes) = (&sae.site().reads, &sae.site().writes);
        let read = self.tape.run().captured(reads.hook);
        let acts = sae.encode(read)?;
        let mut errors = self.tape.run().captured(writes.hook).columns_of(writes.columns());
        let recon = sae.decode(&acts, read);
        errors.data_mut().iter_mut().zip(recon.data()).for_each(|(x, recon)| *x -= recon);

        let mut shares = Vec::with_capacity(acts.active());
        let first = self.nodes.len();
        for position in 0..acts.positions() {
            let unit = sae.unit(read.row(position));
            let (directions, values) = acts.at(position);
            shares.extend(values.iter().map(|value| unit * value));
            self.nodes.extend(directions.iter().map(|&direction| Node::Direction { sae: number, direction, position }));
        }
        let (hook, columns) = (writes.hook, writes.columns());
        let by = By::Directions { sae: number, acts: acts.with_values(shares) };
        self.written.push(Written { hook, columns: columns.clone(), first, by });
        self.add_rows(hook, columns.clone(), errors, |position| Node::Error { sae: number, position });
        let skip = |w: &Matrix| (reads.hook, reads.columns(), Arc::new(w.clone()));
        self.cuts.push(Cut { hook, columns, skip: sae.parameters().w_skip.as_ref().map(skip) });
        Ok(())
    }

    fn add_rows(&mut self, hook: HookPoint, columns: Range<usize>, rows: Matrix, node: impl Fn(usize) -> Node) {
        let first = self.nodes.len();
        self.nodes.extend((0..rows.rows()).map(node));
        self.written.push(Written { hook, columns, first, by: By::Rows(rows) });
    }

    /// A cut at what each head reads, but for those at whose site an SAE is.
    pub(super) fn uncut_heads(&self) -> Vec<Cut> {
        let config = self.model.config();
        let d = config.attention.d_head;
        let heads = (0..config.n_layers).flat_map(|layer| (0..config.attention.query_heads).map(move |h| (layer, h)));
        let cuts = heads.map(|(layer, head)| Cut {
            hook: HookPoint::Block(layer, BlockHook::Z),
            columns: head * d..(head + 1) * d,
            skip: None,
        });
        let is_cut = |cut: &Cut| self.cuts.iter().any(|other| overlap(cut, other));
        cuts.filter(|cut| !is_cut(cut)).collect()
    }

    /// What is differentiated for a direction, by its number among the nodes, and what is added to it then.
    pub(super) fn of_direction(&self, node: usize) -> Option<(Scalar, f64)> {
        let Node::Direction { sae, direction, position } = self.nodes[node] else { return None };
        let hook = self.saes[sae].site().reads.hook;
        let (by, bias) = self.saes[sae].linear(self.run().captured(hook).row(position), direction);
        Some((Scalar::of(0, position, Quantity::Along { hook, direction: by.into() }), bias))
    }

    /// The same for a logit, less the mean logit; before any soft cap.
    pub(super) fn of_logit(&self, token: u32) -> Result<(Scalar, f64)> {
        let (weights, vocabulary) = (self.model.weights(), self.model.config().d_vocab);
        if token as usize >= vocabulary {
            return Err(Error::Token { token, vocabulary });
        }
        let column = weights.w_u.view().columns_at(&[token as usize]).into_data();
        let by: Vec<f32> = column.iter().zip(&self.mean_logit.0).map(|(x, mean)| x - mean).collect();
        let bias = f64::from(weights.b_u[token as usize]) - self.mean_logit.1;
        let along = Quantity::Along { hook: HookPoint::UnembedIn, direction: by.into() };
        Ok((Scalar::of(0, self.last(), along), bias))
    }

    /// How many scalars are traced back together.
    pub(super) fn block(&self) -> usize {
        let config = self.model.config();
        let width = |hook: HookPoint| hook.shape(config, 0).iter().product::<usize>();
        let kept: usize = self.hooks().iter().map(|hook| width(*hook)).sum();
        let working =
            4 * config.d_model + 3 * config.mlp.d_mlp + 4 * config.attention.query_heads * config.attention.d_head;
        let of_one = self.tokens().len() * (kept + working) + self.nodes.len();
        (NUMBERS / of_one).clamp(1, SCALARS)
    }

    fn hooks(&self) -> Vec<HookPoint> {
        let hooks: BTreeSet<HookPoint> = self.written.iter().map(|written| written.hook).collect();
        hooks.into_iter().collect()
    }

    /// The derivatives of scalars where nodes write and at `more` hook points, cut at the nodes' sites and `also`.
    pub(super) fn gradients(&self, scalars: &[Scalar], also: &[Cut], more: &[HookPoint]) -> Result<Gradients> {
        let hooks: BTreeSet<HookPoint> = self.hooks().into_iter().chain(more.iter().copied()).collect();
        let hooks: Vec<HookPoint> = hooks.into_iter().collect();
        let cuts: Vec<Cut> = self.cuts.iter().chain(also).cloned().collect();
        let frozen = Frozen { norms: true, patterns: true };
        Ok(self.tape.gradients(&hooks, scalars, frozen, &cuts)?)
    }

    /// What every node adds to each of so many scalars, `[scalars, nodes]`.
    pub(super) fn added(&self, gradients: &Gradients, scalars: usize) -> Result<Matrix> {
        let mut out = Matrix::zeros(scalars, self.nodes.len());
        for Written { hook, columns, first, by } in &self.written {
            let of: Vec<View> = (0..scalars).map(|scalar| gradients.of(scalar, *hook)).collect();
            let at = |scalar: usize, position: usize| -> Option<&[f32]> {
                let g = (position < of[scalar].rows()).then(|| &of[scalar].row(position)[columns.clone()])?;
                g.iter().any(|x| *x != 0.0).then_some(g)
            };
            for position in 0..self.tokens().len() {
                let reached = (0..scalars).filter_map(|scalar| Some((scalar, at(scalar, position)?)));
                let (reached, g): (Vec<usize>, Vec<&[f32]>) = reached.unzip();
                match by {
                    _ if reached.is_empty() => {}
                    By::Rows(rows) => {
                        for (&scalar, g) in reached.iter().zip(g) {
                            out.row_mut(scalar)[first + position] = dot(g, rows.row(position)) as f32;
                        }
                    }
                    By::Directions { sae, acts } => {
                        let (directions, values) = acts.at(position);
                        let own = first + acts.indptr()[position]..first + acts.indptr()[position + 1];
                        let w = self.saes[*sae].w_dec().gather(directions.iter().map(|d| *d as usize));
                        let mut along = Matrix::zeros(reached.len(), directions.len());
                        product(Matrix::from_rows(&g).view(), w.view().transposed(), &mut along, false);
                        for (&scalar, along) in reached.iter().zip(along.iter_rows()) {
                            let out = &mut out.row_mut(scalar)[own.clone()];
                            out.iter_mut().zip(along.iter().zip(values)).for_each(|(out, (x, value))| *out = x * value);
                        }
                    }
                }
            }
        }
        if let Some((_, node)) = out.first_not_finite() {
            let problem = format!(
                "what {:?} adds is not finite; the weights are too large for single precision",
                self.nodes[node]
            );
            return Err(Error::Graph { problem });
        }
        Ok(out)
    }
}

fn overlap(one: &Cut, other: &Cut) -> bool {
    let (a, b) = (&one.columns, &other.columns);
    one.hook == other.hook && a.start < b.end && b.start < a.end
}

/// The mean over the vocabulary of the unembedding's columns and of its bias.
fn mean_logit(model: &Model) -> (Vec<f32>, f64) {
    let mean = |numbers: &[f32]| numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / numbers.len() as f64;
    let weights = model.weights();
    let w_u = weights.w_u.to_matrix();
    (w_u.iter_rows().map(|row| mean(row) as f32).collect(), mean(&weights.b_u))
}
