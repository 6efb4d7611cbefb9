//! Tensors of the files that models and SAEs are stored in.

mod archive;
mod numpy;
mod pickle;
mod torch;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use directrix_corpus::Settings;
use directrix_kernels::{Half, Matrix, StoredHalves, Weight};
use safetensors::SafeTensors;

use self::pickle::Dtype;
use crate::folder::FileBytes;
use crate::{Error, Folder, Result};

/// The tensors of a folder's files: safetensors, those of torch (`.pt`, `.pth`, `.bin`), and numpy's `.npz`. Which of them a file
/// is is told by its content.
///
/// Files are mapped and given back piece by piece, so that they are never in memory beside what is made of them. Pickles are read
/// as data: they hold code, of which nothing is run, and what is no part of tensors is an error that names it. What a file says
/// of sizes and places is checked before anything is allocated.
///
/// In files of torch, names of nested dictionaries and lists are joined by `.`; what is no tensor there is a [`Leaf`].
pub struct Tensors {
    folder: String,
    files: Vec<(String, FileBytes)>,
    /// The number of its file with each.
    stored: BTreeMap<String, (usize, Tensor)>,
    leaves: BTreeMap<String, Leaf>,
    /// Those that were read.
    read: Mutex<BTreeSet<String>>,
}

/// A value in a file of torch that is no tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Leaf {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
}

/// Numbers of a tensor that is written.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    /// `float32`.
    F32(&'a [f32]),
    /// `int32`.
    I32(&'a [i32]),
}

/// The bytes of a file of torch (`.pt`), as `torch.load` reads it with `weights_only=True`: a dictionary of these tensors, names,
/// shapes and numbers. `None` if it would be larger than 4 GiB.
///
/// # Panics
/// If the numbers of a tensor are not as many as its shape says.
pub fn torch_file(tensors: &[(&str, Vec<usize>, Numbers)]) -> Option<Vec<u8>> {
    for (name, shape, numbers) in tensors {
        let len = match numbers {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::I32(numbers) => numbers.len(),
        };
        assert_eq!(shape.iter().product::<usize>(), len, "tensor `{name}` has another shape");
    }
    torch::file(tensors)
}

/// What one file holds.
#[derive(Default)]
struct Contents {
    tensors: Vec<(String, Tensor)>,
    leaves: Vec<(String, Leaf)>,
}

/// A tensor as it is stored.
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Elements from one to the next, by dimension. With the shape, they end within the bytes.
    strides: Vec<usize>,
    place: Place,
}

/// Where the numbers of a tensor are.
enum Place {
    /// In its file, from its first element on.
    Bytes(Range<usize>),
    /// In memory, as they were compressed.
    Inflated(Vec<u8>),
    /// Nowhere: its elements are of no type that is read.
    Unread,
}

/// Bytes, or halves, of a tensor that are read before the memory of the file is given back.
const PIECE: usize = 1 << 24;

/// The file of a checkpoint of one file, and the one that lists the files of a checkpoint of several, as transformers names them:
/// the first of these pairs that there is.
const WEIGHTS: [(&str, &str); 2] =
    [("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")];

impl Tensors {
    /// Reads `file` of `folder`, or, when `file` is `None`, those of a model, as transformers does: `model.safetensors`, else the
    /// shards that `model.safetensors.index.json` lists, else `pytorch_model.bin`, else the shards that
    /// `pytorch_model.bin.index.json` lists. No other file is read. A folder [of one file](Folder::of_file) is a checkpoint of
    /// llama2.c.
    ///
    /// # Errors
    /// If there is no such file, a shard is missing or lacks a tensor, two files hold the same tensor, or one is truncated or
    /// of no form that is read.
    pub fn open(folder: &Folder, file: Option<&str>) -> Result<Tensors> {
        let checkpoint = folder.one_file().filter(|_| file.is_none());
        let read = if checkpoint.is_some() { llama2c } else { contents };
        let (names, listed) = match file.or(checkpoint) {
            Some(file) => (vec![file.to_owned()], None),
            None => model_files(folder)?,
        };
        let mut tensors = Tensors {
            folder: folder.to_string(),
            files: Vec::new(),
            stored: BTreeMap::new(),
            leaves: BTreeMap::new(),
            read: Mutex::default(),
        };
        for name in names {
            let (path, bytes) = (folder.describe(&name), folder.map(&name)?);
            let failed = |problem| Error::TensorFile { file: path.clone(), problem };
            let Contents { tensors: found, leaves } = read(&name, &bytes).map_err(failed)?;
            let number = tensors.files.len();
            for (name, tensor) in found {
                let other = tensors.stored.insert(name.clone(), (number, tensor));
                if let Some((other, _)) = other {
                    let other = tensors.files.get(other).map_or("this file", |(path, _)| path);
                    let problem = format!("tensor `{name}` is in `{other}` too; keep one of the files");
                    return Err(failed(problem));
                }
            }
            tensors.leaves.extend(leaves);
            tensors.files.push((path, bytes));
        }
        for (tensor, shard) in listed.iter().flat_map(|(_, shards)| shards) {
            let file = folder.describe(shard);
            if tensors.stored.get(tensor).is_none_or(|(number, _)| tensors.files[*number].0 != file) {
                let list = listed.as_ref().map_or("", |(list, _)| list);
                let problem = format!("`{list}` says that it holds tensor `{tensor}`, and it does not");
                return Err(Error::TensorFile { file, problem });
            }
        }
        Ok(tensors)
    }

