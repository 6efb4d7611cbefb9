//! Flags that several commands share, as typed and as meant.

use std::io::{self, Read};

use anyhow::{Context, bail};
use clap::Args;
use directrix::corpus::{self, Chunk, Corpus, Prompts};
use directrix::lab::{self, Opened, Steps, Wanted};
use directrix::model::Config;
use directrix::sae::Counted;

use super::numbers::{MANY, THREADS, whole};
use super::terminal::{note, thousands};
use super::watch::sources;

/// What stands for standard input.
const STDIN: &str = "-";

/// A model, whose activations SAEs read.
#[derive(Args)]
pub(crate) struct SubjectArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
    #[command(flatten)]
    processing: ProcessingArgs,
}

#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Model: a Hugging Face folder, a .bin of llama2.c, owner/name on the hub, a name of TransformerLens, or the shipped one (docs/sources.md)
    #[arg(long, value_name = "MODEL", default_value = lab::MODEL)]
    pub(crate) model: String,
}

#[derive(Args)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct ProcessingArgs {
    /// Use the weights as they are in the checkpoint: none of the four steps below [default: as the SAEs were trained, where they
    /// say so, else all four]
    #[arg(long, help_heading = "Weights")]
    no_processing: bool,
    /// Do not fold LayerNorm into the weights that read it
    #[arg(long, help_heading = "Weights")]
    no_fold_ln: bool,
    /// Do not centre the weights that write to the residual stream
    #[arg(long, help_heading = "Weights")]
    no_center_writing_weights: bool,
    /// Do not centre the unembedding
    #[arg(long, help_heading = "Weights")]
    no_center_unembed: bool,
    /// Do not fold value biases into the output bias of attention
    #[arg(long, help_heading = "Weights")]
    no_fold_value_biases: bool,
}

#[derive(Args)]
pub(crate) struct CorpusArgs {
    /// Corpus: a .txt, .jsonl or .parquet file, a folder of them, owner/name:split on the hub, or the shipped one
    #[arg(long, value_name = "CORPUS", default_value = lab::CORPUS)]
    corpus: String,
    #[command(flatten)]
    documents: DocumentArgs,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct PromptSource {
    /// Prompts: a .txt, .jsonl or .parquet file, read as a corpus is; `-` reads text or JSON lines from standard input
    #[arg(long, value_name = "FILE")]
    prompts: Option<String>,
    /// A prompt itself; give it once for each prompt
    #[arg(long, value_name = "TEXT")]
    text: Vec<String>,
}

#[derive(Args)]
pub(crate) struct PromptArgs {
    #[command(flatten)]
    source: PromptSource,
    #[command(flatten)]
    documents: DocumentArgs,
}

#[derive(Args)]
struct DocumentArgs {
    /// Column that holds the text or the token ids [default: text, or else tokens]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Read only the first N documents
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..))]
    limit: Option<usize>,
    #[command(flatten)]
    bos: BosArgs,
}

#[derive(Args)]
pub(crate) struct BosArgs {
    /// Begin every text with BOS [default: as the model's family was trained]; ready token ids never get one
    #[arg(long, overrides_with = "no_bos")]
    bos: bool,
    /// Do not begin texts with BOS [default: as the model's family was trained]
    #[arg(long)]
    no_bos: bool,
}

/// Which positions count.
#[derive(Args)]
pub(crate) struct CountedArgs {
    /// Leave this many positions at the start of every prompt out of all that is said
    #[arg(long, value_name = "N", default_value_t = Counted::default().skip_first, value_parser = whole::<usize>(0..=MANY))]
    skip_first: usize,
    /// Count the last position of every prompt too, which predicts nothing
    #[arg(long)]
    include_last: bool,
    /// Leave out positions that hold this token, given by its id or its text; give it once for each
    #[arg(long, value_name = "ID|TOKEN")]
    exclude: Vec<String>,
}

#[derive(Args)]
pub(crate) struct ThreadArgs {
    /// Threads to use [default: one for each core]; results do not depend on it
    #[arg(long, value_name = "N", display_order = 900, value_parser = whole::<usize>(1..=THREADS))]
    threads: Option<usize>,
}

