//! SAEs and what they give.

use std::path::Path;

use directrix_kernels as kernels;
use directrix_kernels::Matrix;
use directrix_lab::Sources;
use directrix_sae as sae;
use numpy::ndarray::IxDyn;
use numpy::{PyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::array::{borrowed, borrowed_row, matrix, owned};
use crate::error::{Failure, Result};
use crate::model::Model;
use crate::watch::watched;

/// A sparse autoencoder, or a transcoder.
#[pyclass(frozen, module = "directrix", name = "CoreSae")]
pub(crate) struct Sae(pub(crate) sae::Sae);

#[pymethods]
impl Sae {
    /// Loads an SAE of any form that is read, by its path, the name of one that is part of the program, or a repository of the hub; it is
    /// then called `name`, or by its source.
    #[staticmethod]
    #[pyo3(signature = (source, name = None))]
    fn load(py: Python, source: &str, name: Option<&str>) -> Result<Sae> {
        watched(py, |watch| {
            let folder = Sources::watched(watch).sae_folder(source)?;
            let folder = name.map_or(folder.clone(), |name| folder.named(name));
            Ok::<Sae, Failure>(Sae(sae::Sae::load(&folder)?))
        })
    }

    /// What it is and where: plain values by name.
    #[getter]
    fn about<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (about, site) = (PyDict::new(py), self.0.site());
        about.set_item("name", self.0.name())?;
        about.set_item("short_name", self.0.short_name())?;
        about.set_item("architecture", self.0.architecture().name())?;
        about.set_item("hook_name", site.reads.hook.to_string())?;
        about.set_item("hook_head_index", site.reads.head)?;
        about.set_item("hook_name_out", site.writes.hook.to_string())?;
        about.set_item("hook_layer", site.reads.layer())?;
        about.set_item("is_transcoder", !site.is_one_place())?;
        about.set_item("d_in", self.0.d_in())?;
        about.set_item("d_out", self.0.d_out())?;
        about.set_item("d_sae", self.0.directions())?;
        about.set_item("normalize_activations", self.0.parameters().normalisation.name())?;
        about.set_item("apply_b_dec_to_input", self.0.parameters().subtract_b_dec)?;
        if let sae::Architecture::TopK { k } = self.0.architecture() {
            about.set_item("k", *k)?;
        }
        Ok(about)
    }

    /// One of its numbers, as it lies in memory; the array cannot be written to. `encoder` is `[d_sae, d_in]`.
    fn numbers<'py>(slf: Bound<'py, Self>, name: &str) -> Result<Bound<'py, PyAny>> {
        let sae = &slf.get().0;
        let owner = slf.clone().into_any();
        Ok(match (name, sae.architecture()) {
            ("encoder", _) => borrowed(owner, sae.encoder())?.into_any(),
            ("W_dec", _) => borrowed(owner, sae.w_dec())?.into_any(),
            ("b_enc", _) => borrowed_row(owner, sae.b_enc())?.into_any(),
            ("b_dec", _) => borrowed_row(owner, sae.b_dec())?.into_any(),
            ("threshold", sae::Architecture::JumpRelu { threshold }) => borrowed_row(owner, threshold)?.into_any(),
            _ => return Err(Failure::argument(format!("{} has no `{name}`", sae.name()))),
        })
    }

    /// The activations of rows of what it reads, `[rows, d_in]`.
    fn encode(&self, py: Python, rows: PyReadonlyArray2<f32>) -> Result<SparseActivations> {
        let rows = matrix(&rows);
        let acts = watched(py, |_| self.0.encode(&rows))?;
        Ok(SparseActivations { acts, directions: self.0.directions() })
    }

    /// The reconstructions of activations, `[rows, d_out]`. What it read, `[rows, d_in]`, is needed by an SAE that normalises it or adds
    /// some of it.
    #[pyo3(signature = (acts, rows = None))]
    fn decode<'py>(
        &self,
        py: Python<'py>,
        acts: &SparseActivations,
        rows: Option<PyReadonlyArray2<f32>>,
    ) -> Result<Bound<'py, PyArray<f32, IxDyn>>> {
        let n = acts.acts.positions();
        if acts.directions > self.0.directions() {
            let (given, own) = (acts.directions, self.0.directions());
            return Err(Failure::argument(format!("activations of {given} directions; {} has {own}", self.0.name())));
        }
        let parameters = self.0.parameters();
        let needs = parameters.normalisation != sae::Normalisation::None || parameters.w_skip.is_some();
        let rows = match rows {
            Some(rows) => matrix(&rows),
            None if needs => {
                let name = self.0.name();
                return Err(Failure::argument(format!("{name} decodes with what it read; give it as `x` as well")));
            }
            None => Matrix::zeros(n, self.0.d_in()),
        };
        if (rows.rows(), rows.columns()) != (n, self.0.d_in()) {
            let (given, wanted) = ((rows.rows(), rows.columns()), (n, self.0.d_in()));
            return Err(Failure::argument(format!("what it read is {given:?}, and not {wanted:?}")));
        }
        let decoded = watched(py, |_| Ok::<_, Failure>(self.0.decode(&acts.acts, &rows)))?;
        let shape = [decoded.rows(), decoded.columns()];
        Ok(owned(py, decoded.into_data(), &shape)?)
    }

    /// That it fits a model.
    fn check_fit(&self, model: &Model) -> Result<()> {
        self.of(model).map(drop)
    }

    /// Writes it as a folder of SAELens's form, or of dictionary_learning's.
    fn save(&self, py: Python, folder: &str, form: &str, model: &str) -> Result<()> {
        watched(py, |_| match form {
            "saelens" => Ok(self.0.save(Path::new(folder), &serde_json::json!({ "model_name": model }), None)?),
            "dictionary_learning" => Ok(self.0.save_dictionary_learning(Path::new(folder), model)?),
            _ => Err(Failure::argument(format!("`{form}` is not written; there are saelens, dictionary_learning"))),
        })
    }

    fn __repr__(&self) -> String {
        let (sae, site) = (&self.0, self.0.site());
        let (architecture, directions, name) = (sae.architecture().name(), sae.directions(), sae.name());
        let to = if site.is_one_place() { String::new() } else { format!(" to {}", site.writes) };
        format!("Sae({name}: {architecture}, {directions} directions of {}{to})", site.reads)
    }
}

