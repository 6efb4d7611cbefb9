//! Records appended one by one, read again by number.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use bytemuck::Pod;

use super::{Appender, At, damaged};
use crate::Result;

/// What a journal's list has of a record: the byte it ends at (low and high half), its checksum, and the checksum of these
/// and of its number.
type Entry = [u32; 4];

/// Records of numbers, one after another in a file, with a list of them beside it (`NAME.list`). A record counts from when the
/// list has it, so that a writer may be killed at any moment: what it left unfinished is dropped when the journal is next
/// opened, and so is everything from a damaged entry of the list on. A record is checked when it is read.
#[derive(Debug)]
pub struct Journal<T> {
    path: PathBuf,
    file: File,
    list: File,
    /// End and checksum of each record.
    records: Vec<(u64, u32)>,
    of: PhantomData<T>,
}

impl<T: Pod> Journal<T> {
    /// Begins a journal at `path`, in the place of what is there. Its folder is made if need be. Nobody else may have it open.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write).
    pub fn create(path: &Path) -> Result<Self> {
        // The list first: records without one are none.
        for path in [&list_of(path), path] {
            Appender::<u8>::create(path.into())?;
        }
        Journal::open(path)
    }

    /// Opens the journal at `path`, or begins one. Nobody else may have it open.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write) or [`Error::Io`](crate::Error::Io) if its files cannot be used.
    pub fn open(path: &Path) -> Result<Self> {
        let open = |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let (file, mut list) = (open(path).writing(path)?, open(&list_of(path)).writing(path)?);
        let length = file.metadata().reading(path)?.len();
        let mut bytes = Vec::new();
        list.read_to_end(&mut bytes).reading(path)?;

        let mut records: Vec<(u64, u32)> = Vec::new();
        let mut last = 0;
        for chunk in bytes.as_chunks::<{ size_of::<Entry>() }>().0 {
            let [low, high, sum, _]: Entry = bytemuck::pod_read_unaligned(chunk);
            let end = low as u64 | (high as u64) << 32;
            let is_whole = entry(records.len(), end, sum) == bytemuck::pod_read_unaligned::<Entry>(chunk)
                && (last..=length).contains(&end)
                && (end - last).is_multiple_of(size_of::<T>() as u64);
            if !is_whole {
                break;
            }
            records.push((end, sum));
            last = end;
        }
        file.set_len(last).writing(path)?;
        let listed = (records.len() * size_of::<Entry>()) as u64;
        list.set_len(listed).and_then(|()| list.seek(SeekFrom::End(0))).writing(path)?;
        Ok(Journal { path: path.into(), file, list, records, of: PhantomData })
    }

    /// Number of records.
    pub fn len(&self) -> u64 {
        self.records.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Record `number`.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) if there is none, or it is not as it was written; [`Error::Io`](crate::Error::Io).
    pub fn read(&mut self, number: u64) -> Result<Vec<T>> {
        let found = usize::try_from(number).ok().and_then(|n| self.records.get(n).map(|record| (n, *record)));
        let Some((n, (end, sum))) = found else {
            return Err(damaged(&self.path, format!("record {number} is asked of it, and it has {}", self.len())));
        };
        let start = self.end_of(n);
        let mut values = vec![T::zeroed(); (end - start) as usize / size_of::<T>()];
        self.file.seek(SeekFrom::Start(start)).reading(&self.path)?;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        self.file.read_exact(bytes).reading(&self.path)?;
        if crc32c::crc32c(bytes) == sum {
            return Ok(values);
        }
        Err(damaged(&self.path, format!("record {number} does not match its checksum")))
    }

    /// Appends a record of these parts, one after another.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write); the journal then has what it had.
    pub fn append(&mut self, parts: &[&[T]]) -> Result<()> {
        let start = self.end_of(self.records.len());
        self.file.seek(SeekFrom::Start(start)).writing(&self.path)?;
        let (mut end, mut sum) = (start, 0);
        for part in parts {
            let bytes: &[u8] = bytemuck::cast_slice(part);
            self.file.write_all(bytes).writing(&self.path)?;
            (end, sum) = (end + bytes.len() as u64, crc32c::crc32c_append(sum, bytes));
        }
        let entry = entry(self.records.len(), end, sum);
        let listed = SeekFrom::Start((self.records.len() * size_of::<Entry>()) as u64);
        self.list.seek(listed).and_then(|_| self.list.write_all(bytemuck::cast_slice(&entry))).writing(&self.path)?;
        self.records.push((end, sum));
        Ok(())
    }

    /// Where the records before `number` end.
    fn end_of(&self, number: usize) -> u64 {
        number.checked_sub(1).map_or(0, |last| self.records[last].0)
    }
}

fn list_of(path: &Path) -> PathBuf {
    let mut list = path.as_os_str().to_owned();
    list.push(".list");
    list.into()
}

fn entry(number: usize, end: u64, sum: u32) -> Entry {
    let (low, high) = (end as u32, (end >> 32) as u32);
    let own =
        crc32c::crc32c_append(crc32c::crc32c(&(number as u64).to_le_bytes()), bytemuck::bytes_of(&[low, high, sum]));
    [low, high, sum, own]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn records_are_as_appended_or_gone_or_damaged(
            records in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..20), 1..12),
            in_list in any::<bool>(),
            place in any::<prop::sample::Index>(),
            change in any::<u8>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.u32");
            let mut journal = Journal::<u32>::open(&path).unwrap();
            for record in &records {
                let (first, second) = record.split_at(record.len() / 2);
                journal.append(&[first, second]).unwrap();
            }
            drop(journal);

            // No change stands for a cut.
            let damaged = if in_list { folder.path().join("a.u32.list") } else { path.clone() };
            let mut bytes = fs::read(&damaged).unwrap();
            prop_assume!(!bytes.is_empty());
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            fs::write(&damaged, if change == 0 { &bytes[..place] } else { &bytes }).unwrap();

            let mut journal = Journal::<u32>::open(&path).unwrap();
            let kept = journal.len();
            let wrong = (0..kept).filter(|n| match journal.read(*n) {
                Ok(read) => { assert_eq!(read, records[*n as usize]); false }
                Err(error) => { assert!(error.to_string().contains("damaged"), "{error}"); true }
            }).count();
            // A changed byte of the list ends the journal there, one of the numbers damages the record that has it.
            prop_assert!(kept < records.len() as u64 || wrong == 1);
            prop_assert!(journal.read(kept).is_err());

            for record in &records[kept as usize..] {
                journal.append(&[record]).unwrap();
            }
            drop(journal);
            let mut journal = Journal::<u32>::open(&path).unwrap();
            prop_assert_eq!(journal.len(), records.len() as u64);
            for n in kept..records.len() as u64 {
                prop_assert_eq!(&journal.read(n).unwrap(), &records[n as usize]);
            }
        }
    }
}
