//! What a pass computes, settled before it begins.

use std::collections::BTreeMap;
use std::ops::Range;

use directrix_kernels::Matrix;

use super::StageName;
use crate::intervention::RowEdit;
use crate::{BlockHook, Config, HookPoint, Spot};

/// Consecutive positions of one prompt.
#[derive(Debug, Clone)]
pub(crate) struct Part<'a> {
    pub(crate) tokens: &'a [u32],
    /// Position of the first row in its prompt.
    pub(crate) start: usize,
    /// Rows of the earlier pass that hold the positions before `start`.
    pub(crate) before: Range<usize>,
}

/// The changes to make, by hook point. Their spots are of parts.
pub(crate) type Edits<'a> = BTreeMap<HookPoint, Vec<RowEdit<'a>>>;

/// What a pass is to bring back. Spots are of parts.
#[derive(Default)]
pub(crate) struct Returns {
    pub(crate) captures: BTreeMap<HookPoint, Vec<Spot>>,
    /// Spots of which the final norm's output is wanted.
    pub(crate) finals: Vec<Spot>,
    /// A stage to keep for resuming, and the spots that may be computed again.
    pub(crate) keep: Option<(StageName, Vec<Spot>)>,
    /// Whether to keep keys and values.
    pub(crate) keep_keys: bool,
    /// Positions of the longest prompt: the width of captured scores and patterns.
    pub(crate) longest: usize,
}

/// The rows of the pass's matrices at some depth: consecutive positions of each part, part after part.
#[derive(Debug, Clone)]
pub(super) struct PartRows {
    /// By part, the positions.
    spans: Vec<Range<usize>>,
    /// By part, the first row.
    first: Vec<usize>,
}

/// Where a pass ends.
#[derive(Clone, Copy)]
enum Last {
    /// Behind this hook point.
    At(HookPoint),
    /// When this stage is reached.
    Before(StageName),
}

/// What a pass computes.
pub(crate) struct Plan<'a> {
    parts: Vec<Part<'a>>,
    /// Every position of the parts.
    all: PartRows,
    /// In the last block whose attention is computed, positions of which nothing is wanted need keys and values only: from
    /// this block's queries on, these rows are all there are.
    few: Option<(usize, PartRows)>,
    edits: BTreeMap<HookPoint, Vec<(usize, RowEdit<'a>)>>,
    captures: BTreeMap<HookPoint, Vec<usize>>,
    finals: Vec<usize>,
    keep: Option<StageName>,
    keep_keys: bool,
    last: Last,
    longest: usize,
    parallel: bool,
}

impl<'a> Plan<'a> {
    /// The plan of a pass over `parts` from the stage `from` on.
    pub(crate) fn new(
        config: &Config,
        from: StageName,
        parts: Vec<Part<'a>>,
        edits: Edits<'a>,
        wanted: Returns,
    ) -> Plan<'a> {
        let Returns { captures, finals, keep, keep_keys, longest } = wanted;
        let (keep, kept) = keep.unzip();
        let deepest = captures.keys().next_back().copied().max((!finals.is_empty()).then_some(HookPoint::UnembedIn));
        let last = match (deepest, keep) {
            (None, keep) => Last::Before(keep.unwrap_or(from)),
            (Some(hook), Some(keep)) if StageName::of(hook, config.n_layers).is_before(keep) => Last::Before(keep),
            (Some(hook), _) => Last::At(hook),
        };
        let last_attention = match last {
            Last::At(hook) => hook.layer().or(config.n_layers.checked_sub(1)),
            Last::Before(stage) => stage.last_attention(config.n_layers),
        };
        let all = PartRows::new(parts.iter().map(|part| part.start..part.start + part.tokens.len()).collect());
        let few = last_attention.filter(|layer| !StageName::Attention(*layer).is_before(from)).and_then(|layer| {
            let behind = captures.range(HookPoint::Block(layer, BlockHook::Q)..).flat_map(|(_, spots)| spots);
            let rows = all.around(behind.chain(&finals).chain(kept.iter().flatten()));
            (rows.spans != all.spans).then_some((layer, rows))
        });
        let mut plan = Plan {
            parts,
            all,
            few,
            edits: BTreeMap::new(),
            captures: BTreeMap::new(),
            finals: Vec::new(),
            keep,
            keep_keys,
            last,
            longest,
            parallel: config.parallel,
        };
        plan.captures = captures.iter().map(|(hook, spots)| (*hook, plan.rows(*hook).rows_of(spots))).collect();
        plan.finals = plan.rows(HookPoint::UnembedIn).rows_of(&finals);
        let of_rows = |(hook, edits): (HookPoint, Vec<RowEdit<'a>>)| {
            let rows = plan.rows(hook);
            // An edit of a row that is not computed changes nothing that is wanted.
            (hook, edits.into_iter().filter_map(|edit| Some((rows.row_of(edit.spot)?, edit))).collect())
        };
        plan.edits = edits.into_iter().map(of_rows).collect();
        plan
    }

    pub(super) fn parts(&self) -> &[Part<'a>] {
        &self.parts
    }

    /// The tokens of all parts.
    pub(super) fn tokens(&self) -> Vec<u32> {
        self.parts.iter().flat_map(|part| part.tokens).copied().collect()
    }

    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The rows at a hook point.
    pub(super) fn rows(&self, hook: HookPoint) -> &PartRows {
        match &self.few {
            Some((layer, rows)) if hook >= HookPoint::Block(*layer, BlockHook::Q) => rows,
            _ => &self.all,
        }
    }

    /// The rows that a stage begins with.
    pub(super) fn rows_at(&self, stage: StageName) -> &PartRows {
        match &self.few {
            Some((layer, rows)) if StageName::Attention(*layer).is_before(stage) => rows,
            _ => &self.all,
        }
    }

    /// The rows that stay from the queries of `layer` on, if they are fewer than before.
    pub(super) fn narrowed(&self, layer: usize) -> Option<Narrowed> {
        let (_, few) = self.few.as_ref().filter(|few| few.0 == layer)?;
        let among = |((all, first), few): ((&Range<usize>, &usize), &Range<usize>)| {
            let start = first + few.start - all.start;
            start..start + few.len()
        };
        Some(Narrowed { among: self.all.spans.iter().zip(&self.all.first).zip(&few.spans).map(among).collect() })
    }

    pub(super) fn edits(&self, hook: HookPoint) -> &[(usize, RowEdit<'a>)] {
        self.edits.get(&hook).map_or(&[], Vec::as_slice)
    }

    /// The rows to capture at `hook`, if it is asked for.
    pub(super) fn captures(&self, hook: HookPoint) -> Option<&[usize]> {
        self.captures.get(&hook).map(Vec::as_slice)
    }

    /// Whether there is anything to do at `hook`.
    pub(super) fn visits(&self, hook: HookPoint) -> bool {
        self.edits.contains_key(&hook) || self.captures.contains_key(&hook)
    }

    pub(super) fn finals(&self) -> &[usize] {
        &self.finals
    }

    pub(super) fn keeps(&self, stage: StageName) -> bool {
        self.keep == Some(stage)
    }

    pub(super) fn keeps_keys(&self) -> bool {
        self.keep_keys
    }

    pub(super) fn ends_at(&self, hook: HookPoint) -> bool {
        matches!(self.last, Last::At(last) if last == hook)
    }

    pub(super) fn ends_before(&self, stage: StageName) -> bool {
        matches!(self.last, Last::Before(last) if last == stage)
    }

    /// Whether block `layer` attends: in a parallel one the MLP does not need it when the pass ends inside.
    pub(super) fn attends(&self, layer: usize) -> bool {
        let ends_inside = matches!(self.last, Last::At(last) if last < HookPoint::Block(layer, BlockHook::ResidPost));
        let own = HookPoint::Block(layer, BlockHook::AttnIn)..HookPoint::Block(layer, BlockHook::MlpIn);
        !self.parallel || self.keep_keys || !ends_inside || self.captures.range(own).next().is_some()
    }
}

