//! Long work that is done in units by several processes: each does some of them, and what came of all is put together in the same order
//! everywhere, so that it does not matter who did which.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use crate::durable;
use crate::error::{Error, Result};
use crate::ranks::Ranks;
use crate::watch::{Event, Watch};

/// What says of which run the units in a folder are.
const RUN: &str = "run.json";

/// The count of the teams that ranks have been.
const TEAMS: u64 = u64::MAX;

/// Who does the units of a work, and where those that are done are kept.
pub struct Team {
    who: Who,
    kept: Option<Kept>,
    /// Works so far: all processes come to the same ones in the same order.
    works: AtomicU64,
}

enum Who {
    /// Whoever is free takes the next unit; all have what came of it. These ranks were so many teams before.
    Ranks { ranks: Arc<dyn Ranks>, team: u64 },
    /// Every `of`th unit from `number` on, and no others: these are left to the other shards.
    Shard { number: usize, of: usize },
    /// This process: what nobody has done yet, or where there were so many shards nothing.
    One { shards: Option<usize> },
}

/// Units that are done, on disk.
struct Kept {
    folder: PathBuf,
}

/// A unit's file.
fn file_of(folder: &Path, work: u64, what: &str, unit: usize) -> PathBuf {
    folder.join(format!("{work}-{}", what.replace(' ', "-"))).join(unit.to_string())
}

impl Team {
    /// Ranks, which share what each has done. With a `folder`, units are kept there until all is done, so that a run that was killed goes on;
    /// `about` says of which run they are.
    ///
    /// # Errors
    /// [`Error::OtherUnits`] if the folder holds those of another run; if it cannot be written.
    pub fn of_ranks(ranks: Arc<dyn Ranks>, folder: Option<(&Path, &Value)>) -> Result<Team> {
        let kept = folder.map(|(folder, about)| Kept::open(folder, about, None)).transpose()?;
        // The same ranks may be a team again for another work: its units are counted anew.
        let counted = if ranks.rank() == 0 { ranks.next(TEAMS)? } else { 0 };
        let said = ranks.gather(&counted.to_le_bytes())?;
        let team = said.first().and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Ok(Team { who: Who::Ranks { ranks, team }, kept, works: AtomicU64::new(0) })
    }

    /// Shard `number`, from 0, of `of`, which keeps its units in `folder`.
    ///
    /// # Errors
    /// As [`of_ranks`](Team::of_ranks).
    pub fn of_shard(number: usize, of: usize, folder: &Path, about: &Value) -> Result<Team> {
        let kept = Kept::open(folder, about, Some(of))?;
        Ok(Team { who: Who::Shard { number, of }, kept: Some(kept), works: AtomicU64::new(0) })
    }

    /// Whether shards or ranks have left something in `folder`.
    pub fn has_kept(folder: &Path) -> bool {
        folder.join(RUN).is_file()
    }

    /// This process alone, which takes what shards or ranks have left in `folder`, where they [have](Team::has_kept).
    ///
    /// # Errors
    /// As [`of_ranks`](Team::of_ranks).
    pub fn of_kept(folder: &Path, about: &Value) -> Result<Team> {
        let run: Value = durable::read_json(&folder.join(RUN))?;
        let shards = run.get("shards").and_then(Value::as_u64).and_then(|of| usize::try_from(of).ok());
        let kept = Kept::open(folder, about, shards)?;
        Ok(Team { who: Who::One { shards }, kept: Some(kept), works: AtomicU64::new(0) })
    }

    /// The ranks, if it is of these.
    pub fn ranks(&self) -> Option<&Arc<dyn Ranks>> {
        match &self.who {
            Who::Ranks { ranks, .. } => Some(ranks),
            _ => None,
        }
    }

    /// Whether this is a shard, which leaves what it does to others.
    pub fn is_shard(&self) -> bool {
        matches!(self.who, Who::Shard { .. })
    }

    /// Whether this process is the one that writes what comes of it all.
    pub fn is_writer(&self) -> bool {
        match &self.who {
            Who::Ranks { ranks, .. } => ranks.rank() == 0,
            Who::Shard { .. } => false,
            Who::One { .. } => true,
        }
    }

