//! Numbers that are handed over without a copy.

use directrix_kernels::Matrix;
use numpy::ndarray::{ArrayView1, ArrayView2, Dimension, IxDyn};
use numpy::{Element, PyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// An array that owns `numbers`, of this shape.
pub(crate) fn owned<'py, T: Element>(
    py: Python<'py>,
    numbers: Vec<T>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyArray<T, IxDyn>>> {
    PyArray1::from_vec(py, numbers).reshape(IxDyn(shape))
}

/// An array on the numbers of a matrix, which is `owner`'s; it cannot be written to.
pub(crate) fn borrowed<'py>(owner: Bound<'py, PyAny>, matrix: &Matrix) -> PyResult<Bound<'py, PyArray2<f32>>> {
    // SAFETY: the numbers of a frozen class are never moved or changed while it lives, and the array keeps it alive.
    let array = unsafe {
        let there = ArrayView2::from_shape_ptr((matrix.rows(), matrix.columns()), matrix.data().as_ptr());
        PyArray2::borrow_from_array(&there, owner)
    };
    read_only(array)
}

/// As [`borrowed`], of one row.
pub(crate) fn borrowed_row<'py>(owner: Bound<'py, PyAny>, row: &[f32]) -> PyResult<Bound<'py, PyArray1<f32>>> {
    // SAFETY: as there.
    let array = unsafe { PyArray1::borrow_from_array(&ArrayView1::from(row), owner) };
    read_only(array)
}

fn read_only<D: Dimension>(array: Bound<PyArray<f32, D>>) -> PyResult<Bound<PyArray<f32, D>>> {
    let flags = PyDict::new(array.py());
    flags.set_item("write", false)?;
    array.call_method("setflags", (), Some(&flags))?;
    Ok(array)
}

/// The rows of an array.
pub(crate) fn matrix(array: &PyReadonlyArray2<f32>) -> Matrix {
    let (rows, columns) = (array.shape()[0], array.shape()[1]);
    let numbers = match array.as_slice() {
        Ok(numbers) => numbers.to_vec(),
        Err(_) => array.as_array().iter().copied().collect(),
    };
    Matrix::new(numbers, rows, columns)
}
