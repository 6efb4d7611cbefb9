//! Interventions: changes made at a hook point, as data.

use std::ops::Range;
use std::sync::Arc;

use directrix_corpus::Prompts;
use directrix_kernels::{Matrix, dot};
use serde::{Deserialize, Serialize};

use crate::positions::Lengths;
use crate::{BlockHook, Config, Error, HookPoint, Positions, Result, Spot};

/// A change made at a hook point at some positions.
///
/// ```
/// use directrix_model::{Columns, Edit, Intervention, Positions};
///
/// let ablate = Intervention::new("blocks.0.attn.hook_z".parse()?, Positions::FromEnd(2), Edit::Zero).in_columns(Columns::Head(3));
/// let json = serde_json::to_string(&ablate)?;
/// assert_eq!(json, r#"{"hook":"blocks.0.attn.hook_z","positions":{"from_end":2},"columns":{"head":3},"edit":"zero"}"#);
/// assert_eq!(serde_json::from_str::<Intervention>(&json)?, ablate);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervention {
    /// Where.
    pub hook: HookPoint,
    /// At which positions of each prompt.
    pub positions: Positions,
    /// In which columns of a position's row.
    #[serde(default)]
    pub columns: Columns,
    /// What is done there.
    pub edit: Edit,
}

/// Columns of a position's row at a hook point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Columns {
    /// All of them.
    #[default]
    All,
    /// Those of one head, where a row has one part per head; at attention scores and patterns, that head's.
    Head(usize),
    /// These; not at attention scores and patterns, whose rows differ in length.
    Range(Range<usize>),
}

/// What is done to a position's row, or to some columns of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Set to zero.
    Zero,
    /// Replace by a row.
    Set(Rows),
    /// Add a row.
    Add(Rows),
    /// Multiply by a number.
    Scale(f32),
    /// Remove the component along a row.
    Project(Rows),
}

/// The rows of an edit, as wide as its columns: one for every position, or one for each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Listed", into = "Listed")]
pub struct Rows {
    /// Shared, so that many interventions may have rows of one matrix.
    matrix: Arc<Matrix>,
    /// Its rows that are used; `None`: its only row, at every position.
    each: Option<Range<usize>>,
}

/// [`Rows`] as they are written down.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Listed {
    // First, so that an empty list is no rows and not a row of no numbers.
    Each(Vec<Vec<f32>>),
    Every(Vec<f32>),
}

impl PartialEq for Rows {
    fn eq(&self, other: &Rows) -> bool {
        self.each.is_some() == other.each.is_some() && self.iter().eq(other.iter())
    }
}

impl Rows {
    /// The same row at every position.
    pub fn every(row: impl Into<Vec<f32>>) -> Rows {
        let row = row.into();
        let width = row.len();
        Rows { matrix: Arc::new(Matrix::new(row, 1, width)), each: None }
    }

    /// Row `rows.start` of a matrix at the first position, the next at the next: in the order of the intervention's
    /// positions, prompt after prompt.
    ///
    /// # Panics
    /// If the matrix has not all these rows.
    pub fn each(matrix: &Arc<Matrix>, rows: Range<usize>) -> Rows {
        assert!(rows.start <= rows.end && rows.end <= matrix.rows(), "rows {rows:?} of {}", matrix.rows());
        Rows { matrix: matrix.clone(), each: Some(rows) }
    }

    fn width(&self) -> usize {
        self.matrix.columns()
    }

    /// The row of the `i`th position.
    fn row(&self, i: usize) -> &[f32] {
        self.matrix.row(self.each.as_ref().map_or(0, |rows| rows.start + i))
    }

    /// All rows that are used.
    fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.each.clone().unwrap_or(0..1).map(|row| self.matrix.row(row))
    }
}

impl<R: Into<Vec<f32>>> From<R> for Rows {
    fn from(row: R) -> Rows {
        Rows::every(row)
    }
}

