//! What a run writes as it goes: `metrics.jsonl` and a TensorBoard event file.

use std::path::Path;

use directrix_corpus::durable::Appender;
use serde::{Deserialize, Serialize};

use super::member::Metrics;
use super::tensorboard;
use crate::{Error, Result};

const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "events.out.tfevents.directrix";

pub(super) struct Log {
    metrics: Appender<u8>,
    events: Appender<u8>,
}

/// What was written of each file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Logged {
    metrics: Written,
    events: Written,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Written {
    bytes: u64,
    checksum: u32,
}

impl Log {
    /// Opens the files and drops what is after `logged`: what was written after the checkpoint that the run goes on from. A file
    /// that is no longer there begins anew.
    ///
    /// # Errors
    /// If a file is no longer what was logged, or cannot be written.
    pub(super) fn open(folder: &Path, logged: &Logged) -> Result<Log> {
        let open = |name: &str, Written { bytes, checksum }: Written| {
            let path = folder.join(name);
            if bytes > 0 && path.exists() { Appender::resume(path, bytes, checksum) } else { Appender::create(path) }
        };
        let mut log = Log { metrics: open(METRICS, logged.metrics)?, events: open(EVENTS, logged.events)? };
        if log.events.is_empty() {
            log.events.append(&tensorboard::beginning())?;
        }
        Ok(log)
    }

    /// That nobody removed the files.
    ///
    /// # Errors
    /// If somebody did.
    pub(super) fn check_there(&self) -> Result<()> {
        Ok([&self.metrics, &self.events].into_iter().try_for_each(Appender::check_there)?)
    }

    /// Writes a line of metrics.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(super) fn write(&mut self, metrics: &Metrics) -> Result<Logged> {
        let line = serde_json::to_string(metrics)
            .map_err(|e| Error::Stored { path: METRICS.into(), problem: e.to_string() })?;
        self.metrics.append(format!("{line}\n").as_bytes())?;
        let mean = &metrics.mean;
        let mut scalars = vec![
            ("loss/total", mean.loss),
            ("loss/mse", mean.mse),
            ("loss/penalty", mean.penalty),
            ("loss/aux", mean.aux),
            ("sparsity/l0", mean.l0),
            ("sparsity/dead", metrics.dead as f64),
            ("explained_variance", mean.explained_variance),
            ("schedule/learning_rate", metrics.learning_rate),
            ("schedule/coefficient_scale", metrics.coefficient_scale),
        ];
        scalars.extend(metrics.loss_recovered.map(|value| ("evaluation/loss_recovered", value)));
        scalars.extend(metrics.evaluation_l0.map(|value| ("evaluation/l0", value)));
        self.events.append(&tensorboard::scalars(metrics.step, &scalars))?;
        Ok(Logged { metrics: written(&mut self.metrics)?, events: written(&mut self.events)? })
    }
}

fn written(file: &mut Appender<u8>) -> Result<Written> {
    file.flush()?;
    Ok(Written { bytes: file.len(), checksum: file.sums().checksum() })
}
