//! Repositories of the Hugging Face hub, through the cache that this program shares with Python's huggingface_hub.
//!
//! What the cache has is not asked for again. What is missing is downloaded, where it was left off; a file is put in its place
//! when it is whole and has the checksum that the hub lists.

mod cache;
mod choose;
mod client;
mod download;
mod error;
mod name;

use std::cell::{Cell, OnceCell};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use directrix_corpus::{Event, Watch, one_line};
use serde_json::Value;

use self::cache::{Entry, Listing, Shelf, is_commit, is_etag, is_sha256};
pub(crate) use self::choose::Kind;
use self::choose::{is_index, tokenizer_files};
use self::client::{About, Client};
use self::download::Download;
pub use self::error::HubError;
pub(crate) use self::name::HubName;
use self::name::is_safe_file;

/// The hub, where nothing else is said.
const ENDPOINT: &str = "https://huggingface.co";

/// Where the hub and its cache are, and how they may be used.
#[derive(Clone, PartialEq, Eq)]
pub struct Hub {
    /// The address of the hub, without a slash at its end.
    pub endpoint: String,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// What lets us in where not everybody may. It goes to the hub and nowhere else.
    pub token: Option<String>,
    /// Whether only the cache is used.
    pub offline: bool,
}

/// The two sorts of repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repositories {
    Models,
    Datasets,
}

/// Files of a repository at a commit, in the cache.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// What was asked for, at the commit.
    pub(crate) name: HubName,
    /// The folder that the repository's names begin in.
    pub(crate) root: PathBuf,
    /// The files that were needed.
    pub(crate) files: Vec<String>,
}

impl Repositories {
    /// As the cache and the addresses of the hub's interface call them.
    fn plural(self) -> &'static str {
        match self {
            Repositories::Models => "models",
            Repositories::Datasets => "datasets",
        }
    }

    /// What stands before a name in the address of a file.
    fn prefix(self) -> &'static str {
        match self {
            Repositories::Models => "",
            Repositories::Datasets => "datasets/",
        }
    }
}

impl Hub {
    /// What the environment says, as huggingface_hub reads it: `HF_ENDPOINT`; `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or else
    /// `huggingface/hub` in the user's cache; `HF_TOKEN`, or the file that logging in left in `HF_HOME`; `HF_HUB_OFFLINE`.
    pub fn from_env() -> Hub {
        Hub::from(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Hub {
        let home = || std::env::home_dir().unwrap_or_default();
        let folder = |name: &str| variable(name).map(|path| expanded(path, home));
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().trim().to_owned());
        let hf_home = folder("HF_HOME")
            .unwrap_or_else(|| folder("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache")).join("huggingface"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token =
            text("HF_TOKEN").or_else(|| fs::read_to_string(token_file).ok().map(|token| token.trim().to_owned()));
        let is_true = |name: &str| {
            text(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&&*value.to_ascii_uppercase()))
        };
        Hub {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').into(),
            cache: folder("HF_HUB_CACHE").unwrap_or_else(|| hf_home.join("hub")),
            token: token.filter(|token| !token.is_empty()),
            offline: is_true("HF_HUB_OFFLINE"),
        }
    }

    /// Brings what `kind` needs of a repository into the cache, and says where it is.
    pub(crate) fn fetch(&self, kind: Kind, wanted: &HubName, watch: &Watch) -> Result<Fetched, HubError> {
        let shelf = Shelf::new(&self.cache, kind.repositories(), &wanted.repository);
        let asked = Asked { hub: self, kind, wanted, shelf, client: OnceCell::new(), watch };
        let (commit, listing) = match asked.in_cache() {
            Some(known) => known,
            None if self.offline => return Err(asked.offline(&[])),
            None => asked.list()?,
        };
        let names: Vec<&str> = listing.keys().map(String::as_str).collect();
        let chosen = kind.choose(&names, wanted.inside.as_deref());
        let mut files = chosen.map_err(|problem| HubError::Contents { name: wanted.to_string(), problem })?;
        asked.bring(&commit, &listing, &files)?;
        let root = asked.shelf.snapshot(&commit);
        if let Some(index) = files.iter().find(|file| kind == Kind::Model && is_index(file)) {
            let failed = |problem| HubError::Contents { name: wanted.to_string(), problem };
            let shards = shards(&root, index).map_err(failed)?;
            asked.bring(&commit, &listing, &shards)?;
            files.extend(shards);
        }
        Ok(Fetched { name: wanted.at(&commit), root, files })
    }
}

impl fmt::Debug for Hub {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// Something that is asked for.
struct Asked<'a> {
    hub: &'a Hub,
    kind: Kind,
    wanted: &'a HubName,
    shelf: Shelf,
    client: OnceCell<Client>,
    watch: &'a Watch,
}

impl Asked<'_> {
    /// The commit and what the repository holds there, as far as the cache knows enough of it.
    fn in_cache(&self) -> Option<(String, Listing)> {
        let commit = self.shelf.commit(&self.wanted.revision)?;
        if let Some(listing) = self.shelf.listing(&commit) {
            return Some((commit, listing));
        }
        // Python keeps files without saying what else there is. Of a model one can see when they are all that is needed.
        let there = self.shelf.files(&commit);
        let is_enough = !there.is_empty() && (self.hub.offline || self.is_whole(&commit, &there));
        is_enough.then_some((commit, there))
    }

