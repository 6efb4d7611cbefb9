//! Indexes of pieces of a corpus to the index of them together.
//!
//! The tokens and activations of the pieces go through the same pass as those that a model makes, in the order of the corpus, so that what is
//! made has the bits of an index that was made at once, whichever pieces there were and in whichever order they were joined.

use std::path::{Path, PathBuf};

use directrix_corpus::{Chunk, Event, Prompts, Watch};
use directrix_kernels::SparseActivations;

use crate::build::{Build, SHARD, So};
use crate::layout::SaeMeta;
use crate::piece::{Piece, joined, shard_with};
use crate::{Error, Index, Result};

/// Prompts handed on at a time.
const CHUNK: usize = 256;

/// Whether what is merged has to be all of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It has to.
    Whole,
    /// It has to, and another index that is in its place gives way.
    Replacing,
    /// It is a piece again, to be merged with others, even if these have no document any more.
    Piece,
}

/// Merges indexes of pieces of one corpus into the index of these pieces together, in `folder`; in any order.
///
/// # Errors
/// If a folder holds no index, or one of other inputs ([`Error::OtherPiece`]), of documents that are in another one too
/// ([`Error::Twice`]); if documents are missing and it is to be whole ([`Error::Missing`]); and as [`build`](crate::build()), whose way of going
/// on after it was interrupted this has.
pub fn merge(folders: &[PathBuf], folder: &Path, merged: Merged, watch: &Watch) -> Result<Index> {
    merge_in_shards(folders, folder, merged, watch, SHARD)
}

fn merge_in_shards(folders: &[PathBuf], folder: &Path, merged: Merged, watch: &Watch, shard: u64) -> Result<Index> {
    let indexes: Vec<Index> = folders.iter().map(|folder| Index::open(folder)).collect::<Result<_>>()?;
    let Some(first) = indexes.first() else { return Err(Error::Nothing) };
    let same = |index: &Index, folder: &PathBuf| {
        let (meta, of) = (index.meta(), first.meta());
        let saes = |index: &Index| index.saes().iter().map(|sae| sae.meta().clone()).collect::<Vec<SaeMeta>>();
        let difference = if meta.pieces.is_empty() {
            Some("it is of the whole corpus".into())
        } else if (meta.pieces[0].of, meta.vocabulary) != (of.pieces.first().map_or(0, |piece| piece.of), of.vocabulary)
            || saes(index) != saes(first)
        {
            Some("other documents, or SAEs of other names".into())
        } else {
            meta.identity.difference(&of.identity)
        };
        let (path, other) = (folder.clone(), folders[0].clone());
        difference.map_or(Ok(()), |difference| Err(Error::OtherPiece { path, other, difference }))
    };
    indexes.iter().zip(folders).try_for_each(|(index, folder)| same(index, folder))?;

    let mut sources = Vec::new();
    for (number, index) in indexes.iter().enumerate() {
        let mut first = 0;
        for piece in &index.meta().pieces {
            sources.push(Source { index: number, first, piece });
            first += piece.prompts;
        }
    }
    sources.sort_by_key(|source| (source.piece.documents.start, source.piece.documents.end));
    let mut last: Option<&Source> = None;
    for source in sources.iter().filter(|source| !source.piece.documents.is_empty()) {
        if let Some(last) = last.filter(|last| last.piece.documents.end > source.piece.documents.start) {
            let document = source.piece.documents.start;
            return Err(Error::Twice {
                document,
                one: folders[last.index].clone(),
                other: folders[source.index].clone(),
            });
        }
        last = Some(source);
    }
    let mut pieces = joined(sources.iter().map(|source| source.piece.clone()).collect());
    let of = pieces.first().map_or(0, |piece| piece.of);
    if merged != Merged::Piece {
        if !matches!(&pieces[..], [piece] if piece.documents == (0..of)) {
            return Err(missing(&pieces, of));
        }
        pieces.clear();
    }

    let meta = first.meta();
    let saes: Vec<SaeMeta> = first.saes().iter().map(|sae| sae.meta().clone()).collect();
    let replace = merged == Merged::Replacing;
    let build =
        Build { pieces: &pieces, shard, replace, ..Build::new(&saes, meta.vocabulary, &meta.identity, folder, watch) };
    let prompts: Vec<(usize, usize)> =
        sources.iter().flat_map(|source| (0..source.piece.prompts).map(|i| (source.index, source.first + i))).collect();
    let cut = sources.iter().map(|source| source.piece.cut).sum();
    let chunk = |(number, of): (usize, &[(usize, usize)])| {
        let rows = of.iter().map(|(index, prompt)| indexes[*index].prompt(*prompt)).collect::<Result<Vec<_>>>()?;
        Ok::<_, Error>(Chunk { prompts: Prompts::from_rows(rows), cut: if number == 0 { cut } else { 0 } })
    };
    let total = prompts.len() as u64;
    let encode = |done: So, next: &Prompts| {
        if watch.is_stopped() {
            return Err(Error::Stopped { prompts: done.prompts });
        }
        let end = done.prompts + next.len();
        let of_sae = |sae: usize| {
            let mut acts = SparseActivations::default();
            for (index, prompt) in &prompts[done.prompts..end] {
                indexes[*index].sae(sae).append_prompt(*prompt, &mut acts)?;
            }
            Ok(acts)
        };
        let acts = (0..saes.len()).map(of_sae).collect::<Result<Vec<_>>>()?;
        watch.tell(Event::new("merge", end as u64, "prompts").of(total));
        Ok(acts)
    };
    build.run(prompts.chunks(CHUNK).enumerate().map(chunk), encode)
}

