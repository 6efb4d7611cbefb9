//! An index, opened.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use directrix_corpus::durable::Mapped;
use serde::{Deserialize, Serialize};

use crate::identity::For;
use crate::layout::{self, Contents, Files, ShardMeta, of_shard};
use crate::piece::are_sound;
use crate::{Error, Identity, Options, Piece, Result, SaeIndex};

/// No vocabulary is larger, so that a damaged count of tokens asks for no memory.
const MOST_TOKENS: usize = 1 << 24;

/// What an index holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// What it is an index of.
    pub identity: Identity,
    /// Number of prompts.
    pub prompts: usize,
    /// Number of positions of all prompts.
    pub positions: u64,
    /// Those that count, by [`Options`].
    pub counted: u64,
    /// Prompts that were longer than the context and were cut.
    pub cut: usize,
    /// Size of the model's vocabulary.
    pub vocabulary: usize,
    /// Of which documents it is, in their order, where these are not all of the corpus.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<Piece>,
}

/// A corpus pass on disk.
///
/// Opening it checks what is small: that all files are there in their sizes, offsets, and what is said of each direction. What
/// grows with the corpus is checked when it is first used, block by block against checksums and value by value against what it
/// may be, so that a query is an error where the files are damaged, and opening takes no longer for a larger corpus.
#[derive(Debug)]
pub struct Index {
    meta: Meta,
    prompts: Arc<Prompts>,
    saes: Vec<SaeIndex>,
}

/// The tokens of all prompts.
#[derive(Debug)]
pub(crate) struct Prompts {
    pub(crate) count: usize,
    pub(crate) vocabulary: usize,
    pub(crate) shards: Vec<Shard>,
}

/// The tokens of a shard's prompts.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) first_prompt: usize,
    pub(crate) first_position: u64,
    pub(crate) tokens: Mapped<u32>,
    /// Where each prompt begins in the shard, and where the last ends.
    pub(crate) offsets: Vec<u32>,
}

/// Where a prompt is.
pub(crate) struct Place {
    /// Number of its shard.
    pub(crate) shard: usize,
    /// Where it begins in the shard.
    pub(crate) start: u32,
    /// Where it ends.
    pub(crate) end: u32,
}

impl Index {
    /// Opens the index in `folder`.
    ///
    /// # Errors
    /// If there is none, it has another format, a file is missing or has another size than it should, or one of those that are
    /// checked at once is damaged.
    pub fn open(folder: &Path) -> Result<Index> {
        let (contents, files) = layout::read(folder)?;
        check_counts(folder, &contents)?;
        let prompts = Arc::new(Prompts::open(&contents, &files)?);
        let sae = |number| SaeIndex::open(number, &contents, &files, prompts.clone());
        let saes = (0..contents.saes.len()).map(sae).collect::<Result<_>>()?;
        Ok(Index { prompts, saes, meta: contents.meta })
    }

    /// What it holds.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Number of prompts.
    pub fn prompts(&self) -> usize {
        self.meta.prompts
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// If there is no such prompt, or its tokens are damaged.
    pub fn prompt(&self, prompt: usize) -> Result<&[u32]> {
        let Place { shard, start, end } = self.prompts.place(prompt)?;
        self.prompts.tokens(shard, start..end)
    }

    /// Up to `n` prompts, spread evenly over all.
    ///
    /// # Errors
    /// If their tokens are damaged.
    pub fn spread(&self, n: usize) -> Result<Vec<&[u32]>> {
        let (there, n) = (self.prompts(), n.min(self.prompts()));
        (0..n).map(|i| self.prompt(i * there / n)).collect()
    }

    /// The positions of a prompt from the first that [counts](Options) to the last; tokens that do not count may lie between.
    ///
    /// # Errors
    /// If there is no such prompt.
    pub fn counted(&self, prompt: usize) -> Result<Range<usize>> {
        let Place { start, end, .. } = self.prompts.place(prompt)?;
        let length = (end - start) as usize;
        let counts = |place: &usize| self.meta.identity.options.counts(For::Rest, *place, length, None);
        let first = (0..length).find(counts).unwrap_or(length);
        Ok(first..(first..length).rfind(counts).map_or(first, |last| last + 1))
    }

    /// How many tokens each prompt has, in order.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        let shards = self.prompts.shards.iter();
        shards.flat_map(|shard| shard.offsets.windows(2).map(|ends| (ends[1] - ends[0]) as usize))
    }

    /// How often each token occurs in the corpus, BOS included: `[vocabulary]`.
    ///
    /// # Errors
    /// If the tokens are damaged.
    pub fn occurrences(&self) -> Result<Vec<u64>> {
        self.prompts.occurrences()
    }