    fn is_whole(&self, commit: &str, there: &Listing) -> bool {
        let names: Vec<&str> = there.keys().map(String::as_str).collect();
        let inside = self.wanted.inside.as_deref();
        let is_known = |file: &String| there.contains_key(file) || self.shelf.is_noted_absent(commit, file);
        matches!(self.kind, Kind::Model | Kind::Tokenizer)
            && self.kind.choose(&names, inside).is_ok_and(|files| {
                let shards =
                    files.iter().find(|file| is_index(file)).map(|index| shards(&self.shelf.snapshot(commit), index));
                shards.is_none_or(|shards| {
                    shards.is_ok_and(|shards| shards.iter().all(|shard| there.contains_key(shard)))
                })
            })
            && tokenizer_files(inside).iter().all(is_known)
    }

    /// Asks the hub what the repository holds, and keeps the answer.
    fn list(&self) -> Result<(String, Listing), HubError> {
        let HubName { repository, revision, .. } = self.wanted;
        let path = format!(
            "/api/{}/{repository}/revision/{}?blobs=true",
            self.kind.repositories().plural(),
            quoted(revision, "")
        );
        let client = self.client()?;
        let url = client.address(&path);
        let answer = client.json(&url, About { wanted: self.wanted, file: None })?;
        let failed = |problem: String| HubError::Answer { url: url.clone(), problem };
        let commit = answer["sha"].as_str().filter(|sha| is_commit(sha));
        let commit = commit.ok_or_else(|| failed("it names no commit under `sha`".into()))?;
        let siblings = answer["siblings"].as_array();
        let siblings = siblings.ok_or_else(|| failed("it lists no files under `siblings`".into()))?;
        let mut listing = Listing::new();
        for sibling in siblings {
            let name = sibling["rfilename"].as_str();
            let name = name.ok_or_else(|| failed("it lists a file without `rfilename`".into()))?;
            if !is_safe_file(name) {
                let shown: String = one_line(name).chars().take(200).collect();
                return Err(HubError::FileName { name: repository.clone(), file: shown });
            }
            listing.insert(name.into(), entry(sibling));
        }
        self.shelf.keep_commit(revision, commit)?;
        self.shelf.keep_listing(commit, &listing)?;
        Ok((commit.into(), listing))
    }

    /// Downloads those of `files` that are not in the cache.
    fn bring(&self, commit: &str, listing: &Listing, files: &[String]) -> Result<(), HubError> {
        let missing: Vec<&String> = files.iter().filter(|file| !self.shelf.has(commit, file)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if self.hub.offline {
            return Err(self.offline(&missing));
        }
        let entries: Vec<Entry> = missing.iter().map(|file| listing.get(*file).cloned().unwrap_or_default()).collect();
        let total: Option<u64> = entries.iter().map(|entry| entry.size).sum();
        let step = format!("downloading {}", self.wanted.repository);
        let (done, watch) = (Cell::new(0), self.watch);
        let tell = |got: u64| {
            let event = Event::new(step.clone(), (done.get() + got) / 1000, "kB");
            watch.tell(if let Some(total) = total { event.of(total / 1000) } else { event });
        };
        let client = self.client()?;
        let prefix = self.kind.repositories().prefix();
        for (file, entry) in missing.into_iter().zip(&entries) {
            let path = format!("/{prefix}{}/resolve/{commit}/{}", self.wanted.repository, quoted(file, "/"));
            let (url, about) = (client.address(&path), About { wanted: self.wanted, file: Some(file) });
            let size = Cell::new(0);
            let progress = |got| {
                size.set(got);
                tell(got);
            };
            Download { client, shelf: &self.shelf, url, commit, file, entry, about, watch }.run(&progress)?;
            done.set(done.get() + entry.size.unwrap_or(size.get()));
        }
        tell(0);
        Ok(())
    }

    fn client(&self) -> Result<&Client, HubError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new(self.hub)?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The error that files are missing in the cache; where none are named, all of it.
    fn offline(&self, missing: &[&String]) -> HubError {
        let missing = match missing {
            [] => "the list of files".into(),
            [file] => format!("`{file}`"),
            [file, others @ ..] => format!("`{file}` and {} more", others.len()),
        };
        let (name, folder) = (self.wanted.to_string(), self.shelf.folder().into());
        HubError::Offline { name, missing, cache: self.hub.cache.clone(), folder }
    }
}

/// A file of the hub's answer.
fn entry(sibling: &Value) -> Entry {
    let text = |value: &Value, is_right: fn(&str) -> bool| value.as_str().filter(|text| is_right(text)).map(Into::into);
    Entry {
        size: sibling["size"].as_u64(),
        git: text(&sibling["blobId"], is_etag),
        sha256: text(&sibling["lfs"]["sha256"], is_sha256),
    }
}

/// The files of weights that an index names, in the folder that it is in.
fn shards(root: &Path, index: &str) -> Result<Vec<String>, String> {
    const MOST: u64 = 64 << 20;
    let failed = |problem: &str| format!("has an index of weights `{index}` that {problem}");
    let path = root.join(index);
    let size = fs::metadata(&path).map_err(|error| failed(&format!("cannot be read ({error})")))?.len();
    if size > MOST {
        return Err(failed(&format!("has {size} bytes, more than any index")));
    }
    let bytes = fs::read(&path).map_err(|error| failed(&format!("cannot be read ({error})")))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| failed(&format!("is no JSON ({error})")))?;
    let files = value["weight_map"].as_object().ok_or_else(|| failed("has no object `weight_map`"))?;
    let folder = index.rsplit_once('/').map_or_else(String::new, |(folder, _)| format!("{folder}/"));
    let shard = |file: &Value| file.as_str().filter(|file| is_safe_file(file)).map(|file| format!("{folder}{file}"));
    let shards: Option<BTreeSet<String>> = files.values().map(shard).collect();
    let shards = shards.ok_or_else(|| failed("names a file that cannot be one below the repository"))?;
    Ok(shards.into_iter().collect())
}