impl Sae {
    /// The SAE, if it fits a model.
    pub(crate) fn of(&self, model: &Model) -> Result<sae::Sae> {
        Ok(self.0.clone().fit(model.model.config())?)
    }
}

/// Activations of an SAE, position after position, those that are not zero: the parts of a `scipy.sparse.csr_array`.
#[pyclass(frozen, module = "directrix")]
pub(crate) struct SparseActivations {
    pub(crate) acts: kernels::SparseActivations,
    pub(crate) directions: usize,
}

#[pymethods]
impl SparseActivations {
    /// Of such parts.
    #[new]
    fn new(
        indptr: PyReadonlyArray1<i64>,
        indices: PyReadonlyArray1<i32>,
        data: PyReadonlyArray1<f32>,
        directions: usize,
    ) -> Result<SparseActivations> {
        let (indptr, indices, data) = (indptr.as_array(), indices.as_array(), data.as_array());
        let wrong = |problem: &str| Err(Failure::argument(format!("these are no sparse activations: {problem}")));
        let is_whole = indptr.first() == Some(&0) && indptr.last() == Some(&(data.len() as i64));
        if !is_whole || indices.len() != data.len() || indptr.iter().zip(indptr.iter().skip(1)).any(|(a, b)| a > b) {
            return wrong("`indptr`, `indices` and `data` do not go together");
        }
        let mut acts = kernels::SparseActivations::default();
        for (from, to) in indptr.iter().zip(indptr.iter().skip(1)) {
            let row = (*from as usize..*to as usize).map(|i| (indices[i], data[i]));
            let mut last = -1;
            for (direction, value) in row.clone() {
                if direction <= last || direction as usize >= directions {
                    return wrong("a row's directions do not ascend, or there is no such direction");
                }
                if !value.is_finite() {
                    return wrong("an activation is not finite");
                }
                last = direction;
            }
            acts.push(row.map(|(direction, value)| (direction as u32, value)));
        }
        Ok(SparseActivations { acts, directions })
    }

    /// Where each position's activations begin, `[positions + 1]`.
    #[getter]
    fn indptr<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_iter(py, self.acts.indptr().iter().map(|at| *at as i64))
    }

    /// The directions that fire, ascending at each position, `[active]`.
    #[getter]
    fn indices<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i32>> {
        PyArray1::from_iter(py, self.acts.directions().iter().map(|direction| *direction as i32))
    }

    /// How strongly, `[active]`; in place, it cannot be written to.
    #[getter]
    fn data(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyArray1<f32>>> {
        borrowed_row(slf.clone().into_any(), slf.get().acts.values())
    }

    /// Positions and directions.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.acts.positions(), self.directions)
    }

    /// All activations, zeros included: `[positions, directions]`.
    fn to_dense<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyArray<f32, IxDyn>>> {
        let numbers = watched(py, |_| Ok::<_, Failure>(self.acts.to_dense(self.directions)))?;
        Ok(owned(py, numbers, &[self.acts.positions(), self.directions])?)
    }

    fn __len__(&self) -> usize {
        self.acts.positions()
    }

    fn __repr__(&self) -> String {
        let (positions, active) = (self.acts.positions(), self.acts.active());
        format!("SparseActivations({positions} positions, {} directions, {active} active)", self.directions)
    }
}
