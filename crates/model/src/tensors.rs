//! Tensors of one or several safetensors files, read as `f32`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use directrix_corpus::Folder;
use directrix_kernels::Matrix;
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::{Error, Result};

/// The tensors of a folder's safetensors files.
///
/// Files stay on disk until a tensor is asked for, so that they are never in memory beside what is made of them; the header is
/// checked by the safetensors crate before anything is allocated.
pub struct Tensors {
    folder: String,
    files: Vec<(String, File)>,
    file_of: BTreeMap<String, usize>,
}

enum File {
    /// Part of the program, or of a kind that cannot be mapped.
    Read(Cow<'static, [u8]>),
    OnDisk(PathBuf),
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
            let path = folder.describe(&name);
            let mut found = |bytes: &[u8]| -> Result<()> {
                let parsed = SafeTensors::deserialize(bytes)
                    .map_err(|e| Error::TensorFile { file: path.clone(), problem: e.to_string() })?;
                let number = tensors.files.len();
                tensors.file_of.extend(parsed.names().into_iter().map(|tensor| (tensor.to_owned(), number)));
                Ok(())
            };
            let on_disk = match folder {
                Folder::Disk(folder) => Some(folder.join(&name)),
                Folder::Shipped(_) => None,
            };
            let file = if let Some((mapped, path)) = on_disk.and_then(|path: PathBuf| Some((map(&path).ok()?, path))) {
                found(&mapped)?;
                File::OnDisk(path)
            } else {
                let bytes = folder.read(&name)?;
                found(&bytes)?;
                File::Read(bytes)
            };
            tensors.files.push((path, file));
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

    /// Tensor `name` as a matrix of `rows × columns`; errors as [`get`](Self::get).
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        Ok(Matrix::new(self.get(name, &[rows, columns])?, rows, columns))
    }

    /// The shape of tensor `name`.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.view(name, |_, view, _| Ok(view.shape().to_vec()))
    }

    /// What `f` makes of tensor `name`, given its file and what lets go of bytes that have been read.
    fn view<T>(&self, name: &str, f: impl FnOnce(&str, TensorView, &dyn Fn(&[u8])) -> Result<T>) -> Result<T> {
        let missing = || Error::MissingTensor {
            folder: self.folder.clone(),
            name: name.into(),
            found: self.names().take(6).collect::<Vec<_>>().join(", "),
        };
        let (path, file) = &self.files[*self.file_of.get(name).ok_or_else(missing)?];
        let problem = |problem: String| Error::TensorFile { file: path.clone(), problem };
        let mapped = match file {
            File::Read(_) => None,
            File::OnDisk(on_disk) => Some(map(on_disk).map_err(|e| problem(e.to_string()))?),
        };
        let bytes = match (file, &mapped) {
            (File::Read(bytes), _) => bytes.as_ref(),
            (File::OnDisk(_), mapped) => mapped.as_deref().unwrap_or_default(),
        };
        let parsed = SafeTensors::deserialize(bytes).map_err(|e| problem(e.to_string()))?;
        f(path, parsed.tensor(name).map_err(|_| missing())?, &|read| {
            if let Some(mapped) = &mapped {
                let_go(mapped, read);
            }
        })
    }

    /// (file, shape, values) without checks of the values.
    pub(crate) fn raw(&self, name: &str) -> Result<(String, Vec<usize>, Vec<f32>)> {
        self.view(name, |file, view, let_go| {
            const PIECE: usize = 1 << 24;
            let mut values: Vec<f32> = Vec::with_capacity(view.shape().iter().product());
            for bytes in view.data().chunks(PIECE) {
                let halves = bytes.as_chunks::<2>().0.iter();
                match view.dtype() {
                    Dtype::F32 => values.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
                    Dtype::F16 => values.extend(halves.map(|b| half::f16::from_le_bytes(*b).to_f32())),
                    Dtype::BF16 => values.extend(halves.map(|b| half::bf16::from_le_bytes(*b).to_f32())),
                    other => {
                        return Err(Error::Dtype { file: file.into(), name: name.into(), found: format!("{other:?}") });
                    }
                }
                let_go(bytes);
            }
            Ok((file.to_owned(), view.shape().to_vec(), values))
        })
    }
}

/// Gives the memory of part of a map back; where that cannot be, it goes with the map.
fn let_go(mapped: &Mmap, part: &[u8]) {
    #[cfg(unix)]
    {
        let offset = part.as_ptr() as usize - mapped.as_ptr() as usize;
        // SAFETY: the map is of a file and unchanged, so what is read again is the same.
        drop(unsafe { mapped.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, part.len()) });
    }
    #[cfg(not(unix))]
    let _ = (mapped, part);
}

fn map(path: &Path) -> io::Result<Mmap> {
    // SAFETY: the map is read once and dropped; a file that another program cuts short meanwhile stops this one.
    unsafe { Mmap::map(&fs::File::open(path)?) }
}
