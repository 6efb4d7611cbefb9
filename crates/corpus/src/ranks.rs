//! Processes that work at one thing together.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, excerpt};

/// What a process has of the others that run the same command on the same inputs, as MPI numbers them.
///
/// All ranks make the same calls of [`gather`](Ranks::gather) and [`sum`](Ranks::sum) in the same order; each waits there
/// for the others. When one of them ends without, that is an error on all.
pub trait Ranks: Send + Sync {
    /// The number of this one, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// What each of them gives, in the order of ranks.
    ///
    /// # Errors
    /// [`Error::Ranks`] if one of them is gone.
    fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// The sum of all ranks' numbers, element by element, in the order of ranks: the same bits on each and on every run.
    ///
    /// # Errors
    /// [`Error::Ranks`] if one of them is gone, or has as many numbers not.
    fn sum(&self, numbers: &mut [f32]) -> Result<()>;

    /// The next number of a count, from 0, which all ranks share and nobody else is given: units of work are taken by it.
    ///
    /// # Errors
    /// [`Error::Ranks`] if the one that counts is gone.
    fn next(&self, count: u64) -> Result<u64>;
}

/// That all ranks have the same of what is named: what they were given, the version of the program, the bits of a small
/// computation. What is said of each is shown where it differs; what is long is told better by its checksum.
///
/// # Errors
/// [`Error::Unequal`] on every rank, with the first name that is not the same everywhere and the ranks that differ from rank 0;
/// [`Error::Ranks`] if one of them is gone.
pub fn agree(ranks: &dyn Ranks, what: &[(&str, String)]) -> Result<()> {
    let mine = serde_json::to_vec(what).map_err(|e| Error::Ranks { problem: e.to_string() })?;
    let said: Vec<Vec<(String, String)>> = ranks
        .gather(&mine)?
        .iter()
        .enumerate()
        .map(|(rank, said)| {
            let problem = |e| Error::Ranks { problem: format!("rank {rank} does not say what it was given ({e})") };
            serde_json::from_slice(said).map_err(problem)
        })
        .collect::<Result<_>>()?;
    let of = |rank: usize, name: &str| said[rank].iter().find(|(named, _)| named == name).map(|(_, of)| of.as_str());
    let shown = |of: Option<&str>| of.map_or("nothing".into(), excerpt);
    for (name, _) in said.iter().flatten() {
        let first = of(0, name);
        let others: Vec<String> = (1..said.len())
            .filter(|rank| of(*rank, name) != first)
            .map(|rank| format!("rank {rank}: {}", shown(of(rank, name))))
            .collect();
        if !others.is_empty() {
            let ranks = format!("rank 0: {}; {}", shown(first), others.join("; "));
            return Err(Error::Unequal { name: name.clone(), ranks });
        }
    }
    Ok(())
}

/// Adds the numbers of each rank, in their order, into `sum`.
///
/// # Errors
/// [`Error::Ranks`] if they are not as many everywhere.
fn sum_in_order(sum: &mut [f32], parts: &[Vec<u8>]) -> Result<()> {
    sum.fill(0.0);
    for (rank, part) in parts.iter().enumerate() {
        if part.len() != size_of_val(sum) {
            let problem = format!("rank {rank} has {} bytes where {} are expected", part.len(), size_of_val(sum));
            return Err(Error::Ranks { problem });
        }
        for (sum, bytes) in sum.iter_mut().zip(part.chunks_exact(size_of::<f32>())) {
            *sum += bytes.try_into().map_or(f32::NAN, f32::from_le_bytes);
        }
    }
    Ok(())
}

/// Ranks whose exchanges are measured, for whoever wants to tell what share of some work they are. Before each, all come together
/// once more, so that waiting for a rank that is not so far yet is not taken for exchanging.
pub struct Measured<'a> {
    ranks: &'a dyn Ranks,
    found: Mutex<Exchanges>,
}

