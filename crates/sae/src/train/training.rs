//! A training run: several SAEs on the activations of one model pass, with checkpoints, metrics and alarms.

use std::collections::BTreeMap;
use std::path::Path;

use directrix_corpus::durable::Lock;
use directrix_corpus::{self as corpus, Event, Need, Prompts, Watch, check_memory};
use directrix_kernels::Matrix;
use directrix_model::{HookPoint, Model};
use serde_json::{Value, json};

use super::agreement;
use super::buffer::{Buffer, Stream};
use super::cache::Cache;
use super::checkpoint::{self, Checkpoint};
use super::member::{self, Member, Metrics};
use super::over::Over;
use super::recipe::{Feed, Recipe, problem};
use super::windows::{Documents, Windows};
use crate::format::saelens::CONFIG;
use crate::{End, Error, Result, Sae};

/// What is trained, on what, and where results are left.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    /// The model.
    pub model: &'a Model,
    /// The corpus's documents as tokens, BOS included and uncut.
    pub documents: &'a Documents<'a>,
    /// The token before every document, if any.
    pub bos: Option<u32>,
    /// Prompts to evaluate on; none to evaluate nothing.
    pub evaluation: &'a Prompts,
    /// What is fed to every SAE.
    pub feed: &'a Feed,
    /// The SAEs: the name of each one's folder inside `out` (empty for `out` itself), and its recipe.
    pub recipes: &'a [(String, Recipe)],
    /// What the recipes' `from` name, opened, under those names.
    pub from: &'a BTreeMap<String, Sae>,
    /// Where activations are kept, if anywhere; others may read and write there at the same time.
    pub cache: Option<&'a Path>,
    /// Folder of the results.
    pub out: &'a Path,
    /// What the model is called beside each SAE.
    pub model_name: &'a str,
    /// What model and corpora are, by their bytes: what checkpoints, caches and finished SAEs are compared by.
    pub identity: &'a Value,
    /// The processes that train together, and what is divided over them.
    pub over: Over<'a>,
}

/// What is worth telling of a training run, beside how far it is.
pub enum Notice<'a> {
    /// An SAE has a new line of metrics.
    Metrics {
        /// Its name.
        name: &'a str,
        /// Its directions.
        directions: usize,
        /// The line.
        metrics: &'a Metrics,
    },
    /// Training of an SAE seems to go wrong.
    Alarm {
        /// Its name.
        name: &'a str,
        /// What is wrong, and what may help.
        message: String,
    },
    /// The run goes on from a checkpoint.
    Resumed {
        /// Steps taken before.
        step: u64,
    },
    /// A checkpoint was not written; the run goes on and the last one stays.
    CheckpointFailed {
        /// Why.
        error: &'a Error,
    },
}

