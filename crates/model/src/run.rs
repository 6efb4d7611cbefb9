//! Runs of a model on prompts, and what they give.

use std::collections::BTreeMap;
use std::ops::Range;

use directrix_corpus::Prompts;
use directrix_kernels::{Matrix, Predicted, Unembedding};

use crate::pass::{Edits, KeyValues, Part, Pass, Passed, Plan, Returns, Stage, StageName};
use crate::positions::Lengths;
use crate::{Ask, BlockHook, Error, HookPoint, Hooked, Intervention, Model, Result, Spot, Target};

/// How a model predicts a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Its logit.
    pub logit: f32,
    /// Its log-probability, in nats; the loss is its negative.
    pub log_prob: f64,
    /// Number of tokens with a higher logit: 0 for the model's first choice.
    pub rank: usize,
}

/// What a run gave.
#[derive(Debug, Clone, Default)]
pub struct Run {
    captured: BTreeMap<HookPoint, Matrix>,
    logits: Option<Matrix>,
    losses: Vec<f32>,
    predictions: Vec<Prediction>,
}

impl Run {
    /// The values captured at `hook`: one row per asked position, prompt after prompt. Attention scores and patterns have
    /// `n_heads × longest prompt` columns.
    ///
    /// # Panics
    /// If `hook` was not asked for.
    pub fn captured(&self, hook: HookPoint) -> &Matrix {
        &self.captured[&hook]
    }

    /// As [`captured`](Run::captured), given away; `None` if it was not asked for or is gone.
    pub fn take_captured(&mut self, hook: HookPoint) -> Option<Matrix> {
        self.captured.remove(&hook)
    }

    /// The logits given away, if they were asked for and are not gone.
    pub fn take_logits(&mut self) -> Option<Matrix> {
        self.logits.take()
    }

    /// The logits, one row per asked position.
    ///
    /// # Panics
    /// If they were not asked for.
    pub fn logits(&self) -> &Matrix {
        self.logits.as_ref().expect("logits were asked for")
    }

    /// The loss of predicting each next token, in nats: prompt after prompt, one less than it has positions.
    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    /// Predictions in the order of the targets.
    pub fn predictions(&self) -> &[Prediction] {
        &self.predictions
    }
}

/// Where a pass begins, and what it is to keep.
pub(crate) struct Begin<'a> {
    /// Prompts or cases: their tokens up to the last position that is computed.
    pub(crate) tokens: Vec<&'a [u32]>,
    pub(crate) parts: Vec<Part<'a>>,
    /// Keys and values of the positions before the parts.
    pub(crate) before: Option<&'a KeyValues>,
    pub(crate) stage: Stage,
    pub(crate) edits: Edits<'a>,
    /// A stage to keep for resuming, and the spots that may be computed again.
    pub(crate) keep: Option<(StageName, Vec<Spot>)>,
}

impl Model {
    /// Runs the model on every prompt.
    ///
    /// # Errors
    /// If a prompt is empty, too long or holds a token outside the vocabulary; if a prompt, position, hook point, head or
    /// column does not exist; if a number that was asked for is not finite; or if the run was
    /// [stopped](Ask::watched).
    pub fn run(&self, prompts: &Prompts, ask: &Ask, interventions: &[Intervention]) -> Result<Run> {
        self.run_hooked(prompts, ask, interventions, &[])
    }

