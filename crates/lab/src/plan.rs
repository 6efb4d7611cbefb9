//! What an index will take: arithmetic, bytes and time, on this machine and over ranks of such machines.
//!
//! Sizes follow from counts, since files are plain arrays; counts and rates are measured on prompts that are spread over the corpus, of which pieces
//! are indexed and merged as ranks would do it.

use std::path::PathBuf;
use std::time::Instant;

use directrix_corpus::{Document, Event, Prompts, Watch, join, peak_memory, prompts};
use directrix_index::{Identity, Index, Merged, Options, SaeSize, Size, build_piece, merge};
use directrix_model::{BlockHook, Config, HookPoint};
use serde::Serialize;

use crate::together::{MERGED, number_of_pieces};
use crate::{Opened, Result};

/// Text that the probe holds.
const HELD: usize = 64 << 20;
/// Positions with which the probe begins; a pass has [`PASS`] together.
const FIRST: usize = 256;
/// Positions that a model pass has together, without which its speed is not that of an index.
const PASS: usize = 2048;
/// How many times the seconds that are asked for a piece may take until it is enough whatever its size.
const PATIENCE: f64 = 10.0;
/// Bytes in memory for each activation of a run: what an SAE gave, and the same by direction, twice.
const OF_RUN: [u64; 2] = [12, 16];
/// Bytes in memory for each activation that is sorted: a list that has grown, and the run it came from.
const OF_SORT: u64 = 20;
/// Seconds of a read of a few bytes of a file that the system holds in memory. Every bucket of directions takes three of each run.
const READ: f64 = 1e-6;
/// Bytes that ranks send each other for a unit of work, which files hold.
const UNIT: u64 = 16;

/// What is to be sized.
#[derive(Debug, Clone)]
pub struct Sizing {
    /// Positions of a corpus that is like the one that is open; its own number where none is given.
    pub positions: Option<u64>,
    /// Numbers of ranks.
    pub ranks: Vec<usize>,
    /// The most documents that the probe reads.
    pub documents: usize,
    /// The probe's pieces double until one takes so many seconds.
    pub seconds: f64,
    /// An existing folder, in which the probe makes and removes one. Its disk should be that of the index.
    pub scratch: PathBuf,
}

/// What an index of a corpus takes, of one process and of several ranks.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// What was measured.
    pub probe: Probe,
    /// Documents of the corpus.
    pub documents: u64,
    /// Prompts that they give.
    pub prompts: u64,
    /// Their positions.
    pub positions: u64,
    /// FLOP for each position of the model, up to the deepest site: two for each weight of a product, and attention's scores and means
    /// over the positions that one sees in the mean. Norms and activation functions are not counted.
    pub model_flop: f64,
    /// FLOP for each position of the encoders, `2 × d_in × directions`. Most of it is screened in integers.
    pub encoder_flop: f64,
    /// FLOP of all positions.
    pub flop: f64,
    /// Each SAE's part.
    pub saes: Vec<SaePlan>,
    /// Bytes of the finished index.
    pub index_bytes: u64,
    /// Bytes on disk at the peak, when the sorted runs still stand beside it.
    pub disk_bytes: u64,
    /// Files.
    pub files: u64,
    /// Bytes of memory of the process at the peak, mapped weights and tokens among them; none where the system does not tell.
    pub memory_bytes: Option<u64>,
    /// Seconds of one process on this machine.
    pub seconds: f64,
    /// The same work over ranks.
    pub ranks: Vec<OverRanks>,
}

/// What a probe measured.
#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    /// Documents that were read, spread over the corpus.
    pub documents: u64,
    /// Positions that were indexed, and then merged.
    pub positions: u64,
    /// Those of its largest piece.
    pub piece_positions: u64,
    /// Seconds of the probe, without the walks through the corpus.
    pub seconds: f64,
    /// Seconds of hashing and counting the corpus, which every process does first.
    pub survey_seconds: f64,
    /// Seconds of reading its documents, which one process does once and ranks for each piece, up to its documents.
    pub read_seconds: f64,
    /// Seconds of tokenising a position.
    pub token_seconds: f64,
    /// Seconds that a process takes once, screens of the encoders among them.
    pub once_seconds: f64,
    /// Seconds that a piece takes however few its prompts.
    pub piece_seconds: f64,
    /// Seconds of a position, from the model to the sorted lists.
    pub position_seconds: f64,
    /// Seconds of a position that is merged.
    pub merge_seconds: f64,
    /// Bytes of memory that this process had at most.
    pub memory_bytes: Option<u64>,
}

