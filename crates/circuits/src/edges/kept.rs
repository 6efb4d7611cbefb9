//! Edges that are measured once for whole dictionaries, and kept beside their index.
//!
//! Of each two SAEs between which there is a way, and by each measure of weights, gradients and ablations, one file holds the strongest edges of
//! every direction both ways: in `INDEX/edges`, [`FIRST-SECOND.measure`](Kept), both numbered as in the index. A file is written whole after
//! each block of directions and says how many are done, so that a sweep that was killed goes on from there.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use directrix_corpus::durable::{Beside, Lock, Map, check_seal, read_sealed, seal, unsealed};
use directrix_corpus::{Event, Team, Watch};
use directrix_index::{Identity, Index};
use directrix_model::Model;
use directrix_sae::Sae;
use serde::{Deserialize, Serialize};

use super::causal::Sums;
use super::{Between, Edge, Gradient, Measure, Ranked, Sample, Weights, check_path};
use crate::shared::foreign;
use crate::{Error, Result};

/// Edges of a direction each way.
const MOST: usize = 24;
/// Directions whose edges are measured before a file is first written; more the next time where it took less than [`SHORT`], fewer where it took
/// more than [`LONG`]. What is killed loses as much.
const BLOCK: usize = 64;
const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(40);
/// Where a team shares a sweep it has no more units than this: of each, every direction at the other end may have its edges.
const UNITS: usize = 64;
/// Version of the file.
const FORMAT: u32 = 1;
/// Bytes of an edge: the other direction, the number of prompts (1 where the weights alone say its value), the value.
const ENTRY: usize = 16;
const ROW: usize = MOST * ENTRY;
/// No header is longer.
const LONGEST_HEADER: u64 = 1 << 20;

/// A way from or to a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the directions that influence it.
    Up,
    /// To those that it influences.
    Down,
}

/// What is said of the numbers of a file, and of what they were measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    format: u32,
    measure: String,
    /// Numbers of the SAEs in the index.
    saes: [usize; 2],
    directions: [usize; 2],
    /// Directions that are done: of the first SAE where they were ablated, of the second where there are gradients of them.
    done: usize,
    /// [`MOST`], and the [`Sample`].
    most: usize,
    prompts: usize,
    least: usize,
    index: Identity,
}

/// What is read of a header of any version.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// The header with the place of its checksum, which comes first.
#[derive(Serialize, Deserialize)]
struct Sealed<H> {
    crc32c: String,
    #[serde(flatten)]
    header: H,
}

/// An edge of a direction that is known.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    other: u32,
    n: u32,
    value: f64,
}

/// What is being measured: one file.
struct Sweep<'a> {
    between: Between<'a>,
    measure: Measure,
    /// What says the edges that the weights alone do.
    weights: Option<Weights>,
    header: Header,
    path: PathBuf,
}

/// Directions of all sweeps.
#[derive(Clone, Copy)]
struct Progress {
    done: usize,
    total: usize,
}

/// A sweep that is complete.
#[derive(Debug, Clone, Serialize)]
pub struct Swept {
    /// Short name of the first SAE.
    pub from: String,
    /// Short name of the second SAE.
    pub to: String,
    /// By what its edges are measured.
    pub measure: &'static str,
    /// Of its file.
    pub bytes: u64,
}

