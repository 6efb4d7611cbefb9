//! Many changes of the same prompts, each alone: prompts are run once, and all changes go on from there.

use std::collections::BTreeMap;

use directrix_circuits::{Look, Seen, Trial, effects};
use directrix_corpus::{Event, Prompts, Watch};
use directrix_model::{self as model, Ask, Case, HookPoint, Positions};
use rayon::prelude::*;

use crate::change::{Intervention, Made};
use crate::error::{Failure, Result};
use crate::model::Model;

/// Positions that are computed together, about.
const BATCH: usize = 4096;

/// What one change is made of.
pub(crate) enum Change {
    AtHooks(Vec<model::Intervention>),
    AtSite(directrix_sae::Sae, directrix_circuits::Change, Positions),
}

impl Change {
    /// Of interventions that are made together: at hook points, or one of directions.
    pub(crate) fn of(model: &Model, together: &[&Intervention]) -> Result<Change> {
        let mut at_hooks = Vec::new();
        for intervention in together {
            match (&intervention.made, together.len()) {
                (Made::AtHook(made), _) => at_hooks.push(made.clone()),
                (Made::AtSite { sae, change, positions }, 1) => {
                    return Ok(Change::AtSite(
                        sae.clone().fit(model.model.config())?,
                        change.clone(),
                        positions.clone(),
                    ));
                }
                (Made::AtSite { .. }, n) => {
                    return Err(Failure::argument(format!(
                        "{n} interventions together, one of directions; these are made one at a time, or with `hooks`"
                    )));
                }
            }
        }
        Ok(Change::AtHooks(at_hooks))
    }

    /// The first hook point that it changes.
    fn hook(&self) -> Option<HookPoint> {
        match self {
            Change::AtHooks(made) => made.iter().map(|made| made.hook).min(),
            Change::AtSite(..) => None,
        }
    }
}

/// Log-probabilities of every token, nats, at one position of each prompt with each change alone: `[changes × prompts × d_vocab]`.
pub(crate) fn log_probs_each(
    model: &Model,
    prompts: &Prompts,
    changes: &[Change],
    at: &[usize],
    watch: &Watch,
) -> Result<Vec<f32>> {
    let (n, vocabulary) = (prompts.len(), model.model.config().d_vocab);
    let mut found = vec![0.0; changes.len() * n * vocabulary];
    let mut trials = Vec::new();
    let mut by_hook: BTreeMap<HookPoint, Vec<usize>> = BTreeMap::new();
    for (number, change) in changes.iter().enumerate() {
        match (change, change.hook()) {
            (Change::AtSite(sae, change, positions), _) => {
                for (prompt, at) in at.iter().enumerate() {
                    let (positions, change) = match span(prompts, prompt, positions, *at)? {
                        none if none.is_empty() => (*at..at + 1, directrix_circuits::Change::None),
                        some => (some, change.clone()),
                    };
                    let look = Look::LogProbs { position: *at };
                    trials.push((number * n + prompt, Trial { prompt, sae, positions, change, look }));
                }
            }
            (Change::AtHooks(_), hook) => by_hook.entry(hook.unwrap_or(HookPoint::Embed)).or_default().push(number),
        }
    }
    for part in trials.chunks(BATCH) {
        let of: Vec<Trial> = part.iter().map(|(_, trial)| trial.clone()).collect();
        for ((row, _), effect) in part.iter().zip(effects(&model.model, prompts, &of, watch)?) {
            if let Seen::LogProbs(log_probs) = effect.after {
                let row = &mut found[row * vocabulary..][..vocabulary];
                row.iter_mut().zip(log_probs).for_each(|(x, log_prob)| *x = log_prob as f32);
            }
        }
    }
    let Some(&first) = by_hook.keys().next() else { return Ok(found) };
    // Reaching the logits, it keeps what later positions read of those before them in every block.
    let ask = Ask::nothing().with_logits(Positions::FromEnd(1)).watched(watch);
    let mut session = model.model.session(prompts.clone(), &ask, first, Positions::All)?;
    let (mut done, total) = (0, by_hook.values().map(|numbers| numbers.len() * n).sum::<usize>());
    let most = (BATCH / prompts.longest().max(1)).max(1);
    for (hook, numbers) in by_hook {
        session = session.advance(hook)?;
        let mut cases: Vec<(usize, Case)> = Vec::new();
        for number in numbers {
            let Change::AtHooks(together) = &changes[number] else { continue };
            let of_each = together.iter().map(|made| made.of_each(prompts)).collect::<model::Result<Vec<_>>>()?;
            cases.extend(at.iter().enumerate().map(|(prompt, until)| {
                let interventions = of_each.iter().map(|of| of[prompt].clone()).collect();
                (number * n + prompt, Case { prompt, until: *until, interventions })
            }));
        }
        for part in cases.chunks(most) {
            watch.tell(Event::new("changes", done as u64, "runs").of(total as u64));
            let of: Vec<Case> = part.iter().map(|(_, case)| case.clone()).collect();
            let mut run = session.resume(&of, &ask)?;
            let logits = run.take_logits().unwrap_or_else(|| directrix_kernels::Matrix::zeros(0, vocabulary));
            let normalizers = directrix_kernels::log_sum_exp(&logits);
            for (((row, _), logits), normalizer) in part.iter().zip(logits.iter_rows()).zip(normalizers) {
                let row = &mut found[row * vocabulary..][..vocabulary];
                row.par_iter_mut().zip(logits).for_each(|(x, logit)| *x = (f64::from(*logit) - normalizer) as f32);
            }
            done += part.len();
        }
    }
    Ok(found)
}

/// The positions of a prompt from the first to the last that are changed; there must be no gap, and none matters behind the one looked at.
fn span(prompts: &Prompts, prompt: usize, positions: &Positions, looked_at: usize) -> Result<std::ops::Range<usize>> {
    let len = prompts.get(prompt).len();
    let none =
        |at: &dyn std::fmt::Display| Failure::argument(format!("prompt {prompt} has no position {at}; it has {len}"));
    let list = |at: &[usize]| match at {
        [] => Ok(0..0),
        [first, .., last] if last - first + 1 != at.len() || !at.is_sorted() => Err(Failure::argument(
            "directions are changed at one position or at all from one to another; give such positions",
        )),
        [first, ..] => {
            let end = first + at.len();
            if end > len { Err(none(&(end - 1))) } else { Ok(*first..end) }
        }
    };
    let range = match positions {
        Positions::All => 0..len,
        Positions::From(first) if *first <= len => *first..len,
        Positions::From(first) => return Err(none(first)),
        Positions::FromEnd(back) if (1..=len).contains(back) => len - back..len - back + 1,
        Positions::FromEnd(back) => return Err(none(&format!("-{back}"))),
        Positions::At(at) => list(at)?,
        Positions::Each(each) => list(each.get(prompt).map_or(&[][..], |at| at))?,
    };
    Ok(range.start.min(looked_at + 1)..range.end.min(looked_at + 1))
}
