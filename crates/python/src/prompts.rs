//! Tokenizers and prompts.

use directrix_corpus as corpus;
use numpy::ndarray::IxDyn;
use numpy::{PyArray, PyReadonlyArray1};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use crate::array::owned;
use crate::error::{Failure, Result};
use crate::watch::detached;

/// Text to token ids and back.
#[pyclass(frozen, module = "directrix", name = "CoreTokenizer")]
pub(crate) struct Tokenizer(pub(crate) corpus::Tokenizer);

#[pymethods]
impl Tokenizer {
    /// The token ids of a text, no special token added: `[tokens]`.
    fn encode<'py>(&self, py: Python<'py>, text: &str) -> Result<Bound<'py, PyArray<u32, IxDyn>>> {
        let tokens = detached(py, || self.0.encode(text))??;
        let shape = [tokens.len()];
        Ok(owned(py, tokens, &shape)?)
    }

    /// The text of token ids.
    fn decode(&self, tokens: Vec<u32>) -> Result<String> {
        Ok(self.0.decode(&tokens)?)
    }

    /// Each token's text as a person should see it; no two tokens look alike.
    fn texts(&self, tokens: Vec<u32>) -> Vec<String> {
        tokens.into_iter().map(|token| self.0.token_text(token)).collect()
    }

    /// Each token's text inside a prompt: the pieces together are the text.
    fn pieces(&self, tokens: Vec<u32>) -> Vec<String> {
        self.0.pieces(&tokens, |_| true)
    }

    /// The id of the one token that a text is.
    fn single_token(&self, text: &str) -> Result<u32> {
        Ok(self.0.single_token(text)?)
    }

    /// The token that begins prompts, if the model's files name one.
    #[getter]
    fn bos(&self) -> Option<u32> {
        self.0.bos()
    }

    /// One more than the largest id.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }
}

/// Rows of token ids, of any lengths: a ragged batch without padding.
#[pyclass(frozen, module = "directrix")]
pub(crate) struct Prompts(pub(crate) corpus::Prompts);

#[pymethods]
impl Prompts {
    /// Of all tokens, row after row, `[positions]`, and the rows' lengths.
    #[new]
    fn new(tokens: PyReadonlyArray1<u32>, lengths: Vec<usize>) -> Result<Prompts> {
        let tokens = tokens.as_slice().map_err(|error| Failure::Python(error.into()))?;
        if lengths.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length)) != Some(tokens.len()) {
            return Err(Failure::argument(format!("{} tokens are not rows of lengths {lengths:?}", tokens.len())));
        }
        let mut prompts = corpus::Prompts::new();
        let mut rest = tokens;
        for length in lengths {
            let (row, others) = rest.split_at(length);
            prompts.push(row);
            rest = others;
        }
        Ok(Prompts(prompts))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// One row, `[tokens]`; a negative number counts from the end.
    fn __getitem__<'py>(&self, py: Python<'py>, prompt: isize) -> PyResult<Bound<'py, PyArray<u32, IxDyn>>> {
        let n = self.0.len();
        let at = if prompt < 0 { n.checked_add_signed(prompt) } else { Some(prompt as usize) };
        let Some(at) = at.filter(|at| *at < n) else {
            return Err(PyIndexError::new_err(format!("there is no prompt {prompt}; there are {n}")));
        };
        let row = self.0.get(at).to_vec();
        let shape = [row.len()];
        owned(py, row, &shape)
    }

    /// All tokens, row after row: `[positions]`.
    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray<u32, IxDyn>>> {
        owned(py, self.0.tokens().to_vec(), &[self.0.positions()])
    }

    /// The length of each row.
    #[getter]
    fn lengths(&self) -> Vec<usize> {
        self.0.iter().map(<[u32]>::len).collect()
    }

    /// All tokens of all rows.
    #[getter]
    fn positions(&self) -> usize {
        self.0.positions()
    }

    /// Some of the rows, in this order.
    fn select(&self, prompts: Vec<usize>) -> Result<Prompts> {
        if let Some(none) = prompts.iter().find(|prompt| **prompt >= self.0.len()) {
            return Err(Failure::argument(format!("there is no prompt {none}; there are {}", self.0.len())));
        }
        Ok(Prompts(corpus::Prompts::from_rows(prompts.into_iter().map(|prompt| self.0.get(prompt)))))
    }

    fn __repr__(&self) -> String {
        format!("Prompts({} prompts, {} positions)", self.0.len(), self.0.positions())
    }
}