/// Measures the edges of all directions of `saes`, which are those of `index` in its order, and keeps them in its `folder`; what is kept
/// already stays. Measures that cannot be taken of two SAEs are left out. `watch` is told the directions that are done. Where it has a
/// team, whose members all call this, one of them writes, and is told what was swept.
///
/// # Errors
/// If another process writes the index, a file cannot be written, the model cannot be run, or `watch` says stop
/// ([`Error::StoppedAt`]): then the next call goes on. If others have not done their part.
pub fn keep(model: &Model, saes: &[Sae], index: &Index, folder: &Path, watch: &Watch) -> Result<Vec<Swept>> {
    let is_writer = watch.team().is_none_or(Team::is_writer);
    let lock = is_writer.then(|| Lock::take(folder)).transpose()?;
    lock.iter().try_for_each(|lock| lock.clean(&folder.join(FOLDER)))?;
    let mut sweeps = Vec::new();
    for (one, first) in saes.iter().enumerate() {
        for (other, second) in saes.iter().enumerate() {
            if one == other || check_path(model, first, second).is_err() {
                continue;
            }
            let parts = [index.sae(one), index.sae(other)];
            let between = Between::new(model, [first, second], index, parts)?;
            for measure in MEASURES {
                let header = Header::of(index, [one, other], measure);
                let path = place(folder, [one, other], measure);
                let mut sweep = Sweep { between, measure, weights: None, header, path };
                let state = sweep.begun();
                if is_of_weights(measure) && state.done < sweep.len() {
                    match Weights::new(model, [first, second], super::Path::Residual, measure) {
                        Ok(weights) => sweep.weights = Some(weights),
                        Err(_) => continue,
                    }
                } else if measure == Measure::Attribution && between.check_linear().is_err() {
                    continue;
                }
                sweeps.push((sweep, state));
            }
        }
    }
    if watch.team().is_some() {
        return together(sweeps, is_writer, watch);
    }
    let total: usize = sweeps.iter().map(|(sweep, _)| sweep.len()).sum();
    let mut done: usize = sweeps.iter().map(|(_, state)| state.done).sum();
    let mut swept = Vec::new();
    // What a sweep needs goes with it.
    for (sweep, mut state) in sweeps {
        let mut block = BLOCK;
        while state.done < sweep.len() {
            let (before, begun) = (state.done, Instant::now());
            sweep.go_on(&mut state, block, Progress { done, total }, watch)?;
            done += state.done - before;
            block = match begun.elapsed() {
                took if took < SHORT => 2 * block,
                took if took > LONG => (block / 2).max(1),
                _ => block,
            };
        }
        swept.push(sweep.swept()?);
    }
    Ok(swept)
}

/// Sweeps by a team. All of it shares what is left of each; none of them depends on another, so that who waits for others goes on with the next.
fn together(sweeps: Vec<(Sweep, State)>, is_writer: bool, watch: &Watch) -> Result<Vec<Swept>> {
    let (mut swept, mut waits) = (Vec::new(), None);
    for (sweep, mut state) in sweeps {
        match sweep.shared(&mut state, watch) {
            Ok(()) if is_writer => {
                sweep.write(&state)?;
                swept.push(sweep.swept()?);
            }
            Err(error @ Error::Corpus(directrix_corpus::Error::Waits { .. })) => drop(waits.get_or_insert(error)),
            shared => shared?,
        }
    }
    waits.map_or(Ok(swept), Err)
}

/// The measures that are kept.
const MEASURES: [Measure; 4] = [Measure::Cosine, Measure::VirtualWeight, Measure::Attribution, Measure::Causal];
/// Where they are, in the index.
const FOLDER: &str = "edges";

fn is_of_weights(measure: Measure) -> bool {
    matches!(measure, Measure::Cosine | Measure::VirtualWeight)
}

fn place(folder: &Path, [first, second]: [usize; 2], measure: Measure) -> PathBuf {
    folder.join(FOLDER).join(format!("{first}-{second}.{}", measure.name()))
}

impl Header {
    fn of(index: &Index, saes: [usize; 2], measure: Measure) -> Header {
        let Sample { prompts, least } = Sample::default();
        Header {
            format: FORMAT,
            measure: measure.name().into(),
            saes,
            directions: saes.map(|sae| index.sae(sae).directions()),
            done: 0,
            most: MOST,
            prompts,
            least,
            index: index.meta().identity.clone(),
        }
    }

    /// What is other than in `wanted`, but for how much is done.
    fn difference(&self, wanted: &Header) -> Option<String> {
        if self.format != wanted.format {
            return Some(format!("they have format {}, expected {}", self.format, wanted.format));
        }
        if let Some(difference) = self.index.difference(&wanted.index) {
            return Some(format!("they were measured on another index ({difference})"));
        }
        let same = Header { done: wanted.done, index: wanted.index.clone(), ..self.clone() } == *wanted;
        (!same).then(|| "they were measured otherwise".into())
    }
}

/// The strongest edges found so far of every direction: those of the first SAE down, then those of the second up.
struct State {
    done: usize,
    rows: Vec<Vec<Entry>>,
}

