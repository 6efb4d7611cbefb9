//! Arrays in files: little-endian numbers, one after another.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytemuck::Pod;

use super::lock::is_there;
use super::map::Map;
use super::{At, damaged};
use crate::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("array files are little-endian and read in place");

/// Bytes of a file that share a checksum.
const BLOCK: usize = 1 << 18;

/// The checksums of a file, one per block of 256 KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    whole: Vec<u32>,
    /// Of the last block, which is not full.
    open: u32,
    filled: usize,
}

impl Sums {
    /// The checksums of `bytes`.
    pub fn of(bytes: &[u8]) -> Sums {
        let mut sums = Sums::default();
        sums.add(bytes);
        sums
    }

    /// Adds the bytes that come next.
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.open = crc32c::crc32c_append(self.open, now);
            self.filled += now.len();
            if self.filled == BLOCK {
                self.whole.push(self.open);
                (self.open, self.filled) = (0, 0);
            }
            bytes = later;
        }
    }

    /// One checksum per block.
    pub fn blocks(&self) -> Vec<u32> {
        let last = (self.filled > 0).then_some(self.open);
        self.whole.iter().copied().chain(last).collect()
    }

    /// One checksum of all: the checksum of the blocks' checksums.
    pub fn checksum(&self) -> u32 {
        let sum = Sums::checksum_of(&self.whole);
        if self.filled == 0 { sum } else { crc32c::crc32c_append(sum, &self.open.to_le_bytes()) }
    }

    /// The [`checksum`](Sums::checksum) of a file with these [`blocks`](Sums::blocks).
    pub fn checksum_of(blocks: &[u32]) -> u32 {
        crc32c::crc32c(bytemuck::cast_slice(blocks))
    }

    /// How many blocks a file of so many bytes has.
    pub fn blocks_in(bytes: u64) -> u64 {
        bytes.div_ceil(BLOCK as u64)
    }
}

/// An array file that grows at its end.
#[derive(Debug)]
pub struct Appender<T> {
    path: PathBuf,
    file: BufWriter<File>,
    len: u64,
    sums: Sums,
    of: PhantomData<T>,
}

impl<T: Pod> Appender<T> {
    /// Begins an array at `path`, in the place of what is there. Its folder is made if need be.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write).
    pub fn create(path: PathBuf) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).writing(&path)?;
        }
        let file = File::create(&path).writing(&path)?;
        Ok(Appender {
            path,
            file: BufWriter::with_capacity(1 << 20, file),
            len: 0,
            sums: Sums::default(),
            of: PhantomData,
        })
    }

    /// Goes on after the first `bytes` bytes at `path`, whose [`Sums::checksum`] was `checksum`; what follows them is dropped.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if there is no such file, [`Error::Damaged`](crate::Error::Damaged) if it is shorter or its
    /// bytes are others, [`Error::Write`](crate::Error::Write).
    pub fn resume(path: PathBuf, bytes: u64, checksum: u32) -> Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(&path).reading(&path)?;
        let length = file.metadata().reading(&path)?.len();
        if bytes > length || !bytes.is_multiple_of(size_of::<T>() as u64) {
            return Err(damaged(&path, format!("it has {length} bytes, and {bytes} were written")));
        }
        let (mut sums, mut left, mut piece) = (Sums::default(), bytes, vec![0; 1 << 20]);
        while left > 0 {
            let piece = &mut piece[..(left.min(1 << 20)) as usize];
            file.read_exact(piece).reading(&path)?;
            sums.add(piece);
            left -= piece.len() as u64;
        }
        if sums.checksum() != checksum {
            return Err(damaged(&path, "its bytes do not match their checksum"));
        }
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::End(0))).writing(&path)?;
        let len = bytes / size_of::<T>() as u64;
        Ok(Appender { path, file: BufWriter::with_capacity(1 << 20, file), len, sums, of: PhantomData })
    }

    /// Appends `values`.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write).
    pub fn append(&mut self, values: &[T]) -> Result<()> {
        let bytes = bytemuck::cast_slice(values);
        self.len += values.len() as u64;
        self.sums.add(bytes);
        self.file.write_all(bytes).writing(&self.path)
    }

    /// That the file still stands where it was begun: what is appended to one that was removed is lost.
    ///
    /// # Errors
    /// [`Error::Gone`](crate::Error::Gone) if not.
    pub fn check_there(&self) -> Result<()> {
        if is_there(self.file.get_ref(), &self.path) { Ok(()) } else { Err(Error::Gone { path: self.path.clone() }) }
    }

    /// Hands all that was appended to the system.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write).
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().writing(&self.path)
    }

    /// Numbers there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Checksums of all that was appended.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }
}

/// An array file read in pieces, by the process that wrote it.
#[derive(Debug)]
pub struct Pieces<T> {
    path: PathBuf,
    file: File,
    len: u64,
    of: PhantomData<T>,
}

