//! `directrix generate`.

use std::io::{self, Write};

use anyhow::bail;
use clap::Args;
use directrix::corpus::{Settings, Tokenizer, Watch, visible};
use directrix::lab::{Opened, Steps, Wanted};
use directrix::model::Sampling;
use serde_json::{Value, json};

use super::inputs::{BosArgs, ModelArgs, ThreadArgs, note_model};
use super::numbers::{MANY, real, whole};
use super::terminal::{self, stdout};
use super::watch::sources;

const EXAMPLES: &str = "\
Examples:
  directrix generate --prompt 'Once upon a time'
  directrix generate --prompt 'Tim said, \"' --tokens 40 --temperature 0 --json
  directrix generate --prompt 'One day,' --count 100 --top-k 50 > stories.txt";

/// Continue a text.
///
/// Draws tokens from the model one by one and prints the text as it grows, up to the end-of-text token, the end of the
/// context or --tokens. The same seed gives the same text. Several texts are separated by lines `<|endoftext|>`, as a .txt
/// corpus has them.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    /// Text to continue
    #[arg(long, value_name = "TEXT", default_value = "")]
    prompt: String,
    /// Most tokens to draw
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = whole::<usize>(1..=MANY))]
    tokens: usize,
    /// Divide the logits by this; 0 takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = real::<f32>(0.0..=1000.0))]
    temperature: f32,
    /// Draw among this many most likely tokens only
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..))]
    top_k: Option<usize>,
    /// Seed of the first text; each further one takes the next
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u64>(..))]
    seed: u64,
    /// Texts to draw
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u64>(1..=MANY))]
    count: u64,
    #[command(flatten)]
    bos: BosArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Print tokens and texts as JSON
    #[arg(long)]
    json: bool,
}

impl Generate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.threads.apply()?;
        // Processing leaves the predictions as they are.
        let (model, processing) = (self.model.model.clone(), Steps::none());
        let opened = Wanted { model, processing, bos: self.bos.meant(), ..Wanted::default() }.open_from(&sources())?;
        note_model(&opened);
        let tokenizer = opened.tokenizer()?;
        let mut prompt: Vec<u32> = opened.bos.into_iter().collect();
        prompt.extend(tokenizer.encode(&self.prompt)?);
        let (length, context) = (prompt.len(), opened.model.config().n_ctx);
        if prompt.is_empty() {
            bail!("there is nothing to continue; give a --prompt, or --bos to begin a text");
        }
        if length > context {
            bail!("the prompt has {length} tokens, but the model's context ends at {context}; shorten it");
        }
        let stop = end_of_text(&opened, tokenizer)?;
        let mut texts = Vec::new();
        for number in 0..self.count {
            if number > 0 && !self.json {
                let mut out = stdout();
                writeln!(out, "<|endoftext|>")?;
                out.flush()?;
            }
            texts.push(self.draw(&opened, tokenizer, &prompt, stop, number)?);
        }
        if self.json { terminal::json(&texts) } else { Ok(()) }
    }

    /// Draws one text, showing it as it grows unless it will be printed as JSON.
    fn draw(
        &self,
        opened: &Opened,
        tokenizer: &Tokenizer,
        prompt: &[u32],
        stop: Option<u32>,
        number: u64,
    ) -> anyhow::Result<Value> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            seed: self.seed.wrapping_add(number),
            count: self.tokens,
            stop,
        };
        let mut stream = Stream { prompt: &self.prompt, tokenizer, tokens: Vec::new(), shown: 0, written: Ok(()) };
        let mut drawn = opened.model.generate(prompt, sampling, &[], &Watch::nobody(), |token| {
            if !self.json && Some(token) != stop {
                stream.push(token);
            }
        })?;
        if !self.json {
            stream.end();
        }
        stream.written?;
        let ended = drawn.pop_if(|last| Some(*last) == stop).is_some();
        let why = match ended {
            true => "end of text",
            false if drawn.len() == self.tokens => "tokens",
            false => "end of context",
        };
        let text = self.prompt.clone() + &tokenizer.decode(&drawn)?;
        Ok(json!({ "seed": sampling.seed, "text": text, "prompt": prompt, "tokens": drawn, "stopped_at": why }))
    }
}

/// The token that ends a text: the model's EOS, or else its BOS, which are one in these families.
fn end_of_text(opened: &Opened, tokenizer: &Tokenizer) -> anyhow::Result<Option<u32>> {
    let config = Settings::parse(&opened.folder.describe("config.json"), &opened.folder.read("config.json")?)?;
    let Some(eos) = config.find_some("eos_token_id") else { return Ok(tokenizer.bos()) };
    Ok(Some(eos.index(u32::MAX as usize)? as u32))
}

/// Text on stdout that grows by tokens, of which some are only part of a character.
struct Stream<'a> {
    /// Shown before the first token; empty afterwards.
    prompt: &'a str,
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// Bytes of the tokens' text that are shown.
    shown: usize,
    written: io::Result<()>,
}

impl Stream<'_> {
    fn push(&mut self, token: u32) {
        self.tokens.push(token);
        // A character that is not complete yet ends the text with replacement characters.
        self.show(|text| text.trim_end_matches(char::REPLACEMENT_CHARACTER));
    }

    fn end(&mut self) {
        self.show(|text| text);
        self.write("\n");
    }

    fn show(&mut self, complete: impl Fn(&str) -> &str) {
        let Ok(text) = self.tokenizer.decode(&self.tokens) else { return };
        if let Some(new) = complete(&text).get(self.shown..) {
            self.shown += new.len();
            self.write(new);
        }
    }

    fn write(&mut self, text: &str) {
        if self.written.is_ok() {
            let text = visible(std::mem::take(&mut self.prompt)) + &visible(text);
            let mut out = io::stdout().lock();
            self.written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    }
}