/// Which SAEs a command works on, of those that are asked for.
#[derive(Clone, Copy)]
pub(crate) enum Saes<'a> {
    /// These, if any.
    Named(&'a [String]),
    /// These, or else the model's own.
    All(&'a [String]),
    /// This, or else the last of the model's own.
    One(Option<&'a str>),
    /// These two, or else the model's own, the earlier one first.
    Two(&'a [String]),
}

impl SubjectArgs {
    /// Opens what the flags name; to be called before any work is done.
    pub(crate) fn open(&self, saes: Saes<'_>, documents: Wanted) -> anyhow::Result<Opened> {
        self.threads.apply()?;
        let (model, processing) = (self.model.model.clone(), self.processing.meant());
        let opened = Wanted { model, processing, saes: self.saes(saes)?, ..documents }.open_from(&sources())?;
        note_model(&opened);
        Ok(opened)
    }

    /// Whether it is the shipped model as it is taken where nothing is said.
    pub(crate) fn is_default(&self) -> bool {
        self.model.model == lab::MODEL && self.processing.meant() == Steps::default()
    }

    fn saes(&self, wanted: Saes) -> anyhow::Result<Vec<String>> {
        let given = match wanted {
            Saes::Named(saes) | Saes::All(saes) | Saes::Two(saes) => saes.to_vec(),
            Saes::One(sae) => sae.into_iter().map(String::from).collect(),
        };
        if !given.is_empty() || matches!(wanted, Saes::Named(_)) {
            return two_or_any(wanted, given);
        }
        let mut own = lab::saes_of(&self.model.model);
        if own.is_empty() {
            bail!("no SAE given for the model `{}`; name one or more with --sae", self.model.model);
        }
        if let Saes::One(_) = wanted {
            own.drain(..own.len() - 1);
        }
        two_or_any(wanted, own)
    }
}

/// An error where two are wanted and there are not two.
fn two_or_any(wanted: Saes, saes: Vec<String>) -> anyhow::Result<Vec<String>> {
    match (wanted, saes.len()) {
        (Saes::Two(_), found) if found != 2 => {
            bail!("this works on two SAEs, and --sae was given {found} times; name the earlier one by --sae first")
        }
        _ => Ok(saes),
    }
}

impl ProcessingArgs {
    pub(crate) fn meant(&self) -> Steps {
        let left_out = |flag: bool| (flag || self.no_processing).then_some(false);
        Steps {
            fold_ln: left_out(self.no_fold_ln),
            center_writing_weights: left_out(self.no_center_writing_weights),
            center_unembed: left_out(self.no_center_unembed),
            fold_value_biases: left_out(self.no_fold_value_biases),
        }
    }
}

impl BosArgs {
    pub(crate) fn meant(&self) -> Option<bool> {
        (self.bos || self.no_bos).then_some(self.bos)
    }
}

impl CountedArgs {
    /// Whether nothing is said.
    pub(crate) fn is_default(&self) -> bool {
        self.skip_first == Counted::default().skip_first && !self.include_last && self.exclude.is_empty()
    }

    pub(crate) fn meant(&self, opened: &Opened) -> lab::Result<Counted> {
        let exclude = opened.excluded(&self.exclude)?;
        Ok(Counted { skip_first: self.skip_first, skip_last: !self.include_last, exclude })
    }
}

impl DocumentArgs {
    fn of(&self, corpus: String) -> Wanted {
        Wanted { corpus, column: self.column.clone(), limit: self.limit, bos: self.bos.meant(), ..Wanted::default() }
    }
}

impl CorpusArgs {
    /// The documents that are wanted.
    pub(crate) fn wanted(&self) -> Wanted {
        self.documents.of(self.corpus.clone())
    }
}

impl PromptArgs {
    /// The documents that are wanted.
    pub(crate) fn wanted(&self) -> Wanted {
        let file = self.source.prompts.clone().filter(|file| file != STDIN);
        self.documents.of(file.unwrap_or_else(|| lab::CORPUS.into()))
    }

    /// The prompts, held in memory.
    pub(crate) fn load(&self, opened: &Opened) -> anyhow::Result<Chunk> {
        Ok(match self.source.prompts.as_deref() {
            Some(STDIN) => of_stdin(opened)?,
            Some(_) => opened.prompts()?,
            None => opened.prompts_of("--text", &self.source.text)?,
        })
    }

    /// The prompts, of which there must be one; says if some were cut.
    pub(crate) fn load_some(&self, opened: &Opened) -> anyhow::Result<Prompts> {
        let Chunk { prompts, cut } = self.load(opened)?;
        if prompts.is_empty() {
            bail!("there is no prompt; `{}` is empty", self.source.prompts.as_deref().unwrap_or("--text"));
        }
        note_cut(cut, opened.model.config());
        Ok(prompts)
    }
}

impl ThreadArgs {
    /// To be called before any work is done.
    pub(crate) fn apply(&self) -> anyhow::Result<()> {
        if let Some(threads) = self.threads {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("--threads")?;
        }
        Ok(())
    }
}

/// Says what is to be told of what was opened.
pub(crate) fn note_model(opened: &Opened) {
    opened.notes.iter().for_each(|said| note(said));
}

/// The prompts of standard input: JSON lines if the first that stands there is an object, else text.
fn of_stdin(opened: &Opened) -> anyhow::Result<Chunk> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let name = if is_json { "stdin.jsonl" } else { "stdin.txt" };
    let corpus = Corpus::in_memory(name, bytes, opened.wanted.column.as_deref())?;
    let documents = corpus.documents()?.take(opened.wanted.limit.unwrap_or(usize::MAX));
    Ok(corpus::join(corpus::prompts(name, documents, opened.tokenizer.as_ref(), opened.tokenising()))?)
}

/// Says that prompts were cut, if any were.
pub(crate) fn note_cut(cut: usize, config: &Config) {
    if cut > 0 {
        let (cut, context) = (thousands(cut as u64), config.n_ctx);
        note(&format!("{cut} prompts were longer than the model's context of {context} positions and were cut"));
    }
}

/// Place `at` of a prompt, from 0 or, negative, from its end. Where a position is to predict, a token must follow it.
pub(crate) fn position(prompts: &Prompts, prompt: usize, at: i64, predicts: bool) -> anyhow::Result<usize> {
    let length = prompts.get(prompt).len();
    let found = if at < 0 { length as i64 + at } else { at };
    let end = length as i64 - i64::from(predicts);
    if !(0..end).contains(&found) {
        let predicting = if predicts { " that predicts a token" } else { "" };
        bail!("prompt {prompt} has {length} tokens, so there is no position {at}{predicting}; give another --position");
    }
    Ok(found as usize)
}
