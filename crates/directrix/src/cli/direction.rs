//! `directrix direction`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use directrix::corpus::{Tokenizer, one_line, pieces};
use directrix::index::{Example, Index, SaeIndex, TokenCount};
use directrix::lab;
use serde_json::{Value, json};

use super::directions::Directions;
use super::layout::{Table, elided, paragraph, width, wrap};
use super::numbers::{MANY, whole};
use super::terminal::{self, Shading, bar, note, stdout, thousands};
use super::watch::sources;

const EXAMPLES: &str = "\
Examples:
  directrix direction 42
  directrix direction 42 --sae sae-l0 --examples 10 --around 60
  directrix direction 1-50 --index out/pile --json";

/// Token counts shown; `--json` gives all.
const TOKENS_SHOWN: usize = 10;
const BAR_WIDTH: usize = 40;
/// A longer token is cut.
pub(crate) const LONGEST_TOKEN: usize = 24;

/// Show what a direction fires on.
///
/// Reads an index and prints a direction's maximum, density and mean, a histogram of its activations, the tokens it fires
/// on most often, and the prompts in which it fires most strongly: overall, and with their highest activation in the
/// upper, middle and lower third of its maximum. Tokens are shaded by activation on a terminal; elsewhere, and with
/// NO_COLOR set, the strongest are marked «token:activation». With --json, one direction is one JSON object; of a list or a
/// range, each is one on a line of its own.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Direction {
    /// Directions, from 0: numbers and ranges, as 3,17,20-30
    #[arg(value_name = "N,N-N,...")]
    directions: Directions,
    /// Index, as made by `directrix index`
    #[arg(long, value_name = "FOLDER", default_value = "out/index")]
    index: PathBuf,
    /// SAE of the index, by its name or its number from 0 [default: the last]
    #[arg(long, value_name = "SAE")]
    sae: Option<String>,
    /// Examples to show of each kind
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = whole::<usize>(1..=MANY))]
    examples: usize,
    /// Tokens to show on either side of an example's strongest
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = whole::<usize>(0..=MANY))]
    around: usize,
    /// Model folder whose tokenizer gives the tokens' text [default: the model of the index]
    #[arg(long, value_name = "FOLDER")]
    model: Option<String>,
    /// Print everything as JSON, with whole prompts
    #[arg(long)]
    json: bool,
}

/// A direction of an opened index.
struct Subject<'a> {
    index: &'a Index,
    sae: &'a SaeIndex,
    direction: usize,
    tokenizer: Option<&'a Tokenizer>,
}