/// Trains until the feed's tokens are used. `watch` is told how far it is and may stop the run; `on` is told what else happens.
/// A run that was stopped or killed goes on from its last checkpoint when it is started again with the same options, and gives
/// the bits of one that was never stopped.
///
/// Of several ranks all call this, with the same training; the first one writes all files and is told by `on`. One that is
/// stopped stops all. A checkpoint is the same whatever the ranks and what is divided over them: any number goes on from
/// it.
///
/// # Errors
/// If an option is out of range, the model has no such site, the corpus is too small, another process trains into `out`, a
/// file cannot be written, is damaged or was removed meanwhile, the checkpoint in `out` is of another run, numbers are no
/// longer finite (the last checkpoint stays), or the run was stopped ([`Error::Stopped`], after a checkpoint). If ranks
/// were given different trainings, compute different bits, or one has ended; all then end.
pub fn train(training: &Training, watch: &Watch, mut on: impl FnMut(Notice)) -> Result<()> {
    let Training { feed, out, over, .. } = *training;
    feed.check()?;
    let lock = if over.leads() { Some(Lock::take(out)?) } else { None };
    let steps = feed.steps();
    let identity = json!({ "run": training.identity, "feed": feed, "recipes": training.recipes });
    let checkpoint = Checkpoint::find(out, &identity)?;
    let mut ends = Vec::new();
    for (name, recipe) in training.recipes {
        recipe.check(steps)?;
        ends.push(end_of(recipe, training.model)?);
        lock.iter().try_for_each(|lock| lock.clean(&out.join(name)))?;
    }
    lock.iter().try_for_each(|lock| lock.clean(out))?;
    let (hooks, widths) = hooks_of(&ends, training.model);
    check_memory(&needs(training, &ends, &widths)?)?;
    agreement::check(training, &identity, checkpoint.as_ref().map(Checkpoint::step), &hooks)?;
    let share = over.ranks().map_or([0, 1], |ranks| [ranks.rank() as u64, ranks.size() as u64]);
    let mut stream = open_stream(training, &hooks, &widths, share, watch)?;
    let mut buffer = Buffer::new(feed.buffer, &widths, feed.shuffle_seed);

    let mut step = 0;
    let mut members = Vec::new();
    if let Some(checkpoint) = checkpoint {
        step = checkpoint.step();
        for (number, ((name, recipe), end)) in training.recipes.iter().zip(ends).enumerate() {
            let (trainer, state) = checkpoint.member(number, member::empty(recipe, &end, over)?)?;
            members.push(Member::new(name, recipe, end, trainer, state, out, over)?);
        }
        buffer.restore(checkpoint.buffer(feed.buffer)?, &mut stream)?;
        if over.leads() {
            on(Notice::Resumed { step });
        }
    } else {
        let first = buffer.batch(feed.batch, &mut stream)?;
        for ((name, recipe), end) in training.recipes.iter().zip(ends) {
            let trainer = member::begin(recipe, &end, training.from, &rows_of(&first, &hooks, &end), over)?;
            members.push(Member::new(name, recipe, end, trainer, member::State::default(), out, over)?);
        }
    }

    while step < steps {
        let batch = match buffer.batch(feed.batch, &mut stream) {
            Err(Error::Stopped) => {
                checkpoint::write(out, &identity, step, &members, buffer.state(), over)?;
                return Err(Error::Stopped);
            }
            batch => batch?,
        };
        step += 1;
        for member in &mut members {
            let rows = rows_of(&batch, &hooks, &member.end);
            member.step(&rows, step, steps, over)?;
            if step.is_multiple_of(feed.log_every) || step == steps {
                let metrics = member.metrics(training, step, steps)?;
                let alarms = member.alarms(&metrics);
                if over.leads() {
                    for message in alarms {
                        on(Notice::Alarm { name: &member.name, message });
                    }
                    on(Notice::Metrics { name: &member.name, directions: member.trainer.all, metrics: &metrics });
                }
                member.latest = Some(metrics);
            }
        }
        let positions = |steps: u64| steps * feed.batch as u64;
        watch.tell(
            Event::new("training", positions(step), "positions").of(positions(steps)).with_detail(detail(&members)),
        );
        let stopped = over.any(watch.is_stopped())?;
        let due = feed.checkpoint_every > 0 && step.is_multiple_of(feed.checkpoint_every);
        if stopped || due || step == steps {
            members.iter().try_for_each(Member::check_there)?;
        }
        if step < steps && (stopped || due) {
            match checkpoint::write(out, &identity, step, &members, buffer.state(), over) {
                Err(error) if !stopped && !matches!(error, Error::Diverged { .. }) && !is_of_ranks(&error) => {
                    on(Notice::CheckpointFailed { error: &error });
                }
                written => written?,
            }
        }
        if stopped && step < steps {
            return Err(Error::Stopped);
        }
    }
    stream.cache.iter_mut().try_for_each(Cache::finish)?;
    for member in &members {
        member.save(training)?;
    }
    if over.leads() {
        checkpoint::remove(out)?;
    }
    // Nobody has trained what was not written.
    over.any(false).map(|_| ())
}

/// The hook points that SAEs read, each once, and their widths.
pub(super) fn hooks_of(ends: &[End], model: &Model) -> (Vec<HookPoint>, Vec<usize>) {
    let mut hooks: Vec<HookPoint> = ends.iter().map(|end| end.hook).collect();
    hooks.sort_unstable();
    hooks.dedup();
    let widths = hooks.iter().map(|hook| hook.shape(model.config(), 0).iter().product()).collect();
    (hooks, widths)
}

/// Whether it says that ranks do not work together, after which none can go on.
fn is_of_ranks(error: &Error) -> bool {
    matches!(error, Error::Corpus(corpus::Error::Ranks { .. }))
}

