//! What belongs together, opened at once.

use std::collections::BTreeMap;
use std::path::Path;

use directrix_index::Options;
use directrix_lab::{self as lab, OtherIndex, Sources, Steps, Wanted};
use directrix_sae::Counted;
use pyo3::prelude::*;

use crate::error::{Failure, Result};
use crate::index::Index;
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::Sae;
use crate::team::shard_of;
use crate::watch::watched;

/// A model with its tokenizer, SAEs that fit it, and a corpus.
#[pyclass(frozen, module = "directrix", name = "CoreOpened")]
pub(crate) struct Opened(pub(crate) lab::Opened);

#[pymethods]
impl Opened {
    /// Opens what is named; what is left out is what the program brings.
    #[new]
    #[pyo3(signature = (model = None, saes = None, corpus = None, *, column = None, limit = None, bos = None, steps = [None; 4]))]
    fn new(
        py: Python,
        model: Option<String>,
        saes: Option<Vec<String>>,
        corpus: Option<String>,
        column: Option<String>,
        limit: Option<usize>,
        bos: Option<bool>,
        steps: [Option<bool>; 4],
    ) -> Result<Opened> {
        let [fold_ln, center_writing_weights, center_unembed, fold_value_biases] = steps;
        let processing = Steps { fold_ln, center_writing_weights, center_unembed, fold_value_biases };
        let default = Wanted::default();
        let model = model.unwrap_or(default.model);
        let saes = saes.unwrap_or_else(|| lab::saes_of(&model));
        let corpus = corpus.unwrap_or(default.corpus);
        let wanted = Wanted { model, processing, saes, corpus, column, limit, bos };
        watched(py, |watch| wanted.open_from(&Sources::watched(watch)).map(Opened))
    }

    /// The model.
    #[getter]
    fn model(&self) -> Model {
        let lab::Opened { model, tokenizer, notes, .. } = &self.0;
        let name = self.0.model_name().to_owned();
        Model { model: model.clone(), name, tokenizer: tokenizer.clone(), notes: notes.clone() }
    }

    /// The SAEs.
    #[getter]
    fn saes(&self) -> Vec<Sae> {
        self.0.saes.iter().cloned().map(Sae).collect()
    }

    /// What is to be told of what was opened.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.0.notes.clone()
    }

    /// The corpus as prompts, cut to the model's context.
    fn prompts(&self, py: Python) -> Result<Prompts> {
        watched(py, |_| Ok::<_, Failure>(Prompts(self.0.prompts()?.prompts)))
    }

    /// Texts as prompts, with BOS as the corpus has it.
    fn prompts_of(&self, texts: Vec<String>) -> Result<Prompts> {
        Ok(Prompts(self.0.prompts_of("texts", &texts)?.prompts))
    }

    /// The index in a folder: opened if it is of these inputs, built or gone on with if not.
    #[pyo3(signature = (folder, *, skip_first = None, include_last = None, exclude = Vec::new(), replace = false))]
    fn index(
        &self,
        py: Python,
        folder: &str,
        skip_first: Option<usize>,
        include_last: Option<bool>,
        exclude: Vec<String>,
        replace: bool,
    ) -> Result<Index> {
        let options = self.options(skip_first, include_last, &exclude)?;
        let other = if replace { OtherIndex::Replace } else { OtherIndex::Keep };
        let index = watched(py, |watch| self.0.index(Path::new(folder), options, other, watch))?;
        Ok(Index::new(index, self.0.tokenizer.clone()))
    }

    /// The index of the documents of shard `number`, from 1, of `of` alone.
    #[pyo3(signature = (folder, number, of, *, skip_first = None, include_last = None, exclude = Vec::new()))]
    fn index_shard(
        &self,
        py: Python,
        folder: &str,
        number: usize,
        of: usize,
        skip_first: Option<usize>,
        include_last: Option<bool>,
        exclude: Vec<String>,
    ) -> Result<Index> {
        let (shard, options) = (shard_of(number, of)?, self.options(skip_first, include_last, &exclude)?);
        let index = watched(py, |watch| self.0.index_shard(Path::new(folder), options, shard, watch))?;
        Ok(Index::new(index, self.0.tokenizer.clone()))
    }

    /// What processes that work together must have alike, by name: the version, the bits that this machine gives, the hashes of model and
    /// SAEs, and that of an index or else of the corpus.
    #[pyo3(signature = (index = None))]
    fn facts(&self, py: Python, index: Option<&Index>) -> Result<BTreeMap<String, String>> {
        watched(py, |watch| {
            let mut facts: BTreeMap<String, String> = [
                ("version".into(), env!("CARGO_PKG_VERSION").into()),
                ("bits".into(), self.0.probe()?),
                ("model".into(), self.0.model_source().hash),
            ]
            .into();
            for (number, sae) in self.0.saes.iter().enumerate() {
                facts.insert(format!("SAE {}", sae.short_name()), self.0.sae_source(number).hash);
            }
            match index {
                Some(index) => facts.insert("index".into(), index.said().to_string()),
                None => facts.insert("corpus".into(), self.0.survey(watch)?.hash),
            };
            Ok::<_, lab::Error>(facts)
        })
    }

    fn __repr__(&self) -> String {
        let saes: Vec<&str> = self.0.saes.iter().map(directrix_sae::Sae::short_name).collect();
        format!("Opened({}; SAEs {}; corpus {})", self.0.model_name(), saes.join(", "), self.0.corpus.name())
    }
}

impl Opened {
    fn options(&self, skip_first: Option<usize>, include_last: Option<bool>, exclude: &[String]) -> Result<Options> {
        let default = Counted::default();
        let counted = Counted {
            skip_first: skip_first.unwrap_or(default.skip_first),
            skip_last: include_last.map_or(default.skip_last, |include| !include),
            exclude: self.0.excluded(exclude)?,
        };
        Ok(Options { counted, ..Options::default() })
    }
}
