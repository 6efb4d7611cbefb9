//! Documents to prompts, in parallel and in order.

use std::collections::VecDeque;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::prompts::Prompts;
use crate::source::{Corpus, Document};
use crate::tokenizer::Tokenizer;

/// Documents tokenised together: enough to keep all threads busy.
const BATCH_DOCUMENTS: usize = 1024;

/// A batch ends early at this many bytes of documents, so that memory stays bounded where documents are long.
const BATCH_BYTES: usize = 4 << 20;

/// How documents become prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokenising {
    /// The token id put before every text that does not begin with it; ready ids get none.
    pub bos: Option<u32>,
    /// The most positions a prompt may have, BOS included: the model's context. A longer prompt keeps its first ones.
    pub max_len: usize,
    /// The number of token ids the model knows. An id at or above it is an error.
    pub vocab_size: usize,
    /// The number of prompts in each chunk but the last; 0 is taken for 1.
    pub chunk_prompts: usize,
}

/// Prompts that follow each other in a corpus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The prompts.
    pub prompts: Prompts,
    /// How many of these prompts were longer than the model's context and were cut.
    pub cut: usize,
}

/// Turns documents into prompts, chunk by chunk, in the documents' order.
///
/// `corpus` is the documents' name in errors. Documents are tokenised in parallel; the prompts depend neither on the
/// threads nor on the size of the chunks. Documents without any token of their own give no prompt.
///
/// # Errors
/// An item is an error where a document is one; where it is text and there is no tokenizer ([`Error::NoTokenizer`]);
/// where a token is not in the model's vocabulary ([`Error::OutsideVocabulary`]); and where no prompt comes out at all
/// ([`Error::Empty`]). The prompts before it have then been given, and the iterator ends after it.
pub fn prompts<D>(
    corpus: &str,
    documents: D,
    tokenizer: Option<&Tokenizer>,
    options: Tokenising,
) -> impl Iterator<Item = Result<Chunk>> + use<D>
where
    D: IntoIterator<Item = Result<Document>>,
{
    prompts_after(0, corpus, documents, tokenizer, options)
}

/// As [`prompts`] of documents that so many others come before, which errors count.
///
/// # Errors
/// As [`prompts`].
pub fn prompts_after<D>(
    before: usize,
    corpus: &str,
    documents: D,
    tokenizer: Option<&Tokenizer>,
    options: Tokenising,
) -> impl Iterator<Item = Result<Chunk>> + use<D>
where
    D: IntoIterator<Item = Result<Document>>,
{
    Stream {
        documents: documents.into_iter(),
        rows: Rows { corpus: corpus.into(), tokenizer: tokenizer.cloned(), options },
        read: before,
        ready: VecDeque::new(),
        failure: None,
        ended: false,
        given: false,
    }
}

/// All prompts of a corpus as one chunk, held in memory.
///
/// # Errors
/// Those of [`Corpus::documents`] and [`prompts`].
pub fn load(corpus: &Corpus, tokenizer: Option<&Tokenizer>, options: Tokenising) -> Result<Chunk> {
    join(prompts(corpus.name(), corpus.documents()?, tokenizer, options))
}

/// Chunks as one, held in memory.
///
/// # Errors
/// The first error among them.
pub fn join(chunks: impl IntoIterator<Item = Result<Chunk>>) -> Result<Chunk> {
    let mut all = Chunk::default();
    for chunk in chunks {
        let chunk = chunk?;
        all.prompts.extend(&chunk.prompts);
        all.cut += chunk.cut;
    }
    Ok(all)
}

/// One prompt, and whether it was cut.
struct Row {
    tokens: Vec<u32>,
    cut: bool,
}

/// What makes a document a row, whatever the thread.
struct Rows {
    corpus: String,
    tokenizer: Option<Tokenizer>,
    options: Tokenising,
}

impl Rows {
    fn row(&self, number: usize, document: Document) -> Result<Row> {
        let mut tokens = match document {
            Document::Tokens(ids) => ids,
            Document::Text(text) => {
                let no_tokenizer = || Error::NoTokenizer { corpus: self.corpus.clone(), document: number };
                let ids = self.tokenizer.as_ref().ok_or_else(no_tokenizer)?.encode(&text)?;
                // What begins with BOS as it is written needs no second one, and BOS alone is no prompt.
                let bos = self.options.bos.filter(|bos| ids.first().is_some_and(|first| first != bos));
                bos.into_iter().chain(ids).collect()
            }
        };
        let cut = tokens.len() > self.options.max_len;
        tokens.truncate(self.options.max_len);
        let vocab_size = self.options.vocab_size;
        match tokens.iter().position(|&token| token as usize >= vocab_size) {
            None => Ok(Row { tokens, cut }),
            Some(position) => Err(Error::OutsideVocabulary {
                corpus: self.corpus.clone(),
                document: number,
                position,
                token: tokens[position],
                vocab_size,
            }),
        }
    }
}

struct Stream<I> {
    documents: I,
    rows: Rows,
    /// The number of documents read.
    read: usize,
    ready: VecDeque<Row>,
    /// The first error, held back until the prompts before it are given.
    failure: Option<Error>,
    /// No further document is to be read.
    ended: bool,
    /// A chunk or an error has been given.
    given: bool,
}

