//! The files of an index: their names, what `index.json` says of them, and how they are written and found again.
//!
//! `index.json` lists every array file with its count of numbers and one checksum; `checksums.u32` holds a checksum for each
//! block of each of them, file after file in the order of the list.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use directrix_corpus::durable::{self, Appender, Mapped, Sums};
use directrix_model::HookPoint;
use directrix_sae::Sae;
use serde::{Deserialize, Serialize};

use crate::index::Meta;
use crate::{Error, Result};

/// Version of the layout.
pub(crate) const FORMAT: u32 = 3;
/// The file that makes a folder an index.
pub(crate) const INDEX: &str = "index.json";
/// The checksums of all blocks.
pub(crate) const CHECKSUMS: &str = "checksums.u32";

/// What `index.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Contents {
    pub(crate) format: u32,
    pub(crate) meta: Meta,
    pub(crate) saes: Vec<SaeMeta>,
    pub(crate) shards: Vec<ShardMeta>,
    pub(crate) files: Vec<Written>,
}

/// An SAE of the index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SaeMeta {
    pub(crate) name: String,
    pub(crate) hook: HookPoint,
    pub(crate) directions: usize,
}

impl SaeMeta {
    pub(crate) fn of(sae: &Sae) -> SaeMeta {
        SaeMeta { name: sae.short_name().into(), hook: sae.site().reads.hook, directions: sae.directions() }
    }
}

/// A shard of the index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardMeta {
    pub(crate) prompts: usize,
    pub(crate) positions: u64,
    /// Stored activations per SAE.
    pub(crate) active: Vec<u64>,
}

/// An array file as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    /// Its path in the index.
    pub(crate) file: String,
    pub(crate) bytes: u64,
    /// [`Sums::checksum`].
    pub(crate) checksum: u32,
}

/// The path of a shard's file.
pub(crate) fn of_shard(shard: usize, name: &str) -> String {
    format!("shard-{shard}/{name}")
}

/// The path of a file of one SAE in a shard.
pub(crate) fn of_part(shard: usize, sae: usize, name: &str) -> String {
    format!("shard-{shard}/sae-{sae}/{name}")
}

/// The path of a file of one SAE that is over all shards.
pub(crate) fn of_sae(sae: usize, name: &str) -> String {
    format!("sae-{sae}/{name}")
}

/// An array file being written.
pub(crate) struct Array<T> {
    file: String,
    numbers: Appender<T>,
}

/// An array file that is whole, with the checksums of its blocks.
pub(crate) struct Finished {
    pub(crate) written: Written,
    pub(crate) sums: Sums,
}

impl<T: Pod> Array<T> {
    /// Begins `file` of the index in `folder`.
    pub(crate) fn create(folder: &Path, file: String) -> Result<Array<T>> {
        let path = folder.join(&file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| Error::write(folder, error))?;
        }
        Ok(Array { file, numbers: Appender::create(path)? })
    }

    /// Goes on with `file` as it was `written`.
    pub(crate) fn resume(folder: &Path, file: String, written: &[Written]) -> Result<Array<T>> {
        let found = written.iter().find(|written| written.file == file);
        let found = found.filter(|_| folder.join(&file).is_file());
        let found =
            found.ok_or_else(|| Error::damaged(folder.join(&file), "it is missing, or not in the checkpoint"))?;
        Ok(Array { numbers: Appender::resume(folder.join(&file), found.bytes, found.checksum)?, file })
    }

    pub(crate) fn append(&mut self, values: &[T]) -> Result<()> {
        Ok(self.numbers.append(values)?)
    }

    pub(crate) fn len(&self) -> u64 {
        self.numbers.len()
    }

    /// Hands everything to the system, and says what there is.
    pub(crate) fn flush(&mut self) -> Result<Written> {
        self.numbers.flush()?;
        let bytes = self.len() * size_of::<T>() as u64;
        Ok(Written { file: self.file.clone(), bytes, checksum: self.numbers.sums().checksum() })
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        Ok(Finished { written: self.flush()?, sums: self.numbers.sums().clone() })
    }
}

/// Writes the checksums of all files, and `index.json`: with it the folder is an index.
pub(crate) fn write(folder: &Path, contents: &Contents, files: &[Finished]) -> Result<()> {
    let blocks: Vec<u32> = files.iter().flat_map(|file| file.sums.blocks()).collect();
    durable::write(&folder.join(CHECKSUMS), bytemuck::cast_slice(&blocks))?;
    Ok(durable::write_json(&folder.join(INDEX), contents)?)
}

