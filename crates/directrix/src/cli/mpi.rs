//! The ranks of an MPI job.
//!
//! Two communicators keep apart what must not mix: one for what all ranks do at the same time, one for what a thread of its own exchanges at
//! any time, namely who takes which unit of work, which the first rank counts, and that everybody is still there.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::bail;
use directrix::corpus::{self, Error, Ranks};
use mpi::Threading;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Source};

use super::terminal::complain;

/// Who has said nothing for so long is lost.
const LOST: Duration = Duration::from_secs(20);
/// Between two signs of life, and between two looks at what has come.
const BEAT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(2);
/// The most bytes that one exchange carries of all ranks, and numbers that it sums: MPI counts with 31 bits.
const BYTES: usize = 1 << 30;
const NUMBERS: usize = 1 << 24;

const CALL: i32 = 1;
const REPLY: i32 = 2;
const LIFE: i32 = 3;

/// A communicator that several threads use, which MPI was asked for.
///
/// It is not freed: what is left at the end MPI frees itself, and nobody may call it afterwards.
struct Shared(ManuallyDrop<SimpleCommunicator>);

// SAFETY: MPI gave `MPI_THREAD_MULTIPLE`: any thread may call it at any time with the handle of a communicator.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The ranks of this job.
pub(super) struct Mpi {
    rank: usize,
    size: usize,
    /// For what all do together.
    together: Shared,
    /// For the thread, and who asks it.
    aside: Arc<Aside>,
}

/// What the thread has.
struct Aside {
    talk: Shared,
    /// The counts that units are taken by, on the first rank.
    counts: Mutex<BTreeMap<u64, u64>>,
    ended: AtomicBool,
}

/// A job that this process has joined: to be ended when all is done.
pub(super) struct Job {
    universe: Universe,
    ranks: Arc<Mpi>,
    thread: JoinHandle<()>,
}