    /// What messages call the folder.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The names of the tensors that were not read so far, ascending.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        self.names().filter(|name| !read.contains(*name)).map(str::to_owned).collect()
    }

    /// All names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stored.keys().map(String::as_str)
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.stored.contains_key(name)
    }

    /// The value `name` that is no tensor, if there is one.
    pub fn leaf(&self, name: &str) -> Option<&Leaf> {
        self.leaves.get(name)
    }

    /// Tensor `name` as `f32`, row-major.
    ///
    /// # Errors
    /// If it is missing, of another shape or element type, or holds NaN or an infinity.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.check_shape(name, shape)?;
        let (file, _, values) = self.raw(name)?;
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

    /// Tensor `name` as a weight of `rows × columns`: f16 and bf16 stay as they are, in the mapped file where they lie row by row.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn weight(&self, name: &str, rows: usize, columns: usize) -> Result<Weight> {
        let kind = match self.stored(name)?.2.dtype {
            Dtype::F16 => Half::F16,
            Dtype::BF16 => Half::BF16,
            _ => return Ok(self.matrix(name, rows, columns)?.into()),
        };
        self.check_shape(name, &[rows, columns])?;
        self.mark(name);
        let numbers = self.halves(name)?;
        let infinity = match kind {
            Half::F16 => half::f16::INFINITY.to_bits(),
            Half::BF16 => half::bf16::INFINITY.to_bits(),
        };
        for (piece, halves) in (*numbers).as_ref().chunks(PIECE).enumerate() {
            if let Some(element) = halves.iter().position(|half| half & infinity == infinity) {
                let (file, element) = (self.file(name).to_owned(), piece * PIECE + element);
                let value = kind.widened(halves[element % PIECE]);
                return Err(Error::WeightNotFinite { file, name: name.into(), element, value });
            }
            self.stored(name)?.1.let_go(bytemuck::cast_slice(halves));
        }
        Ok(Weight::of_halves(numbers, kind, rows, columns))
    }

    /// The numbers of a tensor of two bytes each, row by row: those of its file, or a copy where they do not lie there so.
    fn halves(&self, name: &str) -> Result<StoredHalves> {
        let (_, file, tensor) = self.stored(name)?;
        if let (Place::Bytes(range), true) = (&tensor.place, tensor.is_row_major()) {
            let part = Part { file: file.clone(), range: range.clone() };
            if bytemuck::try_cast_slice::<u8, u16>(&file[range.clone()]).is_ok() {
                return Ok(Arc::new(part));
            }
        }
        let mut copied = Vec::with_capacity(tensor.shape.iter().product());
        self.each(name, |bytes| copied.extend(bytes.as_chunks().0.iter().map(|half| u16::from_le_bytes(*half))))?;
        Ok(Arc::new(copied))
    }

    /// Tensor `name`, of whole numbers.
    ///
    /// # Errors
    /// If it is missing, or of another element type.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        self.mark(name);
        let (path, _, tensor) = self.stored(name)?;
        let mut values = Vec::new();
        self.each(name, |bytes| {
            values.extend(tensor.dtype.int(bytes));
        })?;
        if values.is_empty() && !tensor.shape.contains(&0) {
            return Err(Error::Dtype { file: path.into(), name: name.into(), found: format!("{:?}", tensor.dtype) });
        }
        Ok(values)
    }

    /// The shape of tensor `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.stored(name)?.2.shape.clone())
    }

    fn check_shape(&self, name: &str, expected: &[usize]) -> Result<()> {
        let found = self.shape(name)?;
        if found == expected {
            return Ok(());
        }
        Err(Error::Shape { file: self.file(name).to_owned(), name: name.into(), expected: expected.into(), found })
    }

    fn file(&self, name: &str) -> &str {
        self.stored.get(name).map_or("", |(number, _)| &self.files[*number].0)
    }

    fn mark(&self, name: &str) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }

    /// (path, file, tensor)
    fn stored(&self, name: &str) -> Result<(&str, &FileBytes, &Tensor)> {
        let missing = || Error::MissingTensor {
            folder: self.folder.clone(),
            name: name.into(),
            found: self.names().take(6).collect::<Vec<_>>().join(", "),
        };
        let (number, tensor) = self.stored.get(name).ok_or_else(missing)?;
        let (path, bytes) = &self.files[*number];
        Ok((path, bytes, tensor))
    }

    /// Gives every element's bytes to `take`, row by row.
    fn each(&self, name: &str, mut take: impl FnMut(&[u8])) -> Result<()> {
        let (path, file, Tensor { dtype, shape, strides, place }) = self.stored(name)?;
        let unread = || Error::Dtype { file: path.into(), name: name.into(), found: format!("{dtype:?}") };
        let size = dtype.size().ok_or_else(unread)?;
        let (bytes, in_file) = match place {
            Place::Bytes(range) => (&file[range.clone()], true),
            Place::Inflated(bytes) => (&bytes[..], false),
            Place::Unread => return Err(unread()),
        };
        let mut index = vec![0; shape.len()];
        let elements: usize = shape.iter().product();
        let mut at = 0;
        for _ in 0..elements {
            take(&bytes[at * size..(at + 1) * size]);
            for dimension in (0..shape.len()).rev() {
                index[dimension] += 1;
                at += strides[dimension];
                if index[dimension] < shape[dimension] {
                    break;
                }
                at -= strides[dimension] * shape[dimension];
                index[dimension] = 0;
            }
        }
        if in_file {
            file.let_go(bytes);
        }
        Ok(())
    }

    /// (file, shape, values) without checks of the values.
    pub(crate) fn raw(&self, name: &str) -> Result<(String, Vec<usize>, Vec<f32>)> {
        self.mark(name);
        let (path, file, tensor) = self.stored(name)?;
        let unread = || Error::Dtype { file: path.into(), name: name.into(), found: format!("{:?}", tensor.dtype) };
        if !matches!(tensor.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(unread());
        }
        let mut values: Vec<f32> = Vec::with_capacity(tensor.shape.iter().product());
        if !tensor.is_row_major() {
            self.each(name, |bytes| values.extend(tensor.dtype.float(bytes).map(|x| x as f32)))?;
            return Ok((path.to_owned(), tensor.shape.clone(), values));
        }
        let (bytes, in_file) = match &tensor.place {
            Place::Bytes(range) => (&file[range.clone()], true),
            Place::Inflated(bytes) => (&bytes[..], false),
            Place::Unread => return Err(unread()),
        };
        for bytes in bytes.chunks(PIECE) {
            let halves = bytes.as_chunks::<2>().0.iter();
            match tensor.dtype {
                Dtype::F64 => values.extend(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
                Dtype::F32 => values.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
                Dtype::F16 => values.extend(halves.map(|b| half::f16::from_le_bytes(*b).to_f32())),
                _ => values.extend(halves.map(|b| half::bf16::from_le_bytes(*b).to_f32())),
            }
            if in_file {
                file.let_go(bytes);
            }
        }
        Ok((path.to_owned(), tensor.shape.clone(), values))
    }
}

