//! Indexes: what every direction fires on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use directrix_corpus as corpus;
use directrix_index::{self as index, Merged, Query, SaeIndex, Search};
use directrix_lab::open_index;
use numpy::ndarray::IxDyn;
use numpy::{PyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Serialize;
use serde_json::{Value, json};

use crate::array::{borrowed_row, owned};
use crate::error::{Failure, Result};
use crate::prompts::Prompts;
use crate::table::Table;
use crate::watch::watched;

/// What an index's pass over a corpus left on disk, memory-mapped.
#[pyclass(frozen, module = "directrix", name = "CoreIndex")]
pub(crate) struct Index {
    pub(crate) index: Arc<index::Index>,
    search: Search,
}

/// A direction, beside the token it fires on most.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    direction: index::Direction,
    top_token: Option<u32>,
    top_token_text: String,
    top_token_share: Option<f64>,
}

#[pymethods]
impl Index {
    /// Opens the index in a folder. `tokenizer` is that of its model, for texts.
    #[staticmethod]
    #[pyo3(signature = (folder, tokenizer = None))]
    fn open(py: Python, folder: &str, tokenizer: Option<PyRef<crate::prompts::Tokenizer>>) -> Result<Index> {
        let tokenizer = tokenizer.map(|tokenizer| tokenizer.0.clone());
        let index = watched(py, |_| open_index(Path::new(folder)))?;
        Ok(Index::new(index, tokenizer))
    }

    /// What it is of: plain values by name.
    #[getter]
    fn about<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (about, meta) = (PyDict::new(py), self.index.meta());
        about.set_item("prompts", meta.prompts)?;
        about.set_item("positions", meta.positions)?;
        about.set_item("counted", meta.counted)?;
        about.set_item("model", &meta.identity.model.name)?;
        about.set_item("corpus", &meta.identity.corpus.name)?;
        let saes: Vec<(&str, String, usize)> =
            self.index.saes().iter().map(|sae| (sae.name(), sae.hook().to_string(), sae.directions())).collect();
        about.set_item("saes", saes)?;
        Ok(about)
    }

    /// The number of the SAE that a name means.
    fn number_of(&self, name: &str) -> Option<usize> {
        self.index.number_of(name)
    }

    fn __len__(&self) -> usize {
        self.index.prompts()
    }

    /// The tokens of a prompt, `[tokens]`.
    fn prompt<'py>(&self, py: Python<'py>, prompt: usize) -> Result<Bound<'py, PyArray<u32, IxDyn>>> {
        let tokens = self.index.prompt(self.known(prompt)?)?.to_vec();
        let shape = [tokens.len()];
        Ok(owned(py, tokens, &shape)?)
    }

    /// Some of its prompts, in this order.
    fn prompts(&self, prompts: Vec<usize>) -> Result<Prompts> {
        let mut rows = corpus::Prompts::new();
        for prompt in prompts {
            rows.push(self.index.prompt(self.known(prompt)?)?);
        }
        Ok(Prompts(rows))
    }

    /// The highest activation of every direction at the positions that count, `[directions]`; it cannot be written to.
    fn maxima(slf: Bound<'_, Self>, sae: usize) -> Result<Bound<'_, PyArray1<f32>>> {
        let maxima = slf.get().sae(sae)?.maxima();
        Ok(borrowed_row(slf.clone().into_any(), maxima)?)
    }

    /// A row for each direction: what the corpus says of it.
    fn directions(&self, py: Python, sae: usize) -> Result<Table> {
        let of = self.sae(sae)?;
        watched(py, |_| {
            let mut tops = directrix_circuits::top_tokens(of)?.into_iter().peekable();
            let row = |direction| {
                let top = tops.next_if(|top| top.direction == direction);
                Row {
                    direction: of.direction(direction),
                    top_token: top.map(|top| top.token),
                    top_token_text: top.map(|top| self.token(top.token)).unwrap_or_default(),
                    top_token_share: top.map(|top| top.share),
                }
            };
            let rows: Vec<Row> = (0..of.directions()).map(row).collect();
            let caption = "What the corpus says of each direction, at the positions that count";
            Ok::<_, Failure>(Table::of("directions", caption, &rows))
        })
    }

    /// The `k` prompts in which a direction fires most strongly, each with the position where it does.
    fn top_examples(&self, sae: usize, direction: usize, k: usize) -> Result<Table> {
        let examples = self.of(sae, direction)?.top_examples(direction, k)?;
        Ok(Table::of("top-examples", "Prompts in which the direction fires most strongly, strongest first", &examples))
    }

    /// At most `k` prompts whose highest activation is in an interval, spread over it.
    fn interval_examples(&self, sae: usize, direction: usize, low: f32, high: f32, k: usize) -> Result<Table> {
        let examples = self.of(sae, direction)?.interval_examples(direction, low, high, k)?;
        Ok(Table::of("interval-examples", "Prompts whose highest activation is in the interval", &examples))
    }

    /// Every position that counts at which a direction fires.
    fn fires(&self, py: Python, sae: usize, direction: usize) -> Result<Table> {
        let of = self.of(sae, direction)?;
        let examples = watched(py, |_| of.fires(direction))?;
        Ok(Table::of("fires", "Positions that count at which the direction fires", &examples))
    }

    /// How often a direction fires on each token, above the index's share of its maximum.
    fn token_counts(&self, sae: usize, direction: usize) -> Result<Table> {
        let counts = self.of(sae, direction)?.token_counts(direction)?;
        Ok(Table::of("token-counts", "Positions at which the direction exceeds half of its maximum, by token", &counts))
    }

    /// Activations of a direction at every position of a prompt, `[positions]`.
    fn on_prompt<'py>(
        &self,
        py: Python<'py>,
        sae: usize,
        direction: usize,
        prompt: usize,
    ) -> Result<Bound<'py, PyArray1<f32>>> {
        let values = self.of(sae, direction)?.on_prompt(self.known(prompt)?, direction)?;
        Ok(PyArray1::from_vec(py, values))
    }

    /// Positions that count at which a direction fires, in equal parts of 0 to its maximum.
    fn histogram(&self, sae: usize, direction: usize) -> Result<Vec<u64>> {
        Ok(self.of(sae, direction)?.histogram(direction).to_vec())
    }

    /// Where a query matches, and which directions fire there: `(matches, prompts, places, firing)`.
    fn find(&self, py: Python, query: &str, sae: usize, k: usize) -> Result<(u64, u64, Table, Table)> {
        self.sae(sae)?;
        watched(py, |watch| {
            let query = Query::parse(query, &self.index)?;
            let found = self.search.find(&query, watch)?;
            let matches = self.search.matches(&found, &query, k)?;
            let rows: Vec<Place> = matches.iter().map(|m| Place { prompt: m.prompt, position: m.position }).collect();
            let places = Table::of("matches", "Matches, each in a prompt of its own", &rows);
            let firing = self.search.firing(&found, sae, k)?;
            let firing = Table::of(
                "firing",
                "Directions that fire at the matches, by how far more often than elsewhere",
                &firing,
            );
            Ok::<_, Failure>((found.matches, found.prompts, places, firing))
        })
    }

    /// The texts of tokens; `[id]` without a tokenizer.
    fn texts(&self, tokens: PyReadonlyArray1<u32>) -> Vec<String> {
        let tokens: Vec<u32> = tokens.as_array().to_vec();
        corpus::pieces(self.search.tokenizer(), &tokens, |_| true)
    }

    fn __repr__(&self) -> String {
        let saes: Vec<&str> = self.index.saes().iter().map(SaeIndex::name).collect();
        format!(
            "Index({} prompts, {} positions; {})",
            self.index.prompts(),
            self.index.meta().positions,
            saes.join(", ")
        )
    }
}

