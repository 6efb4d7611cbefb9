//! Parts of the model whose values are exchanged for others: prompts are run once, every exchange goes on from there.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use directrix_corpus::{Event, Watch};
use directrix_kernels::Matrix;
use directrix_model::{
    Ask, BlockHook, Case, Columns, Config, Edit, HookPoint, Intervention, Positions, Prediction, Rows, Run, Session,
    Target,
};

use crate::Result;
use crate::change::random_row;

/// Positions computed again in one resumed pass, about.
const COMPUTED: usize = 2048;

/// A part of a block that writes to the residual stream, or the stream itself as the block finds it. In the order of the pass; shown
/// by the labels of TransformerLens: `0_resid_pre`, `L0H3`, `0_attn_out`, `0_mlp_out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelPart {
    /// The residual stream before block `.0`.
    Residual(usize),
    /// Head `.1` of block `.0`: what it read, before `W_O`.
    Head(usize, usize),
    /// What attention of block `.0` adds to the residual stream.
    Attention(usize),
    /// What the MLP of block `.0` adds to it.
    Mlp(usize),
}

impl ModelPart {
    /// Every part of a model, block by block.
    pub fn all(config: &Config) -> Vec<ModelPart> {
        let of_block = |layer| {
            let heads = (0..config.attention.query_heads).map(move |head| ModelPart::Head(layer, head));
            let rest = [ModelPart::Attention(layer), ModelPart::Mlp(layer)];
            [ModelPart::Residual(layer)].into_iter().chain(heads).chain(rest)
        };
        (0..config.n_layers).flat_map(of_block).collect()
    }

    /// Its block.
    pub fn layer(self) -> usize {
        match self {
            ModelPart::Residual(layer)
            | ModelPart::Head(layer, _)
            | ModelPart::Attention(layer)
            | ModelPart::Mlp(layer) => layer,
        }
    }

    /// The hook point whose values are exchanged.
    pub fn hook(self) -> HookPoint {
        let hook = match self {
            ModelPart::Residual(_) => BlockHook::ResidPre,
            ModelPart::Head(..) => BlockHook::Z,
            ModelPart::Attention(_) => BlockHook::AttnOut,
            ModelPart::Mlp(_) => BlockHook::MlpOut,
        };
        HookPoint::Block(self.layer(), hook)
    }

    /// Where the residual stream gets what it writes.
    pub(crate) fn written_at(self) -> HookPoint {
        match self {
            ModelPart::Head(layer, _) => HookPoint::Block(layer, BlockHook::AttnOut),
            other => other.hook(),
        }
    }

    /// Where a pass goes on from that exchanges it.
    fn resumed_at(self) -> HookPoint {
        match self {
            ModelPart::Mlp(layer) => HookPoint::Block(layer, BlockHook::MlpOut),
            other => HookPoint::Block(other.layer(), BlockHook::ResidPre),
        }
    }

    /// Its own columns of a row at its hook point.
    pub(crate) fn columns_of(self, config: &Config) -> Range<usize> {
        match self {
            ModelPart::Head(_, head) => head * config.attention.d_head..(head + 1) * config.attention.d_head,
            _ => 0..self.hook().shape(config, 0).iter().product(),
        }
    }

    fn columns(self) -> Columns {
        match self {
            ModelPart::Head(_, head) => Columns::Head(head),
            _ => Columns::All,
        }
    }

    /// Its own numbers of a row at its hook point.
    pub(crate) fn of_row(self, config: &Config, row: &[f32]) -> Vec<f32> {
        row[self.columns_of(config)].to_vec()
    }
}

impl fmt::Display for ModelPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelPart::Residual(layer) => write!(f, "{layer}_resid_pre"),
            ModelPart::Head(layer, head) => write!(f, "L{layer}H{head}"),
            ModelPart::Attention(layer) => write!(f, "{layer}_attn_out"),
            ModelPart::Mlp(layer) => write!(f, "{layer}_mlp_out"),
        }
    }
}

/// A part in one prompt that is given other values, at consecutive positions.
pub(crate) struct Exchange {
    pub(crate) prompt: usize,
    pub(crate) part: ModelPart,
    /// The first of the positions.
    pub(crate) first: usize,
    pub(crate) edit: Exchanged,
    /// One row for each position.
    pub(crate) rows: Matrix,
}

/// What rows are to what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchanged {
    /// They take its place.
    Set,
    /// They are added to it.
    Add,
}

