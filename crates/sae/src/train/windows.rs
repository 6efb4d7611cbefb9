//! The stream of token windows that activations are made of.

use std::collections::VecDeque;

use directrix_corpus::{self as corpus, Event, Watch};

use super::recipe::WindowStyle;
use crate::{Error, Result};

/// Gives a corpus's documents as tokens, each with its BOS, from the first one on; called again when they end.
pub type Documents<'a> = dyn Fn() -> corpus::Result<Box<dyn Iterator<Item = corpus::Result<corpus::Chunk>> + 'a>> + 'a;

/// An endless stream of windows: the corpus over and over, the same windows each time.
pub struct Windows<'a> {
    documents: &'a Documents<'a>,
    style: WindowStyle,
    context: usize,
    bos: Option<u32>,
    chunks: Box<dyn Iterator<Item = corpus::Result<corpus::Chunk>> + 'a>,
    ready: VecDeque<Vec<u32>>,
    /// Packed: the tokens that do not fill a window yet.
    rest: Vec<u32>,
    given: u64,
    /// Windows of one reading of the corpus, once it has been read.
    per_reading: Option<u64>,
}

impl<'a> Windows<'a> {
    /// The stream from its beginning: windows of `context` positions at most, `bos` before every document if it is some.
    ///
    /// # Errors
    /// If the documents cannot be read.
    pub fn new(
        documents: &'a Documents<'a>,
        style: WindowStyle,
        context: usize,
        bos: Option<u32>,
    ) -> Result<Windows<'a>> {
        let chunks = documents()?;
        Ok(Windows {
            documents,
            style,
            context,
            bos,
            chunks,
            ready: VecDeque::new(),
            rest: Vec::new(),
            given: 0,
            per_reading: None,
        })
    }

    /// Windows given so far: the number of the next one.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// Windows of one reading of the corpus, if it has been read once.
    pub fn per_reading(&self) -> Option<u64> {
        self.per_reading
    }

    /// The next window.
    ///
    /// # Errors
    /// If a document cannot be read, or the corpus has no window at all.
    pub fn advance(&mut self) -> Result<Vec<u32>> {
        loop {
            if let Some(window) = self.ready.pop_front() {
                self.given += 1;
                return Ok(window);
            }
            match self.chunks.next() {
                Some(chunk) => chunk?.prompts.iter().for_each(|document| self.cut(document)),
                None if self.given == 0 => return Err(Error::NoWindow { context: self.context }),
                None => {
                    self.per_reading.get_or_insert(self.given);
                    self.rest.clear();
                    self.chunks = (self.documents)()?;
                }
            }
        }
    }

    /// Passes over windows up to number `number`, to go on where a run was stopped.
    ///
    /// # Errors
    /// As [`advance`](Windows::advance); [`Error::Stopped`] if the watch says so.
    pub fn skip_to(&mut self, number: u64, watch: &Watch) -> Result<()> {
        const TOLD: u64 = 1 << 14;
        while self.given < number {
            if watch.is_stopped() {
                return Err(Error::Stopped);
            }
            if self.given.is_multiple_of(TOLD) {
                watch.tell(Event::new("passing over what was read", self.given, "windows").of(number));
            }
            self.advance()?;
        }
        Ok(())
    }

    fn cut(&mut self, document: &[u32]) {
        match self.style {
            WindowStyle::Packed => {
                self.rest.extend_from_slice(document);
                let whole = self.rest.len() / self.context * self.context;
                self.ready.extend(self.rest[..whole].chunks(self.context).map(<[u32]>::to_vec));
                self.rest.drain(..whole);
            }
            WindowStyle::Documents => {
                let (first, rest) = document.split_at(document.len().min(self.context));
                self.ready.push_back(first.to_vec());
                let bos = self.bos.filter(|bos| first.first() == Some(bos));
                let room = self.context - usize::from(bos.is_some());
                self.ready.extend(rest.chunks(room).map(|part| bos.into_iter().chain(part.iter().copied()).collect()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use directrix_corpus::{Chunk, Prompts};

    use super::{WindowStyle, Windows};

    fn windows(style: WindowStyle, count: usize) -> Vec<Vec<u32>> {
        let documents = || {
            let prompts = Prompts::from_rows([&[0, 1, 2][..], &[0, 3, 4, 5, 6, 7, 8, 9], &[0, 10]]);
            let chunks = vec![Ok(Chunk { prompts, cut: 0 })];
            Ok(Box::new(chunks.into_iter()) as Box<dyn Iterator<Item = _>>)
        };
        let mut stream = Windows::new(&documents, style, 4, Some(0)).unwrap();
        (0..count).map(|_| stream.advance().unwrap()).collect()
    }

    #[test]
    fn documents_begin_windows_and_go_on_after_a_bos_of_their_own() {
        let once: [&[u32]; 5] = [&[0, 1, 2], &[0, 3, 4, 5], &[0, 6, 7, 8], &[0, 9], &[0, 10]];
        assert_eq!(windows(WindowStyle::Documents, 10), [once, once].concat());
    }

    #[test]
    fn packed_windows_have_one_length_and_a_reading_begins_anew() {
        let once: [&[u32]; 3] = [&[0, 1, 2, 0], &[3, 4, 5, 6], &[7, 8, 9, 0]];
        assert_eq!(windows(WindowStyle::Packed, 6), [once, once].concat());
    }

    #[test]
    fn a_corpus_without_a_whole_window_is_an_error() {
        let documents = || Ok(Box::new(std::iter::empty()) as Box<dyn Iterator<Item = _>>);
        assert!(Windows::new(&documents, WindowStyle::Packed, 4, None).unwrap().advance().is_err());
    }
}
