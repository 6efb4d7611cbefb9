//! What a study's analyses share: the loaded inputs, the index, the behaviour prompts and the directions found on them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use directrix_circuits::{
    ActiveDirection, BehaviourPrompts, SingleAblation, active_directions, answer_activations, behaviour_prompts,
    single_ablations,
};
use directrix_corpus::{Prompts, Tokenising, Tokenizer, prompts};
use directrix_index::{Identity, Index, Options, Progress, SaeIndex, Source, build};
use directrix_kernels::SparseActivations;
use directrix_model::{Ask, Folder, Model, Positions, batches};
use directrix_sae::Sae;

use crate::report::ShadedText;
use crate::study::{Active, SectionKind, SingleAblations, Study};
use crate::{Error, Result};

/// What a study is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// The index is being built.
    Index {
        /// How far.
        progress: Progress,
        /// Stories there are.
        prompts: usize,
    },
    /// An analysis begins.
    Section {
        /// Its number, from 1.
        number: usize,
        /// Analyses there are.
        of: usize,
        /// Its title.
        title: &'a str,
    },
}

/// The inputs of all analyses.
pub(crate) struct Lab {
    pub(crate) study: Study,
    pub(crate) model: Model,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) saes: Vec<Sae>,
    pub(crate) index: Index,
    pub(crate) bos: Option<u32>,
    pub(crate) behaviour: BehaviourPrompts,
    /// Activations of the SAE taken apart before the answer, one row per behaviour prompt.
    pub(crate) acts: SparseActivations,
    /// Prompts over which `active` was found.
    pub(crate) active_prompts: usize,
    pub(crate) active: Vec<ActiveDirection>,
    /// Ablation of each active direction, largest loss increase first.
    pub(crate) singles: Vec<SingleAblation>,
    /// The directions ablated together and looked at closely.
    pub(crate) top: Vec<u32>,
    pub(crate) timings: Vec<(String, f64)>,
}

/// The BOS convention of TransformerLens: every family but GPT-NeoX starts prompts with BOS.
pub fn default_bos(model: &Model) -> bool {
    model.config().family.begins_with_bos
}

impl Lab {
    pub(crate) fn open(
        study: &Study,
        name: &str,
        out: &Path,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Event),
    ) -> Result<Lab> {
        let mut clock = Clock::start();
        let folder = directrix_lab::folder(&study.model)?;
        let model = Model::load(&folder, study.processing)?;
        let tokenizer = folder.tokenizer()?;
        let sae_folders: Vec<Folder> =
            study.saes.iter().map(|sae| directrix_lab::folder(sae)).collect::<Result<_, _>>()?;
        let load = |sae| Sae::load(sae)?.fit(model.config());
        let saes: Vec<Sae> = sae_folders.iter().map(load).collect::<Result<_, _>>()?;
        let corpus = directrix_lab::corpus(&study.corpus, study.column.as_deref())?;
        check(study, name, &model, &saes)?;
        if let Some(tokenizer) = &tokenizer {
            tokenizer.single_token(&study.behaviour.ends_with)?;
        }
        let bos = study
            .bos
            .unwrap_or_else(|| default_bos(&model))
            .then(|| tokenizer.as_ref().and_then(Tokenizer::bos))
            .flatten();
        let limit = study.limit.unwrap_or(usize::MAX);
        let survey = corpus.survey(limit)?;
        clock.lap("load");

        let identity = Identity {
            model: Source { name: study.model.clone(), hash: folder.hash() },
            processing: study.processing,
            saes: study
                .saes
                .iter()
                .zip(&sae_folders)
                .map(|(name, folder)| Source { name: name.clone(), hash: folder.hash() })
                .collect(),
            corpus: Source { name: study.corpus.clone(), hash: survey.hash },
            bos: bos.is_some(),
            limit: study.limit,
            options: Options::default(),
        };
        let options =
            Tokenising { bos, max_len: model.config().n_ctx, vocab_size: model.config().d_vocab, chunk_prompts: 256 };
        let chunks = prompts(corpus.name(), corpus.documents()?.take(limit), tokenizer.as_ref(), options);
        let index_folder = out.join("index");
        replace_other_index(&index_folder, &identity)?;
        let index = build(&model, &saes, chunks, &identity, &index_folder, stop, |done| {
            progress(Event::Index { progress: done, prompts: survey.documents });
        })?;
        clock.lap("index");

        let documents = corpus.documents()?.take(limit);
        let context = model.config().n_ctx;
        let behaviour = behaviour_prompts(documents, tokenizer.as_ref(), &study.behaviour, bos, context)?;
        let sae = &saes[study.chosen()];
        let acts = answer_activations(&model, sae, &behaviour.prompts)?;
        clock.lap("behaviour prompts");

        let (active_options, single_options) = shared_options(study);
        let active_prompts = active_options.prompts.min(behaviour.prompts.len());
        let mut first = SparseActivations::default();
        for prompt in 0..active_prompts {
            let (directions, values) = acts.at(prompt);
            first.push(directions.iter().copied().zip(values.iter().copied()));
        }
        let maxima = index.sae(study.chosen()).maxima();
        let active = active_directions(&first, maxima, active_options.options);
        let directions: Vec<u32> = active.iter().map(|row| row.direction as u32).collect();
        let SingleAblations { active_above, prompts } = single_options;
        let mut singles = single_ablations(&model, sae, &behaviour.prompts, &acts, &directions, active_above, prompts)?;
        singles.sort_by(|a, b| b.loss_increase.total_cmp(&a.loss_increase));
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
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        clock.lap("single ablations");
        Ok(Lab {
            study: study.clone(),
            model,
            tokenizer,
            saes,
            index,
            bos,
            behaviour,
            acts,
            active_prompts,
            active,
            singles,
            top,
            timings: clock.laps,
        })
    }

    /// The SAE that is taken apart.
    pub(crate) fn sae(&self) -> &Sae {
        &self.saes[self.study.chosen()]
    }

    /// Its part of the index.
    pub(crate) fn sae_index(&self) -> &SaeIndex {
        self.index.sae(self.study.chosen())
    }

    /// The text of a token; its number without a tokenizer.
    pub(crate) fn token(&self, token: u32) -> String {
        self.tokenizer.as_ref().map_or_else(|| format!("#{token}"), |tokenizer| tokenizer.token_text(token))
    }

    pub(crate) fn texts(&self, tokens: &[u32]) -> Vec<String> {
        tokens.iter().map(|token| self.token(*token)).collect()
    }

    pub(crate) fn answer(&self) -> String {
        self.token(self.behaviour.answer)
    }

    /// The first `n` stories of the corpus.
    pub(crate) fn stories(&self, n: usize) -> Prompts {
        Prompts::from_rows((0..n.min(self.index.prompts())).map(|i| self.index.prompt(i)))
    }

    /// The first `n` behaviour prompts.
    pub(crate) fn answers(&self, n: usize) -> Prompts {
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
            let run = self.model.run(&part, &ask, &[])?;
            let acts = sae.encode(run.captured(sae.site().reads.hook))?;
            all.extend(
                part.offsets().windows(2).map(|w| (w[0]..w[1]).map(|row| acts.get(row, direction)).collect::<Vec<_>>()),
            );
        }
        Ok(all)
    }

    /// A prompt shaded by a direction's activations.
    pub(crate) fn shaded(
        &self,
        label: String,
        tokens: &[u32],
        values: Vec<f32>,
        maximum: f32,
        marked: Option<usize>,
    ) -> ShadedText {
        ShadedText { label, tokens: self.texts(tokens), values, maximum, marked }
    }
}

