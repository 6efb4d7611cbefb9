//! Several changes of one prompt together, each spelled in one way everywhere: in a command, a study, a request.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use directrix_corpus::{Prompts, Watch};
use directrix_kernels::{Matrix, SparseActivations, log_sum_exp};
use directrix_model::{Ask, Function, HookPoint, Hooked, Model, Positions, Prediction, RowAt, Spot, Target};
use directrix_sae::Sae;
use serde::Serialize;

use crate::change::{Difference, SiteRow, each_once};
use crate::{Change, Error, Matched, ModelPart, PartMeans, Result, largest};

/// A change of one prompt and the positions it is made at.
///
/// | spelled | what is done |
/// |---|---|
/// | `sae-l1/429*0` | the activation of direction 429 of the SAE `sae-l1` becomes 0: it is ablated |
/// | `sae-l1/429,17*2.5` | the activations of two directions are multiplied |
/// | `sae-l1/429=3.2` | its activation becomes 3.2, also where it does not fire |
/// | `sae-l1=reconstruction` | the site becomes the SAE's reconstruction |
/// | `L0H3=zero`, `1_mlp_out=mean` | a part of the model, by its [name](ModelPart), becomes zero or its mean over a corpus |
///
/// Behind it `@5` is one position and `@5..9` the positions from 5 to 9, both included; without, it is made everywhere.
#[derive(Debug, Clone)]
pub struct ChangeAt<'a> {
    made: Made<'a>,
    /// First and last position.
    positions: Option<(usize, usize)>,
}

#[derive(Debug, Clone)]
enum Made<'a> {
    OfSite(&'a Sae, Change),
    OfPart(ModelPart, By),
}

/// What a part is replaced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Zero,
    Mean,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Zero => "zero",
            By::Mean => "mean",
        })
    }
}