impl From<Rows> for Listed {
    fn from(rows: Rows) -> Listed {
        match rows.each {
            None => Listed::Every(rows.row(0).to_vec()),
            Some(_) => Listed::Each(rows.iter().map(<[f32]>::to_vec).collect()),
        }
    }
}

impl TryFrom<Listed> for Rows {
    type Error = String;

    fn try_from(listed: Listed) -> Result<Rows, String> {
        let rows = match listed {
            Listed::Every(row) => return Ok(Rows::every(row)),
            Listed::Each(rows) => rows,
        };
        let width = rows.first().map_or(0, Vec::len);
        if let Some(odd) = rows.iter().position(|row| row.len() != width) {
            return Err(format!("row {odd} has {} numbers, the first {width}; give all the same", rows[odd].len()));
        }
        Ok(Rows::each(&Arc::new(Matrix::new(rows.concat(), rows.len(), width)), 0..rows.len()))
    }
}

impl Edit {
    fn rows(&self) -> Option<&Rows> {
        match self {
            Edit::Set(rows) | Edit::Add(rows) | Edit::Project(rows) => Some(rows),
            Edit::Zero | Edit::Scale(_) => None,
        }
    }

    /// Edits the columns `values` of the `i`th position.
    fn apply(&self, i: usize, values: &mut [f32]) {
        match self {
            Edit::Zero => values.fill(0.0),
            Edit::Set(rows) => values.copy_from_slice(rows.row(i)),
            Edit::Add(rows) => values.iter_mut().zip(rows.row(i)).for_each(|(x, a)| *x += a),
            // A score of -inf says that a position is not seen; it stays so.
            Edit::Scale(by) => values.iter_mut().filter(|x| **x > f32::NEG_INFINITY).for_each(|x| *x *= by),
            Edit::Project(rows) => {
                let along = rows.row(i);
                let square = dot(along, along);
                let share = if square > 0.0 { (dot(values, along) / square) as f32 } else { 0.0 };
                values.iter_mut().zip(along).for_each(|(x, a)| *x -= share * a);
            }
        }
    }
}

impl Intervention {
    /// An intervention at `hook`, in all columns.
    pub fn new(hook: HookPoint, positions: Positions, edit: Edit) -> Intervention {
        Intervention { hook, positions, columns: Columns::All, edit }
    }

    /// The same in some columns only.
    #[must_use]
    pub fn in_columns(mut self, columns: Columns) -> Intervention {
        self.columns = columns;
        self
    }

    /// The intervention as it is in each prompt of a batch, with the rows that are for its positions: what the [cases](crate::Case) of a
    /// session are made of.
    ///
    /// # Errors
    /// If a position does not exist, or there are other rows than positions.
    pub fn of_each(&self, prompts: &Prompts) -> Result<Vec<Intervention>> {
        let lengths = Lengths::of(prompts);
        let mut before = 0;
        let mut of_prompt = |prompt| {
            let at = lengths.in_prompt(prompt, &self.positions)?;
            let own = before..before + at.len();
            before = own.end;
            let mut made = Intervention { positions: Positions::At(at), ..self.clone() };
            if let Edit::Set(rows) | Edit::Add(rows) | Edit::Project(rows) = &mut made.edit
                && let Some(each) = &mut rows.each
            {
                if each.len() < own.end {
                    let problem = format!("{} rows for {} positions and more", each.len(), own.end);
                    return Err(Error::Intervention { hook: self.hook.to_string(), problem });
                }
                *each = each.start + own.start..each.start + own.end;
            }
            Ok(made)
        };
        let made = (0..prompts.len()).map(&mut of_prompt).collect::<Result<Vec<_>>>()?;
        match self.edit.rows().and_then(|rows| rows.each.as_ref()) {
            Some(each) if each.len() != before => {
                let problem = format!("{} rows for {before} positions", each.len());
                Err(Error::Intervention { hook: self.hook.to_string(), problem })
            }
            _ => Ok(made),
        }
    }

