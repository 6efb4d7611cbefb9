//! One spelling of where models, SAEs and corpora are.

use std::path::Path;

use directrix_corpus::Corpus;
use directrix_model::Folder;

use crate::embedded::{CORPUS, CORPUS_ORIGIN, FILES, MODEL, SAES};
use crate::{Error, Result};

/// What a name of something embedded may begin with; a path that begins so is written `./embedded:…`.
const EMBEDDED: &str = "embedded:";

/// Finds a model's or SAE's folder by its path; by `embedded:` and its name; or, where nothing has that path, by the name
/// of an embedded one: `tinystories-2l`, `tinystories-2l/sae-l0`, `tinystories-2l/sae-l1`.
///
/// # Errors
/// [`Error::Unknown`] if there is none of these, [`Error::Model`] if the path is not a folder's.
pub fn folder(name: &str) -> Result<Folder> {
    if is_on_disk(name) {
        return Ok(Folder::open(name)?);
    }
    let wanted = embedded_name(name).trim_end_matches('/');
    let files: Vec<_> = FILES.iter().filter(|file| file.folder == wanted).collect();
    if files.is_empty() {
        let mut folders: Vec<_> = FILES.iter().map(|file| format!("`{}`", file.folder)).collect();
        folders.dedup();
        return Err(Error::Unknown { what: "folder", name: name.into(), embedded: folders.join(", ") });
    }
    Ok(Folder::in_memory(name.trim_end_matches('/'), files.into_iter().map(|file| (file.name.into(), file.bytes))))
}

/// Finds a corpus by its path; by `embedded:` and its name; or, where nothing has that path, by the name of an embedded
/// one: `tinystories-2l/stories.txt`. `column` names the column of the documents.
///
/// # Errors
/// [`Error::Unknown`] if there is none of these, [`Error::Corpus`] if it is in no format that is read.
pub fn corpus(name: &str, column: Option<&str>) -> Result<Corpus> {
    if is_on_disk(name) {
        return Ok(Corpus::open(name, column)?);
    }
    let wanted = embedded_name(name);
    let is_wanted =
        |file: &&crate::embedded::File| wanted.strip_prefix(file.folder) == Some(&format!("/{}", file.name));
    match FILES.iter().find(is_wanted) {
        Some(file) => Ok(Corpus::in_memory(name, file.bytes, column)?),
        None => Err(Error::Unknown { what: "corpus", name: name.into(), embedded: format!("`{CORPUS}`") }),
    }
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

fn is_on_disk(name: &str) -> bool {
    !name.starts_with(EMBEDDED) && Path::new(name).exists()
}

fn embedded_name(name: &str) -> &str {
    name.strip_prefix(EMBEDDED).unwrap_or(name)
}

#[cfg(test)]
mod tests {
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
        assert!(matches!(folder(file.path().to_str().unwrap()), Err(Error::Model(_))));
    }
}
