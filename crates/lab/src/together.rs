//! An index that several processes make together.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use directrix_corpus::durable::{self, is_begun, remove_folder, tidy};
use directrix_corpus::{Prompts, Ranks, Team, Watch, hexadecimal};
use directrix_index::{Identity, Index, Merged, complete, documents_of_shard, merge};
use directrix_model::{Ask, Model, Positions};
use directrix_sae::Sae;
use sha2::{Digest, Sha256};

use crate::{Error, Opened, OtherIndex, Result};

/// Positions of a piece of an index that ranks make together, about, where that does not make too many pieces.
const PIECE: usize = 1 << 15;
/// The most pieces.
const PIECES: usize = 2048;
/// Pieces that are merged at once.
pub(crate) const MERGED: usize = 32;

/// A hash of the bits that this machine gives for a few positions: of every SAE's activations, and of the last logits. Processes that work
/// together must have the same.
///
/// # Errors
/// If the model cannot be run.
pub fn probe(model: &Model, saes: &[Sae]) -> Result<String> {
    const POSITIONS: usize = 32;
    let config = model.config();
    let tokens = (0..POSITIONS.min(config.n_ctx)).map(|i| (i * 977 % config.d_vocab) as u32).collect::<Vec<_>>();
    let last = tokens.len() - 1;
    let ask = Ask::capture(saes.iter().map(|sae| sae.site().reads.hook)).with_logits(Positions::At(vec![last]));
    let run = model.run(&Prompts::from_rows([tokens]), &ask, &[])?;
    let mut hash = Sha256::new();
    let mut add = |numbers: &[f32]| numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
    add(run.logits().data());
    for sae in saes {
        add(sae.encode(run.captured(sae.site().reads.hook))?.values());
    }
    Ok(hexadecimal(&hash.finalize()))
}

impl Opened {
    /// [`probe`] of what is open.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn probe(&self) -> Result<String> {
        probe(&self.model, &self.saes)
    }

    /// Makes an index together with other ranks, or of what they left: pieces of it beside `folder`, which are merged, many at a time. A folder of
    /// pieces stays as long as the index is not complete, so that the next run of any number of ranks goes on from there.
    pub(crate) fn index_over(
        &self,
        ranks: Option<&Arc<dyn Ranks>>,
        folder: &Path,
        identity: &Identity,
        documents: usize,
        other: OtherIndex,
        watch: &Watch,
    ) -> Result<Index> {
        let is_first = ranks.is_none_or(|ranks| ranks.rank() == 0);
        let said_by_first = |own: bool| match ranks {
            Some(ranks) => Ok::<_, Error>(ranks.gather(&[u8::from(own)])?.first().is_some_and(|said| *said == [1])),
            None => Ok(own),
        };
        let replace = other == OtherIndex::Replace;
        if !said_by_first(is_first && complete(folder, identity, replace)?.is_some())? {
            let pieces = folder_of_pieces(folder)?;
            if is_first {
                own_pieces(&pieces, identity, replace)?;
            }
            // They are kept as indexes, not as units. No rank begins before the first one is here.
            let watch = match ranks {
                Some(ranks) => watch.clone().with_team(Arc::new(Team::of_ranks(ranks.clone(), None)?)),
                None => watch.alone(),
            };
            self.merged_of_pieces(&pieces, folder, identity, documents, other, &watch)?;
        }
        let index = Index::open(folder)?;
        // Nobody reads a piece any more.
        said_by_first(true)?;
        if is_first {
            tidy(folder);
            if let Some(pieces) = left_of(folder) {
                remove_folder(&pieces)?;
            }
        }
        Ok(index)
    }

    fn merged_of_pieces(
        &self,
        pieces: &Path,
        folder: &Path,
        identity: &Identity,
        documents: usize,
        other: OtherIndex,
        watch: &Watch,
    ) -> Result<()> {
        let n = self.number_of_pieces(documents)?;
        let place = |level: usize, number: usize| pieces.join(format!("{level}-{number}"));
        let none = |made: Result<Index>| made.map(|_| Vec::new());
        watch.share("pieces", n, |piece, watch| {
            let own = documents_of_shard(piece, n, documents);
            none(self.index_piece(&place(0, piece), identity, own, documents, watch))
        })?;
        let (mut level, mut left) = (0, n);
        while left > MERGED {
            let groups = left.div_ceil(MERGED);
            watch.share("merges", groups, |group, watch| {
                let parts = (group * MERGED..left.min((group + 1) * MERGED)).map(|number| place(level, number));
                let parts: Vec<PathBuf> = parts.collect();
                none(Ok(merge(&parts, &place(level + 1, group), Merged::Piece, watch)?))
            })?;
            (level, left) = (level + 1, groups);
        }
        watch.share("merge", 1, |_, watch| {
            let parts: Vec<PathBuf> = (0..left).map(|number| place(level, number)).collect();
            let merged = if other == OtherIndex::Replace { Merged::Replacing } else { Merged::Whole };
            none(Ok(merge(&parts, folder, merged, watch)?))
        })?;
        Ok(())
    }

    /// Into how many pieces so many documents are cut to be indexed by several ranks, however many these are: each of some runs of the pass,
    /// and no more than [`PIECES`].
    fn number_of_pieces(&self, documents: usize) -> Result<usize> {
        let Some(first) = self.chunks()?.next().transpose()? else { return Ok(1) };
        let of_document = first.prompts.positions().div_ceil(first.prompts.len().max(1));
        Ok(number_of_pieces(documents, of_document))
    }
}

/// Where the pieces are of which ranks make the index in `folder`.
fn folder_of_pieces(folder: &Path) -> Result<PathBuf> {
    Ok(durable::beside(folder, ".pieces")?)
}

/// What says of which index pieces are, in their folder.
const OF: &str = "of.json";

/// Makes the folder of pieces one of this index: those of another one give way if they may, and are an error otherwise, as is a folder
/// of anything else.
fn own_pieces(pieces: &Path, identity: &Identity, give_way: bool) -> Result<()> {
    if pieces.exists() && !is_begun(pieces, OF) {
        if !are_pieces(pieces) {
            return Err(directrix_index::Error::Occupied { path: pieces.into() }.into());
        }
        let difference = match durable::read_json::<Identity>(&pieces.join(OF)) {
            Ok(of) => of.difference(identity),
            Err(error) => Some(error.to_string()),
        };
        match difference {
            None => return Ok(()),
            Some(_) if give_way => remove_folder(pieces)?,
            Some(difference) => {
                return Err(directrix_index::Error::Other { path: pieces.into(), difference }.into());
            }
        }
    }
    fs::create_dir_all(pieces).map_err(|error| directrix_corpus::Error::Write { path: pieces.into(), error })?;
    Ok(durable::write_json(&pieces.join(OF), identity)?)
}

/// Whether a folder holds pieces, or nothing yet.
fn are_pieces(folder: &Path) -> bool {
    folder.join(OF).is_file() || folder.is_dir() && is_begun(folder, OF)
}

/// The pieces that ranks left of the index in `folder`, if they did.
pub(crate) fn left_of(folder: &Path) -> Option<PathBuf> {
    folder_of_pieces(folder).ok().filter(|pieces| are_pieces(pieces))
}

/// Into how many pieces documents of so many positions each are cut.
pub(crate) fn number_of_pieces(documents: usize, of_document: usize) -> usize {
    (documents.saturating_mul(of_document) / PIECE).clamp(1, PIECES).min(documents)
}
