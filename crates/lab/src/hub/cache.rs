//! The cache of the hub's files that Python's huggingface_hub and this program share.
//!
//! ```text
//! models--OWNER--NAME/refs/main                     a commit
//!                     trees/COMMIT.json             what the repository holds there
//!                     snapshots/COMMIT/config.json  a link to ../../blobs/…
//!                     blobs/ETAG                    bytes; the ETAG is their SHA-256, or git's hash of a small file
//!                     blobs/ETAG.incomplete         the beginning of a download
//! .locks/models--OWNER--NAME/ETAG.lock              held by who downloads these bytes
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use directrix_corpus::durable;
use serde::{Deserialize, Serialize};

use super::Repositories;
use super::error::HubError;
use super::name::is_safe_file;

/// Version of the tree files.
const TREE_FORMAT: u32 = 1;
/// No repository is listed with more bytes.
pub(super) const MOST_LISTED: u64 = 256 << 20;

/// What a repository holds at a commit: its files by name.
pub(super) type Listing = BTreeMap<String, Entry>;

/// What is known of a file before it is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entry {
    pub(super) size: Option<u64>,
    /// Git's hash of the file, or of what stands for it.
    pub(super) git: Option<String>,
    pub(super) sha256: Option<String>,
}

impl Entry {
    /// What the file is called among the blobs.
    pub(super) fn etag(&self) -> Option<&str> {
        self.sha256.as_deref().or(self.git.as_deref())
    }
}

#[derive(Serialize, Deserialize)]
struct Tree {
    format_version: u32,
    files: BTreeMap<String, TreeFile>,
}

#[derive(Serialize, Deserialize)]
struct TreeFile {
    size: u64,
    blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
}

/// What the cache holds of one repository.
pub(super) struct Shelf {
    cache: PathBuf,
    folder: String,
}

impl Shelf {
    pub(super) fn new(cache: &Path, of: Repositories, repository: &str) -> Shelf {
        Shelf { cache: cache.into(), folder: format!("{}--{}", of.plural(), repository.replace('/', "--")) }
    }

    /// The repository's folder in the cache.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    fn root(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    /// The commit that a revision was when it was last asked for.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let commit = fs::read_to_string(self.root().join("refs").join(revision)).ok()?;
        Some(commit.trim()).filter(|commit| is_commit(commit)).map(Into::into)
    }

    /// Keeps what a revision is now.
    pub(super) fn keep_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision != commit {
            durable::write(&self.root().join("refs").join(revision), commit.as_bytes())?;
        }
        Ok(())
    }

    /// What the repository holds at a commit, if that was kept.
    pub(super) fn listing(&self, commit: &str) -> Option<Listing> {
        let path = self.root().join("trees").join(format!("{commit}.json"));
        if fs::metadata(&path).ok()?.len() > MOST_LISTED {
            return None;
        }
        let tree: Tree = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        if tree.format_version != TREE_FORMAT {
            return None;
        }
        let entry = |(name, file): (String, TreeFile)| {
            let is_usable =
                is_safe_file(&name) && is_etag(&file.blob_id) && file.lfs_sha256.as_deref().is_none_or(is_sha256);
            let entry = Entry { size: Some(file.size), git: Some(file.blob_id), sha256: file.lfs_sha256 };
            is_usable.then_some((name, entry))
        };
        tree.files.into_iter().map(entry).collect()
    }

    /// Keeps what the repository holds, where all is known of its files that belongs there.
    pub(super) fn keep_listing(&self, commit: &str, listing: &Listing) -> Result<(), HubError> {
        let file = |(name, entry): (&String, &Entry)| {
            let lfs_size = entry.sha256.as_ref().and(entry.size);
            let (size, blob_id) = (entry.size?, entry.git.clone()?);
            Some((name.clone(), TreeFile { size, blob_id, lfs_sha256: entry.sha256.clone(), lfs_size }))
        };
        let Some(files) = listing.iter().map(file).collect() else { return Ok(()) };
        let tree =
            serde_json::to_vec_pretty(&Tree { format_version: TREE_FORMAT, files }).expect("plain data serialises");
        Ok(durable::write(&self.root().join("trees").join(format!("{commit}.json")), &tree)?)
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root().join("snapshots").join(commit)
    }

    /// Whether a commit's file is there.
    pub(super) fn has(&self, commit: &str, file: &str) -> bool {
        self.snapshot(commit).join(file).is_file()
    }

    /// Whether huggingface_hub has noted that a commit has no such file.
    pub(super) fn is_noted_absent(&self, commit: &str, file: &str) -> bool {
        self.root().join(".no_exist").join(commit).join(file).is_file()
    }

    /// The files of a commit that are there.
    pub(super) fn files(&self, commit: &str) -> Listing {
        let mut files = Listing::new();
        list(&self.snapshot(commit), "", &mut files);
        files
    }

    /// Where the bytes of a file are.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root().join("blobs").join(etag)
    }

    /// What is held while they are downloaded.
    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.cache.join(".locks").join(&self.folder).join(format!("{etag}.lock"))
    }

    /// Makes a commit's file of bytes that are there.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let (blob, place) = (self.blob(etag), self.snapshot(commit).join(file));
        let failed = |error| HubError::Disk(directrix_corpus::Error::Write { path: place.clone(), error });
        fs::create_dir_all(place.parent().unwrap_or(&place)).map_err(failed)?;
        // A link that leads nowhere, of a blob that was removed.
        if !place.exists() && place.symlink_metadata().is_ok() {
            fs::remove_file(&place).map_err(failed)?;
        }
        let up = "../".repeat(2 + file.split('/').count() - 1);
        let made = symlink(&format!("{up}blobs/{etag}"), &place)
            .or_else(|error| if place.is_file() { Ok(()) } else { Err(error) })
            .or_else(|_| fs::hard_link(&blob, &place))
            .or_else(|_| fs::copy(&blob, &place).map(drop));
        made.map_err(failed)
    }
}

#[cfg(unix)]
fn symlink(to: &str, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, place)
}

/// Links need rights there that people seldom have.
#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn list(folder: &Path, prefix: &str, files: &mut Listing) {
    const DEEPEST: usize = 16;
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // A snapshot holds links to files, and folders that are none.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if prefix.matches('/').count() < DEEPEST {
                list(&entry.path(), &format!("{name}/"), files);
            }
        } else if entry.path().is_file() && is_safe_file(&name) {
            files.insert(name, Entry::default());
        }
    }
}

/// Whether a revision is a commit in full.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_lower_hexadecimal(revision)
}

/// Whether an ETag is the SHA-256 of the bytes.
pub(super) fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && is_lower_hexadecimal(etag)
}

fn is_lower_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether an ETag can be the name of a file.
pub(super) fn is_etag(etag: &str) -> bool {
    (1..=128).contains(&etag.len()) && etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}
