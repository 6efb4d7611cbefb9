//! A safetensors file written tensor by tensor, in pieces, without holding it in memory.

use std::path::Path;

use anyhow::{bail, ensure};
use directrix::corpus::durable::Beside;
use safetensors::Dtype;
use serde::Serialize;
use serde_json::{Map, json};

/// A file being written beside its final place; dropped before [`finish`](TensorFile::finish), it is removed.
pub(crate) struct TensorFile {
    file: Beside,
    /// Where the first tensor begins; the header before it is written last.
    data: u64,
    tensors: Vec<Tensor>,
}

/// A tensor of the file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Where it begins, counted from the first.
    #[serde(skip)]
    start: u64,
    /// Bytes written.
    pub(crate) bytes: u64,
}

impl Tensor {
    pub(crate) fn new(name: impl Into<String>, dtype: Dtype, shape: Vec<usize>) -> Tensor {
        Tensor { name: name.into(), dtype, shape, start: 0, bytes: 0 }
    }

    fn size(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).product::<u64>() * self.dtype.bitsize() as u64 / 8
    }
}

impl TensorFile {
    /// Starts a file of `tensors`. Those whose names are in `later` follow them when the file is finished.
    pub(crate) fn create(path: &Path, mut tensors: Vec<Tensor>, later: &[String]) -> anyhow::Result<TensorFile> {
        if path.is_dir() {
            bail!("`{}` is a folder; --out names the file to write", path.display());
        }
        let mut start = 0;
        for tensor in &mut tensors {
            tensor.start = start;
            start += tensor.size();
        }
        let reserved = header(&tensors).len() + later.iter().map(|name| 2 * name.len() + 200).sum::<usize>();
        let data = 8 + reserved.next_multiple_of(8) as u64;
        Ok(TensorFile { file: Beside::create(path)?, data, tensors })
    }

    /// Appends to tensor number `tensor`.
    pub(crate) fn append(&mut self, tensor: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let place = &mut self.tensors[tensor];
        let start = self.data + place.start + place.bytes;
        place.bytes += bytes.len() as u64;
        Ok(self.file.write_at(start, bytes)?)
    }

    /// Adds a whole tensor behind all others.
    pub(crate) fn append_last(&mut self, tensor: Tensor, bytes: &[u8]) -> anyhow::Result<()> {
        let start = self.tensors.last().map_or(0, |last| last.start + last.size());
        self.tensors.push(Tensor { start, ..tensor });
        self.append(self.tensors.len() - 1, bytes)
    }

    /// Writes the header and puts the file in its place.
    pub(crate) fn finish(mut self) -> anyhow::Result<Vec<Tensor>> {
        debug_assert!(self.tensors.iter().all(|tensor| tensor.bytes == tensor.size()));
        let room = self.data as usize - 8;
        let header = format!("{:room$}", header(&self.tensors));
        ensure!(header.len() == room, "the header outgrew its room");
        self.file.write_at(0, &[&(room as u64).to_le_bytes()[..], header.as_bytes()].concat())?;
        self.file.commit()?;
        Ok(self.tensors)
    }
}

fn header(tensors: &[Tensor]) -> String {
    let entry = |tensor: &Tensor| {
        let ends = [tensor.start, tensor.start + tensor.size()];
        (tensor.name.clone(), json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": ends }))
    };
    let mut entries: Map<_, _> = tensors.iter().map(entry).collect();
    entries.insert("__metadata__".into(), json!({ "format": "pt" }));
    serde_json::Value::Object(entries).to_string()
}
