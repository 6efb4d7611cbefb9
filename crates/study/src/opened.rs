//! What a study names, open: model, tokenizer, SAEs, corpus and index.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use directrix_corpus::{Corpus, Tokenising, Tokenizer, prompts};
use directrix_index::{Identity, Index, Options, Progress, Source, build};
use directrix_model::{Folder, Model};
use directrix_sae::Sae;

use crate::run::Clock;
use crate::study::Study;
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

pub(crate) struct Opened {
    pub(crate) model: Model,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) saes: Vec<Sae>,
    pub(crate) corpus: Corpus,
    pub(crate) index: Index,
    pub(crate) bos: Option<u32>,
}

impl Opened {
    pub(crate) fn open(
        study: &Study,
        name: &str,
        out: &Path,
        clock: &mut Clock,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Event),
    ) -> Result<Opened> {
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

        Ok(Opened { model, tokenizer, saes, corpus, index, bos })
    }
}

/// Whether prompts begin with BOS by the model family's convention.
pub fn default_bos(model: &Model) -> bool {
    model.config().family.begins_with_bos
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

/// What the study asks for must be there before the long work begins.
fn check(study: &Study, name: &str, model: &Model, saes: &[Sae]) -> Result<()> {
    let sae = &saes[study.chosen()];
    let problem = |problem| Err(Error::Study { name: name.into(), problem });
    for direction in study.directions.iter().flatten() {
        sae.check(*direction)?;
    }
    for section in &study.sections {
        let (kind, needed) = (section.kind(), section.saes());
        if saes.len() < needed {
            return problem(format!("section `{kind}` needs {needed} SAEs under `saes`, which names {}", saes.len()));
        }
        section.check(model, sae).or_else(|found| problem(format!("section `{kind}`: {found}")))?;
    }
    Ok(())
}
