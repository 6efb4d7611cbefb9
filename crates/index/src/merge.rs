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
    /// It may be a piece again.
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
    let is_whole = matches!(&pieces[..], [piece] if piece.documents == (0..of));
    if is_whole {
        pieces.clear();
    } else if merged != Merged::Piece {
        return Err(missing(&pieces, of));
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