impl<'a> ChangeAt<'a> {
    /// Reads the spelling of a change, at the site of one of `saes` or of a part of `model`.
    ///
    /// # Errors
    /// [`Error::Spelling`] saying what was expected.
    pub fn parse(text: &str, model: &Model, saes: &'a [Sae]) -> Result<ChangeAt<'a>> {
        let wrong = |problem: String| Error::Spelling { text: text.into(), problem };
        let trimmed = text.trim();
        let (change, positions) = match trimmed.rsplit_once('@') {
            Some((change, at)) => (
                change.trim(),
                Some(span(at).ok_or_else(|| {
                    wrong(format!("`@{at}` is no position; write `@5`, or `@5..9` for the positions from 5 to 9"))
                })?),
            ),
            None => (trimmed, None),
        };
        let Some((of, sign, to)) =
            change.rfind(['*', '=']).map(|at| (&change[..at], &change[at..=at], &change[at + 1..]))
        else {
            return Err(wrong(
                "it says nothing that is done; write `*0` to ablate, `=3.2` to set, `=zero` or `=mean`".into(),
            ));
        };
        let (of, to) = (of.trim(), to.trim());
        if let Some((name, directions)) = of.rsplit_once('/') {
            let sae = named(saes, name.trim()).ok_or_else(|| wrong(no_sae(name.trim(), saes)))?;
            let list: Vec<u32> = directions
                .split(',')
                .map(|d| d.trim().parse().map_err(|_| wrong(format!("`{}` is no direction's number", d.trim()))))
                .collect::<Result<_>>()?;
            let list = each_once(&list);
            let number: f32 = to
                .parse()
                .ok()
                .filter(|x: &f32| x.is_finite())
                .ok_or_else(|| wrong(format!("`{to}` is no finite number; write `*0` to ablate, `=3.2` to set")))?;
            let change = match sign {
                "*" if number == 0.0 => Change::Ablate(list),
                "*" => Change::Scale { directions: list, by: number },
                _ => Change::Set { directions: list, to: number },
            };
            change.check(sae)?;
            return Ok(ChangeAt { made: Made::OfSite(sae, change), positions });
        }
        if sign == "*" {
            return Err(wrong("only directions are multiplied; write `=zero`, `=mean` or `=reconstruction`".into()));
        }
        if let Some(sae) = named(saes, of) {
            if to != "reconstruction" {
                return Err(wrong(format!(
                    "an SAE's site becomes its `reconstruction`, not `{to}`; name directions as `{of}/429`"
                )));
            }
            return Ok(ChangeAt { made: Made::OfSite(sae, Change::Reconstruct { without: Vec::new() }), positions });
        }
        let part = ModelPart::all(model.config()).into_iter().find(|part| part.to_string() == of);
        let part = part.ok_or_else(|| {
            wrong(format!("{}, nor is it a part of the model such as L0H0, 0_attn_out or 0_mlp_out", no_sae(of, saes)))
        })?;
        let by = match to {
            "zero" => By::Zero,
            "mean" if !matches!(part, ModelPart::Residual(_)) => By::Mean,
            _ => {
                return Err(wrong(format!(
                    "{of} can become `zero`{}, not `{to}`",
                    if matches!(part, ModelPart::Residual(_)) { "" } else { " or `mean`" }
                )));
            }
        };
        Ok(ChangeAt { made: Made::OfPart(part, by), positions })
    }

    /// Whether it takes the mean of a part.
    pub fn needs_means(&self) -> bool {
        matches!(self.made, Made::OfPart(_, By::Mean))
    }

    /// What is done, in words.
    pub fn sentence(&self) -> String {
        let what = match &self.made {
            Made::OfSite(sae, change) => {
                let directions = change.directions();
                let listed: Vec<String> = directions.iter().map(ToString::to_string).collect();
                let noun = if directions.len() == 1 { "direction" } else { "directions" };
                let of = format!("{noun} {} of {}", listed.join(", "), sae.short_name());
                match change {
                    Change::Ablate(_) => format!("{of} ablated"),
                    Change::Scale { by, .. } => format!("{of} multiplied by {by}"),
                    Change::Set { to, .. } => format!("{of} set to {to}"),
                    _ => format!("{} replaced by the reconstruction of {}", sae.site().writes.hook, sae.short_name()),
                }
            }
            Made::OfPart(part, By::Zero) => format!("{part} set to zero"),
            Made::OfPart(part, By::Mean) => format!("{part} replaced by its mean"),
        };
        match self.positions {
            None => format!("{what} at every position"),
            Some((first, last)) if first == last => format!("{what} at position {first}"),
            Some((first, last)) => format!("{what} at positions {first} to {last}"),
        }
    }

    /// The same of random directions of matched density, by SAE, or along random rows: controls of what is done to directions. `None` where
    /// there is none.
    pub fn control(&self, matched: Option<&Matched>, seed: u64) -> Option<ChangeAt<'a>> {
        let Made::OfSite(sae, change) = &self.made else { return None };
        let change = match matched {
            Some(matched) => change.of_random_directions(matched, seed)?,
            None => change.along_random_rows(seed)?,
        };
        Some(ChangeAt { made: Made::OfSite(sae, change), positions: self.positions })
    }

    /// The SAE at whose site it is made.
    pub fn sae(&self) -> Option<&'a Sae> {
        match self.made {
            Made::OfSite(sae, _) => Some(sae),
            Made::OfPart(..) => None,
        }
    }

    /// The first position that it is made at.
    pub fn first(&self) -> usize {
        self.positions.map_or(0, |(first, _)| first)
    }

    /// What is done to an SAE's site at a position.
    fn made_at(&self, position: usize) -> Option<&Change> {
        match &self.made {
            Made::OfSite(_, change) if self.is_at(position) => Some(change),
            _ => None,
        }
    }

    /// The first position at which it does anything, where its site's SAE has these activations without it.
    fn first_effect(&self, acts: &SparseActivations) -> Option<usize> {
        let Made::OfSite(_, change @ (Change::Ablate(_) | Change::Scale { .. })) = &self.made else {
            return Some(self.first());
        };
        let fires = |position: &usize| acts.at(*position).0.iter().any(|d| change.directions().contains(d));
        (0..acts.positions()).filter(|position| self.is_at(*position)).find(fires)
    }

    fn is_at(&self, position: usize) -> bool {
        self.positions.is_none_or(|(first, last)| (first..=last).contains(&position))
    }

    /// That a prompt of so many positions has those that it is made at.
    ///
    /// # Errors
    /// [`Error::Spelling`] if not.
    pub fn check(&self, positions: usize) -> Result<()> {
        match self.positions {
            Some((_, last)) if last >= positions => Err(Error::Spelling {
                text: self.to_string(),
                problem: format!("the prompt has positions 0 to {}", positions.saturating_sub(1)),
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for ChangeAt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.made {
            Made::OfPart(part, by) => write!(f, "{part}={by}")?,
            Made::OfSite(sae, change) => {
                f.write_str(sae.short_name())?;
                for (i, direction) in change.directions().iter().enumerate() {
                    write!(f, "{}{direction}", if i == 0 { '/' } else { ',' })?;
                }
                match change {
                    Change::Scale { by, .. } => write!(f, "*{by}")?,
                    Change::Set { to, .. } => write!(f, "={to}")?,
                    Change::Reconstruct { .. } => f.write_str("=reconstruction")?,
                    _ => f.write_str("*0")?,
                }
            }
        }
        match self.positions {
            None => Ok(()),
            Some((first, last)) if first == last => write!(f, "@{first}"),
            Some((first, last)) => write!(f, "@{first}..{last}"),
        }
    }
}

fn span(text: &str) -> Option<(usize, usize)> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    match text.split_once("..") {
        None => number(text).map(|at| (at, at)),
        Some((first, last)) => number(first).zip(number(last)).filter(|(first, last)| first <= last),
    }
}

fn named<'a>(saes: &'a [Sae], name: &str) -> Option<&'a Sae> {
    saes.iter().find(|sae| sae.short_name() == name)
}

