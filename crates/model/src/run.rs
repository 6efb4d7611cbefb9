//! Models, and what a run is asked for and gives.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use directrix_corpus::Prompts;
use directrix_kernels::{Matrix, Predicted};

use crate::config::Norm;
use crate::family::Checkpoint;
use crate::pass::{Edits, Kept, KeyValues, Part, Pass, Passed, Spot, Stage};
use crate::{
    BlockHook, Config, Error, Folder, HookPoint, Intervention, Positions, Processing, Result, Tensors, Weights,
};

/// A decoder-only transformer: its dimensions and (processed) weights.
#[derive(Clone)]
pub struct Model {
    config: Config,
    weights: Arc<Weights>,
    processing: Processing,
}

/// What a run is asked for. It computes nothing else.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    hooks: Vec<(HookPoint, Positions)>,
    logits: Option<Positions>,
    losses: bool,
    targets: Vec<Target>,
    resume: Option<(HookPoint, Positions)>,
}

/// A token whose prediction is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Prompt of the batch, or case when resuming.
    pub prompt: usize,
    /// Position that predicts: the token stands at the next one.
    pub position: usize,
    /// The token.
    pub token: u32,
}

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

/// One resumed computation: a prompt of the batch, changed.
#[derive(Debug, Clone)]
pub struct Case {
    /// Prompt of the batch that the run was made on.
    pub prompt: usize,
    /// Last position to compute; nothing after it can be asked for.
    pub until: usize,
    /// The changes.
    pub interventions: Vec<Intervention>,
}

/// What a run gave.
#[derive(Default)]
pub struct Run {
    captured: BTreeMap<HookPoint, Matrix>,
    logits: Option<Matrix>,
    losses: Vec<f32>,
    predictions: Vec<Prediction>,
    kept: Option<Kept>,
    keys: KeyValues,
}

impl Ask {
    /// Nothing yet.
    pub fn nothing() -> Ask {
        Ask::default()
    }

    /// The values at `hooks`, at every position.
    pub fn capture(hooks: impl IntoIterator<Item = HookPoint>) -> Ask {
        hooks.into_iter().fold(Ask::default(), |ask, hook| ask.with_capture(hook, Positions::All))
    }

    /// The values at `hook` at some positions.
    #[must_use]
    pub fn with_capture(mut self, hook: HookPoint, positions: Positions) -> Ask {
        self.hooks.push((hook, positions));
        self
    }

    /// The logits at some positions.
    #[must_use]
    pub fn with_logits(mut self, positions: Positions) -> Ask {
        self.logits = Some(positions);
        self
    }

    /// The loss of predicting every next token.
    #[must_use]
    pub fn with_losses(mut self) -> Ask {
        self.losses = true;
        self
    }

    /// How these tokens are predicted.
    #[must_use]
    pub fn with_predictions(mut self, targets: impl IntoIterator<Item = Target>) -> Ask {
        self.targets.extend(targets);
        self
    }

    /// Keep what [`Model::resume`] needs for interventions at `hook` or deeper, of which nothing but `positions` is
    /// computed again.
    #[must_use]
    pub fn resumable(mut self, hook: HookPoint, positions: Positions) -> Ask {
        self.resume = Some((hook, positions));
        self
    }
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

/// A pass's prompts or cases: their tokens up to the last position that is computed.
struct Batch<'a> {
    tokens: Vec<&'a [u32]>,
}

impl Batch<'_> {
    fn spots(&self, positions: &Positions) -> Result<Vec<Spot>> {
        let mut spots = Vec::new();
        for (prompt, tokens) in self.tokens.iter().enumerate() {
            let at = positions.resolve(prompt, tokens.len()).map_err(|position| Error::Position {
                prompt,
                position,
                positions: tokens.len(),
            })?;
            spots.extend(at.into_iter().map(|position| (prompt, position)));
        }
        Ok(spots)
    }
}

impl Model {
    /// Loads a model from a Hugging Face folder: `config.json` and `*.safetensors` (f32, f16 or bf16).
    ///
    /// # Errors
    /// If a file is missing or damaged, a tensor is missing, of another shape or not finite, or the architecture is not
    /// supported.
    pub fn load(folder: &Folder, processing: Processing) -> Result<Model> {
        let config = Config::from_folder(folder)?;
        let checkpoint = Checkpoint { config: &config, tensors: &Tensors::open(folder, None)? };
        let mut weights = (config.family.weights)(&checkpoint)?;
        processing.apply(&mut weights);
        Ok(Model { config, weights: Arc::new(weights), processing })
    }