/// `text` as it stands in an address; `plain` are characters that stay besides letters, digits and `-._~`.
fn quoted(text: &str, plain: &str) -> String {
    let quote = |byte: u8| match char::from(byte) {
        c if c.is_ascii_alphanumeric() || "-._~".contains(c) || plain.contains(c) => c.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(quote).collect()
}

/// A path whose first part may be `~`.
fn expanded(path: OsString, home: impl Fn() -> PathBuf) -> PathBuf {
    match Path::new(&path).strip_prefix("~") {
        Ok(rest) => home().join(rest),
        Err(_) => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::path::Path;

    use super::{Hub, quoted, shards};

    fn hub(variables: &[(&str, &str)]) -> Hub {
        Hub::from(|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn the_environment_is_read_as_python_reads_it() {
        let home = std::env::home_dir().unwrap();
        let usual = hub(&[]);
        assert_eq!((&*usual.endpoint, usual.offline), ("https://huggingface.co", false));
        assert_eq!(usual.cache, home.join(".cache/huggingface/hub"));
        assert_eq!(hub(&[("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
        assert_eq!(hub(&[("HF_HOME", "~/hf")]).cache, home.join("hf/hub"));
        assert_eq!(hub(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/cache")]).cache, Path::new("/cache"));
        assert_eq!(hub(&[("HF_ENDPOINT", "http://127.0.0.1:8000/")]).endpoint, "http://127.0.0.1:8000");
        for (value, offline) in [("1", true), ("true", true), ("YES", true), ("0", false), ("no", false)] {
            assert_eq!(hub(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
    }

    #[test]
    fn the_token_is_the_variables_or_that_of_the_file_and_is_not_shown() {
        let disk = tempfile::tempdir().unwrap();
        let hf_home = disk.path().to_str().unwrap();
        assert_eq!(hub(&[("HF_HOME", hf_home)]).token, None);
        fs::write(disk.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(hub(&[("HF_HOME", hf_home)]).token.as_deref(), Some("hf_file"));
        let both = hub(&[("HF_HOME", hf_home), ("HF_TOKEN", " hf_variable ")]);
        assert_eq!(both.token.as_deref(), Some("hf_variable"));
        assert!(!format!("{both:?}").contains("hf_variable"));
    }

    #[test]
    fn an_index_names_files_beside_it_and_none_elsewhere() {
        let disk = tempfile::tempdir().unwrap();
        let index = |content: &str| {
            fs::create_dir_all(disk.path().join("a")).unwrap();
            fs::write(disk.path().join("a/i.json"), content).unwrap();
            shards(disk.path(), "a/i.json")
        };
        let both = index(r#"{"weight_map": {"x": "2.bin", "y": "1.bin", "z": "1.bin"}}"#);
        assert_eq!(both.unwrap(), ["a/1.bin", "a/2.bin"]);
        for bad in
            ["", "{}", r#"{"weight_map": []}"#, r#"{"weight_map": {"x": 1}}"#, r#"{"weight_map": {"x": "../b"}}"#]
        {
            assert!(index(bad).unwrap_err().contains("`a/i.json`"), "{bad}");
        }
    }

    #[test]
    fn addresses_are_quoted() {
        assert_eq!(quoted("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(quoted("a b/é?.txt", "/"), "a%20b/%C3%A9%3F.txt");
    }
}