impl<T: Pod> Pieces<T> {
    /// Opens the array at `path`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).reading(&path)?;
        let len = file.metadata().reading(&path)?.len() / size_of::<T>() as u64;
        Ok(Pieces { path, file, len, of: PhantomData })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The numbers at `range`.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) if there are not as many, [`Error::Io`](crate::Error::Io).
    pub fn read(&mut self, range: Range<u64>) -> Result<Vec<T>> {
        check_range(&self.path, &range, self.len)?;
        let mut values = vec![T::zeroed(); (range.end - range.start) as usize];
        self.file.seek(SeekFrom::Start(range.start * size_of::<T>() as u64)).reading(&self.path)?;
        self.file.read_exact(bytemuck::cast_slice_mut(&mut values)).reading(&self.path)?;
        Ok(values)
    }
}

/// An array file, memory-mapped. A block is checked against its checksum when a number of it is first asked for, so that opening
/// costs nothing and nothing is used unchecked.
#[derive(Debug)]
pub struct Mapped<T> {
    path: PathBuf,
    map: Option<Map>,
    sums: Vec<u32>,
    checked: Vec<AtomicBool>,
    of: PhantomData<T>,
}

impl<T: Pod> Mapped<T> {
    /// Maps `path`, which must hold `len` numbers with these [blocks](Sums::blocks).
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), and [`Error::Damaged`](crate::Error::Damaged) if the file has another size.
    pub fn open(path: PathBuf, len: u64, blocks: Vec<u32>) -> Result<Self> {
        let file = File::open(&path).reading(&path)?;
        let bytes = file.metadata().reading(&path)?.len();
        if len.checked_mul(size_of::<T>() as u64) != Some(bytes) || Sums::blocks_in(bytes) != blocks.len() as u64 {
            return Err(damaged(&path, format!("it has {bytes} bytes, expected {len} numbers of {}", size_of::<T>())));
        }
        let map = if bytes == 0 { None } else { Some(Map::of(&file, &path).reading(&path)?) };
        let checked = blocks.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Mapped { path, map, sums: blocks, checked, of: PhantomData })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Numbers there are.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64 / size_of::<T>() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_none()
    }

    /// The numbers at `range`.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) if there are not as many, or they are not those that were written.
    pub fn get(&self, range: Range<u64>) -> Result<&[T]> {
        check_range(&self.path, &range, self.len())?;
        if range.is_empty() {
            // Where a file is empty, what stands for its bytes is not aligned to numbers.
            return Ok(&[]);
        }
        let bytes = self.bytes();
        let (start, end) = (range.start as usize * size_of::<T>(), range.end as usize * size_of::<T>());
        for block in start / BLOCK..end.div_ceil(BLOCK) {
            if !self.checked[block].load(Ordering::Relaxed) {
                let block_end = ((block + 1) * BLOCK).min(bytes.len());
                if crc32c::crc32c(&bytes[block * BLOCK..block_end]) != self.sums[block] {
                    return Err(damaged(&self.path, "its bytes do not match their checksum"));
                }
                self.checked[block].store(true, Ordering::Relaxed);
            }
        }
        Ok(bytemuck::cast_slice(&bytes[start..end]))
    }

    /// All numbers.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) if they are not those that were written.
    pub fn all(&self) -> Result<&[T]> {
        self.get(0..self.len())
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

fn check_range(path: &Path, range: &Range<u64>, len: u64) -> Result<()> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    Err(damaged(path, format!("numbers {} to {} are asked of it, and it has {len}", range.start, range.end)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn arrays_are_read_as_appended_however_interrupted(
            parts in prop::collection::vec(0..60_000_usize, 1..5),
            kept in any::<prop::sample::Index>(),
            damage in any::<prop::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.u32");
            let all: Vec<u32> = (0..parts.iter().sum::<usize>() as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
            let kept = kept.index(parts.len());
            let mut file = Appender::<u32>::create(path.clone()).unwrap();
            let (mut at, mut state) = (0, (0, Sums::default().checksum()));
            for (i, n) in parts.iter().enumerate() {
                if i == kept {
                    state = (file.len(), file.sums().checksum());
                }
                file.append(&all[at..at + n]).unwrap();
                at += n;
            }
            drop(file);
            let mut file = Appender::<u32>::resume(path.clone(), 4 * state.0, state.1).unwrap();
            file.append(&all[state.0 as usize..]).unwrap();
            file.flush().unwrap();
            prop_assert_eq!(file.sums(), &Sums::of(bytemuck::cast_slice(&all)));
            let (len, blocks) = (file.len(), file.sums().blocks());
            let map = Mapped::<u32>::open(path.clone(), len, blocks.clone()).unwrap();
            prop_assert_eq!(map.all().unwrap(), &all[..]);
            prop_assert!(map.get(len..len + 1).is_err());
            prop_assert!(Mapped::<u64>::open(path.clone(), len, blocks.clone()).is_err() || len == 0);
            let mut pieces = Pieces::<u32>::open(path.clone()).unwrap();
            prop_assert_eq!(pieces.read(len / 2..len).unwrap(), &all[len as usize / 2..]);
            prop_assert!(pieces.read(0..u64::MAX).is_err());
            if len > 0 {
                let place = damage.index(all.len());
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[4 * place] ^= 1;
                std::fs::write(&path, &bytes).unwrap();
                let map = Mapped::<u32>::open(path.clone(), len, blocks).unwrap();
                prop_assert!(map.get(place as u64..place as u64 + 1).is_err());
                prop_assert!(Appender::<u32>::resume(path, 4 * len, file.sums().checksum()).is_err());
            }
        }
    }
}
