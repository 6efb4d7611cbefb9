//! Tensors of one or several safetensors files, read as `f32`.

use std::collections::BTreeMap;

use directrix_kernels::Matrix;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::folder::FileBytes;
use crate::{Error, Folder, Result};

/// The tensors of a folder's safetensors files.
///
/// Files are mapped and given back piece by piece, so that they are never in memory beside what is made of them; the header
/// is checked by the safetensors crate before anything is allocated.
pub struct Tensors {
    folder: String,
    files: Vec<(String, FileBytes)>,
    file_of: BTreeMap<String, usize>,
}

impl Tensors {
    /// Reads `file` of `folder`, or, when `file` is `None`, every `*.safetensors` in it.
    ///
    /// # Errors
    /// If there is no such file, or one is truncated or not safetensors.
    pub fn open(folder: &Folder, file: Option<&str>) -> Result<Tensors> {
        let names = match file {
            Some(file) => vec![file.to_owned()],
            None => folder.names()?.into_iter().filter(|n| n.ends_with(".safetensors")).collect(),
        };
        if names.is_empty() {
            return Err(Error::TensorFile {
                file: folder.describe("model.safetensors"),
                problem: "the folder holds no *.safetensors file".into(),
            });
        }
        let mut tensors = Tensors { folder: folder.to_string(), files: Vec::new(), file_of: BTreeMap::new() };
        for name in names {
            let (path, bytes) = (folder.describe(&name), folder.map(&name)?);
            let parsed = SafeTensors::deserialize(&bytes)
                .map_err(|e| Error::TensorFile { file: path.clone(), problem: e.to_string() })?;
            let number = tensors.files.len();
            tensors.file_of.extend(parsed.names().into_iter().map(|tensor| (tensor.to_owned(), number)));
            tensors.files.push((path, bytes));
        }
        Ok(tensors)
    }

    /// All names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.file_of.keys().map(String::as_str)
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.file_of.contains_key(name)
    }

    /// Tensor `name` as `f32`, row-major.
    ///
    /// # Errors
    /// If it is missing, of another shape or element type, or holds NaN or an infinity.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (file, found, values) = self.raw(name)?;
        if found != shape {
            return Err(Error::Shape { file, name: name.into(), expected: shape.into(), found });
        }
        if let Some(element) = values.iter().position(|x| !x.is_finite()) {
            let value = values[element];
            return Err(Error::WeightNotFinite { file, name: name.into(), element, value });
        }
        Ok(values)
    }

    /// Tensor `name` as a matrix of `rows × columns`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        Ok(Matrix::new(self.get(name, &[rows, columns])?, rows, columns))
    }

    /// The shape of tensor `name`.
    ///
    /// # Errors
    /// If there is none, or its file is damaged.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.view(name, |_, _, view| Ok(view.shape().to_vec()))
    }

    /// What `f` makes of tensor `name`, given its path, its file and itself.
    fn view<T>(&self, name: &str, f: impl FnOnce(&str, &FileBytes, TensorView) -> Result<T>) -> Result<T> {
        let missing = || Error::MissingTensor {
            folder: self.folder.clone(),
            name: name.into(),
            found: self.names().take(6).collect::<Vec<_>>().join(", "),
        };
        let (path, bytes) = &self.files[*self.file_of.get(name).ok_or_else(missing)?];
        let parsed = SafeTensors::deserialize(bytes)
            .map_err(|e| Error::TensorFile { file: path.clone(), problem: e.to_string() })?;
        f(path, bytes, parsed.tensor(name).map_err(|_| missing())?)
    }

    /// (file, shape, values) without checks of the values.
    pub(crate) fn raw(&self, name: &str) -> Result<(String, Vec<usize>, Vec<f32>)> {
        self.view(name, |path, file, view| {
            const PIECE: usize = 1 << 24;
            let mut values: Vec<f32> = Vec::with_capacity(view.shape().iter().product());
            for bytes in view.data().chunks(PIECE) {
                let halves = bytes.as_chunks::<2>().0.iter();
                match view.dtype() {
                    Dtype::F32 => values.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
                    Dtype::F16 => values.extend(halves.map(|b| half::f16::from_le_bytes(*b).to_f32())),
                    Dtype::BF16 => values.extend(halves.map(|b| half::bf16::from_le_bytes(*b).to_f32())),
                    other => {
                        return Err(Error::Dtype { file: path.into(), name: name.into(), found: format!("{other:?}") });
                    }
                }
                file.let_go(bytes);
            }
            Ok((path.to_owned(), view.shape().to_vec(), values))
        })
    }
}