/// Halves in a file.
struct Part {
    file: FileBytes,
    range: Range<usize>,
}

impl AsRef<[u16]> for Part {
    fn as_ref(&self) -> &[u16] {
        bytemuck::cast_slice(&self.file[self.range.clone()])
    }
}

impl Tensor {
    /// Whether its elements lie one behind the other, row by row.
    fn is_row_major(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(n, stride)| {
            let fits = *n <= 1 || *stride == expected;
            expected *= (*n).max(1);
            fits
        })
    }
}

/// What a file holds, whichever form it has.
fn contents(name: &str, file: &[u8]) -> Result<Contents, String> {
    if file.starts_with(b"version https://git-lfs") {
        return Err("it is a pointer of Git LFS, which stands for the file".into());
    }
    if file.starts_with(archive::MAGIC) {
        let entries = archive::entries(file)?;
        return match torch::pickle_of(&entries) {
            Some(_) => torch::zip(file, &entries),
            None if numpy::is_npz(&entries) => numpy::npz(file, &entries),
            None => Err("it is an archive, but neither torch's nor numpy's".into()),
        };
    }
    if torch::is_legacy(file) {
        return torch::legacy(file);
    }
    let by_torch = [".pt", ".pth", ".bin", ".ckpt", ".npz"].iter().any(|end| name.ends_with(end));
    safetensors(file).map_err(|problem| {
        if by_torch { "it is neither of torch, nor of numpy, nor safetensors".into() } else { problem }
    })
}

