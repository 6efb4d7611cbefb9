//! What is served: a model with its SAEs, an index of them, and what is known of these beforehand.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use directrix_circuits::edges::{Kept, Measure, Weights};
use directrix_circuits::{Matched, Observed, PartMeans, top_tokens};
use directrix_corpus::{Chunk, Prompts, Watch};
use directrix_index::{Index, SaeIndex, Search};
use directrix_kernels::Matrix;
use directrix_lab::{Opened, Wanted, open_index};
use directrix_sae::Sae;

use crate::error::{Answered, Refused, Result};
use crate::notes::Notes;
use crate::work::lock;

/// Prompts of the index over which parts of the model have their means.
const MEAN_PROMPTS: usize = 200;
/// Unchanged texts that are kept.
const UNCHANGED: usize = 32;
/// A token's logit counts as raised or lowered where it occurs more often than this in the corpus.
const RARE: u64 = 10;

/// What a server is made of.
pub struct Workbench {
    pub(crate) opened: Opened,
    pub(crate) indexed: Option<Indexed>,
    pub(crate) notes: Option<Notes>,
    /// Where reports of studies are looked for.
    pub(crate) studies: PathBuf,
    /// Loss increases that were measured: by SAE and direction, the mean and over how many prompts.
    pub(crate) effects: Mutex<BTreeMap<(usize, usize), (f64, usize)>>,
    /// What was last seen without changes, by tokens and position.
    unchanged: Mutex<Vec<Unchanged>>,
    known: Vec<Known>,
    common: OnceLock<(Vec<usize>, Matrix)>,
    weights: Mutex<HashMap<(usize, usize, Measure), Arc<Weights>>>,
}

struct Unchanged {
    tokens: Vec<u32>,
    position: usize,
    seen: Arc<Observed>,
}

/// An index and which of its parts are the SAEs'.
pub(crate) struct Indexed {
    pub(crate) index: Arc<Index>,
    pub(crate) search: Search,
    /// Where it is.
    pub(crate) folder: PathBuf,
    parts: Vec<usize>,
    means: OnceLock<PartMeans>,
    kept: Mutex<HashMap<(usize, usize, Measure), Arc<Kept>>>,
}

/// What is computed once of an SAE.
#[derive(Default)]
struct Known {
    tops: OnceLock<Vec<Option<(u32, f64)>>>,
    matched: OnceLock<Matched>,
    encoder: OnceLock<Matrix>,
    decoder: OnceLock<Matrix>,
}

impl Workbench {
    /// Opens the index in a folder, and the model and SAEs that it names.
    ///
    /// # Errors
    /// If there is no index, or its model or SAEs are not where they were or are others.
    pub fn of_index(folder: &Path, sources: &directrix_lab::Sources) -> Result<Workbench> {
        let identity = open_index(folder)?.meta().identity.clone();
        Workbench::of(Wanted::of_index(identity).open_from(sources)?, Some(folder))
    }

    /// What is open, with the index in a folder if there is one.
    ///
    /// # Errors
    /// If the index is not of this model and these SAEs.
    pub fn of(opened: Opened, folder: Option<&Path>) -> Result<Workbench> {
        let indexed = folder.map(|folder| Indexed::open(&opened, folder)).transpose()?;
        let known = opened.saes.iter().map(|_| Known::default()).collect();
        Ok(Workbench {
            opened,
            indexed,
            notes: None,
            studies: PathBuf::from("out"),
            effects: Mutex::default(),
            unchanged: Mutex::default(),
            known,
            common: OnceLock::new(),
            weights: Mutex::default(),
        })
    }

    /// Keeps notes in a file, which is made if there is none.
    ///
    /// # Errors
    /// [`Error::Notes`](crate::Error::Notes) if it cannot be used.
    pub fn with_notes(mut self, path: &Path, may_write: bool) -> Result<Workbench> {
        if may_write || path.exists() {
            self.notes = Some(Notes::open(path, may_write)?);
        }
        Ok(self)
    }

    /// Looks for reports of studies in the folders of this one.
    #[must_use]
    pub fn with_studies(mut self, folder: impl Into<PathBuf>) -> Workbench {
        self.studies = folder.into();
        self
    }