/// What one SAE takes of an index.
#[derive(Debug, Clone, Serialize)]
pub struct SaePlan {
    /// Its short name.
    pub name: String,
    /// What it reads.
    pub hook: HookPoint,
    /// Its directions.
    pub directions: usize,
    /// Directions that are active at a position, in the mean over all.
    pub active: f64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// An index that so many ranks make, each a process on a machine like this one, with its files on a disk that all share.
#[derive(Debug, Clone, Serialize)]
pub struct OverRanks {
    /// How many.
    pub ranks: usize,
    /// Pieces that are made first; 0 where one process makes the index at once.
    pub pieces: usize,
    /// Merges that follow, the last one included, which one rank does.
    pub merges: usize,
    /// Seconds until the index is there.
    pub seconds: f64,
    /// Of these, those of the pieces.
    pub pieces_seconds: f64,
    /// Of these, those of the merges, of which fewer and fewer ranks do one.
    pub merges_seconds: f64,
    /// How many times as fast as one process.
    pub speedup: f64,
    /// Bytes that all ranks write to the shared disk.
    pub written_bytes: u64,
    /// Bytes that they read of what was written there.
    pub read_bytes: u64,
    /// Bytes both ways of the rank that has the last merge: what its link carries, where others carry an equal part of the pieces.
    pub busiest_bytes: u64,
    /// Bytes both ways of a rank that makes pieces alone.
    pub piecework_bytes: u64,
    /// Bytes that a rank has of the others by messages: how units went, and nothing of the index.
    pub message_bytes: u64,
    /// Bytes on the disk at the peak: pieces stay until the index is there.
    pub disk_bytes: u64,
    /// Bytes of memory of the rank that has the last merge; what it maps of pieces, which the system may take back, is not among them.
    pub memory_bytes: Option<u64>,
}

/// Documents that are spread over a corpus.
struct Spread {
    documents: Vec<Document>,
    /// How many were read to find them.
    read: usize,
    /// Whether these are all there are.
    all: bool,
}

/// What was counted on the probe, from which a corpus of any size is.
struct Counted {
    /// Positions of a prompt, in the mean.
    mean: f64,
    /// Documents that give a prompt.
    with_prompt: f64,
    saes: Vec<CountedSae>,
}

struct CountedSae {
    directions: u64,
    /// Active directions at a position.
    active: f64,
    /// Share of the positions at which the commonest direction fires.
    densest: f64,
    /// Rows of the token counts of so many positions, and the exponent they grow with.
    tokens: [f64; 3],
}

impl Opened {
    /// Sizes an index of the corpus, or of one of other length that is like it. Reads the corpus twice, and indexes some of it for seconds.
    ///
    /// # Errors
    /// If the corpus holds nothing or cannot be read, nothing can be written to the scratch folder, or the watch says stop.
    pub fn plan(&self, sizing: &Sizing, watch: &Watch) -> Result<Plan> {
        let watch = &watch.alone();
        let started = Instant::now();
        let survey = self.survey_to_index(watch)?;
        let survey_seconds = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let Spread { documents: sample, read, all } = self.spread(sizing.documents, survey.documents, watch)?;
        // Rows of Parquet that hold no document are counted by a survey.
        let there = if all { read } else { survey.documents };
        let read_seconds = started.elapsed().as_secs_f64() * (there as f64 / read.max(1) as f64);
        let documents = sample.len();

        let started = Instant::now();
        let sample =
            join(prompts(self.corpus.name(), sample.into_iter().map(Ok), self.tokenizer.as_ref(), self.tokenising()))?;
        let sample = sample.prompts;
        let token_seconds = started.elapsed().as_secs_f64() / sample.positions() as f64;

        let identity = self.identity(survey, Options::default());
        let (mut probe, counted) = self.probed(&sample, &identity, sizing, watch)?;
        probe.seconds = started.elapsed().as_secs_f64();
        probe.documents = documents as u64;
        (probe.survey_seconds, probe.read_seconds, probe.token_seconds) = (survey_seconds, read_seconds, token_seconds);

        let counted = Counted {
            mean: sample.positions() as f64 / sample.len().max(1) as f64,
            with_prompt: sample.len() as f64 / documents.max(1) as f64,
            ..counted
        };
        let of_document = counted.mean * counted.with_prompt;
        let own = there as f64 * of_document;
        let positions = sizing.positions.map_or(own, |positions| positions as f64);
        // Its text is as much longer.
        probe.survey_seconds *= positions / own;
        probe.read_seconds *= positions / own;
        let lengths: Vec<usize> = sample.iter().map(<[u32]>::len).collect();
        let (model_flop, encoder_flop) = self.flop(&lengths);
        let size = counted.size(positions);
        let documents = (positions / of_document).ceil() as u64;
        let (index_bytes, disk_bytes) = (size.bytes(), size.bytes() + size.run_bytes());
        let memory_bytes = probe.memory_bytes.map(|bytes| {
            let of = |positions: f64| counted.memory(positions) as i64;
            bytes.saturating_add_signed((of(positions) - of(probe.piece_positions as f64)).max(0))
        });
        let seconds = probe.survey_seconds
            + probe.once_seconds
            + probe.read_seconds
            + probe.piece_seconds
            + positions * (probe.token_seconds + probe.position_seconds)
            + counted.sort_seconds(positions);
        let saes = self.saes.iter().zip(&counted.saes).enumerate().map(|(number, (sae, counted))| SaePlan {
            name: sae.short_name().into(),
            hook: sae.site().reads.hook,
            directions: sae.directions(),
            active: counted.active,
            bytes: size.sae_bytes(number),
        });
        let mut plan = Plan {
            documents,
            prompts: size.prompts,
            positions: size.positions,
            model_flop,
            encoder_flop,
            flop: positions * (model_flop + encoder_flop),
            saes: saes.collect(),
            index_bytes,
            disk_bytes,
            files: size.files(),
            memory_bytes,
            seconds,
            ranks: Vec::new(),
            probe,
        };
        plan.ranks = sizing.ranks.iter().map(|ranks| plan.over(*ranks, &counted, of_document)).collect();
        Ok(plan)
    }

