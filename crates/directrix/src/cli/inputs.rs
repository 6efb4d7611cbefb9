//! Flags that several commands share, as typed and as meant.

use std::num::NonZeroUsize;

use anyhow::{Context, bail};
use clap::Args;
use directrix::corpus::{Chunk, Prompts};
use directrix::lab::{self, Opened, Wanted};
use directrix::model::{Config, Processing};

use super::terminal::{note, thousands};

/// A model and SAEs on its activations.
#[derive(Args)]
pub(crate) struct SubjectArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// SAE: a SAELens folder (cfg.json, sae_weights.safetensors); give it once for each SAE
    #[arg(long, value_name = "FOLDER")]
    sae: Vec<String>,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    processing: ProcessingArgs,
}

#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Model: a Hugging Face folder (config.json, *.safetensors, tokenizer.json), or the shipped one
    #[arg(long, value_name = "FOLDER", default_value = lab::MODEL)]
    pub(crate) model: String,
}

#[derive(Args)]
#[command(next_help_heading = "Weights")]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct ProcessingArgs {
    /// Use the weights as they are in the checkpoint: none of the four steps below
    #[arg(long)]
    no_processing: bool,
    /// Do not fold LayerNorm into the weights that read it
    #[arg(long)]
    no_fold_ln: bool,
    /// Do not centre the weights that write to the residual stream
    #[arg(long)]
    no_center_writing_weights: bool,
    /// Do not centre the unembedding
    #[arg(long)]
    no_center_unembed: bool,
    /// Do not fold value biases into the output bias of attention
    #[arg(long)]
    no_fold_value_biases: bool,
}

#[derive(Args)]
pub(crate) struct CorpusArgs {
    /// Corpus: a .txt, .jsonl or .parquet file, or the shipped one
    #[arg(long, value_name = "FILE", default_value = lab::CORPUS)]
    corpus: String,
    #[command(flatten)]
    documents: DocumentArgs,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct PromptSource {
    /// Prompts: a .txt, .jsonl or .parquet file, read as a corpus is
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
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
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

#[derive(Args)]
pub(crate) struct ThreadArgs {
    /// Threads to use [default: one for each core]; results do not depend on it
    #[arg(long, value_name = "N", display_order = 900)]
    threads: Option<NonZeroUsize>,
}

/// Which SAEs a command works on.
#[derive(Clone, Copy)]
pub(crate) enum Saes {
    /// Those asked for, if any.
    Named,
    /// Those asked for, or else the model's own.
    Some,
    /// The one asked for, or else the last of the model's own.
    One,
    /// The two asked for, or else the model's own, the earlier one first.
    Two,
}

impl SubjectArgs {
    /// Opens what the flags name; to be called before any work is done.
    pub(crate) fn open(&self, saes: Saes, documents: Wanted) -> anyhow::Result<Opened> {
        self.threads.apply()?;
        let (model, processing) = (self.model.model.clone(), self.processing.meant());
        let opened = Wanted { model, processing, saes: self.saes(saes)?, ..documents }.open()?;
        note_model(&opened);
        Ok(opened)
    }

    fn saes(&self, wanted: Saes) -> anyhow::Result<Vec<String>> {
        let named = self.sae.clone();
        if let Saes::Named = wanted {
            return Ok(named);
        }
        let mut saes = if named.is_empty() { lab::saes_of(&self.model.model) } else { named };
        let given = self.sae.len();
        match (wanted, saes.len()) {
            (_, 0) => bail!("no SAE given for the model `{}`; name one or more with --sae", self.model.model),
            (Saes::One, _) if given > 1 => bail!("--sae is given {given} times; this works on one SAE"),
            (Saes::One, last) => Ok(saes.split_off(last - 1)),
            (Saes::Two, found) if found != 2 => {
                bail!("this works on two SAEs, and --sae was given {found} times; name the earlier one by --sae first")
            }
            _ => Ok(saes),
        }
    }
}

impl ProcessingArgs {
    pub(crate) fn meant(&self) -> Processing {
        if self.no_processing {
            return Processing::none();
        }
        Processing {
            fold_ln: !self.no_fold_ln,
            center_writing_weights: !self.no_center_writing_weights,
            center_unembed: !self.no_center_unembed,
            fold_value_biases: !self.no_fold_value_biases,
        }
    }
}

impl BosArgs {
    pub(crate) fn meant(&self) -> Option<bool> {
        (self.bos || self.no_bos).then_some(self.bos)
    }
}

impl DocumentArgs {
    fn of(&self, corpus: String) -> Wanted {
        let (column, limit) = (self.column.clone(), self.limit.map(NonZeroUsize::get));
        Wanted { corpus, column, limit, bos: self.bos.meant(), ..Wanted::default() }
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
        self.documents.of(self.source.prompts.clone().unwrap_or_else(|| lab::CORPUS.into()))
    }

    /// The prompts, held in memory.
    pub(crate) fn load(&self, opened: &Opened) -> anyhow::Result<Chunk> {
        Ok(match &self.source.prompts {
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
            rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global().context("--threads")?;
        }
        Ok(())
    }
}

/// Says what is to be told of the model's files.
pub(crate) fn note_model(opened: &Opened) {
    opened.model.notes().iter().for_each(|said| note(said));
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