impl<I: Iterator<Item = Result<Document>>> Stream<I> {
    /// Reads and tokenises one batch.
    fn fill(&mut self) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut failure = None;
        while batch.len() < BATCH_DOCUMENTS && bytes < BATCH_BYTES {
            match self.documents.next() {
                Some(Ok(document)) => {
                    bytes += match &document {
                        Document::Text(text) => text.len(),
                        Document::Tokens(ids) => size_of_val(&ids[..]),
                    };
                    batch.push(document);
                }
                Some(Err(error)) => {
                    failure = Some(error);
                    self.ended = true;
                    break;
                }
                None => {
                    self.ended = true;
                    break;
                }
            }
        }
        let first = self.read + 1;
        self.read += batch.len();
        // Collected as results: of several errors the first in the documents' order counts, whichever thread is first.
        let make = &self.rows;
        let rows: Vec<Result<Row>> =
            batch.into_par_iter().enumerate().map(|(index, document)| make.row(first + index, document)).collect();
        for row in rows {
            match row {
                Ok(row) if row.tokens.is_empty() => {}
                Ok(row) => self.ready.push_back(row),
                Err(error) => {
                    failure = Some(error);
                    self.ended = true;
                    break;
                }
            }
        }
        self.failure = failure;
    }

    fn next_chunk(&mut self) -> Option<Result<Chunk>> {
        let wanted = self.rows.options.chunk_prompts.max(1);
        while self.ready.len() < wanted && !self.ended {
            self.fill();
        }
        if self.ready.is_empty() {
            let empty = || Error::Empty { corpus: self.rows.corpus.clone() };
            return self.failure.take().or_else(|| (!self.given).then(empty)).map(Err);
        }
        let mut chunk = Chunk::default();
        for row in self.ready.drain(..wanted.min(self.ready.len())) {
            chunk.prompts.push(&row.tokens);
            chunk.cut += usize::from(row.cut);
        }
        Some(Ok(chunk))
    }
}