impl State {
    fn show(&mut self, row: usize, entry: Entry) {
        let order = |a: &Entry, b: &Entry| b.value.abs().total_cmp(&a.value.abs()).then(a.other.cmp(&b.other));
        let row = &mut self.rows[row];
        let at = row.partition_point(|known| order(known, &entry).is_lt());
        if at < MOST && entry.value.is_finite() {
            row.insert(at, entry);
            row.truncate(MOST);
        }
    }

    /// The edges found, as another process may [take](State::take) them: of each row that has some its number, how many, and those.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, row) in self.rows.iter().enumerate().filter(|(_, row)| !row.is_empty()) {
            bytes.extend((number as u32).to_le_bytes());
            bytes.extend((row.len() as u32).to_le_bytes());
            row.iter().for_each(|entry| entry.append(&mut bytes));
        }
        bytes
    }

    /// Adds what another process found; `None` if it cannot be that.
    fn take(&mut self, mut bytes: &[u8], header: &Header) -> Option<()> {
        while !bytes.is_empty() {
            let (number, rest) = bytes.split_first_chunk::<4>()?;
            let (count, rest) = rest.split_first_chunk::<4>()?;
            let [number, count] = [number, count].map(|bytes| u32::from_le_bytes(*bytes) as usize);
            let (row, rest) = rest.split_at_checked(count.checked_mul(ENTRY)?)?;
            self.rows.get(number)?;
            entries(row, header.others(number))?.into_iter().for_each(|entry| self.show(number, entry));
            bytes = rest;
        }
        Some(())
    }
}

impl Entry {
    fn append(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.other.to_le_bytes());
        bytes.extend(self.n.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
    }
}