    /// The number of an SAE that is named by its short name, or by its number.
    pub fn number_of(&self, name: &str) -> Option<usize> {
        let number = name.parse::<usize>().ok().filter(|number| *number < self.saes.len());
        number.or_else(|| self.saes.iter().position(|sae| sae.name() == name))
    }

    pub(crate) fn all_prompts(&self) -> &Arc<Prompts> {
        &self.prompts
    }

    /// The part of SAE number `sae`.
    ///
    /// # Panics
    /// If there are not as many; see [`saes`](Index::saes).
    pub fn sae(&self, sae: usize) -> &SaeIndex {
        &self.saes[sae]
    }

    /// The parts of all SAEs.
    pub fn saes(&self) -> &[SaeIndex] {
        &self.saes
    }
}

/// That the counts of the index are those of its shards, and can be numbered.
fn check_counts(folder: &Path, contents: &Contents) -> Result<()> {
    let Contents { meta, shards, saes, .. } = contents;
    let prompts = shards.iter().try_fold(0_usize, |sum, shard| sum.checked_add(shard.prompts));
    let positions = shards.iter().try_fold(0_u64, |sum, shard| sum.checked_add(shard.positions));
    let numbered = |shard: &ShardMeta| u32::try_from(shard.positions).is_ok() && shard.active.len() == saes.len();
    let directions = |n: usize| (1..=u32::MAX as usize).contains(&n);
    if prompts == Some(meta.prompts)
        && positions == Some(meta.positions)
        && shards.iter().all(numbered)
        && !saes.is_empty()
        && saes.len() == meta.identity.saes.len()
        && saes.iter().all(|sae| directions(sae.directions))
        && meta.vocabulary <= MOST_TOKENS
        && meta.counted <= meta.positions
        && are_sound(&meta.pieces, meta.prompts)
    {
        return Ok(());
    }
    Err(Error::damaged(folder.join(layout::INDEX), "its counts do not agree"))
}

impl Prompts {
    pub(crate) fn open(contents: &Contents, files: &Files) -> Result<Prompts> {
        let (mut first_prompt, mut first_position) = (0, 0);
        let mut shards = Vec::new();
        for (number, meta) in contents.shards.iter().enumerate() {
            let tokens = files.map(of_shard(number, "tokens.u32"), meta.positions)?;
            let offsets = files.offsets(of_shard(number, "offsets.u32"), meta.prompts as u64, meta.positions)?;
            shards.push(Shard { first_prompt, first_position, tokens, offsets });
            first_prompt += meta.prompts;
            first_position += meta.positions;
        }
        Ok(Prompts { count: first_prompt, vocabulary: contents.meta.vocabulary, shards })
    }

    /// Where a prompt is.
    pub(crate) fn place(&self, prompt: usize) -> Result<Place> {
        if prompt >= self.count {
            return Err(Error::Outside { what: "prompt", number: prompt, there: self.count });
        }
        let shard = self.shards.partition_point(|shard| shard.first_prompt <= prompt) - 1;
        let Shard { first_prompt, offsets, .. } = &self.shards[shard];
        let own = prompt - first_prompt;
        Ok(Place { shard, start: offsets[own], end: offsets[own + 1] })
    }

    /// How many positions count.
    pub(crate) fn counted(&self, options: &Options) -> Result<u64> {
        let mut counted = 0;
        for (number, shard) in self.shards.iter().enumerate() {
            for ends in shard.offsets.windows(2) {
                let tokens = self.tokens(number, ends[0]..ends[1])?;
                let counts =
                    |(place, token): (usize, &u32)| options.counts(For::Rest, place, tokens.len(), Some(*token));
                counted += tokens.iter().enumerate().filter(|of| counts(*of)).count() as u64;
            }
        }
        Ok(counted)
    }

    /// How often each token occurs.
    pub(crate) fn occurrences(&self) -> Result<Vec<u64>> {
        let mut counts = vec![0; self.vocabulary];
        for (number, shard) in self.shards.iter().enumerate() {
            let tokens = self.tokens(number, 0..shard.tokens.len() as u32)?;
            tokens.iter().for_each(|token| counts[*token as usize] += 1);
        }
        Ok(counts)
    }

    /// The tokens at some positions of a shard.
    pub(crate) fn tokens(&self, shard: usize, range: Range<u32>) -> Result<&[u32]> {
        let file = &self.shards[shard].tokens;
        let tokens = file.get(u64::from(range.start)..u64::from(range.end))?;
        if tokens.iter().all(|token| (*token as usize) < self.vocabulary) {
            return Ok(tokens);
        }
        Err(Error::damaged(file.path().into(), "it holds a token outside the vocabulary"))
    }
}