    /// The edits of single rows: at `spots`, the positions of the intervention in their order. Checks that the
    /// intervention fits the model.
    pub(crate) fn row_edits<'a>(&'a self, config: &Config, spots: &[Spot]) -> Result<Vec<RowEdit<'a>>> {
        check_changeable(self.hook, config)?;
        let problem = |problem: String| Error::Intervention { hook: self.hook.to_string(), problem };
        let by_key = is_by_key(self.hook);
        let shape = self.hook.shape(config, 0);
        let width: usize = shape.iter().product();
        let columns = match self.columns {
            Columns::All => 0..width,
            Columns::Head(_) if shape.len() < 2 => return Err(problem("its rows are not of heads".into())),
            Columns::Head(head) if head >= shape[0] => {
                return Err(problem(format!("there is no head {head}; it has {}", shape[0])));
            }
            Columns::Head(head) => head * shape[1]..(head + 1) * shape[1],
            Columns::Range(_) if by_key => {
                return Err(problem("its rows differ in length; take all columns or a head".into()));
            }
            Columns::Range(ref range) if range.start > range.end || range.end > width => {
                return Err(problem(format!("there are no columns {range:?}; it has {width}")));
            }
            Columns::Range(ref range) => range.clone(),
        };
        if let Some(rows) = self.edit.rows() {
            if by_key {
                return Err(problem("its rows differ in length; they can be zeroed or scaled".into()));
            }
            if rows.width() != columns.len() && rows.iter().len() > 0 {
                return Err(problem(format!("a row of {} numbers where there are {}", rows.width(), columns.len())));
            }
            if let Some(each) = &rows.each
                && each.len() != spots.len()
            {
                return Err(problem(format!("{} rows for {} positions", each.len(), spots.len())));
            }
        }
        let finite = match &self.edit {
            Edit::Scale(by) => by.is_finite(),
            edit => edit.rows().is_none_or(|rows| rows.iter().flatten().all(|x| x.is_finite())),
        };
        if !finite {
            return Err(problem("it holds a number that is not finite".into()));
        }
        let part = match self.columns {
            Columns::Head(head) if by_key => Part::OfHead(head),
            _ if by_key => Part::All,
            _ => Part::Columns(columns.start, columns.end),
        };
        let of = |(i, &spot)| RowEdit { spot, change: RowChange::Edit { edit: &self.edit, i, part } };
        Ok(spots.iter().enumerate().map(of).collect())
    }
}

/// A function that changes the rows at a hook point: the closure form of an [`Intervention`], for
/// [`Model::run_hooked`](crate::Model::run_hooked).
#[derive(Clone)]
pub struct Hooked<'f> {
    /// Where.
    pub hook: HookPoint,
    /// At which positions of each prompt.
    pub positions: Positions,
    /// What changes the rows there.
    pub function: Function<'f>,
}

/// What changes rows.
#[derive(Clone)]
pub enum Function<'f> {
    /// Each row alone; attention scores and patterns are given to it head by head.
    Each(Arc<RowFn<'f>>),
    /// All rows at once, as many as there are [`RowAt`]s: for what is quicker of many together. Not for attention scores and patterns.
    Together(Arc<RowsFn<'f>>),
}

/// A function that changes a row.
pub type RowFn<'f> = dyn Fn(RowAt, &mut [f32]) + Send + Sync + 'f;

/// A function that changes rows.
pub type RowsFn<'f> = dyn Fn(&[RowAt], &mut Matrix) + Send + Sync + 'f;

/// Where a row stands that a [`Hooked`] function is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowAt {
    /// Its prompt and position.
    pub spot: Spot,
    /// Its head, for attention scores and patterns.
    pub head: Option<usize>,
}

