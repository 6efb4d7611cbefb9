//! One spelling of where models, SAEs and corpora are.

use std::path::Path;

use directrix_corpus::{Corpus, Watch};
use directrix_model::{Folder, Model};
use directrix_sae::Sae;

use crate::aliases;
use crate::embedded::{CORPUS, CORPUS_ORIGIN, FILES, MODEL, SAES};
use crate::hub::{Fetched, Hub, HubName, Kind};
use crate::{Error, Result};

/// What a name of something embedded may begin with; a path that begins so is written `./embedded:…`.
const EMBEDDED: &str = "embedded:";

/// Finds models, SAEs and corpora by name. A name is, in this order,
///
/// 1. a path on disk;
/// 2. that of something embedded, with or without `embedded:` before it: `tinystories-2l`, `tinystories-2l/sae-l1`;
/// 3. of models, one of TransformerLens's: `gpt2-small`;
/// 4. that of a repository of the hub, `owner/name`; `@` and a branch, tag or commit may follow, then `:` and a folder or file in
///    it. A corpus is always named so, by its split, folder or file: `roneneldan/TinyStories:validation`.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The hub and its cache.
    pub hub: Hub,
    /// Who is told how far a download is, and may stop it.
    pub watch: Watch,
}

impl Default for Sources {
    /// The hub of the environment; nobody watches.
    fn default() -> Sources {
        Sources::watched(&Watch::nobody())
    }
}

impl Sources {
    /// The hub of the environment; downloads are watched.
    pub fn watched(watch: &Watch) -> Sources {
        Sources { hub: Hub::from_env(), watch: watch.clone() }
    }

    /// A model's folder: its configuration, weights and tokenizer. Where the name is that of a file, it is a checkpoint of llama2.c and what is
    /// beside it.
    ///
    /// # Errors
    /// [`Error::Unknown`] if nothing can have this name, [`Error::Model`] if the path is a folder of the cache that does not say which snapshot, [`Error::Hub`] if it is
    /// not in the hub's cache and cannot be downloaded.
    pub fn model(&self, name: &str) -> Result<Folder> {
        self.folder(name, Kind::Model)
    }

    /// The folder of a model's tokenizer; of the hub, without the model's weights.
    ///
    /// # Errors
    /// As [`model`](Sources::model).
    pub fn tokenizer(&self, name: &str) -> Result<Folder> {
        self.folder(name, Kind::Tokenizer)
    }

    /// An SAE's folder. Where the name is that of a file, it is a folder of this file and the `.json` files beside it.
    ///
    /// # Errors
    /// As [`model`](Sources::model).
    pub fn sae_folder(&self, name: &str) -> Result<Folder> {
        self.folder(name, Kind::Sae)
    }

    /// An SAE, that must fit the model.
    ///
    /// # Errors
    /// As [`model`](Sources::model); [`Error::Sae`] if it cannot be loaded, or does not fit.
    pub fn sae(&self, name: &str, model: &Model) -> Result<Sae> {
        Ok(Sae::load(&self.sae_folder(name)?)?.fit(model.config())?)
    }

    /// A corpus. `column` names the column of the documents.
    ///
    /// # Errors
    /// [`Error::Unknown`] if nothing can have this name, [`Error::Corpus`] if it is in no format that is read, [`Error::Hub`] if
    /// it is not in the hub's cache and cannot be downloaded.
    pub fn corpus(&self, name: &str, column: Option<&str>) -> Result<Corpus> {
        if is_on_disk(name) {
            return Ok(Corpus::open(name, column)?);
        }
        let wanted = embedded_name(name);
        let is_wanted =
            |file: &&crate::embedded::File| wanted.strip_prefix(file.folder) == Some(&format!("/{}", file.name));
        if let Some(file) = FILES.iter().find(is_wanted) {
            return Ok(Corpus::in_memory(name, file.bytes, column)?);
        }
        let on_hub = HubName::parse(name, |_| None).filter(|on_hub| on_hub.inside.is_some());
        let on_hub = on_hub.ok_or_else(|| Error::Unknown {
            what: "corpus",
            name: name.into(),
            embedded: format!("`{CORPUS}`"),
            hub: "owner/name:SPLIT, or owner/name:FILE",
        })?;
        let Fetched { name, root, files } = self.hub.fetch(Kind::Corpus, &on_hub, &self.watch)?;
        let paths = files.iter().map(|file| root.join(file)).collect();
        Ok(Corpus::of_files(&name.to_string(), paths, column)?)
    }

    fn folder(&self, name: &str, kind: Kind) -> Result<Folder> {
        if is_on_disk(name) {
            return open(Path::new(name));
        }
        let wanted = embedded_name(name).trim_end_matches('/');
        let files: Vec<_> = FILES.iter().filter(|file| file.folder == wanted).collect();
        if !files.is_empty() {
            let files = files.into_iter().map(|file| (file.name.into(), file.bytes));
            return Ok(Folder::in_memory(name.trim_end_matches('/'), files));
        }
        let Some(on_hub) = on_hub(name, kind) else {
            let mut folders: Vec<_> = FILES.iter().map(|file| format!("`{}`", file.folder)).collect();
            folders.dedup();
            let (embedded, hub) = (folders.join(", "), "owner/name, or owner/name:FOLDER");
            return Err(Error::Unknown { what: "folder", name: name.into(), embedded, hub });
        };
        let Fetched { name, root, .. } = self.hub.fetch(kind, &on_hub, &self.watch)?;
        let mut inside = name.inside.as_deref().map_or_else(|| root.clone(), |inside| root.join(inside));
        // Of a file in the repository, what is beside it.
        if kind == Kind::Tokenizer && !inside.exists() {
            inside.pop();
        }
        Ok(open(&inside)?.named(name.to_string()))
    }
}