impl PartRows {
    fn new(spans: Vec<Range<usize>>) -> PartRows {
        let first = |row: &mut usize, span: &Range<usize>| Some(std::mem::replace(row, *row + span.len()));
        let first = spans.iter().scan(0, first).collect();
        PartRows { spans, first }
    }

    /// Of each part, from the first to the last of these spots; none where there are none.
    fn around<'s>(&self, spots: impl Iterator<Item = &'s Spot>) -> PartRows {
        let mut spans: Vec<Option<Range<usize>>> = vec![None; self.spans.len()];
        for &Spot { prompt, position } in spots {
            let span = spans[prompt].get_or_insert(position..position + 1);
            *span = span.start.min(position)..span.end.max(position + 1);
        }
        let of_part = |(span, all): (Option<Range<usize>>, &Range<usize>)| span.unwrap_or(all.start..all.start);
        PartRows::new(spans.into_iter().zip(&self.spans).map(of_part).collect())
    }

    /// By part, the positions.
    pub(super) fn spans(&self) -> &[Range<usize>] {
        &self.spans
    }

    /// The first row of a part.
    pub(super) fn first_of(&self, part: usize) -> usize {
        self.first[part]
    }

    /// By row, the position.
    pub(super) fn positions(&self) -> Vec<usize> {
        self.spans.iter().cloned().flatten().collect()
    }

    /// The row of a spot, if there is one.
    fn row_of(&self, Spot { prompt, position }: Spot) -> Option<usize> {
        let span = &self.spans[prompt];
        span.contains(&position).then(|| self.first[prompt] + position - span.start)
    }

    fn rows_of(&self, spots: &[Spot]) -> Vec<usize> {
        spots.iter().map(|spot| self.row_of(*spot).expect("what is wanted is among the rows")).collect()
    }
}

/// Where rows that are fewer than those before stood among these, by part.
pub(super) struct Narrowed {
    among: Vec<Range<usize>>,
}

impl Narrowed {
    /// The rows of a part among those before.
    pub(super) fn of_part(&self, part: usize) -> Range<usize> {
        self.among[part].clone()
    }

    /// The rows that stay, of those before.
    pub(super) fn gather(&self, value: &Matrix) -> Matrix {
        value.gather(self.among.iter().cloned().flatten().collect::<Vec<_>>().into_iter())
    }

    /// Where a row from before stands now, if it stays.
    pub(super) fn row_now(&self, row: usize) -> Option<usize> {
        let part = self.among.partition_point(|rows| rows.end <= row);
        let rows = self.among.get(part).filter(|rows| rows.contains(&row))?;
        Some(self.among[..part].iter().map(Range::len).sum::<usize>() + row - rows.start)
    }
}