    /// Its dimensions.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its weights, as processed.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// How its weights were processed.
    pub fn processing(&self) -> Processing {
        self.processing
    }

    /// Rows as the weights behind a normalisation read them, but for its own weights; and what each was divided by.
    pub(crate) fn normalize(&self, x: &Matrix) -> (Matrix, Vec<f32>) {
        match self.config.norm {
            Norm::Layer { eps } => directrix_kernels::layer_norm(x, eps),
        }
    }

    /// What each head writes: `[rows, n_heads × d_model]` from `[rows, n_heads × d_head]`, output bias not included.
    pub fn head_results(&self, layer: usize, z: &Matrix) -> Matrix {
        let (n_heads, d_head, d_model) =
            (self.config.attention.query_heads, self.config.attention.d_head, self.config.d_model);
        let w_o = self.weights.blocks[layer].w_o.view();
        let mut results = Matrix::zeros(z.rows(), n_heads * d_model);
        for head in 0..n_heads {
            let range = head * d_head..(head + 1) * d_head;
            let mut result = Matrix::zeros(z.rows(), d_model);
            directrix_kernels::product(z.view().columns_of(range.clone()), w_o.rows_of(range), &mut result, false);
            for (row, part) in result.iter_rows().enumerate() {
                results.row_mut(row)[head * d_model..][..d_model].copy_from_slice(part);
            }
        }
        results
    }

    /// Runs the model on every prompt.
    ///
    /// # Errors
    /// If a prompt is empty, too long or holds a token outside the vocabulary, if a position or hook point does not exist,
    /// or if a number that was asked for is not finite.
    pub fn run(&self, prompts: &Prompts, ask: &Ask, interventions: &[Intervention]) -> Result<Run> {
        for (prompt, tokens) in prompts.iter().enumerate() {
            self.check_prompt(prompt, tokens)?;
        }
        let batch = Batch { tokens: prompts.iter().collect() };
        let parts = batch.tokens.iter().map(|tokens| Part { tokens, start: 0, before: 0..0 }).collect();
        let mut edits = BTreeMap::new();
        for intervention in interventions {
            self.check_intervention(intervention)?;
            add_edits(&mut edits, intervention, batch.spots(&intervention.positions)?);
        }
        self.pass(&batch, parts, None, edits, ask, Stage::Start)
    }

