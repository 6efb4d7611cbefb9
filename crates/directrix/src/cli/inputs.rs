//! Flags that several commands share, as typed and as meant.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;
use directrix::corpus::{self, Chunk, Corpus, Document, Prompts, Tokenising, Tokenizer};
use directrix::index::{Index, Source};
use directrix::lab;
use directrix::model::{Config, Folder, Model, Processing};
use directrix::sae::Sae;

use super::terminal::{note, thousands};

const CHUNK_PROMPTS: usize = 256;

#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Model: a Hugging Face folder (config.json, *.safetensors, tokenizer.json), or the shipped one
    #[arg(long, value_name = "FOLDER", default_value = lab::MODEL)]
    model: String,
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
pub(crate) struct SaeArgs {
    /// SAE: a SAELens folder (cfg.json, sae_weights.safetensors); give it once for each SAE
    #[arg(long, value_name = "FOLDER")]
    sae: Vec<String>,
}

#[derive(Args)]
pub(crate) struct CorpusArgs {
    /// Corpus: a .txt, .jsonl or .parquet file, or the shipped one
    #[arg(long, value_name = "FILE", default_value = lab::CORPUS)]
    corpus: String,
    #[command(flatten)]
    documents: DocumentArgs,
    #[command(flatten)]
    bos: BosArgs,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PromptSource {
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
    #[command(flatten)]
    bos: BosArgs,
}

#[derive(Args)]
struct DocumentArgs {
    /// Column that holds the text or the token ids [default: text, or else tokens]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Read only the first N documents
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
}

#[derive(Args)]
pub(crate) struct BosArgs {
    /// Begin every text with BOS [default for GPT-2 and GPT-Neo]; ready token ids never get one
    #[arg(long, overrides_with = "no_bos")]
    bos: bool,
    /// Do not begin texts with BOS [default for GPT-NeoX]
    #[arg(long)]
    no_bos: bool,
}

#[derive(Args)]
pub(crate) struct ThreadArgs {
    /// Threads to use [default: one for each core]; results do not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// A model with its tokenizer, if its folder has one.
pub(crate) struct Loaded {
    pub(crate) folder: Folder,
    pub(crate) model: Model,
    pub(crate) tokenizer: Option<Tokenizer>,
}

impl ModelArgs {
    /// The model of this name.
    pub(crate) fn named(model: &str) -> ModelArgs {
        ModelArgs { model: model.into() }
    }

    pub(crate) fn load(&self, processing: Processing) -> anyhow::Result<Loaded> {
        let folder = lab::folder(&self.model)?;
        let model = Model::load(&folder, processing)?;
        let tokenizer = folder.tokenizer()?;
        Ok(Loaded { folder, model, tokenizer })
    }
}

impl Loaded {
    /// The tokenizer, for what cannot do without.
    pub(crate) fn tokenizer(&self) -> anyhow::Result<&Tokenizer> {
        self.tokenizer.as_ref().with_context(|| {
            format!(
                "`{}` is missing, and text needs it; put the model's tokenizer there",
                self.folder.describe("tokenizer.json")
            )
        })
    }

    /// A token's text as it is; `[id]` without a tokenizer.
    pub(crate) fn token(&self, token: u32) -> String {
        self.tokenizer.as_ref().map_or_else(|| format!("[{token}]"), |tokenizer| tokenizer.token_text(token))
    }

    fn tokenising(&self, bos: &BosArgs) -> anyhow::Result<Tokenising> {
        let config = self.model.config();
        let bos = bos.token(self)?;
        Ok(Tokenising { bos, max_len: config.n_ctx, vocab_size: config.d_vocab, chunk_prompts: CHUNK_PROMPTS })
    }
}

impl ProcessingArgs {
    pub(crate) fn processing(&self) -> Processing {
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
    /// The token before every text. TransformerLens's convention: GPT-NeoX models were trained without.
    pub(crate) fn token(&self, loaded: &Loaded) -> anyhow::Result<Option<u32>> {
        let token = loaded.tokenizer.as_ref().and_then(Tokenizer::bos);
        if self.bos && token.is_none() {
            bail!(
                "--bos: `{}` names no BOS token; leave --bos out, or set bos_token in tokenizer_config.json",
                loaded.folder
            );
        }
        let by_convention = loaded.model.config().family.begins_with_bos;
        Ok(token.filter(|_| self.bos || (by_convention && !self.no_bos)))
    }
}

impl SaeArgs {
    /// The SAEs asked for; for the shipped model, its own where none are.
    pub(crate) fn load_or_shipped(&self, loaded: &Loaded) -> anyhow::Result<Vec<Sae>> {
        if !self.sae.is_empty() {
            return self.load(loaded);
        }
        if loaded.folder.to_string() != lab::MODEL {
            bail!("no SAE given for the model `{}`; name one or more with --sae", loaded.folder);
        }
        lab::SAES.iter().map(|name| load_sae(name, loaded)).collect()
    }

