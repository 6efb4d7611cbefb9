//! The pass: corpus to sparse activations on disk, run by run.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use directrix_corpus::durable::{
    self, Lock, beside, finish_replacing, is_begun, place_of, remove_folder, replace_folder, tidy,
};
use directrix_corpus::{Chunk, Event, Prompts, Watch};
use directrix_kernels::SparseActivations;
use directrix_model::{Ask, HookPoint, Model, batches};
use directrix_sae::Sae;
use serde::{Deserialize, Serialize};

use crate::index::{Meta, Prompts as IndexedPrompts};
use crate::layout::{self, CHECKSUMS, Contents, FORMAT, Files, Finished, INDEX, SaeMeta, ShardMeta, Written, of_shard};
use crate::piece::{Piece, same_documents};
use crate::shard::{Shard, is_run, remove_runs};
use crate::{Error, Identity, Index, Result, sort};

/// Positions between two checkpoints.
pub(crate) const RUN: usize = 32_768;
/// Positions in one model pass.
const BATCH: usize = 2048;
/// A shard's positions are numbered with 32 bits.
pub(crate) const SHARD: u64 = u32::MAX as u64;
/// The file that says what an unfinished pass has done.
const CHECKPOINT: &str = "checkpoint.json";

/// Indexes the prompts of `chunks` in `folder`.
///
/// The work is done in `folder` with `.partial` appended, which is renamed when complete. An interrupted pass over the same
/// inputs goes on from its last checkpoint; a finished one is opened as it is. `watch` is told the prompts and the positions
/// that are done.
///
/// # Errors
/// If `folder` holds something else or another process writes it, an input is bad, a file cannot be written, or `watch` says
/// stop ([`Error::Stopped`]).
pub fn build(
    model: &Model,
    saes: &[Sae],
    chunks: impl Iterator<Item = directrix_corpus::Result<Chunk>>,
    identity: &Identity,
    folder: &Path,
    watch: &Watch,
) -> Result<Index> {
    let saes_meta = saes.iter().map(SaeMeta::of).collect::<Vec<_>>();
    let build = Build::new(&saes_meta, model.config().d_vocab, identity, folder, watch);
    build.run(chunks, with_model(model, saes, watch))
}

/// As [`build`], of some documents of the corpus alone, whose prompts `chunks` are: what [`merge`](crate::merge()) makes a whole index of,
/// with the others.
///
/// # Errors
/// As [`build`].
#[expect(clippy::too_many_arguments, reason = "those of `build`, and which documents")]
pub fn build_piece(
    model: &Model,
    saes: &[Sae],
    chunks: impl Iterator<Item = directrix_corpus::Result<Chunk>>,
    identity: &Identity,
    documents: Range<usize>,
    of: usize,
    folder: &Path,
    watch: &Watch,
) -> Result<Index> {
    let saes_meta = saes.iter().map(SaeMeta::of).collect::<Vec<_>>();
    let pieces = [Piece { documents, of, prompts: 0, cut: 0 }];
    let build = Build { pieces: &pieces, ..Build::new(&saes_meta, model.config().d_vocab, identity, folder, watch) };
    // Some documents may have no prompt where the corpus has some.
    let chunks = chunks.filter(|chunk| !matches!(chunk, Err(directrix_corpus::Error::Empty { .. })));
    build.run(chunks, with_model(model, saes, watch))
}

/// As [`build`], but an index of other inputs, of another format or damaged gives way: when the new one is complete, not before.
///
/// # Errors
/// As [`build`].
pub fn rebuild(
    model: &Model,
    saes: &[Sae],
    chunks: impl Iterator<Item = directrix_corpus::Result<Chunk>>,
    identity: &Identity,
    folder: &Path,
    watch: &Watch,
) -> Result<Index> {
    let saes_meta = saes.iter().map(SaeMeta::of).collect::<Vec<_>>();
    let build = Build { replace: true, ..Build::new(&saes_meta, model.config().d_vocab, identity, folder, watch) };
    build.run(chunks, with_model(model, saes, watch))
}

