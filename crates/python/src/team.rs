//! Processes that do a work together, each a shard of it.

use std::path::PathBuf;
use std::sync::Arc;

use directrix_corpus::{Team, Watch};
use pyo3::prelude::*;
use serde_json::Value;

use crate::error::{Failure, Result};

/// A shard: its number, from 1, how many there are, and the folder in which units of work are kept.
pub(crate) type Shard = (usize, usize, PathBuf);

/// A shard that is given by its number, from 1, and how many there are: its number from 0, and how many.
pub(crate) fn shard_of(number: usize, of: usize) -> Result<[usize; 2]> {
    if !(1..=of).contains(&number) || of > 1_000_000 {
        return Err(Failure::argument(format!(
            "there is no shard {number} of {of}; shards are counted from 1 to how many there are, a million at most"
        )));
    }
    Ok([number - 1, of])
}

/// The watch of a work that a shard does, if one is given, which `about` determines.
pub(crate) fn watch_of(shard: Option<Shard>, watch: &Watch, about: impl FnOnce() -> Result<Value>) -> Result<Watch> {
    let Some((number, of, units)) = shard else { return Ok(watch.clone()) };
    let [number, of] = shard_of(number, of)?;
    Ok(watch.clone().with_team(Arc::new(Team::of_shard(number, of, &units, &about()?)?)))
}

/// Begins the folder of a work of so many shards, or sees that what is there is of the same work: that which `about`, as JSON, determines.
#[pyfunction]
pub(crate) fn begin(folder: PathBuf, about: &str, shards: usize) -> Result<()> {
    let about: Value = serde_json::from_str(about).map_err(|error| Failure::argument(error.to_string()))?;
    let [_, of] = shard_of(1, shards)?;
    Team::of_shard(0, of, &folder, &about)?;
    Ok(())
}