fn no_sae(name: &str, saes: &[Sae]) -> String {
    let names: Vec<&str> = saes.iter().map(Sae::short_name).collect();
    format!("`{name}` is no SAE here ({})", names.join(", "))
}

/// Changes as functions of a pass: each reads what the changes before it have left.
///
/// An SAE reads its site as the pass finds it, changed by what comes before, and its activations change what is there; so do those of an SAE
/// further on. In a prompt that grows, new positions are changed as they come.
pub struct Hooks<'a> {
    changes: Vec<ChangeAt<'a>>,
    hooked: Vec<Hooked<'a>>,
    failed: Arc<Mutex<Option<Error>>>,
}

impl<'a> Hooks<'a> {
    /// Of changes whose parts have these means.
    ///
    /// # Errors
    /// [`Error::NoMeans`] if one takes a mean and there are none.
    pub fn of(model: &Model, changes: &[ChangeAt<'a>], means: Option<&PartMeans>) -> Result<Hooks<'a>> {
        let failed = Arc::new(Mutex::new(None));
        let mut hooked = Vec::new();
        for change in changes {
            match &change.made {
                Made::OfSite(sae, _) if sae.site().is_one_place() => hooked.push(at_one_place(sae, change, &failed)),
                Made::OfSite(sae, _) => hooked.extend(of_transcoder(sae, change, &failed)),
                Made::OfPart(part, by) => {
                    let width: usize = part.hook().shape(model.config(), 0).iter().product();
                    let row = match by {
                        By::Zero => vec![0.0; width],
                        By::Mean => means.ok_or(Error::NoMeans)?.at(part.hook()).to_vec(),
                    };
                    hooked.push(part_replaced(model, *part, row, change));
                }
            }
        }
        Ok(Hooks { changes: changes.to_vec(), hooked, failed })
    }

    /// Of changes of SAEs' sites, each at positions of its own, which may be told from the end of a prompt.
    ///
    /// # Errors
    /// If one cannot be made at its site.
    pub fn at(changes: impl IntoIterator<Item = (&'a Sae, Change, Positions)>) -> Result<Hooks<'a>> {
        let (failed, mut hooked, mut made) = (Arc::new(Mutex::new(None)), Vec::new(), Vec::new());
        for (sae, change, positions) in changes {
            change.check(sae)?;
            let change = ChangeAt { made: Made::OfSite(sae, change), positions: None };
            let functions: Vec<Hooked> = if sae.site().is_one_place() {
                vec![at_one_place(sae, &change, &failed)]
            } else {
                of_transcoder(sae, &change, &failed).into()
            };
            hooked.extend(functions.into_iter().map(|function| Hooked { positions: positions.clone(), ..function }));
            made.push(change);
        }
        Ok(Hooks { changes: made, hooked, failed })
    }

    /// Activations of an SAE, those of directions that are changed as they are then.
    fn changed(&self, sae: &Sae, acts: &SparseActivations) -> SparseActivations {
        let own: Vec<&ChangeAt> =
            self.changes.iter().filter(|change| change.sae().is_some_and(|of| std::ptr::eq(of, sae))).collect();
        let mut changed = SparseActivations::default();
        for position in 0..acts.positions() {
            let (directions, values) = acts.at(position);
            let mut row: BTreeMap<u32, f32> = directions.iter().copied().zip(values.iter().copied()).collect();
            for change in own.iter().filter_map(|change| change.made_at(position)) {
                for direction in each_once(change.directions()) {
                    let value = row.entry(direction).or_default();
                    *value = match change {
                        Change::Set { to, .. } => *to,
                        Change::Scale { by, .. } => by * *value,
                        Change::Reconstruct { .. } => *value,
                        _ => 0.0,
                    };
                }
            }
            changed.push(row.into_iter().filter(|(_, value)| *value != 0.0));
        }
        changed
    }

    /// The functions, for a run of the model.
    pub fn functions(&self) -> &[Hooked<'a>] {
        &self.hooked
    }

    /// What a run with them gave, or what a change failed of.
    ///
    /// # Errors
    /// The run's, or that of a change.
    pub fn finished<T>(&self, run: directrix_model::Result<T>) -> Result<T> {
        match lock(&self.failed).take() {
            Some(error) => Err(error),
            None => Ok(run?),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Failed = Arc<Mutex<Option<Error>>>;

/// Rows by position.
type Kept = Arc<Mutex<BTreeMap<usize, Vec<f32>>>>;

/// Adds what a change adds at each position, where `read` are the rows that the SAE reads there.
fn add(sae: &Sae, changes: &[Option<&Change>], read: &Matrix, written: &mut Matrix, failed: &Failed) {
    // Most changes need the activations of a few directions; what needs all is encoded at once.
    let encoded = OnceCell::new();
    for (row, change) in changes.iter().enumerate().filter_map(|(row, change)| Some((row, (*change)?))) {
        let active = || {
            let of = |acts: &SparseActivations, row: usize| {
                let (directions, values) = acts.at(row);
                directions.iter().copied().zip(values.iter().copied()).collect()
            };
            if let Ok(acts) = encoded.get_or_init(|| sae.encode(read)) {
                return Ok(of(acts, row));
            }
            // Encoded alone, this row says what is wrong with it, or nothing is.
            Ok(of(&sae.encode(&Matrix::new(read.row(row).to_vec(), 1, read.columns()))?, 0))
        };
        let difference = SiteRow { sae, read: read.row(row), written: written.row(row) }.difference(change, active);
        let site = &mut written.row_mut(row)[sae.site().writes.columns()];
        let mut plus = |by: f32, row: &[f32]| site.iter_mut().zip(row).for_each(|(x, row)| *x += by * row);
        match difference {
            Ok(None) => {}
            Ok(Some(Difference::Row(row))) => plus(1.0, &row),
            Ok(Some(Difference::Directions(of))) => {
                of.into_iter().for_each(|(direction, by)| plus(by, sae.w_dec().row(direction as usize)));
            }
            Err(error) => drop(lock(failed).get_or_insert(error)),
        }
    }
}

fn at_one_place<'a>(sae: &'a Sae, change: &ChangeAt<'a>, failed: &Failed) -> Hooked<'a> {
    let (of, failed) = (change.clone(), failed.clone());
    let function = move |at: &[RowAt], rows: &mut Matrix| {
        let changes: Vec<Option<&Change>> = at.iter().map(|at| of.made_at(at.spot.position)).collect();
        let read = rows.clone();
        add(sae, &changes, &read, rows, &failed);
    };
    together(sae.site().reads.hook, function)
}

/// A transcoder's change: what it reads is kept on the way to where it writes.
fn of_transcoder<'a>(sae: &'a Sae, change: &ChangeAt<'a>, failed: &Failed) -> [Hooked<'a>; 2] {
    let read: Arc<Mutex<HashMap<Spot, Vec<f32>>>> = Arc::default();
    let (of, kept) = (change.clone(), read.clone());
    let keep = move |at: RowAt, row: &mut [f32]| {
        if of.made_at(at.spot.position).is_some() {
            lock(&kept).insert(at.spot, row.to_vec());
        }
    };
    let (of, failed) = (change.clone(), failed.clone());
    let write = move |at: &[RowAt], rows: &mut Matrix| {
        // A row of which nothing was read stays as it is.
        let mut kept = lock(&read);
        let (mut changes, mut of_rows) = (Vec::new(), Vec::new());
        for at in at {
            let row = kept.remove(&at.spot);
            changes.push(of.made_at(at.spot.position).filter(|_| row.is_some()));
            of_rows.push(row);
        }
        let width = of_rows.iter().flatten().map(Vec::len).next().unwrap_or(0);
        let of_rows: Vec<Vec<f32>> = of_rows.into_iter().map(|row| row.unwrap_or_else(|| vec![0.0; width])).collect();
        if width > 0 {
            add(sae, &changes, &Matrix::from_rows(&of_rows), rows, &failed);
        }
    };
    [everywhere(sae.site().reads.hook, keep), together(sae.site().writes.hook, write)]
}

fn part_replaced<'a>(model: &Model, part: ModelPart, row: Vec<f32>, change: &ChangeAt<'a>) -> Hooked<'a> {
    let (columns, of) = (part.columns_of(model.config()), change.clone());
    let function = move |at: RowAt, there: &mut [f32]| {
        if of.is_at(at.spot.position) {
            there[columns.clone()].copy_from_slice(&row[columns.clone()]);
        }
    };
    everywhere(part.hook(), function)
}

fn everywhere<'a>(hook: HookPoint, function: impl Fn(RowAt, &mut [f32]) + Send + Sync + 'a) -> Hooked<'a> {
    Hooked { hook, positions: Positions::All, function: Function::Each(Arc::new(function)) }
}

fn together<'a>(hook: HookPoint, function: impl Fn(&[RowAt], &mut Matrix) + Send + Sync + 'a) -> Hooked<'a> {
    Hooked { hook, positions: Positions::All, function: Function::Together(Arc::new(function)) }
}

