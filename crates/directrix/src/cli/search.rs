//! `directrix search`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use directrix::circuits::{Cells, Column, Table};
use directrix::corpus::{Tokenizer, Watch, one_line, pieces};
use directrix::index::{self, Firing, Found, Match, Query};
use directrix::lab;
use directrix::study::write_table;
use serde::Serialize;
use serde_json::{Value, json};

use super::direction::{LONGEST_TOKEN, sae_number, tokenizer_of};
use super::failure::usage;
use super::inputs::ThreadArgs;
use super::layout::{Table as Shown, elided, paragraph, width, wrap};
use super::numbers::{MANY, whole};
use super::results::ResultArgs;
use super::terminal::{self, Shading, stdout, thousands};

const AFTER_HELP: &str = "\
With --query, FIND combines (docs/search.md):
  \"text\"  /regex/       where a text, or a match of a regular expression, ends
  [318]  [318 22]       where a token is, or tokens that follow each other
  sae-l1/429            where direction 429 of this SAE fires
  sae-l1/429>0.5        where its activation is above 0.5
  A within 5 of B       where A is and B at most 5 tokens away, on either side
  !A   A & B   A | B    where A is not; where both are; where one is; ( ) group

Examples:
  directrix search 'said, \"'
  directrix search --regex '[Ss]?he said' --sae sae-l1 --top 20
  directrix search --tokens ' it' --examples 0
  directrix search --query 'sae-l0/429 & !\"it\"'
  directrix search --query 'sae-l1/429>0.5 within 5 of /[.!?]\"/' --json";

/// Find where a text, tokens or directions occur, and which directions fire there.
///
/// Answers from an index, without the model. A match is the position of the last token that a text overlaps; matches at positions
/// that the index does not count are told and left out. Directions are ranked by how surely they fire more often at matches
/// than elsewhere (log-likelihood ratio, G²); share: of the matches, at how many a direction fires; density: of all
/// positions; lift: share / density; precision: of the positions at which it fires, how many are matches. Below them some
/// matches in their context, spread over the corpus, or where the first direction that FIND names fires most strongly.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
#[command(group = ArgGroup::new("how").args(["regex", "tokens", "query"]))]
pub(crate) struct Search {
    /// Text to find, exactly as it is; across tokens and within them
    #[arg(value_name = "FIND")]
    find: String,
    /// FIND is a regular expression, as in Rust's crate regex; ^ and $ are the ends of a prompt, (?i) ignores case
    #[arg(long)]
    regex: bool,
    /// FIND is a token or several that follow each other: their ids, as 318,22, or the text that they are of
    #[arg(long)]
    tokens: bool,
    /// FIND combines texts, regular expressions, tokens and directions, as below
    #[arg(long)]
    query: bool,
    /// Index, as made by `directrix index`
    #[arg(long, value_name = "FOLDER", default_value = "out/index")]
    index: PathBuf,
    /// SAE of the index whose directions to list, by its name or its number from 0; give it once for each SAE [default: all]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    /// Directions to list of each SAE
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = whole::<usize>(0..=MANY))]
    top: usize,
    /// Matches to show
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = whole::<usize>(0..=MANY))]
    examples: usize,
    /// Tokens to show on either side of a match
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = whole::<usize>(0..=MANY))]
    around: usize,
    /// Model folder whose tokenizer gives the tokens' text [default: the model of the index]
    #[arg(long, value_name = "FOLDER")]
    model: Option<String>,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    results: ResultArgs,
}

/// A direction that fires at matches.
#[derive(Serialize)]
struct Row {
    sae: String,
    #[serde(flatten)]
    firing: Firing,
    /// The token on which it fires most often.
    top_token: String,
}

/// What was found, and in what.
struct Subject<'a> {
    search: &'a index::Search,
    query: &'a Query,
    found: &'a Found,
}