    /// Runs the model on every prompt, with functions that change numbers on the way; at a hook point that both change, after the
    /// interventions.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use directrix_corpus::Prompts;
    /// # use directrix_model::{Ask, Folder, Function, HookPoint, Hooked, Model, Positions, Processing, RowAt};
    /// # let model = Model::load(&Folder::open("../../assets/tinystories-2l")?, Processing::default())?;
    /// let hook: HookPoint = "blocks.1.attn.hook_pattern".parse()?;
    /// // Head 0 looks at the first position alone.
    /// let first = |at: RowAt, pattern: &mut [f32]| {
    ///     if at.head == Some(0) {
    ///         pattern.fill(0.0);
    ///         pattern[0] = 1.0;
    ///     }
    /// };
    /// let hooked = Hooked { hook, positions: Positions::All, function: Function::Each(Arc::new(first)) };
    /// let run = model.run_hooked(&Prompts::from_rows([[1, 2, 3]]), &Ask::capture([hook]), &[], &[hooked])?;
    /// assert_eq!(run.captured(hook).row(2)[..3], [1.0, 0.0, 0.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_hooked(
        &self,
        prompts: &Prompts,
        ask: &Ask,
        interventions: &[Intervention],
        functions: &[Hooked],
    ) -> Result<Run> {
        let lengths = Lengths::of(prompts);
        let mut edits = Edits::new();
        for intervention in interventions {
            let spots = lengths.spots(&intervention.positions)?;
            edits.entry(intervention.hook).or_default().extend(intervention.row_edits(self.config(), &spots)?);
        }
        for hooked in functions {
            let spots = lengths.spots(&hooked.positions)?;
            edits.entry(hooked.hook).or_default().extend(hooked.row_edits(self.config(), &spots)?);
        }
        Ok(self.pass(self.whole(prompts, edits, None)?, ask)?.0)
    }

    /// A pass over whole prompts, from the embedding on.
    pub(crate) fn whole<'a>(
        &self,
        prompts: &'a Prompts,
        edits: Edits<'a>,
        keep: Option<(StageName, Vec<Spot>)>,
    ) -> Result<Begin<'a>> {
        prompts.iter().enumerate().try_for_each(|(prompt, tokens)| self.check_prompt(prompt, tokens))?;
        let parts = prompts.iter().map(|tokens| Part { tokens, start: 0, before: 0..0 }).collect();
        Ok(Begin { tokens: prompts.iter().collect(), parts, before: None, stage: Stage::Embed, edits, keep })
    }

    /// Makes the pass, and what is asked for of what it brings back.
    pub(crate) fn pass<'a>(&'a self, begin: Begin<'a>, ask: &'a Ask) -> Result<(Run, Passed)> {
        let Begin { tokens, parts, before, stage, edits, keep } = begin;
        let lengths = Lengths::new(tokens.iter().map(|tokens| tokens.len()).collect());
        let computed = |spots: Vec<Spot>| match spots.iter().find(|spot| spot.position < parts[spot.prompt].start) {
            None => Ok(spots),
            Some(Spot { prompt, position }) => Err(Error::NotKept {
                problem: format!("position {position} of case {prompt} comes before its first change"),
            }),
        };
        let mut captures: BTreeMap<HookPoint, Vec<Spot>> = BTreeMap::new();
        for (hook, positions) in &ask.hooks {
            hook.check(self.config())?;
            captures.entry(*hook).or_default().extend(computed(lengths.spots(positions)?)?);
        }
        let unembedded = captures.remove(&HookPoint::UnembedOut);
        let losses: Vec<Target> = if ask.losses { next_tokens(&tokens) } else { Vec::new() };
        let logits = ask.logits.as_ref().map(|positions| computed(lengths.spots(positions)?)).transpose()?;
        for target in &ask.targets {
            lengths.check(target.spot())?;
            self.check_token(target.prompt, target.position, target.token)?;
        }
        // Every spot is normalised and unembedded once, however many things are asked of it.
        let mut finals = computed(losses.iter().chain(&ask.targets).map(Target::spot).collect())?;
        finals.extend(logits.iter().chain(&unembedded).flatten());
        finals.sort_unstable();
        finals.dedup();
        let wanted =
            Returns { captures, finals: finals.clone(), keep_keys: keep.is_some(), keep, longest: lengths.longest() };
        let plan = Plan::new(self.config(), stage.name(), parts, edits, wanted);
        let mut passed = Pass { model: self, plan, before, watch: &ask.watch }.run(stage)?;
        let mut run = Run { captured: std::mem::take(&mut passed.captured), ..Run::default() };
        run.check_finite(&lengths, ask)?;
        if finals.is_empty() {
            return Ok((run, passed));
        }

        let normalized = std::mem::take(&mut passed.finals);
        let targets: Vec<Target> = losses.iter().chain(&ask.targets).copied().collect();
        let mut predictions = self.predict(&normalized, &finals, &targets)?;
        run.predictions = predictions.split_off(losses.len());
        run.losses = predictions.iter().map(|p| -p.log_prob as f32).collect();
        let read = |spots: Vec<Spot>| {
            let at = spots.iter().map(|spot| finals.binary_search(spot).expect("every spot was computed"));
            normalized.gather(at.collect::<Vec<_>>().into_iter())
        };
        run.logits = logits.map(|spots| self.unembed(&read(spots)));
        if let Some(spots) = unembedded {
            run.captured.insert(HookPoint::UnembedOut, self.uncapped(&read(spots)));
        }
        Ok((run, passed))
    }

    /// Predictions of `targets` at `spots`, whose rows are `normalized`.
    fn predict(&self, normalized: &Matrix, spots: &[Spot], targets: &[Target]) -> Result<Vec<Prediction>> {
        let mut by_spot: Vec<(usize, usize)> = targets
            .iter()
            .enumerate()
            .map(|(i, target)| (spots.binary_search(&target.spot()).expect("every target has its spot"), i))
            .collect();
        by_spot.sort_unstable();
        let wanted: Vec<(usize, u32)> = by_spot.iter().map(|&(spot, target)| (spot, targets[target].token)).collect();
        let (w, bias) = (self.weights().w_u.view(), &self.weights().b_u[..]);
        let unembedding = Unembedding { w, bias, soft_cap: self.config().logit_soft_cap };
        let found = directrix_kernels::predict(normalized.view(), unembedding, &wanted);
        let mut predictions = vec![Prediction { logit: 0.0, log_prob: 0.0, rank: 0 }; targets.len()];
        for (&(spot, target), Predicted { logit, log_sum_exp, rank }) in by_spot.iter().zip(found) {
            let log_prob = logit as f64 - log_sum_exp;
            if !log_prob.is_finite() {
                return Err(Error::not_finite(HookPoint::UnembedOut, spots[spot]));
            }
            predictions[target] = Prediction { logit, log_prob, rank };
        }
        Ok(predictions)
    }
}

