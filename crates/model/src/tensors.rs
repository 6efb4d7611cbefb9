//! Tensors of one or several safetensors files, read as `f32`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use directrix_corpus::Settings;
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
    /// Those that were read.
    read: Mutex<BTreeSet<String>>,
}

/// The file of a checkpoint of one file, and the one that lists the files of a checkpoint of several, as transformers names them.
const WHOLE: &str = "model.safetensors";
const SHARDS: &str = "model.safetensors.index.json";

impl Tensors {
    /// Reads `file` of `folder`, or, when `file` is `None`, those of a model: `model.safetensors`, else the shards that
    /// `model.safetensors.index.json` lists, else every `*.safetensors`.
    ///
    /// # Errors
    /// If there is no such file, a shard is missing or lacks a tensor, two files hold the same tensor, or one is truncated or not
    /// safetensors.
    pub fn open(folder: &Folder, file: Option<&str>) -> Result<Tensors> {
        let (names, listed) = match file {
            Some(file) => (vec![file.to_owned()], BTreeMap::new()),
            None => model_files(folder)?,
        };
        let mut tensors =
            Tensors { folder: folder.to_string(), files: Vec::new(), file_of: BTreeMap::new(), read: Mutex::default() };
        for name in names {
            let (path, bytes) = (folder.describe(&name), folder.map(&name)?);
            let parsed = SafeTensors::deserialize(&bytes)
                .map_err(|e| Error::TensorFile { file: path.clone(), problem: e.to_string() })?;
            let number = tensors.files.len();
            for tensor in parsed.names() {
                if let Some(other) = tensors.file_of.insert(tensor.to_owned(), number) {
                    let problem =
                        format!("tensor `{tensor}` is in `{}` too; keep one of the files", tensors.files[other].0);
                    return Err(Error::TensorFile { file: path, problem });
                }
            }
            tensors.files.push((path, bytes));
        }
        for (tensor, shard) in listed {
            let file = folder.describe(&shard);
            if tensors.file_of.get(&tensor).is_none_or(|number| tensors.files[*number].0 != file) {
                let problem = format!("`{SHARDS}` says that it holds tensor `{tensor}`, and it does not");
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
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
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

/// The files of a model's folder that hold its weights, and the shard of each tensor where a list says so.
fn model_files(folder: &Folder) -> Result<(Vec<String>, BTreeMap<String, String>)> {
    let names = folder.names()?;
    let is_there = |name: &str| names.iter().any(|other| other == name);
    if is_there(WHOLE) {
        return Ok((vec![WHOLE.into()], BTreeMap::new()));
    }
    if is_there(SHARDS) {
        return shards(folder, &is_there);
    }
    let files: Vec<String> = names.iter().filter(|name| name.ends_with(".safetensors")).cloned().collect();
    for (name, count, stem) in files.iter().filter_map(|name| numbered(name).map(|(count, stem)| (name, count, stem))) {
        let missing =
            (1..=count).map(|i| format!("{stem}{i:05}-of-{count:05}.safetensors")).find(|shard| !is_there(shard));
        if let Some(shard) = missing {
            return Err(Error::MissingShard { path: folder.describe(&shard), listed: folder.describe(name) });
        }
    }
    if files.is_empty() {
        return Err(no_weights(folder, &names));
    }
    Ok((files, BTreeMap::new()))
}

/// The shards that the list of a checkpoint names, and which holds what.
fn shards(folder: &Folder, is_there: &dyn Fn(&str) -> bool) -> Result<(Vec<String>, BTreeMap<String, String>)> {
    let list = folder.describe(SHARDS);
    let map = Settings::parse(&list, &folder.read(SHARDS)?)?.get("weight_map")?.object()?;
    let mut listed = BTreeMap::new();
    for tensor in map.names() {
        let named = map.get(tensor)?;
        let shard = named.text()?;
        if shard.contains(['/', '\\']) || !shard.ends_with(".safetensors") {
            return Err(named.wrong("the name of a .safetensors file beside it").into());
        }
        if !is_there(shard) {
            return Err(Error::MissingShard { path: folder.describe(shard), listed: list });
        }
        listed.insert(tensor.to_owned(), shard.to_owned());
    }
    let files: BTreeSet<String> = listed.values().cloned().collect();
    if files.is_empty() {
        return Err(map.problem("`weight_map` names no tensor").into());
    }
    Ok((files.into_iter().collect(), listed))
}

/// How many shards there are by the name of one, `stem-00001-of-00003.safetensors`, and its stem with the dash.
fn numbered(name: &str) -> Option<(usize, &str)> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let stem = rest.get(..rest.len().checked_sub(5)?)?;
    let is_number = |digits: &str| digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
    (stem.ends_with('-') && is_number(&rest[stem.len()..]) && is_number(count)).then_some(())?;
    Some((count.parse().ok()?, stem))
}

/// The error of a folder that holds no weights that can be read.
fn no_weights(folder: &Folder, names: &[String]) -> Error {
    let is_pickle = |name: &&String| [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end));
    let what = match names.iter().find(is_pickle) {
        Some(pickle) => format!(
            "the folder holds no *.safetensors file; convert `{pickle}`, which holds code beside numbers, in Python: \
             AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER, safe_serialization=True)"
        ),
        None => "the folder holds no *.safetensors file; fetch the model's weights".into(),
    };
    Error::NoWeights { folder: folder.to_string(), what }
}
