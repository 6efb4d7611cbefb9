//! What a run writes as it goes: `metrics.jsonl` and a TensorBoard event file.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::cache::io;
use super::session::Metrics;
use super::tensorboard;
use crate::{Error, Result};

const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "events.out.tfevents.directrix";

pub(super) struct Log {
    metrics: Appended,
    events: Appended,
}

struct Appended {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    /// Opens the files and drops what is after `lengths`: what was written after the checkpoint that the run goes on from.
    pub(super) fn open(folder: &Path, lengths: [u64; 2]) -> Result<Log> {
        std::fs::create_dir_all(folder).map_err(io("write", folder))?;
        let mut log = Log {
            metrics: Appended::open(folder.join(METRICS), lengths[0])?,
            events: Appended::open(folder.join(EVENTS), lengths[1])?,
        };
        if log.events.length == 0 {
            log.events.append(tensorboard::begin)?;
        }
        Ok(log)
    }

    /// Writes a line of metrics; returns the files' lengths.
    pub(super) fn write(&mut self, metrics: &Metrics) -> Result<[u64; 2]> {
        let line = serde_json::to_string(metrics)
            .map_err(|e| Error::Stored { path: self.metrics.path.clone(), problem: e.to_string() })?;
        self.metrics.append(|out| writeln!(out, "{line}"))?;
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
        self.events.append(|out| tensorboard::scalars(out, metrics.step, &scalars))?;
        Ok([self.metrics.length, self.events.length])
    }
}

impl Appended {
    fn open(path: PathBuf, length: u64) -> Result<Appended> {
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(io("write", &path))?;
        let length = length.min(file.metadata().map_err(io("read", &path))?.len());
        file.set_len(length).and_then(|()| file.seek(SeekFrom::End(0))).map_err(io("write", &path))?;
        Ok(Appended { path, file, length })
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> Result<()> {
        let mut bytes = Vec::new();
        write(&mut bytes).and_then(|()| self.file.write_all(&bytes)).map_err(io("write", &self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}