/// The memory that a run holds at least: the buffer's rows and their origins, a batch at every hook point, and of every SAE two
/// weight matrices with two moments each.
fn needs(training: &Training, ends: &[End], widths: &[usize]) -> Result<Vec<Need>> {
    let Feed { buffer, batch, .. } = *training.feed;
    let row = widths.iter().map(|width| *width as u64).sum::<u64>().saturating_mul(size_of::<f32>() as u64);
    let mut saes = 0_u64;
    for ((_, recipe), end) in training.recipes.iter().zip(ends) {
        let directions = training.over.held(member::directions(recipe, end.width)?).len();
        saes = saes.saturating_add(weights_bytes(directions, end.width));
    }
    Ok(vec![
        Need { option: "buffer", bytes: row.saturating_add(Buffer::ROW_STATE).saturating_mul(buffer as u64) },
        Need { option: "batch", bytes: row.saturating_mul(batch as u64) },
        Need { option: "expansion", bytes: saes },
    ])
}

/// Bytes of an SAE's two weight matrices with two moments each.
pub(super) fn weights_bytes(directions: usize, d_in: usize) -> u64 {
    (directions as u64).saturating_mul(d_in as u64).saturating_mul(6 * size_of::<f32>() as u64)
}

/// Loss, L0 and dead directions of the SAEs' latest metrics: of one SAE, or from the least to the largest.
fn detail(members: &[Member]) -> String {
    let range = |of: &dyn Fn(&Metrics) -> f64, digits: usize| {
        let values = members.iter().filter_map(|member| member.latest.as_ref()).map(of);
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        if members.len() == 1 { format!("{low:.digits$}") } else { format!("{low:.digits$} to {high:.digits$}") }
    };
    if members.iter().all(|member| member.latest.is_none()) {
        return String::new();
    }
    let [loss, l0] = [range(&|m| m.mean.loss, 3), range(&|m| m.mean.l0, 1)];
    format!("loss {loss}, L0 {l0}, dead {}", range(&|m| m.dead as f64, 0))
}

/// Whether every SAE of a training run is in its folder already.
///
/// # Errors
/// If a folder holds an SAE that was not trained so, or whose options cannot be read.
pub fn is_complete(out: &Path, feed: &Feed, recipes: &[(String, Recipe)], identity: &Value) -> Result<bool> {
    if checkpoint::exists(out) {
        return Ok(false);
    }
    let mut complete = true;
    for (name, recipe) in recipes {
        let folder = out.join(name);
        let there = folder.join(CONFIG).is_file();
        if there
            && std::fs::read_to_string(folder.join(member::OPTIONS)).ok()
                != Some(member::options(feed, recipe, identity)?)
        {
            let problem = "it holds an SAE that was trained with other options, or on another model or corpus; name another --out".into();
            return Err(Error::Stored { path: folder, problem });
        }
        complete &= there;
    }
    Ok(complete)
}

/// The stream of a training's activations. Of a cache, the blocks of `share` are [kept](Cache::open).
pub(super) fn open_stream<'a>(
    training: &Training<'a>,
    hooks: &[HookPoint],
    widths: &[usize],
    share: [u64; 2],
    watch: &Watch,
) -> Result<Stream<'a>> {
    let Feed { context, windows, .. } = *training.feed;
    let longest = training.model.config().n_ctx;
    if context > longest {
        return Err(problem(
            "context",
            format!("the model has {longest} positions, so windows of {context} are too long"),
        ));
    }
    let cache = match training.cache {
        Some(folder) => {
            let of = json!({ "run": training.identity, "context": context, "windows": windows });
            let with_widths: Vec<_> = hooks.iter().copied().zip(widths.iter().copied()).collect();
            let largest = widths.iter().max().copied().unwrap_or_default();
            if context.saturating_mul(largest) > i32::MAX as usize / size_of::<f32>() {
                let what =
                    format!("windows of {context} positions are too long to keep, with {largest} numbers at each");
                return Err(problem("context", what));
            }
            Some(Cache::open(folder, &with_widths, &of, share)?)
        }
        None => None,
    };
    Ok(Stream {
        model: training.model,
        hooks: hooks.to_vec(),
        windows: Windows::new(training.documents, windows, context, training.bos)?,
        exclude: &training.feed.exclude,
        cache,
        watch: watch.clone(),
        over: training.over,
    })
}

pub(super) fn end_of(recipe: &Recipe, model: &Model) -> Result<End> {
    End::of(recipe.site.parse()?, recipe.head, model.config())
        .map_err(|what| problem("site", format!("the SAE reads {what}")))
}

/// An end's columns of a batch.
pub(super) fn rows_of(batch: &[Matrix], hooks: &[HookPoint], end: &End) -> Matrix {
    let values = &batch[hooks.iter().position(|hook| *hook == end.hook).unwrap_or_default()];
    if end.width == values.columns() { values.clone() } else { values.columns_of(end.columns()) }
}
