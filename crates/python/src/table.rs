//! Tables, as any data frame reads them.

use std::sync::Arc;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, RecordBatchIterator, StringArray};
use arrow_schema::{Field, Schema};
use directrix_circuits::{self as circuits, Cells};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};
use serde::Serialize;

use crate::array::owned;
use crate::error::{Failure, Result};

/// Rows of an analysis as columns: whole numbers (int64), real numbers (float64, NaN where there is none), and texts.
#[pyclass(frozen, module = "directrix", name = "CoreTable")]
pub(crate) struct Table(circuits::Table);

impl Table {
    pub(crate) fn new(table: circuits::Table) -> Table {
        Table(table)
    }

    /// Of rows; `caption` says what one is, and what means are over.
    pub(crate) fn of<R: Serialize>(name: &str, caption: &str, rows: &[R]) -> Table {
        Table(circuits::Table::from_rows(name, caption, rows))
    }
}

#[pymethods]
impl Table {
    /// What it is called.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// What one row is, and what means are over.
    #[getter]
    fn caption(&self) -> &str {
        &self.0.caption
    }

    /// The names of the columns.
    #[getter]
    fn columns(&self) -> Vec<String> {
        self.0.columns.iter().map(|column| identifier(&column.name)).collect()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// A column: an array of int64 or float64, or a list of texts.
    fn column<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let Some(column) = self.0.columns.iter().find(|column| identifier(&column.name) == name) else {
            return Err(PyKeyError::new_err(format!("no column {name:?}; there are {}", self.columns().join(", "))));
        };
        let n = column.cells.len();
        Ok(match &column.cells {
            Cells::Integer(cells) => owned(py, cells.clone(), &[n])?.into_any(),
            Cells::Real(cells) => owned(py, cells.clone(), &[n])?.into_any(),
            Cells::Text(cells) => cells.into_pyobject(py)?,
        })
    }

    /// All columns by name.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = PyDict::new(py);
        for name in self.columns() {
            columns.set_item(&name, self.column(py, &name)?)?;
        }
        Ok(columns)
    }

    /// Arrow's C stream interface: `polars.DataFrame(table)`, `pyarrow.table(table)`.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> Result<Bound<'py, PyCapsule>> {
        // A consumer may ask for other types; the interface lets a producer give its own.
        drop(requested_schema);
        let arrays = self.0.columns.iter().map(|column| {
            let cells: ArrayRef = match &column.cells {
                Cells::Integer(cells) => Arc::new(Int64Array::from(cells.clone())),
                Cells::Real(cells) => Arc::new(Float64Array::from(cells.clone())),
                Cells::Text(cells) => Arc::new(StringArray::from_iter_values(cells)),
            };
            (Field::new(identifier(&column.name), cells.data_type().clone(), false), cells)
        });
        let (fields, cells): (Vec<Field>, Vec<ArrayRef>) = arrays.unzip();
        let schema = Arc::new(Schema::new(fields));
        let batches = if cells.is_empty() {
            Vec::new()
        } else {
            vec![Ok(RecordBatch::try_new(schema.clone(), cells).map_err(|error| Failure::argument(error.to_string()))?)]
        };
        let stream = FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new(batches, schema)));
        Ok(PyCapsule::new_with_value(py, stream, c"arrow_array_stream")?)
    }
}

/// A column's name as an identifier.
fn identifier(name: &str) -> String {
    name.replace(' ', "_")
}
