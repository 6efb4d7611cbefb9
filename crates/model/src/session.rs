//! Sessions: prompts run once, and run again from where they are changed.

use directrix_corpus::Prompts;

use crate::pass::{Edits, Kept, KeyValues, Part, Stage, StageName};
use crate::positions::Lengths;
use crate::run::Begin;
use crate::{Ask, Error, HookPoint, Intervention, Model, Positions, Result, Run, Spot};

/// Prompts that a model ran on, with what is needed to go on from there with changes.
///
/// ```
/// # use directrix_corpus::Prompts;
/// # use directrix_model::{Ask, Case, Edit, Folder, HookPoint, Intervention, Model, Positions, Processing, Target};
/// # let model = Model::load(&Folder::open("../../assets/tinystories-2l")?, Processing::default())?;
/// let hook: HookPoint = "blocks.1.hook_mlp_out".parse()?;
/// let prompts = Prompts::from_rows([[1, 2, 3], [4, 5, 6]]);
/// let of = |prompt| Target { prompt, position: 1, token: 3 };
/// let session = model.session(prompts, &Ask::nothing().with_predictions([of(0)]), hook, Positions::At(vec![1]))?;
/// let zero = Intervention::new(hook, Positions::At(vec![1]), Edit::Zero);
/// let case = Case { prompt: 0, until: 1, interventions: vec![zero] };
/// let changed = session.resume(&[case], &Ask::nothing().with_predictions([of(0)]))?;
/// assert_ne!(changed.predictions(), session.run().predictions());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Session<'m> {
    model: &'m Model,
    prompts: Prompts,
    run: Run,
    kept: Kept,
    keys: KeyValues,
}

/// One resumed computation: a prompt of the session, changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The prompt.
    pub prompt: usize,
    /// Last position to compute; nothing after it can be asked for.
    pub until: usize,
    /// The changes, none before the hook point that the session keeps. Their positions are of the session's prompts; those
    /// after `until` are left out.
    pub interventions: Vec<Intervention>,
}

impl Model {
    /// Runs the model on every prompt, and keeps what is needed to go on from `hook` or deeper at `positions`.
    ///
    /// Where such a case begins inside a prompt, it can be asked for nothing deeper than `ask` reaches.
    ///
    /// # Errors
    /// As [`run`](Model::run).
    #[expect(clippy::missing_panics_doc, reason = "a pass that is to keep a stage keeps it")]
    pub fn session(&self, prompts: Prompts, ask: &Ask, hook: HookPoint, positions: Positions) -> Result<Session<'_>> {
        hook.check(self.config())?;
        let spots = Lengths::of(&prompts).spots(&positions)?;
        let keep = Some((StageName::of(hook, self.config().n_layers), spots));
        let (run, passed) = self.pass(self.whole(&prompts, Edits::new(), keep)?, ask)?;
        let kept = passed.kept.expect("a stage was to be kept");
        Ok(Session { model: self, run, kept, keys: passed.keys, prompts })
    }
}

impl<'m> Session<'m> {
    /// What the prompts gave, unchanged.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// The prompts.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// Runs changed prompts by reusing what the session keeps: of each case, only the positions from the first edited one
    /// on, and only the layers from the kept one on, are computed. The result has the bits of a full run.
    ///
    /// Positions and targets of `ask` are those of the cases, which take the place of prompts; each case begins at its first
    /// change, or else at its `until`, and ends there. Losses need the whole prompt: of a case that begins later, ask for
    /// predictions.
    ///
    /// # Errors
    /// As [`Model::run`]; [`Error::NotKept`] if a case needs what the session does not keep.
    pub fn resume(&self, cases: &[Case], ask: &Ask) -> Result<Run> {
        ask.hooks.iter().try_for_each(|(hook, _)| self.check_depth(*hook))?;
        let lengths = Lengths::of(&self.prompts);
        let first_rows = self.kept.first_rows();
        let (mut tokens, mut parts, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut edits = Edits::new();
        for (number, case) in cases.iter().enumerate() {
            lengths.check(Spot { prompt: case.prompt, position: case.until })?;
            let prompt = self.prompts.get(case.prompt);
            let mut first = case.until;
            for intervention in &case.interventions {
                let at = lengths.in_prompt(case.prompt, &intervention.positions)?;
                let spots: Vec<Spot> = at.into_iter().map(|position| Spot { prompt: number, position }).collect();
                let mut of_rows = intervention.row_edits(self.model.config(), &spots)?;
                self.check_depth(intervention.hook)?;
                of_rows.retain(|edit| edit.spot.position <= case.until);
                first = of_rows.iter().map(|edit| edit.spot.position).fold(first, usize::min);
                edits.entry(intervention.hook).or_default().extend(of_rows);
            }
            let kept = &self.kept.parts[case.prompt];
            if let Some(lost) = [first, case.until].into_iter().find(|position| !kept.contains(position)) {
                let problem = format!("position {lost} of prompt {} was not kept", case.prompt);
                return Err(Error::NotKept { problem });
            }
            let row = first_rows[case.prompt] + first - kept.start;
            rows.extend(row..=row + case.until - first);
            tokens.push(&prompt[..=case.until]);
            let before = self.prompts.offsets()[case.prompt];
            parts.push(Part { tokens: &prompt[first..=case.until], start: first, before: before..before + first });
        }
        let (before, stage) = (Some(&self.keys), self.kept.stage.gather(&rows));
        Ok(self.model.pass(Begin { tokens, parts, before, stage, edits, keep: None }, ask)?.0)
    }

    /// Carries what is kept forward, unchanged, so that cases go on from `hook` instead of an earlier hook point.
    ///
    /// # Errors
    /// [`Error::NotKept`] if `hook` comes before what is kept, or what is kept begins inside a prompt and the session's own
    /// run did not reach as deep as `hook`.
    #[expect(clippy::missing_panics_doc, reason = "a pass that is to keep a stage keeps it")]
    pub fn advance(mut self, hook: HookPoint) -> Result<Session<'m>> {
        hook.check(self.model.config())?;
        self.check_depth(hook)?;
        let name = StageName::of(hook, self.model.config().n_layers);
        if name == self.kept.stage.name() {
            return Ok(self);
        }
        let of_prompt = |(prompt, kept): (usize, &std::ops::Range<usize>)| {
            let before = self.prompts.offsets()[prompt];
            Part {
                tokens: &self.prompts.get(prompt)[kept.clone()],
                start: kept.start,
                before: before..before + kept.start,
            }
        };
        let parts: Vec<Part> = self.kept.parts.iter().enumerate().map(of_prompt).collect();
        let spots = self.kept.parts.iter().enumerate();
        let spots = spots.flat_map(|(prompt, kept)| kept.clone().map(move |position| Spot { prompt, position }));
        let keep = Some((name, spots.collect()));
        let stage = std::mem::replace(&mut self.kept.stage, Stage::Embed);
        let tokens = self.prompts.iter().collect();
        let begin = Begin { tokens, parts, before: Some(&self.keys), stage, edits: Edits::new(), keep };
        let (_, passed) = self.model.pass(begin, &Ask::nothing())?;
        self.kept = passed.kept.expect("a stage was to be kept");
        Ok(self)
    }

    fn check_depth(&self, hook: HookPoint) -> Result<()> {
        let kept = self.kept.stage.name();
        if StageName::of(hook, self.model.config().n_layers).is_before(kept) {
            return Err(Error::NotKept { problem: format!("{hook} comes before the hook point that was kept") });
        }
        Ok(())
    }
}