    /// Runs changed prompts by reusing `run`: of each case, only the positions from the first edited one on, and only the
    /// layers from the first edited one on, are computed. The result has the bits of a full run.
    ///
    /// Positions and targets of `ask` are those of the cases, which take the place of prompts; each case ends at its
    /// `until`. Losses need the whole prompt, so a case asked for losses must begin at position 0 or use predictions.
    ///
    /// # Errors
    /// As [`run`](Self::run); also if `run` was not made [resumable](Ask::resumable) for these hook points and positions.
    pub fn resume(&self, prompts: &Prompts, run: &Run, cases: &[Case], ask: &Ask) -> Result<Run> {
        let kept = run.kept.as_ref().ok_or_else(|| not_resumable("the run was not asked to be resumable"))?;
        for (hook, _) in &ask.hooks {
            self.check_after(*hook, kept)?;
        }
        let (mut tokens, mut parts, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut edits = BTreeMap::new();
        let first_rows: Vec<usize> = kept
            .parts
            .iter()
            .scan(0, |row, (_, len)| {
                let first = *row;
                *row += len;
                Some(first)
            })
            .collect();
        for (number, case) in cases.iter().enumerate() {
            let prompt = prompts.get(case.prompt);
            let (start, len) = kept.parts[case.prompt];
            if case.until >= start + len {
                return Err(not_resumable(&format!("position {} was not kept", case.until)));
            }
            let mut first = case.until;
            for intervention in &case.interventions {
                self.check_intervention(intervention)?;
                self.check_after(intervention.hook, kept)?;
                let at = intervention
                    .positions
                    .resolve(case.prompt, prompt.len())
                    .map_err(|position| Error::Position { prompt: case.prompt, position, positions: prompt.len() })?;
                let spots: Vec<Spot> = at.into_iter().filter(|p| *p <= case.until).map(|p| (number, p)).collect();
                first = spots.iter().map(|(_, p)| *p).min().unwrap_or(first).min(first);
                add_edits(&mut edits, intervention, spots);
            }
            if first < start {
                return Err(not_resumable(&format!("position {first} was not kept")));
            }
            let row = first_rows[case.prompt] + first - start;
            rows.extend(row..=row + case.until - first);
            tokens.push(&prompt[..=case.until]);
            let before = prompts.offsets()[case.prompt];
            parts.push(Part { tokens: &prompt[first..=case.until], start: first, before: before..before + first });
        }
        self.pass(&Batch { tokens }, parts, Some(&run.keys), edits, ask, kept.stage.gather(&rows))
    }

    fn pass<'a>(
        &'a self,
        batch: &Batch,
        parts: Vec<Part<'a>>,
        before: Option<&'a KeyValues>,
        edits: BTreeMap<HookPoint, Edits<'a>>,
        ask: &Ask,
        stage: Stage,
    ) -> Result<Run> {
        let mut captures: BTreeMap<HookPoint, Vec<Spot>> = BTreeMap::new();
        for (hook, positions) in &ask.hooks {
            hook.check(&self.config)?;
            captures.entry(*hook).or_default().extend(batch.spots(positions)?);
        }
        let unembedded = captures.remove(&HookPoint::UnembedOut);
        let losses: Vec<Target> = if ask.losses { next_tokens(batch) } else { Vec::new() };
        let logits = ask.logits.as_ref().map(|positions| batch.spots(positions)).transpose()?;
        for target in &ask.targets {
            if target.token as usize >= self.config.d_vocab {
                return Err(self.bad_token(target.prompt, target.position, target.token));
            }
            if target.position >= batch.tokens[target.prompt].len() {
                return Err(Error::Position {
                    prompt: target.prompt,
                    position: target.position.to_string(),
                    positions: batch.tokens[target.prompt].len(),
                });
            }
        }
        let spot = |target: &Target| (target.prompt, target.position);
        // Every spot is normalised and unembedded once, however many things are asked of it.
        let mut finals: Vec<Spot> = losses.iter().chain(&ask.targets).map(spot).collect();
        finals.extend(logits.iter().chain(&unembedded).flatten());
        finals.sort_unstable();
        finals.dedup();
        let (keep, keep_spots) = match &ask.resume {
            Some((hook, positions)) => {
                hook.check(&self.config)?;
                (Some(Stage::name_for(*hook, self.config.n_layers)), batch.spots(positions)?)
            }
            None => (None, Vec::new()),
        };
        let pass = Pass {
            model: self,
            parts,
            before,
            edits,
            captures,
            finals: finals.clone(),
            keep,
            keep_spots,
            keep_keys: keep.is_some(),
            longest: batch.tokens.iter().map(|tokens| tokens.len()).max().unwrap_or(0),
        };
        let Passed { captured, finals: normalized, kept, keys } = pass.run(stage);
        check_finite(batch, &captured, ask)?;

        let mut run = Run { captured, kept, keys, ..Run::default() };
        let Some(normalized) = normalized.filter(|_| !finals.is_empty()) else { return Ok(run) };
        let targets: Vec<Target> = losses.iter().chain(&ask.targets).copied().collect();
        let mut predictions = self.predict(&normalized, &finals, &targets)?;
        run.predictions = predictions.split_off(losses.len());
        run.losses = predictions.iter().map(|p| -p.log_prob as f32).collect();
        let rows = |spots: Vec<Spot>| {
            let at = spots.iter().map(|spot| finals.binary_search(spot).expect("every spot was computed"));
            self.unembed(&normalized.gather(at.collect::<Vec<_>>().into_iter()))
        };
        run.logits = logits.map(rows);
        if let Some(spots) = unembedded {
            run.captured.insert(HookPoint::UnembedOut, rows(spots));
        }
        Ok(run)
    }

    /// Logits of rows of the final LayerNorm's output: `x W_U + b_U`.
    pub fn unembed(&self, normalized: &Matrix) -> Matrix {
        directrix_kernels::affine(normalized.view(), self.weights.w_u.view(), &self.weights.b_u)
    }

