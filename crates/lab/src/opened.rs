//! What is open.

use std::ops::Range;
use std::path::Path;

use directrix_corpus::{
    Chunk, Corpus, Document, Survey, Team, Tokenising, Tokenizer, Watch, join, pieces, prompts, prompts_after,
    token_text,
};
use directrix_index::{Identity, Index, Input, Options, build, build_piece, documents_of_shard, rebuild};
use directrix_model::{Folder, Model};
use directrix_sae::Sae;

use crate::processing;
use crate::source::is_of_hub;
use crate::together::left_of;
use crate::{Error, Result, Sources, Wanted};

/// Prompts tokenised at a time.
const CHUNK_PROMPTS: usize = 256;
/// A model with its tokenizer, SAEs that fit it, and a corpus.
#[derive(Debug)]
pub struct Opened {
    /// What was wanted.
    pub wanted: Wanted,
    /// The model.
    pub model: Model,
    /// What is to be told of what was opened: contradictions in the model's files, and processing that follows the SAEs or is
    /// not theirs.
    pub notes: Vec<String>,
    /// Its tokenizer, if its folder has one.
    pub tokenizer: Option<Tokenizer>,
    /// The SAEs, no two of the same short name.
    pub saes: Vec<Sae>,
    /// The corpus; nothing of it has been read.
    pub corpus: Corpus,
    /// The token before every text, if any.
    pub bos: Option<u32>,
    /// The model's folder, with what was read from it.
    pub folder: Folder,
    sae_folders: Vec<Folder>,
}

/// What is done where an index is to be made and there is one of other inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherIndex {
    /// It stays, and that is an error.
    Keep,
    /// It is replaced.
    Replace,
}

impl Wanted {
    /// Opens everything, with [`Sources::default`].
    ///
    /// # Errors
    /// As [`open_from`](Wanted::open_from).
    pub fn open(self) -> Result<Opened> {
        self.open_from(&Sources::default())
    }

    /// Opens everything. What is of the hub is then wanted at the commit it was found at.
    ///
    /// # Errors
    /// If something cannot be found or loaded, an SAE does not fit the model, two SAEs have the same short name, or BOS is
    /// asked for and the model's folder names none.
    pub fn open_from(mut self, sources: &Sources) -> Result<Opened> {
        let folder = sources.model(&self.model)?;
        let mut sae_folders = self.saes.iter().map(|name| sources.sae_folder(name)).collect::<Result<Vec<_>>>()?;
        let corpus = sources.corpus(&self.corpus, self.column.as_deref())?;
        self.model = folder.to_string();
        self.saes = sae_folders.iter().map(ToString::to_string).collect();
        self.corpus = corpus.name().into();
        tell_apart(&mut sae_folders);
        let tokenizer = folder.tokenizer()?;
        let saes = sae_folders.iter().map(Sae::load).collect::<directrix_sae::Result<Vec<_>>>()?;
        let model = Model::load(&folder, processing::processing(self.processing, &saes)?)?;
        let saes = saes.into_iter().map(|sae| sae.fit(model.config())).collect::<directrix_sae::Result<Vec<_>>>()?;
        let notes = [model.notes(), &processing::notes(self.processing, &model, &saes)].concat();
        for (i, sae) in saes.iter().enumerate() {
            if let Some(other) = saes[..i].iter().find(|other| other.short_name() == sae.short_name()) {
                let (name, one, two) = (sae.short_name().into(), other.name().into(), sae.name().into());
                return Err(Error::SameName { name, one, two });
            }
        }
        let token = tokenizer.as_ref().and_then(Tokenizer::bos);
        if self.bos == Some(true) && token.is_none() {
            return Err(Error::NoBos { folder: folder.to_string() });
        }
        let bos = token.filter(|_| self.bos.unwrap_or(model.config().family.begins_with_bos));
        Ok(Opened { wanted: self, model, notes, tokenizer, saes, corpus, bos, folder, sae_folders })
    }
}