/// An index of other inputs in the study's own folder is built again.
fn replace_other_index(folder: &Path, identity: &Identity) -> Result<()> {
    let other = match Index::open(folder) {
        Ok(index) => index.meta().identity.difference(identity).is_some(),
        Err(_) => folder.join("index.json").is_file(),
    };
    if other {
        std::fs::remove_dir_all(folder).map_err(|source| Error::Write { path: folder.into(), source })?;
    }
    Ok(())
}

/// The options of the sections whose results all others build on; the last one named counts.
fn shared_options(study: &Study) -> (Active, SingleAblations) {
    let (mut active, mut singles) = (Active::default(), SingleAblations::default());
    for section in &study.sections {
        match section {
            SectionKind::Active(options) => active = options.clone(),
            SectionKind::SingleAblations(options) => singles = options.clone(),
            _ => {}
        }
    }
    (active, singles)
}

/// Directions, layers and heads that a study names must be there before the long work begins.
fn check(study: &Study, name: &str, model: &Model, saes: &[Sae]) -> Result<()> {
    let sae = &saes[study.chosen()];
    let mut named: BTreeSet<usize> = study.directions.iter().flatten().copied().collect();
    for section in &study.sections {
        match section {
            SectionKind::Examples(options) => named.extend(options.directions.iter().flatten()),
            SectionKind::Direction(options) => named.extend(options.direction),
            SectionKind::MoreAblations(options) => named.extend(options.direction),
            SectionKind::Cosine(_) | SectionKind::Cooccurrence(_) if saes.len() < 2 => {
                let problem = "the sections cosine and cooccurrence need two SAEs under `saes`".into();
                return Err(Error::Study { name: name.into(), problem });
            }
            SectionKind::Attention(options) => {
                let config = model.config();
                if options.layer.is_some_and(|l| l >= config.n_layers)
                    || options.head.is_some_and(|h| h >= config.attention.query_heads)
                {
                    let problem = format!(
                        "section attention names layer {:?}, head {:?}; the model has {} layers of {} heads, counted from 0",
                        options.layer, options.head, config.n_layers, config.attention.query_heads
                    );
                    return Err(Error::Study { name: name.into(), problem });
                }
            }
            _ => {}
        }
    }
    for direction in &named {
        sae.check(*direction)?;
    }
    Ok(())
}

/// Seconds between laps.
pub(crate) struct Clock {
    last: Instant,
    pub(crate) laps: Vec<(String, f64)>,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { last: Instant::now(), laps: Vec::new() }
    }

    pub(crate) fn lap(&mut self, name: &str) {
        self.laps.push((name.into(), self.last.elapsed().as_secs_f64()));
        self.last = Instant::now();
    }
}