fn safetensors(file: &[u8]) -> Result<Contents, String> {
    use safetensors::Dtype as Known;
    let (header, metadata) = SafeTensors::read_metadata(file).map_err(|error| error.to_string())?;
    // Checks, too, that the tensors fill the rest of the file.
    SafeTensors::deserialize(file).map_err(|error| error.to_string())?;
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let dtype = match info.dtype {
            Known::F64 => Dtype::F64,
            Known::F32 => Dtype::F32,
            Known::F16 => Dtype::F16,
            Known::BF16 => Dtype::BF16,
            Known::I64 => Dtype::I64,
            Known::I32 => Dtype::I32,
            Known::I16 => Dtype::I16,
            Known::I8 => Dtype::I8,
            Known::U8 => Dtype::U8,
            Known::BOOL => Dtype::Bool,
            _ => Dtype::Other("another type"),
        };
        let start = header + 8;
        let place = Place::Bytes(start + info.data_offsets.0..start + info.data_offsets.1);
        (name, Tensor { dtype, shape: info.shape.clone(), strides: row_major(&info.shape), place })
    });
    Ok(Contents { tensors: tensors.collect(), leaves: Vec::new() })
}

fn llama2c(_: &str, file: &[u8]) -> Result<Contents, String> {
    let tensors = crate::llama2c::tensors(file)?.into_iter().map(|stored| {
        let len = 4 * stored.shape.iter().product::<usize>();
        let (strides, place) = (row_major(&stored.shape), Place::Bytes(stored.start..stored.start + len));
        (stored.name, Tensor { dtype: Dtype::F32, shape: stored.shape, strides, place })
    });
    Ok(Contents { tensors: tensors.collect(), leaves: Vec::new() })
}

/// The strides of elements that lie one behind the other, row by row.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1);
    }
    strides
}

/// The name of a list of shards, and which shard holds what by it.
type Listed = (&'static str, BTreeMap<String, String>);

/// The files of a model's folder that hold its weights, and the list of them if there is one.
fn model_files(folder: &Folder) -> Result<(Vec<String>, Option<Listed>)> {
    let names = folder.names()?;
    let is_there = |name: &str| names.iter().any(|other| other == name);
    for (whole, list) in WEIGHTS {
        if is_there(whole) {
            return Ok((vec![whole.into()], None));
        }
        if is_there(list) {
            let listed = shards(folder, list, &is_there)?;
            let files: BTreeSet<String> = listed.values().cloned().collect();
            return Ok((files.into_iter().collect(), Some((list, listed))));
        }
    }
    Err(no_weights(folder, &names))
}

/// Which shard holds what, by the list of a checkpoint.
fn shards(folder: &Folder, list: &str, is_there: &dyn Fn(&str) -> bool) -> Result<BTreeMap<String, String>> {
    let path = folder.describe(list);
    let map = Settings::parse(&path, &folder.read(list)?)?.get("weight_map")?.object()?;
    let mut listed = BTreeMap::new();
    for tensor in map.names() {
        let named = map.get(tensor)?;
        let shard = named.text()?;
        if shard.contains(['/', '\\']) || ![".safetensors", ".bin"].iter().any(|end| shard.ends_with(end)) {
            return Err(named.wrong("the name of a .safetensors or .bin file beside it").into());
        }
        if !is_there(shard) {
            return Err(Error::MissingShard { path: folder.describe(shard), listed: path });
        }
        listed.insert(tensor.to_owned(), shard.to_owned());
    }
    if listed.is_empty() {
        return Err(map.problem("`weight_map` names no tensor").into());
    }
    Ok(listed)
}

/// The error of a folder that holds no weights under a name that is read.
fn no_weights(folder: &Folder, names: &[String]) -> Error {
    let ends = [".safetensors", ".bin", ".pt", ".pth", ".ckpt"];
    let others = names.iter().filter(|name| ends.iter().any(|end| name.ends_with(end)));
    let others: Vec<String> = others.take(4).map(|name| format!("`{}`", name.escape_debug())).collect();
    let named =
        "`model.safetensors`, `model.safetensors.index.json`, `pytorch_model.bin`, `pytorch_model.bin.index.json`";
    let what = if others.is_empty() {
        format!("the folder holds none of {named}; fetch the model's weights")
    } else {
        format!(
            "the folder holds none of {named}, and transformers reads no other name; if {} holds the model's weights, \
             rename it to the first or third of these, or, where there are several such files, fetch their index",
            others.join(", ")
        )
    };
    Error::NoWeights { folder: folder.to_string(), what }
}