impl Sweep<'_> {
    /// Directions that are gone through.
    fn len(&self) -> usize {
        self.header.directions[usize::from(self.measure == Measure::Attribution)]
    }

    /// What an earlier sweep has found; nothing where there was none, or of something else, or it is damaged.
    fn begun(&self) -> State {
        self.read().unwrap_or_else(|| self.nothing())
    }

    fn nothing(&self) -> State {
        State { done: 0, rows: vec![Vec::new(); self.header.directions.iter().sum()] }
    }

    fn read(&self) -> Option<State> {
        let bytes = read_sealed(&self.path).ok()?;
        let (header, numbers) = parse(&self.path, &bytes).ok()?;
        let rows = self.header.directions.iter().sum();
        if header.difference(&self.header).is_some() || header.done > self.len() || numbers.len() != rows * ROW {
            return None;
        }
        let rows = (0..rows).map(|row| entries(&numbers[row * ROW..(row + 1) * ROW], header.others(row)));
        Some(State { done: header.done, rows: rows.collect::<Option<_>>()? })
    }

    /// Measures the next `block` directions and writes the file.
    fn go_on(&self, state: &mut State, block: usize, progress: Progress, watch: &Watch) -> Result<()> {
        let Progress { done, total } = progress;
        let end = (state.done + block.min(self.most_together())).min(self.len());
        let directions: Vec<usize> = (state.done..end).collect();
        match self.measure(state, &directions, progress, watch) {
            Err(Error::Stopped) => return Err(Error::StoppedAt { done, total, unit: "directions" }),
            measured => measured?,
        }
        state.done = end;
        self.write(state)?;
        let done = done + directions.len();
        watch.tell(self.event(Progress { done, total }));
        if watch.is_stopped() && end < self.len() {
            return Err(Error::StoppedAt { done, total, unit: "directions" });
        }
        Ok(())
    }

    /// Measures all directions that are left, in units that the team of `watch` shares.
    fn shared(&self, state: &mut State, watch: &Watch) -> Result<()> {
        let (first, len) = (state.done, self.len());
        let block = (len - first).div_ceil(UNITS).max(BLOCK);
        let about = format!("edges {}", self.about());
        let made = watch.share(&about, (len - first).div_ceil(block), |unit, watch| {
            let (mut own, start) = (self.nothing(), first + unit * block);
            let directions: Vec<usize> = (start..len.min(start + block)).collect();
            for (number, some) in directions.chunks(self.most_together()).enumerate() {
                let done = start + number * self.most_together();
                self.measure(&mut own, some, Progress { done, total: len }, watch)?;
            }
            Ok::<_, Error>(own.to_bytes())
        })?;
        for bytes in made {
            state.take(&bytes, &self.header).ok_or_else(foreign)?;
        }
        state.done = len;
        Ok(())
    }

    /// How many directions can be measured together.
    fn most_together(&self) -> usize {
        Sums::block(self.header.directions[usize::from(self.measure != Measure::Attribution)])
    }

    fn about(&self) -> String {
        format!("{} {}", self.measure.name(), self.names().join(" to "))
    }

    fn event(&self, Progress { done, total }: Progress) -> Event {
        Event::new("edges", done as u64, "directions").of(total as u64).with_detail(self.about())
    }

    /// Measures the edges of these directions.
    fn measure(&self, state: &mut State, directions: &[usize], progress: Progress, watch: &Watch) -> Result<()> {
        let firsts = self.header.directions[0];
        let sample = Sample::default();
        // A block counts prompts: as many of each direction as there may be.
        let within = watch.through({
            let (begin, most) = (self.event(progress), directions.len());
            move |of| {
                let begun = usize::try_from(of.done).unwrap_or(most) / sample.prompts;
                Event { done: begin.done + begun.min(most) as u64, ..begin.clone() }
            }
        });
        let mut see = |ranked: Ranked| {
            let Edge { first, second } = ranked.edge;
            let (n, value) = (ranked.n.unwrap_or(1) as u32, ranked.value);
            state.show(first, Entry { other: second as u32, n, value });
            state.show(firsts + second, Entry { other: first as u32, n, value });
        };
        if let Some(weights) = &self.weights {
            for &first in directions {
                for (second, value) in weights.edges_from(first).into_iter().enumerate() {
                    let edge = Edge { first, second };
                    see(Ranked { edge, measure: self.measure, value, n: None, half_width: None });
                }
            }
            Ok(())
        } else if self.measure == Measure::Attribution {
            self.between.attribution_to(Gradient::Whole, directions, sample, &within, see)
        } else {
            self.between.causal_from(directions, sample, &within, see)
        }
    }

    fn write(&self, state: &State) -> Result<()> {
        let (_, zeros) = unsealed();
        let header = Header { done: state.done, ..self.header.clone() };
        let header = serde_json::to_string(&Sealed { crc32c: zeros.into(), header });
        let mut header = header.expect("plain data serialises");
        header.push_str(&" ".repeat((header.len() + 8).next_multiple_of(ENTRY) - header.len() - 8));
        let mut bytes = Vec::with_capacity(8 + header.len() + state.rows.len() * ROW);
        bytes.extend((header.len() as u64).to_le_bytes());
        bytes.extend(header.as_bytes());
        for row in &state.rows {
            row.iter().for_each(|entry| entry.append(&mut bytes));
            bytes.resize(bytes.len() + (MOST - row.len()) * ENTRY, 0);
        }
        let mut file = Beside::create(&self.path)?;
        file.write_at(0, &bytes)?;
        seal(&mut file)?;
        file.sync()?;
        Ok(file.commit()?)
    }

    fn names(&self) -> [&str; 2] {
        [self.between.first, self.between.second].map(Sae::short_name)
    }

    fn swept(&self) -> Result<Swept> {
        let [from, to] = self.names().map(String::from);
        let bytes = std::fs::metadata(&self.path).map_err(|error| unread(&self.path, error))?.len();
        Ok(Swept { from, to, measure: self.measure.name(), bytes })
    }
}

impl Header {
    /// How many directions there are at the other end of the edges of a row.
    fn others(&self, row: usize) -> usize {
        self.directions[usize::from(row < self.directions[0])]
    }
}

/// The header of a file, and its numbers.
fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<(Header, &'a [u8])> {
    let problem = || damaged(path, "it does not begin with what it holds");
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(problem)?;
    let length = u64::from_le_bytes(*length);
    if length > LONGEST_HEADER {
        return Err(problem());
    }
    let (header, numbers) = rest.split_at_checked(length as usize).ok_or_else(problem)?;
    let Sealed { header: Format { format }, .. } = serde_json::from_slice(header).map_err(|_| problem())?;
    if format != FORMAT {
        return Err(other(path, format!("they have format {format}, expected {FORMAT}")));
    }
    let Sealed { header, .. } = serde_json::from_slice::<Sealed<Header>>(header).map_err(|_| problem())?;
    Ok((header, numbers))
}