impl<I: Iterator<Item = Result<Document>>> Iterator for Stream<I> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Result<Chunk>> {
        let chunk = self.next_chunk();
        self.given = true;
        chunk
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Chunk, Prompts, Tokenising, load, prompts};
    use crate::tokenizer::tests::SHIPPED as TOKENIZER;
    use crate::{Corpus, Document, Error, Result};

    const OPTIONS: Tokenising = Tokenising { bos: Some(0), max_len: 8, vocab_size: 4096, chunk_prompts: 3 };

    fn text(text: &str) -> Document {
        Document::Text(text.into())
    }

    fn ids(ids: &[u32]) -> Document {
        Document::Tokens(ids.into())
    }

    fn run(documents: Vec<Document>, options: Tokenising) -> Vec<Result<Chunk>> {
        prompts("x", documents.into_iter().map(Ok), Some(&TOKENIZER), options).collect()
    }

    /// The prompts of a run without errors.
    fn all(documents: Vec<Document>, options: Tokenising) -> Chunk {
        let mut all = Chunk::default();
        for chunk in run(documents, options) {
            let chunk = chunk.unwrap();
            all.prompts.extend(&chunk.prompts);
            all.cut += chunk.cut;
        }
        all
    }

    #[test]
    fn a_text_gets_bos_if_there_is_one_and_ready_ids_never() {
        let said = TOKENIZER.single_token(" said").unwrap();
        let documents = || vec![text(" said"), ids(&[7, 8])];
        assert_eq!(all(documents(), OPTIONS).prompts, Prompts::from_rows([&[0, said][..], &[7, 8]]));
        let without = all(documents(), Tokenising { bos: None, ..OPTIONS });
        assert_eq!(without.prompts, Prompts::from_rows([&[said][..], &[7, 8]]));
    }

    #[test]
    fn a_text_that_begins_with_bos_gets_no_second_one() {
        let said = TOKENIZER.single_token(" said").unwrap();
        let documents = || vec![text("<|endoftext|> said"), text(" said<|endoftext|>"), text("<|endoftext|>")];
        assert_eq!(all(documents(), OPTIONS).prompts, Prompts::from_rows([&[0, said][..], &[0, said, 0], &[0]]));
        let without = all(documents(), Tokenising { bos: None, ..OPTIONS });
        assert_eq!(without.prompts, Prompts::from_rows([&[0, said][..], &[said, 0], &[0]]));
    }

    #[test]
    fn a_long_prompt_keeps_its_first_positions_and_is_counted() {
        let long = "Once upon a time, there was a little boy named Tim.";
        let documents = vec![text(long), ids(&[1; 9]), ids(&[1; 8]), text("Tim")];
        let mut whole = vec![0];
        whole.extend(TOKENIZER.encode(long).unwrap());
        let chunk = all(documents, OPTIONS);
        assert_eq!(chunk.cut, 2);
        assert_eq!(chunk.prompts.get(0), &whole[..8]);
        assert_eq!(chunk.prompts.iter().map(<[u32]>::len).collect::<Vec<_>>(), [8, 8, 8, 2]);
    }

    #[test]
    fn documents_without_tokens_give_no_prompt() {
        let documents = || vec![ids(&[]), text(""), ids(&[5])];
        for bos in [None, Some(0)] {
            assert_eq!(all(documents(), Tokenising { bos, ..OPTIONS }).prompts, Prompts::from_rows([[5]]));
        }
    }

    #[test]
    fn a_corpus_without_prompts_is_one_error() {
        for documents in [vec![], vec![ids(&[]), ids(&[])]] {
            let chunks = run(documents, OPTIONS);
            assert!(matches!(&chunks[..], [Err(Error::Empty { corpus })] if corpus == "x"), "{chunks:?}");
        }
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_located() {
        let documents = vec![ids(&[1]), ids(&[]), ids(&[4095, 4096]), ids(&[9999])];
        let chunks = run(documents, OPTIONS);
        let [Ok(before), Err(error)] = &chunks[..] else { panic!("{chunks:?}") };
        assert_eq!(before.prompts, Prompts::from_rows([[1]]));
        let expected = "corpus `x`, document 3, position 1: token id 4096 is outside the model's vocabulary of 4096";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(matches!(
            run(vec![text("Tim")], Tokenising { bos: Some(5000), ..OPTIONS })[..],
            [Err(Error::OutsideVocabulary { document: 1, position: 0, token: 5000, .. })]
        ));
    }

    #[test]
    fn text_needs_a_tokenizer_and_ids_do_not() {
        let chunks: Vec<_> = prompts("x", [ids(&[1]), text("Tim")].map(Ok), None, OPTIONS).collect();
        assert!(matches!(&chunks[..], [Ok(_), Err(Error::NoTokenizer { document: 2, .. })]), "{chunks:?}");
    }

    #[test]
    fn the_first_error_ends_the_prompts_after_those_before_it() {
        let failed = || Err(Error::Empty { corpus: "inner".into() });
        let run = |documents: Vec<_>| prompts("x", documents, None, OPTIONS).collect::<Vec<_>>();
        let chunks = run(vec![Ok(ids(&[1])), Ok(ids(&[2])), failed(), Ok(ids(&[3])), failed()]);
        let [Ok(before), Err(Error::Empty { corpus })] = &chunks[..] else { panic!("{chunks:?}") };
        assert_eq!((before.prompts.len(), corpus.as_str()), (2, "inner"));
        let chunks = run(vec![Ok(ids(&[9999])), failed()]);
        assert!(matches!(&chunks[..], [Err(Error::OutsideVocabulary { .. })]), "{chunks:?}");
    }

    #[test]
    fn load_gives_the_chunks_joined() {
        let corpus = Corpus::open("../../assets/tinystories-2l/stories.txt", None).unwrap();
        let options = Tokenising { max_len: 100, chunk_prompts: 300, ..OPTIONS };
        let loaded = load(&corpus, Some(&TOKENIZER), options).unwrap();
        assert_eq!(loaded.prompts.len(), 2000);
        assert!(loaded.prompts.iter().all(|prompt| prompt[0] == 0));
        let one_longer = load(&corpus, Some(&TOKENIZER), Tokenising { max_len: 101, ..options }).unwrap();
        let longer = one_longer.prompts.iter().filter(|prompt| prompt.len() > 100).count();
        assert!(loaded.cut == longer && longer > 0);
        let chunks: Vec<_> = prompts(corpus.name(), corpus.documents().unwrap(), Some(&TOKENIZER), options)
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            chunks.iter().map(|chunk| chunk.prompts.len()).collect::<Vec<_>>(),
            [300, 300, 300, 300, 300, 300, 200]
        );
        assert_eq!(chunks[6].prompts, loaded.prompts.range(1800..2000));
    }

    proptest! {
        #[test]
        fn chunking_does_not_change_the_prompts(
            documents in prop::collection::vec(prop_oneof![
                "[a-z .\"]{0,40}".prop_map(Document::Text),
                prop::collection::vec(0..4096_u32, 0..12).prop_map(Document::Tokens),
            ], 0..40),
            chunk_prompts in 0..50_usize,
        ) {
            let expected: Vec<Vec<u32>> = documents.iter().map(|document| {
                let mut row = match document {
                    Document::Tokens(ids) => ids.clone(),
                    Document::Text(text) if text.is_empty() => Vec::new(),
                    Document::Text(text) => [vec![0], TOKENIZER.encode(text).unwrap()].concat(),
                };
                row.truncate(8);
                row
            }).filter(|row| !row.is_empty()).collect();
            let chunks = run(documents, Tokenising { chunk_prompts, ..OPTIONS });
            if expected.is_empty() {
                let empty = matches!(&chunks[..], [Err(Error::Empty { .. })]);
                prop_assert!(empty);
            } else {
                let rows = expected.chunks(chunk_prompts.max(1));
                prop_assert_eq!(chunks.len(), rows.len());
                for (chunk, rows) in chunks.into_iter().zip(rows) {
                    prop_assert_eq!(chunk.unwrap().prompts, Prompts::from_rows(rows));
                }
            }
        }
    }
}
