//! One file from the hub to its place in the cache.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use directrix_corpus::{Watch, hexadecimal};
use sha2::{Digest, Sha256};
use ureq::http::HeaderMap;

use super::cache::{Entry, Shelf, is_etag, is_sha256};
use super::client::{About, Answer, Client};
use super::error::HubError;

/// Bytes read at a time.
const PIECE: usize = 256 << 10;
/// How often a connection that was lost is taken up again, as long as it brings something.
const ATTEMPTS: usize = 5;

/// What is to be downloaded.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) shelf: &'a Shelf,
    pub(super) url: String,
    pub(super) commit: &'a str,
    pub(super) file: &'a str,
    /// What the hub's listing says of it.
    pub(super) entry: &'a Entry,
    pub(super) about: About<'a>,
    pub(super) watch: &'a Watch,
}

impl Download<'_> {
    /// Downloads the file, or what is missing of it, and puts it into its place. `progress` is told how many bytes of it are
    /// there.
    pub(super) fn run(&self, progress: &dyn Fn(u64)) -> Result<(), HubError> {
        let known = self.entry.etag();
        if let Some(etag) = known.filter(|etag| self.shelf.blob(etag).is_file()) {
            return self.shelf.link(self.commit, self.file, etag);
        }
        let (answer, etag) = if let Some(etag) = known {
            (None, etag.to_owned())
        } else {
            let answer = self.ask(0)?;
            let etag = self.etag(&answer.hub)?;
            (Some(answer), etag)
        };
        let lock = self.lock(&etag)?;
        // Another process may have brought it while we waited.
        if !self.shelf.blob(&etag).is_file() {
            self.fetch(&etag, answer, progress)?;
        }
        drop(lock);
        self.shelf.link(self.commit, self.file, &etag)
    }

    /// Fetches the bytes called `etag`; `first` is an answer that is there already.
    fn fetch(&self, etag: &str, mut first: Option<Answer>, progress: &dyn Fn(u64)) -> Result<(), HubError> {
        let blob = self.shelf.blob(etag);
        let path = blob.with_file_name(format!("{etag}.incomplete"));
        let writing = |error| HubError::Disk(directrix_corpus::Error::Write { path: path.clone(), error });
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(writing)?;
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(writing)?;
        let mut got = file.metadata().map_err(writing)?.len();
        // Only bytes that can be checked in the end are worth keeping.
        if !is_sha256(etag) || first.is_some() || self.entry.size.is_some_and(|size| got > size) {
            got = 0;
        }
        let mut attempts = 0;
        while self.entry.size.is_none_or(|size| got < size) {
            let answer = first.take().map_or_else(|| self.ask(got), Ok)?;
            got = self.begin(&answer, got)?;
            let size = self.size(&answer, got)?;
            file.set_len(got).and_then(|()| file.seek(SeekFrom::Start(got))).map_err(writing)?;
            let before = got;
            let reason = match self.copy(answer, &mut file, &mut got, size, progress) {
                Ok(()) if got == size => break,
                Ok(()) => "the connection was closed".into(),
                Err(Failure::Network(reason)) => reason,
                Err(Failure::Disk(error)) => return Err(writing(error)),
                Err(Failure::Stopped) => return Err(HubError::Stopped),
                Err(Failure::TooLong) => {
                    return Err(self.damaged(&path, format!("it has more than the {size} bytes that were announced")));
                }
            };
            attempts += 1;
            if got == before || attempts == ATTEMPTS {
                return Err(HubError::Dropped { file: self.file.into(), got, size, reason });
            }
        }
        file.set_len(got).and_then(|()| file.sync_all()).map_err(writing)?;
        if is_sha256(etag) {
            let found = sha256(&mut file, self.watch).map_err(writing)?.ok_or(HubError::Stopped)?;
            if found != etag {
                return Err(self.damaged(&path, format!("its SHA-256 is {found}, and {etag} was listed")));
            }
        }
        drop(file);
        fs::rename(&path, &blob).map_err(writing)
    }

    fn ask(&self, from: u64) -> Result<Answer, HubError> {
        self.client.get(&self.url, Some(from).filter(|from| *from > 0), self.about)
    }

    /// The byte at which an answer begins, where `asked` was asked for.
    fn begin(&self, answer: &Answer, asked: u64) -> Result<u64, HubError> {
        if answer.status == 200 {
            return Ok(0);
        }
        let range = header(&answer.last, "content-range").unwrap_or_default();
        let start = range.strip_prefix("bytes ").and_then(|range| range.split_once('-')?.0.parse().ok());
        if start != Some(asked) {
            let problem = format!("asked for the bytes from {asked} on, it answers with `{range}`");
            return Err(HubError::Answer { url: self.url.clone(), problem });
        }
        Ok(asked)
    }

    /// How many bytes the file has: by the listing and by an answer that begins at byte `begin`, which must agree.
    fn size(&self, answer: &Answer, begin: u64) -> Result<u64, HubError> {
        let failed = |problem| HubError::Answer { url: self.url.clone(), problem };
        if let Some(coding) = header(&answer.last, "content-encoding").filter(|coding| *coding != "identity") {
            return Err(failed(format!("it sends `{}` coded as `{coding}`, which was not asked for", self.file)));
        }
        let number = |headers, name| header(headers, name).and_then(|value: &str| value.trim().parse::<u64>().ok());
        let announced = number(&answer.hub, "x-linked-size");
        let sent = number(&answer.last, "content-length").map(|length| length.saturating_add(begin));
        let mut sizes = [self.entry.size, announced, sent].into_iter().flatten();
        let size = sizes.next().ok_or_else(|| failed(format!("it does not say how long `{}` is", self.file)))?;
        match sizes.find(|other| *other != size) {
            None => Ok(size),
            Some(other) => Err(failed(format!("it announces `{}` with {size} bytes and with {other}", self.file))),
        }
    }

    /// What the hub's headers call the bytes.
    fn etag(&self, hub: &HeaderMap) -> Result<String, HubError> {
        let etag = header(hub, "x-linked-etag").or_else(|| header(hub, "etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        if !is_etag(etag) {
            let problem = format!("it gives `{}` no ETag that can be used", self.file);
            return Err(HubError::Answer { url: self.url.clone(), problem });
        }
        Ok(etag.into())
    }

    fn copy(
        &self,
        mut answer: Answer,
        file: &mut File,
        got: &mut u64,
        size: u64,
        progress: &dyn Fn(u64),
    ) -> Result<(), Failure> {
        let mut reader = answer.body.with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; PIECE];
        loop {
            progress(*got);
            if self.watch.is_stopped() {
                return Err(Failure::Stopped);
            }
            let read = reader.read(&mut buffer).map_err(|error| Failure::Network(error.to_string()))?;
            if read == 0 {
                return Ok(());
            }
            if *got + read as u64 > size {
                return Err(Failure::TooLong);
            }
            file.write_all(&buffer[..read]).map_err(Failure::Disk)?;
            *got += read as u64;
        }
    }

    /// The error that the bytes are not right, which are thrown away.
    fn damaged(&self, path: &Path, problem: String) -> HubError {
        drop(fs::remove_file(path));
        HubError::Damaged { file: self.file.into(), problem }
    }

    /// Waits until no other process downloads these bytes.
    fn lock(&self, etag: &str) -> Result<File, HubError> {
        const AGAIN: Duration = Duration::from_millis(100);
        let path = self.shelf.lock(etag);
        let failed = |error| HubError::Disk(directrix_corpus::Error::Write { path: path.clone(), error });
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(failed)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if self.watch.is_stopped() => return Err(HubError::Stopped),
                Err(TryLockError::WouldBlock) => thread::sleep(AGAIN),
                // Held; or a disk without locks, where two downloads at once cost time, and the checksum finds what they spoil.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
            }
        }
    }
}

/// Why the bytes of an answer ended.
enum Failure {
    Network(String),
    Disk(std::io::Error),
    TooLong,
    Stopped,
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The SHA-256 of a file in hexadecimal; `None` if the watch says stop.
fn sha256(file: &mut File, watch: &Watch) -> std::io::Result<Option<String>> {
    file.seek(SeekFrom::Start(0))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; PIECE]);
    loop {
        if watch.is_stopped() {
            return Ok(None);
        }
        match file.read(&mut buffer)? {
            0 => return Ok(Some(hexadecimal(&hash.finalize()))),
            read => hash.update(&buffer[..read]),
        }
    }
}