/// What a rank exchanged with others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exchanges {
    /// Bytes that it was given. Numbers that are summed pass twice, once to be added and once to be handed back, a rank's own
    /// share neither time.
    pub bytes: u64,
    /// Time that the exchanges took.
    pub exchanging: Duration,
    /// Time until all others were there, before them.
    pub waiting: Duration,
}

impl<'a> Measured<'a> {
    /// Nothing measured yet.
    pub fn new(ranks: &'a dyn Ranks) -> Measured<'a> {
        Measured { ranks, found: Mutex::default() }
    }

    /// What was exchanged since this was asked last.
    pub fn take(&self) -> Exchanges {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn measured<T>(&self, exchange: impl FnOnce() -> Result<T>, bytes: impl FnOnce(&T) -> usize) -> Result<T> {
        let begun = Instant::now();
        self.ranks.gather(&[])?;
        let there = Instant::now();
        let made = exchange()?;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.bytes += bytes(&made) as u64;
        found.waiting += there.duration_since(begun);
        found.exchanging += there.elapsed();
        Ok(made)
    }
}

impl Ranks for Measured<'_> {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let given = |all: &Vec<Vec<u8>>| all.iter().map(Vec::len).sum::<usize>().saturating_sub(mine.len());
        self.measured(|| self.ranks.gather(mine), given)
    }

    fn sum(&self, numbers: &mut [f32]) -> Result<()> {
        let others = 2 * size_of_val(numbers) * (self.size() - 1) / self.size();
        self.measured(|| self.ranks.sum(numbers), |()| others)
    }

    fn next(&self, count: u64) -> Result<u64> {
        self.ranks.next(count)
    }
}

/// Ranks that are threads of this process.
pub struct Threads {
    rank: usize,
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

/// What threads exchange.
struct Shared {
    /// What each has given to the exchange that goes on.
    given: Vec<Option<Vec<u8>>>,
    /// What was given to the one before, and who has not fetched it yet.
    done: Arc<Vec<Vec<u8>>>,
    waiting: usize,
    counts: BTreeMap<u64, u64>,
    /// A rank that has ended.
    gone: Option<usize>,
}

impl Threads {
    /// So many ranks, one for each thread.
    pub fn new(size: usize) -> Vec<Threads> {
        let shared =
            Shared { given: vec![None; size], done: Arc::default(), waiting: 0, counts: BTreeMap::new(), gone: None };
        let shared = Arc::new((Mutex::new(shared), Condvar::new()));
        (0..size).map(|rank| Threads { rank, shared: shared.clone() }).collect()
    }

    fn locked(&self) -> MutexGuard<'_, Shared> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`, or somebody is gone.
    fn wait<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        ready: impl Fn(&Shared) -> bool,
    ) -> Result<MutexGuard<'a, Shared>> {
        while !ready(&shared) {
            if let Some(rank) = shared.gone {
                return Err(Error::Ranks { problem: format!("rank {rank} has ended") });
            }
            shared = self.shared.1.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(shared)
    }
}