/// What one run over a prompt shows: its losses, one position's prediction, and what fires.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The loss of predicting each next token, nats: one less than there are positions.
    pub losses: Vec<f32>,
    /// The position whose prediction is looked at.
    pub position: usize,
    /// The log-probability of every token there, nats: `[d_vocab]`.
    pub log_probs: Vec<f64>,
    /// The logits there.
    pub logits: Vec<f32>,
    /// By SAE, what fires at each position: what it encodes there behind all changes before its site, its own directions as they are changed.
    pub active: Vec<SparseActivations>,
}

impl Observed {
    /// Runs one prompt with changes. What no change can reach is taken from `before`, the same prompt's run without changes looked at at the
    /// same position, if it is given: what fires before the first of them in the pass, and the losses before the first position.
    ///
    /// # Errors
    /// As [`Model::run_hooked`] and [`ChangeAt::check`]; if an SAE cannot encode what it reads.
    pub fn of(
        model: &Model,
        saes: &[Sae],
        tokens: &[u32],
        position: usize,
        hooks: &Hooks,
        before: Option<&Observed>,
        watch: &Watch,
    ) -> Result<Observed> {
        let is_changed =
            |sae: &Sae| hooks.changes.iter().any(|change| change.sae().is_some_and(|of| std::ptr::eq(of, sae)));
        let first = hooks.functions().iter().map(|hooked| hooked.hook).min();
        let is_known = |sae: &Sae| {
            let reads = sae.site().reads.hook;
            before.is_some() && first.is_none_or(|first| reads < first || reads == first && is_changed(sae))
        };
        // The first position at which something changes, if any.
        let first_change = |change: &ChangeAt| {
            let number = saes.iter().position(|sae| change.sae().is_some_and(|of| std::ptr::eq(of, sae)));
            match before.zip(number).filter(|(_, number)| is_known(&saes[*number])) {
                Some((before, number)) => change.first_effect(&before.active[number]),
                None => Some(change.first()),
            }
        };
        let start = match before {
            Some(before) => match hooks.changes.iter().filter_map(first_change).min() {
                Some(start) => start,
                None => return Ok(before.clone()),
            },
            None => 0,
        };
        let reads = saes.iter().filter(|sae| !is_known(sae)).map(|sae| sae.site().reads.hook).collect::<BTreeSet<_>>();
        let next = tokens.iter().enumerate().skip(start + 1);
        let targets = next.map(|(next, &token)| Target { prompt: 0, position: next - 1, token });
        let ask =
            Ask::capture(reads).watched(watch).with_logits(Positions::At(vec![position])).with_predictions(targets);
        // What is there before a site's own changes is seen by a function that comes before theirs.
        let kept: Vec<Option<Kept>> =
            saes.iter().map(|sae| (is_changed(sae) && !is_known(sae)).then(Kept::default)).collect();
        let keep = |(sae, kept): (&Sae, &Option<Kept>)| {
            let kept = kept.clone()?;
            let function = move |at: RowAt, row: &mut [f32]| drop(lock(&kept).insert(at.spot.position, row.to_vec()));
            Some(everywhere(sae.site().reads.hook, function))
        };
        let functions: Vec<Hooked> =
            saes.iter().zip(&kept).filter_map(keep).chain(hooks.functions().iter().cloned()).collect();
        let run = hooks.finished(model.run_hooked(&Prompts::from_rows([tokens]), &ask, &[], &functions))?;
        let mut active = Vec::new();
        for (number, (sae, kept)) in saes.iter().zip(kept).enumerate() {
            active.push(match (before.filter(|_| is_known(sae)), kept) {
                (Some(before), _) => hooks.changed(sae, &before.active[number]),
                (None, Some(kept)) => {
                    let rows: Vec<Vec<f32>> = lock(&kept).values().cloned().collect();
                    hooks.changed(sae, &sae.encode(&Matrix::from_rows(&rows))?)
                }
                (None, None) => sae.encode(run.captured(sae.site().reads.hook))?,
            });
        }
        let (logits, sum) = (run.logits().row(0).to_vec(), log_sum_exp(run.logits())[0]);
        let log_probs = logits.iter().map(|&logit| f64::from(logit) - sum).collect();
        let mut losses =
            before.map_or_else(Vec::new, |before| before.losses[..start.min(before.losses.len())].to_vec());
        losses.extend(run.predictions().iter().map(|prediction| -prediction.log_prob as f32));
        Ok(Observed { losses, position, log_probs, logits, active })
    }