impl Job {
    /// Joins the job that this process was started for.
    ///
    /// # Errors
    /// If MPI cannot be called by several threads.
    pub(super) fn join() -> anyhow::Result<Job> {
        let Some((universe, Threading::Multiple)) = mpi::initialize_with_threading(Threading::Multiple) else {
            bail!("this MPI cannot be called by several threads; use one that gives MPI_THREAD_MULTIPLE");
        };
        let world = universe.world();
        let number = |n: i32| usize::try_from(n).unwrap_or_default();
        let aside = Arc::new(Aside {
            talk: Shared(ManuallyDrop::new(world.duplicate())),
            counts: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let (rank, size) = (number(world.rank()), number(world.size()));
        let ranks =
            Arc::new(Mpi { rank, size, together: Shared(ManuallyDrop::new(world.duplicate())), aside: aside.clone() });
        let thread = thread::spawn(move || aside.stay(rank, size));
        Ok(Job { universe, ranks, thread })
    }

    /// The ranks.
    pub(super) fn ranks(&self) -> Arc<Mpi> {
        self.ranks.clone()
    }

    /// Ends it when all have come so far.
    pub(super) fn end(self) {
        self.ranks.together.0.barrier();
        self.ranks.aside.ended.store(true, Ordering::Relaxed);
        drop(self.thread.join());
        drop(self.ranks);
        drop(self.universe);
    }
}

/// Ends the job at once on all ranks that can be reached, and this process in any case.
pub(super) fn abort(code: i32) -> ! {
    thread::spawn(move || SimpleCommunicator::world().abort(code));
    thread::sleep(Duration::from_secs(3));
    std::process::exit(code)
}

impl Aside {
    /// Answers who asks, tells that this rank is there, and ends everything when another one is lost.
    fn stay(&self, rank: usize, size: usize) {
        let talk = &self.talk.0;
        let others: Vec<usize> = if rank == 0 { (1..size).collect() } else { vec![0] };
        let mut heard = vec![Instant::now(); size];
        let mut beat = Instant::now();
        while !self.ended.load(Ordering::Relaxed) {
            while rank == 0 && talk.any_process().immediate_probe_with_tag(CALL).is_some() {
                let (count, status) = talk.any_process().receive_with_tag::<u64>(CALL);
                talk.process_at_rank(status.source_rank()).send_with_tag(&self.take(count), REPLY);
            }
            while talk.any_process().immediate_probe_with_tag(LIFE).is_some() {
                let (_, status) = talk.any_process().receive_with_tag::<u8>(LIFE);
                if let Some(heard) = usize::try_from(status.source_rank()).ok().and_then(|from| heard.get_mut(from)) {
                    *heard = Instant::now();
                }
            }
            if beat.elapsed() >= BEAT {
                beat = Instant::now();
                others.iter().for_each(|other| talk.process_at_rank(*other as i32).send_with_tag(&0_u8, LIFE));
            }
            if let Some(lost) = others.iter().find(|other| heard[**other].elapsed() > LOST) {
                complain(&format!(
                    "error: rank {lost} has not been heard of by rank {rank} for {} seconds; run the same command again, and it goes on \
                     where it was",
                    LOST.as_secs()
                ));
                abort(1);
            }
            thread::sleep(LOOK);
        }
    }

    fn take(&self, count: u64) -> u64 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let next = counts.entry(count).or_default();
        *next += 1;
        *next - 1
    }
}

/// So many parts from 0 on, of these lengths.
fn displacements(lengths: &[i32]) -> Vec<i32> {
    let mut end = 0;
    let start = |length: &i32| {
        end += length;
        end - length
    };
    lengths.iter().map(start).collect()
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, mine: &[u8]) -> corpus::Result<Vec<Vec<u8>>> {
        let mut lengths = vec![0_u64; self.size];
        self.together.0.all_gather_into(&(mine.len() as u64), &mut lengths[..]);
        let longest = lengths.iter().copied().max().unwrap_or_default() as usize;
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|length| Vec::with_capacity(*length as usize)).collect();
        let most = (BYTES / self.size).clamp(1, 1 << 26);
        for start in (0..longest).step_by(most) {
            let part = |length: usize| length.min(start + most).saturating_sub(start.min(length));
            let counts: Vec<i32> = lengths.iter().map(|length| part(*length as usize) as i32).collect();
            let begin = start.min(mine.len());
            let mut bytes = vec![0_u8; counts.iter().map(|count| *count as usize).sum()];
            let mut parts = PartitionMut::new(&mut bytes[..], &counts[..], displacements(&counts));
            self.together.0.all_gather_varcount_into(&mine[begin..begin + part(mine.len())], &mut parts);
            let mut rest = &bytes[..];
            for (of, count) in all.iter_mut().zip(&counts) {
                let (own, behind) = rest.split_at(*count as usize);
                of.extend_from_slice(own);
                rest = behind;
            }
        }
        Ok(all)
    }

    /// Each rank sums a part of the numbers, as all give it, and all get all parts: every number crosses the network twice, whatever the
    /// number of ranks.
    fn sum(&self, numbers: &mut [f32]) -> corpus::Result<()> {
        let mut lengths = vec![0_u64; self.size];
        self.together.0.all_gather_into(&(numbers.len() as u64), &mut lengths[..]);
        if lengths.iter().any(|length| *length != numbers.len() as u64) {
            return Err(Error::Ranks { problem: format!("they sum different numbers of numbers: {lengths:?}") });
        }
        for numbers in numbers.chunks_mut(NUMBERS) {
            let n = numbers.len();
            let counts: Vec<i32> =
                (0..self.size).map(|rank| ((rank + 1) * n / self.size - rank * n / self.size) as i32).collect();
            let own = counts[self.rank] as usize;
            let mut parts = vec![0.0_f32; own * self.size];
            let own_counts = vec![own as i32; self.size];
            {
                let sent = Partition::new(&*numbers, &counts[..], displacements(&counts));
                let mut received = PartitionMut::new(&mut parts[..], &own_counts[..], displacements(&own_counts));
                self.together.0.all_to_all_varcount_into(&sent, &mut received);
            }
            let mut sum = vec![0.0_f32; own];
            for part in parts.chunks(own.max(1)) {
                sum.iter_mut().zip(part).for_each(|(sum, number)| *sum += number);
            }
            let mut all = PartitionMut::new(&mut *numbers, &counts[..], displacements(&counts));
            self.together.0.all_gather_varcount_into(&sum[..], &mut all);
        }
        Ok(())
    }

    fn next(&self, count: u64) -> corpus::Result<u64> {
        if self.rank == 0 {
            return Ok(self.aside.take(count));
        }
        let first = self.aside.talk.0.process_at_rank(0);
        first.send_with_tag(&count, CALL);
        Ok(first.receive_with_tag::<u64>(REPLY).0)
    }
}
