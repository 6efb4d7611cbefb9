//! What a study has found before its sections are made, and what they all build on.

use directrix_circuits::{
    ActiveDirection, ActivePrompts, BehaviourPrompts, Chosen, SingleAblation, active_directions, answer_activations,
    behaviour_prompts, single_ablations,
};
use directrix_corpus::{Prompts, Watch};
use directrix_index::{Example, Index, SaeIndex};
use directrix_kernels::SparseActivations;
use directrix_lab::Opened;
use directrix_model::{Ask, Positions, batches};
use directrix_sae::Sae;

use crate::report::ShadedText;
use crate::run::Clock;
use crate::sections::{Active, Analysis, SingleAblations};
use crate::study::Study;
use crate::{Error, Result};

/// The behaviour's prompts, the directions active on them, and what ablating each does.
pub(crate) struct Findings<'a> {
    pub(crate) study: &'a Study,
    pub(crate) opened: &'a Opened,
    pub(crate) index: &'a Index,
    pub(crate) watch: &'a Watch,
    pub(crate) behaviour: BehaviourPrompts,
    /// Activations of the SAE taken apart before the answer, one row per behaviour prompt.
    pub(crate) acts: SparseActivations,
    /// The directions active on the first behaviour prompts, strongest first.
    pub(crate) active: Vec<ActiveDirection>,
    /// How many prompts those are.
    pub(crate) active_prompts: usize,
    /// Ablation of each active direction, largest loss increase first.
    pub(crate) singles: Vec<SingleAblation>,
    /// The directions ablated together and looked at closely; at least one.
    pub(crate) top: Vec<u32>,
}

impl<'a> Findings<'a> {
    pub(crate) fn of(
        study: &'a Study,
        name: &str,
        opened: &'a Opened,
        index: &'a Index,
        clock: &mut Clock,
        watch: &'a Watch,
    ) -> Result<Findings<'a>> {
        let Opened { model, tokenizer, saes, bos, .. } = opened;
        let context = model.config().n_ctx;
        let behaviour = behaviour_prompts(opened.documents()?, tokenizer.as_ref(), &study.behaviour, *bos, context)?;
        let sae = &saes[study.chosen()];
        let acts = answer_activations(model, sae, &behaviour.prompts, watch)?;
        clock.lap("behaviour prompts");

        // Of sections of one kind, the last one's options count.
        let sections = || study.sections.iter().rev();
        let options =
            sections().find_map(|s| if let Analysis::Active(options) = s { Some(options.clone()) } else { None });
        let Active { prompts, options } = options.unwrap_or_default();
        let active_prompts = prompts.min(behaviour.prompts.len());
        let mut first = SparseActivations::default();
        for prompt in 0..active_prompts {
            let (directions, values) = acts.at(prompt);
            first.push(directions.iter().copied().zip(values.iter().copied()));
        }
        let active = active_directions(&first, index.sae(study.chosen()).maxima(), options)?;
        let directions: Vec<u32> = active.iter().map(|row| row.direction as u32).collect();
        let options = sections()
            .find_map(|s| if let Analysis::SingleAblations(options) = s { Some(options.clone()) } else { None });
        let SingleAblations { active_above, prompts } = options.unwrap_or_default();
        let chosen = Chosen::On { prompts: active_prompts, by: "mean activation before the answer" };
        let on = ActivePrompts { acts: &acts, above: active_above, limit: prompts };
        let mut singles = single_ablations(model, sae, &behaviour.prompts, &directions, chosen, on, watch)?;
        singles.sort_by(|a, b| b.loss_increase.mean().total_cmp(&a.loss_increase.mean()));
        let top: Vec<u32> = match &study.directions {
            Some(directions) => directions.iter().map(|d| sae.check(*d)).collect::<Result<_, _>>()?,
            None => singles.iter().take(study.top_directions).map(|row| row.direction as u32).collect(),
        };
        if top.is_empty() {
            return Err(Error::Study {
                name: name.into(),
                problem: "no direction is active before the answer on enough prompts; name some under `directions`, or lower the thresholds of the section `active`".into(),
            });
        }
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        clock.lap("single ablations");
        Ok(Findings { study, opened, index, watch, behaviour, acts, active, active_prompts, singles, top })
    }

    /// The SAE that is taken apart.
    pub(crate) fn sae(&self) -> &Sae {
        &self.opened.saes[self.study.chosen()]
    }

    /// Its part of the index.
    pub(crate) fn sae_index(&self) -> &SaeIndex {
        self.index.sae(self.study.chosen())
    }

    /// The text of a token; `[id]` without a tokenizer.
    pub(crate) fn token(&self, token: u32) -> String {
        self.opened.token(token)
    }

    pub(crate) fn texts(&self, tokens: &[u32]) -> Vec<String> {
        tokens.iter().map(|token| self.token(*token)).collect()
    }

    pub(crate) fn answer(&self) -> String {
        self.token(self.behaviour.answer)
    }

    /// The first `n` prompts of the corpus.
    pub(crate) fn corpus_prompts(&self, n: usize) -> Result<Prompts> {
        self.prompts_of_index(0..n.min(self.index.prompts()))
    }

    /// Prompts of the corpus by their numbers.
    pub(crate) fn prompts_of_index(&self, numbers: impl Iterator<Item = usize>) -> Result<Prompts> {
        let rows: Vec<&[u32]> = numbers.map(|number| self.index.prompt(number)).collect::<Result<_, _>>()?;
        Ok(Prompts::from_rows(rows))
    }

    /// A prompt of the index, shaded by a direction's activations.
    pub(crate) fn shaded(&self, label: String, example: &Example, direction: usize) -> Result<ShadedText> {
        let (index, sae) = (self.index, self.sae_index());
        Ok(ShadedText {
            label,
            tokens: self.texts(index.prompt(example.prompt)?),
            values: sae.on_prompt(example.prompt, direction)?,
            maximum: sae.maxima()[direction],
            marked: Some(example.position),
        })
    }

    /// The first `n` behaviour prompts.
    pub(crate) fn behaviour_prompts(&self, n: usize) -> Prompts {
        self.behaviour.prompts.range(0..n.min(self.behaviour.prompts.len()))
    }

    /// The behaviour prompts on which `direction` is active before the answer, and its activations there.
    pub(crate) fn active_on(&self, direction: u32, above: f32) -> Vec<(usize, f32)> {
        let all = (0..self.behaviour.prompts.len()).map(|prompt| (prompt, self.acts.get(prompt, direction)));
        all.filter(|(_, activation)| *activation > above).collect()
    }

    /// A direction's activation at every position of some prompts.
    pub(crate) fn on_prompts(&self, prompts: &Prompts, direction: u32) -> Result<Vec<Vec<f32>>> {
        let (sae, mut all) = (self.sae(), Vec::new());
        for batch in batches(prompts, 4096) {
            let part = prompts.range(batch);
            let ask = Ask::nothing().with_capture(sae.site().reads.hook, Positions::All);
            let run = self.opened.model.run(&part, &ask, &[])?;
            let acts = sae.encode(run.captured(sae.site().reads.hook))?;
            all.extend(
                part.offsets().windows(2).map(|w| (w[0]..w[1]).map(|row| acts.get(row, direction)).collect::<Vec<_>>()),
            );
        }
        Ok(all)
    }
}