    /// The mean of the losses; `None` of a single position.
    pub fn mean_loss(&self) -> Option<f64> {
        let sum: f64 = self.losses.iter().map(|&loss| f64::from(loss)).sum();
        (!self.losses.is_empty()).then(|| sum / self.losses.len() as f64)
    }

    /// How `token` is predicted.
    pub fn prediction(&self, token: u32) -> Prediction {
        let logit = self.logits[token as usize];
        let rank = self.logits.iter().filter(|other| **other > logit).count();
        Prediction { logit, log_prob: self.log_probs[token as usize], rank }
    }

    /// The `k` most likely tokens, most likely first.
    pub fn likely(&self, k: usize) -> Vec<u32> {
        let logits = self.logits.iter().map(|logit| f64::from(*logit));
        largest(logits, k).into_iter().map(|(token, _)| token as u32).collect()
    }
}

/// How a direction's activation at a position changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Changed {
    /// Number of the SAE.
    pub sae: usize,
    /// The direction.
    pub direction: u32,
    /// Where it changes most.
    pub position: usize,
    /// Its activation there, unchanged.
    pub before: f32,
    /// With the changes.
    pub after: f32,
}

/// The `k` directions whose activation at some position changes most, each where it does; most changed first.
pub fn most_changed(before: &Observed, after: &Observed, k: usize) -> Vec<Changed> {
    let mut changed: HashMap<(usize, u32), Changed> = HashMap::new();
    for (sae, (before, after)) in before.active.iter().zip(&after.active).enumerate() {
        for position in 0..before.positions().min(after.positions()) {
            let (of_before, of_after) = (before.at(position), after.at(position));
            let mut see = |direction: u32| {
                let find = |(directions, values): (&[u32], &[f32])| {
                    directions.binary_search(&direction).map_or(0.0, |at| values[at])
                };
                let new = Changed { sae, direction, position, before: find(of_before), after: find(of_after) };
                let kept = changed.entry((sae, direction)).or_insert(new);
                if (new.after - new.before).abs() > (kept.after - kept.before).abs() {
                    *kept = new;
                }
            };
            of_before.0.iter().chain(of_after.0).for_each(|direction| see(*direction));
        }
    }
    let mut changed: Vec<Changed> = changed.into_values().filter(|of| of.before != of.after).collect();
    let by = |of: &Changed| (of.after - of.before).abs();
    changed.sort_by(|a, b| by(b).total_cmp(&by(a)).then((a.sae, a.direction).cmp(&(b.sae, b.direction))));
    changed.truncate(k);
    changed
}
