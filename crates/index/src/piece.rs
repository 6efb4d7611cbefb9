//! Pieces of a corpus: what an index that is not of all documents is of.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Documents that follow each other in a corpus, and what came of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The documents, counted from 0.
    pub documents: Range<usize>,
    /// How many documents the corpus has, up to its limit.
    pub of: usize,
    /// Prompts that they gave.
    pub prompts: usize,
    /// Those that were cut to the context.
    pub cut: usize,
}

/// The documents of shard `number`, from 0, of `of` that a corpus of so many is cut into, as evenly as can be.
///
/// ```
/// use directrix_index::documents_of_shard;
///
/// assert_eq!((0..3).map(|i| documents_of_shard(i, 3, 10)).collect::<Vec<_>>(), [0..3, 3..6, 6..10]);
/// ```
pub fn documents_of_shard(number: usize, of: usize, documents: usize) -> Range<usize> {
    let end = |shards: usize| (documents as u128 * shards as u128 / of.max(1) as u128) as usize;
    end(number)..end(number + 1)
}

/// The shard, counted from 1 as `--shard` has it, that has exactly these documents; the smallest number of shards that has one.
pub(crate) fn shard_with(documents: &Range<usize>, of: usize) -> Option<(usize, usize)> {
    const MOST: usize = 100_000;
    if documents.is_empty() {
        return None;
    }
    // A shard has as many documents as one of equal parts would, or one more.
    let least = of / (documents.len() + 1);
    (least.max(1)..=of.min(MOST)).find_map(|shards| {
        let number = (documents.start as u128 * shards as u128).div_ceil(of as u128) as usize;
        (number < shards && documents_of_shard(number, shards, of) == *documents).then_some((number + 1, shards))
    })
}

/// Whether two lists of pieces are of the same documents.
pub(crate) fn same_documents(one: &[Piece], other: &[Piece]) -> bool {
    let documents =
        |pieces: &[Piece]| pieces.iter().map(|piece| (piece.documents.clone(), piece.of)).collect::<Vec<_>>();
    documents(one) == documents(other)
}

/// Whether pieces can be those of an index of so many prompts.
pub(crate) fn are_sound(pieces: &[Piece], prompts: usize) -> bool {
    let sum = pieces.iter().try_fold(0_usize, |sum, piece| sum.checked_add(piece.prompts));
    let within = |piece: &Piece| {
        let Range { start, end } = piece.documents;
        start <= end
            && end <= piece.of
            && piece.of == pieces[0].of
            && piece.prompts <= end - start
            && piece.cut <= piece.prompts
    };
    pieces.is_empty()
        || (sum == Some(prompts)
            && pieces.iter().all(within)
            && pieces.windows(2).all(|pair| pair[0].documents.end <= pair[1].documents.start))
}

/// Pieces in the order of the corpus, those joined that follow each other without a gap; none that are of no document, unless all are.
pub(crate) fn joined(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_by_key(|piece| (piece.documents.start, piece.documents.end));
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if last.documents.end == piece.documents.start => {
                last.documents.end = piece.documents.end;
                last.prompts += piece.prompts;
                last.cut += piece.cut;
            }
            Some(last) if last.documents.is_empty() => *last = piece,
            Some(_) if piece.documents.is_empty() => {}
            _ => joined.push(piece),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_named_by_the_shard_that_fills_it() {
        for of in [1, 2, 7, 10, 2000, 22_000] {
            for shards in [1, 2, 3, 5, 64] {
                for number in 0..shards {
                    let documents = documents_of_shard(number, shards, of);
                    if documents.is_empty() {
                        continue;
                    }
                    let (found, n) = shard_with(&documents, of).unwrap();
                    assert_eq!(documents_of_shard(found - 1, n, of), documents, "{number}/{shards} of {of}");
                    assert!(n <= shards);
                }
            }
        }
        assert_eq!(shard_with(&(3..4), 0), None);
    }
}