    /// The one SAE asked for; for the shipped model its last, where none is.
    pub(crate) fn load_one(&self, loaded: &Loaded) -> anyhow::Result<Sae> {
        if self.sae.len() > 1 {
            bail!("--sae is given {} times; this works on one SAE", self.sae.len());
        }
        self.load_or_shipped(loaded)?.pop().context("no SAE given; name one with --sae")
    }

    /// The two SAEs asked for, the earlier one first.
    pub(crate) fn load_two(&self, loaded: &Loaded) -> anyhow::Result<[Sae; 2]> {
        let count = |found: usize| {
            format!("this works on two SAEs, and --sae was given {found} times; name the earlier one by --sae first")
        };
        let saes = self.load_or_shipped(loaded)?;
        <[Sae; 2]>::try_from(saes).map_err(|saes| anyhow::anyhow!(count(saes.len())))
    }

    /// The SAEs asked for.
    pub(crate) fn load(&self, loaded: &Loaded) -> anyhow::Result<Vec<Sae>> {
        let saes = self.sae.iter().map(|name| load_sae(name, loaded)).collect::<anyhow::Result<Vec<_>>>()?;
        for (i, sae) in saes.iter().enumerate() {
            if let Some(other) = saes[..i].iter().find(|other| other.short_name() == sae.short_name()) {
                let (name, one, two) = (sae.short_name(), other.name(), sae.name());
                bail!("the SAEs `{one}` and `{two}` are both called `{name}` in results; rename one of the folders");
            }
        }
        Ok(saes)
    }
}

pub(crate) fn load_sae(name: &str, loaded: &Loaded) -> anyhow::Result<Sae> {
    Ok(Sae::load(&lab::folder(name)?)?.fit(loaded.model.config())?)
}

/// An input's name and hash, for an index's identity.
pub(crate) fn source(folder: &str) -> anyhow::Result<Source> {
    let found = lab::folder(folder)?;
    found.read("cfg.json")?;
    found.map("sae_weights.safetensors")?;
    Ok(Source { name: folder.into(), hash: found.hash() })
}

impl CorpusArgs {
    pub(crate) fn open(&self) -> anyhow::Result<Corpus> {
        Ok(lab::corpus(&self.corpus, self.documents.column.as_deref())?)
    }

    /// Whether texts begin with BOS.
    pub(crate) fn has_bos(&self, loaded: &Loaded) -> anyhow::Result<bool> {
        Ok(self.bos.token(loaded)?.is_some())
    }

    pub(crate) fn limit(&self) -> Option<usize> {
        self.documents.limit.map(NonZeroUsize::get)
    }

    /// The documents that are read.
    pub(crate) fn documents(
        &self,
        corpus: &Corpus,
    ) -> anyhow::Result<impl Iterator<Item = corpus::Result<Document>> + use<>> {
        Ok(corpus.documents()?.take(self.documents.most()))
    }

    /// The prompts, chunk by chunk.
    pub(crate) fn chunks(
        &self,
        corpus: &Corpus,
        loaded: &Loaded,
    ) -> anyhow::Result<impl Iterator<Item = corpus::Result<Chunk>> + use<>> {
        let tokenising = loaded.tokenising(&self.bos)?;
        Ok(corpus::prompts(corpus.name(), self.documents(corpus)?, loaded.tokenizer.as_ref(), tokenising))
    }
}

impl DocumentArgs {
    fn most(&self) -> usize {
        self.limit.map_or(usize::MAX, NonZeroUsize::get)
    }
}

impl PromptArgs {
    /// The prompts, held in memory.
    pub(crate) fn load(&self, loaded: &Loaded) -> anyhow::Result<Chunk> {
        let name = self.source.prompts.as_deref().unwrap_or("--text");
        let documents = self.documents()?.take(self.documents.most());
        let tokenising = loaded.tokenising(&self.bos)?;
        Ok(corpus::join(corpus::prompts(name, documents, loaded.tokenizer.as_ref(), tokenising))?)
    }

    /// The prompts, of which there must be one; says if some were cut.
    pub(crate) fn load_some(&self, loaded: &Loaded) -> anyhow::Result<Prompts> {
        let Chunk { prompts, cut } = self.load(loaded)?;
        if prompts.is_empty() {
            bail!("there is no prompt; `{}` is empty", self.source.prompts.as_deref().unwrap_or("--text"));
        }
        note_cut(cut, loaded.model.config());
        Ok(prompts)
    }

    fn documents(&self) -> anyhow::Result<Box<dyn Iterator<Item = corpus::Result<Document>> + '_>> {
        if let Some(file) = &self.source.prompts {
            return Ok(Box::new(lab::corpus(file, self.documents.column.as_deref())?.documents()?));
        }
        Ok(Box::new(self.source.text.iter().map(|text| Ok(Document::Text(text.clone())))))
    }
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

/// Opens an index that a flag names.
pub(crate) fn open_index(folder: &Path) -> anyhow::Result<Index> {
    if !folder.join("index.json").is_file() {
        bail!(
            "`{0}` holds no index; make one with `directrix index --out {0}`, or name another with --index",
            folder.display()
        );
    }
    Ok(Index::open(folder)?)
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
