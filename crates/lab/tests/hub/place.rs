//! A hub with things on it, and a cache that is empty.

use std::fs;
use std::path::{Path, PathBuf};

use directrix_corpus::Watch;
use directrix_lab::{Error, Hub, Sources};
use directrix_model::Folder;

use super::{Request, StandIn, files_of};

pub(crate) const MODEL: &str = "../model/tests/fixtures/gpt2-tiny";
pub(crate) const IDS: &str = "{\"tokens\": [1, 2, 3, 4]}\n{\"tokens\": [5, 6, 7]}\n";

/// A hub with a model, SAEs and a dataset, and a cache that is empty.
pub(crate) struct Place {
    pub(crate) stand_in: StandIn,
    pub(crate) disk: tempfile::TempDir,
    pub(crate) commits: [String; 3],
}

impl Place {
    pub(crate) fn new() -> Place {
        let stand_in = StandIn::new();
        let mut model = files_of(MODEL, &["config.json", "model.safetensors"]);
        model.extend([
            ("README.md", b"?".to_vec()),
            ("pytorch_model.bin", vec![0; 9]),
            ("old/model.safetensors", vec![0; 9]),
        ]);
        let sae = files_of(format!("{MODEL}/sae-l0"), &["cfg.json", "sae_weights.safetensors"]);
        let other = files_of(format!("{MODEL}/sae-l2"), &["cfg.json", "sae_weights.safetensors"]);
        let named = |names: [&'static str; 2], files: Vec<(&'static str, Vec<u8>)>| {
            names.into_iter().zip(files).map(|(name, (_, bytes))| (name, bytes)).collect::<Vec<_>>()
        };
        let mut saes = named(["l0/mlp/cfg.json", "l0/mlp/sae_weights.safetensors"], sae);
        saes.extend(named(["l2/mlp/cfg.json", "l2/mlp/sae_weights.safetensors"], other));
        let data = [
            ("README.md", "?"),
            ("data/train-00000-of-00002.jsonl", IDS),
            ("data/train-00001-of-00002.jsonl", "{\"tokens\": [8, 9]}\n"),
            ("data/validation-00000-of-00001.jsonl", IDS),
        ];
        let commits = [
            stand_in.add("models", "owner/model", model),
            stand_in.add("models", "owner/saes", saes),
            stand_in.add("datasets", "owner/data", data),
        ];
        Place { stand_in, disk: tempfile::tempdir().unwrap(), commits }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.disk.path().join("hub")
    }

    pub(crate) fn sources(&self) -> Sources {
        let (endpoint, cache) = (self.stand_in.address.clone(), self.cache());
        Sources { hub: Hub { endpoint, cache, token: None, offline: false }, watch: Watch::nobody() }
    }

    pub(crate) fn offline(&self) -> Sources {
        let sources = self.sources();
        Sources { hub: Hub { offline: true, ..sources.hub }, ..sources }
    }

    pub(crate) fn with_token(&self, token: &str) -> Sources {
        let sources = self.sources();
        Sources { hub: Hub { token: Some(token.into()), ..sources.hub }, ..sources }
    }

    /// What asking for a model says.
    pub(crate) fn refusal(&self, name: &str) -> String {
        refused(self.sources().model(name))
    }

    /// Files below the cache whose path contains `part`.
    pub(crate) fn found(&self, part: &str) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.cache(), &mut |path| found.push(path.strip_prefix(self.cache()).unwrap().display().to_string()));
        found.retain(|path| path.contains(part));
        found.sort();
        found
    }
}

pub(crate) fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.is_symlink() {
            walk(&path, visit);
        } else {
            visit(&path);
        }
    }
}

pub(crate) fn refused(result: directrix_lab::Result<Folder>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Hub(_)), "{error:?}");
    error.to_string()
}

pub(crate) fn paths(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|request| request.path.as_str()).collect()
}
