//! Activations kept on disk, so that the model runs once over the windows of a corpus however often they are trained on.

mod file;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use directrix_corpus as corpus;
use directrix_corpus::durable::{Beside, read_json, write_json};
use directrix_model::HookPoint;
use serde_json::{Value, json};

use self::file::{About, Reader, Writer};
use crate::{Error, Result};

/// Windows of a file at most: one begins at every multiple of it.
pub(super) const BLOCK: u64 = 256;

/// A folder with what the activations are of (`cache.json`) and [files](file) of windows, whose names say which. Any number
/// of processes read and write it at once, without locks: a file is renamed into its place when it is whole and never changed,
/// and where two have the same windows these are the same bits. What a killed writer leaves is beside its place and not
/// looked at.
pub(super) struct Cache {
    folder: PathBuf,
    about: About,
    /// The first window of each file found, and the end of its windows.
    files: BTreeSet<(u64, u64)>,
    /// The block that was last looked for.
    looked: Option<u64>,
    reader: Option<((u64, u64), Reader)>,
    writer: Option<Writer>,
    share: [u64; 2],
}

impl Cache {
    /// Opens or makes a cache. `identity` says what the windows and activations are of; of `share`, `[i, n]`, blocks `i`,
    /// `i + n` and so on are kept.
    ///
    /// # Errors
    /// If the folder holds a cache of something else, or cannot be read or written.
    pub(super) fn open(
        folder: &Path,
        hooks: &[(HookPoint, usize)],
        identity: &Value,
        share: [u64; 2],
    ) -> Result<Cache> {
        let names: Vec<String> = hooks.iter().map(|(hook, _)| hook.to_string()).collect();
        let of = json!({ "format": "directrix activations 3", "hooks": names, "of": identity });
        // Through text, as numbers may be written in more than one way.
        let of: Value = serde_json::from_str(&of.to_string()).unwrap_or_default();
        let path = folder.join("cache.json");
        if !path.exists() {
            claim(&path, &of)?;
        }
        if read_json::<Value>(&path)? != of {
            let problem = "these activations are of another model, corpus, context or site; name another --cache";
            return Err(Error::Stored { path: folder.into(), problem: problem.into() });
        }
        let widths = names.into_iter().zip(hooks.iter().map(|(_, width)| *width)).collect();
        let mut cache = Cache {
            folder: folder.into(),
            about: About { of, widths },
            files: BTreeSet::new(),
            looked: None,
            reader: None,
            writer: None,
            share,
        };
        cache.look()?;
        Ok(cache)
    }

    /// Looks which windows there are.
    fn look(&mut self) -> Result<()> {
        let unreadable = |error| corpus::Error::Io { path: self.folder.display().to_string(), error };
        let mut files = BTreeSet::new();
        for entry in fs::read_dir(&self.folder).map_err(unreadable)? {
            files.extend(entry.map_err(unreadable)?.file_name().to_str().and_then(file::parse));
        }
        self.files = files;
        Ok(())
    }