/// A folder on disk, or a file as one: of an SAE, or a checkpoint of llama2.c.
fn open(path: &Path) -> Result<Folder> {
    Ok(if path.is_file() { Folder::of_file(path)? } else { Folder::open(path)? })
}

/// A model's folder, with [`Sources::default`].
///
/// # Errors
/// As [`Sources::model`].
pub fn folder(name: &str) -> Result<Folder> {
    Sources::default().model(name)
}

/// A corpus, with [`Sources::default`].
///
/// # Errors
/// As [`Sources::corpus`].
pub fn corpus(name: &str, column: Option<&str>) -> Result<Corpus> {
    Sources::default().corpus(name, column)
}

/// An SAE that fits a model, with [`Sources::default`].
///
/// # Errors
/// As [`Sources::sae`].
pub fn sae(name: &str, model: &Model) -> Result<Sae> {
    Sources::default().sae(name, model)
}

/// What has to be known of a corpus by who reads a number measured on it: where an embedded one comes from; `None` of others.
pub fn corpus_origin(name: &str) -> Option<&'static str> {
    (!is_on_disk(name) && embedded_name(name) == CORPUS).then_some(CORPUS_ORIGIN)
}

/// The SAEs that come with a model: the embedded model's, else none.
pub fn saes_of(model: &str) -> Vec<String> {
    if is_on_disk(model) || embedded_name(model).trim_end_matches('/') != MODEL {
        return Vec::new();
    }
    let prefix = if model.starts_with(EMBEDDED) { EMBEDDED } else { "" };
    SAES.iter().map(|sae| format!("{prefix}{sae}")).collect()
}

/// What a name is of the hub, if it can be; what begins as the embedded model does is of what is embedded.
fn on_hub(name: &str, kind: Kind) -> Option<HubName> {
    if embedded_name(name).strip_prefix(MODEL).is_some_and(|rest| rest.starts_with('/')) {
        return None;
    }
    HubName::parse(name, |name| if kind == Kind::Sae { None } else { aliases::repository(name) })
}

/// Whether what a source was found as is of the hub.
pub(crate) fn is_of_hub(found: &str) -> bool {
    !is_on_disk(found) && HubName::parse(found, |_| None).is_some_and(|name| name.is_at_commit())
}

fn is_on_disk(name: &str) -> bool {
    !name.starts_with(EMBEDDED) && Path::new(name).exists()
}

fn embedded_name(name: &str) -> &str {
    name.strip_prefix(EMBEDDED).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use directrix_model::{Model, Processing};

    use super::{corpus, folder};
    use crate::Error;

    #[test]
    fn an_embedded_folder_is_found_with_and_without_its_prefix() {
        for name in ["tinystories-2l", "embedded:tinystories-2l", "tinystories-2l/"] {
            let model = folder(name).unwrap();
            assert_eq!(model.to_string(), name.trim_end_matches('/'));
            assert_eq!(model.names().unwrap().len(), 5);
            assert!(model.read("config.json").unwrap().starts_with(b"{"));
            assert!(model.read_optional("train_lm.py").unwrap().is_none());
        }
        let sae = folder("embedded:tinystories-2l/sae-l1").unwrap();
        assert_eq!(sae.names().unwrap(), ["cfg.json", "sae_weights.safetensors"]);
        assert_eq!(sae.describe("cfg.json"), "embedded:tinystories-2l/sae-l1/cfg.json");
    }

    #[test]
    fn what_is_embedded_is_what_lies_in_assets() {
        let (embedded, on_disk) = (folder("tinystories-2l").unwrap(), folder("../../assets/tinystories-2l").unwrap());
        for file in embedded.names().unwrap() {
            embedded.read(&file).unwrap();
            on_disk.read(&file).unwrap();
        }
        assert_eq!(embedded.hash(), on_disk.hash());
        let stories = corpus("embedded:tinystories-2l/stories.txt", None).unwrap();
        assert_eq!(
            stories.hash().unwrap(),
            corpus("../../assets/tinystories-2l/stories.txt", None).unwrap().hash().unwrap()
        );
    }

    #[test]
    fn a_name_of_nothing_is_answered_with_those_that_are_embedded() {
        for name in ["no/such/folder", "embedded:no-such"] {
            let error = folder(name).unwrap_err().to_string();
            assert!(error.contains(&format!("no folder `{name}`")), "{error}");
            assert!(error.contains("`tinystories-2l/sae-l0`"), "{error}");
        }
        let error = corpus("no/such.txt", None).unwrap_err();
        assert!(matches!(&error, Error::Unknown { what: "corpus", .. }), "{error}");
        assert!(corpus("tinystories-2l", None).is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        let one = folder(file.path().to_str().unwrap()).unwrap();
        let message = Model::load(&one, Processing::default()).unwrap_err().to_string();
        assert!(message.contains("a model is such a .bin file, or a folder"), "{message}");
    }
}
