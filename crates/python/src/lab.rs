//! What belongs together, opened at once.

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
        let default = Counted::default();
        let counted = Counted {
            skip_first: skip_first.unwrap_or(default.skip_first),
            skip_last: include_last.map_or(default.skip_last, |include| !include),
            exclude: self.0.excluded(&exclude)?,
        };
        let options = Options { counted, ..Options::default() };
        let other = if replace { OtherIndex::Replace } else { OtherIndex::Keep };
        let index = watched(py, |watch| self.0.index(Path::new(folder), options, other, watch))?;
        Ok(Index::new(index, self.0.tokenizer.clone()))
    }

    fn __repr__(&self) -> String {
        let saes: Vec<&str> = self.0.saes.iter().map(directrix_sae::Sae::short_name).collect();
        format!("Opened({}; SAEs {}; corpus {})", self.0.model_name(), saes.join(", "), self.0.corpus.name())
    }
}