    /// Up to `most` documents, spread over the `there` of the corpus.
    fn spread(&self, most: usize, there: usize, watch: &Watch) -> Result<Spread> {
        let every = there.div_ceil(most.max(1)).max(1);
        let (mut spread, mut held) = (Spread { documents: Vec::new(), read: 0, all: true }, 0);
        for (number, document) in self.documents()?.enumerate() {
            if watch.is_stopped() {
                return Err(directrix_corpus::Error::Stopped.into());
            }
            let document = document?;
            spread.read = number + 1;
            if number % every == 0 {
                held += match &document {
                    Document::Text(text) => text.len(),
                    Document::Tokens(tokens) => size_of_val(&tokens[..]),
                };
                spread.documents.push(document);
                if held > HELD {
                    spread.all = false;
                    break;
                }
            }
        }
        // However few of them are indexed, these are spread, too: 0, a half, a quarter, three quarters …
        let mut numbered: Vec<(usize, Document)> = spread.documents.into_iter().enumerate().collect();
        numbered.sort_by_key(|(number, _)| (*number as u32).reverse_bits());
        spread.documents = numbered.into_iter().map(|(_, document)| document).collect();
        Ok(spread)
    }

    /// Indexes pieces of the sample, each as large as all before it, and merges them.
    fn probed(
        &self,
        sample: &Prompts,
        identity: &Identity,
        sizing: &Sizing,
        watch: &Watch,
    ) -> Result<(Probe, Counted)> {
        let written = |error| directrix_corpus::Error::Write { path: sizing.scratch.clone(), error };
        let folder = tempfile::Builder::new().prefix("directrix-plan-").tempdir_in(&sizing.scratch).map_err(written)?;
        let mut pieces: Vec<(PathBuf, f64, Size)> = Vec::new();
        let mut next = 0;
        while next < sample.len() {
            // The first one is slower by what is made once, the second one is the same without.
            let end = match pieces.len() {
                0 | 1 => next + 1,
                _ => {
                    let held = |end: &usize| sample.range(0..*end).positions() >= FIRST;
                    let first = (next + 1..sample.len()).find(held).unwrap_or(sample.len());
                    first.max(2 * next).min(sample.len())
                }
            };
            let part = sample.range(next..end);
            let (path, positions) = (folder.path().join(pieces.len().to_string()), part.positions());
            let total = sample.len() as u64;
            let watch = watch.through(move |event: Event| {
                let done = if event.unit == "prompts" { event.done } else { (end - next) as u64 };
                Event::new("probe", next as u64 + done, "prompts").of(total)
            });
            let started = Instant::now();
            let chunk = directrix_corpus::Chunk { prompts: part, cut: 0 };
            let chunks = std::iter::once(Ok(chunk));
            let made = build_piece(&self.model, &self.saes, chunks, identity, next..end, sample.len(), &path, &watch)?;
            let seconds = started.elapsed().as_secs_f64();
            pieces.push((path, seconds, made.size()));
            next = end;
            if (seconds >= sizing.seconds && positions >= PASS) || seconds >= PATIENCE * sizing.seconds {
                break;
            }
        }
        let paths: Vec<PathBuf> = pieces.iter().map(|(path, ..)| path.clone()).collect();
        // What a merge has mapped of pieces is not of an index that is made at once.
        let memory_bytes = peak_memory();
        let started = Instant::now();
        let merged = merge(&paths, &folder.path().join("merged"), Merged::Piece, watch)?;
        let merging = started.elapsed().as_secs_f64();

        let seconds = |number: usize| pieces.get(number).map(|(_, seconds, _)| *seconds);
        let cold = seconds(0).unwrap_or(0.0);
        // Where there is one prompt, all of its time is that of its positions.
        let piece_seconds = seconds(1).unwrap_or(0.0);
        let once_seconds = if pieces.len() > 1 { (cold - piece_seconds).max(0.0) } else { 0.0 };
        let largest = pieces.iter().max_by_key(|(.., size)| size.positions);
        let (_, largest_seconds, largest) = largest.ok_or(directrix_index::Error::Nothing)?;
        let of_one = pieces.get(1).map_or(0, |(.., size)| size.positions);
        let slope = |seconds: f64, positions: u64| {
            let (beside, of_one) = if positions >= 4 * of_one { (piece_seconds, of_one) } else { (0.0, 0) };
            (seconds - beside).max(seconds / 2.0) / (positions - of_one).max(1) as f64
        };
        let size = merged.size();
        let position_seconds = slope(*largest_seconds, largest.positions);
        let merge_seconds = slope(merging, size.positions);
        let counted = Counted::of(&merged, largest);
        let probe = Probe {
            documents: 0,
            positions: size.positions,
            piece_positions: largest.positions,
            seconds: 0.0,
            survey_seconds: 0.0,
            read_seconds: 0.0,
            token_seconds: 0.0,
            once_seconds,
            piece_seconds,
            position_seconds,
            merge_seconds,
            memory_bytes,
        };
        Ok((probe, counted))
    }

