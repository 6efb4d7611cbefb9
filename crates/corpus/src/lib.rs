//! Text, JSON lines and Parquet to tokenised prompts.
//!
//! - A [`Tokenizer`] is made of the files of a model's folder. It turns text into token ids and back.
//! - A [`Corpus`] is files of documents: `.txt`, `.jsonl` or `.parquet`. A [`Document`] is text, or token ids
//!   that are ready to run.
//! - [`durable`] is how files are written, and read again, by every room.
//! - [`Settings`] are the configuration files of others, read by type.
//! - A [`Team`] are the processes that do a long work together, in units; [`Ranks`] are those that exchange what they find.
//! - [`Prompts`] is a ragged batch of prompts: one vector of token ids and an offset per prompt, without padding.
//!
//! Documents stream: [`Corpus::documents`] reads them one by one, [`prompts`] tokenises them in parallel and hands them
//! on as [`Chunk`]s in the order of the file, so that memory is bounded by the chunk and not by the corpus. [`load`]
//! collects a corpus that is known to be small.
//!
//! ```text
//! Corpus ──documents──▶ Document ──prompts(Tokenizer, Tokenising)──▶ Chunk { prompts, cut }
//! ```
//!
//! # Example
//!
//! ```
//! use directrix_corpus::{Corpus, Tokenizer, TokenizerFiles, Tokenising, prompts};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = "../../assets/tinystories-2l";
//! let (tokenizer, config) = (std::fs::read(format!("{folder}/tokenizer.json"))?, std::fs::read(format!("{folder}/config.json"))?);
//! let files = TokenizerFiles { folder, tokenizer: &tokenizer, tokenizer_config: None, config: Some(&config) };
//! let tokenizer = Tokenizer::from_files(files)?;
//! let corpus = Corpus::open(&format!("{folder}/stories.txt"), None)?;
//!
//! let options =
//!     Tokenising { bos: tokenizer.bos(), max_len: 256, vocab_size: tokenizer.vocab_size(), chunk_prompts: 64 };
//! let mut chunks = prompts(corpus.name(), corpus.documents()?, Some(&tokenizer), options);
//!
//! let first = chunks.next().expect("a corpus gives a chunk or an error")?;
//! assert_eq!(first.prompts.len(), 64);
//! assert!(first.prompts.longest() <= 256);
//! assert_eq!(tokenizer.token_text(first.prompts.get(0)[1]), "Once");
//! # Ok(())
//! # }
//! ```

pub mod durable;
mod error;
mod memory;
mod prompts;
mod range;
mod ranks;
mod settings;
mod source;
mod team;
mod tokenise;
mod tokenizer;
mod visible;
mod watch;

pub use error::{Error, Result, caught};
pub use memory::{Need, check_memory, memory, peak_memory};
pub use prompts::Prompts;
pub use range::{in_range, real_number, whole_number};
pub use ranks::{Exchanges, Measured, Ranks, Threads, agree};
pub use settings::{Field, Settings};
pub use source::{Corpus, Document, FORMATS, Survey};
pub use team::{Team, difference};
pub use tokenise::{Chunk, Tokenising, join, load, prompts, prompts_after};
pub use tokenizer::{Tokenizer, TokenizerFiles, pieces, token_text};
pub use visible::{one_line, visible};
pub use watch::{Event, Watch};

/// Bytes in hexadecimal, as hashes are shown.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|half| char::from_digit(half.into(), 16)).collect()
}