/// The edges of a row, up to the first without prompts; `None` if they cannot be.
fn entries(row: &[u8], others: usize) -> Option<Vec<Entry>> {
    let all = row.as_chunks::<ENTRY>().0.iter().map(|bytes| {
        let (other, rest) = bytes.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let (n, value) = rest.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let value = value.first_chunk::<8>().map_or(0.0, |value| f64::from_le_bytes(*value));
        Entry { other: u32::from_le_bytes(*other), n: u32::from_le_bytes(*n), value }
    });
    let found: Vec<Entry> = all.take_while(|entry| entry.n > 0).collect();
    let once = || found.iter().map(|entry| entry.other).collect::<BTreeSet<_>>().len() == found.len();
    let can_be = |entry: &Entry| (entry.other as usize) < others && entry.value.is_finite();
    (found.iter().all(can_be) && once()).then_some(found)
}

fn damaged(path: &Path, problem: &str) -> Error {
    directrix_corpus::Error::Damaged { path: path.into(), problem: problem.into() }.into()
}

fn other(path: &Path, problem: String) -> Error {
    Error::OtherEdges { path: path.into(), problem }
}

fn unread(path: &Path, error: std::io::Error) -> Error {
    directrix_corpus::Error::Io { path: path.display().to_string(), error }.into()
}

/// The strongest edges of every direction between two SAEs by one measure, as [`keep`] left them: memory-mapped.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    map: Map,
    header: Header,
    /// Where the numbers begin.
    start: usize,
}

impl Kept {
    /// Opens the edges that are kept in the `folder` of an index, between its SAEs of these numbers; `None` if there are none, or their
    /// sweep is not complete.
    ///
    /// # Errors
    /// [`Error::OtherEdges`] if they were measured on something else; if the file is damaged or cannot be read.
    pub fn open(folder: &Path, index: &Index, saes: [usize; 2], measure: Measure) -> Result<Option<Kept>> {
        let path = place(folder, saes, measure);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| unread(&path, error))?,
        };
        if file.metadata().map_err(|error| unread(&path, error))?.len() == 0 {
            return Err(damaged(&path, "it is empty"));
        }
        let map = Map::of(&file, &path).map_err(|error| unread(&path, error))?;
        let (header, numbers) = parse(&path, &map)?;
        let wanted = Header::of(index, saes, measure);
        if let Some(problem) = header.difference(&wanted) {
            return Err(other(&path, problem));
        }
        if numbers.len() != header.directions.iter().sum::<usize>() * ROW {
            return Err(damaged(&path, "it has not as many edges as it says"));
        }
        if header.done < header.directions[usize::from(measure == Measure::Attribution)] {
            return Ok(None);
        }
        check_seal(&path, &map)?;
        let start = map.len() - numbers.len();
        Ok(Some(Kept { path, map, header, start }))
    }

    /// The strongest edges of a direction, strongest first: of the first SAE those down, of the second those up. Of each the direction at
    /// its other end, its value, and the prompts that this is a mean over, where it is of prompts.
    ///
    /// # Errors
    /// If the file is damaged.
    ///
    /// # Panics
    /// If there is no such direction.
    pub fn edges(&self, way: Way, direction: usize) -> Result<Vec<(usize, f64, Option<usize>)>> {
        let row = if way == Way::Down { direction } else { self.header.directions[0] + direction };
        assert!(direction < self.header.directions[usize::from(way == Way::Up)], "there is no direction {direction}");
        let start = self.start + row * ROW;
        let found = entries(&self.map[start..start + ROW], self.header.others(row));
        let found = found.ok_or_else(|| damaged(&self.path, "it holds edges that cannot be"))?;
        let is_mean = MEASURES.iter().any(|measure| measure.name() == self.header.measure && !is_of_weights(*measure));
        let edge = |Entry { other, n, value }| (other as usize, value, is_mean.then_some(n as usize));
        Ok(found.into_iter().map(edge).collect())
    }
}