    /// FLOP for each position of prompts of these lengths: the model's, up to the deepest site, and the encoders'.
    fn flop(&self, lengths: &[usize]) -> (f64, f64) {
        let deepest = self.saes.iter().map(|sae| sae.site().reads.hook).max();
        let model = deepest.map_or(0.0, |deepest| model_flop(self.model.config(), deepest, lengths));
        (model, self.saes.iter().map(|sae| 2.0 * sae.d_in() as f64 * sae.directions() as f64).sum())
    }
}

/// FLOP of a model for each position of prompts of these lengths, up to a hook point: two for each weight of a product, and attention's scores
/// and means over the positions that one sees in the mean.
pub fn model_flop(config: &Config, deepest: HookPoint, lengths: &[usize]) -> f64 {
    let attention = &config.attention;
    let (d_model, d_mlp) = (config.d_model as f64, config.mlp.d_mlp as f64);
    let (queries, keys) =
        ((attention.query_heads * attention.d_head) as f64, (attention.key_heads * attention.d_head) as f64);
    let mut flop = 0.0;
    for (layer, of_layer) in attention.layers.iter().enumerate() {
        let reaches = |hook: BlockHook| deepest >= HookPoint::Block(layer, hook);
        // In a parallel block the MLP does not need attention where the pass ends inside.
        let attends = !config.parallel || !reaches(BlockHook::MlpIn) || reaches(BlockHook::ResidPost);
        let seen = seen(lengths, of_layer.window);
        for (hook, own, part) in [
            (BlockHook::K, 2.0 * d_model * (queries + 2.0 * keys), attends),
            (BlockHook::AttnScores, 2.0 * queries * seen, attends),
            (BlockHook::Z, 2.0 * queries * seen, attends),
            (BlockHook::Result, 2.0 * queries * d_model, attends),
            (BlockHook::MlpPre, 2.0 * d_model * d_mlp * if config.mlp.gated { 2.0 } else { 1.0 }, true),
            (BlockHook::MlpOut, 2.0 * d_mlp * d_model, true),
        ] {
            if part && reaches(hook) {
                flop += own;
            }
        }
    }
    if deepest >= HookPoint::UnembedOut {
        flop += 2.0 * d_model * config.d_vocab as f64;
    }
    flop
}

/// How many positions one sees, itself included, in the mean over all positions of prompts of these lengths.
fn seen(lengths: &[usize], window: Option<usize>) -> f64 {
    let of_prompt = |length: &usize| {
        let window = window.unwrap_or(*length).min(*length) as f64;
        window * (window + 1.0) / 2.0 + (*length as f64 - window) * window
    };
    lengths.iter().map(of_prompt).sum::<f64>() / (lengths.iter().sum::<usize>().max(1)) as f64
}

impl Counted {
    /// Of a probe's index; `part` is the size of one of its pieces.
    fn of(index: &Index, part: &Size) -> Counted {
        let size = index.size();
        let positions = size.positions.max(1) as f64;
        let saes = index.saes().iter().zip(&size.saes).zip(&part.saes).map(|((sae, own), part_own)| {
            let all = own.tokens.max(1) as f64;
            let growth = (all / part_own.tokens.max(1) as f64).ln() / (positions / part.positions.max(1) as f64).ln();
            CountedSae {
                directions: own.directions,
                active: own.entries as f64 / positions,
                densest: (0..sae.directions()).map(|d| sae.direction(d).density).fold(0.0, f64::max),
                tokens: [all, positions, if growth.is_finite() { growth.clamp(0.0, 1.0) } else { 1.0 }],
            }
        });
        let mean = positions / size.prompts.max(1) as f64;
        Counted { mean, with_prompt: 1.0, saes: saes.collect() }
    }