    /// Does a work of so many units, and gives what came of each.
    fn share<E: From<Error>>(
        &self,
        what: &str,
        units: usize,
        watch: &Watch,
        mut work: impl FnMut(usize) -> Result<Vec<u8>, E>,
    ) -> Result<Vec<Vec<u8>>, E> {
        let number = self.works.fetch_add(1, Ordering::Relaxed);
        let mut done = |unit: usize| -> Result<Vec<u8>, E> {
            if watch.is_stopped() {
                return Err(Error::Stopped.into());
            }
            let Some(kept) = &self.kept else { return work(unit) };
            if let Some(bytes) = kept.read(number, what, unit) {
                return Ok(bytes);
            }
            let bytes = work(unit)?;
            kept.write(number, what, unit, &bytes)?;
            Ok(bytes)
        };
        let tell = |done: usize| watch.tell(Event::new(what.to_owned(), done as u64, "units").of(units as u64));
        match &self.who {
            Who::Ranks { ranks, team } => {
                let count = team << 32 | number;
                let mut own = Vec::new();
                loop {
                    let unit = usize::try_from(ranks.next(count)?).unwrap_or(usize::MAX);
                    if unit >= units {
                        break;
                    }
                    let bytes = done(unit)?;
                    own.extend((unit as u64).to_le_bytes());
                    own.extend((bytes.len() as u64).to_le_bytes());
                    own.extend(bytes);
                    tell(unit + 1);
                }
                let mut all = vec![None; units];
                for of_rank in ranks.gather(&own)? {
                    unpack(&of_rank, &mut all);
                }
                let lost = |unit: usize| Error::Ranks { problem: format!("nobody has done unit {unit} of {what}") };
                all.into_iter().enumerate().map(|(unit, bytes)| Ok(bytes.ok_or_else(|| lost(unit))?)).collect()
            }
            &Who::Shard { number: shard, of } => {
                for unit in (shard..units).step_by(of) {
                    done(unit)?;
                    tell(unit + 1);
                }
                self.all_kept(number, what, units, of).map_err(E::from)
            }
            Who::One { shards: Some(of) } => self.all_kept(number, what, units, *of).map_err(E::from),
            Who::One { shards: None } => (0..units)
                .map(|unit| {
                    let bytes = done(unit);
                    tell(unit + 1);
                    bytes
                })
                .collect(),
        }
    }

    /// What came of all units, if all shards have done theirs.
    fn all_kept(&self, work: u64, what: &str, units: usize, of: usize) -> Result<Vec<Vec<u8>>> {
        let Some(kept) = &self.kept else { return Ok(Vec::new()) };
        let read: Vec<Option<Vec<u8>>> = (0..units).map(|unit| kept.read(work, what, unit)).collect();
        let mut missing: Vec<usize> =
            (0..units).filter(|unit| read[*unit].is_none()).map(|unit| unit % of + 1).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(read.into_iter().flatten().collect());
        }
        let shards = missing.iter().map(|shard| format!("{shard}/{of}")).collect::<Vec<_>>().join(", ");
        Err(Error::Waits { what: what.into(), path: kept.folder.clone(), shards })
    }

    /// Removes the units that were kept: what they were for is written.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn finish(&self) -> Result<()> {
        match &self.kept {
            Some(kept) if self.is_writer() => durable::remove_folder(&kept.folder),
            _ => Ok(()),
        }
    }
}

/// The units that a rank has done, as it packed them.
fn unpack(mut bytes: &[u8], all: &mut [Option<Vec<u8>>]) {
    let number = |bytes: &mut &[u8]| {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        *bytes = rest;
        usize::try_from(u64::from_le_bytes(*head)).ok()
    };
    while let Some((unit, len)) = number(&mut bytes).zip(number(&mut bytes)) {
        let Some((own, rest)) = bytes.split_at_checked(len) else { return };
        if let Some(place) = all.get_mut(unit) {
            *place = Some(own.to_vec());
        }
        bytes = rest;
    }
}

impl Kept {
    fn open(folder: &Path, about: &Value, shards: Option<usize>) -> Result<Kept> {
        let run = serde_json::json!({ "about": about, "shards": shards });
        let path = folder.join(RUN);
        if path.is_file() {
            let there: Value = durable::read_json(&path)?;
            // As they are once they were written.
            let run: Value = serde_json::from_str(&run.to_string()).unwrap_or_default();
            if let Some(difference) = difference("", &there, &run) {
                return Err(Error::OtherUnits { path: folder.into(), difference });
            }
        } else if folder.exists() && !durable::is_begun(folder, RUN) {
            return Err(Error::OtherUnits { path: folder.into(), difference: format!("it has no {RUN}") });
        } else {
            fs::create_dir_all(folder).map_err(|error| Error::Write { path: folder.into(), error })?;
            durable::write_json(&path, &run)?;
        }
        Ok(Kept { folder: folder.into() })
    }

    /// What came of a unit, if it is done and whole.
    fn read(&self, work: u64, what: &str, unit: usize) -> Option<Vec<u8>> {
        let bytes = fs::read(file_of(&self.folder, work, what, unit)).ok()?;
        let (sum, bytes) = bytes.split_first_chunk::<4>()?;
        (u32::from_le_bytes(*sum) == crc32c::crc32c(bytes)).then(|| bytes.to_vec())
    }