/// The files of a finished index, by their paths in it.
pub(crate) struct Files {
    folder: PathBuf,
    listed: BTreeMap<String, Listed>,
}

/// What `index.json` and the checksums say of a file.
struct Listed {
    bytes: u64,
    /// The checksums of its blocks.
    blocks: Vec<u32>,
}

/// What `index.json` in `folder` says, and the files it names.
pub(crate) fn read(folder: &Path) -> Result<(Contents, Files)> {
    let path = folder.join(INDEX);
    if !path.is_file() {
        return Err(Error::NoIndex { path: folder.into() });
    }
    let contents: Contents = durable::read_json(&path).map_err(|error| other_format(&path).unwrap_or(error.into()))?;
    if let Some(error) = other_format(&path) {
        return Err(error);
    }
    let path = folder.join(CHECKSUMS);
    let damaged = || Error::damaged(path.clone(), "it does not hold the checksums of the files that index.json names");
    let bytes = fs::read(&path).map_err(|error| Error::read(&path, error))?;
    let mut left = bytes.as_chunks::<4>().0;
    let mut listed = BTreeMap::new();
    for Written { file, bytes, checksum } in &contents.files {
        let n = usize::try_from(Sums::blocks_in(*bytes)).unwrap_or(usize::MAX);
        let (own, after) = left.split_at_checked(n).ok_or_else(damaged)?;
        let own: Vec<u32> = own.iter().map(|sum| u32::from_le_bytes(*sum)).collect();
        if Sums::checksum_of(&own) != *checksum {
            return Err(damaged());
        }
        listed.insert(file.clone(), Listed { bytes: *bytes, blocks: own });
        left = after;
    }
    if !left.is_empty() || !bytes.len().is_multiple_of(4) {
        return Err(damaged());
    }
    Ok((contents, Files { folder: folder.into(), listed }))
}

/// The error of an index of another format.
fn other_format(path: &Path) -> Option<Error> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (format != FORMAT).then(|| Error::Format { path: path.into(), found: format, expected: FORMAT })
}

impl Files {
    /// Those that were just written in `folder`.
    pub(crate) fn of(folder: &Path, finished: &[Finished]) -> Files {
        let listed = |Finished { written, sums }: &Finished| {
            (written.file.clone(), Listed { bytes: written.bytes, blocks: sums.blocks() })
        };
        Files { folder: folder.into(), listed: finished.iter().map(listed).collect() }
    }

    /// Maps a file, which must hold `numbers` numbers.
    pub(crate) fn map<T: Pod>(&self, file: String, numbers: u64) -> Result<Mapped<T>> {
        let listed = self.listed(&file)?;
        if numbers.checked_mul(size_of::<T>() as u64) != Some(listed.bytes) {
            let problem = format!("index.json lists {} bytes of it, expected {numbers} numbers", listed.bytes);
            return Err(self.damaged(file, &problem));
        }
        Ok(Mapped::open(self.folder.join(&file), numbers, listed.blocks.clone())?)
    }

    /// How many numbers a file holds.
    pub(crate) fn numbers<T>(&self, file: &str) -> Result<u64> {
        Ok(self.listed(file)?.bytes / size_of::<T>() as u64)
    }

    fn listed(&self, file: &str) -> Result<&Listed> {
        self.listed.get(file).ok_or_else(|| self.damaged(file.into(), "index.json does not name it"))
    }

    /// Reads a small file, which must hold `numbers` numbers.
    pub(crate) fn read<T: Pod>(&self, file: String, numbers: u64) -> Result<Vec<T>> {
        Ok(self.map(file, numbers)?.all()?.to_vec())
    }

    /// The error of a file that holds what cannot be.
    pub(crate) fn damaged(&self, file: String, problem: &str) -> Error {
        Error::damaged(self.folder.join(file), problem)
    }

    /// Reads a file of rising offsets, which begin at 0 and end at `end`.
    pub(crate) fn offsets<T: Pod + Ord + Into<u64>>(&self, file: String, rows: u64, end: u64) -> Result<Vec<T>> {
        let offsets: Vec<T> = self.read(file.clone(), rows.saturating_add(1))?;
        let first = offsets.first().map_or(1, |first| (*first).into());
        let last = offsets.last().map(|last| (*last).into());
        if first == 0 && offsets.is_sorted() && last == Some(end) {
            return Ok(offsets);
        }
        Err(self.damaged(file, "its offsets do not rise from 0 to the end of what they are offsets into"))
    }
}