    /// Looks again if one of these windows was not there, once for each block.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(super) fn look_for(&mut self, numbers: &[u64]) -> Result<()> {
        let missing = numbers.iter().filter(|number| self.find(**number).is_none()).map(|number| number / BLOCK).max();
        if missing.is_some() && missing != self.looked {
            self.looked = missing;
            self.look()?;
        }
        Ok(())
    }

    /// The file with window `number`, as far as was looked.
    fn find(&self, number: u64) -> Option<(u64, u64)> {
        let begins = number / BLOCK * BLOCK;
        self.files.range((begins, 0)..=(number, u64::MAX)).find(|(_, end)| *end > number).copied()
    }

    /// Whether window `number` is there, as far as was looked.
    pub(super) fn has(&self, number: u64) -> bool {
        self.find(number).is_some()
    }

    /// The rows of window `number`, which holds `tokens`, at each hook point, if they are there.
    ///
    /// # Errors
    /// If they are not as they were written.
    pub(super) fn read(&mut self, number: u64, tokens: &[u32]) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(found) = self.find(number) else { return Ok(None) };
        let (_, reader) = match self.reader.take() {
            Some(open) if open.0 == found => self.reader.insert(open),
            _ => self.reader.insert((found, Reader::open(&self.folder, &self.about, found)?)),
        };
        reader.read(number, tokens).map(Some)
    }

    /// Whether window `number` is one of those that are kept here.
    pub(super) fn keeps(&self, number: u64) -> bool {
        let [mine, of] = self.share;
        number / BLOCK % of == mine
    }

    /// Keeps the rows of window `number` at each hook point, unless they are there or others keep it. They are there for
    /// others when the block is complete, or a window comes that does not follow.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn keep(&mut self, number: u64, tokens: &[u32], rows: &[&[f32]]) -> Result<()> {
        let (first, end) = self.writer.as_ref().map_or((number, number), Writer::range);
        if !self.keeps(number) || self.has(number) || (first..end).contains(&number) {
            return Ok(());
        }
        if number != end {
            self.finish()?;
        }
        if self.writer.is_none() {
            self.writer = Some(Writer::create(&self.folder, &self.about, number)?);
        }
        self.writer.iter_mut().try_for_each(|writer| writer.push(tokens, rows))?;
        if (number + 1).is_multiple_of(BLOCK) { self.finish() } else { Ok(()) }
    }

    /// Makes what was kept so far be there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn finish(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let range = writer.range();
        writer.finish()?;
        self.files.insert(range);
        Ok(())
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // Of a run that was stopped: what is not written is made again.
        drop(self.finish());
    }
}