    /// What is to be told of what was opened.
    pub fn said(&self) -> &[String] {
        &self.opened.notes
    }

    /// What is asked for at once when a page opens.
    pub(crate) fn prepare(&self) {
        for sae in 0..self.opened.saes.len() {
            drop(self.tops(sae));
        }
    }

    pub(crate) fn sae(&self, number: usize) -> Answered<&Sae> {
        let there = self.opened.saes.len();
        let said = || Refused::missing(format!("there is no SAE {number}; there are {there}, counted from 0"));
        self.opened.saes.get(number).ok_or_else(said)
    }

    /// A direction of an SAE, and its number.
    pub(crate) fn direction(&self, sae: usize, direction: usize) -> Answered<&Sae> {
        let of = self.sae(sae)?;
        if direction < of.directions() {
            return Ok(of);
        }
        let (name, last) = (of.short_name(), of.directions() - 1);
        Err(Refused::missing(format!("{name} has directions 0 to {last}, so there is no direction {direction}")))
    }

    pub(crate) fn indexed(&self) -> Answered<&Indexed> {
        let said = "no index is served, so nothing is known of a corpus; start `directrix serve --index FOLDER`";
        self.indexed.as_ref().ok_or_else(|| Refused::missing(said))
    }

    /// The index's part of an SAE.
    pub(crate) fn part(&self, sae: usize) -> Answered<&SaeIndex> {
        Ok(self.indexed()?.index.sae(self.part_number(sae)?))
    }

    /// The number of that part.
    pub(crate) fn part_number(&self, sae: usize) -> Answered<usize> {
        self.sae(sae)?;
        Ok(self.indexed()?.parts[sae])
    }

    /// The token that each direction fires on most, and its share.
    pub(crate) fn tops(&self, sae: usize) -> Answered<&[Option<(u32, f64)>]> {
        let part = self.part(sae)?;
        if let Some(tops) = self.known[sae].tops.get() {
            return Ok(tops);
        }
        let mut tops = vec![None; part.directions()];
        top_tokens(part)?.into_iter().for_each(|top| tops[top.direction] = Some((top.token, top.share)));
        Ok(self.known[sae].tops.get_or_init(|| tops))
    }

    /// The text of the token that a direction fires on most; nothing where no index is served.
    pub(crate) fn top_token(&self, sae: usize, direction: usize) -> Option<String> {
        let (token, _) = self.tops(sae).ok()?[direction]?;
        Some(self.opened.token(token))
    }

    pub(crate) fn matched(&self, sae: usize) -> Answered<&Matched> {
        let part = self.part(sae)?;
        Ok(self.known[sae].matched.get_or_init(|| Matched::of(part)))
    }

    /// The encoder's or decoder's rows of an SAE, each of length 1: `[directions, d]`.
    pub(crate) fn rows(&self, sae: usize, encoder: bool) -> Answered<&Matrix> {
        let (of, known) = (self.sae(sae)?, &self.known[sae]);
        let unit = |rows: &Matrix| {
            let mut rows = rows.clone();
            directrix_kernels::normalise_rows(&mut rows);
            rows
        };
        Ok(if encoder {
            known.encoder.get_or_init(|| unit(of.encoder()))
        } else {
            known.decoder.get_or_init(|| unit(of.w_dec()))
        })
    }

    /// What the directions of one SAE write and those of another read.
    pub(crate) fn weights(&self, first: usize, second: usize, measure: Measure) -> Answered<Arc<Weights>> {
        if let Some(known) = lock(&self.weights).get(&(first, second, measure)) {
            return Ok(known.clone());
        }
        let saes = [self.sae(first)?, self.sae(second)?];
        let path = directrix_circuits::edges::Path::Residual;
        let weights = Arc::new(Weights::new(&self.opened.model, saes, path, measure)?);
        lock(&self.weights).insert((first, second, measure), weights.clone());
        Ok(weights)
    }

