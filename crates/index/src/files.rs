//! Arrays in files: little-endian numbers, one after another, named by their type.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use memmap2::Mmap;
use serde::Serialize;

use crate::error::At;
use crate::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("the index files are little-endian and read in place");

/// An array file that grows at its end.
pub(crate) struct Appender<T> {
    path: PathBuf,
    file: BufWriter<File>,
    len: u64,
    of: PhantomData<T>,
}

impl<T: Pod> Appender<T> {
    /// Opens `path`, cut to `len` numbers: what was written after the last checkpoint is dropped.
    pub(crate) fn open(path: PathBuf, len: u64) -> Result<Self> {
        let bytes = len * size_of::<T>() as u64;
        let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(&path).at(&path)?;
        if file.metadata().at(&path)?.len() < bytes {
            return Err(Error::Damaged { path, problem: "shorter than its checkpoint; delete the folder".into() });
        }
        file.set_len(bytes).at(&path)?;
        file.seek(SeekFrom::End(0)).at(&path)?;
        Ok(Appender { path, file: BufWriter::with_capacity(1 << 20, file), len, of: PhantomData })
    }

    pub(crate) fn append(&mut self, values: &[T]) -> Result<()> {
        self.len += values.len() as u64;
        self.file.write_all(bytemuck::cast_slice(values)).at(&self.path)
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.file.flush().at(&self.path)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

/// An array file read in pieces.
pub(crate) struct Pieces<T> {
    path: PathBuf,
    file: File,
    of: PhantomData<T>,
}

impl<T: Pod> Pieces<T> {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).at(&path)?;
        Ok(Pieces { path, file, of: PhantomData })
    }

    /// The numbers at `range`.
    pub(crate) fn read(&mut self, range: Range<u64>) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); (range.end - range.start) as usize];
        self.file.seek(SeekFrom::Start(range.start * size_of::<T>() as u64)).at(&self.path)?;
        self.file.read_exact(bytemuck::cast_slice_mut(&mut values)).at(&self.path)?;
        Ok(values)
    }
}

/// An array file, memory-mapped.
pub(crate) struct Mapped<T> {
    map: Option<Mmap>,
    of: PhantomData<T>,
}

impl<T: Pod> Mapped<T> {
    /// Maps `path`, which must hold `len` numbers if that is known.
    pub(crate) fn open(path: PathBuf, len: Option<usize>) -> Result<Self> {
        let file = File::open(&path).at(&path)?;
        let bytes = file.metadata().at(&path)?.len() as usize;
        if !bytes.is_multiple_of(size_of::<T>()) || len.is_some_and(|len| len * size_of::<T>() != bytes) {
            let problem = format!("{bytes} bytes where the index needs another number; build the index again");
            return Err(Error::Damaged { path, problem });
        }
        // SAFETY: the files of a finished index are not changed by this program; a mapping is how they are meant to be read.
        let map = if bytes == 0 { None } else { Some(unsafe { Mmap::map(&file) }.at(&path)?) };
        Ok(Mapped { map, of: PhantomData })
    }
}

impl<T: Pod> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.map.as_deref().map_or(&[], |bytes| bytemuck::cast_slice(bytes))
    }
}

/// Writes `value` as JSON beside `path`, then renames it into place.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let beside = path.with_extension("json.partial");
    let bytes = serde_json::to_vec_pretty(value).expect("plain data serialises");
    std::fs::write(&beside, bytes).at(&beside)?;
    std::fs::rename(&beside, path).at(path)
}

/// Reads JSON from `path`.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).at(path)?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Damaged {
        path: path.into(),
        problem: format!("not readable ({e}); build the index again"),
    })
}