impl Hooked<'_> {
    pub(crate) fn row_edits<'a>(&'a self, config: &Config, spots: &[Spot]) -> Result<Vec<RowEdit<'a>>> {
        check_changeable(self.hook, config)?;
        let change = match &self.function {
            Function::Each(function) => RowChange::Function(&**function),
            Function::Together(_) if is_by_key(self.hook) => {
                let problem = "its rows differ in length; give a function of each row".into();
                return Err(Error::Intervention { hook: self.hook.to_string(), problem });
            }
            Function::Together(function) => RowChange::Together(&**function),
        };
        Ok(spots.iter().map(|&spot| RowEdit { spot, change }).collect())
    }
}

/// Whether a row has a number for each position that is looked at.
fn is_by_key(hook: HookPoint) -> bool {
    matches!(hook, HookPoint::Block(_, BlockHook::AttnScores | BlockHook::Pattern))
}

/// That a change at `hook` would take effect in the model.
fn check_changeable(hook: HookPoint, config: &Config) -> Result<()> {
    hook.check(config)?;
    if hook == HookPoint::UnembedOut {
        let problem = "logits are the end of the pass; change what makes them".into();
        return Err(Error::Intervention { hook: hook.to_string(), problem });
    }
    Ok(())
}

/// A change of one row.
#[derive(Clone, Copy)]
pub(crate) struct RowEdit<'a> {
    pub(crate) spot: Spot,
    change: RowChange<'a>,
}

#[derive(Clone, Copy)]
enum RowChange<'a> {
    /// An edit, with its row's number among its positions.
    Edit {
        edit: &'a Edit,
        i: usize,
        part: Part,
    },
    Function(&'a RowFn<'a>),
    Together(&'a RowsFn<'a>),
}

/// The part of a row that an edit is of.
#[derive(Clone, Copy)]
enum Part {
    All,
    /// Of attention's rows, those of one head.
    OfHead(usize),
    Columns(usize, usize),
}

impl<'a> RowEdit<'a> {
    /// The function that changes this row with others.
    fn together(&self) -> Option<&'a RowsFn<'a>> {
        match self.change {
            RowChange::Together(function) => Some(function),
            _ => None,
        }
    }

    /// Makes `edits` of rows of `value`, in their order; those that follow each other and are of one function of many rows, at once.
    pub(crate) fn apply_all(edits: &[(usize, RowEdit)], value: &mut Matrix) {
        let of_one = |(_, one): &(usize, RowEdit), (_, other): &(usize, RowEdit)| {
            one.together().zip(other.together()).is_some_and(|(one, other)| std::ptr::addr_eq(one, other))
        };
        for edits in edits.chunk_by(of_one) {
            let Some(function) = edits[0].1.together() else {
                edits.iter().for_each(|(row, edit)| edit.apply(None, value.row_mut(*row)));
                continue;
            };
            let mut rows = value.gather(edits.iter().map(|(row, _)| *row));
            let at: Vec<RowAt> = edits.iter().map(|(_, edit)| RowAt { spot: edit.spot, head: None }).collect();
            function(&at, &mut rows);
            for ((row, _), changed) in edits.iter().zip(rows.iter_rows()) {
                value.row_mut(*row).copy_from_slice(changed);
            }
        }
    }

    /// Changes `row`, which is of `head` if heads have rows of their own there.
    pub(crate) fn apply(&self, head: Option<usize>, row: &mut [f32]) {
        match self.change {
            RowChange::Function(function) => function(RowAt { spot: self.spot, head }, row),
            RowChange::Together(function) => {
                let mut rows = Matrix::new(row.to_vec(), 1, row.len());
                function(&[RowAt { spot: self.spot, head }], &mut rows);
                row.copy_from_slice(rows.row(0));
            }
            RowChange::Edit { edit, i, part: Part::All } => edit.apply(i, row),
            RowChange::Edit { edit, i, part: Part::OfHead(of) } if head == Some(of) => edit.apply(i, row),
            RowChange::Edit { part: Part::OfHead(_), .. } => {}
            RowChange::Edit { edit, i, part: Part::Columns(start, end) } => edit.apply(i, &mut row[start..end]),
        }
    }
}