impl Opened {
    /// The tokenizer, for what cannot do without.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] if there is none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        let path = || self.folder.describe("tokenizer.json");
        self.tokenizer.as_ref().ok_or_else(|| Error::NoTokenizer { path: path() })
    }

    /// A token's text; `[id]` without a tokenizer.
    pub fn token(&self, token: u32) -> String {
        token_text(self.tokenizer.as_ref(), token)
    }

    /// The texts of tokens that follow each other, as [`pieces`].
    pub fn pieces(&self, tokens: &[u32], alike: impl Fn(usize) -> bool) -> Vec<String> {
        pieces(self.tokenizer.as_ref(), tokens, alike)
    }

    /// The ids of tokens that are given by their ids or their texts, ascending: those whose positions are not to count.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, or a text is not a single token.
    pub fn excluded(&self, tokens: &[String]) -> Result<Vec<u32>> {
        let vocabulary = self.model.config().d_vocab;
        let mut ids = Vec::new();
        for wanted in tokens {
            ids.push(match wanted.parse::<u32>() {
                Ok(id) if (id as usize) < vocabulary => id,
                Ok(_) => return Err(Error::Excluded { token: wanted.clone(), vocabulary }),
                Err(_) => self.tokenizer()?.single_token(wanted)?,
            });
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// How texts become prompts: with the model's BOS, context and vocabulary.
    pub fn tokenising(&self) -> Tokenising {
        let config = self.model.config();
        Tokenising { bos: self.bos, max_len: config.n_ctx, vocab_size: config.d_vocab, chunk_prompts: CHUNK_PROMPTS }
    }

    /// The documents of the corpus, up to the limit.
    ///
    /// # Errors
    /// If the corpus cannot be read.
    pub fn documents(&self) -> Result<impl Iterator<Item = directrix_corpus::Result<Document>> + Send + use<>> {
        Ok(self.corpus.documents()?.take(self.limit()))
    }

    /// The prompts of the corpus, chunk by chunk.
    ///
    /// # Errors
    /// If the corpus cannot be read; its items as those of [`prompts`].
    pub fn chunks(&self) -> Result<impl Iterator<Item = directrix_corpus::Result<Chunk>> + use<>> {
        Ok(prompts(self.corpus.name(), self.documents()?, self.tokenizer.as_ref(), self.tokenising()))
    }

    /// The prompts of the corpus, held in memory.
    ///
    /// # Errors
    /// If the corpus cannot be read or tokenised.
    pub fn prompts(&self) -> Result<Chunk> {
        Ok(join(self.chunks()?)?)
    }

    /// The prompts of texts; `name` is what errors call these.
    ///
    /// # Errors
    /// If they cannot be tokenised.
    pub fn prompts_of(&self, name: &str, texts: &[String]) -> Result<Chunk> {
        let documents = texts.iter().take(self.limit()).map(|text| Ok(Document::Text(text.clone())));
        Ok(join(prompts(name, documents, self.tokenizer.as_ref(), self.tokenising()))?)
    }

    /// The corpus's hash, and how many documents are read of it.
    ///
    /// # Errors
    /// If the corpus cannot be read, or the watch says stop.
    pub fn survey(&self, watch: &Watch) -> Result<Survey> {
        Ok(self.corpus.survey(self.limit(), watch)?)
    }

    /// The model's name without the commit it was found at: what other programs can load it by.
    pub fn model_name(&self) -> &str {
        let name = &self.wanted.model;
        name.split_once('@').filter(|_| is_of_hub(name)).map_or(name, |(repository, _)| repository)
    }

    /// The model by name, with the hash of the files that were loaded.
    pub fn model_source(&self) -> Input {
        Input { name: self.wanted.model.clone(), hash: self.folder.hash() }
    }

    /// An SAE by name, with the hash of the files that were loaded.
    pub fn sae_source(&self, number: usize) -> Input {
        Input { name: self.wanted.saes[number].clone(), hash: self.sae_folders[number].hash() }
    }

    /// Makes an index of the corpus in `folder`, or opens the one that is there.
    ///
    /// # Errors
    /// If the corpus holds nothing or cannot be read, there is an index of other inputs and `other` says to keep it, a file
    /// cannot be written, or the watch says stop.
    pub fn index(&self, folder: &Path, options: Options, other: OtherIndex, watch: &Watch) -> Result<Index> {
        let survey = self.survey_to_index(watch)?;
        let documents = survey.documents;
        let identity = self.identity(survey, options);
        if watch.team().is_some_and(Team::is_shard) {
            // Others would make it at the same time.
            let index = open_index(folder)?;
            return match index.meta().identity.difference(&identity) {
                Some(difference) => Err(directrix_index::Error::Other { path: folder.into(), difference }.into()),
                None => Ok(index),
            };
        }
        let ranks = watch.team().and_then(Team::ranks);
        if ranks.is_some() || left_of(folder).is_some() {
            return self.index_over(ranks, folder, &identity, documents, other, watch);
        }
        let chunks = self.chunks()?;
        let total = documents as u64;
        let watch = watch.through(move |event| if event.unit == "prompts" { event.of(total) } else { event });
        Ok(match other {
            OtherIndex::Keep => build(&self.model, &self.saes, chunks, &identity, folder, &watch)?,
            OtherIndex::Replace => rebuild(&self.model, &self.saes, chunks, &identity, folder, &watch)?,
        })
    }

    /// As [`index`](Opened::index), of the documents of shard `number`, from 0, of `of` alone.
    ///
    /// # Errors
    /// As [`index`](Opened::index).
    pub fn index_shard(
        &self,
        folder: &Path,
        options: Options,
        [number, of]: [usize; 2],
        watch: &Watch,
    ) -> Result<Index> {
        let survey = self.survey_to_index(watch)?;
        let all = survey.documents;
        let documents = documents_of_shard(number, of, all);
        self.index_piece(folder, &self.identity(survey, options), documents, all, watch)
    }

    pub(crate) fn index_piece(
        &self,
        folder: &Path,
        identity: &Identity,
        documents: Range<usize>,
        of: usize,
        watch: &Watch,
    ) -> Result<Index> {
        let (first, total) = (documents.start, documents.len() as u64);
        let own = self.documents()?.skip(first).take(documents.len());
        let chunks = prompts_after(first, self.corpus.name(), own, self.tokenizer.as_ref(), self.tokenising());
        let watch = watch.through(move |event| if event.unit == "prompts" { event.of(total) } else { event });
        Ok(build_piece(&self.model, &self.saes, chunks, identity, documents, of, folder, &watch)?)
    }

    /// The survey of a corpus that has something to index.
    pub(crate) fn survey_to_index(&self, watch: &Watch) -> Result<Survey> {
        let survey = self.survey(watch)?;
        if survey.documents == 0 {
            return Err(directrix_corpus::Error::Empty { corpus: self.corpus.name().into() }.into());
        }
        Ok(survey)
    }

    /// Of what an index of all this is.
    pub(crate) fn identity(&self, survey: Survey, options: Options) -> Identity {
        Identity {
            model: self.model_source(),
            processing: self.model.processing(),
            saes: (0..self.saes.len()).map(|number| self.sae_source(number)).collect(),
            corpus: Input { name: self.corpus.name().into(), hash: survey.hash },
            bos: self.bos.is_some(),
            column: self.wanted.column.clone(),
            limit: self.wanted.limit,
            options,
        }
    }

    /// Opens an index that must be of this model and have a part for each of these SAEs; gives the index and the numbers of its parts.
    ///
    /// # Errors
    /// [`Error::NoIndex`]; [`Error::OtherModel`], [`Error::OtherProcessing`], [`Error::NotIndexed`] if it is not of these.
    pub fn existing_index<const N: usize>(&self, folder: &Path, saes: [usize; N]) -> Result<(Index, [usize; N])> {
        let index = self.own_index(folder)?;
        let mut parts = saes;
        for part in &mut parts {
            *part = self.part_of(&index, folder, *part)?;
        }
        Ok((index, parts))
    }

    /// As [`existing_index`](Opened::existing_index), with the parts of all SAEs that are open.
    ///
    /// # Errors
    /// As [`existing_index`](Opened::existing_index).
    pub fn existing_index_of_all(&self, folder: &Path) -> Result<(Index, Vec<usize>)> {
        let index = self.own_index(folder)?;
        let parts = (0..self.saes.len()).map(|sae| self.part_of(&index, folder, sae)).collect::<Result<_>>()?;
        Ok((index, parts))
    }

    /// An index of this model.
    fn own_index(&self, folder: &Path) -> Result<Index> {
        let index = open_index(folder)?;
        let identity = &index.meta().identity;
        if identity.model.hash != self.folder.hash() {
            let (found, wanted) = (identity.model.name.clone(), self.wanted.model.clone());
            return Err(Error::OtherModel { path: folder.into(), found, wanted });
        }
        if identity.processing != self.model.processing() {
            return Err(Error::OtherProcessing { path: folder.into() });
        }
        Ok(index)
    }

    /// The number of an SAE's part of an index.
    fn part_of(&self, index: &Index, folder: &Path, sae: usize) -> Result<usize> {
        let Input { name, hash } = self.sae_source(sae);
        let place = index.meta().identity.saes.iter().position(|of| of.hash == hash);
        place.ok_or_else(|| Error::NotIndexed { path: folder.into(), sae: name })
    }

    fn limit(&self) -> usize {
        self.wanted.limit.unwrap_or(usize::MAX)
    }
}

/// Gives those SAEs of the hub whose folders are called alike a longer name: nobody can rename a folder there.
fn tell_apart(folders: &mut [Folder]) {
    let names: Vec<String> = folders.iter().map(ToString::to_string).collect();
    let last = |name: &str| name.rsplit(['/', ':']).next().map(String::from);
    for (i, name) in names.iter().enumerate() {
        let is_alike = names.iter().enumerate().any(|(j, other)| i != j && last(other) == last(name));
        if let Some((repository, inside)) = name.split_once(':').filter(|_| is_alike && is_of_hub(name)) {
            folders[i] = folders[i].clone().named(format!("{repository}:{}", inside.replace('/', "-")));
        }
    }
}

/// Opens an index.
///
/// # Errors
/// [`Error::NoIndex`] if the folder holds none; [`Error::Index`] if it cannot be used.
pub fn open_index(folder: &Path) -> Result<Index> {
    if !folder.join("index.json").is_file() {
        return Err(Error::NoIndex { path: folder.into() });
    }
    Ok(Index::open(folder)?)
}