impl Exchange {
    /// Rows in place of those that are there from position `first` on.
    pub(crate) fn set(prompt: usize, part: ModelPart, first: usize, rows: Matrix) -> Exchange {
        Exchange { prompt, part, first, edit: Exchanged::Set, rows }
    }

    /// The control of an exchange of `before`: as large a difference at each position along a random row, drawn by `seed`.
    pub(crate) fn random(&self, before: &Matrix, seed: u64) -> Exchange {
        let of = |(position, (new, old)): (usize, (&[f32], &[f32]))| {
            let difference: Vec<f32> = new.iter().zip(old).map(|(new, old)| new - old).collect();
            if difference.iter().all(|x| *x == 0.0) {
                return difference;
            }
            random_row(&difference, seed, position as u32)
        };
        let rows: Vec<Vec<f32>> = self.rows.iter_rows().zip(before.iter_rows()).enumerate().map(of).collect();
        Exchange { edit: Exchanged::Add, rows: Matrix::from_rows(&rows), ..*self }
    }

    fn intervention(&self) -> Intervention {
        let rows = Rows::each(&Arc::new(self.rows.clone()), 0..self.rows.rows());
        let edit = match self.edit {
            Exchanged::Set => Edit::Set(rows),
            Exchanged::Add => Edit::Add(rows),
        };
        let positions = Positions::At((self.first..self.first + self.rows.rows()).collect());
        Intervention::new(self.part.hook(), positions, edit).in_columns(self.part.columns())
    }
}

/// What is seen at the last position of a prompt with an exchange made.
pub(crate) struct Seen<'r> {
    run: &'r Run,
    /// The case's number in the run.
    case: usize,
    from: HookPoint,
    /// How the prompt's targets are predicted.
    pub(crate) predictions: &'r [Prediction],
}

impl Seen<'_> {
    /// The values at `hook`, one of those asked for; `None` if the exchange comes behind it.
    pub(crate) fn captured(&self, hook: HookPoint) -> Option<&[f32]> {
        (hook >= self.from).then(|| self.run.captured(hook).row(self.case))
    }
}

/// Makes every exchange, many at a time, and hands out with its number what is then seen at the last position of its prompt: how
/// `targets[prompt]` are predicted, and what is at `captures`. The session must keep from the first block's beginning on, at the
/// positions exchanged and those behind them, and reach the unembedding.
pub(crate) fn each_exchange<'m>(
    mut session: Session<'m>,
    targets: &[Vec<u32>],
    exchanges: &[Exchange],
    captures: &[HookPoint],
    watch: &Watch,
    mut seen: impl FnMut(usize, Seen) -> Result<()>,
) -> Result<Session<'m>> {
    let from = |number: &usize| exchanges[*number].part.resumed_at();
    let last = |session: &Session, number: usize| session.prompts().get(exchanges[number].prompt).len() - 1;
    let mut order: Vec<usize> = (0..exchanges.len()).collect();
    order.sort_by_key(from);
    let mut done = 0;
    for group in order.chunk_by(|a, b| from(a) == from(b)) {
        let from = from(&group[0]);
        session = session.advance(from)?;
        let mut rest = group;
        while !rest.is_empty() {
            let mut computed = 0;
            let fits = |number: &&usize| {
                let before = computed;
                computed += last(&session, **number) + 1 - exchanges[**number].first;
                before < COMPUTED
            };
            let n = rest.iter().take_while(fits).count();
            let (now, later) = rest.split_at(n);
            let cases: Vec<Case> = now
                .iter()
                .map(|&number| Case {
                    prompt: exchanges[number].prompt,
                    until: last(&session, number),
                    interventions: vec![exchanges[number].intervention()],
                })
                .collect();
            let wanted = cases.iter().enumerate().flat_map(|(case, of)| {
                targets[of.prompt].iter().map(move |&token| Target { prompt: case, position: of.until, token })
            });
            let ask = Ask::nothing().watched(watch).with_predictions(wanted);
            let ask = captures
                .iter()
                .filter(|hook| **hook >= from)
                .fold(ask, |ask, hook| ask.with_capture(*hook, Positions::FromEnd(1)));
            let run = session.resume(&cases, &ask)?;
            let mut predictions = run.predictions();
            for (case, (&number, of)) in now.iter().zip(&cases).enumerate() {
                let (own, others) = predictions.split_at(targets[of.prompt].len());
                predictions = others;
                seen(number, Seen { run: &run, case, from, predictions: own })?;
            }
            (rest, done) = (later, done + n);
            watch.tell(Event::new("exchanges", done as u64, "exchanges").of(exchanges.len() as u64));
        }
    }
    Ok(session)
}
