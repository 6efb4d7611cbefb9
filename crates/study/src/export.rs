//! What an index holds, in the formats of other tools. One file for each format; `docs/exports.md` says what is in them.

mod correlations;
mod dashboard;
mod datasets;
mod delphi;
mod folder;
mod neuronpedia;
mod parquet;
mod pass;
mod saedashboard;

use std::io;
use std::path::Path;

pub use dashboard::Subject;
pub use datasets::write_datasets;
pub use delphi::write_delphi;
pub use folder::Export;
pub use neuronpedia::write_neuronpedia;
pub use parquet::write_activations;
pub use saedashboard::write_saedashboard;
use serde::Serialize;

use crate::Error;

/// A model's name as other programs know it: of one of the hub, without the commit it was found at.
fn without_commit(name: &str) -> &str {
    let is_commit = |text: &str| text.len() >= 40 && text.bytes().take(40).all(|byte| byte.is_ascii_hexdigit());
    name.split_once('@').filter(|(_, after)| is_commit(after)).map_or(name, |(before, _)| before)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("keys are texts")
}

fn written(path: &Path, error: io::Error) -> Error {
    directrix_corpus::Error::Write { path: path.into(), error }.into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_commit_is_no_part_of_a_name() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(super::without_commit(&format!("owner/name@{commit}")), "owner/name");
        assert_eq!(super::without_commit("models/tiny@home"), "models/tiny@home");
    }
}