    /// Counts of so many positions.
    fn size(&self, positions: f64) -> Size {
        let saes = self.saes.iter().map(|sae| {
            let [all, of, growth] = sae.tokens;
            let entries = (positions * sae.active).round() as u64;
            let tokens = (all * (positions / of).powf(growth)).round() as u64;
            SaeSize { directions: sae.directions, entries, tokens: tokens.min(entries) }
        });
        Size {
            prompts: (positions / self.mean).ceil() as u64,
            positions: positions.round() as u64,
            saes: saes.collect(),
        }
    }

    /// Bytes of memory that grow with the positions: those of a run, or of the sort's bucket with the densest direction; tokens, which the
    /// sort maps, and where prompts begin.
    fn memory(&self, positions: f64) -> u64 {
        let of_run = positions.min(Size::RUN as f64);
        let actives = || self.saes.iter().map(|sae| sae.active);
        let run =
            of_run * (actives().sum::<f64>() * OF_RUN[0] as f64 + actives().fold(0.0, f64::max) * OF_RUN[1] as f64);
        let bucket = |sae: &CountedSae| {
            (positions * sae.active).min(Size::SORTED as f64).max(positions * sae.densest) * OF_SORT as f64
        };
        let sort = self.saes.iter().map(bucket).fold(0.0, f64::max);
        (run.max(sort) + 4.0 * positions + 8.0 * positions / self.mean) as u64
    }