impl Run {
    fn check_finite(&self, lengths: &Lengths, ask: &Ask) -> Result<()> {
        for (hook, value) in &self.captured {
            if matches!(hook, HookPoint::Block(_, BlockHook::AttnScores)) {
                continue;
            }
            if let Some((row, _)) = value.first_not_finite() {
                let spots = ask.hooks.iter().filter(|(h, _)| h == hook).map(|(_, positions)| lengths.spots(positions));
                return Err(Error::not_finite(*hook, spots.collect::<Result<Vec<_>>>()?.concat()[row]));
            }
        }
        Ok(())
    }
}

/// Every next token of a batch.
fn next_tokens(prompts: &[&[u32]]) -> Vec<Target> {
    let of = |(prompt, tokens): (usize, &&[u32])| {
        let next = tokens.iter().skip(1).enumerate();
        next.map(|(position, &token)| Target { prompt, position, token }).collect::<Vec<_>>()
    };
    prompts.iter().enumerate().flat_map(of).collect()
}

/// Splits prompts into consecutive batches of about `positions` positions, each of at least one prompt.
pub fn batches(prompts: &Prompts, positions: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut held = 0;
    for (i, prompt) in prompts.iter().enumerate() {
        match batches.last_mut() {
            Some(batch) if held + prompt.len() <= positions => batch.end = i + 1,
            _ => {
                batches.push(i..i + 1);
                held = 0;
            }
        }
        held += prompt.len();
    }
    batches
}