/// The index of all documents of a corpus, if it is complete in `folder`; before anything is made that would have no place there.
///
/// # Errors
/// As [`build`], or with `replace` as [`rebuild`], if something else is there.
pub fn complete(folder: &Path, identity: &Identity, replace: bool) -> Result<Option<Index>> {
    Build { replace, ..Build::new(&[], 0, identity, folder, &Watch::nobody()) }.finished()
}

/// What is indexed, and where.
#[derive(Clone, Copy)]
pub(crate) struct Build<'a> {
    pub(crate) saes: &'a [SaeMeta],
    pub(crate) vocabulary: usize,
    pub(crate) identity: &'a Identity,
    /// Which documents, in their order; none where it is all of them.
    pub(crate) pieces: &'a [Piece],
    pub(crate) folder: &'a Path,
    pub(crate) watch: &'a Watch,
    /// Whether another index gives way.
    pub(crate) replace: bool,
    /// The most positions of a shard.
    pub(crate) shard: u64,
}

/// How many prompts and positions are in an index already.
#[derive(Clone, Copy)]
pub(crate) struct So {
    pub(crate) prompts: usize,
    pub(crate) positions: u64,
}

/// What makes the activations of each SAE on the prompts that follow those that are done.
fn with_model<'a>(
    model: &'a Model,
    saes: &'a [Sae],
    watch: &'a Watch,
) -> impl FnMut(So, &Prompts) -> Result<Vec<SparseActivations>> + use<'a> {
    let hooks: Vec<HookPoint> = saes.iter().map(|sae| sae.site().reads.hook).collect();
    let ask = Ask::capture(hooks.iter().copied().collect::<std::collections::BTreeSet<_>>()).watched(watch);
    move |done, prompts| {
        let mut acts = vec![SparseActivations::default(); saes.len()];
        let mut positions = done.positions;
        for batch in batches(prompts, BATCH) {
            if watch.is_stopped() {
                return Err(Error::Stopped { prompts: done.prompts });
            }
            let end = batch.end;
            let part = prompts.range(batch);
            let run = match model.run(&part, &ask, &[]) {
                Err(directrix_model::Error::Stopped) => return Err(Error::Stopped { prompts: done.prompts }),
                run => run?,
            };
            for ((sae, hook), acts) in saes.iter().zip(&hooks).zip(&mut acts) {
                acts.extend(&sae.encode(run.captured(*hook))?);
            }
            positions += part.positions() as u64;
            let detail = format!("{positions} positions");
            watch.tell(Event::new("index", (done.prompts + end) as u64, "prompts").with_detail(detail));
        }
        Ok(acts)
    }
}

/// The last consistent state of an unfinished pass.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    format: u32,
    identity: Identity,
    #[serde(default)]
    pieces: Vec<Piece>,
    shards: Vec<Done>,
    files: Vec<Written>,
}

/// What is done of a shard.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Done {
    runs: u64,
    meta: ShardMeta,
}

impl Checkpoint {
    fn read(folder: &Path) -> Option<Checkpoint> {
        durable::read_json(&folder.join(CHECKPOINT)).ok()
    }

    fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(|error| Error::write(folder, error))?;
        Ok(durable::write_json(&folder.join(CHECKPOINT), self)?)
    }

    /// Whether there is something to go on from.
    fn has_runs(&self) -> bool {
        !self.shards.is_empty()
    }
}

