//! Files that outlive a crash, and say so when they did not.
//!
//! The one writer and reader of what this program leaves on disk and reads again.
//!
//! - A file is written [`Beside`] its place, under a name of its own, and renamed into it when whole: a reader sees the old
//!   file or the new one, and two processes never write the same bytes. [`write()`] does so for bytes at hand.
//! - A [`Lock`] keeps an output to one process. It ends with the process, however that ends.
//! - [`write_json`] and [`read_json`] keep a checksum in the file, [`seal`] and [`check_seal`] in any file with a JSON header.
//! - An [`Appender`] grows an array file and sums it block by block; a [`Mapped`] array checks each block against its sum when
//!   it is first touched. [`Pieces`] reads what was just written.
//! - [`replace_folder`] puts a finished folder where another one stands.
//!
//! Checksums are CRC-32C. No size that stands in a file is trusted before the file has been found to be as large.
//!
//! ```
//! use directrix_corpus::durable::{Lock, read_json, write_json};
//!
//! # fn main() -> directrix_corpus::Result<()> {
//! # let out = tempfile::tempdir().unwrap();
//! # let out = out.path().join("run");
//! let lock = Lock::take(&out)?;
//! assert!(Lock::take(&out).is_err(), "one at a time");
//!
//! write_json(&out.join("counts.json"), &[("prompts", 3)].into_iter().collect::<std::collections::BTreeMap<_, _>>())?;
//! let counts: std::collections::BTreeMap<String, u64> = read_json(&out.join("counts.json"))?;
//! assert_eq!(counts["prompts"], 3);
//! # drop(lock);
//! # Ok(())
//! # }
//! ```

mod array;
mod beside;
mod folder;
mod lock;
mod map;
mod seal;

use std::io;
use std::path::Path;

pub use array::{Appender, Mapped, Pieces, Sums};
pub use beside::{Beside, write};
pub use folder::{beside, finish_replacing, is_begun, place_of, remove_folder, replace_folder};
pub use lock::{Lock, tidy};
pub use map::{Map, exit_if_a_map_shrinks, shrunken, survive_if_a_map_shrinks};
pub use seal::{check_seal, read_json, read_sealed, seal, unsealed, write_json};

use crate::{Error, Result};

/// Names the file that an operation failed on.
trait At<T> {
    fn reading(self, path: &Path) -> Result<T>;
    fn writing(self, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn reading(self, path: &Path) -> Result<T> {
        self.map_err(|error| Error::Io { path: path.display().to_string(), error })
    }

    fn writing(self, path: &Path) -> Result<T> {
        self.map_err(|error| Error::Write { path: path.into(), error })
    }
}

/// An [`Error::Damaged`].
fn damaged(path: &Path, problem: impl Into<String>) -> Error {
    Error::Damaged { path: path.into(), problem: problem.into() }
}