impl Search {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.threads.apply()?;
        let index = lab::open_index(&self.index)?;
        let saes = match &self.sae[..] {
            [] => (0..index.saes().len()).collect(),
            named => named.iter().map(|sae| sae_number(&index, sae)).collect::<anyhow::Result<Vec<_>>>()?,
        };
        let tokenizer = tokenizer_of(self.model.as_deref(), &index)?;
        let search = index::Search::new(index.into(), tokenizer);
        let query = self.meant(&search)?;
        let _lock = self.results.lock()?;
        let found = search.find(&query, &Watch::nobody())?;
        let subject = Subject { search: &search, query: &query, found: &found };
        let mut rows = Vec::new();
        for sae in saes {
            rows.extend(subject.rows(sae, self.top)?);
        }
        let examples = search.matches(&found, &query, self.examples)?;
        if let Some(folder) = self.results.folder() {
            subject.write(folder, &rows)?;
        }
        if self.results.is_json() {
            terminal::json(&self.to_json(&subject, &rows, &examples)?)
        } else {
            self.print(&subject, &rows, &examples)
        }
    }

    /// What is looked for.
    fn meant(&self, search: &index::Search) -> anyhow::Result<Query> {
        let query = match self.how() {
            "query" => Query::parse(&self.find, search.index()),
            "regex" => Query::regex(&self.find),
            "tokens" => {
                let ids = self.find.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>();
                let of_text = || -> anyhow::Result<Vec<u32>> {
                    Ok(search.tokenizer().ok_or(index::Error::NoTokenizer)?.encode(&self.find)?)
                };
                Query::tokens(&ids.or_else(|_| of_text())?, search.index())
            }
            _ => Query::text(&self.find),
        };
        query.map_err(|error| usage(format!("FIND: {error}")))
    }

    fn how(&self) -> &'static str {
        let flags = [(self.query, "query"), (self.regex, "regex"), (self.tokens, "tokens")];
        flags.into_iter().find(|(is_given, _)| *is_given).map_or("text", |(_, how)| how)
    }

    fn print(&self, subject: &Subject, rows: &[Row], examples: &[Match]) -> anyhow::Result<()> {
        let meta = subject.search.index().meta();
        let Found { matches, prompts, left_out, .. } = *subject.found;
        let mut out = stdout();
        let is_text = matches!(self.how(), "text" | "tokens");
        let what = if is_text { format!("{:?}", self.find) } else { self.find.clone() };
        let about = format!(
            "{} in {}: {} matches in {} of {} prompts, among {} positions that count",
            one_line(&what),
            meta.identity.corpus.name,
            thousands(matches),
            thousands(prompts),
            thousands(meta.prompts as u64),
            thousands(meta.counted),
        );
        writeln!(out, "{}", paragraph(&about, 0))?;
        if left_out > 0 {
            let places = meta.identity.options.left_out(|token| format!("\"{}\"", subject.token(token)));
            let left_out = format!("left out: {} more at positions that do not count, {places}", thousands(left_out));
            writeln!(out, "{}", paragraph(&left_out, 0))?;
        }
        if !rows.is_empty() {
            let header =
                ["SAE", "direction", "top token", "fires", "share", "mean", "density", "lift", "precision", "G²"];
            let mut table = Shown::new(&header, 0).texts(|i| i == 0 || i == 2).keep(&[0, 1, 3, 4, 9, 2, 7]);
            for Row { sae, firing, top_token } in rows {
                let percent = |share: f64, digits: usize| format!("{:.digits$} %", 100.0 * share);
                table.row([
                    sae.clone(),
                    firing.direction.to_string(),
                    one_line(&format!("\"{top_token}\"")),
                    thousands(firing.fires),
                    percent(firing.share, 1),
                    format!("{:.2}", firing.mean),
                    percent(firing.density, 3),
                    format!("{:.1}", firing.lift),
                    percent(firing.precision, 1),
                    format!("{:.1}", firing.g2),
                ]);
            }
            writeln!(out, "\n{}", table.shown())?;
        }
        if !examples.is_empty() {
            let order = match subject.query.directions().first() {
                Some(_) => "where the first direction named fires most strongly",
                None => "spread over the corpus",
            };
            writeln!(out, "\n{}", paragraph(&format!("Matches, {order}"), 0))?;
        }
        for example in examples {
            let named = subject.named().zip(&example.activations);
            let activations: Vec<String> = named.map(|(name, value)| format!("; {name}: {value:.2}")).collect();
            let activations = activations.concat();
            let Match { prompt, position, .. } = example;
            writeln!(out, "{}", paragraph(&format!("prompt {prompt}, position {position}{activations}"), 2))?;
            let indent = if width() < 60 { 4 } else { 10 };
            let words = subject.words(example, self.around)?.into_iter();
            writeln!(out, "{}", wrap(words, indent, width()))?;
        }
        Ok(out.flush()?)
    }

    fn to_json(&self, subject: &Subject, rows: &[Row], examples: &[Match]) -> anyhow::Result<Value> {
        let meta = subject.search.index().meta();
        let examples = examples.iter().map(|example| subject.example_json(example, self.around));
        Ok(json!({
            "find": self.find,
            "as": self.how(),
            "corpus": meta.identity.corpus.name,
            "corpus_prompts": meta.prompts,
            "corpus_counted": meta.counted,
            "options": meta.identity.options,
            "matches": subject.found.matches,
            "prompts": subject.found.prompts,
            "left_out": subject.found.left_out,
            "directions": rows,
            "examples": examples.collect::<anyhow::Result<Vec<_>>>()?,
        }))
    }
}