/// Writes what a folder is of, unless another process is first.
fn claim(path: &Path, of: &Value) -> Result<()> {
    let beside = Beside::create(path)?;
    write_json(beside.path(), of)?;
    match fs::hard_link(beside.path(), path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        // A file system without links. Every file of windows says what it is of, too.
        Err(_) => Ok(beside.commit()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rows = Vec<Vec<f32>>;

    fn hooks() -> [(HookPoint, usize); 2] {
        [("blocks.0.mlp.hook_post".parse().unwrap(), 2), ("blocks.0.hook_resid_post".parse().unwrap(), 1)]
    }

    fn open(folder: &Path) -> Cache {
        Cache::open(folder, &hooks(), &json!({ "model": "a" }), [0, 1]).unwrap()
    }

    /// A window of three to five tokens, and its rows.
    fn window(number: u64) -> (Vec<u32>, Rows) {
        let tokens: Vec<u32> = (0..3 + number as u32 % 3).collect();
        let rows = [2, 1].map(|width| vec![number as f32 / width as f32; tokens.len() * width]);
        (tokens, rows.to_vec())
    }

    fn keep(cache: &mut Cache, number: u64) {
        let (tokens, rows) = window(number);
        cache.keep(number, &tokens, &[&rows[0], &rows[1]]).unwrap();
    }

    fn read(cache: &mut Cache, number: u64) -> Result<Option<Rows>> {
        cache.look_for(&[number])?;
        cache.read(number, &window(number).0)
    }

    /// The names in a folder, in order.
    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_one_writes_another_reads_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (mut first, mut second) = (open(folder.path()), open(folder.path()));
        (0..BLOCK + 5).for_each(|number| keep(&mut first, number));
        let mut found = |number: u64| read(&mut second, number).unwrap();
        assert_eq!(found(7), Some(window(7).1));
        assert_eq!(found(BLOCK - 1), Some(window(BLOCK - 1).1));
        assert_eq!(found(BLOCK), None, "still being written");
        // Another one begins elsewhere, and both have some windows.
        (BLOCK + 3..BLOCK + 9).for_each(|number| keep(&mut second, number));
        drop(first);
        drop(second);
        let mut third = open(folder.path());
        for number in 0..BLOCK + 9 {
            assert_eq!(read(&mut third, number).unwrap(), Some(window(number).1), "{number}");
        }
        assert_eq!(read(&mut third, BLOCK + 9).unwrap(), None);
        let files = ["000000000000-000000000256", "000000000256-000000000261", "000000000259-000000000265"];
        let files: Vec<String> = files.iter().map(|range| format!("windows-{range}.parquet")).collect();
        assert_eq!(names(folder.path()), [&["cache.json".to_owned()][..], &files].concat());
    }

    #[test]
    fn a_window_that_does_not_follow_begins_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = open(folder.path());
        [4, 5, 5, 4, 9, 0, 4].into_iter().for_each(|number| keep(&mut cache, number));
        cache.finish().unwrap();
        let mut held: Vec<u64> = (0..20).filter(|number| cache.has(*number)).collect();
        assert_eq!(held, [0, 4, 5, 9]);
        drop(cache);
        cache = Cache::open(folder.path(), &hooks(), &json!({ "model": "a" }), [1, 2]).unwrap();
        (BLOCK - 2..3 * BLOCK).for_each(|number| keep(&mut cache, number));
        held = (10..4 * BLOCK).filter(|number| cache.has(*number)).collect();
        assert_eq!(held, (BLOCK..2 * BLOCK).collect::<Vec<u64>>(), "the others' blocks are not kept");
    }

    #[test]
    fn a_cache_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        keep(&mut open(folder.path()), 0);
        let other = |folder: &Path| Cache::open(folder, &hooks(), &json!({ "model": "b" }), [0, 1]);
        let message = other(folder.path()).err().unwrap().to_string();
        assert!(message.contains("of another model, corpus, context or site; name another --cache"), "{message}");
        let sites = Cache::open(folder.path(), &hooks()[..1], &json!({ "model": "a" }), [0, 1]);
        assert!(sites.is_err());
        // One that wrote at the same time, or where what the folder is of was lost.
        fs::remove_file(folder.path().join("cache.json")).unwrap();
        let message = read(&mut other(folder.path()).unwrap(), 0).unwrap_err().to_string();
        assert!(
            message.contains("windows-000000000000-000000000001.parquet` is damaged: these activations"),
            "{message}"
        );
    }

    #[test]
    fn many_at_once_agree_on_what_a_folder_is_of() {
        let folder = tempfile::tempdir().unwrap();
        let made = |model: &str| Cache::open(folder.path(), &hooks(), &json!({ "model": model }), [0, 1]).is_ok();
        let opened: Vec<(u32, bool)> = std::thread::scope(|scope| {
            let one = |i: u32| (i % 2, made(if i.is_multiple_of(2) { "a" } else { "b" }));
            let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || one(i))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winner = opened.iter().find(|(_, is_open)| *is_open).unwrap().0;
        assert!(opened.iter().all(|(of, is_open)| *is_open == (*of == winner)), "{opened:?}");
        assert_eq!(names(folder.path()), ["cache.json"]);
    }

    #[test]
    fn nothing_that_was_changed_or_cut_short_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = open(folder.path());
        (0..3).for_each(|number| keep(&mut cache, number));
        drop(cache);
        let path = folder.path().join("windows-000000000000-000000000003.parquet");
        let bytes = fs::read(&path).unwrap();
        let all = || -> Result<()> {
            let mut cache = open(folder.path());
            for number in 0..3 {
                assert_eq!(read(&mut cache, number)?, Some(window(number).1));
            }
            Ok(())
        };
        all().unwrap();
        let mut refused = 0;
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x10;
            for changed in [&changed, &bytes[..place]] {
                fs::write(&path, changed).unwrap();
                // A byte that says nothing of the rows may be any: then they are those that were written.
                if let Err(error) = all() {
                    let message = error.to_string();
                    assert!(message.contains("000000000003.parquet` is damaged"), "{place}: {message}");
                    refused += 1;
                } else {
                    assert!(changed.len() == bytes.len(), "cut at {place}");
                }
            }
        }
        assert!(refused > bytes.len() * 3 / 2, "{refused} of {}", 2 * bytes.len());
        // Of other windows than its name says.
        fs::write(folder.path().join("windows-000000000256-000000000259.parquet"), &bytes).unwrap();
        let message = read(&mut open(folder.path()), BLOCK).unwrap_err().to_string();
        assert!(message.contains("window 256 is not as it was written"), "{message}");
        let message = open(folder.path()).read(BLOCK, &[]).unwrap_err().to_string();
        assert!(message.contains("window 256"), "{message}");
    }

    #[test]
    fn a_window_of_other_tokens_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        keep(&mut open(folder.path()), 0);
        let message = open(folder.path()).read(0, &[0, 1, 3]).unwrap_err().to_string();
        assert!(message.contains("window 0 is not the corpus's"), "{message}");
    }
}
