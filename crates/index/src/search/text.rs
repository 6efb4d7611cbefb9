//! The text of an index's prompts, and which token each of its bytes is of.

use directrix_corpus::{Need, Tokenizer, Watch, check_memory};
use memchr::memmem::Finder;
use rayon::prelude::*;
use regex::bytes::Regex;

use crate::index::Prompts;
use crate::{Error, Result};

/// Prompts whose text is one piece of memory, and one piece of work.
const PIECE: usize = 64;

/// The text of all prompts: the bytes of their tokens, without the BOS that a prompt begins with.
///
/// It takes as much memory as the corpus is long, about four bytes a token of English, and eight bytes a prompt.
#[derive(Debug)]
pub(crate) struct Text {
    pieces: Vec<Piece>,
    /// Bytes of each token that occurs.
    lengths: Vec<usize>,
    bos: Option<u32>,
}

/// The text of prompts that follow each other in a shard.
#[derive(Debug)]
struct Piece {
    shard: usize,
    /// The first prompt, counted from the shard's first.
    first: usize,
    bytes: Vec<u8>,
    /// Where each prompt ends in `bytes`.
    ends: Vec<usize>,
}

impl Text {
    /// Decodes the prompts, as the tokens of each would stand within a longer text.
    pub(crate) fn of(prompts: &Prompts, tokenizer: &Tokenizer) -> Result<Text> {
        let bos = tokenizer.bos();
        let occurrences = prompts.occurrences()?;
        let texts: Vec<Vec<u8>> = occurrences
            .par_iter()
            .enumerate()
            .map(|(token, n)| if *n == 0 { Vec::new() } else { tokenizer.bytes(token as u32) })
            .collect();
        let bytes = occurrences
            .iter()
            .zip(&texts)
            .fold(0_u64, |sum, (n, text)| sum.saturating_add(n.saturating_mul(text.len() as u64)));
        check_memory(&[Need { option: "--limit, and make a smaller index", bytes }])?;
        let pieces = prompts
            .shards
            .iter()
            .enumerate()
            .flat_map(|(shard, of)| (0..of.offsets.len() - 1).step_by(PIECE).map(move |first| (shard, first)));
        let piece = |(shard, first): (usize, usize)| {
            let offsets = &prompts.shards[shard].offsets[first..];
            let offsets = &offsets[..offsets.len().min(PIECE + 1)];
            let tokens = prompts.tokens(shard, offsets[0]..offsets[offsets.len() - 1])?;
            let mut bytes = Vec::with_capacity(tokens.iter().map(|token| texts[*token as usize].len()).sum());
            let mut ends = Vec::with_capacity(PIECE);
            for place in offsets.windows(2) {
                let own = &tokens[(place[0] - offsets[0]) as usize..(place[1] - offsets[0]) as usize];
                for token in &own[usize::from(begins_with(own, bos))..] {
                    bytes.extend_from_slice(&texts[*token as usize]);
                }
                ends.push(bytes.len());
            }
            Ok(Piece { shard, first, bytes, ends })
        };
        let pieces = pieces.collect::<Vec<_>>().into_par_iter().map(piece).collect::<Result<_>>()?;
        Ok(Text { pieces, lengths: texts.iter().map(Vec::len).collect(), bos })
    }

    /// The positions, counted over the corpus, of the last token of every match. `ends` gives where matches end in a prompt's
    /// bytes, rising: the next after the byte that it is given, or from the start.
    fn find<State>(
        &self,
        prompts: &Prompts,
        watch: &Watch,
        state: impl Fn() -> State + Sync + Send,
        each: impl Fn(&State, &[u8], &mut Tokens) + Sync + Send,
    ) -> Result<Vec<Vec<u64>>> {
        let piece = |state: &mut State, piece: &Piece| {
            let shard = &prompts.shards[piece.shard];
            let (mut found, mut start) = (Vec::new(), 0);
            for (number, end) in piece.ends.iter().enumerate() {
                if watch.is_stopped() {
                    return Err(Error::GivenUp);
                }
                let range = shard.offsets[piece.first + number]..shard.offsets[piece.first + number + 1];
                let first = shard.first_position + u64::from(range.start);
                let tokens = prompts.tokens(piece.shard, range)?;
                let bos = usize::from(begins_with(tokens, self.bos));
                let mut tokens =
                    Tokens { ids: tokens, lengths: &self.lengths, at: bos, end: 0, first, found: &mut found };
                each(state, &piece.bytes[start..*end], &mut tokens);
                start = *end;
            }
            Ok(found)
        };
        self.pieces.par_iter().map_init(state, piece).collect()
    }

    /// The last tokens of all places where `text` is, those that overlap too.
    pub(crate) fn find_text(&self, prompts: &Prompts, text: &str, watch: &Watch) -> Result<Vec<Vec<u64>>> {
        let finder = Finder::new(text);
        self.find(
            prompts,
            watch,
            || (),
            |(), bytes, tokens| {
                let mut from = 0;
                while let Some(at) = bytes.get(from..).and_then(|rest| finder.find(rest)) {
                    // Another match that ends in the same token would tell nothing new.
                    let Some(end) = tokens.reach(from + at + text.len()) else { return };
                    from = (end + 1).saturating_sub(text.len()).max(from + at + 1);
                }
            },
        )
    }

    /// The last tokens of all matches of `regex` that are not empty.
    pub(crate) fn find_regex(&self, prompts: &Prompts, regex: &Regex, watch: &Watch) -> Result<Vec<Vec<u64>>> {
        self.find(
            prompts,
            watch,
            || regex.clone(),
            |regex, bytes, tokens| {
                for found in regex.find_iter(bytes).filter(|found| !found.is_empty()) {
                    if tokens.reach(found.end()).is_none() {
                        return;
                    }
                }
            },
        )
    }
}

/// A walk along the tokens of a prompt.
struct Tokens<'a> {
    ids: &'a [u32],
    lengths: &'a [usize],
    /// Tokens walked over.
    at: usize,
    /// Where the last of them ends in the prompt's text.
    end: usize,
    /// Position of the first token in the corpus.
    first: u64,
    found: &'a mut Vec<u64>,
}

impl Tokens<'_> {
    /// Walks to the token of the byte before `end`, notes its position, and says where it ends. None if there is no such token,
    /// which cannot be where the text is that of the tokens.
    fn reach(&mut self, end: usize) -> Option<usize> {
        while self.end < end {
            self.end += self.lengths[*self.ids.get(self.at)? as usize];
            self.at += 1;
        }
        self.found.push(self.first + self.at.checked_sub(1)? as u64);
        Some(self.end)
    }
}

fn begins_with(tokens: &[u32], bos: Option<u32>) -> bool {
    bos.is_some() && tokens.first().copied() == bos
}

/// A regular expression of bounded size.
pub(crate) fn regex(pattern: &str) -> Result<Regex, String> {
    const PROGRAM: usize = 1 << 20;
    const STATES: usize = 1 << 23;
    let mut builder = regex::bytes::RegexBuilder::new(pattern);
    builder.size_limit(PROGRAM).dfa_size_limit(STATES).nest_limit(64).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            format!("the regular expression takes more than {PROGRAM} bytes; give a shorter one")
        }
        // The problem is on the last of several lines that draw the place.
        error => {
            let said = error.to_string();
            let problem = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("the regular expression cannot be understood: {problem}")
        }
    })
}
