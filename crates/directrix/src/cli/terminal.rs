//! What is shown: numbers, bars, shaded tokens, JSON.

use std::io::{self, BufWriter, IsTerminal, Write};

use directrix::corpus::{Tokenizer, one_line, token_text};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::ranks;

/// Where results go: nowhere where another rank prints them.
pub(crate) fn stdout() -> BufWriter<Box<dyn Write>> {
    BufWriter::new(if ranks::is_first() { Box::new(io::stdout().lock()) } else { Box::new(io::sink()) })
}

/// Writes a result for machines.
pub(crate) fn json(result: &impl Serialize) -> anyhow::Result<()> {
    let mut out = stdout();
    writeln!(out, "{}", serde_json::to_string_pretty(result)?)?;
    Ok(out.flush()?)
}

/// Writes one of several results for machines: a line.
pub(crate) fn json_line(result: &impl Serialize) -> anyhow::Result<()> {
    let mut out = stdout();
    writeln!(out, "{}", serde_json::to_string(result)?)?;
    Ok(out.flush()?)
}

/// A remark beside the results.
pub(crate) fn note(text: &str) {
    remark(&format!("note: {text}"));
}

/// A line on stderr, unless another rank says it.
pub(crate) fn remark(text: &str) {
    if ranks::is_first() {
        complain(text);
    }
}

/// A line on stderr of whatever rank this is. Where nothing reads it, nothing is lost.
pub(crate) fn complain(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// `12,345,678`.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// `1:05`, `2:03:04`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours == 0 { format!("{minutes}:{seconds:02}") } else { format!("{hours}:{minutes:02}:{seconds:02}") }
}

/// A bar of up to `width` characters, in eighths of a character.
pub(crate) fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    "█".repeat(eighths / 8) + part
}

/// A token as its text, on one line; as `[id]` without a tokenizer.
pub(crate) fn token(tokenizer: Option<&Tokenizer>, token: u32) -> String {
    one_line(&token_text(tokenizer, token))
}

/// How activations are shown in text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shading {
    /// Background colours.
    Colours,
    /// `«token:4.2»` around those of at least half the highest.
    Marks,
}

impl Shading {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    pub(crate) fn of_stdout() -> Shading {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if wanted && io::stdout().is_terminal() { Shading::Colours } else { Shading::Marks }
    }

    /// The words that tokens are, each as shown with its activations and how wide it is; `full` is the activation of the
    /// strongest shade. A word begins where a token begins with a space.
    pub(crate) fn words(self, tokens: &[String], activations: &[f32], full: f32) -> Vec<(String, usize)> {
        let highest = activations.iter().copied().fold(0.0, f32::max);
        words(tokens, |range| self.shaded(&tokens[range.clone()], &activations[range], full, highest))
    }

    /// The same, with some tokens in the strongest shade, or in `«»`.
    pub(crate) fn marked_words(self, tokens: &[String], is_marked: &[bool]) -> Vec<(String, usize)> {
        let shown = |i: usize| {
            let (space, word) = spaced(&tokens[i]);
            match self {
                _ if !is_marked[i] => tokens[i].clone(),
                Shading::Colours => format!("{space}\x1b[30;48;2;255;120;0m{word}\x1b[0m"),
                Shading::Marks => format!("{space}«{word}»"),
            }
        };
        words(tokens, |range| range.map(shown).collect())
    }

    /// Tokens with their activations, of which `highest` is the highest shown and `full` has the strongest shade.
    fn shaded(self, tokens: &[String], activations: &[f32], full: f32, highest: f32) -> String {
        let shade = |(token, &activation): (&String, &f32)| match self {
            _ if activation <= 0.0 => token.clone(),
            Shading::Colours => {
                let share = (activation / full.max(f32::MIN_POSITIVE)).clamp(0.0, 1.0);
                let [red, green, blue] = between([255.0, 243.0, 224.0], [255.0, 120.0, 0.0], share);
                let (space, word) = spaced(token);
                format!("{space}\x1b[30;48;2;{red};{green};{blue}m{word}\x1b[0m")
            }
            Shading::Marks if activation >= 0.5 * highest => {
                let (space, word) = spaced(token);
                format!("{space}«{word}:{activation:.1}»")
            }
            Shading::Marks => token.clone(),
        };
        tokens.iter().zip(activations).map(shade).collect()
    }
}

/// The words that tokens are, as `shown`, and how wide each is.
fn words(tokens: &[String], shown: impl Fn(std::ops::Range<usize>) -> String) -> Vec<(String, usize)> {
    let starts = tokens.iter().enumerate().filter(|(i, token)| *i == 0 || token.starts_with(' ')).map(|(i, _)| i);
    let starts: Vec<usize> = starts.chain([tokens.len()]).collect();
    let word = |range| {
        let shown = shown(range).trim_start_matches(' ').to_owned();
        let wide = without_colours(&shown).width();
        (shown, wide)
    };
    starts.windows(2).map(|ends| word(ends[0]..ends[1])).collect()
}

/// The spaces that a token begins with, and the rest; a token of spaces alone is not taken apart.
fn spaced(token: &str) -> (&str, &str) {
    let word = token.trim_start_matches(' ');
    if word.is_empty() { ("", token) } else { token.split_at(token.len() - word.len()) }
}

/// A text without the escapes that colour it.
fn without_colours(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.filter_map(|part| part.split_once('m')).map(|(_, rest)| rest).collect::<String>()
}

fn between(from: [f32; 3], to: [f32; 3], share: f32) -> [u8; 3] {
    std::array::from_fn(|i| (from[i] + share * (to[i] - from[i])) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_times_are_clocks() {
        assert_eq!(
            (thousands(0), thousands(999), thousands(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!((duration(65.2), duration(7384.0)), ("1:05".into(), "2:03:04".into()));
    }

    #[test]
    fn bars_have_eighths() {
        assert_eq!((bar(0.0, 4), bar(0.5, 4), bar(1.0, 4)), (String::new(), "██".into(), "████".into()));
        assert_eq!(bar(0.125, 1), "▏");
    }

    #[test]
    fn the_strongest_tokens_are_marked_or_every_active_one_coloured() {
        let tokens = ["a".into(), " b".into(), " c".into()];
        let text = |shading: Shading, activations: &[f32]| shading.words(&tokens, activations, 8.0);
        let words =
            |words: &[&str]| words.iter().map(|word| ((*word).to_owned(), word.chars().count())).collect::<Vec<_>>();
        assert_eq!(text(Shading::Marks, &[0.0, 1.0, 4.0]), words(&["a", "b", "«c:4.0»"]));
        let coloured = text(Shading::Colours, &[0.0, 1.0, 8.0]);
        assert!(coloured[1].0.starts_with("\x1b[30;48;2;255;"), "{coloured:?}");
        assert!(coloured[2].0.contains("255;120;0m") && coloured[2].0.ends_with("c\x1b[0m"), "{coloured:?}");
        assert_eq!(coloured.iter().map(|(_, wide)| *wide).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(Shading::Marks.marked_words(&tokens, &[true, false, true]), words(&["«a»", "b", "«c»"]));
        assert_eq!(
            Shading::Colours.marked_words(&tokens, &[false, true, false])[1],
            ("\x1b[30;48;2;255;120;0mb\x1b[0m".into(), 1)
        );
    }
}