impl Ranks for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.locked().given.len()
    }

    fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut shared = self.wait(self.locked(), |shared| shared.waiting == 0)?;
        shared.given[self.rank] = Some(mine.to_vec());
        if shared.given.iter().all(Option::is_some) {
            shared.done = Arc::new(shared.given.iter_mut().filter_map(Option::take).collect());
            shared.waiting = shared.given.len();
            self.shared.1.notify_all();
        }
        let mut shared = self.wait(shared, |shared| shared.waiting > 0)?;
        let all = shared.done.clone();
        shared.waiting -= 1;
        if shared.waiting == 0 {
            self.shared.1.notify_all();
        }
        drop(shared);
        Ok(all.to_vec())
    }

    fn sum(&self, numbers: &mut [f32]) -> Result<()> {
        let mine: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        sum_in_order(numbers, &self.gather(&mine)?)
    }

    fn next(&self, count: u64) -> Result<u64> {
        let mut shared = self.locked();
        let next = shared.counts.entry(count).or_default();
        *next += 1;
        Ok(*next - 1)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.locked().gone.get_or_insert(self.rank);
        self.shared.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_gather_in_the_order_of_ranks_again_and_again() {
        thread::scope(|scope| {
            for ranks in Threads::new(4) {
                scope.spawn(move || {
                    for round in 0..100_u8 {
                        let mine = vec![ranks.rank() as u8; round as usize % 3];
                        let all = ranks.gather(&mine).unwrap();
                        assert_eq!(all, (0..4).map(|rank| vec![rank; round as usize % 3]).collect::<Vec<_>>());
                        let mut numbers = [f32::from(ranks.rank() as u8), 1.0];
                        ranks.sum(&mut numbers).unwrap();
                        assert_eq!(numbers, [6.0, 4.0]);
                    }
                });
            }
        });
    }

    #[test]
    fn what_others_gave_is_measured() {
        thread::scope(|scope| {
            for ranks in Threads::new(3) {
                scope.spawn(move || {
                    let measured = Measured::new(&ranks);
                    measured.gather(&vec![0; 10 * ranks.rank()]).unwrap();
                    assert_eq!(measured.take().bytes, 30 - 10 * ranks.rank() as u64);
                    measured.sum(&mut [0.0; 6]).unwrap();
                    let Exchanges { bytes, exchanging, waiting } = measured.take();
                    assert!(bytes == 2 * 16 && exchanging > Duration::ZERO && waiting > Duration::ZERO);
                    assert_eq!(measured.take(), Exchanges::default());
                    // Who is late is waited for, which is no exchange.
                    let late = Duration::from_millis(if ranks.rank() == 1 { 200 } else { 0 });
                    thread::sleep(late);
                    measured.gather(&[1]).unwrap();
                    let Exchanges { exchanging, waiting, .. } = measured.take();
                    assert!(exchanging < Duration::from_millis(100));
                    assert!((waiting >= Duration::from_millis(100)) == (ranks.rank() != 1), "{waiting:?}");
                });
            }
        });
    }

    #[test]
    fn each_number_of_a_count_is_given_once() {
        let mut given: Vec<u64> = thread::scope(|scope| {
            let all: Vec<_> = Threads::new(3)
                .into_iter()
                .map(|ranks| scope.spawn(move || (0..50).map(|_| ranks.next(7).unwrap()).collect::<Vec<_>>()))
                .collect();
            all.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        given.sort_unstable();
        assert_eq!(given, (0..150).collect::<Vec<_>>());
    }

    #[test]
    fn what_differs_is_refused_everywhere_with_its_name_and_the_ranks() {
        let said = |differs: &'static [usize], missing: &'static [usize]| -> Vec<Result<()>> {
            thread::scope(|scope| {
                let all: Vec<_> = Threads::new(4)
                    .into_iter()
                    .map(|ranks| {
                        scope.spawn(move || {
                            let options = format!("batch {}", if differs.contains(&ranks.rank()) { 8 } else { 4 });
                            let mut said = vec![("version", "1".into()), ("the options", options)];
                            said.extend(missing.contains(&ranks.rank()).then(|| ("k", "4".into())));
                            agree(&ranks, &said)
                        })
                    })
                    .collect();
                all.into_iter().map(|thread| thread.join().unwrap()).collect()
            })
        };
        assert!(said(&[], &[]).iter().all(Result::is_ok));
        for result in said(&[1, 3], &[]) {
            let message = result.unwrap_err().to_string();
            let expected = "the options: not the same on all ranks (rank 0: batch 4; rank 1: batch 8; rank 3: batch 8)";
            assert!(message.starts_with(expected), "{message}");
        }
        let message = said(&[], &[2]).remove(1).unwrap_err().to_string();
        assert!(message.starts_with("k: not the same on all ranks (rank 0: nothing; rank 2: 4)"), "{message}");
    }

    #[test]
    fn who_waits_for_a_rank_that_has_ended_is_told() {
        let mut ranks = Threads::new(2);
        drop(ranks.remove(1));
        let error = ranks[0].gather(b"x").unwrap_err().to_string();
        assert!(error.contains("rank 1"), "{error}");
    }
}