    /// Seconds of finding each bucket of directions in each run.
    fn sort_seconds(&self, positions: f64) -> f64 {
        let size = self.size(positions);
        let buckets = |sae: &SaeSize| sae.entries.div_ceil(Size::SORTED).min(sae.directions) as f64;
        3.0 * READ * size.runs() as f64 * size.saes.iter().map(buckets).sum::<f64>()
    }
}

impl Plan {
    /// The plan over so many ranks.
    fn over(&self, ranks: usize, counted: &Counted, of_document: f64) -> OverRanks {
        let probe = &self.probe;
        let ranks = ranks.max(1);
        let positions = self.positions as f64;
        let whole = counted.size(positions);
        let making = |size: &Size| size.bytes() + 2 * size.run_bytes();
        if ranks == 1 {
            return OverRanks {
                ranks,
                pieces: 0,
                merges: 0,
                seconds: self.seconds,
                pieces_seconds: self.seconds,
                merges_seconds: 0.0,
                speedup: 1.0,
                written_bytes: self.disk_bytes,
                read_bytes: whole.run_bytes(),
                busiest_bytes: making(&whole),
                piecework_bytes: making(&whole),
                message_bytes: 0,
                disk_bytes: self.disk_bytes,
                memory_bytes: self.memory_bytes,
            };
        }
        let pieces = number_of_pieces(self.documents as usize, of_document.ceil() as usize).max(1);
        let piece = counted.size(positions / pieces as f64);
        // A piece's documents are found by reading those before it, half of all in the mean.
        let of_piece = probe.piece_seconds
            + probe.read_seconds / 2.0
            + piece.positions as f64 * (probe.token_seconds + probe.position_seconds)
            + counted.sort_seconds(piece.positions as f64);
        let pieces_seconds = probe.survey_seconds + probe.once_seconds + pieces.div_ceil(ranks) as f64 * of_piece;
        let mut over = OverRanks {
            ranks,
            pieces,
            merges: 0,
            seconds: 0.0,
            pieces_seconds,
            merges_seconds: 0.0,
            speedup: 0.0,
            written_bytes: pieces as u64 * (piece.bytes() + piece.run_bytes()),
            read_bytes: pieces as u64 * piece.run_bytes(),
            busiest_bytes: pieces.div_ceil(ranks) as u64 * making(&piece),
            piecework_bytes: pieces.div_ceil(ranks) as u64 * making(&piece),
            message_bytes: UNIT * pieces as u64,
            disk_bytes: pieces as u64 * piece.bytes(),
            memory_bytes: self.memory_bytes,
        };
        let mut left = pieces;
        while left > 0 {
            let groups = if left > MERGED { left.div_ceil(MERGED) } else { 1 };
            let of_group = counted.size(positions / groups as f64);
            let sources = counted.size(positions / left as f64).merged_bytes() * left as u64 / groups as u64;
            over.merges += groups;
            over.merges_seconds += groups.div_ceil(ranks) as f64
                * (probe.piece_seconds
                    + of_group.positions as f64 * probe.merge_seconds
                    + counted.sort_seconds(of_group.positions as f64));
            over.written_bytes += groups as u64 * (of_group.bytes() + of_group.run_bytes());
            over.read_bytes += groups as u64 * (of_group.run_bytes() + sources);
            over.busiest_bytes += groups.div_ceil(ranks) as u64 * (making(&of_group) + sources);
            over.message_bytes += UNIT * groups as u64;
            over.disk_bytes += groups as u64 * of_group.bytes();
            left = if groups == 1 { 0 } else { groups };
        }
        over.disk_bytes += whole.run_bytes();
        over.seconds = over.pieces_seconds + over.merges_seconds;
        over.speedup = self.seconds / over.seconds;
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_sees_those_before_it_in_its_window() {
        assert_eq!(seen(&[1], None), 1.0);
        assert_eq!(seen(&[4], None), 2.5);
        assert_eq!(seen(&[4, 2], None), 13.0 / 6.0);
        assert_eq!(seen(&[4], Some(2)), 7.0 / 4.0);
        assert_eq!(seen(&[], None), 0.0);
    }
}