/// Merges indexes of shards into the index of these together, in `out`; with `piece`, some of the shards may be missing. `tokenizer` is that of
/// their model, for texts.
#[pyfunction]
#[pyo3(signature = (folders, out, piece = false, replace = false, tokenizer = None))]
pub(crate) fn merge(
    py: Python,
    folders: Vec<PathBuf>,
    out: &str,
    piece: bool,
    replace: bool,
    tokenizer: Option<PyRef<crate::prompts::Tokenizer>>,
) -> Result<Index> {
    let tokenizer = tokenizer.map(|tokenizer| tokenizer.0.clone());
    let merged = match (piece, replace) {
        (true, true) => {
            return Err(Failure::argument("a piece of an index does not replace another; give one of the two"));
        }
        (true, false) => Merged::Piece,
        (false, true) => Merged::Replacing,
        (false, false) => Merged::Whole,
    };
    let index = watched(py, |watch| index::merge(&folders, Path::new(out), merged, watch))?;
    Ok(Index::new(index, tokenizer))
}

#[derive(Serialize)]
struct Place {
    prompt: usize,
    position: usize,
}

impl Index {
    pub(crate) fn new(index: index::Index, tokenizer: Option<corpus::Tokenizer>) -> Index {
        let index = Arc::new(index);
        Index { search: Search::new(index.clone(), tokenizer), index }
    }

    pub(crate) fn sae(&self, sae: usize) -> Result<&SaeIndex> {
        let n = self.index.saes().len();
        self.index
            .saes()
            .get(sae)
            .ok_or_else(|| Failure::argument(format!("there is no SAE {sae}; the index is of {n}")))
    }

    /// The SAE, if it has the direction.
    fn of(&self, sae: usize, direction: usize) -> Result<&SaeIndex> {
        let of = self.sae(sae)?;
        match of.directions() {
            n if direction < n => Ok(of),
            n => Err(Failure::argument(format!("there is no direction {direction}; {} has {n}", of.name()))),
        }
    }

    fn known(&self, prompt: usize) -> Result<usize> {
        match self.index.prompts() {
            n if prompt < n => Ok(prompt),
            n => Err(Failure::argument(format!("there is no prompt {prompt}; the index has {n}"))),
        }
    }

    /// What determines its content.
    pub(crate) fn said(&self) -> Value {
        let meta = self.index.meta();
        json!({ "of": meta.identity, "pieces": meta.pieces })
    }

    pub(crate) fn token(&self, token: u32) -> String {
        corpus::token_text(self.search.tokenizer(), token)
    }

    pub(crate) fn tokenizer(&self) -> Option<&corpus::Tokenizer> {
        self.search.tokenizer()
    }
}