    /// The edges between two SAEs by a measure that are kept beside the index; where none are, how to have them.
    pub(crate) fn kept(&self, first: usize, second: usize, measure: Measure) -> Answered<Result<Arc<Kept>, String>> {
        let Indexed { index, folder, parts, kept, .. } = self.indexed()?;
        let key = (first, second, measure);
        if let Some(known) = lock(kept).get(&key) {
            return Ok(Ok(known.clone()));
        }
        // Looked for again each time: they may be made while their index is served.
        Ok(match Kept::open(folder, index, [parts[first], parts[second]], measure) {
            Ok(Some(found)) => Ok(lock(kept).entry(key).or_insert(Arc::new(found)).clone()),
            Ok(None) => Err(format!(
                "Measured for this answer. `directrix index --edges --out {}` measures the edges of all directions and keeps them: then they are here at once.",
                folder.display()
            )),
            Err(error) => Err(format!("Measured for this answer: what is kept is of no use. {error}.")),
        })
    }

    /// The tokens that are common enough to be told of, all without an index, and what their logits read: `[d_model, tokens]`.
    pub(crate) fn common(&self) -> Answered<&(Vec<usize>, Matrix)> {
        if let Some(common) = self.common.get() {
            return Ok(common);
        }
        let vocabulary = 0..self.opened.model.config().d_vocab;
        let tokens: Vec<usize> = match &self.indexed {
            None => vocabulary.collect(),
            Some(indexed) => {
                let counts = indexed.index.occurrences()?;
                vocabulary.filter(|token| counts.get(*token).is_some_and(|count| *count > RARE)).collect()
            }
        };
        let read = self.opened.model.weights().w_u.view().columns_at(&tokens);
        Ok(self.common.get_or_init(|| (tokens, read)))
    }

    /// The means of the model's parts over prompts of the index.
    pub(crate) fn means(&self, watch: &Watch) -> Answered<&PartMeans> {
        let indexed = self.indexed()?;
        if let Some(means) = indexed.means.get() {
            return Ok(means);
        }
        let prompts = indexed.index.spread(MEAN_PROMPTS)?;
        let means = PartMeans::of(&self.opened.model, &Prompts::from_rows(prompts), watch)?;
        Ok(indexed.means.get_or_init(|| means))
    }

    /// What is seen without changes: as it was seen last, where it is asked for again while something is dragged.
    pub(crate) fn unchanged(
        &self,
        tokens: &[u32],
        position: usize,
        observe: impl FnOnce() -> Answered<Observed>,
    ) -> Answered<Arc<Observed>> {
        let is = |of: &Unchanged| of.tokens == tokens && of.position == position;
        if let Some(known) = lock(&self.unchanged).iter().find(|of| is(of)) {
            return Ok(known.seen.clone());
        }
        let seen = Arc::new(observe()?);
        let mut unchanged = lock(&self.unchanged);
        if unchanged.len() >= UNCHANGED {
            unchanged.remove(0);
        }
        unchanged.push(Unchanged { tokens: tokens.to_vec(), position, seen: seen.clone() });
        Ok(seen)
    }

    /// The tokens of a text as the model reads it.
    pub(crate) fn tokens(&self, text: &str) -> Answered<Vec<u32>> {
        let Chunk { prompts, cut } = self.opened.prompts_of("the text", &[text.to_owned()])?;
        let context = self.opened.model.config().n_ctx;
        match prompts.iter().next() {
            None => Err(Refused::bad("the text is empty; type something for the model to read")),
            Some(_) if cut > 0 => {
                let said = format!("the text is longer than the model's context of {context} tokens; shorten it");
                Err(Refused::bad(said))
            }
            Some(tokens) => Ok(tokens.to_vec()),
        }
    }

    /// The texts of tokens that follow each other.
    pub(crate) fn texts(&self, tokens: &[u32]) -> Vec<String> {
        self.opened.pieces(tokens, |_| true)
    }
}

impl Indexed {
    fn open(opened: &Opened, folder: &Path) -> Result<Indexed> {
        let (index, parts) = opened.existing_index_of_all(folder)?;
        let index = Arc::new(index);
        let search = Search::new(index.clone(), opened.tokenizer.clone());
        let (folder, means, kept) = (folder.into(), OnceLock::new(), Mutex::default());
        Ok(Indexed { index, search, folder, parts, means, kept })
    }
}