    fn write(&self, work: u64, what: &str, unit: usize, bytes: &[u8]) -> Result<()> {
        let path = file_of(&self.folder, work, what, unit);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| Error::Write { path: folder.into(), error })?;
        }
        durable::write(&path, &[&crc32c::crc32c(bytes).to_le_bytes(), bytes].concat())
    }
}

/// The first place where two descriptions differ, in words.
pub fn difference(place: &str, there: &Value, wanted: &Value) -> Option<String> {
    let inside = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => there.keys().chain(wanted.keys()).find_map(|key| {
            let of = |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or_default();
            difference(&inside(key), &of(there), &of(wanted))
        }),
        (Value::Array(there), Value::Array(wanted)) if there.len() == wanted.len() => there
            .iter()
            .zip(wanted)
            .enumerate()
            .find_map(|(i, (there, wanted))| difference(&inside(&i.to_string()), there, wanted)),
        (there, wanted) => (there != wanted).then(|| format!("`{place}` was {there} and is {wanted}")),
    }
}

impl Watch {
    /// Does a work of so many units, each once, here or elsewhere, and gives what came of them in their order. `what` is its name.
    ///
    /// # Errors
    /// As `work`; [`Error::Waits`] if units are left to shards that have not done them; if one of the ranks is gone, what is kept cannot be
    /// written, or the watch says stop.
    pub fn share<E: From<Error>>(
        &self,
        what: &str,
        units: usize,
        mut work: impl FnMut(usize, &Watch) -> Result<Vec<u8>, E>,
    ) -> Result<Vec<Vec<u8>>, E> {
        let alone = self.alone();
        match self.team() {
            Some(team) => team.share(what, units, &alone, |unit| work(unit, &alone)),
            None => (0..units).map(|unit| work(unit, &alone)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use serde_json::json;

    use super::*;
    use crate::ranks::Threads;

    fn unit(unit: usize) -> Vec<u8> {
        vec![unit as u8; unit % 4]
    }

    fn all(team: Team) -> Result<Vec<Vec<u8>>> {
        Watch::nobody().with_team(Arc::new(team)).share("work", 11, |number, _| Ok::<_, Error>(unit(number)))
    }

    fn expected() -> Vec<Vec<u8>> {
        (0..11).map(unit).collect()
    }

    #[test]
    fn ranks_have_all_that_any_of_them_has_done() {
        thread::scope(|scope| {
            for ranks in Threads::new(3) {
                scope.spawn(move || {
                    let ranks: Arc<dyn Ranks> = Arc::new(ranks);
                    for _ in 0..3 {
                        let team = Team::of_ranks(ranks.clone(), None).unwrap();
                        let watch = Watch::nobody().with_team(Arc::new(team));
                        for _ in 0..5 {
                            let made = watch.share("work", 11, |number, _| Ok::<_, Error>(unit(number)));
                            assert_eq!(made.unwrap(), expected());
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn shards_leave_what_one_process_puts_together() {
        let disk = tempfile::tempdir().unwrap();
        let (folder, about) = (disk.path().join("units"), json!({ "of": 1.5 }));
        assert!(!Team::has_kept(&folder));
        let shard = |number| all(Team::of_shard(number, 3, &folder, &about).unwrap());
        for (number, waits) in [(2, "1/3, 2/3"), (0, "2/3")] {
            let error = shard(number).unwrap_err();
            assert!(matches!(&error, Error::Waits { shards, .. } if shards == waits), "{error}");
        }
        let error = all(Team::of_kept(&folder, &about).unwrap()).unwrap_err().to_string();
        assert!(error.contains("2/3") && !error.contains("1/3"), "{error}");
        let other = Team::of_shard(1, 3, &folder, &json!({ "of": 2 })).err().unwrap().to_string();
        assert!(other.contains("`about.of` was 1.5 and is 2"), "{other}");
        let other = Team::of_shard(1, 4, &folder, &about).err().unwrap().to_string();
        assert!(other.contains("`shards` was 3 and is 4"), "{other}");
        assert_eq!(shard(1).unwrap(), expected());
        let team = Team::of_kept(&folder, &about).unwrap();
        let watch = Watch::nobody().with_team(Arc::new(team));
        assert_eq!(watch.share("work", 11, |_, _| Err(Error::Stopped)).unwrap(), expected());
        watch.team().unwrap().finish().unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn a_unit_that_is_damaged_is_done_again() {
        let disk = tempfile::tempdir().unwrap();
        let (folder, about) = (disk.path().join("units"), json!("x"));
        all(Team::of_shard(0, 1, &folder, &about).unwrap()).unwrap();
        fs::write(file_of(&folder, 0, "work", 3), b"12345678").unwrap();
        let error = all(Team::of_kept(&folder, &about).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Waits { .. }), "{error}");
        assert_eq!(all(Team::of_shard(0, 1, &folder, &about).unwrap()).unwrap(), expected());
    }
}