impl Direction {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let index = lab::open_index(&self.index)?;
        let sae = choose_sae(&index, self.sae.as_deref())?;
        if let Some(outside) = self.directions.each().find(|direction| *direction >= sae.directions()) {
            let (name, last) = (sae.name(), sae.directions() - 1);
            bail!("{name} has directions 0 to {last}, so there is no direction {outside}");
        }
        let tokenizer = tokenizer_of(self.model.as_deref(), &index)?;
        for (number, direction) in self.directions.each().enumerate() {
            let subject = Subject { index: &index, sae, direction, tokenizer: tokenizer.as_ref() };
            match (self.json, self.directions.one()) {
                (true, Some(_)) => terminal::json(&self.to_json(&subject)?)?,
                (true, None) => terminal::json_line(&self.to_json(&subject)?)?,
                _ => self.print(&subject, number)?,
            }
        }
        Ok(())
    }

    fn print(&self, subject: &Subject, number: usize) -> anyhow::Result<()> {
        let meta = subject.index.meta();
        let direction = subject.sae.direction(subject.direction);
        let mut out = stdout();
        if number > 0 {
            writeln!(out, "\n")?;
        }
        let head = format!("{}, direction {}, reads {}", subject.sae.name(), subject.direction, subject.sae.hook());
        writeln!(out, "{}", paragraph(&head, 0))?;
        let (prompts, positions) = (thousands(meta.prompts as u64), thousands(meta.positions));
        let about = format!("corpus {}: {prompts} prompts, {positions} positions", meta.identity.corpus.name);
        let left_out = meta.identity.options.left_out(|token| format!("\"{}\"", subject.token(token)));
        let counted = format!("{} positions count; left out: {left_out}", thousands(meta.counted));
        let first = if meta.identity.bos { "on BOS" } else { "at the first position of a prompt, at most" };
        let first = format!("{first}: {:.2}", subject.sae.at_first(subject.direction));
        writeln!(out, "{}\n{}\n{first}\n", paragraph(&about, 0), paragraph(&counted, 0))?;
        if direction.active == 0 {
            writeln!(out, "It fires at no position that counts: it is dead.")?;
            return Ok(out.flush()?);
        }
        let height = format!("maximum {:.2}, mean where it fires {:.2}", direction.maximum, direction.mean);
        let often = format!(
            "fires at {} positions ({:.3} %), in {} prompts ({:.1} %)",
            thousands(direction.active),
            100.0 * direction.density,
            thousands(direction.prompts),
            100.0 * direction.prompts as f64 / meta.prompts as f64,
        );
        writeln!(out, "{}\n{}\n", paragraph(&height, 0), paragraph(&often, 0))?;
        writeln!(out, "{}", paragraph("Activations (bars on a logarithmic scale)", 0))?;
        write!(out, "{}", histogram(subject.sae.histogram(subject.direction), direction.maximum))?;
        subject.print_tokens(&mut out)?;
        for (title, examples) in subject.examples(self.examples)? {
            if examples.is_empty() {
                continue;
            }
            writeln!(out, "\n{title}")?;
            for example in examples {
                let Example { activation, prompt, position } = example;
                writeln!(out, "  {activation:>6.2}  prompt {prompt}, position {position}")?;
                let indent = if width() < 60 { 4 } else { 10 };
                let words = subject.words(&example, self.around, direction.maximum)?.into_iter();
                writeln!(out, "{}", wrap(words, indent, width()))?;
            }
        }
        Ok(out.flush()?)
    }

    fn to_json(&self, subject: &Subject) -> anyhow::Result<Value> {
        let meta = subject.index.meta();
        let direction = subject.sae.direction(subject.direction);
        let counts = subject.sae.token_counts(subject.direction)?;
        let all = total(&counts).max(1);
        let tokens = counts.iter().map(|&TokenCount { token, count }| {
            let text = subject.text(token);
            json!({ "token": token, "text": text, "count": count, "share": count as f64 / all as f64 })
        });
        let [top, upper, middle, lower] = subject
            .examples(self.examples)?
            .map(|(_, examples)| examples.iter().map(|e| subject.example_json(e)).collect::<anyhow::Result<Vec<_>>>());
        Ok(json!({
            "sae": subject.sae.name(),
            "hook": subject.sae.hook(),
            "direction": direction.direction,
            "corpus": meta.identity.corpus.name,
            "corpus_prompts": meta.prompts,
            "corpus_positions": meta.positions,
            "corpus_counted": meta.counted,
            "options": meta.identity.options,
            "at_first": subject.sae.at_first(subject.direction),
            "maximum": direction.maximum,
            "mean": direction.mean,
            "active": direction.active,
            "density": direction.density,
            "prompts": direction.prompts,
            "histogram": subject.sae.histogram(subject.direction),
            "tokens": tokens.collect::<Vec<_>>(),
            "examples": { "top": top?, "upper": upper?, "middle": middle?, "lower": lower? },
        }))
    }
}

/// The SAE of the index by its name or number; the last where none is wanted.
pub(crate) fn choose_sae<'a>(index: &'a Index, wanted: Option<&str>) -> anyhow::Result<&'a SaeIndex> {
    let number = wanted.map_or(Ok(index.saes().len() - 1), |wanted| sae_number(index, wanted))?;
    Ok(index.sae(number))
}

/// The number of the SAE of the index with this name or number.
pub(crate) fn sae_number(index: &Index, wanted: &str) -> anyhow::Result<usize> {
    let name = wanted.trim_end_matches('/').rsplit('/').next();
    let named = || index.saes().iter().position(|sae| Some(sae.name()) == name);
    if let Some(number) = index.number_of(wanted).or_else(named) {
        return Ok(number);
    }
    let names: Vec<String> = index.saes().iter().enumerate().map(|(i, sae)| format!("{i} ({})", sae.name())).collect();
    bail!("the index has no SAE `{wanted}`; it has {}", names.join(", "))
}

/// The tokenizer of the model asked for, or of the index's model if it is still there.
pub(crate) fn tokenizer_of(model: Option<&str>, index: &Index) -> anyhow::Result<Option<Tokenizer>> {
    let of = |name: &str| -> lab::Result<Tokenizer> {
        let folder = sources().tokenizer(name)?;
        let tokenizer = folder.tokenizer()?;
        tokenizer.map_or_else(|| Err(folder.missing("tokenizer.json").into()), Ok)
    };
    if let Some(folder) = model {
        return Ok(Some(of(folder)?));
    }
    match of(&index.meta().identity.model.name) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(error) => {
            note(&format!("tokens are shown as [id]: {error}; name a folder with a tokenizer by --model"));
            Ok(None)
        }
    }
}

