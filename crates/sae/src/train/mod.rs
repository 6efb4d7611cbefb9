//! Training: from a model and a corpus to SAE folders.
//!
//! A [`Recipe`] says how one SAE is trained, a [`Feed`] what all SAEs of a run are fed. [`run`] streams the corpus as
//! [windows](Windows) of tokens through the model, which stops at the sites; keeps the activations shuffled in a bounded
//! buffer; and takes a [`Trainer::step`] of every SAE on each batch. After the encoder's product everything follows the
//! active entries only: see `directrix_kernels`'s sparse products and its Adam, in which the gradient is never stored.

mod alarms;
mod buffer;
mod cache;
mod checkpoint;
mod log;
mod objective;
mod recipe;
mod resample;
mod session;
mod tensorboard;
mod trainer;
mod windows;

use std::path::Path;

pub use objective::{Aux, Objective, Penalty, PenaltyOver};
pub use recipe::{Feed, Recipe, WindowStyle};
pub use session::{Event, Metrics, Run, is_complete, run};
pub use trainer::{Numbers, Rows, StepOptions, StepReport, Trainer};
pub use windows::{Documents, Windows};

/// Writes `bytes` beside `path` and renames them into place.
pub(crate) fn write_beside(path: &Path, bytes: &[u8]) -> crate::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|e| {
        // The half-written file is of no use; that it cannot be removed adds nothing to the error.
        let _ = std::fs::remove_file(&partial);
        cache::io("write", path)(e)
    })
}