/// A piece of an index, and the prompt it begins with there.
struct Source<'a> {
    index: usize,
    first: usize,
    piece: &'a Piece,
}

/// The error that says which documents are in none of the pieces.
fn missing(pieces: &[Piece], of: usize) -> Error {
    let mut next = 0;
    let mut gaps = Vec::new();
    for documents in pieces.iter().map(|piece| &piece.documents).chain([&(of..of)]) {
        if next < documents.start {
            let gap = next..documents.start;
            let named = shard_with(&gap, of).map(|(i, n)| format!(" (--shard {i}/{n})")).unwrap_or_default();
            gaps.push(format!("{} to {} of {of}{named}", gap.start, gap.end - 1));
        }
        next = documents.end;
    }
    Error::Missing { documents: gaps.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::ops::Range;

    use directrix_model::{Folder, Model, Processing};
    use directrix_sae::Sae;
    use proptest::prelude::*;

    use super::*;
    use crate::piece::documents_of_shard;
    use crate::{Identity, Input, Options, build_piece};

    /// Documents of a corpus: none of some of them is a prompt.
    struct Case {
        model: Model,
        saes: [Sae; 1],
        identity: Identity,
        documents: Vec<Vec<u32>>,
    }

    impl Case {
        fn new(documents: usize, seed: u32) -> Case {
            let path = "../model/tests/fixtures/neo-tiny";
            let model = Model::load(&Folder::open(path).unwrap(), Processing::default()).unwrap();
            let sae = Sae::load(&Folder::open(format!("{path}/sae-l0")).unwrap()).unwrap().fit(model.config()).unwrap();
            let vocabulary = model.config().d_vocab as u32;
            let document = |i: u32| match (i + seed) % 7 {
                0 => Vec::new(),
                length => (0..length * 3).map(|j| (seed + i * 31 + j * j * 7) % vocabulary).collect(),
            };
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
            Case { model, saes: [sae], identity, documents: (0..documents as u32).map(document).collect() }
        }

        /// The prompts of some documents; those of a number that five divides were cut.
        fn chunk(&self, documents: Range<usize>) -> Chunk {
            let is_prompt = |i: &usize| !self.documents[*i].is_empty();
            let cut = documents.clone().filter(is_prompt).filter(|i| i % 5 == 0).count();
            Chunk { prompts: Prompts::from_rows(documents.filter(is_prompt).map(|i| &self.documents[i])), cut }
        }

        fn piece(&self, documents: Range<usize>, folder: &Path) -> PathBuf {
            let chunks = std::iter::once(Ok(self.chunk(documents.clone())));
            let of = self.documents.len();
            let nobody = Watch::nobody();
            build_piece(&self.model, &self.saes, chunks, &self.identity, documents, of, folder, &nobody).unwrap();
            folder.into()
        }

        fn whole(&self, folder: &Path) {
            let chunks = std::iter::once(Ok(self.chunk(0..self.documents.len())));
            crate::build(&self.model, &self.saes, chunks, &self.identity, folder, &Watch::nobody()).unwrap();
        }
    }

    /// Every file of a folder.
    fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    all.insert(path.strip_prefix(folder).unwrap().into(), fs::read(&path).unwrap());
                }
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Associative and commutative: whatever is joined first, and in whichever order.
        #[test]
        fn however_shards_are_merged_the_bits_are_those_of_one_pass(
            documents in 1..60_usize, seed in 0..1000_u32, shards in 1..9_usize, joins in prop::collection::vec((0..99_usize, 0..99_usize), 0..8)
        ) {
            let case = Case::new(documents, seed);
            prop_assume!(!case.chunk(0..documents).prompts.is_empty());
            let disk = tempfile::tempdir().unwrap();
            let at = |name: &str| disk.path().join(name);
            case.whole(&at("whole"));
            let mut left: Vec<PathBuf> = (0..shards)
                .map(|i| case.piece(documents_of_shard(i, shards, documents), &at(&format!("shard-{i}"))))
                .collect();
            for (number, (one, other)) in joins.into_iter().enumerate() {
                if left.len() > 2 {
                    let pair = [left.remove(one % left.len()), left.remove(other % (left.len() - 1))];
                    let joined = at(&format!("joined-{number}"));
                    merge(&pair, &joined, Merged::Piece, &Watch::nobody()).unwrap();
                    left.push(joined);
                }
            }
            merge(&left, &at("merged"), Merged::Whole, &Watch::nobody()).unwrap();
            prop_assert!(files(&at("merged")) == files(&at("whole")));
        }
    }

    #[test]
    fn more_shards_than_documents_are_merged_too() {
        let case = Case::new(2, 3);
        let disk = tempfile::tempdir().unwrap();
        let at = |name: &str| disk.path().join(name);
        case.whole(&at("whole"));
        let shards = [0, 1, 2, 3, 4].map(|i| case.piece(documents_of_shard(i, 5, 2), &at(&format!("shard-{i}"))));
        let [empty @ .., full, other] = [0, 1, 3, 2, 4].map(|i| shards[i].clone());
        let joined = at("joined");
        merge(&[other, full], &joined, Merged::Piece, &Watch::nobody()).unwrap();
        merge(&[&[joined][..], &empty].concat(), &at("merged"), Merged::Whole, &Watch::nobody()).unwrap();
        assert!(files(&at("merged")) == files(&at("whole")));
    }

    #[test]
    fn files_of_several_shards_are_merged_as_they_would_have_been_made() {
        let case = Case::new(12_000, 3);
        let disk = tempfile::tempdir().unwrap();
        let at = |name: &str| disk.path().join(name);
        let parts =
            [4000..12_000, 0..4000].map(|range| case.piece(range.clone(), &at(&format!("piece-{}", range.start))));
        let whole = case.piece(0..12_000, &at("whole"));
        let merged = |name: &str, parts: &[PathBuf]| {
            merge_in_shards(parts, &at(name), Merged::Piece, &Watch::nobody(), 40_000).unwrap();
            assert!(at(name).join("shard-2").is_dir());
            files(&at(name))
        };
        assert!(merged("one", &[whole]) == merged("two", &parts));
    }

    #[test]
    fn a_shard_that_is_missing_or_given_twice_or_of_another_run_is_named() {
        let case = Case::new(40, 1);
        let disk = tempfile::tempdir().unwrap();
        let at = |name: &str| disk.path().join(name);
        let [one, two, three] = [0, 1, 2].map(|i| case.piece(documents_of_shard(i, 3, 40), &at(&format!("shard-{i}"))));
        let merged = |parts: &[&PathBuf]| {
            let parts: Vec<PathBuf> = parts.iter().map(|part| (*part).clone()).collect();
            merge(&parts, &at("out"), Merged::Whole, &Watch::nobody()).map(|_| ()).unwrap_err().to_string()
        };
        let said = merged(&[&three, &one]);
        assert!(said.contains("13 to 25 of 40 (--shard 2/3)"), "{said}");
        let said = merged(&[&one, &two, &one, &three]);
        assert!(said.contains("document 0 is in") && said.contains("shard-0"), "{said}");
        let overlapping = case.piece(20..40, &at("overlapping"));
        let said = merged(&[&one, &two, &overlapping]);
        assert!(said.contains("document 20") && said.contains("shard-1") && said.contains("overlapping"), "{said}");

        let mut other = Case::new(40, 1);
        other.identity.corpus.hash = "d".into();
        let other = other.piece(13..26, &at("other"));
        let said = merged(&[&one, &other, &three]);
        assert!(said.contains("other and") && said.contains("another corpus"), "{said}");
        let shorter = Case::new(39, 1).piece(13..26, &at("shorter"));
        assert!(merged(&[&one, &shorter, &three]).contains("other documents"));
        case.whole(&at("whole"));
        assert!(merged(&[&at("whole"), &one]).contains("whole corpus"));
        assert!(merged(&[]).contains("nothing to merge"));
        assert!(merged(&[&at("none")]).contains("holds no index"));
        fs::write(at("shard-1/shard-0/tokens.u32"), vec![0; 9]).unwrap();
        assert!(merged(&[&one, &two, &three]).contains("damaged"));
        assert!(!at("out").exists() && !at("out.partial").exists());
    }

    #[test]
    fn a_piece_is_not_taken_for_the_whole_nor_for_another_piece() {
        let case = Case::new(20, 2);
        let disk = tempfile::tempdir().unwrap();
        let folder = case.piece(0..10, &disk.path().join("piece"));
        let chunks = || std::iter::once(Ok(case.chunk(0..20)));
        let whole = crate::build(&case.model, &case.saes, chunks(), &case.identity, &folder, &Watch::nobody());
        assert!(whole.unwrap_err().to_string().contains("other documents"));
        let nobody = Watch::nobody();
        let other =
            build_piece(&case.model, &case.saes, chunks(), &case.identity, 10..20, 20, &folder, &nobody).unwrap_err();
        assert!(other.to_string().contains("other documents"));
    }
}