impl Subject<'_> {
    /// The strongest examples, and those of each third of the maximum.
    fn examples(&self, k: usize) -> anyhow::Result<[(&'static str, Vec<Example>); 4]> {
        let third = |i: f32| self.sae.interval_examples(self.direction, i / 3.0, (i + 1.0) / 3.0, k);
        Ok([
            ("Strongest prompts", self.sae.top_examples(self.direction, k)?),
            ("Prompts in the upper third", third(2.0)?),
            ("Prompts in the middle third", third(1.0)?),
            ("Prompts in the lower third", third(0.0)?),
        ])
    }

    /// The tokens it fires on most often.
    fn print_tokens(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let title = format!("Tokens above {} × maximum", self.index.meta().identity.options.count_above);
        writeln!(out, "\n{}", paragraph(&title, 0))?;
        let counts = self.sae.token_counts(self.direction)?;
        if counts.is_empty() {
            writeln!(out, "  none")?;
            return Ok(());
        }
        let all = total(&counts);
        let mut tokens = Table::new(&["token", "count", "share"], 1);
        for &TokenCount { token, count } in counts.iter().take(TOKENS_SHOWN) {
            let share = count as f64 / all as f64;
            tokens.row([format!("\"{}\"", self.token(token)), thousands(count), format!("{:.1} %", 100.0 * share)]);
            tokens.bar(share);
        }
        writeln!(out, "{}", tokens.shown())?;
        if counts.len() > TOKENS_SHOWN {
            writeln!(out, "  and {} other tokens", thousands((counts.len() - TOKENS_SHOWN) as u64))?;
        }
        Ok(())
    }

    /// The words around an example's strongest token, shaded.
    fn words(&self, example: &Example, around: usize, maximum: f32) -> anyhow::Result<Vec<(String, usize)>> {
        let tokens = self.index.prompt(example.prompt)?;
        let activations = self.sae.on_prompt(example.prompt, self.direction)?;
        let start = example.position.saturating_sub(around);
        let end = example.position.saturating_add(around.saturating_add(1)).min(tokens.len());
        let (tokens_shown, activations) = (&tokens[start..end], &activations[start..end]);
        let pieces = pieces(self.tokenizer, tokens_shown, |i| activations[i] == activations[i + 1]);
        let texts: Vec<String> = pieces.iter().map(|text| elided(&one_line(text), LONGEST_TOKEN)).collect();
        let mut words = Shading::of_stdout().words(&texts, activations, maximum);
        if start > 0 {
            words.insert(0, ("…".into(), 1));
        }
        if end < tokens.len() {
            words.push(("…".into(), 1));
        }
        Ok(words)
    }

    fn example_json(&self, example: &Example) -> anyhow::Result<Value> {
        let tokens = self.index.prompt(example.prompt)?;
        Ok(json!({
            "prompt": example.prompt,
            "position": example.position,
            "activation": example.activation,
            "tokens": tokens,
            "texts": self.tokenizer.map(|tokenizer| tokenizer.pieces(tokens, |_| true)),
            "activations": self.sae.on_prompt(example.prompt, self.direction)?,
        }))
    }

    /// A token as shown.
    fn token(&self, token: u32) -> String {
        terminal::token(self.tokenizer, token)
    }

    /// A token's text as it is.
    fn text(&self, token: u32) -> Option<String> {
        self.tokenizer.map(|tokenizer| tokenizer.token_text(token))
    }
}

fn total(counts: &[TokenCount]) -> u64 {
    counts.iter().map(|of| of.count).sum()
}

fn histogram(counts: &[u64], maximum: f32) -> String {
    let widest = BAR_WIDTH.min(width().saturating_sub(30));
    let highest = counts.iter().copied().max().unwrap_or(0).max(1);
    let width = maximum / counts.len() as f32;
    let line = |(i, &count): (usize, &u64)| {
        let bar = bar((count as f64).ln_1p() / (highest as f64).ln_1p(), widest);
        let (from, to) = (width * i as f32, width * (i + 1) as f32);
        format!("  {from:>6.2} – {to:<6.2} {bar} {}\n", thousands(count))
    };
    counts.iter().enumerate().map(line).collect()
}