    /// Predictions of `targets` at `spots`, whose rows are `normalized`.
    fn predict(&self, normalized: &Matrix, spots: &[Spot], targets: &[Target]) -> Result<Vec<Prediction>> {
        let mut by_spot: Vec<(usize, usize)> = targets
            .iter()
            .enumerate()
            .map(|(i, t)| (spots.binary_search(&(t.prompt, t.position)).expect("every target has its spot"), i))
            .collect();
        by_spot.sort_unstable();
        let wanted: Vec<(usize, u32)> = by_spot.iter().map(|&(spot, target)| (spot, targets[target].token)).collect();
        let (w_u, b_u) = (self.weights.w_u.view(), &self.weights.b_u);
        let found = directrix_kernels::predict(normalized.view(), w_u, b_u, &wanted);
        let mut predictions = vec![Prediction { logit: 0.0, log_prob: 0.0, rank: 0 }; targets.len()];
        for (&(spot, target), Predicted { logit, log_sum_exp, rank }) in by_spot.iter().zip(found) {
            let log_prob = logit as f64 - log_sum_exp;
            if !log_prob.is_finite() {
                let (prompt, position) = spots[spot];
                return Err(Error::NotFinite { hook: HookPoint::UnembedOut.to_string(), prompt, position });
            }
            predictions[target] = Prediction { logit, log_prob, rank };
        }
        Ok(predictions)
    }

    pub(crate) fn check_prompt(&self, prompt: usize, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() || tokens.len() > self.config.n_ctx {
            return Err(Error::Length { prompt, positions: tokens.len(), context: self.config.n_ctx });
        }
        match tokens.iter().position(|t| *t as usize >= self.config.d_vocab) {
            Some(position) => Err(self.bad_token(prompt, position, tokens[position])),
            None => Ok(()),
        }
    }

    fn bad_token(&self, prompt: usize, position: usize, token: u32) -> Error {
        Error::Token { prompt, position, token, vocabulary: self.config.d_vocab }
    }

    fn check_intervention(&self, intervention: &Intervention) -> Result<()> {
        let hook = intervention.hook;
        hook.check(&self.config)?;
        let problem = |problem: String| Err(Error::Intervention { hook: hook.to_string(), problem });
        let by_key = matches!(hook, HookPoint::Block(_, BlockHook::AttnScores | BlockHook::Pattern));
        let width: usize = hook.shape(&self.config, 0).iter().product();
        match intervention.kind.width() {
            _ if hook == HookPoint::UnembedOut => {
                problem("logits are the end of the pass; change what makes them".into())
            }
            Some(_) if by_key => problem("rows differ in length here; use Zero, Scale or Map".into()),
            Some(found) if found != width => problem(format!("a row of {found} numbers where there are {width}")),
            _ => Ok(()),
        }
    }

    fn check_after(&self, hook: HookPoint, kept: &Kept) -> Result<()> {
        if Stage::name_for(hook, self.config.n_layers).is_before(kept.stage.name()) {
            return Err(not_resumable(&format!("{hook} comes before the point it kept")));
        }
        Ok(())
    }
}

fn add_edits<'a>(edits: &mut BTreeMap<HookPoint, Edits<'a>>, intervention: &'a Intervention, spots: Vec<Spot>) {
    let of_hook = edits.entry(intervention.hook).or_default();
    of_hook.extend(spots.into_iter().map(|spot| (spot, &intervention.kind)));
}

fn check_finite(batch: &Batch, captured: &BTreeMap<HookPoint, Matrix>, ask: &Ask) -> Result<()> {
    for (hook, value) in captured {
        if matches!(hook, HookPoint::Block(_, BlockHook::AttnScores)) {
            continue;
        }
        if let Some((row, _)) = value.first_not_finite() {
            let spots = ask.hooks.iter().filter(|(h, _)| h == hook).map(|(_, positions)| batch.spots(positions));
            let (prompt, position) = spots.collect::<Result<Vec<_>>>()?.concat()[row];
            return Err(Error::NotFinite { hook: hook.to_string(), prompt, position });
        }
    }
    Ok(())
}

fn not_resumable(problem: &str) -> Error {
    Error::Intervention { hook: "resume".into(), problem: problem.into() }
}

/// Every next token of a batch.
fn next_tokens(batch: &Batch) -> Vec<Target> {
    let of = |(prompt, tokens): (usize, &&[u32])| {
        let next = tokens.iter().skip(1).enumerate();
        next.map(|(position, &token)| Target { prompt, position, token }).collect::<Vec<_>>()
    };
    batch.tokens.iter().enumerate().flat_map(of).collect()
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

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("config", &self.config)
            .field("processing", &self.processing)
            .finish_non_exhaustive()
    }
}
