//! The processes that do a command together: the ranks of an MPI job, or shards that any scheduler starts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(feature = "mpi")]
use std::sync::{Mutex, PoisonError};
#[cfg(feature = "mpi")]
use std::time::Duration;

use clap::Args;
use directrix::corpus::durable::beside;
use directrix::corpus::{self, Ranks, Team, Watch, agree};
use directrix::lab::Opened;
use directrix::{circuits, study};
use serde_json::{Value, json};

use super::failure::usage;
#[cfg(feature = "mpi")]
use super::mpi::{Job, abort};

/// What those who start the processes of a job set in each.
const STARTED: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"];

/// Whether another rank speaks and writes for this one.
static SILENT: AtomicBool = AtomicBool::new(false);
#[cfg(feature = "mpi")]
static JOB: Mutex<Option<Job>> = Mutex::new(None);

/// Which part of the work is done.
#[derive(Args, Default)]
pub(crate) struct ShardArgs {
    /// Do the I-th of N parts of the work alone, so that others can do theirs elsewhere (docs/cluster.md)
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<[usize; 2]>,
}

/// A shard, counted from 1, of so many.
pub(crate) fn shard(text: &str) -> Result<[usize; 2], String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some([i.parse::<usize>().ok()?, n.parse::<usize>().ok()?]));
    match parts {
        Some([i, n]) if (1..=n).contains(&i) && n <= 1_000_000 => Ok([i - 1, n]),
        _ => Err("give a number and how many there are, from 1/N to N/N, as 2/8".into()),
    }
}

/// Whether this process is the one that prints and writes.
pub(crate) fn is_first() -> bool {
    !SILENT.load(Ordering::Relaxed)
}

/// The ranks of the job that this process was started for, if it was.
pub(crate) fn join() -> anyhow::Result<Option<Arc<dyn Ranks>>> {
    if !STARTED.iter().any(|name| std::env::var_os(name).is_some()) {
        return Ok(None);
    }
    joined()
}

#[cfg(feature = "mpi")]
fn joined() -> anyhow::Result<Option<Arc<dyn Ranks>>> {
    let mut job = JOB.lock().unwrap_or_else(PoisonError::into_inner);
    if job.is_none() {
        *job = Some(Job::join()?);
    }
    let ranks = job.as_ref().map(Job::ranks);
    SILENT.store(ranks.as_ref().is_some_and(|ranks| ranks.rank() > 0), Ordering::Relaxed);
    Ok(ranks.map(|ranks| ranks as Arc<dyn Ranks>))
}

#[cfg(not(feature = "mpi"))]
fn joined() -> anyhow::Result<Option<Arc<dyn Ranks>>> {
    let alone = std::env::var(STARTED[0]).is_ok_and(|size| size == "1");
    if alone {
        return Ok(None);
    }
    anyhow::bail!(
        "this is started as one of several ranks, and built without MPI; build it with `cargo build --release --features mpi`"
    )
}

/// Ends the job, if this process has joined one: when all have come so far where it went well, or else at once.
pub(crate) fn end(code: u8) {
    #[cfg(feature = "mpi")]
    if let Some(job) = JOB.lock().unwrap_or_else(PoisonError::into_inner).take() {
        if code == 0 { job.end() } else { abort(code.into()) }
    }
    #[cfg(not(feature = "mpi"))]
    let _ = code;
}

/// What a failure is said with. Where all ranks fail alike the first one ends the others before they speak.
pub(crate) fn before_failure() -> String {
    #[cfg(feature = "mpi")]
    if let Some(job) = &*JOB.lock().unwrap_or_else(PoisonError::into_inner)
        && job.ranks().rank() > 0
    {
        std::thread::sleep(Duration::from_secs(2));
        return format!("error on rank {}", job.ranks().rank());
    }
    "error".into()
}

impl ShardArgs {
    /// The shard, if one is asked for.
    pub(crate) fn shard(&self) -> Option<[usize; 2]> {
        self.shard
    }

    /// That ranks are not asked for a shard.
    pub(crate) fn check(&self, are_ranks: bool) -> anyhow::Result<()> {
        if are_ranks && self.shard.is_some() {
            return Err(usage("--shard is for what mpirun did not start: its ranks share the work"));
        }
        Ok(())
    }

    /// The watch of a work that writes to `out`, with those who do it together. `about` says what determines it.
    pub(crate) fn team(
        &self,
        watch: &Watch,
        opened: &Opened,
        out: Option<&Path>,
        about: &Value,
    ) -> anyhow::Result<Watch> {
        // Where units of work are kept until all are done.
        let units = out.and_then(|out| beside(out, ".units").ok());
        let ranks = join()?;
        self.check(ranks.is_some())?;
        let is_kept = units.as_deref().is_some_and(Team::has_kept);
        if ranks.is_none() && self.shard.is_none() && !is_kept {
            return Ok(watch.clone());
        }
        let about = json!({ "directrix": env!("CARGO_PKG_VERSION"), "bits": opened.probe()?, "run": about });
        let kept = units.as_deref().map(|units| (units, &about));
        let team = match (ranks, self.shard, kept) {
            (Some(_), Some(_), _) => {
                return Err(usage("--shard is for what mpirun did not start: its ranks share the work"));
            }
            (Some(ranks), None, kept) => {
                agree(&*ranks, &facts(&about))?;
                Team::of_ranks(ranks, kept)?
            }
            (None, Some([number, of]), Some((units, about))) => Team::of_shard(number, of, units, about)?,
            (None, None, Some((units, about))) => Team::of_kept(units, about)?,
            (None, _, None) => return Err(usage("--shard keeps what is done beside --out; name a folder")),
        };
        Ok(watch.clone().with_team(Arc::new(team)))
    }

    /// What a shard has to say at its end: nothing is wrong where others have not done their parts yet.
    pub(crate) fn waits<T>(&self, made: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        let waits = made.as_ref().err().filter(|_| self.shard.is_some()).and_then(waits_for_others);
        if let Some(waits) = waits {
            super::terminal::note(&waits.to_string());
            return Ok(None);
        }
        made.map(Some)
    }
}

/// The error that others have not done their parts, if it is that: what is transparent hides it from a chain of causes.
fn waits_for_others(error: &anyhow::Error) -> Option<&corpus::Error> {
    let of_study = error.downcast_ref();
    let of_circuits = match of_study {
        Some(study::Error::Circuits(error)) => Some(error),
        _ => error.downcast_ref(),
    };
    let found = match (of_circuits, of_study) {
        (Some(circuits::Error::Corpus(error)), _) | (_, Some(study::Error::Corpus(error))) => Some(error),
        _ => None,
    };
    found.filter(|error| matches!(error, corpus::Error::Waits { .. }))
}

/// The parts of a description, by name.
fn facts(about: &Value) -> Vec<(&str, String)> {
    about.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value.to_string())).collect()
}