impl Subject<'_> {
    /// The directions of an SAE that fire at matches.
    fn rows(&self, sae: usize, k: usize) -> anyhow::Result<Vec<Row>> {
        let part = self.search.index().sae(sae);
        let row = |firing: Firing| {
            let top = part.token_counts(firing.direction)?.first().map(|of| of.token);
            let top_token = top.map_or_else(String::new, |token| self.token(token));
            Ok(Row { sae: part.name().into(), firing, top_token })
        };
        self.search.firing(self.found, sae, k)?.into_iter().map(row).collect()
    }

    /// The names of the directions that the query names.
    fn named(&self) -> impl Iterator<Item = String> {
        let name = |(sae, direction): &(usize, usize)| format!("{}/{direction}", self.search.index().sae(*sae).name());
        self.query.directions().iter().map(name)
    }

    /// Writes the directions, and all matches.
    fn write(&self, folder: &Path, rows: &[Row]) -> anyhow::Result<()> {
        let caption = "Directions that fire at matches, by log-likelihood ratio; shares are of positions that count.";
        write_table(folder, &Table::from_rows("directions", caption, rows))?;
        let places = || self.found.places();
        let column = |name: &str, cells| Column { name: name.into(), cells: Cells::Integer(cells) };
        let columns = vec![
            column("prompt", places().map(|place| place.prompt as i64).collect()),
            column("position", places().map(|place| place.position as i64).collect()),
        ];
        let caption = "Matches at positions that count.";
        write_table(folder, &Table { name: "matches".into(), caption: caption.into(), columns })?;
        Ok(())
    }

    /// The words around a match; all matches among them are marked.
    fn words(&self, example: &Match, around: usize) -> anyhow::Result<Vec<(String, usize)>> {
        let tokens = self.search.index().prompt(example.prompt)?;
        let [start, end] = context(example.position, around, tokens.len());
        let place = |position| index::Place { prompt: example.prompt, position };
        let is_marked: Vec<bool> = (start..end).map(|position| self.found.contains(place(position))).collect();
        let texts = pieces(self.tokenizer(), &tokens[start..end], |i| is_marked[i] == is_marked[i + 1]);
        let texts: Vec<String> = texts.iter().map(|text| elided(&one_line(text), LONGEST_TOKEN)).collect();
        let mut words = Shading::of_stdout().marked_words(&texts, &is_marked);
        if start > 0 {
            words.insert(0, ("…".into(), 1));
        }
        if end < tokens.len() {
            words.push(("…".into(), 1));
        }
        Ok(words)
    }

    fn example_json(&self, example: &Match, around: usize) -> anyhow::Result<Value> {
        let tokens = self.search.index().prompt(example.prompt)?;
        let Match { prompt, position, ref activations } = *example;
        let [start, end] = context(position, around, tokens.len());
        let texts =
            pieces(self.tokenizer(), &tokens[start..end], |i| start + i != position && start + i + 1 != position);
        let at = position - start;
        let named = self.named().zip(activations).map(|(name, value)| (name, json!(value)));
        Ok(json!({
            "prompt": prompt,
            "position": position,
            "before": texts[..at].concat(),
            "token": texts[at],
            "after": texts[at + 1..].concat(),
            "activations": named.collect::<serde_json::Map<_, _>>(),
        }))
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.search.tokenizer()
    }

    fn token(&self, token: u32) -> String {
        terminal::token(self.tokenizer(), token)
    }
}

/// The positions shown of a prompt: where they begin and end.
fn context(position: usize, around: usize, length: usize) -> [usize; 2] {
    [position.saturating_sub(around), position.saturating_add(around.saturating_add(1)).min(length)]
}