impl<'a> Build<'a> {
    pub(crate) fn new(
        saes: &'a [SaeMeta],
        vocabulary: usize,
        identity: &'a Identity,
        folder: &'a Path,
        watch: &'a Watch,
    ) -> Build<'a> {
        Build { saes, vocabulary, identity, pieces: &[], folder, watch, replace: false, shard: SHARD }
    }

    /// Makes the index of the prompts of `chunks`; `encode` gives the activations of each SAE on some of them.
    pub(crate) fn run<E>(
        &self,
        chunks: impl Iterator<Item = Result<Chunk, E>>,
        encode: impl FnMut(So, &Prompts) -> Result<Vec<SparseActivations>>,
    ) -> Result<Index>
    where
        Error: From<E>,
    {
        if let Some(index) = self.finished()? {
            tidy(self.folder);
            return Ok(index);
        }
        let (place, partial) = (place_of(self.folder)?, beside(self.folder, ".partial")?);
        let lock = Lock::take(&place)?;
        finish_replacing(is_whole(&partial).then_some(&partial), &place)?;
        // Another process may have built it just now.
        if let Some(index) = self.finished()? {
            return Ok(index);
        }
        if !self.is_made(&partial) {
            let foreign = partial.exists() && !is_ours(&partial) && !is_begun(&partial, CHECKPOINT);
            if !foreign {
                lock.clean(&partial)?;
            }
            let made = self.make(&partial, chunks, encode);
            // A bad input leaves nothing behind where there is nothing to go on from.
            if made.is_err()
                && !foreign
                && partial.is_dir()
                && !Checkpoint::read(&partial).is_some_and(|c| c.has_runs())
            {
                remove_folder(&partial)?;
            }
            made?;
        }
        remove_runs(&partial)?;
        replace_folder(&partial, &place)?;
        Index::open(self.folder)
    }

    /// The index, if it is there; an error if something else is that does not give way.
    fn finished(&self) -> Result<Option<Index>> {
        let there = self.folder.join(INDEX).is_file();
        if !there && is_free(self.folder) {
            return Ok(None);
        }
        match Index::open(self.folder) {
            Ok(index) => match self.difference(&index.meta().identity, &index.meta().pieces) {
                None => Ok(Some(index)),
                Some(_) if self.replace => Ok(None),
                Some(difference) => Err(Error::Other { path: self.folder.into(), difference }),
            },
            Err(_) if self.replace && is_index_of_sorts(self.folder) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// In what an index of some pieces differs from the one that is made.
    fn difference(&self, identity: &Identity, pieces: &[Piece]) -> Option<String> {
        let other = || (!same_documents(pieces, self.pieces)).then(|| "other documents of the corpus".into());
        identity.difference(self.identity).or_else(other)
    }

    /// Whether `partial` is the index, all but its name.
    fn is_made(&self, partial: &Path) -> bool {
        let same = |index: Index| self.difference(&index.meta().identity, &index.meta().pieces).is_none();
        is_whole(partial) && Index::open(partial).is_ok_and(same)
    }

    /// Makes the index in `partial`.
    fn make<E>(
        &self,
        partial: &Path,
        chunks: impl Iterator<Item = Result<Chunk, E>>,
        mut encode: impl FnMut(So, &Prompts) -> Result<Vec<SparseActivations>>,
    ) -> Result<()>
    where
        Error: From<E>,
    {
        let mut pass = Pass::open(*self, partial)?;
        let mut held = Prompts::new();
        let (mut skip, mut all_cut) = (pass.prompts(), 0);
        for chunk in chunks {
            let Chunk { prompts, cut } = chunk?;
            let already = skip.min(prompts.len());
            skip -= already;
            all_cut += cut;
            for prompt in prompts.iter().skip(already) {
                held.push(prompt);
                if held.positions() >= RUN {
                    pass.run(&std::mem::take(&mut held), &mut encode)?;
                }
            }
        }
        if !held.is_empty() {
            pass.run(&held, &mut encode)?;
        }
        pass.end(all_cut)
    }
}

/// Whether a folder holds an index to which only its name is missing.
fn is_whole(folder: &Path) -> bool {
    folder.join(INDEX).is_file() && !folder.join(CHECKPOINT).exists()
}

/// Whether a folder holds a pass or what it made.
fn is_ours(folder: &Path) -> bool {
    is_index_of_sorts(folder) || folder.join(CHECKPOINT).exists()
}

/// Whether a folder holds an index, be it damaged or of another format: other programs have an `index.json` too.
fn is_index_of_sorts(folder: &Path) -> bool {
    folder.join(INDEX).is_file() && (folder.join(CHECKSUMS).is_file() || folder.join(of_shard(0, "")).is_dir())
}

/// Whether there is nothing, or a folder with nothing in it.
fn is_free(folder: &Path) -> bool {
    !folder.exists() || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// A pass that goes on.
struct Pass<'a> {
    build: Build<'a>,
    folder: PathBuf,
    /// Shards that are full.
    full: Vec<Done>,
    /// Their files.
    files: Vec<Finished>,
    shard: Shard,
    /// Runs of the shard.
    runs: u64,
}

impl<'a> Pass<'a> {
    /// Goes on from the checkpoint in `folder` when it is of the same inputs and nothing is damaged; else begins anew.
    fn open(build: Build<'a>, folder: &Path) -> Result<Pass<'a>> {
        let same = |earlier: &Checkpoint| {
            earlier.format == FORMAT
                && build.difference(&earlier.identity, &earlier.pieces).is_none()
                && earlier.shards.iter().all(|shard| shard.meta.active.len() == build.saes.len())
        };
        if let Some(checkpoint) = Checkpoint::read(folder).filter(Checkpoint::has_runs) {
            if same(&checkpoint) {
                match Pass::resume(build, folder, checkpoint) {
                    Err(Error::Damaged { .. }) => {}
                    resumed => return resumed,
                }
            } else if let Some(difference) =
                build.difference(&checkpoint.identity, &checkpoint.pieces).filter(|_| !build.replace)
            {
                return Err(Error::Other { path: folder.into(), difference });
            }
        }
        if !is_ours(folder) && !is_free(folder) {
            return Err(Error::Occupied { path: folder.into() });
        }
        remove_folder(folder)?;
        // What is made from here on is known to be ours, whenever the process is killed.
        let (identity, pieces) = (build.identity.clone(), build.pieces.to_vec());
        Checkpoint { format: FORMAT, identity, pieces, shards: Vec::new(), files: Vec::new() }.write(folder)?;
        let shard = Shard::create(folder, 0, build.saes.len())?;
        Ok(Pass { build, folder: folder.into(), full: Vec::new(), files: Vec::new(), shard, runs: 0 })
    }

    fn resume(build: Build<'a>, folder: &Path, checkpoint: Checkpoint) -> Result<Pass<'a>> {
        let Checkpoint { mut shards, files: written, .. } = checkpoint;
        let Done { runs, meta } = shards.pop().unwrap_or_default();
        let mut files = Vec::new();
        for (number, shard) in shards.iter().enumerate() {
            files.extend(Shard::resume(folder, number, shard.meta.clone(), &written)?.finish()?);
        }
        let shard = Shard::resume(folder, shards.len(), meta, &written)?;
        Ok(Pass { build, folder: folder.into(), full: shards, files, shard, runs })
    }

    /// Prompts that are done.
    fn prompts(&self) -> usize {
        self.full.iter().map(|shard| shard.meta.prompts).sum::<usize>() + self.shard.meta().prompts
    }

    /// Positions that are done.
    fn positions(&self) -> u64 {
        self.full.iter().map(|shard| shard.meta.positions).sum::<u64>() + self.shard.meta().positions
    }

    /// Appends the next prompts and makes a checkpoint.
    fn run(
        &mut self,
        prompts: &Prompts,
        encode: &mut impl FnMut(So, &Prompts) -> Result<Vec<SparseActivations>>,
    ) -> Result<()> {
        let acts = encode(So { prompts: self.prompts(), positions: self.positions() }, prompts)?;
        if self.runs > 0 && self.shard.meta().positions + prompts.positions() as u64 > self.build.shard {
            self.next_shard()?;
        }
        let directions: Vec<usize> = self.build.saes.iter().map(|sae| sae.directions).collect();
        self.shard.append(prompts, &acts, &directions)?;
        self.runs += 1;
        self.checkpoint()
    }

    /// Ends the shard and begins another.
    fn next_shard(&mut self) -> Result<()> {
        let next = Shard::create(&self.folder, self.full.len() + 1, self.build.saes.len())?;
        self.full.push(Done { runs: std::mem::take(&mut self.runs), meta: self.shard.meta().clone() });
        self.files.extend(std::mem::replace(&mut self.shard, next).finish()?);
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<()> {
        let mut files: Vec<Written> = self.files.iter().map(|file| file.written.clone()).collect();
        files.extend(self.shard.flush()?);
        let last = Done { runs: self.runs, meta: self.shard.meta().clone() };
        let shards = self.full.iter().cloned().chain([last]).collect();
        let (identity, pieces) = (self.build.identity.clone(), self.build.pieces.to_vec());
        Checkpoint { format: FORMAT, identity, pieces, shards, files }.write(&self.folder)
    }

    /// Sorts by direction and writes what makes it an index; the checkpoint goes last.
    fn end(mut self, cut: usize) -> Result<()> {
        let (prompts, positions) = (self.prompts(), self.positions());
        let Build { saes, vocabulary, identity, watch, .. } = self.build;
        self.full.push(Done { runs: self.runs, meta: self.shard.meta().clone() });
        self.files.extend(self.shard.finish()?);
        let mut files = self.files;
        let mut pieces = self.build.pieces.to_vec();
        if let [piece] = &mut pieces[..] {
            (piece.prompts, piece.cut) = (prompts, cut);
        }
        let mut contents = Contents {
            format: FORMAT,
            meta: Meta { identity: identity.clone(), prompts, positions, counted: 0, cut, vocabulary, pieces },
            saes: saes.to_vec(),
            shards: self.full.iter().map(|shard| shard.meta.clone()).collect(),
            files: Vec::new(),
        };
        let indexed = IndexedPrompts::open(&contents, &Files::of(&self.folder, &files))?;
        contents.meta.counted = indexed.counted(&identity.options)?;
        let runs: Vec<u64> = self.full.iter().map(|shard| shard.runs).collect();
        for (number, sae) in saes.iter().enumerate() {
            watch.tell(Event::new("sort", number as u64, "SAEs").of(saes.len() as u64));
            let (directions, options) = (sae.directions, &identity.options);
            files.extend(sort::by_direction(&self.folder, number, directions, &indexed.shards, &runs, options, watch)?);
        }
        files.retain(|file| !is_run(&file.written.file));
        contents.files = files.iter().map(|file| file.written.clone()).collect();
        layout::write(&self.folder, &contents, &files)?;
        let checkpoint = self.folder.join(CHECKPOINT);
        match fs::remove_file(&checkpoint) {
            // A corpus without a prompt never came to one.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::write(&checkpoint, error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use directrix_model::{Folder, Processing};

    use super::*;
    use crate::{Input, Options, Query, Search};

    /// Everything an index answers.
    fn answers(index: &Index) -> Vec<String> {
        let mut all = vec![format!("{:?} {:?}", index.meta(), index.occurrences().unwrap())];
        for sae in index.saes() {
            for d in 0..sae.directions() {
                let whole = sae.activations(d).unwrap().into_iter().flat_map(|shard| {
                    let of_corpus = shard.positions.iter().map(move |p| shard.first_position + u64::from(*p));
                    of_corpus.zip(shard.values).collect::<Vec<_>>()
                });
                all.push(format!("{:?} {} {}", sae.direction(d), sae.maximum_position(d), sae.at_first(d)));
                all.push(format!("{:?}", whole.collect::<Vec<_>>()));
                all.push(format!("{:?} {:?}", sae.histogram(d), sae.token_counts(d).unwrap()));
                all.push(format!("{:?}", sae.prompt_maxima(d).unwrap()));
                all.push(format!("{:?}", sae.interval_examples(d, 0.3, 0.8, 4).unwrap()));
            }
            for prompt in (0..index.prompts()).step_by(97) {
                all.push(format!("{:?} {:?}", index.prompt(prompt).unwrap(), sae.on_prompt(prompt, 3).unwrap()));
                all.push(format!("{:?}", sae.at(prompt, 1).unwrap()));
            }
        }
        all
    }

    /// What a search answers.
    fn searched(index: Index) -> Vec<String> {
        let search = Search::new(index.into(), None);
        let mut all = Vec::new();
        for query in ["[7]", "!sae-l0/3>0.01 & [31 38]", "sae-l0/3 within 9 of [100] | sae-l0/5", "!([1] & [2])"] {
            let query = Query::parse(query, search.index()).unwrap();
            let found = search.find(&query, &Watch::nobody()).unwrap();
            all.push(format!("{} {} {}", found.matches, found.prompts, found.left_out));
            all.push(format!("{:?}", found.places().collect::<Vec<_>>()));
            all.push(format!("{:?}", search.firing(&found, 0, usize::MAX).unwrap()));
            all.push(format!("{:?}", search.matches(&found, &query, 50).unwrap()));
        }
        all
    }

    #[test]
    fn several_shards_answer_as_one_also_when_interrupted_between_them() {
        let path = "../model/tests/fixtures/neo-tiny";
        let model = Model::load(&Folder::open(path).unwrap(), Processing::default()).unwrap();
        let saes = [Sae::load(&Folder::open(format!("{path}/sae-l0")).unwrap()).unwrap().fit(model.config()).unwrap()];
        let vocabulary = model.config().d_vocab as u32;
        let prompts = Prompts::from_rows(
            (0..3400_u32).map(|i| (0..20 + i % 21).map(|j| (i * 31 + j * j * 7) % vocabulary).collect::<Vec<_>>()),
        );
        let input = |name: &str| Input { name: name.into(), hash: name.into() };
        let identity = Identity {
            model: input("m"),
            processing: Processing::default(),
            saes: vec![input("a")],
            corpus: input("c"),
            bos: false,
            column: None,
            limit: None,
            options: Options::default(),
        };
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, shard: u64, watch: &Watch| {
            let folder = folder.path().join(name);
            let metas = [SaeMeta::of(&saes[0])];
            let build = Build { shard, ..Build::new(&metas, vocabulary as usize, &identity, &folder, watch) };
            let chunk = Ok::<_, Error>(Chunk { prompts: prompts.clone(), cut: 2 });
            build.run(std::iter::once(chunk), with_model(&model, &saes, watch))
        };
        let one = made("one", SHARD, &Watch::nobody()).unwrap();
        let many = made("many", 40_000, &Watch::nobody()).unwrap();
        assert!(folder.path().join("many/shard-2").is_dir() && !folder.path().join("one/shard-1").exists());
        let answered = (answers(&one), answers(&many));
        for (one, many) in answered.0.iter().zip(&answered.1) {
            assert_eq!(one, many);
        }
        assert_eq!(answered.0.len(), answered.1.len());
        assert_eq!(searched(one), searched(many));
        let many = answered.1;

        // Stopped in the second shard and in the third.
        for limit in [1700, 2700] {
            let stop = Arc::new(AtomicBool::new(false));
            let (setting, last) = (stop.clone(), Mutex::new(0));
            let watch = Watch::new(stop, move |event| {
                let mut last = last.lock().unwrap();
                *last = if event.unit == "prompts" { event.done } else { *last };
                setting.store(*last > limit, Ordering::Relaxed);
            });
            assert!(matches!(made("resumed", 40_000, &watch), Err(Error::Stopped { .. })));
        }
        assert_eq!(answers(&made("resumed", 40_000, &Watch::nobody()).unwrap()), many);
    }
}
